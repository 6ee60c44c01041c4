"""`modelnet node`: serve what is in the store."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from modelnet.errors import UsageError
from modelnet.wording import count_text
from modelnet_cli.output import Output


def node(
    output: Output,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve; port 0 picks a free one.")
    ] = "127.0.0.1:8710",
    peer: Annotated[list[str] | None, typer.Option("--peer", help="Peer that later pulls ask by themselves.")] = None,
) -> None:
    """Serve the releases in this store to peers, Kubo and browsers, until interrupted."""
    from modelnet.stores.home import Home
    from modelnet.stores.local import open_store
    from modelnet.stores.peers import add_peers
    from modelnet_registry.node import run_node

    host, port = _address(listen)
    store = open_store()
    add_peers(Home.find(), peer or [])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def ready(url: str) -> None:
        doors = {"gateway": f"{url}/ipfs/", "log": f"{url}/log/", "health": f"{url}/healthz"}
        output.result(
            {"event": "ready", "url": url, "doors": doors},
            f"serving {count_text(len(store.index.releases()), 'release')} at {url}",
        )

    run_node(store, host, port, ready=ready, stop=stop)
    output.result({"event": "stopped"}, "stopped")


def _address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT, with brackets around an IPv6 address."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"not HOST:PORT: {text!r}", rule="listen", hint="for example 127.0.0.1:8710 or [::1]:0")
    return host, int(port)
