"""Read a file once, cut it, and take every digest that the manifest carries.

    reader ──window──▶ chunk hashes (BLAKE3, several threads)
           ├─────────▶ whole-file BLAKE3 (in order, one thread)
           └─────────▶ whole-file SHA-256 (in order, one thread; the slowest)

A few windows of memory are in flight; the next one is read while the last ones are hashed. The hash functions release
the interpreter lock. The file must be the same before and after: its size, times and inode are compared, and a file
that changed is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import blake3

from modelnet.checking import read_buffer
from modelnet.core import chunking
from modelnet.core.cid import BLAKE3, RAW, Cid, blake3_digest
from modelnet.core.manifest import FileEntry
from modelnet.core.unixfs import Child, Profile, balanced, leaf
from modelnet.cutting import content_cuts
from modelnet.errors import IntegrityError, MalformedError, UnavailableError, UsageError
from modelnet.formats import read_layout, sniff
from modelnet.formats.layout import Layout, Span, cover

__all__ = ["SMALL", "FileSource", "HashedFile", "hash_file"]

WINDOW = 8 * 1024 * 1024  # bytes read at once
IN_FLIGHT = 4  # windows in memory for each file
PIECE = 1024 * 1024  # bytes read at once by a file that has one thread: all its digests are taken while it is in cache
SMALL = 1024 * 1024  # below this a file is hashed in one go, without threads
GIT_BLOB = 1024 * 1024  # larger files are named by sha256 on the Hub (LFS), so no git digest is kept

Advance = Callable[[int], None]
ChunkRow = tuple[bytes, int, int]  # digest, offset, size


@dataclass(frozen=True, slots=True)
class FileSource:
    """A `ByteSource` over an open file descriptor."""

    handle: int
    size: int
    path: str

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`; raise `MalformedError` past the end."""
        content = os.pread(self.handle, length, offset) if offset >= 0 and 0 <= length <= self.size - offset else b""
        if len(content) != length:
            raise MalformedError(
                "the file ends too early",
                rule="truncated", path=self.path, offset=offset, wanted=f"{length} bytes", got=len(content),
            )  # fmt: skip
        return content


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file as it was while it was hashed: its manifest entry, its DAG, its tensors and where each chunk lies."""

    entry: FileEntry
    child: Child
    nodes: list[tuple[Cid, bytes]]
    chunks: list[ChunkRow]
    source: Path
    status: os.stat_result
    tensors: tuple[Span, ...] = ()

    def check_unchanged(self) -> None:
        """Raise `IntegrityError` if the file is no longer the one that was hashed."""
        try:
            now = self.source.stat(follow_symlinks=False)
        except OSError as error:
            raise _changed(self.entry.path, "it is gone") from error
        if _identity(now) != _identity(self.status):
            raise _changed(self.entry.path, "its size, time or inode is another")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _changed(path: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"the file changed while it was being published: {how}", rule="changed", path=path,
        hint="nothing was recorded; publish again when nothing writes to it",
    )  # fmt: skip


def hash_file(
    source: Path,
    path: str,
    *,
    plan: str,
    pool: ThreadPoolExecutor | None,
    advance: Advance,
    external: tuple[Span, ...] = (),
) -> HashedFile:
    """Hash the file at `source`, to be called `path` in the release, cut by `plan`.

    `external` are the tensors that another file says lie in this one (ONNX external data). `pool` runs chunk hashes;
    without one everything happens on this thread, which is faster when there are as many files as cores.
    Raises `UsageError` for what is not a regular file, `IntegrityError` when the file changes meanwhile,
    `UnavailableError` when it cannot be read.
    """
    try:
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=path) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("not a regular file", rule="file-type", path=path)
        opened = FileSource(handle, status.st_size, path)
        layout = _layout(opened, external)
        regions = _regions(opened, layout, plan)
        hasher = _Hasher(opened, pool, advance)
        chunks = hasher.run(regions)
        kind = layout.format if layout is not None else sniff(opened)
        if _identity(os.fstat(handle)) != _identity(status):
            raise _changed(path, "its size or time is another")
        if os.pread(handle, 1, status.st_size):  # as in /proc, where files say that they are empty
            raise UsageError(
                "the file has more bytes than its size says: it is no file on a disk", rule="file-type", path=path
            )
    except OSError as error:
        raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=path) from error
    finally:
        os.close(handle)
    nodes: list[tuple[Cid, bytes]] = []
    child = _build_dag(chunks, regions, nodes, raw=plan == chunking.FIXED_1M)
    entry = FileEntry(
        path, status.st_size, child.cid, hasher.blake3.digest(), hasher.sha256.digest(), plan, hasher.git_sha1, kind
    )
    tensors = layout.tensors if layout is not None else ()
    hashed = HashedFile(entry, child, nodes, chunks, source, status, tensors)
    hashed.check_unchanged()
    return hashed


def _layout(source: FileSource, external: tuple[Span, ...]) -> Layout | None:
    """Return the file's spans: what its own header says, else what another file says of it, else None."""
    if (layout := read_layout(source)) is not None or not external:
        return layout
    try:
        return Layout("onnx-data", cover(source.size, external))
    except MalformedError:
        return None  # the other file is wrong about this one; it can only cost reuse


def _regions(source: FileSource, layout: Layout | None, plan: str) -> list[chunking.Region] | None:
    """Return the regions to cut on a grid, or None when the content decides."""
    if plan == chunking.FIXED_1M:
        return [chunking.Region(0, source.size, chunking.LARGE_GRID)]
    if layout is not None and layout.spans:
        return chunking.regions(source.size, layout.spans)
    if chunking.cdc_sizes(source.size) is None:
        return [chunking.Region(0, source.size, chunking.GRID)]
    return None


