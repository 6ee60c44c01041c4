"""Spans of a PyTorch file: a zip of stored, aligned members (PKWARE APPNOTE.TXT; PyTorch's PyTorchStreamWriter).

    local header, data, data descriptor | ... | central directory | zip64 record, locator | end record

Storages are `X/data/<n>` (and `X/constants/<n>` in TorchScript), `X/data.pkl` says what they are. Where a member's data
begins is known only from its local header, whose extra field holds the alignment. Two readers of one zip must see the
same members, so this one refuses whatever they could differ on: a directory that is not right before the end record,
local headers unlike their central entry, bytes that belong to no member, two members of one name, encryption.

Rules: `end-record`, `zip64`, `directory`, `too-many-members`, `not-utf-8`, `duplicate-name`, `encrypted`,
`local-mismatch`, `size-mismatch`, `overlap`, `hole`, `out-of-bounds`, `no-data-pkl`, `truncated`, `header-too-large`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from modelnet.formats.layout import ByteSource, Layout, Span, SpanKind, cover
from modelnet.formats.window import Window, refusal

__all__ = ["Member", "appended", "is_torch", "members", "read_layout"]

# A member is two spans. The largest models have some thousands of storages.
MAX_MEMBERS = 131_072
MAX_DIRECTORY = 64 * 1024 * 1024
# The directory and, for each member, the block that holds its local header.
MAX_HEADER = 128 * 1024 * 1024
BLOCK = 256
MAX_COMMENT = 65_535  # a 16-bit length

END = struct.Struct("<4sHHHHIIH")  # APPNOTE 4.3.16
LOCATOR = struct.Struct("<4sIQI")  # 4.3.15
END64 = struct.Struct("<4sQHHIIQQQQ")  # 4.3.14
CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")  # 4.3.12
LOCAL = struct.Struct("<4sHHHHHIIIHH")  # 4.3.7
EXTRA = struct.Struct("<HH")  # 4.5.1
ZIP64_EXTRA = 1  # 4.5.3
NONE16, NONE32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, DESCRIPTOR = 0x01, 0x08  # 4.4.4
# With or without its signature, with 32 or 64 bits of sizes (4.3.9).
DESCRIPTOR_SIZES = {12, 16, 20, 24}


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its local header is `[header, start)`, its bytes as stored are `[start, end)`."""

    name: str
    header: int
    start: int
    end: int
    method: int
    flags: int
    unpacked: int  # as the directory claims


def read_layout(source: ByteSource) -> Layout:
    """Return each member's bytes; those of storages are tensors, everything else is header.

    Raises: `MalformedError` for a zip that two readers could understand differently, or that is not PyTorch's.
    """
    found = members(source)
    if not is_torch(found):
        raise refusal("a zip without data.pkl is not PyTorch's", "no-data-pkl", 0)
    spans = []
    for member in found:
        spans.append(Span(member.header, member.start, SpanKind.HEADER))
        folder = member.name.split("/")[1:-1]
        is_storage = member.method == 0 and folder in (["data"], ["constants"])
        kind = SpanKind.TENSOR if is_storage else SpanKind.HEADER
        spans.append(Span(member.start, member.end, kind, member.name))
    return Layout("torch-zip", cover(source.size, spans))


def is_torch(found: tuple[Member, ...]) -> bool:
    """Tell whether these are the members of a PyTorch file."""
    return any(member.name.endswith("/data.pkl") and member.name.count("/") == 1 for member in found)


def members(source: ByteSource) -> tuple[Member, ...]:
    """Return the members in the file's order.

    Raises: `MalformedError` for a zip that two readers could understand differently.
    """
    window = Window(source, block=BLOCK, budget=MAX_HEADER)
    return _members(window, _directory(window), begin=0, shift=0)


def appended(source: ByteSource) -> tuple[int, tuple[Member, ...]]:
    """Return where the directory of a zip at the end of another file is, and its members.

    Their offsets count from the file's beginning or, as some writers have it, from the first member.

    Raises: `MalformedError` for a zip that two readers could understand differently.
    """
    window = Window(source, block=BLOCK, budget=MAX_HEADER)
    directory = _directory(window, is_appended=True)
    return directory.start, _members(window, directory, begin=None, shift=directory.start - directory.claimed)


