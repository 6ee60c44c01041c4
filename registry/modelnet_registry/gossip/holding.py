"""Which models a helping node holds: weighted rendezvous over the members, and a look at who really holds. Pure.

    rank        every node computes the same order of members for a model (`modelnet.ipfs.placement`)
    first k     hold it
    the others  hold it when fewer than k of those before them turn out to, after a while that grows with their rank

So a member that leaves, or only pretends, is replaced by the next in rank and nobody else: what moves is what was lost.
Nothing is coordinated and nothing has to be believed: a member counts as a holder when it shows the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelnet.ipfs.placement import rank

__all__ = ["Allowance", "Holding"]

DAY = 24
STEPS = 8  # ranks that wait one patience each


@dataclass(slots=True)
class Holding:
    """Decides for the node at `own`; `patience` (seconds) is how long those before it may take to fetch."""

    own: str
    copies: int = 3
    patience: float = 600.0
    _short: dict[str, float] = field(default_factory=dict)  # model → since when too few hold it

    def wants(self, model: str, members: Mapping[str, int], holds: Callable[[str], bool], now: float) -> bool:
        """Tell whether this node should hold `model` now; `holds(member)` looks whether another one does."""
        order = rank(model, ((url, float(space)) for url, space in members.items()))
        if self.own not in order:
            return False
        place = order.index(self.own)
        if place < self.copies:
            return True
        held = 0
        for url in order[:place]:
            held += holds(url)
            if held == self.copies:
                self._short.pop(model, None)
                return False
        since = self._short.setdefault(model, now)
        # One rank after the other, or all that are left would fetch at once. Far down in the order the steps get
        # shorter: those before may be a crowd that only pretends, and must not keep the model waiting for ever.
        steps = place - self.copies + 1
        waits = steps if steps <= STEPS else STEPS + math.log2(steps / STEPS)
        return now - since >= self.patience * waits

    def forget(self, models: Mapping[str, object]) -> None:
        """Keep nothing about models that are not among `models` any more."""
        self._short = {model: since for model, since in self._short.items() if model in models}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an operator gives: bytes of space, bytes a second, and local hours in which nothing is fetched.

    From an hour to itself is no time; from 0 to 24 is the whole day.
    """

    space: int
    rate: float | None = None
    quiet_from: int = 0
    quiet_to: int = 0

    def allows(self, size: int, used: int, hour: int) -> bool:
        """Tell whether a model of `size` bytes may be fetched at this hour, `used` bytes being taken."""
        return used + size <= self.space and not self.is_quiet(hour)

    def is_quiet(self, hour: int) -> bool:
        """Tell whether an hour is one of the quiet ones; from 22 to 6 means over midnight."""
        length = self.quiet_to - self.quiet_from
        length += DAY if length < 0 else 0
        return (hour - self.quiet_from) % DAY < length

    def pause(self, count: int, elapsed: float, done: int) -> float:
        """Return how long to wait after `count` more bytes, `done` before them in `elapsed` seconds."""
        if self.rate is None:
            return 0.0
        return max(0.0, (done + count) / self.rate - elapsed)
