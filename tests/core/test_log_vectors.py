"""The published logs: tiles, heads, and the state that every implementation has to make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelnet.core import merkle
from modelnet.core.adoption import adopt, check_head
from modelnet.core.fold import PublisherState, apply_negative
from modelnet.core.note import SignedNote
from modelnet.core.tiles import CHECKPOINT_PATH, Tile, parse_bundle, subtrees, tiles_of
from tests.core.logs import described

VECTORS = Path(__file__).parents[2] / "fixtures" / "vectors" / "log"
CASES = sorted(path.parent.name for path in VECTORS.glob("*/expected.json"))


def entries_of(folder: Path, size: int) -> list[bytes]:
    """Return the entries in a log folder."""
    bundles = [tile for tile in tiles_of(size) if tile.level is None]
    return [entry for tile in bundles for entry in parse_bundle((folder / tile.path).read_bytes(), tile.width)]


def test_every_case_is_here() -> None:
    """No case was lost."""
    assert CASES == ["delegates", "keys", "long", "recovered", "releases", "revocations", "unreadable"]


@pytest.mark.parametrize("case", CASES)
def test_the_tiles_of_a_log_are_those_of_its_size(case: str) -> None:
    """The folder holds the tiles and bundles of its size and nothing else; they hash to the signed head."""
    folder = VECTORS / case
    expected = json.loads((folder / "expected.json").read_text())
    size = expected["size"]
    found = {path.relative_to(folder).as_posix() for path in (folder / "tile").rglob("*") if path.is_file()}
    leaves = [merkle.leaf_hash(entry) for entry in entries_of(folder, size)]
    level0 = [tile for tile in tiles_of(size) if tile.level == 0]

    assert found == {tile.path for tile in tiles_of(size)}
    assert [value for tile in level0 for value in tile.hashes((folder / tile.path).read_bytes())] == leaves
    subtree = subtrees(size, lambda tile: (folder / tile.path).read_bytes())
    assert subtree(0, size).hex() == merkle.root(leaves).hex() == expected["root_hash"]
    for index in {0, size // 2, size - 1}:
        proof = merkle.inclusion_proof(index, size, subtree)
        merkle.check_inclusion(leaves[index], index, size, proof, bytes.fromhex(expected["root_hash"]))


@pytest.mark.parametrize("case", CASES)
def test_a_log_makes_the_expected_state(case: str) -> None:
    """Folding the entries, then what comes from outside, gives the published state; the head is the log's own."""
    folder = VECTORS / case
    expected = json.loads((folder / "expected.json").read_text())
    entries = entries_of(folder, expected["size"])
    state = PublisherState.fold(entries, expected["pid"])
    note = SignedNote.parse((folder / CHECKPOINT_PATH).read_bytes())
    head = check_head(state, note)
    for path in sorted(folder.glob("outside-*.json")):
        apply_negative(state, path.read_bytes())

    assert described(state) == expected
    assert (head.origin, head.size, head.root.hex()) == (expected["origin"], expected["size"], expected["root_hash"])


@pytest.mark.parametrize("case", CASES)
def test_a_log_may_be_adopted_in_any_steps(case: str) -> None:
    """Folding in two steps, onto a copy, is folding at once."""
    folder = VECTORS / case
    expected = json.loads((folder / "expected.json").read_text())
    entries = entries_of(folder, expected["size"])
    note = SignedNote.parse((folder / CHECKPOINT_PATH).read_bytes())
    at_once = PublisherState.fold(entries, expected["pid"])
    for size in {1, len(entries) // 2, len(entries)}:
        grown, _ = adopt(PublisherState.fold(entries[:size], expected["pid"]), note, entries[size:])
        assert described(grown) == described(at_once)


def test_paths_in_a_log_folder_are_tiles() -> None:
    """Every file below `tile` has the one spelling of a tile's path."""
    for path in VECTORS.glob("*/tile/**/*"):
        if path.is_file():
            Tile.parse(path.relative_to(VECTORS / path.relative_to(VECTORS).parts[0]).as_posix())
