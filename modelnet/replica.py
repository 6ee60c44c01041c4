"""Everything a store knows about publishers' logs: adopted heads, revocations, evidence, and how old all that is.

    >>> replicas = Replicas(open_store())                     # doctest: +SKIP
    >>> replicas.adopt(pid, note, entries)                    # what a source gave; verified here    # doctest: +SKIP
    >>> replicas.view(pid).newest("tiny-llama")               # doctest: +SKIP

The truth is in files (`modelnet.stores.replicafolder`): replacing a log's `checkpoint` is the commit point of an
adoption. Before it a crash leaves tiles that no head speaks for, after it the new head is known, and the index, which
only caches what the files say, is made to agree by the next use. A lost index loses nothing.

    adopt   fold, recompute the root, check the signature   → nothing was written so far
            tiles, durably; revocations of a dropped branch → nothing is visible so far
            checkpoint                                      → committed
            cosignatures, index, pruning                    → made up for by the next use
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import NoReturn

from modelnet.core.adoption import Growth, check_head, choose_branch, claimed_size
from modelnet.core.entries import read_event
from modelnet.core.events import Revoke
from modelnet.core.evidence import Equivocation, Evidence, make_evidence
from modelnet.core.fold import PublisherState, apply_negative, origin_of
from modelnet.core.freshness import HARD_MAX_S, SKEW_S, Freshness, Knowledge, Status, freshness, knowledge
from modelnet.core.identity import PID, Genesis
from modelnet.core.merkle import Subtree, subtrees
from modelnet.core.note import MAX_SIGNATURES, Checkpoint, NoteKey, Signature, SignedNote
from modelnet.core.policy import Policy
from modelnet.core.resolution import View
from modelnet.core.revocations import Revocation
from modelnet.core.tiles import MAX_ENTRY, WIDTH, parse_bundle, tile_at
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.partial import disk_errors
from modelnet.stores.local import LocalStore
from modelnet.stores.logfolder import LogFolder
from modelnet.stores.logindex import LogRow, described, open_view, read_log, read_logs, record, set_marks
from modelnet.stores.replicafolder import Held, ReplicaFolder, Stamp
from modelnet.stores.spool import Spool
from modelnet.stores.timekeeping import HighWater, PolicyFile

__all__ = ["Adoption", "Replicas", "Standing"]

BATCH = 16 * WIDTH  # entries written at once: 128 MiB, were each as large as it may be
KEPT_STATES = 8  # folded logs kept in memory …
KEPT_ENTRIES = 200_000  # … and entries in all of them
MAX_COSIGNERS = 64
MAX_EVIDENCE_KEPT = 16  # of one origin; the first says all there is to know
LOG_LINES = 4  # signatures by the log on one head: two during a rotation


@dataclass(frozen=True, slots=True)
class Standing:
    """What this store knows of a publisher's log, and how old that is; `own` logs are written here."""

    pid: str
    size: int
    root: bytes
    epoch: int
    own: bool
    dead: bool
    quarantined: bool
    knowledge: Knowledge | None
    freshness: Freshness
    max_age: int

    @property
    def origin(self) -> str:
        """The origin of the log's heads."""
        return origin_of(self.pid, self.epoch)

    @property
    def status(self) -> Status:
        """What the log is worth now."""
        return self.freshness.status


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


@dataclass(slots=True)
class _Known:
    """What was read of one publisher, and when that may be used again without reading."""

    held: Held
    stamp: Stamp | None
    head: Checkpoint
    note: SignedNote
    row: LogRow | None = None
    view: View | None = None
    knowledge: tuple[Policy, Knowledge | None] | None = None  # for that policy
    accused: bool | None = None


