"""Content-defined cuts of a large file, on several cores.

The compiled FastCDC holds the interpreter lock, so threads do not help. A few worker processes each cut a segment as if
a chunk began at its start. Where the true cuts meet a worker's cuts they are the same from there on, because a cut
depends only on the bytes after the one before it; in between, a few chunks are cut here. The result is exactly that of
cutting from the first byte, whether workers ran, failed or never started.

    worker   python -I -c "from modelnet.cutting import serve; serve()" HANDLE SIZE LEAST AVERAGE MOST
             stdin: a line `offset end`; stdout: a count, then that many offsets, all u64 of the machine
"""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

from modelnet.checking import CORES, read_buffer
from modelnet.core import chunking

__all__ = ["content_cuts", "serve"]

WINDOW = 4 * 1024 * 1024  # bytes read at once: several of the largest chunks, and they fit the processor's cache
SEGMENT = 16 * 1024 * 1024  # bytes a worker cuts at a time
HEAD = 6 * SEGMENT  # bytes cut here while the workers start (0.1 s), so that hashing has something to do
PARALLEL_ABOVE = 256 * 1024 * 1024  # below this a worker's start costs more than it brings
WORKERS = max(0, min(2, CORES - 1))  # together faster than one core's SHA-256; more would take its core

SCRIPT = "from modelnet.cutting import serve; serve()"

Sizes = tuple[int, int, int]


def content_cuts(handle: int, size: int, sizes: Sizes) -> Iterator[int]:
    """Yield the length of each chunk of the open file of `size` bytes, in order."""
    if size < PARALLEL_ABOVE or WORKERS < 2:
        return _lengths(_cut_from(handle, 0, size, size, sizes, buffer=read_buffer(WINDOW)))
    return _lengths(_stitch(handle, size, sizes))


def _lengths(cuts: Iterator[int]) -> Iterator[int]:
    before = 0
    for cut in cuts:
        yield cut - before
        before = cut


def _cut_from(handle: int, offset: int, end: int, size: int, sizes: Sizes, *, buffer: memoryview) -> Iterator[int]:
    """Yield the cuts after `offset`, up to the first one at or after `end`; `buffer` must hold the largest chunk."""
    most = sizes[2]
    while offset < end:
        length = min(len(buffer), size - offset, end - offset + most)  # enough for a chunk that begins before `end`
        read = os.preadv(handle, [buffer[:length]], offset)
        if read < length:
            return  # the file became shorter; whoever hashes it notices
        for count in chunking.cut_content(buffer[:length], sizes, last=offset + length == size):
            offset += count
            yield offset
            if offset >= end:
                return


def _stitch(handle: int, size: int, sizes: Sizes) -> Iterator[int]:
    """Yield all cuts, from the workers' segments where they meet the true ones."""
    starts = deque(range(HEAD, size, SEGMENT))
    position = 0
    buffer = read_buffer(WINDOW)
    with _Workers(handle, size, sizes) as workers:
        for _ in range(2 * WORKERS):
            workers.ask(starts)
        for cut in _cut_from(handle, 0, min(HEAD, size), size, sizes, buffer=buffer):
            position = cut
            yield cut
        for start in range(HEAD, size, SEGMENT):
            end = min(start + SEGMENT, size)
            guessed = workers.answer(start)
            workers.ask(starts)
            known = {cut: place for place, cut in enumerate(guessed)}
            while position < end:
                place = -1 if position == start else known.get(position)
                if place is not None and place + 1 < len(guessed):
                    yield from guessed[place + 1 :]
                    position = guessed[-1]
                    break
                # Not met yet: cut one chunk here.
                before = position
                for position in _cut_from(handle, before, before + 1, size, sizes, buffer=buffer):
                    yield position
                if position == before:
                    return


class _Workers:
    """The processes, and which of them was asked for which segment."""

    def __init__(self, handle: int, size: int, sizes: Sizes) -> None:
        self._size = size
        self._processes: list[subprocess.Popen[bytes]] = []
        self._asked: dict[int, subprocess.Popen[bytes]] = {}
        self._turn = 0
        command = [sys.executable, "-I", "-c", SCRIPT]
        for _ in range(WORKERS if sys.executable else 0):
            with suppress(OSError):
                self._processes.append(
                    subprocess.Popen(
                        [*command, *map(str, (handle, size, *sizes))], pass_fds=[handle],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    )
                )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            process.wait()

    def ask(self, starts: deque[int]) -> None:
        """Give the next segment to the next worker."""
        if not starts or not self._processes:
            return
        start = starts.popleft()
        process = self._processes[self._turn % len(self._processes)]
        self._turn += 1
        assert process.stdin is not None  # noqa: S101  (a pipe was asked for)
        with suppress(OSError):
            process.stdin.write(b"%d %d\n" % (start, min(start + SEGMENT, self._size)))
            process.stdin.flush()
            self._asked[start] = process

    def answer(self, start: int) -> array[int]:
        """Return the worker's cuts for the segment at `start`; none when it has no answer."""
        cuts = array("Q")
        process = self._asked.pop(start, None)
        if process is None or process.stdout is None:
            return cuts
        count = int.from_bytes(process.stdout.read(8), sys.byteorder)
        content = process.stdout.read(8 * count) if count <= SEGMENT else b""
        if len(content) % 8 == 0:
            cuts.frombytes(content)
        # Believed only as far as it is plausible: a worker that was killed while writing must not cut anything wrong.
        plausible = all(before < after <= self._size for before, after in zip([start, *cuts], cuts, strict=False))
        return cuts if plausible else array("Q")


def serve() -> None:
    """Cut the segments that stdin names, until it ends. Run in a process of its own."""
    os.nice(5)  # workers run ahead; what is hashed in order must not wait for a core because of them
    handle, size, least, average, most = map(int, sys.argv[1:6])
    buffer = read_buffer(WINDOW)
    for line in sys.stdin:
        offset, end = map(int, line.split())
        cuts = array("Q", _cut_from(handle, offset, end, size, (least, average, most), buffer=buffer))
        sys.stdout.buffer.write(len(cuts).to_bytes(8, sys.byteorder) + cuts.tobytes())
        sys.stdout.buffer.flush()
