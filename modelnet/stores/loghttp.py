"""A publisher's log at a source: what C2SP tlog-tiles serves over HTTP, and revocations and evidence beside it.

    GET /log/{pid}/checkpoint                    the newest head
    GET /log/{pid}/r{k}/tile/{L}/{N}[.p/{W}]     its tiles, after k recoveries: also while the source goes on to r{k+1}
    GET /log/{pid}/negatives[?after={hex}]       revocations, each u16be length ‖ envelope, in pages, by statement
    GET /log/{pid}/evidence                      one JSON object a line

Nothing here is believed: who asks recomputes roots and checks signatures. Every answer is bounded before it is read,
and redirections are not followed.
Source: C2SP tlog-tiles ("MAY fetch the full tile … as a fallback in case the partial tile is not available anymore").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, Thread
from time import monotonic
from typing import TypeVar

from modelnet.core.evidence import MAX_EVIDENCE
from modelnet.core.note import MAX_NOTE, SignedNote
from modelnet.core.tiles import CHECKPOINT_PATH, HASH, MAX_ENTRY, WIDTH, Tile, parse_bundle, tile_at
from modelnet.errors import MalformedError, ModelnetError
from modelnet.stores.http import Connection, HttpSource, NotHereError

__all__ = ["RemoteLog", "ask_all"]

MAX_PAGE = 2 * 1024 * 1024  # of revocations; ours have half of it
MAX_PAGES = 256  # more than 4,096 revocations of 32 KiB each
MAX_SHOWN = 4 * 1024 * 1024  # of evidence: sixteen pieces at most, and some room

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteLog:
    """The log of `pid` at the source of `connection`; `epoch` counts recoveries."""

    connection: Connection
    pid: str
    epoch: int = 0

    def head(self) -> SignedNote:
        """Return the head that the source shows, unverified."""
        return SignedNote.parse(self._get(CHECKPOINT_PATH, MAX_NOTE, "the head of a log"))

    def bundle(self, index: int, size: int) -> list[bytes]:
        """Return the entries of the bundle at `index` as a log of `size` entries has it, unverified."""
        tile = tile_at(None, index, size)
        content, width = self._tile(tile, 2 + MAX_ENTRY)
        return parse_bundle(content, width)[: tile.width]

    def hashes(self, tile: Tile) -> bytes:
        """Return the content of a hash tile, unverified."""
        content, width = self._tile(tile, HASH)
        Tile(tile.level, tile.index, width).hashes(content)
        return content[: tile.width * HASH]

    def negatives(self, after: str) -> list[bytes]:
        """Return the next page of revocations behind the statement `after` (hex, or empty), unverified."""
        query = f"?after={after}" if after else ""
        return _framed(self._beside(f"negatives{query}", MAX_PAGE, "revocations"))

    def evidence(self) -> list[bytes]:
        """Return evidence against the log, unverified."""
        lines = self._beside("evidence", MAX_SHOWN, "evidence").splitlines()
        if any(len(line) > MAX_EVIDENCE for line in lines):
            raise MalformedError("evidence is too large", rule="evidence", wanted=f"at most {MAX_EVIDENCE}")
        return lines

    def _tile(self, tile: Tile, each: int) -> tuple[bytes, int]:
        """Return the content of a tile, or of the full one where the partial one is gone, and its width."""
        path = f"r{self.epoch}/"
        try:
            return self._get(path + tile.path, tile.width * each, f"tile {tile.path}"), tile.width
        except NotHereError:
            if tile.width == WIDTH:
                raise
        return self._get(path + tile.full.path, WIDTH * each, f"tile {tile.full.path}"), WIDTH

    def _beside(self, path: str, limit: int, what: str) -> bytes:
        """Return what no other kind of log has; nothing where the source knows only tiles."""
        try:
            return self.connection.get(f"/log/{self.pid}/{path}", limit, what, least=0)
        except NotHereError:
            return b""

    def _get(self, path: str, limit: int, what: str) -> bytes:
        return self.connection.get(f"/log/{self.pid}/{path}", limit, what)


def ask_all(sources: Sequence[HttpSource], ask: Callable[[Connection], T], seconds: float) -> list[T]:
    """Return what the sources answer to `ask` within `seconds`, all asked at once; those that fail are left out."""
    found: list[T] = []
    lock = Lock()
    connections: list[Connection] = []

    def run(connection: Connection) -> None:
        try:
            answer = ask(connection)
        except ModelnetError:
            return
        finally:
            connection.close()
        with lock:
            found.append(answer)

    # Threads of their own, which nobody waits for longer: a name server or a firewall may keep one busy.
    for source in sources:
        with suppress(ModelnetError):  # one that cannot even be begun with keeps nobody from the others
            connections.append(source.connect())
    threads = [Thread(target=run, args=(one,), name="modelnet-ask", daemon=True) for one in connections]
    for thread in threads:
        thread.start()
    deadline = monotonic() + seconds
    for thread, connection in zip(threads, connections, strict=True):
        thread.join(max(0.0, deadline - monotonic()))
        if thread.is_alive():
            connection.abort()
    with lock:
        return list(found)


def _framed(content: bytes) -> list[bytes]:
    found, offset = [], 0
    while offset < len(content):
        end = offset + 2 + int.from_bytes(content[offset : offset + 2], "big")
        if end > len(content):
            raise MalformedError("revocations end within one", rule="negative", offset=offset)
        found.append(content[offset + 2 : end])
        offset = end
    return found
