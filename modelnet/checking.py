"""Hash a file on disk against its signed chunk list, on all cores.

Reads go through small reused buffers, so a chunk is hashed while it is still in the processor's cache, and a file that
shrinks meanwhile is an answer, not a crash (a memory map would be killed by it).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from modelnet.core.cid import BLAKE3, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree
from modelnet.errors import IntegrityError, UnavailableError

__all__ = ["CORES", "check_chunks", "data_chunks", "in_hole", "is_zeros", "open_file", "read_buffer", "verify_file"]

GROUP = 1024 * 1024  # bytes read by one call; at least one chunk
LARGEST_TASK, SMALLEST_TASK = 32, 2  # reads of one task for a thread

BLOCK = 4096  # bytes; what holes are made of on most file systems, and what keeps most content-cut chunks out
ZERO_SIZES = 64  # of chunks: a grid has few, and content cuts zeros at its largest size

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Advance = Callable[[int], None]


def read_buffer(size: int) -> memoryview:
    """Return memory to read into; unlike a bytearray it is not filled with zeros while the interpreter is held."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class _Buffers(threading.local):
    """One read buffer for each thread."""

    def __init__(self) -> None:
        self.view = read_buffer(GROUP)


_BUFFERS = _Buffers()


def open_file(path: Path) -> int:
    """Open a regular file for reading, not following a link; raises `OSError`."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def check_chunks(
    handle: int, tree: FileTree, indexes: Sequence[int], pool: ThreadPoolExecutor, advance: Advance = lambda _: None
) -> list[int]:
    """Return those of `indexes` (sorted) whose chunk in the open file is right."""
    tasks = _tasks(_runs(tree, indexes))
    if len(tasks) <= 1:
        return [index for task in tasks for index in _check(handle, tree, task, advance)]
    return [index for right in pool.map(lambda task: _check(handle, tree, task, advance), tasks) for index in right]


def _runs(tree: FileTree, indexes: Sequence[int]) -> list[range]:
    """Group `indexes` into runs of adjacent chunks that one read brings in."""
    runs: list[range] = []
    position = 0
    while position < len(indexes):
        first = indexes[position]
        limit = tree.offsets[first] + GROUP
        fit = len(tree) if tree.entry.size <= limit else bisect_right(tree.offsets, limit, first) - 1
        stop = first + 1
        while stop < fit and position + stop - first < len(indexes) and indexes[position + stop - first] == stop:
            stop += 1
        runs.append(range(first, stop))
        position += stop - first
    return runs


def _tasks(runs: Sequence[range]) -> list[Sequence[range]]:
    """Cut `runs` into tasks for threads, smaller ones towards the end, so that all cores are done at the same time."""
    tasks: list[Sequence[range]] = []
    first = 0
    while first < len(runs):
        count = min(max((len(runs) - first) // (2 * CORES), SMALLEST_TASK), LARGEST_TASK)
        tasks.append(runs[first : first + count])
        first += count
    return tasks


def _check(handle: int, tree: FileTree, runs: Sequence[range], advance: Advance) -> list[int]:
    view = _BUFFERS.view
    right: list[int] = []
    for run in runs:
        start, end = tree.offsets[run.start], tree.offsets[run.stop - 1] + tree.size_of(run.stop - 1)
        read = os.preadv(handle, [view[: end - start]], start)
        bounds = pairwise([*tree.offsets[run.start : run.stop], end])
        found = [blake3_digest(view[first - start : last - start]) for first, last in bounds if last - start <= read]
        right += [index for index, digest in zip(run, found, strict=False) if digest == tree.digest_of(index)]
        advance(end - start)
    return right


def verify_file(
    path: Path,
    tree: FileTree,
    pool: ThreadPoolExecutor,
    advance: Advance = lambda _: None,
    *,
    shown: str | None = None,
    holes: bool = False,
) -> int:
    """Raise unless the file at `path` is byte for byte what was signed; return how many of its bytes are there.

    With `holes`, for a file that was pulled in part, chunks may be missing: nothing but zeros lies where they belong.
    `IntegrityError` says the first wrong offset, what was wanted and found; `UnavailableError` that it cannot be read.
    """
    name = shown or str(path)
    try:
        handle = open_file(path)
    except FileNotFoundError as error:
        raise IntegrityError(
            "a file that was signed is missing", rule="missing", path=name, hint="pull the release again"
        ) from error
    except OSError as error:
        if path.is_symlink():
            raise IntegrityError("a symbolic link is not what was signed", rule="symlink", path=name) from error
        raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=name) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError("not a regular file any more", rule="file-type", path=name)
        size = status.st_size
        expected: Sequence[int] = [*data_chunks(handle, tree)] if holes and tree.entry.size else range(len(tree))
        right = check_chunks(handle, tree, expected, pool, advance)
        if len(right) != len(expected):
            good = set(right)
            for index in expected:
                if index not in good and not (holes and _is_hole(handle, tree, index)):
                    _refuse(handle, tree, index, name)
        if size != tree.entry.size:
            raise IntegrityError(
                "the file has bytes that were not signed", rule="size", path=name,
                offset=tree.entry.size, wanted=f"{tree.entry.size} bytes", got=f"{size} bytes",
            )  # fmt: skip
    except OSError as error:
        raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=name) from error
    finally:
        os.close(handle)
    return tree.entry.size if len(right) == len(tree) else sum(map(tree.size_of, right))


def _is_hole(handle: int, tree: FileTree, index: int) -> bool:
    """Tell whether nothing was written where a chunk belongs: a file system without holes keeps zeros there."""
    content = os.pread(handle, tree.size_of(index), tree.offsets[index])
    return len(content) == tree.size_of(index) and not content.strip(b"\0")


def _refuse(handle: int, tree: FileTree, index: int, name: str) -> None:
    content = os.pread(handle, tree.size_of(index), tree.offsets[index])
    raise IntegrityError(
        "the file differs from what was signed", rule="hash", path=name, offset=tree.offsets[index],
        wanted=Cid(RAW, BLAKE3, tree.digest_of(index)), got=Cid(RAW, BLAKE3, blake3_digest(content)),
    )  # fmt: skip


@lru_cache(ZERO_SIZES)
def _digest_of_zeros(size: int) -> bytes:
    return blake3_digest(bytes(size))


def is_zeros(tree: FileTree, index: int) -> bool:
    """Tell whether a chunk, as it was signed, is whole blocks of nothing but zeros: what a hole reads as."""
    size = tree.size_of(index)
    return size > 0 and size % BLOCK == 0 and tree.digest_of(index) == _digest_of_zeros(size)


def in_hole(handle: int, tree: FileTree, index: int) -> bool:
    """Tell whether a chunk reads as zeros without taking room; no where the system cannot tell.

    The file has its size already. Blocks at the edges may be shared with neighbours that have data: those are read.
    """
    start, end = tree.offsets[index], tree.offsets[index] + tree.size_of(index)
    first, last = -(-start // BLOCK) * BLOCK, end // BLOCK * BLOCK
    if not hasattr(os, "SEEK_DATA") or first >= last:
        return False
    try:
        if os.lseek(handle, first, os.SEEK_DATA) < last:
            return False
    except OSError as error:
        # No data from there on; unless that is past the end, where there is no hole either.
        if error.errno != errno.ENXIO or os.fstat(handle).st_size < end:
            return False
    edges = os.pread(handle, first - start, start) + os.pread(handle, end - last, last)
    return len(edges) == first - start + end - last and not edges.strip(b"\0")


def data_chunks(handle: int, tree: FileTree) -> Iterable[int]:
    """Return the chunks of a sparse file that may be right: with data, and zeros wherever they are in the file.

    Other holes are skipped where the system can tell them.
    """
    if not hasattr(os, "SEEK_DATA"):
        return range(len(tree))
    end = os.fstat(handle).st_size
    data = _with_data(handle, tree, end)
    known = set(data)
    zeros = [
        index
        for index in range(len(tree))
        if index not in known and is_zeros(tree, index) and tree.offsets[index] + tree.size_of(index) <= end
    ]
    return sorted([*data, *zeros]) if zeros else data


def _with_data(handle: int, tree: FileTree, end: int) -> list[int]:
    found: list[int] = []
    position = 0
    while position < end:
        try:
            begin = os.lseek(handle, position, os.SEEK_DATA)
            position = os.lseek(handle, begin, os.SEEK_HOLE)
        except OSError:
            break  # ENXIO: no data after `position`
        first = max(tree.index_at(begin), found[-1] + 1 if found else 0)
        last = tree.index_at(min(position, tree.entry.size) - 1) if begin < tree.entry.size else -1
        found.extend(range(first, last + 1))
    return found
