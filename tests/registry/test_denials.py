"""What a node denies leaves it under no root: not through a folder, a shard, a path or a healthy release around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from modelnet import Publication, init, publish
from modelnet.core.cid import DAG_CBOR, DAG_PB, RAW, Cid
from modelnet.core.unixfs import Kind, parse_node
from modelnet.gate import Gate
from modelnet.stores.local import LocalStore, open_store
from modelnet_registry import statements
from modelnet_registry.denials import Denials
from modelnet_registry.http.doors import Doors
from tests.registry.conftest import Serve
from tests.registry.stock import Client

EVIL = b"EVILEVIL" * 200_000
MANY = 1500  # files with long names: more than one block of a folder may list, so it is made of shards


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give a store with a publisher."""
    init(alias="acme", home=tmp_path / "home")
    return tmp_path / "home"


def release(home: Path, version: str, files: Mapping[str, bytes]) -> Publication:
    """Publish `files` as a version."""
    base = home.with_name("files") / version
    for name, content in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return publish(base, name="m", version=version, home=home)


def folders(store: LocalStore, made: Publication) -> dict[Cid, Kind]:
    """Return the folder nodes of a release, shards too."""
    files = {entry.cid for entry in made.manifest.files}
    found: dict[Cid, Kind] = {}
    wanted = [made.manifest.tree]
    while wanted:
        cid = wanted.pop()
        block = store.block(cid)
        assert block is not None
        node = parse_node(block)
        found[cid] = node.kind
        wanted += [link.cid for link in node.links if link.cid.codec == DAG_PB and link.cid not in files]
    return found


def node(home: Path, serve: Serve) -> Client:
    """Serve a store with what is denied now."""
    store = open_store(home)
    return serve(Doors(store, denied=Denials(Gate.open(store)).refresh().reason))[1]


def test_no_folder_of_a_revoked_release_is_given(home: Path, serve: Serve) -> None:
    """Neither its tree nor any folder or shard below; what a healthy release has too stays, folders included."""
    bad = release(home, "1", {
        "top.txt": b"t", "weights/evil.bin": EVIL, "weights/small.txt": b"EVILSMALL",
        "shared/keep.bin": b"keep" * 100_000,
        **{f"many/{'x' * 150}{number}": b"EVIL%d" % number for number in range(MANY)},
    })  # fmt: skip
    good = release(home, "2", {"shared/keep.bin": b"keep" * 100_000, "other.bin": b"other"})
    store = open_store(home)
    below, kept = folders(store, bad), folders(store, good)
    assert Kind.HAMT in below.values()
    assert len(below.keys() & kept.keys()) == 1, "the folder that both have"
    statements.revoke("acme/m@1", severity="malicious", home=home)
    client = node(home, serve)
    for cid in (bad.release.manifest, *(cid for cid in below if cid not in kept)):
        for question in ("format=raw", "format=car", "format=car&dag-scope=block"):
            assert client(f"/ipfs/{cid}?{question}").status == 410, (cid, question)
        assert client(f"/routing/v1/providers/{cid}").body == b'{"Providers":[]}\n'
    # The same bytes under another codec are the same bytes.
    assert client(f"/ipfs/{Cid(RAW, bad.manifest.tree.code, bad.manifest.tree.digest)}?format=raw").status != 200
    for cid in (good.release.manifest, *kept):
        assert client(f"/ipfs/{cid}?format=car").status == 200
        assert client(f"/routing/v1/providers/{cid}").body != b'{"Providers":[]}\n'
    assert (home / "modelnet.deny").read_text().count("/ipfs/") >= len(below) - 1


def test_a_revoked_file_leaves_with_no_release_around_it(home: Path, serve: Serve) -> None:
    """The release is healthy but for one file: no CAR that would hold it is given; all without it is."""
    release(home, "1", {"weights/evil.bin": EVIL})
    made = release(home, "2", {"weights/evil.bin": EVIL, "weights/good.bin": b"good" * 100_000, "top.txt": b"t"})
    statements.revoke("acme/m@1", severity="malicious", files=["weights/evil.bin"], home=home)
    client = node(home, serve)
    manifest, tree = made.release.manifest, made.manifest.tree
    assert manifest.codec == DAG_CBOR
    for path in (f"{manifest}", f"{tree}", f"{tree}/weights", f"{tree}/weights/evil.bin", f"{manifest}/tree/weights"):
        reply = client(f"/ipfs/{path}?format=car")
        assert reply.status == 410, path
        assert b"EVIL" not in reply.body
    for path in (f"{tree}/weights/good.bin", f"{tree}/top.txt", f"{manifest}/tree/weights/good.bin"):
        assert client(f"/ipfs/{path}?format=car").status == 200, path
    assert client(f"/ipfs/{tree}/weights?format=car&dag-scope=entity").status == 200
    assert client(f"/ipfs/{manifest}?format=raw").status == 200
