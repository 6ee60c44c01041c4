"""Bring the logs of publishers up to what any source shows: heads, entries, revocations, evidence.

    each source → its head
        new publisher or larger → entries, from our size on → adopt (fold, recompute the root, check the signature)
        of the next epoch       → all entries → adopt
        equal or smaller        → must be of our history; its cosignatures are merged
        of another history      → both heads are the evidence, kept and told
    each source → revocations and evidence, whatever its head is

Sources are asked in turn, and the next one already while an earlier one keeps us waiting: many that are silent cost one
timeout together. Each may only add: the largest head wins, a revocation that any of them has is enough, and what one
withholds another brings. A source that sends what its own head excludes lied, and is not asked
again; what the publisher signed is no source's fault. What all of them withhold is not noticed here: knowledge grows
old instead, and a floor (a locator's, a lock file's) says how much there must be at least.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

from modelnet.core.adoption import MAX_NEW, MAX_UNSIGNED, claimed_size
from modelnet.core.entries import read_event
from modelnet.core.events import Revoke
from modelnet.core.fold import origin_of
from modelnet.core.identity import Genesis
from modelnet.core.merkle import leaf_hash
from modelnet.core.note import SignedNote
from modelnet.core.tiles import WIDTH, subtrees
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError
from modelnet.fetching import Fetcher
from modelnet.replica import Replicas
from modelnet.signed import check_floor
from modelnet.stores.http import HttpSource, NotHereError
from modelnet.stores.loghttp import MAX_PAGES, RemoteLog

__all__ = ["Heard", "SyncReport", "epoch_of", "sync"]

HEAD_START_S = 1.0  # without an answer, and the next source is asked beside this one
TURN_S = 0.05  # how often that is looked at
SOURCE_S = 300.0  # with one source, beside the time limit of each request
HELD = 8 * 1024 * 1024  # bytes of new entries (or MAX_NEW) that are fetched before the log is locked for adoption
SPARE = 8 * 1024 * 1024  # bytes beyond EACH for every new entry: what a head may make us fetch
EACH = 4096  # several times what entries have; an entry may have 64 KiB, ten thousand of them may not
MAX_REFUSED = 256  # revocations by keys that may not: a source with more of them is not worth the work
PUBLISHERS_FAULT = frozenset({"equivocation", "quarantined", "dead", "recover", "limit"})
_EPOCH = re.compile(r"(?:/r([1-9][0-9]{0,5}))?")

T = TypeVar("T")


@dataclass(slots=True)
class Heard:
    """What one source had: the size and epoch of its head, and the error that ended it, if any."""

    source: str
    size: int | None = None
    epoch: int | None = None
    error: ModelnetError | None = None


@dataclass(slots=True)
class SyncReport:
    """What a sync changed: the log had `before` entries and has `size` now; `negatives` and `evidence` are new."""

    pid: str
    before: int = 0
    size: int = 0
    epoch: int = 0
    negatives: int = 0
    evidence: int = 0
    heard: list[Heard] = field(default_factory=list)
    counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def answered(self) -> int:
        """How many sources showed a head."""
        return sum(one.size is not None for one in self.heard)


class _GoneError(UnavailableError):
    """The source lied, and was accused, or does not answer; the sync goes on with the next one."""


def sync(replicas: Replicas, pid: str, fetcher: Fetcher, *, floor: tuple[int, bytes] | None = None) -> SyncReport:
    """Ask every source for the log of `pid` and adopt what holds; see the report for what each had.

    Raises `UnavailableError` when nothing is known of the publisher afterwards either, `TrustError` with rule `floor`
    when the log that is known then does not contain the head `floor`: then the sources show an older log,
    or another one, than whoever named the floor has seen. What was adopted stays adopted.
    """
    report = SyncReport(pid)
    held = len(replicas.evidence(pid))
    if replicas.known(pid):
        report.before = replicas.standing(pid).size
    visits = [_Visit(fetcher, source, replicas, report, Heard(source.url)) for source in fetcher.answering()]
    report.heard += [visit.heard for visit in visits]
    _Round(visits).run()
    if not replicas.known(pid):
        raise fetcher.unavailable(f"the log of {pid} is not to be had")
    standing = replicas.standing(pid)
    report.size, report.epoch = standing.size, standing.epoch
    report.evidence = len(replicas.evidence(pid)) - held
    if floor is not None:
        check_floor(replicas, pid, floor)
    return report


class _Round:
    """Visits in turn; one that waits for its source hands the turn on, and goes on by itself."""

    def __init__(self, visits: Sequence[_Visit]) -> None:
        self.visits = visits
        self.failure: BaseException | None = None
        self.ended = threading.Condition()

    def run(self) -> None:
        """Return when every visit has ended; raise what none of the sources is to blame for."""
        if len(self.visits) == 1:  # nobody to hand the turn to
            self.visits[0].run()
            return
        threads: list[threading.Thread] = []
        try:
            for visit in self.visits:
                # Daemons: an interrupt does not wait for one that a firewall keeps busy.
                threads.append(threading.Thread(target=self._visit, args=(visit,), name="modelnet-sync", daemon=True))
                visit.answered = time.monotonic()
                threads[-1].start()
                with self.ended:
                    while not (visit.over or self.failure or time.monotonic() - visit.answered > HEAD_START_S):
                        self.ended.wait(TURN_S)
                if self.failure is not None:
                    break
            for thread in threads:
                thread.join()
        except BaseException:
            self.visits[0].fetcher.stop()
            raise
        if self.failure is not None:
            raise self.failure

    def _visit(self, visit: _Visit) -> None:
        try:
            visit.run()
        except BaseException as error:  # noqa: BLE001  (handed to the thread that waits)
            self.failure = self.failure or error
        finally:
            visit.replicas.store.index.close()  # this thread's
            with self.ended:
                visit.over = True
                self.ended.notify_all()


@dataclass(slots=True)
class _Visit:
    """One source, asked for all it has of one log; `answered` is when it last did."""

    fetcher: Fetcher
    source: HttpSource
    replicas: Replicas
    report: SyncReport
    heard: Heard
    deadline: float = 0.0
    answered: float = 0.0
    over: bool = False

    @property
    def pid(self) -> str:
        """Whose log is asked for."""
        return self.report.pid

    def run(self) -> None:
        """Adopt what the source has, until it is not to be asked any more; `heard` says what came of it."""
        self.deadline = time.monotonic() + SOURCE_S
        try:
            self._take()
        except _GoneError:
            reason = self.fetcher.reports[self.source.url].reason or "gone"
            self.heard.error = self.heard.error or UnavailableError(reason, rule="gone", source=self.source.url)

    def _take(self) -> None:
        if self.replicas.known(self.pid):
            self._beside()  # revocations first: nothing that follows can keep us from them
        before = self._size()
        self._adopt_head()
        if self._size() != before:
            # Signed by keys that were not known before.
            self._beside()

    def _size(self) -> tuple[int, int] | None:
        if not self.replicas.known(self.pid):
            return None
        standing = self.replicas.standing(self.pid)
        return standing.epoch, standing.size

    def _ask(self, ask: Callable[[RemoteLog], T], epoch: int = 0) -> T:
        if time.monotonic() > self.deadline:
            raise _GoneError("the source is too slow", rule="slow", source=self.source.url)
        answer = self.fetcher.ask(self.source, lambda connection: ask(RemoteLog(connection, self.pid, epoch)))
        self.answered = time.monotonic()
        if answer is None:
            raise _GoneError("the source lied or does not answer", rule="gone", source=self.source.url)
        return answer

    # The log

    def _adopt_head(self) -> None:
        note = self._ask(_head)[0]
        if note is None:
            return
        try:
            epoch, size = self._claims(note)
            known = self._size()
            mending = known is not None and (epoch, size) >= known and self.replicas.damaged(self.pid)
            first = 0 if known is None or epoch > known[0] or mending else known[1]
            tree = subtrees(size, lambda tile: self._ask(lambda log: log.hashes(tile), epoch))
            if known is not None and (epoch, size) <= known and not mending:
                self.replicas.adopt(self.pid, note)
            else:
                entries = self._entries(note, epoch, first, size)
                self.replicas.adopt(self.pid, note, entries, first=first, tree=tree)
        except (IntegrityError, MalformedError, TrustError) as error:
            if not isinstance(error, TrustError) or error.rule not in PUBLISHERS_FAULT:
                raise self._lied(error) from error
            self.heard.error = error
            if error.rule == "equivocation":
                self._hear_branch(note)

    def _claims(self, note: SignedNote) -> tuple[int, int]:
        """Return the epoch and the size that an unverified head claims."""
        origin = note.unverified_text.partition("\n")[0]
        epoch = epoch_of(self.pid, origin)
        if epoch is None:
            raise TrustError("the head of another log", rule="origin", wanted=origin_of(self.pid), got=origin[:200])
        self.heard.epoch, self.heard.size = epoch, claimed_size(note)
        return epoch, self.heard.size

    def _entries(self, note: SignedNote, epoch: int, first: int, size: int) -> Iterable[bytes]:
        """Return the entries `[first, size)`: the beginning is here, the rest comes as it is used."""
        incoming = self._fetch(epoch, first, size)
        held: list[bytes] = []
        count, most = (MAX_NEW, HELD) if self._is_signed(note) else (MAX_UNSIGNED, MAX_UNSIGNED * EACH)
        for bundle in incoming:
            if first == 0 and not held:
                self._check_genesis(bundle[0])
            held += bundle
            most -= sum(map(len, bundle))
            if most <= 0 or len(held) >= count:
                break
        return chain(held, chain.from_iterable(incoming))

    def _fetch(self, epoch: int, first: int, size: int) -> Iterator[list[bytes]]:
        """Yield the entries `[first, size)` as the source has them, bundle by bundle."""
        taken = count = 0
        for index in range(first // WIDTH, -(-size // WIDTH)):
            bundle = self._ask(partial(RemoteLog.bundle, index=index, size=size), epoch)
            bundle = bundle[max(first - index * WIDTH, 0) :]
            taken += sum(map(len, bundle))
            count += len(bundle)
            if taken > SPARE + EACH * count:
                raise IntegrityError(
                    "the log is larger than it can be", rule="too-long", wanted=EACH, got=taken // count
                )
            yield bundle

    def _is_signed(self, note: SignedNote) -> bool:
        """Tell whether a log key that is known here signed the head."""
        if not self.replicas.known(self.pid):
            return False
        try:
            note.verify(self.replicas.state(self.pid).log_keys())
        except TrustError:
            return False
        return True

    def _check_genesis(self, entry: bytes) -> None:
        try:
            Genesis.verify(entry, self.pid)
        except ModelnetError as error:
            raise self._lied(error) from error

    def _hear_branch(self, note: SignedNote) -> None:
        """Count what a branch revokes that is not followed, as far as those who signed it may revoke in ours.

        The log signed this branch too, and a recovery may drop it: what it revokes must outlive that.
        """
        epoch, size = self._claims(note)
        ours = set(self.replicas.state(self.pid).leaves)
        known = set(self.replicas.negatives(self.pid))
        for bundle in self._fetch(epoch, max(0, size - MAX_NEW), size):
            for entry in bundle:
                if leaf_hash(entry) not in ours and entry not in known and self._is_revocation(entry):
                    self._counts(entry)

    @staticmethod
    def _is_revocation(entry: bytes) -> bool:
        try:
            return isinstance(read_event(entry).unverified, Revoke)
        except ModelnetError:
            return False  # inert

    # What counts without a log

    def _beside(self) -> None:
        known, refused, after = set(self.replicas.negatives(self.pid)), 0, ""
        for _ in range(MAX_PAGES):
            page = self._ask(partial(RemoteLog.negatives, after=after))
            for envelope in page:
                refused += envelope not in known and not self._counts(envelope)
            if not page or refused > MAX_REFUSED:
                break
            last = self._statement(page[-1])
            if last <= after:
                raise self._lied(MalformedError("revocations are not in order", rule="negative"))
            after = last
        found = set(self.replicas.evidence(self.pid))
        for content in self._ask(RemoteLog.evidence):
            if content not in found:
                self._evidence(content)

    def _statement(self, envelope: bytes) -> str:
        try:
            return read_event(envelope).statement.hex()
        except ModelnetError as error:
            raise self._lied(error) from error

    def _counts(self, envelope: bytes) -> bool:
        """Count a revocation, if whoever signed it may revoke as far as the log is known here."""
        try:
            self.replicas.add_negative(self.pid, envelope)
        except TrustError:
            return False  # elsewhere the log may be known further
        except (IntegrityError, MalformedError) as error:
            raise self._lied(error) from error
        with self.report.counting:
            self.report.negatives += 1
        return True

    def _evidence(self, content: bytes) -> None:
        try:
            self.replicas.add_evidence(self.pid, content)
        except TrustError:
            return  # about an epoch or by a key that is not known here, or none at all
        except (IntegrityError, MalformedError) as error:
            raise self._lied(error) from error

    def _lied(self, error: ModelnetError) -> _GoneError:
        self.fetcher.accuse(self.source.url, error)
        self.heard.error = error
        return _GoneError("the source lied", rule="gone", source=self.source.url)


def _head(log: RemoteLog) -> tuple[SignedNote | None]:
    try:
        return (log.head(),)
    except NotHereError:
        return (None,)


def epoch_of(pid: str, origin: str) -> int | None:
    """Return which epoch of the log of `pid` an origin is; None when it is another log's."""
    base = origin_of(pid)
    found = _EPOCH.fullmatch(origin.removeprefix(base)) if origin.startswith(base) else None
    return None if found is None else int(found[1] or 0)
