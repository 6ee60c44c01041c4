"""DSSE envelopes: the specification's vector, a second verifier, and every way to count a signer twice."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from modelnet.core import strictjson
from modelnet.core.dsse import MAX_ENVELOPE, Envelope, pae
from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.errors import MalformedError, ModelnetError, TrustError
from tests.core.damage import damaged
from tests.core.releases import key

TYPE = "application/vnd.in-toto+json"
ONE, TWO, THREE = key("one"), key("two"), key("three")


def their_key(mine: SigningKey) -> SSlibKey:
    """Return a key as the second verifier wants it."""
    return SSlibKey(mine.verify_key.keyid, "ed25519", "ed25519", {"public": mine.verify_key.public.hex()})


def fields(envelope: Envelope) -> dict[str, Any]:
    """Return an envelope's JSON, to be changed by a test."""
    found: dict[str, Any] = json.loads(envelope.encoded)
    return found


def test_pae_of_the_specification() -> None:
    """The pre-authentication encoding is that of protocol.md, "Test Vectors"."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_envelope_of_the_specification() -> None:
    """The envelope of protocol.md parses: no key id, standard base64, a signature of another algorithm."""
    envelope = Envelope.parse(
        b'{"payload": "aGVsbG8gd29ybGQ=",\n "payloadType": "http://example.com/HelloWorld",\n "signatures": [{"sig": '
        b'"A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}'
    )
    assert (envelope.payload_type, envelope.unverified_body) == ("http://example.com/HelloWorld", b"hello world")
    assert [(keyid, len(sig)) for keyid, sig in envelope.signatures] == [("", 64)]
    with pytest.raises(TrustError):
        envelope.verify("http://example.com/HelloWorld", [ONE.verify_key])


def test_lengths_are_of_bytes() -> None:
    """The encoding counts bytes, not characters, so no type can pretend to be a part of the body."""
    assert pae("ü", b"x") == b"DSSEv1 2 \xc3\xbc 1 x"
    assert pae("a 1", b"b") != pae("a", b"1 b")


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20))
def test_the_second_verifier_agrees(body: bytes, kind: str) -> None:
    """A second verifier reads the same body, encodes the same message and accepts our signatures."""
    envelope = Envelope.sign(kind, body, [ONE, TWO])
    theirs = TheirEnvelope.from_dict(json.loads(envelope.encoded))
    assert (theirs.payload, theirs.payload_type) == (body, kind)
    assert theirs.pae() == pae(kind, body)
    assert len(theirs.verify([their_key(ONE), their_key(TWO)], 2)) == 2
    assert envelope.verify(kind, [ONE.verify_key, TWO.verify_key], 2) == body


def test_both_verifiers_refuse_a_changed_body() -> None:
    """A body that differs in one bit is refused here and by securesystemslib."""
    changed = fields(Envelope.sign(TYPE, b"hello", [ONE])) | {"payload": base64.b64encode(b"hellp").decode()}
    with pytest.raises(VerificationError):
        TheirEnvelope.from_dict(json.loads(json.dumps(changed))).verify([their_key(ONE)], 1)
    with pytest.raises(TrustError):
        Envelope.parse(strictjson.dump(changed)).verify(TYPE, [ONE.verify_key])


def test_the_type_is_signed() -> None:
    """A statement of one type is not accepted as another, claimed or expected."""
    envelope = Envelope.sign(TYPE, b"{}", [ONE])
    with pytest.raises(TrustError):
        envelope.verify("application/json", [ONE.verify_key])
    other = Envelope.parse(strictjson.dump(fields(envelope) | {"payloadType": "application/json"}))
    with pytest.raises(TrustError):
        other.verify("application/json", [ONE.verify_key])


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_threshold(threshold: int) -> None:
    """As many distinct keys as the threshold must have signed."""
    keys = [ONE.verify_key, TWO.verify_key, THREE.verify_key]
    for count in range(4):
        envelope = Envelope.sign(TYPE, b"body", [ONE, TWO, THREE][:count])
        if count >= threshold:
            assert envelope.verify(TYPE, keys, threshold) == b"body"
        else:
            with pytest.raises(TrustError):
                envelope.verify(TYPE, keys, threshold)


def resigned(envelope: Envelope, *signatures: dict[str, str]) -> Envelope:
    """Return the envelope with other signatures."""
    return Envelope.parse(strictjson.dump(fields(envelope) | {"signatures": list(signatures)}))


def test_one_key_is_one_signer() -> None:
    """A signature repeated, under other key ids or none, and a key listed twice, count once."""
    envelope = Envelope.sign(TYPE, b"body", [ONE])
    sig = fields(envelope)["signatures"][0]["sig"]
    urlsafe = sig.replace("+", "-").replace("/", "_")
    many = resigned(
        envelope,
        {"keyid": ONE.verify_key.keyid, "sig": sig},
        {"keyid": ONE.verify_key.keyid, "sig": sig},
        {"keyid": TWO.verify_key.keyid, "sig": sig},
        {"keyid": "", "sig": sig},
        {"sig": urlsafe},
    )
    listed = [ONE.verify_key, ONE.verify_key, VerifyKey(ONE.verify_key.public), TWO.verify_key]
    assert many.verify(TYPE, listed, 1) == b"body"
    with pytest.raises(TrustError):
        many.verify(TYPE, listed, 2)


def test_a_key_id_is_only_a_hint() -> None:
    """Without a key id every key is tried; with another key's id the signature counts for nobody."""
    envelope = Envelope.sign(TYPE, b"body", [ONE])
    sig = fields(envelope)["signatures"][0]["sig"]
    keys = [TWO.verify_key, ONE.verify_key]
    assert resigned(envelope, {"sig": sig}).verify(TYPE, keys) == b"body"
    with pytest.raises(TrustError):
        resigned(envelope, {"keyid": TWO.verify_key.keyid, "sig": sig}).verify(TYPE, keys)


