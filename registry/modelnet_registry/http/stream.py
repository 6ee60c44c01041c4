"""A CAR stream: walked, read, hashed and handed out in batches that share one buffer.

    [header] { [prefix, block] | [prefix, chunk] }*      as lists of buffers for gather writes

A batch must be sent before the next is asked for: its chunks lie in a buffer that is used again.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from http import HTTPStatus

from modelnet.core import car
from modelnet_registry.http.blocks import RUN, BufferPool, Chunks, Leaf, MissingChunkError
from modelnet_registry.http.dag import Visit
from modelnet_registry.http.message import Buffer, Refusal

__all__ = ["car_length", "car_stream"]

log = logging.getLogger("modelnet_registry.http")

BATCH = 480  # blocks sent together: two buffers each, below the 1,024 of one gather write
PATIENCE_S = 5.0  # for a buffer, while as many responses as there are buffers stream
RETRY_AFTER_S = 5


def car_length(head: bytes, visits: Iterable[Visit]) -> int:
    """Return the number of bytes of the CAR that begins with `head`."""
    return len(head) + sum(len(car.frame_prefix(visit.cid, visit.size)) + visit.size for visit in visits)


def car_stream(
    head: bytes, visits: Iterable[Visit], chunks: Chunks, buffers: BufferPool
) -> Generator[Sequence[Buffer], None, None]:
    """Yield the CAR of `visits` behind `head`.

    Raises `Refusal`: 503 before the first batch when no buffer is free, 404 when a block is not here any more.
    """
    with buffers.lend(PATIENCE_S) as buffer:
        if buffer is None:
            busy = "too many responses are being sent"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, busy, ("Retry-After", str(RETRY_AFTER_S)))
        opening: list[Buffer] = [head]
        for batch in _batches(visits):
            yield [*opening, *_frames(batch, chunks, buffer)]
            opening = []
        if opening:
            yield opening


def _batches(visits: Iterable[Visit]) -> Iterable[list[Visit]]:
    """Cut `visits` into batches whose chunks fit the buffer and whose blocks are few enough for one write."""
    batch: list[Visit] = []
    size = 0
    for visit in visits:
        if batch and (size + visit.size > RUN or len(batch) == BATCH):
            yield batch
            batch, size = [], 0
        batch.append(visit)
        size += visit.size
    if batch:
        yield batch


def _frames(batch: Sequence[Visit], chunks: Chunks, buffer: memoryview) -> list[Buffer]:
    leaves = [Leaf(visit.cid, visit.size) for visit in batch if visit.block is None]
    if any(leaf.size > RUN for leaf in leaves):
        raise Refusal(HTTPStatus.NOT_FOUND, "a block is larger than any block may be")
    try:
        chunks.read(leaves, buffer)
    except MissingChunkError as error:
        log.warning("not served: %s", error)  # the peer is not told where our files lie
        raise Refusal(HTTPStatus.NOT_FOUND, f"block {error.wanted} is not here any more") from error
    frames: list[Buffer] = []
    position = 0
    for visit in batch:
        frames.append(car.frame_prefix(visit.cid, visit.size))
        if visit.block is not None:
            frames.append(visit.block)
        else:
            frames.append(buffer[position : position + visit.size])
            position += visit.size
    return frames
