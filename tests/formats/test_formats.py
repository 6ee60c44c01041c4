"""Telling formats by content, falling back, and what all readers have in common."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from modelnet.errors import MalformedError
from modelnet.formats import READERS, BytesSource, read_layout, read_layout_strict, sniff
from tests.formats import fuzz
from tests.formats.corpus import (
    EDITS,
    arrays,
    check,
    corpus,
    edited,
    gguf_file,
    onnx_file,
    safetensors_file,
    safetensors_raw,
    tflite_file,
    torch_file,
)  # fmt: skip

CORPUS = corpus()
DATA = {"a": [1, 2.5, None, b"x" * 300, "é" * 99]}


class Evil:
    """Imports something when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("loaded",)


def tar_file() -> bytes:
    """A tar of one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return stream.getvalue()


def zip_file() -> bytes:
    """A zip of one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "a")
    return stream.getvalue()


def npy_file() -> bytes:
    """An array as numpy saves it."""
    stream = io.BytesIO()
    np.save(stream, np.arange(4))
    return stream.getvalue()


SNIFFED = {
    **{name: (content, name.split("/")[0]) for name, content in CORPUS.items()},
    **{f"pickle {p}": (pickle.dumps(Evil(), p), "pickle") for p in range(6)},
    **{f"pickle of data {p}": (pickle.dumps(DATA, p), "pickle") for p in range(2, 6)},
    "legacy torch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "pickle"),
    "pickle by hand": (b"cos\nsystem\n(S'id'\ntR.", "pickle"),
    "pickle with a long start": (b"(" + b"I1\n0" * 3000 + b"cos\nsystem\n", "pickle"),
    "pickle of many opcodes": (b"N0" * 100_000 + b"cos\nsystem\n", "pickle"),
    "pickle cut": (pickle.dumps({"a": "b" * 500}, 4)[:300], "pickle"),
    "zip": (zip_file(), "zip"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "zip"),
    "torn torch zip": (torch_file()[:-1], "zip"),
    "tar": (tar_file(), "tar"),
    "gzip": (gzip.compress(b"x"), "gzip"),
    "numpy": (npy_file(), "npy"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "hdf5"),
    "ggml": (b"lmgg" + bytes(40), "ggml"),
    "json": (b' {"a": 1}', "json"),
    "json list": (b"[1]", "json"),
    "gguf of another byte order": (b"GGUF\0\0\0\x03" + bytes(16), "gguf"),
    "nothing": (b"", None),
    "one byte": (b"\x80", None),
    "marker alone": (b"\x80\x02\x00", None),
    "text": (b"(see the file model.safetensors)\n", None),
    "code": (b"import os\nprint(os)\n", None),
    "zeros": (bytes(1000), None),
    "header past the end": (b"\x00\x01" + bytes(6) + b"{", None),
    "byte order mark": (b"\xef\xbb\xbf{}", None),
}  # fmt: skip


@pytest.mark.parametrize("case", SNIFFED)
def test_formats_are_told_by_content(case: str) -> None:
    """A file is what its bytes are, with no name to go by."""
    content, expected = SNIFFED[case]
    assert sniff(BytesSource(content)) == expected


def test_safetensors_of_any_header_length_are_no_pickles() -> None:
    """The first bytes are a length, so some are a pickle's marker or opcodes."""
    for padding in range(2500):
        content = safetensors_raw(b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}' + b" " * padding, b".")
        assert sniff(BytesSource(content)) == "safetensors"
        assert read_layout(BytesSource(content)) is not None


