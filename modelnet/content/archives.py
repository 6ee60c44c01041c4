"""What is inside archives and compressed files, looked at in bounded pieces; nothing is unpacked to a disk.

A zip is read by our own reader, which refuses whatever two readers could understand differently, and then member by
member. A tar, and anything compressed as a whole, is a wrapper that no runtime loads weights from.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelnet.content import arrays, configs
from modelnet.content.finding import Finding, Severity
from modelnet.content.kinds import COMPRESSED, PROGRAMS, kind_of
from modelnet.content.pickles import MAX_OPCODES, MAX_PICKLE, is_code, strange_imports
from modelnet.content.sources import named_code
from modelnet.content.unpacking import PEEK, STORED, Budget, UnpackedSource, unpacked_head
from modelnet.core.paths import check_path
from modelnet.errors import MalformedError
from modelnet.formats import BytesSource, pickled, torch_zip
from modelnet.formats.layout import ByteSource

__all__ = ["check_appended_zip", "check_compressed", "check_tar", "check_zip", "is_zip_at_the_end"]

BOMB_BYTES = 256 * 1024 * 1024
BOMB_RATIO = 200  # deflate cannot do better than 1032; weights never come near 10
BLOCK = 512  # of a tar
MAX_LOOKED_AT = 32_768  # members of one zip; each takes about 100 µs, and the largest models have some thousands
# What all members of one zip may be unpacked to; the largest `data.pkl` and the beginnings of 2,000 members fit.
MAX_UNPACKED = 128 * 1024 * 1024
MAX_MEMBER = 8 * 1024 * 1024  # of a member that goes on like a pickle
WALKED = 4  # an opcode of any member costs as much as so many of a `data.pkl`: it is looked at twice, and slower
END, END64, LOCATOR, CENTRAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"  # APPNOTE 4.3
END_SIZE, LOCATOR_SIZE, END64_SIZE = 22, 20, 56
MAX_COMMENT = 65_535
WRAPPERS = COMPRESSED | {"zip", "torch-zip", "tar"}
KERAS_WEIGHTS = "model.weights."  # .h5 or .npz
KERAS_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes `[start, end)` of a file as a file."""

    source: ByteSource
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.end - self.start

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedError("the part ends too early", rule="truncated", offset=offset, got=self.size)
        return self.source.read(self.start + offset, length)


def check_zip(source: ByteSource, path: str) -> list[Finding]:
    """Return what is wrong with a zip: code, pickles, bombs, names that leave the folder, two ways to read it."""
    try:
        members = torch_zip.members(source)
    except MalformedError as error:
        return [_block("header", path, error.offset, f"a zip that two readers may see differently: {error.message}")]
    found = [] if torch_zip.is_torch(members) else [
        Finding("archive", Severity.WARN, path, 0, f"a zip of {len(members)} members")
    ]  # fmt: skip
    return found + _check_members(members, source, path)


def check_appended_zip(source: ByteSource, path: str) -> list[Finding]:
    """Return what is wrong with a zip that follows a model in one file, as TFLite's metadata keep a model's labels."""
    directories = _directories(source)
    try:
        start, inside = torch_zip.appended(source)
        if directories - {start}:
            return [_block("polyglot", path, None, "a model that ends as more than one zip")]
        return _check_members(inside, source, path)
    except MalformedError as error:
        return [_block("polyglot", path, error.offset, f"a model that ends as a zip: {error.message}")]


def _check_members(members: Sequence[torch_zip.Member], source: ByteSource, path: str) -> list[Finding]:
    is_torch = torch_zip.is_torch(tuple(members))
    unpacked = sum(member.unpacked for member in members)
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * source.size):
        return [_block("zip-bomb", path, 0, f"{source.size} bytes that unpack to {unpacked}")]
    if is_torch and any(member.name.split("/")[1:2] == ["code"] for member in members):
        return [_block("torchscript", path, 0, "a TorchScript program, which is code")]
    if len(members) > MAX_LOOKED_AT:
        return [_block("archive", path, 0, f"{len(members)} members, more than the {MAX_LOOKED_AT} that are looked at")]
    budget = Budget(bytes=MAX_UNPACKED, opcodes=MAX_OPCODES)
    found: list[Finding] = []
    if _is_keras(members, source, path, budget):
        found.append(_block("keras", path, 0, "a Keras archive, whose layers may hold code"))
    for member in members:
        found += _check_member(member, source, path, budget)
        if budget.bytes <= 0 or budget.opcodes <= 0:
            return [*found, _block("archive", path, member.header, "more inside than is looked at in one archive")]
    return found


