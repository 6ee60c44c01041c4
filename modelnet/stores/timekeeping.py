"""Two small files about trust and time: the witness policy, and the newest time that a quorum ever vouched for.

policy        a C2SP tlog-policy file; when there is none, `quorum none`
high-water    unix seconds, decimal: time does not run backwards past it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelnet import durable
from modelnet.core.freshness import SKEW_S, Freshness, Knowledge, freshness, knowledge, raised
from modelnet.core.note import Checkpoint, NoteKey, Signature, SignedNote
from modelnet.core.policy import MAX_POLICY, Policy
from modelnet.errors import MalformedError, ModelnetError, UnavailableError
from modelnet.partial import disk_errors
from modelnet.stores.locking import locked
from modelnet.stores.logindex import LogRow
from modelnet.stores.replicareader import Known

__all__ = ["HighWater", "PolicyFile", "Timekeeper", "cosigned_notes", "log_lines"]

MAX_COSIGNERS = 64
LOG_LINES = 4  # signatures by the log on one head: two during a rotation

NO_POLICY = Policy((), (), None)
MAX_NUMBER = 20  # bytes of a file that holds one number below 2^63


@dataclass(slots=True)
class PolicyFile:
    """The witness policy in `path`."""

    path: Path
    _read: tuple[bytes, Policy] | None = None

    def read(self) -> Policy:
        """Return the policy as the file is now; raise `MalformedError` when it is none: a wrong one must not weaken."""
        content = _content(self.path, MAX_POLICY)
        if content is None:
            return NO_POLICY
        if self._read is None or self._read[0] != content:
            try:
                self._read = content, Policy.parse(content)
            except MalformedError as error:
                error.source = str(self.path)
                raise
        return self._read[1]


@dataclass(frozen=True, slots=True)
class HighWater:
    """The high-water mark of time in `path`."""

    path: Path

    def read(self) -> int:
        """Return the mark in unix seconds; 0 when there is none that can be read: knowledge raises it again."""
        content = _content(self.path, MAX_NUMBER) or b""
        text = content.strip()
        return int(text) if text.isdigit() and int(text) < 1 << 63 else 0

    def learn(self, known: Knowledge, clock: int) -> int:
        """Raise the mark as `known` says, durably before anybody uses it; return what it is now."""
        mark = self.read()
        if raised(mark, known, clock) > mark:
            with disk_errors(self.path), locked(self.path.with_name(f"{self.path.name}.lock")):
                mark = raised(self.read(), known, clock)
                durable.write(self.path, b"%d\n" % mark)
        return mark


@dataclass(slots=True)
class Timekeeper:
    """Judges how old what is known of a log is, in a store with these two files; `clock` gives unix seconds."""

    policy: PolicyFile
    high_water: HighWater
    clock: Callable[[], float]
    hard_max: int

    @classmethod
    def of(cls, home: Path, clock: Callable[[], float], hard_max: int) -> Timekeeper:
        """Return the timekeeper of the store in `home`."""
        return cls(PolicyFile(home / "policy"), HighWater(home / "high-water"), clock, hard_max)

    def now(self) -> int:
        """Return what the system's clock says."""
        return int(self.clock())

    def judge(self, known: Known, row: LogRow) -> tuple[Knowledge | None, Freshness]:
        """Return up to when the log is known and how old that is; a newer time is written down before it is used."""
        found, now = self.knowledge(known, row), self.now()
        mark = self.high_water.read() if found is None else self.high_water.learn(found, now)
        return found, freshness(found, clock=now, high_water=mark, max_age=row.max_age, hard_max=self.hard_max)

    def knowledge(self, known: Known, row: LogRow) -> Knowledge | None:
        """Return T_q over the adopted head and what the cosigners signed of this history before."""
        policy = self.policy.read()
        if known.knowledge is not None and known.knowledge[0] == policy:
            return known.knowledge[1]
        found = knowledge(policy, [known.note, *cosigned_notes(known)], row.beats)
        known.knowledge = policy, found
        return found

    def merge(self, known: Known, row: LogRow, note: SignedNote) -> bool:
        """Keep the cosignatures on `note`, a head that `known` holds, that are news; tell whether there were any."""
        policy, latest = self.policy.read(), self.now() + SKEW_S
        keys = [*(witness.key for witness in policy.witnesses), *row.beats]
        held, epoch = dict(known.held.cosigned), known.held.epoch
        changed = False
        for key, when in note.cosigned(keys).items():
            name = _file_name(key)
            if _is_newer(when, _cosigned_at(held.get(name), key), latest):
                known.folder.set_cosigned(epoch, name, _trimmed(note, key, when))
                changed = True
        if changed and len(held) >= MAX_COSIGNERS:
            known.folder.remove_cosigned(epoch, held.keys() - {_file_name(key) for key in keys})
        return changed


def cosigned_notes(known: Known) -> list[SignedNote]:
    """Return the notes that are kept for their cosignatures, as far as they are of this history."""
    notes: list[SignedNote] = []
    for _, content in known.held.cosigned:
        with suppress(ModelnetError):  # damaged: the same as never heard
            note = SignedNote.parse(content)
            if known.holds(Checkpoint.parse(note.unverified_text, known.head.origin)):
                notes.append(note)
    return notes


def log_lines(note: SignedNote) -> list[Signature]:
    """Return the lines that the log itself may have signed."""
    origin = note.unverified_text.partition("\n")[0]
    return [line for line in note.signatures if line.name == origin][:LOG_LINES]


def _file_name(key: NoteKey) -> str:
    """Return the file name of a cosigner; the key id in a signature is too short to be one."""
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
    return SignedNote(note.unverified_text, (*log_lines(note), *mine[:1]))


def _content(path: Path, limit: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read: {error.strerror}", rule="store", path=str(path)) from error
    return content