def test_a_pickle_inside_a_safetensors_file_is_a_pickle() -> None:
    """A header that is also opcodes, which jump over it as strings, does not hide the import in the data."""
    # N = 0x1958 is BINUNICODE of 25 bytes, up to byte 30 of the file, where the metadata's text begins.
    header_length, data = 0x1958, b"cbuiltins\nlen\n."
    start = b'{"__metadata__":{"a":"'
    end = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data))
    header = bytearray(start + b"a" * (header_length - len(start) - len(end)) + end)
    for at in range(49):
        header[22 + 128 * at : 24 + 128 * at] = b"U~"
    # SHORT_BINSTRING of 126 bytes 49 times, then of 94, then of 96, over the end of the header.
    header[22 + 49 * 128 : 24 + 49 * 128] = b"U^"
    header[22 + 49 * 128 + 96 : 24 + 49 * 128 + 96] = b"U`"
    content = safetensors_raw(bytes(header), data)
    assert len(safetensors.deserialize(content)) == 1
    assert pickle.loads(content) is len  # noqa: S301
    assert sniff(BytesSource(content)) == "pickle"
    assert sniff(BytesSource(content.replace(b"len", b"l\0n"))) == "safetensors"


def test_unknown_and_refused_files_have_no_layout() -> None:
    """Without a reader, or when it refuses, there are no spans and no error."""
    assert read_layout(BytesSource(b"just text")) is None
    assert read_layout(BytesSource(CORPUS["gguf"][:100])) is None
    with pytest.raises(MalformedError) as caught:
        read_layout_strict(BytesSource(b"just text"))
    assert caught.value.rule == "unknown-format"
    with pytest.raises(MalformedError, match="ends"):
        read_layout_strict(BytesSource(CORPUS["gguf"][:-100]))


def test_the_same_tensors_have_the_same_extents_in_every_container() -> None:
    """The same bytes come out of each container, which is what lets versions in two formats share them."""
    tensors = arrays()
    expected = Counter(array.tobytes() for array in tensors.values())
    containers = [
        safetensors_file(tensors), gguf_file(tensors), gguf_file(tensors, alignment=64), onnx_file(tensors),
        torch_file(tensors), tflite_file(list(expected)), tflite_file([], outside=list(expected)),
    ]  # fmt: skip
    for content in containers:
        layout = read_layout_strict(BytesSource(content))
        found = Counter(content[span.start : span.end] for span in layout.tensors)
        assert found >= expected, layout.format
        if layout.format != "onnx":
            assert found == expected, layout.format


def test_every_truncation_of_a_valid_file_is_safe() -> None:
    """Cut anywhere, a file is refused, or covered where nothing but padding or structure was lost."""
    for content in CORPUS.values():
        for length in range(len(content)):
            check(content[:length])


def test_every_byte_may_be_anything() -> None:
    """Each byte of each valid file, set to an extreme, gives a layout or a typed refusal."""
    for content in CORPUS.values():
        for at in range(min(len(content), 1200)):
            for byte in (0, 0x7F, 0xFF):
                check(content[:at] + bytes([byte]) + content[at + 1 :])


EDIT = st.tuples(st.sampled_from(EDITS), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(CORPUS)), st.sampled_from(sorted(CORPUS)), st.lists(EDIT, min_size=1, max_size=4))
def test_any_edit_gives_a_cover_or_a_typed_refusal(name: str, donor: str, edits: list[tuple[str, int, int]]) -> None:
    """Flips, cuts, splices and extreme numbers give gap-free spans or `MalformedError`, with bounded reads."""
    content = CORPUS[name]
    for what, place, value in edits:
        content = edited(content, what, place, value, CORPUS[donor])
    check(content)
    if name.startswith("safetensors"):
        fuzz.judge_safetensors(content)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.sampled_from([b"", b"GGUF\x03\0\0\0", b"\0\0\0\0TFL3", b"PK\x03\x04", b"\x80\x04", b"\x08\x08:"]), st.binary()
)
def test_any_bytes_give_a_cover_or_a_typed_refusal(start: bytes, rest: bytes) -> None:
    """Bytes without any plan are safe too."""
    check(start + rest)


def test_the_fuzzer_finds_nothing_in_its_first_cases() -> None:
    """A short run of `python -m tests.formats.fuzz`."""
    outcomes, _ = fuzz.run(4000, seed=20)
    assert outcomes.total() == 4000
    assert {f"{name} -> {name}" for name in READERS} <= outcomes.keys()
