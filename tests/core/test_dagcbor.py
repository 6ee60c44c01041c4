"""DAG-CBOR: the same bytes as the reference implementation, and nothing else is accepted."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import dag_cbor
import multiformats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import dagcbor
from modelnet.core.cid import BLAKE3, DAG_PB, RAW, SHA2_256, Cid
from modelnet.errors import MalformedError
from tests.core.damage import damaged

LINK = Cid.of(RAW, b"linked")
cids = st.builds(
    Cid, st.sampled_from([RAW, DAG_PB]), st.sampled_from([BLAKE3, SHA2_256]), st.binary(min_size=32, max_size=32)
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | cids
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


def theirs(value: Any) -> Any:
    """Return `value` with the links that the reference implementation knows."""
    match value:
        case Cid():
            return multiformats.CID.decode(value.encode())
        case list():
            return [theirs(item) for item in value]
        case dict():
            return {key: theirs(item) for key, item in value.items()}
        case _:
            return value


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are equal in type too, for 1 is not 1.0 and not true."""
    return repr(left) == repr(right)


@given(values)
def test_round_trip(value: Any) -> None:
    """Every value comes back as it was, type by type."""
    decoded = dagcbor.decode(dagcbor.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


@given(values)
def test_the_reference_writes_the_same(value: Any) -> None:
    """The reference implementation encodes the value to the same bytes and reads ours."""
    encoded = dagcbor.encode(value)
    assert dag_cbor.encode(theirs(value)) == encoded
    assert same(dag_cbor.decode(encoded), theirs(dagcbor.decode(encoded)))


@given(st.binary(max_size=64))
def test_what_we_accept_the_reference_accepts(data: bytes) -> None:
    """Arbitrary bytes are refused as malformed, or both implementations read the same value from them."""
    try:
        value = dagcbor.decode(data)
    except MalformedError:
        return
    assert dagcbor.encode(value) == data
    assert same(dag_cbor.decode(data), theirs(value))


@given(values, st.data())
def test_one_encoding(value: Any, data: st.DataObject) -> None:
    """A damaged encoding is refused or is the one encoding of another value."""
    encoded = dagcbor.encode(value)
    place = data.draw(st.integers(0, len(encoded) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != encoded[place]))
    other = encoded[:place] + bytes((byte,)) + encoded[place + 1 :]
    try:
        decoded = dagcbor.decode(other)
    except MalformedError:
        return
    assert dagcbor.encode(decoded) == other


def test_every_damage_to_a_document() -> None:
    """No way to damage a small document leaves its meaning as it was."""
    value = {"a": [1, -1, 2.5, None, True], "bb": {"link": LINK, "bytes": b"\x00\xff", "text": "é"}}
    encoded = dagcbor.encode(value)
    for what, other in damaged(encoded):
        try:
            decoded = dagcbor.decode(other)
        except MalformedError:
            continue
        assert not same(decoded, value), what
        assert dagcbor.encode(decoded) == other, what


def test_keys_are_sorted_by_length_first() -> None:
    """Map keys stand by length, then by bytes, whatever order they were given in."""
    assert dagcbor.encode({"b": 1, "aa": 2, "a": 3, "é": 4}) == bytes.fromhex("a4 6161 03 6162 01 626161 02 62c3a9 04")


NOT_CANONICAL = {
    "zero in two bytes": "1800",
    "23 in two bytes": "1817",
    "24 in three bytes": "190018",
    "255 in five bytes": "1a000000ff",
    "65536 in nine bytes": "1b0000000000010000",
    "minus one in two bytes": "3800",
    "length of bytes in two bytes": "580161",
    "length of text in two bytes": "780161",
    "length of a list in two bytes": "980101",
    "length of a map in two bytes": "b801616101",
    "tag 42 in three bytes": "d9002a" + dagcbor.encode(LINK)[2:].hex(),
    "keys out of order": "a2616201616102",
    "longer key first": "a262616101616102",
    "a key twice": "a2616101616101",
    "indefinite bytes": "5f4161ff",
    "indefinite text": "7f6161ff",
    "indefinite list": "9f01ff",
    "indefinite map": "bf616101ff",
    "break": "ff",
    "half float": "f93e00",
    "half float zero": "f90000",
    "single float": "fa3fc00000",
    "NaN": "fb7ff8000000000000",
    "half NaN": "f97e00",
    "infinity": "fb7ff0000000000000",
    "minus infinity": "fbfff0000000000000",
    "undefined": "f7",
    "simple value 0": "e0",
    "simple value 32": "f820",
    "true in two bytes": "f815",
    "tag 0": "c06161",
    "tag 1": "c101",
    "tag 2": "c24101",
    "tag 43 on a link": "d82b" + dagcbor.encode(LINK)[2:].hex(),
    "self-described": "d9d9f700",
    "tag of a tag": "d82ad82a" + dagcbor.encode(LINK)[2:].hex(),
    "tag 42 on text": "d82a6100",
    "tag 42 on a list": "d82a80",
    "tag 42 on empty bytes": "d82a40",
    "tag 42 without the prefix": "d82a5824" + LINK.encode().hex(),
    "tag 42 with another prefix": "d82a582501" + LINK.encode().hex(),
    "tag 42 with a cut CID": "d82a582400" + LINK.encode()[:-1].hex(),
    "tag 42 at the end": "d82a",
    "integer key": "a10101",
    "bytes key": "a1416101",
    "null key": "a1f601",
    "invalid UTF-8": "62c328",
    "overlong UTF-8": "62c080",
    "surrogate in UTF-8": "63eda080",
    "UTF-8 cut off": "61c3",
    "bytes behind the value": "0000",
    "nothing": "",
    "cut integer": "19ff",
    "cut float": "fb3ff80000",
    "cut text": "6261",
    "cut list": "8201",
    "cut map": "a16161",
    "list longer than the input": "9bffffffffffffffff",
    "map longer than the input": "bb7fffffffffffffff",
    "bytes longer than the input": "5bffffffffffffffff00",
    "reserved length 28": "1c",
    "reserved length 30": "3e",
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_refused(data: str) -> None:
    """Every other spelling, and everything that DAG-CBOR does not have, is refused as malformed."""
    with pytest.raises(MalformedError):
        dagcbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x60", b"\xd8\x2a", b"\xc6", b"\x9f"])
def test_depth_bomb(opening: bytes) -> None:
    """A hundred thousand opened lists, maps or tags are refused without a stack overflow."""
    with pytest.raises(MalformedError):
        dagcbor.decode(opening * 100_000 + b"\x00")


@pytest.mark.parametrize("leaf", [0, "text", b"bytes", LINK, [], {}])
def test_depth_limit_is_one_limit(leaf: Any) -> None:
    """What may be encoded at the deepest place can be decoded again, and one level more is refused both ways."""
    value = leaf
    for _ in range(dagcbor.MAX_DEPTH):
        value = [value]
    encoded = dagcbor.encode(value)
    assert dagcbor.decode(encoded) == value
    with pytest.raises(ValueError, match="deep"):
        dagcbor.encode([value])
    with pytest.raises(MalformedError):
        dagcbor.decode(b"\x81" + encoded)


@pytest.mark.parametrize("head", ["5a40000000", "7a40000000", "9a40000000", "ba40000000", "9b0000010000000000"])
def test_length_bomb(head: str) -> None:
    """A claimed gigabyte is refused before it is allocated."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            dagcbor.decode(bytes.fromhex(head) + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), 2**64, -(2**64) - 1, {1: 2}, {b"a": 1}, {1, 2}, object(), "\ud800"],
)
def test_not_encodable(value: Any) -> None:
    """What DAG-CBOR cannot say is the caller's mistake, a `ValueError`."""
    with pytest.raises(ValueError):  # noqa: PT011 (many sentences)
        dagcbor.encode([value])


def test_minus_zero_is_kept() -> None:
    """The sign of zero survives; it is another value with another encoding."""
    assert dagcbor.encode(-0.0) == b"\xfb" + struct.pack(">d", -0.0)
    assert str(dagcbor.decode(dagcbor.encode(-0.0))) == "-0.0"


def test_many_empty_maps_are_too_many() -> None:
    """Sixteen MiB of empty maps are refused before they take a gigabyte of memory."""
    count = 1 << 23
    with pytest.raises(MalformedError, match="too many items"):
        dagcbor.decode(b"\x9a" + count.to_bytes(4, "big") + b"\xa0" * count)
