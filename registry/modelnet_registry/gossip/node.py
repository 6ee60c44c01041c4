"""Gossip as a node runs it: over its own store, fetching logs from whoever told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from modelnet.errors import IntegrityError, MalformedError
from modelnet.fetching import Fetcher
from modelnet.ipfs.address import KuboAddress
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore
from modelnet.stores.peers import known_peers
from modelnet.syncing import sync
from modelnet_registry.discovery import Discovery
from modelnet_registry.gossip.effects import Config
from modelnet_registry.gossip.helping import Help, Helper
from modelnet_registry.gossip.judge import Fetch, Judge
from modelnet_registry.gossip.pubsub import KuboPubsub
from modelnet_registry.gossip.service import GossipService

__all__ = ["Gossiping", "fetch_with", "joined", "start_gossip"]


@dataclass(frozen=True, slots=True)
class Gossiping:
    """What an operator may choose; `advertise` is the URL by which peers reach the node, if not where it listens."""

    follow: Sequence[str] = ()
    peers: Sequence[str] = ()
    interval: float = 30.0
    quiet: bool = False
    advertise: str | None = None
    lan: bool = False  # look for nodes by mDNS, and be found
    kubo: str | None = None  # gossip over this Kubo's pubsub as well; empty for the one that is found here
    help: Help | None = None
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


@contextmanager
def joined(store: LocalStore, service: GossipService, chosen: Gossiping, listening: str, url: str) -> Iterator[None]:
    """Begin to gossip on every bus that was chosen, as the node that listens at `listening`.

    `url` is how peers call it; empty when nobody can know that.
    """
    with ExitStack() as stack:
        if chosen.lan:
            discovery = Discovery(url or listening, met=service.met, follow=chosen.follow)
            stack.enter_context(discovery)
        service.listen(url)
        if chosen.kubo is not None:
            stack.enter_context(KuboPubsub(KuboAddress.parse(chosen.kubo), service))
        if chosen.help is not None:
            stack.enter_context(Helper(store, service, chosen.help))
        yield


def start_gossip(store: LocalStore, chosen: Gossiping) -> GossipService:
    """Return the gossip of the node over `store`; it begins with `listen`."""
    replicas = Replicas(store)
    config = Config(interval=chosen.interval, quiet=chosen.quiet)
    static = dict.fromkeys([*chosen.peers, *known_peers(store.home)])
    follow = [*chosen.follow, *(chosen.help.publishers if chosen.help else ())]
    return GossipService(
        Judge(replicas, fetch_with(replicas)), config, static=static, follow=follow, changed=chosen.changed
    )
