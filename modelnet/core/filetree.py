"""A file's DAG as a flat, checked list of chunks, and the nodes above them.

A reader starts with the root CID and the size that the manifest gives, and is handed the inner nodes one by one
(`FileTree.missing` says which). Once none is missing the tree is closed: every byte of the file belongs to exactly one
chunk whose hash is known, and nothing that a source says later can change that.

Bounds: depth, the number of chunks for the size, and chunk sizes; a DAG that names a child twice is unfolded only as
far as the file has bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from modelnet.core.chunking import MAX_CHUNK
from modelnet.core.cid import BLAKE3, DAG_PB, RAW, Cid, blake3_digest
from modelnet.core.manifest import FileEntry
from modelnet.core.unixfs import Kind, Node, parse_node
from modelnet.errors import IntegrityError, MalformedError

__all__ = ["Chunk", "FileTree", "Span", "inner_nodes", "max_chunks"]

MAX_DEPTH = 8  # 1,024 links a node: three levels hold a pebibyte
DIGEST = 32


def max_chunks(size: int) -> int:
    """Return how many chunks a file of `size` bytes may have: one a KiB, beyond the first thousand."""
    return 1024 + size // 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes `[offset, offset + size)` of a file and their BLAKE3 digest."""

    offset: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """An inner node and the bytes `[start, end)` of the file below it."""

    cid: Cid
    start: int
    end: int
    parent: int = 0  # its place in the tree's `spans`; the root is its own parent


class FileTree:
    """Chunk list of one file, built from its verified inner nodes.

    `len(tree)` is the number of chunks; `tree[i]` is the i-th, in file order.
    """

    def __init__(self, entry: FileEntry, nodes: Mapping[Cid, Node]) -> None:
        """Unfold `entry` with `nodes`, which must hold every node that `inner_nodes` asks for."""
        self.entry = entry
        self.offsets = array("Q")
        self.digests = bytearray()
        self.spans: list[Span] = []
        self._unfold(entry.cid, 0, entry.size, nodes, ())

    def _unfold(self, cid: Cid, start: int, size: int, nodes: Mapping[Cid, Node], above: tuple[int, ...]) -> None:
        if cid.codec == RAW:
            if size > MAX_CHUNK or (size == 0 and self.entry.size):
                raise self._malformed("chunk size", start, f"1 to {MAX_CHUNK}", size)
            self.offsets.append(start)
            self.digests += cid.digest
            if len(self.offsets) > max_chunks(self.entry.size):
                raise self._malformed("too many chunks for the size", start, max_chunks(self.entry.size), "more")
            return
        node = check_file_node(cid, nodes[cid], self.entry.path)
        if len(above) >= MAX_DEPTH or node.size != size:
            raise self._malformed("node does not hold what its parent says", start, size, node.size)
        path = (*above, len(self.spans))
        self.spans.append(Span(cid, start, start + size, above[-1] if above else 0))
        if not node.links:  # an empty file, as `grid/1` makes it
            self.offsets.append(start)
            self.digests += blake3_digest(b"")
        for link, part in zip(node.links, node.sizes, strict=True):
            self._unfold(link.cid, start, part, nodes, path)
            start += part

    def _malformed(self, what: str, offset: int, wanted: object, got: object) -> MalformedError:
        return MalformedError(what, rule="unixfs", path=self.entry.path, offset=offset, wanted=wanted, got=got)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Chunk:
        return Chunk(self.offsets[index], self.size_of(index), self.digest_of(index))

    def size_of(self, index: int) -> int:
        """Return the length of chunk `index` in bytes."""
        end = self.offsets[index + 1] if index + 1 < len(self.offsets) else self.entry.size
        return end - self.offsets[index]

    def digest_of(self, index: int) -> bytes:
        """Return the 32-byte BLAKE3 digest of chunk `index`."""
        return bytes(self.digests[index * DIGEST : index * DIGEST + DIGEST])

    def index_at(self, offset: int) -> int:
        """Return the index of the chunk that holds byte `offset`."""
        return bisect_right(self.offsets, offset) - 1

    def covering(self, start: int, end: int) -> Span:
        """Return the smallest node over the bytes `[start, end)`: what to ask a source for."""
        # Spans stand in depth-first order, so the last one that begins at or before `start` is the deepest over it
        # or lies below that one: every node over the range is among its ancestors.
        span = self.spans[bisect_right(self.spans, start, key=lambda span: span.start) - 1]
        while span.end < end and span is not self.spans[0]:
            span = self.spans[span.parent]
        return span

    def check(self, index: int, digest: bytes, *, source: str | None = None) -> None:
        """Raise `IntegrityError` unless `digest` is that of chunk `index`."""
        if digest != self.digest_of(index):
            raise IntegrityError(
                "chunk differs from what was signed",
                rule="hash", path=self.entry.path, offset=self.offsets[index], source=source,
                wanted=Cid(RAW, BLAKE3, self.digest_of(index)), got=Cid(RAW, BLAKE3, digest),
            )  # fmt: skip


def check_file_node(cid: Cid, node: Node, path: str) -> Node:
    """Return `node` if it is an inner node of a modelnet file DAG; else raise `MalformedError`."""
    if node.kind is not Kind.FILE or node.content or (node.size and not node.links):
        raise MalformedError("not an inner node of a file", rule="unixfs", path=path, got=cid)
    for link in node.links:
        if link.cid.code != BLAKE3 or link.cid.codec not in (RAW, DAG_PB):
            raise MalformedError("file node links something else than BLAKE3 chunks", rule="unixfs", path=path)
    return node


def inner_nodes(node: Node) -> list[Cid]:
    """Return the distinct inner nodes that `node` links, in order."""
    return list(dict.fromkeys(link.cid for link in node.links if link.cid.codec == DAG_PB))


def parse_file_node(cid: Cid, block: bytes, path: str, *, source: str | None = None) -> Node:
    """Return the inner node of `path` in `block` once it hashes to `cid`."""
    try:
        cid.verify(block, source=source)
    except IntegrityError as error:
        error.path = path
        raise
    return check_file_node(cid, parse_node(block), path)