class Replicas:
    """The logs in one store. For many threads and processes at once; making one reads nothing."""

    def __init__(
        self, store: LocalStore, *, clock: Callable[[], float] = time.time, hard_max: int = HARD_MAX_S
    ) -> None:
        """Look into `store`; `hard_max` (seconds) is the age at which knowledge is too old for anything."""
        self.store = store
        self._clock = clock
        self._hard_max = hard_max
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._states: OrderedDict[str, tuple[tuple[object, ...], PublisherState]] = OrderedDict()
        self._policy = PolicyFile(store.home.root / "policy")
        self._high_water = HighWater(store.home.root / "high-water")

    # What is known

    def publishers(self) -> list[LogRow]:
        """Return every publisher with a log here, as of the last use of each; cheap for ten thousands."""
        rows = {row.pid: row for row in read_logs(self.store.index)}
        try:
            present = {path.name for path in self.store.home.logs.iterdir() if PID.fullmatch(path.name)}
        except OSError:
            present = set()
        for pid in present - rows.keys():  # the index was lost
            if self.known(pid):
                self.view(pid)
                if (row := read_log(self.store.index, pid)) is not None:
                    rows[pid] = row
        return [rows[pid] for pid in sorted(rows) if pid in present]

    def known(self, pid: str) -> bool:
        """Tell whether a head of `pid` was ever adopted here."""
        return bool(PID.fullmatch(pid)) and (pid in self._known or self._folder(pid).read() is not None)

    def standing(self, pid: str) -> Standing:
        """Return what is known of a publisher; raise `UnavailableError` (rule `missing`) when nothing is."""
        known = self._read(pid)
        row = self._row(pid, known)
        clock = int(self._clock())
        marked = found = self._knowledge(pid, known, row)
        high_water = self._high_water.learn(found, clock) if found is not None else self._high_water.read()
        own = (self.store.home.keys / f"{pid}.json").exists()
        if own:
            found, fresh = Knowledge(clock, witnessed=False), Freshness(Status.FRESH, 0)
        else:
            fresh = freshness(found, clock=clock, high_water=high_water, max_age=row.max_age, hard_max=self._hard_max)
        quarantined = known.held.dead or self._accused(pid, known)
        if quarantined:
            fresh = Freshness(Status.QUARANTINED, fresh.age, fresh.doubt)
        self._set_marks(known, row, marked, quarantined=quarantined)
        return Standing(
            pid, known.head.size, known.head.root, known.held.epoch, own, known.held.dead, quarantined, found,
            fresh, row.max_age,
        )  # fmt: skip

    def view(self, pid: str) -> View:
        """Return what can be asked of the log, without folding it when the index has it; for one use, then again."""
        known = self._read(pid)
        self._row(pid, known)
        return known.view or self._state(pid, known)

    def state(self, pid: str) -> PublisherState:
        """Return the folded log, from its files, with every revocation that counts; not to be changed, only copied."""
        return self._state(pid, self._read(pid))

    def head(self, pid: str) -> SignedNote | None:
        """Return the adopted head with the cosignatures that are known of it; None for an unknown publisher."""
        if not self.known(pid):
            return None
        known = self._read(pid)
        lines = list(known.note.signatures)
        for _, content in known.held.cosigned:
            note = SignedNote.parse(content)
            if note.unverified_text == known.note.unverified_text:
                lines = [*_log_lines(note), *note.signatures, *lines]
        return SignedNote(known.note.unverified_text, tuple(dict.fromkeys(lines))[:MAX_SIGNATURES])

    def folder(self, pid: str, epoch: int | None = None) -> LogFolder:
        """Return the log's files, those of the current epoch unless an older one is asked for."""
        return self._folder(pid).log(self._read(pid).held.epoch if epoch is None else epoch)

    def epochs(self, pid: str) -> list[int]:
        """Return the epochs that are kept, oldest first; the last is the current one."""
        held = self._read(pid).held
        return [epoch for epoch in held.epochs if epoch <= held.epoch]

    def genesis(self, pid: str) -> Genesis:
        """Return the verified first entry of a publisher's log."""
        if self.known(pid):
            return Genesis.verify(next(self.folder(pid).entries(0, 1)), pid)
        entry = self.store.index.genesis(pid)
        if entry is None:
            raise _unknown(pid)
        return Genesis.verify(entry, pid)

    def negatives(self, pid: str) -> list[bytes]:
        """Return the revocations that count here beside the log: for others, who may not have heard."""
        return self._folder(pid).negatives()

    def evidence(self, pid: str) -> list[bytes]:
        """Return the evidence against the log, of every epoch."""
        return self._folder(pid).evidence()

    # What is learned

    def adopt(
        self, pid: str, note: SignedNote, entries: Iterable[bytes] = (), *, first: int | None = None,
        tree: Subtree | None = None,
    ) -> Adoption:  # fmt: skip
        """Take a head, which a source that nobody trusts gave, with the log's entries from index `first` on.

        Without `first` a sequence ends at the head, and any other iterable begins where the log here ends. A head of a
        later epoch comes with all entries. `tree` reads the source's tree at the head: what evidence is made with when
        its entries do not continue ours.

        Raises `TrustError`: rule `equivocation` once evidence against the publisher is stored, `dead`, `limit`,
        `signature` and others that say nothing against it; `IntegrityError` or `MalformedError` where the source's
        entries are not those of its head. Nothing changes then.
        """
        _check_pid(pid)
        with self._writing(pid) as folder:
            held = folder.read()
            epoch, claimed = _claimed(pid, note)
            if held is None:
                return self._begin(pid, note, entries)
            known = self._read(pid)
            if held.dead:
                raise TrustError(
                    "two branches of the log were both taken over by its next keys", rule="dead",
                    hint="ask the publisher for a new identity, and compare it by other means",
                )  # fmt: skip
            before = known.head.size
            unchanged = Adoption(pid, before, before, held.epoch)
            if epoch < held.epoch:
                return unchanged
            if epoch == held.epoch and claimed <= before:
                self._compare(pid, known, note)
                return unchanged
            if first is None:
                first = claimed - len(entries) if isinstance(entries, Sequence) else before
            if not 0 <= first <= before:
                raise IntegrityError(
                    "the entries do not begin where the log here ends", rule="entries", wanted=before, got=first
                )
            return self._extend(pid, known, note, entries, first=first, tree=tree)

    def committed(self, pid: str, note: SignedNote, entries: Sequence[bytes] = ()) -> None:  # noqa: ARG002
        """Learn that this store's own writer committed `note` with `entries`, which are in the log's files already."""
        with self._writing(pid):
            known = self._read(pid)
            self._merge(pid, known, note)
            self.standing(pid)

    def add_negative(self, pid: str, envelope: bytes) -> Revocation:
        """Count a revocation, by whatever route it came, from now on and for ever; see `apply_negative`."""
        _check_pid(pid)
        with self._writing(pid) as folder:
            known = self._read(pid)
            state = self._state(pid, known).copy()
            event = read_event(envelope)
            heard = event.statement in state.revocations
            revocation = apply_negative(state, envelope)
            # Where it stands in the log already, or came before, nothing is to be added to the truth.
            if not heard:
                folder.add_negative(event.statement.hex(), envelope)
                self._forget(pid)
                self._row(pid, self._read(pid))
            return revocation

    def add_evidence(self, pid: str, data: bytes) -> Equivocation:
        """Keep evidence once it holds against this publisher's log; the log is quarantined from then on."""
        _check_pid(pid)
        evidence = Evidence.parse(data)
        epoch, _ = _claimed(pid, evidence.a)
        with self._writing(pid):
            known = self._read(pid)
            shown = evidence.verify(origin_of(pid, epoch), self._log_keys(pid, known, epoch))
            self._keep_evidence(pid, shown, data)
            return shown

    def _log_keys(self, pid: str, known: _Known, epoch: int) -> list[NoteKey]:
        """Return the log keys that an epoch's origin ever had, as far as they are known here."""
        keys = self._state(pid, known).log_keys(epoch)
        log = self._folder(pid).log(epoch)
        if epoch < known.held.epoch and (note := log.checkpoint()) is not None:
            keys += PublisherState.fold(log.entries(0, claimed_size(note)), pid).log_keys(epoch)
        return keys

    # Reading

    def _folder(self, pid: str) -> ReplicaFolder:
        return ReplicaFolder(self.store.home.logs / pid)

    @contextmanager
    def _writing(self, pid: str) -> Iterator[ReplicaFolder]:
        folder = self._folder(pid)
        with disk_errors(folder.path), folder.locked():
            yield folder

    def _forget(self, pid: str) -> None:
        with self._lock:
            if (known := self._known.get(pid)) is not None:
                known.stamp = None

    def _read(self, pid: str) -> _Known:
        """Return what the files of `pid` say, read again when they changed."""
        if not PID.fullmatch(pid):
            raise _unknown(pid)
        folder = self._folder(pid)
        known = self._known.get(pid)
        if known is not None and known.stamp is not None and folder.stamp(known.held) == known.stamp:
            return known
        began = time.time()
        stamp = folder.stamp(known.held if known else None)
        held = folder.read()
        if held is None:
            raise _unknown(pid)
        if known is None or known.held != held:
            note = SignedNote.parse(held.checkpoint)
            head = Checkpoint.parse(note.unverified_text, origin_of(pid, held.epoch))
            known = _Known(held, None, head, note)
            stamp = folder.stamp(held)
            if folder.read() != held:
                stamp = ()
        known.stamp = stamp if ReplicaFolder.is_settled(stamp, began) else None
        with self._lock:
            self._known[pid] = known
        return known

    def _row(self, pid: str, known: _Known) -> LogRow:
        """Return the index's row of the log, with a view beside it; made again from the files when it is of others."""
        if known.row is not None:
            return known.row
        index, negatives = self.store.index, _listing(known.held.negatives)
        wanted = known.held.epoch, known.head.size, known.head.root, negatives
        row = read_log(index, pid)
        view: View | None = None
        if row is not None and (row.epoch, row.size, row.root, row.negatives) == wanted:
            view = open_view(index, row, self._entry_reader(pid, known))
        if row is None or view is None:
            state = self._state(pid, known)
            with suppress(UnavailableError):  # a store that cannot be written still knows what is revoked
                genesis = next(self._log(pid, known).entries(0, 1))
                row = record(index, state, negatives, genesis, lambda: self._folder(pid).read() == known.held)
                view = None if row is None else open_view(index, row, self._entry_reader(pid, known))
            if row is None or view is None:
                row, view = described(state, negatives), state
        known.row, known.view = row, view
        return row

    def _log(self, pid: str, known: _Known) -> LogFolder:
        return self._folder(pid).log(known.held.epoch)

    def _entry_reader(self, pid: str, known: _Known) -> Callable[[int], bytes]:
        log, size = self._log(pid, known), known.head.size

        def read(index: int) -> bytes:
            tile = tile_at(None, index // WIDTH, size)
            content = log.tile(tile)
            if content is None:
                raise UnavailableError(
                    "a part of the log is missing", rule="log", path=str(log.path / tile.path),
                    hint="pull again; what is missing can be had from any peer",
                )  # fmt: skip
            return parse_bundle(content, tile.width)[index % WIDTH]

        return read

    def _state(self, pid: str, known: _Known) -> PublisherState:
        """Return the folded log: the one in memory, grown, or made from the files."""
        wanted = known.held.epoch, known.head.size, known.head.root, known.held.negatives
        with self._lock:
            found = self._states.get(pid)
        if found is not None and found[0] == wanted:
            return found[1]
        log, size = self._log(pid, known), known.head.size
        state = None if found is None else found[1]
        if (
            state is not None
            and state.epoch == known.held.epoch
            and state.size <= size
            and log.root(state.size) == state.tree_root
        ):
            state = state.copy()
            for entry in log.entries(state.size, size):
                state.append(entry)
        else:
            state = PublisherState.fold(log.entries(0, size), pid)
        if (state.epoch, state.tree_root) != (known.held.epoch, known.head.root):
            raise IntegrityError(
                "the log's files are not what its head says", rule="log", path=str(log.path),
                wanted=known.head.root.hex(), got=state.tree_root.hex(),
                hint="pull again; the log can be had from any peer",
            )  # fmt: skip
        self._count_negatives(pid, known.held, state)
        self._remember(pid, known, state)
        return state

    def _count_negatives(self, pid: str, held: Held, state: PublisherState) -> None:
        """Count what was heard beside the log. It counted when it came; later keys do not take that back."""
        folder = self._folder(pid)
        for name in held.negatives:
            if _statement(name) in state.revocations:
                continue
            event = read_event(folder.negative(name) or b"")
            claim = event.unverified
            if event.statement.hex() != name or not isinstance(claim, Revoke) or claim.pid != pid:
                raise IntegrityError(
                    "a revocation was damaged", rule="log", path=str(folder.path / "negatives" / name),
                    hint="remove the file and pull again; a peer may still have it",
                )  # fmt: skip
            state.revocations.add(Revocation(claim, event.leaf, event.statement))

    def _remember(self, pid: str, known: _Known, state: PublisherState) -> None:
        wanted = known.held.epoch, known.head.size, known.head.root, known.held.negatives
        with self._lock:
            self._states[pid] = wanted, state
            self._states.move_to_end(pid)
            while len(self._states) > 1 and (
                len(self._states) > KEPT_STATES or sum(one.size for _, one in self._states.values()) > KEPT_ENTRIES
            ):
                self._states.popitem(last=False)

    # Freshness

    def _knowledge(self, pid: str, known: _Known, row: LogRow) -> Knowledge | None:
        """Return T_q over the adopted head and what the cosigners signed of this history before."""
        policy = self._policy.read()
        if known.knowledge is not None and known.knowledge[0] == policy:
            return known.knowledge[1]
        notes = [known.note]
        for _, content in known.held.cosigned:
            with suppress(ModelnetError):  # damaged: the same as never heard
                note = SignedNote.parse(content)
                if self._is_ours(pid, known, Checkpoint.parse(note.unverified_text, known.head.origin)):
                    notes.append(note)
        found = knowledge(policy, notes, row.beats)
        known.knowledge = policy, found
        return found

    def _is_ours(self, pid: str, known: _Known, head: Checkpoint) -> bool:
        """Tell whether a head is of the history that is followed here."""
        if head.size == known.head.size:
            return head.root == known.head.root
        return 0 < head.size < known.head.size and head.root == self._log(pid, known).root(head.size)

    def _merge(self, pid: str, known: _Known, note: SignedNote) -> None:
        """Keep the cosignatures on `note`, a head of this history, that are newer than what is known."""
        policy = self._policy.read()
        keys = [*(witness.key for witness in policy.witnesses), *self._row(pid, known).beats]
        held = dict(known.held.cosigned)
        latest = int(self._clock()) + SKEW_S
        folder, epoch = self._folder(pid), known.held.epoch
        for key, when in note.cosigned(keys).items():
            name = _cosigner(key)
            if _is_newer(when, _cosigned_at(held.get(name), key), latest):
                folder.set_cosigned(epoch, name, _trimmed(note, key, when))
        if len(held) > MAX_COSIGNERS:
            folder.remove_cosigned(epoch, held.keys() - {_cosigner(key) for key in keys})
        self._forget(pid)

    def _set_marks(self, known: _Known, row: LogRow, found: Knowledge | None, *, quarantined: bool) -> None:
        marked = replace(row, time=None, witnessed=False, quarantined=quarantined, dead=known.held.dead)
        if found is not None:
            marked = replace(marked, time=found.time, witnessed=found.witnessed)
        if marked != row:
            with suppress(UnavailableError):  # shown in a list only
                set_marks(self.store.index, marked)
            known.row = marked

    # Two histories

    def _accused(self, pid: str, known: _Known) -> bool:
        """Tell whether there is evidence about the current origin; what was before a recovery is only kept."""
        if known.accused is None:
            # What cannot be read any more was verified once: it still counts, against whom it can.
            origins = [_origin(content) for content in self._folder(pid).evidence()]
            known.accused = any(origin in (None, known.head.origin) for origin in origins)
        return known.accused

    def _keep_evidence(self, pid: str, shown: Equivocation, data: bytes) -> None:
        folder = self._folder(pid)
        present = [origin for content in folder.evidence() if (origin := _origin(content)) == shown.origin]
        if len(present) < MAX_EVIDENCE_KEPT:
            folder.add_evidence(shown.id, data)
        self._forget(pid)

    def _accuse(self, pid: str, known: _Known, note: SignedNote, tree: Subtree) -> NoReturn:
        """Make and keep the evidence that `note` and our head are; `tree` reads the larger one's."""
        origin = known.head.origin
        evidence = make_evidence(known.note, note, origin, tree)
        shown = evidence.verify(origin, self._state(pid, known).log_keys())
        self._keep_evidence(pid, shown, evidence.encode())
        raise TrustError(
            "the publisher's log showed two histories", rule="equivocation",
            wanted=f"{shown.a.size} {shown.a.root.hex()}", got=f"{shown.b.size} {shown.b.root.hex()}",
            hint="the evidence is kept; ask the publisher by other means which of the two is true",
        )  # fmt: skip

    def _compare(self, pid: str, known: _Known, note: SignedNote) -> None:
        """Take a head that is not longer than ours: cosignatures, or evidence."""
        head = Checkpoint.parse(note.unverified_text, known.head.origin)
        if self._is_ours(pid, known, head):
            self._merge(pid, known, note)
            return
        # Raises unless the log signed it; when it did, that it is of another history is proven by our own tree.
        try:
            check_head(self._state(pid, known), note)
        except IntegrityError:
            self._accuse(pid, known, note, self._log(pid, known).subtree(known.head.size))

    # Adoption

    def _begin(self, pid: str, note: SignedNote, entries: Iterable[bytes]) -> Adoption:
        """Adopt the first head of a publisher."""
        rest = iter(entries)
        genesis = next(rest, None)
        if genesis is None:
            raise MalformedError("an empty log", rule="log")
        with Spool(self._folder(pid).path) as spool:
            spool.add(genesis)
            growth = Growth(PublisherState.begin(genesis, pid), note)
            _take(growth, spool, rest)
            self._commit(pid, growth.state, note, 0, spool)
        return Adoption(pid, 0, growth.state.size, growth.state.epoch)

    def _extend(
        self, pid: str, known: _Known, note: SignedNote, entries: Iterable[bytes], *, first: int, tree: Subtree | None
    ) -> Adoption:
        """Adopt a longer head, or one of a later epoch, whose entries from `first` on are given."""
        ours, before = self._state(pid, known), known.head.size
        log = self._log(pid, known)
        with Spool(self._folder(pid).path) as spool:
            if first == before:
                growth = Growth(ours, note)
                try:
                    _take(growth, spool, entries)
                except IntegrityError:
                    if tree is not None and growth.state.epoch == ours.epoch:
                        with suppress(MalformedError, IntegrityError, UnavailableError):
                            self._accuse(pid, known, note, tree)
                    raise
            else:
                rest = chain(log.entries(0, first), entries)
                genesis = next(rest, b"")
                spool.add(genesis)
                growth = Growth(PublisherState.begin(genesis, pid), note)
                _take(growth, spool, rest)
            grown = growth.state
            continues = first == before or grown.leaves[:before] == ours.leaves
            if not continues:
                self._choose(pid, known, ours, grown, note)
                self._keep_revocations(pid, known, ours, grown)
            if grown.epoch == known.held.epoch:
                self._commit(pid, grown, note, before, islice(spool, 0 if first == before else before, None))
            else:
                whole = chain(log.entries(0, before), spool) if first == before else iter(spool)
                self._commit(pid, grown, note, 0, whole)
        return Adoption(pid, before, grown.size, grown.epoch, recovered=not continues)

    def _choose(self, pid: str, known: _Known, ours: PublisherState, other: PublisherState, note: SignedNote) -> None:
        """Return if `other`, whose head is `note`, may replace our branch."""
        try:
            choose_branch(ours, other)
        except TrustError as error:
            if error.rule == "dead":
                self._folder(pid).set_dead()
                self._forget(pid)
            elif other.epoch == ours.epoch:
                longer = other.leaves if other.size > ours.size else ours.leaves
                self._accuse(pid, known, note, subtrees(longer))
            raise

    def _keep_revocations(self, pid: str, known: _Known, ours: PublisherState, other: PublisherState) -> None:
        """Write down what is revoked in the branch that is about to be dropped."""
        log, folder = self._log(pid, known), self._folder(pid)
        for one in ours.revocations.in_force:
            if one.index is not None and one.statement not in other.revocations:
                folder.add_negative(one.statement.hex(), next(log.entries(one.index, one.index + 1)))

    def _commit(self, pid: str, state: PublisherState, note: SignedNote, before: int, entries: Iterable[bytes]) -> None:
        """Write the log in the files from entry `before` on, and point at it."""
        log, size, rest = self._folder(pid).log(state.epoch), before, iter(entries)
        while batch := list(islice(rest, BATCH - size % WIDTH)):
            log.append(size, batch)
            size += len(batch)
        # The commit point: before this line a crash loses the adoption, after it the next use makes up for the rest.
        log.set_checkpoint(note)
        self._forget(pid)
        known = self._read(pid)
        self._count_negatives(pid, known.held, state)
        self._remember(pid, known, state)
        self._merge(pid, known, note)
        self.standing(pid)
        log.prune(size, after=before)


def _take(growth: Growth, spool: Spool, entries: Iterable[bytes]) -> None:
    """Fold `entries` up to the head; raise unless they lead to it."""
    size = claimed_size(growth.note)
    for entry in entries:
        if len(entry) > MAX_ENTRY or growth.state.size >= size:
            raise IntegrityError("more entries than the head is of", rule="entries", wanted=size)
        growth.take(entry)
        spool.add(entry)
    growth.finish()


def _unknown(pid: str) -> UnavailableError:
    return UnavailableError("this publisher is not known here yet", rule="missing", wanted=pid[:80])


def _check_pid(pid: str) -> None:
    if not PID.fullmatch(pid):
        raise UsageError("not a publisher's id", rule="publisher", got=repr(pid[:80]))


def _claimed(pid: str, note: SignedNote) -> tuple[int, int]:
    """Return the epoch and the size that an unverified head of `pid` claims."""
    origin = note.unverified_text.partition("\n")[0]
    suffix = origin.removeprefix(origin_of(pid)).removeprefix("/r")
    epoch = int(suffix) if suffix.isascii() and suffix.isdigit() and len(suffix) < 10 else 0
    Checkpoint.parse(note.unverified_text, origin_of(pid, epoch))
    return epoch, claimed_size(note)


def _origin(evidence: bytes) -> str | None:
    """Return what stored evidence is about; None when it was damaged."""
    try:
        return Evidence.parse(evidence).a.unverified_text.partition("\n")[0]
    except ModelnetError:
        return None


def _listing(names: Sequence[str]) -> bytes:
    return hashlib.sha256("\n".join(names).encode()).digest()


def _statement(name: str) -> bytes:
    try:
        return bytes.fromhex(name)
    except ValueError as error:
        raise MalformedError("not a file of a revocation", rule="log", got=repr(name[:80])) from error


def _cosigner(key: NoteKey) -> str:
    """Return the file name of a cosigner: its key id, which tells keys of one name apart, is too short for this."""
    return hashlib.sha256(key.vkey.encode()).hexdigest()[:32]


def _cosigned_at(content: bytes | None, key: NoteKey) -> int | None:
    try:
        return None if content is None else SignedNote.parse(content).cosigned([key]).get(key)
    except ModelnetError:
        return None


def _is_newer(when: int, before: int | None, latest: int) -> bool:
    """Tell whether `when` is to be kept; a time ahead of the clock, past `latest`, keeps out none that is not."""
    if before is None or (before > latest and when <= latest):
        return True
    return before < when and (when <= latest or before > latest)


def _trimmed(note: SignedNote, key: NoteKey, when: int) -> SignedNote:
    """Return the note with the log's own signatures and this cosigner's, and nothing that a stranger added."""
    mine = [
        line for line in note.signatures
        if (line.name, line.keyid) == (key.name, key.keyid) and line.content[:8] == when.to_bytes(8, "big")
    ]  # fmt: skip
    return SignedNote(note.unverified_text, (*_log_lines(note), *mine[:1]))


def _log_lines(note: SignedNote) -> list[Signature]:
    origin = note.unverified_text.partition("\n")[0]
    return [line for line in note.signatures if line.name == origin][:LOG_LINES]
