"""A store filled by hand, and a plain client: what the tests of the node work with."""

from __future__ import annotations

import http.client
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from modelnet.core import car
from modelnet.core.chunking import MAX_CHUNK
from modelnet.core.cid import DAG_PB, RAW, Cid, blake3_digest
from modelnet.core.hamt import build_directory
from modelnet.core.unixfs import Child, Profile, balanced, leaf, parse_node
from modelnet.stores.home import Home
from modelnet.stores.index import FileStat, Index
from modelnet.stores.local import LocalStore

CAR_TYPE = "application/vnd.ipld.car"
RAW_TYPE = "application/vnd.ipld.raw"


def noise(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


@dataclass
class Stock:
    """A local store in `root`, and the DAG blocks and raw chunks that it was given, by CID."""

    root: Path
    blocks: dict[Cid, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        home = Home(self.root / "home")
        self.store = LocalStore(home, Index(home.index))

    def emit(self, cid: Cid, block: bytes) -> None:
        """Keep a DAG node."""
        self.blocks[cid] = bytes(block)
        self.store.index.add_blocks([(cid, bytes(block))])

    def file(self, name: str, content: bytes, *, chunk: int = MAX_CHUNK, width: int = 1024) -> Child:
        """Write a file, index its chunks, and return the root of its DAG."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        profile = Profile(width=width)
        parts = [content[start : start + chunk] for start in range(0, len(content), chunk)] or [b""]
        leaves = [leaf(part, profile)[0] for part in parts]
        number = self.store.index.set_file(str(path), FileStat.of(path.stat()))
        rows = [(child.cid.digest, at * chunk, child.size) for at, child in enumerate(leaves)]
        self.store.index.add_chunks(number, rows)
        self.blocks |= {child.cid: part for child, part in zip(leaves, parts, strict=True)}
        return balanced(leaves, self.emit, profile)

    def folder(self, entries: Mapping[str, Child]) -> Child:
        """Return the folder of `entries`, sharded where Kubo would."""
        return build_directory(list(entries.items()), self.emit)

    def below(self, cid: Cid) -> list[Cid]:
        """Return every block below and with `cid`, depth first, as often as it occurs."""
        found = [cid]
        if cid.codec == DAG_PB:
            for link in parse_node(self.blocks[cid]).links:
                found += self.below(link.cid)
        return found


@dataclass(frozen=True)
class Answer:
    """A response as the client saw it; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cids(self) -> list[Cid]:
        """The blocks of a CAR, in order, each checked against its CID."""
        found = []
        for cid, block in car.read_car(self.body):
            cid.verify(block)
            found.append(cid)
        return found


class Client:
    """One kept-alive connection to the server at `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address = (parts.hostname, parts.port)
        self._http = http.client.HTTPConnection(*self.address, timeout=20)

    def __call__(self, target: str, accept: str | None = None, method: str = "GET", **headers: str) -> Answer:
        """Send a request and read the whole response."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if accept is not None:
            fields["Accept"] = accept
        self._http.request(method, target, headers=fields)
        response = self._http.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())

    def broken(self, target: str) -> bytes:
        """Send a request whose response must break off; return what came of its body."""
        self._http.request("GET", target)
        response = self._http.getresponse()
        assert response.status == 200
        try:
            response.read()
        except http.client.IncompleteRead as error:
            return error.partial
        raise AssertionError("the response was complete")

    @contextmanager
    def raw(self, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        """Open a bare connection."""
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        with socket.socket(family) as sock:
            sock.settimeout(20)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect(self.address)
            yield sock

    def close(self) -> None:
        """Close the kept-alive connection."""
        self._http.close()


def drain(sock: socket.socket) -> bytes:
    """Read until the peer closes or resets."""
    found = bytearray()
    try:
        while received := sock.recv(65536):
            found += received
    except ConnectionResetError:
        pass
    return bytes(found)


def raw_cid(content: bytes) -> Cid:
    """Return the CID of a chunk."""
    return Cid.of(RAW, content)


def verified_prefix(archive: bytes) -> list[bytes]:
    """Return the blocks of a CAR that breaks off, each of which must be what its CID says."""
    found: list[bytes] = []
    _, position = car.read_header(archive)
    while position < len(archive):
        part = archive[position:]
        try:
            head, start = _frame(part)
        except (ValueError, IndexError):
            break
        cid, body = Cid.read(part, start)
        if len(part) < start + head:
            break
        block = part[body : start + head]
        assert blake3_digest(block) == cid.digest
        found.append(block)
        position += start + head
    return found


def _frame(part: bytes) -> tuple[int, int]:
    length = shift = 0
    for at, byte in enumerate(part[:9]):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return length, at + 1
    raise ValueError("cut off")
