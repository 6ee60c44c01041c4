"""Peers that mean harm, as real HTTP servers: each answers every batch in its own way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from modelnet_registry.gossip.messages import MAX_BATCH, Head, HeadLine, Heads, Negative, Note, Peers, encode_batch
from tests.core.logs import Log

__all__ = ["KINDS", "hostiles"]

Behave = Callable[[BaseHTTPRequestHandler], None]


def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Send a whole answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Take the batch and say nothing for as long as the node waits."""
    handler.rfile.read(1 << 30)


def withhold(handler: BaseHTTPRequestHandler) -> None:
    """Pretend that there is nothing to tell."""
    answer(handler, encode_batch("-", []))


def junk(handler: BaseHTTPRequestHandler) -> None:
    """Answer with what is no batch."""
    answer(handler, bytes(1000))


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Answer with more than a batch may have."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(bytes(MAX_BATCH))


def forge(log: Log) -> Behave:
    """Answer with revocations and heads that nobody signed, and invented neighbours."""
    forged = [Negative(log.pid, b'{"n":%d}' % n) for n in range(200)]
    text = log.head().encode().replace(b"\n4\n", b"\n9\n")
    body = encode_batch("-", [*forged, Note.read(text), Peers(tuple(f"http://127.9.9.{n}:9" for n in range(32)))])
    return lambda handler: answer(handler, body)


def replay(log: Log) -> Behave:
    """Answer with an old head, as if it were the newest, and with one of the far future."""
    old = Head(log.pid, 0, 2, log.state.root_at(2))
    future = Head(log.pid, 0, 4, log.state.root_at(4), 1 << 40)
    body = encode_batch("-", [Note.read(log.head(2).encode()), Heads((HeadLine(old), HeadLine(future)), ask=True)])
    return lambda handler: answer(handler, body)


def KINDS(log: Log) -> list[Behave]:  # noqa: N802  (a table that needs a log)
    """Return one of each."""
    return [silent, withhold, junk, endless, forge(log), replay(log)]


@contextmanager
def hostiles(log: Log, count: int) -> Iterator[Sequence[str]]:
    """Run `count` hostile peers, of all kinds in turn; give their URLs."""
    with ExitStack() as stack:
        yield [stack.enter_context(_serving(KINDS(log)[number % len(KINDS(log))])) for number in range(count)]


@contextmanager
def _serving(behave: Behave) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"
        timeout = 20

        def do_POST(self) -> None:
            """Behave."""
            try:
                behave(self)
            except OSError:
                self.close_connection = True

        def do_GET(self) -> None:
            """Have nothing."""
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """Keep quiet."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
