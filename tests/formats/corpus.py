"""Small valid files by the formats' own writers, and the byte edits that break them."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from modelnet.errors import MalformedError
from modelnet.formats import READERS, ByteSource, Layout, read_layout_strict, sniff

EXTREMES = (
    0,
    1,
    2,
    7,
    8,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 8,
    2**64 - 1,
)


@dataclass
class CountingSource:
    """A `ByteSource` that counts what is read and fails when a reader asks beyond the end."""

    content: bytes
    reads: int = 0
    bytes_read: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Length of the content."""
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes and remember that they were asked for."""
        assert offset >= 0, "a reader asks before the file"
        assert 0 <= length <= len(self.content) - offset, "a reader asks beyond the file"
        self.reads += 1
        self.bytes_read += length
        self.asked.append((offset, length))
        return self.content[offset : offset + length]


def arrays(seed: int = 7) -> dict[str, np.ndarray]:
    """Tensors of several types; sizes that need padding in the formats that align."""
    rng = np.random.default_rng(seed)
    return {
        "layer.0.weight": rng.standard_normal((8, 16)).astype(np.float32),
        "layer.0.bias": rng.standard_normal(5).astype(np.float32),
        "layer.1.weight": rng.standard_normal((3, 7)).astype(np.float16),
        "ids": rng.integers(0, 1000, 11).astype(np.int64),
        "mask": rng.integers(0, 120, 13).astype(np.int8),
    }


def safetensors_file(tensors: dict[str, np.ndarray] | None = None, metadata: dict[str, str] | None = None) -> bytes:
    """By safetensors' own writer."""
    return safetensors.numpy.save(arrays() if tensors is None else tensors, metadata)


def safetensors_raw(header: object, data: bytes = b"") -> bytes:
    """A file with any header: bytes as they are, else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf_file(tensors: dict[str, np.ndarray] | None = None, *, alignment: int = 32, vocabulary: int = 20) -> bytes:
    """By gguf-py's writer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_custom_alignment(alignment)
        writer.add_block_count(2)
        writer.add_bool("test.flag", val=True)
        writer.add_float64("test.pi", 3.14)
        writer.add_token_list([f"token {index} é" for index in range(vocabulary)])
        writer.add_token_scores([0.5] * vocabulary)
        writer.add_chat_template("{{ messages }}")
        for name, array in (arrays() if tensors is None else tensors).items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def text(value: bytes | str) -> bytes:
    """A GGUF string."""
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def gguf_key(name: bytes | str, kind: int, value: bytes) -> bytes:
    """A GGUF key-value."""
    return text(name) + struct.pack("<I", kind) + value


def gguf_info(name: bytes | str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """A GGUF tensor info."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_raw(
    keys: list[bytes], infos: list[bytes], data: bytes = b"", *, version: int = 3, alignment: int = 32, **claimed: int
) -> bytes:
    """A file of any parts, the data at the next multiple of `alignment`; `n_keys` and `n_tensors` may lie."""
    counts = claimed.get("n_tensors", len(infos)), claimed.get("n_keys", len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(infos)
    return head + bytes(-len(head) % alignment if data else 0) + data


def onnx_model(tensors: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A model with initialisers, a constant in an attribute, a sparse one and a constant inside a branch."""
    tensors = arrays() if tensors is None else tensors
    deep = numpy_helper.from_array(np.arange(9, dtype=np.float32), "deep")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["deep"], value=deep)],
        "branch", [], [helper.make_tensor_value_info("deep", TensorProto.FLOAT, [9])],
    )  # fmt: skip
    nodes = [
        helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.arange(6, dtype=np.int32), "constant")
        ),
        helper.make_node("If", ["mask"], ["y"], then_branch=branch, else_branch=branch),
    ]
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(3, np.float32), "sparse"), numpy_helper.from_array(np.arange(3), "at"), [100]
    )
    graph = helper.make_graph(
        nodes, "graph", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [9])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()]
        + [helper.make_tensor("typed", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])],
        sparse_initializer=[sparse],
    )  # fmt: skip
    return helper.make_model(graph, producer_name="corpus", doc_string="x" * 300)


def onnx_file(tensors: dict[str, np.ndarray] | None = None) -> bytes:
    """By onnx's own helpers and protobuf."""
    return onnx_model(tensors).SerializeToString()


