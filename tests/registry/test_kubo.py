"""What Kubo makes of our streams: it imports a CAR as it is and gives back the same bytes."""

from __future__ import annotations

from pathlib import Path

from modelnet_registry.http.doors import Doors
from tests.engines import Kubo
from tests.registry.conftest import Serve
from tests.registry.stock import Stock, noise


def test_kubo_imports_what_the_gateway_sends(stock: Stock, serve: Serve, kubo: Kubo, tmp_path: Path) -> None:
    """A folder of ours, fetched as one CAR, is whole in Kubo under the same root."""
    content = noise(3_000_000)
    weights = stock.file("weights.bin", content, chunk=100_000, width=7)
    root = stock.folder({"config.json": stock.file("config.json", b"{}"), "sub": stock.folder({"w": weights})})
    get = serve(Doors(stock.store))[1]
    (tmp_path / "folder.car").write_bytes(get(f"/ipfs/{root.cid}?format=car").body)
    kubo.run("dag", "import", str(tmp_path / "folder.car"))
    kubo.run("get", "--output", str(tmp_path / "out"), str(root.cid))
    assert (tmp_path / "out" / "sub" / "w").read_bytes() == content
    assert (tmp_path / "out" / "config.json").read_bytes() == b"{}"
