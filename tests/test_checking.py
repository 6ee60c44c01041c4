"""A file on disk against its chunk list: exactly the right chunks are found, whatever is asked for and damaged."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelnet.checking import CORES, check_chunks, open_file
from modelnet.core.cid import BLAKE3, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree
from modelnet.core.manifest import FileEntry
from modelnet.core.unixfs import Child, Node, balanced, parse_node

KIB, MIB = 1024, 1024 * 1024


def layout(content: bytes, sizes: list[int]) -> FileTree:
    """Return the chunk list of `content`, cut into `sizes`."""
    nodes: dict[Cid, Node] = {}
    leaves, offset = [], 0
    for size in sizes:
        leaves.append(Child(Cid(RAW, BLAKE3, blake3_digest(content[offset : offset + size])), size, size))
        offset += size
    top = balanced(leaves, lambda cid, block: nodes.update({cid: parse_node(block)}))
    return FileTree(FileEntry("model.bin", len(content), top.cid, bytes(32), bytes(32), "grid/1"), nodes)


@pytest.mark.parametrize("seed", range(8))
def test_exactly_the_right_chunks(tmp_path: Path, seed: int) -> None:
    """Chunks of any size, any of them asked for, some damaged, the end cut off: what is right is found, in order."""
    chance = random.Random(seed)
    sizes = [chance.choice([1, 700, 64 * KIB, 256 * KIB, MIB - 1, MIB]) for _ in range(chance.choice([1, 2, 40, 200]))]
    content = bytearray(chance.randbytes(sum(sizes)))
    tree = layout(bytes(content), sizes)
    damaged = {index for index in range(len(sizes)) if chance.random() < 0.1}
    for index in damaged:
        content[tree.offsets[index] + chance.randrange(sizes[index])] ^= 1
    end = chance.choice([len(content), len(content) - 1, chance.randrange(len(content) + 1)])
    path = tmp_path / "model.bin"
    path.write_bytes(content[:end])
    asked = [index for index in range(len(sizes)) if chance.random() < chance.choice([0.3, 0.9, 1])]
    handle = open_file(path)
    seen: list[int] = []
    with ThreadPoolExecutor(CORES) as pool:
        for indexes in (asked, range(len(sizes))):
            seen.clear()
            right = check_chunks(handle, tree, indexes, pool, seen.append)
            whole = [i for i in indexes if i not in damaged and tree.offsets[i] + sizes[i] <= end]
            assert right == whole
            assert sum(seen) == sum(sizes[index] for index in indexes)
