"""What lies where a pull wants to put its files: nothing, a whole copy, somebody's own files, or too little space."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelnet.checking import check_chunks, open_file
from modelnet.core.filetree import FileTree
from modelnet.core.manifest import Manifest
from modelnet.errors import UnavailableError, UsageError
from modelnet.partial import disk_errors
from modelnet.progress import Progress
from modelnet.stores.index import ReleaseRow
from modelnet.wording import size_text

__all__ = ["check_empty", "check_space", "complete", "holds"]

SPARE = 16 * 1024 * 1024  # bytes left free on the disk beside the model


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
    if needed and needed + SPARE > free:
        raise UnavailableError(
            "the disk is too full for this model", rule="disk", path=str(root),
            wanted=f"{size_text(needed + SPARE)} free", got=size_text(free), hint="free some space or choose --to",
        )  # fmt: skip
