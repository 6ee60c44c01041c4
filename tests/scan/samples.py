"""Files that are not what they seem, made by the libraries that make them in the wild; nothing here is ever loaded."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
from safetensors.numpy import save

from modelnet.content import Finding, Severity, check_content
from modelnet.formats import BytesSource

PROTOCOLS = range(6)


class Evil:
    """What every demonstration of the attack uses."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def evil(protocol: int) -> bytes:
    """A pickle that runs a command when it is loaded."""
    return pickle.dumps({"weights": Evil()}, protocol=protocol)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of `members`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    """A tar of `members`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return out.getvalue()


def wrappings(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The ways to hide a pickle that scanners were fooled by."""
    yield "bare", content
    yield "zip, stored", zipped({"archive/data.pkl": content, "archive/version": b"3\n"})
    yield "zip, deflated", zipped({"model/weights": content}, zipfile.ZIP_DEFLATED)
    yield "zip, bzip2", zipped({"weights": content}, zipfile.ZIP_BZIP2)
    yield "zip, lzma", zipped({"weights": content}, zipfile.ZIP_LZMA)
    yield "zip in zip", zipped({"inner": zipped({"weights": content})})
    yield "tar", tarred({"pickle": content})
    yield "gzip", gzip.compress(content)
    yield "xz", lzma.compress(content)
    yield "bzip2", bz2.compress(content)
    # A 7z archive begins with this signature and its version; what follows is packed and opaque to us.
    yield "7z", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24) + content
    yield "gzip in tar", tarred({"m.gz": gzip.compress(content)})


def object_array() -> bytes:
    """A NumPy file whose data is a pickle."""
    out = io.BytesIO()
    np.save(out, np.array([Evil()], dtype=object), allow_pickle=True)
    return out.getvalue()


def tensors() -> bytes:
    """A small safetensors file."""
    return save({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, dtype=np.int64)})


def safetensors_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, object]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def gguf_of(
    keys: bytes = b"", n_keys: int = 0, *, infos: bytes = b"", n_tensors: int = 0, tail: bytes = b"", version: int = 3
) -> bytes:
    """A GGUF file with any counts and any content."""
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + keys + infos + tail


def string(text: bytes) -> bytes:
    """A GGUF string."""
    return struct.pack("<Q", len(text)) + text


def check(content: bytes, path: str) -> list[Finding]:
    """The findings of one file in memory."""
    return check_content(BytesSource(content), path)


def blocked(content: bytes, path: str) -> set[str]:
    """The rules that refuse this file."""
    return {one.rule for one in check(content, path) if one.severity is Severity.BLOCK}
