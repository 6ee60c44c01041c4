"""Keep the store whole and small: `fsck` finds (and mends) what is wrong, `gc` frees what nothing points to.

`gc` marks from the releases, then sweeps partial pulls that nobody touched for an hour, folders of models that no
release points to, blocks that no manifest reaches and references into files that are gone. It takes no global lock:
what is younger than the grace hour may belong to a pull that is going on.

`remove` lets go of a release; the next `gc` frees its files. A publisher's own files are never deleted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelnet.checking import CORES, verify_file
from modelnet.core.cid import DAG_PB, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree
from modelnet.core.manifest import Manifest
from modelnet.core.names import parse_reference
from modelnet.core.release import Release
from modelnet.core.unixfs import parse_node
from modelnet.errors import MalformedError, ModelnetError
from modelnet.partial import unused
from modelnet.progress import SILENT, Progress
from modelnet.signed import find_row, identify, open_manifest
from modelnet.stores.home import Home
from modelnet.stores.index import FileStat, Index, ReleaseRow
from modelnet.stores.local import ChunkReader, LocalStore, open_store
from modelnet.stores.logindex import read_logs
from modelnet.stores.placements import forget_placed, read_placed

__all__ = ["Freed", "Problem", "fsck", "gc", "remove"]

GRACE_S = 3600.0
BEGINNING_S = 60.0  # a folder that is not recorded yet may be that of a pull about to take its lock
MAX_CHUNK = 2 * 1024 * 1024  # what a damaged index may make us read at once


@dataclass(frozen=True, slots=True)
class Freed:
    """What `gc` freed, or would free: bytes, and what they were."""

    bytes: int
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the store; `repaired` says whether it was mended."""

    rule: str
    path: str
    message: str
    repaired: bool = False
    offset: int | None = None


def remove(reference: str, *, home: str | os.PathLike[str] | Home | None = None) -> Release:
    """Let go of a release in this store; `gc` frees its files when nothing else points to them."""
    store = open_store(home)
    row = find_row(store, parse_reference(reference))
    release = identify(store, row)
    store.index.remove_release(row)
    return release


def gc(*, dry_run: bool = False, grace_s: float = GRACE_S, home: str | os.PathLike[str] | Home | None = None) -> Freed:
    """Free what no release points to and nobody touched for `grace_s` seconds; with `dry_run`, only say what."""
    if not grace_s >= 0:  # also when it is not a number
        raise ValueError(f"the grace is a number of seconds, not {grace_s}")
    store = open_store(home)
    items: list[str] = []
    freed = 0
    now = time.time()
    recorded = {folder: seen for _, folder, seen in store.index.partials()}
    # A pull that was killed before it was recorded left its folder all the same.
    for folder, seen in (dict.fromkeys((store.home.root / "partial").glob("*"), 0.0) | recorded).items():
        with unused(folder) as idle:
            least = grace_s if folder in recorded else max(grace_s, BEGINNING_S)
            if not idle or now - max(seen, _touched(folder)) < least:
                continue
            items.append(f"unfinished pull {folder}")
            freed += _disk(folder)
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    store.index.end_partial(folder)
    for folder in _orphans(store):
        if now - _touched(folder) >= grace_s:
            items.append(f"files that no release points to {folder}")
            freed += _disk(folder)
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
    with store.index.transaction():  # no release appears between the look and the deletion
        partials = [folder for _, folder, _ in store.index.partials()]
        gone = [row for row, path, _ in store.index.files() if not Path(path).is_file() and not _within(path, partials)]
        blocks = [] if partials else _unreachable(store)
        freed += sum(len(store.index.block(Cid.decode(cid)) or b"") for cid in blocks)
        if not dry_run:
            store.index.remove_files(gone)
            store.index.remove_blocks(blocks)
            forget_placed(store.index, _unplaced(store))
    if gone:
        items.append(f"references into {len(gone)} files that are gone")
    if blocks:
        items.append(f"{len(blocks)} blocks that no release reaches")
    store.index.keep_reserve()
    return Freed(freed, tuple(items))


def _touched(folder: Path) -> float:
    """Return when anything in `folder` was last written, in unix seconds."""
    latest = 0.0
    for inner, _, names in os.walk(folder):
        for path in [Path(inner), *(Path(inner) / name for name in names)]:
            try:
                latest = max(latest, path.stat(follow_symlinks=False).st_mtime)
            except OSError:
                continue
    return latest


