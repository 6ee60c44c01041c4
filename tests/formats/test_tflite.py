"""The TFLite reader on flatbuffers made by hand to the published schema."""

import struct

import pytest

from modelnet.errors import MalformedError
from modelnet.formats import BytesSource
from modelnet.formats.tflite import read_layout
from tests.formats.corpus import CountingSource, tflite_file

PAYLOADS = [bytes([65 + index]) * size for index, size in enumerate((512, 20, 7, 100_000))]


def rule(content: bytes) -> str | None:
    """Return the rule that refuses these bytes."""
    with pytest.raises(MalformedError) as caught:
        read_layout(BytesSource(content))
    assert caught.value.offset is not None
    return caught.value.rule


def changed(content: bytes, at: int, value: int) -> bytes:
    """Replace the 32-bit number at `at`."""
    return content[:at] + struct.pack("<I", value) + content[at + 4 :]


def test_extents_are_the_buffers() -> None:
    """Each buffer's bytes are a span with the name, type and shape of its tensor."""
    content = tflite_file(PAYLOADS)
    layout = read_layout(BytesSource(content))
    assert [content[span.start : span.end] for span in layout.tensors] == PAYLOADS
    assert [span.name for span in layout.tensors] == [f"tensor {index}" for index in range(4)]
    assert [(span.dtype, span.shape) for span in layout.tensors] == [("U8", (len(p),)) for p in PAYLOADS]


def test_buffers_outside_the_flatbuffer_are_found() -> None:
    """Models over 2 GB give an offset and a size into the file instead of a vector."""
    content = tflite_file(PAYLOADS[:1], outside=PAYLOADS[1:])
    layout = read_layout(BytesSource(content))
    assert [content[span.start : span.end] for span in layout.tensors] == PAYLOADS


def test_tensor_data_is_never_read() -> None:
    """A large buffer costs the blocks around its length."""
    source = CountingSource(tflite_file([bytes(1 << 20)] * 4))
    read_layout(source)
    assert source.bytes_read < 100 * 512


def test_a_buffer_without_a_tensor_is_named_by_its_number() -> None:
    """Metadata has buffers that no tensor names."""
    layout = read_layout(BytesSource(tflite_file(PAYLOADS[:2], index=1)))
    assert [span.name for span in layout.tensors] == ["tensor 0", "buffer 2"]


def test_a_shared_vector_is_one_span() -> None:
    """Two buffers that are one vector, as a writer that merges equal bytes leaves them, are one span."""
    content = bytearray(tflite_file([b"same" * 9, b"same" * 9]))
    first, second = (span.start - 4 for span in read_layout(BytesSource(bytes(content))).tensors)
    # Offsets are unsigned, so the later vector is the one to share; the nearest match is the buffer's own pointer.
    pointer = max(at for at in range(0, first, 4) if at + struct.unpack_from("<I", content, at)[0] == first)
    struct.pack_into("<I", content, pointer, second - pointer)
    layout = read_layout(BytesSource(bytes(content)))
    assert [(span.name, span.start) for span in layout.tensors] == [("tensor 0", second + 4)]


def test_a_model_without_buffers_is_all_header() -> None:
    """Missing vectors are the schema's defaults."""
    content = b"\x0c\0\0\0TFL3" + struct.pack("<HH", 4, 4) + struct.pack("<i", 4)
    assert len(read_layout(BytesSource(content)).spans) == 1


GOOD = tflite_file(PAYLOADS[:2])
VECTOR = read_layout(BytesSource(GOOD)).tensors[0].start - 4
OUTSIDE = tflite_file([], outside=[b"x" * 50])
OUT = OUTSIDE.index(struct.pack("<QQ", len(OUTSIDE) - 50, 50))
REFUSED = {
    "empty": (b"", "truncated"),
    "another identifier": (GOOD[:4] + b"TFL2" + GOOD[8:], "identifier"),
    "root outside": (changed(GOOD, 0, 2**32 - 1), "truncated"),
    "root near the end": (changed(GOOD, 0, len(GOOD) - 2), "truncated"),
    "vtable before the file": (changed(GOOD, struct.unpack("<I", GOOD[:4])[0], 2**31 - 1), "table"),
    "vtable after the file": (changed(GOOD, struct.unpack("<I", GOOD[:4])[0], 2**31), "truncated"),
    "vtable of odd size": (b"\x0c\0\0\0TFL3" + struct.pack("<HHi", 5, 4, 4), "table"),
    "vtable of no size": (b"\x0c\0\0\0TFL3" + struct.pack("<HHi", 0, 4, 4), "table"),
    "vtable of 65,534 bytes": (b"\x0c\0\0\0TFL3" + struct.pack("<HHi", 65_534, 4, 4), "truncated"),
    "table of no size": (b"\x0c\0\0\0TFL3" + struct.pack("<HHi", 4, 0, 4), "table"),
    "table past the end": (b"\x0c\0\0\0TFL3" + struct.pack("<HHi", 4, 200, 4), "table"),
    "field past its table": (b"\x0e\0\0\0TFL3" + struct.pack("<HHHi", 6, 8, 8, 6) + bytes(4), "table"),
    "field before its table": (b"\x0e\0\0\0TFL3" + struct.pack("<HHHi", 6, 8, 2, 6) + bytes(4), "table"),
    "vector of 2^32 - 1": (changed(GOOD, VECTOR, 2**32 - 1), "vector"),
    "overlapping vectors": (changed(GOOD, VECTOR, 600), "overlap"),
    "buffer number outside": (tflite_file(PAYLOADS[:2], index=3), "buffer-index"),
    "buffer number -1": (tflite_file(PAYLOADS[:2], index=2**32 - 1), "buffer-index"),
    "outside past the end": (OUTSIDE[:-1], "out-of-bounds"),
    "outside of 2^64 - 1": (OUTSIDE[:OUT] + b"\xff" * 16 + OUTSIDE[OUT + 16 :], "out-of-bounds"),
    "cut in half": (GOOD[: len(GOOD) // 2], "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_attack_is_refused_by_its_rule(case: str) -> None:
    """A table, vector or range that leaves the file is refused by the rule that it breaks."""
    content, expected = REFUSED[case]
    assert rule(content) == expected


def test_a_vector_of_millions_of_tables_is_bounded() -> None:
    """A vector of more buffers than the limit is refused before one is read."""
    content = b"\x16\0\0\0TFL3" + struct.pack("<HH5H", 14, 8, 0, 0, 0, 0, 4) + struct.pack("<iI", 14, 4)
    content += struct.pack("<I", 300_000) + bytes(1_200_000)
    source = CountingSource(content)
    with pytest.raises(MalformedError, match="too many tables"):
        read_layout(source)
    assert source.bytes_read < 2048