def _build_dag(
    chunks: list[ChunkRow], regions: list[chunking.Region] | None, nodes: list[tuple[Cid, bytes]], *, raw: bool
) -> Child:
    """Build the file's DAG: one node over each region of several chunks, then the root over the regions.

    An empty file is a node without children, unless `raw` asks for the empty leaf that `ipfs add --raw-leaves` makes:
    Kubo never gives a block of no bytes to another Kubo (bitswap takes it for missing), and `ipfs get` waits for ever.
    """

    def emit(cid: Cid, block: bytes) -> None:
        nodes.append((cid, block))

    if not chunks[-1][2] and not raw:
        child, block = leaf(b"", Profile(raw_leaves=False))
        emit(child.cid, bytes(block))
        return child
    leaves = [Child(Cid(RAW, BLAKE3, digest), size, size) for digest, _, size in chunks]
    if regions is None or len(regions) == 1:
        return balanced(leaves, emit)
    tops, position = [], 0
    for region in regions:
        count = -(-(region.end - region.start) // region.grid)
        tops.append(balanced(leaves[position : position + count], emit))
        position += count
    return balanced(tops, emit)


class _Hasher:
    """Takes all digests of one open file in one pass."""

    def __init__(self, source: FileSource, pool: ThreadPoolExecutor | None, advance: Advance) -> None:
        self.source = source
        self.pool = pool
        self.advance = advance
        self.blake3 = blake3.blake3()
        self.sha256 = hashlib.sha256()
        self.git_sha1: bytes | None = None

    def run(self, regions: list[chunking.Region] | None) -> list[ChunkRow]:
        """Hash the whole file; return its chunks in order."""
        if self.source.size <= SMALL:
            return self._whole(regions)
        if self.pool is None:
            return self._in_turn(regions)
        chunks: list[ChunkRow] = []
        with ThreadPoolExecutor(1) as in_order_sha, ThreadPoolExecutor(1) as in_order_blake3:
            free = deque(read_buffer(WINDOW) for _ in range(IN_FLIGHT))
            flying: deque[tuple[memoryview, list[Future[None]], Future[list[ChunkRow]]]] = deque()

            def land() -> None:
                buffer, digests, rows = flying.popleft()
                chunks.extend(rows.result())
                for digest in digests:
                    digest.result()
                free.append(buffer)

            for offset, lengths, buffer in self._windows(self._cuts(regions), WINDOW, free, land):
                view = buffer[: sum(lengths)]
                flying.append((
                    buffer,
                    [in_order_sha.submit(self.sha256.update, view), in_order_blake3.submit(self._update, view)],
                    self.pool.submit(_hash_chunks, view, offset, lengths),
                ))  # fmt: skip
                self.advance(len(view))
            while flying:
                land()
        return chunks

    def _cuts(self, regions: list[chunking.Region] | None) -> Iterator[int]:
        """Return the lengths of the chunks: on the regions' grids, else where the content decides."""
        if regions is not None:
            return (length for region in regions for _, length in chunking.cut(region))
        sizes = chunking.cdc_sizes(self.source.size)
        if sizes is None:
            raise ValueError("a file this small has no content-defined cuts")
        return content_cuts(self.source.handle, self.source.size, sizes)

    def _in_turn(self, regions: list[chunking.Region] | None) -> list[ChunkRow]:
        """Take all digests on this thread, piece by piece: other files keep the other cores busy."""
        chunks: list[ChunkRow] = []
        buffer = read_buffer(PIECE)
        free = deque([buffer])
        for offset, lengths, _ in self._windows(self._cuts(regions), PIECE, free, lambda: None):
            view = buffer[: sum(lengths)]
            self.sha256.update(view)
            self.blake3.update(view)
            chunks += _hash_chunks(view, offset, lengths)
            free.append(buffer)
            self.advance(len(view))
        return chunks

    def _update(self, view: memoryview) -> None:
        self.blake3.update(view)

    def _whole(self, regions: list[chunking.Region] | None) -> list[ChunkRow]:
        content = memoryview(bytearray(self.source.size))
        self._fill(0, content)
        self.blake3.update(content)
        self.sha256.update(content)
        if len(content) < GIT_BLOB:
            header = b"blob %d\0" % len(content)
            self.git_sha1 = hashlib.sha1(header + content, usedforsecurity=False).digest()
        lengths = list(self._cuts(regions)) or [0]
        self.advance(len(content))
        return _hash_chunks(content, 0, lengths)

    def _windows(
        self, cuts: Iterator[int], size: int, free: deque[memoryview], land: Callable[[], None]
    ) -> Iterator[tuple[int, list[int], memoryview]]:
        """Yield (offset, chunk lengths, buffer) for one window of `size` bytes after another, waiting for a buffer."""
        offset = 0
        waiting = next(cuts, None)
        while waiting is not None:
            lengths: list[int] = []
            total = 0
            while waiting is not None and total + waiting <= size:
                lengths.append(waiting)
                total += waiting
                waiting = next(cuts, None)
            if not free:
                land()
            buffer = free.popleft()
            self._fill(offset, buffer[:total])
            yield offset, lengths, buffer
            offset += total
        if offset != self.source.size:
            raise _changed(self.source.path, "it became shorter")

    def _fill(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self.source.handle, [view[done:]], offset + done)
            if count == 0:
                raise _changed(self.source.path, "it became shorter")
            done += count


def _hash_chunks(view: memoryview, offset: int, lengths: list[int]) -> list[ChunkRow]:
    """Return the (digest, offset, size) of each chunk in `view`, which begins at `offset` of its file."""
    rows: list[ChunkRow] = []
    position = 0
    for length in lengths:
        rows.append((blake3_digest(view[position : position + length]), offset + position, length))
        position += length
    return rows
