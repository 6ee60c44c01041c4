"""Reads what a store keeps of publishers' logs: from the files when they changed, else from memory and the index.

A reading is used again while the files have the times and inodes that they had, and are old enough that a change would
show. What was folded is kept for a few logs; the index has the rest.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelnet.core.adoption import claimed_size
from modelnet.core.entries import read_event
from modelnet.core.events import Revoke
from modelnet.core.evidence import Evidence
from modelnet.core.fold import PublisherState, origin_of
from modelnet.core.freshness import Knowledge
from modelnet.core.identity import PID
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.core.policy import Policy
from modelnet.core.resolution import View
from modelnet.core.revocations import Revocation
from modelnet.core.tiles import WIDTH, parse_bundle, tile_at
from modelnet.errors import MalformedError, ModelnetError, TrustError, UnavailableError
from modelnet.partial import disk_errors
from modelnet.stores.local import LocalStore
from modelnet.stores.logfolder import LogFolder
from modelnet.stores.logindex import LogRow, described, open_view, read_log, record
from modelnet.stores.replicafolder import Held, ReplicaFolder, Stamp

__all__ = ["Known", "ReplicaReader", "damaged", "origin_in", "unknown"]

KEPT_STATES = 8  # folded logs kept in memory …
KEPT_ENTRIES = 200_000  # … and entries in all of them


@dataclass(slots=True)
class Known:
    """What was read of one publisher, and the stamp under which it may be used again without reading."""

    pid: str
    held: Held
    folder: ReplicaFolder
    head: Checkpoint
    note: SignedNote
    stamp: Stamp | None = None
    row: LogRow | None = None
    view: View | None = None
    knowledge: tuple[Policy, Knowledge | None] | None = None  # for that policy
    accused: bool | None = None

    @property
    def log(self) -> LogFolder:
        """The log's files."""
        return self.folder.log(self.held.epoch)

    @property
    def identity(self) -> tuple[object, ...]:
        """What a folded log depends on; cosignatures and evidence change nothing in it."""
        return self.held.epoch, self.head.size, self.head.root, self.held.negatives

    def holds(self, head: Checkpoint) -> bool:
        """Tell whether a head is of the history that is followed here."""
        if head.size == self.head.size:
            return head.root == self.head.root
        return 0 < head.size < self.head.size and head.root == self.log.root(head.size)


class ReplicaReader:
    """The publishers in one store; making one reads nothing."""

    def __init__(self, store: LocalStore) -> None:
        """Read what `store` keeps."""
        self.store = store
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._states: OrderedDict[str, tuple[tuple[object, ...], PublisherState]] = OrderedDict()

    def folder(self, pid: str) -> ReplicaFolder:
        """Return the files of a publisher."""
        return ReplicaFolder(self.store.home.logs / pid)

    @contextmanager
    def writing(self, pid: str) -> Iterator[ReplicaFolder]:
        """Hold the right to change a publisher's files."""
        folder = self.folder(pid)
        with disk_errors(folder.path), folder.locked():
            yield folder

    def forget(self, pid: str) -> None:
        """Read a publisher's files again when they are next looked at: somebody has just changed them."""
        with self._lock:
            if (known := self._known.get(pid)) is not None:
                known.stamp = None

    def find(self, pid: str) -> Known | None:
        """Return what the files of `pid` say, read again when they changed; None when no head was ever adopted."""
        if not PID.fullmatch(pid):
            return None
        folder = self.folder(pid)
        known = self._known.get(pid)
        stamp = folder.stamp(known.held if known else None)
        if known is not None and known.stamp == stamp:
            return known
        began = time.time()
        held = folder.read()
        if held is None:
            return None
        if known is None or known.held != held:
            note = SignedNote.parse(held.checkpoint)
            known = Known(pid, held, folder, Checkpoint.parse(note.unverified_text, origin_of(pid, held.epoch)), note)
            # The stamp depends on which epochs there are; it is of this reading if a second one finds the same.
            stamp = folder.stamp(held)
            if folder.read() != held:
                return known
        known.stamp = stamp if ReplicaFolder.is_settled(stamp, began) else None
        with self._lock:
            self._known[pid] = known
        return known

    def read(self, pid: str) -> Known:
        """Return what the files of `pid` say; raise `UnavailableError` (rule `missing`) when nothing is known."""
        known = self.find(pid)
        if known is None:
            raise unknown(pid)
        return known

    def row(self, known: Known) -> LogRow:
        """Return the index's row of the log, with a view beside it; made again from the files when it is of others."""
        if known.row is not None:
            return known.row
        index, negatives = self.store.index, _listing(known.held.negatives)
        wanted = known.held.epoch, known.head.size, known.head.root, negatives
        row = read_log(index, known.pid)
        view: View | None = None
        if row is not None and (row.epoch, row.size, row.root, row.negatives) == wanted:
            view = open_view(index, row, _entry_reader(known))
        if row is None or view is None:
            state = self.state(known)
            with suppress(UnavailableError):  # a store that cannot be written still knows what is revoked
                genesis = next(known.log.entries(0, 1))
                row = record(index, state, negatives, genesis, lambda: known.folder.read() == known.held)
                view = None if row is None else open_view(index, row, _entry_reader(known))
            if row is None or view is None:
                row, view = described(state, negatives), state
        known.row, known.view = row, view
        return row

    def state(self, known: Known) -> PublisherState:
        """Return the folded log: the one in memory, grown, or made from the files."""
        with self._lock:
            found = self._states.get(known.pid)
            if found is not None:
                self._states.move_to_end(known.pid)
        if found is not None and found[0] == known.identity:
            return found[1]
        try:
            state = _grown(found[1], known) if found is not None else None
            if state is None:
                state = PublisherState.fold(known.log.entries(0, known.head.size), known.pid)
        except (MalformedError, TrustError, UnavailableError) as error:
            raise damaged(known, known.log.path) from error
        if (state.epoch, state.tree_root) != (known.held.epoch, known.head.root):
            raise damaged(known, known.log.path)
        self.remember(known, state)
        return state

    def remember(self, known: Known, state: PublisherState) -> None:
        """Keep a log that was folded; what was heard beside it counts in it from then on."""
        _count_negatives(known, state)
        with self._lock:
            self._states[known.pid] = known.identity, state
            self._states.move_to_end(known.pid)
            while len(self._states) > 1 and (
                len(self._states) > KEPT_STATES or sum(one.size for _, one in self._states.values()) > KEPT_ENTRIES
            ):
                self._states.popitem(last=False)

    def log_keys(self, known: Known, epoch: int) -> list[NoteKey]:
        """Return the log keys that an epoch's origin ever had, as far as they are known here."""
        keys = self.state(known).log_keys(epoch)
        log = known.folder.log(epoch)
        if epoch < known.held.epoch and (note := log.checkpoint()) is not None:
            keys += PublisherState.fold(log.entries(0, claimed_size(note)), known.pid).log_keys(epoch)
        return keys

    @staticmethod
    def is_accused(known: Known) -> bool:
        """Tell whether there is evidence about the current origin; what was before a recovery is only kept."""
        if known.accused is None:
            # What cannot be read any more was verified once: it still counts, against whom it can.
            origins = [origin_in(content) for content in known.folder.evidence()]
            known.accused = any(origin in (None, known.head.origin) for origin in origins)
        return known.accused


