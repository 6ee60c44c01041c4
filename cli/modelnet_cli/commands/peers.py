"""`modelnet peers`: whom the running node knows, and who lied."""

from __future__ import annotations

from typing import Annotated

import typer

from modelnet_cli.output import Output

NodeUrl = Annotated[str, typer.Option("--node", metavar="URL", help="The node to ask; it answers on its own machine.")]
DEFAULT_NODE = "http://127.0.0.1:8710"


def peers(output: Output, node: NodeUrl = DEFAULT_NODE) -> None:
    """List the peers of the node that runs here: who answers, who does not, who lied."""
    from modelnet_registry.gossip.asking import ask_node

    known = ask_node(node)["peers"]
    lines = [f"{peer['state']:<16}{peer['url']}  {peer['reason']}".rstrip() for peer in known]
    output.result({"peers": known}, *(lines or ["no peers yet; name one with `modelnet node --peer URL`"]))
