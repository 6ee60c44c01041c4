"""Varints: one shortest spelling for each number, and no other."""

from __future__ import annotations

import multiformats.varint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import varint
from modelnet.errors import MalformedError
from tests.core.damage import damaged

NUMBERS = st.integers(0, 2**63 - 1)


@given(NUMBERS)
def test_round_trip(number: int) -> None:
    """Every number comes back, at the right offset, whatever stands around it."""
    encoded = varint.encode(number)
    assert varint.decode(b"\xff" + encoded + b"\x00", 1) == (number, 1 + len(encoded))


@given(NUMBERS)
def test_multiformats_agrees(number: int) -> None:
    """The reference implementation writes and reads the same bytes."""
    assert multiformats.varint.encode(number) == varint.encode(number)
    assert multiformats.varint.decode(varint.encode(number)) == number


@given(st.binary(min_size=1, max_size=12))
def test_one_spelling(data: bytes) -> None:
    """Whatever decodes is the shortest encoding of its value."""
    try:
        number, end = varint.decode(data)
    except MalformedError:
        return
    assert varint.encode(number) == data[:end]


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9, b"\x80" * 9 + b"\x01", b"\x81\x80\x00"])
def test_refused(data: bytes) -> None:
    """Nothing, no end, a padded number and more than nine bytes are refused."""
    with pytest.raises(MalformedError):
        varint.decode(data)


def test_no_offset_beyond_the_end() -> None:
    """A read behind the last byte is refused, not an index error."""
    with pytest.raises(MalformedError):
        varint.decode(b"\x01", 5)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_out_of_range(number: int) -> None:
    """Numbers that nine bytes cannot say are the caller's mistake."""
    with pytest.raises(ValueError, match="varint"):
        varint.encode(number)


def test_damage_changes_the_number() -> None:
    """A damaged encoding never means the same number over the whole of its bytes."""
    encoded = varint.encode(2**40 + 12345)
    for what, other in damaged(encoded):
        try:
            number, end = varint.decode(other)
        except MalformedError:
            continue
        assert (number, end) != (2**40 + 12345, len(other)), what
