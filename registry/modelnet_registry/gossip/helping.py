"""A node that helps: it holds its share of what the publishers it was named publish, within what its operator allows.

Once in a while each release is looked at: who should hold it (`modelnet_registry.gossip.holding`), who shows that it
does (`modelnet_registry.gossip.proving`), and whether the operator's space, rate and hours allow this node to fetch it.
Nothing is stored before that. What is fetched is pulled like anything else, every byte checked; what was revoked is
never fetched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from random import SystemRandom
from types import TracebackType
from typing import Self

from modelnet.core.cid import Cid
from modelnet.core.resolution import newest
from modelnet.errors import ModelnetError, UnavailableError
from modelnet.puller import pull
from modelnet.replica import Replicas
from modelnet.stores.local import LocalStore
from modelnet_registry.gossip.holding import Allowance, Holding
from modelnet_registry.gossip.proving import Proofs
from modelnet_registry.gossip.service import GossipService
from modelnet_registry.gossip.view import PeerState

__all__ = ["Help", "Helper"]

log = logging.getLogger("modelnet_registry.gossip")

GIB = 1 << 30
EVERY = 10  # intervals between two looks
SOURCES = 8  # members asked at once
STOP_S = 5.0
JOINING = 2  # looks at the beginning that only hear who else helps: who knows nobody would hold everything


@dataclass(frozen=True, slots=True)
class Help:
    """What an operator offers: for which publishers, how many copies there should be, and within which limits."""

    publishers: Sequence[str]
    allowance: Allowance
    copies: int = 3
    every: float = EVERY


class _Throttle:
    """The progress of a pull, which waits where it goes too fast, and ends it where quiet hours begin."""

    def __init__(self, allowance: Allowance, stop: threading.Event, tell: Callable[[int, int], None]) -> None:
        self._allowance, self._stop, self._tell = allowance, stop, tell
        self._began, self._done, self._total = time.monotonic(), 0, 0
        self._lock = threading.Lock()

    def begin(self, phase: str, total: int) -> None:  # noqa: ARG002
        """Start to count."""
        self._began, self._done, self._total = time.monotonic(), 0, total

    def advance(self, source: str, count: int) -> None:  # noqa: ARG002
        """Wait until `count` more bytes are allowed; raise `UnavailableError` once none are, or the node stops."""
        with self._lock:
            wait = self._allowance.pause(count, time.monotonic() - self._began, self._done)
            self._done += count
            self._tell(self._done, self._total)
        if self._stop.wait(wait):
            raise UnavailableError("the node stops", rule="stopped")
        if self._allowance.is_quiet(local_hour()):
            # What has come is kept, and the pull goes on from there after these hours.
            raise UnavailableError("the quiet hours began", rule="quiet")

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
        self._joining = JOINING
        self._proofs = Proofs(SystemRandom(), service.guard, chosen.every * service.config.interval)
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
            except Exception as error:  # the boundary of the thread: what one member tells must not end all help
                log.warning("cannot help now: %s: %s", type(error).__name__, error)
                log.debug("trace", exc_info=error)

    def look(self) -> None:
        """Fetch what this node should hold and does not."""
        wanted = dict(self._releases())
        self._holding.forget({str(manifest): locator for manifest, locator in wanted.items()})
        told = self._service.members
        here = self._proofs.alive(url for url in told if url != self._service.own)
        if (joining := self._joining) > 0:
            self._joining = joining - 1
            return
        # Who does not answer takes nobody's place, whatever is said of it.
        members = {url: space for url, space in told.items() if url in here or url == self._service.own}
        held = {row.manifest for row in self._store.index.releases()}
        for manifest, locator in wanted.items():
            if self._stop.is_set():
                return
            if manifest in held:
                continue
            if self._holding.wants(str(manifest), members, partial(self._proofs.shows, manifest), time.monotonic()):
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

    def _used(self) -> int:
        """Return how many bytes pulled files take."""
        files = (path for path in self._store.home.models.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def _fetch(self, manifest: Cid, locator: str, members: Iterable[str]) -> None:
        answering = [url for url, state, _ in self._service.peers if state == PeerState.TRIED.value]
        others = dict.fromkeys(url for url in (*members, *answering) if url != self._service.own)
        peers = list(islice((url for url in others if self._proofs.shows(manifest, url)), SOURCES))
        release = next(filter(None, (self._proofs.manifest(manifest, url) for url in peers)), None)
        home, allowance, transfers = self._store.home, self._help.allowance, self._service.transfers
        if release is None:
            return
        size = sum(entry.size for entry in release.files)
        if not allowance.allows(size, self._used(), local_hour()):
            return
        transfers[locator] = 0, size

        def tell(done: int, total: int) -> None:
            transfers[locator] = done, total

        try:
            got = pull(locator, peers=peers, home=home, progress=_Throttle(allowance, self._stop, tell))
        except ModelnetError as error:
            log.info("cannot hold %s now: %s", locator, error)
            return
        finally:
            del transfers[locator]
        self.moved += got.plan.fetched
        self._service.counts["helped"] += 1


def local_hour() -> int:
    """Return the hour of the day here."""
    return time.localtime().tm_hour
