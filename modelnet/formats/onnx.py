"""Spans of an ONNX model: a walk over protobuf's wire format that jumps over all tensor data (onnx/onnx, onnx.proto).

Tensors sit in `graph.initializer`, in sparse initialisers, and in the attributes of nodes, which may hold graphs again.
A tensor's bytes are its `raw_data`, or a packed `float_data` or `double_data`, which is the same bytes on the wire.
With `data_location` EXTERNAL they are in another file, named by `external_data`: see `external_spans`.

Rules: `varint`, `wire-type`, `field`, `too-deep`, `too-many-fields`, `too-many-tensors`, `not-utf-8`, `dims`,
`duplicate-field`, `size-mismatch`, `truncated`, `overlap`, `no-graph`, `external-location`, `external-range`,
`header-too-large`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelnet.formats.layout import ByteSource, Layout, Span, SpanKind, cover
from modelnet.formats.window import MAX_SPANS, Window, refusal

__all__ = ["external_spans", "is_model", "read_layout"]

# A block for each jump over a tensor, so small; the graph itself is read in as many as it needs.
BLOCK = 4096
# The largest graphs without their data are some tens of MB; a jump over a tensor costs one block.
MAX_HEADER = 256 * 1024 * 1024
# The largest graphs have about 30,000 nodes of 30 fields. Bounds the time, about 1 µs each.
MAX_FIELDS = 2_000_000
MAX_DEPTH = 100  # protobuf's own default
MAX_DIMS = 64
MAX_STRING = 65_536  # names of tensors and of external files; real ones are paths inside a graph

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Message → its fields that lead to tensors. Field numbers are those of onnx.proto.
CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# Fields of ModelProto and their wire types: a file that has others is not a model.
MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
MAX_MODEL_FIELDS = 20_000  # one for each function, operator set and metadata entry

# TensorProto.DataType: name as in safetensors where it has one, bits of an element.
DTYPES = {
    1: ("F32", 32), 2: ("U8", 8), 3: ("I8", 8), 4: ("U16", 16), 5: ("I16", 16), 6: ("I32", 32), 7: ("I64", 64),
    9: ("BOOL", 8), 10: ("F16", 16), 11: ("F64", 64), 12: ("U32", 32), 13: ("U64", 64), 14: ("C64", 64),
    15: ("C128", 128), 16: ("BF16", 16), 17: ("F8_E4M3", 8), 18: ("F8_E4M3FNUZ", 8), 19: ("F8_E5M2", 8),
    20: ("F8_E5M2FNUZ", 8), 21: ("U4", 4), 22: ("I4", 4), 23: ("F4", 4), 24: ("F8_E8M0", 8), 25: ("U2", 2),
    26: ("I2", 2), 27: ("F6_E2M3", 6), 28: ("F6_E3M2", 6),
}  # fmt: skip
EXTERNAL = 1
# One file name: no folder, drive, stream or control character, not hidden as "." or "..".
LOCATION = re.compile(r'(?!\.{1,2}$)[^/\\:*?"<>|\x00-\x1f\x7f-\x9f]{1,255}')
HERE = re.compile(r"\A(?:\./+)++")
NUMBER = re.compile("[0-9]{1,19}", re.ASCII)


@dataclass(slots=True)
class _Tensor:
    """A TensorProto without its data; `start` and `end` are those of the data, equal where it is elsewhere."""

    offset: int
    name: str = ""
    dtype: int = 0
    dims: list[int] = field(default_factory=list)
    start: int = 0
    end: int = 0
    is_external: bool = False
    external: dict[str, str] = field(default_factory=dict)

    def length(self) -> int | None:
        """Return the bytes that type and dimensions make; None for a type without a fixed size, such as strings."""
        if self.dtype not in DTYPES:
            return None
        bits = DTYPES[self.dtype][1]
        for dim in self.dims:
            bits *= dim
            if bits >= 1 << 66:
                raise refusal(f"tensor {self.name!r} is larger than any file", "size-mismatch", self.offset)
        return (bits + 7) // 8

    def span(self, start: int, end: int) -> Span:
        """Return these bytes as this tensor's."""
        dtype = DTYPES[self.dtype][0] if self.dtype in DTYPES else ""
        return Span(start, end, SpanKind.TENSOR, self.name, dtype, tuple(self.dims))


