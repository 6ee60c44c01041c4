"""Manifests: what is signed is what is parsed, field by field."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import dagcbor
from modelnet.core.cid import BLAKE3, DAG_CBOR, DAG_PB, RAW, SHA2_256, Cid
from modelnet.core.manifest import MAX_FILES, MAX_MANIFEST, MAX_SIZE, FileEntry, Manifest
from modelnet.errors import MalformedError, ModelnetError
from tests.core.damage import damaged
from tests.core.releases import manifest

digests = st.binary(min_size=32, max_size=32)
free = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | digests.map(lambda d: Cid(RAW, BLAKE3, d)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
later = st.dictionaries(st.text("xyz", min_size=1, max_size=3), free, max_size=3)
entries = st.builds(
    FileEntry,
    path=st.from_regex(r"[a-z]{1,4}/[a-z]{4}\.bin", fullmatch=True),
    size=st.integers(0, MAX_SIZE),
    cid=st.builds(Cid, st.sampled_from([RAW, DAG_PB]), st.just(BLAKE3), digests),
    blake3=digests,
    sha256=digests,
    plan=st.sampled_from(["grid/1", "fixed-1m", "later/9"]),
    git_sha1=st.none() | st.binary(min_size=20, max_size=20),
    format=st.none() | st.text(max_size=5),
    extra=later,
)
manifests = st.builds(
    Manifest,
    name=st.sampled_from(["m", "a/b", "tiny.model-1"]),
    version=st.sampled_from(["1", "1.0.0", "2024-01-01"]),
    tree=digests.map(lambda digest: Cid(DAG_PB, BLAKE3, digest)),
    files=st.lists(entries, min_size=1, max_size=4, unique_by=lambda entry: entry.path).map(
        lambda found: tuple(sorted(found, key=lambda entry: entry.path))
    ),
    extra=st.fixed_dictionaries({}, optional={"metadata": free, "derived_from": free, "variants": free, "zzz": free}),
)


@given(manifests)
def test_round_trip(made: Manifest) -> None:
    """Every manifest comes back equal, unknown fields included, and re-encodes to the very block that was parsed."""
    block = made.encode()
    parsed = Manifest.parse(block)
    assert parsed == made
    assert parsed.encode() == block
    assert parsed.cid == Cid.of(DAG_CBOR, block)
    assert parsed.sha256 == hashlib.sha256(block).hexdigest()
    assert parsed.size == sum(entry.size for entry in made.files)


def test_every_damage() -> None:
    """A manifest with any byte changed has another CID, and whatever still parses re-encodes to the changed bytes."""
    block = manifest(metadata={"license": "CC0-1.0"}).encode()
    cid = Cid.of(DAG_CBOR, block)
    for what, other in damaged(block):
        with pytest.raises(ModelnetError):
            cid.verify(other)
        try:
            parsed = Manifest.parse(other)
        except MalformedError:
            continue
        assert parsed.encode() == other, what
        assert parsed.cid != cid, what


def fields(**extra: Any) -> dict[str, Any]:
    """Return a manifest's fields, to be changed by a test."""
    found: dict[str, Any] = copy.deepcopy(dagcbor.decode(manifest(**extra).encode()))
    return found


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets a field given as `a.0.b`; `KeyError` as value deletes it."""

    def apply(found: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for parent in parents:
            found = found[parent]
        if value is KeyError:
            del found[last]
        else:
            found[last] = value

    return apply


REFUSED: dict[str, Callable[[dict[str, Any]], None]] = {
    "another type": change("type", "modelnet/other"),
    "no type": change("type", KeyError),
    "version 2": change("v", 2),
    "version true": change("v", True),  # noqa: FBT003
    "version 1.0": change("v", 1.0),
    "no version": change("v", KeyError),
    "crit with a new field": change("crit", ["variants", "unknown"]),
    "crit with a list": change("crit", [["a"]]),
    "crit with a map": change("crit", [{}]),
    "crit with a number": change("crit", [1]),
    "crit is text": change("crit", "name"),
    "crit is null": change("crit", None),
    "no name": change("name", KeyError),
    "name with a space": change("name", "a b"),
    "name that climbs": change("name", "../a"),
    "name is bytes": change("name", b"a"),
    "version with a slash": change("version", "1/2"),
    "version is a number": change("version", 1),
    "no tree": change("tree", KeyError),
    "tree is text": change("tree", "bafy"),
    "tree is a raw block": change("tree", Cid(RAW, BLAKE3, bytes(32))),
    "tree is a manifest": change("tree", Cid(DAG_CBOR, BLAKE3, bytes(32))),
    "tree of another hash": change("tree", Cid(DAG_PB, SHA2_256, bytes(32))),
    "tree of version 0": change("tree", Cid(DAG_PB, SHA2_256, bytes(32), 0)),
    "no files": change("files", KeyError),
    "files empty": change("files", []),
    "files is a map": change("files", {}),
    "file is text": change("files.0", "LICENSE"),
    "file without a path": change("files.0.path", KeyError),
    "file path is bytes": change("files.0.path", b"LICENSE"),
    "file path climbs": change("files.0.path", "../LICENSE"),
    "file path absolute": change("files.0.path", "/LICENSE"),
    "file paths out of order": change("files.0.path", "zzz"),
    "file path twice": change("files.0.path", "config.json"),
    "file paths differ in case": change("files.0.path", "Config.json"),
    "file is a folder too": change("files.0.path", "weights"),
    "no size": change("files.0.size", KeyError),
    "negative size": change("files.0.size", -1),
    "size of more than a pebibyte": change("files.0.size", MAX_SIZE + 1),
    "size of 64 bits": change("files.0.size", 2**64 - 1),
    "size true": change("files.0.size", True),  # noqa: FBT003
    "size 1.0": change("files.0.size", 1.0),
    "size as text": change("files.0.size", "1"),
    "no cid": change("files.0.cid", KeyError),
    "cid as text": change("files.0.cid", "bafkr4i"),
    "cid as bytes": change("files.0.cid", Cid(RAW, BLAKE3, bytes(32)).encode()),
    "cid of another hash": change("files.0.cid", Cid(RAW, SHA2_256, bytes(32))),
    "cid of a manifest": change("files.0.cid", Cid(DAG_CBOR, BLAKE3, bytes(32))),
    "identity cid": change("files.0.cid", Cid(RAW, 0, b"x")),
    "no blake3": change("files.0.blake3", KeyError),
    "blake3 too short": change("files.0.blake3", bytes(31)),
    "blake3 as hex": change("files.0.blake3", "00" * 32),
    "no sha256": change("files.0.sha256", KeyError),
    "sha256 too long": change("files.0.sha256", bytes(33)),
    "git_sha1 too short": change("files.0.git_sha1", bytes(19)),
    "git_sha1 null": change("files.0.git_sha1", None),
    "no plan": change("files.0.plan", KeyError),
    "plan is a number": change("files.0.plan", 1),
    "format null": change("files.0.format", None),
    "format is a number": change("files.0.format", 1),
    "parents is a map": change("parents", {}),
    "parents are numbers": change("parents", [1]),
    "parents are bytes": change("parents", [bytes(36)]),
    "parents are other text": change("parents", ["latest"]),
}


@pytest.mark.parametrize("bend", REFUSED.values(), ids=REFUSED.keys())
def test_refused(bend: Callable[[dict[str, Any]], None]) -> None:
    """A manifest with a field missing, of another type, out of range or out of order is refused as malformed."""
    found = fields()
    bend(found)
    with pytest.raises(MalformedError):
        Manifest.parse(dagcbor.encode(found))


@pytest.mark.parametrize("value", [None, 1, "manifest", [], {}, {"type": "modelnet/manifest"}])
def test_not_a_manifest(value: Any) -> None:
    """Any other DAG-CBOR value is refused as malformed."""
    with pytest.raises(MalformedError):
        Manifest.parse(dagcbor.encode(value))


def test_unknown_fields_are_kept() -> None:
    """Fields of a later version, of the manifest and of its files, survive parsing, so the CID stays the same."""
    found = fields(later={"x": [1, 2]})
    found["files"][0]["mode"] = 0o644
    block = dagcbor.encode(found)
    parsed = Manifest.parse(block)
    assert parsed.extra["later"] == {"x": [1, 2]}
    assert parsed.files[0].extra == {"mode": 0o644}
    assert parsed.encode() == block


def test_known_crit_fields() -> None:
    """A crit list that names only fields we know is no obstacle."""
    assert Manifest.parse(dagcbor.encode(fields(crit=["variants", "files"]))).extra["crit"] == ["variants", "files"]


def test_limits() -> None:
    """16 MiB and one byte, and 100,001 files, are refused; so is nothing at all."""
    with pytest.raises(MalformedError, match="too large"):
        Manifest.parse(bytes(MAX_MANIFEST + 1))
    with pytest.raises(MalformedError):
        Manifest.parse(b"")
    found = fields()
    found["files"] = [1] * (MAX_FILES + 1)
    with pytest.raises(MalformedError, match="number of files"):
        Manifest.parse(dagcbor.encode(found))


def test_files_of_a_pebibyte_are_counted() -> None:
    """Sizes add up without overflow at the limit."""
    made = manifest()
    files = tuple(dataclasses.replace(entry, size=MAX_SIZE) for entry in made.files)
    assert Manifest.parse(dataclasses.replace(made, files=files).encode()).size == len(files) * MAX_SIZE


def test_parents_are_named_not_linked() -> None:
    """Earlier manifests are named by the text of their CIDs, so a pin of this one does not pull them in."""
    parent = manifest().cid
    made = manifest(parents=[str(parent)])
    assert Manifest.parse(made.encode()).parents == (parent,)
    assert parent.encode() not in made.encode()
