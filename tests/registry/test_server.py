"""The server and its connections: what honest peers rely on, and what others may not do to it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import pytest

from modelnet.errors import UnavailableError
from modelnet_registry.http.connection import Limits
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.message import Refusal, Request, Response, Stream, text
from modelnet_registry.http.server import MAX_REFUSALS, Server
from tests.registry.conftest import Serve
from tests.registry.stock import Client, Stock, drain, noise

MIB = 1024 * 1024
HURRIED = Limits(idle_s=0.2, head_s=0.2, send_s=0.3, linger_s=0.2)
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo:
    """A door that answers with the path, and what it was asked to do wrong."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.opened = self.closed = 0
        self.gate = threading.Event()
        self.inside = threading.Event()

    @contextmanager
    def session(self) -> Iterator[Echo]:
        """Count sessions, so that a leak is seen."""
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    def respond(self, request: Request) -> Response:
        """Answer as the path says."""
        self.asked.append(request)
        match request.path:
            case "/bug":
                raise RuntimeError("the secret cause")
            case "/wait":
                self.inside.set()
                assert self.gate.wait(20)
            case "/short":
                return Response(200, (), self._parts(b"abc"), 10)
            case "/long":
                return Response(200, (), self._parts(b"abc"), 2)
            case "/break":
                return Response(200, (), self._parts(b"abc", RuntimeError("x")), 10)
            case "/refuse-late":
                return Response(200, (), self._parts(b"abc", Refusal(404, "gone")), 10)
            case "/refuse-first":
                return Response(200, (), self._parts(Refusal(404, "gone")), 10)
            case "/stream":
                return Response(200, (), self._parts(*(bytes([n]) * 1000 for n in range(200))), 200_000)
            case "/big":
                return Response(200, (), self._parts(*[bytes(4 * MIB)] * 8), 32 * MIB)
        return text(200, request.path)

    def _parts(self, *parts: bytes | Exception) -> Stream:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            # Many small buffers: more than one gather write takes.
            yield [part[at : at + 7] for at in range(0, len(part), 7)] if len(part) < MIB else [part]


def responses(sock: socket.socket, count: int, method: str = "GET") -> list[tuple[int, bytes]]:
    """Read `count` responses with a strict parser; return their status and body."""
    found = []
    parser = h11.Connection(h11.CLIENT)
    for _ in range(count):
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(sock.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, body))
        if parser.our_state is h11.DONE:
            parser.start_next_cycle()
    return found


@pytest.fixture
def echo() -> Iterator[Echo]:
    """Give a door, and check that every session was closed."""
    door = Echo()
    yield door
    door.gate.set()


def test_a_connection_carries_many_requests(serve: Serve, echo: Echo) -> None:
    """Keep-alive: one session for all of them."""
    get = serve(echo)[1]
    for number in range(5):
        assert get(f"/{number}").body == f"/{number}".encode()
    assert echo.opened == 1


def test_pipelined_requests_are_answered_in_order(serve: Serve, echo: Echo) -> None:
    """Requests sent at once, streams among them, get their own answers."""
    with serve(echo)[1].raw() as sock:
        sock.sendall(GET % b"a" + GET % b"stream" + GET % b"c" + GET % b"bug")
        (a, stream, c, bug) = responses(sock, 4)
        assert (a, c) == ((200, b"/a"), (200, b"/c"))
        assert stream == (200, b"".join(bytes([n]) * 1000 for n in range(200)))
        assert bug[0] == 500


def test_a_request_may_come_byte_by_byte(serve: Serve, echo: Echo) -> None:
    """A head in pieces is a head."""
    with serve(echo)[1].raw() as sock:
        for byte in GET % b"slowly":
            sock.sendall(bytes([byte]))
        assert responses(sock, 1) == [(200, b"/slowly")]


def test_http_1_0_and_connection_close_end_the_connection(serve: Serve, echo: Echo) -> None:
    """A peer that does not keep the connection gets its answer and the end."""
    get = serve(echo)[1]
    for request in (b"GET /x HTTP/1.0\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        with get.raw() as sock:
            sock.sendall(request)
            assert drain(sock).endswith(b"\r\n\r\n/x")


def test_a_body_is_not_read_and_ends_the_connection(serve: Serve, stock: Stock) -> None:
    """A POST is 405; its body, however long or broken, is thrown away."""
    get = serve(Doors(stock.store))[1]
    for head, body in (
        (b"Content-Length: 10", b"0123456789"), (b"Content-Length: 999999999999", bytes(100_000)),
        (b"Transfer-Encoding: chunked", b"zz\r\nnonsense"), (b"Content-Length: 5\r\nExpect: 100-continue", b""),
    ):  # fmt: skip
        with get.raw() as sock:
            sock.sendall(b"POST /ipfs/x HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
            assert responses(sock, 1, "POST")[0][0] == 405
            sock.shutdown(socket.SHUT_WR)
            assert drain(sock) == b""
    assert get("/healthz", method="DELETE").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600), 400),  # a TLS greeting
        (b"nonsense\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MIB + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * MIB, 431),
    ],
)
def test_garbage_gets_one_answer_and_the_end(serve: Serve, stock: Stock, sent: bytes, status: int) -> None:
    """What is no request, or far too long, is refused by a readable answer; the server goes on."""
    get = serve(Doors(stock.store))[1]
    with get.raw() as sock:
        sock.sendall(sent)
        assert drain(sock).startswith(b"HTTP/1.1 %d " % status)
    assert get("/healthz").body == b"ok\n"


