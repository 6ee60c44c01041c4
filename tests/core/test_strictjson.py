"""Strict JSON: one meaning for every reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import strictjson
from modelnet.errors import MalformedError

LIMIT = 1 << 20
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


def parse(data: bytes) -> Any:
    """Parse with a limit that does not matter."""
    return strictjson.parse(data, what="document", limit=LIMIT)


@given(documents)
def test_round_trip(value: Any) -> None:
    """Every document comes back, type by type, and the standard parser reads the same from it."""
    encoded = strictjson.dump(value)
    assert repr(parse(encoded)) == repr(value)
    assert repr(json.loads(encoded)) == repr(value)


def test_compact_and_in_order() -> None:
    """Keys keep their order, text is UTF-8 without escapes, and there is no white space."""
    assert strictjson.dump({"b": 1, "a": ["é", None]}) == '{"b":1,"a":["é",null]}'.encode()


REFUSED = {
    "nothing": b"",
    "a key twice": b'{"a":1,"a":1}',
    "a key twice by an escape": b'{"a":1,"\\u0061":2}',
    "a key twice, deep": b'[{"x":{"a":1,"a":2}}]',
    "NaN": b"NaN",
    "NaN inside": b'{"a":[NaN]}',
    "infinity": b"Infinity",
    "minus infinity": b"-Infinity",
    "infinity by its exponent": b"1e999",
    "minus infinity by its exponent": b'{"a":-1e400}',
    "2^53 + 1": b"9007199254740993",
    "minus 2^53 - 1": b"-9007199254740993",
    "an integer of ten thousand digits": b"1" * 10_000,
    "a leading zero": b"01",
    "a plus": b"+1",
    "hexadecimal": b"0x10",
    "a lone high surrogate": b'"\\ud800"',
    "a lone low surrogate": b'{"a":["\\udc00"]}',
    "a lone surrogate in a key": b'{"\\ud800":1}',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "invalid UTF-8": b'"\xff"',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "two documents": b"{}{}",
    "a comma at the end": b"[1,]",
    "a comment": b"{}//",
    "single quotes": b"{'a':1}",
    "a control character": b'"\x01"',
    "cut off": b'{"a":',
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    """Whatever two parsers could read differently is refused as malformed."""
    with pytest.raises(MalformedError) as caught:
        parse(data)
    str(caught.value).encode()  # the reason can be printed


def test_limits_of_integers() -> None:
    """Integers of up to 2^53 either way are exact in every reader and pass."""
    assert parse(b"[9007199254740992,-9007199254740992,0]") == [2**53, -(2**53), 0]


def test_surrogate_pairs_are_text() -> None:
    """An escaped pair of surrogates is one character."""
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth(opening: bytes) -> None:
    """The depth that is refused is ours, not the interpreter's; a bomb does not overflow the stack."""
    closing = b"]" if opening == b"[" else b"}"
    parse(opening * strictjson.MAX_DEPTH + b"1" + closing * strictjson.MAX_DEPTH)
    for depth in (strictjson.MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(MalformedError, match="deep"):
            parse(opening * depth + b"1" + closing * depth)


def test_size_limit() -> None:
    """A document longer than the limit is refused before it is parsed."""
    with pytest.raises(MalformedError, match="too large"):
        strictjson.parse(b"[" + b" " * 10 + b"]", what="document", limit=11)


@given(st.binary(max_size=40))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes are refused as malformed or are a document that can be written again."""
    try:
        value = parse(data)
    except MalformedError:
        return
    assert repr(parse(strictjson.dump(value))) == repr(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_not_encodable(value: Any) -> None:
    """What strict JSON cannot say is the caller's mistake."""
    with pytest.raises(ValueError):  # noqa: PT011 (the standard library's sentences)
        strictjson.dump([value])