def damaged(known: Known | None, path: Path) -> UnavailableError:
    """Return the error of finding our own files damaged: no fault of the source that happens to be asked."""
    # Unless another process has just changed them under our eyes.
    if known is not None and known.folder.read() == known.held:
        known.folder.mark_damaged(yes=True)
    return UnavailableError(
        "what is kept of the publisher's log is damaged", rule="log", path=str(path),
        hint="pull again: all of it can be had from any peer",
    )  # fmt: skip


def unknown(pid: str) -> UnavailableError:
    """Return the error of asking about a publisher that was never heard of."""
    return UnavailableError(
        "this publisher is not known here yet", rule="missing", wanted=pid[:80],
        hint="ask a node that knows it: `modelnet sync ID --peer URL`, or pull one of its releases",
    )  # fmt: skip


def origin_in(evidence: bytes) -> str | None:
    """Return what stored evidence is about; None when it was damaged."""
    try:
        return Evidence.parse(evidence).a.unverified_text.partition("\n")[0]
    except ModelnetError:
        return None


def _grown(state: PublisherState, known: Known) -> PublisherState | None:
    """Return the state that was kept, grown to the head; None when it is of another history."""
    if state.epoch != known.held.epoch or state.size > known.head.size:
        return None
    if known.log.root(state.size) != state.tree_root:
        return None
    grown = state.copy()
    for entry in known.log.entries(state.size, known.head.size):
        grown.append(entry)
    return grown


def _count_negatives(known: Known, state: PublisherState) -> None:
    """Count what was heard beside the log. It counted when it came; later keys do not take that back."""
    for name in known.held.negatives:
        if _statement(name) in state.revocations:
            continue
        path = known.folder.path / "negatives" / name
        try:
            event = read_event(known.folder.negative(name) or b"")
        except MalformedError as error:
            raise _damaged(path) from error
        claim = event.unverified
        if event.statement.hex() != name or not isinstance(claim, Revoke) or claim.pid != known.pid:
            raise _damaged(path)
        state.revocations.add(Revocation(claim, event.leaf, event.statement))


def _entry_reader(known: Known) -> Callable[[int], bytes]:
    log, size = known.log, known.head.size

    def read(index: int) -> bytes:
        tile = tile_at(None, index // WIDTH, size)
        content = log.tile(tile)
        try:
            if content is not None:
                return parse_bundle(content, tile.width)[index % WIDTH]
        except MalformedError as error:
            raise damaged(known, log.path / tile.path) from error
        raise damaged(known, log.path / tile.path)

    return read


def _listing(names: Sequence[str]) -> bytes:
    return hashlib.sha256("\n".join(names).encode()).digest()


def _statement(name: str) -> bytes:
    try:
        return bytes.fromhex(name)
    except ValueError as error:
        raise MalformedError("not a file of a revocation", rule="log", got=repr(name[:80])) from error


def _damaged(path: Path) -> UnavailableError:
    return UnavailableError(
        "a revocation that is kept beside the log is damaged", rule="log", path=str(path),
        hint="remove the file and pull again: a peer may still have it",
    )  # fmt: skip