def read_layout(source: ByteSource) -> Layout:
    """Return each tensor's bytes; all between them is graph, so header.

    Raises: `MalformedError` for bytes that are not a model, or a tensor that is not as large as its shape.
    """
    spans = []
    for tensor in _Walk(source).tensors():
        if tensor.start == tensor.end:
            continue
        length = tensor.length()
        if length is not None and length != tensor.end - tensor.start:
            raise refusal(
                f"tensor {tensor.name!r} is not as large as its shape",
                "size-mismatch", tensor.start, wanted=length, got=tensor.end - tensor.start,
            )  # fmt: skip
        spans.append(tensor.span(tensor.start, tensor.end))
    return Layout("onnx", cover(source.size, spans, between=SpanKind.HEADER))


def external_spans(source: ByteSource) -> dict[str, tuple[Span, ...]]:
    """Return, for each external file that a model names, the spans of its tensors there, in the model's order.

    A name is given without the `./` that it may begin with. Tensors that share one range share its first span. The
    file's size is not known here: `cover(size, spans)` checks the ranges against it.

    Raises: `MalformedError`, rule `external-location` for a name that is not a plain file's, `external-range` for an
    offset or length that is not a number or not the tensor's.
    """
    found: dict[str, dict[tuple[int, int], Span]] = {}
    for tensor in _Walk(source).tensors():
        if not tensor.is_external:
            continue
        location = HERE.sub("", tensor.external.get("location", ""))
        if LOCATION.fullmatch(location) is None:
            raise refusal(
                "external data is not in the model's folder", "external-location", tensor.offset, got=location
            )
        for key in ("offset", "length"):
            if key in tensor.external and NUMBER.fullmatch(tensor.external[key]) is None:
                raise refusal(f"the {key} is not a number", "external-range", tensor.offset, got=tensor.external[key])
        start = int(tensor.external.get("offset", "0"))
        length = tensor.length()
        claimed = int(tensor.external["length"]) if "length" in tensor.external else length
        if claimed is None or (length is not None and claimed != length):
            raise refusal("external data is not as large as its shape", "external-range", tensor.offset, wanted=length)
        spans = found.setdefault(location, {})
        spans.setdefault((start, start + claimed), tensor.span(start, start + claimed))
    return {location: tuple(spans.values()) for location, spans in found.items()}


def is_model(source: ByteSource) -> bool:
    """Tell whether the bytes are fields of a ModelProto with a version and a graph, all the way to the end.

    Raises: `MalformedError` when they are not protobuf at all.
    """
    seen = set()
    for count, (number, wire, _, _) in enumerate(_Walk(source).fields(0, source.size)):
        if MODEL_FIELDS.get(number) != wire or count > MAX_MODEL_FIELDS:
            return False
        seen.add(number)
    return {1, 7} <= seen


