"""Read a signed file so that the bytes that were hashed are the bytes that are used.

    reader = VerifiedReader(handle, tree, source="/srv/models/tiny")
    reader.read(0, 8)                       # bytes, checked
    reader.read_into(start, view)           # straight into the caller's memory, on all cores

Each chunk is read into memory of our own, hashed there, and only then handed out: what anybody does to the file before,
while or after cannot change what the caller got. Nothing is read twice but the chunk at either end of a range. A
`VerifiedReader` is a `ByteSource`, so a format reader that is given one sees verified bytes only.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modelnet.checking import CORES
from modelnet.core.cid import BLAKE3, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree
from modelnet.errors import IntegrityError, MalformedError, UnavailableError
from modelnet.formats import SpanKind, read_layout

__all__ = ["POOLED", "OneByOne", "VerifiedReader", "memory_of", "new_pool"]

GROUP = 1024 * 1024  # bytes read by one call, so that they are hashed while the processor's cache has them
TASK = 8 * 1024 * 1024  # bytes of one task for a thread
POOLED = 4 * 1024 * 1024  # bytes from which on a read is worth a pool of threads
SHOWN = 120  # characters of a tensor's name in a refusal
KEPT = 4  # chunks kept for the many small reads of a header; at most 4 MiB


class VerifiedReader:
    """Random access to one file's verified bytes; `close` it when done. Threads may share it."""

    def __init__(self, handle: int, tree: FileTree, *, source: str, holes: bool = False) -> None:
        """Own the descriptor `handle`; `source` says in errors where the file came from.

        `holes` says that the file was pulled in part: zeros where a chunk belongs are then no damage, but missing.
        """
        self.tree = tree
        self.source = source
        self._holes = holes
        self._handle = handle
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def path(self) -> str:
        """The file's path in its release."""
        return self.tree.entry.path

    @property
    def size(self) -> int:
        """Length of the file in bytes, as it was signed."""
        return self.tree.entry.size

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._handle)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`; raise `MalformedError` past the end."""
        self._check_range(offset, length)
        if not length:
            return b""
        first, last = self.tree.index_at(offset), self.tree.index_at(offset + length - 1)
        if last - first >= KEPT:
            whole = bytearray(length)
            self.read_into(offset, memoryview(whole))
            return bytes(whole)
        joined = b"".join(self._chunk(index) for index in range(first, last + 1))
        start = offset - self.tree.offsets[first]
        return joined[start : start + length]

    def read_into(self, offset: int, view: memoryview, pool: ThreadPoolExecutor | None = None) -> None:
        """Fill `view` with the bytes from `offset` on; raise `IntegrityError` at the first that were not signed.

        `view` holds whatever was read when this raises: use it only after this has returned.
        """
        self._check_range(offset, len(view))
        if not len(view):
            return
        tasks = self._tasks(offset, offset + len(view))
        if pool is None or len(tasks) == 1:
            for task in tasks:
                self._fill(task, offset, view)
            return
        # In the order of the file, so that the first difference is the one that is reported.
        for _ in pool.map(lambda task: self._fill(task, offset, view), tasks):
            pass

    def check_all(self, pool: ThreadPoolExecutor | None = None) -> None:
        """Hash the whole file and throw the bytes away."""
        if self.size:
            ranges = [(at, min(at + TASK, self.size)) for at in range(0, self.size, TASK)]
            run = map if pool is None else pool.map
            for _ in run(self._check_range_of, ranges):
                pass

    def read_unverified(self, offset: int, length: int) -> bytes:
        """Return what lies there now, right or not; what is missing is zeros."""
        self._check_range(offset, length)
        content = bytearray(length)
        self._preadv(memoryview(content), offset)
        return bytes(content)

    def _check_range_of(self, bounds: tuple[int, int]) -> None:
        """Hash the chunks that begin in `bounds`."""
        tree, start, stop = self.tree, *bounds
        index = tree.index_at(start)
        if tree.offsets[index] < start:
            index += 1
        scratch = memoryview(bytearray(GROUP))
        while index < len(tree) and tree.offsets[index] < stop:
            index = self._group(index, len(tree), scratch)

    def _tasks(self, start: int, end: int) -> list[tuple[int, int]]:
        """Cut the chunks over `[start, end)` into runs of about `TASK` bytes."""
        tree = self.tree
        first, stop = tree.index_at(start), tree.index_at(end - 1) + 1
        tasks: list[tuple[int, int]] = []
        while first < stop:
            until = min(tree.index_at(min(tree.offsets[first] + TASK, end) - 1) + 1, stop)
            tasks.append((first, until))
            first = until
        return tasks

    def _fill(self, task: tuple[int, int], offset: int, view: memoryview) -> None:
        """Read and check the chunks of `task` into their place in `view`, whose first byte is `offset` of the file."""
        tree = self.tree
        index, stop = task
        end = offset + len(view)
        while index < stop:
            start, size = tree.offsets[index], tree.size_of(index)
            if start < offset or start + size > end:
                content = self._chunk(index)
                begin, until = max(start, offset), min(start + size, end)
                view[begin - offset : until - offset] = content[begin - start : until - start]
                index += 1
            else:
                index = self._group(index, stop, view[start - offset :])

    def _group(self, index: int, stop: int, view: memoryview) -> int:
        """Read adjacent chunks from `index` on into `view` with one call and check each; return the next index."""
        tree = self.tree
        start, first, total = tree.offsets[index], index, 0
        while index < stop and (size := tree.size_of(index)) + total <= min(len(view), GROUP):
            total += size
            index += 1
        read = self._preadv(view[:total], start)
        position = 0
        for current in range(first, index):
            size = tree.size_of(current)
            self._check(current, view[position : min(position + size, read)])
            position += size
        return index

    def _chunk(self, index: int) -> bytes:
        """Return one verified chunk; the last few are kept."""
        with self._lock:
            if (kept := self._kept.get(index)) is not None:
                self._kept.move_to_end(index)
                return kept
        content = bytearray(self.tree.size_of(index))
        read = self._preadv(memoryview(content), self.tree.offsets[index])
        self._check(index, memoryview(content)[:read])
        fixed = bytes(content)
        with self._lock:
            self._kept[index] = fixed
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return fixed

    def _preadv(self, view: memoryview, offset: int) -> int:
        if self._closed:
            raise ValueError("the file is closed")
        done = 0
        try:
            while done < len(view) and (read := os.preadv(self._handle, [view[done:]], offset + done)):
                done += read
        except OSError as error:
            raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=self.path) from error
        return done

    def _check(self, index: int, content: memoryview) -> None:
        tree = self.tree
        if len(content) == tree.size_of(index):
            digest = blake3_digest(content)
            if digest == tree.digest_of(index):
                return
            got: object = Cid(RAW, BLAKE3, digest)
        else:
            got = f"{len(content)} bytes"
        start = tree.offsets[index]
        where = self._what_lies_at(start, start + tree.size_of(index))
        if self._holes and not content.tobytes().strip(b"\0"):
            raise UnavailableError(
                f"{where} is not here: the file was pulled in part", rule="missing", path=self.path,
                wanted=Cid(RAW, BLAKE3, tree.digest_of(index)), hint="pull it with --tensors, or the whole release",
            )  # fmt: skip
        raise IntegrityError(
            f"{where} differs from what was signed", rule="hash", path=self.path, offset=start, source=self.source,
            wanted=Cid(RAW, BLAKE3, tree.digest_of(index)), got=got, hint="pull the release again",
        )  # fmt: skip

    def _what_lies_at(self, start: int, end: int) -> str:
        """Return in words what the bytes `[start, end)` are, as far as the file's header, right or not, still says."""
        layout = read_layout(_Unverified(self))
        inside = [span for span in layout.tensors if span.start < end and span.end > start] if layout else []
        if layout is None or (not inside and len(layout.spans) == 1):
            return "the file"
        # One hash covers all that lies in a chunk: which of it differs cannot be told.
        header = start < layout.spans[0].end and layout.spans[0].kind is SpanKind.HEADER
        names = [f"{span.name[:SHOWN]!r}" for span in inside]
        if not names:
            return "the header" if header else "the file"
        begins = "the header or " if header else ""
        beside = any(
            span.kind in (SpanKind.PADDING, SpanKind.TAIL) and span.start < end and span.end > start
            for span in layout.spans
        )
        if len(names) == 1:
            return f"{begins}tensor {names[0]}{' or what lies beside it' if beside else ''}"
        named = f" {names[0]} to {names[-1]}" if inside[0].name and inside[-1].name else ""
        ends = " or what lies beside them" if beside else ""
        return f"{begins}one of the {len(names)} tensors{named}{ends} (bytes {start} to {end - 1})"

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or length > self.size - offset:
            raise MalformedError(
                "the file ends too early", rule="truncated", path=self.path, offset=offset,
                wanted=f"{length} bytes", got=self.size,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Unverified:
    """The file as it lies there, for the words of a refusal and nothing else."""

    reader: VerifiedReader

    @property
    def size(self) -> int:
        return self.reader.size

    def read(self, offset: int, length: int) -> bytes:
        return self.reader.read_unverified(offset, length)


class OneByOne(Mapping[str, VerifiedReader]):
    """Readers by path that are opened when they are looked up, one at a time: a release may have 100,000 files."""

    def __init__(self, paths: Sequence[str], opened: Callable[[str], VerifiedReader]) -> None:
        """Open `path` with `opened(path)`; the reader is closed when the next one is looked up."""
        self._paths = paths
        self._opened = opened
        self._reader: VerifiedReader | None = None

    def __getitem__(self, path: str) -> VerifiedReader:
        self.close()
        self._reader = self._opened(path)
        return self._reader

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def close(self) -> None:
        """Close the reader that is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def memory_of(size: int) -> mmap.mmap | bytearray:
    """Return memory of our own for `size` bytes; large memory is not touched here but by the threads that fill it."""
    if size < POOLED or not hasattr(mmap, "MAP_ANONYMOUS"):
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def new_pool() -> ThreadPoolExecutor:
    """Return a pool with a thread for each core."""
    return ThreadPoolExecutor(CORES, thread_name_prefix="modelnet-load")
