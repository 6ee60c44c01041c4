"""A node in the middle that flips one bit of one block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.registry.stock import Client

__all__ = ["Liar", "lying"]


class Liar(ThreadingHTTPServer):
    """The server; `lies` counts the wrong answers that it gave."""

    daemon_threads = True

    def __init__(self, upstream: Client, tampered: str) -> None:
        """Answer as `upstream` does, but for the block `tampered`."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.tampered = upstream, tampered
        self.lock = threading.Lock()
        self.lies = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]!s}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar

    def do_GET(self) -> None:
        """Pass it on, spoilt if it is the one block. The Host stays ours, so we remain the only provider."""
        liar = self.server
        with liar.lock:
            answer = liar.upstream(self.path, self.headers["Accept"], self.command, Host=self.headers["Host"])
            body = answer.body
            if self.path.startswith(f"/ipfs/{liar.tampered}") and body:
                liar.lies += 1
                body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(answer.status)
        for name in ("content-type", "etag", "content-length", "access-control-allow-origin"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  (the name that http.server looks for)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def lying(upstream: str, tampered: str) -> Iterator[Liar]:
    """Run a liar in front of `upstream`, about the block with the CID `tampered`, until the block ends."""
    client = Client(upstream)
    server = Liar(client, tampered)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        client.close()