def _is_keras(members: Sequence[torch_zip.Member], source: ByteSource, path: str, budget: Budget) -> bool:
    """Tell whether Keras finds a configuration of layers here: it builds them before it looks for weights."""
    config = next((member for member in members if member.name == KERAS_CONFIG), None)
    if config is None:
        return False
    if path.lower().endswith(".keras") or any(member.name.startswith(KERAS_WEIGHTS) for member in members):
        return True
    try:
        return configs.is_of_layers(_open(config, source, budget, limit=configs.MAX_VALUE))
    except MalformedError:
        return True


def _open(member: torch_zip.Member, source: ByteSource, budget: Budget, *, limit: int) -> ByteSource:
    if member.method == STORED:
        return Part(source, member.start, member.end)
    return UnpackedSource(
        source, member.start, member.end, method=member.method, size=member.unpacked, limit=limit, budget=budget
    )


def _check_member(member: torch_zip.Member, source: ByteSource, path: str, budget: Budget) -> Iterator[Finding]:
    name, offset = member.name, member.start
    try:
        check_path(name.rstrip("/"))
    except MalformedError as error:
        yield _block("path", path, offset, f"member {name!r}: {error.message}")
    if name.endswith("/") and member.start == member.end:
        return
    is_torch_pickle = name.endswith(("/data.pkl", "/constants.pkl")) and name.count("/") == 1
    try:
        inside = _open(member, source, budget, limit=MAX_PICKLE if is_torch_pickle else MAX_MEMBER)
        head = inside.read(0, min(PEEK, inside.size))
        if isinstance(inside, UnpackedSource) and inside.is_longer():
            yield _block("header", path, offset, f"member {name!r} unpacks to more than it claims")
            return
        if is_torch_pickle:
            yield from _torch_pickle(member, inside, path, budget)
        else:
            yield from _look(member, inside, head, path, budget)
    except MalformedError as error:
        yield _block("header", path, offset, f"member {name!r}: {error.message}")


def _torch_pickle(member: torch_zip.Member, inside: ByteSource, path: str, budget: Budget) -> Iterator[Finding]:
    name, offset = member.name, member.start
    strange, count = ["more than can be looked at"], 0
    if inside.size <= min(MAX_PICKLE, budget.bytes):
        budget.bytes -= inside.size
        strange, count = strange_imports(inside.read(0, inside.size), limit=budget.opcodes)
    budget.opcodes -= count
    if strange:
        yield _block("pickle", path, offset, f"{name} imports {', '.join(strange[:8])}")
    else:
        yield Finding(
            "pickle-weights", Severity.WARN, path, offset,
            f"{name} is a pickle that needs nothing but tensors; load it with weights_only",
        )  # fmt: skip


