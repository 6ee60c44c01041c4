"""Fetching a log from whoever told of it, within bounds: a teller earns time by what it gives.

`Patience` is how long a teller is waited for at all, and how much it may send. Whoever sends at least `RATE` bytes a
second keeps the time that it began with, up to `MOST_S`; whoever drips is over when that is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from modelnet.errors import IntegrityError, MalformedError, UnavailableError
from modelnet.fetching import Fetcher
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.stores.http import Connection, HttpSource
from modelnet.syncing import sync

__all__ = ["Fetch", "Patience", "fetch_with"]

RATE = 32 * 1024  # bytes a second: below what any line gives, above what a drip does
MOST_S = 300.0  # with one teller, however diligent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a teller may take without giving anything, in seconds, and how many bytes it may send."""

    seconds: float
    most: int


# Bring the log of a publisher up to what the node at a URL has; raises what `modelnet.syncing.sync` raises, and
# `UnavailableError` with rule `slow` when patience ended.
Fetch = Callable[[str, str, Patience], None]


class _BriefFetcher(Fetcher):
    """A fetcher that ends with its patience, wherever it is then."""

    def __init__(self, source: HttpSource, patience: Patience) -> None:
        super().__init__([source], SILENT)
        self._began = time.monotonic()
        self._ends = self._began + patience.seconds
        self._left = patience.most
        self._current: Connection | None = None
        self._clock = threading.Thread(target=self._watch, name="gossip-patience", daemon=True)
        self._finished = threading.Event()
        self.ended = False  # by patience
        self._clock.start()

    def _watch(self) -> None:
        while not self._finished.wait(max(0.01, min(self._ends - time.monotonic(), 1.0))):
            if time.monotonic() >= self._ends:
                self.ended = True
                if (connection := self._current) is not None:
                    connection.abort()
                return

    def ask(self, source: HttpSource, ask: Callable[[Connection], T]) -> T | None:
        """Ask as a fetcher does, as long as there is patience."""
        if self.ended or self._left < 0:
            self.ended = True
            return None

        def asking(connection: Connection) -> T:
            self._current = connection
            try:
                return ask(connection)
            finally:
                self._current = None

        answer = super().ask(source, asking)
        given = _weight(answer)
        self._left -= given
        self._ends = min(self._ends + given / RATE, self._began + MOST_S)
        return answer

    def close(self) -> None:
        """End everything."""
        self._finished.set()
        self._clock.join()
        super().close()


def _weight(answer: object) -> int:
    """Return how many bytes an answer of a log has: the pieces of one that is a list."""
    if isinstance(answer, bytes):
        return len(answer)
    return sum(len(part) for part in answer if isinstance(part, bytes)) if isinstance(answer, list) else 0


def fetch_with(replicas: Replicas, guard: Callable[[str], None] = lambda _url: None) -> Fetch:
    """Return the function that brings a publisher's log up to what one node has; `guard` raises for some URLs."""

    def fetch(pid: str, url: str, patience: Patience) -> None:
        guard(url)
        fetcher = _BriefFetcher(HttpSource.parse(url), patience)
        try:
            report = sync(replicas, pid, fetcher)
        except UnavailableError as error:
            if fetcher.ended:
                raise _slow(url) from error
            raise
        finally:
            fetcher.close()
        for heard in report.heard:
            # What the publisher signed is nobody else's fault; a source that contradicts its own head lied.
            if isinstance(heard.error, IntegrityError | MalformedError):
                raise heard.error
        if fetcher.ended:
            raise _slow(url)

    return fetch


def _slow(url: str) -> UnavailableError:
    return UnavailableError("it gives its log too slowly", rule="slow", source=url)
