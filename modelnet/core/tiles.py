"""A log as static files: C2SP tlog-tiles paths, hash tiles and entry bundles.

    checkpoint                     the signed head
    tile/<L>/<N>[.p/<W>]           W hashes (256 when no width is written) of level L, each 32 bytes
    tile/entries/<N>[.p/<W>]       the entries below tile/0/<N>, each behind its length as u16 big-endian
    N = 1234067 is written x001/x234/067

Level 0 holds leaf hashes; a hash of level L + 1 is the root over one full tile of level L. A width of a tile follows
from the size of the tree, so a tile is named together with it, and a wrong length is refused before anything is read.
Tiles are not trusted: a root or a proof made from them is checked against a signed head by who uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from modelnet.core.merkle import Subtree, root
from modelnet.errors import MalformedError

__all__ = ["CHECKPOINT_PATH", "MAX_ENTRY", "WIDTH", "Tile", "encode_bundle", "parse_bundle", "subtrees", "tiles_of"]

CHECKPOINT_PATH = "checkpoint"
HASH = 32
HEIGHT = 8  # a tile is a subtree of that height
WIDTH = 1 << HEIGHT
MAX_ENTRY = 65_535  # the length prefix has 16 bits
MAX_LEVEL = 7  # of a tree of less than 2^63 leaves; the specification allows 63
MAX_INDEX = 1 << 63
MAX_BUNDLE = WIDTH * (2 + MAX_ENTRY)
_PATH = re.compile(r"tile/(entries|[0-7])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")

Read = Callable[["Tile"], bytes]


@dataclass(frozen=True, slots=True)
class Tile:
    """The name of a tile; `level` None means the bundle of entries below level 0."""

    level: int | None
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        level = self.level or 0
        if not (0 <= level <= MAX_LEVEL and 0 <= self.index < MAX_INDEX and 0 < self.width <= WIDTH):
            raise MalformedError("not a tile", rule="tile", got=f"{self.level}/{self.index}.p/{self.width}")

    @property
    def path(self) -> str:
        """The tile's path below the log's folder or URL."""
        digits = f"{self.index:03}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        kind = "entries" if self.level is None else self.level
        return f"tile/{kind}/{number}" + (f".p/{self.width}" if self.width < WIDTH else "")

    @classmethod
    def parse(cls, path: str) -> Self:
        """Parse the one spelling of a tile's path."""
        match = _PATH.fullmatch(path) if path.isascii() else None
        if match is None:
            raise MalformedError("not a tile's path", rule="tile", got=repr(path[:80]))
        kind, number, width = match.groups()
        level = None if kind == "entries" else int(kind)
        tile = cls(level, int(number.replace("x", "").replace("/", "")), int(width) if width else WIDTH)
        # One value, one encoding: rejects x000/007 and .p/256.
        if tile.path != path:
            raise MalformedError("not the one spelling of a tile's path", rule="tile", wanted=tile.path, got=path)
        return tile

    @property
    def full(self) -> Self:
        """The same tile once the tree has grown over it."""
        return type(self)(self.level, self.index)

    def hashes(self, content: bytes) -> list[bytes]:
        """Return the hashes in the tile's content, which must have exactly the length that its width asks for."""
        if len(content) != self.width * HASH:
            raise MalformedError(
                "tile has another length", rule="tile", path=self.path, wanted=self.width * HASH, got=len(content)
            )
        return [content[at : at + HASH] for at in range(0, len(content), HASH)]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return the content of a bundle of 1 to 256 entries."""
    if not 0 < len(entries) <= WIDTH or any(len(entry) > MAX_ENTRY for entry in entries):
        raise ValueError(f"a bundle holds 1 to {WIDTH} entries of at most {MAX_ENTRY} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def parse_bundle(content: bytes, width: int) -> list[bytes]:
    """Return the `width` entries in a bundle; nothing may be missing or follow."""
    entries: list[bytes] = []
    offset = 0
    while offset < len(content) and len(entries) <= width:
        length = int.from_bytes(content[offset : offset + 2], "big")
        entry = content[offset + 2 : offset + 2 + length]
        if offset + 2 > len(content) or len(entry) != length:
            raise MalformedError("bundle ends within an entry", rule="tile", offset=offset)
        entries.append(entry)
        offset += 2 + length
    if len(entries) != width or offset != len(content):
        raise MalformedError("bundle has another number of entries", rule="tile", wanted=width, got=len(entries))
    return entries


def tile_at(level: int | None, index: int, size: int) -> Tile:
    """Return the tile at that place as a tree of `size` leaves has it, full or partial."""
    hashes = size >> HEIGHT * (level or 0)
    return Tile(level, index, min(WIDTH, hashes - index * WIDTH))


def tiles_of(size: int, *, after: int = 0) -> list[Tile]:
    """Return the tiles and bundles of a tree of `size` leaves, without those that one of `after` had as they are."""
    found: list[Tile] = []
    for level in (None, *range(MAX_LEVEL + 1)):
        hashes, before = size >> HEIGHT * (level or 0), after >> HEIGHT * (level or 0)
        if hashes > before:
            found += [tile_at(level, index, size) for index in range(before // WIDTH, -(-hashes // WIDTH))]
    return found


def subtrees(size: int, read: Read) -> Subtree:
    """Return the function that gives roots of subtrees of a tree of `size` leaves, out of its tiles; for proofs."""

    def subtree(first: int, last: int) -> bytes:
        width = last - first
        if width & width - 1:  # the right-most subtree is not complete; its halves are, or one of them is not again
            middle = first + (1 << width.bit_length() - 1)
            return _join(subtree(first, middle), subtree(middle, last))
        level = (width.bit_length() - 1) // HEIGHT
        start, count = first >> HEIGHT * level, width >> HEIGHT * level
        tile = tile_at(level, start // WIDTH, size)
        hashes = tile.hashes(read(tile))
        return root(hashes[start % WIDTH : start % WIDTH + count])

    return subtree


def _join(left: bytes, right: bytes) -> bytes:
    return root((left, right))