def tflite_file(
    payloads: list[bytes], *, outside: list[bytes] | None = None, index: int | None = None, alignment: int = 16
) -> bytes:
    """A flatbuffer as schema.fbs has it, by hand: one subgraph, a tensor for each payload, buffer 0 empty.

    `outside` payloads follow the flatbuffer and are named by `Buffer.offset` and `Buffer.size`; `index` replaces every
    tensor's buffer number.
    """
    outside = outside or []
    out = bytearray(8)
    out[4:8] = b"TFL3"

    def put(value: bytes, align: int = 4) -> int:
        out.extend(bytes(-len(out) % align) + value)
        return len(out) - len(value)

    def table(fields: dict[int, bytes], last: int) -> tuple[int, dict[int, int]]:
        offsets, body = [0] * (last + 1), b""
        for number, value in fields.items():
            offsets[number], body = 4 + len(body), body + value
        vtable = put(struct.pack(f"<HH{last + 1}H", 4 + 2 * (last + 1), 4 + len(body), *offsets))
        start = put(struct.pack("<i", 0) + body, 8)
        struct.pack_into("<i", out, start, start - vtable)
        return start, {number: start + offset for number, offset in enumerate(offsets) if offset}

    def point(at: int, target: int) -> None:
        struct.pack_into("<I", out, at, target - at)

    def vector(count: int) -> tuple[int, list[int]]:
        start = put(struct.pack("<I", count) + bytes(4 * count))
        return start, [start + 4 + 4 * item for item in range(count)]

    link = bytes(4)
    model, at = table({0: struct.pack("<I", 3), 2: link, 4: link}, 4)
    point(0, model)
    buffers, slots = vector(1 + len(payloads) + len(outside))
    point(at[4], buffers)
    point(slots[0], table({}, 2)[0])
    for slot, payload in zip(slots[1:], payloads, strict=False):
        buffer, where = table({0: link}, 2)
        point(slot, buffer)
        out.extend(bytes(-(len(out) + 4) % alignment))
        point(where[0], put(struct.pack("<I", len(payload)) + payload))
    late = []
    for slot, payload in zip(slots[1 + len(payloads) :], outside, strict=True):
        # Two u64 that begin on a multiple of eight, as flatbuffers wants: the table starts on one, 4 bytes in.
        buffer, where = table({0: link, 1: struct.pack("<Q", 0), 2: struct.pack("<Q", len(payload))}, 2)
        point(slot, buffer)
        point(where[0], put(struct.pack("<I", 0)))
        late.append((where[1], payload))
    subgraphs, (slot,) = vector(1)
    point(at[2], subgraphs)
    subgraph, where = table({0: link}, 0)
    point(slot, subgraph)
    tensors, slots = vector(len(payloads) + len(outside))
    point(where[0], tensors)
    for number, (slot, payload) in enumerate(zip(slots, payloads + outside, strict=True)):
        tensor, parts = table({0: link, 1: b"\x03\0\0\0", 2: struct.pack("<I", index or number + 1), 3: link}, 3)
        point(slot, tensor)
        point(parts[0], put(struct.pack("<Ii", 1, len(payload))))
        name = f"tensor {number}".encode()
        point(parts[3], put(struct.pack("<I", len(name)) + name + b"\0"))
    for field_at, payload in late:
        struct.pack_into("<Q", out, field_at, put(payload, alignment))
    return bytes(out)


