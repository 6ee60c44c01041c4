"""Serve the blocks of a CAR file through our gateway: what a conformance suite is pointed at.

    python -m tests.registry.conformance fixtures.car [--port 8710]

The gateway is the one of the node (negotiation, path resolution, CAR walk, HTTP server); only the store behind it is
another, because the suite's fixtures are blocks of every hash and codec and belong to no release. docs/kubo.md says how
the suite is run and what it found.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelnet.core import car
from modelnet.core.cid import BLAKE3, IDENTITY, SHA2_256, Cid
from modelnet_registry.http.blocks import Chunks, Leaf, MissingChunkError
from modelnet_registry.http.gateway import Gateway
from modelnet_registry.http.message import Refusal, Request, Response, Session
from modelnet_registry.http.server import Server

__all__ = ["CarBlocks", "GatewayDoor"]


class CarBlocks:
    """The blocks of CAR files in memory as a `BlockSource`; found by multihash, as in Kubo's store."""

    def __init__(self, archives: Sequence[bytes]) -> None:
        self._blocks: dict[tuple[int, bytes], bytes] = {}
        for archive in archives:
            for cid, block in car.read_car(archive):
                if cid.code in {BLAKE3, SHA2_256}:  # a few fixtures have hashes that no block of ours has
                    cid.verify(block)
                self._blocks[cid.code, cid.digest] = block

    def block(self, cid: Cid) -> bytes | None:
        """See `BlockSource.block`."""
        return cid.digest if cid.code == IDENTITY else self._blocks.get((cid.code, cid.digest))

    def sizes(self, cids: Sequence[Cid]) -> dict[Cid, int]:
        """See `BlockSource.sizes`."""
        return {cid: len(block) for cid in cids if (block := self.block(cid)) is not None}

    def chunks(self) -> Chunks:
        """See `BlockSource.chunks`."""
        return _Reader(self)


class _Reader:
    def __init__(self, blocks: CarBlocks) -> None:
        self._blocks = blocks

    def read(self, leaves: Sequence[Leaf], buffer: memoryview) -> None:
        position = 0
        for leaf in leaves:
            block = self._blocks.block(leaf.cid)
            if block is None or len(block) != leaf.size:
                raise MissingChunkError("not in the CAR", rule="missing", wanted=leaf.cid)
            buffer[position : position + leaf.size] = block
            position += leaf.size

    def close(self) -> None:
        pass


class GatewayDoor:
    """Nothing but the gateway."""

    def __init__(self, blocks: CarBlocks) -> None:
        self._gateway = Gateway(blocks)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open what one connection's thread needs."""
        yield _Session(self._gateway, self._gateway.blocks.chunks())


class _Session:
    def __init__(self, gateway: Gateway, chunks: Chunks) -> None:
        self._gateway, self._chunks = gateway, chunks

    def respond(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"} or request.segments()[:1] != ("ipfs",):
            raise Refusal(404, "only GET and HEAD of /ipfs/ here")
        return self._gateway.respond(request, self._chunks)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve CAR files through our gateway.")
    parser.add_argument("car", type=Path, nargs="+")
    parser.add_argument("--port", type=int, default=8710)
    options = parser.parse_args()
    door = GatewayDoor(CarBlocks([path.read_bytes() for path in options.car]))
    with Server(door, "127.0.0.1", options.port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
