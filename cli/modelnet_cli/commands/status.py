"""`modelnet status`: where each publisher's log stands in this store."""

from __future__ import annotations

from typing import Any

from modelnet.wording import age_text, count_text, time_text
from modelnet_cli.output import Output


def status(output: Output) -> None:
    """Say how far each publisher's log is known here, how old that is, and what was revoked or is in doubt."""
    from modelnet.stores.local import open_store
    from modelnet.stores.petnames import Petnames
    from modelnet_registry.gossip.asking import publishers

    store = open_store()
    names = Petnames(store.home).aliases()
    found = [row | {"alias": names.get(row["publisher"])} for row in publishers(store)]
    lines = [_line(row) for row in found]
    output.result({"publishers": found}, *(lines or ["no publisher is known here yet"]))


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
        parts.append(count_text(row["revocations"], "revocation"))
    if row["reason"]:
        parts.append(row["reason"])
    return "  ".join(parts)
