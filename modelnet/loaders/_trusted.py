"""The one place where loaders ask the gate: a reference → a release that may be loaded, and where its files lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from modelnet.core.cid import Cid
from modelnet.core.identity import PID
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.names import parse_reference
from modelnet.core.release import Release
from modelnet.errors import ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.gate import Gate, Knowledge
from modelnet.gate import Trusted as Admitted
from modelnet.policies import Policies, Terms
from modelnet.signed import find_release, open_manifest
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore, open_store

__all__ = ["PREFIX", "Target", "Trusted", "find_path", "matches", "parse_target", "trust", "unsigned"]

PREFIX = "modelnet:"
MAX_TARGET = 4096  # characters; longer than any path or locator


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
    knowledge: Knowledge
    warnings: tuple[str, ...] = ()

    def entry(self, path: str) -> FileEntry:
        """Return the manifest's entry of `path`; raise `UsageError` when the release has no such file."""
        for entry in self.manifest.files:
            if entry.path == path:
                return entry
        raise UsageError(
            "the release has no such file", rule="only", path=path,
            hint="its files: " + ", ".join(entry.path for entry in self.manifest.files[:8]),
        )  # fmt: skip

    def resolve(self, reference: str) -> Cid | None:
        """Return the manifest of another release in this store, as its publisher signed it, or None."""
        try:
            return find_release(self.store, parse_target(reference).reference).manifest
        except ModelnetError:
            return None


def parse_target(text: str) -> Target:
    """Parse a reference as loaders accept it: a locator, `publisher/name[@version]`, or that after `modelnet:`.

    `#file` at the end chooses one file. Raises `UsageError`.
    """
    if not isinstance(text, str):
        raise UsageError(
            "a reference is text", rule="reference", wanted="publisher/name[@version][#file]", got=type(text).__name__,
            hint="for a file or a folder that lies here, use modelnet.loaders",
        )  # fmt: skip
    if len(text) > MAX_TARGET:
        raise UsageError("the reference is too long", rule="reference", wanted=f"at most {MAX_TARGET}", got=len(text))
    reference, _, file = text.partition("#")  # no reference has one, but the name of a file may
    if not file:
        reference = text
    if reference.startswith(PREFIX) and not PID.match(reference, len(PREFIX)):
        # A name that is only known here; a locator, which others paste too, has the publisher's id.
        reference = reference.removeprefix(PREFIX)
    parse_reference(reference)
    return Target(reference, file or None)


def trust(
    reference: str,
    *,
    home: str | os.PathLike[str] | None = None,
    policy: Policies | None = None,
    pull: bool = True,
    peers: Sequence[str] = (),
    only: Sequence[str] = (),
    sparse: bool = False,
) -> Trusted:
    """Return the release that `reference` means, once the gate has let it through.

    With `pull` what is not here is fetched, from `peers` or those that are known; who names `peers` wants to know what
    they have heard since, so they are asked in any case. `sparse` takes files of which only some tensors are here as
    they are. Raises what gate and pull raise.
    """
    gate = _gate(home, policy)
    if pull and peers:
        _hear(gate, reference, peers)
    try:
        return _resolved(gate, reference, only, sparse=sparse)
    except ModelnetError as error:
        # Old knowledge is what a pull mends, beside files that are not here.
        if not pull or error.rule not in ("missing", "stale", "expired"):
            raise
        refused = error
    from modelnet.puller import pull as bring
    from modelnet.stores.peers import known_peers

    sources = peers or known_peers(gate.store.home)
    if not sources and isinstance(refused, TrustError):
        raise refused
    bring(reference, peers=sources, only=only, home=gate.store.home)
    return _resolved(gate, reference, only, sparse=sparse)


