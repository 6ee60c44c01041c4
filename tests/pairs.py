"""Version pairs made from two real models: what maintainers do to a release, and how much of it a peer already has.

    for pair in pairs(tmp_path):           # written one at a time; the new files are gone when the next is asked for
        ...
    pair = build("resharded", tmp_path)    # one of NAMES, for a parametrised test

A pair is an old release and a new one, each a mapping from a file's path in the release to where it lies here, and the
reuse to expect: the share of the new files' bytes, in per cent, that stand in some chunk of the old files as well.
`expected` was measured with blocks of 256 KiB cut from each tensor's own start (gaps between tensors likewise, a
header being a gap), `expected_1m` with 1 MiB. Plans that cut otherwise differ by a few tenths where whole tensors are
kept, and lie between the two columns where single rows of the one large tensor changed.

The old releases are `minilm` (safetensors, F32, 104 tensors, its word embedding 52 % of the bytes) and, for the pairs
named `template-*`, `smollm2` (GGUF). The changes are synthetic, seeded and ours: no release of anybody looks like that.
"""

from __future__ import annotations

import functools
import io
import json
import mmap
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.realmodels import need

__all__ = ["NAMES", "Pair", "Tensor", "build", "pairs", "read_safetensors"]

_SEED = 7
_LAST_LAYER = "encoder.layer.5."
_EMBEDDING = "embeddings.word_embeddings.weight"
_NUMPY = {"F32": "<f4", "I64": "<i8"}
_TORCH = {"F32": "FloatStorage", "I64": "LongStorage"}
_TORCH_ALIGNMENT = 64

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pair:
    """An old and a new release, and the reuse to expect between them in per cent."""

    name: str
    old_files: Mapping[str, Path]
    new_files: Mapping[str, Path]
    expected: float
    expected_1m: float


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as safetensors describes it; `data` are its bytes as they lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Bytes

    @property
    def values(self) -> npt.NDArray[np.generic]:
        """The numbers, in the tensor's shape."""
        return self.data.view(_NUMPY[self.dtype]).reshape(self.shape)

    def with_values(self, values: npt.NDArray[np.generic]) -> Tensor:
        """Return the tensor with other numbers, of the same type."""
        data = np.ascontiguousarray(values, dtype=_NUMPY[self.dtype]).reshape(-1).view(np.uint8)
        return replace(self, shape=values.shape, data=data)


@dataclass(frozen=True, slots=True)
class _Recipe:
    source: str  # the model of tests.realmodels, and its file
    file: str
    write: Callable[[Path, Path, np.random.Generator], None]  # old file, new folder
    expected: float
    expected_1m: float


def pairs(workdir: Path, names: Sequence[str] = ()) -> Iterator[Pair]:
    """Yield the pairs `names`, by default all; at most one new release is on the disk at a time."""
    for name in names or NAMES:
        pair = build(name, workdir)
        try:
            yield pair
        finally:
            shutil.rmtree(workdir / name)


def build(name: str, workdir: Path) -> Pair:
    """Write the new release of the pair `name` into `workdir / name`; skips the test where the model cannot be had."""
    recipe = _RECIPES[name]
    old = need(recipe.source) / recipe.file
    folder = workdir / name
    folder.mkdir(parents=True)
    recipe.write(old, folder, np.random.default_rng(_SEED))
    new_files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return Pair(name, {recipe.file: old}, new_files, recipe.expected, recipe.expected_1m)


# What a maintainer did.


def _header_edited(old: Path, new: Path, _: np.random.Generator) -> None:
    metadata = {"format": "pt", "license": "Apache-2.0", "note": "the text before the tensors grew"}
    _write_safetensors(new / "model.safetensors", read_safetensors(old), metadata)


def _resharded(old: Path, new: Path, _: np.random.Generator) -> None:
    _write_shards(new, read_safetensors(old), 3)


def _last_layer(old: Path, new: Path, random: np.random.Generator) -> None:
    _write_safetensors(new / "model.safetensors", _retrain_last_layer(read_safetensors(old), random))


def _last_layer_and_rows(old: Path, new: Path, random: np.random.Generator) -> None:
    def edit(tensor: Tensor) -> Tensor:
        if tensor.name != _EMBEDDING:
            return tensor
        rows = random.choice(tensor.shape[0], 50, replace=False)
        values = np.array(tensor.values)
        values[rows] = random.normal(0, 0.05, (50, tensor.shape[1]))
        return tensor.with_values(values)

    tensors = [edit(tensor) for tensor in _retrain_last_layer(read_safetensors(old), random)]
    _write_safetensors(new / "model.safetensors", tensors)


