"""UnixFS files and directories as dag-pb nodes: built byte for byte as Kubo does, parsed strictly.

    PBNode   { repeated PBLink Links = 2; optional bytes Data = 1 }      links are written before the data
    PBLink   { bytes Hash = 1; string Name = 2; uint64 Tsize = 3 }       Name is present even when empty
    Data     { Type = 1; Data = 2; filesize = 3; repeated blocksizes = 4; hashType = 5; fanout = 6 }

A file is a tree of chunks. A leaf is a raw block; an inner node lists its children and how many file bytes each holds,
so a reader can seek. `balanced` groups up to 1,024 children a node until one is left; a tensor that has more than one
chunk is grouped by itself first, which gives it a CID of its own.

Sources: ipfs/specs unixfs.md, ipld.io/specs/codecs/dag-pb, IPIP-499.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from modelnet.core import varint
from modelnet.core.cid import BLAKE3, DAG_PB, RAW, SHA2_256, Cid
from modelnet.errors import MalformedError

__all__ = [
    "DEFAULT",
    "UNIXFS_V0_2015",
    "UNIXFS_V1_2025",
    "Child",
    "Kind",
    "Link",
    "Node",
    "Profile",
    "balanced",
    "directory",
    "leaf",
    "parse_node",
]

MAX_BLOCK = 2 * 1024 * 1024  # bitswap, Kubo and Helia refuse larger blocks
MAX_LINKS = 8192  # ours have at most 1,024; a flat 256 KiB directory of short names has about 5,000

Emit = Callable[[Cid, bytes], None]


class Kind(IntEnum):
    """The `Type` of a UnixFS node."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    HAMT = 5


@dataclass(frozen=True, slots=True)
class Profile:
    """The choices that decide a file's root: hash, leaf encoding, width and CID version (IPIP-499)."""

    code: int = BLAKE3
    width: int = 1024
    raw_leaves: bool = True
    version: int = 1

    def cid(self, codec: int, block: bytes | memoryview) -> Cid:
        """Return the CID that this profile gives to `block`."""
        cid = Cid.of(codec, block, self.code)
        return cid if self.version == 1 else Cid(codec, cid.code, cid.digest, 0)


DEFAULT = Profile()
UNIXFS_V1_2025 = Profile(code=SHA2_256)
UNIXFS_V0_2015 = Profile(code=SHA2_256, width=174, raw_leaves=False, version=0)


@dataclass(frozen=True, slots=True)
class Child:
    """A node as its parent sees it: `size` counts file bytes below it, `tsize` encoded bytes below and with it."""

    cid: Cid
    size: int
    tsize: int


@dataclass(frozen=True, slots=True)
class Link:
    """One PBLink."""

    cid: Cid
    name: str
    tsize: int


@dataclass(frozen=True, slots=True)
class Node:
    """A parsed UnixFS node; `sizes[i]` is the number of file bytes below `links[i]`."""

    kind: Kind
    links: tuple[Link, ...]
    sizes: tuple[int, ...] = ()
    size: int = 0
    content: bytes = b""
    fanout: int = field(default=0)
    hash_type: int = field(default=0)


def leaf(content: bytes | memoryview, profile: Profile = DEFAULT) -> tuple[Child, bytes | memoryview]:
    """Return a chunk as the leaf of a file, and its block."""
    if profile.raw_leaves:
        return Child(profile.cid(RAW, content), len(content), len(content)), content
    body = b"" if not len(content) else b"\x12" + varint.encode(len(content)) + bytes(content)
    block = _encode_node((), b"\x08\x02" + body + b"\x18" + varint.encode(len(content)))
    return Child(profile.cid(DAG_PB, block), len(content), len(block)), block


def file_node(children: Sequence[Child], profile: Profile = DEFAULT) -> tuple[Child, bytes]:
    """Return the inner `File` node over `children`, and its block."""
    size = sum(child.size for child in children)
    data = bytearray(b"\x08\x02\x18" + varint.encode(size))
    for child in children:
        data += b"\x20" + varint.encode(child.size)  # blocksizes is not packed: proto2
    block = _encode_node([Link(child.cid, "", child.tsize) for child in children], bytes(data))
    cid = profile.cid(DAG_PB, block)
    return Child(cid, size, len(block) + sum(child.tsize for child in children)), block