def _look(member: torch_zip.Member, inside: ByteSource, head: bytes, path: str, budget: Budget) -> Iterator[Finding]:
    """Yield what is to be said about a member as about a file of its own."""
    name, offset = member.name, member.start
    for rule, detail in named_code(name, head):
        yield _block(rule, path, offset, f"member {name!r}: {detail}")
    walked = pickled.walk(inside, limit=max(1, min(pickled.MAX_OPCODES, budget.opcodes // WALKED)))
    budget.opcodes -= WALKED * walked.opcodes
    if walked.is_code:
        yield _block("pickle", path, offset, f"member {name!r} is a pickle")
        return
    kind = kind_of(inside)
    if kind == "npy" and (strange := arrays.strange_dtype(inside)):
        yield _block("pickle", path, offset, f"member {name!r} may be an array of pickled objects: {strange}")
    elif kind in WRAPPERS:
        yield _block("archive", path, offset, f"member {name!r} is {kind} inside a zip")
    elif kind == "hdf5":
        yield _block("hdf5", path, offset, f"member {name!r} is HDF5, in which Keras keeps layers that hold code")
    elif kind in PROGRAMS:
        yield _block("native-code", path, offset, f"member {name!r} is a program ({PROGRAMS[kind]})")


def check_tar(source: ByteSource, path: str) -> list[Finding]:
    """Return the refusal of a tar, and what its first member is."""
    head = source.read(BLOCK, min(PEEK, source.size - BLOCK)) if source.size > BLOCK else b""
    if is_code(BytesSource(head)):
        return [_block("pickle", path, BLOCK, "a tar whose first member is a pickle")]
    return [_block("archive", path, 0, "a tar, which no runtime loads weights from")]


def check_compressed(source: ByteSource, path: str, kind: str) -> list[Finding]:
    """Return the refusal of a file that is compressed as a whole, and what comes out of it first."""
    inside = unpacked_head(source, kind).content
    if inside and is_code(BytesSource(inside)):
        return [_block("pickle", path, 0, f"a pickle, wrapped in {kind}")]
    what = kind_of(BytesSource(inside)) if inside else None
    detail = f"{kind}, with {what} inside" if what else f"{kind}, which hides what is inside"
    return [_block("archive", path, 0, detail)]


def is_zip_at_the_end(source: ByteSource) -> bool:
    """Tell whether a file that does not begin like a zip would be opened as one: readers look for its end record."""
    return bool(_directories(source))


def _directories(source: ByteSource) -> set[int]:
    """Return where any reader would find a zip's directory: from any end record near the end of the file.

    Python's takes one that more bytes follow, and measures from it where the directory must be; others go by the
    offset that it claims. An empty archive has no directory, and its end record must end the file.
    """
    size = min(source.size, MAX_COMMENT + END_SIZE)
    base = source.size - size
    tail = source.read(base, size)
    claimed: set[int] = set()
    empty: set[int] = set()
    found = tail.find(END)
    while 0 <= found <= len(tail) - END_SIZE:
        position = base + found
        count, length, offset, comment = struct.unpack_from("<HIIH", tail, found + 10)
        claimed |= {position - length, offset}
        if not count and not length and found + END_SIZE + comment == len(tail):
            empty.add(position)
        claimed |= _zip64(source, position)
        found = tail.find(END, found + 1)
    inside = {position for position in claimed if 0 <= position <= source.size - len(CENTRAL)}
    return empty | {position for position in inside if source.read(position, len(CENTRAL)) == CENTRAL}


def _zip64(source: ByteSource, position: int) -> set[int]:
    """Return where the zip64 record that belongs to an end record at `position` says that the directory is."""
    at = position - LOCATOR_SIZE
    if at < 0:
        return set()
    signature, _, record, _ = struct.unpack("<4sIQI", source.read(at, LOCATOR_SIZE))
    if signature != LOCATOR:
        return set()
    claimed = set()
    for where in {record, at - END64_SIZE}:
        if 0 <= where <= source.size - END64_SIZE:
            content = source.read(where, END64_SIZE)
            length, offset = struct.unpack_from("<QQ", content, 40)
            if content.startswith(END64):
                claimed |= {where - length, offset}
    return claimed


def check_array(source: ByteSource, path: str) -> list[Finding]:
    """Return the refusal of a NumPy file that may hold pickled objects, or has no header that can be read."""
    try:
        strange = arrays.strange_dtype(source)
    except MalformedError as error:
        return [_block("header", path, error.offset, error.message)]
    return [_block("pickle", path, 0, f"an array that may be of pickled objects: {strange}")] if strange else []


def _block(rule: str, path: str, offset: int | None, detail: str) -> Finding:
    return Finding(rule, Severity.BLOCK, path, offset, detail)
