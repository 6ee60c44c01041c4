"""Where the gateway gets blocks from: a small protocol, and the local store behind it.

Small blocks (DAG nodes, manifests) come whole. Raw chunks are read in runs into a buffer that the caller reuses, and
hashed there: what `Chunks.read` has filled in is what the CIDs say, or it raises.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from modelnet.core.cid import BLAKE3, RAW, Cid, blake3_digest
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import UnavailableError
from modelnet.stores.index import Location
from modelnet.stores.local import ChunkReader, LocalStore

__all__ = ["RUN", "BlockSource", "BufferPool", "Chunks", "Leaf", "LocalBlocks", "MissingChunkError"]

RUN = 4 * 1024 * 1024  # bytes of chunks read, hashed and sent together; at least one block of any kind
MAX_BUFFERS = 32  # responses that stream at one time: 128 MiB
EMPTY = Cid.of(RAW, b"")  # is everywhere

assert RUN >= MAX_BLOCK  # noqa: S101  (a buffer must hold any block)


class Leaf(NamedTuple):
    """A raw block and its number of bytes."""

    cid: Cid
    size: int


class MissingChunkError(UnavailableError):
    """A raw block is not here, or its bytes have changed."""


class Chunks(Protocol):
    """Reads raw blocks for one thread."""

    def read(self, leaves: Sequence[Leaf], buffer: memoryview) -> None:
        """Fill `buffer` with the verified bytes of `leaves`, in order, or raise `MissingChunkError`."""

    def close(self) -> None:
        """Give back what the thread holds."""


class BlockSource(Protocol):
    """Blocks by CID. Used by many threads at once."""

    def block(self, cid: Cid) -> bytes | None:
        """Return the verified bytes of a block that is not a raw chunk, or of an identity CID; None if absent."""

    def sizes(self, cids: Sequence[Cid]) -> dict[Cid, int]:
        """Return how many bytes those of the raw `cids` have that seem to be here, without reading them."""

    def chunks(self) -> Chunks:
        """Return a reader for the calling thread."""


class BufferPool:
    """At most `MAX_BUFFERS` buffers of `RUN` bytes, made as they are needed and reused."""

    def __init__(self, count: int = MAX_BUFFERS) -> None:
        """Allow `count` buffers."""
        self._free: list[memoryview] = []
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(count)

    @contextmanager
    def lend(self, patience_s: float) -> Iterator[memoryview | None]:
        """Lend a buffer, or None when none came free within `patience_s` seconds."""
        if not self._places.acquire(timeout=patience_s):
            yield None
            return
        try:
            with self._lock:
                buffer = self._free.pop() if self._free else None
            buffer = memoryview(bytearray(RUN)) if buffer is None else buffer
            try:
                yield buffer
            finally:
                with self._lock:
                    self._free.append(buffer)
        finally:
            self._places.release()


class LocalBlocks:
    """The local store as a `BlockSource`."""

    def __init__(self, store: LocalStore) -> None:
        """Serve from `store`."""
        self._store = store

    def block(self, cid: Cid) -> bytes | None:
        """See `BlockSource.block`."""
        return self._store.block(cid)

    def sizes(self, cids: Sequence[Cid]) -> dict[Cid, int]:
        """See `BlockSource.sizes`."""
        places = self._store.index.locate([cid.digest for cid in cids if cid.code == BLAKE3])
        found: dict[Cid, int] = {}
        for cid in cids:
            if cid.code == BLAKE3 and (here := places.get(cid.digest)):
                found[cid] = here[0].size
            elif cid == EMPTY:
                found[cid] = 0
            elif (block := self._store.block(cid)) is not None:
                found[cid] = len(block)
        return found

    def chunks(self) -> LocalChunks:
        """See `BlockSource.chunks`."""
        return LocalChunks(self._store)


class LocalChunks:
    """Reads chunks where they lie in files, adjacent ones by a single read."""

    def __init__(self, store: LocalStore) -> None:
        """Read through `store`; nothing is opened yet."""
        self._store = store
        self._reader = ChunkReader(store)

    def close(self) -> None:
        """Close the files and this thread's connection to the index."""
        self._reader.close()
        self._store.index.close()

    def read(self, leaves: Sequence[Leaf], buffer: memoryview) -> None:
        """See `Chunks.read`."""
        found = self._reader.locate([leaf.cid.digest for leaf in leaves if leaf.cid.code == BLAKE3])
        run: list[Leaf] = []
        places: list[Location] = []
        position = start = 0
        for leaf in leaves:
            here = found.get(leaf.cid.digest, ()) if leaf.cid.code == BLAKE3 else ()
            place = _choose(here, leaf, places[-1] if places else None)
            if place is None or (places and not _follows(place, places[-1])):
                self._read_run(run, places, buffer[start:position])
                run, places, start = [], [], position
            if place is None:
                self._repair(leaf, None, buffer[position : position + leaf.size])
                start = position + leaf.size
            else:
                run.append(leaf)
                places.append(place)
            position += leaf.size
        self._read_run(run, places, buffer[start:position])

    def _read_run(self, run: Sequence[Leaf], places: Sequence[Location], buffer: memoryview) -> None:
        if not run:
            return
        complete = self._reader.read_into(places, buffer)
        position = 0
        for leaf, place in zip(run, places, strict=True):
            part = buffer[position : position + leaf.size]
            # The promise of the product: these bytes, hashed after they were read, are the ones that are sent.
            if not complete or blake3_digest(part) != leaf.cid.digest:
                self._repair(leaf, place, part)
            position += leaf.size

    def _repair(self, leaf: Leaf, place: Location | None, buffer: memoryview) -> None:
        """Fill `buffer` from any other reference to `leaf`, or raise `MissingChunkError`."""
        if leaf == (EMPTY, 0):
            return
        self._reader.forget()  # a file may have been replaced under its name
        content = self._reader.read(leaf.cid.digest, leaf.size) if leaf.cid.code == BLAKE3 else None
        if content is None:
            content = self._store.block(leaf.cid)
        if content is None or len(content) != leaf.size:
            raise MissingChunkError(
                "chunk is not here any more", rule="missing", wanted=leaf.cid,
                path=place.path if place else None, offset=place.offset if place else None,
            )  # fmt: skip
        buffer[:] = content


def _choose(places: Sequence[Location], leaf: Leaf, before: Location | None) -> Location | None:
    """Return the reference that goes on where `before` ended, else the first of the right size."""
    fitting = [place for place in places if place.size == leaf.size]
    for place in fitting:
        if before is not None and _follows(place, before):
            return place
    return fitting[0] if fitting else None


def _follows(place: Location, before: Location) -> bool:
    return place.path == before.path and place.offset == before.offset + before.size