def _lora_merged(old: Path, new: Path, random: np.random.Generator) -> None:
    def merge(tensor: Tensor) -> Tensor:
        if not tensor.name.endswith(("attention.self.query.weight", "attention.self.value.weight")):
            return tensor
        rows, columns = tensor.shape
        update = random.normal(0, 0.02, (rows, 8)) @ random.normal(0, 0.02, (8, columns))
        return tensor.with_values(tensor.values + update.astype("<f4"))

    _write_safetensors(new / "model.safetensors", [merge(tensor) for tensor in read_safetensors(old)])


def _to_gguf(old: Path, new: Path, _: np.random.Generator) -> None:
    writer = gguf.GGUFWriter(new / "model.gguf", "bert")
    for tensor in read_safetensors(old):
        writer.add_tensor(tensor.name, tensor.values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _to_torch(old: Path, new: Path, _: np.random.Generator) -> None:
    _write_torch(new / "pytorch_model.bin", read_safetensors(old))


def _reordered(old: Path, new: Path, random: np.random.Generator) -> None:
    tensors = read_safetensors(old)
    _write_safetensors(new / "model.safetensors", [tensors[index] for index in random.permutation(len(tensors))])


def _vocabulary_grown(old: Path, new: Path, random: np.random.Generator) -> None:
    def grow(tensor: Tensor) -> Tensor:
        if tensor.name != _EMBEDDING:
            return tensor
        rows = random.normal(0, 0.05, (1000, tensor.shape[1])).astype("<f4")
        return tensor.with_values(np.concatenate([tensor.values, rows]))

    _write_safetensors(new / "model.safetensors", [grow(tensor) for tensor in read_safetensors(old)])


def _retrained_reordered_resharded(old: Path, new: Path, random: np.random.Generator) -> None:
    tensors = _retrain_last_layer(read_safetensors(old), random)
    _write_shards(new, [tensors[index] for index in random.permutation(len(tensors))], 2)


def _template_longer(old: Path, new: Path, _: np.random.Generator) -> None:
    _write_template(old, new / old.name, lambda text: b"{# edited in version two. #}" + text)


def _template_same_length(old: Path, new: Path, _: np.random.Generator) -> None:
    _write_template(old, new / old.name, lambda text: text.replace(b"a helpful AI", b"a careful AI"))


_MINILM = ("minilm", "model.safetensors")
_SMOLLM2 = ("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_RECIPES = {
    "header-edited": _Recipe(*_MINILM, _header_edited, 100, 100),
    "resharded": _Recipe(*_MINILM, _resharded, 100, 100),
    "last-layer": _Recipe(*_MINILM, _last_layer, 92.2, 92.2),
    "last-layer-and-rows": _Recipe(*_MINILM, _last_layer_and_rows, 79.2, 51.0),
    "lora-merged": _Recipe(*_MINILM, _lora_merged, 92.2, 92.2),
    "to-gguf": _Recipe(*_MINILM, _to_gguf, 100, 100),
    "to-torch": _Recipe(*_MINILM, _to_torch, 100, 100),
    "reordered": _Recipe(*_MINILM, _reordered, 100, 100),
    "vocabulary-grown": _Recipe(*_MINILM, _vocabulary_grown, 98.1, 97.5),
    "retrained-reordered-resharded": _Recipe(*_MINILM, _retrained_reordered_resharded, 92.2, 92.2),
    "template-longer": _Recipe(*_SMOLLM2, _template_longer, 99.8, 99.2),
    "template-same-length": _Recipe(*_SMOLLM2, _template_same_length, 99.8, 99.2),
}
NAMES = tuple(_RECIPES)


def _retrain_last_layer(tensors: Sequence[Tensor], random: np.random.Generator) -> list[Tensor]:
    def retrain(tensor: Tensor) -> Tensor:
        if not tensor.name.startswith(_LAST_LAYER):
            return tensor
        return tensor.with_values(tensor.values + random.normal(0, 0.01, tensor.shape).astype("<f4"))

    return [retrain(tensor) for tensor in tensors]


# Containers, written by hand so that every byte outside the tensors is ours to choose.


def read_safetensors(path: Path) -> list[Tensor]:
    """Return the tensors of a file that we trust, in the order of their bytes, without reading those."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", mapped)
    header = json.loads(mapped[8 : 8 + length])
    header.pop("__metadata__", None)
    data = np.frombuffer(mapped, np.uint8, offset=8 + length)
    rows = sorted(header.items(), key=lambda row: row[1]["data_offsets"])
    return [
        Tensor(name, row["dtype"], tuple(row["shape"]), data[slice(*row["data_offsets"])])  # a view
        for name, row in rows
    ]


def _write_safetensors(path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None) -> None:
    header: dict[str, object] = {"__metadata__": metadata or {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.data.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            file.write(tensor.data.tobytes())


def _write_shards(folder: Path, tensors: Sequence[Tensor], count: int) -> None:
    """Write `count` files of about equal size and the index that names each tensor's file."""
    total = sum(tensor.data.nbytes for tensor in tensors)
    shards: list[list[Tensor]] = [[] for _ in range(count)]
    written = 0
    for tensor in tensors:
        shards[min(count - 1, written * count // total)].append(tensor)
        written += tensor.data.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        _write_safetensors(folder / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_template(old: Path, new: Path, edit: Callable[[bytes], bytes]) -> None:
    """Copy a GGUF file with another chat template; all else keeps its bytes."""
    header_end, data, alignment = _gguf_edges(old)
    whole = old.read_bytes()
    # A string value: the key, its type (8), the length, the text.
    key = b"tokenizer.chat_template" + struct.pack("<I", 8)
    at = whole.index(key, 0, header_end) + len(key)
    (length,) = struct.unpack_from("<Q", whole, at)
    before = whole[at + 8 : at + 8 + length]
    after = edit(before)
    if after == before:
        raise ValueError(f"{old.name}: the edit changed nothing")
    header = whole[:at] + struct.pack("<Q", len(after)) + after + whole[at + 8 + length : header_end]
    with new.open("wb") as file:
        file.write(header + bytes(-len(header) % alignment))
        file.write(memoryview(whole)[data:])


@functools.cache
def _gguf_edges(path: Path) -> tuple[int, int, int]:
    """Return where the header ends, where the tensors begin, and the alignment between them; takes seconds."""
    reader = gguf.GGUFReader(path)
    last = reader.tensors[-1].field
    header_end = last.offset + sum(int(part.nbytes) for part in last.parts)
    return header_end, int(reader.data_offset), int(reader.alignment)


def _write_torch(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write the zip that `torch.save(state_dict)` writes: a pickle, and one stored and aligned member a tensor."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add_aligned(archive, f"{path.stem}/data.pkl", _torch_pickle(tensors))
        _add_aligned(archive, f"{path.stem}/byteorder", b"little")
        for number, tensor in enumerate(tensors):
            _add_aligned(archive, f"{path.stem}/data/{number}", tensor.data.tobytes())
        _add_aligned(archive, f"{path.stem}/version", b"3\n")


def _add_aligned(archive: zipfile.ZipFile, name: str, payload: bytes) -> None:
    assert archive.fp is not None
    member = zipfile.ZipInfo(name)
    # The local header is 30 bytes, the name, and this extra field, of which 4 bytes are its own header.
    start = archive.fp.tell() + 30 + len(name) + 4
    padding = -start % _TORCH_ALIGNMENT
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(member, payload)


def _torch_pickle(tensors: Sequence[Tensor]) -> bytes:
    """Return the pickle of an `OrderedDict` of tensors whose storages are persistent ids, as torch writes it.

    Opcode by opcode, because `pickle` would need torch to be there to name its functions.
    """
    out = io.BytesIO()

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def numbers(values: Sequence[int]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    out.write(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for key, tensor in enumerate(tensors):
        strides = np.cumprod((1, *reversed(tensor.shape)))[-2::-1] if tensor.shape else ()
        out.write(text(tensor.name) + b"ctorch._utils\n_rebuild_tensor_v2\n(")
        out.write(b"(" + text("storage") + f"ctorch\n{_TORCH[tensor.dtype]}\n".encode() + text(str(key)) + text("cpu"))
        out.write(b"J" + struct.pack("<i", tensor.values.size) + b"tQ")  # the persistent id
        out.write(b"J" + bytes(4) + numbers(tensor.shape) + numbers([int(stride) for stride in strides]))
        out.write(b"\x89ccollections\nOrderedDict\n)RtR")  # requires_grad, backward_hooks; the call
    out.write(b"u.")
    return out.getvalue()
