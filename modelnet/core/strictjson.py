"""JSON with one meaning: UTF-8, no duplicate keys, no NaN, integers within 2^53, no lone surrogates, bounded depth.

Two parsers that disagree about a document make a log that means different things to different nodes; what is
ambiguous is refused (RFC 8259 §4, RFC 7493 I-JSON).
"""

from __future__ import annotations

import json
import math
from typing import Any

from modelnet.errors import MalformedError

__all__ = ["dump", "parse"]

MAX_INTEGER = 1 << 53
MAX_DEPTH = 32  # our deepest statement nests five deep; every node must refuse at the same depth


def dump(value: Any) -> bytes:
    """Return compact JSON; keys keep the order they were given in."""
    return _ENCODER.encode(value).encode()


def parse(data: bytes, *, what: str, limit: int) -> Any:
    """Parse `data` (at most `limit` bytes), called `what` in errors; raise `MalformedError` on anything ambiguous."""
    if len(data) > limit:
        raise MalformedError(f"{what} is too large", rule="json", wanted=f"at most {limit} bytes", got=len(data))

    try:
        value = _DECODER.decode(data.decode())
        # What the walk looks for takes an escape, or more brackets than the depth that is allowed.
        if b"\\u" in data or data.count(b"{") + data.count(b"[") > MAX_DEPTH:
            _check(value, 0)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise MalformedError(f"{what} is not strict JSON: {reason}", rule="json") from error
    return value


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(items)
    if len(fields) != len(items):
        raise ValueError("a key stands twice")
    return fields


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise ValueError("an integer is beyond 2^53")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is beyond 64-bit floating point")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant
)  # fmt: skip


def _check(value: Any, depth: int) -> None:
    """Raise `ValueError` on what `json` lets through: lone surrogates and depth."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    match value:
        case str():
            value.encode()
        case list():
            for item in value:
                _check(item, depth + 1)
        case dict():
            for key, item in value.items():
                _check(key, depth + 1)
                _check(item, depth + 1)
