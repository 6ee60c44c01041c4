"""The gate: the one way from what the index says to a release that may be used.

A row of the index means nothing by itself. Here the publisher's genesis is checked against its pid, the release's
envelope against the genesis's keys, the manifest block against the release. What comes out is what was signed.
"""

from __future__ import annotations

from modelnet.core.dsse import Envelope
from modelnet.core.identity import PID, Genesis
from modelnet.core.manifest import Manifest
from modelnet.core.names import Reference, check_alias, parse_reference
from modelnet.core.release import Release
from modelnet.errors import IntegrityError, TrustError, UnavailableError
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore

__all__ = ["admit", "find_release", "find_row", "open_manifest", "resolve_publisher"]


def resolve_publisher(store: LocalStore, publisher: str) -> str:
    """Return the pid of `publisher`, a pid or a local alias; raise `TrustError` for an alias nobody has here."""
    if PID.fullmatch(publisher):
        return publisher
    pid = store.index.pid_of(check_alias(publisher))
    if pid is None:
        raise TrustError(
            f"nobody is called {publisher!r} here", rule="unknown-publisher",
            hint="paste the publisher's locator, or name the publisher by its 52-character id",
        )  # fmt: skip
    return pid


def genesis_of(store: LocalStore, pid: str) -> Genesis:
    """Return the verified genesis of a publisher known here."""
    entry = store.index.genesis(pid)
    if entry is None:
        raise UnavailableError("this publisher is not known here yet", rule="missing", wanted=pid)
    return Genesis.verify(entry, pid)


def admit(store: LocalStore, row: ReleaseRow) -> Release:
    """Return what `row`'s envelope says, once its publisher's keys signed it and it says what was asked."""
    release = Release.verify(Envelope.parse_entry(row.envelope), genesis_of(store, row.pid))
    if (release.name, release.version, release.manifest) != (row.name, row.version, row.manifest):
        raise IntegrityError(
            "the index says something else than the signed release", rule="index", path=str(store.index.path),
            wanted=f"{release.name}@{release.version} {release.manifest}",
            got=f"{row.name}@{row.version} {row.manifest}",
        )  # fmt: skip
    return release


def find_row(store: LocalStore, reference: Reference | str) -> ReleaseRow:
    """Return the index row of a release in this store; without a version or with a channel, the newest one.

    Raises `UnavailableError` when it is not here, `TrustError` when a locator pins another manifest.
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    pid = resolve_publisher(store, reference.publisher)
    rows = store.index.releases(pid, reference.name)
    chosen = choose(store, rows, reference)
    if chosen is None:
        raise UnavailableError(f"{reference} is not in this store", rule="missing", hint="pull it first")
    check_pin(admit(store, chosen), reference)
    return chosen


def choose(store: LocalStore, rows: list[ReleaseRow], reference: Reference) -> ReleaseRow | None:
    """Return the row that `reference` means: its version, else the newest on its channel, else the newest."""
    if reference.version is None:
        return rows[-1] if rows else None
    exact = [row for row in rows if row.version == reference.version]
    on_channel = [] if exact else [row for row in rows if reference.version in admit(store, row).channels]
    if not exact and not on_channel and reference.version == "latest":
        return rows[-1] if rows else None
    found = exact or on_channel
    return found[-1] if found else None


def check_pin(release: Release, reference: Reference) -> None:
    """Raise `TrustError` when `reference` pins another manifest than the release has."""
    if reference.manifest_sha256 not in (None, release.manifest_sha256):
        raise TrustError(
            f"{reference} is another release than the locator pins", rule="pin",
            wanted=reference.manifest_sha256, got=release.manifest_sha256,
        )  # fmt: skip


def find_release(store: LocalStore, reference: Reference | str) -> Release:
    """Return a verified release that is in this store."""
    return admit(store, find_row(store, reference))


def open_manifest(store: LocalStore, release: Release) -> Manifest:
    """Return the verified manifest of a release in this store."""
    block = store.block(release.manifest)
    if block is None:
        raise UnavailableError("the manifest is not in this store", rule="missing", wanted=release.manifest)
    return release.open(block)
