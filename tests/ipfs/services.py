"""A pinning service and a cluster, as small as can be, that hold their callers to the specifications.

`Service` is a Pinning Service API 1.0 endpoint in front of a real Kubo: what it calls pinned, that Kubo has fetched.
`Cluster` is IPFS Cluster's REST API over a few imagined peers. Whatever a caller does against the rules is answered as
the specification says and kept in `broken`.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from modelnet.core.cid import Cid
from modelnet.errors import MalformedError
from tests.engines import Kubo

__all__ = ["Cluster", "Service", "running"]

TOKEN = "s3cret-t0ken"  # noqa: S105  (of a server that lives for one test)
Answer = tuple[int, Any]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _any(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        parts = urlsplit(self.path)
        path = [unquote(part) for part in parts.path.split("/") if part]
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self.server.lock:
            status, value = self.server.answer(self.command, path, query, body, self.headers.get("Authorization"))
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _any  # noqa: N815  (the names that http.server looks for)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Callable[..., Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.lock = threading.Lock()


@contextmanager
def running(answer: Callable[..., Answer]) -> Iterator[str]:
    """Serve until the block ends; give the URL."""
    server = _Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]!s}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _error(status: int, reason: str, details: str = "") -> Answer:
    return status, {"error": {"reason": reason, "details": details}}


def _is_cid(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(Cid.parse(text))
    except MalformedError:
        return False


@dataclass
class Service:
    """ipfs-pinning-service.yaml 1.0.0, with a queue that moves one step each time somebody looks."""

    kubo: Kubo | None = None
    fate: str = "pinned"  # what every new pin comes to: pinned, failed, or queued for ever
    delegates: list[str] = field(default_factory=lambda: ["/dnsaddr/pin.example.com"])
    keeps_ids: bool = False  # replacing a pin keeps the request's id, which the specification leaves open
    pins: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    numbers: int = 0

    def __call__(
        self, method: str, path: list[str], query: dict[str, str], body: bytes, authorization: str | None
    ) -> Answer:
        """Answer one request."""
        self.asked.append((method, "/".join(path)))
        if authorization != f"Bearer {TOKEN}":
            return _error(401, "UNAUTHORIZED", "Access token is missing or invalid")
        match method, path:
            case "POST", ["pins"]:
                return self._add(body)
            case "GET", ["pins"]:
                return self._list(query)
            case "GET", ["pins", request] if request in self.pins:
                return 200, self._look(request)
            case "POST", ["pins", request] if request in self.pins:
                status, answer = self._add(body)
                if status == 202:
                    # "The old pin object is deleted automatically."
                    self._remove(request)
                    if self.keeps_ids:
                        self.pins[request] = {**self.pins.pop(answer["requestid"]), "requestid": request}
                        answer = dict(self.pins[request])
                return status, answer
            case "DELETE", ["pins", request] if request in self.pins:
                self._remove(request)
                return 202, None
        return _error(404, "NOT_FOUND", "The specified resource was not found")

    def _add(self, body: bytes) -> Answer:
        try:
            pin = json.loads(body)
        except ValueError:
            return self._against("the body is not JSON")
        origins = pin.get("origins", [])
        if not _is_cid(pin.get("cid")):
            return self._against("cid is required")
        if not isinstance(pin.get("name", ""), str) or len(pin.get("name", "")) > 255:
            return self._against("name: maxLength 255")
        if len(origins) > 20 or len(set(origins)) != len(origins) or not all(isinstance(one, str) for one in origins):
            return self._against("origins: uniqueItems, maxItems 20")
        if not all(isinstance(value, str) for value in pin.get("meta", {}).values()):
            return self._against("meta: values are strings")
        if unknown := pin.keys() - {"cid", "name", "origins", "meta"}:
            return self._against(f"unknown fields {sorted(unknown)}")
        self.numbers += 1
        request = f"request/{self.numbers}"
        self.pins[request] = {
            "requestid": request, "status": "queued", "created": f"2026-01-01T00:00:{self.numbers:02}Z",
            "pin": pin, "delegates": self.delegates,
        }  # fmt: skip
        return 202, dict(self.pins[request])

    def _against(self, rule: str) -> Answer:
        self.broken.append(rule)
        return _error(400, "BAD_REQUEST", rule)

    def _look(self, request: str) -> dict[str, Any]:
        entry = self.pins[request]
        step = {"queued": "pinning", "pinning": self.fate}
        before = entry["status"]
        if self.fate != "queued" and before in step:
            entry["status"] = step[before]
            if entry["status"] == "pinned" and self.kubo is not None:
                self._fetch(entry["pin"])
            if entry["status"] == "failed":
                entry["info"] = {"status_details": "DAG too big"}
        return dict(entry)

    def _fetch(self, pin: dict[str, Any]) -> None:
        assert self.kubo is not None
        for origin in pin.get("origins", []):
            if "/127.0.0.1/" in origin:
                self.kubo.run("swarm", "connect", origin)
        self.kubo.run("pin", "add", "--timeout=30s", f"--name={pin['name']}", pin["cid"])

    def _remove(self, request: str) -> None:
        entry = self.pins.pop(request)
        kept = {other["pin"]["cid"] for other in self.pins.values() if other["status"] == "pinned"}
        if self.kubo is not None and entry["status"] == "pinned" and entry["pin"]["cid"] not in kept:
            self.kubo.run("pin", "rm", entry["pin"]["cid"])

    def _list(self, query: dict[str, str]) -> Answer:
        # "when no filter is provided, only successful pins are returned"
        states = query.get("status", "pinned").split(",")
        limit = int(query.get("limit", "10"))
        if not 1 <= limit <= 1000 or not set(states) <= {"queued", "pinning", "pinned", "failed"}:
            return self._against("limit or status")
        found = [
            entry
            for entry in reversed(self.pins.values())
            if entry["status"] in states and query.get("cid", entry["pin"]["cid"]) == entry["pin"]["cid"]
        ]
        return 200, {"count": len(found), "results": found[:limit]}


@dataclass
class Cluster:
    """ipfs-cluster's REST API (api/rest/restapi.go) over imagined peers; a look moves every peer one step."""

    peers: int = 3
    broken_peers: int = 0
    pins: dict[str, dict[str, Any]] = field(default_factory=dict)
    updates: list[tuple[str, str | None]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __call__(
        self, method: str, path: list[str], query: dict[str, str], body: bytes, authorization: str | None
    ) -> Answer:
        """Answer one request."""
        if authorization != "Basic " + base64.b64encode(b"ann:" + TOKEN.encode()).decode():
            return 401, {"code": 401, "message": "Unauthorized"}
        if body:
            self.broken.append("no request of these has a body")
        if len(path) != 2 or path[0] != "pins" or not _is_cid(path[1]):
            return 400, {"code": 400, "message": "error decoding Cid"}
        cid = path[1]
        match method:
            case "POST":
                return self._add(cid, query)
            case "GET":
                return 200, self._look(cid)
            case "DELETE":
                if cid not in self.pins:
                    return 404, {"code": 404, "message": "cid is not part of the pinset"}
                return 200, {"cid": cid, **self.pins.pop(cid)}
        return 405, {"code": 405, "message": "not allowed"}

    def _add(self, cid: str, query: dict[str, str]) -> Answer:
        known = {"name", "mode", "replication-min", "replication-max", "origins", "pin-update"}
        if unknown := query.keys() - known:
            self.broken.append(f"unknown options {sorted(unknown)}")
        least, most = int(query.get("replication-min", "1")), int(query.get("replication-max", "2"))
        if least == 0 or most == 0 or (most > 0 and least > most):
            return 400, {"code": 400, "message": "replication factors"}
        if least > self.peers:
            return 500, {"code": 500, "message": f"not enough peers to allocate CID. Needed at least: {least}"}
        before = query.get("pin-update")
        if before is not None and before not in self.pins:
            return 500, {"code": 500, "message": "cannot update: not pinned"}
        self.updates.append((cid, before))
        allocated = self.peers if most < 0 else min(most, self.peers)
        self.pins[cid] = {"name": query.get("name", ""), "states": ["pin_queued"] * allocated}
        return 200, {"cid": cid, "name": query.get("name", ""), "allocations": [f"12D3{n}" for n in range(allocated)]}

    def _look(self, cid: str) -> dict[str, Any]:
        states = self.pins[cid]["states"] if cid in self.pins else []
        step = {"pin_queued": "pinning", "pinning": "pinned"}
        for number, state in enumerate(states):
            states[number] = step.get(state, state)
            if number < self.broken_peers and states[number] == "pinned":
                states[number] = "pin_error"
        rest = "remote" if cid in self.pins else "unpinned"
        shown = [*states, *[rest] * (self.peers - len(states))]
        return {
            "cid": cid, "name": self.pins.get(cid, {}).get("name", ""),
            "peer_map": {f"12D3{n}": {"peername": f"p{n}", "status": state} for n, state in enumerate(shown)},
        }  # fmt: skip
