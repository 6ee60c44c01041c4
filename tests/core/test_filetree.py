"""File trees: the flat list against the DAG it came from, and DAGs that lie."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.chunking import MAX_CHUNK
from modelnet.core.cid import BLAKE3, DAG_CBOR, DAG_PB, RAW, SHA2_256, Cid
from modelnet.core.filetree import MAX_DEPTH, FileTree, Span, inner_nodes, max_chunks, parse_file_node
from modelnet.core.unixfs import Node, encode_links, leaf, parse_node
from modelnet.errors import IntegrityError, MalformedError
from tests.core.dags import Layout, Store, chunk, entry, file_block, parsed, tree_of

CHUNKS = st.integers(1, MAX_CHUNK)
LAYOUTS: st.SearchStrategy[list[Layout]] = st.lists(
    CHUNKS | st.lists(CHUNKS, min_size=2, max_size=40), min_size=2, max_size=20
)


def sizes_in(layout: Layout) -> list[int]:
    """Return the chunk sizes of a layout, in order."""
    return [layout] if isinstance(layout, int) else [size for part in layout for size in sizes_in(part)]


@given(LAYOUTS, st.integers(3, 6))
def test_chunks_are_the_leaves(layout: list[Layout], width: int) -> None:
    """Offsets, sizes and digests are those of the leaves, in order, with no gap."""
    tree = tree_of(layout, width=width)
    sizes = sizes_in(layout)
    assert [tree[index].size for index in range(len(tree))] == sizes
    assert [tree[index].offset for index in range(len(tree))] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert [tree[index].digest for index in range(len(tree))] == [
        chunk(number, size).cid.digest for number, size in enumerate(sizes)
    ]
    assert tree.entry.size == sum(sizes)


@given(LAYOUTS, st.integers(3, 6), st.data())
def test_index_at(layout: list[Layout], width: int, data: st.DataObject) -> None:
    """A byte's chunk is the one that a walk from the start finds."""
    tree = tree_of(layout, width=width)
    offset = data.draw(st.integers(0, tree.entry.size - 1))
    wanted = next(i for i in range(len(tree)) if tree[i].offset <= offset < tree[i].offset + tree[i].size)
    assert tree.index_at(offset) == wanted


def smallest_over(spans: Sequence[Span], start: int, end: int) -> Span:
    """Return the deepest of the smallest spans over a range, the slow way."""
    over = [span for span in spans if span.start <= start and end <= span.end]
    return min(reversed(over), key=lambda span: span.end - span.start)


@given(LAYOUTS, st.integers(3, 6), st.data())
def test_covering(layout: list[Layout], width: int, data: st.DataObject) -> None:
    """The node over a run of chunks is the smallest that there is, however the file is laid out."""
    tree = tree_of(layout, width=width)
    first = data.draw(st.integers(0, len(tree) - 1))
    last = data.draw(st.integers(first, len(tree) - 1))
    start, end = tree[first].offset, tree[last].offset + tree[last].size
    assert tree.covering(start, end) == smallest_over(tree.spans, start, end)


def test_covering_every_run_of_a_deep_tree() -> None:
    """In a tree of four levels with regions of unequal depth every run gets its smallest node."""
    tree = tree_of([[1000] * 70, 5, 5, [1000] * 3, [[7] * 5, [9] * 2], 1], width=3)
    for first in range(len(tree)):
        for last in range(first, len(tree)):
            start, end = tree[first].offset, tree[last].offset + tree[last].size
            assert tree.covering(start, end) == smallest_over(tree.spans, start, end)


def test_spans_know_their_parents() -> None:
    """Every span lies inside its parent, and the root is its own."""
    tree = tree_of([[10] * 30, 5, [10] * 9], width=3)
    assert tree.spans[0].parent == 0
    for span in tree.spans[1:]:
        parent = tree.spans[span.parent]
        assert parent.start <= span.start < span.end <= parent.end


@pytest.mark.parametrize("size", [0, 1, MAX_CHUNK])
def test_a_file_of_one_chunk(size: int) -> None:
    """A file that is one raw block is one chunk, an empty file too, and has no inner node."""
    tree = tree_of(size)
    assert (len(tree), tree.spans) == (1, [])
    assert (tree[0].offset, tree[0].size) == (0, size)


def test_an_empty_file_as_a_node() -> None:
    """A node of no bytes and no children is one chunk of no bytes; it stands for no other size."""
    block = encode_links([], b"\x08\x02\x18\x00")
    tree = unfold([block], 0)
    assert (len(tree), tree[0].size, tree.digest_of(0)) == (1, 0, Cid.of(RAW, b"").digest)
    with pytest.raises(MalformedError):
        unfold([block], 1)


def test_check() -> None:
    """The right digest passes; any other is an integrity error that says where and from whom."""
    tree = tree_of([10, 20])
    tree.check(1, tree.digest_of(1))
    with pytest.raises(IntegrityError) as caught:
        tree.check(1, tree.digest_of(0), source="peer")
    assert (caught.value.path, caught.value.offset, caught.value.source) == ("model.bin", 10, "peer")


def unfold(blocks: Sequence[bytes], size: int) -> FileTree:
    """Unfold the file whose root is the last of `blocks`."""
    nodes = dict(map(parsed, blocks))
    return FileTree(entry(Cid.of(DAG_PB, blocks[-1]), size), nodes)


RAW_A = chunk(0, 100).cid


def test_the_manifest_and_the_root_agree() -> None:
    """A root that holds more or fewer bytes than the manifest says is refused."""
    root = file_block([(RAW_A, 100), (RAW_A, 100)])
    assert len(unfold([root], 200)) == 2
    for size in (0, 1, 199, 201, 2**50):
        with pytest.raises(MalformedError):
            unfold([root], size)


