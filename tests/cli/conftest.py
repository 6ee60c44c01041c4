"""A machine that has published, one that has pulled, and the node between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.store.stage import Machine, serving, write_random


@dataclass(frozen=True)
class Scene:
    """Alice published `source` as acme/m@1; bob pulled it from `url`; both may be changed by one test only."""

    alice: Machine
    bob: Machine
    source: Path
    url: str
    locator: str


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give the scene, made anew."""
    source = tmp_path / "m"
    write_random(source / "a.bin", 2_000_000)
    write_random(source / "sub" / "b.txt", 1000, seed=2)
    alice = Machine(tmp_path / "alice").with_publisher("acme")
    bob = Machine(tmp_path / "bob")
    made = alice.publish(source, channels=["stable"])
    with serving(alice.home) as url:
        bob.pull(made.locator, url)
        yield Scene(alice, bob, source, url, made.locator)
