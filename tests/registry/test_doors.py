"""The doors beside the gateway, and the node that opens them."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from modelnet.core.cid import DAG_CBOR, Cid
from modelnet.core.identity import make_genesis
from modelnet.core.keys import SigningKey
from modelnet.errors import MalformedError, UnavailableError
from modelnet.stores.index import ReleaseRow
from modelnet.stores.keyring import ROLES
from modelnet.stores.petnames import Petnames
from modelnet_registry.http.doors import Doors
from modelnet_registry.node import run_node
from tests.registry.conftest import Serve
from tests.registry.stock import Client, Stock, noise

GENESIS = make_genesis({role: SigningKey.from_seed(bytes([number]) * 32) for number, role in enumerate(ROLES)})
PID = GENESIS.pid


def release(stock: Stock, name: str, envelope: bytes, added: float) -> None:
    """Point the store at a release."""
    manifest = Cid.of(DAG_CBOR, name.encode())
    stock.store.index.add_release(ReleaseRow(PID, name, "1", manifest, envelope, Path("/m"), "folder", added))


@pytest.mark.parametrize(
    "path", [f"/log/{PID}/checkpoint", "/log/x/checkpoint", "/log//checkpoint", f"/log/{PID}", "/log"]
)
def test_an_unknown_log_is_404(get: Client, path: str) -> None:
    """Nothing is known of this publisher, or it is no publisher at all."""
    assert get(path).status == 404


def test_health(stock: Stock, get: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive is one thing, able to read the store another."""
    assert get("/healthz").body == get("/readyz").body == b"ok\n"

    def broken(*_: object) -> None:
        raise MalformedError("index is damaged")

    monkeypatch.setattr(type(stock.store.index), "data_version", broken)
    assert get("/healthz").status == 200
    assert get("/readyz").status == 503


def test_the_page_lists_releases_and_escapes_them(stock: Stock, get: Client) -> None:
    """Names and aliases are other people's words, never markup; nothing may be loaded or framed."""
    Petnames(stock.store.home).add("acme", PID)
    release(stock, "<img src=x>", b"e", 1.0)
    answer = get("/")
    page = answer.body.decode()
    assert "acme<td>&lt;img src=x&gt;@1" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "1 releases" in page
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert get("/nothing").status == 404


def test_a_node_says_when_it_is_ready_and_stops_when_told(stock: Stock) -> None:
    """The URL is real from the moment it is said, and the port is free afterwards."""
    root = stock.file("f.bin", noise(5000), chunk=1000)
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    def said(url: str) -> None:
        urls.append(url)
        ready.set()

    node = threading.Thread(target=run_node, args=(stock.store, "127.0.0.1", 0), kwargs={"ready": said, "stop": stop})
    node.start()
    assert ready.wait(20)
    get = Client(urls[0])
    assert get(f"/ipfs/{root.cid}?format=car").cids == stock.below(root.cid)
    with pytest.raises(UnavailableError):
        run_node(stock.store, "127.0.0.1", get.address[1], ready=said, stop=stop)
    stop.set()
    node.join(5)
    assert not node.is_alive()
    get.close()


def test_curl_agrees(stock: Stock, serve: Serve, tmp_path: Path) -> None:
    """Another implementation reads our answers: HEAD, ranges, compressed requests, a reused connection."""
    content = noise(100_000)
    root = stock.file("f.bin", content, chunk=30_000)
    server, _ = serve(Doors(stock.store))
    chunk = stock.below(root.cid)[1]
    try:
        run = subprocess.run(
            ["curl", "--silent", "--show-error", "--fail", "--range", "10-19", f"{server.url}/ipfs/{chunk}?format=raw",
             "--next", "--silent", "--head", f"{server.url}/ipfs/{root.cid}?format=car",
             "--next", "--silent", "--compressed", "--output", str(tmp_path / "out.car"),
             "--write-out", "%{num_connects}",
             f"{server.url}/ipfs/{root.cid}?format=car"],
            capture_output=True, check=True, timeout=20,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no curl")
    assert run.stdout.startswith(content[10:20] + b"HTTP/1.1 200 OK\r\n")
    assert run.stdout.endswith(b"\r\n\r\n0")
    assert len((tmp_path / "out.car").read_bytes()) > len(content)
    assert run.stderr == b""
