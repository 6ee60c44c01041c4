"""One file on the ladder: open it, hash it, and hold it so that what a runtime opens is what was hashed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelnet.core.filetree import FileTree
from modelnet.core.manifest import FileEntry
from modelnet.errors import IntegrityError, UnavailableError
from modelnet.loaders import sealed, verity
from modelnet.loaders.levels import Level
from modelnet.loaders.reading import VerifiedReader
from modelnet.loaders.verdicts import Verdicts

__all__ = ["SEAL_LIMIT", "Secured", "has_descriptor_paths", "has_other_names", "open_signed", "private_copy", "secure"]

DESCRIPTORS = "/proc/self/fd"
SEAL_LIMIT = 1 << 30  # bytes of a file that is copied into memory unasked
COPIED = 4 * 1024 * 1024  # bytes written at once into a private copy


@dataclass(slots=True)
class Secured:
    """A file whose content was verified; `handle` is ours until `close`."""

    entry: FileEntry
    tree: Callable[[], FileTree]  # its chunk list, which a cached verdict does without
    handle: int
    level: Level
    source: str

    @property
    def path(self) -> str:
        """A path that any library of this process may open, as often as it likes."""
        return f"/proc/self/fd/{self.handle}"

    @property
    def shared_path(self) -> str:
        """The same for other processes of this user, for as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self.handle}"

    def reader(self) -> VerifiedReader:
        """Return a reader over a descriptor of its own."""
        return VerifiedReader(os.dup(self.handle), self.tree(), source=self.source)

    def close(self) -> None:
        """Let go of the file."""
        if self.handle >= 0:
            handle, self.handle = self.handle, -1
            os.close(handle)


def has_descriptor_paths() -> bool:
    """Tell whether this system gives the descriptors of a process paths that may be opened (Linux)."""
    return os.path.isdir(DESCRIPTORS)  # noqa: PTH112


def open_signed(base: Path, entry: FileEntry) -> int:
    """Open the file of `entry` below `base`, following no link on the way, once its size is the signed one.

    Raises `IntegrityError` naming what it is instead, `UnavailableError` when it cannot be read.
    """
    path = entry.path
    source = str(base)
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    folder = -1
    try:
        folder = os.open(base, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0))
        *parents, name = path.split("/")
        for part in parents:
            below = os.open(part, flags | getattr(os, "O_DIRECTORY", 0), dir_fd=folder)
            os.close(folder)
            folder = below
        handle = os.open(name, flags | getattr(os, "O_NONBLOCK", 0), dir_fd=folder)
    except FileNotFoundError as error:
        raise IntegrityError(
            "a file that was signed is missing", rule="missing", path=path, source=source, hint="pull the release again"
        ) from error
    except OSError as error:
        if _is_link(base, path):
            raise IntegrityError(
                "a symbolic link is not what was signed", rule="symlink", path=path, source=source
            ) from error
        raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=path) from error
    finally:
        if folder >= 0:
            os.close(folder)
    status = os.fstat(handle)
    wanted = entry.size
    if stat.S_ISREG(status.st_mode) and status.st_size == wanted:
        return handle
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError("not a regular file", rule="file-type", path=path, source=source)
    raise IntegrityError(
        "the file has another size than was signed", rule="size", path=path, source=source,
        wanted=f"{wanted} bytes", got=f"{status.st_size} bytes", hint="pull the release again",
    )  # fmt: skip


def _is_link(base: Path, path: str) -> bool:
    parts = path.split("/")
    return any((base / "/".join(parts[:count])).is_symlink() for count in range(1, len(parts) + 1))


def secure(
    base: Path,
    entry: FileEntry,
    tree: Callable[[], FileTree],
    *,
    level: Level | None,
    verdicts: Verdicts,
    pool: ThreadPoolExecutor,
    may_change: bool = False,
    sealable: int = SEAL_LIMIT,
    room: int = 0,
) -> Secured:
    """Return the file of `entry` below `base`, verified, at `level` or at the strongest level that applies.

    Without a level: a sealed copy for a file of at most `sealable` bytes, else fs-verity where the file has it (or can
    be given it: `may_change`), else a held descriptor. A file with other names (hard links) is not held: it is sealed
    if there is `room` for that. `CACHED` is only used when asked for, and hashes when there is no verdict. Raises
    `IntegrityError` before anybody can see a path, `UnavailableError` for a level not to be had.
    """
    source = str(base)
    handle = open_signed(base, entry)
    try:
        chosen = level or _strongest(handle, entry.size, sealable, may_change=may_change)
        if chosen in (Level.HELD, Level.CACHED) and has_other_names(handle):
            chosen = _sealed_instead(entry, chosen, source, room if level is None else -1)
        if chosen is Level.SEALED:
            memory = sealed.sealed_copy(handle, tree(), source=source, pool=pool)
            os.close(handle)
            return Secured(entry, tree, memory, chosen, source)
        if chosen is Level.VERITY:
            _need_verity(handle, entry, may_change=may_change)
        if chosen is Level.CACHED and not verdicts.holds(handle, entry.cid):
            chosen = Level.HELD
        if chosen is not Level.CACHED:
            before = os.fstat(handle)
            VerifiedReader(handle, tree(), source=source).check_all(pool)
            verdicts.record(handle, entry.cid, before)
    except BaseException:
        os.close(handle)
        raise
    return Secured(entry, tree, handle, chosen, source)


def has_other_names(handle: int) -> bool:
    """Tell whether the open file can be reached, and written to, by a name outside the release."""
    return os.fstat(handle).st_nlink > 1


def _sealed_instead(entry: FileEntry, wanted: Level, source: str, room: int) -> Level:
    if entry.size <= room and sealed.is_available():
        return Level.SEALED
    raise UnavailableError(
        "the file has other names (hard links), by which it may be written", rule="hardlink", path=entry.path,
        wanted=f"one name at level {wanted.label}", source=source,
        hint='level="sealed" or "copy" makes a copy of its own',
    )  # fmt: skip


def _strongest(handle: int, size: int, sealable: int, *, may_change: bool) -> Level:
    if size <= sealable and sealed.is_available():
        return Level.SEALED
    if verity.enable(handle) if may_change else verity.is_enabled(handle):
        return Level.VERITY
    return Level.HELD


def _need_verity(handle: int, entry: FileEntry, *, may_change: bool) -> None:
    if not (verity.enable(handle) if may_change else verity.is_enabled(handle)):
        raise UnavailableError(
            "the file is not under fs-verity", rule="level", path=entry.path, wanted=Level.VERITY.label
        )


def private_copy(base: Path, tree: FileTree, target: Path) -> None:
    """Write the verified content of a file to `target`, a new file that nobody may write: a copy of our own."""
    reader = VerifiedReader(open_signed(base, tree.entry), tree, source=str(base))
    try:
        with target.open("xb") as file:
            for start in range(0, reader.size, COPIED):
                file.write(reader.read(start, min(COPIED, reader.size - start)))
        target.chmod(0o444)
    finally:
        reader.close()
