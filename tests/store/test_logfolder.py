"""The log folder against the pure tree: every size, any step, what a crash leaves, and what is pruned."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modelnet.core.merkle import leaf_hash, root
from modelnet.core.tiles import Tile, parse_bundle, tile_at, tiles_of
from modelnet.errors import MalformedError, UnavailableError
from modelnet.stores.logfolder import LogFolder

ENTRIES = [f"entry {index}".encode() * (index % 5 + 1) for index in range(70_000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def grown(path: Path, *sizes: int) -> LogFolder:
    """Return a folder that was appended to until each of `sizes` in turn."""
    folder, before = LogFolder(path), 0
    for size in sizes:
        folder.append(before, ENTRIES[before:size])
        folder.prune(size, after=before)
        before = size
    return folder


@pytest.mark.parametrize(
    "sizes", [(1,), (1, 2, 3), (255, 256, 257), (256, 512), (1, 600), (300, 301, 900), (65_535, 65_537)]
)
def test_tiles_give_the_entries_and_every_root(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Whatever the steps, entries and roots are those of the tree."""
    folder = grown(tmp_path, *sizes)
    size = sizes[-1]
    assert list(folder.entries(0, size)) == ENTRIES[:size]
    for some in {1, size // 2 or 1, size - 1 or 1, size}:
        assert folder.root(some) == root(LEAVES[:some])
    first = size // 3
    assert list(folder.entries(first, size)) == ENTRIES[first:size]


def test_random_steps(tmp_path: Path) -> None:
    """What is on disk after many steps is exactly what the last size needs."""
    draw = random.Random(7)
    sizes = sorted(draw.sample(range(1, 3000), 25))
    folder = grown(tmp_path, *sizes)
    assert folder.root(sizes[-1]) == root(LEAVES[: sizes[-1]])
    wanted = {tile.path for tile in tiles_of(sizes[-1])}
    found = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "tile").rglob("*") if path.is_file()}
    assert found == wanted, "only the tiles of the last size are kept"


def test_an_older_partial_tile_is_cut_out_of_the_wider_one(tmp_path: Path) -> None:
    """A reader of an older head still gets its tiles."""
    folder = grown(tmp_path, 10, 300)
    bundle, hashes = folder.tile(Tile(None, 0, 10)), folder.tile(Tile(0, 0, 10))
    assert bundle is not None
    assert hashes is not None
    assert parse_bundle(bundle, 10) == ENTRIES[:10]
    assert hashes == b"".join(LEAVES[:10])
    assert folder.tile(Tile(0, 1, 45)) is None, "of a size that is not there yet"


def test_what_was_appended_and_not_committed_is_replaced(tmp_path: Path) -> None:
    """A crash between append and commit costs nothing."""
    folder = grown(tmp_path, 200)
    folder.append(200, [b"never signed"] * 80)
    folder.append(200, ENTRIES[200:210])
    folder.prune(210, after=200)
    assert folder.root(210) == root(LEAVES[:210])
    folder.append(210, ENTRIES[210:280])
    assert folder.root(280) == root(LEAVES[:280])
    assert list(folder.entries(0, 280)) == ENTRIES[:280]


def test_a_full_tile_that_nobody_signed_does_not_hide_the_committed_one(tmp_path: Path) -> None:
    """Leftovers of a longer append are never read as part of the log."""
    folder = grown(tmp_path, 200)
    folder.append(200, [b"never signed"] * 80)  # leaves a full tile 0 and a partial tile 1 behind
    assert folder.root(200) == root(LEAVES[:200])
    folder.append(200, ENTRIES[200:201])
    folder.prune(201, after=200)
    folder.append(201, ENTRIES[201:230])
    folder.prune(230, after=201)
    assert folder.root(201) == root(LEAVES[:201]) == folder.root(201)
    assert list(folder.entries(0, 201)) == ENTRIES[:201]


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    """Every file is bounded and regular before it means anything."""
    folder = grown(tmp_path, 5)
    path = tmp_path / tile_at(0, 0, 5).path
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(MalformedError, match="too large"):
        folder.root(5)
    path.write_bytes(b"x" * 31)
    with pytest.raises(MalformedError, match="another length"):
        folder.root(5)
    path.unlink()
    with pytest.raises(UnavailableError, match="missing"):
        folder.root(5)
    path.symlink_to("/etc/passwd")
    with pytest.raises(UnavailableError, match="cannot read"):
        folder.root(5)
    (tmp_path / "checkpoint").write_bytes(b"x" * 70_000)
    with pytest.raises(MalformedError, match="too large"):
        folder.checkpoint()
