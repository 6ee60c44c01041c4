"""What browsers need of the doors for Kubo and Helia: CORS, and CIDs in whatever multibase they were written."""

from __future__ import annotations

import base64

import pytest
from multiformats import multibase

from modelnet.core.cid import RAW, SHA2_256, Cid
from modelnet.errors import MalformedError
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.multibase import parse_cid
from tests.registry.conftest import Serve
from tests.registry.stock import Client, Stock

OURS = Cid.of(RAW, b"a chunk")
SPELLINGS = (
    "base32",
    "base32upper",
    "base16",
    "base16upper",
    "base36",
    "base36upper",
    "base58btc",
    "base64url",
    "base64",
)


@pytest.mark.parametrize("path", ["/ipfs/bafkqaaa?format=raw", "/ipfs/x/y/z", "/routing/v1/providers/bafkqaaa"])
def test_a_page_may_ask(get: Client, path: str) -> None:
    """Before a request that is not simple a browser asks with OPTIONS, and is answered for any path."""
    reply = get(path, method="OPTIONS", Origin="https://example.com", Access_Control_Request_Method="GET")
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "GET" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-headers"]
    assert reply.body == b""


@pytest.mark.parametrize("path", ["/", "/healthz", "/log/x/checkpoint"])
def test_other_doors_are_not_for_pages(get: Client, path: str) -> None:
    """They answer nobody's preflight."""
    assert get(path, method="OPTIONS").status == 405


def test_answers_and_refusals_may_be_read(get: Client) -> None:
    """Blocks, what is missing and what makes no sense: a page sees the status of each."""
    for path, status in (
        ("/ipfs/bafkqaaa?format=raw", 200),
        (f"/ipfs/{OURS}?format=raw", 404),
        (f"/ipfs/{OURS}?format=tar", 400),
        (f"/routing/v1/providers/{OURS}", 200),
    ):
        reply = get(path)
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == "*"
    assert "X-Ipfs-Roots" in get("/ipfs/bafkqaaa?format=raw").headers["access-control-expose-headers"]


@pytest.mark.parametrize("cid", [OURS, Cid.of(RAW, b"x", SHA2_256), Cid.parse("bafkqaaa")], ids=str)
@pytest.mark.parametrize("base", SPELLINGS)
def test_cids_as_others_spell_them(cid: Cid, base: str) -> None:
    """Every common multibase is read, as the reference implementation writes it."""
    assert parse_cid(multibase.encode(cid.encode(), base)) == cid


@pytest.mark.parametrize(
    "text",
    [
        "", "f", "z", "x01", "fzz", "F0155ab", "f0155AB", "B" + str(OURS)[1:], "u!!!!", "z0", "k_", "zé",
        "f" + "00" * 200,
        "f1220" + "00" * 32, "u" + base64.urlsafe_b64encode(OURS.encode() + b"x").decode().rstrip("="),
    ],
)  # fmt: skip
def test_texts_that_are_no_cid(text: str) -> None:
    """They are refused, whatever they begin with."""
    with pytest.raises(MalformedError):
        parse_cid(text)


def test_the_gateway_reads_them(stock: Stock, serve: Serve) -> None:
    """The same block under each spelling; what is answered names it in ours."""
    get = serve(Doors(stock.store))[1]
    probe = Cid.parse("bafkqaaa")
    for base in SPELLINGS:
        reply = get(f"/ipfs/{multibase.encode(probe.encode(), base).replace('/', '%2F')}?format=raw")
        assert (reply.status, reply.headers["x-ipfs-roots"]) == (200, "bafkqaaa")
    assert get("/routing/v1/providers/" + multibase.encode(OURS.encode(), "base16")).status == 200