def test_the_target_is_a_path_or_a_url(serve: Serve, echo: Echo) -> None:
    """RFC 9112 §3.2: the absolute form is accepted, the asterisk and authority forms mean nothing here."""
    with serve(echo)[1].raw() as sock:
        for target in (b"http://other:80/x?y", b"HTTP://other/x"):
            sock.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert responses(sock, 1) == [(200, b"/x")]
        for target in (b"*", b"other:80", b"http://other"):
            sock.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert responses(sock, 1)[0][0] == 400


def test_half_a_request_is_told_that_it_took_too_long(serve: Serve, echo: Echo) -> None:
    """Slow heads are cut off by a deadline for the whole head, however the bytes trickle in."""
    with serve(echo, limits=HURRIED)[1].raw() as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHo")
        assert drain(sock).startswith(b"HTTP/1.1 408 ")
    assert echo.asked == []


def test_an_idle_connection_is_closed_silently(serve: Serve, echo: Echo) -> None:
    """A peer that asks nothing is let go, before its first request and after."""
    get = serve(echo, limits=HURRIED)[1]
    with get.raw() as sock:
        assert drain(sock) == b""
    with get.raw() as sock:
        sock.sendall(GET % b"x")
        assert drain(sock).endswith(b"/x")


def test_a_half_closed_peer_still_gets_its_answer(serve: Serve, echo: Echo) -> None:
    """`shutdown(SHUT_WR)` after the request is legal."""
    with serve(echo)[1].raw() as sock:
        sock.sendall(GET % b"x")
        sock.shutdown(socket.SHUT_WR)
        assert drain(sock).endswith(b"/x")


def test_a_reader_that_takes_nothing_is_dropped(serve: Serve, echo: Echo) -> None:
    """A full socket for longer than the limit ends the connection; its thread and session are freed."""
    server, get = serve(echo, limits=HURRIED)
    with get.raw(receive_buffer=32 * 1024) as sock:
        sock.sendall(GET % b"big")
        (thread,) = _threads(server, 1)
        thread.join(20)
        assert not thread.is_alive()
        assert len(drain(sock)) < 32 * MIB
    assert echo.closed == echo.opened


def test_a_reader_that_drips_is_dropped(serve: Serve, echo: Echo) -> None:
    """Taking a little now and then is not enough: there is a least rate."""
    server, get = serve(echo, limits=Limits(send_s=0.3, rate=100 * MIB))
    with get.raw(receive_buffer=32 * 1024) as sock:
        sock.sendall(GET % b"big")
        (thread,) = _threads(server, 1)
        while thread.is_alive():
            sock.recv(1024)
            thread.join(0.02)
    assert echo.closed == echo.opened


def _threads(server: Server, count: int) -> list[threading.Thread]:
    """Return the server's connection threads once there are `count`."""
    while len(found := [thread for thread in server._open() if thread.is_alive()]) < count:
        threading.Event().wait(0.01)
    return found


@pytest.mark.parametrize("path", ["short", "long", "break", "refuse-late"])
def test_a_stream_that_goes_wrong_is_broken_off(serve: Serve, echo: Echo, path: str) -> None:
    """Too few bytes, too many, a bug or a refusal after the start: the client sees an unfinished response."""
    get = serve(echo)[1]
    with get.raw() as sock:
        sock.sendall(GET % path.encode() + GET % b"next")
        head, _, body = drain(sock).partition(b"\r\n\r\n")
        if head:
            told = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split(b":")[1])
            assert len(body) != told or path == "long"
        assert b"next" not in body
    assert get("/x").status == 200


def test_a_refusal_before_the_first_buffer_is_an_answer(serve: Serve, echo: Echo) -> None:
    """A stream that cannot begin is a plain 404, and the connection lives."""
    get = serve(echo)[1]
    assert get("/refuse-first").status == 404
    assert get("/x").status == 200
    assert echo.opened == 1


