"""A node that helps: it holds its share of what the publishers it was named publish, within what its operator allows.

Once in a while each release is looked at: who should hold it (`modelnet_registry.gossip.holding`), who shows that it
does, and whether the operator's space, rate and hours allow this node to fetch it. What is fetched is pulled like
anything else, every byte checked; what was revoked is never fetched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

from modelnet.core.cid import Cid
from modelnet.core.resolution import newest
from modelnet.errors import ModelnetError
from modelnet.puller import pull
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import LocalStore
from modelnet_registry.gossip.holding import Allowance, Holding
from modelnet_registry.gossip.service import GossipService
from modelnet_registry.gossip.view import PeerState

__all__ = ["Help", "Helper"]

log = logging.getLogger("modelnet_registry.gossip")

GIB = 1 << 30
EVERY = 10  # intervals between two looks
SOURCES = 8  # members asked at once
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Help:
    """What an operator offers: for which publishers, how many copies there should be, and within which limits."""

    publishers: Sequence[str]
    allowance: Allowance
    copies: int = 3
    every: float = EVERY


class _Throttle:
    """The progress of a pull, which waits where it goes too fast."""

    def __init__(self, allowance: Allowance, stop: threading.Event) -> None:
        self._allowance, self._stop = allowance, stop
        self._began, self._done = time.monotonic(), 0
        self._lock = threading.Lock()

    def begin(self, phase: str, total: int) -> None:  # noqa: ARG002
        """Start to count."""
        self._began, self._done = time.monotonic(), 0

    def advance(self, source: str, count: int) -> None:  # noqa: ARG002
        """Wait until `count` more bytes are allowed."""
        with self._lock:
            wait = self._allowance.pause(count, time.monotonic() - self._began, self._done)
            self._done += count
        self._stop.wait(wait)

    def note(self, text: str) -> None:
        """Keep it for the log."""
        log.info("while helping: %s", text)

    def end(self) -> None:
        """Nothing is left to wait for."""


class Helper:
    """Helps from a thread of its own, as long as it is entered."""

    def __init__(self, store: LocalStore, service: GossipService, chosen: Help) -> None:
        self._store, self._service, self._help = store, service, chosen
        self._holding = Holding(service.own, chosen.copies, chosen.every * service.config.interval)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gossip-help", daemon=True)
        self.moved = 0  # bytes fetched for others so far

    def __enter__(self) -> Self:
        # A node that offers less than a GiB offers one: space is the weight in the placement, and must not be zero.
        self._service.offer(max(1, self._help.allowance.space // GIB))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.wait(self._help.every * self._service.config.interval):
            try:
                self.look()
            except (ModelnetError, OSError) as error:
                log.warning("cannot help now: %s", error)

    def look(self) -> None:
        """Fetch what this node should hold and does not."""
        wanted = dict(self._releases())
        self._holding.forget({str(manifest): locator for manifest, locator in wanted.items()})
        members = self._service.members
        held = {row.manifest for row in self._store.index.releases()}
        for manifest, locator in wanted.items():
            if self._stop.is_set():
                return
            if manifest in held:
                continue
            if self._holding.wants(str(manifest), members, partial(self._shows, manifest), time.monotonic()):
                self._fetch(manifest, locator, members)

    def _releases(self) -> Iterator[tuple[Cid, str]]:
        """Yield the newest release of each name that the helped publishers offer."""
        replicas = Replicas(self._store)
        for pid in self._help.publishers:
            if not replicas.known(pid) or replicas.standing(pid).quarantined:
                continue
            view = replicas.view(pid)
            for name in view.names():
                if (found := newest(view, name)) is not None:
                    yield found.event.release.manifest, str(found.event.release.locator)

    @staticmethod
    def _shows(manifest: Cid, url: str) -> bool:
        """Tell whether a member gives the manifest: its verified bytes, not its word."""
        connection = HttpSource.parse(url).connect()
        try:
            connection.block(manifest)
        except ModelnetError:
            return False
        finally:
            connection.close()
        return True

    def _used(self) -> int:
        """Return how many bytes pulled files take."""
        files = (path for path in self._store.home.models.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def _fetch(self, manifest: Cid, locator: str, members: Iterable[str]) -> None:
        answering = [url for url, state, _ in self._service.peers if state == PeerState.TRIED.value]
        others = dict.fromkeys(url for url in (*members, *answering) if url != self._service.own)
        peers = list(islice((url for url in others if self._shows(manifest, url)), SOURCES))
        if not peers:
            return
        home, allowance = self._store.home, self._help.allowance
        try:
            plan = pull(locator, peers=peers, home=home, dry_run=True).plan
            if not allowance.allows(plan.total, self._used(), time.localtime().tm_hour):
                return
            got = pull(locator, peers=peers, home=home, progress=_Throttle(allowance, self._stop))
        except ModelnetError as error:
            log.info("cannot hold %s now: %s", locator, error)
            return
        self.moved += got.plan.fetched
        self._service.counts["helped"] += 1