class _Stream(io.BytesIO):
    """A stream without seek, for which zipfile writes data descriptors, as PyTorch does."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError

    def tell(self) -> int:
        raise OSError


def torch_file(
    tensors: dict[str, np.ndarray] | None = None,
    *,
    descriptors: bool = True,
    compressed: bool = False,
    comment: bytes = b"",
) -> bytes:
    """A zip as PyTorch writes it: stored members, each at a multiple of 64 by an extra field, then data descriptors."""
    stream = _Stream() if descriptors else io.BytesIO()
    members = {"archive/data.pkl": b"\x80\x02}q\x00."}
    members |= {f"archive/data/{n}": array.tobytes() for n, array in enumerate((tensors or arrays()).values())}
    members |= {"archive/version": b"3\n", "archive/code/model.py": b"pass\n" * 100}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            room = -(len(stream.getvalue()) + 30 + len(name) + 4) % 64
            info.extra = struct.pack("<HH", 0x4246, room) + b"Z" * room
            if compressed and name.endswith(".py"):
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
        archive.comment = comment
    return stream.getvalue()


def corpus() -> dict[str, bytes]:
    """One small valid file or more of each format with a reader."""
    payloads = [array.tobytes() for array in arrays().values()]
    return {
        "safetensors": safetensors_file(metadata={"format": "pt", "note": 'é "quoted" \\ \n'}),
        "safetensors/empty": safetensors_file({}),
        "gguf": gguf_file(),
        "gguf/64": gguf_file(alignment=64),
        "gguf/v2": gguf_raw([gguf_key("a", 4, bytes(4))], [gguf_info("w", (8,))], bytes(32), version=2),
        "onnx": onnx_file(),
        "tflite": tflite_file(payloads),
        "tflite/outside": tflite_file(payloads[:2], outside=payloads[2:]),
        "torch-zip": torch_file(),
        "torch-zip/deflated": torch_file(descriptors=False, compressed=True, comment=b"hello"),
    }


# An edit is (what, place, value), place in [0, 2^32) of the file's length; both hypothesis and the fuzzer make them.
EDITS = ("flip", "byte", "truncate", "extend", "remove", "repeat", "splice", "u64", "u32", "u16", "varint", "digit")


def edited(content: bytes, what: str, place: int, value: int, donor: bytes) -> bytes:
    """Return `content` with one edit; always something, for any place and value."""
    at = place * len(content) >> 32
    extreme = EXTREMES[value % len(EXTREMES)]
    if what == "flip":
        return content[:at] + bytes(byte ^ (1 << value % 8) for byte in content[at : at + 1]) + content[at + 1 :]
    if what == "byte":
        return content[:at] + bytes([value % 256]) + content[at + 1 :]
    if what == "truncate":
        return content[:at]
    if what == "extend":
        return content + bytes([value % 256]) * (1 + value % 100)
    if what == "remove":
        return content[:at] + content[at + 1 + value % 40 :]
    if what == "repeat":
        return content[: at + 1 + value % 40] + content[at:]
    if what == "splice":
        return content[:at] + donor[value * len(donor) // 2**16 :]
    if what == "varint":
        return content[:at] + b"\xff" * (value % 10) + bytes([value % 128]) + content[at + 1 + value % 10 :]
    if what == "digit":
        spots = [index for index, byte in enumerate(content[:4096]) if byte in b"0123456789"]
        at = spots[place * len(spots) >> 32] if spots else at
        return content[:at] + str(extreme if value % 2 else value % 100).encode() + content[at + 1 :]
    width = {"u64": 8, "u32": 4, "u16": 2}[what]
    # Lengths lie at small multiples of two more often than not.
    at &= ~1 if value % 2 else ~0
    return content[:at] + (extreme % (1 << 8 * width)).to_bytes(width, "little") + content[at + width :]


def random_edits(rng: random.Random, content: bytes, donors: list[bytes]) -> bytes:
    """Return `content` after one to four random edits, most of them near its start, where headers are."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        place = rng.randrange(1 << 32) if rng.random() < 0.4 else int(rng.random() ** 3 * (1 << 32))
        content = edited(content, rng.choice(EDITS), place, rng.randrange(1 << 16), rng.choice(donors))
    return content


def check(content: bytes) -> str:
    """Return the format whose layout covers `content`, or the rule of its refusal; fail on anything else.

    Reads are bounded by the file's size: some blocks for each structure that a small file can hold.
    """
    limit = 65_536 + 64 * len(content)
    source = CountingSource(content)
    found = sniff(source)
    assert source.bytes_read <= limit
    # Also the readers that the content does not ask for.
    results = [outcome(reader, content, limit) for reader in (read_layout_strict, *READERS.values())]
    assert results[0] == found or results[0] not in READERS
    return results[0]


def outcome(reader: Callable[[ByteSource], Layout], content: bytes, limit: int) -> str:
    """Return a layout's format or a refusal's rule, both checked."""
    source = CountingSource(content)
    try:
        layout = reader(source)
    except MalformedError as error:
        refused = error
    else:
        position = 0
        for span in layout.spans:
            assert span.start == position < span.end
            position = span.end
        assert position == len(content)
        assert source.bytes_read <= limit
        return layout.format
    assert source.bytes_read <= limit
    assert refused.offset is not None
    assert str(refused)
    assert refused.rule
    return refused.rule
