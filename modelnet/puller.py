"""Main path 2: a reference → a verified release on disk, from any number of sources that nobody trusts.

    resolve (signed) → manifest (by its hash) → DAG nodes (by their hashes) → plan → reuse → fetch → rename → index

Commit points: the rename of the folder (the files are all there), then one transaction of the index (the release can be
found). Before the rename a crash leaves a partial that is surveyed by the next pull; between the two, the next pull
finds the files where they belong.
"""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelnet.checking import CORES, check_chunks, open_file
from modelnet.core.cid import RAW, Cid
from modelnet.core.filetree import MAX_DEPTH, FileTree, inner_nodes, parse_file_node
from modelnet.core.manifest import MAX_MANIFEST, FileEntry, Manifest
from modelnet.core.names import parse_reference
from modelnet.core.release import Release
from modelnet.core.transfer import Transfer
from modelnet.core.tree import build_tree, file_child
from modelnet.core.unixfs import Child, Node
from modelnet.destination import check_empty, check_space, complete
from modelnet.destination import whole as is_whole
from modelnet.errors import IntegrityError, MalformedError, UsageError
from modelnet.fetching import Fetcher, SourceReport
from modelnet.gate import Gate, Knowledge, Trusted
from modelnet.lockfile import Lock
from modelnet.partial import Partial
from modelnet.progress import SILENT, Progress
from modelnet.resolve import resolve
from modelnet.stores.home import Home
from modelnet.stores.http import HttpSource
from modelnet.stores.index import FileStat, ReleaseRow
from modelnet.stores.local import ChunkReader, open_store
from modelnet.wording import printable, size_text

__all__ = ["Plan", "Pulled", "pull"]

