"""The version pairs are what they say: files that the formats' own libraries read, with the reuse that is expected.

The reuse is computed here by a slow reference that shares no code with modelnet's chunking.
"""

from __future__ import annotations

import collections
import hashlib
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import pytest
import safetensors

from tests.pairs import NAMES, Tensor, build, pairs, read_safetensors

LAST_LAYER = "encoder.layer.5."
EMBEDDING = "embeddings.word_embeddings.weight"
TEMPLATE = "tokenizer.chat_template"

Extents = list[tuple[int, int]]  # (offset, length) of each tensor, in the order of the file


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that is empty again after the test: a release is 90 MB, and pytest keeps its folders."""
    yield tmp_path
    shutil.rmtree(tmp_path)


class _TorchReader(pickle.Unpickler):
    """Reads a state dict as torch does, with tuples for tensors."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return (lambda *arguments: arguments) if name == "_rebuild_tensor_v2" else f"{module}.{name}"

    def persistent_load(self, pid: object) -> object:
        return pid


def _read(path: Path) -> tuple[dict[str, bytes], Extents]:
    """Return each tensor's bytes and the chat template, read by the format's own library, and where the tensors lie."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "numpy") as opened:
            content = {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
        (header,) = struct.unpack("<Q", path.read_bytes()[:8])
        offset = 8 + header
        extents = []
        for tensor in read_safetensors(path):
            extents.append((offset, tensor.data.nbytes))
            offset += tensor.data.nbytes
        assert offset == path.stat().st_size
        return content, extents
    if path.suffix == ".gguf":
        reader = gguf.GGUFReader(path)
        content = {tensor.name: tensor.data.tobytes() for tensor in reader.tensors}
        if TEMPLATE in reader.fields:
            content[TEMPLATE] = bytes(reader.fields[TEMPLATE].parts[-1])
        return content, [(int(tensor.data_offset), int(tensor.n_bytes)) for tensor in reader.tensors]
    if path.suffix == ".bin":
        with zipfile.ZipFile(path) as archive, archive.open("pytorch_model/data.pkl") as opened:
            state = _TorchReader(opened).load()
            keys = {name: f"pytorch_model/data/{row[0][2]}" for name, row in state.items()}
            content = {name: archive.read(member) for name, member in keys.items()}
            members = [archive.getinfo(member) for member in keys.values()]
        whole = path.read_bytes()
        extents = []
        for member in members:
            name, extra = struct.unpack_from("<HH", whole, member.header_offset + 26)
            extents.append((member.header_offset + 30 + name + extra, member.file_size))
        return content, extents
    return {}, []


class _Release(NamedTuple):
    content: dict[str, bytes]
    blocks: dict[int, list[tuple[bytes, int]]]  # block size → (digest, length) of each block


def _read_all(files: Mapping[str, Path]) -> _Release:
    """Read a release, and cut each tensor and each gap between tensors into blocks from its own start."""
    content: dict[str, bytes] = {}
    blocks: dict[int, list[tuple[bytes, int]]] = {256 << 10: [], 1 << 20: []}
    for path in files.values():
        found, extents = _read(path)
        content |= found
        whole = memoryview(path.read_bytes())
        edges = [edge for offset, length in extents for edge in (offset, offset + length)]
        for start, stop in zip([0, *edges], [*edges, len(whole)], strict=True):
            for size, row in blocks.items():
                for at in range(start, stop, size):
                    block = whole[at : min(at + size, stop)]
                    row.append((hashlib.sha256(block).digest(), len(block)))
    return _Release(content, blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_pair_is_what_it_says(name: str, workdir: Path) -> None:
    """The format's library finds the old content, changed only where the pair says so; a reference finds the reuse."""
    pair = build(name, workdir)
    old, new = _read_all(pair.old_files), _read_all(pair.new_files)

    assert old.content.keys() - new.content.keys() == set()
    changed = {key for key in old.content if old.content[key] != new.content[key]}
    last_layer = {key for key in old.content if key.startswith(LAST_LAYER)}
    assert changed == {
        "last-layer": last_layer,
        "last-layer-and-rows": last_layer | {EMBEDDING},
        "lora-merged": {key for key in old.content if key.endswith(("self.query.weight", "self.value.weight"))},
        "vocabulary-grown": {EMBEDDING},
        "retrained-reordered-resharded": last_layer,
        "template-longer": {TEMPLATE},
        "template-same-length": {TEMPLATE},
    }.get(name, set())

    # Which rows are drawn moves the one pair that edits rows by more than rounding.
    slack = 4.0 if name == "last-layer-and-rows" else 0.15
    for size, expected in ((256 << 10, pair.expected), (1 << 20, pair.expected_1m)):
        known = {digest for digest, _ in old.blocks[size]}
        reused = sum(length for digest, length in new.blocks[size] if digest in known)
        total = sum(length for _, length in new.blocks[size])
        assert 100 * reused / total == pytest.approx(expected, abs=slack)


