"""One HTTP/1.1 connection, from its first byte to its last, in one thread.

    wait for a head (idle limit, then head limit) → answer → send (send limit) → again, or close

h11 parses heads and keeps the framing honest; bodies go from the door's buffers to the socket by gather writes and are
never copied here. Requests wait in the socket's own buffer while an answer is sent, so pipelining costs no memory.

What a peer may cost: `MAX_HEAD` bytes, `IDLE_S` seconds between requests, `HEAD_S` seconds for one head and as many for
a body, `SEND_S` seconds without taking a byte. A body is read when a door asks for it, up to the bytes that it names;
one that no door reads is refused by closing.
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import h11

from modelnet_registry.http.message import Buffer, Refusal, Request, Response, Session, Stream, bad_request, refuse

__all__ = ["DEFAULT_LIMITS", "Connection", "Limits"]

log = logging.getLogger("modelnet_registry.http")

MAX_HEAD = 16 * 1024  # a request line and headers; browsers send under 8 KiB
RECEIVE = 64 * 1024  # bytes taken from the socket at once
IOV = 512  # buffers of one gather write; POSIX systems allow 1,024
LINGER_BYTES = 4 * 1024 * 1024  # what is read and thrown away so that our last answer is not lost in a reset

_ABSOLUTE = re.compile(r"^https?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a peer may keep us waiting, in seconds, and how slow it may read."""

    idle_s: float = 60.0  # between two requests; Kubo and browsers reuse connections for about that long
    head_s: float = 10.0  # from a head's first byte to its last
    send_s: float = 30.0  # without taking one byte
    rate: float = 16 * 1024  # bytes a second that a reader takes at least, so that a drip does not hold a place
    linger_s: float = 2.0  # for the peer to read our last answer


DEFAULT_LIMITS = Limits()


class _Sized:
    """Stands for bytes in h11's count of a body: their number is all that it needs."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


class Connection:
    """Talks to the peer at `sock`. `run` may be called once, `stop` from any thread."""

    def __init__(self, sock: socket.socket, limits: Limits = DEFAULT_LIMITS) -> None:
        """Take over `sock`, which the caller closes."""
        self._sock = sock
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._stopping = False
        self.waiting_since: float | None = None  # while the peer owes us a request, or the rest of one

    def take_no_more(self) -> None:
        """Take no request after the one that is being answered."""
        self._stopping = True

    def stop(self) -> None:
        """Take no further request; a response that is being sent may finish."""
        self.take_no_more()
        shut(self._sock, socket.SHUT_RD)

    def run(self, session: Session) -> None:
        """Answer requests with `session` until the connection ends."""
        try:
            while True:
                with self._waiting():
                    head = self._next_head()
                if head is None or not self._answer(head, session):
                    break
        except (OSError, h11.LocalProtocolError) as error:
            log.debug("connection ended: %s", error)  # the peer went away or took too long: its own business

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self.waiting_since = time.monotonic()
        try:
            yield
        finally:
            self.waiting_since = None

    def _next_head(self) -> h11.Request | None:
        """Wait for a request; None at the end of the connection or when what came is no request."""
        begun = bool(self._http.trailing_data[0])  # pipelined behind the request before
        deadline = time.monotonic() + (self._limits.head_s if begun else self._limits.idle_s)
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._give_up(error.error_status_hint, "not an HTTP request")
                return None
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA or self._stopping:
                return None
            try:
                received = self._receive(deadline)
            except TimeoutError:
                if begun:
                    self._give_up(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")
                return None
            if received and not begun:
                begun, deadline = True, time.monotonic() + self._limits.head_s
            self._http.receive_data(received)

    def _receive(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._sock.settimeout(remaining)
        return self._sock.recv(RECEIVE)

    def _give_up(self, status: int, reason: str) -> None:
        """Answer what is no request, and end the connection."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(refuse(Refusal(status, reason)), closing=True)
            self._linger()

    def _answer(self, head: h11.Request, session: Session) -> bool:
        """Answer one request; tell whether the connection can take another."""
        body = _Body(self._http, self._receive, self._write, self._limits.head_s)
        opening: Sequence[Buffer] = ()
        try:
            response = session.respond(_request(head, self._reading(body), self._sock))
            if head.method != b"HEAD" and not isinstance(response.body, bytes | memoryview):
                opening = next(response.body, ())  # what refuses here is answered as a refusal
        except Refusal as refusal:
            response = refuse(refusal)
        except Exception as error:  # noqa: BLE001  (the boundary: a bug of ours costs one answer, not the node)
            _report(error, head)
            response = refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"))
        if head.method == b"HEAD":
            response = replace(response, body=b"")
        # A body that the door left: the answer is the last one, and the body is not read.
        closing = not body.ended or self._stopping
        if not self._send(response, opening, closing=closing):
            return False
        if closing or self._stopping or self._http.our_state is h11.MUST_CLOSE:
            self._linger()
            return False
        self._http.start_next_cycle()
        return True

    def _reading(self, body: _Body) -> Callable[[int], bytes]:
        def receive(limit: int) -> bytes:
            with self._waiting():
                return body.read(limit)

        return receive

    def _write(self, data: bytes) -> None:
        self._sock.settimeout(self._limits.send_s)
        self._sock.sendall(data)

    def _send(self, response: Response, opening: Sequence[Buffer] = (), *, closing: bool) -> bool:
        """Send `response`, a stream's first buffers being `opening`; tell whether all of it went out."""
        headers = [*response.headers, ("Date", formatdate(usegmt=True))]
        if closing:
            headers.append(("Connection", "close"))
        if response.status != HTTPStatus.NOT_MODIFIED:
            headers.append(("Content-Length", str(response.length)))
        reason = HTTPStatus(response.status).phrase.encode()
        head = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        if isinstance(response.body, bytes | memoryview):
            self._gather([head], [response.body])
        else:
            with contextlib.closing(response.body) as body:
                self._gather([head], opening)
                if not self._stream(body):
                    return False
        self._http.send(h11.EndOfMessage())  # raises when the body was shorter than its Content-Length
        return True

    def _stream(self, body: Stream) -> bool:
        try:
            for buffers in body:
                self._gather([], buffers)
        except Refusal as refusal:
            log.debug("response broken off: %s", refusal.reason)
            return False
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  (the boundary, as above; all that was sent is verified)
            _report(error, None)
            return False
        return True

    def _gather(self, head: Sequence[Buffer], body: Sequence[Buffer]) -> None:
        """Write all buffers; raise `TimeoutError` when the peer does not take them."""
        if length := sum(map(len, body)):
            self._http.send_with_data_passthrough(h11.Data(data=_Sized(length)))  # type: ignore[arg-type]
        pending = [memoryview(buffer) for buffer in (*head, *body) if len(buffer)]
        left = sum(map(len, pending))
        deadline = time.monotonic() + self._limits.send_s + left / self._limits.rate
        self._sock.settimeout(self._limits.send_s)
        first = 0
        while left:
            sent = self._sock.sendmsg(pending[first : first + IOV])
            left -= sent
            while sent and sent >= len(pending[first]):
                sent -= len(pending[first])
                first += 1
            if sent:
                pending[first] = pending[first][sent:]
            if left and time.monotonic() > deadline:
                raise TimeoutError("the peer reads too slowly")

    def _linger(self) -> None:
        """Say that nothing more comes and read what is under way: closing over unread bytes would reset the peer."""
        shut(self._sock, socket.SHUT_WR)
        deadline = time.monotonic() + self._limits.linger_s
        taken = 0
        while taken < LINGER_BYTES and (received := self._receive(deadline)):
            taken += len(received)