def _disk(folder: Path) -> int:
    """Return the bytes that `folder` takes on the disk; a hole takes none."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(inner) / name).stat(follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
    return total


def _within(path: str | Path, folders: Iterable[Path]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _orphans(store: LocalStore) -> Iterator[Path]:
    """Yield the version folders under `models/` that no release points to or into."""
    # In this order: a folder that a pull has just put there either still has a pull at work, or has its release.
    folders = [folder for folder in store.home.models.glob("*/*/*") if folder.is_dir()]
    if any(_busy(folder) for _, folder, _ in store.index.partials()):
        return
    used = [row.path for row in store.index.releases()]
    yield from (folder for folder in folders if not any(path.is_relative_to(folder) for path in used))


def _busy(folder: Path) -> bool:
    with unused(folder) as idle:
        return not idle


def _unplaced(store: LocalStore) -> list[Path]:
    """Return the folders that were placed and are gone, or are of a release that was let go of."""
    here = {(row.pid, row.name, row.version, row.manifest) for row in store.index.releases()}
    return [
        row.path
        for row in read_placed(store.index)
        if (row.pid, row.name, row.version, row.manifest) not in here or not row.path.is_dir()
    ]


def _unreachable(store: LocalStore) -> list[bytes]:
    """Return the blocks that no release's manifest, tree or file DAG reaches."""
    reached: set[bytes] = set()
    for row in store.index.releases():
        reached.add(row.manifest.encode())
        block = store.block(row.manifest)
        if block is None:
            continue
        manifest = Manifest.parse(block)
        wanted = [manifest.tree, *(entry.cid for entry in manifest.files if entry.cid.codec != RAW)]
        while wanted:
            cid = wanted.pop()
            if cid.encode() in reached or (node := store.block(cid)) is None:
                continue
            reached.add(cid.encode())
            wanted += [link.cid for link in parse_node(node).links if link.cid.codec == DAG_PB]
    return [cid for cid in store.index.block_cids() if cid not in reached]


def fsck(
    *, repair: bool = False, home: str | os.PathLike[str] | Home | None = None, progress: Progress = SILENT
) -> list[Problem]:
    """Check the index, every block, every release and every file; mend with `repair` what can be mended here.

    A reference to bytes that changed is dropped, a damaged block is made again from its file or dropped, a damaged
    pulled file is put together again from other files that hold its chunks. What stays wrong needs a pull.
    """
    store = open_store(home)
    try:
        store.index.check()
        return _check_all(store, repair=repair, progress=progress)
    except MalformedError as error:
        if error.rule != "index":
            raise
        if not repair:
            return [Problem("index", str(store.home.index), error.message)]
        store.index.close()
        aside = _set_aside(store.home.index)
        return [Problem("index", str(store.home.index), f"{error.message}; set aside as {aside.name}", repaired=True)]


def _set_aside(path: Path) -> Path:
    """Rename a damaged index and its log; pulls of what was in it find the files where they are."""
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


def _check_all(store: LocalStore, *, repair: bool, progress: Progress) -> list[Problem]:
    problems: list[Problem] = []
    broken = [cid for cid in store.index.block_cids() if store.block(Cid.decode(cid)) is None]
    problems += [
        Problem("block", str(Cid.decode(cid)), "a DAG node or manifest is damaged", repaired=repair) for cid in broken
    ]
    if repair:
        store.index.remove_blocks(broken)
    # What an unfinished pull has is hashed by the pull that goes on with it.
    partials = [folder for _, folder, _ in store.index.partials()]
    files = [row for row in store.index.files() if not _within(row[1], partials)]
    progress.begin("verifying", sum(status.size for _, _, status in files))
    with ThreadPoolExecutor(CORES) as pool:
        for row, path, status in files:
            problems += _check_references(store.index, row, path, repair=repair)
            progress.advance("disk", status.size)
        for release in store.index.releases():
            problems += _check_release(store, release, pool, repair=repair)
    problems += _check_known(store)
    progress.end()
    return problems


