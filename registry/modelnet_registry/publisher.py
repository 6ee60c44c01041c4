"""Main path 1: a folder or a file → chunks → manifest → signed release → the index. Nothing is copied.

    scan → hash every file → build the tree → manifest → sign → one transaction of the index → the log

The release exists once the log's head that contains it is committed. The transaction comes before, so that no release
is in the log whose chunks cannot be served; a crash between the two leaves rows that nobody is offered, and publishing
the same files again finishes it: the statement is the same to the byte. The files stay where they are; they are the
store.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelnet.arguments import given_path, given_texts
from modelnet.checking import CORES
from modelnet.core import strictjson
from modelnet.core.chunking import GRID_1, PLANS
from modelnet.core.cid import DAG_CBOR, Cid
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.fold import Logged, PublisherState
from modelnet.core.keys import SigningKey
from modelnet.core.manifest import Manifest
from modelnet.core.names import Floor, check_name, check_version
from modelnet.core.note import Checkpoint
from modelnet.core.release import PAYLOAD_TYPE, Release, check_channels, release_statement
from modelnet.core.tree import build_tree
from modelnet.errors import MalformedError, UnavailableError, UsageError
from modelnet.formats import onnx
from modelnet.formats.layout import Span
from modelnet.hashing import SMALL, FileSource, HashedFile, hash_file
from modelnet.progress import SILENT, Progress
from modelnet.replica import Replicas
from modelnet.signed import find_release
from modelnet.stores.home import Home
from modelnet.stores.index import FileStat, ReleaseRow
from modelnet.stores.keyring import Keyring
from modelnet.stores.local import LocalStore, open_store
from modelnet_registry.gathering import Found, gather
from modelnet_registry.log.own import open_log, own_keyring, own_pid
from modelnet_registry.variants import described

__all__ = ["RELATIONS", "ChunkCount", "Publication", "publish", "signers_of"]

RELATIONS = ("finetune", "adapter", "merge", "quantized")
LATEST = "latest"  # the channel that always means the newest release
FILES_AT_ONCE = 4  # SHA-256 of one file runs on one core, so several files keep several cores busy


@dataclass(frozen=True, slots=True)
class ChunkCount:
    """Chunks of a release, and how many of them this store had not seen before; sizes in bytes."""

    count: int
    new: int
    bytes: int
    new_bytes: int


@dataclass(frozen=True, slots=True)
class Publication:
    """What `publish` made; `index` is the release's place in the log, `head` what the log is since."""

    release: Release
    manifest: Manifest
    chunks: ChunkCount
    path: Path
    index: int
    head: Checkpoint
    skipped: tuple[str, ...] = ()

    @property
    def locator(self) -> str:
        """The line that others paste to get exactly this release, and no log that is older than this head."""
        return str(replace(self.release.locator, floor=Floor(self.head.size, self.head.root)))


