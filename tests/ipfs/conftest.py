"""A private network of two Kubos for all tests of a worker, and releases to bring into it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelnet import Publication, init, publish
from modelnet.ipfs.address import AUTH_VARIABLE, KuboAddress
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.stores.local import LocalStore, open_store
from tests.engines import Kubo, kubo_daemon, need_kubo


@dataclass(frozen=True)
class Maker:
    """A publisher with a store of their own."""

    home: Path

    @property
    def store(self) -> LocalStore:
        """The store."""
        return open_store(self.home)

    def publish(self, folder: Path, version: str = "1", plan: str = "grid/1") -> Publication:
        """Publish `folder` as `m`."""
        return publish(folder, name="m", version=version, plan=plan, home=self.home)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kubo, Kubo]]:
    """Give two connected Kubos of one private swarm; modelnet talks to the first only."""
    need_kubo()
    key = secrets.token_hex(32)
    with (
        kubo_daemon(tmp_path_factory.mktemp("a"), swarm_key=key) as a,
        kubo_daemon(tmp_path_factory.mktemp("b"), swarm_key=key) as b,
    ):
        b.run("swarm", "connect", json.loads(a.run("id"))["Addresses"][0])
        yield a, b


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep this user's own Kubo out of the tests."""
    monkeypatch.setenv("IPFS_PATH", str(tmp_path / "no-kubo"))
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)


@pytest.fixture
def client(pair: tuple[Kubo, Kubo]) -> Iterator[KuboClient]:
    """Give our client of the first Kubo."""
    with KuboClient.connect(KuboAddress.parse(pair[0].api)) as kubo:
        yield kubo


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """Give a fresh publisher."""
    home = tmp_path / "maker"
    init(home=home)
    return Maker(home)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Give a way to write a folder of files."""

    def write(files: Mapping[str, bytes]) -> Path:
        base = tmp_path / "model"
        for name, content in files.items():
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return base

    return write
