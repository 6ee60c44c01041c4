"""One test's stage: a published world, an honest node, an empty store; and a pull with a hostile source, two ways.

scene.alone(spoil, [Kind.CAR])        # the hostile source is the only one
scene.together(spoil, [Kind.CAR])     # an honest one has everything too
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tests.transfer.hostile import Exchange, Kind, Proxy, Spoil
from tests.transfer.world import Outcome, World, attempt

__all__ = ["Scene"]

LONG_S = 10.0  # with the quick clocks, no failure takes longer
CHUNKS = frozenset([Kind.CAR, Kind.CHUNK])
EACH = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Scene:
    """A `world`, the URL of an honest `node` that has it, and the puller's `home`."""

    world: World
    node: str
    home: Path

    def alone(self, spoil: Spoil, kinds: Collection[Kind] = EACH) -> Outcome:
        """Pull from the hostile source alone; then an honest one must be able to complete what was begun."""
        with Proxy(self.node, spoil, kinds=kinds) as hostile:
            outcome = attempt(self.world.v1, self.home, [hostile.url])
            assert outcome.seconds < LONG_S
            if outcome.error is None:
                outcome.whole(self.world.files_v1)
            else:
                outcome.refused(3, 4, 5)
                assert hostile.url in str(outcome.error)
                assert str(outcome.error).isprintable()
        attempt(self.world.v1, self.home, [self.node]).whole(self.world.files_v1)
        return outcome

    def begin(self, share: float = 0.4, *, reference: str | None = None, home: Path | None = None) -> Path:
        """Pull until about `share` of the bytes have come and the source vanishes; return the partial's folder."""
        limit = int(share * sum(map(len, self.world.files_v1.values())))

        def vanish(exchange: Exchange) -> None:
            if exchange.proxy.sent < limit:
                exchange.honest()

        home = self.home if home is None else home
        with Proxy(self.node, vanish, kinds=CHUNKS) as mortal:
            attempt(reference or self.world.v1, home, [mortal.url]).refused(5)
        (folder,) = (home / "partial").iterdir()
        return folder

    def together(self, spoil: Spoil, kinds: Collection[Kind] = EACH) -> str:
        """Pull from the hostile source and an honest one: all must come; return the state of the hostile one."""
        with Proxy(self.node, spoil, kinds=kinds) as hostile:
            patience = threading.Semaphore(4)  # one for each connection: a wait each time would look like a slow source

            def hold(exchange: Exchange) -> None:
                # So that the honest one does not finish before the other was asked at all.
                if exchange.kind in CHUNKS and CHUNKS & set(kinds) and patience.acquire(blocking=False):
                    hostile.struck.wait(0.5)

            with Proxy(self.node, first=hold) as honest:
                outcome = attempt(self.world.v1, self.home, [hostile.url, honest.url])
                got = outcome.whole(self.world.files_v1)
                assert outcome.seconds < LONG_S
                assert outcome.state(honest.url) == "ok", got.sources
                report = next(report for report in got.sources if report.source == hostile.url)
                assert report.state != "lied" or report.reason
                return report.state
