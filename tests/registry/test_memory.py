"""The gateway over blocks that others made: SHA-256 CIDs, DAG-PB leaves, DAG-JSON, from a CAR in memory."""

from __future__ import annotations

import hashlib
import json

import pytest

from modelnet.core import car
from modelnet.core.cid import BLAKE3, DAG_PB, RAW, SHA2_256, Cid
from modelnet.core.unixfs import UNIXFS_V0_2015, Link, balanced, directory, encode_links, leaf
from modelnet.errors import IntegrityError, MalformedError
from modelnet_registry.http.blocks import Leaf, MissingChunkError
from modelnet_registry.http.gateway import Gateway
from modelnet_registry.http.links import DAG_JSON, NodeCache
from modelnet_registry.http.memory import MemoryBlocks
from modelnet_registry.http.message import Request
from tests.registry.stock import noise


def archive(*blocks: tuple[Cid, bytes]) -> bytes:
    """Return a CAR of `blocks`."""
    frames = [car.frame_prefix(cid, len(block)) + block for cid, block in blocks]
    return b"".join([car.header([blocks[0][0]]), *frames])


def ask(blocks: MemoryBlocks, path: str, query: str = "format=car") -> list[Cid]:
    """Return the CIDs of a CAR answer."""
    response = Gateway(blocks).respond(Request("GET", f"/ipfs/{path}", query), blocks)
    assert response.status == 200
    assert not isinstance(response.body, bytes | memoryview)
    body = b"".join(b"".join(buffers) for buffers in response.body)
    assert len(body) == response.length
    return [cid for cid, _ in car.read_car(body)]


def test_a_kubo_file_of_2015_is_served() -> None:
    """CIDv0, SHA-256, leaves wrapped in DAG-PB: the same door serves them."""
    made: list[tuple[Cid, bytes]] = []
    leaves = []
    for start in range(0, 3072, 1024):
        child, block = leaf(noise(3072)[start : start + 1024], UNIXFS_V0_2015)
        made.append((child.cid, bytes(block)))
        leaves.append(child)
    root = balanced(leaves, lambda cid, block: made.append((cid, block)), UNIXFS_V0_2015)
    folder, block = directory([("three.bin", root)], UNIXFS_V0_2015)
    blocks = MemoryBlocks.from_car(archive((folder.cid, block), *made))
    cids = [cid for cid, _ in made]
    assert ask(blocks, f"{folder.cid}/three.bin") == [folder.cid, root.cid, *cids[:3]]
    assert ask(blocks, str(root.cid), "format=car&entity-bytes=0:1000") == [root.cid, cids[0]]
    assert ask(blocks, str(root.cid), "format=car&entity-bytes=2200:*") == [root.cid, cids[2]]
    raw = Gateway(blocks).respond(Request("GET", f"/ipfs/{cids[0]}", "format=raw"), blocks)
    assert raw.body == made[0][1]


def test_a_dag_json_document_is_followed() -> None:
    """Links are `{"/": cid}`; anything else is only a value."""
    target = Cid.of(RAW, b"target", SHA2_256)
    block = json.dumps({"a": {"/": str(target)}, "b": {"/": {"bytes": "AQ"}}, "c": [1]}).encode()
    root = Cid(DAG_JSON, SHA2_256, hashlib.sha256(block).digest())
    blocks = MemoryBlocks.from_car(archive((root, block), (target, b"target")))
    assert ask(blocks, str(root)) == [root, target]
    assert ask(blocks, f"{root}/a") == [root, target]
    assert ask(blocks, f"{root}/c/0") == [root]
    assert ask(blocks, str(root), "format=car&dag-scope=entity") == [root]


@pytest.mark.parametrize("block", [b"{", b'{"a": {"/": "nonsense"}}', b"[" * 100_000])
def test_a_broken_document_is_404(block: bytes) -> None:
    """It is served as a block and not walked."""
    root = Cid(DAG_JSON, SHA2_256, hashlib.sha256(block).digest())
    blocks = MemoryBlocks.from_car(archive((root, block)))
    with pytest.raises(Exception, match=r"DAG-JSON|CID"):
        ask(blocks, str(root))


def test_non_unixfs_nodes_are_their_own_entity() -> None:
    """For what is not UnixFS, `entity` is the block."""
    block = encode_links([Link(Cid.of(RAW, b"x"), "x", 1)], b"no unixfs")
    root = Cid.of(DAG_PB, block)
    blocks = MemoryBlocks.from_car(archive((root, block)))
    assert ask(blocks, str(root), "format=car&dag-scope=entity") == [root]


def test_other_codecs_are_blocks_without_links() -> None:
    """Plain JSON and CBOR come as they are."""
    root = Cid(0x0200, SHA2_256, hashlib.sha256(b"{}").digest())
    assert ask(MemoryBlocks.from_car(archive((root, b"{}"))), str(root)) == [root]


def test_what_does_not_hash_to_its_cid_is_not_taken() -> None:
    """A wrong block, and a hash that cannot be checked, are refused on the way in."""
    with pytest.raises(IntegrityError):
        MemoryBlocks.from_car(archive((Cid.of(RAW, b"x"), b"y")))
    with pytest.raises(MalformedError):
        MemoryBlocks.from_car(archive((Cid(RAW, 0x13, bytes(32)), b"y")))


def test_a_chunk_of_another_size_is_missing() -> None:
    """A parent that lies about sizes does not get other bytes sent."""
    blocks = MemoryBlocks.from_car(archive((Cid.of(RAW, b"x", BLAKE3), b"x")))
    with pytest.raises(MissingChunkError):
        blocks.read([Leaf(Cid.of(RAW, b"x"), 2)], memoryview(bytearray(2)))


def test_parsed_nodes_are_kept_within_bounds() -> None:
    """The least used node goes when there are too many links; the last one stays however wide it is."""
    made = []
    for number in range(4):
        child, block = directory([(f"{number}-{entry}", leaf(b"x")[0]) for entry in range(3)])
        made.append((child.cid, block))
    cache = NodeCache(links=8)
    first = cache.node(*made[0])
    assert cache.node(*made[0]) is first
    cache.node(*made[1])
    assert cache.node(*made[0]) is first
    cache.node(*made[2])
    assert cache.node(*made[0]) is first  # used last before: the second one went
    tiny = NodeCache(links=1)
    assert tiny.node(*made[3]) is tiny.node(*made[3])
