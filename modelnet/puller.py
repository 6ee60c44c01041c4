"""Main path 2: a reference → a verified release on disk, from any number of sources that nobody trusts.

    resolve (signed) → manifest (by its hash) → DAG nodes (by their hashes) → plan → reuse → fetch → rename → index

Commit points: the rename of the folder (the files are all there), then one transaction of the index (the release can be
found). Before the rename a crash leaves a partial that is surveyed by the next pull; between the two, the next pull
finds the files where they belong.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from modelnet.arguments import given_path, given_texts
from modelnet.checking import CORES, check_chunks, is_zeros, open_file
from modelnet.core.cid import BLAKE3, RAW, Cid
from modelnet.core.filetree import FileTree
from modelnet.core.manifest import MAX_MANIFEST, FileEntry, Manifest
from modelnet.core.names import parse_reference
from modelnet.core.release import Release
from modelnet.core.transfer import Transfer
from modelnet.destination import (
    check_empty,
    check_replaceable,
    check_space,
    chosen_folder,
    complete,
    destination_of,
    holds,
    partial_root,
)
from modelnet.fetching import Fetcher, SourceReport
from modelnet.gate import Gate, Knowledge, Trusted
from modelnet.lockfile import Lock
from modelnet.partial import Partial
from modelnet.progress import SILENT, Progress
from modelnet.resolve import resolve
from modelnet.selection import select_files, select_tensors, select_variant
from modelnet.stores.home import Home
from modelnet.stores.http import HttpSource, check_size
from modelnet.stores.index import FileStat, ReleaseRow
from modelnet.stores.local import ChunkReader, open_store
from modelnet.stores.placements import add_placed
from modelnet.unfolding import unfold
from modelnet.wording import printable, size_text

__all__ = ["Plan", "Pulled", "pull"]

HELD_MOST = 64 * 1024 * 1024  # bytes of headers that are kept until they are written; more is read again


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the bytes of a pull come from."""

    total: int
    present: int
    reused: int
    fetched: int
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Pulled:
    """What `pull` did; `path` is the folder that holds the files."""

    trusted: Trusted
    manifest: Manifest
    files: tuple[FileEntry, ...]
    path: Path
    plan: Plan
    sources: tuple[SourceReport, ...] = ()
    variant: str | None = None

    @property
    def release(self) -> Release:
        """What was signed."""
        return self.trusted.release

    @property
    def knowledge(self) -> Knowledge:
        """How old what is known about revocations is."""
        return self.trusted.knowledge


def pull(
    reference: str,
    *,
    peers: str | Sequence[str] = (),
    to: str | os.PathLike[str] | None = None,
    only: str | Sequence[str] = (),
    tensors: str | Sequence[str] = (),
    variant: str | None = None,
    dry_run: bool = False,
    lock: str | os.PathLike[str] | None = None,
    update: bool = False,
    accept_stale: bool = False,
    offline_pinned: bool = False,
    strict: bool = False,
    home: str | os.PathLike[str] | Home | None = None,
    progress: Progress = SILENT,
) -> Pulled:
    """Bring a release to this machine, every byte checked under its publisher's signature before it is written.

    `reference` is a locator or `publisher/name[@version]`. `peers` are addresses of nodes or trustless gateways; the
    chunks of one file come from all of them at once. Files go to `to`, else into the store. `only` keeps files that
    match one of its globs, `tensors` those tensors (with the headers that say where they are): such a file has its full
    size and holes where the rest belongs. `variant` keeps the files of one variant and those that belong to none;
    `auto` takes the finest that fits into the memory that is free. Chunks that are in any file known here are reused.
    `dry_run` stops after the plan.

    `lock` is a lock file: a name in it means what it is locked to, and one that is not gets locked; `update` moves it.
    `accept_stale`, `offline_pinned` and `strict` are those of `modelnet.policies`, for this one pull.

    Raises `UsageError`, `TrustError` (not signed by that publisher, or not stood by any more), `IntegrityError` (the
    sources disagree with what was signed), `UnavailableError` (nobody has it now, or the disk refuses; what has arrived
    is kept).
    """
    asked = parse_reference(reference)
    destination = None if to is None else chosen_folder(to)
    only, tensors = given_texts(only, "globs of files"), given_texts(tensors, "globs of tensors")
    locked = Lock.load(given_path(lock, "lock file")) if lock is not None else None
    wanted = (locked.find(asked) if locked is not None and not update else None) or asked
    sources = [HttpSource.parse(peer) for peer in dict.fromkeys(given_texts(peers, "peers"))]
    store = open_store(home)
    gate = Gate.open(store, accept_stale=accept_stale, offline_pinned=offline_pinned, strict=strict)
    fetcher = Fetcher(sources, progress)
    try:
        pulled = _Pull(gate, fetcher, progress).run(
            resolve(gate, fetcher, wanted), _Choice(only, tensors, variant), to=destination, dry_run=dry_run
        )
    finally:
        fetcher.close()
    if locked is not None and not dry_run:
        locked.save(asked, pulled.trusted.locator)
    return pulled


