"""Bounded reading of a file's header: a block at a time, with a budget that no claimed number can raise.

Each format reader makes one `Window` over its `ByteSource`. The window keeps the last block read, so that walking
forward costs one read for each block, and jumping over tensor data costs nothing:

    >>> from modelnet.formats.layout import BytesSource
    >>> Window(BytesSource(b"GGUF" + bytes(96)), block=64, budget=1024).read(0, 4)
    b'GGUF'

Rules: `truncated` when a structure runs past the end of the file, `header-too-large` when the budget is spent.
"""

from __future__ import annotations

import struct

from modelnet.errors import MalformedError
from modelnet.formats.layout import ByteSource

__all__ = ["MAX_SPANS", "Window", "refusal"]

# The largest single files seen hold some thousands of tensors and the whole of DeepSeek-V3 (over 163 files) 91,991.
# A span takes about 400 bytes of memory, so a hostile header costs at most about 100 MB.
MAX_SPANS = 262_144

U16 = struct.Struct("<H")
U32 = struct.Struct("<I")
I32 = struct.Struct("<i")
U64 = struct.Struct("<Q")


def refusal(message: str, rule: str, offset: int, *, wanted: object = None, got: object = None) -> MalformedError:
    """The `MalformedError` of a broken rule at `offset`, for the reader to raise."""
    return MalformedError(message, rule=rule, offset=offset, wanted=wanted, got=got)


class Window:
    """One cached block of a file; reads anywhere, counts what it read and stops at its budget."""

    __slots__ = ("_block", "_budget", "_bytes", "_source", "_start", "size")

    def __init__(self, source: ByteSource, *, block: int, budget: int) -> None:
        """Read `source` at least `block` bytes at a time, and never more than `budget` bytes in all."""
        self.size = source.size
        self._source = source
        self._block = block
        self._budget = budget
        self._start = 0
        self._bytes = b""

    def hold(self, offset: int, length: int) -> tuple[bytes, int]:
        """Return a buffer and the index in it where the `length` bytes at `offset` of the file begin."""
        index = offset - self._start
        if index >= 0 and index + length <= len(self._bytes):
            return self._bytes, index
        if offset < 0 or length > self.size - offset:
            raise refusal(
                "the file ends inside a structure", "truncated", offset, wanted=f"{length} bytes", got=self.size
            )
        wanted = min(max(length, self._block), self.size - offset)
        if wanted > self._budget:
            raise refusal("the header is larger than a reader will follow", "header-too-large", offset)
        self._budget -= wanted
        self._bytes = self._source.read(offset, wanted)
        self._start = offset
        return self._bytes, 0

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes `[offset, offset + length)`."""
        buffer, index = self.hold(offset, length)
        return buffer[index : index + length]

    def u16(self, offset: int) -> int:
        """Return the little-endian unsigned 16-bit integer at `offset`."""
        value: int = U16.unpack_from(*self.hold(offset, 2))[0]
        return value

    def u32(self, offset: int) -> int:
        """Return the little-endian unsigned 32-bit integer at `offset`."""
        value: int = U32.unpack_from(*self.hold(offset, 4))[0]
        return value

    def i32(self, offset: int) -> int:
        """Return the little-endian signed 32-bit integer at `offset`."""
        value: int = I32.unpack_from(*self.hold(offset, 4))[0]
        return value

    def u64(self, offset: int) -> int:
        """Return the little-endian unsigned 64-bit integer at `offset`."""
        value: int = U64.unpack_from(*self.hold(offset, 8))[0]
        return value
