"""One log in a folder, as C2SP tlog-tiles has it: what is replicated, served, carried on a stick and audited alike.

    checkpoint              the adopted head, a signed note; replacing it is the commit point
    tile/…                  hash tiles and entry bundles; only those of the committed size mean anything

Tiles are written before the checkpoint that needs them. A crash in between leaves tiles that no head speaks for: the
next writer replaces them. A partial tile of an older size is removed once a wider one is committed; asked for it, a
reader gets the beginning of the wider one. Nothing here is trusted: who reads recomputes the root of a signed head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelnet import durable
from modelnet.core.merkle import Subtree, leaf_hash, root, tree_root
from modelnet.core.note import MAX_NOTE, SignedNote
from modelnet.core.tiles import (
    CHECKPOINT_PATH,
    HASH,
    HEIGHT,
    MAX_BUNDLE,
    MAX_LEVEL,
    WIDTH,
    Tile,
    encode_bundle,
    parse_bundle,
    subtrees,
    tile_at,
)
from modelnet.errors import UnavailableError
from modelnet.stores.smallfile import read_small

__all__ = ["DAMAGED", "LogFolder"]

HASH_TILE = WIDTH * HASH
DAMAGED = "move it away and run `modelnet fsck`; what is missing of a log can be had again from any peer"
PATIENCE = 100  # how often a reader looks again while a writer replaces tiles under its eyes


@dataclass(frozen=True, slots=True)
class LogFolder:
    """The log in `path`; a folder that is not there is an empty log."""

    path: Path

    def checkpoint(self) -> SignedNote | None:
        """Return the committed head, unverified; None when nothing was ever committed."""
        content = self._read(CHECKPOINT_PATH, MAX_NOTE)
        return None if content is None else SignedNote.parse(content)

    def set_checkpoint(self, note: SignedNote) -> None:
        """Commit `note`: from now on the log has its size. The tiles must have been written."""
        self._write(CHECKPOINT_PATH, note.encode())

    def tile(self, tile: Tile) -> bytes | None:
        """Return the content of a tile or bundle, cut out of a wider one if need be; None when it is not here."""
        limit = MAX_BUNDLE if tile.level is None else HASH_TILE
        for _ in range(PATIENCE):
            content = self._read(tile.path, limit)
            if content is not None:
                return content
            listed = self._wider(tile)
            for wider in listed:
                if (content := self._read(wider.path, limit)) is None:
                    continue
                if tile.level is None:
                    return encode_bundle(parse_bundle(content, wider.width)[: tile.width])
                return content[: tile.width * HASH]
            if len(listed) <= 1:  # else a writer has just replaced what was listed by something wider still
                break
        return None

    def entries(self, first: int, last: int) -> Iterator[bytes]:
        """Yield the entries `[first, last)` of the log, unverified; raise `UnavailableError` where one is missing."""
        for index in range(first // WIDTH, -(-last // WIDTH)):
            tile = tile_at(None, index, last)
            bundle = parse_bundle(self._need(tile), tile.width)
            yield from bundle[max(first - index * WIDTH, 0) :]

    def subtree(self, size: int) -> Subtree:
        """Return the function that reads roots of subtrees of the first `size` leaves, for roots and proofs."""
        return subtrees(size, self._need)

    def root(self, size: int) -> bytes:
        """Return the root over the first `size` leaves, as the tiles have it."""
        return tree_root(size, self.subtree(size))

    def append(self, before: int, entries: Sequence[bytes]) -> None:
        """Write the tiles that `entries` change in a log of `before` entries, durably; nothing is committed yet."""
        if not entries:
            return
        self._append_bundles(before, entries)
        fresh = [leaf_hash(entry) for entry in entries]
        for level in range(MAX_LEVEL + 1):
            known = before >> HEIGHT * level
            if not fresh:
                return
            fresh = self._append_hashes(level, known, fresh)

    def prune(self, size: int, *, after: int = 0) -> None:
        """Remove what the committed `size` has outgrown since `after`, and tiles of a wider tree that nobody signed."""
        for level in (None, *range(MAX_LEVEL + 1)):
            hashes, before = size >> HEIGHT * (level or 0), after >> HEIGHT * (level or 0)
            for index in range(before // WIDTH, hashes // WIDTH + 2):
                kept = tile_at(level, index, size) if index * WIDTH < hashes else None
                stray = [tile for tile in [Tile(level, index), *self._partials(Tile(level, index))] if tile != kept]
                for tile in stray:
                    (self.path / tile.path).unlink(missing_ok=True)
            if hashes == 0:
                return

    def _append_bundles(self, before: int, entries: Sequence[bytes]) -> None:
        begin = before - before % WIDTH
        size = before + len(entries)
        pending = [*self.entries(begin, before), *entries]
        for at in range(0, len(pending), WIDTH):
            bundle = pending[at : at + WIDTH]
            self._write(tile_at(None, (begin + at) // WIDTH, size).path, encode_bundle(bundle))

    def _append_hashes(self, level: int, before: int, fresh: Sequence[bytes]) -> list[bytes]:
        """Write the tiles of one level; return the hashes that the level above gains."""
        begin = before - before % WIDTH
        size = (before + len(fresh)) << HEIGHT * level
        pending = [*self._hashes(level, begin, before), *fresh]
        above = []
        for at in range(0, len(pending), WIDTH):
            hashes = pending[at : at + WIDTH]
            self._write(tile_at(level, (begin + at) // WIDTH, size).path, b"".join(hashes))
            if len(hashes) == WIDTH:
                above.append(root(hashes))
        return above

    def _hashes(self, level: int, begin: int, end: int) -> list[bytes]:
        if begin == end:
            return []
        tile = Tile(level, begin // WIDTH, end - begin)
        return tile.hashes(self._need(tile))

    def _need(self, tile: Tile) -> bytes:
        content = self.tile(tile)
        if content is None:
            raise UnavailableError(
                "a tile of the log is missing", rule="log", path=str(self.path / tile.path),
                hint="run `modelnet fsck`; what is missing can be had again from any peer",
            )  # fmt: skip
        return content

    def _partials(self, tile: Tile) -> list[Tile]:
        """Return the partial tiles on disk at the place of `tile`, the narrowest first."""
        try:
            names = [path.name for path in (self.path / f"{tile.full.path}.p").iterdir()]
        except OSError:
            return []
        widths = sorted(int(name) for name in names if name.isascii() and name.isdigit())
        return [Tile(tile.level, tile.index, width) for width in widths if 0 < width < WIDTH]

    def _wider(self, tile: Tile) -> list[Tile]:
        partial = [other for other in self._partials(tile) if other.width > tile.width]
        return [*partial, tile.full] if tile.width < WIDTH else []

    def _read(self, name: str, limit: int) -> bytes | None:
        return read_small(self.path / name, limit, "log", hint=DAMAGED)

    def _write(self, name: str, content: bytes) -> None:
        path = self.path / name
        durable.make_folder(path.parent)
        durable.write(path, content)
