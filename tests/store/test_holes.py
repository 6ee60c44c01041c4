"""Holes in files: zeros take no room after a pull either, and are right all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelnet
from tests.store.stage import Machine, digests, serving, throttled

MIB = 1 << 20
SIZE = 32 * MIB


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[tuple[Path, str, str]]:
    """Give a folder with a sparse file, published; the locator; the URL of a node that has it."""
    path = tmp_path / "m" / "a.bin"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(SIZE // 2 + 12345)
        file.write(os.urandom(MIB))
    if path.stat().st_blocks * 512 > 8 * MIB:
        pytest.skip("this file system has no holes")
    alice = Machine(tmp_path / "alice").with_publisher()
    made = alice.publish(path.parent)
    with serving(alice.home) as url:
        yield path.parent, made.locator, url


def test_holes_stay_holes(sparse: tuple[Path, str, str], tmp_path: Path) -> None:
    """A pull takes as much of the disk as what was published, and every byte of it verifies and is served."""
    source, locator, url = sparse
    bob, carol = Machine(tmp_path / "bob"), Machine(tmp_path / "carol")
    got = bob.pull(locator, url)
    assert digests(got.path) == digests(source)
    assert (got.path / "a.bin").stat().st_blocks * 512 < 4 * MIB
    assert modelnet.verify(locator, home=bob.home).size == SIZE
    bob.fsck()
    with serving(bob.home) as near:
        assert digests(carol.pull(locator, near).path) == digests(source)


def test_what_lies_in_the_way_of_a_hole_is_overwritten(sparse: tuple[Path, str, str], tmp_path: Path) -> None:
    """Bytes that an earlier pull left where zeros belong do not stay; holes that are right count as here."""
    source, locator, url = sparse
    bob = Machine(tmp_path / "bob")
    with throttled(url, 100 * MIB) as wire:
        wire.silent_after = 3 * MIB // 2
        process = bob.start("pull", locator, "--peer", wire.url)
        while not (found := list((bob.home / "partial").glob("*/files/a.bin"))):
            assert process.poll() is None
        process.kill()
        process.communicate()
    with found[0].open("r+b") as file:
        file.truncate(SIZE)
        file.seek(3 * MIB + 17)
        file.write(b"junk")
    got = bob.pull(locator, url)
    assert digests(got.path) == digests(source)
    assert got.plan.present > SIZE // 2
