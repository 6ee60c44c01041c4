"""safetensors: tensors whose bytes were hashed where they lie, in memory that is yours.

    from modelnet.loaders import safetensors
    tensors = safetensors.load_file("acme/tiny#model.safetensors")
    with safetensors.safe_open("acme/tiny#model.safetensors", framework="np") as file:
        file.get_tensor("lm_head.weight")              # reads and hashes this tensor's chunks and no others

The signatures are those of the safetensors package; what is given as a file name is a reference, a `modelnet:` name, a
path inside a verified model, or the path of a file that belongs to a release in the store. Frameworks: `np` (`numpy`)
and `pt` (`torch`). Level: `bytes`. There is no memory map, so later writes to the file change nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from modelnet.content import check_content, refuse
from modelnet.core.manifest import FileEntry
from modelnet.errors import MalformedError, UsageError
from modelnet.formats.layout import Span, SpanKind
from modelnet.formats.safetensors import DTYPE_BITS, read_layout
from modelnet.loaders._files import Opened, open_entry, open_file
from modelnet.loaders._library import need
from modelnet.loaders._trusted import Trusted
from modelnet.loaders.levels import Level
from modelnet.loaders.reading import POOLED, VerifiedReader, memory_of, new_pool
from modelnet.policies import Policies

__all__ = ["load_file", "safe_open", "tensors"]

FRAMEWORKS = {"np": "numpy", "numpy": "numpy", "pt": "torch", "torch": "torch", "pytorch": "torch"}
NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
ML_DTYPES = {
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16", "U32": "uint32",
    "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "BF16": "bfloat16",
    "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def load_file(
    filename: str | os.PathLike[str],
    device: str | int = "cpu",
    *,
    framework: str = "np",
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
    **_: object,
) -> dict[str, Any]:
    """Return all tensors of a file by name; the whole file is read once, on all cores, and hashed as it arrives.

    Raises `IntegrityError` naming the tensor, its offset and the source when a byte is not what was signed.
    """
    with safe_open(filename, framework, device, policy=policy, home=home, sparse=False) as file:
        return file.get_tensors()


def tensors(
    filename: str | os.PathLike[str],
    framework: str = "np",
    device: str | int = "cpu",
    *,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) in the order of the file, each verified when it is yielded: for servers that stream."""
    with safe_open(filename, framework, device, policy=policy, home=home) as file:
        for name in file.offset_keys():
            yield name, file.get_tensor(name)


def tensors_of(trusted: Trusted, entry: FileEntry, device: str | int = "cpu") -> Iterator[tuple[str, Any]]:
    """Yield what `tensors` does, as torch tensors, of a file of a release that passed the gate."""
    opened = open_entry(trusted, entry)
    with safe_open(opened, "pt", device) as file:
        for name in file.offset_keys():
            yield name, file.get_tensor(name)


class safe_open:  # noqa: N801  (the name that the library's users know)
    """A file of tensors, opened lazily; drop-in for `safetensors.safe_open`."""

    level = Level.BYTES

    def __init__(
        self,
        filename: str | os.PathLike[str] | Opened,
        framework: str = "np",
        device: str | int = "cpu",
        *,
        policy: Policies | None = None,
        home: str | os.PathLike[str] | None = None,
        sparse: bool = True,
        **_: object,
    ) -> None:
        """Open `filename`, verify its header and let the gate look at it.

        Unless `sparse` is false, a file of which only some tensors were pulled is opened as it is; asking for another
        tensor raises `UnavailableError`.
        """
        if framework not in FRAMEWORKS:
            raise UsageError(f"no such framework: {framework!r}", rule="framework", hint="np or pt")
        self._make = _numpy(device) if FRAMEWORKS[framework] == "numpy" else _torch(device)
        self._opened = (
            filename if isinstance(filename, Opened) else open_file(filename, home=home, policy=policy, sparse=sparse)
        )
        self._reader: VerifiedReader = self._opened.reader
        try:
            header = self._header()
            fields = json.loads(self._reader.read(8, header.end - 8))
        except BaseException:
            self._reader.close()
            raise
        self.knowledge = self._opened.knowledge
        self._data = header.end
        self._metadata: dict[str, str] | None = fields.pop("__metadata__", None)
        self._spans = {name: _span(name, entry, self._data) for name, entry in fields.items()}

    def _header(self) -> Span:
        """Return the header's span once it keeps every rule of the format; nothing else can be in such a file."""
        try:
            return read_layout(self._reader).spans[0]
        except MalformedError as error:
            findings = check_content(self._reader, self._reader.path)
            refuse(findings, allowed=(), manifest=self._opened.manifest)
            error.path = self._reader.path
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def keys(self) -> list[str]:
        """Return the tensors' names, sorted as the library sorts them."""
        return sorted(self._spans)

    def offset_keys(self) -> list[str]:
        """Return the names in the order of the data; a tensor without bytes comes before what begins there."""
        return sorted(self._spans, key=lambda name: (self._spans[name].start, self._spans[name].end, name))

    def metadata(self) -> dict[str, str] | None:
        """Return the file's own metadata."""
        return self._metadata

    def get_tensor(self, name: str) -> Any:
        """Return one tensor; only the chunks that it lies in are read."""
        span = self._span(name)
        buffer = memory_of(span.end - span.start)
        with _pool_for(span.end - span.start) as pool:
            self._reader.read_into(span.start, memoryview(buffer), pool)
        return self._make(buffer, 0, span)

    def get_tensors(self) -> dict[str, Any]:
        """Return all tensors; they share one buffer that is filled in one pass over the file."""
        size = self._reader.size - self._data
        buffer = memory_of(size)
        with _pool_for(size) as pool:
            self._reader.read_into(self._data, memoryview(buffer), pool)
        return {name: self._make(buffer, span.start - self._data, span) for name, span in self._spans.items()}

    def get_slice(self, name: str) -> Slice:
        """Return a view that reads rows only when they are asked for."""
        return Slice(self._reader, self._span(name), self._make)

    def _span(self, name: str) -> Span:
        if (span := self._spans.get(name)) is None:
            raise UsageError(f"the file has no tensor {name!r}", rule="tensor", path=self._reader.path)
        return span


