"""Files as DAGs in memory, honest and hostile, without touching a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from modelnet.core.cid import BLAKE3, DAG_PB, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree, inner_nodes, parse_file_node
from modelnet.core.manifest import FileEntry
from modelnet.core.unixfs import Child, Link, Node, Profile, balanced, encode_links, parse_node
from modelnet.core.varint import encode as varint

__all__ = ["Store", "chunk", "entry", "file_block", "tree_of"]

Layout = int | Sequence["Layout"]  # a chunk's size, or a node over what is in the list


class Store(dict[Cid, bytes]):
    """Blocks by CID."""

    def emit(self, cid: Cid, block: bytes) -> None:
        """Keep a block, as `balanced` hands it out."""
        cid.verify(block)
        self[cid] = block


def chunk(number: int, size: int) -> Child:
    """Return a leaf of `size` bytes that is different for every `number`; only its digest exists."""
    digest = blake3_digest(b"chunk %d of %d bytes" % (number, size))
    return Child(Cid(RAW, BLAKE3, digest), size, size)


def entry(cid: Cid, size: int, path: str = "model.bin") -> FileEntry:
    """Return the manifest entry of a file whose content does not matter."""
    return FileEntry(path, size, cid, bytes(32), hashlib.sha256(path.encode()).digest(), "grid/1")


def tree_of(layout: Layout, *, width: int = 4, path: str = "model.bin") -> FileTree:
    """Return the checked tree of a file laid out as `layout`; equal layouts give equal trees."""
    store = Store()
    numbers = iter(range(1 << 30))

    def build(part: Layout) -> Child:
        if isinstance(part, int):
            return chunk(next(numbers), part)
        return balanced([build(inner) for inner in part], store.emit, Profile(width=width))

    root = build(layout)
    return FileTree(entry(root.cid, root.size, path), nodes_of(root.cid, store))


def nodes_of(root: Cid, store: Store, path: str = "model.bin") -> dict[Cid, Node]:
    """Return every inner node below `root`, parsed as a puller parses them."""
    nodes: dict[Cid, Node] = {}
    wanted = [root] if root.codec == DAG_PB else []
    while wanted:
        cid = wanted.pop()
        if cid not in nodes:
            nodes[cid] = parse_file_node(cid, store[cid], path)
            wanted += inner_nodes(nodes[cid])
    return nodes


def file_block(children: Sequence[tuple[Cid, int]], *, size: int | None = None, data: bytes | None = None) -> bytes:
    """Return the block of a `File` node over (cid, claimed size) `children`; `size` and `data` replace the truth."""
    if data is None:
        data = b"\x08\x02\x18" + varint(sum(part for _, part in children) if size is None else size)
        data += b"".join(b"\x20" + varint(part) for _, part in children)
    return encode_links([Link(cid, "", part) for cid, part in children], data)


def parsed(block: bytes) -> tuple[Cid, Node]:
    """Return the CID of a node's block and the parsed node."""
    return Cid.of(DAG_PB, block), parse_node(block)