def balanced(children: Iterable[Child], emit: Emit, profile: Profile = DEFAULT) -> Child:
    """Group `children` level by level until one root is left; every new node goes to `emit`.

    A last group of one is wrapped too, so that all leaves stay at one depth (IPIP-499 "balanced"). A single child is
    its own root. Raises `ValueError` when there is none: an empty file is one empty leaf.
    """
    level = list(children)
    if not level:
        raise ValueError("a file has at least one leaf")
    while len(level) > 1:
        parents: list[Child] = []
        for start in range(0, len(level), profile.width):
            parent, block = file_node(level[start : start + profile.width], profile)
            emit(parent.cid, block)
            parents.append(parent)
        level = parents
    return level[0]


def directory(entries: Sequence[tuple[str, Child]], profile: Profile = DEFAULT) -> tuple[Child, bytes]:
    """Return the flat `Directory` node of `entries` (name, child), sorted by name bytes, and its block."""
    ordered = sorted(entries, key=lambda entry: entry[0].encode())
    block = _encode_node([Link(child.cid, name, child.tsize) for name, child in ordered], b"\x08\x01")
    tsize = len(block) + sum(child.tsize for _, child in ordered)
    return Child(profile.cid(DAG_PB, block), 0, tsize), block


def encode_hamt_data(bitfield: bytes, fanout: int) -> bytes:
    """Return the `Data` of a HAMT shard: hashed with murmur3-x64-64 (0x22)."""
    body = b"" if not bitfield else b"\x12" + varint.encode(len(bitfield)) + bitfield
    return b"\x08\x05" + body + b"\x28\x22\x30" + varint.encode(fanout)


def encode_links(links: Iterable[Link], data: bytes) -> bytes:
    """Return the dag-pb block of `links` in the given order and `data`."""
    return _encode_node(links, data)


def _encode_node(links: Iterable[Link], data: bytes) -> bytes:
    out = bytearray()
    for link in links:
        cid, name = link.cid.encode(), link.name.encode()
        body = b"\x0a" + varint.encode(len(cid)) + cid + b"\x12" + varint.encode(len(name)) + name
        body += b"\x18" + varint.encode(link.tsize)
        out += b"\x12" + varint.encode(len(body)) + body
    out += b"\x0a" + varint.encode(len(data)) + data
    return bytes(out)


def parse_node(block: bytes) -> Node:
    """Parse a dag-pb block that holds a UnixFS node; raise `MalformedError` on anything unknown.

    Checks that `filesize` is the sum of what it describes, that there are as many `blocksizes` as links, and that no
    child is empty (a node of empty children could be unfolded without end).
    """
    if len(block) > MAX_BLOCK:
        raise MalformedError("block is too large", rule="block-size", wanted=f"at most {MAX_BLOCK}", got=len(block))
    links, start = _our_links(block)
    data: bytes | None = None
    for number, value, offset in _fields(block, start):
        if number == 2 and isinstance(value, bytes) and data is None:
            links.append(_parse_link(value, offset))
            if len(links) > MAX_LINKS:
                raise MalformedError("too many links", rule="unixfs", wanted=f"at most {MAX_LINKS}")
        elif number == 1 and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise MalformedError("not a dag-pb node", rule="dag-pb", offset=offset, got=f"field {number}")
    if data is None:
        raise MalformedError("dag-pb node holds no UnixFS data", rule="unixfs")
    return _parse_data(data, tuple(links))


# A link and a block size as we write them: a CIDv1 raw or dag-pb with BLAKE3-256, an empty name; numbers above zero in
# their shortest form. A large model has a hundred thousand of each: runs of them are read without a loop over fields.
_OUR_LINK = re.compile(
    rb"\x12([\x2a-\x32])\x0a\x24\x01([\x55\x70])\x1e\x20(.{32})\x12\x00\x18([\x80-\xff]{0,8}[\x01-\x7f])", re.DOTALL
)
_OUR_SIZE = re.compile(rb"\x20([\x80-\xff]{0,8}[\x01-\x7f])")
_FILE_HEAD = re.compile(rb"\x08\x02\x18([\x80-\xff]{0,8}[\x01-\x7f])")
_CODECS = {b"\x55": RAW, b"\x70": DAG_PB}


def _our_links(block: bytes) -> tuple[list[Link], int]:
    """Return the links in our own spelling that `block` begins with, and the offset after them."""
    links: list[Link] = []
    numbers: dict[bytes, int] = {}
    position = 0
    while len(links) < MAX_LINKS and (found := _OUR_LINK.match(block, position)) is not None:
        length, codec, digest, tsize = found.groups()
        if length[0] != 41 + len(tsize):
            break
        if tsize not in numbers:
            numbers[tsize] = varint.decode(tsize)[0]
        links.append(Link(Cid(_CODECS[codec], BLAKE3, digest), "", numbers[tsize]))
        position = found.end()
    return links, position


