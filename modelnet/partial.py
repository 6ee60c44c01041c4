"""A pull that is going on: the files at their final names and sizes, in a folder that is renamed when all is there.

    partial/<manifest>/lock        held while a pull writes here
    partial/<manifest>/files/…     sparse; what is missing is a hole

There is no list of what has arrived: the bytes are their own record. Resuming hashes what is on disk against the signed
chunk list, so a lost write, a flipped bit or a torn page is simply missing again, and no bitmap can claim otherwise.
References to arrived chunks go to the index now and then, so that other pulls and the node can use them; the index is
never trusted either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from modelnet import durable
from modelnet.checking import check_chunks, data_chunks, in_hole, is_zeros, open_file
from modelnet.core.filetree import FileTree
from modelnet.errors import UnavailableError
from modelnet.stores.index import FileStat, Index

__all__ = ["Partial", "disk_errors", "unused"]

OPEN_FILES = 64
FLUSH_BYTES = 64 * 1024 * 1024  # what a power cut may cost
FLUSH_S = 2.0
MANY_FILES = 256  # above this one sync of the system is cheaper than one for each file
IOV = 512  # below every IOV_MAX


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into `UnavailableError`, with what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UnavailableError(
            f"cannot write: {error.strerror or error}", rule="disk", path=str(error.filename or path),
            hint="free some space and try again; what has arrived is kept" if full
            else "choose a folder that can be written, with --to or MODELNET_HOME",
        ) from error  # fmt: skip


@contextmanager
def unused(root: Path) -> Iterator[bool]:
    """Hold the lock of the pull in `root`, so that none begins there meanwhile; gives False when one is going on."""
    try:
        guard = os.open(root / "lock", os.O_RDWR)
    except OSError:
        yield True  # nobody could be working there
        return
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(guard)


class Partial:
    """The folder of one unfinished pull; several threads may write."""

    def __init__(self, root: Path, trees: Sequence[FileTree], index: Index) -> None:
        """Use `root` for the files of `trees`; nothing is touched before `open`."""
        self.root = root
        self.files = root / "files"
        self.trees = trees
        self.index = index
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._fresh: dict[int, list[int]] = {}
        self._fresh_bytes = 0
        self._flushed = time.monotonic()
        self._guard: int | None = None

    def path(self, file: int) -> Path:
        """Return where file number `file` lies while it is pulled."""
        return self.files / self.trees[file].entry.path

    def open(self) -> None:
        """Take the lock and make the folders and files; raises `UnavailableError` when another pull has it."""
        while self._guard is None:
            with disk_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                self._guard = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close()
                raise UnavailableError(
                    "another pull of this release is going on",
                    rule="busy", path=str(self.root), hint="wait for it to end",
                ) from error  # fmt: skip
            if not _same(self._guard, self.root / "lock"):  # the pull that had it has just ended and removed the folder
                self.close()
        with disk_errors(self.root):
            for folder in self._folders():
                _expel(folder, stat.S_ISDIR)
                folder.mkdir(exist_ok=True)
            for file in range(len(self.trees)):
                _expel(self.path(file), stat.S_ISREG)

    def _folders(self) -> list[Path]:
        """Return every folder that holds a file of this pull, parents first."""
        parents = (Path(tree.entry.path).parents for tree in self.trees)
        return sorted({self.files / inner for inners in parents for inner in inners})

    def _foreign(self) -> bool:
        """Tell whether the folder holds more than this pull brings: what a pull of more files began, or junk."""
        mine = {str(self.path(file)) for file in range(len(self.trees))}
        return any(
            os.path.join(folder, name) not in mine  # noqa: PTH118  (100,000 files)
            for folder, _, names in os.walk(self.files)
            for name in names
        )

    def close(self) -> None:
        """Record what arrived, close the files and give the lock back; what was written stays."""
        try:
            self.flush()
        finally:
            with self._lock:
                while self._handles:
                    os.close(self._handles.popitem()[1])
                if self._guard is not None:
                    os.close(self._guard)
                    self._guard = None

    def clear(self) -> None:
        """Remove what a pull that was broken off left here, unless another pull works in it."""
        if self.root.exists():
            try:
                self.open()
            except UnavailableError:
                return
            self.discard()
        else:
            self.index.end_partial(self.root)

    def survey(self, file: int, pool: ThreadPoolExecutor) -> list[int]:
        """Return the chunks of `file` that are on disk and right, after a pull that was broken off."""
        tree = self.trees[file]
        try:
            handle = open_file(self.path(file))
        except OSError:
            return []  # nothing yet, or nothing that a pull writes
        try:
            right = check_chunks(handle, tree, list(data_chunks(handle, tree)), pool)
        except OSError:
            return []
        finally:
            os.close(handle)
        with self._lock:
            self._fresh.setdefault(file, []).extend(right)
        return right

    @contextmanager
    def _handle(self, file: int) -> Iterator[int]:
        with self._lock:
            handle = self._handles.get(file)
            if handle is None:
                handle = self._open_file(self.path(file))
                # Final size at once: writes at any offset, and what is missing is a hole.
                os.ftruncate(handle, self.trees[file].entry.size)
                self._handles[file] = handle
            self._handles.move_to_end(file)
            self._users[file] = self._users.get(file, 0) + 1
            self._evict()
        try:
            yield handle
        finally:
            with self._lock:
                self._users[file] -= 1

    def _open_file(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o644)
        except PermissionError:
            path.chmod(0o644)  # a pull that stopped between making its files read-only and renaming them
            return os.open(path, flags, 0o644)

    def _evict(self) -> None:
        for file in list(self._handles):
            if len(self._handles) <= OPEN_FILES:
                return
            if not self._users.get(file):
                os.close(self._handles.pop(file))

    def touch(self, file: int) -> None:
        """Make the empty file number `file`; its one chunk of no bytes has arrived with that."""
        with disk_errors(self.path(file)), self._handle(file):
            pass
        with self._lock:
            self._fresh.setdefault(file, []).extend(range(len(self.trees[file])))

    def write(self, file: int, chunks: Sequence[tuple[int, memoryview]]) -> None:
        """Write verified (index, bytes) chunks; neighbours go out in one call, and zeros stay a hole where one is."""
        tree = self.trees[file]
        arrived = sorted(chunks, key=lambda chunk: chunk[0])
        with disk_errors(self.path(file)), self._handle(file) as handle:
            ordered = [chunk for chunk in arrived if not (is_zeros(tree, chunk[0]) and in_hole(handle, tree, chunk[0]))]
            position = 0
            while position < len(ordered):
                end = position + 1
                while end < len(ordered) and end - position < IOV and ordered[end][0] == ordered[end - 1][0] + 1:
                    end += 1
                _write_all(handle, [view for _, view in ordered[position:end]], tree.offsets[ordered[position][0]])
                position = end
        with self._lock:
            self._fresh.setdefault(file, []).extend(index for index, _ in arrived)
            self._fresh_bytes += sum(len(view) for _, view in ordered)

    def flush_if_due(self) -> None:
        """Flush when 64 MiB or two seconds have passed since the last time."""
        if self._fresh_bytes >= FLUSH_BYTES or time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Make what arrived durable, then let others find it."""
        with self._lock:
            fresh, self._fresh, self._fresh_bytes = self._fresh, {}, 0
            self._flushed = time.monotonic()
        if not fresh:
            return
        with disk_errors(self.root):
            if len(fresh) <= MANY_FILES:
                for file in fresh:
                    with self._handle(file) as handle:
                        os.fdatasync(handle)
            with self.index.transaction():
                for file, indexes in fresh.items():
                    tree = self.trees[file]
                    row = self.index.set_file(str(self.path(file)), FileStat.of(self.path(file).stat()))
                    self.index.add_chunks(row, (
                        (tree.digest_of(index), tree.offsets[index], tree.size_of(index)) for index in indexes
                    ))  # fmt: skip

    def finish(self, destination: Path) -> list[tuple[Path, Path]]:
        """Make every file durable and read-only, put the folder at `destination`; return each file's (old, new) path.

        The rename is the commit point of the bytes: before it a crash leaves the partial, which is surveyed again;
        after it the files are where they belong and the next pull finds them there.
        """
        with disk_errors(self.root):
            for file in range(len(self.trees)):
                with self._handle(file) as handle:
                    if len(self.trees) <= MANY_FILES:
                        os.fsync(handle)
                    os.fchmod(handle, 0o444)
            if len(self.trees) > MANY_FILES:
                os.sync()
            for folder in {self.path(file).parent for file in range(len(self.trees))}:
                durable.sync_folder(folder)
        with disk_errors(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
            if destination.is_dir() or self._foreign():
                self._merge(destination)
            else:
                self.files.replace(destination)
            durable.sync_folder(destination.parent)
        return [(self.path(file), destination / tree.entry.path) for file, tree in enumerate(self.trees)]

    def _merge(self, destination: Path) -> None:
        """Put each file of this pull, and nothing else, where it belongs, one rename at a time."""
        for file in range(len(self.trees)):
            target = destination / self.trees[file].entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path(file).replace(target)
            durable.sync_folder(target.parent)

    def discard(self) -> None:
        """Remove the folder, after its files have moved, and forget the pull; keep what a pull of more files began."""
        self.close()
        with unused(self.root) as idle:  # another pull may have begun in it as soon as the lock was free
            if idle and not self._foreign():
                shutil.rmtree(self.root, ignore_errors=True)
        if not self.root.exists():  # else gc tries again
            self.index.end_partial(self.root)


def _same(handle: int, path: Path) -> bool:
    """Tell whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _expel(path: Path, belongs: Callable[[int], bool]) -> None:
    """Remove what stands at `path` unless its mode is one that `belongs` there: nothing is written through a link."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not belongs(mode):
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_all(handle: int, views: list[memoryview], offset: int) -> None:
    wanted = sum(map(len, views))
    done = os.pwritev(handle, views, offset)
    while done < wanted:  # a short write: the disk may be full, and then the next one says so
        rest: list[memoryview] = []
        skip = done
        for view in views:
            if skip < len(view):
                rest.append(view[skip:])
            skip = max(0, skip - len(view))
        count = os.pwritev(handle, rest, offset + done)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count
