"""Write-then-rename, with the calls it promises.

    open(temporary) → write → fsync(temporary) → rename(temporary, path) → fsync(folder)

After a crash `path` holds its old content or its new content, whole; a leftover temporary file means nothing. What is
no regular file, such as a pipe or a device that a user names for a result, is written into and stays what it is.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

__all__ = ["make_folder", "sync_folder", "write"]

_OPEN = re.compile(r"/dev/(?P<stream>stdout|stderr)|/(dev|proc/self)/fd/(?P<number>[0-9]{1,6})")


def write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` in one step; raises `OSError` and leaves the old file on failure."""
    if _is_channel(path):
        _write_into(path, content)
        return
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


def _is_channel(path: Path) -> bool:
    """Tell whether `path` is there and no file that could be replaced, or a name for something that is open."""
    try:
        return _OPEN.fullmatch(str(path)) is not None or not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _write_into(path: Path, content: bytes) -> None:
    if (name := _OPEN.fullmatch(str(path))) is not None:
        # Not opened anew: a file would be written from its beginning, and overwritten by what is printed next.
        handle = os.dup(int(name["number"] or {"stdout": 1, "stderr": 2}[name["stream"]]))
    else:
        # A pipe that nobody reads is an error, not a wait; one that is read slowly is waited for.
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


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
