"""The manifest: one DAG-CBOR block that lists a release's files, variants and lineage.

    {"type": "modelnet/manifest", "v": 1, "name": N, "version": V, "tree": CID,
     "files": [{"path", "size", "cid": CID, "blake3": 32 bytes, "sha256": 32 bytes, "git_sha1"?: 20 bytes,
                "format"?: text, "plan": text}…]                         sorted by path
     "variants"?, "derived_from"?, "parents"?, "origins"?, "metadata"?, "crit"?: [names of fields]}

It links the tree and each file's root, so pinning the manifest pins the release. Other manifests (`parents`, lineage)
are named by the text of their CIDs, not linked: a pin of this release must not drag in all before it. Unknown fields
are kept and ignored, unless `crit` names one: then a reader that does not know it must refuse. At most 16 MiB and
100,000 files. The block's CID is the release's bytes; whether anybody stands by them is said elsewhere
(`modelnet.core.release`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from modelnet.core import dagcbor
from modelnet.core.cid import BLAKE3, DAG_CBOR, DAG_PB, RAW, Cid
from modelnet.core.names import check_name, check_version
from modelnet.core.paths import check_paths
from modelnet.core.variants import Variant, read_variants
from modelnet.errors import MalformedError, UsageError

__all__ = ["MAX_FILES", "MAX_MANIFEST", "FileEntry", "Manifest"]

TYPE = "modelnet/manifest"
MAX_MANIFEST = 16 * 1024 * 1024
MAX_FILES = 100_000
MAX_SIZE = 1 << 50  # bytes of one file: a pebibyte, so that sums stay within 64 bits

FILE_FIELDS = frozenset(["path", "size", "cid", "blake3", "sha256", "plan", "git_sha1", "format"])
KNOWN = frozenset(
    ["type", "v", "name", "version", "tree", "files", "variants", "derived_from", "parents", "origins", "metadata"]
)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a release; digests are raw bytes, `cid` is the root of its DAG, `extra` what we do not know."""

    path: str
    size: int
    cid: Cid
    blake3: bytes
    sha256: bytes
    plan: str
    git_sha1: bytes | None = None
    format: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_fields(self) -> dict[str, Any]:
        """Return the entry as it stands in the manifest."""
        fields: dict[str, Any] = {
            **self.extra,
            "path": self.path, "size": self.size, "cid": self.cid,
            "blake3": self.blake3, "sha256": self.sha256, "plan": self.plan,
        }  # fmt: skip
        if self.git_sha1 is not None:
            fields["git_sha1"] = self.git_sha1
        if self.format is not None:
            fields["format"] = self.format
        return fields


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest; `extra` holds every field beside those named here."""

    name: str
    version: str
    tree: Cid
    files: tuple[FileEntry, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the block."""
        return dagcbor.encode({
            **self.extra,
            "type": TYPE, "v": 1, "name": self.name, "version": self.version, "tree": self.tree,
            "files": [entry.as_fields() for entry in self.files],
        })  # fmt: skip

    @property
    def cid(self) -> Cid:
        """The CID of the block."""
        return Cid.of(DAG_CBOR, self.encode())

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the block, as a locator pins it."""
        return hashlib.sha256(self.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Files that stand for each other, of which a pull may take one set; raises `MalformedError`."""
        return read_variants(self.extra.get("variants", {}), [entry.path for entry in self.files])

    @property
    def parents(self) -> tuple[Cid, ...]:
        """Manifests of earlier versions: where chunks may be reused from."""
        return tuple(Cid.parse(text) for text in self.extra.get("parents", ()))

    @classmethod
    def parse(cls, block: bytes) -> Self:
        """Parse a manifest block; raise `MalformedError` naming the field that is wrong."""
        if len(block) > MAX_MANIFEST:
            raise MalformedError("manifest is too large", rule="manifest", wanted=MAX_MANIFEST, got=len(block))
        fields = dagcbor.decode(block)
        if not isinstance(fields, dict) or fields.get("type") != TYPE:
            raise MalformedError("not a manifest", rule="manifest")
        if _field(fields, "v", int) != 1:
            raise MalformedError("manifest of another version", rule="manifest", wanted=1, got=fields["v"])
        for name in _field(fields, "crit", list, []):
            if not isinstance(name, str) or name not in KNOWN:
                raise MalformedError(f"manifest needs {name!r}, which this version does not know", rule="crit")
        listed = _field(fields, "files", list)
        if not 0 < len(listed) <= MAX_FILES:
            raise MalformedError("number of files", rule="manifest", wanted=f"1 to {MAX_FILES}", got=len(listed))
        files = tuple(_entry(item) for item in listed)
        if check_paths(entry.path for entry in files) != [entry.path for entry in files]:
            raise MalformedError("manifest files are not sorted by path", rule="manifest")
        try:
            name, version = check_name(_field(fields, "name", str)), check_version(_field(fields, "version", str))
        except UsageError as error:
            raise MalformedError(error.message, rule="manifest") from error
        parents = _field(fields, "parents", list, [])
        for parent in parents:
            if not isinstance(parent, str):
                raise MalformedError("manifest parents are the text of CIDs", rule="manifest")
            Cid.parse(parent)
        named = {"type", "v", "name", "version", "tree", "files"}
        extra = {key: value for key, value in fields.items() if key not in named}
        return cls(name, version, _root(fields, "tree", DAG_PB), files, extra)


def _field(fields: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedError(
            f"manifest field {name!r}", rule="manifest", wanted=kind.__name__, got=type(value).__name__
        )
    return value


def _root(fields: Mapping[str, Any], name: str, *codecs: int) -> Cid:
    cid: Cid = _field(fields, name, Cid)
    if cid.code != BLAKE3 or cid.codec not in codecs:
        raise MalformedError(f"manifest {name} is not a BLAKE3 CID of its kind", rule="manifest", got=cid)
    return cid


def _entry(fields: Any) -> FileEntry:
    if not isinstance(fields, dict):
        raise MalformedError("manifest file is not a map", rule="manifest")
    path: str = _field(fields, "path", str)
    size: int = _field(fields, "size", int)
    if not 0 <= size <= MAX_SIZE:
        raise MalformedError("file size", rule="manifest", path=path, wanted=f"0 to {MAX_SIZE}", got=size)
    for name, length in (("blake3", 32), ("sha256", 32), ("git_sha1", 20)):
        if (name != "git_sha1" or name in fields) and len(_field(fields, name, bytes)) != length:
            raise MalformedError(f"manifest {name}", rule="manifest", path=path, wanted=f"{length} bytes")
    return FileEntry(
        path, size, _root(fields, "cid", RAW, DAG_PB), fields["blake3"], fields["sha256"], _field(fields, "plan", str),
        fields.get("git_sha1"), _field(fields, "format", str) if "format" in fields else None,
        {name: value for name, value in fields.items() if name not in FILE_FIELDS},
    )  # fmt: skip