def _members(window: Window, directory: _Directory, *, begin: int | None, shift: int) -> tuple[Member, ...]:
    content = window.read(directory.start, directory.end - directory.start)
    entries = _entries(content, directory.count, directory.start, shift)
    found = [_member(window, entry) for entry in sorted(entries, key=lambda entry: entry.offset)]
    if begin is None:
        begin = found[0].header if found else directory.start
    position = begin
    starts = [member.header for member in found[1:]] + [directory.start] * bool(found)
    for member, following in zip(found, starts, strict=True):
        if member.header < position or member.end > following:
            raise refusal(f"member {member.name!r} overlaps another", "overlap", member.header, wanted=position)
        gap = following - member.end
        allowed = DESCRIPTOR_SIZES if member.flags & DESCRIPTOR else {0}
        if gap not in allowed or (position == begin != member.header):
            raise refusal("bytes that belong to no member", "hole", member.end, wanted=sorted(allowed), got=gap)
        position = following
    if position != directory.start:
        raise refusal("bytes that belong to no member", "hole", position)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Directory:
    """The central directory is `[start, end)` and has `count` entries; the end record says that it is at `claimed`."""

    count: int
    start: int
    end: int
    claimed: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the central directory says about a member."""

    name: bytes
    offset: int
    packed: int
    unpacked: int
    crc: int
    method: int
    flags: int


def _directory(window: Window, *, is_appended: bool = False) -> _Directory:
    """Return where the central directory is; `is_appended` when it need not be where the end record says."""
    size = window.size
    tail_start = max(0, size - END.size - MAX_COMMENT)
    tail = window.read(tail_start, size - tail_start)
    found = tail.rfind(b"PK\x05\x06")
    position = tail_start + found
    # The last signature must be the end record's: in a comment, one reader would find it and another would not.
    if found < 0 or size - position < END.size:
        raise refusal("no end record", "end-record", tail_start)
    _, disk, first, here, count, length, start, comment = END.unpack_from(tail, found)
    if position + END.size + comment != size or disk != first or disk not in {0, NONE16} or here != count:
        raise refusal("the end record is not that of one file", "end-record", position)
    end = position
    claims = ((count, NONE16), (length, NONE32), (start, NONE32))
    locator = position - LOCATOR.size
    if locator >= 0 and window.read(locator, 4) == b"PK\x06\x07":
        _, _, end, _ = LOCATOR.unpack(window.read(locator, LOCATOR.size))
        if end != locator - END64.size:
            raise refusal("the zip64 record is not before its locator", "zip64", locator, got=end)
        signature, rest, _, _, disk, first, here, count, length, start = END64.unpack(window.read(end, END64.size))
        values = (count, length, start)
        agree = all(claim in {value, none} for (claim, none), value in zip(claims, values, strict=True))
        if signature != b"PK\x06\x06" or rest != END64.size - 12 or disk or first or here != count or not agree:
            raise refusal("the zip64 record does not fit the end record", "zip64", end)
    elif any(claim == none for claim, none in claims):
        raise refusal("the zip64 record is missing", "zip64", position)
    claimed = start
    if is_appended:
        start = end - length
    if start + length != end or not claimed <= start:
        raise refusal("the directory does not end where the end record begins", "directory", end, got=start + length)
    if length > MAX_DIRECTORY or count > min(MAX_MEMBERS, length // CENTRAL.size):
        raise refusal("the directory claims too many members", "too-many-members", end, got=count)
    return _Directory(count, start, end, claimed)


def _entries(directory: bytes, count: int, base: int, shift: int) -> list[_Entry]:
    """Return the entries of the directory that begins at `base`; `shift` is added to their offsets."""
    entries = []
    names: set[bytes] = set()
    position = 0
    for _ in range(count):
        if len(directory) - position < CENTRAL.size:
            raise refusal("the directory is too short", "directory", base + position)
        fields = CENTRAL.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, crc, packed, unpacked, n_name, n_extra, n_comment, disk, _, _, offset = (
            fields
        )
        name_end = position + CENTRAL.size + n_name
        extra = directory[name_end : name_end + n_extra]
        name = directory[position + CENTRAL.size : name_end]
        where = base + position
        position = name_end + n_extra + n_comment
        if signature != b"PK\x01\x02" or position > len(directory) or disk not in {0, NONE16}:
            raise refusal("a directory entry is broken", "directory", where)
        unpacked, packed, offset = _zip64(extra, (unpacked, packed, offset), where)
        offset += shift
        if name in names:
            raise refusal(f"member {name!r} comes twice", "duplicate-name", where)
        if flags & ENCRYPTED:
            raise refusal(f"member {name!r} is encrypted", "encrypted", where)
        if method == 0 and packed != unpacked:
            raise refusal(
                f"member {name!r} is stored with two sizes", "size-mismatch", where, wanted=unpacked, got=packed
            )
        if offset + packed > base:
            raise refusal(f"member {name!r} leaves the file", "out-of-bounds", where, wanted=base, got=offset + packed)
        names.add(name)
        entries.append(_Entry(name, offset, packed, unpacked, crc, method, flags))
    if position != len(directory):
        raise refusal("the directory has bytes after its entries", "directory", base + position)
    return entries


def _zip64(extra: bytes, values: tuple[int, ...], where: int) -> list[int]:
    """Return `values` with each that is all ones replaced from the zip64 extra field (APPNOTE 4.5.3)."""
    missing = [index for index, value in enumerate(values) if value == NONE32]
    result = list(values)
    position = 0
    while missing and position + EXTRA.size <= len(extra):
        kind, length = EXTRA.unpack_from(extra, position)
        position += EXTRA.size
        if kind == ZIP64_EXTRA and 8 * len(missing) <= length <= len(extra) - position:
            for index, value in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, position), strict=True):
                result[index] = value
            return result
        position += length
    if missing:
        raise refusal("a size or offset is nowhere to be found", "zip64", where)
    return result


def _member(window: Window, entry: _Entry) -> Member:
    """Return a member, its local header compared with the directory's entry."""
    where = entry.offset
    fields = LOCAL.unpack(window.read(where, LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, unpacked, n_name, n_extra = fields
    name = window.read(where + LOCAL.size, n_name)
    start = where + LOCAL.size + n_name + n_extra
    same = (signature, flags, method, name) == (b"PK\x03\x04", entry.flags, entry.method, entry.name)
    if same and NONE32 in {packed, unpacked}:
        unpacked, packed = _zip64(window.read(start - n_extra, n_extra), (unpacked, packed), where)
    local = (crc, packed, unpacked)
    # With a data descriptor the local header was written before the sizes were known (4.4.4, bit 3).
    if not same or (local != (entry.crc, entry.packed, entry.unpacked) and (not flags & DESCRIPTOR or any(local))):
        raise refusal("a local header is unlike its directory entry", "local-mismatch", where, wanted=entry.name)
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise refusal("a member's name is not UTF-8", "not-utf-8", where) from error
    return Member(text, where, start, start + entry.packed, method, flags, entry.unpacked)