def test_the_vocabulary_grows_at_its_end(workdir: Path) -> None:
    """The new embedding is the old one and a thousand rows."""
    pair = build("vocabulary-grown", workdir)
    old, new = (
        next(tensor for tensor in read_safetensors(files["model.safetensors"]) if tensor.name == EMBEDDING)
        for files in (pair.old_files, pair.new_files)
    )
    assert new.shape == (old.shape[0] + 1000, old.shape[1])
    assert np.array_equal(new.values[:-1000], old.values)


def test_shards_are_indexed(workdir: Path) -> None:
    """Three shards, none empty, each holding the tensors that the index says."""
    pair = build("resharded", workdir)
    index = json.loads(pair.new_files["model.safetensors.index.json"].read_text())
    shards = {name: path for name, path in pair.new_files.items() if name.endswith(".safetensors")}
    assert len(shards) == 3
    for name, path in shards.items():
        held = {tensor.name for tensor in read_safetensors(path)}
        assert held
        assert held == {tensor for tensor, shard in index["weight_map"].items() if shard == name}


def test_the_torch_zip_has_torchs_layout(workdir: Path) -> None:
    """Storages are stored and aligned to 64 bytes; the pickle rebuilds contiguous tensors over persistent ids."""
    path = build("to-torch", workdir).new_files["pytorch_model.bin"]
    assert all(offset % 64 == 0 for offset, _ in _read(path)[1])
    with zipfile.ZipFile(path) as archive, archive.open("pytorch_model/data.pkl") as opened:
        assert archive.testzip() is None
        assert archive.read("pytorch_model/version") == b"3\n"
        state = _TorchReader(opened).load()
    assert state["encoder.layer.0.intermediate.dense.weight"] == (
        ("storage", "torch.FloatStorage", "17", "cpu", 1536 * 384),
        0,
        (1536, 384),
        (384, 1),
        False,
        collections.OrderedDict(),
    )
    assert state["embeddings.position_ids"][0][1] == "torch.LongStorage"


def test_template_edits_change_only_the_template(workdir: Path) -> None:
    """The longer template shifts the tensors by one unit of alignment; the other keeps the file's size."""
    longer, same = (build(name, workdir) for name in ("template-longer", "template-same-length"))
    old_path = next(iter(longer.old_files.values()))
    size = old_path.stat().st_size
    (longer_path,), (same_path,) = longer.new_files.values(), same.new_files.values()
    assert longer_path.stat().st_size - size == 32
    old, new = old_path.read_bytes(), same_path.read_bytes()
    assert len(old) == len(new)
    changed = np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
    assert len(changed) == 4
    assert old[changed[0] :].startswith(b"helpful AI")
    assert new[changed[0] :].startswith(b"careful AI")
    assert b"{# edited in version two. #}{% for message" in longer_path.read_bytes()[: 2 << 20]


def test_pairs_come_one_at_a_time(workdir: Path) -> None:
    """A pair's new files are gone when the next is there, and the last one's at the end."""
    names = ("header-edited", "reordered")
    for pair, name in zip(pairs(workdir, names), names, strict=True):
        assert pair.name == name
        assert [path.name for path in workdir.iterdir()] == [name]
        assert set(pair.new_files) == {"model.safetensors"}
    assert list(workdir.iterdir()) == []


def test_pairs_are_seeded(workdir: Path) -> None:
    """Two builds of a pair have the same bytes."""
    first, second = (build("lora-merged", workdir / folder).new_files["model.safetensors"] for folder in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_values_round_trip() -> None:
    """A tensor with its own values is itself."""
    tensor = Tensor("t", "F32", (2, 3), np.arange(24, dtype=np.uint8))
    again = tensor.with_values(tensor.values)
    assert (again.shape, again.data.tobytes()) == (tensor.shape, tensor.data.tobytes())
