"""The HTTP bus from the caller's side: one batch out, one batch back, within one deadline.

Written on h11 and a bare socket: every single read and write is bounded by the time that is left, so that a peer that
trickles its answer costs `EXCHANGE_S` and not a byte's time for each byte. No proxy, no redirect, no cookie.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import closing
from http import HTTPStatus

import h11

from modelnet.errors import UnavailableError, UsageError
from modelnet.stores.http import HttpSource
from modelnet_registry.gossip.addresses import Reach, host_of, reach
from modelnet_registry.gossip.messages import MAX_BATCH

__all__ = ["CONTENT_TYPE", "EXCHANGE_S", "check_reach", "exchange"]

CONTENT_TYPE = "application/vnd.modelnet.gossip.v1"
EXCHANGE_S = 15.0
MAX_HEAD = 16 * 1024
RECEIVE = 64 * 1024


def exchange(url: str, batch: bytes, limit_s: float = EXCHANGE_S) -> bytes:
    """Send `batch` to the node at `url` and return what it answers; raise `UnavailableError` when it does not."""
    deadline = time.monotonic() + limit_s
    try:
        source = HttpSource.parse(url)
        with closing(_connect(source, limit_s)) as sock:
            return _talk(sock, source, batch, deadline)
    except (OSError, UnicodeError, UsageError, h11.ProtocolError) as error:
        # UnicodeError: a name that no resolver takes, as `a..b`. All that a peer's address can be is no answer.
        raise UnavailableError(f"no answer: {error}", rule="connection", source=url) from error


def check_reach(url: str) -> None:
    """Resolve the name in a URL that others told; raise `UnavailableError` where it means our own machine or link.

    What is written as an address was looked at when it was told (`modelnet_registry.gossip.addresses`). A name server
    that says another thing a moment later is not noticed: a service on loopback has to know who talks to it anyway.
    """
    host = host_of(url)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"no answer: {error}", rule="connection", source=url) from error
    meant = {str(address[0]) for *_, address in found}
    if meant != {host} and any(reach(address) is not Reach.WORLD for address in meant):
        raise UnavailableError("a name for this machine itself", rule="inside", source=url, got=sorted(meant))


def _connect(source: HttpSource, limit_s: float) -> socket.socket:
    sock = socket.create_connection((source.host, source.port), timeout=limit_s)
    if not source.secure:
        return sock
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=source.host)
    except BaseException:
        sock.close()
        raise


def _talk(sock: socket.socket, source: HttpSource, batch: bytes, deadline: float) -> bytes:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    request = h11.Request(
        method="POST", target=f"{source.base}/gossip",
        headers=[
            ("Host", f"{source.host}:{source.port}"), ("User-Agent", "modelnet"), ("Connection", "close"),
            ("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(batch))),
        ],
    )  # fmt: skip
    sock.settimeout(_left(deadline))
    sock.sendall((http.send(request) or b"") + (http.send(h11.Data(data=batch)) or b""))
    http.send(h11.EndOfMessage())
    content = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            sock.settimeout(_left(deadline))
            http.receive_data(sock.recv(RECEIVE))
        elif isinstance(event, h11.Response):
            if event.status_code not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
                raise UnavailableError(
                    f"refused: {event.status_code}", rule=f"http-{event.status_code}", source=source.url
                )
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > MAX_BATCH:
                raise UnavailableError("the answer is too long", rule="too-long", source=source.url)
        elif isinstance(event, h11.EndOfMessage):
            return bytes(content)
        elif isinstance(event, h11.ConnectionClosed):
            raise UnavailableError("the answer broke off", rule="connection", source=source.url)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left
