"""Peers that take places and do nothing with them: one address does not shut a node's doors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelnet_registry.gossip.messages import MAX_BATCH, encode_batch
from modelnet_registry.http import crowd, gossipdoor
from modelnet_registry.http.gossipdoor import MAX_LARGE, SMALL, GossipDoor
from modelnet_registry.http.message import Refusal, Request, Response, text
from modelnet_registry.http.server import Server
from tests.core.logs import Log
from tests.gossip.nodes import eventually, running
from tests.gossip.test_hostile import VICTIM, revocation, story

ONE, OTHER = "127.0.0.2", "127.0.0.3"  # addresses of two strangers, on Linux


class Waiting:
    """A door that answers at once, or holds the connection until it is told to go on."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.inside = threading.Semaphore(0)

    @contextmanager
    def session(self) -> Iterator[Waiting]:
        """Serve a connection."""
        yield self

    def respond(self, request: Request) -> Response:
        """Answer."""
        if request.path == "/wait":
            self.inside.release()
            assert self.gate.wait(20)
        return text(200, "ok\n")


def connect(url: str, source: str) -> socket.socket:
    """Connect from an address."""
    parts = urlsplit(url)
    try:
        return socket.create_connection((str(parts.hostname), parts.port or 0), timeout=20, source_address=(source, 0))
    except OSError as error:
        pytest.skip(f"this machine has no address {source}: {error}")


def status(url: str, source: str = "127.0.0.1", path: str = "/healthz") -> int:
    """Return how a request from an address is answered; 0 when the connection ends without an answer."""
    with connect(url, source) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        said = sock.makefile("rb").readline().split()
        return int(said[1]) if said else 0


@pytest.fixture
def served() -> Iterator[tuple[Server, Waiting]]:
    """Give a server with eight places."""
    door = Waiting()
    with Server(door, "127.0.0.1", 0, max_connections=8) as server:
        try:
            yield server, door
        finally:
            door.gate.set()


def test_another_address_has_a_place_at_once(served: tuple[Server, Waiting]) -> None:
    """All places are taken by idle connections of one address: who comes from another one is answered."""
    server, _ = served
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(server.url, ONE)) for _ in range(8)]
        for sock in idle:
            sock.sendall(b"G")
        eventually(lambda: len(server._open()) == 8)
        assert status(server.url, OTHER) == 200
        # Who waited longest went, the others stayed.
        assert idle[0].recv(1) == b""
        idle[7].sendall(b"ET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle[7].recv(12) == b"HTTP/1.1 200"


def test_at_one_address_who_waited_for_long_gives_way(
    served: tuple[Server, Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one address it is the same, but only for who has waited for a while: others are told to come back."""
    server, _ = served
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(server.url, ONE)).sendall(b"G")
        eventually(lambda: len(server._open()) == 8)
        monkeypatch.setattr(crowd, "PATIENT_S", 60.0)
        assert status(server.url, ONE) == 503
        monkeypatch.setattr(crowd, "PATIENT_S", 0.0)
        assert status(server.url, ONE) == 200


def test_no_address_keeps_more_than_half_while_others_wait(served: tuple[Server, Waiting]) -> None:
    """Also connections that are being served end, the oldest first, until half of the places are left."""
    server, door = served
    with ExitStack() as stack:
        for source, count in ((ONE, 8), (OTHER, 4)):
            for _ in range(count):
                stack.enter_context(connect(server.url, source)).sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
                assert door.inside.acquire(timeout=20)
        assert status(server.url, "127.0.0.4") == 503
        assert len([guest for guest in server._open().values() if guest.address == ONE]) == 4


@contextmanager
def dripping(url: str, count: int, size: int) -> Iterator[None]:
    """Send `count` batches of `size` bytes, and nearly all of each never."""
    over = threading.Event()

    def drip() -> None:
        parts = urlsplit(url)
        while not over.is_set():
            with suppress(OSError), socket.create_connection((str(parts.hostname), parts.port or 0), 20) as sock:
                sock.sendall(f"POST /gossip HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\nabc".encode())
                while not over.wait(0.2):
                    sock.sendall(b"x")

    threads = [threading.Thread(target=drip, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    over.wait(1.0)
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize("size", [SMALL, MAX_BATCH])
def test_batches_that_drip_take_no_place(tmp_path: Path, size: int) -> None:
    """More of them than there are places, from our own address: a revocation is heard as ever."""
    log: Log = story("crowded ")
    with (
        running(tmp_path / "a") as a,
        running(tmp_path / "b", peers=[a.url], follow=[log.pid], interval=1.0) as b,
    ):
        a.know(log)
        eventually(lambda: b.size(log.pid) == 4)
        with dripping(a.url, 40, size):
            a.replicas.add_negative(log.pid, revocation(log))
            eventually(lambda: b.revoked(log.pid, VICTIM), 5.0)


def request(size: int, remote: str, receive: object = None) -> Request:
    """Return a batch that comes."""
    headers = (("content-length", str(size)),)
    return Request("POST", "/gossip", "", headers, receive or (lambda _: b""), remote)  # type: ignore[arg-type]


def test_large_batches_have_few_places_and_no_address_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one address sends as many large ones as it may, another has room, and small ones are read from both."""
    door = GossipDoor(lambda *_: encode_batch("-", []), lambda after=None: {"after": after})
    gate, inside = threading.Event(), threading.Semaphore(0)

    def slow(_limit: int) -> bytes:
        inside.release()
        assert gate.wait(20)
        return b""

    count = MAX_LARGE // 2
    threads = [threading.Thread(target=door.respond, args=(request(MAX_BATCH, ONE, slow),)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=20)
    with pytest.raises(Refusal):
        door.respond(request(MAX_BATCH, ONE))
    assert door.respond(request(SMALL, ONE)) is not None
    assert door.respond(request(MAX_BATCH, OTHER)) is not None
    gate.set()
    for thread in threads:
        thread.join(20)
    assert door.respond(request(MAX_BATCH, ONE)) is not None
    monkeypatch.setattr(gossipdoor, "PLACE_S", 0.01)
    for _ in range(gossipdoor.MAX_AT_ONCE):
        assert door._places.acquire(blocking=False)
    with pytest.raises(Refusal):
        door.respond(request(SMALL, ONE))


def test_a_node_tells_its_own_machine() -> None:
    """Who calls an address from that address is on the machine that has it, loopback or not; nobody else is told."""
    door = GossipDoor(lambda *_: b"", lambda after=None: {"after": after})

    def ask(remote: str, local: str, query: str = "") -> int:
        try:
            response = door.respond(Request("GET", "/gossip", query, remote=remote, local=local))
        except Refusal as refusal:
            return refusal.status
        assert response is not None
        return response.status

    assert ask("10.0.0.7", "10.0.0.7") == ask("127.0.0.1", "127.0.0.1") == ask("127.0.0.1", "", "after=7") == 200
    assert ask("10.0.0.8", "10.0.0.7") == ask("", "") == 403
    assert ask("127.0.0.1", "", "after=x") == ask("127.0.0.1", "", "after=" + "9" * 99) == 400
