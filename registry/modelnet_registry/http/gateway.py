"""The gateway door: `/ipfs/{cid}` as a raw block, `/ipfs/{cid}[/path]` as a CAR stream.

    GET|HEAD /ipfs/{cid}?format=raw                               one block, or a range of it
    GET|HEAD /ipfs/{cid}[/{path}]?format=car[&dag-scope=..][&entity-bytes=from:to][&car-dups=y|n]

Every block is hashed after it was read and before it is sent. What is not here is 404, never a server error: Kubo gives
up on a peer after three of those. A chunk that vanished or changed while a stream is being sent breaks the stream off.
Source: ipfs/specs trustless-gateway.md and path-gateway.md.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlencode

from modelnet.core import car
from modelnet.core.cid import RAW, Cid
from modelnet.errors import MalformedError
from modelnet_registry.http.blocks import RUN, BlockSource, BufferPool, Chunks, Leaf, MissingChunkError
from modelnet_registry.http.dag import Visit, Walk, resolve
from modelnet_registry.http.links import NodeCache
from modelnet_registry.http.message import Refusal, Request, Response, Stream, bad_request
from modelnet_registry.http.multibase import parse_cid
from modelnet_registry.http.negotiation import RAW_BLOCK, Wanted, byte_range, matches, negotiate
from modelnet_registry.http.stream import car_length, car_stream

__all__ = ["Gateway"]

PROBE = "bafkqaaa"  # the empty identity CID: "can be used to probe that the endpoint is a trustless gateway"
IMMUTABLE = "public, max-age=29030400, immutable"
MAX_FILENAME = 255  # what file systems allow


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for `root` and the path `segments` below it, negotiated."""

    request: Request
    query: dict[str, str]
    root: Cid
    segments: tuple[str, ...]
    wanted: Wanted

    @classmethod
    def parse(cls, request: Request) -> _Asked:
        _, text, *segments = (*request.segments(), "")
        query = request.parameters()
        try:
            root = parse_cid(text)
        except MalformedError as error:
            raise bad_request(str(error)) from error
        below = tuple(segments[:-1])
        if text == PROBE and not below and "format" not in query and request.header("accept") in (None, "*/*"):
            query["format"] = "raw"
        wanted = negotiate(request, query)
        if wanted.media == RAW_BLOCK and below:
            raise bad_request("a raw block is asked for by its CID alone")
        return cls(request, query, root, below, wanted)

    @property
    def etag(self) -> str:
        """Names the bytes of the answer: the same request gives the same bytes."""
        if self.wanted.media == RAW_BLOCK:
            return f'"{self.root}.raw"'
        scope = self.wanted.scope
        window = "" if scope.first is None else f".{scope.first}_{'*' if scope.last is None else scope.last}"
        below = hashlib.sha256("/".join(self.segments).encode()).hexdigest()[:16] + "." if self.segments else ""
        return f'"{scope.name}{window}.dfs.{"y" if self.wanted.dups else "n"}.{below}{self.root}.car"'

    def headers(self, filename: str, roots: Sequence[Cid], ranges: str) -> list[tuple[str, str]]:
        """Return the headers of a 200, 206 or 304."""
        headers = [
            ("Content-Type", self.wanted.content_type),
            ("Content-Disposition", _disposition(self.query.get("filename") or filename)),
            ("Etag", self.etag),
            ("Cache-Control", IMMUTABLE),
            ("Vary", "Accept"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Ipfs-Path", self.request.path),
            ("X-Ipfs-Roots", ",".join(map(str, roots))),
            ("Accept-Ranges", ranges),
        ]
        if self.wanted.negotiated:
            headers.append(("Content-Location", self._location()))
        return headers

    def _location(self) -> str:
        """Return the URL that says in its query all that the headers asked for."""
        query = {**self.query, "format": "raw"}
        if self.wanted.media != RAW_BLOCK:
            dups = "y" if self.wanted.dups else "n"
            query |= {"format": "car", "car-version": "1", "car-order": "dfs", "car-dups": dups}
        return f"{self.request.path}?{urlencode(query, safe=':*')}"


class Gateway:
    """The gateway over `blocks`. One for a server: connections share its buffers and parsed nodes."""

    def __init__(self, blocks: BlockSource, denied: Callable[[Cid], str | None] = lambda _: None) -> None:
        """Serve from `blocks`, but not what `denied` gives a reason against."""
        self.blocks = blocks
        self._denied = denied
        self._nodes = NodeCache()
        self._buffers = BufferPool()

    def respond(self, request: Request, chunks: Chunks) -> Response:
        """Answer a GET or HEAD below `/ipfs/`; `chunks` belongs to the calling thread."""
        asked = _Asked.parse(request)
        try:
            return self._raw(asked, chunks) if asked.wanted.media == RAW_BLOCK else self._car(asked, chunks)
        except MalformedError as error:
            # "404: traversal was not possible due to an invalid or missing DAG node".
            raise Refusal(HTTPStatus.NOT_FOUND, str(error)) from error
        except Refusal as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND and "only-if-cached" in (request.header("cache-control") or ""):
                raise Refusal(HTTPStatus.PRECONDITION_FAILED, refusal.reason) from refusal
            raise

    def _raw(self, asked: _Asked, chunks: Chunks) -> Response:
        request, cid = asked.request, asked.root
        self._check(cid)
        content = self._block(cid, chunks)
        headers = asked.headers(f"{cid}.bin", (cid,), "bytes")
        if matches(request.header("if-none-match"), asked.etag):
            return Response(HTTPStatus.NOT_MODIFIED, tuple(headers))
        part = None
        if request.method == "GET" and request.header("if-range") in (None, asked.etag):
            part = byte_range(request.header("range"), len(content))
        if part is None:
            return Response(HTTPStatus.OK, tuple(headers), content, len(content))
        start, end = part
        headers.append(("Content-Range", f"bytes {start}-{end - 1}/{len(content)}"))
        return Response(HTTPStatus.PARTIAL_CONTENT, tuple(headers), memoryview(content)[start:end], end - start)

    def _block(self, cid: Cid, chunks: Chunks) -> bytes | memoryview:
        """Return one whole verified block; raise 404."""
        content: bytes | memoryview | None = None
        if cid.codec != RAW:
            content = self.blocks.block(cid)
        elif (size := self.blocks.sizes([cid]).get(cid)) is not None and size <= RUN:
            content = memoryview(bytearray(size))
            try:
                chunks.read([Leaf(cid, size)], content)
            except MissingChunkError:
                content = None
        if content is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"block {cid} is not here")
        return content

    def _car(self, asked: _Asked, chunks: Chunks) -> Response:
        self._check(asked.root)
        path = resolve(self.blocks, self._nodes, asked.root, asked.segments)
        self._check(path.end)
        headers = tuple(asked.headers(f"{path.end}.car", path.roots, "none"))

        def walk() -> Iterator[Visit]:
            # Whatever root it is reached from, nothing that is denied leaves.
            for visit in Walk(self.blocks, self._nodes, path, asked.wanted.scope, dups=asked.wanted.dups):
                self._check(visit.cid)
                yield visit

        head = car.header([path.end])
        length = car_length(head, walk())
        if matches(asked.request.header("if-none-match"), asked.etag):
            return Response(HTTPStatus.NOT_MODIFIED, headers)
        stream = self._while_allowed(path.end, car_stream(head, walk(), chunks, self._buffers))
        return Response(HTTPStatus.OK, headers, stream, length)

    def _check(self, cid: Cid) -> None:
        """Raise 410 for what must not be given to anybody (path-gateway.md, "410 Gone")."""
        if (reason := self._denied(cid)) is not None:
            raise Refusal(HTTPStatus.GONE, f"{cid} is not given to anybody: {reason}")

    def _while_allowed(self, cid: Cid, stream: Stream) -> Stream:
        """Yield the parts of a stream; break it off when what it gives is revoked meanwhile."""
        with contextlib.closing(stream) as parts:
            for part in parts:
                self._check(cid)
                yield part


def _disposition(filename: str) -> str:
    """Return a Content-Disposition that offers to save under `filename` (path-gateway.md: ASCII and UTF-8 forms)."""
    name = filename[:MAX_FILENAME]
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\/%' else "_" for letter in name)
    if plain == name:
        return f'attachment; filename="{name}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
