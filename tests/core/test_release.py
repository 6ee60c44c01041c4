"""Release statements: who may say what, and that it is about these bytes."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from modelnet.core import strictjson
from modelnet.core.dsse import Envelope
from modelnet.core.identity import Genesis, make_genesis
from modelnet.core.release import PAYLOAD_TYPE, PREDICATE_TYPE, Release, is_release, sign_release
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UsageError
from tests.core.damage import damaged
from tests.core.releases import ROLES, genesis_fields, key, manifest, publisher, release, signed_genesis
from tests.core.test_identity import change, pid_of

BLOCK = manifest(metadata={"license": "CC0-1.0", "description": "a release for tests"}).encode()


def body() -> dict[str, Any]:
    """Return the statement of the test release, to be changed by a test."""
    fields: dict[str, Any] = json.loads(release().envelope.unverified_body)
    return fields


def signed(statement: Any, role: str = "release", kind: str = PAYLOAD_TYPE) -> Envelope:
    """Return a statement signed by a test key."""
    return Envelope.sign(kind, strictjson.dump(statement), [key(role)])


def said(one: Release) -> tuple[object, ...]:
    """Return what a release says, without the bytes that it came in."""
    return (one.pid, one.name, one.version, one.manifest, one.manifest_sha256, one.channels)


def test_round_trip() -> None:
    """A signed release verifies to itself and opens its manifest."""
    made = release()
    assert Release.verify(Envelope.parse(made.envelope.encoded), publisher()) == made
    assert made.open(BLOCK).encode() == BLOCK
    assert (made.name, made.version, made.channels) == ("tiny/test-model", "1.0.0", ("stable",))
    assert str(made.locator) == f"modelnet:{publisher().pid}/tiny/test-model@1.0.0?m={made.manifest_sha256}"
    assert is_release(made.envelope)


def test_in_toto_fields() -> None:
    """The statement is an in-toto release whose digests are those of the manifest block."""
    statement, made = body(), release()
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    assert statement["subject"][0]["digest"] == {
        "sha256": made.manifest_sha256,
        "blake3": made.manifest.digest.hex(),
    }
    assert statement["predicate"]["purl"] == "pkg:generic/tiny/test-model@1.0.0"


@pytest.mark.parametrize("role", ["root", "log", "beat", "next", "stranger"])
def test_only_release_keys_release(role: str) -> None:
    """No other role's key, and no stranger's, makes a release."""
    with pytest.raises(TrustError):
        Release.verify(signed(body(), role), publisher())


def test_threshold_of_release_keys() -> None:
    """Where two release keys must sign, one of them does not do."""
    fields = genesis_fields()
    twins = [key("release").verify_key.public.hex(), key("release 2").verify_key.public.hex()]
    fields["release"] = {"keys": twins, "threshold": 2}
    entry = signed_genesis(fields)
    genesis = Genesis.verify(entry, pid_of(entry))
    statement = body()
    statement["predicate"]["packageId"] = genesis.pid
    one = Envelope.sign(PAYLOAD_TYPE, strictjson.dump(statement), [key("release"), key("release")])
    with pytest.raises(TrustError):
        Release.verify(one, genesis)
    both = Envelope.sign(PAYLOAD_TYPE, strictjson.dump(statement), [key("release"), key("release 2")])
    assert Release.verify(both, genesis).pid == genesis.pid


def test_another_publishers_release() -> None:
    """A release is not accepted as another publisher's, even when both use the same release key."""
    other = make_genesis({role: key(f"other {role}") for role in ROLES} | {"release": key("release")})
    with pytest.raises(TrustError, match="another publisher"):
        Release.verify(release().envelope, other)


def test_a_genesis_is_no_release() -> None:
    """An envelope of one type never verifies as the other."""
    assert not is_release(publisher().envelope)
    with pytest.raises(TrustError):
        Release.verify(publisher().envelope, publisher())
    with pytest.raises(TrustError):
        Release.verify(signed(body(), kind="application/vnd.modelnet.control.v1+json"), publisher())


def test_every_damage_to_the_envelope() -> None:
    """A damaged envelope is refused, or still says exactly what was signed; the envelope's own spelling is unsigned."""
    made, genesis = release(), publisher()
    for what, other in damaged(made.envelope.encoded):
        try:
            found = Release.verify(Envelope.parse(other), genesis)
        except ModelnetError:
            continue
        assert said(found) == said(made), what
        assert found.envelope.unverified_body == made.envelope.unverified_body, what


def test_every_damage_to_the_statement() -> None:
    """A damaged statement under the old signature is always refused."""
    made, genesis = release(), publisher()
    fields = json.loads(made.envelope.encoded)
    for _, other in damaged(made.envelope.unverified_body):
        fields["payload"] = base64.b64encode(other).decode()
        with pytest.raises(TrustError):
            Release.verify(Envelope.parse(strictjson.dump(fields)), genesis)


def test_every_damage_to_the_manifest() -> None:
    """A manifest with any byte changed is never opened as the release's, and the source is named."""
    made = release()
    for _, other in damaged(BLOCK):
        with pytest.raises(IntegrityError) as caught:
            made.open(other, source="peer")
        assert caught.value.source == "peer"


