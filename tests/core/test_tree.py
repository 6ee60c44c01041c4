"""The directory of a release: built from its files alone, the same at both ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.cid import Cid
from modelnet.core.hamt import FANOUT, SHARD_ABOVE, build_directory
from modelnet.core.tree import build_tree, file_child
from modelnet.core.unixfs import Child, Kind, Node, Profile, balanced, directory, parse_node
from tests.core.dags import Store, chunk, nodes_of
from tests.core.test_filetree import LAYOUTS

paths = st.lists(
    st.lists(st.sampled_from(["a", "b", "ü", "long name.bin"]), min_size=1, max_size=4).map("/".join),
    unique=True,
    max_size=8,
).filter(lambda found: not any(one != two and two.startswith(one + "/") for one in found for two in found))


def files_in(root: Cid, blocks: dict[Cid, bytes], prefix: str = "") -> dict[str, Cid]:
    """Return every file below a directory, walked as a stranger would: by its blocks."""
    node, found = parse_node(blocks[root]), {}
    assert node.kind in (Kind.DIRECTORY, Kind.HAMT)
    for link in node.links:
        name = link.name if node.kind is Kind.DIRECTORY else link.name[2:]
        if not name:
            found.update(files_in(link.cid, blocks, prefix))
        elif link.cid in blocks:
            found.update(files_in(link.cid, blocks, f"{prefix}{name}/"))
        else:
            found[prefix + name] = link.cid
    return found


@given(paths, st.randoms(use_true_random=False))
def test_every_file_is_where_it_belongs(found: list[str], order: random.Random) -> None:
    """A walk over the blocks finds exactly the files, and their order does not matter."""
    files = [(path, chunk(number, 10 + number)) for number, path in enumerate(found)]
    blocks: dict[Cid, bytes] = {}
    root = build_tree(files, blocks.__setitem__)
    assert files_in(root.cid, blocks) == {path: child.cid for path, child in files}
    shuffled = order.sample(files, len(files))
    assert build_tree(shuffled, Store().emit) == root


def test_a_file_is_no_folder() -> None:
    """A path that runs through a file is refused."""
    for found in (["a", "a/b"], ["a/b", "a/b/c"]):
        with pytest.raises(TypeError):
            build_tree([(path, chunk(0, 1)) for path in found], Store().emit)


@given(LAYOUTS)
def test_a_puller_computes_the_same_child(layout: list[int | list[int]]) -> None:
    """From its manifest entry and nodes, a file looks to its directory as it did to the publisher."""
    store = Store()
    profile = Profile(width=4)
    numbers = iter(range(10**6))
    tops = [
        chunk(next(numbers), part)
        if isinstance(part, int)
        else balanced([chunk(next(numbers), size) for size in part], store.emit, profile)
        for part in layout
    ]
    root = balanced(tops, store.emit, profile)
    nodes: dict[Cid, tuple[Node, int]] = {
        cid: (node, len(store[cid])) for cid, node in nodes_of(root.cid, store).items()
    }
    assert file_child(root.cid, root.size, nodes) == root


def names(count: int, length: int) -> list[tuple[str, Child]]:
    """Return the entries of a folder with many names of one length."""
    return [(f"{number:0{length}}", chunk(number, 1)) for number in range(count)]


def test_a_folder_is_sharded_above_the_threshold() -> None:
    """The flat node of exactly 256 KiB stays; one byte more in a name shards it."""
    flat = names(4766, 11)
    short = SHARD_ABOVE - len(directory(flat)[1])
    assert 0 < short < 100
    exact = [*flat[:-1], (flat[-1][0] + "x" * short, flat[-1][1])]
    over = [*flat[:-1], (flat[-1][0] + "x" * (short + 1), flat[-1][1])]
    for entries, kind in ((exact, Kind.DIRECTORY), (over, Kind.HAMT)):
        store = Store()
        root = build_directory(entries, store.emit)
        assert parse_node(store[root.cid]).kind is kind
        assert files_in(root.cid, store) == {name: child.cid for name, child in entries}


def test_shards_say_what_they_are() -> None:
    """Every shard has the fan-out and hash of the specification, and its cumulative size counts all below it."""
    store = Store()
    entries = names(9000, 30)
    root = build_directory(entries, store.emit)
    for block in store.values():
        node = parse_node(block)
        assert (node.kind, node.fanout, node.hash_type) == (Kind.HAMT, FANOUT, 0x22)
        assert int.from_bytes(node.content, "big").bit_count() == len(node.links)
    assert root.tsize == sum(map(len, store.values())) + sum(child.tsize for _, child in entries)


def test_one_chunk_needs_no_node() -> None:
    """A file of one chunk is its own root, and its directory sees its length twice."""
    child = chunk(0, 77)
    assert file_child(child.cid, 77, {}) == child


def test_names_that_hash_alike() -> None:
    """Two entries that no bit of the hash tells apart are refused; Kubo has no answer to that either."""
    entries = names(9000, 30)
    with pytest.raises(ValueError, match="equal"):
        build_directory([*entries, entries[0]], Store().emit)
