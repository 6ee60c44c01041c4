"""The routing door says what Delegated Routing V1 says, in the words of its specification and of IPIP-484 and 513."""

from __future__ import annotations

import json

import pytest

from modelnet.core.cid import RAW, Cid
from modelnet_registry.http.doors import Doors
from tests.registry.conftest import Serve
from tests.registry.stock import Client, Stock, noise

TRANSPORT = "transport-ipfs-gateway-http"


@pytest.fixture
def door(stock: Stock, serve: Serve) -> tuple[Stock, Client]:
    """Give a node and what it serves."""
    return stock, serve(Doors(stock.store))[1]


def test_a_block_that_is_here_is_found_at_the_address_of_the_request(door: tuple[Stock, Client]) -> None:
    """Roots, inner nodes and chunks alike are answered by one peer record with one HTTP address: this node's."""
    stock, get = door
    root = stock.file("model.bin", noise(600_000), chunk=100_000)
    ids = set()
    for cid in stock.below(root.cid):
        answer = get(f"/routing/v1/providers/{cid}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        (record,) = json.loads(answer.body)["Providers"]
        assert record["Schema"] == "peer"
        assert record["Addrs"] == [f"/ip4/127.0.0.1/tcp/{get.address[1]}/http"]
        assert record["Protocols"] == [TRANSPORT]
        assert answer.headers["cache-control"] == "private, max-age=300"
        assert answer.headers["access-control-allow-origin"] == "*"
        ids.add(record["ID"])
    (peer,) = ids
    assert peer.startswith("12D3Koo")
    assert len(peer) == 52


def test_what_is_not_here_is_an_empty_answer(door: tuple[Stock, Client]) -> None:
    """IPIP-513: 200 and no record; a stream has no line. Identity CIDs are nobody's to provide."""
    _, get = door
    for cid in (Cid.of(RAW, b"elsewhere"), Cid(RAW, 0, b"inline")):
        answer = get(f"/routing/v1/providers/{cid}")
        assert (answer.status, json.loads(answer.body)) == (200, {"Providers": []})
        assert answer.headers["cache-control"] == "private, max-age=15"
        assert get(f"/routing/v1/providers/{cid}", accept="application/x-ndjson").body == b""


def test_records_come_one_a_line_when_asked_for(door: tuple[Stock, Client]) -> None:
    """`Accept: application/x-ndjson` gives a stream, also among other types; nothing else does."""
    stock, get = door
    cid = stock.file("a", b"x").cid
    for accept in ("application/x-ndjson", "application/json, application/x-ndjson"):
        answer = get(f"/routing/v1/providers/{cid}", accept=accept)
        assert answer.headers["content-type"] == "application/x-ndjson"
        (line,) = answer.body.splitlines()
        assert json.loads(line)["Schema"] == "peer"
    assert get(f"/routing/v1/providers/{cid}", accept="*/*").headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (f"filter-protocols=unknown,transport-bitswap,{TRANSPORT}", True),
        (f"filter-protocols={TRANSPORT.upper()}", True),
        ("filter-protocols=transport-bitswap", False),
        ("filter-protocols=unknown", False),
        (f"filter-protocols=!{TRANSPORT}", False),
        ("filter-protocols=!transport-bitswap", True),
        ("filter-addrs=http", True),
        ("filter-addrs=tls,webtransport", False),
        ("filter-addrs=!p2p-circuit", True),
        ("filter-addrs=!tcp,http", False),
        ("filter-addrs=unknown", False),
        ("filter-addrs=https,http&filter-protocols=transport-bitswap", False),
    ],
)
def test_filters(door: tuple[Stock, Client], query: str, *, found: bool) -> None:
    """IPIP-484: names are case-insensitive, `!` forbids, several are alternatives."""
    stock, get = door
    cid = stock.file("a", b"x").cid
    assert bool(json.loads(get(f"/routing/v1/providers/{cid}?{query}").body)["Providers"]) is found


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.168.1.7:8710", "/ip4/192.168.1.7/tcp/8710/http"),
        ("[fd00::7]:8710", "/ip6/fd00::7/tcp/8710/http"),
        ("Models.Example.com", "/dns/models.example.com/tcp/80/http"),
        ("a/tcp/1/http/p2p", None),
        ("host:0", None),
        ("[nonsense]", None),
        ("[::1", None),
    ],
)
def test_the_address_is_the_one_that_the_client_used(
    door: tuple[Stock, Client], host: str, address: str | None
) -> None:
    """Host becomes the multiaddr; one that is no host and port makes no address."""
    stock, get = door
    answer = get(f"/routing/v1/providers/{stock.file('a', b'x').cid}", Host=host)
    if address is None:
        assert answer.status == 400
    else:
        assert json.loads(answer.body)["Providers"][0]["Addrs"] == [address]


def test_refusals(door: tuple[Stock, Client]) -> None:
    """422 for what is no CID, 501 for the methods we do not have, 400 for an unknown path."""
    _, get = door
    assert get("/routing/v1/providers/not-a-cid").status == 422
    assert get("/routing/v1/peers/12D3KooW").status == 501
    assert get("/routing/v1/ipns/k51").status == 501
    assert get("/routing/v2/providers/x").status == 400
    assert get("/routing").status == 400


def test_a_file_that_is_gone_from_the_index_is_not_provided(door: tuple[Stock, Client]) -> None:
    """What `gc` forgot is no longer answered for."""
    stock, get = door
    cid = stock.file("a", b"x").cid
    index = stock.store.index
    index.remove_files([number for number, _, _ in index.files()])
    assert json.loads(get(f"/routing/v1/providers/{cid}").body) == {"Providers": []}