class _Walk:
    """A walk over the messages of one file that counts the fields it meets."""

    __slots__ = ("left", "window")

    def __init__(self, source: ByteSource) -> None:
        self.window = Window(source, block=BLOCK, budget=MAX_HEADER)
        self.left = MAX_FIELDS

    def tensors(self) -> list[_Tensor]:
        """Return every tensor of the model, in the file's order."""
        tensors: list[_Tensor] = []
        # Generators on a list and not recursion: how deep a file nests is bounded here, not by the interpreter.
        stack = [("model", self.fields(0, self.window.size))]
        is_graph_seen = False
        while stack:
            message, fields = stack[-1]
            for number, wire, start, end in fields:
                child = CHILDREN[message].get(number)
                if child is None:
                    continue
                if wire != BYTES:
                    raise refusal("a message has the wire type of a number", "wire-type", start, wanted=BYTES, got=wire)
                if child != "tensor":
                    is_graph_seen |= child == "graph"
                    if len(stack) >= MAX_DEPTH:
                        raise refusal("messages nest too deep", "too-deep", start, wanted=f"at most {MAX_DEPTH}")
                    stack.append((child, self.fields(start, end)))
                    break
                if len(tensors) >= MAX_SPANS:
                    raise refusal("the model has too many tensors", "too-many-tensors", start)
                tensors.append(self._tensor(start, end))
            else:
                stack.pop()
        if not is_graph_seen:
            raise refusal("a model without a graph", "no-graph", 0)
        return tensors

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type and the bytes of each field's value, without reading them."""
        while start < end:
            self.left -= 1
            if self.left < 0:
                raise refusal("the model has too many fields", "too-many-fields", start, wanted=MAX_FIELDS)
            tag, value = self._varint(start, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise refusal("a field has no valid number", "field", start, got=number)
            if wire == BYTES:
                length, value = self._varint(value, end)
                stop = value + length
            elif wire == VARINT:
                _, stop = self._varint(value, end)
            elif wire in {FIXED32, FIXED64}:
                stop = value + (4 if wire == FIXED32 else 8)
            else:
                raise refusal("a field has an unknown wire type", "wire-type", start, got=wire)
            if stop > end:
                raise refusal("a field ends after its message", "truncated", value, wanted=end, got=stop)
            yield number, wire, value, stop
            start = stop

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        """Return a number of at most 64 bits and the offset after it."""
        # Ten groups of seven bits: the longest a varint may be.
        room = min(10, end - start)
        if room <= 0:
            raise refusal("a message ends inside a number", "truncated", start)
        buffer, index = self.window.hold(start, room)
        value = shift = 0
        for position in range(index, index + room):
            byte = buffer[position]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, start + position - index + 1
            shift += 7
        raise refusal("a number does not end where one must", "varint", start)

    def _tensor(self, start: int, end: int) -> _Tensor:
        tensor = _Tensor(start)
        for number, wire, begin, stop in self.fields(start, end):
            if number == 1 and wire in {VARINT, BYTES}:
                self._dims(tensor, begin, stop)
            elif number == 2 and wire == VARINT:
                tensor.dtype, _ = self._varint(begin, stop)
            elif number == 8 and wire == BYTES:
                tensor.name = self._text(begin, stop)
            elif number in {4, 9, 10} and wire == BYTES and begin < stop:
                if tensor.start < tensor.end:
                    raise refusal("a tensor holds its data twice", "duplicate-field", begin)
                tensor.start, tensor.end = begin, stop
            elif number == 13 and wire == BYTES:
                pair = {1: "", 2: ""}
                pair |= {
                    key: self._text(first, last) for key, kind, first, last in self.fields(begin, stop) if kind == BYTES
                }
                if pair[1] in tensor.external:
                    raise refusal("external data has an entry twice", "duplicate-field", begin, got=pair[1])
                tensor.external[pair[1]] = pair[2]
            elif number == 14 and wire == VARINT:
                tensor.is_external = self._varint(begin, stop)[0] == EXTERNAL
        return tensor

    def _dims(self, tensor: _Tensor, start: int, end: int) -> None:
        """Add one dimension, or several that are packed."""
        while start < end:
            dim, start = self._varint(start, end)
            tensor.dims.append(dim)
            if dim >= 1 << 63 or len(tensor.dims) > MAX_DIMS:
                raise refusal("a tensor's dimensions are negative or too many", "dims", start, got=dim)

    def _text(self, start: int, end: int) -> str:
        if end - start > MAX_STRING:
            raise refusal("a name is too long", "not-utf-8", start, wanted=f"at most {MAX_STRING}", got=end - start)
        try:
            return self.window.read(start, end - start).decode()
        except UnicodeDecodeError as error:
            raise refusal("a name is not UTF-8", "not-utf-8", start) from error
