"""Compare-and-swap storage: the little that a log's writer must never get wrong, behind three operations.

    read(name)              the content, or None
    create(name, content)   only where there is none
    swap(name, old, new)    only where it is `old`

When `create` or `swap` returns, the content is there and stays there through a power cut. When one raises, it may be
there or not: the reply may be what was lost. `read` then says which, for it never returns what later reads do not.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelnet import durable
from modelnet.errors import MalformedError, UnavailableError

__all__ = ["MAX_VALUE", "FileStorage", "Storage", "conflict"]

MAX_VALUE = 64 * 1024  # a note is the largest value


class Storage(Protocol):
    """Where a writer keeps what it may have signed."""

    def read(self, name: str) -> bytes | None:
        """Return the content of `name`, or None."""
        ...

    def create(self, name: str, content: bytes) -> None:
        """Store `content`; raise `UnavailableError` with rule `conflict` where `name` is there already."""
        ...

    def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Replace `old` by `new`; raise `UnavailableError` with rule `conflict` where `name` is not `old`."""
        ...


def conflict(name: str) -> UnavailableError:
    """Return the error that says that somebody else was faster."""
    return UnavailableError(
        "another program changed the state of this log", rule="conflict", path=name, hint="try again"
    )


@dataclass(frozen=True, slots=True)
class FileStorage:
    """One file for each name, in `folder`; processes take turns by a lock beside them."""

    folder: Path

    def read(self, name: str) -> bytes | None:
        """Return the content of `name`, or None."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_VALUE + 1)
        except FileNotFoundError:
            return None
        if len(content) > MAX_VALUE:
            raise MalformedError("state of a log is too large", rule="log", path=str(path), wanted=MAX_VALUE)
        return content

    def create(self, name: str, content: bytes) -> None:
        """Store `content` where there is none."""
        self._replace(name, None, content)

    def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Replace `old` by `new`."""
        self._replace(name, old, new)

    def _replace(self, name: str, old: bytes | None, new: bytes) -> None:
        durable.make_folder(self.folder)
        with self._locked():
            if self.read(name) != old:
                raise conflict(str(self.folder / name))
            durable.write(self.folder / name, new, mode=0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
