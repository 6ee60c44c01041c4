"""Which blocks answer a CAR request, in which order: path resolution and the walk of a DAG.

    resolve(blocks, nodes, root, ["a", "b"])   → the blocks on the way and the CID at the end
    Walk(...)                                  → every block of the answer, depth first, each with its size

A walk reads DAG nodes but no chunk: the sizes of chunks follow from their parents. So an answer's length is known
before its first byte, by walking twice. A node that is missing makes the whole answer 404 up front; a chunk that turns
out to be missing breaks it off.

Bounds: depth, visits, and the blocks remembered to leave out repetitions.
Source: ipfs/specs trustless-gateway.md (dag-scope, entity-bytes, CAR order and dups).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from modelnet.core.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW, Cid
from modelnet.core.unixfs import Kind, Link, Node
from modelnet.errors import MalformedError
from modelnet_registry.http.blocks import BlockSource
from modelnet_registry.http.links import (
    DAG_JSON,
    NodeCache,
    child_of,
    document,
    document_links,
    shard_child,
    sub_shards,
)
from modelnet_registry.http.message import Refusal, bad_request

__all__ = ["Resolved", "Scope", "Visit", "Walk", "resolve"]

MAX_DEPTH = 128  # folders in folders, with their shards; paths are shorter on every system
MAX_VISITS = 1 << 21  # 512 GiB in chunks of 256 KiB
MAX_REMEMBERED = 1 << 18  # blocks that are sent once (`dups=n`): about 40 MiB, 64 GiB of chunks of 256 KiB
DOCUMENTS = (DAG_CBOR, DAG_JSON)


class Visit(NamedTuple):
    """A block of the answer; `block` is None for raw chunks, which are read when they are sent."""

    cid: Cid
    size: int
    block: bytes | None


@dataclass(frozen=True, slots=True)
class Scope:
    """How much of the DAG at the end of the path is wanted: `dag-scope`, and for a file `entity-bytes`."""

    name: str = "all"
    first: int | None = None  # negative: from the end
    last: int | None = None  # inclusive; None: to the end; negative: from the end

    def window(self, size: int) -> tuple[int, int] | None:
        """Return the bytes `[start, end)` of an entity of `size` bytes; None when that is no byte at all.

        Raises 400 when the range lies entirely outside.
        """
        if self.first is None:
            return 0, size
        start = self.first if self.first >= 0 else max(0, size + self.first)
        last = size - 1 if self.last is None else self.last if self.last >= 0 else size + self.last
        if size and (start >= size or last < 0):
            raise bad_request(f"entity-bytes is outside of the entity, which has {size} bytes")
        end = min(last + 1, size)
        return (start, end) if start < end else None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A resolved path: the blocks read on the way, the CID of each segment, and the end.

    `inside` is True when the path ends within a document, which then is the last block of `way`.
    """

    way: tuple[Cid, ...]
    roots: tuple[Cid, ...]
    end: Cid
    inside: bool = False


def resolve(blocks: BlockSource, nodes: NodeCache, root: Cid, segments: Sequence[str]) -> Resolved:
    """Follow `segments` from `root` through folders, shards and documents; raise 404 where there is no way on."""
    way: list[Cid] = []
    roots = [root]
    cid = root
    left = list(segments)
    while left:
        name = left[0]
        if cid.codec == DAG_PB:
            cid = _through_folder(blocks, nodes, cid, name, way)
            left.pop(0)
            roots.append(cid)
        elif cid.codec in DOCUMENTS:
            value = document(cid, _block(blocks, cid))
            while left and not isinstance(value, Cid):
                if (value := child_of(value, left[0])) is None:
                    raise Refusal(HTTPStatus.NOT_FOUND, f"no link named {left[0]!r} under {cid}")
                left.pop(0)
            if not isinstance(value, Cid):
                return Resolved(tuple(way), tuple(roots), cid, inside=True)
            way.append(cid)
            cid = value
            roots.append(cid)
        else:
            raise Refusal(HTTPStatus.NOT_FOUND, f"no link named {name!r} under {cid}")
    return Resolved(tuple(way), tuple(roots), cid)


def _through_folder(blocks: BlockSource, nodes: NodeCache, cid: Cid, name: str, way: list[Cid]) -> Cid:
    here = cid
    for depth in range(MAX_DEPTH):
        node = nodes.node(here, _block(blocks, here))
        way.append(here)
        if node.kind is Kind.DIRECTORY:
            link = next((link for link in node.links if link.name == name), None)
            is_shard = False
        elif node.kind is Kind.HAMT:
            link, is_shard = shard_child(node, name, depth)
        else:
            link, is_shard = None, False
        if link is None:
            break
        if not is_shard:
            return link.cid
        here = link.cid
    raise Refusal(HTTPStatus.NOT_FOUND, f"no link named {name!r} under {cid}")


def _block(blocks: BlockSource, cid: Cid) -> bytes:
    if (block := blocks.block(cid)) is None:
        raise Refusal(HTTPStatus.NOT_FOUND, f"block {cid} is not here")
    return block


