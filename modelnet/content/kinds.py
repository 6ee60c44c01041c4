"""What a file is for the gate: what its format's name is, and beside that what is known by no magic number alone.

A magic number of two or three bytes counts only with what must follow it, for a text may begin like one; what has no
magic at all (a zlib stream, an old LZMA file, compiled Python) counts when it can be read as that.
"""

from __future__ import annotations

from modelnet.content.unpacking import PEEK, unpacked_head
from modelnet.formats import READERS, BytesSource, pickled, sniff
from modelnet.formats.layout import ByteSource

__all__ = ["COMPRESSED", "PROGRAMS", "is_hdf5", "kind_of"]

HEAD = 512
PROGRAMS = {
    "elf": "ELF", "pe": "Windows", "mach-o": "macOS or Java", "wasm": "WebAssembly", "pyc": "compiled Python",
}  # fmt: skip
COMPRESSED = frozenset(["gzip", "xz", "bzip2", "zstd", "7z", "zlib", "lzma"])
WASM = b"\x00asm"
GZIP_DEFLATE = 8
# The first block of a bzip2 stream, or the end of an empty one, after which another stream may follow.
BZIP2_NEXT = (bytes.fromhex("314159265359"), bytes.fromhex("177245385090"))
BZIP2_LEVELS = b"123456789"
HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_FIRST = 512  # a user block before the signature has this size, or twice that, and so on (HDF5 format, II.A)
# Compiled Python: a number of the version and CR LF, then flags, time or hash, and a marshalled code object, which
# begins at one of these (Lib/importlib/_bootstrap_external.py, MAGIC_NUMBER; 8 and 12 before Python 3.7).
PYC_STARTS = (8, 12, 16)
PYC_PYTHON_3 = range(4000)
PYC_PYTHON_2 = range(50_428, 62_300)
CODE_OBJECT = (ord("c"), ord("c") | 0x80)


def kind_of(source: ByteSource) -> str | None:
    """Return what the content is, or None; a pickle is not told here but by walking it."""
    head = source.read(0, min(HEAD, source.size))
    kind = sniff(source)
    weak = (
        kind == "pickle"
        or (kind == "gzip" and head[2:3] != bytes([GZIP_DEFLATE]))
        or (kind == "bzip2" and (head[3:4] not in BZIP2_LEVELS or head[4:10] not in BZIP2_NEXT))
        or (kind == "pe" and not _is_pe(source, head))
    )
    if weak:
        kind = "safetensors" if head[8:9] == b"{" else None
    if kind is None:
        return _without_magic(source, head)
    if kind not in READERS and is_hdf5(source):
        return "hdf5"
    return kind


def _without_magic(source: ByteSource, head: bytes) -> str | None:
    if head.startswith(WASM):
        return "wasm"
    if _is_pyc(head):
        return "pyc"
    if is_hdf5(source):
        return "hdf5"
    for kind in ("zlib", "lzma"):
        if _is_packed(source, head, kind):
            return kind
    return None


def is_hdf5(source: ByteSource) -> bool:
    """Tell whether HDF5's signature stands at the beginning or behind a user block."""
    position = 0
    while position + len(HDF5) <= source.size:
        if source.read(position, len(HDF5)) == HDF5:
            return True
        position = 2 * position or HDF5_FIRST
    return False


def _is_pe(source: ByteSource, head: bytes) -> bool:
    where = int.from_bytes(head[0x3C:0x40], "little")
    return len(head) >= 0x40 and where + 4 <= source.size and source.read(where, 4) == b"PE\0\0"


def _is_pyc(head: bytes) -> bool:
    version = int.from_bytes(head[:2], "little")
    if head[2:4] != b"\r\n" or len(head) <= PYC_STARTS[-1]:
        return False
    if version in PYC_PYTHON_2:
        return head[PYC_STARTS[0]] in CODE_OBJECT
    return version in PYC_PYTHON_3 and any(head[start] in CODE_OBJECT for start in PYC_STARTS)


def _is_packed(source: ByteSource, head: bytes, kind: str) -> bool:
    """Tell whether a stream without magic can be unpacked, or begins with a pickle as far as it can."""
    plausible = _is_zlib(head) if kind == "zlib" else _is_lzma(head)
    if not plausible:
        return False
    inside = unpacked_head(source, kind)
    if inside.content and pickled.walk(BytesSource(inside.content)).is_code:
        return True
    # Zeros and the like can be unpacked for ever: an old LZMA header must be one that its tools write.
    complete = inside.is_whole or len(inside.content) >= PEEK
    return bool(inside.content) and complete and (kind == "zlib" or _is_usual_lzma(head))


def _is_zlib(head: bytes) -> bool:
    """RFC 1950, 2.2: method 8, a window of at most 32 KiB, and a check of both bytes."""
    return len(head) > 2 and head[0] & 0x0F == 8 and head[0] >> 4 <= 7 and int.from_bytes(head[:2], "big") % 31 == 0


def _is_lzma(head: bytes) -> bool:
    """Properties, the size of the dictionary and of the content, and the first byte of the stream, which is 0."""
    return len(head) > 18 and head[0] < 225 and head[13] == 0


def _is_usual_lzma(head: bytes) -> bool:
    """A dictionary of 2^n or 2^n + 2^(n-1) bytes and a size below 256 GiB (liblzma, `alone_decoder.c`, `picky`)."""
    dictionary, size = int.from_bytes(head[1:5], "little"), int.from_bytes(head[5:13], "little")
    rest = dictionary & (dictionary - 1)
    usual = dictionary >= 4096 and (rest == 0 or (rest & (rest - 1) == 0 and dictionary == rest | rest >> 1))
    return (usual or dictionary == 0xFFFFFFFF) and (size == (1 << 64) - 1 or size < 1 << 38)
