"""Formats of model files, told by their content, and the spans that their readers find in them.

>>> from modelnet.formats.layout import BytesSource
>>> header = b'{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
>>> layout = read_layout(BytesSource(len(header).to_bytes(8, "little") + header + b"ab"))
>>> [(span.kind.value, span.start, span.end) for span in layout.spans]
[('header', 0, 61), ('tensor', 61, 63)]
"""

from __future__ import annotations

from collections.abc import Callable

from modelnet.errors import MalformedError
from modelnet.formats import gguf, onnx, pickled, safetensors, tflite, torch_zip
from modelnet.formats.layout import ByteSource, BytesSource, Layout, Span, SpanKind, cover

__all__ = [
    "ByteSource",
    "BytesSource",
    "Layout",
    "Span",
    "SpanKind",
    "cover",
    "read_layout",
    "read_layout_strict",
    "sniff",
]

READERS: dict[str, Callable[[ByteSource], Layout]] = {
    "safetensors": safetensors.read_layout,
    "gguf": gguf.read_layout,
    "onnx": onnx.read_layout,
    "tflite": tflite.read_layout,
    "torch-zip": torch_zip.read_layout,
}

# Enough for a tar's magic at byte 257.
HEAD = 512
MAGIC = {
    b"GGUF": "gguf", b"lmgg": "ggml", b"fmgg": "ggml", b"tjgg": "ggml", b"algg": "ggml",
    b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"7z\xbc\xaf\x27\x1c": "7z", b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\x7fELF": "elf", b"MZ": "pe",
    b"\xca\xfe\xba\xbe": "mach-o", b"\xca\xfe\xba\xbf": "mach-o", b"\xcf\xfa\xed\xfe": "mach-o",
    b"\xce\xfa\xed\xfe": "mach-o", b"\xfe\xed\xfa\xce": "mach-o", b"\xfe\xed\xfa\xcf": "mach-o",
}  # fmt: skip
TAR_SUM = slice(148, 156)


def sniff(source: ByteSource) -> str | None:
    """Return the name of the format that the content has, or None; the file's name is never asked.

    The names are `safetensors`, `gguf`, `onnx`, `tflite`, `torch-zip`, which have readers, and `pickle`, `zip`, `hdf5`,
    `json`, `ggml`, `npy`, `tar`, `7z`, `gzip`, `xz`, `bzip2`, `zstd`, `elf`, `pe`, `mach-o`. A file that has another
    format's magic and is a pickle that imports something is a pickle.
    """
    head = source.read(0, min(HEAD, source.size))
    if pickled.is_pickle(source):
        return "pickle"
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        return _sniff_zip(source)
    if head[4:8] == b"TFL3":
        return "tflite"
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "tar"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(safetensors.MAX_HEADER, source.size - 8):
        return "safetensors"
    if _is_json(head):
        return "json"
    return "onnx" if _is_onnx(source) else None


def read_layout(source: ByteSource) -> Layout | None:
    """Return the spans of a file, or None when its format is unknown or its reader refuses it.

    A refusal costs nothing but reuse between versions, so it is no error here: chunks are then cut without spans.
    """
    try:
        return read_layout_strict(source)
    except MalformedError:
        return None


def read_layout_strict(source: ByteSource) -> Layout:
    """Return the spans of a file.

    Raises: `MalformedError`, rule `unknown-format` when there is no reader for it, else the reader's rule.
    """
    found = sniff(source)
    if found not in READERS:
        raise MalformedError("no format with a reader", rule="unknown-format", offset=0, got=found)
    return READERS[found](source)


def _sniff_zip(source: ByteSource) -> str:
    try:
        return "torch-zip" if torch_zip.is_torch(torch_zip.members(source)) else "zip"
    except MalformedError:
        return "zip"


def _is_old_tar(head: bytes) -> bool:
    """Tell whether a header without magic has the right checksum, as tarfile reads it (`TarInfo.frombuf`)."""
    field = head[TAR_SUM]
    if len(head) < HEAD or not any(head):
        return False
    try:
        if field[0] in {0x80, 0xFF}:
            claimed = int.from_bytes(field[1:], "big")
        else:
            claimed = int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return False
    rest = head[: TAR_SUM.start] + b" " * 8 + head[TAR_SUM.stop :]
    # Some writers summed signed bytes.
    return claimed in {sum(rest), sum(byte - 256 * (byte > 127) for byte in rest)}


def _is_json(head: bytes) -> bool:
    """Tell whether the text begins like JSON's objects and arrays do; a byte order mark is none of JSON's."""
    return head.lstrip(b" \t\r\n")[:1] in {b"{", b"["} and b"\x00" not in head


def _is_onnx(source: ByteSource) -> bool:
    try:
        return onnx.is_model(source)
    except MalformedError:
        return False
