"""The GGUF reader against the real writer and reader, and llama.cpp's hand-made files (tests/test-gguf.cpp)."""

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from modelnet.errors import MalformedError
from modelnet.formats import BytesSource, SpanKind
from modelnet.formats.gguf import GGML_TYPES, MAX_NAME, read_layout
from tests.formats.corpus import CountingSource, arrays, gguf_file, gguf_info, gguf_key, gguf_raw, text

U32, BOOL, STRING, ARRAY, U64 = 4, 7, 8, 9, 10


def alignment(value: int, kind: int = U32) -> bytes:
    """The key that sets the alignment."""
    return gguf_key("general.alignment", kind, value.to_bytes(8 if kind == U64 else 4, "little"))


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    """A key with an array."""
    return gguf_key("a", ARRAY, struct.pack("<IQ", kind, count) + items)


@pytest.mark.parametrize("align", [8, 32, 64, 4096])
def test_extents_are_those_of_the_real_writer_and_reader(align: int, tmp_path: Path) -> None:
    """Our extents, names, types and padding are those that gguf-py finds in a file that gguf-py wrote."""
    content = gguf_file(alignment=align)
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    theirs = gguf.GGUFReader(path)
    layout = read_layout(BytesSource(content))
    ours = [(span.name, span.dtype, span.start, span.end - span.start) for span in layout.tensors]
    assert ours == [(t.name, t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors]
    for span, (name, original) in zip(layout.tensors, arrays().items(), strict=True):
        assert (span.name, span.shape) == (name, original.shape)
        assert content[span.start : span.end] == original.tobytes()
    padding = [span for span in layout.spans if span.kind is SpanKind.PADDING]
    assert all(set(content[span.start : span.end]) == {0} and span.end - span.start < align for span in padding)


def test_every_type_has_the_size_of_gguf_py() -> None:
    """Our table of block sizes is gguf-py's, and knows every type of it."""
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    assert {kind: row for kind, row in GGML_TYPES.items() if kind in theirs} == theirs


def test_quantised_rows_are_whole_blocks(tmp_path: Path) -> None:
    """A Q8_0 tensor of the real quantiser has its exact extent."""
    weights = gguf.quants.quantize(
        np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 64), gguf.GGMLQuantizationType.Q8_0
    )
    path = tmp_path / "q.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", weights, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = path.read_bytes()
    (span,) = read_layout(BytesSource(content)).tensors
    assert (span.dtype, span.shape) == ("Q8_0", (4, 64))
    assert content[span.start : span.end] == weights.tobytes()


