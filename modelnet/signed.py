"""From references and rows of the index to what publishers signed, whatever became of it since.

For looking at releases, checking and removing them. What is to be used goes through `modelnet.gate`.
"""

from __future__ import annotations

from modelnet.core.adoption import claimed_size
from modelnet.core.identity import PID
from modelnet.core.manifest import Manifest
from modelnet.core.names import Reference, check_alias, parse_reference
from modelnet.core.release import Release
from modelnet.core.resolution import Logged, View
from modelnet.errors import IntegrityError, TrustError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore
from modelnet.stores.petnames import Petnames

__all__ = [
    "check_floor", "check_pin", "find_release", "find_row", "identify", "logged_of", "open_manifest",
    "resolve_publisher",
]  # fmt: skip

LATEST = "latest"


def resolve_publisher(store: LocalStore, publisher: str) -> str:
    """Return the pid of `publisher`, a pid or a local alias; raise `TrustError` for an alias nobody has here."""
    if PID.fullmatch(publisher):
        return publisher
    pid = Petnames(store.home).pid_of(check_alias(publisher))
    if pid is None:
        raise TrustError(
            f"nobody is called {publisher!r} here", rule="unknown-publisher",
            hint="paste the publisher's locator, or name the publisher by its 52-character id",
        )  # fmt: skip
    return pid


def logged_of(store: LocalStore, view: View, row: ReleaseRow) -> Logged:
    """Return the log's release behind a row of the index; raise when they differ or the log has none."""
    logged = view.find(row.name, row.version)
    if logged is None:
        raise TrustError(
            f"{row.name}@{row.version} is not in its publisher's log as it is known here", rule="unlogged",
            got=row.pid, hint="a recovery of the log may have dropped it; ask the publisher to release it again",
        )  # fmt: skip
    if logged.event.release.manifest != row.manifest:
        raise IntegrityError(
            "the index says something else than the signed release", rule="index", path=str(store.index.path),
            wanted=f"{row.name}@{row.version} {logged.event.release.manifest}", got=row.manifest,
        )  # fmt: skip
    return logged


def identify(store: LocalStore, row: ReleaseRow, replicas: Replicas | None = None) -> Release:
    """Return what the publisher's log says of a row of the index, whatever became of the release since.

    For looking at it, checking and removing it; what is to be used goes through `Gate`.
    """
    return logged_of(store, (replicas or Replicas(store)).view(row.pid), row).event.release


def find_row(store: LocalStore, reference: Reference | str) -> ReleaseRow:
    """Return the row of a release that is in this store; without a version or with a channel, the newest one here.

    Raises `UnavailableError` when it is not here, `TrustError` when a locator pins another manifest.
    """
    if isinstance(reference, str):
        reference = parse_reference(reference)
    pid = resolve_publisher(store, reference.publisher)
    replicas = Replicas(store)
    rows = store.index.releases(pid, reference.name)
    version = reference.version
    chosen = [row for row in rows if version in (None, row.version)]
    if not chosen:
        on_channel = [row for row in rows if version in identify(store, row, replicas).channels]
        chosen = on_channel or (rows if version == LATEST else [])
    if not chosen:
        raise UnavailableError(f"{reference} is not in this store", rule="missing", hint="pull it first")
    check_pin(identify(store, chosen[-1], replicas), reference)
    return chosen[-1]


def find_release(store: LocalStore, reference: Reference | str) -> Release:
    """Return what was signed of a release in this store, whatever became of it since."""
    return identify(store, find_row(store, reference))


def open_manifest(store: LocalStore, release: Release) -> Manifest:
    """Return the verified manifest of a release in this store."""
    block = store.block(release.manifest)
    if block is None:
        raise UnavailableError("the manifest is not in this store", rule="missing", wanted=release.manifest)
    return release.open(block)


def check_pin(release: Release, reference: Reference) -> None:
    """Raise `TrustError` when `reference` pins another manifest than the release has."""
    if reference.manifest_sha256 not in (None, release.manifest_sha256):
        raise TrustError(
            f"{reference} is another release than the locator pins", rule="pin",
            wanted=reference.manifest_sha256, got=release.manifest_sha256,
        )  # fmt: skip


def check_floor(replicas: Replicas, pid: str, floor: tuple[int, bytes]) -> None:
    """Raise `TrustError` with rule `floor` unless the log that is known here, in any epoch, contains that head."""
    size, root = floor
    standing = replicas.standing(pid)
    for epoch in reversed(replicas.epochs(pid)):
        folder = replicas.folder(pid, epoch)
        head = folder.checkpoint()
        if head is not None and 0 < size <= claimed_size(head) and folder.root(size) == root:
            return
    older = size > standing.size
    raise TrustError(
        "only an older log of this publisher is to be had" if older else "the log of this publisher is another one",
        rule="floor", wanted=f"{size} {root.hex()}", got=f"{standing.size} {standing.root.hex()}",
        hint="the head comes from the locator or the lock file; ask other sources with --peer URL",
    )  # fmt: skip