@pytest.mark.parametrize("threshold", [-1, 0, 1])
def test_nobody_is_not_enough(threshold: int) -> None:
    """No keys, no signatures, or a threshold of none never verify anything."""
    with pytest.raises(TrustError):
        Envelope.sign(TYPE, b"body", [ONE]).verify(TYPE, [], threshold)
    with pytest.raises(TrustError):
        Envelope.sign(TYPE, b"body", []).verify(TYPE, [ONE.verify_key], threshold)


def test_urlsafe_base64() -> None:
    """Both alphabets of base64 are read, as the specification asks."""
    body = bytes(range(256))
    envelope = Envelope.sign(TYPE, body, [ONE])
    found = fields(envelope)
    found["payload"] = base64.urlsafe_b64encode(body).decode()
    assert Envelope.parse(strictjson.dump(found)).verify(TYPE, [ONE.verify_key]) == body


def test_unknown_fields_are_ignored() -> None:
    """Fields of later versions of the specification change nothing."""
    found = fields(Envelope.sign(TYPE, b"body", [ONE])) | {"later": [1]}
    found["signatures"][0]["extension"] = {"kind": "x"}
    assert Envelope.parse(strictjson.dump(found)).verify(TYPE, [ONE.verify_key]) == b"body"


NOT_ENVELOPES: dict[str, Any] = {
    "a list": [],
    "a string": "x",
    "empty": {},
    "no payload": {"payloadType": TYPE, "signatures": []},
    "no type": {"payload": "", "signatures": []},
    "no signatures": {"payload": "", "payloadType": TYPE},
    "payload is null": {"payload": None, "payloadType": TYPE, "signatures": []},
    "type is a number": {"payload": "", "payloadType": 1, "signatures": []},
    "signatures is a map": {"payload": "", "payloadType": TYPE, "signatures": {}},
    "signature is a string": {"payload": "", "payloadType": TYPE, "signatures": ["x"]},
    "no sig": {"payload": "", "payloadType": TYPE, "signatures": [{"keyid": ""}]},
    "key id is a number": {"payload": "", "payloadType": TYPE, "signatures": [{"keyid": 1, "sig": ""}]},
    "key id is null": {"payload": "", "payloadType": TYPE, "signatures": [{"keyid": None, "sig": ""}]},
    "payload is not base64": {"payload": "é", "payloadType": TYPE, "signatures": []},
    "payload with a blank": {"payload": "aGVs bG8=", "payloadType": TYPE, "signatures": []},
    "payload without padding": {"payload": "aGVsbG8", "payloadType": TYPE, "signatures": []},
    "payload with more padding": {"payload": "aGVsbG8==", "payloadType": TYPE, "signatures": []},
    "sig is not base64": {"payload": "", "payloadType": TYPE, "signatures": [{"sig": "*"}]},
    "65 signatures": {"payload": "", "payloadType": TYPE, "signatures": [{"sig": ""}] * 65},
}


@pytest.mark.parametrize("value", NOT_ENVELOPES.values(), ids=NOT_ENVELOPES.keys())
def test_refused(value: Any) -> None:
    """Missing fields, other types, other base64 and too many signatures are refused as malformed."""
    with pytest.raises(MalformedError):
        Envelope.parse(strictjson.dump(value))


def test_size_limit() -> None:
    """An envelope of 32,768 bytes parses, one byte more does not."""
    empty = len(Envelope.sign(TYPE, b"", []).encoded)
    body = bytes((MAX_ENVELOPE - empty) // 4 * 3)
    envelope = Envelope.sign(TYPE, body, [])
    padding = MAX_ENVELOPE - len(envelope.encoded)
    assert Envelope.parse(envelope.encoded + b" " * padding).unverified_body == body
    with pytest.raises(MalformedError):
        Envelope.parse(envelope.encoded + b" " * (padding + 1))


def test_every_damage() -> None:
    """A damaged envelope is refused or still says exactly what was signed: the envelope itself is not signed."""
    envelope = Envelope.sign(TYPE, b'{"says":"exactly this"}', [ONE])
    accepted = 0
    for what, other in damaged(envelope.encoded):
        try:
            parsed = Envelope.parse(other)
            body = parsed.verify(TYPE, [ONE.verify_key])
        except (MalformedError, TrustError):
            continue
        assert body == b'{"says":"exactly this"}', what
        assert parsed.encoded == other, what
        accepted += 1
    assert accepted  # white space, the name of the optional key id, the last bits of base64


def test_an_entry_has_one_spelling() -> None:
    """Every changed bit of a log entry is refused, also where DSSE would not care: base64's spare bits, key ids."""
    envelope = Envelope.sign("t", b"body", [SigningKey.from_seed(bytes(32))])
    keys = [SigningKey.from_seed(bytes(32)).verify_key]
    for position in range(len(envelope.encoded)):
        for bit in range(8):
            data = bytearray(envelope.encoded)
            data[position] ^= 1 << bit
            with pytest.raises(ModelnetError):
                Envelope.parse_entry(bytes(data)).verify("t", keys)
