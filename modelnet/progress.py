"""What a long operation tells whoever watches it. The library says numbers; the command line draws them."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SILENT", "Progress"]


class Progress(Protocol):
    """A watcher. Calls come from several threads."""

    def begin(self, phase: str, total: int) -> None:
        """Start `phase` (`hashing`, `reusing`, `fetching`, `verifying`) of `total` bytes."""

    def advance(self, source: str, count: int) -> None:
        """Add `count` bytes that came from `source` and are verified."""

    def note(self, text: str) -> None:
        """Say one line that a person should see, such as a plan or a source that lied."""

    def end(self) -> None:
        """The phase is over."""


class _Silent:
    def begin(self, phase: str, total: int) -> None:
        pass

    def advance(self, source: str, count: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def end(self) -> None:
        pass


SILENT: Progress = _Silent()
