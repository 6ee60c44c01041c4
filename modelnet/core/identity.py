"""A publisher's identity: the genesis event and the id derived from it.

    leaf(d) = SHA-256(0x00 ‖ d)                                    RFC 6962 §2.1
    pid     = base32 lower case, no padding, of leaf(genesis envelope)

The pid is the root of the publisher's log when it holds one entry, so it commits to every first key and never changes.
The genesis names the keys of each role and only the *digests* of the next root keys: a key that can take over has never
been shown. No key serves two roles.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from modelnet.core import strictjson
from modelnet.core.dsse import Envelope
from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.core.merkle import leaf_hash
from modelnet.errors import MalformedError, TrustError

__all__ = ["CONTROL_TYPE", "MAX_GENESIS", "PID", "Genesis", "Role", "make_genesis"]

CONTROL_TYPE = "application/vnd.modelnet.control.v1+json"
MAX_GENESIS = 16 * 1024
MAX_KEYS = 16
MAX_AGE_S = 7 * 24 * 3600  # how old the knowledge about a log may be before it counts as stale
PID = re.compile(r"[a-z2-7]{52}")
HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Role:
    """Keys and how many of them must sign."""

    keys: tuple[VerifyKey, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class Genesis:
    """A verified first log entry; `envelope` holds its exact bytes."""

    envelope: Envelope
    root: Role
    release: Role

    @property
    def pid(self) -> str:
        """The publisher's id, 52 characters."""
        return base64.b32encode(leaf_hash(self.envelope.encoded)).decode().rstrip("=").lower()

    @classmethod
    def verify(cls, entry: bytes, pid: str) -> Self:
        """Return the genesis in `entry` once it hashes to `pid` and its root keys signed it."""
        if len(entry) > MAX_GENESIS:
            raise MalformedError("genesis is too large", rule="genesis", wanted=MAX_GENESIS, got=len(entry))
        envelope = Envelope.parse_entry(entry)
        fields = strictjson.parse(envelope.unverified_body, what="genesis", limit=MAX_GENESIS)
        version = fields.get("v") if isinstance(fields, dict) else None
        if version != 1 or type(version) is not int or fields.get("type") != "genesis":  # true and 1.0 equal 1 too
            raise MalformedError("not a genesis event", rule="genesis")
        if "crit" in fields:
            raise MalformedError("genesis holds what this version cannot read", rule="crit")
        genesis = cls(envelope, _role(fields, "root"), _role(fields, "release"))
        if genesis.pid != pid:
            raise TrustError("genesis of another publisher", rule="publisher", wanted=pid, got=genesis.pid)
        # The next root keys take part by their digests: one that already serves another role has been shown.
        serving = [key.keyid for name in ("root", "release", "log", "beat") for key in _role(fields, name).keys]
        serving += _next_digests(fields)
        if len(set(serving)) != len(serving):
            raise TrustError("one key serves two roles", rule="genesis", got=pid)
        envelope.verify(CONTROL_TYPE, genesis.root.keys, genesis.root.threshold)
        return genesis


def _role(fields: Mapping[str, Any], name: str) -> Role:
    role = fields.get(name)
    keys = role.get("keys") if isinstance(role, dict) else None
    if not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS or not all(isinstance(key, str) for key in keys):
        raise MalformedError(f"genesis has no {name} keys", rule="genesis")
    threshold = role.get("threshold", 1) if isinstance(role, dict) else 1
    if type(threshold) is not int or not 0 < threshold <= len(keys):
        raise MalformedError(f"genesis {name} threshold", rule="genesis", wanted=f"1 to {len(keys)}", got=threshold)
    if not all(HEX.fullmatch(key) for key in keys):
        raise MalformedError(f"genesis {name} key is not 64 lower-case hex digits", rule="genesis")
    verified = Role(tuple(VerifyKey(bytes.fromhex(key)) for key in keys), threshold)
    if len(set(verified.keys)) != len(verified.keys):
        raise MalformedError(f"genesis names a {name} key twice", rule="genesis")
    return verified


def _next_digests(fields: Mapping[str, Any]) -> list[str]:
    """Return the key ids of the next root keys, `m` of which can take over."""
    role = fields.get("next")
    digests = role.get("digests") if isinstance(role, dict) else None
    if not isinstance(digests, list) or not 0 < len(digests) <= MAX_KEYS:
        raise MalformedError("genesis has no next digests", rule="genesis")
    if not all(isinstance(digest, str) and HEX.fullmatch(digest) for digest in digests):
        raise MalformedError("genesis next digest is not 64 lower-case hex digits", rule="genesis")
    threshold = role.get("threshold", 1) if isinstance(role, dict) else 1
    if type(threshold) is not int or not 0 < threshold <= len(digests):
        raise MalformedError("genesis next threshold", rule="genesis", wanted=f"1 to {len(digests)}", got=threshold)
    return digests


def make_genesis(
    keys: Mapping[str, SigningKey | Sequence[SigningKey]], thresholds: Mapping[str, int] | None = None
) -> Genesis:
    """Return the genesis signed by `keys["root"]`, for roles root, release, log, beat and next.

    `thresholds` says how many keys of root, next and release must sign, where that is not one.
    """
    held = {role: [given] if isinstance(given, SigningKey) else list(given) for role, given in keys.items()}
    threshold = {"root": 1, "next": 1, "release": 1} | dict(thresholds or {})

    def public(role: str) -> list[str]:
        return [key.verify_key.public.hex() for key in held[role]]

    body = strictjson.dump({
        "type": "genesis",
        "v": 1,
        "root_version": 1,
        "root": {"keys": public("root"), "threshold": threshold["root"]},
        "next": {"digests": [key.verify_key.keyid for key in held["next"]], "threshold": threshold["next"]},
        "release": {"keys": public("release"), "threshold": threshold["release"]},
        "log": {"keys": public("log")},
        "beat": {"keys": public("beat")},
        "max_age": MAX_AGE_S,
    })  # fmt: skip
    envelope = Envelope.sign(CONTROL_TYPE, body, held["root"][: threshold["root"]])
    pid = base64.b32encode(leaf_hash(envelope.encoded)).decode().rstrip("=").lower()
    return Genesis.verify(envelope.encoded, pid)