W = gguf_info("w", (8,))
DATA = bytes(32)
ACCEPTED = {
    "header only": gguf_raw([], []),
    "version 2": gguf_raw([], [W], DATA, version=2),
    "every scalar": gguf_raw([gguf_key(f"k{k}", k, bytes(n)) for k, n in enumerate((1, 1, 2, 2, 4, 4, 4, 1))], []),
    "every wide scalar": gguf_raw([gguf_key(f"k{k}", k, bytes(8)) for k in (10, 11, 12)], []),
    "empty array": gguf_raw([array(U32, 0)], []),
    "empty array of strings": gguf_raw([array(STRING, 0)], []),
    "arrays": gguf_raw([array(STRING, 3, text("a") + text("") + text("bc"))], [W], DATA),
    "custom alignment": gguf_raw([alignment(8)], [W, gguf_info("v", (1,), 0, 32)], bytes(36), alignment=8),
    "alignment of one": gguf_raw([alignment(1)], [W], DATA, alignment=1),
    "no dimensions": gguf_raw([], [gguf_info("w", ())], bytes(4)),
    "no elements": gguf_raw([], [gguf_info("w", (0,))]) + bytes(7),
    "no elements between": gguf_raw([], [W, gguf_info("z", (0,), 0, 32), gguf_info("v", (8,), 0, 32)], bytes(64)),
    "infos in another order": gguf_raw([], [gguf_info("v", (8,), 0, 32), W], bytes(64)),
    "last tensor unpadded": gguf_raw([], [gguf_info("w", (1,))], bytes(4)),
    "name of the limit": gguf_raw([], [gguf_info("n" * MAX_NAME, (8,))], DATA),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_unusual_but_valid_files_are_read(case: str) -> None:
    """What the format allows is accepted and covered."""
    layout = read_layout(BytesSource(ACCEPTED[case]))
    assert (layout.spans[0].start, layout.spans[-1].end) == (0, len(ACCEPTED[case]))


REFUSED = {
    "empty": (b"", "truncated"),
    "bad magic": (b"GGML" + gguf_raw([], [])[4:], "magic"),
    "only the magic": (b"GGUF", "truncated"),
    "version 0": (gguf_raw([], [], version=0), "version"),
    "version 1": (gguf_raw([], [], version=1), "version"),
    "future version": (gguf_raw([], [], version=4), "version"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "too many tensors": (gguf_raw([], [], n_tensors=2**64 - 1), "too-many-tensors"),
    "a tensor too many": (gguf_raw([], [W], DATA * 4, n_tensors=2), "name"),
    "too many keys": (gguf_raw([], [], n_keys=2**63), "too-many-keys"),
    "a key too many": (gguf_raw([alignment(32)], [], n_keys=2) + b"x", "truncated"),
    "key of 2^64 - 1": (gguf_raw([struct.pack("<Q", 2**64 - 1)], [], n_keys=1) + bytes(20), "key"),
    "key of no length": (gguf_raw([gguf_key("", U32, bytes(4))], []), "key"),
    "key not UTF-8": (gguf_raw([gguf_key(b"\xff", U32, bytes(4))], []), "key"),
    "key past the end": (gguf_raw([struct.pack("<Q", 1000) + b"abcdefgh"], [], n_keys=1), "truncated"),
    "bad type": (gguf_raw([gguf_key("a", 13, bytes(8))], []), "value-type"),
    "bad type of an array": (gguf_raw([array(13, 1, bytes(8))], []), "value-type"),
    "duplicate key": (gguf_raw([gguf_key("a", U32, bytes(4))] * 2, []), "duplicate-key"),
    "alignment of zero": (gguf_raw([alignment(0)], [W], DATA), "alignment"),
    "alignment of 13": (gguf_raw([alignment(13)], [W], DATA), "alignment"),
    "alignment of 2^31": (gguf_raw([alignment(2**31)], [W], DATA), "alignment"),
    "alignment of another type": (gguf_raw([alignment(32, U64)], [W], DATA), "alignment"),
    "string of 2^64 - 1": (gguf_raw([gguf_key("a", STRING, struct.pack("<Q", 2**64 - 1))], []), "string-too-long"),
    "string past the end": (gguf_raw([gguf_key("a", STRING, struct.pack("<Q", 100))], []), "truncated"),
    "array of 2^63 words": (gguf_raw([array(U64, 2**63)], []), "array-too-long"),
    "array of 2^63 strings": (gguf_raw([array(STRING, 2**63)], []), "array-too-long"),
    "array of one byte too many": (gguf_raw([array(BOOL, 5, bytes(4))], []), "array-too-long"),
    "array of arrays": (gguf_raw([array(ARRAY, 1, struct.pack("<IQ", 0, 0))], []), "nested-array"),
    "name too long": (gguf_raw([], [gguf_info("n" * (MAX_NAME + 1), (8,))], DATA), "name"),
    "name of no length": (gguf_raw([], [gguf_info("", (8,))], DATA), "name"),
    "name not UTF-8": (gguf_raw([], [gguf_info(b"\xff", (8,))], DATA), "name"),
    "duplicate name": (gguf_raw([], [W, gguf_info("w", (8,), 0, 32)], bytes(64)), "duplicate-name"),
    "five dimensions": (gguf_raw([], [gguf_info("w", (1, 1, 1, 1, 8))], DATA), "dims"),
    "dimensions of 2^32 - 1": (gguf_raw([], [text("w") + struct.pack("<IQQQ", 2**32 - 1, 1, 1, 1)]), "dims"),
    "negative dimension": (gguf_raw([], [gguf_info("w", (2**64 - 1,))], DATA), "size-mismatch"),
    "elements over 2^63": (gguf_raw([], [gguf_info("w", (2**31, 2**31, 2**31))], DATA), "size-mismatch"),
    "elements over 2^63, then none": (gguf_raw([], [gguf_info("w", (2**62, 2**62, 0))], DATA), "size-mismatch"),
    "bytes over the file": (gguf_raw([], [gguf_info("w", (2**40,))], DATA), "truncated"),
    "unknown type": (gguf_raw([], [gguf_info("w", (8,), 4)], DATA), "unknown-dtype"),
    "type of 2^32 - 1": (gguf_raw([], [gguf_info("w", (8,), 2**32 - 1)], DATA), "unknown-dtype"),
    "rows of part blocks": (gguf_raw([], [gguf_info("w", (16, 2), 2)], DATA), "size-mismatch"),
    "offset of 1": (gguf_raw([], [gguf_info("w", (7,), 0, 1)], DATA), "misaligned"),
    "offset of 2^64 - 32": (gguf_raw([], [gguf_info("w", (8,), 0, 2**64 - 32)], DATA), "truncated"),
    "overlap": (gguf_raw([], [W, gguf_info("v", (8,), 0, 0)], bytes(64)), "overlap"),
    "overlap, longer": (gguf_raw([], [gguf_info("w", (9,)), gguf_info("v", (8,), 0, 32)], bytes(64)), "overlap"),
    "hole": (gguf_raw([], [W, gguf_info("v", (8,), 0, 64)], bytes(96)), "hole"),
    "hole at the start": (gguf_raw([], [gguf_info("w", (8,), 0, 32)], bytes(64)), "hole"),
    "inconsistent alignment": (gguf_raw([alignment(64)], [W, gguf_info("v", (8,), 0, 32)], bytes(64)), "misaligned"),
    "not enough data": (gguf_raw([], [W], bytes(31)), "truncated"),
    "no data": (gguf_raw([], [W]), "truncated"),
    "trailing bytes": (gguf_raw([], [W], bytes(64)), "trailing-bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_attack_is_refused_by_its_rule(case: str) -> None:
    """A malformed file is refused by the rule that it breaks."""
    content, rule = REFUSED[case]
    with pytest.raises(MalformedError) as caught:
        read_layout(BytesSource(content))
    assert caught.value.rule == rule
    assert caught.value.offset is not None


def test_the_file_of_49_bytes_that_hangs_gguf_py_returns_at_once() -> None:
    """An array that claims 2^63 items costs one read."""
    content = gguf_raw([array(U64, 2**63)], [])
    assert len(content) == 49
    source = CountingSource(content)
    with pytest.raises(MalformedError):
        read_layout(source)
    assert (source.reads, source.bytes_read) == (1, 49)


def test_a_large_vocabulary_is_read_in_well_under_a_second() -> None:
    """150,000 strings of a tokeniser cost one read for each block, and only the header is read."""
    items = b"".join(text(f"token{index}") for index in range(150_000))
    keys = [array(STRING, 150_000, items), gguf_key("scores", ARRAY, struct.pack("<IQ", 6, 150_000) + bytes(600_000))]
    content = gguf_raw(keys, [gguf_info("w", (1 << 20,))], bytes(4 << 20))
    source = CountingSource(content)
    start = time.perf_counter()
    layout = read_layout(source)
    assert time.perf_counter() - start < 1
    assert layout.spans[-1].name == "w"
    assert source.reads < 40
    assert source.bytes_read < len(items) + 3 * 262_144


def test_a_million_keys_are_refused_before_they_are_read() -> None:
    """Counts above the limits are refused even when the file is large enough to hold them."""
    content = gguf_raw([], [], bytes(20_000_000), n_keys=1_000_000)
    source = CountingSource(content)
    with pytest.raises(MalformedError, match="too many keys"):
        read_layout(source)
    assert source.reads == 1
