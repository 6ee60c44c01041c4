"""Nodes that gossip, in this process, over real sockets; and what they know, asked of their stores.

with running(tmp_path / "a", interval=0.2) as a, running(tmp_path / "b", peers=[a.url]) as b:
    a.know(log)                                   # a's store holds the log
    eventually(lambda: b.size(log.pid) == 3)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelnet.core.events import Digests
from modelnet.replica import Replicas
from modelnet.stores.local import LocalStore, open_store
from modelnet_registry.gossip.helping import Help
from modelnet_registry.gossip.node import Gossiping, joined, start_gossip
from modelnet_registry.gossip.service import GossipService
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.gossipdoor import GossipDoor, WithGossip
from modelnet_registry.http.server import Server
from tests.core.logs import Log

__all__ = ["Node", "Store", "eventually", "running"]

INTERVAL = 0.2


@dataclass(frozen=True, slots=True)
class Store:
    """A store and what it knows of publishers' logs."""

    store: LocalStore

    @property
    def replicas(self) -> Replicas:
        """A fresh look at the store."""
        return Replicas(self.store)

    def know(self, log: Log, size: int | None = None, *, time: int | None = None) -> None:
        """Adopt a test log, up to `size`."""
        entries = log.entries[:size]
        known = self.size(log.pid)
        self.replicas.adopt(log.pid, log.head(size, time=time), entries[known:], first=known)

    def size(self, pid: str) -> int:
        """Return how many entries of a log are known."""
        return self.replicas.standing(pid).size if self.replicas.known(pid) else 0

    def revoked(self, pid: str, digests: Digests) -> bool:
        """Tell whether a release is known to be revoked."""
        replicas = self.replicas
        return replicas.known(pid) and bool(replicas.view(pid).revocations_of(digests))

    def quarantined(self, pid: str) -> bool:
        """Tell whether two histories of a log are known."""
        replicas = self.replicas
        return replicas.known(pid) and replicas.standing(pid).quarantined


@dataclass(frozen=True, slots=True)
class Node(Store):
    """A node that runs in this process."""

    url: str
    service: GossipService


@contextmanager
def running(
    home: Path, *, peers: Sequence[str] = (), follow: Sequence[str] = (), interval: float = INTERVAL,
    quiet: bool = False, changed: Callable[[str], None] = lambda _pid: None, helping: Help | None = None,
) -> Iterator[Node]:  # fmt: skip
    """Run a node over the store in `home`."""
    store = open_store(home)
    chosen = Gossiping(follow, peers, interval, quiet, help=helping, changed=changed)
    try:
        with (
            start_gossip(store, chosen) as service,
            Server(WithGossip(Doors(store), GossipDoor(service.answer, service.report)), "127.0.0.1", 0) as server,
            joined(store, service, chosen, server.url, server.url),
        ):
            yield Node(store, server.url, service)
    finally:
        store.index.close()


def eventually(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Wait until `holds()`; fail after a time that no working machine takes."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
