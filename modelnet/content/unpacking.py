"""Unpack what is compressed, a piece at a time and no more than is asked for, whatever sizes it claims.

`UnpackedSource` shows a member of a zip as a `ByteSource`; `unpacked_head` gives the beginning of a whole file.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from modelnet.errors import MalformedError
from modelnet.formats.layout import ByteSource

__all__ = ["PACKED_PEEK", "PEEK", "Budget", "Head", "UnpackedSource", "unpacked_head"]

PEEK = 64 * 1024  # bytes that come out of a compressed file and are looked at
PACKED_PEEK = 256 * 1024  # bytes of a compressed file that are given to its decompressor
PIECE = 4096  # given at once; small, for what follows the end of a stream is copied
LZMA_MEMORY = 128 * 1024 * 1024  # what xz -9 asks for is 65 MiB
BROKEN = (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError)
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14  # PKWARE APPNOTE 4.4.5


class _Decompressor(Protocol):
    """The part of Python's decompressors that they share."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out of what was given."""

    @property
    def unused_data(self) -> bytes:
        """What follows the end of the stream."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return at most `max_length` bytes, and keep what was not needed for them."""


class _Inflate:
    """zlib's decompressor with the manners of the others."""

    __slots__ = ("_inner", "_rest")

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self._rest = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._rest and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        content = self._inner.decompress(self._rest + data, max_length)
        self._rest = self._inner.unconsumed_tail
        return content


def _lzma(format_: int) -> Callable[[], _Decompressor]:
    return lambda: lzma.LZMADecompressor(format_, memlimit=LZMA_MEMORY)


STREAMS: dict[str, Callable[[], _Decompressor]] = {
    "zlib": lambda: _Inflate(zlib.MAX_WBITS),
    "gzip": lambda: _Inflate(zlib.MAX_WBITS | 16),
    "bzip2": bz2.BZ2Decompressor,
    "xz": _lzma(lzma.FORMAT_XZ),
    "lzma": _lzma(lzma.FORMAT_ALONE),
}
# One stream after another is one file to their readers.
REPEATED = frozenset(["gzip", "bzip2", "xz"])


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes that come out; `is_broken` when the stream breaks after them, `is_whole` when it ends there."""

    content: bytes
    is_broken: bool
    is_whole: bool


def unpacked_head(source: ByteSource, kind: str) -> Head:
    """Return the first bytes that come out of a compressed file; nothing for what cannot be unpacked here."""
    if kind not in STREAMS:
        return Head(b"", is_broken=False, is_whole=False)
    packed = source.read(0, min(PACKED_PEEK, source.size))
    head = _run(packed, kind, PIECE)
    # A decompressor that finds a piece broken keeps what it made of the beginning; readers that stream have had it.
    return _run(packed, kind, 1) if head.is_broken else head


def _run(packed: bytes, kind: str, piece: int) -> Head:
    machine, made, given = STREAMS[kind](), bytearray(), 0
    try:
        while len(made) < PEEK:
            data = b""
            if machine.eof:
                rest = machine.unused_data
                if kind not in REPEATED or not (rest or given < len(packed)):
                    return Head(bytes(made), is_broken=False, is_whole=True)
                machine, data = STREAMS[kind](), rest
            elif machine.needs_input and given >= len(packed):
                break
            if machine.needs_input and not data:
                data = packed[given : given + piece]
                given += piece
            made += machine.decompress(data, PEEK - len(made))
    except BROKEN:
        return Head(bytes(made), is_broken=True, is_whole=False)
    return Head(bytes(made), is_broken=False, is_whole=machine.eof)


@dataclass(slots=True)
class Budget:
    """What may still be spent on one archive, so that many members cost no more than a few."""

    bytes: int
    opcodes: int


class UnpackedSource:
    """A compressed run of bytes as a `ByteSource` that unpacks as far as it is read; its size is only claimed.

    Rules: `unpack` for what cannot be unpacked, `header-too-large` for more than `limit` or the budget.
    """

    __slots__ = ("_budget", "_content", "_end", "_limit", "_machine", "_position", "_source", "size")

    def __init__(
        self, source: ByteSource, start: int, end: int, *, method: int, size: int, limit: int, budget: Budget
    ) -> None:
        self.size = size
        self._source = source
        self._position, self._end = start, end
        self._content = bytearray()
        self._limit = limit
        self._budget = budget
        self._machine, self._position = self._begin(method)

    def _begin(self, method: int) -> tuple[_Decompressor, int]:
        if method == DEFLATED:
            return _Inflate(-zlib.MAX_WBITS), self._position
        if method == BZIP2:
            return bz2.BZ2Decompressor(), self._position
        # Two bytes of version and two of a length, then the properties of the old format, which has a size too
        # (APPNOTE 5.8.8): that one bounds its memory.
        if method == LZMA and self._end - self._position >= 9:
            start = self._source.read(self._position, 9)
            if start[2:4] == b"\x05\0":
                machine = STREAMS["lzma"]()
                try:
                    machine.decompress(start[4:] + b"\xff" * 8, 0)
                except BROKEN as error:
                    raise self._broken(str(error)) from error
                return machine, self._position + 9
        raise self._broken(f"method {method}")

    def _broken(self, why: str) -> MalformedError:
        return MalformedError(f"cannot be unpacked: {why}"[:200], rule="unpack", offset=self._position)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`."""
        wanted = offset + length
        if offset < 0 or length < 0 or wanted > self.size:
            raise MalformedError("the member ends too early", rule="truncated", offset=offset, got=self.size)
        if wanted > self._limit or wanted - len(self._content) > self._budget.bytes:
            raise MalformedError("more than is unpacked to be looked at", rule="header-too-large", offset=offset)
        self._fill(wanted)
        if wanted > len(self._content):
            raise self._broken(f"it ends after {len(self._content)} bytes and claims {self.size}")
        return bytes(self._content[offset:wanted])

    def is_longer(self) -> bool:
        """Tell whether more comes out than was claimed, of a member that is looked at as a whole."""
        if self.size <= PEEK:
            self._fill(self.size + 1)
        return len(self._content) > self.size

    def _fill(self, wanted: int) -> None:
        before = len(self._content)
        machine = self._machine
        try:
            while len(self._content) < wanted and not machine.eof:
                data = b""
                if machine.needs_input:
                    if self._position >= self._end:
                        break
                    data = self._source.read(self._position, min(PIECE, self._end - self._position))
                    self._position += len(data)
                self._content += machine.decompress(data, wanted - len(self._content))
        except BROKEN as error:
            raise self._broken(str(error) or type(error).__name__) from error
        finally:
            self._budget.bytes -= len(self._content) - before