def _hear(gate: Gate, reference: str, peers: Sequence[str]) -> None:
    """Bring the publisher's log up to what `peers` show; where nobody answers, what is known here decides."""
    from modelnet.fetching import Fetcher
    from modelnet.progress import SILENT
    from modelnet.resolve import sync_all
    from modelnet.stores.http import HttpSource

    fetcher = Fetcher([HttpSource.parse(peer) for peer in dict.fromkeys(peers)], SILENT)
    try:
        with suppress(UnavailableError):
            sync_all(gate, fetcher, parse_reference(reference))
    finally:
        fetcher.close()


def find_path(
    path: str | os.PathLike[str], *, home: str | os.PathLike[str] | None = None, policy: Policies | None = None
) -> tuple[Trusted, str] | None:
    """Return the release in this store that the file or folder at `path` belongs to, and its path there, or None.

    The place that is written counts first: a link that lies inside a release is refused by whoever reads it, and never
    followed to another. Then the place that it leads to, as for a link to the folder of a release.
    """
    # Without following links, as opening by descriptor does it; and with.
    absolute, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))  # noqa: PTH100
    gate = _gate(home, policy)
    rows = list(reversed(gate.store.index.releases()))
    for is_real in (False, True):
        place = real if is_real else absolute
        based = [(Path(os.path.realpath(row.path)) if is_real else row.path, row) for row in rows]
        # A folder that was published by itself is that release, and not a part of one that lies above it.
        for base, row in sorted(based, key=lambda one: one[0] != place):
            if place == base and row.layout != "file":
                return _trusted(gate, row, gate.admit(row)), ""
            if place.is_relative_to(base):
                trusted = _trusted(gate, row, gate.admit(row))
                inside = place.relative_to(base).as_posix()
                if any(entry.path == inside or entry.path.startswith(f"{inside}/") for entry in trusted.manifest.files):
                    return trusted, inside
    return None


def matches(path: str, only: Sequence[str]) -> bool:
    """Tell whether a file is chosen: by its path or a glob, or because nothing was chosen."""
    return not only or any(path == glob or fnmatchcase(path, glob) for glob in only)


def _gate(home: str | os.PathLike[str] | None, policy: Policies | None) -> Gate:
    gate = Gate.open(open_store(home))
    if policy is not None:
        gate.policies = policy
    return gate


def _is_whole(gate: Gate, row: ReleaseRow, entry: FileEntry) -> bool:
    """Tell whether a file of a partial pull has all its chunks; what the index says is hashed by whoever reads it."""
    return gate.store.index.held(str(row.path / entry.path)) == entry.size


def _resolved(gate: Gate, reference: str, only: Sequence[str], *, sparse: bool) -> Trusted:
    """Return the release if it is here; with `only`, also of a partial pull that has those files."""
    admitted = gate.resolve(reference)
    row = gate.row(admitted)
    trusted = _trusted(gate, row, admitted)
    wanted = [entry.path for entry in trusted.manifest.files if matches(entry.path, only)]
    if row.layout == "part" and not all((row.path / path).is_file() for path in wanted):
        raise UnavailableError("not all files of the release are here", rule="missing", hint="pull it first")
    if row.layout == "part" and not sparse and not all(_is_whole(gate, row, trusted.entry(path)) for path in wanted):
        raise UnavailableError("only some tensors of the release are here", rule="missing", hint="pull it whole")
    return trusted


def _trusted(gate: Gate, row: ReleaseRow, admitted: Admitted) -> Trusted:
    manifest = open_manifest(gate.store, admitted.release)
    gate.check_files(admitted, manifest)
    return Trusted(
        gate.store, admitted.release, manifest, row.path, row.layout, gate.terms(row.pid), admitted.knowledge,
        admitted.warnings,
    )  # fmt: skip


def unsigned(path: str) -> TrustError:
    """Return the refusal of a file that belongs to no release."""
    return TrustError(
        "no release that is known here has this file", rule="unsigned", path=path,
        hint="publish it, pull its release, or load it by reference: publisher/name#file",
    )  # fmt: skip
