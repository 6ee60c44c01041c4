"""`modelnet gossip trace`: what the running node hears, as it hears it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from modelnet_cli.commands.peers import DEFAULT_NODE, NodeUrl
from modelnet_cli.output import Output

POLL_S = 0.5


def trace(
    output: Output,
    node: NodeUrl = DEFAULT_NODE,
    last: Annotated[int, typer.Option(min=1, help="How many events to begin with, the newest last.")] = 50,
    once: Annotated[bool, typer.Option("--once", help="Show the last events and end; else it goes on.")] = False,
) -> None:
    """Show what the node that runs here hears, believes, refuses and fails at."""
    from modelnet_registry.gossip.asking import ask_node

    report = ask_node(node)
    events = report["trace"][-last:]
    if once:
        fields = {key: report[key] for key in ("url", "interval", "heads", "counts", "tables")} | {"trace": events}
        output.result(fields, *(map(_line, events) if events else ["nothing was heard yet"]))
        return
    seq = report["seq"]
    while True:
        for event in events:
            output.result(event, _line(event))
        time.sleep(POLL_S)
        report = ask_node(node, seq)
        if report["seq"] < seq:  # the node was started again, and counts anew
            report = ask_node(node, 0)
        events, seq = report["trace"], report["seq"]


def _line(event: dict[str, Any]) -> str:
    clock = datetime.fromtimestamp(event["time"], UTC).strftime("%H:%M:%S")
    return f"{clock}  {event['event']:<10}{event['peer']}  {event['text']}".rstrip()
