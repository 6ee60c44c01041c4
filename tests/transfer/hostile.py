"""A source that misbehaves in one named way: a proxy in front of an honest node, on real sockets.

    with Proxy(honest_url, spoil, kinds=[Kind.CAR]) as liar:
        pull(..., peers=[liar.url])
        liar.struck          # set once it has misbehaved and the peer has left the connection

A `Spoil` is a function of one `Exchange`: it has the honest answer and the socket, and sends what it likes. Requests of
other kinds get the honest answer.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from modelnet.core import car
from modelnet.core.cid import DAG_CBOR, RAW, Cid

__all__ = ["Exchange", "Kind", "Proxy", "Spoil", "bundle", "framed", "join_car", "split_car"]

MOST = 64 << 20  # bytes of an endless answer before we give up; far above what any answer may have
PATIENCE_S = 20.0


class Kind(StrEnum):
    """What a request asks for."""

    HEAD = "head"
    LOG = "log"
    MANIFEST = "manifest"
    NODE = "node"
    CHUNK = "chunk"
    CAR = "car"
    OTHER = "other"


def kind_of(path: str) -> Kind:
    """Tell what a request target asks for."""
    if path.startswith("/log/"):
        return Kind.LOG if "/tile/entries/" in path else Kind.HEAD if path.endswith("/checkpoint") else Kind.OTHER
    if not path.startswith("/ipfs/"):
        return Kind.OTHER
    name, _, query = path.removeprefix("/ipfs/").partition("?")
    if "format=car" in query:
        return Kind.CAR
    return {RAW: Kind.CHUNK, DAG_CBOR: Kind.MANIFEST}.get(Cid.parse(name).codec, Kind.NODE)


@dataclass(slots=True)
class Exchange:
    """One request and its honest answer; `keep` says that the connection can take another one."""

    proxy: Proxy
    sock: socket.socket
    kind: Kind
    path: str
    status: int
    body: bytes
    keep: bool = False

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.proxy.sent += len(data)
        self.sock.sendall(data)

    def reply(self, body: bytes, *, status: str = "200 OK", length: int | None = None, headers: str = "") -> None:
        """Send a proper HTTP answer."""
        size = len(body) if length is None else length
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body)
        self.keep = size == len(body)

    def honest(self) -> None:
        """Send the honest answer."""
        self.reply(self.body, status=f"{self.status} {http.client.responses[self.status]}")

    def repeat(self, data: bytes, *, every_s: float = 0.0) -> None:
        """Send `data` again and again until the peer leaves."""
        while not self.proxy.stopping.is_set() and self.proxy.sent < MOST and not self.left(every_s):
            self.send(data)

    def left(self, wait_s: float) -> bool:
        """Tell whether the peer has closed the connection, waiting at most `wait_s` for that."""
        self.sock.settimeout(wait_s)
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except (TimeoutError, BlockingIOError):
            return False
        finally:
            self.sock.settimeout(PATIENCE_S)

    def silence(self) -> None:
        """Say nothing until the peer leaves."""
        end = time.monotonic() + PATIENCE_S
        while not self.proxy.stopping.is_set() and time.monotonic() < end and not self.left(0.05):
            pass

    def reset(self) -> None:
        """Close so that the peer's next read fails with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Spoil = Callable[[Exchange], None]


class Proxy:
    """A source in front of the honest one at `upstream`; requests of `kinds` go to `spoil`.

    `first` is called before every answer: a test holds an honest source back with it.
    """

    def __init__(
        self,
        upstream: str,
        spoil: Spoil = Exchange.honest,
        *,
        kinds: Collection[Kind] = tuple(Kind),
        first: Callable[[Exchange], None] | None = None,
    ) -> None:
        self._upstream = urlsplit(upstream)
        self._spoil = spoil
        self._kinds = frozenset(kinds)
        self._first = first
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._socks: set[socket.socket] = set()
        self._answers: dict[str, tuple[int, bytes]] = {}
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.stopping = threading.Event()
        self.asked = threading.Event()
        self.struck = threading.Event()
        self.kinds_asked: list[Kind] = []
        self.paths_asked: list[str] = []
        self.sent = 0

    def __enter__(self) -> Self:
        self._accepter = threading.Thread(target=self._accept, daemon=True)
        self._accepter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Close the listener and every connection at once, as a machine that lost its power would."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join()
        self._listener.close()
        with self._lock:
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        me = threading.current_thread()
        for thread in self._threads:
            if thread is not me:
                thread.join()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._socks.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        struck = False
        try:
            with sock.makefile("rb") as lines:
                while (path := _request(lines)) is not None:
                    exchange = self._exchange(sock, path)
                    if self._first is not None:
                        self._first(exchange)
                    if self.stopping.is_set():
                        return
                    if exchange.kind in self._kinds:
                        struck = self._spoil is not Exchange.honest
                        self.asked.set()
                        self._spoil(exchange)
                    else:
                        exchange.honest()
                    if not exchange.keep:
                        return
        except OSError:
            pass
        finally:
            with self._lock:
                self._socks.discard(sock)
            sock.close()
            if struck:
                self.struck.set()

    def _exchange(self, sock: socket.socket, path: str) -> Exchange:
        kind = kind_of(path)
        with self._lock:
            self.kinds_asked.append(kind)
            self.paths_asked.append(path)
            known = self._answers.get(path)
        if known is None:
            known = self.fetch(path)
            with self._lock:
                self._answers[path] = known
        return Exchange(self, sock, kind, path, *known)

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Return the honest status and body for a request target."""
        upstream = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=PATIENCE_S)
        try:
            upstream.request("GET", path)
            with upstream.getresponse() as response:
                return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 503, b""
        finally:
            upstream.close()


def _request(lines: Iterator[bytes]) -> str | None:
    """Read a request head; return its target."""
    first = next(iter(lines), b"").split()
    while next(iter(lines), b"\r\n") not in (b"\r\n", b""):
        pass
    return first[1].decode() if len(first) == 3 else None


def split_car(body: bytes) -> tuple[bytes, list[tuple[Cid, bytes]]]:
    """Return the encoded header of a CAR, and its (CID, block) frames."""
    _, end = car.read_header(body)
    return body[:end], list(car.read_car(body))


def join_car(header: bytes, frames: Sequence[tuple[Cid, bytes]]) -> bytes:
    """Return the CAR of `frames`."""
    return header + b"".join(car.frame_prefix(cid, len(block)) + block for cid, block in frames)


def bundle(body: bytes) -> list[bytes]:
    """Return the entries of a bundle."""
    entries, position = [], 0
    while position < len(body):
        end = position + 2 + int.from_bytes(body[position : position + 2], "big")
        entries.append(body[position + 2 : end])
        position = end
    return entries


def framed(entries: Sequence[bytes]) -> bytes:
    """Return the bundle of `entries`."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