class _Body:
    """The body of one request: nothing of it is taken from the socket before a door asks for it."""

    def __init__(
        self,
        http: h11.Connection,
        receive: Callable[[float], bytes],
        write: Callable[[bytes], None],
        patience_s: float,
    ) -> None:
        self._http = http
        self._receive = receive
        self._write = write
        self._patience_s = patience_s
        self._content = bytearray()
        self.ended = False
        with contextlib.suppress(h11.RemoteProtocolError):
            self._take(http.next_event())

    def _take(self, event: object) -> bool:
        """Keep what an event brings; tell whether there was one."""
        if isinstance(event, h11.Data):
            self._content += event.data
        self.ended = self.ended or isinstance(event, h11.EndOfMessage)
        return event is not h11.NEED_DATA

    def read(self, limit: int) -> bytes:
        """Return the whole body; raise `Refusal` when it has more than `limit` bytes or does not come."""
        deadline = time.monotonic() + self._patience_s
        try:
            while not self.ended and len(self._content) <= limit:
                if self._take(self._http.next_event()):
                    continue
                if self._http.they_are_waiting_for_100_continue:
                    self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                self._http.receive_data(self._receive(deadline))
        except h11.RemoteProtocolError as error:
            raise bad_request("the body is broken") from error
        except TimeoutError as error:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the body took too long") from error
        if len(self._content) > limit:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {limit} bytes are taken here")
        return bytes(self._content)


def shut(sock: socket.socket, how: int) -> None:
    """Shut one or both directions of `sock`, if the peer has not done so before."""
    try:
        sock.shutdown(how)
    except OSError as error:
        log.debug("shutdown: %s", error)


def _address(name: Callable[[], Any]) -> str:
    """Return the IP address of one end of a connection, an IPv4 one also where it came in by IPv6."""
    try:
        return str(name()[0]).removeprefix("::ffff:")
    except (OSError, IndexError):
        return ""


def _request(head: h11.Request, receive: Callable[[int], bytes], sock: socket.socket) -> Request:
    target = head.target.decode("ascii")
    # RFC 9112 §3.2.2: "a server MUST accept the absolute-form in requests", which is for proxies.
    path, _, query = _ABSOLUTE.sub("", target).partition("?")
    if not path.startswith("/"):
        raise bad_request("the request target is not a path")
    # Doors never see credentials: no door here has a use for them, so none can log or forward them.
    headers = tuple(
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in head.headers
        if name not in (b"authorization", b"proxy-authorization", b"cookie")
    )
    remote, local = _address(sock.getpeername), _address(sock.getsockname)
    return Request(head.method.decode("ascii"), path, query, headers, receive, remote, local)


def _report(error: Exception, head: h11.Request | None) -> None:
    """Log a bug of ours in one line; its trace only for those who ask for debugging."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
    what = "while streaming" if head is None else head.target[:200].decode("latin-1")
    log.error("unexpected %s at %s (%s): %s", type(error).__name__, where, what, error)
    log.debug("trace", exc_info=error)
