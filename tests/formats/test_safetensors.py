"""The safetensors reader against the real writer, the real reader and hand-made attacks."""

import json
import struct

import numpy as np
import pytest
import safetensors

from modelnet.errors import MalformedError
from modelnet.formats import BytesSource, SpanKind
from modelnet.formats.safetensors import DTYPE_BITS, MAX_HEADER, read_layout
from tests.formats.corpus import CountingSource, arrays, safetensors_file, safetensors_raw


def entry(begin: int, end: int, shape: list[object] | None = None, dtype: object = "U8") -> dict[str, object]:
    """A header entry of bytes."""
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def refused(content: bytes) -> str | None:
    """Return the rule that refuses these bytes."""
    with pytest.raises(MalformedError) as caught:
        read_layout(BytesSource(content))
    assert caught.value.offset is not None
    return caught.value.rule


def test_extents_are_those_of_the_real_writer() -> None:
    """Each tensor's span holds exactly the bytes that were saved, under its name, type and shape."""
    content = safetensors_file(metadata={"format": "np"})
    layout = read_layout(BytesSource(content))
    found = {span.name: span for span in layout.tensors}
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        assert content[found[name].start : found[name].end] == array.tobytes()
        assert found[name].shape == array.shape
    length = struct.unpack("<Q", content[:8])[0]
    assert (layout.spans[0].kind, layout.spans[0].end) == (SpanKind.HEADER, 8 + length)


def test_only_the_header_is_read() -> None:
    """A large file costs its header and not a byte of its tensors."""
    source = CountingSource(safetensors_file({"w": np.zeros(1 << 20, np.float32)}))
    read_layout(source)
    assert source.bytes_read < 200


def test_every_dtype_that_we_know_is_one_of_the_real_reader() -> None:
    """Both readers accept one tensor of each of our types, of the size that our table says."""
    for dtype, bits in DTYPE_BITS.items():
        content = safetensors_raw({"w": entry(0, bits, [8], dtype)}, bytes(bits))
        try:
            safetensors.deserialize(content)
        except safetensors.SafetensorError as error:
            # Newer than the installed reader.
            assert "unknown variant" in str(error), dtype  # noqa: PT017
        assert read_layout(BytesSource(content)).tensors[0].end == len(content)


def test_empty_tensors_have_no_span() -> None:
    """A tensor without elements is allowed and leaves no span, a scalar has one."""
    content = safetensors_raw({"none": entry(0, 0, [0, 5], "F32"), "one": entry(0, 4, [], "F32")}, bytes(4))
    assert [span.name for span in read_layout(BytesSource(content)).tensors] == ["one"]
    assert len(safetensors.deserialize(content)) == 2


def test_offsets_may_come_in_any_order() -> None:
    """Entries are ordered by offset, whatever the header's order."""
    content = safetensors_raw({"b": entry(4, 6), "a": entry(0, 4)}, bytes(6))
    assert [span.name for span in read_layout(BytesSource(content)).tensors] == ["a", "b"]


def test_names_and_metadata_may_hold_any_text() -> None:
    """Quotes, braces, escapes and other scripts in names and metadata are text and not structure."""
    name = '} "a" \\ { é \U0001f600 \n'
    content = safetensors_raw({"__metadata__": {name: "}" * 9, "b": ""}, name: entry(0, 1)}, b"x")
    assert read_layout(BytesSource(content)).tensors[0].name == name
    assert len(safetensors.deserialize(content)) == 1


