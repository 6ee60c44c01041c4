"""The ONNX reader against onnx's own writer, protobuf, and hand-made wire bytes."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelnet.errors import MalformedError
from modelnet.formats import BytesSource, SpanKind, cover
from modelnet.formats.onnx import DTYPES, MAX_DEPTH, external_spans, is_model, read_layout
from tests.formats.corpus import CountingSource, arrays, onnx_file, onnx_model


def varint(value: int) -> bytes:
    """A protobuf number."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def sub(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def num(number: int, value: int) -> bytes:
    """A varint field."""
    return varint(number << 3) + varint(value)


def model(*tensors: bytes) -> bytes:
    """A model whose graph has these initialisers."""
    return num(1, 8) + sub(7, b"".join(sub(5, tensor) for tensor in tensors))


def single(tensor: TensorProto) -> bytes:
    """A model by onnx of one initialiser."""
    return helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()


def external(location: str, **entries: str) -> TensorProto:
    """A tensor of four floats that is elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def rule(content: bytes, reader=read_layout) -> str | None:
    """Return the rule that refuses these bytes."""
    with pytest.raises(MalformedError) as caught:
        reader(BytesSource(content))
    assert caught.value.offset is not None
    return caught.value.rule


def test_extents_are_those_of_the_real_writer() -> None:
    """Initialisers, constants in attributes and in branches, and sparse parts have their exact bytes as spans."""
    content = onnx_file()
    layout = read_layout(BytesSource(content))
    found = {span.name: span for span in layout.tensors}
    expected = arrays() | {
        "constant": np.arange(6, dtype=np.int32), "deep": np.arange(9, dtype=np.float32), "at": np.arange(3),
        "typed": np.array([1, 2, 3, 4], np.float32), "sparse": np.ones(3, np.float32),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert content[found[name].start : found[name].end] == array.tobytes()
        assert found[name].shape == array.shape
    assert len(layout.tensors) == len(expected) + 1, "both branches hold `deep`"
    assert {span.kind for span in layout.spans} <= {SpanKind.HEADER, SpanKind.TENSOR, SpanKind.TAIL}


def test_every_type_has_the_size_of_onnx() -> None:
    """Whole-byte types in our table are as wide as numpy's arrays of them."""
    for kind, (_, bits) in DTYPES.items():
        if bits >= 8:
            assert helper.tensor_dtype_to_np_dtype(kind).itemsize * 8 == bits, kind
    assert set(TensorProto.DataType.values()) - DTYPES.keys() == {TensorProto.UNDEFINED, TensorProto.STRING}


def test_half_bytes_are_rounded_up() -> None:
    """Three 4-bit numbers are two bytes."""
    assert (
        len(
            read_layout(
                BytesSource(single(helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3], raw=False)))
            ).tensors
        )
        == 0
    )
    assert (
        read_layout(BytesSource(model(num(1, 3) + num(2, TensorProto.INT4) + sub(9, b"ab")))).tensors[0].dtype == "I4"
    )


def test_doubles_in_a_typed_field_are_the_same_bytes() -> None:
    """A packed `double_data` is as good as `raw_data`."""
    content = single(helper.make_tensor("w", TensorProto.DOUBLE, [3], [1.0, 2.0, 3.0]))
    (span,) = read_layout(BytesSource(content)).tensors
    assert content[span.start : span.end] == np.array([1, 2, 3], np.float64).tobytes()


def test_functions_and_training_graphs_are_walked() -> None:
    """Tensors in a model-local function and in a training graph have spans."""
    made = onnx_model()
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.arange(7.0), "in function"))
    made.functions.append(helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 18)]))
    made.training_info.add().algorithm.initializer.append(numpy_helper.from_array(np.arange(5.0), "in training"))
    names = {span.name for span in read_layout(BytesSource(made.SerializeToString())).tensors}
    assert {"in function", "in training"} <= names


def test_tensor_data_is_never_read() -> None:
    """Large initialisers cost one block each."""
    content = onnx_file({f"w{index}": np.zeros(1 << 20, np.float32) for index in range(8)})
    source = CountingSource(content)
    assert is_model(source)
    read_layout(source)
    assert source.bytes_read < 30 * 4096


def test_external_data_of_the_real_writer(tmp_path: Path) -> None:
    """The spans in the external file are where onnx put each tensor, and cover it with its padding."""
    tensors = {name: np.resize(array, 2000) for name, array in arrays().items()}
    path = tmp_path / "model.onnx"
    onnx.save_model(
        onnx_model(tensors), path, save_as_external_data=True, location="model.onnx.data", size_threshold=256
    )
    content, data = path.read_bytes(), (tmp_path / "model.onnx.data").read_bytes()
    found = external_spans(BytesSource(content))
    assert found.keys() == {"model.onnx.data"}
    for span in found["model.onnx.data"]:
        assert data[span.start : span.end] == tensors[span.name].tobytes()
    assert {span.name for span in found["model.onnx.data"]} == tensors.keys()
    assert cover(len(data), found["model.onnx.data"])
    assert {span.name for span in read_layout(BytesSource(content)).tensors}.isdisjoint(tensors)


