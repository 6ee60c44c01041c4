"""Names of releases and the two ways to write one: a locator, or `publisher/name[@version]`.

    modelnet:<pid>/<name>@<version>?s=<size>&r=<root>&m=<sha256 of the manifest block, hex>

A locator names its publisher by pid and pins the manifest, so it can be pasted anywhere and needs no trust in how it
is resolved. `s` and `r` (base64url, no padding) are a head of the publisher's log: who shows less than that to a
newcomer holds something back. Parameters that this version does not know are ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import NamedTuple, Self

from modelnet.core.identity import PID
from modelnet.errors import UsageError

__all__ = ["Floor", "Locator", "Reference", "check_name", "check_version", "parse_reference"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,127}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SIZE = re.compile(r"[1-9][0-9]{0,18}")
_PARAMETERS = re.compile(r"[A-Za-z0-9_=&%.~-]{0,1024}")


def check_name(name: str) -> str:
    """Return `name` if a model may be called so, else raise `UsageError`."""
    parts = name.split("/")
    if not _NAME.fullmatch(name) or any(part in ("", ".", "..") or part[-1] == "." for part in parts):
        raise UsageError(
            f"not a model name: {name!r}",
            rule="name", hint="lower-case letters, digits, '.', '_', '-' and '/', at most 128, e.g. tiny-llama",
        )  # fmt: skip
    return name


def check_version(version: str) -> str:
    """Return `version` if a release may be called so, else raise `UsageError`."""
    if not _VERSION.fullmatch(version) or version[-1] == ".":
        raise UsageError(
            f"not a version: {version!r}",
            rule="version", hint="letters, digits, '.', '_', '+', '-', at most 64, e.g. 1.2.0",
        )  # fmt: skip
    return version


def check_alias(alias: str) -> str:
    """Return `alias` if a publisher may be called so locally, else raise `UsageError`."""
    if not _ALIAS.fullmatch(alias) or PID.fullmatch(alias):
        raise UsageError(
            f"not an alias: {alias!r}",
            rule="alias", hint="lower-case letters, digits, '.', '_', '-', at most 64, and not a publisher id",
        )  # fmt: skip
    return alias


class Floor(NamedTuple):
    """The least that must be known of a log: its first `size` entries have this root."""

    size: int
    root: bytes

    def __str__(self) -> str:
        return f"s={self.size}&r={base64.urlsafe_b64encode(self.root).decode().rstrip('=')}"

    @classmethod
    def parse(cls, size: str, root: str) -> Self:
        """Parse the parameters `s` and `r` of a locator; raise `UsageError`."""
        try:
            value = base64.urlsafe_b64decode(root + "=") if len(root) == 43 else b""
        except (binascii.Error, ValueError):
            value = b""
        floor = cls(int(size) if _SIZE.fullmatch(size) else 0, value)
        # One value, one spelling: the last letter of a root has two bits to spare.
        if not 0 < floor.size < 1 << 63 or len(value) != 32 or str(floor) != f"s={size}&r={root}":
            raise UsageError(
                "locator parameters s and r are not a log's head", rule="reference", got=f"s={size}&r={root}"
            )
        return floor


@dataclass(frozen=True, slots=True)
class Reference:
    """What to fetch: `publisher` is a pid or a local alias, `version` None means the newest release."""

    publisher: str
    name: str
    version: str | None = None
    manifest_sha256: str | None = None
    floor: Floor | None = None

    def __str__(self) -> str:
        return f"{self.publisher}/{self.name}" + (f"@{self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class Locator:
    """A pinned reference: the bytes it names cannot change."""

    pid: str
    name: str
    version: str
    manifest_sha256: str
    floor: Floor | None = None

    @classmethod
    def of(cls, pid: str, name: str, version: str, manifest_sha256: str, floor: Floor | None = None) -> Self:
        """Return the locator of a release; `floor` is a head of its publisher's log that holds it."""
        return cls(pid, check_name(name), check_version(version), manifest_sha256, floor)

    def __str__(self) -> str:
        floor = f"{self.floor}&" if self.floor else ""
        return f"modelnet:{self.pid}/{self.name}@{self.version}?{floor}m={self.manifest_sha256}"


def parse_reference(text: str) -> Reference:
    """Parse a locator or `publisher/name[@version]`; raise `UsageError` with an example."""
    if not isinstance(text, str):
        raise TypeError(f"a reference is a string, not {type(text).__name__}")
    pinned = text.startswith("modelnet:")
    body, mark, query = text.removeprefix("modelnet:").partition("?")
    publisher, slash, rest = body.partition("/")
    name, at, version = rest.partition("@")
    if not slash or not name or (at and not version) or (mark and not (pinned and query)):
        raise UsageError(
            f"not a reference: {text[:200]!r}",
            rule="reference", hint="write publisher/name, publisher/name@version, or paste a modelnet: locator",
        )  # fmt: skip
    if pinned and not PID.fullmatch(publisher):
        raise UsageError("a locator names its publisher by id", rule="reference", wanted="52 characters", got=publisher)
    if not PID.fullmatch(publisher):
        check_alias(publisher)
    digest = floor = None
    if query:
        if not _PARAMETERS.fullmatch(query):
            raise UsageError("locator parameters hold something else than they may", rule="reference")
        parameters = [part.partition("=")[::2] for part in query.split("&")]
        if len({key for key, _ in parameters}) != len(parameters):
            raise UsageError("a locator parameter stands twice", rule="reference")
        given = dict(parameters)
        digest = given.get("m")
        if digest is not None and not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UsageError("locator parameter m is not a sha256", rule="reference", got=digest)
        if "s" in given or "r" in given:
            floor = Floor.parse(given.get("s", ""), given.get("r", ""))
    return Reference(publisher, check_name(name), check_version(version) if version else None, digest, floor)
