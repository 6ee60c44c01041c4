"""The routing door: it tells Kubo, Helia and browsers that this very node has a block, so no DHT is needed.

    GET /routing/v1/providers/{cid}[?filter-protocols=…&filter-addrs=…]
    → {"Providers": [{"Schema": "peer", "ID": …, "Addrs": ["/ip4/…/tcp/…/http"],
                      "Protocols": ["transport-ipfs-gateway-http"]}]}      or one record a line with x-ndjson

The one provider it knows is itself, at the address that the client reached it by (`Host`): whoever can ask can fetch.
Every block of a release is answered for, not roots only: Helia asks once a block. A peer id is required by the schema
and names nothing here, there being no libp2p behind it; it is made from the address, so that it stays the same.

Kubo takes plain `http` providers at loopback and private IP literals, others need TLS (boxo bitswap/network/httpnet).
Sources: ipfs/specs http-routing-v1.md; IPIP-484 (filters); IPIP-513 (200 with no records); libp2p peer-ids.md.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from modelnet.core.cid import IDENTITY, RAW, Cid, blake3_digest
from modelnet.errors import MalformedError
from modelnet_registry.http.access import ROUTING_ACCESS
from modelnet_registry.http.blocks import BlockSource
from modelnet_registry.http.message import Refusal, Request, Response
from modelnet_registry.http.multibase import parse_cid

__all__ = ["TRANSPORT", "RoutingDoor"]

TRANSPORT = "transport-ipfs-gateway-http"
JSON, NDJSON = "application/json", "application/x-ndjson"
FOUND_S, NONE_S = 300, 15  # what boxo's server lets clients remember; a node that is gone is found out by its silence
MAX_FILTER = 1024
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

# RFC 9110 §7.2: Host = uri-host [":" port]
_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?")
_ALWAYS = (
    *ROUTING_ACCESS,
    ("Vary", "Accept, Host"),
    ("X-Content-Type-Options", "nosniff"),
)


class RoutingDoor:
    """Answers who has a block, from what `blocks` has."""

    def __init__(self, blocks: BlockSource, denied: Callable[[Cid], str | None] = lambda _: None) -> None:
        """Answer for `blocks`, but not for what `denied` gives a reason against."""
        self._blocks = blocks
        self._denied = denied

    def respond(self, request: Request) -> Response:
        """Answer a GET or HEAD below `/routing/v1/`."""
        match request.segments():
            case ("routing", "v1", "providers", text):
                return self._providers(request, text)
            case ("routing", "v1", "peers" | "ipns", *_):
                raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "only providers are known here", *_ALWAYS)
        raise Refusal(HTTPStatus.BAD_REQUEST, "ask for /routing/v1/providers/{cid}", *_ALWAYS)

    def _providers(self, request: Request, text: str) -> Response:
        try:
            cid = parse_cid(text)
        except MalformedError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), *_ALWAYS) from error
        query = request.parameters()
        records = [_record(request.header("host"))] if self._denied(cid) is None and self._has(cid) else []
        protocols, addresses = _items(query, "filter-protocols"), _items(query, "filter-addrs")
        records = [
            record
            for record in records
            if _passes({TRANSPORT}, protocols) and _passes(set(record["Addrs"][0].split("/")), addresses)
        ]
        streamed = NDJSON in (request.header("accept") or "")
        body = b"".join(map(_line, records)) if streamed else _line({"Providers": records})
        headers = (
            ("Content-Type", NDJSON if streamed else JSON),
            # Private: what one client reached us by is nothing to another.
            ("Cache-Control", f"private, max-age={FOUND_S if records else NONE_S}"),
            *_ALWAYS,
        )
        return Response(HTTPStatus.OK, headers, body, len(body))

    def _has(self, cid: Cid) -> bool:
        if cid.code == IDENTITY:
            return False  # nobody needs to fetch these
        if cid.codec == RAW:
            return bool(self._blocks.sizes([cid]))
        return self._blocks.block(cid) is not None


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _record(host: str | None) -> dict[str, Any]:
    """Return the record of this node for a client that reached it at `host`; raise 400 where that is no address."""
    found = _HOST.fullmatch(host or "")
    port = int(found[2] or 80) if found else 0
    if found is None or not 0 < port < 1 << 16:
        raise Refusal(HTTPStatus.BAD_REQUEST, "no Host that a provider's address could be made of", *_ALWAYS)
    name = found[1].strip("[]").lower()
    try:
        kind = f"ip{ipaddress.ip_address(name).version}"
    except ValueError as error:
        if found[1].startswith("["):
            raise Refusal(HTTPStatus.BAD_REQUEST, "Host is not an IPv6 address", *_ALWAYS) from error
        kind = "dns"
    address = f"/{kind}/{name}/tcp/{port}/http"
    return {"Schema": "peer", "ID": _peer_id(address), "Addrs": [address], "Protocols": [TRANSPORT]}


def _peer_id(address: str) -> str:
    """Return a well-formed peer id: base58btc of an identity multihash of an Ed25519 key, `12D3Koo…`.

    Nobody holds the key: the record is for HTTP, where blocks prove themselves.
    """
    # protobuf PublicKey {Type = 1 (Ed25519), Data = 32 bytes} in a multihash of code 0 and length 36
    data = b"\x00\x24\x08\x01\x12\x20" + blake3_digest(b"modelnet node at " + address.encode())
    number, letters = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        letters = BASE58[rest] + letters
    return "1" + letters  # one leading zero byte


def _items(query: dict[str, str], name: str) -> list[str]:
    return [item.strip().lower() for item in query.get(name, "")[:MAX_FILTER].split(",") if item.strip()]


def _passes(names: set[str], wanted: Sequence[str]) -> bool:
    """IPIP-484: none of the `!names`, and one of the others if there are any ("unknown" is for who tells none)."""
    asked = {item for item in wanted if not item.startswith("!")}
    return not any(f"!{name}" in wanted for name in names) and (not asked or bool(names & asked))