def _our_sizes(data: bytes, position: int) -> tuple[list[int], int]:
    """Return the block sizes in their shortest form that stand at `position`, and the offset after them."""
    sizes: list[int] = []
    numbers: dict[bytes, int] = {}
    while (found := _OUR_SIZE.match(data, position)) is not None:
        if (number := found.group(1)) not in numbers:
            numbers[number] = varint.decode(number)[0]
        sizes.append(numbers[number])
        position = found.end()
    return sizes, position


def _parse_link(body: bytes, base: int) -> Link:
    cid: Cid | None = None
    name, tsize, last = "", 0, 0
    for number, value, offset in _fields(body):
        if number <= last:
            raise MalformedError("dag-pb link fields are out of order", rule="dag-pb", offset=base + offset)
        last = number
        if number == 1 and isinstance(value, bytes):
            cid = Cid.decode(value)
        elif number == 2 and isinstance(value, bytes):
            try:
                name = value.decode()
            except UnicodeDecodeError as error:
                raise MalformedError("dag-pb link name is not UTF-8", rule="dag-pb", offset=base + offset) from error
        elif number == 3 and isinstance(value, int):
            tsize = value
        else:
            raise MalformedError("not a dag-pb link", rule="dag-pb", offset=base + offset, got=f"field {number}")
    if cid is None:
        raise MalformedError("dag-pb link has no CID", rule="dag-pb", offset=base)
    return Link(cid, name, tsize)


def _parse_data(data: bytes, links: tuple[Link, ...]) -> Node:
    kind: Kind | None = None
    content, once = b"", {}
    # Type File and its size, then the sizes of the children: how every inner node of a file begins.
    head = _FILE_HEAD.match(data)
    sizes, start = _our_sizes(data, head.end()) if head else ([], 0)
    if head:
        kind, once[3] = Kind.FILE, varint.decode(head.group(1))[0]
    for number, value, offset in _fields(data, start):
        if number == 1 and isinstance(value, int) and value <= Kind.HAMT:
            kind = Kind(value)
        elif number == 2 and isinstance(value, bytes):
            content = value
        elif number == 4 and isinstance(value, int):
            sizes.append(value)
        elif number in (3, 5, 6) and isinstance(value, int) and number not in once:
            once[number] = value
        elif number in (7, 8):
            continue  # mode and mtime: allowed by the specification, of no meaning here
        else:
            raise MalformedError("not UnixFS data", rule="unixfs", offset=offset, got=f"field {number}")
    if kind is None:
        raise MalformedError("UnixFS data has no type", rule="unixfs")
    size = once.get(3, 0)
    if kind in (Kind.FILE, Kind.RAW):
        if len(sizes) != len(links) or any(part == 0 for part in sizes):
            raise MalformedError("UnixFS sizes do not match the links", rule="unixfs", wanted=len(links), got=sizes[:8])
        if (total := len(content) + sum(sizes)) != size:
            raise MalformedError("UnixFS file size is not the sum of its parts", rule="unixfs", wanted=total, got=size)
    return Node(kind, links, tuple(sizes), size, content, once.get(6, 0), once.get(5, 0))


def _small(buffer: bytes, offset: int) -> tuple[int, int]:
    """Decode a varint that nearly always is one byte."""
    if offset < len(buffer) and buffer[offset] < 0x80:
        return buffer[offset], offset + 1
    return varint.decode(buffer, offset)


def _fields(buffer: bytes, offset: int = 0) -> Iterable[tuple[int, int | bytes, int]]:
    """Yield (field number, value, offset) of a protobuf message of varints and byte strings, from `offset` on."""
    while offset < len(buffer):
        start = offset
        tag, offset = _small(buffer, offset)
        if tag & 7 == 0:
            value, offset = varint.decode(buffer, offset)
            yield tag >> 3, value, start
        elif tag & 7 == 2:
            length, offset = _small(buffer, offset)
            if length > len(buffer) - offset:
                raise MalformedError("protobuf field is cut off", rule="dag-pb", offset=start)
            yield tag >> 3, buffer[offset : offset + length], start
            offset += length
        else:
            raise MalformedError("not a protobuf wire type of dag-pb", rule="dag-pb", offset=start, got=tag & 7)