class Slice:
    """A tensor that is read row by row; drop-in for what `safetensors.safe_open.get_slice` returns."""

    def __init__(self, reader: VerifiedReader, span: Span, make: Callable[[Any, int, Span], Any]) -> None:
        """Read `span` of the file through `reader`."""
        self._reader, self._span, self._make = reader, span, make

    def get_shape(self) -> list[int]:
        """Return the tensor's shape."""
        return list(self._span.shape)

    def get_dtype(self) -> str:
        """Return the type as the format spells it."""
        return self._span.dtype

    def __getitem__(self, wanted: Any) -> Any:
        first, *rest = wanted if isinstance(wanted, tuple) else (wanted,)
        span = self._span
        if not span.shape or first is Ellipsis:
            return self._whole()[wanted]
        rows = range(span.shape[0])[first if isinstance(first, slice) else slice(first, first + 1 or None)]
        if rows.step != 1 or (not isinstance(first, slice) and not isinstance(first, int)):
            return self._whole()[wanted]
        row = (span.end - span.start) // span.shape[0] if span.shape[0] else 0
        if row * span.shape[0] != span.end - span.start or DTYPE_BITS[span.dtype] % 8:
            return self._whole()[wanted]
        part = Span(
            span.start + row * rows.start, span.start + row * (rows.start + len(rows)), span.kind, span.name,
            span.dtype, (len(rows), *span.shape[1:]),
        )  # fmt: skip
        tensor = self._read(part)
        index = (slice(None) if isinstance(first, slice) else 0, *rest)
        return tensor[index]

    def _whole(self) -> Any:
        return self._read(self._span)

    def _read(self, span: Span) -> Any:
        buffer = memory_of(span.end - span.start)
        with _pool_for(span.end - span.start) as pool:
            self._reader.read_into(span.start, memoryview(buffer), pool)
        return self._make(buffer, 0, span)


def _span(name: str, entry: dict[str, Any], data: int) -> Span:
    begin, end = entry["data_offsets"]
    return Span(data + begin, data + end, SpanKind.TENSOR, name, entry["dtype"], tuple(entry["shape"]))


@contextmanager
def _pool_for(size: int) -> Iterator[ThreadPoolExecutor | None]:
    """Give a pool where it pays to have one."""
    if size < POOLED:
        yield None
    else:
        with new_pool() as pool:
            yield pool


def _numpy(device: str | int) -> Callable[[Any, int, Span], Any]:
    numpy = need("numpy")
    if str(device) != "cpu":
        raise UsageError("NumPy has no devices", rule="device", wanted="cpu", got=device)

    def make(buffer: Any, offset: int, span: Span) -> Any:
        dtype = numpy.dtype(NUMPY[span.dtype]) if span.dtype in NUMPY else _ml_dtype(span.dtype, numpy)
        count = math.prod(span.shape)
        if not count:
            return numpy.empty(span.shape, dtype)
        array = numpy.frombuffer(buffer, dtype, count, offset)
        if offset % dtype.itemsize:  # a file whose writer did not sort by type
            array = array.copy()
        return array.reshape(span.shape)

    return make


def _ml_dtype(name: str, numpy: Any) -> Any:
    if name not in ML_DTYPES:
        raise MalformedError("NumPy has no such type", rule="unknown-dtype", got=name, hint='use framework="pt"')
    return numpy.dtype(getattr(need("ml_dtypes"), ML_DTYPES[name]))


def _torch(device: str | int) -> Callable[[Any, int, Span], Any]:
    torch = need("torch")

    def make(buffer: Any, offset: int, span: Span) -> Any:
        if span.dtype not in TORCH or not hasattr(torch, TORCH[span.dtype]):
            raise MalformedError("torch has no such type", rule="unknown-dtype", got=span.dtype)
        dtype = getattr(torch, TORCH[span.dtype])
        count = math.prod(span.shape)
        if not count:
            return torch.empty(span.shape, dtype=dtype, device=device)
        if offset % dtype.itemsize:
            buffer, offset = bytearray(memoryview(buffer)[offset : offset + span.end - span.start]), 0
        tensor = torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset).reshape(span.shape)
        return tensor if str(device) == "cpu" else tensor.to(device)

    return make
