"""Who is there and holds what it should: found by asking, never by what is told.

A member counts once it answered, and a copy once a part of it was shown that only a copy has: a random chunk of a
random file, which the member cannot know beforehand. A manifest proves nothing, for it costs nothing to keep.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from random import Random
from typing import TypeVar

from modelnet.core.chunking import MAX_CHUNK
from modelnet.core.cid import DAG_PB, Cid
from modelnet.core.filetree import MAX_DEPTH
from modelnet.core.manifest import Manifest
from modelnet.core.unixfs import parse_node
from modelnet.errors import ModelnetError, UnavailableError
from modelnet.stores.http import Connection, HttpSource
from modelnet.stores.loghttp import ask_all

__all__ = ["Proofs"]

ASKED_AT_ONCE = 32  # members that are asked whether they are there, a thread each for a moment
ALIVE_S = 3.0  # for their answers
SHOW_S = 20.0  # for a manifest, a few nodes and a chunk of at most 1 MiB
LASTS = 12  # looks for which an answer, or a shown chunk, counts
MAX_SHOWN = 4096
HEALTH = "/healthz"

T = TypeVar("T")


class Proofs:
    """What members proved to this node lately; `guard` raises for a URL that may not be called."""

    def __init__(self, random: Random, guard: Callable[[str], None], look_s: float) -> None:
        """Take what is proved for good for `LASTS` times `look_s` seconds."""
        self._random, self._guard, self._lasts_s = random, guard, LASTS * look_s
        self._alive: dict[str, float] = {}  # member → when it answered
        self._shown: OrderedDict[tuple[Cid, str], float] = OrderedDict()

    def alive(self, members: Iterable[str]) -> set[str]:
        """Return those of `members` that answered lately; a few of the others are asked now, chosen at random."""
        here, now = set(members), time.monotonic()
        self._alive = {url: at for url, at in self._alive.items() if url in here and now - at < self._lasts_s}
        # Half of the time is for those that answered before: whoever leaves is missed by somebody.
        known = sorted(self._alive, key=lambda url: self._alive[url])[: ASKED_AT_ONCE // 2]
        strange = sorted(here - self._alive.keys())
        asked = [*known, *self._random.sample(strange, min(len(strange), ASKED_AT_ONCE - len(known)))]
        sources = [HttpSource.parse(url) for url in asked if self._may_call(url)]
        answered = ask_all(sources, _is_there, ALIVE_S)
        for url in known:
            if url not in answered:
                del self._alive[url]
        self._alive |= dict.fromkeys(answered, time.monotonic())
        return set(self._alive)

    def _may_call(self, url: str) -> bool:
        try:
            self._guard(url)
            HttpSource.parse(url)
        except ModelnetError:
            return False
        return True

    def manifest(self, cid: Cid, url: str) -> Manifest | None:
        """Return a manifest as a node gives it, verified; None if it does not. Nothing of it is stored."""
        return self._ask(url, lambda connection: Manifest.parse(connection.block(cid)))

    def shows(self, cid: Cid, url: str) -> bool:
        """Tell whether a node holds the model with that manifest."""
        now = time.monotonic()
        if now - self._shown.get((cid, url), -self._lasts_s) < self._lasts_s:
            return self.manifest(cid, url) is not None  # it is still there, and did not lose its store
        if self._ask(url, lambda connection: self._chunk(connection, Manifest.parse(connection.block(cid)))) is None:
            return False
        self._shown[cid, url] = now
        if len(self._shown) > MAX_SHOWN:
            self._shown.popitem(last=False)
        return True

    def _chunk(self, connection: Connection, manifest: Manifest) -> bool:
        """Fetch a random chunk of the model; raise what the source makes of it."""
        files = [entry for entry in manifest.files if entry.size]
        if not files:
            return True
        cid = self._random.choices(files, [entry.size for entry in files])[0].cid
        for _ in range(MAX_DEPTH):
            if cid.codec != DAG_PB:
                break
            cid = self._random.choice(parse_node(connection.block(cid)).links).cid
        connection.block(cid, MAX_CHUNK)
        return True

    def _ask(self, url: str, ask: Callable[[Connection], T]) -> T | None:
        try:
            self._guard(url)
            connection = HttpSource.parse(url).connect()
        except ModelnetError:
            return None
        end = threading.Timer(SHOW_S, connection.abort)
        end.daemon = True
        end.start()
        try:
            return ask(connection)
        except (ModelnetError, IndexError):
            return None  # it has no such thing, or what it has is something else
        finally:
            end.cancel()
            connection.close()


def _is_there(connection: Connection) -> str:
    if connection.get(HEALTH, 16, "health") != b"ok\n":
        raise UnavailableError("not a node", rule="health", source=connection.source.url)
    return connection.source.url
