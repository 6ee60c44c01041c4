"""Nodes with replicas of test logs, and followers that sync from them: what tests of the log over the network use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelnet.errors import ModelnetError
from modelnet.fetching import Fetcher
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore, open_store
from modelnet.syncing import SyncReport, sync
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server
from tests.core.logs import T0, Log

__all__ = ["Follower", "Hosts", "forked", "grown", "hosts"]


@dataclass
class Follower:
    """A store that follows logs; `reports` is what became of each source at the last sync."""

    store: LocalStore
    now: float = T0
    reports: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.replicas = Replicas(self.store, clock=lambda: self.now)

    def knows(self, log: Log, size: int | None = None) -> Follower:
        """Adopt a log as it is at `size`."""
        self.replicas.adopt(log.pid, log.head(size), log.entries[:size])
        return self

    def sync(self, log: Log, *urls: str, floor: tuple[int, bytes] | None = None) -> SyncReport:
        """Sync from these sources, in this order."""
        fetcher = Fetcher([HttpSource.parse(url) for url in urls], SILENT)
        try:
            return sync(self.replicas, log.pid, fetcher, floor=floor)
        finally:
            self.reports = {url: report.state for url, report in fetcher.reports.items()}
            fetcher.close()

    def refused(self, log: Log, *urls: str, floor: tuple[int, bytes] | None = None) -> ModelnetError:
        """Sync, which must end with a typed error; return it."""
        try:
            self.sync(log, *urls, floor=floor)
        except ModelnetError as error:
            return error
        raise AssertionError("the sync should not have succeeded")

    def size(self, log: Log) -> int:
        """Return the size of the adopted log, 0 for an unknown one; what is served from the files agrees with it."""
        if not self.replicas.known(log.pid):
            return 0
        standing = self.replicas.standing(log.pid)
        folder = self.replicas.folder(log.pid)
        assert folder.root(standing.size) == standing.root
        assert self.replicas.state(log.pid).tree_root == standing.root
        return standing.size


class Hosts:
    """Makes nodes and followers below a folder, for one test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._count = 0

    def follower(self) -> Follower:
        """Return an empty store."""
        self._count += 1
        store = open_store(self._folder / f"home-{self._count}")
        self._stack.callback(store.index.close)
        return Follower(store)

    def url(self, follower: Follower) -> str:
        """Serve a follower's store."""
        return self._stack.enter_context(Server(Doors(follower.store))).url

    def node(self, *logs: Log, size: int | None = None) -> str:
        """Return the URL of a node that follows these logs."""
        follower = self.follower()
        for log in logs:
            follower.knows(log, size)
        return self.url(follower)


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Give a maker of nodes; they end with the block."""
    with ExitStack() as stack:
        yield Hosts(folder, stack)


def grown(count: int, *, prefix: str = "", name: str = "m") -> Log:
    """Return a log with `count` releases behind its genesis."""
    log = Log(prefix)
    for number in range(count):
        log.release(name, f"1.{number}")
    return log


def forked(log: Log, at: int, count: int) -> Log:
    """Return another history that leaves `log` after `at` entries."""
    other = log.fork(at)
    for number in range(count):
        other.release("m", f"6.{number}")
    return other
