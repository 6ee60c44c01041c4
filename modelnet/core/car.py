"""CARv1: a header, then blocks, each behind its length and CID.

    varint(n) <n bytes dag-cbor {"roots": [CID…], "version": 1}>
    { varint(n) <binary CID> <block>  with n = len(CID) + len(block) }*

Reading verifies nothing but the framing; whoever reads a block checks it against the CID that *they* asked for.
Source: ipld.io/specs/transport/car/carv1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelnet.core import dagcbor, varint
from modelnet.core.cid import Cid
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import MalformedError

__all__ = ["MAX_HEADER", "frame_prefix", "header", "read_car", "read_header"]

MAX_HEADER = 64 * 1024  # a header holds a few roots of about 40 bytes
MAX_FRAME = MAX_BLOCK + 256


def header(roots: Sequence[Cid]) -> bytes:
    """Return the CARv1 header with its length."""
    body = dagcbor.encode({"roots": list(roots), "version": 1})
    return varint.encode(len(body)) + body


def frame_prefix(cid: Cid, size: int) -> bytes:
    """Return what goes before a block of `size` bytes: the frame's length and the CID."""
    encoded = cid.encode()
    return varint.encode(len(encoded) + size) + encoded


def read_header(data: bytes, offset: int = 0) -> tuple[list[Cid], int]:
    """Parse the header at `offset`; return its roots and the offset of the first frame."""
    length, position = varint.decode(data, offset)
    if not 0 < length <= MAX_HEADER:
        raise MalformedError("CAR header length", rule="car", offset=offset, wanted=f"1 to {MAX_HEADER}", got=length)
    if position + length > len(data):
        raise MalformedError("CAR header is cut off", rule="car", offset=offset)
    fields = dagcbor.decode(data[position : position + length])
    version = fields.get("version") if isinstance(fields, dict) else None
    if version != 1 or type(version) is not int:  # true and 1.0 are equal to 1 in Python, not in DAG-CBOR
        raise MalformedError("not a CARv1 header", rule="car", offset=position)
    roots = fields.get("roots")
    if not isinstance(roots, list) or not all(isinstance(root, Cid) for root in roots):
        raise MalformedError("CAR roots are not CIDs", rule="car", offset=position)
    return roots, position + length


def read_car(data: bytes) -> Iterator[tuple[Cid, bytes]]:
    """Yield the (CID, unverified block) of each frame of a whole CAR in memory."""
    _, position = read_header(data)
    while position < len(data):
        start = position
        length, position = varint.decode(data, position)
        if not 0 < length <= MAX_FRAME:
            raise MalformedError("CAR frame length", rule="car", offset=start, wanted=f"1 to {MAX_FRAME}", got=length)
        end = position + length
        if end > len(data):
            raise MalformedError("CAR frame is cut off", rule="car", offset=start, wanted=length, got=len(data))
        cid, body = Cid.read(data, position)
        if body > end:
            raise MalformedError("CAR frame is shorter than its CID", rule="car", offset=start)
        yield cid, data[body:end]
        position = end
