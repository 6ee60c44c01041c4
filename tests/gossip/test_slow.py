"""Peers that tell of logs and do not give them: what is true is heard all the same, and soon."""

from __future__ import annotations

import base64
import http.client
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelnet.core import events
from modelnet_registry.gossip.messages import Message, Note, encode_batch
from tests.core.logs import Log, role
from tests.gossip.nodes import Node, eventually, running
from tests.gossip.test_hostile import VICTIM, revocation, story

SOON_S = 10.0  # with an interval of 0.2 s: some waits for a dripping peer (2 s each) fit into it, one of 300 s does not


class Dripping(BaseHTTPRequestHandler):
    """Gives a log a byte at a time, and has nothing to say otherwise."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Drip."""
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while not self.server.over.wait(0.2):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
                self.wfile.flush()

    def do_POST(self) -> None:
        """Answer with nothing."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def dripping(count: int) -> Iterator[Sequence[str]]:
    """Run peers that drip; give their URLs."""
    with ExitStack() as stack:
        urls = []
        for _ in range(count):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Dripping))
            server.daemon_threads, server.over = True, threading.Event()  # type: ignore[attr-defined]
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.over.set)  # type: ignore[attr-defined]
            urls.append(f"http://127.0.0.1:{server.server_port}")
        yield urls


def post(url: str, sender: str, *messages: Message) -> None:
    """Send a batch to a node."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    try:
        client.request("POST", "/gossip", encode_batch(sender, messages))
        client.getresponse().read()
    finally:
        client.close()


def made_up(log: Log, size: int) -> Note:
    """Return a head that nobody signed."""
    root, signature = (base64.b64encode(random.randbytes(count)).decode() for count in (32, 68))
    origin = log.state.origin
    return Note.read(f"{origin}\n{size}\n{root}\n\n— {origin} {signature}\n".encode())


@contextmanager
def attack(node: Node, log: Log, urls: Sequence[str]) -> Iterator[None]:
    """Tell the node of ever longer logs that are at those URLs, several times in an interval."""
    over = threading.Event()

    def run() -> None:
        size = 1000
        while not over.is_set():
            for url in urls:
                size += 1
                with suppress(OSError):
                    post(node.url, url, made_up(log, size))
            over.wait(0.1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        time.sleep(1.0)  # until it has what it can get
        yield
    finally:
        over.set()
        thread.join(20)


@pytest.mark.parametrize("count", [1, 4])
def test_heads_that_nobody_signed_delay_none_that_is(tmp_path: Path, count: int) -> None:
    """Dripping peers invent heads of one log: true heads of it and of others, and revocations, come as ever."""
    log, other = story("dripped "), story("dripped beside ")
    with (
        dripping(count) as urls,
        running(tmp_path / "publisher") as publisher,
        running(tmp_path / "node", peers=[publisher.url], follow=[log.pid, other.pid]) as node,
    ):
        publisher.know(log)
        publisher.know(other)
        eventually(lambda: node.size(log.pid) == node.size(other.pid) == 4)
        with attack(node, log, urls):
            for longer in (log, other):
                longer.release("llama", "1.3")
                publisher.know(longer)
            publisher.replicas.add_negative(log.pid, revocation(log))
            eventually(lambda: node.revoked(log.pid, VICTIM), 3.0)
            eventually(lambda: node.size(log.pid) == node.size(other.pid) == 5, SOON_S)
        assert node.service.counts["failures"] == 0


def test_new_keys_are_heard_of_while_a_peer_drips(tmp_path: Path) -> None:
    """A log whose key was changed is signed by a key that is not known yet: its head is fetched all the same, soon."""
    log = story("rotated ")
    with (
        dripping(1) as urls,
        running(tmp_path / "publisher") as publisher,
        running(tmp_path / "node", peers=[publisher.url], follow=[log.pid]) as node,
    ):
        publisher.know(log)
        eventually(lambda: node.size(log.pid) == 4)
        with attack(node, log, urls):
            log.add(events.Keys(log.pid, log=role("rotated log 2")), "root")
            publisher.replicas.adopt(log.pid, log.head(by="log 2"), log.entries[4:], first=4)
            eventually(lambda: node.size(log.pid) == 5, 2 * SOON_S)


def test_a_split_view_is_seen_while_a_peer_drips(tmp_path: Path) -> None:
    """Two histories of one length are compared without a fetch, whatever else is being fetched."""
    log = story("split dripped ")
    fork = log.fork(3)
    fork.release("llama", "6.6")
    with (
        dripping(1) as urls,
        running(tmp_path / "a") as a,
        running(tmp_path / "b", peers=[a.url]) as b,
    ):
        a.know(log)
        with attack(a, log, urls):
            b.know(fork)
            eventually(lambda: a.quarantined(log.pid) and b.quarantined(log.pid), SOON_S)


def test_a_true_head_is_not_kept_back_by_who_told_it_first(tmp_path: Path) -> None:
    """A dripping peer repeats a true head before its publisher tells it: the publisher is asked for the log too."""
    log = story("repeated ")
    with (
        dripping(3) as urls,
        running(tmp_path / "publisher") as publisher,
        running(tmp_path / "node", peers=[publisher.url], follow=[log.pid]) as node,
    ):
        publisher.know(log)
        eventually(lambda: node.size(log.pid) == 4)
        log.release("llama", "1.3")
        for url in urls:
            post(node.url, url, Note.read(log.head().encode()))
        publisher.know(log)
        eventually(lambda: node.size(log.pid) == 5, SOON_S)
