"""The genesis: an id that commits to every first key, and every way to bend it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from modelnet.core import strictjson
from modelnet.core.dsse import Envelope
from modelnet.core.identity import CONTROL_TYPE, MAX_GENESIS, MAX_KEYS, PID, Genesis
from modelnet.core.keys import VerifyKey
from modelnet.errors import MalformedError, ModelnetError, TrustError
from tests.core.damage import damaged
from tests.core.releases import ROLES, genesis_fields, key, publisher, signed_genesis


def pid_of(entry: bytes) -> str:
    """Return the id that an entry hashes to, computed here from the definition."""
    return base64.b32encode(hashlib.sha256(b"\x00" + entry).digest()).decode().rstrip("=").lower()


def accepted(entry: bytes) -> Genesis:
    """Verify an entry against the id that it hashes to."""
    return Genesis.verify(entry, pid_of(entry))


def public(role: str) -> str:
    """Return a test key as the genesis writes it."""
    return key(role).verify_key.public.hex()


def test_the_id_is_the_hash_of_the_entry() -> None:
    """A pid is the RFC 6962 leaf hash of the genesis envelope, 52 characters."""
    genesis = publisher()
    assert genesis.pid == pid_of(genesis.envelope.encoded)
    assert PID.fullmatch(genesis.pid)
    assert accepted(genesis.envelope.encoded) == genesis
    assert genesis.root.keys == (key("root").verify_key,)
    assert genesis.release.keys == (key("release").verify_key,)


def test_the_next_key_is_not_shown() -> None:
    """The genesis holds the digest of the next root key, not the key."""
    entry = publisher().envelope
    assert public("next").encode() not in entry.unverified_body
    assert key("next").verify_key.keyid.encode() in entry.unverified_body
    for role in ROLES:
        assert key(role).seed.hex().encode() not in entry.unverified_body


def test_another_id_is_refused() -> None:
    """A valid genesis is not accepted for another publisher's id."""
    entry = publisher().envelope.encoded
    for wrong in ("a" * 52, publisher().pid[1:] + publisher().pid[0], publisher().pid.upper(), ""):
        with pytest.raises(TrustError):
            Genesis.verify(entry, wrong)


def test_every_damage() -> None:
    """A genesis with any byte changed is never accepted for the publisher's id."""
    genesis = publisher()
    for _, other in damaged(genesis.envelope.encoded):
        with pytest.raises(ModelnetError):
            Genesis.verify(other, genesis.pid)


def test_damage_never_changes_the_keys() -> None:
    """A damaged genesis that is valid under an id of its own still names the very keys that root signed."""
    genesis = publisher()
    for what, other in damaged(genesis.envelope.encoded):
        try:
            found = accepted(other)
        except ModelnetError:
            continue
        assert found.pid != genesis.pid, what
        assert (found.root, found.release) == (genesis.root, genesis.release), what


def test_signed_by_root() -> None:
    """A genesis that only another key signed, or nobody, is refused."""
    for signers in ([key("release")], [key("next")], [key("log"), key("beat")]):
        with pytest.raises(TrustError):
            accepted(signed_genesis(genesis_fields(), *signers))
    with pytest.raises(TrustError):
        accepted(Envelope.sign(CONTROL_TYPE, strictjson.dump(genesis_fields()), []).encoded)


def test_signed_as_a_control_event() -> None:
    """A statement of another type is no genesis, whoever signed it."""
    entry = Envelope.sign("application/vnd.in-toto+json", strictjson.dump(genesis_fields()), [key("root")]).encoded
    with pytest.raises(TrustError):
        accepted(entry)


@pytest.mark.parametrize("role", ["release", "log", "beat"])
@pytest.mark.parametrize("other", ["root", "release", "log", "beat"])
def test_one_key_two_roles(role: str, other: str) -> None:
    """No key serves two of the roles that sign."""
    if role == other:
        return
    fields = genesis_fields()
    fields[role]["keys"] = [public(other)]
    with pytest.raises(TrustError, match="two roles"):
        accepted(signed_genesis(fields))


@pytest.mark.parametrize("role", ["root", "release", "log", "beat"])
def test_a_next_key_serves_nothing_yet(role: str) -> None:
    """A key that already serves a role cannot be the one that takes over, for it has been shown."""
    fields = genesis_fields()
    fields["next"] = {"digests": [key("next").verify_key.keyid, key(role).verify_key.keyid], "threshold": 1}
    with pytest.raises(TrustError, match="two roles"):
        accepted(signed_genesis(fields))


def two_roots() -> dict[str, Any]:
    """Return the genesis of a publisher with two root keys, both of which must sign."""
    return genesis_fields() | {"root": {"keys": [public("root"), public("root 2")], "threshold": 2}}


def test_threshold_of_root() -> None:
    """Two of two root keys sign, in any order; one of them does not do, however often its signature stands there."""
    one, two = key("root"), key("root 2")
    assert accepted(signed_genesis(two_roots(), two, one)).root.threshold == 2
    for signers in ([one], [one, one], [one, one, key("release")], [two, two]):
        with pytest.raises(TrustError):
            accepted(signed_genesis(two_roots(), *signers))


