"""The one place where loaders ask the gate: a reference → a release that may be loaded, and where its files lie."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from modelnet.core.identity import PID
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.names import parse_reference
from modelnet.core.release import Release
from modelnet.errors import TrustError, UnavailableError, UsageError
from modelnet.gate import admit, find_row, open_manifest
from modelnet.policies import Policies, Terms, load_policies
from modelnet.puller import Knowledge
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore, open_store

__all__ = ["PREFIX", "Target", "Trusted", "find_path", "parse_target", "trust"]

PREFIX = "modelnet:"
MAX_TARGET = 4096  # characters; longer than any path or locator
_FILE = re.compile(r"#(?P<file>[^#]+)$")


@dataclass(frozen=True, slots=True)
class Target:
    """A release, and perhaps one file of it: `publisher/name@version#path/in/release`."""

    reference: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Trusted:
    """A release that passed the gate, and the folder that its files lie in."""

    store: LocalStore
    release: Release
    manifest: Manifest
    base: Path
    layout: str
    terms: Terms
    knowledge: Knowledge = field(default_factory=Knowledge)

    def entry(self, path: str) -> FileEntry:
        """Return the manifest's entry of `path`; raise `UsageError` when the release has no such file."""
        for entry in self.manifest.files:
            if entry.path == path:
                return entry
        raise UsageError(
            "the release has no such file", rule="only", path=path,
            hint="its files: " + ", ".join(entry.path for entry in self.manifest.files[:8]),
        )  # fmt: skip


def parse_target(text: str) -> Target:
    """Parse a reference as loaders accept it: a locator, `publisher/name[@version]`, or that after `modelnet:`.

    `#file` at the end chooses one file. Raises `UsageError`.
    """
    if len(text) > MAX_TARGET:
        raise UsageError("the reference is too long", rule="reference", wanted=f"at most {MAX_TARGET}", got=len(text))
    found = _FILE.search(text)
    reference = text[: found.start()] if found else text
    if reference.startswith(PREFIX) and not PID.match(reference, len(PREFIX)):
        # A name that is only known here; a locator, which others paste too, has the publisher's id.
        reference = reference.removeprefix(PREFIX)
    parse_reference(reference)
    return Target(reference, found["file"] if found else None)


def trust(
    reference: str,
    *,
    home: str | os.PathLike[str] | None = None,
    policy: Policies | None = None,
    pull: bool = True,
    peers: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Trusted:
    """Return the release that `reference` means, once the gate has let it through.

    With `pull` what is not here is fetched, from `peers` or those that are known. Raises what gate and pull raise.
    """
    store = open_store(home)
    try:
        row = find_row(store, reference)
        if row.layout == "part" and pull and not _is_here(store, row, only):
            row = _pulled(store, reference, peers, only)
    except UnavailableError as error:
        if not pull or error.rule != "missing":
            raise
        row = _pulled(store, reference, peers, only)
    return _trusted(store, row, policy)


def find_path(
    path: str | os.PathLike[str], *, home: str | os.PathLike[str] | None = None, policy: Policies | None = None
) -> tuple[Trusted, str] | None:
    """Return the release in this store that the file or folder at `path` belongs to, and its path there, or None.

    The place is what counts, and links are not followed; what lies there is hashed by whoever reads it.
    """
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (links are refused, not followed)
    store = open_store(home)
    for row in reversed(store.index.releases()):
        if absolute == row.path and row.layout != "file":
            return _trusted(store, row, policy), ""
        if absolute.is_relative_to(row.path):
            trusted = _trusted(store, row, policy)
            inside = absolute.relative_to(row.path).as_posix()
            if any(entry.path == inside for entry in trusted.manifest.files):
                return trusted, inside
    return None


def _trusted(store: LocalStore, row: ReleaseRow, policy: Policies | None) -> Trusted:
    release = admit(store, row)
    terms = (policy or load_policies(store.home)).of(row.pid)
    return Trusted(store, release, open_manifest(store, release), row.path, row.layout, terms)


def _is_here(store: LocalStore, row: ReleaseRow, only: Sequence[str]) -> bool:
    """Tell whether a partial pull has the files that are asked for."""
    files = open_manifest(store, admit(store, row)).files
    wanted = [entry for entry in files if not only or any(fnmatchcase(entry.path, glob) for glob in only)]
    return all((row.path / entry.path).is_file() for entry in wanted)


def _pulled(store: LocalStore, reference: str, peers: Sequence[str], only: Sequence[str]) -> ReleaseRow:
    from modelnet.puller import pull
    from modelnet.stores.peers import known_peers

    pull(reference, peers=peers or known_peers(store.home), only=only, home=store.home)
    return find_row(store, reference)


def unsigned(path: str) -> TrustError:
    """Return the refusal of a file that belongs to no release."""
    return TrustError(
        "no release that is known here has this file", rule="unsigned", path=path,
        hint="publish it, pull its release, or load it by reference: publisher/name#file",
    )  # fmt: skip
