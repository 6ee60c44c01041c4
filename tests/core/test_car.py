"""CAR streams: what we frame another reader can take apart, and what lies about its lengths is refused."""

from __future__ import annotations

import tracemalloc

import dag_cbor
import multiformats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import car, dagcbor, varint
from modelnet.core.cid import DAG_CBOR, DAG_PB, RAW, SHA2_256, Cid
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import IntegrityError, MalformedError
from tests.core.damage import damaged

blocks = st.lists(st.tuples(st.sampled_from([RAW, DAG_PB, DAG_CBOR]), st.binary(max_size=40)), max_size=5)


def archive(contents: list[tuple[int, bytes]]) -> tuple[list[tuple[Cid, bytes]], bytes]:
    """Return (CID, block) of each content and the CAR that holds them, its roots being the first."""
    framed = [(Cid.of(codec, content), content) for codec, content in contents]
    out = car.header([cid for cid, _ in framed[:1]])
    for cid, content in framed:
        out += car.frame_prefix(cid, len(content)) + content
    return framed, out


@given(blocks)
def test_round_trip(contents: list[tuple[int, bytes]]) -> None:
    """Roots and blocks come back in order."""
    framed, data = archive(contents)
    assert car.read_header(data)[0] == [cid for cid, _ in framed[:1]]
    assert list(car.read_car(data)) == framed


@given(blocks)
def test_another_reader_takes_it_apart(contents: list[tuple[int, bytes]]) -> None:
    """The framing is that of the specification: read here with the reference libraries alone."""
    framed, data = archive(contents)
    length, _, rest = multiformats.varint.decode_raw(data)
    head = dag_cbor.decode(bytes(rest[:length]))
    assert head == {"roots": [multiformats.CID.decode(cid.encode()) for cid, _ in framed[:1]], "version": 1}
    rest, found = bytes(rest[length:]), []
    while rest:
        length, _, rest = multiformats.varint.decode_raw(rest)
        frame, rest = bytes(rest[:length]), bytes(rest[length:])
        found.append((frame[:36], frame[36:]))
    assert found == [(cid.encode(), content) for cid, content in framed]


def test_other_cids_are_read() -> None:
    """Blocks under CIDs that others made, version 0 and sha2-256, are framed the same."""
    cids = [Cid.of(RAW, b"x", SHA2_256), Cid(DAG_PB, SHA2_256, bytes(32), 0), Cid(RAW, 0, b"")]
    data = car.header(cids) + b"".join(car.frame_prefix(cid, 1) + b"x" for cid in cids)
    assert car.read_header(data)[0] == cids
    assert list(car.read_car(data)) == [(cid, b"x") for cid in cids]


def test_every_damage() -> None:
    """A damaged CAR is refused, or whoever checks its blocks against the CIDs asked for notices."""
    framed, data = archive([(RAW, b"one"), (DAG_PB, b"second")])
    for what, other in damaged(data):
        try:
            found = list(car.read_car(other))
        except MalformedError:
            continue
        for cid, block in found:
            if cid in dict(framed) and block != dict(framed)[cid]:
                with pytest.raises(IntegrityError):
                    cid.verify(block)
        assert found != framed or other[: len(OPEN)] != data[: len(OPEN)], what


def head(value: object) -> bytes:
    """Return a header frame over any DAG-CBOR value."""
    body = dagcbor.encode(value)
    return varint.encode(len(body)) + body


CID = Cid.of(RAW, b"x")
OPEN = car.header([CID])
REFUSED = {
    "nothing": b"",
    "no header": b"\x00",
    "header longer than allowed": varint.encode(car.MAX_HEADER + 1) + bytes(car.MAX_HEADER + 1),
    "header longer than the input": b"\x7f\xa0",
    "header of a terabyte": varint.encode(2**40),
    "header is a list": head([]),
    "header without a version": head({"roots": [CID]}),
    "version 2": head({"roots": [CID], "version": 2}),
    "version true": head({"roots": [CID], "version": True}),
    "version 1.0": head({"roots": [CID], "version": 1.0}),
    "no roots": head({"version": 1}),
    "roots is a map": head({"roots": {}, "version": 1}),
    "roots are text": head({"roots": ["x"], "version": 1}),
    "header in another order": b"\x11\xa2\x67version\x01\x65roots\x80",
    "empty frame": OPEN + b"\x00",
    "frame longer than the input": OPEN + varint.encode(100) + CID.encode() + b"x",
    "frame longer than a block": OPEN + varint.encode(car.MAX_FRAME + 1) + bytes(car.MAX_FRAME + 1),
    "frame of a terabyte": OPEN + varint.encode(2**40) + CID.encode(),
    "frame of 2^62": OPEN + b"\xff" * 8 + b"\x3f",
    "frame length of ten bytes": OPEN + b"\xff" * 9 + b"\x01",
    "frame length padded": OPEN + b"\xa5\x00" + CID.encode() + b"x",
    "frame length cut off": OPEN + b"\x80",
    "frame shorter than its CID": OPEN + varint.encode(10) + CID.encode() + b"x",
    "frame of one byte": OPEN + b"\x01\x01",
    "frame without a CID": OPEN + b"\x05hello",
    "frame with a cut CID": OPEN + varint.encode(20) + CID.encode()[:20],
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    """Lengths that are too long, too short, padded or untrue, and headers of other kinds, are refused as malformed."""
    with pytest.raises(MalformedError):
        list(car.read_car(data))


def test_length_bomb() -> None:
    """A claimed terabyte costs no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            list(car.read_car(OPEN + varint.encode(2**40) + CID.encode()))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_largest_block_fits() -> None:
    """A block of 2 MiB, the most that anybody sends, is read."""
    block = bytes(MAX_BLOCK)
    data = OPEN + car.frame_prefix(Cid.of(RAW, block), len(block)) + block
    assert [len(found) for _, found in car.read_car(data)] == [MAX_BLOCK]


@given(st.binary(max_size=80))
def test_arbitrary_frames(data: bytes) -> None:
    """Any bytes behind a header are refused as malformed or are frames that lie inside them."""
    try:
        found = list(car.read_car(OPEN + data))
    except MalformedError:
        return
    assert sum(len(cid.encode()) + len(block) for cid, block in found) <= len(data)
