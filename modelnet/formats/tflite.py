"""Spans of a TensorFlow Lite model (tensorflow, compiler/mlir/lite/schema/schema.fbs; FlatBuffers' binary format).

    u32 root | "TFL3" | tables, vectors and strings at any place, all linked by offsets

`Model.buffers[i].data` is a byte vector inside the flatbuffer. In a model larger than 2 GB it is empty and
`Buffer.offset` and `Buffer.size` give a range of the file after the flatbuffer; they count only where `offset > 1`.
Names, types and shapes come from the tensors of the subgraphs, which point at buffers by number.

Every table, vtable and vector is checked against the file's size before it is used (CVE-2022-23558,
CVE-2020-15212: readers that did not).

Rules: `identifier`, `table`, `vector`, `truncated`, `too-many-buffers`, `too-many-tensors`, `buffer-index`,
`out-of-bounds`, `overlap`, `header-too-large`.
"""

from __future__ import annotations

import struct

from modelnet.formats.layout import ByteSource, Layout, Span, SpanKind, cover
from modelnet.formats.window import MAX_SPANS, Window, refusal

__all__ = ["read_layout"]

# Tables lie next to each other but their vtables are shared and far, so a small block.
BLOCK = 512
# Some blocks for each buffer and tensor of the largest model.
MAX_HEADER = 256 * 1024 * 1024
MAX_RANK = 64
MAX_NAME = 4096

# Field numbers of the tables that are followed, by their order in schema.fbs.
MODEL_SUBGRAPHS, MODEL_BUFFERS = 2, 4
SUBGRAPH_TENSORS = 0
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME = 0, 1, 2, 3
BUFFER_DATA, BUFFER_OFFSET, BUFFER_SIZE = 0, 1, 2

# TensorType, named as in safetensors where it has the type.
TYPES = {
    0: "F32", 1: "F16", 2: "I32", 3: "U8", 4: "I64", 6: "BOOL", 7: "I16", 8: "C64", 9: "I8", 10: "F64", 11: "C128",
    12: "U64", 15: "U32", 16: "U16", 17: "I4", 18: "BF16", 19: "I2",
}  # fmt: skip


def read_layout(source: ByteSource) -> Layout:
    """Return each buffer's bytes; all between them is the flatbuffer's structure, so header.

    Raises: `MalformedError` for a table, vector or range that leaves the file, or buffers that share some bytes.
    """
    walk = _Walk(source)
    if walk.window.read(4, 4) != b"TFL3":
        raise refusal("not a TensorFlow Lite model", "identifier", 4)
    model = walk.table(0)
    buffers = walk.tables(model.get(MODEL_BUFFERS))
    labels = walk.labels(walk.tables(model.get(MODEL_SUBGRAPHS)), len(buffers))
    spans: dict[tuple[int, int], Span] = {}
    for index, position in enumerate(buffers):
        start, end = walk.extent(position)
        name, dtype, shape = labels.get(index, (f"buffer {index}", "", ()))
        # Two buffers may be the same vector, where the writer found equal bytes.
        if end > start:
            spans.setdefault((start, end), Span(start, end, SpanKind.TENSOR, name, dtype, shape))
    return Layout("tflite", cover(source.size, list(spans.values()), between=SpanKind.HEADER))


