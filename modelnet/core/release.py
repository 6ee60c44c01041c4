"""The release statement: a publisher says "this manifest is my NAME at VERSION".

An in-toto Statement v1 with the `release/v0.1` predicate, in a DSSE envelope signed by the publisher's release key:

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": N, "uri": "ipfs://" + manifest CID, "digest": {"sha256": hex, "blake3": hex}}],
     "predicateType": "https://in-toto.io/attestation/release/v0.1",
     "predicate": {"purl": "pkg:generic/" N "@" V, "packageId": pid, "name": N, "version": V,
                   "channels": […], "derived_from": […], "format": "modelnet/manifest"}}

`digest.blake3` is the digest inside the manifest's CID; sha256 stands beside it as in-toto's digest_set.md asks.
Parsing keeps unknown fields out of the result and refuses a `crit` list. The envelope's bytes are an entry of the log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

from modelnet.core import strictjson
from modelnet.core.cid import BLAKE3, DAG_CBOR, Cid
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.identity import Genesis
from modelnet.core.keys import SigningKey
from modelnet.core.manifest import Manifest
from modelnet.core.names import Locator, check_name, check_version
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UsageError

__all__ = [
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Release",
    "is_release",
    "release_statement",
    "sign_release",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/release/v0.1"
MAX_CHANNELS = 16
_CHANNEL = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Release:
    """A release that its publisher's release keys signed; made by `Release.verify` only."""

    pid: str
    name: str
    version: str
    manifest: Cid
    manifest_sha256: str
    channels: tuple[str, ...]
    envelope: Envelope

    @property
    def locator(self) -> Locator:
        """The locator that pins this release."""
        return Locator.of(self.pid, self.name, self.version, self.manifest_sha256)

    @classmethod
    def verify(cls, envelope: Envelope, genesis: Genesis) -> Self:
        """Return the release that `envelope` states once `genesis`'s release keys signed it.

        Raises `TrustError` on a missing signature or another publisher's statement, `MalformedError` otherwise.
        """
        body = envelope.verify(PAYLOAD_TYPE, genesis.release.keys, genesis.release.threshold)
        statement = strictjson.parse(body, what="release statement", limit=MAX_ENVELOPE)
        release = cls.read(envelope, statement)
        if release.pid != genesis.pid:
            raise TrustError("release of another publisher", rule="publisher", wanted=genesis.pid, got=release.pid)
        return release

    @classmethod
    def read(cls, envelope: Envelope, statement: Any) -> Self:
        """Return the release in `statement`, the parsed body of `envelope`; who signed it the caller has to ask."""
        match statement:
            case {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"uri": str(uri), "digest": {"sha256": str(sha256), "blake3": str(blake3)}}],
                "predicateType": "https://in-toto.io/attestation/release/v0.1",
                "predicate": {"packageId": str(pid), "name": str(name), "version": str(version), **rest},
            }:
                pass
            case _:
                raise MalformedError("not a release statement", rule="statement")
        if "crit" in statement or "crit" in rest or not _HEX.fullmatch(sha256) or not _HEX.fullmatch(blake3):
            raise MalformedError("release statement holds what this version cannot read", rule="statement")
        manifest = Cid(DAG_CBOR, BLAKE3, bytes.fromhex(blake3))
        if uri != f"ipfs://{manifest}":
            raise MalformedError("release names two manifests", rule="statement", wanted=f"ipfs://{manifest}", got=uri)
        try:
            check_name(name)
            check_version(version)
            channels = check_channels(rest.get("channels", []))
        except UsageError as error:
            raise MalformedError(error.message, rule="statement") from error
        return cls(pid, name, version, manifest, sha256, channels, envelope)

    def open(self, block: bytes, *, source: str | None = None) -> Manifest:
        """Return the manifest in `block` once it is the one that this release names."""
        self.manifest.verify(block, source=source)
        manifest = Manifest.parse(block)
        if (manifest.name, manifest.version) != (self.name, self.version):
            raise IntegrityError(
                "manifest of another release",
                rule="name", source=source,
                wanted=f"{self.name}@{self.version}", got=f"{manifest.name}@{manifest.version}",
            )  # fmt: skip
        if manifest.sha256 != self.manifest_sha256:
            raise IntegrityError(
                "release statement gives another sha256 for its manifest",
                rule="hash", wanted=self.manifest_sha256, got=manifest.sha256, source=source,
            )  # fmt: skip
        return manifest


def check_channels(channels: Any) -> tuple[str, ...]:
    """Return `channels` if releases may be found under them, else raise `UsageError`."""
    if not isinstance(channels, list | tuple) or len(channels) > MAX_CHANNELS:
        raise UsageError("channels", rule="channel", wanted=f"at most {MAX_CHANNELS}")
    for channel in channels:
        if not isinstance(channel, str) or not _CHANNEL.fullmatch(channel):
            raise UsageError(f"not a channel: {channel!r}", rule="channel", hint="for example stable or nightly")
    return tuple(channels)


def is_release(envelope: Envelope) -> bool:
    """Tell whether an unverified envelope claims to be a release; what it claims is not to be used."""
    if envelope.payload_type != PAYLOAD_TYPE:
        return False
    try:
        statement = strictjson.parse(envelope.unverified_body, what="statement", limit=MAX_ENVELOPE)
    except ModelnetError:
        return False
    return isinstance(statement, dict) and statement.get("predicateType") == PREDICATE_TYPE


def sign_release(manifest: Manifest, genesis: Genesis, key: SigningKey, *, channels: Sequence[str] = ()) -> Release:
    """Return the release of `manifest`, signed by `key`."""
    body = release_statement(manifest, genesis.pid, channels)
    return Release.verify(Envelope.sign(PAYLOAD_TYPE, body, [key]), genesis)


def release_statement(manifest: Manifest, pid: str, channels: Sequence[str] = ()) -> bytes:
    """Return the statement "this manifest is my release" as `pid`'s release keys sign it."""
    lineage = [
        {name: str(value) for name, value in parent.items()} for parent in manifest.extra.get("derived_from", [])
    ]
    return strictjson.dump({
        "_type": STATEMENT_TYPE,
        "subject": [{
            "name": manifest.name,
            "uri": f"ipfs://{manifest.cid}",
            "digest": {"sha256": manifest.sha256, "blake3": manifest.cid.digest.hex()},
        }],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "purl": f"pkg:generic/{quote(manifest.name)}@{quote(manifest.version)}",
            "packageId": pid,
            "name": manifest.name,
            "version": manifest.version,
            "channels": list(check_channels(list(channels))),
            "derived_from": lineage,
            "format": "modelnet/manifest",
        },
    })  # fmt: skip
