"""Everything a store knows about publishers' logs: adopted heads, revocations, evidence, and how old all that is.

    >>> replicas = Replicas(open_store())                     # doctest: +SKIP
    >>> replicas.adopt(pid, note, entries)                    # what a source gave; verified here    # doctest: +SKIP
    >>> replicas.view(pid).newest("tiny-llama")               # doctest: +SKIP

The truth is in files (`modelnet.stores.replicafolder`), and replacing a log's `checkpoint` is the commit point of an
adoption (`modelnet.adopting`). The index only caches what the files say; a lost one loses nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from modelnet.adopting import Adopter, Adoption
from modelnet.core.evidence import Equivocation
from modelnet.core.fold import PublisherState, origin_of
from modelnet.core.freshness import HARD_MAX_S, Freshness, Knowledge, Status
from modelnet.core.identity import PID, Genesis
from modelnet.core.merkle import Subtree
from modelnet.core.note import MAX_SIGNATURES, SignedNote
from modelnet.core.resolution import View
from modelnet.core.revocations import Revocation
from modelnet.errors import UnavailableError
from modelnet.stores.local import LocalStore
from modelnet.stores.logfolder import LogFolder
from modelnet.stores.logindex import LogRow, read_log, read_logs, set_marks
from modelnet.stores.replicareader import Known, ReplicaReader, unknown
from modelnet.stores.timekeeping import Timekeeper, cosigned_notes, log_lines

__all__ = ["Adoption", "Replicas", "Standing"]


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


class Replicas:
    """The logs in one store. For many threads and processes at once; making one reads nothing."""

    def __init__(
        self, store: LocalStore, *, clock: Callable[[], float] = time.time, hard_max: int = HARD_MAX_S
    ) -> None:
        """Look into `store`; `hard_max` (seconds) is the age at which knowledge is too old for anything."""
        self.store = store
        self._reader = ReplicaReader(store)
        self._timekeeper = Timekeeper.of(store.home.root, clock, hard_max)
        self._adopter = Adopter(self._reader, self._timekeeper)

    # What is known

    def publishers(self) -> list[LogRow]:
        """Return every publisher with a log here, as of the last use of each; cheap for ten thousands."""
        rows = {row.pid: row for row in read_logs(self.store.index)}
        try:
            present = {name for name in os.listdir(self.store.home.logs) if PID.fullmatch(name)}  # noqa: PTH208  (names)
        except OSError:
            present = set()
        for pid in present - rows.keys():  # the index was lost
            if self.known(pid):
                self.standing(pid)
                if (row := read_log(self.store.index, pid)) is not None:
                    rows[pid] = row
        return [rows[pid] for pid in sorted(rows) if pid in present]

    def known(self, pid: str) -> bool:
        """Tell whether a head of `pid` was ever adopted here."""
        return self._reader.find(pid) is not None

    def intact(self, pid: str) -> bool:
        """Read all of the log's files and tell whether they lead to its head; if not, `adopt` mends them."""
        return self._adopter.is_intact(self._reader.read(pid))

    def damaged(self, pid: str) -> bool:
        """Tell whether files of the log were found damaged; `adopt` with all entries (`first=0`) mends them."""
        return bool(PID.fullmatch(pid)) and self._reader.folder(pid).is_damaged

    def standing(self, pid: str) -> Standing:
        """Return what is known of a publisher; raise `UnavailableError` (rule `missing`) when nothing is."""
        known = self._reader.read(pid)
        row = self._reader.row(known)
        found, fresh = self._timekeeper.judge(known, row)
        quarantined = known.held.dead or self._reader.is_accused(known)
        self._set_marks(known, row, found, quarantined=quarantined)
        own = (self.store.home.keys / f"{pid}.json").exists()
        if own:
            found, fresh = Knowledge(self._timekeeper.now(), witnessed=False), Freshness(Status.FRESH, 0)
        if quarantined:
            fresh = Freshness(Status.QUARANTINED, fresh.age, fresh.doubt)
        return Standing(
            pid, known.head.size, known.head.root, known.held.epoch, own, known.held.dead, quarantined, found,
            fresh, row.max_age,
        )  # fmt: skip

    def view(self, pid: str) -> View:
        """Return what can be asked of the log, without folding it when the index has it; for one use, then again."""
        known = self._reader.read(pid)
        self._reader.row(known)
        return known.view or self._reader.state(known)

    def state(self, pid: str) -> PublisherState:
        """Return the folded log, from its files, with every revocation that counts; not to be changed, only copied."""
        return self._reader.state(self._reader.read(pid))

    def head(self, pid: str) -> SignedNote | None:
        """Return the adopted head with the cosignatures that are known of it; None for an unknown publisher."""
        known = self._reader.find(pid)
        if known is None:
            return None
        mine = [note for note in cosigned_notes(known) if note.unverified_text == known.note.unverified_text]
        # What was verified comes first: a stranger's lines must not use up the room.
        lines = [line for note in (known.note, *mine) for line in log_lines(note)]
        lines += [line for note in (*mine, known.note) for line in note.signatures]
        return SignedNote(known.note.unverified_text, tuple(dict.fromkeys(lines))[:MAX_SIGNATURES])

    def folder(self, pid: str, epoch: int | None = None) -> LogFolder:
        """Return the log's files, those of the current epoch unless an older one is asked for."""
        known = self._reader.read(pid)
        return known.log if epoch is None else known.folder.log(epoch)

    def epochs(self, pid: str) -> list[int]:
        """Return the epochs that are kept, oldest first; the last is the current one."""
        held = self._reader.read(pid).held
        return [epoch for epoch in held.epochs if epoch <= held.epoch]

    def genesis(self, pid: str) -> Genesis:
        """Return the verified first entry of a publisher's log."""
        known = self._reader.find(pid)
        entry = self.store.index.genesis(pid) if known is None else next(known.log.entries(0, 1))
        if entry is None:
            raise unknown(pid)
        return Genesis.verify(entry, pid)

    def negatives(self, pid: str) -> list[bytes]:
        """Return the revocations that count here beside the log: for others, who may not have heard."""
        return self._reader.folder(pid).negatives() if PID.fullmatch(pid) else []

    def evidence(self, pid: str) -> list[bytes]:
        """Return the evidence against the log, of every epoch."""
        return self._reader.folder(pid).evidence() if PID.fullmatch(pid) else []

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
        entries are not those of its head. The log here does not change then.
        """
        adoption = self._adopter.adopt(pid, note, entries, first=first, tree=tree)
        self.standing(pid)  # what it says about time is written down
        return adoption

    def committed(self, pid: str, note: SignedNote, entries: Sequence[bytes] = ()) -> None:  # noqa: ARG002
        """Learn that this store's own writer committed `note` with `entries`, which are in the log's files already."""
        self._adopter.merge(pid, note)
        self.standing(pid)

    def add_negative(self, pid: str, envelope: bytes) -> Revocation:
        """Count a revocation, by whatever route it came, from now on and for ever; see `apply_negative`."""
        return self._adopter.add_negative(pid, envelope)

    def add_evidence(self, pid: str, data: bytes) -> Equivocation:
        """Keep evidence once it holds against this publisher's log; the log is quarantined from then on."""
        shown = self._adopter.add_evidence(pid, data)
        self.standing(pid)
        return shown

    def _set_marks(self, known: Known, row: LogRow, found: Knowledge | None, *, quarantined: bool) -> None:
        marked = replace(row, time=None, witnessed=False, quarantined=quarantined, dead=known.held.dead)
        if found is not None:
            marked = replace(marked, time=found.time, witnessed=found.witnessed)
        if marked != row:
            with suppress(UnavailableError):  # shown in a list only
                set_marks(self.store.index, marked)
            known.row = marked
