"""Logs as static files: paths, tiles and bundles of C2SP tlog-tiles, and proofs out of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import merkle
from modelnet.core.tiles import MAX_ENTRY, Tile, encode_bundle, parse_bundle, subtrees, tiles_of
from modelnet.errors import IntegrityError, MalformedError, ModelnetError

# Level 2 needs 65,536 leaves; these hold three levels at 70,000, the size of the specification's example.
SIZES = [1, 2, 255, 256, 257, 511, 512, 1000, 65_535, 65_536, 65_793, 70_000]
LEAVES = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(max(SIZES))]


def hashes_of(tile: Tile) -> Iterator[bytes]:
    """Return the hashes of a tile from the definition: each is the root over 256^level leaves."""
    step = 256 ** (tile.level or 0)
    for number in range(tile.index * 256, tile.index * 256 + tile.width):
        yield merkle.root(LEAVES[number * step : (number + 1) * step])


STORED: dict[Tile, bytes] = {}


def read(tile: Tile) -> bytes:
    """Return a tile's content, made when it is first asked for."""
    if tile not in STORED:
        STORED[tile] = b"".join(hashes_of(tile))
    return STORED[tile]


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(None, 1_234_067, 3), "tile/entries/x001/x234/067.p/3"),
        (Tile(2, 0, 1), "tile/2/000.p/1"),
        (Tile(7, 999, 255), "tile/7/999.p/255"),
        (Tile(1, 1000), "tile/1/x001/000"),
    ],
)
def test_paths_are_those_of_the_specification(tile: Tile, path: str) -> None:
    """Each tile has one path, and each path one tile."""
    assert tile.path == path
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "checkpoint", "tile", "tile/0", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/8/000", "tile/-1/000",
        "tile/0/x000/000", "tile/0/001/000", "tile/0/x001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01",
        "tile/0/000.p/1/", "tile/0/000/", "/tile/0/000", "tile/entries/000.p", "tile/data/000", "tile/0/\u0660\u0660",
        "tile/0/x001/../000", "tile/0/" + "x001/" * 7 + "000", "tile/0/000\n",
    ],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    """Other spellings, levels beyond our trees, climbing and non-digits."""
    with pytest.raises(MalformedError):
        Tile.parse(path)


@given(st.one_of(st.none(), st.integers(0, 7)), st.integers(0, (1 << 63) - 1), st.integers(1, 256))
def test_paths_come_back(level: int | None, index: int, width: int) -> None:
    """Every tile comes back from its path."""
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile


def test_tiles_of_the_specifications_example() -> None:
    """A tree of 70,000: 273 full tiles and one of 112, one full and one of 17, one of 1; and their bundles."""
    tiles = tiles_of(70_000)
    count = {
        (tile.level, tile.width): sum(t.level == tile.level and t.width == tile.width for t in tiles) for tile in tiles
    }
    assert count == {
        (None, 256): 273, (None, 112): 1, (0, 256): 273, (0, 112): 1, (1, 256): 1, (1, 17): 1, (2, 1): 1,
    }  # fmt: skip
    assert [tile.path for tile in tiles_of(256)] == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert tiles_of(0) == []


@pytest.mark.parametrize("before", [0, 1, 255, 256, 257, 65_536, 69_999, 70_000])
def test_growing_needs_the_new_tiles_only(before: int) -> None:
    """What a larger tree has beside the smaller one's is what it needs to write."""
    assert tiles_of(70_000, after=before) == [tile for tile in tiles_of(70_000) if tile not in tiles_of(before)]


@pytest.mark.parametrize("size", SIZES)
def test_proofs_from_tiles_are_those_from_leaves(size: int) -> None:
    """Roots, inclusion and consistency out of tiles are the ones that the leaves give."""
    subtree = subtrees(size, read)
    whole, root = merkle.subtrees(LEAVES[:size]), merkle.root(LEAVES[:size])
    assert subtree(0, size) == merkle.tree_root(size, subtree) == root
    assert merkle.tree_root(size // 2, subtree) == merkle.root(LEAVES[: size // 2])
    for index in {0, size // 3, size - 1}:
        proof = merkle.inclusion_proof(index, size, subtree)
        assert proof == merkle.inclusion_proof(index, size, whole)
        merkle.check_inclusion(LEAVES[index], index, size, proof, root)
    for before in {1, size // 2 or 1, size}:
        assert merkle.consistency_proof(before, size, subtree) == merkle.consistency_proof(before, size, whole)


def test_threat_20_a_tile_of_inner_hashes_is_no_tile_of_leaves() -> None:
    """Leaves and nodes are hashed apart: a node's two children, taken as an entry, hash to something else."""
    left, right = LEAVES[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
    with pytest.raises(IntegrityError):
        merkle.check_inclusion(merkle.leaf_hash(left + right), 0, 1, [], merkle.root([left, right]))
    with pytest.raises(IntegrityError):
        merkle.check_inclusion(merkle.node_hash(left, right), 0, 4, [merkle.root(LEAVES[2:4])], merkle.root(LEAVES[:4]))


def test_a_tile_has_the_length_of_its_width() -> None:
    """Nothing is read out of a tile that is too short or too long."""
    assert Tile(0, 0, 2).hashes(bytes(64)) == [bytes(32)] * 2
    for length in (0, 32, 63, 65, 96):
        with pytest.raises(MalformedError):
            Tile(0, 0, 2).hashes(bytes(length))


ENTRIES = [b"", b"a", b"\0\0", b"x" * MAX_ENTRY]


def test_bundles_come_back() -> None:
    """Entries of any length, the empty one too, behind two bytes of length."""
    content = encode_bundle(ENTRIES)
    assert content.startswith(b"\0\0\0\x01a\0\x02\0\0\xff\xffxxx")
    assert parse_bundle(content, 4) == ENTRIES
    for entries in ([], [b"x" * (MAX_ENTRY + 1)], [b""] * 257):
        with pytest.raises(ValueError, match="bundle"):
            encode_bundle(entries)


@pytest.mark.parametrize(
    ("content", "width"),
    [(b"", 1), (b"\0", 1), (b"\0\x01", 1), (b"\0\x01ab", 1), (b"\0\0\0\0", 1), (b"\0\0", 2), (b"\0\0" * 1000, 256)],
)
def test_other_bundles_are_refused(content: bytes, width: int) -> None:
    """A bundle that ends within an entry, or holds another number of them."""
    with pytest.raises(MalformedError):
        parse_bundle(content, width)


@given(st.binary(max_size=600), st.integers(1, 256))
def test_any_bytes_are_a_bundle_or_malformed(content: bytes, width: int) -> None:
    """What is accepted is the one encoding of its entries."""
    try:
        entries = parse_bundle(content, width)
    except ModelnetError:
        return
    assert encode_bundle(entries) == content


@given(st.integers(2, 600), st.data())
def test_a_changed_tile_never_proves(size: int, data: st.DataObject) -> None:
    """Tiles are not trusted: a proof made with a changed hash fails, or did not need it."""
    index = data.draw(st.integers(0, size - 1))
    place = data.draw(st.integers(0, 8191))

    def bent(tile: Tile) -> bytes:
        content = bytearray(read(tile))
        content[place % len(content)] ^= 1
        return bytes(content)

    root = merkle.root(LEAVES[:size])
    proof = merkle.inclusion_proof(index, size, subtrees(size, bent))
    if proof != merkle.inclusion_proof(index, size, merkle.subtrees(LEAVES[:size])):
        with pytest.raises(IntegrityError):
            merkle.check_inclusion(LEAVES[index], index, size, proof, root)
