"""Blocks in memory, from a CAR: what a conformance suite's fixtures are served from, and a second block source.

Hashes other than BLAKE3, DAG-PB leaves and identity CIDs are as good as ours here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from modelnet.core.car import read_car
from modelnet.core.cid import BLAKE3, IDENTITY, SHA2_256, Cid
from modelnet.errors import MalformedError
from modelnet_registry.http.blocks import Leaf, MissingChunkError

__all__ = ["MemoryBlocks"]


class MemoryBlocks:
    """A `BlockSource`, and the `Chunks` of every thread, over verified blocks in memory."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._blocks: dict[Cid, bytes] = {}

    @classmethod
    def from_car(cls, *archives: bytes) -> Self:
        """Return the blocks of CAR archives; raise `IntegrityError` when one differs from its CID."""
        found = cls()
        for archive in archives:
            for cid, block in read_car(archive):
                found.add(cid, block)
        return found

    def add(self, cid: Cid, block: bytes) -> None:
        """Keep `block` once it hashes to `cid`."""
        if cid.code not in (BLAKE3, SHA2_256, IDENTITY):
            raise MalformedError("not a hash that can be checked here", rule="cid", got=hex(cid.code))
        cid.verify(block)
        self._blocks[cid] = block

    def block(self, cid: Cid) -> bytes | None:
        """See `BlockSource.block`."""
        return cid.digest if cid.code == IDENTITY else self._blocks.get(cid)

    def sizes(self, cids: Sequence[Cid]) -> dict[Cid, int]:
        """See `BlockSource.sizes`."""
        return {cid: len(block) for cid in cids if (block := self.block(cid)) is not None}

    def chunks(self) -> Self:
        """See `BlockSource.chunks`."""
        return self

    def read(self, leaves: Sequence[Leaf], buffer: memoryview) -> None:
        """See `Chunks.read`; the blocks were verified when they came."""
        position = 0
        for leaf in leaves:
            block = self.block(leaf.cid)
            if block is None or len(block) != leaf.size:
                raise MissingChunkError("block is not here", rule="missing", wanted=leaf.cid)
            buffer[position : position + leaf.size] = block
            position += leaf.size

    def close(self) -> None:
        """See `Chunks.close`."""
