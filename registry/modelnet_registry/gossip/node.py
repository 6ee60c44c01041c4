"""Gossip as a node runs it: over its own store, fetching logs from whoever told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from modelnet.errors import IntegrityError, MalformedError
from modelnet.fetching import Fetcher
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore
from modelnet.stores.peers import known_peers
from modelnet.syncing import sync
from modelnet_registry.gossip.effects import Config
from modelnet_registry.gossip.judge import Fetch, Judge
from modelnet_registry.gossip.service import GossipService

__all__ = ["Gossiping", "fetch_with", "start_gossip"]


@dataclass(frozen=True, slots=True)
class Gossiping:
    """What an operator may choose; `advertise` is the URL by which peers reach the node, if not where it listens."""

    follow: Sequence[str] = ()
    peers: Sequence[str] = ()
    interval: float = 30.0
    quiet: bool = False
    advertise: str | None = None
    changed: Callable[[str], None] = field(default=lambda _pid: None)


def fetch_with(replicas: Replicas) -> Fetch:
    """Return the function that brings a publisher's log up to what one node has."""

    def fetch(pid: str, url: str) -> None:
        fetcher = Fetcher([HttpSource.parse(url)], SILENT)
        try:
            report = sync(replicas, pid, fetcher)
        finally:
            fetcher.close()
        for heard in report.heard:
            # What the publisher signed is nobody else's fault; a source that contradicts its own head lied.
            if isinstance(heard.error, IntegrityError | MalformedError):
                raise heard.error

    return fetch


def start_gossip(store: LocalStore, chosen: Gossiping) -> GossipService:
    """Return the gossip of the node over `store`; it begins with `listen`."""
    replicas = Replicas(store)
    config = Config(interval=chosen.interval, quiet=chosen.quiet)
    static = dict.fromkeys([*chosen.peers, *known_peers(store.home)])
    return GossipService(
        Judge(replicas, fetch_with(replicas)), config, static=static, follow=chosen.follow, changed=chosen.changed
    )
