r"""A Kubo that says exactly what a test tells it to, on a real socket: the answers that a real one gives on bad days.

    with Stub({"pin/add": [trailer(b"{}\n{}\n", "no such block")]}) as stub:
        Kubo.connect(KuboAddress.parse(stub.url)).pin(...)

Each endpoint gives its answers in turn and the last one for ever. The request's body is read before the answer, unless
the answer is one of those that do not wait for it.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["VERSION", "Answer", "Stub", "cut", "drip", "hang", "refused", "repeat", "trailer", "whole"]

Answer = Callable[[socket.socket], None]


def whole(body: bytes, *, status: str = "200 OK", headers: str = "") -> Answer:
    """Answer properly."""

    def send(sock: socket.socket) -> None:
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    return send


def refused(message: str, *, status: str = "500 Internal Server Error") -> Answer:
    """Answer with an error as Kubo words it."""
    return whole(f'{{"Message":"{message}","Code":0,"Type":"error"}}'.encode(), status=status)


def _chunked(sock: socket.socket, body: bytes, headers: str = "") -> None:
    sock.sendall(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode())
    if body:
        sock.sendall(b"%x\r\n%b\r\n" % (len(body), body))


def trailer(body: bytes, message: str) -> Answer:
    """Answer 200 and `body`, and say only in the trailer that it failed (go-ipfs-cmds http/responseemitter.go)."""

    def send(sock: socket.socket) -> None:
        _chunked(sock, body, "Trailer: X-Stream-Error\r\n")
        sock.sendall(f"0\r\nX-Stream-Error: {message}\r\n\r\n".encode())

    return send


def cut(body: bytes) -> Answer:
    """Answer 200 and `body`, then close in the middle."""

    def send(sock: socket.socket) -> None:
        _chunked(sock, body)
        sock.shutdown(socket.SHUT_RDWR)

    return send


def hang(body: bytes, until: threading.Event) -> Answer:
    """Answer 200 and `body`, then say nothing until the event."""

    def send(sock: socket.socket) -> None:
        _chunked(sock, body)
        until.wait(20)

    return send


def drip(start: bytes, again: bytes, until: threading.Event) -> Answer:
    """Send `start`, then `again` over and over, too often for any timeout of a single read."""

    def send(sock: socket.socket) -> None:
        sock.sendall(start)
        while not until.wait(0.05):
            sock.sendall(again)

    return send


def repeat(record: bytes, until: threading.Event) -> Answer:
    """Answer 200 and the same record over and over, as `pin/add` does while it looks for a block."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return drip(head, b"%x\r\n%b\r\n" % (len(record), record), until)


VERSION = whole(b'{"Version":"0.43.0","Commit":"","Repo":"16"}')


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Answer one request after another."""
        while self._one():
            pass

    def _one(self) -> bool:
        line = self.rfile.readline()
        if not line:
            return False
        headers: dict[str, str] = {}
        while (header := self.rfile.readline().strip()) != b"":
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        left = int(headers.get("content-length", "0"))
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        stub = self.server.stub
        target = line.split()[1].decode()
        stub.requests.append((line.split()[0].decode(), target, headers))
        endpoint = target.partition("?")[0].removeprefix("/api/v0/")
        answers = stub.answers.get(endpoint, [whole(b"404 page not found", status="404 Not Found")])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        try:
            answer(self.connection)
        except OSError:
            return False
        return True


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    stub: Stub


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    stub: Stub


class Stub:
    """The server; `requests` are the (method, target, headers) that came."""

    def __init__(self, answers: Mapping[str, Sequence[Answer]], unix: Path | None = None) -> None:
        """Answer from `answers`, by endpoint, on a loopback port or a unix socket."""
        self.answers = {name: list(given) for name, given in ({"version": [VERSION]} | dict(answers)).items()}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler) if unix is None else _UnixServer(str(unix), _Handler)
        self._server.stub = self
        self.url = f"/unix{unix}" if unix is not None else f"http://127.0.0.1:{self._server.server_address[1]!s}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
