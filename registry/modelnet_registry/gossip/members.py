"""Who offers space for what others publish: a list that gossip keeps alike on all nodes. Pure.

Each member says its own address, the space that it offers and a beat that grows; whoever hears a newer beat passes it
on. A member whose beat has not grown for some intervals is gone. Nothing is signed: an invented member attracts models
that it will be found not to hold (`modelnet_registry.gossip.holding`), and that is all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from modelnet_registry.gossip.messages import MemberLine

__all__ = ["GONE", "Members"]

MAX_MEMBERS = 1024
GONE = 10.0  # intervals without a new beat
AHEAD_S = 300  # how far another clock may be ahead: a beat from the future could not be outdone
MAX_SPACE = 1 << 20  # GiB


@dataclass(slots=True)
class _Member:
    space: int
    beat: int
    heard: float


class Members:
    """The members as one node knows them; `own` is this node's address, empty when it cannot be called."""

    __slots__ = ("_interval", "_known", "own", "space")

    def __init__(self, own: str, interval: float) -> None:
        self.own = own
        self.space = 0  # GiB that this node offers
        self._interval = interval
        self._known: dict[str, _Member] = {}

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, lines: Iterable[MemberLine], now: float, wall: int) -> None:
        """Take what a peer says; `wall` is this machine's clock in unix seconds."""
        for url, space, beat in lines:
            if url == self.own or not 0 < space <= MAX_SPACE or beat > wall + AHEAD_S:
                continue
            known = self._known.get(url)
            if known is not None and beat > known.beat:
                known.space, known.beat, known.heard = space, beat, now
            elif known is None and (len(self._known) < MAX_MEMBERS or self._drop_gone(now)):
                self._known[url] = _Member(space, beat, now)

    def _drop_gone(self, now: float) -> bool:
        gone = [url for url, member in self._known.items() if not self._is_here(member, now)]
        for url in gone:
            del self._known[url]
        return bool(gone)

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
