"""What an operator asks: whom a running node knows, what it heard, and where each publisher's log stands here."""

from __future__ import annotations

from typing import Any

from modelnet.core import strictjson
from modelnet.errors import MalformedError, ModelnetError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore

__all__ = ["ask_node", "publishers", "revocations", "standing_of"]

NOT_RUNNING = "is `modelnet node` running on this machine? --node URL says where, if not at the usual address"
HINTS = {
    "http-403": "a node answers this on its own machine only: ask there, by the address that it listens at",
    "http-404": "this node does not gossip: it was started with --gossip-interval 0, or is another program",
    "http-405": "this node does not gossip: it was started with --gossip-interval 0, or is another program",
}
MAX_REPORT = 16 * 1024 * 1024  # of a node that follows twenty thousand publishers


def ask_node(url: str, after: int | None = None) -> dict[str, Any]:
    """Return the report of the gossip of the node at `url`, which answers on its own machine only.

    With `after` it is only what happened after the event with that number.

    Raises `UnavailableError` where no node runs, or one that does not gossip; `MalformedError` for another program.
    """
    connection = HttpSource.parse(url).connect()
    try:
        path = "/gossip" if after is None else f"/gossip?after={after}"
        content = connection.get(path, MAX_REPORT, "report")
    except UnavailableError as error:
        error.hint = HINTS.get(error.rule or "", NOT_RUNNING)
        raise
    finally:
        connection.close()
    report = strictjson.parse(content, what="report", limit=MAX_REPORT)
    lists = ("peers", "heads", "trace") if after is None else ("trace",)
    if not isinstance(report, dict) or not all(isinstance(report.get(name), list) for name in lists):
        raise MalformedError("not the report of a node", rule="gossip", source=url)
    return report


def publishers(store: LocalStore) -> list[dict[str, Any]]:
    """Return where each publisher's log stands in this store, with the reason where something is wrong."""
    replicas = Replicas(store)
    return [standing_of(replicas, row.pid) for row in replicas.publishers()]


def revocations(replicas: Replicas, pid: str) -> list[dict[str, Any]]:
    """Return what a publisher's log, or anybody in its name, revoked and still does: names as far as they are known."""
    state = replicas.state(pid)
    found = []
    for one in state.revocations.in_force:
        for subject in one.event.subjects or one.event.files:
            logged = state.manifest(subject)
            release = None if logged is None else logged.event.release
            found.append({
                "name": None if release is None else release.name,
                "version": None if release is None else release.version,
                "severity": one.event.severity, "reason": one.event.text, "statement": one.statement.hex(),
            })  # fmt: skip
    return found


def standing_of(replicas: Replicas, pid: str) -> dict[str, Any]:
    """Return where a publisher's log stands."""
    try:
        standing = replicas.standing(pid)
        revoked = revocations(replicas, pid)
        evidence = len(replicas.evidence(pid))
    except ModelnetError as error:
        return {"publisher": pid, "state": "damaged", "reason": str(error)}
    reason = None
    if standing.dead:
        reason = "two branches of its log were both taken over by the next keys: nobody can tell which is the owner's"
    elif standing.quarantined:
        reason = "its log showed two histories; the evidence is kept and told to others"
    known = standing.knowledge
    until = None if known is None else known.time
    return {
        "publisher": pid, "state": standing.status.value, "reason": reason, "own": standing.own,
        "epoch": standing.epoch, "size": standing.size, "root": standing.root.hex(),
        "knowledge": {"state": standing.status.value, "until": until, "age_s": standing.freshness.age},
        "until": until, "witnessed": known is not None and known.witnessed, "age_s": standing.freshness.age,
        "revocations": revoked, "evidence": evidence,
    }  # fmt: skip
