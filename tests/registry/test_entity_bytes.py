"""`entity-bytes` against a slow reference, over DAGs of any shape, with repeated chunks and repeated nodes."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import assume, given
from hypothesis import strategies as st

from modelnet.core import car
from modelnet.core.cid import DAG_PB, Cid
from modelnet.core.unixfs import Profile, balanced, leaf, parse_node
from modelnet_registry.http.gateway import Gateway
from modelnet_registry.http.memory import MemoryBlocks
from modelnet_registry.http.message import Request


@dataclass(frozen=True)
class Shape:
    """How a file is cut and linked."""

    content: bytes
    chunk: int
    width: int
    raw_leaves: bool


def build(shape: Shape) -> tuple[MemoryBlocks, Cid]:
    """Build a file's DAG in memory."""
    blocks = MemoryBlocks()
    profile = Profile(width=shape.width, raw_leaves=shape.raw_leaves)
    leaves = []
    for start in range(0, len(shape.content), shape.chunk):
        child, block = leaf(shape.content[start : start + shape.chunk], profile)
        blocks.add(child.cid, bytes(block))
        leaves.append(child)
    return blocks, balanced(leaves, blocks.add, profile).cid


def reference(blocks: MemoryBlocks, root: Cid, first: int, last: int) -> list[Cid]:
    """Unfold the whole DAG, then keep what holds a byte of `[first, last]`; the root always."""
    found: list[Cid] = []

    def unfold(cid: Cid, start: int, size: int) -> None:
        if cid == root or (start <= last and start + size > first and first <= last):
            found.append(cid)
        if cid.codec == DAG_PB:
            node = parse_node(blocks.block(cid) or b"")
            for link, part in zip(node.links, node.sizes, strict=True):
                unfold(link.cid, start, part)
                start += part

    size = blocks.sizes([root])[root] if root.codec != DAG_PB else parse_node(blocks.block(root) or b"").size
    unfold(root, 0, size)
    return found


SHAPES = st.builds(
    Shape,
    # Zeros: every chunk is the same, and so are whole nodes.
    content=st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, 600).map(bytes)),
    chunk=st.integers(1, 40),
    width=st.integers(2, 5),
    raw_leaves=st.booleans(),
)


@given(shape=SHAPES, dups=st.sampled_from("yn"), start=st.integers(-700, 700), stop=st.none() | st.integers(-700, 700))
def test_the_blocks_are_those_of_the_reference(shape: Shape, dups: str, start: int, stop: int | None) -> None:
    """The same blocks, in the same order, and as many bytes as were announced."""
    blocks, root = build(shape)
    size = len(shape.content)
    first = start if start >= 0 else max(0, size + start)
    last = size - 1 if stop is None else stop if stop >= 0 else size + stop
    assume(first < size and last >= 0)  # else 400, tested elsewhere
    query = f"format=car&car-dups={dups}&entity-bytes={start}:{'*' if stop is None else stop}"
    response = Gateway(blocks).respond(Request("GET", f"/ipfs/{root}", query), blocks)
    assert not isinstance(response.body, bytes | memoryview)
    body = b"".join(b"".join(buffers) for buffers in response.body)
    assert len(body) == response.length
    wanted = reference(blocks, root, first, last)
    if dups == "n":
        wanted = list(dict.fromkeys(wanted))
    assert [cid for cid, _ in car.read_car(body)] == wanted