def _check_references(index: Index, row: int, path: str, *, repair: bool) -> Iterator[Problem]:
    """Yield a problem for each run of references into `path` whose bytes are others."""
    references = index.chunks_of(row)
    wrong: list[tuple[bytes, int]] = []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        wrong = [(digest, offset) for digest, offset, _ in references]
    else:
        try:
            wrong = [(digest, at) for digest, at, size in references if not _holds(handle, digest, at, size)]
        finally:
            os.close(handle)
    if not wrong:
        return
    if repair:
        index.remove_chunks(row, wrong)
    yield Problem(
        "reference", path, f"{len(wrong)} of {len(references)} chunks are not in this file any more",
        repaired=repair, offset=min(offset for _, offset in wrong),
    )  # fmt: skip


def _holds(handle: int, digest: bytes, offset: int, size: int) -> bool:
    try:
        return size <= MAX_CHUNK and blake3_digest(os.pread(handle, size, offset)) == digest
    except (OSError, ValueError, OverflowError):  # a fifo, a bad sector, a number that is no offset
        return False


def _check_release(store: LocalStore, row: ReleaseRow, pool: ThreadPoolExecutor, *, repair: bool) -> Iterator[Problem]:
    """Yield what is wrong with a release: its signature, its blocks, its files."""
    name = f"{row.pid}/{row.name}@{row.version}"
    try:
        release = identify(store, row)
    except ModelnetError as error:
        if error.rule == "unlogged" and row.in_place:
            return  # a publication that was broken off before its release was in the log; nobody is offered it
        # Nobody signed what this row says, so it is no release; the files stay until gc, and a pull finds them. Where
        # the log is gone nobody can tell: its releases are kept until it is here again.
        repair = repair and error.rule != "missing"
        if repair:
            store.index.remove_release(row)
        yield Problem(error.rule or error.kind, name, f"{error}; pull or publish it again", repaired=repair)
        return
    try:
        manifest = open_manifest(store, release)
        trees = [store.tree(entry) for entry in manifest.files]
    except ModelnetError as error:
        yield Problem(error.rule or error.kind, name, f"{error}; pull it again")
        return
    for tree in trees:
        path = row.path / tree.entry.path
        if row.layout == "part" and not path.exists():
            continue
        try:
            found = verify_file(path, tree, pool, holes=row.layout == "part")
        except ModelnetError as error:
            mended = repair and row.layout in ("store", "placed") and _mend(store, path, tree)
            yield Problem(error.rule or error.kind, str(path), error.message, repaired=mended, offset=error.offset)
        else:
            if found == tree.entry.size:
                yield from _check_served(store.index, path, tree, repair=repair)


def _check_known(store: LocalStore) -> Iterator[Problem]:
    """Yield a problem for each publisher whose log the index knows and whose files are gone."""
    for row in read_logs(store.index):
        path = store.home.logs / row.pid
        if not path.is_dir():
            said = f"what was known of this publisher is gone; `modelnet sync {row.pid} --peer URL` brings it again"
            yield Problem("log", str(path), said)


def _check_served(index: Index, path: Path, tree: FileTree, *, repair: bool) -> Iterator[Problem]:
    """Yield a problem when a file that is whole has chunks that nothing refers to, so that nobody could get them."""
    places = {(tree.digest_of(chunk), tree.offsets[chunk]) for chunk in range(len(tree))}
    known = index.file_id(str(path))
    lost = len(places) if known is None else len(places - {row[:2] for row in index.chunks_of(known)})
    if lost:
        if repair:
            _refer(index, path, tree)
        yield Problem("reference", str(path), f"{lost} chunks of this file could not be served", repaired=repair)


def _refer(index: Index, path: Path, tree: FileTree) -> None:
    """Refer to every chunk of a file that is whole."""
    with index.transaction():
        row = index.set_file(str(path), FileStat.of(path.stat()), fresh=True)
        index.add_chunks(
            row, ((tree.digest_of(chunk), tree.offsets[chunk], tree.size_of(chunk)) for chunk in range(len(tree)))
        )


def _mend(store: LocalStore, path: Path, tree: FileTree) -> bool:
    """Put a damaged pulled file together again from whatever files here hold its chunks; tell whether all were."""
    temporary = path.with_name(f".{path.name}.mending")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ChunkReader(store) as reader, temporary.open("wb") as file:
            for index in range(len(tree)):
                content = reader.read(tree.digest_of(index), tree.size_of(index))
                if content is None:
                    return False
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o444)
        temporary.replace(path)
    except OSError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _refer(store.index, path, tree)
    return True
