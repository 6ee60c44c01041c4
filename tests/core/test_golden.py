"""The frozen release: what was published once is read, named and verified the same for ever."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import dag_cbor
import multiformats
import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import SSlibKey

from modelnet.core.dsse import Envelope
from modelnet.core.identity import Genesis
from modelnet.core.names import parse_reference
from modelnet.core.release import Release
from tests.core.releases import ROLES, key, manifest, publisher, release

FOLDER = Path(__file__).parents[2] / "fixtures" / "vectors" / "release"
GENESIS = (FOLDER / "genesis.dsse.json").read_bytes()
RELEASE = (FOLDER / "release.dsse.json").read_bytes()
MANIFEST = (FOLDER / "manifest.cbor").read_bytes()
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())


def test_the_frozen_release_verifies() -> None:
    """From the pid alone the genesis, the release and the manifest verify, and give the frozen names."""
    genesis = Genesis.verify(GENESIS, EXPECTED["pid"])
    found = Release.verify(Envelope.parse(RELEASE), genesis)
    assert str(found.locator) == EXPECTED["locator"]
    assert str(found.manifest) == EXPECTED["manifest_cid"]
    opened = found.open(MANIFEST)
    assert opened.encode() == MANIFEST
    assert {entry.path: str(entry.cid) for entry in opened.files} == EXPECTED["file_cids"]
    assert str(opened.tree) == EXPECTED["tree_cid"]
    reference = parse_reference(EXPECTED["locator"])
    assert (reference.publisher, reference.manifest_sha256) == (EXPECTED["pid"], EXPECTED["manifest_sha256"])


def test_the_same_bytes_are_made_today() -> None:
    """The publisher's code makes the frozen bytes from the same keys and files."""
    assert publisher().envelope.encoded == GENESIS
    assert release().envelope.encoded == RELEASE
    metadata = {"license": "CC0-1.0", "description": "a release for tests"}
    assert manifest(metadata=metadata).encode() == MANIFEST
    assert {role: key(role).verify_key.keyid for role in ROLES} == EXPECTED["keyids"]


def test_others_read_the_manifest() -> None:
    """The reference libraries, without our code, read the manifest and find the frozen links and its CID."""
    fields: Any = dag_cbor.decode(MANIFEST)
    assert fields["tree"].encode("base32") == EXPECTED["tree_cid"]
    assert {entry["path"]: entry["cid"].encode("base32") for entry in fields["files"]} == EXPECTED["file_cids"]
    assert multiformats.CID.decode(EXPECTED["manifest_cid"]).codec.name == "dag-cbor"
    assert hashlib.sha256(MANIFEST).hexdigest() == EXPECTED["manifest_sha256"]


@pytest.mark.parametrize(("entry", "role"), [(GENESIS, "root"), (RELEASE, "release")])
def test_others_verify_the_signatures(entry: bytes, role: str) -> None:
    """A second verifier accepts both frozen envelopes with the key of their role."""
    public = key(role).verify_key
    theirs = SSlibKey(public.keyid, "ed25519", "ed25519", {"public": public.public.hex()})
    assert TheirEnvelope.from_dict(json.loads(entry)).verify([theirs], 1)
