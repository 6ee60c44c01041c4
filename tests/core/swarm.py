"""A pull on a fake clock: sources with rates, gaps, stalls, lies and deaths drive the real `Transfer`.

Nothing here sleeps or opens a socket. Time advances in ticks; each tick every open request moves by its share of its
source's rate, just as bytes would arrive, and the plan is told what the driver in `modelnet.fetching` tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from modelnet.core.filetree import FileTree
from modelnet.core.transfer import Lease, State, Transfer

__all__ = ["MIB", "Outcome", "Peer", "pull"]

MIB = 1024 * 1024
TICK = 0.05  # seconds
WATCH = 0.25  # how often the driver asks for a verdict
Place = tuple[int, int]


@dataclass(slots=True)
class Peer:
    """How a source behaves.

    `has` says which chunks it holds (None: all); `dies` and `stalls` are times; `lies` are chunks that it sends wrong;
    `late` is when it is added; `latency` is the time before a request's first byte.
    """

    name: str
    rate: float = 10 * MIB
    has: Callable[[int, int], bool] | None = None
    dies: float | None = None
    stalls: float | None = None
    lies: frozenset[Place] = frozenset()
    latency: float = 0.0
    late: float = 0.0


@dataclass(slots=True)
class Request:
    """One open request of a source."""

    lease: Lease
    peer: Peer
    ready: float
    index: int
    done: float = 0.0
    watched: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What a simulated pull came to."""

    transfer: Transfer
    seconds: float = 0.0
    sent: float = 0.0
    deliveries: dict[Place, int] = field(default_factory=dict)
    leases_after_lie: list[str] = field(default_factory=list)
    requests: int = 0
    stuck: bool = False

    @property
    def done(self) -> bool:
        """Tell whether everything arrived."""
        return self.transfer.done

    @property
    def wasted(self) -> float:
        """Bytes that were sent but were not needed."""
        return self.sent - sum(source.bytes for source in self.transfer.sources.values())


def pull(trees: list[FileTree], missing: list[list[int]], peers: list[Peer], limit: float = 3600.0) -> Outcome:
    """Run a pull to its end, or until `limit` simulated seconds."""
    return _Pull(trees, missing, peers).run(limit)


class _Pull:
    def __init__(self, trees: list[FileTree], missing: list[list[int]], peers: list[Peer]) -> None:
        self.trees = trees
        self.plan = Transfer(trees, missing)
        self.outcome = Outcome(self.plan)
        self.peers = sorted(peers, key=lambda peer: peer.late)
        self.open: list[Request] = []
        self.now = 1000.0  # a monotonic clock begins anywhere
        self.start = self.now
        self.liars: set[str] = set()

    def run(self, limit: float) -> Outcome:
        waiting = list(self.peers)
        while not self.plan.done:
            while waiting and self.now - self.start >= waiting[0].late:
                self.plan.add_source(waiting.pop(0).name)
            if not waiting and self.plan.hopeless:
                break
            if self.now - self.start > limit:
                self.outcome.stuck = True
                break
            self._lease()
            self.now += TICK
            for request in list(self.open):
                self._advance(request)
        self.outcome.seconds = self.now - self.start
        return self.outcome

    def _lease(self) -> None:
        for peer in self.peers:
            while peer.name in self.plan.sources:
                lease = self.plan.lease(peer.name, self.now)
                if lease is None:
                    break
                if peer.name in self.liars:
                    self.outcome.leases_after_lie.append(peer.name)
                self.outcome.requests += 1
                self.open.append(Request(lease, peer, self.now + peer.latency, lease.run.first))

    def _advance(self, request: Request) -> None:
        lease, peer = request.lease, request.peer
        at = self.now - self.start
        if peer.dies is not None and at >= peer.dies:
            self._close(request)
            self.plan.failed(lease, "the connection was refused", self.now)
            return
        if self.now - request.watched >= WATCH:
            request.watched = self.now
            if (reason := self.plan.verdict(lease, self.now)) is not None:
                self._close(request)
                if reason == "others were faster":
                    self.plan.finished(lease, self.now)
                else:
                    self.plan.failed(lease, reason, self.now)
                return
        if self.now < request.ready or (peer.stalls is not None and at >= peer.stalls):
            return
        sharing = sum(other.peer is peer for other in self.open)
        self._receive(request, peer.rate * TICK / sharing)

    def _receive(self, request: Request, budget: float) -> None:
        lease, peer = request.lease, request.peer
        tree = self.trees[lease.run.file]
        received = 0.0
        while request.index < lease.run.last:
            place = (lease.run.file, request.index)
            if peer.has is not None and not peer.has(*place):
                # As a gateway does: nothing at all is "not here", a gap later ends the answer.
                self._count(lease, received)
                self._close(request)
                if request.index == lease.run.first:
                    self.plan.missing(lease, self.now)
                else:
                    self.plan.failed(lease, "the stream broke off", self.now)
                return
            size = tree.size_of(request.index)
            take = min(size - request.done, budget - received)
            request.done += take
            received += take
            if request.done < size:
                break
            if place in peer.lies:
                self._count(lease, received)
                self._close(request)
                self.liars.add(peer.name)
                self.plan.lied(lease, f"chunk {request.index} differs")
                return
            if self.plan.wants(*place):
                self.outcome.deliveries[place] = self.outcome.deliveries.get(place, 0) + 1
            self.plan.verified(lease, request.index)
            request.index += 1
            request.done = 0.0
        self._count(lease, received)
        if request.index == lease.run.last:
            self._close(request)
            self.plan.finished(lease, self.now)

    def _count(self, lease: Lease, received: float) -> None:
        self.outcome.sent += received
        if received:
            self.plan.received(lease, max(1, int(received)), self.now)

    def _close(self, request: Request) -> None:
        self.open.remove(request)


def states(outcome: Outcome) -> dict[str, State]:
    """Return how each source ended."""
    return {name: source.state for name, source in outcome.transfer.sources.items()}
