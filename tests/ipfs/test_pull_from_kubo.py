"""Kubo is one more source: through its gateway, beside peers, and as little trusted as any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from modelnet import pull
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.ipfs.push import push
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server
from tests.engines import Kubo
from tests.ipfs.conftest import Maker
from tests.ipfs.models import release_files

Folder = Callable[[Mapping[str, bytes]], Path]


def test_kubo_has_what_the_publisher_lost(
    maker: Maker, folder: Folder, pair: tuple[Kubo, Kubo], client: KuboClient, tmp_path: Path
) -> None:
    """The publisher's files are gone and its node gives the signed log only: all bytes come through another Kubo."""
    base = folder(release_files(200))
    made = maker.publish(base)
    push(maker.store, client, made.release.manifest, "modelnet/m@1")
    for path in base.rglob("*"):
        if path.is_file():
            path.unlink()
    with Server(Doors(maker.store), "127.0.0.1") as node:
        gateway = pair[1].gateway  # it has nothing yet, and fetches over bitswap as it is asked
        got = pull(made.locator, peers=[node.url, gateway], to=tmp_path / "got", home=tmp_path / "puller")
    out = tmp_path / "got"
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == (
        release_files(200)
    )
    sources = {report.source: report for report in got.sources}
    assert sources[gateway].bytes == got.plan.fetched > 0
    assert sources[gateway].state == "ok"
    assert json.loads(pair[1].run("repo", "stat", "--enc=json"))["NumObjects"] > 0