def publish(
    path: str | os.PathLike[str],
    *,
    name: str,
    version: str,
    channels: str | Sequence[str] = (),
    plan: str = GRID_1,
    derived_from: str | None = None,
    relation: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    variants: Mapping[str, str | Sequence[str]] | None = None,
    publisher: str | None = None,
    passphrase: str | None = None,
    key_files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    home: str | os.PathLike[str] | Home | None = None,
    progress: Progress = SILENT,
    check_manifest: Callable[[int], None] = lambda _: None,
) -> Publication:
    """Publish the folder or file at `path` as `name` at `version`, signed by this store's own publisher.

    The files are referenced where they are and must stay there to be served. `derived_from` is a reference to a release
    in this store and `relation` one of finetune, adapter, merge, quantized. `metadata` holds small free text such as
    license or description. `variants` gives the globs of files that stand for each other, by the name of the variant;
    who pulls may take one of them. `publisher` chooses among several identities; `passphrase` unlocks its keys, and
    those in `key_files`, kept elsewhere. `check_manifest` is told the manifest's size in bytes before anything is
    signed, and refuses by raising: not every place that it may go to takes every size.

    Raises `UsageError` for a name, version, path or file that cannot be published, `IntegrityError` when a file changes
    meanwhile, `TrustError` when the log must not be written (rule `fork`, `quarantined` or `closed`),
    `UnavailableError` when something cannot be read or written. Publishing the same again finishes what was begun.
    """
    for text, what in ((name, "name"), (version, "version")):
        if not isinstance(text, str):
            raise TypeError(f"{what} must be a string, not {type(text).__name__}")
    place = given_path(path, "path to publish")
    channels = given_texts(channels, "channels")
    key_files = [key_files] if isinstance(key_files, str | os.PathLike) else key_files
    check_name(name)
    check_version(version)
    check_channels(list(channels))
    if plan not in PLANS:
        raise UsageError(f"no such chunk plan: {plan!r}", rule="plan", hint=f"plans: {', '.join(PLANS)}")
    store = open_store(home)
    keyring = own_keyring(store, own_pid(store, publisher), passphrase, key_files)
    replicas = Replicas(store)
    with open_log(store, keyring, replicas=replicas) as log:
        state = log.state
    signers_of(name, state, keyring)
    lineage = _lineage(store, derived_from, relation)
    _check_apart(state, name, version, channels)
    found = gather(place, store.home)
    hashed = _hash_all(found, plan, progress)
    blocks = [node for file in hashed for node in file.nodes]
    tree = build_tree(
        ((file.entry.path, file.child) for file in hashed), lambda cid, block: blocks.append((cid, block))
    )
    extra: dict[str, Any] = {"metadata": dict(metadata)} if metadata else {}
    if variants:
        extra["variants"] = described(
            {variant: given_texts(globs, "globs of files") for variant, globs in variants.items()}, hashed
        )
    if lineage is not None:
        extra["derived_from"] = [lineage]
    if parents := _parents(state, name, version):
        extra["parents"] = parents
    # Parsing what was built refuses, before anything is signed, what a puller would refuse.
    block = Manifest(name, version, tree.cid, tuple(file.entry for file in hashed), extra).encode()
    manifest = Manifest.parse(block)
    check_manifest(len(block))
    logged = _existing(state, manifest, channels)
    release = logged.event.release if logged is not None else _sign(manifest, state, keyring, channels)
    blocks.append((Cid.of(DAG_CBOR, block), block))
    count = _count(store, hashed)
    for file in hashed:
        file.check_unchanged()
    _record(store, found, hashed, blocks, release)
    with open_log(store, keyring, replicas=replicas) as log:
        # Meanwhile another program may have published it, or taken the version.
        logged = _existing(log.state, manifest, channels)
        if logged is None:
            log.append([release.envelope.encoded])
            logged = _existing(log.state, manifest, channels)
        head = log.checkpoint
    index = logged.index if logged is not None else head.size - 1
    return Publication(release, manifest, count, found.base, index, head, tuple(found.skipped))


def _sign(manifest: Manifest, state: PublisherState, keyring: Keyring, channels: Sequence[str]) -> Release:
    """Return the release of `manifest`, signed by as many release keys as must, or by the delegate of its name."""
    body = release_statement(manifest, state.pid, channels)
    envelope = Envelope.sign(PAYLOAD_TYPE, body, signers_of(manifest.name, state, keyring))
    return Release.read(envelope, strictjson.parse(body, what="release statement", limit=MAX_ENVELOPE))


def signers_of(name: str, state: PublisherState, keyring: Keyring) -> list[SigningKey]:
    """Return the keys here that may release `name`: the publisher's, else those of the delegate of its prefix."""
    try:
        return keyring.quorum("release", state.release)
    except UsageError:
        delegate = state.delegate_of(name)
        if delegate is None or not keyring.signers("delegate", delegate.role.keys):
            raise
        return keyring.quorum("delegate", delegate.role)


def _lineage(store: LocalStore, derived_from: str | None, relation: str | None) -> dict[str, Any] | None:
    if derived_from is None and relation is None:
        return None
    if derived_from is None or relation not in RELATIONS:
        raise UsageError(
            "lineage needs a base and a relation", rule="lineage", got=relation,
            hint=f"--derived-from publisher/name@version --relation {'|'.join(RELATIONS)}",
        )  # fmt: skip
    base = find_release(store, derived_from)
    digests = {"sha256": base.manifest_sha256, "blake3": base.manifest.digest.hex()}
    return {"pid": base.pid, "manifest": str(base.manifest), **digests, "relation": relation}


def _parents(state: PublisherState, name: str, version: str) -> list[str]:
    """Return the manifest of the version before this one, in the order they were published."""
    # Each version once, where it came first: a version keeps its manifest.
    manifests = {logged.event.release.version: str(logged.event.release.manifest) for logged in _releases(state, name)}
    before = list(manifests).index(version) if version in manifests else len(manifests)
    return list(manifests.values())[before - 1 : before] if before else []


def _releases(state: PublisherState, name: str) -> list[Logged]:
    return [logged for logged in state.releases if logged.event.release.name == name]


