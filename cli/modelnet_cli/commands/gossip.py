"""`modelnet gossip trace`: what the running node heard lately."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from modelnet_cli.commands.peers import DEFAULT_NODE, NodeUrl
from modelnet_cli.output import Output


def trace(
    output: Output,
    node: NodeUrl = DEFAULT_NODE,
    last: Annotated[int, typer.Option(min=1, help="How many events, the newest last.")] = 50,
) -> None:
    """Show what the node that runs here heard, believed, refused and failed at lately."""
    from modelnet_registry.gossip.asking import ask_node

    report = ask_node(node)
    events = report["trace"][-last:]
    lines = [
        f"{_clock(event['time'])}  {event['event']:<10}{event['peer']}  {event['text']}".rstrip() for event in events
    ]
    fields = {key: report[key] for key in ("url", "interval", "heads", "counts", "tables")} | {"trace": events}
    output.result(fields, *(lines or ["nothing was heard yet"]))


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%S")
