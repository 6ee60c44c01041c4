"""Entries on their way: kept in memory while they are few and in a file without a name when they are many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from modelnet.errors import UnavailableError

__all__ = ["Spool"]

IN_MEMORY = 8 * 1024 * 1024  # about ten thousand entries


class Spool:
    """A list of byte strings of any total size; what it holds is gone with the process."""

    def __init__(self, folder: Path) -> None:
        """Spill into `folder`."""
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder))  # noqa: SIM115  (closed by __exit__)
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: bytes) -> None:
        """Keep one more; raise `UnavailableError` when the disk is full."""
        try:
            self._file.write(len(entry).to_bytes(4, "big") + entry)
        except OSError as error:
            raise UnavailableError(
                f"cannot write: {error.strerror}",
                rule="disk",
                path=str(self._folder),
                hint="free some space and try again",
            ) from error
        self.count += 1

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        for _ in range(self.count):
            yield self._file.read(int.from_bytes(self._file.read(4), "big"))
        self._file.seek(0, 2)
