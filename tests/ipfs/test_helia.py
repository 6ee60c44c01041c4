"""Helia, the IPFS of browsers, fetches from a modelnet node over HTTP and believes no wrong byte of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from modelnet import Publication
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server
from tests.engines import helia_fetch, need_helia
from tests.ipfs.conftest import Maker
from tests.ipfs.liar import lying
from tests.ipfs.models import release_files

Folder = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture
def served(maker: Maker, folder: Folder) -> Iterator[tuple[Publication, str]]:
    """Give a release and the node that serves it."""
    need_helia()
    made = maker.publish(folder(release_files(300)))
    with Server(Doors(maker.store), "127.0.0.1") as node:
        yield made, node.url


def test_helia_gets_the_whole_release(served: tuple[Publication, str], tmp_path: Path) -> None:
    """It knows the address of our routing door only, and has every file of every format, byte for byte."""
    made, url = served
    files = release_files(300)
    said = helia_fetch(url, str(made.manifest.tree), tmp_path / "out")
    assert said == {"files": len(files), "bytes": sum(map(len, files.values()))}
    out = tmp_path / "out"
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_helia_refuses_a_tampered_block(served: tuple[Publication, str], tmp_path: Path) -> None:
    """One bit of one chunk is another: the file that has it does not arrive, and the error is about that block."""
    made, url = served
    entry = next(entry for entry in made.manifest.files if entry.path == "config.json")
    with lying(url, str(entry.cid)) as liar:
        said = helia_fetch(liar.url, str(entry.cid), tmp_path / "out")
        assert liar.lies > 0
    assert any("LoadBlockFailed" in text or "NotFound" in text for text in said["error"]), said
    assert not (tmp_path / "out").exists()
