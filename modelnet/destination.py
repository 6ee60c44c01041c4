"""What lies where a pull wants to put its files: nothing, a whole copy, somebody's own files, or too little space."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelnet.arguments import given_path
from modelnet.checking import check_chunks, open_file, verify_file
from modelnet.core.filetree import FileTree
from modelnet.core.manifest import Manifest
from modelnet.core.release import Release
from modelnet.errors import ModelnetError, UnavailableError, UsageError
from modelnet.partial import disk_errors
from modelnet.progress import Progress
from modelnet.stores.home import Home
from modelnet.stores.index import FileStat, ReleaseRow
from modelnet.stores.local import LocalStore
from modelnet.wording import size_text

__all__ = [
    "check_empty", "check_replaceable", "check_space", "chosen_folder", "complete", "destination_of", "holds",
    "partial_root",
]  # fmt: skip

SHOWN = 50  # characters of a folder's name that its partial's name repeats; with the mark below 255 bytes
SPARE = 16 * 1024 * 1024  # bytes left free on the disk beside the model


def chosen_folder(to: str | os.PathLike[str]) -> Path:
    """Return the folder that the caller chose for the files, absolute; raise `UsageError` for what can be none."""
    try:
        path = given_path(to, "folder to put the files in").expanduser()
    except RuntimeError as error:
        raise UsageError(f"no such folder: {error}", rule="destination", path=os.fspath(to)) from error
    folder = Path(os.path.abspath(path))  # noqa: PTH100  (links in it are the user's)
    if folder == folder.parent:
        raise UsageError(
            "the root of the file system is no folder for a model", rule="destination", path=str(folder),
            hint="choose a new folder with --to",
        )  # fmt: skip
    return folder


def destination_of(store: LocalStore, release: Release, to: Path | None) -> tuple[Path, bool]:
    """Return where the files belong, and whether what lies there now is ours to mend."""
    rows = store.index.releases(release.pid, release.name)
    row = next((row for row in rows if row.version == release.version and row.manifest == release.manifest), None)
    own = store.home.release(release.pid, release.name, release.version)
    if to is not None:
        _check_outside(to, store.home, own)
        return to, _placed_by_us(store, release, to)
    if row is not None and not row.in_place:
        return row.path, True
    if row is not None:
        return row.path, False  # the publisher's own folder: used while it is whole, never written to
    return own, True


def _check_outside(destination: Path, home: Home, own: Path) -> None:
    """Raise for a folder of modelnet's own, where `gc` deletes; `own` is where the release would go anyway."""
    if home.holds(destination) and destination.resolve() != own.resolve():
        raise UsageError(
            "the folder belongs to modelnet itself", rule="destination", path=str(destination),
            hint="choose a folder elsewhere with --to, or leave it out",
        )  # fmt: skip


def _placed_by_us(store: LocalStore, release: Release, destination: Path) -> bool:
    """Tell whether an earlier pull of this release put files into `destination`; no publisher's folder counts."""
    if any(row.path == destination and row.in_place for row in store.index.releases()):
        return False
    block = store.block(release.manifest)
    files = Manifest.parse(block).files if block is not None else ()
    return any(store.index.file(str(destination / entry.path)) is not None for entry in files)


def partial_root(home: Home, release: Release, destination: Path) -> Path:
    """Return the folder to write into: in the store, or where a rename within one disk ends the pull."""
    if destination.is_relative_to(home.models):
        return home.partial(release.manifest)
    mark = f".{release.manifest.digest.hex()[:16]}.modelnet"
    beside = destination.with_name(f".{destination.name[:SHOWN]}{mark}")
    # A folder that is there may be the root of a disk or where a shell stands: it is filled, not replaced.
    return destination / mark if destination.is_dir() and not beside.exists() else beside


