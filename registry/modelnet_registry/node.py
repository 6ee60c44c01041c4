"""Run a node: serve a store over HTTP until told to stop.

    stop = threading.Event()
    run_node(open_store(), "127.0.0.1", 8710, ready=print, stop=stop)

Signals are the caller's: its handler sets `stop`, and the node is down within five seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from modelnet.stores.local import LocalStore
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "run_node"]

DEFAULT_HOST = "127.0.0.1"  # nothing is offered to a network unless somebody says so
DEFAULT_PORT = 8710


def run_node(
    store: LocalStore,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    ready: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Serve `store` on `host` and `port` (0: any free one), say the URL to `ready`, and return after `stop` is set.

    Raises `UnavailableError` when the address cannot be had or the store cannot be read.
    """
    store.index.aliases()  # a store that cannot be read is said now, not to the first peer
    try:
        with Server(Doors(store), host, port) as server:
            ready(server.url)
            stop.wait()
    finally:
        store.index.close()
