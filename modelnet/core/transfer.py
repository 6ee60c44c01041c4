"""Which source is asked for which chunks: the sans-IO plan of a pull.

`Transfer` knows what is missing, who was asked for it, how fast each source is and who lied. It does no I/O and reads
no clock: a driver asks `lease`, reports what happened, and passes the time (seconds, monotonic) in.

    lease → (received | verified)* → finished | failed | lied

Rules:
- a lease is a run of adjacent missing chunks of one file, about half a second of its source's work, 1 to 16 MiB;
- a source goes on where it stopped; a new source starts in the middle of the largest gap, so sources spread out;
- connections for each source follow additive increase, multiplicative decrease on its goodput;
- a source that is silent for 10 s, below 1 KiB/s, or below a tenth of the median loses its lease and waits;
- what is left at the end is given twice: to the slow holder and to whoever is idle (end game);
- a source that lacks what is missing is asked elsewhere, ever less often, while others bring something: what they
  leave in the end may be what it has;
- one wrong byte and a source is never asked again.

The design follows BitTorrent's end game and TCP's AIMD (Chiu and Jain 1989), applied to goodput.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelnet.core.filetree import FileTree

__all__ = ["Lease", "Run", "SourceState", "State", "Transfer"]

MIB = 1024 * 1024
LEASE_LEAST, LEASE_MOST = MIB, 16 * MIB
LEASE_SECONDS = 0.5
SLOTS_FIRST, SLOTS_MOST = 3, 4  # connections to one source
STALL_S = 10.0  # without a byte
GRACE_S = 5.0  # a lease this young is not called slow
LEAST_RATE = 1024.0  # bytes a second; a slower source is as good as none
SLOW_SHARE = 0.1  # of the median goodput of all sources
STRIKES = 4  # failures in a row before a source counts as gone
BACKOFF_S = 0.25  # doubled with each strike
EMPTY_S, EMPTY_MOST_S = 1.0, 8.0  # pause after a round of answers "not here", doubled while others go on
EMPTY_ROUND = 8  # places looked at in a round, each elsewhere: the source may be pulling itself
EMPTY_LEAST, EMPTY_MOST = 24, 64  # such answers, while nobody brought anything, after which nobody has the rest
YOUNG_S = 1.0  # a lease this young is judged by what its source gave before
GOLDEN = 0.6180339887498949  # multiples of it, modulo one, spread evenly (Knuth 6.4)
SMOOTHING = 0.3  # weight of the newest goodput sample


class State(StrEnum):
    """How a source is doing, as `--json` says it."""

    OK = "ok"
    SLOW = "slow"
    GONE = "gone"
    LIED = "lied"


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Adjacent chunks `[first, last)` of file number `file`."""

    file: int
    first: int
    last: int


@dataclass(slots=True, eq=False)
class Lease:
    """A run that one source was asked for at `started`; `received` counts bytes, `heard` is when the last one came."""

    source: str
    run: Run
    size: int
    started: float
    heard: float
    received: int = 0
    verified: int = 0


@dataclass(slots=True)
class SourceState:
    """What is known of one source; `bytes` counts verified bytes that were still missing."""

    name: str
    state: State = State.OK
    bytes: int = 0
    reason: str = ""
    goodput: float = 0.0
    slots: int = SLOTS_FIRST
    active: int = 0
    strikes: int = 0
    empty: int = 0
    fruitless: int = 0
    left: int = -1
    wait_until: float = 0.0
    cursor: Run | None = None
    window_start: float = 0.0
    window_bytes: int = 0
    window_rate: float = 0.0

    @property
    def usable(self) -> bool:
        """Tell whether the source may be asked again."""
        return self.state not in (State.GONE, State.LIED)


