"""How a store takes what others say of a publisher's log: heads, revocations, evidence. Everything is verified here.

    fold, recompute the root, check the signature        nothing was written, and no lock is held: sources are slow
    tiles, durably; revocations of a dropped branch      nothing is visible so far
    checkpoint                                           the commit point
    cosignatures, index, pruning                         made up for by the next use

When the log changed meanwhile, what came is looked at again, under the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NoReturn

from modelnet.core.adoption import Growth, check_head, choose_branch, claimed_size
from modelnet.core.entries import read_event
from modelnet.core.evidence import Equivocation, Evidence, make_evidence
from modelnet.core.fold import PublisherState, apply_negative, origin_of
from modelnet.core.identity import PID
from modelnet.core.merkle import Subtree, leaf_hash, root, subtrees
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.core.revocations import Revocation
from modelnet.core.tiles import MAX_ENTRY, WIDTH, Tile, tiles_of
from modelnet.durable import make_folder
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.partial import disk_errors
from modelnet.stores.logfolder import LogFolder
from modelnet.stores.replicareader import Known, ReplicaReader, damaged, origin_in
from modelnet.stores.spool import Spool
from modelnet.stores.timekeeping import Timekeeper

__all__ = ["Adopter", "Adoption", "check_pid"]

BATCH = 16 * WIDTH  # entries written at once: 128 MiB, were each as large as it may be
MAX_EVIDENCE_KEPT = 16  # of one origin; the first says all there is to know


@dataclass(frozen=True, slots=True)
class Adoption:
    """What became of a head: the log had `before` entries and has `size` now; `recovered` over a dropped branch."""

    pid: str
    before: int
    size: int
    epoch: int
    recovered: bool = False

    @property
    def changed(self) -> bool:
        """Whether the log here is another one now."""
        return self.recovered or self.size != self.before


@dataclass(frozen=True, slots=True)
class _Grown:
    """A log that may be adopted: verified, not written yet. Its spool holds the entries from `spooled` on."""

    state: PublisherState
    note: SignedNote
    spool: Spool
    spooled: int
    dropped: PublisherState | None = None  # the branch that it replaces
    whole: bool = False  # to be written from the first entry on


@dataclass(frozen=True, slots=True)
class _Given:
    """What a source gave with a head: entries from index `first` on, and how to read its tree."""

    entries: Iterable[bytes]
    first: int
    tree: Subtree | None
    mending: bool  # all of it again, because what is here was damaged


@dataclass(slots=True)
class Adopter:
    """Changes what `reader` reads."""

    reader: ReplicaReader
    timekeeper: Timekeeper

    def adopt(
        self, pid: str, note: SignedNote, entries: Iterable[bytes], *, first: int | None, tree: Subtree | None
    ) -> Adoption:
        """See `Replicas.adopt`."""
        check_pid(pid)
        epoch, claimed = _claimed(pid, note)
        known = self.reader.find(pid)
        if known is not None and known.held.dead:
            raise _dead()
        before = 0 if known is None else known.head.size
        if first is None:
            first = claimed - len(entries) if isinstance(entries, Sequence) and len(entries) else before
        mending = (
            known is not None and first == 0 and epoch == known.held.epoch and claimed >= before
            and not self.is_intact(known)
        )  # fmt: skip
        if known is not None and not mending:
            unchanged = Adoption(pid, before, before, known.held.epoch)
            if epoch < known.held.epoch:
                return unchanged
            if epoch == known.held.epoch and claimed <= before:
                self._compare(known, note)
                return unchanged
        if not 0 <= first <= before:
            raise IntegrityError(
                "the entries do not begin where the log here ends", rule="entries", wanted=before, got=first
            )
        folder = self.reader.folder(pid)
        with disk_errors(folder.path):
            make_folder(folder.path)
        with Spool(folder.path) as spool:
            grown = self._consider(pid, known, note, _Given(entries, first, tree, mending=mending), spool)
            with self.reader.writing(pid):
                now = self.reader.find(pid)
                if (now and now.held.checkpoint) == (known and known.held.checkpoint):
                    return self._commit(pid, now, grown)
            # Somebody was faster: the same entries, as far as they are news, from our own disk.
            return self.adopt(pid, note, iter(spool), first=grown.spooled, tree=None)

    def is_intact(self, known: Known) -> bool:
        """Tell whether the log's files here still lead to its head."""
        try:
            state = self.reader.state(known)
            entries = known.log.entries(0, state.size)
            if any(leaf_hash(entry) != leaf for entry, leaf in zip(entries, state.leaves, strict=True)):
                return False
            return all(_has(known.log, tile, state) for tile in tiles_of(state.size) if tile.level is not None)
        except (MalformedError, UnavailableError):
            return False

    def add_negative(self, pid: str, envelope: bytes) -> Revocation:
        """See `Replicas.add_negative`."""
        check_pid(pid)
        event = read_event(envelope)
        with self.reader.writing(pid) as folder:
            state = self.reader.state(self.reader.read(pid)).copy()
            heard = event.statement in state.revocations
            revocation = apply_negative(state, envelope)
            # What stands in the log, or was heard before, is there already.
            if not heard:
                folder.add_negative(event.statement.hex(), envelope)
                self.reader.forget(pid)
                self.reader.row(self.reader.read(pid))
            return revocation

    def add_evidence(self, pid: str, data: bytes) -> Equivocation:
        """See `Replicas.add_evidence`."""
        check_pid(pid)
        evidence = Evidence.parse(data)
        epoch, _ = _claimed(pid, evidence.a)
        known = self.reader.read(pid)
        shown = evidence.verify(origin_of(pid, epoch), self.reader.log_keys(known, epoch))
        self._keep_evidence(pid, shown, data)
        return shown

    def merge(self, pid: str, note: SignedNote) -> None:
        """Keep what is new of the cosignatures on `note`, a head of the history that is followed."""
        with self.reader.writing(pid):
            known = self.reader.read(pid)
            head = Checkpoint.parse(note.unverified_text, known.head.origin)
            if known.holds(head) and self.timekeeper.merge(known, self.reader.row(known), note):
                self.reader.forget(pid)

    # Two histories

    def _compare(self, known: Known, note: SignedNote) -> None:
        """Take a head that is not longer than ours: cosignatures, or evidence."""
        if known.holds(Checkpoint.parse(note.unverified_text, known.head.origin)):
            self.merge(known.pid, note)
            return
        try:
            # Raises `TrustError` unless the log signed it. If it did, our own tree proves that it signed two histories.
            check_head(self.reader.state(known), note)
        except IntegrityError as error:
            self._accuse(known, note, known.log.subtree(known.head.size), error)

    def _accuse(self, known: Known, note: SignedNote, tree: Subtree, error: ModelnetError) -> NoReturn:
        """Keep the evidence that `note` and our head make, the larger one's tree being `tree`; else raise `error`."""
        origin = known.head.origin
        try:
            evidence = make_evidence(known.note, note, origin, tree)
            shown = evidence.verify(origin, self.reader.log_keys(known, known.held.epoch))
        except ModelnetError:
            raise error from None
        self._keep_evidence(known.pid, shown, evidence.encode())
        raise TrustError(
            "the publisher's log showed two histories", rule="equivocation",
            wanted=f"{shown.a.size} {shown.a.root.hex()}", got=f"{shown.b.size} {shown.b.root.hex()}",
            hint="the evidence is kept; ask the publisher by other means which of the two is true",
        )  # fmt: skip

    def _keep_evidence(self, pid: str, shown: Equivocation, data: bytes) -> None:
        with self.reader.writing(pid) as folder:
            origins = [origin_in(content) for content in folder.evidence()]
            if origins.count(shown.origin) < MAX_EVIDENCE_KEPT:
                folder.add_evidence(shown.id, data)
                self.reader.forget(pid)

    # Adoption

    def _consider(self, pid: str, known: Known | None, note: SignedNote, given: _Given, spool: Spool) -> _Grown:
        """Return what the log becomes with `note`, once all of it was verified."""
        ours = None if known is None or given.mending else self.reader.state(known)
        if known is not None and ours is not None and given.first == known.head.size:
            growth = Growth(ours, note)
            try:
                _take(growth, spool, given.entries)
            except IntegrityError as error:
                if given.tree is not None and growth.state.epoch == ours.epoch:
                    self._accuse(known, note, given.tree, error)
                raise
            return _Grown(growth.state, note, spool, given.first)
        rest = chain(() if known is None else known.log.entries(0, given.first), given.entries)
        growth = _founded(pid, note, rest, spool)
        _take(growth, spool, rest)
        grown = growth.state
        if known is not None and ours is None and grown.root_at(known.head.size) != known.head.root:
            raise IntegrityError("the entries are not those of the log that was damaged here", rule="entries")
        if known is None or ours is None or grown.leaves[: ours.size] == ours.leaves:
            return _Grown(grown, note, spool, 0, whole=ours is None)
        self._choose(known, ours, grown, note)
        return _Grown(grown, note, spool, 0, dropped=ours)

    def _choose(self, known: Known, ours: PublisherState, other: PublisherState, note: SignedNote) -> None:
        """Return if `other`, whose head is `note`, may replace our branch."""
        try:
            choose_branch(ours, other)
        except TrustError as error:
            if error.rule == "dead":
                with self.reader.writing(known.pid) as folder:
                    folder.set_dead()
                    self.reader.forget(known.pid)
            elif other.epoch == ours.epoch:
                longer = other.leaves if other.size > ours.size else ours.leaves
                self._accuse(known, note, subtrees(longer), error)
            raise

    def _commit(self, pid: str, known: Known | None, grown: _Grown) -> Adoption:
        """Write a verified log into the files, and point at it."""
        state, folder = grown.state, self.reader.folder(pid)
        log = folder.log(state.epoch)
        same = known is not None and not grown.whole and known.held.epoch == state.epoch
        before = known.head.size if known is not None and same else 0
        if known is not None and before:
            _check_last(known, state)
        beginning = known.log.entries(0, grown.spooled) if known is not None and grown.spooled and not same else ()
        entries = islice(chain(beginning, grown.spool), before - grown.spooled if same else 0, None)
        if known is not None and grown.dropped is not None:
            _keep_revocations(known, grown.dropped, state)
        size = before
        while batch := list(islice(entries, BATCH - size % WIDTH)):
            log.append(size, batch)
            size += len(batch)
        if (size, log.root(size)) != (state.size, state.tree_root):
            raise damaged(known, log.path)  # what was there before: what was added was computed
        # The commit point: before this line a crash loses the adoption, after it the next use makes up for the rest.
        log.set_checkpoint(grown.note)
        folder.mark_damaged(yes=False)
        self.reader.forget(pid)
        now = self.reader.read(pid)
        self.reader.remember(now, state)
        self.merge(pid, grown.note)
        self.reader.row(self.reader.read(pid))
        log.prune(size, after=before)
        adopted = 0 if known is None else known.head.size
        return Adoption(pid, adopted, size, state.epoch, recovered=grown.dropped is not None)


