"""A lock between processes and threads: one file held with flock, which ends with its holder, come what may."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelnet import durable

__all__ = ["locked"]

_held = threading.local()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, waiting for it; the same thread may take it again. Raises `OSError`."""
    key = os.path.realpath(path)
    mine: set[str] = _held.__dict__.setdefault("paths", set())
    if key in mine:
        yield
        return
    durable.make_folder(path.parent)
    # Opened for each holder: two openings exclude each other in one process as well.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        mine.add(key)
        try:
            yield
        finally:
            mine.discard(key)
    finally:
        os.close(handle)
