"""Run a node: serve a store over HTTP until told to stop.

    stop = threading.Event()
    run_node(open_store(), "127.0.0.1", 8710, ready=print, stop=stop)

Signals are the caller's: its handler sets `stop`, and the node is down within five seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from modelnet.gate import Gate
from modelnet.stores.local import LocalStore
from modelnet_registry.beating import Beating
from modelnet_registry.denials import Denials
from modelnet_registry.gossip.node import Gossiping, joined, start_gossip
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.gossipdoor import GossipDoor, WithGossip
from modelnet_registry.http.server import Server
from modelnet_registry.withdrawing import Withdrawing
from modelnet_registry.witness import Witness, WitnessKey

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
    gossip: Gossiping | None = None,
    witness: WitnessKey | None = None,
) -> None:
    """Serve `store` on `host` and `port` (0: any free one), say the URL to `ready`, and return after `stop` is set.

    With `gossip` the node compares heads with its peers, and hears of revocations and evidence. With the key of a
    `witness` it cosigns heads of the logs that it follows and of those that its policy names.
    Raises `UnavailableError` when the address cannot be had or the store cannot be read.
    """
    denials = Denials(Gate.open(store))
    withdrawing = Withdrawing(Gate.open(store))
    beating = Beating(store)
    denials.start()  # a store that cannot be read is said now, not to the first peer
    withdrawing.start()
    beating.start()
    try:
        doors = Doors(store, witness=None if witness is None else Witness.open(store, witness), denied=denials.reason)
        if gossip is None:
            with Server(doors, host, port) as server:
                ready(server.url)
                stop.wait()
            return
        with (
            start_gossip(store, gossip) as service,
            Server(WithGossip(doors, GossipDoor(service.answer, service.report)), host, port) as server,
            joined(store, service, gossip, server.url, _reached_at(gossip.advertise, host, server.url)),
        ):
            ready(server.url)
            stop.wait()
    finally:
        beating.close()
        withdrawing.close()
        denials.close()
        store.index.close()


def _reached_at(advertised: str | None, host: str, url: str) -> str:
    """Return the address to tell peers; none when the node listens at all of its own and nobody said which counts."""
    return advertised or ("" if host in ("", "0.0.0.0", "::") else url)  # noqa: S104  (compared with, not bound to)
