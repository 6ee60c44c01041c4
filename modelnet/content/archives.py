"""What is inside archives and compressed files, looked at in bounded pieces; nothing is unpacked.

A zip is read twice: by our own reader, which refuses whatever two readers could understand differently, and only then
member by member. A tar, and anything compressed as a whole, is a wrapper that no runtime loads weights from.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelnet.content.finding import Finding, Severity
from modelnet.content.pickles import MAX_PICKLE, is_code, strange_imports
from modelnet.core.paths import check_path
from modelnet.errors import MalformedError
from modelnet.formats import BytesSource, sniff, torch_zip
from modelnet.formats.layout import ByteSource

__all__ = ["check_compressed", "check_tar", "check_zip", "is_zip_at_the_end"]

PEEK = 64 * 1024  # bytes of a member that are looked at
PACKED_PEEK = 256 * 1024  # bytes of a compressed file that are given to its decompressor
LZMA_MEMORY = 128 * 1024 * 1024  # what xz -9 asks for is 65 MiB
BOMB_BYTES = 256 * 1024 * 1024
BOMB_RATIO = 200  # deflate cannot do better than 1032; weights never come near 10
BLOCK = 512  # of a tar
MAX_LOOKED_AT = 4096  # members of one zip that are looked into; the rest are named only
# A dtype of Python objects: after `descr`, or after the name of a field.
OBJECTS = re.compile(rb"""(?:['"]descr['"]\s*:|,)\s*['"][|<>=]?O[0-9]*['"]""")
END = b"PK\x05\x06"
MAX_COMMENT = 65_535
# What the standard library raises for an archive that it cannot read.
UNREADABLE = (
    OSError, ValueError, NotImplementedError, RuntimeError, EOFError, IndexError, OverflowError, struct.error,
    zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip
WRAPPERS = frozenset(["zip", "torch-zip", "tar", "7z", "gzip", "xz", "bzip2", "zstd"])
KERAS = "model.weights.h5"


@dataclass
class SourceFile(io.RawIOBase):
    """A `ByteSource` as a file object, for readers that want one."""

    source: ByteSource
    position: int = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can seek."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.source.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def readinto(self, buffer: object) -> int:
        """Fill `buffer` as far as the file has bytes."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(0, min(len(view), self.source.size - self.position))
        view[:count] = self.source.read(self.position, count)
        self.position += count
        return count


def check_zip(source: ByteSource, path: str) -> list[Finding]:
    """Return what is wrong with a zip: code, pickles, bombs, names that leave the folder, two ways to read it."""
    try:
        members = torch_zip.members(source)
    except MalformedError as error:
        return [_block("header", path, error.offset, f"a zip that two readers may see differently: {error.message}")]
    try:
        with zipfile.ZipFile(io.BufferedReader(SourceFile(source))) as archive:
            return _check_members(archive, members, source, path)
    except UNREADABLE as error:
        return [_block("header", path, 0, f"a zip that cannot be read: {error}"[:300])]


def _check_members(
    archive: zipfile.ZipFile, members: Sequence[torch_zip.Member], source: ByteSource, path: str
) -> list[Finding]:
    is_torch = torch_zip.is_torch(tuple(members))
    infos = archive.infolist()
    unpacked = sum(info.file_size for info in infos)
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * source.size):
        return [_block("zip-bomb", path, 0, f"{source.size} bytes that unpack to {unpacked}")]
    offsets = {member.name: member.start for member in members}
    found: list[Finding] = []
    if is_torch and any(name.split("/")[1:2] == ["code"] for name in offsets):
        return [_block("torchscript", path, 0, "a TorchScript program, which is code")]
    if KERAS in offsets and "config.json" in offsets:
        found.append(_block("keras", path, 0, "a Keras archive, whose layers may hold code"))
    elif not is_torch:
        found.append(Finding("archive", Severity.WARN, path, 0, f"a zip of {len(offsets)} members"))
    for count, info in enumerate(infos):
        found.extend(_check_member(archive, info, path, offsets.get(info.filename), look=count < MAX_LOOKED_AT))
    return found


def _check_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str, offset: int | None, *, look: bool
) -> Iterator[Finding]:
    name = info.filename
    try:
        check_path(name.rstrip("/"))
    except MalformedError as error:
        yield _block("path", path, offset, f"member {name!r}: {error.message}")
    if info.is_dir() or not look:
        return
    try:
        head = _head(archive, info, MAX_PICKLE if name.endswith("/data.pkl") else PEEK)
    except UNREADABLE as error:
        yield _block("header", path, offset, f"member {name!r} cannot be unpacked: {error}"[:300])
        return
    inside = BytesSource(head)
    kind = sniff(inside)
    if name.endswith(("/data.pkl", "/constants.pkl")) and name.count("/") == 1:
        strange = strange_imports(head)[0] if info.file_size <= MAX_PICKLE else ["more than can be looked at"]
        if strange:
            yield _block("pickle", path, offset, f"{name} imports {', '.join(strange[:8])}")
        else:
            yield Finding(
                "pickle-weights", Severity.WARN, path, offset,
                f"{name} is a pickle that needs nothing but tensors; load it with weights_only",
            )  # fmt: skip
    elif is_code(inside):
        yield _block("pickle", path, offset, f"member {name!r} is a pickle")
    elif _is_object_array(head):
        yield _block("pickle", path, offset, f"member {name!r} is an array of pickled objects")
    elif kind in WRAPPERS:
        yield _block("archive", path, offset, f"member {name!r} is {kind} inside a zip")
    elif kind in ("elf", "pe", "mach-o") and "/data/" not in name:
        yield _block("native-code", path, offset, f"member {name!r} is a program ({kind})")


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Return the first bytes of a member; bounded whatever its header claims."""
    with archive.open(info) as member:
        return member.read(limit)


def check_tar(source: ByteSource, path: str) -> list[Finding]:
    """Return the refusal of a tar, and what its first member is."""
    head = source.read(BLOCK, min(PEEK, source.size - BLOCK)) if source.size > BLOCK else b""
    if is_code(BytesSource(head)):
        return [_block("pickle", path, BLOCK, "a tar whose first member is a pickle")]
    return [_block("archive", path, 0, "a tar, which no runtime loads weights from")]


def check_compressed(source: ByteSource, path: str, kind: str) -> list[Finding]:
    """Return the refusal of a file that is compressed as a whole, and what comes out of it first."""
    inside = _unpacked(source.read(0, min(PACKED_PEEK, source.size)), kind)
    if inside and is_code(BytesSource(inside)):
        return [_block("pickle", path, 0, f"a pickle, wrapped in {kind}")]
    what = sniff(BytesSource(inside)) if inside else None
    detail = f"{kind}, with {what} inside" if what else f"{kind}, which hides what is inside"
    return [_block("archive", path, 0, detail)]


def _unpacked(packed: bytes, kind: str) -> bytes:
    """Return the first bytes that come out, or nothing for what cannot be unpacked here."""
    try:
        if kind == "gzip":
            return zlib.decompressobj(31).decompress(packed, PEEK)
        if kind == "bzip2":
            return bz2.BZ2Decompressor().decompress(packed, PEEK)
        if kind == "xz":
            return lzma.LZMADecompressor(memlimit=LZMA_MEMORY).decompress(packed, PEEK)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError):
        return b""
    return b""


def is_zip_at_the_end(source: ByteSource) -> bool:
    """Tell whether a file that does not begin like a zip would be opened as one: readers look for its end record."""
    size = min(source.size, MAX_COMMENT + 22)
    tail = source.read(source.size - size, size)
    position = tail.rfind(END)
    if position < 0 or len(tail) - position < 22:
        return False
    comment = int.from_bytes(tail[position + 20 : position + 22], "little")
    length = int.from_bytes(tail[position + 12 : position + 16], "little")
    directory = source.size - size + position - length
    if position + 22 + comment != len(tail) or directory < 0:
        return False
    return length == 0 or (length >= 46 and source.read(directory, 4) == b"PK\x01\x02")


def _is_object_array(head: bytes) -> bool:
    """Tell whether a NumPy array holds Python objects: its data is then a pickle (numpy/lib/format.py)."""
    if not head.startswith(b"\x93NUMPY") or len(head) < 12:
        return False
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    return OBJECTS.search(head[8 + width : 8 + width + min(length, PEEK)]) is not None


def check_array(source: ByteSource, path: str) -> list[Finding]:
    """Return the refusal of a NumPy file that holds pickled objects."""
    if _is_object_array(source.read(0, min(PEEK, source.size))):
        return [_block("pickle", path, 0, "an array of pickled objects")]
    return []


def _block(rule: str, path: str, offset: int | None, detail: str) -> Finding:
    return Finding(rule, Severity.BLOCK, path, offset, detail)