def check_replaceable(
    store: LocalStore, destination: Path, partial: Path, trees: Sequence[FileTree], pool: ThreadPoolExecutor
) -> None:
    """Raise for what lies where a file of `trees` belongs, unless we put it there or it is what was signed already.

    Ours is what the index knows by its inode, and nothing that was published from where it lies. A link is never ours:
    neither is it replaced nor is anything written through it. In the store itself everything is ours.
    """
    if destination.is_relative_to(store.home.models):
        return
    folders = {destination / parent for tree in trees for parent in Path(tree.entry.path).parents} - {destination}
    for folder in (*sorted(folders), partial):
        if (status := _status(folder)) is not None and not stat.S_ISDIR(status.st_mode):
            raise _in_the_way(folder)
    published = _published(store, destination)
    for tree in trees:
        path = destination / tree.entry.path
        if (status := _status(path)) is None:
            continue
        found, known = FileStat.of(status), store.index.file(str(path))
        ours = known is not None and (known.dev, known.inode) == (found.dev, found.inode)
        if not stat.S_ISREG(status.st_mode) or not (
            (ours and str(path) not in published) or _is_signed(path, tree, pool)
        ):
            raise _in_the_way(path)


def _published(store: LocalStore, folder: Path) -> set[str]:
    """Return the paths of files that were published in place in `folder`, or in one around it."""
    return {
        str(row.path / entry.path)
        for row in store.index.releases()
        if row.in_place and (row.path.is_relative_to(folder) or folder.is_relative_to(row.path))
        if (block := store.block(row.manifest)) is not None
        for entry in Manifest.parse(block).files
    }


def _is_signed(path: Path, tree: FileTree, pool: ThreadPoolExecutor) -> bool:
    """Tell whether a file is the signed one, or what a pull of some of its tensors made of it."""
    try:
        verify_file(path, tree, pool, holes=True)
    except ModelnetError:
        return False
    return True


def _status(path: Path) -> os.stat_result | None:
    with disk_errors(path):
        try:
            return path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None


def _in_the_way(path: Path) -> UsageError:
    what = "a symbolic link" if path.is_symlink() else "a file or folder"
    return UsageError(
        f"{what} that modelnet did not put there is in the way", rule="destination", path=str(path),
        hint="move it away, or choose another folder with --to; nothing was changed",
    )  # fmt: skip


def complete(row: ReleaseRow, manifest: Manifest) -> bool:
    """Tell whether every file of a release is at its size where `row` says."""
    if row.layout == "part":
        return False
    try:
        return all((row.path / entry.path).stat().st_size == entry.size for entry in manifest.files)
    except OSError:
        return False


def holds(path: Path, tree: FileTree, chunks: Sequence[int], pool: ThreadPoolExecutor, progress: Progress) -> bool:
    """Tell whether the file at `path` has the signed size, and in those `chunks` the signed bytes."""
    try:
        handle = open_file(path)
    except OSError:
        return False
    try:
        if os.fstat(handle).st_size != tree.entry.size:
            return False
        right = check_chunks(handle, tree, chunks, pool, lambda count: progress.advance("disk", count))
        return len(right) == len(chunks)
    except OSError:
        return False
    finally:
        os.close(handle)


def check_empty(destination: Path, partial: Path) -> None:
    """Raise for a folder that holds what we did not put there; one with our partial in it is a pull of ours."""
    with disk_errors(destination):
        if partial.parent == destination and partial.is_dir():
            return
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise UsageError(
                "the folder is not empty", rule="destination", path=str(destination),
                hint="choose a new folder with --to; modelnet never overwrites files that it did not put there",
            )  # fmt: skip


def check_space(root: Path, needed: int) -> None:
    """Raise before anything is written when the disk of `root` has less than `needed` bytes and a little more."""
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return
    if needed > 0 and needed + SPARE > free:
        raise UnavailableError(
            "the disk is too full for this model", rule="disk", path=str(root),
            wanted=f"{size_text(needed + SPARE)} free", got=size_text(free), hint="free some space or choose --to",
        )  # fmt: skip
