"""`modelnet status`: where each publisher's log stands in this store, and what the node beside it is doing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from modelnet.errors import ModelnetError
from modelnet.wording import age_text, count_text, size_text, time_text
from modelnet_cli.commands.peers import DEFAULT_NODE
from modelnet_cli.output import Output

SHOWN = 20  # revocations of one publisher, in words


def status(
    output: Output,
    node: Annotated[
        str | None, typer.Option("--node", metavar="URL", help="The node to ask for peers and transfers.")
    ] = None,
) -> None:
    """Say how far each publisher's log is known here, how old that is, and what was revoked or is in doubt."""
    from modelnet.stores.local import open_store
    from modelnet.stores.petnames import Petnames
    from modelnet_registry.gossip.asking import ask_node, publishers

    report: dict[str, Any] = {}
    try:
        report = ask_node(node or DEFAULT_NODE)
    except ModelnetError:
        if node is not None:  # else a node is not needed: the store says the most
            raise
    store = open_store()
    names = Petnames(store.home).aliases()
    found = [row | {"alias": names.get(row["publisher"])} for row in publishers(store)]
    peers, transfers = report.get("peers", []), report.get("transfers", [])
    lines = [line for row in found for line in _lines(row)] or ["no publisher is known here yet"]
    if report:
        answering = sum(peer["state"] == "answered" for peer in peers)
        lines.append(f"node {report['url']}  {answering} of {count_text(len(peers), 'peer')} answered")
    lines += [f"fetching {one['locator']}  {size_text(one['bytes'])} of {size_text(one['total'])}" for one in transfers]
    lines += [f"{name} does not work: {why}" for name, why in report.get("buses", {}).items() if why]
    output.result({"publishers": found, "peers": peers, "transfers": transfers}, *lines)


def _lines(row: dict[str, Any]) -> Iterator[str]:
    yield _line(row)
    revoked = row.get("revocations", [])
    for one in revoked[:SHOWN]:
        what = f"{one['name']}@{one['version']}" if one["name"] else "a release that is not known here"
        yield f"  revoked: {what} ({one['severity']})" + (f": {one['reason']}" if one["reason"] else "")
    if len(revoked) > SHOWN:
        yield f"  and {len(revoked) - SHOWN} more"


def _line(row: dict[str, Any]) -> str:
    who = row["alias"] or row["publisher"]
    if row["state"] == "damaged":
        return f"{who}  damaged  {row['reason']}"
    parts = [f"{who}  {row['state']}", count_text(row["size"], "entry").replace("entrys", "entries")]
    if row["own"]:
        parts.append("yours")
    elif row["until"] is None:
        parts.append("never vouched for")
    else:
        by = "witnesses" if row["witnessed"] else "its publisher"
        parts.append(f"known up to {time_text(row['until'])} ({age_text(row['age_s'])}), says {by}")
    if row["revocations"]:
        parts.append(count_text(len(row["revocations"]), "revocation"))
    if row["reason"]:
        parts.append(row["reason"])
    return "  ".join(parts)
