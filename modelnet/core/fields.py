"""Reading the fields of an event that was parsed as JSON: each function returns one kind of value, or raises.

A text, a number or a list may be absent and is then empty; everything else has to be there.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from modelnet.core.events import Digests, Next
from modelnet.core.identity import HEX, MAX_KEYS, PID, Role
from modelnet.core.keys import VerifyKey
from modelnet.errors import MalformedError

__all__ = [
    "read_digests", "read_hex", "read_hexes", "read_keys", "read_list", "read_map", "read_next", "read_number",
    "read_pid", "read_role", "read_text", "sha256_of",
]  # fmt: skip


def read_map(fields: Any, name: str) -> Mapping[str, Any]:
    """Return a field that must be a map."""
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, dict):
        raise MalformedError(f"event field {name!r} is not a map", rule="event")
    return value


def read_list(fields: Mapping[str, Any], name: str) -> list[Any]:
    """Return a field that must be a list; an absent one is empty."""
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise MalformedError(f"event field {name!r} is not a list", rule="event")
    return value


def read_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that must be text; an absent one is empty."""
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise MalformedError(f"event field {name!r} is not text", rule="event")
    return value


def read_number(fields: Mapping[str, Any], name: str) -> int:
    """Return a field that must be a number, 0 or more; an absent one is 0."""
    value = fields.get(name, 0)
    if type(value) is not int or value < 0:
        raise MalformedError(f"event field {name!r} is not a number", rule="event")
    return value


def read_hex(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that must be 32 bytes in hex."""
    value = read_text(fields, name)
    if not HEX.fullmatch(value):
        raise MalformedError(f"event field {name!r} is not 64 lower-case hex digits", rule="event")
    return value


def read_hexes(fields: Any, name: str) -> tuple[str, ...]:
    """Read a list of 1 to 16 different digests or keys."""
    values = read_list(fields, name) if isinstance(fields, dict) else []
    if not 0 < len(values) <= MAX_KEYS or not all(isinstance(value, str) and HEX.fullmatch(value) for value in values):
        raise MalformedError(f"event field {name!r} is not 1 to {MAX_KEYS} times 64 hex digits", rule="event")
    if len(set(values)) != len(values):
        raise MalformedError(f"event field {name!r} holds one twice", rule="event")
    return tuple(values)


def read_pid(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that must be a publisher id."""
    value = read_text(fields, name)
    if not PID.fullmatch(value):
        raise MalformedError(f"event field {name!r} is not a publisher id", rule="event", got=repr(value[:80]))
    return value


def _threshold(fields: Mapping[str, Any], count: int) -> int:
    threshold = read_number(fields, "threshold") if "threshold" in fields else 1
    if not 0 < threshold <= count:
        raise MalformedError("threshold", rule="event", wanted=f"1 to {count}", got=threshold)
    return threshold


def read_keys(fields: Mapping[str, Any], role: str) -> Role:
    """Return keys and threshold; `role` says in errors whose."""
    try:
        keys = tuple(VerifyKey(bytes.fromhex(value)) for value in read_hexes(fields, "keys"))
        return Role(keys, _threshold(fields, len(keys)))
    except MalformedError as error:
        raise MalformedError(f"{role} keys: {error.message}", rule="event") from error


def read_role(fields: Mapping[str, Any], name: str) -> Role:
    """Return a field that must hold keys and their threshold."""
    return read_keys(read_map(fields, name), name)


def read_next(fields: Mapping[str, Any]) -> Next:
    """Return the commitment to the keys that may take over next."""
    following = read_map(fields, "next")
    digests = read_hexes(following, "digests")
    return Next(digests, _threshold(following, len(digests)))


def sha256_of(pid: str) -> str:
    """Return the leaf hash that a publisher id spells; the four bits that 52 letters have too many must be zero."""
    digest = base64.b32decode(pid.upper() + "====")
    if base64.b32encode(digest).decode().rstrip("=").lower() != pid:
        raise MalformedError("not the one spelling of a publisher id", rule="event", got=pid)
    return digest.hex()


def read_digests(fields: Any) -> Digests:
    """Read a DigestSet; algorithms beside the two are left out."""
    if not isinstance(fields, dict):
        raise MalformedError("not a digest set", rule="event")
    return Digests(*(read_text(fields, name) if name in fields else None for name in ("sha256", "blake3")))
