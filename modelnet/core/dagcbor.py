"""DAG-CBOR, strict: one value, one encoding.

Decodes to None, bool, int, float, str, bytes, list, dict and `Cid`. Anything that is not the canonical encoding
(a longer integer than needed, keys out of order or repeated, indefinite lengths, another tag than 42, NaN) is refused
by decoding and encoding again. Depth and sizes are bounded by the input itself.

Source: ipld.io/specs/codecs/dag-cbor.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from modelnet.core.cid import Cid
from modelnet.errors import MalformedError

__all__ = ["MAX_DEPTH", "decode", "encode"]

MAX_ITEMS = 4_000_000  # a manifest of 100,000 files has about a million; an empty map takes one byte here, 64 in memory
MAX_DEPTH = 32  # a manifest nests five deep

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)


def encode(value: Any) -> bytes:
    """Return the canonical encoding; raise `ValueError` for what DAG-CBOR cannot say."""
    out = bytearray()
    _encode(value, out, 0)
    return bytes(out)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes((major << 5 | extra,)) + number.to_bytes(size, "big")
    raise ValueError("integers have at most 64 bits in DAG-CBOR")


def _encode(value: Any, out: bytearray, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    match value:
        case None:
            out.append(0xF6)
        case bool():
            out.append(0xF5 if value else 0xF4)
        case int():
            out += _head(UNSIGNED, value) if value >= 0 else _head(NEGATIVE, -1 - value)
        case float():
            if not math.isfinite(value):
                raise ValueError("DAG-CBOR has no NaN and no infinities")
            out += b"\xfb" + struct.pack(">d", value)
        case str():
            text = value.encode()
            out += _head(TEXT, len(text)) + text
        case bytes():
            out += _head(BYTES, len(value)) + value
        case Cid():
            link = b"\x00" + value.encode()  # the multibase prefix of "binary"
            out += b"\xd8\x2a" + _head(BYTES, len(link)) + link
        case list() | tuple():
            out += _head(ARRAY, len(value))
            for item in value:
                _encode(item, out, depth + 1)
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("map keys are strings in DAG-CBOR")
            out += _head(MAP, len(value))
            # Length first, then bytes: RFC 7049 §3.9, which DAG-CBOR keeps.
            for key in sorted(value, key=lambda key: (len(key.encode()), key.encode())):
                _encode(key, out, depth + 1)
                _encode(value[key], out, depth + 1)
        case _:
            raise ValueError(f"DAG-CBOR has no {type(value).__name__}")


def decode(data: bytes) -> Any:
    """Parse the one encoding of a value; raise `MalformedError` on every other."""
    try:
        value, end = _decode(data, 0, 0, [MAX_ITEMS])
        if end != len(data):
            raise MalformedError("bytes follow the value", rule="dag-cbor", offset=end)
        canonical = encode(value)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise MalformedError("not DAG-CBOR", rule="dag-cbor") from error
    if canonical != data:
        offset = next((i for i, (a, b) in enumerate(zip(canonical, data, strict=False)) if a != b), len(canonical))
        raise MalformedError("not the canonical DAG-CBOR of its value", rule="dag-cbor", offset=offset)
    return value


def _decode(data: bytes, offset: int, depth: int, budget: list[int]) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise MalformedError(f"nested more than {MAX_DEPTH} deep", rule="dag-cbor", offset=offset)
    major, low = data[offset] >> 5, data[offset] & 31
    if major == SIMPLE:
        return _decode_simple(data, offset, low)
    number, position = _decode_number(data, offset, low)
    if major == UNSIGNED:
        return number, position
    if major == NEGATIVE:
        return -1 - number, position
    # Every item takes at least one byte, so a claimed count beyond the input is refused before any allocation.
    if major != TAG and number > len(data) - position:
        raise MalformedError("length is beyond the end", rule="dag-cbor", offset=offset, got=number)
    if major in (BYTES, TEXT):
        content = data[position : position + number]
        return (content if major == BYTES else content.decode()), position + number
    if major in (ARRAY, MAP):
        budget[0] -= number
        if budget[0] < 0:
            raise MalformedError("too many items", rule="dag-cbor", offset=offset, wanted=f"at most {MAX_ITEMS}")
    if major == ARRAY:
        items = []
        for _ in range(number):
            item, position = _decode(data, position, depth + 1, budget)
            items.append(item)
        return items, position
    if major == MAP:
        return _decode_map(data, position, number, depth, budget)
    # A tag is followed by bytes at once, so tags cannot nest and a link is no deeper than any other leaf.
    if number != 42 or data[position] >> 5 != BYTES:
        raise MalformedError("only CID links may be tagged", rule="dag-cbor", offset=offset, wanted=42, got=number)
    link, end = _decode(data, position, depth, budget)
    if not link.startswith(b"\x00"):
        raise MalformedError("CID link lacks its multibase prefix", rule="dag-cbor", offset=position)
    return Cid.decode(link[1:]), end


def _decode_number(data: bytes, offset: int, low: int) -> tuple[int, int]:
    if low < 24:
        return low, offset + 1
    if low > 27:
        raise MalformedError("indefinite lengths are not DAG-CBOR", rule="dag-cbor", offset=offset)
    size = 1 << low - 24
    if offset + 1 + size > len(data):
        raise MalformedError("number is cut off", rule="dag-cbor", offset=offset)
    return int.from_bytes(data[offset + 1 : offset + 1 + size], "big"), offset + 1 + size


def _decode_map(data: bytes, position: int, count: int, depth: int, budget: list[int]) -> tuple[dict[str, Any], int]:
    fields: dict[str, Any] = {}
    for _ in range(count):
        start = position
        key, position = _decode(data, position, depth + 1, budget)
        if not isinstance(key, str) or key in fields:
            raise MalformedError("map keys are distinct strings", rule="dag-cbor", offset=start)
        fields[key], position = _decode(data, position, depth + 1, budget)
    return fields, position


def _decode_simple(data: bytes, offset: int, low: int) -> tuple[Any, int]:
    if low == 27:
        return struct.unpack_from(">d", data, offset + 1)[0], offset + 9
    if low in (20, 21, 22):
        return {20: False, 21: True, 22: None}[low], offset + 1
    raise MalformedError("not a DAG-CBOR simple value", rule="dag-cbor", offset=offset, got=low)