def test_a_bug_is_500_logged_once_and_never_shown(
    serve: Serve, echo: Echo, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The peer learns nothing, stderr stays empty, the log has one line without credentials."""
    get = serve(echo)[1]
    with caplog.at_level(logging.INFO):
        answer = get("/bug?x=1", Authorization="Bearer sesame", Cookie="sesame")
    assert (answer.status, answer.body) == (500, b"internal error\n")
    (record,) = caplog.records
    assert "RuntimeError" in record.getMessage()
    assert record.exc_info is None
    assert "sesame" not in caplog.text
    assert echo.asked[0].header("authorization") is None
    assert echo.asked[0].header("cookie") is None
    assert capfd.readouterr().err == ""
    assert get("/x").status == 200


def test_one_connection_too_many_is_told_to_come_back(serve: Serve, echo: Echo) -> None:
    """Beyond the limit: 503 with Retry-After; beyond that, the end; and room again once others are gone."""
    server, get = serve(echo, max_connections=2)
    with get.raw() as one, get.raw() as two:
        for sock in (one, two):
            sock.sendall(GET % b"x")
            assert responses(sock, 1) == [(200, b"/x")]
        with get.raw() as three:
            three.sendall(GET % b"x")
            said = drain(three)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 5" in said
        one.sendall(GET % b"still")
        assert responses(one, 1) == [(200, b"/still")]
        crowd = [socket.create_connection(get.address) for _ in range(MAX_REFUSALS + 4)]
        for sock in crowd:
            sock.settimeout(20)
            assert drain(sock) == b""
            sock.close()
    for thread in server._open():
        thread.join(20)
    assert get("/x").status == 200


def test_many_connections_at_once(serve: Serve, stock: Stock) -> None:
    """A hundred peers, all reading a stream, get right bytes."""
    root = stock.file("f.bin", noise(300_000), chunk=10_000)
    get = serve(Doors(stock.store))[1]
    wanted = get(f"/ipfs/{root.cid}?format=car").body
    socks = [socket.create_connection(get.address) for _ in range(100)]
    try:
        for sock in socks:
            sock.settimeout(20)
            sock.sendall(f"GET /ipfs/{root.cid}?format=car HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for sock in socks:
            assert responses(sock, 1) == [(200, wanted)]
    finally:
        for sock in socks:
            sock.close()


def test_a_peer_that_goes_away_frees_its_place(serve: Serve, echo: Echo) -> None:
    """A reset in the middle of a response is nobody's error."""
    server, get = serve(echo)
    with get.raw(receive_buffer=32 * 1024) as sock:
        sock.sendall(GET % b"big")
        assert sock.recv(10)
        threads = list(server._open())
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert echo.closed == echo.opened


def test_stopping_lets_a_response_finish_and_takes_no_more(echo: Echo) -> None:
    """Stop: idle connections end, the running answer comes whole, new connections are refused."""
    server = Server(echo)
    server.start()
    get = Client(server.url)
    with get.raw() as idle, get.raw() as busy:
        idle.sendall(GET % b"x")
        assert responses(idle, 1) == [(200, b"/x")]
        busy.sendall(GET % b"wait" + GET % b"never")
        assert echo.inside.wait(20)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert drain(idle) == b""
        echo.gate.set()
        said = drain(busy)
        assert said.endswith(b"/wait")
        assert b"never" not in said
        stopping.join(20)
        assert not stopping.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(get.address)
    assert echo.closed == echo.opened == 2


def test_stopping_does_not_wait_for_ever(echo: Echo) -> None:
    """A peer that does not read is cut off when the grace is over."""
    server = Server(echo)
    server.start()
    with Client(server.url).raw(receive_buffer=32 * 1024) as sock:
        sock.sendall(GET % b"big")
        assert sock.recv(10)
        server.stop(grace_s=0.1)
        assert len(drain(sock)) < 32 * MIB
    assert echo.closed == echo.opened


def test_a_server_that_never_started_can_be_stopped(echo: Echo) -> None:
    """Nothing is left open."""
    Server(echo).stop()


def test_it_listens_on_ipv6(serve: Serve, echo: Echo) -> None:
    """The URL has brackets and works."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server, get = serve(echo, host="::1")
    except UnavailableError:
        pytest.skip("no IPv6 loopback")
    assert server.url.startswith("http://[::1]:")
    assert get("/x").body == b"/x"


def test_an_address_that_cannot_be_had_is_said_so(serve: Serve, echo: Echo) -> None:
    """A port in use, a foreign address and nonsense are `UnavailableError`, with a hint."""
    server, get = serve(echo)
    assert server.url == f"http://127.0.0.1:{get.address[1]}"
    for host, port in (("127.0.0.1", get.address[1]), ("192.0.2.1", 0), ("127.0.0.1", 70_000)):
        with pytest.raises(UnavailableError) as refused:
            Server(echo, host, port)
        assert refused.value.hint is not None
