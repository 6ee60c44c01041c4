"""An unchanged Kubo without any peer pulls releases from a modelnet node over plain HTTP, straight from the files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelnet import Publication, init, publish
from modelnet.core.cid import RAW, Cid
from modelnet.stores.local import open_store
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server
from tests.engines import Kubo, kubo_daemon, need_kubo
from tests.ipfs.liar import lying
from tests.ipfs.models import large_tensors, release_files
from tests.registry.stock import Client


@dataclass
class World:
    """A node with a release, and a Kubo whose only way to find blocks is the node's routing door."""

    made: Publication
    node: Server
    kubo: Kubo


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give the two."""
    need_kubo()
    base = tmp_path_factory.mktemp("world")
    for name, content in release_files().items():
        path = base / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    init(home=base / "home")
    made = publish(base / "model", name="m", version="1", home=base / "home")
    store = open_store(base / "home")
    with ExitStack() as stack:
        node = stack.enter_context(Server(Doors(store), "127.0.0.1"))
        (base / "kubo").mkdir()
        kubo = stack.enter_context(kubo_daemon(base / "kubo", config=only_through(node.url)))
        yield World(made, node, kubo)
    store.index.close()


def only_through(*urls: str) -> dict[str, str]:
    """Return the settings of a Kubo that asks `urls` for providers, and nobody else."""
    routers = ", ".join(f'"{url}"' for url in urls)
    return {"Routing.Type": '"delegated"', "Routing.DelegatedRouters": f"[{routers}]"}


def test_kubo_gets_the_whole_release(world: World, tmp_path: Path) -> None:
    """`ipfs get` of the tree gives every file of every format, the empty one too; it has no peer but our door."""
    world.kubo.run("get", "--timeout=60s", "--output", tmp_path / "out", str(world.made.manifest.tree))
    out = tmp_path / "out"
    got = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert got == release_files()


def test_kubo_pins_the_manifest_and_reads_one_tensor(world: World) -> None:
    """A recursive pin of the manifest follows its links over HTTP; a tensor is had by its own CID."""
    root = str(world.made.release.manifest)
    world.kubo.run("pin", "add", "--recursive", "--name=m@1", "--timeout=60s", root)
    assert f"{root} recursive m@1" in world.kubo.run("pin", "ls", "--names", "--type=recursive").decode()
    entry = next(entry for entry in world.made.manifest.files if entry.path == "model.safetensors")
    store = open_store(world.made.path.parent / "home")
    spans = {(span.start, span.end): span.cid for span in store.tree(entry).spans}
    start, end = large_tensors(release_files()[entry.path])[0]
    assert world.kubo.run("cat", "--timeout=30s", str(spans[start, end])) == release_files()[entry.path][start:end]


def test_kubo_refuses_a_tampered_block(world: World, tmp_path: Path) -> None:
    """A block of other bytes is not taken: the rest of the release arrives, the file that needs it does not."""
    config = next(entry for entry in world.made.manifest.files if entry.path == "config.json")
    tflite = next(entry for entry in world.made.manifest.files if entry.path == "model.tflite")
    (tmp_path / "kubo").mkdir()
    with (
        lying(world.node.url, str(config.cid)) as liar,
        kubo_daemon(tmp_path / "kubo", config=only_through(liar.url)) as kubo,
    ):
        assert kubo.run("cat", "--timeout=30s", str(tflite.cid)) == release_files()["model.tflite"]
        with pytest.raises(subprocess.CalledProcessError):
            kubo.run("cat", "--timeout=5s", str(config.cid))
        for cid in (config.cid, Cid.of(RAW, _flipped())):
            with pytest.raises(subprocess.CalledProcessError):
                kubo.run("block", "stat", "--offline", str(cid))
        assert liar.lies > 0


def _flipped() -> bytes:
    content = release_files()["config.json"]
    return bytes([content[0] ^ 1]) + content[1:]


def test_a_node_that_was_edited_gives_nothing_wrong(world: World, tmp_path: Path) -> None:
    """A file that changed under a running node is missing there, with 404 and not an error that Kubo counts."""
    path = tmp_path / "home"
    init(home=path)
    (tmp_path / "m.bin").write_bytes(b"as published")
    made = publish(tmp_path / "m.bin", name="m", version="1", home=path)
    (tmp_path / "m.bin").write_bytes(b"as modified!")
    with Server(Doors(open_store(path)), "127.0.0.1") as node:
        client = Client(node.url)
        answer = client(f"/ipfs/{made.manifest.files[0].cid}?format=raw")
        client.close()
    assert answer.status == 404
    assert re.match(rb"block \S+ is not here", answer.body)
    assert world.node.url