SOURCES = ("folder", "file")  # layouts of a publisher's own files: read, never written
SHOWN = 50  # characters of a folder's name that its partial's name repeats; with the mark below 255 bytes
MAX_CHUNKS = 1 << 22  # of one pull, at 40 bytes of memory each: 4 TiB in chunks of 1 MiB
MAX_NODES = 1 << 18  # above them: one for each tensor and file, or for 1,024 chunks


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
    peers: Sequence[str] = (),
    to: str | os.PathLike[str] | None = None,
    only: Sequence[str] = (),
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
    match one of its globs. Chunks that are in any file known here are reused. `dry_run` stops after the plan.

    `lock` is a lock file: a name in it means what it is locked to, and one that is not gets locked; `update` moves it.
    `accept_stale`, `offline_pinned` and `strict` are those of `modelnet.policies`, for this one pull.

    Raises `UsageError`, `TrustError` (not signed by that publisher, or not stood by any more), `IntegrityError` (the
    sources disagree with what was signed), `UnavailableError` (nobody has it now, or the disk refuses; what has arrived
    is kept).
    """
    asked = parse_reference(reference)
    locked = Lock.load(lock) if lock is not None else None
    wanted = (locked.find(asked) if locked is not None and not update else None) or asked
    sources = [HttpSource.parse(peer) for peer in dict.fromkeys(peers)]
    store = open_store(home)
    gate = Gate.open(store, accept_stale=accept_stale, offline_pinned=offline_pinned, strict=strict)
    fetcher = Fetcher(sources, progress)
    try:
        pulled = _Pull(gate, fetcher, progress).run(resolve(gate, fetcher, wanted), to=to, only=only, dry_run=dry_run)
    finally:
        fetcher.close()
    if locked is not None and not dry_run:
        locked.save(asked, pulled.trusted.locator)
    return pulled


@dataclass(slots=True)
class _Work:
    """What a pull has to do, by file and chunk."""

    trees: list[FileTree]
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

    def run(self, trusted: Trusted, *, to: str | os.PathLike[str] | None, only: Sequence[str], dry_run: bool) -> Pulled:
        release = trusted.release
        for warning in trusted.warnings:
            self.progress.note(printable(warning))
        manifest = self._manifest(release)
        self.gate.check_files(trusted, manifest)
        entries = _select(manifest, only)
        whole = len(entries) == len(manifest.files)
        destination, ours = self._destination(release, to)
        trees = self._trees(manifest, entries, whole=whole)
        partial = Partial(self._partial_root(release, destination), trees, self.store.index)
        with ThreadPoolExecutor(CORES) as pool:
            if self._intact(trees, destination, pool):
                if not dry_run:
                    self._index(trees, destination)
                    self._record(release, manifest, destination)
                    self._tidy(release, partial)
                size = sum(tree.entry.size for tree in trees)
                plan = Plan(size, size, 0, 0)
                return Pulled(trusted, manifest, tuple(entries), destination, plan, self._reports())
            if not ours and to is None:
                destination = self.store.home.release(release.pid, release.name, release.version)
                partial = Partial(self.store.home.partial(release.manifest), trees, self.store.index)
            elif not ours:
                check_empty(destination, partial.root)
            if dry_run:
                work = self._plan(release, partial, destination, pool)
                return Pulled(trusted, manifest, tuple(entries), destination, work.plan, self._reports())
            self.store.index.keep_reserve()
            partial.open()
            try:
                # After the lock: whoever collects garbage finds the folder only when it can see that we are at work.
                self.store.index.begin_partial(release.manifest, partial.root)
                work = self._plan(release, partial, destination, pool)
                self._announce(work.plan, release.version)
                check_space(partial.root, work.plan.fetched + work.plan.reused)
                self._reuse(work, partial)
                self._fetch(work, partial)
                partial.flush()
                # A revocation that came meanwhile finds nothing at the destination.
                self.gate.recheck(trusted, manifest)
                moves = partial.finish(destination)
                self._record(release, manifest, destination, moves)
            finally:
                partial.close()
        partial.discard()
        return Pulled(trusted, manifest, tuple(entries), destination, work.plan, self._reports())

    def _reports(self) -> tuple[SourceReport, ...]:
        return tuple(self.fetcher.reports.values())

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

    def _destination(self, release: Release, to: str | os.PathLike[str] | None) -> tuple[Path, bool]:
        """Return where the files belong, and whether what lies there now is ours to mend."""
        rows = self.store.index.releases(release.pid, release.name)
        row = next((row for row in rows if row.version == release.version and row.manifest == release.manifest), None)
        if to is not None:
            if not os.fspath(to):
                raise UsageError(
                    "there is no folder to put the files in", rule="destination", hint="give one with --to"
                )
            destination = Path(os.path.abspath(Path(to).expanduser()))  # noqa: PTH100  (links in it are the user's)
            return destination, self._placed_by_us(release, destination)
        if row is not None and row.layout not in SOURCES:
            return row.path, True
        if row is not None:
            return row.path, False  # the publisher's own folder: used while it is whole, never written to
        return self.store.home.release(release.pid, release.name, release.version), True

    def _placed_by_us(self, release: Release, destination: Path) -> bool:
        """Tell whether an earlier pull of this release put files into `destination`; no publisher's folder counts."""
        if any(row.path == destination and row.layout in SOURCES for row in self.store.index.releases()):
            return False
        block = self.store.block(release.manifest)
        files = Manifest.parse(block).files if block is not None else ()
        return any(self.store.index.file(str(destination / entry.path)) is not None for entry in files)

    def _partial_root(self, release: Release, destination: Path) -> Path:
        """Return the folder to write into: in the store, or where a rename within one disk ends the pull."""
        if destination.is_relative_to(self.store.home.models):
            return self.store.home.partial(release.manifest)
        mark = f".{release.manifest.digest.hex()[:16]}.modelnet"
        beside = destination.with_name(f".{destination.name[:SHOWN]}{mark}")
        # A folder that is there may be the root of a disk or where a shell stands: it is filled, not replaced.
        return destination / mark if destination.is_dir() and not beside.exists() else beside

    def _trees(self, manifest: Manifest, entries: Sequence[FileEntry], *, whole: bool) -> list[FileTree]:
        """Return the chunk list of each file, fetching the DAG nodes that are not here, level by level."""
        nodes: dict[Cid, Node] = {}
        lengths: dict[Cid, int] = {}
        paths = {entry.cid: entry.path for entry in entries}
        level = list(dict.fromkeys(entry.cid for entry in entries if entry.cid.codec != RAW))
        depth = 0
        while level:
            depth += 1
            if depth > MAX_DEPTH or len(nodes) + len(level) > MAX_NODES:
                raise MalformedError(
                    "a file's DAG is too deep or has too many nodes", rule="unixfs", path=paths[level[0]],
                    wanted=f"at most {MAX_DEPTH} levels and {MAX_NODES} nodes",
                )  # fmt: skip
            blocks = {cid: block for cid in level if (block := self.store.block(cid)) is not None}
            if absent := [cid for cid in level if cid not in blocks]:
                names = {cid: paths.get(cid, "a file of the release") for cid in absent}
                fetched = self.fetcher.blocks(names, "a DAG node")
                self.store.index.add_blocks(fetched.items())
                blocks |= fetched
            self.blocks |= blocks
            following: dict[Cid, None] = {}
            for cid in level:
                nodes[cid] = parse_file_node(cid, blocks[cid], paths.get(cid, "a file of the release"))
                lengths[cid] = len(blocks[cid])
                for inner in inner_nodes(nodes[cid]):
                    paths.setdefault(inner, paths[cid])
                    if inner not in nodes:
                        following[inner] = None
            level = list(following)
        _check_count(entries, nodes)
        if whole:
            self._check_tree(manifest, {cid: (node, lengths[cid]) for cid, node in nodes.items()})
        return [FileTree(entry, nodes) for entry in entries]

    def _check_tree(self, manifest: Manifest, nodes: dict[Cid, tuple[Node, int]]) -> None:
        """Raise unless the tree of the manifest holds exactly its files; keep the directory nodes for others."""
        blocks: list[tuple[Cid, bytes]] = []
        children: list[tuple[str, Child]] = [
            (entry.path, file_child(entry.cid, entry.size, nodes)) for entry in manifest.files
        ]
        tree = build_tree(children, lambda cid, block: blocks.append((cid, block)))
        if tree.cid != manifest.tree:
            raise IntegrityError(
                "the manifest's tree holds other files than it lists", rule="tree", wanted=manifest.tree, got=tree.cid
            )
        self.blocks |= dict(blocks)

    def _intact(self, trees: Sequence[FileTree], folder: Path, pool: ThreadPoolExecutor) -> bool:
        """Tell whether the files of `trees` lie whole in `folder`."""
        if not all((folder / tree.entry.path).is_file() for tree in trees):
            return False
        self.progress.begin("verifying", sum(tree.entry.size for tree in trees))
        try:
            return all(is_whole(folder / tree.entry.path, tree, pool, self.progress) for tree in trees)
        finally:
            self.progress.end()

    def _plan(self, release: Release, partial: Partial, folder: Path, pool: ThreadPoolExecutor) -> _Work:
        """Find out what is on disk, what other files hold, and what must be fetched."""
        trees = list(partial.trees)
        present = [set(partial.survey(file, pool)) for file in range(len(trees))]
        self._adopt(trees, present, folder, pool)
        places: dict[bytes, tuple[int, int]] = {}
        copies: dict[bytes, list[tuple[int, int]]] = {}
        for file, tree in enumerate(trees):
            for index in range(len(tree)):
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
            (reuse if digest in known else fetch)[file].append(index)
        total = sum(tree.entry.size for tree in trees)
        here = sum(trees[file].size_of(index) for file, chunks in enumerate(present) for index in chunks)
        missing = sum(trees[file].size_of(index) for file, chunks in enumerate(fetch) for index in chunks)
        earlier = [row.version for row in self.store.index.releases(release.pid, release.name)]
        previous = next((version for version in reversed(earlier) if version != release.version), None)
        return _Work(trees, fetch, reuse, copies, Plan(total, here, total - here - missing, missing, previous))

    def _adopt(
        self, trees: Sequence[FileTree], present: Sequence[set[int]], folder: Path, pool: ThreadPoolExecutor
    ) -> None:
        """Index what lies at the destination already: a pull that stopped after its rename, or one of fewer files."""
        for file, tree in enumerate(trees):
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

    def _index(self, trees: Sequence[FileTree], folder: Path) -> None:
        """Refer to the chunks of files that are whole; the pull that brought them may have stopped before it did."""
        with self.store.index.transaction():
            for tree in trees:
                path = folder / tree.entry.path
                status = FileStat.of(path.stat())
                if self.store.index.file(str(path)) != status:
                    self._refer(tree, path, status, range(len(tree)))

    def _refer(self, tree: FileTree, path: Path, status: FileStat, chunks: Iterable[int]) -> None:
        row = self.store.index.set_file(str(path), status, fresh=True)
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
        total = sum(work.trees[file].size_of(index) for file, chunks in enumerate(work.reuse) for index in chunks)
        if total:
            self.progress.begin("reusing", total)
        lost = 0
        with ChunkReader(self.store) as reader:
            for file, chunks in enumerate(work.reuse):
                tree = work.trees[file]
                for index in chunks:
                    content = reader.read(tree.digest_of(index), tree.size_of(index))
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
        for file, tree in enumerate(work.trees):
            if tree.entry.size == 0:
                partial.touch(file)
        # An empty file has one chunk of no bytes: it is there as soon as the file is.
        missing = [
            [index for index in chunks if work.trees[file].size_of(index)] for file, chunks in enumerate(work.fetch)
        ]
        transfer = Transfer(work.trees, missing)
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
        whole = all((destination / entry.path).is_file() for entry in manifest.files)
        layout = "store" if destination.is_relative_to(self.store.home.models) else "placed"
        elsewhere = row is not None and row.manifest == release.manifest and row.path != destination
        if row is not None and elsewhere and (row.layout == "store" or not whole) and complete(row, manifest):
            # A complete copy that nobody removed stays the one that the release points to; this is one more beside it.
            destination, layout, whole = row.path, row.layout, True
        with self.store.index.transaction():
            self.store.index.move_files((str(before), str(after)) for before, after in moves)
            # Once more: a collection of garbage meanwhile saw no release that reaches them.
            self.store.index.add_blocks(self.blocks.items())
            self.store.index.add_release(
                ReleaseRow(
                    release.pid, release.name, release.version, release.manifest, release.envelope.encoded,
                    destination, layout if whole else "part", time.time(),
                )
            )  # fmt: skip


