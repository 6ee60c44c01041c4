"""What a machine holds to be true: a head of each publisher, and the marks of revocations and evidence. Pure.

adopt, hold    what proved true comes in; heads only grow
lines          the heads that are told: all of them, or those that changed last and a random sample of the rest
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from random import Random

from modelnet_registry.gossip.messages import MAX_HEADS, MAX_MARKS, Head, HeadLine

__all__ = ["MAX_PUBLISHERS", "Held"]

MAX_PUBLISHERS = 20_000


class Held:
    """The heads and marks of one node; `most` heads are told at once."""

    __slots__ = ("_hot", "_lines", "_most", "_random", "heads", "marks", "sums")

    def __init__(self, most: int, random: Random) -> None:
        self.heads: dict[str, Head] = {}
        self.marks: dict[str, dict[bytes, None]] = {}
        self.sums: dict[str, int] = {}
        self._most = min(most, MAX_HEADS)
        self._random = random
        self._hot: OrderedDict[str, None] = OrderedDict()  # publishers with news, the newest last
        self._lines: tuple[HeadLine, ...] | None = None

    @property
    def hot(self) -> int:
        """How many publishers are told of first."""
        return len(self._hot)

    def follow(self, pid: str) -> None:
        """Have a place for a publisher whose log is not here."""
        if pid not in self.heads and len(self.heads) < MAX_PUBLISHERS:
            self.heads[pid] = Head(pid, 0, 0, b"")
            self._lines = None

    def adopt(self, head: Head) -> bool:
        """Take over a head that is true; tell whether it is news."""
        mine = self.heads.get(head.pid)
        if mine is not None and (head.place < mine.place or head == mine):
            return False
        if mine is None and len(self.heads) >= MAX_PUBLISHERS:
            return False
        if mine is not None and mine.place == head.place:
            head = head._replace(time=max(head.time, mine.time))
            if head == mine:
                return False
        self.heads[head.pid] = head
        self._heat(head.pid)
        return True

    def hold(self, pid: str, mark: bytes) -> bool:
        """Note the mark of a revocation or of evidence; tell whether it is news."""
        if pid not in self.heads:
            return False
        marks = self.marks.setdefault(pid, {})
        if mark in marks or len(marks) >= MAX_MARKS:
            return False
        marks[mark] = None
        self.sums[pid] = self.sums.get(pid, 0) ^ int.from_bytes(mark[:8], "big")
        self._heat(pid)
        return True

    def _heat(self, pid: str) -> None:
        self._lines = None
        self._hot[pid] = None
        self._hot.move_to_end(pid)
        if len(self._hot) > MAX_HEADS:
            self._hot.popitem(last=False)

    def are(self, lines: tuple[HeadLine, ...]) -> bool:
        """Tell whether these are the lines that are told here: the usual case, for nothing happens most of the time."""
        return lines == self._lines

    def lines(self, rumoured: Mapping[str, Head]) -> tuple[HeadLine, ...]:
        """Return the heads to tell, with some that are only rumours."""
        if self._lines is not None:
            return self._lines
        lines = self._sample(rumoured)
        if len(self.heads) + len(rumoured) <= self._most:  # else another sample each time
            self._lines = lines
        return lines

    def _sample(self, rumoured: Mapping[str, Head]) -> tuple[HeadLine, ...]:
        hot = list(reversed(self._hot))[: self._most // 2]
        rest = [pid for pid in (*self.heads, *rumoured) if pid not in self._hot]
        if len(hot) + len(rest) > self._most:
            rest = self._random.sample(rest, min(len(rest), self._most - len(hot)))
        chosen = dict.fromkeys([*hot, *rest])
        return tuple(
            HeadLine(self.heads.get(pid) or rumoured[pid], self.sums.get(pid, 0))
            for pid in chosen
            if pid in self.heads or pid in rumoured
        )
