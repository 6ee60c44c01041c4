"""Unsigned LEB128 integers in their one shortest encoding, as multiformats and protobuf write them.

Source: multiformats/unsigned-varint. At most nine bytes (63 bits); a padded encoding is refused.
"""

from __future__ import annotations

from modelnet.errors import MalformedError

__all__ = ["MAX_VARINT_BYTES", "decode", "encode"]

MAX_VARINT_BYTES = 9  # unsigned-varint: "the implementation must reject more than nine bytes"


def encode(value: int) -> bytes:
    """Return the shortest encoding of `value`, which must be in `[0, 2**63)`."""
    if not 0 <= value < 1 << 63:
        raise ValueError(f"not an unsigned varint of at most 63 bits: {value}")
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(buffer: bytes | memoryview, offset: int = 0) -> tuple[int, int]:
    """Return the value at `offset` and the offset after it; raise `MalformedError` on any other spelling."""
    value = shift = 0
    end = min(len(buffer), offset + MAX_VARINT_BYTES)
    for position in range(offset, end):
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise MalformedError("varint is not in its shortest form", rule="varint", offset=offset)
            return value, position + 1
        shift += 7
    raise MalformedError("varint does not end", rule="varint", offset=offset)
