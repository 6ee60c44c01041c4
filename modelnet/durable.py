"""Write-then-rename, with the calls it promises.

    open(temporary) → write → fsync(temporary) → rename(temporary, path) → fsync(folder)

After a crash `path` holds its old content or its new content, whole; a leftover temporary file means nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["make_folder", "sync_folder", "write"]


def write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` in one step; raises `OSError` and leaves the old file on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and creations in `folder` durable; systems that cannot fsync a folder are left as they are."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
