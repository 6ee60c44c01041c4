"""A publisher appends to its own log, and never signs two histories.

    lock → finish what a crash left → refuse if the key is used elsewhere
    → tiles, durable → intention by compare-and-swap → sign, beat → cosignatures → checkpoint → replica → prune

    with LogWriter.open(home, pid, keyring) as log:
        log.append([entry])

The intention is the largest head that may ever have been signed: (size, root), stored before the signature is made, one
for each epoch. No other root is signed for that size or below. What a crash means, by what was durable last:

    nothing, or tiles   the entries were not appended; the next append writes over the tiles
    the intention       they are appended: the next `open` reads them from the tiles, signs the very same head, commits
    a signature         the same; Ed25519 gives the same signature again, so whoever has seen it saw no fork
    the checkpoint      appended and acknowledged; tiles that are wider than needed are pruned by a later append

An error tells no more than a crash: the entries may be in the log. Whoever tries again looks first (`state`).

A store that was restored from a backup, or copied, has an old intention and would fork. That is what `heads` is for: it
asks peers and witnesses what they saw of this log, and one head that is larger than ours, or of another history,
refuses the writer before it signs. Offline nobody can tell; then followers who hear both sides hold the evidence.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from modelnet.core.adoption import check_head
from modelnet.core.fold import Inert, PublisherState, origin_of
from modelnet.core.keys import SigningKey
from modelnet.core.merkle import consistency_proof
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.errors import IntegrityError, ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.partial import disk_errors
from modelnet.stores.home import Home
from modelnet.stores.keyring import Keyring
from modelnet.stores.logfolder import LogFolder
from modelnet_registry.log.guards import Heads, check_elsewhere, check_evidence, forked, lock_log
from modelnet_registry.log.storage import FileStorage, Storage

__all__ = ["Committed", "Cosign", "Larger", "LogWriter", "Proof", "current_epoch", "intention_of", "own_state"]


MAX_LOG_LINES = 4  # signatures of the log itself on one head; the rest of a note is for witnesses

Proof: TypeAlias = Callable[[int], list[bytes]]
"""Gives the consistency proof from a size to the head that is to be cosigned."""
Larger: TypeAlias = Callable[[SignedNote, Proof], int | None]
"""Committed head → the size of a larger one that somebody has cosigned, or None."""
Cosign: TypeAlias = Callable[[SignedNote, Proof], SignedNote]
"""Signed head → the same head with what witnesses added; one that cannot be reached is left out."""
Committed: TypeAlias = Callable[[str, SignedNote, Sequence[bytes]], object]
"""Told of each commit: pid, head and the entries it added."""


def own_state(home: Home, pid: str) -> Storage:
    """Return where the writer of an own log keeps what it may have signed; no peer gets it, and no backup should."""
    return FileStorage(home.logs / pid / "own")


def intention_of(epoch: int) -> str:
    """Return the name under which the largest head of an epoch that may have been signed is stored."""
    return f"{epoch}.intended"


def current_epoch(home: Home, pid: str) -> int | None:
    """Return the newest epoch of a log that has a committed head; None when it has none at all."""
    folder = home.logs / pid
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    epochs = [int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name]
    return max((epoch for epoch in epochs if (home.log(pid, epoch) / "checkpoint").exists()), default=None)


@dataclass(slots=True)
class LogWriter:
    """The one writer of an own log; made by `open`, which holds the log's lock until `close`."""

    home: Home
    keys: Keyring
    state: PublisherState
    epoch: int
    head: SignedNote | None
    _storage: Storage
    _cosign: Cosign | None
    _committed: Committed | None
    _clock: Callable[[], float]
    _guard: int
    _news: list[tuple[SignedNote, list[bytes]]] = field(default_factory=list)

    @classmethod
    def open(
        cls, home: Home, keys: Keyring, genesis: bytes, *, first: Callable[[], Sequence[bytes]] | None = None,
        heads: Heads | None = None, larger: Larger | None = None, cosign: Cosign | None = None,
        committed: Committed | None = None, storage: Storage | None = None, clock: Callable[[], float] = time.time,
        known: PublisherState | None = None, recovering: bool = False,
    ) -> Self:  # fmt: skip
        """Lock the log of `keys.pid`, finish what a crash left, and refuse if its key is used elsewhere.

        A log that is not there yet is begun with `genesis` and the entries that `first` gives. Raises `TrustError`
        with rule `fork` when another history was or may have been signed, `quarantined` when evidence of that lies
        here, `UnavailableError` with rule `busy`, `disk` or `log`, `UsageError` when the log key is not in `keys`.
        `known` is the log as this process folded it before, which then is not done again.
        With `recovering` a fork is no hindrance and nobody is asked: only `recover` may follow.
        """
        pid = keys.pid
        guard = lock_log(home.logs / pid)
        try:
            with disk_errors(home.logs / pid):
                writer = cls(
                    home, keys, PublisherState.begin(genesis, pid), 0, None, storage or own_state(home, pid),
                    cosign, committed, clock, guard,
                )  # fmt: skip
                began = writer._load(genesis, known, recovering=recovering)
                if not recovering:
                    check_evidence(home, writer.state, writer.epoch)
                    if heads is not None:
                        check_elsewhere(writer.state, writer.epoch, heads)
                    if larger is not None and writer.head is not None:
                        writer._check_larger(larger, writer.head)
                if not began:
                    writer._begin(genesis, first() if first is not None else ())
        except BaseException:
            os.close(guard)
            raise
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.close()
        except ModelnetError:
            if kind is None:  # else the first error says more
                raise

    def close(self) -> None:
        """Let go of the log; then the replica learns of what was committed."""
        if self._guard < 0:
            return
        os.close(self._guard)
        self._guard = -1
        news, self._news = self._news, []
        if self._committed is not None:
            for note, entries in news:
                self._committed(self.pid, note, entries)

    @property
    def pid(self) -> str:
        """Whose log this is."""
        return self.keys.pid

    @property
    def folder(self) -> LogFolder:
        """The log's tiles and head."""
        return LogFolder(self.home.log(self.pid, self.epoch))

    @property
    def checkpoint(self) -> Checkpoint:
        """The committed head."""
        return Checkpoint(self.state.origin, self.state.size, self.state.tree_root)

    def append(self, entries: Sequence[bytes]) -> SignedNote:
        """Append `entries` and commit; each must count: what would be inert is refused with its reason, and none is.

        After an error other than such a refusal, whether they are in the log is for the next `open` to say.
        """
        if not entries:
            raise ValueError("nothing to append")
        grown = self._grown(self.state, entries)
        with disk_errors(self.folder.path):
            return self._commit(self.epoch, self.state.size, entries, grown)

    def refresh(self) -> SignedNote:
        """Say again that the head is the newest, at this time, and have it witnessed again: nothing else changes."""
        with disk_errors(self.folder.path):
            note = self._signed(self.state, self.folder)
            self.folder.set_checkpoint(note)
        self.head = note
        self._news.append((note, []))
        return note

    def recover(self, size: int, entries: Sequence[bytes]) -> SignedNote:
        """Go on after the first `size` entries, in the next epoch; the first of `entries` is the recover event."""
        kept = list(self.folder.entries(0, self.state.size))[:size]
        grown = self._grown(PublisherState.fold(kept, self.pid), entries)
        if grown.epoch != self.epoch + 1:
            raise TrustError("the first new entry of an epoch recovers the log", rule="recover", got=grown.epoch)
        with disk_errors(self.home.log(self.pid, grown.epoch)):
            return self._commit(grown.epoch, 0, [*kept, *entries], grown)

    def prefix(self, size: int) -> PublisherState:
        """Return what the log amounted to at `size`."""
        if not 0 < size <= self.state.size:
            raise TrustError("the log never had that size", rule="size", wanted=f"1 to {self.state.size}", got=size)
        return PublisherState.fold(self.folder.entries(0, size), self.pid) if size < self.state.size else self.state

    # How it comes to that

    def _check_larger(self, larger: Larger, head: SignedNote) -> None:
        size = larger(head, self._proof(self.state, self.folder))
        if size is not None and size > self.state.size:
            raise forked("the key of this log is used elsewhere", size, self.checkpoint)

    @staticmethod
    def _grown(state: PublisherState, entries: Sequence[bytes]) -> PublisherState:
        grown = state.copy()
        for entry in entries:
            result = grown.append(entry)
            if isinstance(result, Inert):
                raise result.error
        return grown

    def _load(self, genesis: bytes, known: PublisherState | None, *, recovering: bool) -> bool:
        """Read the committed log and finish an intention; tell whether there is a log."""
        committed = current_epoch(self.home, self.pid)
        if committed is not None:
            self.epoch = committed
            self._read(known)
        # A crash may have come between the intention of the next epoch and its first head.
        following = 0 if committed is None else committed + 1
        if self._storage.read(intention_of(following)) is not None:
            self._finish(following, genesis)
        elif committed is not None:
            try:
                self._finish(committed, genesis)
            except TrustError:
                if not recovering:
                    raise
        return self.head is not None

    def _read(self, known: PublisherState | None) -> None:
        note = self.folder.checkpoint()
        if note is None:
            raise UnavailableError("the log has no head any more", rule="log", path=str(self.folder.path))
        head = Checkpoint.parse(note.unverified_text, origin_of(self.pid, self.epoch))
        if known is not None and known.size <= head.size and known.tree_root == self.folder.root(known.size):
            self.state = known.copy()
            for entry in self.folder.entries(known.size, head.size):
                self.state.append(entry)
        else:
            self.state = PublisherState.fold(self.folder.entries(0, head.size), self.pid)
        try:
            check_head(self.state, note)
        except IntegrityError as error:
            raise IntegrityError(
                "the log here is not what was signed", rule="log", path=str(self.folder.path), wanted=error.wanted,
                got=error.got, hint="run `modelnet fsck`; a peer may still have it whole",
            ) from error  # fmt: skip
        self.head = note

    def _finish(self, epoch: int, genesis: bytes) -> None:
        """Bring the log to the intention of `epoch`: sign and commit what it says, and nothing else."""
        name = intention_of(epoch)
        stored = self._storage.read(name)
        if stored is None:
            self._storage.create(name, self.checkpoint.encode().encode())
            return
        intended = Checkpoint.parse(stored.decode("utf-8", "replace"), origin_of(self.pid, epoch))
        begun = epoch == self.epoch and self.head is not None
        size = self.state.size if begun else 0
        if intended.size <= size:
            if self.state.root_at(intended.size) != intended.root:
                raise forked("another history of this log may have been signed here", intended, self.checkpoint)
            if intended.size < size:  # a replica of the own log was synced: what is in it was signed elsewhere
                self._storage.swap(name, stored, self.checkpoint.encode().encode())
            return
        folder = LogFolder(self.home.log(self.pid, epoch))
        try:
            entries = list(folder.entries(size, intended.size))
            before = self.state if begun else PublisherState.begin(genesis, self.pid)
            grown = before.copy()
            for entry in entries if begun else entries[1:]:
                grown.append(entry)
        except ModelnetError as error:
            message = "the entries of a head that may have been signed are gone"
            raise forked(message, intended, self.checkpoint) from error
        if (grown.size, grown.tree_root) != (intended.size, intended.root):
            ours = Checkpoint(grown.origin, grown.size, grown.tree_root)
            raise forked("another history of this log may have been signed here", intended, ours)
        # Stored once more: a power cut after a crash must not take back what `read` has just shown.
        self._storage.swap(name, stored, stored)
        self._publish(epoch, grown, entries)

    def _begin(self, genesis: bytes, entries: Sequence[bytes]) -> None:
        state = PublisherState.begin(genesis, self.pid)
        kept = [entry for entry in entries if not isinstance(state.append(entry), Inert)]
        self._commit(0, 0, [genesis, *kept], self._grown(PublisherState.begin(genesis, self.pid), kept))

    def _commit(self, epoch: int, before: int, entries: Sequence[bytes], grown: PublisherState) -> SignedNote:
        if not self._signers(grown):
            raise _no_key()
        LogFolder(self.home.log(self.pid, epoch)).append(before, entries)
        name = intention_of(epoch)
        intended = Checkpoint(grown.origin, grown.size, grown.tree_root).encode().encode()
        stored = self._storage.read(name)
        if stored is None:
            self._storage.create(name, intended)
        else:
            self._storage.swap(name, stored, intended)
        # From here on the entries are appended: after a crash, `_finish` signs this head and no other.
        return self._publish(epoch, grown, entries)

    def _publish(self, epoch: int, grown: PublisherState, entries: Sequence[bytes]) -> SignedNote:
        """Sign and commit the intended head."""
        folder = LogFolder(self.home.log(self.pid, epoch))
        note = self._signed(grown, folder)
        folder.set_checkpoint(note)
        after = self.state.size if epoch == self.epoch and self.head is not None else 0
        self.state, self.head, self.epoch = grown, note, epoch
        self._news.append((note, list(entries)))
        folder.prune(grown.size, after=after)
        return note

    def _signed(self, state: PublisherState, folder: LogFolder) -> SignedNote:
        """Return the head of `state`, signed, dated by the beat key and cosigned."""
        signers = self._signers(state)
        if not signers:
            raise _no_key()
        note = Checkpoint(state.origin, state.size, state.tree_root).note()
        for key in signers:
            note = note.sign(state.origin, key)
        now = int(self._clock())
        for key in self.keys.signers("beat", state.beat.keys):
            note = note.cosign(f"{state.origin}/beat", key, now)
        if self._cosign is None:
            return note
        cosigned = self._cosign(note, self._proof(state, folder))
        if cosigned.unverified_text != note.unverified_text or cosigned.signatures[: len(note.signatures)] != (
            note.signatures
        ):
            raise TrustError("cosigners changed the head", rule="cosignature", got=cosigned.unverified_text[:200])
        return cosigned

    @staticmethod
    def _proof(state: PublisherState, folder: LogFolder) -> Proof:
        subtree = folder.subtree(state.size)
        return lambda size: consistency_proof(size, state.size, subtree)

    def _signers(self, state: PublisherState) -> list[SigningKey]:
        """Return the log keys to sign with: those in force, and old ones that are still here.

        The old ones sign too, so that whoever knows only them (a follower behind a rotation, or a restored backup of
        this very store) recognizes the head. None when no key in force is here.
        """
        signers = self.keys.signers("log", state.log.keys)
        if not signers:
            return []
        known = [key.key for key in state.log_keys()]
        older = [key for key in reversed(self.keys.signers("log", known)) if key not in signers]
        return [*signers, *older][:MAX_LOG_LINES]


def _no_key() -> UsageError:
    return UsageError("the log key is not here", rule="keys", hint="give the file of the key, or rotate it")