@dataclass(frozen=True, slots=True)
class _Choice:
    """What of a release is asked for: everything, unless one of these is given."""

    only: Sequence[str]
    tensors: Sequence[str]
    variant: str | None


@dataclass(slots=True)
class _Work:
    """What a pull has to do, by file and chunk."""

    fetch: list[list[int]]
    reuse: list[list[int]]
    copies: dict[bytes, list[tuple[int, int]]]
    plan: Plan


class _Pull:
    def __init__(self, gate: Gate, fetcher: Fetcher, progress: Progress) -> None:
        self.gate = gate
        self.store = gate.store
        self.fetcher = fetcher
        self.progress = progress
        self.blocks: dict[Cid, bytes] = {}  # the manifest and DAG nodes of the release
        self.trees: list[FileTree] = []  # the files that are asked for …
        self.wanted: list[Sequence[int]] = []  # … and the chunks of each, in order: all, unless tensors are asked for
        self.held: OrderedDict[bytes, bytes] = OrderedDict()  # chunks that came before the plan, by digest

    def run(self, trusted: Trusted, choice: _Choice, *, to: Path | None, dry_run: bool) -> Pulled:
        release = trusted.release
        for warning in trusted.warnings:
            self.progress.note(printable(warning))
        manifest = self._manifest(release)
        self.gate.check_files(trusted, manifest)
        destination, ours = destination_of(self.store, release, to)
        variant = select_variant(manifest, choice.variant)
        name = variant.name if variant is not None else None
        self._choose(manifest, select_files(manifest, choice.only, variant), choice.tensors)
        entries = tuple(tree.entry for tree in self.trees)
        partial = Partial(partial_root(self.store.home, release, destination), self.trees, self.store.index)
        with ThreadPoolExecutor(CORES) as pool:
            if self._intact(destination, pool):
                if not dry_run:
                    self._index(destination)
                    self._record(release, manifest, destination)
                    self._tidy(release, partial)
                plan = Plan(self._total, self._total, 0, 0)
                return Pulled(trusted, manifest, entries, destination, plan, self.fetcher.summary(), name)
            if not ours and to is None:
                destination = self.store.home.release(release.pid, release.name, release.version)
                partial = Partial(self.store.home.partial(release.manifest), self.trees, self.store.index)
            elif not ours:
                check_empty(destination, partial.root)
            check_replaceable(self.store, destination, partial.root, self.trees, pool)
            if dry_run:
                work = self._plan(release, partial, destination, pool)
                return Pulled(trusted, manifest, entries, destination, work.plan, self.fetcher.summary(), name)
            self.store.index.keep_reserve()
            partial.open()
            try:
                # After the lock: whoever collects garbage finds the folder only when it can see that we are at work.
                self.store.index.begin_partial(release.manifest, partial.root)
                work = self._plan(release, partial, destination, pool)
                self._announce(work.plan, release.version)
                check_space(partial.root, work.plan.fetched + work.plan.reused - self._hollow)
                self._reuse(work, partial)
                self._fetch(work, partial)
                partial.flush()
                # A revocation that came meanwhile finds nothing at the destination.
                self.gate.recheck(trusted, manifest)
                # Once more: somebody may have worked there meanwhile.
                check_replaceable(self.store, destination, partial.root, self.trees, pool)
                moves = partial.finish(destination)
                self._record(release, manifest, destination, moves)
            finally:
                partial.close()
        partial.discard()
        return Pulled(trusted, manifest, entries, destination, work.plan, self.fetcher.summary(), name)

    @property
    def _total(self) -> int:
        """Bytes that are asked for."""
        return sum(_size(tree, chunks) for tree, chunks in zip(self.trees, self.wanted, strict=True))

    @property
    def _hollow(self) -> int:
        """Bytes of it that are zeros, which take no room where the file system has holes."""
        pairs = zip(self.trees, self.wanted, strict=True)
        return sum(_size(tree, (index for index in chunks if is_zeros(tree, index))) for tree, chunks in pairs)

    def _choose(self, manifest: Manifest, entries: Sequence[FileEntry], tensors: Sequence[str]) -> None:
        """Set that these files are pulled, and which chunks of them."""
        unfolded = unfold(self.store, self.fetcher, manifest, entries)
        self.blocks |= unfolded.blocks
        self.trees = unfolded.trees
        self.wanted = [range(len(tree)) for tree in self.trees]
        if tensors:
            chosen = select_tensors(self.trees, tensors, self._chunks)
            pairs = [(tree, chunks) for tree, chunks in zip(self.trees, chosen, strict=True) if chunks != set()]
            self.trees = [tree for tree, _ in pairs]
            self.wanted = [range(len(tree)) if chunks is None else sorted(chunks) for tree, chunks in pairs]

    def _chunks(self, tree: FileTree, indexes: Sequence[int]) -> dict[int, bytes]:
        """Return verified chunks of a file, from here or from a source; they are kept for a while."""
        digests = {index: tree.digest_of(index) for index in indexes}
        found = {index: self.held[digest] for index, digest in digests.items() if digest in self.held}
        with ChunkReader(self.store) as reader:
            for index in digests.keys() - found.keys():
                if (content := reader.read(digests[index], tree.size_of(index))) is not None:
                    found[index] = content
        absent = {index: Cid(RAW, BLAKE3, digests[index]) for index in digests.keys() - found.keys()}
        if not absent:
            return found
        fetched = self.fetcher.blocks(dict.fromkeys(absent.values(), tree.entry.path), "a chunk of the header")
        for index, cid in absent.items():
            check_size(tree, index, len(fetched[cid]))
            found[index] = self.held[cid.digest] = fetched[cid]
        while sum(map(len, self.held.values())) > HELD_MOST:
            self.held.popitem(last=False)
        return found

    def _manifest(self, release: Release) -> Manifest:
        block = self.store.block(release.manifest)
        if block is None:
            block = self.fetcher.block(release.manifest, "the manifest", MAX_MANIFEST)
            manifest = release.open(block)
            self.store.index.add_blocks([(release.manifest, block)])
        else:
            manifest = release.open(block)
        self.blocks[release.manifest] = block
        return manifest

    def _intact(self, folder: Path, pool: ThreadPoolExecutor) -> bool:
        """Tell whether all that is asked for lies in `folder`."""
        if not all((folder / tree.entry.path).is_file() for tree in self.trees):
            return False
        self.progress.begin("verifying", self._total)
        try:
            return all(
                holds(folder / tree.entry.path, tree, chunks, pool, self.progress)
                for tree, chunks in zip(self.trees, self.wanted, strict=True)
            )
        finally:
            self.progress.end()

    def _plan(self, release: Release, partial: Partial, folder: Path, pool: ThreadPoolExecutor) -> _Work:
        """Find out what is on disk, what other files hold, and what must be fetched."""
        trees = self.trees
        present = [set(partial.survey(file, pool)) for file in range(len(trees))]
        self._adopt(present, folder, pool)
        places: dict[bytes, tuple[int, int]] = {}
        copies: dict[bytes, list[tuple[int, int]]] = {}
        for file, tree in enumerate(trees):
            for index in self.wanted[file]:
                if index in present[file]:
                    continue
                digest = tree.digest_of(index)
                if digest in places:
                    copies.setdefault(digest, []).append((file, index))
                else:
                    places[digest] = (file, index)
        known = self.store.index.known(list(places))
        fetch: list[list[int]] = [[] for _ in trees]
        reuse: list[list[int]] = [[] for _ in trees]
        for digest, (file, index) in places.items():
            (reuse if digest in known or digest in self.held else fetch)[file].append(index)
        total = self._total
        here = sum(
            _size(tree, chunks if len(wanted) == len(tree) else chunks.intersection(wanted))
            for tree, chunks, wanted in zip(trees, present, self.wanted, strict=True)
        )
        missing = sum(_size(trees[file], chunks) for file, chunks in enumerate(fetch))
        missing += sum(
            len(content) for digest, content in self.held.items() if digest in places and digest not in known
        )
        earlier = [row.version for row in self.store.index.releases(release.pid, release.name)]
        previous = next((version for version in reversed(earlier) if version != release.version), None)
        return _Work(fetch, reuse, copies, Plan(total, here, total - here - missing, missing, previous))

    def _adopt(self, present: Sequence[set[int]], folder: Path, pool: ThreadPoolExecutor) -> None:
        """Index what lies at the destination already: of a pull that stopped after its rename, or of one of less.

        What is right there is wanted too: the file that takes its place must not hold less.
        """
        for file, tree in enumerate(self.trees):
            if len(present[file]) == len(tree):
                continue
            path = folder / tree.entry.path
            try:
                handle = open_file(path)
            except OSError:
                continue
            try:
                status = os.fstat(handle)
                right = check_chunks(handle, tree, range(len(tree)), pool)
            except OSError:
                continue
            finally:
                os.close(handle)
            self._refer(tree, path, FileStat.of(status), right)
            if len(self.wanted[file]) < len(tree):
                self.wanted[file] = sorted({*self.wanted[file], *right})

    def _index(self, folder: Path) -> None:
        """Refer to the chunks that are there; the pull that brought them may have stopped before it did."""
        with self.store.index.transaction():
            for tree, chunks in zip(self.trees, self.wanted, strict=True):
                path = folder / tree.entry.path
                status = FileStat.of(path.stat())
                if self.store.index.file(str(path)) != status:
                    self._refer(tree, path, status, chunks, fresh=len(chunks) == len(tree))

    def _refer(
        self, tree: FileTree, path: Path, status: FileStat, chunks: Iterable[int], *, fresh: bool = True
    ) -> None:
        row = self.store.index.set_file(str(path), status, fresh=fresh)
        self.store.index.add_chunks(
            row, ((tree.digest_of(index), tree.offsets[index], tree.size_of(index)) for index in chunks)
        )

    def _tidy(self, release: Release, partial: Partial) -> None:
        """Remove what an earlier pull of this release left when it stopped right after its rename."""
        partial.clear()
        for manifest, folder, _ in self.store.index.partials():
            if manifest == release.manifest and not folder.exists():
                self.store.index.end_partial(folder)

    def _announce(self, plan: Plan, version: str) -> None:
        change = f"{plan.previous} → {version}: " if plan.previous and plan.reused else ""
        kept = f", {size_text(plan.present)} already here" if plan.present else ""
        self.progress.note(f"{change}{size_text(plan.fetched)} of {size_text(plan.total)} to fetch{kept}")

    def _reuse(self, work: _Work, partial: Partial) -> None:
        """Copy chunks from files that are here; one that turns out to be damaged is fetched after all."""
        total = sum(self.trees[file].size_of(index) for file, chunks in enumerate(work.reuse) for index in chunks)
        if total:
            self.progress.begin("reusing", total)
        lost = 0
        with ChunkReader(self.store) as reader:
            for file, chunks in enumerate(work.reuse):
                tree = self.trees[file]
                for index in chunks:
                    content = self.held.get(tree.digest_of(index))
                    content = content or reader.read(tree.digest_of(index), tree.size_of(index))
                    if content is None:
                        work.fetch[file].append(index)
                        lost += tree.size_of(index) * (1 + len(work.copies.get(tree.digest_of(index), ())))
                        continue
                    partial.write(file, [(index, memoryview(content))])
                    for other, place in work.copies.get(tree.digest_of(index), ()):
                        partial.write(other, [(place, memoryview(content))])
                    self.progress.advance("this machine", len(content))
                work.fetch[file].sort()
                partial.flush_if_due()
        if total:
            self.progress.end()
        if lost:
            plan = work.plan
            work.plan = Plan(plan.total, plan.present, plan.reused - lost, plan.fetched + lost, plan.previous)
            self.progress.note(f"files that held {size_text(lost)} have changed; that is fetched instead")

    def _fetch(self, work: _Work, partial: Partial) -> None:
        for file, tree in enumerate(self.trees):
            if tree.entry.size == 0:
                partial.touch(file)
        # An empty file has one chunk of no bytes: it is there as soon as the file is.
        missing = [
            [index for index in chunks if self.trees[file].size_of(index)] for file, chunks in enumerate(work.fetch)
        ]
        transfer = Transfer(self.trees, missing)
        if transfer.done:
            return
        self.progress.begin("fetching", transfer.left)
        try:
            self.fetcher.chunks(transfer, partial, work.copies)
        finally:
            self.progress.end()

    def _record(
        self,
        release: Release,
        manifest: Manifest,
        destination: Path,
        moves: Sequence[tuple[Path, Path]] = (),
    ) -> None:
        """Point the index at the release; a crash before this leaves files that the next pull finds."""
        rows = self.store.index.releases(release.pid, release.name)
        row = next((row for row in rows if row.version == release.version), None)
        if (
            row is not None
            and (row.path, row.manifest, row.envelope) == (destination, release.manifest, release.envelope.encoded)
            and row.layout != "part"
            and not moves
        ):
            return
        whole = self._is_complete(manifest, destination)
        layout = "store" if destination.is_relative_to(self.store.home.models) else "placed"
        placed = ReleaseRow(
            release.pid, release.name, release.version, release.manifest, release.envelope.encoded,
            destination, layout if whole else "part", time.time(),
        )  # fmt: skip
        elsewhere = row is not None and row.manifest == release.manifest and row.path != destination
        chosen = placed
        if row is not None and elsewhere and (row.layout == "store" or not whole) and complete(row, manifest):
            # A complete copy that nobody removed stays the one that the release points to; this is one more beside it.
            chosen = replace(placed, path=row.path, layout=row.layout)
        with self.store.index.transaction():
            self.store.index.move_files((str(before), str(after)) for before, after in moves)
            # Once more: a collection of garbage meanwhile saw no release that reaches them.
            self.store.index.add_blocks(self.blocks.items())
            self.store.index.add_release(chosen)
            if layout != "store":
                add_placed(self.store.index, placed)

    def _is_complete(self, manifest: Manifest, folder: Path) -> bool:
        """Tell whether every file of the release is in `folder` with every chunk: this pull's, and what was before."""
        brought = {
            tree.entry.path for tree, chunks in zip(self.trees, self.wanted, strict=True) if len(chunks) == len(tree)
        }
        return all(
            (folder / entry.path).is_file()
            and (entry.path in brought or self.store.index.held(str(folder / entry.path)) == entry.size)
            for entry in manifest.files
        )


def _size(tree: FileTree, chunks: Iterable[int]) -> int:
    """Return how many bytes some chunks of a file have."""
    return sum(map(tree.size_of, chunks))