GOOD = entry(0, 4)
REFUSED = {
    "no bytes": (b"", "truncated"),
    "seven bytes": (b"\x02" + bytes(6), "truncated"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "truncated"),
    "header of 2^64 - 1": (struct.pack("<Q", 2**64 - 1) + b"{}", "header-too-large"),
    "header over the limit": (struct.pack("<Q", MAX_HEADER + 1) + b"{}", "header-too-large"),
    "empty header": (safetensors_raw(b""), "not-json"),
    "list": (safetensors_raw(b"[]"), "not-json"),
    "byte order mark": (safetensors_raw(b"\xef\xbb\xbf{}"), "not-json"),
    "space first": (safetensors_raw(b" {}"), "not-json"),
    "NUL padding": (safetensors_raw(b"{}\0\0"), "not-json"),
    "two objects": (safetensors_raw(b"{}{}"), "not-json"),
    "closed twice": (safetensors_raw(b"{}     }"), "not-json"),
    "unfinished": (safetensors_raw(b'{"a":'), "not-json"),
    "trailing comma": (safetensors_raw(b'{"__metadata__":{},}'), "not-json"),
    "deep nesting": (safetensors_raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not-json"),
    "deep nesting in an entry": (safetensors_raw(b'{"a":{"shape":' + b"[" * 3000 + b"]" * 3000 + b"}}"), "not-json"),
    "deep objects": (safetensors_raw(b'{"a":' * 100_000), "not-json"),
    "not UTF-8 in a name": (safetensors_raw(b'{"\xff":{}}'), "not-utf-8"),
    "not UTF-8 in an entry": (safetensors_raw(b'{"a":{"\xff":0}}'), "not-utf-8"),
    "not UTF-8 in metadata": (safetensors_raw(b'{"__metadata__":{"a":"\xff"}}'), "not-utf-8"),
    "lone surrogate": (safetensors_raw(b'{"__metadata__":{"a":"\\ud800"}}'), "not-utf-8"),
    "broken escape": (safetensors_raw(b'{"__metadata__":{"a":"\\u12"}}'), "not-json"),
    "unknown escape": (safetensors_raw(b'{"__metadata__":{"a":"\\x41"}}'), "not-json"),
    "control character": (safetensors_raw(b'{"__metadata__":{"a":"\n"}}'), "not-json"),
    "metadata of a number": (safetensors_raw({"__metadata__": {"a": 1}}), "not-json"),
    "metadata of a list": (safetensors_raw({"__metadata__": []}), "not-json"),
    "name twice": (safetensors_raw(b'{"a":%b,"a":%b}' % ((json.dumps(GOOD).encode(),) * 2), bytes(4)), "duplicate-key"),
    "name twice, escaped": (
        safetensors_raw(b'{"a":%b,"\\u0061":%b}' % ((json.dumps(GOOD).encode(),) * 2), bytes(4)), "duplicate-key"
    ),
    "metadata twice": (safetensors_raw(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate-key"),
    "metadata key twice": (safetensors_raw(b'{"__metadata__":{"a":"","a":""}}'), "duplicate-key"),
    "field twice": (
        safetensors_raw(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "duplicate-key"
    ),
    "field missing": (safetensors_raw({"a": {"dtype": "U8", "shape": [1]}}, b"x"), "not-json"),
    "field more": (safetensors_raw({"a": GOOD | {"note": 1}}, bytes(4)), "not-json"),
    "entry of a number": (safetensors_raw(b'{"a":1}'), "not-json"),
    "NaN": (safetensors_raw(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"), "not-json"),
    "Infinity": (safetensors_raw(b'{"a":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}}', b"x"), "not-json"),
    "float": (safetensors_raw({"a": entry(0, 4, [4.0])}, bytes(4)), "not-json"),
    "negative": (safetensors_raw({"a": entry(0, 4, [-4])}, bytes(4)), "not-json"),
    "minus zero": (safetensors_raw(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "not-json"),
    "true as a size": (safetensors_raw({"a": entry(0, 1, [True])}, b"x"), "not-json"),
    "text as a size": (safetensors_raw({"a": entry(0, 4, ["4"])}, bytes(4)), "not-json"),
    "a size of 4000 digits": (safetensors_raw(b'{"a":{"shape":[%b]}}' % (b"9" * 4000)), "not-json"),
    "a size of 5000 digits": (safetensors_raw(b'{"a":{"shape":[%b]}}' % (b"9" * 5000)), "not-json"),
    "a size of 2^64": (safetensors_raw({"a": entry(0, 4, [2**64])}, bytes(4)), "not-json"),
    "three offsets": (safetensors_raw({"a": GOOD | {"data_offsets": [0, 4, 8]}}, bytes(4)), "not-json"),
    "offsets backwards": (safetensors_raw({"a": GOOD | {"data_offsets": [4, 0]}}, bytes(4)), "size-mismatch"),
    "unknown type": (safetensors_raw({"a": entry(0, 4, [4], "Q4_K")}, bytes(4)), "unknown-dtype"),
    "type of a list": (safetensors_raw({"a": entry(0, 4, [4], ["U8"])}, bytes(4)), "unknown-dtype"),
    "shape larger": (safetensors_raw({"a": entry(0, 4, [5])}, bytes(4)), "size-mismatch"),
    "shape smaller": (safetensors_raw({"a": entry(0, 4, [3])}, bytes(4)), "size-mismatch"),
    "shape overflows": (safetensors_raw({"a": entry(0, 4, [2**63, 2])}, bytes(4)), "size-mismatch"),
    "shape overflows to zero": (safetensors_raw({"a": entry(0, 0, [2**63, 2, 0])}), "size-mismatch"),
    "half a byte": (safetensors_raw({"a": entry(0, 1, [1], "F4")}, b"x"), "size-mismatch"),
    "overlap": (safetensors_raw({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "overlap"),
    "same extent": (safetensors_raw({"a": GOOD, "b": GOOD}, bytes(4)), "overlap"),
    "hole at the start": (safetensors_raw({"a": entry(1, 5)}, bytes(5)), "hole"),
    "hole in between": (safetensors_raw({"a": entry(0, 2), "b": entry(3, 5)}, bytes(5)), "hole"),
    "short data": (safetensors_raw({"a": GOOD}, bytes(3)), "truncated"),
    "offsets of 2^63": (safetensors_raw({"a": entry(0, 2**60)}, bytes(4)), "truncated"),
    "trailing bytes": (safetensors_raw({"a": GOOD}, bytes(5)), "trailing-bytes"),
    "only trailing bytes": (safetensors_raw(b"{}", b"x"), "trailing-bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_attack_is_refused_by_its_rule(case: str) -> None:
    """A malformed header is refused by the rule that it breaks."""
    content, rule = REFUSED[case]
    assert refused(content) == rule


# What the real reader lets pass: it keeps the last of two equal keys and ignores fields that it does not know.
STRICTER = {
    "space first", "name twice", "name twice, escaped", "metadata twice", "metadata key twice", "field twice",
    "field more",
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED.keys() - STRICTER))
def test_the_real_reader_refuses_it_too(case: str) -> None:
    """The attacks are attacks to safetensors itself, but for those where we are stricter."""
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(REFUSED[case][0])


def test_many_entries_are_bounded() -> None:
    """A header of more tensors than the limit is refused."""
    count = 262_145
    header = ",".join(f'"{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{n},{n + 1}]}}' for n in range(count))
    assert refused(safetensors_raw(f"{{{header}}}".encode(), bytes(count))) == "too-many-tensors"


def test_much_metadata_is_bounded() -> None:
    """More metadata keys than the limit, or a longer string, is refused."""
    assert refused(safetensors_raw({"__metadata__": {str(n): "" for n in range(65_537)}})) == "too-much-metadata"
    assert refused(safetensors_raw(b'{"__metadata__":{"a":"%b"}}' % (b"\\n" * 9_000_000))) == "not-json"
