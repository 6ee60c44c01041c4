"""A source over HTTP: any IPFS Trustless Gateway. Nothing it says is believed.

    GET /ipfs/{cid}?format=raw                                     one block
    GET /ipfs/{node}?format=car&dag-scope=entity&entity-bytes=a:b  a run of chunks, as a CAR stream
    GET /log/{pid}/entries                                         a publisher's log, framed as C2SP entry bundles

Every block is hashed in memory before anybody sees it. Every answer is bounded before it is read: blocks by the size
that is known from the DAG, CAR streams by what was asked plus the nodes above it, logs by a constant.
Sources: ipfs/specs trustless-gateway.md; C2SP tlog-tiles (entry bundles).
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from modelnet.core import car, varint
from modelnet.core.chunking import MAX_CHUNK
from modelnet.core.cid import BLAKE3, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, UnavailableError, UsageError
from modelnet.wording import printable

__all__ = ["MAX_URL", "Connection", "HttpSource", "NotHereError", "check_size"]

MAX_URL = 2048  # characters; what every server takes
MAX_HOST = 254  # RFC 1035 §2.3.4: 253 characters, and a dot at the end
CONNECT_S = 10.0
READ_S = 15.0  # one read; the watcher of a transfer breaks off earlier
BUFFER = 4 * 1024 * 1024  # bytes of a CAR stream in memory for each connection
BATCH = 1024 * 1024  # verified bytes handed over together, so that writes are large
PIECE = 64 * 1024  # bytes of a single block or a log read at once, so that a slow source is seen to be alive
MAX_ERROR = 4096
MAX_SAID = 80  # characters of a source's own words that an error repeats
FRAME_PREFIX = 64  # a varint and a CID of 36 bytes
NODE_MOST = 72 * 1024  # 1,024 links of about 60 bytes, framed
CHUNK_CID = b"\x01\x55\x1e\x20"  # how the CID of a chunk begins: version 1, raw, BLAKE3, 32 bytes
NODES_ABOVE = 8  # levels of a file's DAG

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")  # `_`: names of containers have it

Deliver = Callable[[Sequence[tuple[int, memoryview]]], None]
Tick = Callable[[int], None]


class NotHereError(UnavailableError):
    """The source does not have the block: another one may."""


@dataclass(frozen=True, slots=True)
class HttpSource:
    """The gateway at `url` (`http://host:port` or `https://host[/base]`)."""

    url: str
    host: str
    port: int
    secure: bool
    base: str

    @classmethod
    def parse(cls, url: str) -> HttpSource:
        """Check `url`; raise `UsageError` with an example for anything that no request could be sent to."""
        if not isinstance(url, str):
            raise TypeError(f"a peer's address is a string, not {type(url).__name__}")
        try:
            # On the whole text: urlsplit drops line breaks and tabs without a word.
            parts = urlsplit(url if _is_plain(url) else "")
            host, port = parts.hostname or "", parts.port
            known = parts.scheme in ("http", "https") and "@" not in parts.netloc and port != 0
        except ValueError:
            known = False
        if not known or not _is_host(host, parts.netloc):
            raise UsageError(
                f"not the address of a peer: {url[:MAX_URL]!r}", rule="peer", hint="for example http://10.0.0.5:8710"
            )
        secure = parts.scheme == "https"
        base = quote(parts.path.rstrip("/"), safe="/%")
        return cls(url.rstrip("/"), host, port or (443 if secure else 80), secure, base)

    def connect(self) -> Connection:
        """Return a connection, opened by its first request. One for each thread."""
        return Connection(self)


def _is_plain(url: str) -> bool:
    """Tell whether an address is short printable ASCII without a query, a fragment or what a shell left in it."""
    return len(url) <= MAX_URL and url.isascii() and url.isprintable() and not set(url) & set(' ?#<>"\\^`{|}')


def _is_host(host: str, netloc: str) -> bool:
    """Tell whether a host is an address or a name that a name server can be asked for."""
    if "[" in netloc:
        try:
            # urlsplit takes anything between the bracket and the port.
            return netloc.rpartition("]")[2][:1] in ("", ":") and bool(ipaddress.IPv6Address(host))
        except ValueError:
            return False
    return len(host) <= MAX_HOST and all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split("."))


class Connection:
    """One kept-alive connection to a source. `abort` may be called from another thread."""

    def __init__(self, source: HttpSource) -> None:
        """Talk to `source`; nothing is sent yet."""
        self.source = source
        self._http: http.client.HTTPConnection
        try:
            if source.secure:
                context = ssl.create_default_context()
                self._http = http.client.HTTPSConnection(source.host, source.port, timeout=CONNECT_S, context=context)
            else:
                self._http = http.client.HTTPConnection(source.host, source.port, timeout=CONNECT_S)
        except (OSError, http.client.HTTPException, ValueError) as error:  # OSError: no certificates to be read
            raise UnavailableError(f"cannot connect: {error}", rule="connection", source=source.url) from error
        self._buffer: memoryview | None = None
        self._sock: socket.socket | None = None  # http.client forgets the socket of an answer that says "close"
        self._aborted = False

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def abort(self) -> None:
        """Make whatever the connection waits for fail now; the next request opens a new one."""
        self._aborted = True
        try:
            if (sock := self._sock) is not None:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    @contextmanager
    def _request(self, path: str, accept: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
        """Send a GET and yield the answer if it is a 200; the connection is kept only if it was read to its end.

        With a `body` it is a POST, and any answer is yielded.
        """
        self._aborted = False
        response = None
        try:
            response = self._send(path, accept, body)
            if body is None:
                self._check_status(response)
            yield response
            if not response.isclosed():
                self._http.close()
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # AttributeError, ValueError: http.client's own when `abort` closed the socket between its steps.
            self._http.close()
            what = "it was broken off" if self._aborted else printable(str(error)[:MAX_SAID]) or type(error).__name__
            raise UnavailableError(f"no answer: {what}", rule="connection", source=self.source.url) from error
        except BaseException:
            self._http.close()
            raise
        finally:
            if response is not None:
                response.close()  # it owns the socket of a connection that will not be kept

    def _send(self, path: str, accept: str, body: bytes | None) -> http.client.HTTPResponse:
        fresh = self._http.sock is None
        try:
            return self._ask(path, accept, body)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if fresh or self._aborted:
                raise
            self._http.close()  # the peer closed a connection that had been idle: ask once more on a new one
            return self._ask(path, accept, body)

    def _ask(self, path: str, accept: str, body: bytes | None) -> http.client.HTTPResponse:
        method = "GET" if body is None else "POST"
        self._http.request(method, self.source.base + path, body, {"Accept": accept, "User-Agent": "modelnet"})
        self._sock = self._http.sock
        if self._sock is not None:
            self._sock.settimeout(READ_S)
        return self._http.getresponse()

    def _check_status(self, response: http.client.HTTPResponse) -> None:
        if response.status == http.HTTPStatus.OK:
            return
        status, reason = response.status, printable(response.reason[:MAX_SAID])
        if not (response.length is not None and response.length <= MAX_ERROR):
            self._http.close()
        else:
            response.read(MAX_ERROR)
        kind = NotHereError if status in (404, 410, 412) else UnavailableError
        raise kind(f"refused: {status} {reason}", rule=f"http-{status}", source=self.source.url)

    def block(self, cid: Cid, limit: int = MAX_BLOCK) -> bytes:
        """Return the verified block of `cid`, of at most `limit` bytes.

        Raises `IntegrityError` when other bytes come, `NotHereError` when the source does not have it,
        `UnavailableError` when it does not answer.
        """
        with self._request(f"/ipfs/{cid}?format=raw", "application/vnd.ipld.raw") as response:
            content = self._read(response, limit, f"block {cid}")
        cid.verify(content, source=self.source.url)
        return content

    def get(self, path: str, limit: int, what: str, *, least: int = 1) -> bytes:
        """Return the body of `path`, of `least` to `limit` bytes, unverified; `what` names it in errors."""
        with self._request(path, "*/*") as response:
            return self._read(response, limit, what, least=least)

    def post(self, path: str, body: bytes, limit: int) -> tuple[int, str, bytes]:
        """Send `body`; return status, media type and content (at most `limit` bytes) of whatever is answered."""
        with self._request(path, "*/*", body) as response:
            content = self._read(response, limit, "answer", least=0)
        return response.status, response.headers.get_content_type(), content

    def _read(
        self,
        response: http.client.HTTPResponse,
        limit: int,
        what: str,
        tick: Tick = lambda _: None,
        *,
        least: int = 1,
    ) -> bytes:
        # Never `response.read(limit)`: it returns what came when the source hangs up, and an abort would look like a
        # lie; and of a chunk that claims -1 bytes it reads without end.
        content = bytearray()
        piece = memoryview(bytearray(PIECE))
        while count := _read_some(response, piece):
            tick(count)
            content += piece[:count]
            if len(content) > limit:
                raise IntegrityError(
                    f"{what} is longer than it can be",
                    rule="too-long", wanted=f"at most {limit} bytes", got="more", source=self.source.url,
                )  # fmt: skip
        self.check_ended(response, short=len(content) < least)
        return bytes(content)

    def check_ended(self, response: http.client.HTTPResponse, *, short: bool) -> None:
        """Raise `UnavailableError` when the body ended because the connection did.

        A body without a length ends so in any case; `short` tells that more should have come.
        """
        unsized = response.length is None and not response.chunked
        if response.length or self._aborted or (short and unsized):
            raise UnavailableError("the answer broke off", rule="connection", source=self.source.url)

    def chunk(self, tree: FileTree, index: int, deliver: Deliver, tick: Tick) -> None:
        """Fetch one chunk by its own CID and deliver it, verified."""
        wanted = Cid(RAW, BLAKE3, tree.digest_of(index))
        with self._request(f"/ipfs/{wanted}?format=raw", "application/vnd.ipld.raw") as response:
            size = tree.size_of(index)
            content = self._read(response, MAX_CHUNK, "chunk", tick, least=size)
        tree.check(index, blake3_digest(content), source=self.source.url)
        check_size(tree, index, len(content))
        deliver([(index, memoryview(content))])

    def run(self, tree: FileTree, first: int, last: int, deliver: Deliver, tick: Tick) -> None:
        """Fetch the chunks `[first, last)` of a file as one CAR stream and deliver each once it is verified.

        A chunk that the stream leaves out is simply not delivered. Raises `IntegrityError` on a wrong byte or a block
        that was not asked for, `MalformedError` on broken framing (rule `chunk-size`: the publisher's fault),
        `UnavailableError` when the stream breaks off.
        """
        if last - first == 1:
            self.chunk(tree, first, deliver, tick)
            return
        start = tree.offsets[first]
        end = tree.offsets[last - 1] + tree.size_of(last - 1)
        node = tree.covering(start, end)
        path = (
            f"/ipfs/{node.cid}?format=car&dag-scope=entity"
            f"&entity-bytes={start - node.start}:{end - node.start - 1}&car-dups=n"
        )
        with self._request(path, "application/vnd.ipld.car; version=1; order=dfs; dups=n") as response:
            _CarRun(self, tree, range(first, last), deliver, tick).read(response)

    def buffer(self) -> memoryview:
        """Return this connection's reused buffer."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(BUFFER))
        return self._buffer


class _CarRun:
    """Reads one CAR stream of a run: frames are hashed where they arrive, and handed over without a copy."""

    def __init__(self, connection: Connection, tree: FileTree, chunks: range, deliver: Deliver, tick: Tick) -> None:
        self.connection = connection
        self.url = connection.source.url
        self.buffer = connection.buffer()
        self.tree = tree
        self.deliver, self.tick = deliver, tick
        self.wanted: dict[bytes, list[int]] = {}
        for index in chunks:
            self.wanted.setdefault(tree.digest_of(index), []).append(index)
        self.nodes = {span.cid for span in tree.spans}
        chunk_bytes = sum(map(tree.size_of, chunks))
        # Each node above the run once, each frame's prefix, and a header; a source that sends more is lying.
        nodes = min(len(self.nodes), len(chunks) + NODES_ABOVE)
        self.limit = car.MAX_HEADER + chunk_bytes + len(chunks) * FRAME_PREFIX + nodes * NODE_MOST
        self.ready: list[tuple[int, memoryview]] = []
        self.ready_bytes = 0
        self.total = 0
        self.header_read = False

    def read(self, response: http.client.HTTPResponse) -> None:
        """Read the stream to its end."""
        begin = fill = 0
        while True:
            if fill == len(self.buffer):
                self._flush()
                rest = fill - begin
                self.buffer[:rest] = self.buffer[begin:fill]
                begin, fill = 0, rest
            count = _read_some(response, self.buffer[fill:])
            if count == 0:
                break
            fill += count
            self.total += count
            self.tick(count)
            begin = self._frames(begin, fill)
            if self.total - (fill - begin) > self.limit:  # whole frames; the one under way is bounded by itself
                raise self._lie("the CAR stream is longer than what was asked for", self.limit, self.total)
        self._flush()
        self.connection.check_ended(response, short=begin != fill)
        if begin != fill:
            raise MalformedError("CAR frame is cut off", rule="car", offset=self.total, source=self.url)

    def _frames(self, begin: int, fill: int) -> int:
        """Take every whole frame in `buffer[begin:fill]`; return where the first incomplete one begins."""
        while begin < fill:
            try:
                length, body = varint.decode(self.buffer[: min(fill, begin + 10)], begin)
            except MalformedError:
                if fill - begin < varint.MAX_VARINT_BYTES:
                    return begin
                raise
            most = car.MAX_FRAME if self.header_read else car.MAX_HEADER
            if not 0 < length <= most:
                raise self._lie("CAR frame length", f"1 to {most}", length)
            if body + length > fill:
                return begin
            if self.header_read:
                self._frame(self.buffer[body : body + length])
            else:
                car.read_header(bytes(self.buffer[begin : body + length]))
                self.header_read = True
            begin = body + length
        return begin

    def _frame(self, frame: memoryview) -> None:
        if frame[:4] != CHUNK_CID or (indexes := self.wanted.get(bytes(frame[4:36]))) is None:
            self._node(frame)
            return
        block = frame[36:]
        digest = blake3_digest(block)
        for index in indexes:
            self.tree.check(index, digest, source=self.url)
            check_size(self.tree, index, len(block))
            self.ready.append((index, block))
        self.ready_bytes += len(block)
        if self.ready_bytes >= BATCH:
            self._flush()

    def _node(self, frame: memoryview) -> None:
        """Check a frame that is no chunk of the run: it must be a node of the file."""
        cid, body = Cid.read(frame[:128])
        if cid not in self.nodes:
            raise self._lie("a block that was not asked for", f"chunks and nodes of {self.tree.entry.path}", cid)
        cid.verify(frame[body:], source=self.url)

    def _flush(self) -> None:
        if self.ready:
            self.deliver(self.ready)
            self.ready = []
            self.ready_bytes = 0

    def _lie(self, message: str, wanted: object, got: object) -> ModelnetError:
        return IntegrityError(
            message, rule="unasked", path=self.tree.entry.path, wanted=wanted, got=got, source=self.url
        )


def check_size(tree: FileTree, index: int, size: int) -> None:
    """Raise when the right bytes of a chunk are not as many as its publisher signed; no source is to blame."""
    if size != tree.size_of(index):
        raise MalformedError(
            "the signed DAG gives a chunk another size than it has",
            rule="chunk-size", path=tree.entry.path, offset=tree.offsets[index], wanted=tree.size_of(index), got=size,
        )  # fmt: skip


def _read_some(response: http.client.HTTPResponse, view: memoryview) -> int:
    """Read what is there, straight into `view` where the framing allows it; 0 at the end of the body."""
    if response.chunked or response.fp is None:
        content = response.read1(len(view))
        view[: len(content)] = content
        return len(content)
    wanted = len(view) if response.length is None else min(len(view), response.length)
    if wanted == 0:
        response.read()  # lets http.client see that the body has ended, so the connection is kept
        return 0
    # readinto1: at most one system call, so that a slow source is noticed between two of its bytes.
    count: int = response.fp.readinto1(view[:wanted])
    if response.length is not None:
        response.length -= count
        if response.length == 0:
            response.read()
    return count
