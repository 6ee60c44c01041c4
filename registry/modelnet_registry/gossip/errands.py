"""Which log is fetched next, and from whom: a peer that drips costs itself, not the heads that others tell. Pure.

    grade        what is known of the head that makes a node fetch
    add          an errand waits; refused where its teller was slow lately, or has used its share
    next         the errand to run now: the best grade first, tellers apart
    done         it ended; a slow teller is left alone for a while that doubles each time

Each errand asks one teller for one log. A head that several told has several errands: the second runs when the first
takes long. One URL has one running errand at a time, one host two, and heads that nobody vouches for have one in all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import IntEnum

from modelnet_registry.gossip.addresses import account_of, host_of
from modelnet_registry.gossip.effects import Check
from modelnet_registry.gossip.sources import Bucket

__all__ = ["AT_ONCE", "MAX_ERRANDS", "Errand", "Errands", "Grade"]

AT_ONCE = 4  # errands that run, each in a thread
AT_ONCE_HOST = 2
AT_ONCE_LOG = 2  # tellers of one log that are asked side by side
MAX_ERRANDS = 64  # that wait; the machine lets no more than 192 notes wait in all
MAX_OF_URL = 8
MAX_OF_LOG = 8  # so that no publisher's heads keep those of others waiting
MAX_UNSIGNED = 4  # that wait, of one payer; any number of heads can be made up without a key
UNSIGNED_A_MINUTE = 12.0  # for one payer: a publisher changes its log key once in months
MAX_SLOW = 1024  # tellers whose slowness is remembered
BACKOFF_MOST = 32.0  # intervals
HEDGE = 1 / 3  # of the patience with one teller: after that a second one is asked for the same log


class Grade(IntEnum):
    """What is known of a head before its log is fetched; the smaller the better."""

    SIGNED = 0  # by a log key that is known here
    NEW = 1  # of a publisher that is followed and whose log is not here: its first entry proves itself
    UNSIGNED = 2  # by no key that is known here: its log may bring the key, or it is made up


# How many may run at a time, so that what costs nothing to invent never has all threads.
RUNNING = {Grade.SIGNED: AT_ONCE, Grade.NEW: 2, Grade.UNSIGNED: 1}


@dataclass(frozen=True, slots=True, eq=False)
class Errand:
    """Ask the node at `url` for the log that `check` is about; `peer` told it and pays."""

    check: Check
    peer: str
    url: str
    grade: Grade

    @property
    def pid(self) -> str:
        """Whose log it is."""
        return self.check.item.pid


class Errands:
    """The errands that wait and run; `interval` (seconds) is that of the gossip, `patience` that with one teller."""

    def __init__(self, interval: float, patience: float) -> None:
        self._interval, self._patience = interval, patience
        self._waiting: list[Errand] = []
        self._running: dict[Errand, float] = {}
        self._slow: OrderedDict[str, tuple[int, float]] = OrderedDict()  # URL → how often, left alone until
        self._unsigned: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, errand: Errand, now: float) -> list[Errand]:
        """Let an errand wait; return those for which there is no place: this one, a worse one, or none."""
        mine = [one for one in self._waiting if one.url == errand.url]
        # What is fetched is the newest log that the teller has, whichever of its heads was told.
        if self.is_slow(errand.url, now) or len(mine) >= MAX_OF_URL or any(one.pid == errand.pid for one in mine):
            return [errand]
        if sum(one.pid == errand.pid and one.grade <= errand.grade for one in self._waiting) >= MAX_OF_LOG:
            return [errand]
        if errand.grade is Grade.UNSIGNED and not self._may_be_unsigned(errand, now):
            return [errand]
        self._waiting.append(errand)
        if len(self._waiting) <= MAX_ERRANDS:
            return []
        worst = max(self._waiting, key=lambda one: one.grade)
        worst = errand if worst.grade is errand.grade else worst
        self._waiting.remove(worst)
        return [worst]

    def _may_be_unsigned(self, errand: Errand, now: float) -> bool:
        payer = account_of(errand.peer)
        if sum(one.grade is Grade.UNSIGNED and account_of(one.peer) == payer for one in self._waiting) >= MAX_UNSIGNED:
            return False
        bucket = self._unsigned.setdefault(payer, Bucket(UNSIGNED_A_MINUTE / 60, now))
        self._unsigned.move_to_end(payer)
        if len(self._unsigned) > MAX_SLOW:
            self._unsigned.popitem(last=False)
        return bucket.take(1, now)

    def is_slow(self, url: str, now: float) -> bool:
        """Tell whether a teller was slow lately."""
        return self._slow.get(url, (0, 0.0))[1] > now

    def next(self, now: float) -> Errand | None:
        """Return an errand to run now, which runs until `done`; None when none may."""
        if len(self._running) >= AT_ONCE:
            return None
        urls = {one.url for one in self._running}
        hosts = Counter(host_of(one.url) for one in self._running)
        grades = Counter(one.grade for one in self._running)
        # Whom we called before who calls us, of whom there may be any number; among those who came first.
        for errand in sorted(self._waiting, key=lambda one: (one.grade, one.peer != one.url)):
            if errand.url in urls or hosts[host_of(errand.url)] >= AT_ONCE_HOST:
                continue
            if grades[errand.grade] >= RUNNING[errand.grade] or not self._is_due(errand, now):
                continue
            self._waiting.remove(errand)
            self._running[errand] = now
            return errand
        return None

    def _is_due(self, errand: Errand, now: float) -> bool:
        """Tell whether no other teller is being asked for the same log, or for so long that this one may be too."""
        # A head that is signed does not wait for one that may be made up.
        begun = [since for one, since in self._running.items() if one.pid == errand.pid and one.grade <= errand.grade]
        return len(begun) < AT_ONCE_LOG and all(now - since >= HEDGE * self._patience for since in begun)

    def done(self, errand: Errand, now: float, *, slow: bool) -> list[Errand]:
        """Note that an errand ended and whether its teller was too slow; return those that do not run for that."""
        self._running.pop(errand, None)
        if not slow:
            self._slow.pop(errand.url, None)
            return []
        count = self._slow.get(errand.url, (0, 0.0))[0] + 1
        self._slow[errand.url] = count, now + self._interval * min(2.0**count, BACKOFF_MOST)
        self._slow.move_to_end(errand.url)
        if len(self._slow) > MAX_SLOW:
            self._slow.popitem(last=False)
        dropped = [one for one in self._waiting if one.url == errand.url]
        self._waiting = [one for one in self._waiting if one.url != errand.url]
        return dropped

    def drop(self, key: bytes) -> None:
        """Forget errands for an item that is judged."""
        self._waiting = [one for one in self._waiting if one.check.key != key]

    def like(self, key: bytes) -> Errand | None:
        """Return an errand for an item that waits or runs."""
        return next((one for one in (*self._waiting, *self._running) if one.check.key == key), None)

    def open(self, key: bytes) -> bool:
        """Tell whether an errand for an item waits or runs."""
        return self.like(key) is not None
