"""A copy of a file in memory that nobody can write any more: Linux memfd_create(2) with seals (fcntl(2), F_ADD_SEALS).

The copy is sealed first and hashed then, so what was hashed is what a runtime finds at `/proc/self/fd/N`, however often
it opens that. Costs the file's size in memory that cannot be written back to a disk.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from modelnet.core.filetree import FileTree
from modelnet.errors import IntegrityError, UnavailableError
from modelnet.loaders.reading import TASK, VerifiedReader

__all__ = ["is_available", "room", "sealed_copy"]

READ = 1024 * 1024
SPARE = 256 * 1024 * 1024  # bytes of memory left to everybody else


def is_available() -> bool:
    """Tell whether this system has sealed memory files with a path."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")  # noqa: PTH112


def room() -> int:
    """Return how many bytes of memory may be taken for copies now."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("MemAvailable:"):
                    return max(0, int(line.split()[1]) * 1024 - SPARE)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def sealed_copy(handle: int, tree: FileTree, *, source: str, pool: ThreadPoolExecutor | None = None) -> int:
    """Return a sealed, read-only descriptor with the verified content of the open file.

    Raises `IntegrityError` when it is not what was signed, `UnavailableError` when it cannot be read or held.
    """
    import fcntl

    size, path = tree.entry.size, tree.entry.path
    try:
        memory = os.memfd_create(f"modelnet:{path}"[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise UnavailableError(f"no memory file: {error.strerror}", rule="memory", path=path) from error
    try:
        os.truncate(memory, size)
        _fill(handle, memory, tree, source, pool)
        fcntl.fcntl(
            memory, fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
        )  # fmt: skip
        os.fchmod(memory, 0o400)
        # Only now: what a hash says about writable memory is over when somebody else may write there.
        VerifiedReader(memory, tree, source=source).check_all(pool)
    except OSError as error:
        os.close(memory)
        raise UnavailableError(f"cannot hold the file in memory: {error.strerror}", rule="memory", path=path) from error
    except BaseException:
        os.close(memory)
        raise
    return memory


def _fill(handle: int, memory: int, tree: FileTree, source: str, pool: ThreadPoolExecutor | None) -> None:
    """Copy the file into the memory file through a mapping, which is gone afterwards, as sealing demands."""
    size = tree.entry.size
    if not size:
        return
    with mmap.mmap(memory, size) as mapped, memoryview(mapped) as view:
        copy: Callable[[int], None] = partial(_copy, handle, view, tree, source)
        for _ in (map if pool is None or size <= TASK else pool.map)(copy, range(0, size, TASK)):
            pass


def _copy(handle: int, view: memoryview, tree: FileTree, source: str, start: int) -> None:
    size = tree.entry.size
    position, end = start, min(start + TASK, size)
    while position < end:
        with view[position : min(position + READ, end)] as part:
            read = os.preadv(handle, [part], position)
        if not read:
            raise IntegrityError(
                "the file became shorter", rule="size", path=tree.entry.path, offset=position, source=source,
                wanted=f"{size} bytes", got=f"{position} bytes",
            )  # fmt: skip
        position += read
