"""Gossip as a node runs it: over its own store, fetching logs from whoever told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from modelnet.ipfs.address import KuboAddress
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore
from modelnet.stores.peers import known_peers
from modelnet_registry.discovery import Discovery
from modelnet_registry.gossip.effects import Config
from modelnet_registry.gossip.fetch import fetch_with
from modelnet_registry.gossip.helping import Help, Helper
from modelnet_registry.gossip.judge import Judge
from modelnet_registry.gossip.post import check_reach
from modelnet_registry.gossip.pubsub import KuboPubsub
from modelnet_registry.gossip.service import GossipService

__all__ = ["Gossiping", "joined", "start_gossip"]


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
    said: Callable[[str], None] = field(default=lambda _words: None)


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
    static = dict.fromkeys([*(HttpSource.parse(peer).url for peer in chosen.peers), *known_peers(store.home)])
    follow = [*chosen.follow, *(chosen.help.publishers if chosen.help else ())]

    def guard(url: str) -> None:
        if url not in static:  # the operator may name what it likes
            check_reach(url)

    return GossipService(
        Judge(replicas, fetch_with(replicas, guard)),
        config,
        static=static,
        follow=follow,
        changed=chosen.changed,
        said=chosen.said,
        guard=guard,
    )