def test_a_child_holds_what_its_parent_says() -> None:
    """An inner node that holds more or fewer bytes than its parent's `blocksizes` is refused."""
    inner = file_block([(RAW_A, 100), (RAW_A, 100)])
    for claimed in (100, 199, 201, 10**9):
        root = file_block([(Cid.of(DAG_PB, inner), claimed), (RAW_A, 100)])
        with pytest.raises(MalformedError):
            unfold([inner, root], claimed + 100)


def test_chunks_are_at_most_a_mebibyte() -> None:
    """A chunk of one byte more than 1 MiB is refused, below a node and alone."""
    with pytest.raises(MalformedError):
        unfold([file_block([(RAW_A, MAX_CHUNK + 1), (RAW_A, 1)])], MAX_CHUNK + 2)
    with pytest.raises(MalformedError):
        FileTree(entry(RAW_A, MAX_CHUNK + 1), {})


def chain(length: int) -> list[bytes]:
    """Return nodes that hold one chunk, one inside the other, the outermost last."""
    blocks = [file_block([(RAW_A, 100)])]
    while len(blocks) < length:
        blocks.append(file_block([(Cid.of(DAG_PB, blocks[-1]), 100)]))
    return blocks


def test_depth_limit() -> None:
    """A chain of eight nodes is unfolded, nine are refused, and so are ten thousand, without a stack overflow."""
    assert len(unfold(chain(MAX_DEPTH), 100)) == 1
    for length in (MAX_DEPTH + 1, 10_000):
        with pytest.raises(MalformedError):
            unfold(chain(length), 100)


def laughs(levels: int, width: int) -> tuple[list[bytes], int]:
    """Return a few tiny nodes, each naming the one below `width` times, and how many bytes they claim."""
    blocks, size, below = [], 1, RAW_A
    for _ in range(levels):
        blocks.append(file_block([(below, size)] * width))
        below, size = Cid.of(DAG_PB, blocks[-1]), size * width
    return blocks, size


def test_billion_laughs() -> None:
    """Four nodes that unfold into millions of one-byte chunks are refused after as many chunks as the size allows."""
    blocks, size = laughs(4, 60)
    assert size > 10**7
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="too many chunks"):
            unfold(blocks, size)
        assert tracemalloc.get_traced_memory()[1] < 200 * max_chunks(size)
    finally:
        tracemalloc.stop()


def test_the_same_chunk_many_times_is_honest() -> None:
    """A file that repeats one chunk within its bounds is a file like any other."""
    blocks, _ = laughs(1, 1000)
    assert len(unfold(blocks, 1000)) == 1000


NOT_FILE_NODES = {
    "a directory": encode_links([], b"\x08\x01"),
    "a symlink": encode_links([], b"\x08\x04\x12\x01x"),
    "a leaf with content": encode_links([], b"\x08\x02\x12\x01x\x18\x01"),
    "content and links": file_block([(RAW_A, 100)], data=b"\x08\x02\x12\x01x\x18\x65\x20\x64"),
    "a raw node with links": file_block([(RAW_A, 100)], data=b"\x08\x00\x18\x64\x20\x64"),
    "a sha2-256 chunk": file_block([(Cid.of(RAW, b"x", SHA2_256), 1)]),
    "a dag-cbor child": file_block([(Cid(DAG_CBOR, BLAKE3, bytes(32)), 1)]),
    "a CIDv0 child": file_block([(Cid(DAG_PB, SHA2_256, bytes(32), 0), 1)]),
    "an identity child": file_block([(Cid(RAW, 0, b"x"), 1)]),
}


@pytest.mark.parametrize("block", NOT_FILE_NODES.values(), ids=NOT_FILE_NODES.keys())
def test_only_file_nodes(block: bytes) -> None:
    """Directories, leaves in dag-pb and nodes that link anything but BLAKE3 blocks are no part of a file."""
    cid = Cid.of(DAG_PB, block)
    with pytest.raises(MalformedError) as caught:
        parse_file_node(cid, block, "model.bin")
    assert caught.value.path == "model.bin"
    with pytest.raises(MalformedError):
        FileTree(entry(cid, 100), {cid: parse_node(block)})


def test_other_bytes_are_named_with_the_file() -> None:
    """A node whose bytes are not those of its CID is an integrity error that names file and source."""
    block = file_block([(RAW_A, 100)])
    with pytest.raises(IntegrityError) as caught:
        parse_file_node(Cid.of(DAG_PB, block), block + b"\x00", "model.bin", source="peer")
    assert (caught.value.path, caught.value.source) == ("model.bin", "peer")


def test_inner_nodes() -> None:
    """The nodes still to be had are the distinct dag-pb children, in order."""
    inner = [Cid.of(DAG_PB, bytes([n])) for n in range(3)]
    block = file_block([(inner[1], 5), (RAW_A, 5), (inner[0], 5), (inner[1], 5)])
    assert inner_nodes(parse_node(block)) == [inner[1], inner[0]]


def test_a_missing_node_is_not_a_short_file() -> None:
    """A tree cannot be made while one of its nodes is missing."""
    inner = file_block([(RAW_A, 100)])
    root = file_block([(Cid.of(DAG_PB, inner), 100), (RAW_A, 100)])
    with pytest.raises(KeyError):
        unfold([root], 200)


def test_builder_is_honest() -> None:
    """The trees of these tests are made of blocks whose bytes have their CIDs."""
    store = Store()
    child, block = leaf(b"x")
    store.emit(child.cid, bytes(block))
    with pytest.raises(IntegrityError):
        store.emit(child.cid, b"y")
    assert isinstance(parsed(file_block([(RAW_A, 1)]))[1], Node)