HEX = "ab" * 32
REFUSED: dict[str, Callable[[dict[str, Any]], None]] = {
    "another statement type": change("_type", "https://in-toto.io/Statement/v0.1"),
    "another predicate": change("predicateType", "https://slsa.dev/provenance/v1"),
    "no subject": change("subject", []),
    "two subjects": lambda fields: fields["subject"].append(fields["subject"][0]),
    "subject is a map": change("subject", {}),
    "no predicate": change("predicate", KeyError),
    "crit in the predicate": change("predicate.crit", []),
    "crit in the statement": change("crit", ["x"]),
    "no pid": change("predicate.packageId", KeyError),
    "no version": change("predicate.version", KeyError),
    "name with a space": change("predicate.name", "a b"),
    "name that climbs": change("predicate.name", "a/../../b"),
    "version with a slash": change("predicate.version", "1/2"),
    "version is a number": change("predicate.version", 1),
    "channels is text": change("predicate.channels", "stable"),
    "channel in upper case": change("predicate.channels", ["Stable"]),
    "channel is a number": change("predicate.channels", [1]),
    "17 channels": change("predicate.channels", ["stable"] * 17),
}
SUBJECT: dict[str, tuple[str, Any]] = {
    "no digest": ("digest", KeyError),
    "no sha256": ("digest", {"blake3": HEX}),
    "no blake3": ("digest", {"sha256": HEX}),
    "sha256 too short": ("digest", {"sha256": HEX[2:], "blake3": HEX}),
    "sha256 in upper case": ("digest", {"sha256": HEX.upper(), "blake3": HEX}),
    "blake3 with a newline": ("digest", {"sha256": HEX, "blake3": HEX + "\n"}),
    "another blake3": ("digest", {"sha256": HEX, "blake3": HEX}),
    "another uri": ("uri", "ipfs://bafyr4icbknuijnk43bm2jcgbjlqanhrmh26y7zh3vcptbnxx4cva3pnwwa"),
    "uri is a URL": ("uri", "https://example.org/manifest"),
    "uri with a path": ("uri", f"ipfs://{release().manifest}/x"),
    "no uri": ("uri", KeyError),
}


@pytest.mark.parametrize("bend", REFUSED.values(), ids=REFUSED.keys())
def test_refused(bend: Callable[[dict[str, Any]], None]) -> None:
    """A statement of another shape is refused as malformed although the release key signed it."""
    statement = body()
    bend(statement)
    with pytest.raises(MalformedError):
        Release.verify(signed(statement), publisher())


@pytest.mark.parametrize(("field", "value"), SUBJECT.values(), ids=SUBJECT.keys())
def test_refused_subject(field: str, value: Any) -> None:
    """A subject whose digests or address are missing, misspelled or contradict each other is refused."""
    statement = body()
    change(field, value)(statement["subject"][0])
    with pytest.raises(MalformedError):
        Release.verify(signed(statement), publisher())


@pytest.mark.parametrize("statement", [None, [], "release", 1, {}])
def test_not_a_statement(statement: Any) -> None:
    """Other JSON, signed, is refused as malformed and is not taken for a release."""
    with pytest.raises(MalformedError):
        Release.verify(signed(statement), publisher())
    assert not is_release(signed(statement))


def test_not_json() -> None:
    """A body that is no JSON is not taken for a release."""
    assert not is_release(Envelope.sign(PAYLOAD_TYPE, b"\xff", [key("release")]))


def test_the_statement_names_the_manifest_inside() -> None:
    """A manifest of another name or version is refused although its hash is right."""
    for part, value in (("name", "other"), ("version", "2.0.0")):
        statement = body()
        statement["predicate"][part] = value
        with pytest.raises(IntegrityError, match="another release"):
            Release.verify(signed(statement), publisher()).open(BLOCK)


def test_both_digests_are_checked() -> None:
    """A statement whose sha256 is not the manifest's is refused on opening, though its BLAKE3 is right."""
    statement = body()
    statement["subject"][0]["digest"]["sha256"] = HEX
    found = Release.verify(signed(statement), publisher())
    with pytest.raises(IntegrityError, match="sha256"):
        found.open(BLOCK)


def test_unknown_fields_of_files_do_not_hinder() -> None:
    """A manifest whose files carry fields of a later version opens: its bytes are hashed, not our reading of them."""
    made = manifest()
    files = (dataclasses.replace(made.files[0], extra={"mode": 0o644}), *made.files[1:])
    later = dataclasses.replace(made, files=files)
    assert sign_release(later, publisher(), key("release")).open(later.encode()) == later


def test_signing_with_another_key_is_noticed() -> None:
    """Signing verifies its own result, so a wrong key is noticed before anything is published."""
    with pytest.raises(TrustError):
        sign_release(manifest(), publisher(), key("log"))


@pytest.mark.parametrize("channel", ["Stable", "", "a b", "1", "x" * 33])
def test_bad_channels(channel: str) -> None:
    """A channel that could not be asked for again is refused before signing, as usage."""
    with pytest.raises(UsageError):
        sign_release(manifest(), publisher(), key("release"), channels=[channel])