def test_threshold_cannot_be_faked_by_one_key() -> None:
    """A root key listed twice is refused, in the same spelling and in another."""
    for twin in (public("root"), public("root").upper(), " " + public("root")):
        fields = genesis_fields() | {"root": {"keys": [public("root"), twin], "threshold": 2}}
        with pytest.raises(MalformedError):
            accepted(signed_genesis(fields, key("root"), key("root")))


def test_low_order_root_signs_nothing() -> None:
    """A root key of low order, for which signatures can be made without a secret, founds no publisher."""
    fields = genesis_fields() | {"root": {"keys": ["01" + "00" * 31], "threshold": 1}}
    body = strictjson.dump(fields)
    forged = base64.b64encode(b"\x01" + bytes(63)).decode()
    entry = strictjson.dump({
        "payloadType": CONTROL_TYPE,
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"keyid": VerifyKey(bytes.fromhex("01" + "00" * 31)).keyid, "sig": forged}],
    })  # fmt: skip
    with pytest.raises(TrustError):
        accepted(entry)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets a field given as `a.b`; `KeyError` as value deletes it."""

    def apply(fields: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            fields = fields[parent]
        if value is KeyError:
            del fields[last]
        else:
            fields[last] = value

    return apply


KEY = "ab" * 32
NOT_GENESIS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another type": change("type", "keys"),
    "no type": change("type", KeyError),
    "version 2": change("v", 2),
    "version true": change("v", True),  # noqa: FBT003
    "version 1.0": change("v", 1.0),
    "version as text": change("v", "1"),
    "no version": change("v", KeyError),
    "crit": change("crit", ["new"]),
    "no root": change("root", KeyError),
    "no release": change("release", KeyError),
    "no log": change("log", KeyError),
    "no beat": change("beat", KeyError),
    "no next": change("next", KeyError),
    "root is a list": change("root", [KEY]),
    "no root keys": change("root.keys", []),
    "root keys is a string": change("root.keys", KEY),
    "root key is a number": change("root.keys", [1]),
    "root key too short": change("root.keys", [KEY[2:]]),
    "root key too long": change("root.keys", [KEY + "00"]),
    "root key not hex": change("root.keys", ["zz" * 32]),
    "root key in upper case": change("root.keys", [KEY.upper()]),
    "root key with blanks": change("root.keys", [KEY[:62] + " b"]),
    "17 release keys": change("release.keys", [f"{n:064x}" for n in range(MAX_KEYS + 1)]),
    "threshold 0": change("release.threshold", 0),
    "threshold negative": change("release.threshold", -1),
    "threshold above the keys": change("release.threshold", 2),
    "threshold true": change("release.threshold", True),  # noqa: FBT003
    "threshold 1.0": change("release.threshold", 1.0),
    "threshold as text": change("release.threshold", "1"),
    "threshold null": change("release.threshold", None),
    "no next digests": change("next.digests", []),
    "next digest not hex": change("next.digests", ["zz" * 32]),
    "next digest in upper case": change("next.digests", [KEY.upper()]),
    "next digest is a number": change("next.digests", [1]),
    "17 next digests": change("next.digests", [f"{n:064x}" for n in range(MAX_KEYS + 1)]),
    "next threshold above the digests": change("next.threshold", 2),
    "next threshold 0": change("next.threshold", 0),
}


@pytest.mark.parametrize("bend", NOT_GENESIS.values(), ids=NOT_GENESIS.keys())
def test_refused(bend: Callable[[dict[str, Any]], None]) -> None:
    """A genesis with a missing, extra-strict or misspelled field is refused as malformed although root signed it."""
    fields = genesis_fields()
    bend(fields)
    with pytest.raises(MalformedError):
        accepted(signed_genesis(fields))


def test_a_next_digest_twice() -> None:
    """A next key named twice cannot make up a threshold of two."""
    fields = genesis_fields() | {"next": {"digests": [KEY, KEY], "threshold": 2}}
    with pytest.raises(TrustError):
        accepted(signed_genesis(fields))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"genesis"', b"1", b"{}", b"{", b'{"type":"genesis","type":"x"}']
)
def test_not_an_event(body: bytes) -> None:
    """A signed body that is no JSON object, or an ambiguous one, is refused as malformed."""
    with pytest.raises(MalformedError):
        accepted(Envelope.sign(CONTROL_TYPE, body, [key("root")]).encoded)


def test_unknown_fields_are_allowed() -> None:
    """A field of a later version that is not critical changes nothing."""
    assert accepted(signed_genesis(genesis_fields() | {"later": {"x": 1}})).root == publisher().root


def test_size_limit() -> None:
    """A genesis of more than 16 KiB is refused before it is parsed."""
    entry = publisher().envelope.encoded
    with pytest.raises(MalformedError, match="one encoding"):
        accepted(entry + b" " * (MAX_GENESIS - len(entry)))
    with pytest.raises(MalformedError, match="too large"):
        accepted(entry + b" " * (MAX_GENESIS - len(entry) + 1))
