"""Publishers and releases from fixed seeds: the same bytes on every run and every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from modelnet.core import strictjson
from modelnet.core.cid import Cid
from modelnet.core.dsse import Envelope
from modelnet.core.identity import CONTROL_TYPE, Genesis, make_genesis
from modelnet.core.keys import SigningKey
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.release import Release, sign_release
from modelnet.core.tree import build_tree
from modelnet.core.unixfs import balanced, leaf

__all__ = ["ROLES", "genesis_fields", "key", "manifest", "publisher", "release", "signed_genesis"]

ROLES = ("root", "release", "log", "beat", "next")

FILES = {
    "LICENSE": b"Public domain.\n",
    "config.json": b'{"layers":2}\n',
    "weights/größe.bin": bytes(range(256)) * 16,
}


def key(role: str) -> SigningKey:
    """Return the test key of `role`; its seed is SHA-256("modelnet test vector key <role>")."""
    return SigningKey.from_seed(hashlib.sha256(f"modelnet test vector key {role}".encode()).digest())


def publisher() -> Genesis:
    """Return the genesis of the test keys."""
    return make_genesis({role: key(role) for role in ROLES})


def genesis_fields() -> dict[str, Any]:
    """Return the genesis event of the test keys as JSON fields, to be changed by a test."""
    fields: dict[str, Any] = json.loads(publisher().envelope.unverified_body)
    return fields


def signed_genesis(fields: Mapping[str, Any], *signers: SigningKey) -> bytes:
    """Return the envelope of a genesis event, signed by `signers` or by the test root key."""
    return Envelope.sign(CONTROL_TYPE, strictjson.dump(fields), signers or [key("root")]).encoded


def manifest(**extra: Any) -> Manifest:
    """Return the manifest of a small release, with more fields in `extra`."""
    files, entries = [], []
    for path, content in sorted(FILES.items()):
        children = [leaf(content[start : start + 1024])[0] for start in range(0, len(content), 1024)]
        root = balanced(children, _nowhere)
        files.append((path, root))
        entries.append(
            FileEntry(
                path,
                len(content),
                root.cid,
                Cid.of(0x55, content).digest,
                hashlib.sha256(content).digest(),
                "grid/1",
                hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).digest(),
                "json" if path.endswith(".json") else None,
            )
        )
    return Manifest("tiny/test-model", "1.0.0", build_tree(files, _nowhere).cid, tuple(entries), extra)


def _nowhere(_cid: Cid, _block: bytes) -> None:
    """Drop a block: only its CID counts."""


def release() -> Release:
    """Return the small release, signed by the test release key."""
    metadata = {"metadata": {"license": "CC0-1.0", "description": "a release for tests"}}
    return sign_release(manifest(**metadata), publisher(), key("release"), channels=["stable"])
