"""What a store keeps of one publisher, in files: the truth that the index is a cache of.

    <epoch>/checkpoint, tile/…     the log as it is after `epoch` recoveries (`LogFolder`); the highest one counts
    <epoch>/cosigned/<key>.note    for each cosigner the head of this history on which it cosigned with its newest time
    negatives/<statement hex>      revocations that counted without the log, or in a branch that was dropped
    evidence/<id>                  verified evidence of equivocation
    dead                           two branches were both taken over by the next keys
    damaged                        the log's files were found to be; all of its entries again mend them
    lock                           held by who writes any of these

Each file is written whole and renamed into place. What is here was verified before it was written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelnet import durable
from modelnet.core.dsse import MAX_ENVELOPE
from modelnet.core.evidence import MAX_EVIDENCE
from modelnet.core.note import MAX_NOTE, SignedNote
from modelnet.errors import UnavailableError
from modelnet.stores.locking import locked
from modelnet.stores.logfolder import DAMAGED, LogFolder
from modelnet.stores.smallfile import read_small

__all__ = ["Held", "ReplicaFolder", "Stamp"]

RACY_S = 3  # younger than this, a file may change again without a new time of change: FAT counts in steps of 2 s

Stat = tuple[int, int, int] | None
Stamp = tuple[Stat, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What the files of one publisher are; equal when nothing changed."""

    epoch: int
    checkpoint: bytes
    cosigned: tuple[tuple[str, bytes], ...]
    negatives: tuple[str, ...]
    evidence: tuple[str, ...]
    dead: bool
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReplicaFolder:
    """The files of one publisher below `path`; a folder that is not there holds nothing."""

    path: Path

    def locked(self) -> AbstractContextManager[None]:
        """Hold the right to write here."""
        return locked(self.path / "lock")

    def log(self, epoch: int) -> LogFolder:
        """Return the log after `epoch` recoveries."""
        return LogFolder(self.path / str(epoch))

    def epochs(self) -> list[int]:
        """Return the epochs that there is a folder of, committed or not, oldest first."""
        return sorted(
            int(name) for name in _names(self.path) if name.isascii() and name.isdigit() and name == str(int(name))
        )

    def read(self) -> Held | None:
        """Return what the files are, or None when no head was ever committed."""
        epochs = self.epochs()
        for epoch in reversed(epochs):
            checkpoint = _read(self.path / str(epoch) / "checkpoint", MAX_NOTE)
            if checkpoint is not None:
                return Held(
                    epoch, checkpoint, tuple(self._cosigned(epoch)), tuple(_names(self.path / "negatives")),
                    tuple(_names(self.path / "evidence")), (self.path / "dead").exists(), tuple(epochs),
                )  # fmt: skip
        return None

    def stamp(self, held: Held | None) -> Stamp:
        """Return times and inodes that change when any of the files does; `held` says which log is looked at."""
        at = held.epoch if held else 0
        later = [number for number in (held.epochs if held else ()) if number > at]
        # A new epoch is a new folder here; its checkpoint comes later than the folder.
        paths = [".", *(f"{number}/checkpoint" for number in (at, *later)), f"{at}/cosigned", "negatives", "evidence"]
        return tuple(_stat(self.path / name) for name in paths)

    @staticmethod
    def is_settled(stamp: Stamp, when: float) -> bool:
        """Tell whether a stamp taken after a reading at `when` (unix seconds) shows every later change."""
        return all(one is None or one[1] < (when - RACY_S) * 1e9 for one in stamp)

    def negatives(self) -> list[bytes]:
        """Return the revocations from outside the log, by statement."""
        return _contents(self.path / "negatives", MAX_ENVELOPE)

    def negative(self, statement: str) -> bytes | None:
        """Return one of them."""
        return _read(self.path / "negatives" / statement, MAX_ENVELOPE)

    def add_negative(self, statement: str, envelope: bytes) -> None:
        """Keep a revocation for ever."""
        _write(self.path / "negatives" / statement, envelope)

    def evidence(self) -> list[bytes]:
        """Return the evidence, of all epochs."""
        return _contents(self.path / "evidence", MAX_EVIDENCE)

    def add_evidence(self, name: str, content: bytes) -> None:
        """Keep evidence for ever."""
        _write(self.path / "evidence" / name, content)

    def set_dead(self) -> None:
        """Never believe this publisher again."""
        _write(self.path / "dead", b"")

    @property
    def is_damaged(self) -> bool:
        """Whether the log's files were found damaged and not mended since."""
        return (self.path / "damaged").exists()

    def mark_damaged(self, *, yes: bool) -> None:
        """Remember that the log's files are damaged, or that they were mended; as far as the disk allows it."""
        with suppress(OSError):
            if yes:
                (self.path / "damaged").touch()
            else:
                (self.path / "damaged").unlink(missing_ok=True)

    def set_cosigned(self, epoch: int, name: str, note: SignedNote) -> None:
        """Keep the newest note of one cosigner."""
        _write(self.path / str(epoch) / "cosigned" / f"{name}.note", note.encode())

    def remove_cosigned(self, epoch: int, names: Iterable[str]) -> None:
        """Forget cosigners."""
        for name in names:
            (self.path / str(epoch) / "cosigned" / f"{name}.note").unlink(missing_ok=True)

    def _cosigned(self, epoch: int) -> list[tuple[str, bytes]]:
        folder = self.path / str(epoch) / "cosigned"
        names = [name for name in _names(folder) if name.endswith(".note")]
        return [(name.removesuffix(".note"), note) for name in names if (note := _read(folder / name, MAX_NOTE))]


def _names(folder: Path) -> list[str]:
    """Return what lies in `folder`, without what a writer is not done with."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208  (names, many)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnavailableError(f"cannot read the log: {error.strerror}", rule="log", path=str(folder)) from error


def _contents(folder: Path, limit: int) -> list[bytes]:
    return [content for name in _names(folder) if (content := _read(folder / name, limit)) is not None]


def _stat(path: Path) -> Stat:
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _write(path: Path, content: bytes) -> None:
    durable.make_folder(path.parent)
    durable.write(path, content)


def _read(path: Path, limit: int) -> bytes | None:
    return read_small(path, limit, "log", hint=DAMAGED)