def _existing(state: PublisherState, manifest: Manifest, channels: Sequence[str]) -> Logged | None:
    """Return the release if this very one stands in the log already; a version never changes what it says."""
    logged = state.find(manifest.name, manifest.version)
    if logged is None:
        return None
    release = logged.event.release
    if release.manifest != manifest.cid:
        raise UsageError(
            f"{manifest.name}@{manifest.version} is already published with other files or metadata",
            rule="version-exists", wanted=release.manifest, got=manifest.cid, hint="choose a new version",
        )  # fmt: skip
    if new := sorted(set(channels) - set(release.channels)):
        raise UsageError(
            f"{manifest.name}@{manifest.version} is already published, on other channels",
            rule="version-exists", wanted=", ".join(release.channels) or "no channel", got=", ".join(new),
            hint="a channel moves with a new version",
        )  # fmt: skip
    return logged


def _check_apart(state: PublisherState, name: str, version: str, channels: Sequence[str]) -> None:
    """Refuse a version that is also a channel of the name: `name@stable` would mean two things."""
    releases = [logged.event.release for logged in _releases(state, name)]
    versions = {version, *(release.version for release in releases)}
    moving = {LATEST, *channels, *(channel for release in releases for channel in release.channels)}
    if both := sorted(versions & moving):
        raise UsageError(
            f"{both[0]!r} would be both a version and a channel of {name}",
            rule="version", hint="a version is a number or a date, e.g. 1.2.0",
        )  # fmt: skip


def _hash_all(found: Found, plan: str, progress: Progress) -> list[HashedFile]:
    """Hash every file: large ones side by side on threads, small ones here, where a thread would cost more."""
    external = _external_spans(found)
    sizes = [_size(found, path) for path in found.paths]
    stopped = threading.Event()

    def advance(count: int) -> None:
        if stopped.is_set():
            raise CancelledError
        progress.advance("disk", count)

    progress.begin("hashing", sum(sizes))
    with ThreadPoolExecutor(CORES) as chunks, ThreadPoolExecutor(min(FILES_AT_ONCE, CORES)) as files:
        large = [path for path, size in zip(found.paths, sizes, strict=True) if size > SMALL]
        left = len(large)

        def hashed(path: str) -> HashedFile:
            nonlocal left
            # As long as every core can have a file of its own, each file needs one thread only.
            pool = chunks if left < CORES else None
            try:
                return hash_file(
                    found.base / path, path, plan=plan, pool=pool, advance=advance, external=external.get(path, ())
                )
            finally:
                left -= 1

        jobs = {path: files.submit(hashed, path) for path in large}
        try:
            here = {path: hashed(path) for path in found.paths if path not in jobs}
            done = [here[path] if path in here else jobs[path].result() for path in found.paths]
        except BaseException:
            # What is being hashed stops at its next window: an interrupt does not wait for gigabytes.
            stopped.set()
            files.shutdown(cancel_futures=True)
            raise
    progress.end()
    return done


def _size(found: Found, path: str) -> int:
    try:
        return (found.base / path).stat(follow_symlinks=False).st_size
    except OSError as error:
        raise UnavailableError(f"cannot read the file: {error.strerror}", rule="read", path=path) from error


def _external_spans(found: Found) -> dict[str, tuple[Span, ...]]:
    """Return the tensors that the ONNX files in a folder say lie in files beside them."""
    spans: dict[str, tuple[Span, ...]] = {}
    present = set(found.paths)
    for path in found.paths:
        if not path.endswith(".onnx"):
            continue
        try:
            handle = os.open(found.base / path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                located = onnx.external_spans(FileSource(handle, os.fstat(handle).st_size, path))
            finally:
                os.close(handle)
        except (MalformedError, OSError):
            continue  # a wrong header costs reuse only; a file that cannot be read is reported when it is hashed
        folder = path.rpartition("/")[0]
        for location, tensors in located.items():
            beside = f"{folder}/{location}" if folder else location
            if beside in present:
                spans[beside] = spans.get(beside, ()) + tensors
    return spans


def _count(store: LocalStore, hashed: Sequence[HashedFile]) -> ChunkCount:
    sizes = {digest: size for file in hashed for digest, _, size in file.chunks}
    new = sizes.keys() - store.index.known(list(sizes))
    return ChunkCount(len(sizes), len(new), sum(sizes.values()), sum(sizes[digest] for digest in new))


def _record(
    store: LocalStore, found: Found, hashed: Sequence[HashedFile], blocks: list[tuple[Cid, bytes]], release: Release
) -> None:
    store.index.keep_reserve()
    with store.index.transaction():
        for file in hashed:
            row = store.index.set_file(str(file.source), FileStat.of(file.status), fresh=True)
            store.index.add_chunks(row, file.chunks)
        store.index.add_blocks(blocks)
        store.index.add_release(
            ReleaseRow(
                release.pid, release.name, release.version, release.manifest, release.envelope.encoded,
                found.base, found.layout, time.time(),
            )
        )  # fmt: skip
