"""One published world for all tests of a worker, an honest node over it, and clocks that run faster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelnet import fetching
from modelnet.core import transfer
from modelnet.stores import http
from tests.transfer.scene import Scene
from tests.transfer.world import World, serving


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give a publisher with `m` at 1.0 and 1.1; read it only."""
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def node(world: World) -> Iterator[str]:
    """Give the URL of an honest node that has both versions."""
    with serving(world.home) as url:
        yield url


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the test when a pull leaves its watcher running."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "modelnet-watcher"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make seconds of waiting for a bad source into tenths; the proportions stay."""
    monkeypatch.setattr(transfer, "STALL_S", 1.5)
    monkeypatch.setattr(transfer, "GRACE_S", 1.2)
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.02)
    monkeypatch.setattr(transfer, "EMPTY_S", 0.05)
    monkeypatch.setattr(transfer, "STRIKES", 2)
    monkeypatch.setattr(fetching, "WATCH_S", 0.05)
    monkeypatch.setattr(fetching, "REQUEST_S", 1.5)
    monkeypatch.setattr(http, "CONNECT_S", 2.0)
    monkeypatch.setattr(http, "READ_S", 3.0)


@pytest.fixture
def scene(world: World, node: str, tmp_path: Path) -> Scene:
    """Give the world, its honest node and an empty folder for the puller's store."""
    return Scene(world, node, tmp_path / "puller")
