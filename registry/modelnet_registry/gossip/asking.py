"""What an operator asks: whom a running node knows, what it heard, and where each publisher's log stands here."""

from __future__ import annotations

from typing import Any

from modelnet.core import strictjson
from modelnet.errors import MalformedError, ModelnetError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore

__all__ = ["ask_node", "publishers"]

MAX_REPORT = 16 * 1024 * 1024  # of a node that follows twenty thousand publishers


def ask_node(url: str) -> dict[str, Any]:
    """Return the report of the gossip of the node at `url`, which answers on its own machine only.

    Raises `UnavailableError` where no node runs, or one that does not gossip; `MalformedError` for another program.
    """
    connection = HttpSource.parse(url).connect()
    try:
        content = connection.get("/gossip", MAX_REPORT, "report")
    except UnavailableError as error:
        error.hint = "is `modelnet node` running on this machine, and gossip not turned off? --node URL names another"
        raise
    finally:
        connection.close()
    report = strictjson.parse(content, what="report", limit=MAX_REPORT)
    lists = ("peers", "heads", "trace")
    if not isinstance(report, dict) or not all(isinstance(report.get(name), list) for name in lists):
        raise MalformedError("not the report of a node", rule="gossip", source=url)
    return report


def publishers(store: LocalStore) -> list[dict[str, Any]]:
    """Return where each publisher's log stands in this store, with the reason where something is wrong."""
    replicas = Replicas(store)
    return [_standing(replicas, row.pid) for row in replicas.publishers()]


def _standing(replicas: Replicas, pid: str) -> dict[str, Any]:
    try:
        standing = replicas.standing(pid)
        revocations = len(replicas.state(pid).revocations.in_force)
        evidence = len(replicas.evidence(pid))
    except ModelnetError as error:
        return {"publisher": pid, "state": "damaged", "reason": str(error)}
    reason = None
    if standing.dead:
        reason = "two branches of its log were both taken over by the next keys: nobody can tell which is the owner's"
    elif standing.quarantined:
        reason = "its log showed two histories; the evidence is kept and told to others"
    known = standing.knowledge
    return {
        "publisher": pid, "state": standing.status.value, "reason": reason, "own": standing.own,
        "epoch": standing.epoch, "size": standing.size, "root": standing.root.hex(),
        "until": None if known is None else known.time, "witnessed": known is not None and known.witnessed,
        "age_s": standing.freshness.age, "revocations": revocations, "evidence": evidence,
    }  # fmt: skip