class Transfer:
    """The plan of one pull over the files `trees`; `missing[i]` lists the chunks of file i to fetch, in order."""

    def __init__(self, trees: Sequence[FileTree], missing: Sequence[Sequence[int]]) -> None:
        """Start with no source; `add_source` gives it some."""
        self.trees = trees
        self.sources: dict[str, SourceState] = {}
        self.leases: set[Lease] = set()
        self._wanted = [bytearray(len(tree)) for tree in trees]
        self._pending: list[Run] = []
        self.left = 0
        for file, chunks in enumerate(missing):
            for index in chunks:
                self._wanted[file][index] = 1
                self.left += trees[file].size_of(index)
            for run in _runs(file, chunks):
                self._pending.append(run)
        self._pending.sort()
        self._chunks_left = sum(map(len, missing))

    @property
    def done(self) -> bool:
        """Tell whether nothing is missing any more."""
        return self._chunks_left == 0

    @property
    def hopeless(self) -> bool:
        """Tell whether something is missing and nobody is left to ask."""
        return not self.done and not any(source.usable for source in self.sources.values())

    def add_source(self, name: str) -> None:
        """Allow `name` to be asked."""
        self.sources[name] = SourceState(name)

    def lease(self, name: str, now: float) -> Lease | None:
        """Return what to ask `name` for now, or None when there is nothing for it at this moment."""
        source = self.sources[name]
        if not source.usable or source.active >= source.slots or now < source.wait_until:
            return None
        run = self._take(source) or self._end_game(source, now)
        if run is None:
            return None
        size = self._size(run)
        lease = Lease(name, run, size, now, now)
        self.leases.add(lease)
        source.active += 1
        source.cursor = Run(run.file, run.last, run.last)
        if source.window_start == 0.0:
            source.window_start = now
        return lease

    def _size(self, run: Run) -> int:
        tree = self.trees[run.file]
        end = tree.offsets[run.last] if run.last < len(tree) else tree.entry.size
        return end - tree.offsets[run.first]

    def _target(self, source: SourceState) -> int:
        usable = sum(other.usable for other in self.sources.values())
        # Near the end leases shrink, so that the last ones end at about the same time everywhere.
        share = self.left // (2 * SLOTS_MOST * max(usable, 1))
        return int(max(LEASE_LEAST, min(LEASE_MOST, source.goodput * LEASE_SECONDS or 4 * MIB, share)))

    def _take(self, source: SourceState) -> Run | None:
        """Carve a run for `source` out of what nobody holds."""
        if not self._pending:
            return None
        place = self._start(source)
        run = self._pending.pop(place if place < len(self._pending) else 0)
        return self._carve(run, self._target(source))

    def _start(self, source: SourceState) -> int:
        """Return where in the pending runs `source` goes on."""
        if source.empty:
            return self._seek(source.empty * GOLDEN % 1.0)
        if source.cursor is not None:
            return bisect_left(self._pending, source.cursor)
        if len(self.sources) == 1 or not self.leases:
            return 0
        largest = max(range(len(self._pending)), key=lambda place: self._size(self._pending[place]))
        run = self._pending[largest]
        return self._split(largest, (run.first + run.last) // 2)

    def _seek(self, fraction: float) -> int:
        """Return the place of a run that begins at `fraction` of all pending chunks."""
        skip = int(fraction * sum(run.last - run.first for run in self._pending))
        for place, run in enumerate(self._pending):
            if skip < run.last - run.first:
                return self._split(place, run.first + skip)
            skip -= run.last - run.first
        return 0

    def _split(self, place: int, at: int) -> int:
        """Cut pending run `place` before chunk `at`; return the place of the second half."""
        run = self._pending[place]
        if not run.first < at < run.last:
            return place
        self._pending[place : place + 1] = [Run(run.file, run.first, at), Run(run.file, at, run.last)]
        return place + 1

    def _carve(self, run: Run, target: int) -> Run:
        tree = self.trees[run.file]
        last = run.first + 1
        while last < run.last and tree.offsets[last] + tree.size_of(last) - tree.offsets[run.first] <= target:
            last += 1
        if last < run.last:
            insort(self._pending, Run(run.file, last, run.last))
        return Run(run.file, run.first, last)

    def _end_game(self, source: SourceState, now: float) -> Run | None:
        """Return the rest of a lease that its holder will finish much later than `source` would."""
        if self._pending:
            return None  # what is left there, this source said it does not have
        best: Run | None = None
        latest = 0.0
        for lease in self.leases:
            rest = self._rest(lease.run)
            if not rest:
                continue
            holders = [other for other in self.leases if _holds(other.run, rest[0])]
            if any(holder.source == source.name for holder in holders):
                continue
            # Whoever is fastest of those that hold it decides: a third copy helps only where two are slow.
            remaining = min(self._remaining(holder, now) for holder in holders)
            ours = self._size(rest[0]) / source.goodput if source.goodput else 0.25
            if remaining > max(2 * ours, latest, 0.1):
                best, latest = rest[0], remaining
        return best

    def _remaining(self, lease: Lease, now: float) -> float:
        """Return in how many seconds the lease will be finished if it goes on as it does."""
        age = max(now - lease.started, 0.05)
        rate = lease.received / age
        if age < YOUNG_S:
            rate = max(rate, self.sources[lease.source].goodput)
        return (lease.size - lease.verified) / max(rate, 1.0)

    def _rest(self, run: Run) -> list[Run]:
        wanted = self._wanted[run.file]
        return _runs(run.file, [index for index in range(run.first, run.last) if wanted[index]])

    def received(self, lease: Lease, count: int, now: float) -> None:
        """Note that `count` bytes came, verified or not yet."""
        lease.received += count
        lease.heard = now

    def wants(self, file: int, index: int) -> bool:
        """Tell whether a chunk is still missing."""
        return bool(self._wanted[file][index])

    def verified(self, lease: Lease, index: int) -> bool:
        """Note that chunk `index` of the lease came and was right; tell whether it was still missing."""
        file = lease.run.file
        size = self.trees[file].size_of(index)
        lease.verified += size
        if not self._wanted[file][index]:
            return False
        self._wanted[file][index] = 0
        self._chunks_left -= 1
        self.left -= size
        source = self.sources[lease.source]
        source.bytes += size
        source.window_bytes += size
        source.strikes = source.empty = 0
        return True

    def finished(self, lease: Lease, now: float) -> None:
        """The source ended its answer; what it left out is asked again, elsewhere first."""
        source = self._release(lease)
        elapsed = max(now - lease.started, 1e-6)
        if lease.verified:
            sample = lease.verified / elapsed
            source.goodput += (sample - source.goodput) * (SMOOTHING if source.goodput else 1.0)
            source.state = State.OK if source.usable else source.state
            self._adapt(source, now)
        if self._give_back(lease):
            self._not_here(source, now)

    def missing(self, lease: Lease, now: float) -> None:
        """The source answered that it does not have the run."""
        source = self._release(lease)
        self._give_back(lease)
        self._not_here(source, now)

    def _not_here(self, source: SourceState, now: float) -> None:
        """Look elsewhere; once every source did that often enough, and nothing came, nobody has the rest."""
        source.empty += 1
        source.fruitless = source.fruitless + 1 if source.left == self.left else 1
        source.left = self.left
        if source.empty % EMPTY_ROUND == 0:
            others = any(lease.source != source.name for lease in self.leases)
            pause = EMPTY_S * 2 ** (source.empty // EMPTY_ROUND - 1) if others else EMPTY_S
            source.wait_until = now + min(pause, EMPTY_MOST_S)
        enough = max(EMPTY_LEAST, min(EMPTY_MOST, 2 * self._chunks_left))
        usable = [other for other in self.sources.values() if other.usable]
        if all(other.left == self.left and other.fruitless >= enough for other in usable):
            for other in usable:
                self._drop(other, State.GONE, "it does not have what is missing")

    def failed(self, lease: Lease, reason: str, now: float) -> None:
        """The connection broke, or `verdict` ended it."""
        source = self._release(lease)
        self._give_back(lease)
        source.wait_until = now + BACKOFF_S * 2**source.strikes
        source.strikes += 1
        if not lease.verified:
            source.slots = max(1, source.slots // 2)
        if source.strikes >= STRIKES:
            self._drop(source, State.GONE, reason)
        elif source.usable:
            source.reason = reason
            if reason.startswith("slow"):
                source.state = State.SLOW

    def lied(self, lease: Lease, reason: str) -> None:
        """The source sent what it was not asked for, or wrong bytes: it is never asked again."""
        source = self._release(lease)
        self._give_back(lease)
        self._drop(source, State.LIED, reason)

    def exclude(self, name: str, reason: str) -> None:
        """Never ask `name`: it lied before the transfer began."""
        self._drop(self.sources[name], State.LIED, reason)

    def verdict(self, lease: Lease, now: float) -> str | None:
        """Return why the driver should break off the lease now, or None to go on."""
        source = self.sources[lease.source]
        if not source.usable:
            return "the source was dropped"
        if now - lease.heard > STALL_S:
            return f"slow: no byte for {STALL_S:.0f} s"
        if not self._rest(lease.run):
            return "others were faster"
        age = now - lease.started
        if age < GRACE_S:
            return None
        rate = lease.received / age
        if rate < LEAST_RATE:
            return f"slow: {rate:.0f} bytes a second"
        rates = sorted(other.goodput for other in self.sources.values() if other.goodput)
        if len(rates) > 1 and rate < SLOW_SHARE * (median := rates[len(rates) // 2]):
            return f"slow: {rate / MIB:.2f} MiB/s where others give {median / MIB:.1f}"
        return None

    def _release(self, lease: Lease) -> SourceState:
        self.leases.discard(lease)
        source = self.sources[lease.source]
        source.active -= 1
        return source

    def _give_back(self, lease: Lease) -> list[Run]:
        """Make what the lease still lacks available again, unless another lease holds it; return those runs."""
        held = [other.run for other in self.leases]
        rest = [
            run for run in self._rest(lease.run)
            if not any(_holds(other, run) for other in held)
        ]  # fmt: skip
        for run in rest:
            place = bisect_left(self._pending, run)
            before = self._pending[place - 1] if place else None
            if before is not None and before.file == run.file and before.last == run.first:
                self._pending[place - 1] = Run(run.file, before.first, run.last)
            else:
                self._pending.insert(place, run)
        return rest

    def _drop(self, source: SourceState, state: State, reason: str) -> None:
        if source.state is not State.LIED:  # a lie is what is reported, however the source's other leases end
            source.state, source.reason = state, reason

    def _adapt(self, source: SourceState, now: float) -> None:
        """Add a connection while that brings goodput; halve them when goodput fell."""
        span = now - source.window_start
        if span < 2 * LEASE_SECONDS:
            return
        rate = source.window_bytes / span
        if rate > 1.05 * source.window_rate:
            source.slots = min(SLOTS_MOST, source.slots + 1)
        elif rate < 0.7 * source.window_rate:
            source.slots = max(1, source.slots // 2)
        source.window_start, source.window_bytes, source.window_rate = now, 0, rate


def _holds(run: Run, part: Run) -> bool:
    """Tell whether `part` lies in `run`."""
    return run.file == part.file and run.first <= part.first and part.last <= run.last


def _runs(file: int, chunks: Sequence[int]) -> list[Run]:
    """Return the runs of adjacent numbers in `chunks`, which is sorted."""
    found: list[Run] = []
    for index in chunks:
        if found and found[-1].last == index:
            found[-1] = Run(file, found[-1].first, index + 1)
        else:
            found.append(Run(file, index, index + 1))
    return found