def test_tied_external_tensors_share_one_span() -> None:
    """Two tensors of one range are one span, and ranges may come in any order."""
    tied = [external("d", offset="16"), external("d", offset="0"), external("d", offset="16", length="16")]
    content = helper.make_model(helper.make_graph([], "g", [], [], tied)).SerializeToString()
    assert [(span.start, span.end) for span in external_spans(BytesSource(content))["d"]] == [(16, 32), (0, 16)]


@pytest.mark.parametrize(
    "location",
    ["", ".", "..", "../secret", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "x" * 256, "./..", "a:stream"],
)
def test_locations_outside_the_folder_are_refused(location: str) -> None:
    """External data may only name a file beside the model (CVE-2022-25882, CVE-2024-27318)."""
    assert rule(single(external(location)), external_spans) == "external-location"


def test_a_location_may_say_that_it_is_here() -> None:
    """`./` before a name changes nothing, and is not part of it."""
    for location in ("./a", "././a", ".//a"):
        assert list(external_spans(BytesSource(single(external(location))))) == ["a"]


@pytest.mark.parametrize(
    "entries",
    [{"offset": "-1"}, {"offset": "+1"}, {"offset": "1_0"}, {"offset": "٣"}, {"offset": "9" * 5000}, {"length": "15"},
     {"length": ""}, {"length": "0x10"}],
)  # fmt: skip
def test_ranges_that_are_no_numbers_are_refused(entries: dict[str, str]) -> None:
    """An offset is decimal digits, a length is what type and shape make."""
    assert rule(single(external("d", **entries)), external_spans) == "external-range"


def nested(levels: int) -> bytes:
    """A model of graphs in attributes of nodes of graphs."""
    inner = b""
    for _ in range(levels):
        inner = sub(1, sub(5, sub(6, inner)))
    return num(1, 8) + sub(7, inner)


FLOAT4 = num(1, 4) + num(2, 1)
REFUSED = {
    "empty": (b"", "no-graph"),
    "no graph": (num(1, 8), "no-graph"),
    "field 0": (num(0, 1), "field"),
    "field of 2^29": (num(1 << 29, 1), "field"),
    "group": (b"\x0b\x0c", "wire-type"),
    "unknown wire type": (b"\x0e", "wire-type"),
    "graph as a number": (num(7, 1), "wire-type"),
    "varint of 11 bytes": (b"\x08" + b"\xff" * 10 + b"\x01", "varint"),
    "varint over 64 bits": (b"\x08" + b"\xff" * 9 + b"\x02", "varint"),
    "varint unfinished": (b"\x08\xff", "varint"),
    "tag alone": (b"\x08", "truncated"),
    "length of 2^63": (b"\x3a" + varint(1 << 63), "truncated"),
    "length past the parent": (num(1, 8) + sub(7, b"\x2a\x05ab") + b"more bytes", "truncated"),
    "too deep": (nested(MAX_DEPTH), "too-deep"),
    "too small": (model(FLOAT4 + sub(9, bytes(15))), "size-mismatch"),
    "too large": (model(FLOAT4 + sub(9, bytes(17))), "size-mismatch"),
    "negative dimension": (model(num(1, 2**64 - 1) + num(2, 1) + sub(9, b"abcd")), "dims"),
    "dimensions overflow": (model(num(1, 2**62) * 9 + num(2, 1) + sub(9, b"abcd")), "size-mismatch"),
    "65 dimensions": (model(sub(1, b"\x01" * 65) + num(2, 1) + sub(9, b"abcd")), "dims"),
    "data twice": (model(FLOAT4 + sub(9, bytes(16)) * 2), "duplicate-field"),
    "data raw and typed": (model(FLOAT4 + sub(9, bytes(16)) + sub(4, bytes(16))), "duplicate-field"),
    "name not UTF-8": (model(sub(8, b"\xff")), "not-utf-8"),
    "name too long": (model(sub(8, b"x" * 70_000)), "not-utf-8"),
    "external entry twice": (model(sub(13, sub(1, b"a")) * 2), "duplicate-field"),
    "too many tensors": (model(*[b""] * 262_145), "too-many-tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_each_attack_is_refused_by_its_rule(case: str) -> None:
    """Malformed wire bytes are refused by the rule that they break."""
    content, expected = REFUSED[case]
    assert rule(content) == expected


def test_nesting_within_the_limit_is_walked() -> None:
    """Thirty graphs in each other are read without recursion."""
    assert read_layout(BytesSource(nested(30))).format == "onnx"


def test_a_bomb_of_fields_is_bounded() -> None:
    """Two-byte fields by the million end at the limit."""
    start = time.perf_counter()
    assert rule(num(1, 8) + sub(7, num(9, 1) * 5_000_000)) == "too-many-fields"
    assert time.perf_counter() - start < 30


def test_other_protobuf_is_no_model() -> None:
    """A bare graph, a tensor or text is not taken for a model."""
    assert is_model(BytesSource(onnx_file()))
    assert not is_model(BytesSource(onnx_model().graph.SerializeToString()))
    assert not is_model(BytesSource(numpy_helper.from_array(np.arange(4)).SerializeToString()))
    assert not is_model(BytesSource(b""))
