"""A bounded HTTP/1.1 server: one thread for each connection, a limit on their number, a stop that lets answers finish.

    with Server(door, "127.0.0.1", 0) as server:
        print(server.url)
        stop.wait()

Threads, not coroutines: reading, hashing and sending all release the interpreter lock, and a gather write from a reused
buffer moves several times what asyncio's streams do. Beyond `MAX_CONNECTIONS` somebody who waits gives way
(`modelnet_registry.http.crowd`), or the peer is told 503 and when to come back; beyond a few of those answers as well,
it is cut off.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from http import HTTPStatus
from types import TracebackType
from typing import Self

from modelnet.errors import UnavailableError
from modelnet_registry.http.connection import DEFAULT_LIMITS, Connection, Limits, shut
from modelnet_registry.http.crowd import Crowd, Guest, address_of
from modelnet_registry.http.message import Door, Refusal, Request, Response

__all__ = ["MAX_CONNECTIONS", "Server"]

log = logging.getLogger("modelnet_registry.http")
log.addHandler(logging.NullHandler())  # silent unless the program that runs the node sets logging up

MAX_CONNECTIONS = 256  # a thread each: about 100 KiB resident while idle
MAX_REFUSALS = 16  # connections that are being told 503 at one time
RETRY_AFTER_S = 5
BACKLOG = 128
GRACE_S = 4.0  # for responses that are being sent when the server stops
FORCE_S = 1.0  # for threads to end once their sockets are shut
MAX_PORT = 65_535
ACCEPT_PAUSE_S = 0.1  # when the system has no descriptor left, until one is freed

REFUSAL_LIMITS = Limits(idle_s=2.0, head_s=2.0, send_s=2.0, linger_s=1.0)


class _Full:
    """The session of a connection that is one too many."""

    def respond(self, _request: Request) -> Response:
        raise Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE, "too many connections",
            ("Retry-After", str(RETRY_AFTER_S)), ("Connection", "close"),
        )  # fmt: skip


class Server:
    """Listens on `host` and `port` (0: any free one) from its making on; serves between `start` and `stop`."""

    def __init__(
        self,
        door: Door,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limits: Limits = DEFAULT_LIMITS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """Bind the address; raises `UnavailableError` when that is not possible."""
        self._door = door
        self._limits = limits
        self._listener = _listen(host, port)
        self._wake, self._waker = socket.socketpair()
        self._crowd = Crowd(max_connections)
        self._thread = threading.Thread(target=self._accept, name="modelnet-accept", daemon=True)

    @property
    def url(self) -> str:
        """The server's address as a URL."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop accepting, let running responses finish for `grace_s` seconds, then close what is left."""
        self._waker.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()
        self._wake.close()
        for guest in self._open().values():
            guest.connection.take_no_more()  # all of them, before the first peer can notice
        for guest in self._open().values():
            guest.connection.stop()
        self._join(grace_s)
        for guest in self._open().values():
            shut(guest.sock, socket.SHUT_RDWR)
        self._join(FORCE_S)

    def _open(self) -> dict[threading.Thread, Guest]:
        return self._crowd.here()

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._open():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake in ready:
                    return
                try:
                    sock, _ = self._listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    log.warning("cannot accept a connection: %s", error)
                    time.sleep(ACCEPT_PAUSE_S)
                    continue
                self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        """Give `sock` a thread, or tell the peer that there is none."""
        room, goes = self._crowd.make_room(sock)
        if goes is not None:
            shut(goes.sock, socket.SHUT_RDWR)
        if not room and self._crowd.refused() >= MAX_REFUSALS:
            sock.close()
            return
        guest = Guest(Connection(sock, self._limits if room else REFUSAL_LIMITS), sock, address_of(sock), not room)
        thread = threading.Thread(target=self._serve, args=(guest,), daemon=True)
        # Known before it runs, so that `stop` cannot miss it.
        self._crowd.add(thread, guest)
        try:
            thread.start()
        except RuntimeError as error:  # no thread to be had
            log.warning("cannot serve a connection: %s", error)
            self._crowd.drop(thread)
            sock.close()

    def _serve(self, guest: Guest) -> None:
        try:
            guest.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if guest.one_too_many:
                guest.connection.run(_Full())
                return
            with self._door.session() as session:
                guest.connection.run(session)
        except Exception as error:  # the boundary of the thread
            # No trace: without a handler of its own, logging would print it on stderr.
            log.error("connection failed: %s: %s", type(error).__name__, error)  # noqa: TRY400
            log.debug("trace", exc_info=error)
        finally:
            self._crowd.drop(threading.current_thread())
            guest.sock.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port <= MAX_PORT:
            raise OverflowError("there is no such port")  # noqa: TRY301  (getaddrinfo would fold it)
        found = socket.getaddrinfo(host or None, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UnavailableError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}", rule="listen",
            hint="is another node running? port 0 picks a free one",
        ) from error  # fmt: skip
    listener.settimeout(0)
    return listener
