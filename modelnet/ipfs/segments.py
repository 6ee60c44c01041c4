"""A release as CAR files of a bounded size, read straight from the files it was published from.

    segment 0 … n-2   chunks, in the order of the files
    segment n-1       the DAG nodes, the directories, and last the manifest

Each block is sent once however often the release repeats it. The cut depends on the manifest alone, so a segment that
was sent need not be sent again. Every chunk is hashed after it was read and before it leaves.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from modelnet.core import car
from modelnet.core.cid import BLAKE3, DAG_PB, RAW, Cid, blake3_digest
from modelnet.core.manifest import Manifest
from modelnet.core.unixfs import parse_node
from modelnet.errors import IntegrityError, UnavailableError
from modelnet.stores.local import ChunkReader, LocalStore

__all__ = ["SIDE_BY_SIDE", "ReleaseBlocks", "Segment", "folder_nodes"]

SEGMENT = 64 * 1024 * 1024  # bytes of chunks; a few are sent side by side, and those are what a crash loses
SMALLEST = 8 * 1024 * 1024
SIDE_BY_SIDE = 4  # Kubo decodes, hashes and stores each import in turn, so several keep several of its cores busy
BATCH = 4 * 1024 * 1024  # bytes read, hashed and sent together; the memory of one segment
FRAME = 64  # a frame's length and CID: 3 + 36 bytes for a chunk of ours
DIGEST = 32


@dataclass(frozen=True, slots=True)
class Segment:
    """The chunks `[first, last)` of a release as one CAR; the last segment holds the nodes instead."""

    number: int
    first: int
    last: int
    blocks: int
    bytes: int
    mark: str  # hex BLAKE3 over the CIDs: what a journal remembers it by


def folder_nodes(manifest: Manifest, block: Callable[[Cid], bytes | None]) -> Iterator[Cid]:
    """Yield every node of a release's tree that is no file: its folders, and the shards of large ones, each once.

    Below a node that `block` does not give nothing is found.
    """
    files = {entry.cid for entry in manifest.files}
    seen: set[Cid] = set()
    wanted = [manifest.tree]
    while wanted:
        cid = wanted.pop()
        if cid in seen:
            continue
        seen.add(cid)
        yield cid
        content = block(cid)
        links = () if content is None else parse_node(content).links
        wanted += [link.cid for link in links if link.cid.codec == DAG_PB and link.cid not in files]


class ReleaseBlocks:
    """Every block of a release in `store`, deduplicated. Iterating twice gives the same order."""

    def __init__(self, store: LocalStore, manifest: Cid, segment: int | None = None) -> None:
        """Walk the release; chunks are only listed (36 bytes of memory each), nodes are kept by CID.

        `segment` is the most bytes of one; None lets small releases have several too.
        Raises `UnavailableError` when a node is missing here, so before anything is sent.
        """
        self.store = store
        self.manifest = Manifest.parse(self._block(manifest))
        self.root = manifest
        self.nodes: list[Cid] = []
        self._digests = bytearray()
        self._sizes = array("I")
        self._list()
        shared = max(SMALLEST, -(-self.size // SIDE_BY_SIDE))
        self.segments = tuple(self._cut(min(SEGMENT, shared) if segment is None else segment))

    def __len__(self) -> int:
        return len(self._sizes) + len(self.nodes)

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(self._sizes)

    def chunk(self, index: int) -> tuple[Cid, int]:
        """Return the CID and size of the chunk at `index`."""
        digest = bytes(self._digests[index * DIGEST : index * DIGEST + DIGEST])
        return Cid(RAW, BLAKE3, digest), self._sizes[index]

    @property
    def chunk_count(self) -> int:
        """Number of distinct chunks."""
        return len(self._sizes)

    def _block(self, cid: Cid) -> bytes:
        block = self.store.block(cid)
        if block is None:
            raise UnavailableError(
                "a DAG node of the release is not in this store", rule="missing", wanted=cid, hint="pull it first"
            )
        return block

    def _list(self) -> None:
        seen: set[bytes] = set()
        nodes: dict[Cid, None] = {}
        for entry in self.manifest.files:
            tree = self.store.tree(entry)
            nodes |= dict.fromkeys(span.cid for span in tree.spans)
            for index in range(len(tree)):
                digest = tree.digest_of(index)
                if entry.size == 0 and entry.cid.codec == DAG_PB:
                    continue  # the node alone is the file
                if digest not in seen:
                    seen.add(digest)
                    self._digests += digest
                    self._sizes.append(tree.size_of(index))
        nodes |= dict.fromkeys(folder_nodes(self.manifest, self._block))
        # Leaves first, the manifest last: whoever has a prefix of this has nothing that points to what it lacks.
        self.nodes = [*reversed(nodes), self.root]

    def _cut(self, limit: int) -> Iterator[Segment]:
        first = size = number = 0
        for index, length in enumerate(self._sizes):
            if index > first and size + length > limit:
                yield self._chunks_segment(number, first, index, size)
                first, size, number = index, 0, number + 1
            size += length
        if first < len(self._sizes):
            yield self._chunks_segment(number, first, len(self._sizes), size)
            number += 1
        blocks = [self._block(cid) for cid in self.nodes]
        mark = blake3_digest(b"".join(cid.encode() for cid in self.nodes)).hex()
        yield Segment(number, 0, 0, len(blocks), sum(map(len, blocks)), mark)

    def _chunks_segment(self, number: int, first: int, last: int, size: int) -> Segment:
        mark = blake3_digest(self._digests[first * DIGEST : last * DIGEST]).hex()
        return Segment(number, first, last, last - first, size, mark)

    def car_length(self, segment: Segment) -> int:
        """Return the number of bytes of the segment's CAR."""
        head = len(car.header([self._root(segment)]))
        if segment.first == segment.last:
            blocks: Iterator[tuple[Cid, int]] = ((cid, len(self._block(cid))) for cid in self.nodes)
        else:
            blocks = (self.chunk(index) for index in range(segment.first, segment.last))
        return head + sum(len(car.frame_prefix(cid, size)) + size for cid, size in blocks)

    def _root(self, segment: Segment) -> Cid:
        # A CAR names a root that it holds: the manifest, or just its first chunk.
        return self.root if segment.first == segment.last else self.chunk(segment.first)[0]

    def car(self, segment: Segment) -> Iterator[bytes | memoryview]:
        """Yield the segment's CAR in pieces; a piece is overwritten when the next is asked for.

        Raises `UnavailableError` when a chunk is in no file any more, or has changed.
        """
        yield car.header([self._root(segment)])
        if segment.first == segment.last:
            for cid in self.nodes:
                block = self._block(cid)
                yield car.frame_prefix(cid, len(block)) + block
            return
        buffer = memoryview(bytearray(BATCH))
        with ChunkReader(self.store) as reader:
            for batch in self._batches(segment):
                places = reader.locate([cid.digest for cid, _ in batch])
                position = 0
                for cid, size in batch:
                    prefix = car.frame_prefix(cid, size)
                    start = position + len(prefix)
                    buffer[position:start] = prefix
                    position = start + size
                    view = buffer[start:position]
                    fitting = [place for place in places.get(cid.digest, ()) if place.size == size]
                    read = bool(fitting) and reader.read_into(fitting[:1], view)
                    if not (read and blake3_digest(view) == cid.digest):
                        reader.forget()  # a file may have been replaced under its name
                        content = b"" if size == 0 else reader.read(cid.digest, size)
                        if content is None:
                            place = fitting[0] if fitting else None
                            raise _lost(cid, place.path if place else None, place.offset if place else None)
                        view[:] = content
                yield buffer[:position]

    def _batches(self, segment: Segment) -> Iterator[Sequence[tuple[Cid, int]]]:
        batch: list[tuple[Cid, int]] = []
        size = 0
        for index in range(segment.first, segment.last):
            chunk = self.chunk(index)
            if batch and size + chunk[1] + FRAME > BATCH:
                yield batch
                batch, size = [], 0
            batch.append(chunk)
            size += chunk[1] + FRAME
        if batch:
            yield batch


def _lost(cid: Cid, path: str | None, offset: int | None) -> IntegrityError | UnavailableError:
    if path is None:
        return UnavailableError(
            "a chunk of the release is not in this store", rule="missing", wanted=cid,
            hint="only a whole release can be pinned; pull all of it first",
        )  # fmt: skip
    return IntegrityError(
        "the file differs from what was published", rule="changed", path=path, offset=offset, wanted=cid,
        hint="a pinned release is read from the files it was published from; put them back as they were",
    )  # fmt: skip
