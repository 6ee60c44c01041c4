"""Main path 3: files on disk → proof that they are, byte for byte, what their publisher signed.

A reference names a release in the store; a path is a folder or file that belongs to one. Every byte is hashed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelnet.arguments import given_path
from modelnet.checking import CORES, verify_file
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.paths import SKIPPED
from modelnet.core.release import Release
from modelnet.errors import IntegrityError, TrustError, UnavailableError, UsageError
from modelnet.gate import Gate, Knowledge, Trusted
from modelnet.progress import SILENT, Progress
from modelnet.signed import identify, open_manifest
from modelnet.stores.home import Home
from modelnet.stores.index import ReleaseRow
from modelnet.stores.local import LocalStore, open_store
from modelnet.stores.placements import read_placed

__all__ = ["Verified", "verify"]

FILES_AT_ONCE = 2  # the next file's chunk list is read while one is hashed


@dataclass(frozen=True, slots=True)
class Verified:
    """Files that are what was signed; `path` is the folder that holds them, `size` the bytes that were checked."""

    trusted: Trusted
    manifest: Manifest
    files: tuple[FileEntry, ...]
    path: Path
    size: int

    @property
    def release(self) -> Release:
        """What was signed."""
        return self.trusted.release

    @property
    def knowledge(self) -> Knowledge:
        """How old what is known about revocations is."""
        return self.trusted.knowledge

    @property
    def holes(self) -> int:
        """Bytes of the files that are not here: a pull of some tensors left them out."""
        return sum(entry.size for entry in self.files) - self.size

    @property
    def absent(self) -> tuple[str, ...]:
        """Paths of the release that were not looked at: a partial pull left them out, or one file was asked for."""
        checked = {entry.path for entry in self.files}
        return tuple(entry.path for entry in self.manifest.files if entry.path not in checked)


def verify(
    target: str | os.PathLike[str],
    *,
    accept_stale: bool = False,
    offline_pinned: bool = False,
    strict: bool = False,
    home: str | os.PathLike[str] | Home | None = None,
    progress: Progress = SILENT,
) -> Verified:
    """Hash the files at `target` (a path, or the reference of a release in this store) against what was signed.

    Raises `IntegrityError` with file, offset, wanted and found at the first difference, also for a file too many;
    also for one too few; `TrustError` when no known release covers the path, or the gate refuses it.
    """
    path = given_path(target, "folder, file or reference to verify")
    text = os.fspath(target)
    store = open_store(home)
    gate = Gate.open(store, accept_stale=accept_stale, offline_pinned=offline_pinned, strict=strict)
    if not text.startswith("modelnet:") and (path.exists() or path.is_symlink()):
        row, base, entries = _cover(gate, path)
        trusted = gate.admit(row)
    else:
        if "/" not in text or text[0] in "./~\\":
            raise UsageError(
                "no such file or folder, and not a reference", rule="path", path=text,
                hint="give a folder, a file, or publisher/name@version",
            )  # fmt: skip
        trusted = gate.resolve(text)
        row = gate.row(trusted)
        base, entries = row.path, None
    manifest = open_manifest(store, trusted.release)
    gate.check_files(trusted, manifest)
    chosen = _present(store, manifest, row, base) if entries is None else entries
    if entries is None and row.layout != "file":
        _refuse_extra(base, manifest)
    progress.begin("verifying", sum(entry.size for entry in chosen))
    advance = partial(progress.advance, "disk")
    with ThreadPoolExecutor(CORES) as chunks, ThreadPoolExecutor(FILES_AT_ONCE) as files:
        jobs: deque[Future[int]] = deque()
        check = partial(verify_file, holes=row.layout == "part" and row.path == base)
        size = 0
        try:
            for entry in chosen:
                tree = store.tree(entry)
                jobs.append(files.submit(check, base / entry.path, tree, chunks, advance, shown=entry.path))
                if len(jobs) > FILES_AT_ONCE:
                    size += jobs.popleft().result()
            while jobs:  # in the order of the paths, so that the first difference is the one that is reported
                size += jobs.popleft().result()
        except BaseException:
            files.shutdown(cancel_futures=True)
            raise
    progress.end()
    return Verified(trusted, manifest, tuple(chosen), base, size)


def _present(store: LocalStore, manifest: Manifest, row: ReleaseRow, base: Path) -> list[FileEntry]:
    """Return the files to check: all of them, or in the folder of a partial pull those that are or were there."""
    if row.layout != "part" or row.path != base:
        return list(manifest.files)
    return [
        entry
        for entry in manifest.files
        if (base / entry.path).exists() or store.index.file(str(base / entry.path)) is not None
    ]


def _cover(gate: Gate, path: Path) -> tuple[ReleaseRow, Path, list[FileEntry] | None]:
    """Return the release that `path` belongs to: by its place, else by the names and sizes of its files."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  (links are refused, not followed)
    if absolute.is_symlink():
        raise IntegrityError("a symbolic link is not what was signed", rule="symlink", path=str(path))
    # What no log knows is no release: a publication that was broken off, or what a recovery dropped.
    store = gate.store
    rows = [row for row in store.index.releases() if gate.is_logged(row)]
    placed = [row for row in read_placed(store.index) if gate.is_logged(row)]
    latest = sorted([*placed, *rows], key=lambda row: row.added, reverse=True)
    for row in latest:
        if row.path == absolute and row.layout != "file":
            return row, absolute, None
    for row in latest:
        if absolute.is_relative_to(row.path) and absolute.is_file():
            name = absolute.relative_to(row.path).as_posix()
            manifest = open_manifest(store, identify(store, row))
            if found := [entry for entry in manifest.files if entry.path == name]:
                return row, row.path, found
    return _cover_copy(store, absolute, rows)


def _cover_copy(
    store: LocalStore, path: Path, rows: Sequence[ReleaseRow]
) -> tuple[ReleaseRow, Path, list[FileEntry] | None]:
    """Return the release that a copy elsewhere looks like: the one most of whose files are there with their sizes."""
    best: tuple[int, ReleaseRow, list[FileEntry] | None] | None = None
    for row in reversed(rows):
        manifest = open_manifest(store, identify(store, row))
        if path.is_file():
            named = [entry for entry in manifest.files if Path(entry.path).name == path.name]
            score, entries = len(named), named[:1]
            if named and len(Path(named[0].path).parts) > 1:
                continue
        else:
            score = sum(_size(path / entry.path) == entry.size for entry in manifest.files)
            score += sum((path / entry.path).is_file() for entry in manifest.files)
            entries = []
        if score and (best is None or score > best[0]):
            best = (score, row, entries or None)
    if best is None:
        raise TrustError(
            "no release that is known here has these files", rule="unknown-files", path=str(path),
            hint="pull the release first, or verify it by its reference",
        )  # fmt: skip
    return best[1], path.parent if path.is_file() else path, best[2]


def _size(path: Path) -> int | None:
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:
        return None


def _refuse_extra(base: Path, manifest: Manifest) -> None:
    """Raise for a file or link in the folder that the manifest does not list: a runtime might load it."""
    listed = {entry.path for entry in manifest.files}
    if not base.is_dir():
        raise UnavailableError("the release's folder is gone", rule="missing", path=str(base), hint="pull it again")
    for folder, folders, names in os.walk(base):
        folders[:] = [name for name in folders if name not in SKIPPED]
        inside = Path(folder).relative_to(base)
        for name in [*names, *(name for name in folders if (Path(folder) / name).is_symlink())]:
            path = (inside / name).as_posix()
            if path not in listed and name not in SKIPPED:
                raise IntegrityError("a file that was not signed lies in the folder", rule="extra-file", path=path)
