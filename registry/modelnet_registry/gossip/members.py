"""Who offers space for what others publish: a list that gossip keeps alike on all nodes. Pure.

Each member says its own address, the space that it offers and a beat that grows; whoever hears a newer beat passes it
on. A member whose beat has not grown for some intervals is gone. Nothing is signed, so a list of members is a list of
rumours: one teller and one address range place a bounded number of them, and nobody counts on a member before it
answered (`modelnet_registry.gossip.helping`) or on a copy before it was shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from modelnet_registry.gossip.addresses import range_of, told
from modelnet_registry.gossip.messages import MemberLine

__all__ = ["FROM_ONE", "FROM_RANGE", "GONE", "MAX_MEMBERS", "MAX_SPACE", "Members"]

MAX_MEMBERS = 1024
FROM_ONE = 64  # that one teller may have placed at a time
FROM_RANGE = 512  # in one address range: a whole LAN is one
GONE = 10.0  # intervals without a new beat
MAX_SPACE = 1 << 14  # GiB that a member is taken to offer at most: space is weight, and weight is free to claim


@dataclass(slots=True)
class _Member:
    space: int
    beat: int
    heard: float
    teller: str


class Members:
    """The members as one node knows them; `own` is this node's address, empty when it cannot be called."""

    __slots__ = ("_interval", "_known", "_ranges", "_tellers", "own", "space")

    def __init__(self, own: str, interval: float) -> None:
        self.own = own
        self.space = 0  # GiB that this node offers
        self._interval = interval
        self._known: dict[str, _Member] = {}
        self._tellers: Counter[str] = Counter()
        self._ranges: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, lines: Iterable[MemberLine], now: float, wall: int, teller: str) -> None:
        """Take what `teller`, an address, says; `wall` is this machine's clock in unix seconds."""
        for line in lines:
            url = told(line.url, teller, self.own)
            if url is None or url == self.own or line.space <= 0:
                continue
            space = min(line.space, MAX_SPACE)
            # A beat from the future could not be outdone by the member itself.
            beat = min(line.beat, wall)
            known = self._known.get(url)
            if known is not None and beat > known.beat:
                known.space, known.beat, known.heard = space, beat, now
            elif known is None and self._has_place(url, teller, now):
                self._known[url] = _Member(space, beat, now, teller)
                self._tellers[teller] += 1
                self._ranges[range_of(url)] += 1

    def _has_place(self, url: str, teller: str, now: float) -> bool:
        full = len(self._known) >= MAX_MEMBERS
        if full or self._tellers[teller] >= FROM_ONE or self._ranges[range_of(url)] >= FROM_RANGE:
            self._drop_gone(now)
        if self._tellers[teller] >= FROM_ONE or self._ranges[range_of(url)] >= FROM_RANGE:
            return False
        return len(self._known) < MAX_MEMBERS or self._drop_one(teller)

    def _drop_gone(self, now: float) -> None:
        for url in [url for url, member in self._known.items() if not self._is_here(member, now)]:
            self._drop(url)

    def _drop_one(self, teller: str) -> bool:
        """Give up the oldest member of the busiest teller, unless `teller` is as busy."""
        busiest, count = self._tellers.most_common(1)[0]
        if count <= self._tellers[teller] + 1:
            return False
        self._drop(next(url for url, member in self._known.items() if member.teller == busiest))
        return True

    def _drop(self, url: str) -> None:
        member = self._known.pop(url)
        for counter, key in ((self._tellers, member.teller), (self._ranges, range_of(url))):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _is_here(self, member: _Member, now: float) -> bool:
        return now - member.heard < GONE * self._interval

    def tell(self, count: int, random: Random, now: float, wall: int) -> tuple[MemberLine, ...]:
        """Return this node's own line, if it offers anything, and some others."""
        here = [(url, member) for url, member in self._known.items() if self._is_here(member, now)]
        chosen = random.sample(here, min(count, len(here)))
        mine = [MemberLine(self.own, self.space, wall)] if self.own and self.space else []
        return (*mine, *(MemberLine(url, member.space, member.beat) for url, member in chosen))

    def alive(self, now: float) -> dict[str, int]:
        """Return the members that are here, this node among them, and what each offers in GiB."""
        found = {url: member.space for url, member in self._known.items() if self._is_here(member, now)}
        if self.own and self.space:
            found[self.own] = self.space
        return found