class Walk:
    """The blocks of one CAR, in the order in which they are sent. Iterate once."""

    def __init__(self, blocks: BlockSource, nodes: NodeCache, path: Resolved, scope: Scope, *, dups: bool) -> None:
        """Walk what `scope` says below the end of `path`; `dups` repeats blocks that the DAG repeats."""
        self._blocks = blocks
        self._nodes = nodes
        self._path = path
        self._scope = scope
        self._sent: set[bytes | Cid] | None = None if dups else set()
        self._whole: set[Cid] = set()  # nodes below which everything was sent
        self._visits = 0

    def __iter__(self) -> Iterator[Visit]:
        for cid in self._path.way:
            yield from self._node(cid, _block(self._blocks, cid))
        end = self._path.end
        if self._path.inside or (end.codec != RAW and self._scope.name == "block"):
            yield from self._node(end, _block(self._blocks, end))
        elif end.codec == RAW:
            size = self._raw_size(end)
            self._scope.window(size)  # refuses a range that lies outside
            yield from self._leaf(end, size)
        else:
            yield from self._below(end, None, 0)

    def _count(self, cid: Cid) -> bool:
        """Count a visit; tell whether the block is to be sent."""
        self._visits += 1
        if self._visits > MAX_VISITS:
            raise bad_request(f"the answer would have more than {MAX_VISITS} blocks; ask for parts of it")
        # "MUST NOT include virtual blocks identified by identity CIDs".
        if cid.code == IDENTITY:
            return False
        if self._sent is None:
            return True
        key = cid.digest if cid.codec == RAW else cid
        if key in self._sent:
            return False
        if len(self._sent) >= MAX_REMEMBERED:
            raise bad_request(f"more than {MAX_REMEMBERED} blocks; ask for parts with entity-bytes, or for car-dups=y")
        self._sent.add(key)
        return True

    def _node(self, cid: Cid, block: bytes) -> Iterator[Visit]:
        if self._count(cid):
            yield Visit(cid, len(block), block)

    def _leaf(self, cid: Cid, size: int | None) -> Iterator[Visit]:
        if self._count(cid):
            yield Visit(cid, self._raw_size(cid) if size is None else size, None)

    def _raw_size(self, cid: Cid) -> int:
        if cid.code == IDENTITY:
            return len(cid.digest)
        size = self._blocks.sizes([cid]).get(cid)
        if size is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"block {cid} is not here")
        return size

    def _below(self, cid: Cid, size: int | None, depth: int) -> Iterator[Visit]:
        """Yield `cid` and what the scope wants below it; `size` is a raw block's, where its parent tells."""
        if depth > MAX_DEPTH:
            raise bad_request(f"the DAG is more than {MAX_DEPTH} deep")
        if cid.codec == RAW:
            yield from self._leaf(cid, size)
            return
        if cid in self._whole:
            self._count(cid)
            return
        block = _block(self._blocks, cid)
        yield from self._node(cid, block)
        if cid.codec == DAG_PB:
            node = self._parse(cid, block)
            if node.kind in (Kind.FILE, Kind.RAW):
                yield from self._file(cid, node, self._scope.window(node.size), depth)
                return
            if node.kind is Kind.HAMT:
                yield from self._links(sub_shards(node) if self._scope.name == "entity" else node.links, depth)
            elif self._scope.name == "all":
                yield from self._links(node.links, depth)
        elif cid.codec in DOCUMENTS and self._scope.name == "all":
            links = [Link(link, "", 0) for link in document_links(document(cid, block))]
            yield from self._links(links, depth)
        self._finish(cid)

    def _parse(self, cid: Cid, block: bytes) -> Node:
        if self._scope.name != "entity":
            return self._nodes.node(cid, block)
        try:
            return self._nodes.node(cid, block)
        except MalformedError:
            return Node(Kind.METADATA, ())  # "for all queries that reference non-UnixFS data, entity equals block"

    def _links(self, links: Sequence[Link], depth: int) -> Iterator[Visit]:
        sizes = self._blocks.sizes([link.cid for link in links if link.cid.codec == RAW])
        for link in links:
            yield from self._below(link.cid, sizes.get(link.cid), depth + 1)

    def _file(self, cid: Cid, node: Node, window: tuple[int, int] | None, depth: int) -> Iterator[Visit]:
        """Yield the blocks below a file node that hold a byte of `window`, which counts from the node's first byte."""
        if window is None:
            return
        if depth > MAX_DEPTH:
            raise bad_request(f"the DAG is more than {MAX_DEPTH} deep")
        first, end = window
        start = len(node.content)
        for link, size in zip(node.links, node.sizes, strict=True):
            if start >= end:
                break
            if start + size > first:
                if link.cid.codec == RAW:
                    yield from self._leaf(link.cid, size)
                elif link.cid in self._whole:
                    self._count(link.cid)
                else:
                    block = _block(self._blocks, link.cid)
                    yield from self._node(link.cid, block)
                    child = self._nodes.node(link.cid, block)
                    if child.kind not in (Kind.FILE, Kind.RAW) or child.size != size:
                        raise Refusal(HTTPStatus.NOT_FOUND, f"block {link.cid} is not what its parent says")
                    part = (max(0, first - start), min(size, end - start))
                    yield from self._file(link.cid, child, part, depth + 1)
            start += size
        if first <= 0 and end >= node.size:
            self._finish(cid)

    def _finish(self, cid: Cid) -> None:
        if self._sent is not None:
            self._whole.add(cid)