def _select(manifest: Manifest, only: Sequence[str]) -> list[FileEntry]:
    entries = [
        entry for entry in manifest.files if not only or any(fnmatch.fnmatchcase(entry.path, glob) for glob in only)
    ]
    if not entries:
        raise UsageError(
            "no file of the release matches", rule="only", got=", ".join(only),
            hint="its files: " + ", ".join(entry.path for entry in manifest.files[:8]),
        )  # fmt: skip
    return entries


def _check_count(entries: Sequence[FileEntry], nodes: Mapping[Cid, Node]) -> None:
    """Raise before DAGs that name a child many times unfold into more chunks than memory holds."""
    counts: dict[Cid, int] = {}

    def count(cid: Cid, depth: int) -> int:
        if cid.codec == RAW:
            return 1
        if cid not in counts:
            # A node that `MAX_DEPTH` levels do not reach is refused when its file is unfolded.
            links = nodes[cid].links if depth < MAX_DEPTH else ()
            counts[cid] = sum(count(link.cid, depth + 1) for link in links)
        return counts[cid]

    total = 0
    for entry in entries:
        total += count(entry.cid, 0)
        if total > MAX_CHUNKS:
            raise MalformedError("too many chunks", rule="unixfs", path=entry.path, wanted=MAX_CHUNKS, got=total)