def check_pid(pid: str) -> None:
    """Raise `UsageError` unless `pid` can be a publisher's id."""
    if not PID.fullmatch(pid):
        raise UsageError("not a publisher's id", rule="publisher", got=repr(pid[:80]))


def _claimed(pid: str, note: SignedNote) -> tuple[int, int]:
    """Return the epoch and the size that an unverified head of `pid` claims."""
    origin = note.unverified_text.partition("\n")[0]
    number = origin.removeprefix(origin_of(pid)).removeprefix("/r")
    epoch = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0
    return epoch, Checkpoint.parse(note.unverified_text, origin_of(pid, epoch)).size


def _founded(pid: str, note: SignedNote, entries: Iterator[bytes], spool: Spool) -> Growth:
    """Begin with the first of `entries`, the genesis."""
    genesis = next(entries, None)
    if genesis is None:
        raise MalformedError("an empty log", rule="log")
    growth = Growth(PublisherState.begin(genesis, pid), note)
    spool.add(genesis)
    return growth


def _take(growth: Growth, spool: Spool, entries: Iterable[bytes]) -> None:
    """Fold `entries` up to the head; raise unless they lead to it."""
    size = claimed_size(growth.note)
    for entry in entries:
        if len(entry) > MAX_ENTRY or growth.state.size >= size:
            raise IntegrityError("more entries than the head is of", rule="entries", wanted=size)
        growth.take(entry)
        spool.add(entry)
    growth.finish()


