"""`modelnet.lock`: what a project uses, pinned; a file to commit beside the code that loads the models.

    [[release]]
    name = "acme/tiny-llama"                                      what was asked for
    locator = "modelnet:<pid>/tiny-llama@1.2.0?s=..&r=..&m=.."     what it is, and the least log that shows it

A locked name gives the same bytes on every machine, and losing a machine's state does not mean to trust from scratch.
It never outweighs a revocation.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from modelnet import durable
from modelnet.core.names import Locator, Reference, parse_reference
from modelnet.errors import MalformedError, UnavailableError, UsageError

__all__ = ["LOCK_NAME", "Lock"]

LOCK_NAME = "modelnet.lock"
MAX_LOCK = 1024 * 1024
HEADER = "# Written by `modelnet pull --lock`; commit it. A locked name means the same bytes everywhere.\n"


@dataclass(frozen=True, slots=True)
class Lock:
    """A parsed lock file: `publisher/name` as it was asked for → what it is pinned to."""

    path: Path
    releases: Mapping[str, Reference] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read `path`; a file that is not there locks nothing yet."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_LOCK + 1)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise UnavailableError(f"cannot read the lock: {error.strerror}", rule="lock", path=str(path)) from error
        if len(content) > MAX_LOCK:
            raise MalformedError("the lock is too large", rule="lock", path=str(path), wanted=f"at most {MAX_LOCK}")
        try:
            fields = tomllib.loads(content.decode())
            return cls(path, dict(map(_read, fields.get("release", []))))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, UsageError, TypeError) as error:
            raise MalformedError(f"not a lock file: {error}", rule="lock", path=str(path)) from error

    def find(self, reference: Reference) -> Reference | None:
        """Return what `reference` is locked to; raise `UsageError` when it asks for another version than that."""
        locked = self.releases.get(f"{reference.publisher}/{reference.name}")
        if locked is None:
            return None
        other = reference.manifest_sha256 not in (None, locked.manifest_sha256)
        if other or reference.version not in (None, locked.version):
            raise UsageError(
                f"{reference.publisher}/{reference.name} is locked to another version", rule="lock",
                path=str(self.path), wanted=locked.version, got=reference.version, hint="--update moves the lock",
            )  # fmt: skip
        return locked

    def save(self, reference: Reference, locator: Locator) -> None:
        """Lock `reference` to `locator` and write the file in one step; raises `UnavailableError`."""
        releases = {name: _locator(locked) for name, locked in self.releases.items()}
        releases[f"{reference.publisher}/{reference.name}"] = str(locator)
        # Names and locators hold no quote, backslash or line end: their grammar is narrower than TOML's strings.
        parts = [f'\n[[release]]\nname = "{name}"\nlocator = "{text}"\n' for name, text in sorted(releases.items())]
        content = (HEADER + "".join(parts)).encode()
        try:
            if not self.path.exists() or self.path.read_bytes() != content:
                durable.write(self.path, content)
        except OSError as error:
            raise UnavailableError(
                f"cannot write the lock: {error.strerror}", rule="lock", path=str(self.path)
            ) from error


def _read(fields: Mapping[str, object]) -> tuple[str, Reference]:
    match fields:
        case {"name": str(name), "locator": str(locator)} if len(fields) == 2:
            asked, locked = parse_reference(name), parse_reference(locator)
        case _:
            raise UsageError("a release has a name and a locator, nothing else", rule="lock")
    if locked.manifest_sha256 is None or locked.version is None or asked.name != locked.name or asked.version:
        raise UsageError(f"{name} is not pinned by its locator", rule="lock")
    return name, locked


def _locator(locked: Reference) -> str:
    return str(
        Locator.of(locked.publisher, locked.name, locked.version or "", locked.manifest_sha256 or "", locked.floor)
    )