class _Walk:
    """Bounds-checked access to tables and vectors."""

    __slots__ = ("vtables", "window")

    def __init__(self, source: ByteSource) -> None:
        self.window = Window(source, block=BLOCK, budget=MAX_HEADER)
        self.vtables: dict[int, tuple[int, ...]] = {}

    def table(self, pointer: int) -> dict[int, int]:
        """Return field number → offset of its value, for the table that the offset at `pointer` leads to."""
        position = pointer + self.window.u32(pointer)
        vtable = position - self.window.i32(position)
        if vtable < 0:
            raise refusal("a table's vtable lies before the file", "table", position, got=vtable)
        entries = self.vtables.get(vtable)
        if entries is None:
            size = self.window.u16(vtable)
            if size < 4 or size % 2:
                raise refusal("a vtable has no valid size", "table", vtable, got=size)
            entries = struct.unpack(f"<{size // 2 - 1}H", self.window.read(vtable + 2, size - 2))
            # Only the first fields are ever asked for, so a hostile vtable of 32,766 fields is not kept.
            entries = entries[:8]
            self.vtables[vtable] = entries
        table_size, *fields = entries
        if table_size < 4 or table_size > self.window.size - position:
            raise refusal("a table ends after the file", "table", position, got=table_size)
        found = {}
        for number, offset in enumerate(fields):
            if offset and not 4 <= offset < table_size:
                raise refusal("a field lies outside its table", "table", position, wanted=table_size, got=offset)
            if offset:
                found[number] = position + offset
        return found

    def vector(self, pointer: int, width: int) -> tuple[int, int]:
        """Return where the vector's items begin and how many there are; they all lie in the file."""
        position = pointer + self.window.u32(pointer)
        count = self.window.u32(position)
        if count * width > self.window.size - position - 4:
            raise refusal("a vector ends after the file", "vector", position, got=count)
        return position + 4, count

    def tables(self, pointer: int | None) -> list[int]:
        """Return the offsets of a vector's table pointers."""
        if pointer is None:
            return []
        start, count = self.vector(pointer, 4)
        if count > MAX_SPANS:
            raise refusal("a vector of too many tables", "too-many-buffers", start, wanted=MAX_SPANS, got=count)
        return list(range(start, start + 4 * count, 4))

    def labels(self, subgraphs: list[int], n_buffers: int) -> dict[int, tuple[str, str, tuple[int, ...]]]:
        """Return buffer number → name, type and shape of the first tensor that it belongs to."""
        labels: dict[int, tuple[str, str, tuple[int, ...]]] = {}
        left = MAX_SPANS
        for subgraph in subgraphs:
            tensors = self.tables(self.table(subgraph).get(SUBGRAPH_TENSORS))
            # Subgraphs may share one vector: count what is walked, not what is stored.
            left -= len(tensors) + 1
            if left < 0:
                raise refusal("the model has too many tensors", "too-many-tensors", subgraph, wanted=MAX_SPANS)
            for pointer in tensors:
                tensor = self.table(pointer)
                index = self.window.u32(tensor[TENSOR_BUFFER]) if TENSOR_BUFFER in tensor else 0
                if index >= n_buffers:
                    raise refusal("a tensor's buffer does not exist", "buffer-index", pointer, got=index)
                # Buffer 0 is the empty one, for tensors that have no constant data.
                if index and index not in labels:
                    labels[index] = self._label(tensor)
        return labels

    def extent(self, pointer: int) -> tuple[int, int]:
        """Return where a buffer's bytes begin and end; equal where it has none."""
        buffer = self.table(pointer)
        # "the offset is calculated relative to the beginning of the file and is only valid if > 1" (schema.fbs)
        offset = self.window.u64(buffer[BUFFER_OFFSET]) if BUFFER_OFFSET in buffer else 0
        if offset > 1:
            size = self.window.u64(buffer[BUFFER_SIZE]) if BUFFER_SIZE in buffer else 0
            if offset + size > self.window.size:
                raise refusal("a buffer ends after the file", "out-of-bounds", pointer, got=offset + size)
            return offset, offset + size
        if BUFFER_DATA not in buffer:
            return 0, 0
        start, count = self.vector(buffer[BUFFER_DATA], 1)
        return start, start + count

    def _label(self, tensor: dict[int, int]) -> tuple[str, str, tuple[int, ...]]:
        name, dtype, shape = "", 0, b""
        if TENSOR_NAME in tensor:
            start, count = self.vector(tensor[TENSOR_NAME], 1)
            name = self.window.read(start, min(count, MAX_NAME)).decode(errors="replace")
        if TENSOR_TYPE in tensor:
            dtype = self.window.read(tensor[TENSOR_TYPE], 1)[0]
        if TENSOR_SHAPE in tensor:
            start, count = self.vector(tensor[TENSOR_SHAPE], 4)
            if count > MAX_RANK:
                raise refusal("a tensor has too many dimensions", "vector", start, wanted=MAX_RANK, got=count)
            shape = self.window.read(start, 4 * count)
        return name, TYPES.get(dtype, ""), struct.unpack(f"<{len(shape) // 4}i", shape)