def _check_last(known: Known, state: PublisherState) -> None:
    """Raise if the bundle that is about to grow was damaged: the damage would be copied."""
    begin = known.head.size - known.head.size % WIDTH
    entries = known.log.entries(begin, known.head.size)
    if [leaf_hash(entry) for entry in entries] != state.leaves[begin : known.head.size]:
        raise damaged(known, known.log.path)


def _has(log: LogFolder, tile: Tile, state: PublisherState) -> bool:
    """Tell whether a tile of hashes is there and says what the entries do."""
    each = WIDTH ** (tile.level or 0)
    first = tile.index * WIDTH
    hashes = [root(state.leaves[at * each : (at + 1) * each]) for at in range(first, first + tile.width)]
    return log.tile(tile) == b"".join(hashes)


def _keep_revocations(known: Known, ours: PublisherState, other: PublisherState) -> None:
    """Write down what is revoked in the branch that is about to be dropped."""
    for one in ours.revocations.in_force:
        if one.index is not None and one.statement not in other.revocations:
            envelope = next(known.log.entries(one.index, one.index + 1))
            known.folder.add_negative(one.statement.hex(), envelope)


def _dead() -> TrustError:
    return TrustError(
        "two branches of the log were both taken over by its next keys", rule="dead",
        hint="ask the publisher for a new identity, and compare it by other means",
    )  # fmt: skip
