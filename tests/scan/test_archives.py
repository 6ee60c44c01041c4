"""What is inside archives, arrays and compressed files is found whatever they claim, in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import marshal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from modelnet.content.archives import MAX_LOOKED_AT
from tests.formats.corpus import corpus
from tests.scan import samples
from tests.scan.samples import blocked, check, entry, safetensors_of

EVIL = samples.evil(2)
PROTOCOL_0 = b"cos\nsystem\n(S'true'\ntR."


def test_all_members_of_a_zip_are_looked_into_or_it_is_refused() -> None:
    """A pickle behind thousands of members is found; with more than are looked into nothing passes."""
    many = {f"m/{n}": b"" for n in range(5000)}
    assert blocked(samples.zipped({**many, "m/z": EVIL}), "m.zip") == {"pickle"}
    too_many = samples.zipped({f"m/{n}": b"" for n in range(MAX_LOOKED_AT + 1)})
    assert blocked(too_many, "m.zip") == {"archive"}


HEADERS = {
    "a name": "{'descr': 'object', 'fortran_order': False, 'shape': (1,), }",
    "a size": "{'descr': 'O8', 'fortran_order': False, 'shape': (1,), }",
    "an escape": r"{'descr': '\x4f', 'fortran_order': False, 'shape': (1,), }",
    "a part of an array": "{'descr': ('|O', (1,)), 'fortran_order': False, 'shape': (1,), }",
    "a field": "{'descr': [('a', '<i4'), ('b', [('c', '|O')], (2,))], 'fortran_order': False, 'shape': (1,), }",
    "several in one string": "{'descr': 'f4,O', 'fortran_order': False, 'shape': (1,), }",
    "joined strings": "{'descr': '|' 'O', 'fortran_order': False, 'shape': (1,), }",
    "twice": "{'descr': '<f4', 'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "many spaces": " " * 70_000 + "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_array_of_objects_is_a_pickle_however_it_is_spelt(case: str, version: int) -> None:
    """The header is read as NumPy reads it, in every version of the format, alone and in an archive."""
    text = HEADERS[case].encode()
    version = max(version, 1 if len(text) <= 0xFFFF else 2)  # version 1 has no room for more
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    content = b"\x93NUMPY" + bytes([version, 0]) + length + text + EVIL
    assert blocked(content, "w.npy") == {"pickle"}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert blocked(samples.zipped({"w.npy": content}, method), "w.npz") == {"pickle"}


def test_arrays_of_numbers_pass() -> None:
    """Every plain kind of item, structured ones, dates, and what older programs wrote."""
    plain = [
        np.zeros(2, kind) for kind in ("b1", "i1", "<u8", ">f4", "f2", "c16", "S3", "<U5", "V7", "M8[ns]", "m8[D]")
    ]
    fields = np.zeros(2, [("O", "<i4"), ("b", [("c", "<f8", (2, 3))]), (("title", "d"), "S2")])
    for array in (*plain, fields, np.zeros(()), np.asfortranarray(np.zeros((2, 2)))):
        out = io.BytesIO()
        np.save(out, array)
        assert blocked(out.getvalue(), "w.npy") == set(), array.dtype
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }"
    assert blocked(b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + bytes(12), "w.npy") == set()


def _old_tar(content: bytes) -> bytes:
    header = bytearray(512)
    header[:5] = b"model"
    header[100:108], header[124:136] = b"0000644\0", b"%011o\0" % len(content)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content.ljust(1024, b"\0") + bytes(1024)


WRAPPED = {
    **{f"zlib {level}": (zlib.compress(EVIL, level), "pickle") for level in range(10)},
    "zlib, protocol 0": (zlib.compress(PROTOCOL_0), "pickle"),
    "zlib that breaks later": (zlib.compress(PROTOCOL_0 + bytes(range(256)) * 40, 0)[:-500] + bytes(600), "pickle"),
    "zlib of text": (zlib.compress(b"some text" * 10), "archive"),
    "old LZMA": (lzma.compress(EVIL, lzma.FORMAT_ALONE), "pickle"),
    "old LZMA of text": (lzma.compress(b"some text" * 10, lzma.FORMAT_ALONE), "archive"),
    "bzip2 behind an empty stream": (bz2.compress(b"") + bz2.compress(EVIL), "pickle"),
    "gzip behind an empty stream": (gzip.compress(b"") * 3 + gzip.compress(EVIL), "pickle"),
    "xz behind an empty stream": (lzma.compress(b"") + lzma.compress(EVIL), "pickle"),
    "tar of 1979": (_old_tar(EVIL), "pickle"),
    **{f"HDF5 at {at}": (bytes(at) + b"\x89HDF\r\n\x1a\n" + bytes(64), "hdf5") for at in (512, 1024, 2048, 1 << 20)},
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_without_a_magic_at_the_beginning_are_known(case: str) -> None:
    """What joblib, HDF5, tarfile and the decompressors open is known as what it is."""
    content, rule = WRAPPED[case]
    assert rule in blocked(content, "model.bin")
    assert blocked(samples.zipped({"m": content}), "model.zip") & {"archive", "hdf5"}


def test_plain_bytes_are_no_wrappers() -> None:
    """Weights and texts that begin like a stream, and cannot be unpacked, pass."""
    rng = np.random.default_rng(5)
    for start in (
        b"x\x9c",
        b"x^",
        b"x\x01",
        b"8O",
        b"(\x15",
        b"]\0\0\x80\0" + b"\xff" * 8 + b"\0",
        b"]\0\0\x80\0" + bytes(9),
    ):
        for _ in range(50):
            assert blocked(start + rng.bytes(5000), "weights.bin") == set(), start
    assert blocked(np.arange(5000).astype("<i8").tobytes(), "weights.bin") == set()
    assert blocked(bytes(100_000), "weights.bin") == set()


def test_a_keras_archive_needs_no_weights() -> None:
    """Its layers are built from `config.json` before anything else is looked for."""
    layers = json.dumps({"module": "keras.layers", "class_name": "Lambda"}).encode()
    for name, members in (
        ("m.keras", {"config.json": b"{}"}),
        ("m.bin", {"config.json": layers}),
        ("m.bin", {"config.json": layers.replace(b"class", b"cl\\u0061ss").replace(b"module", b"modul\\u0065")}),
        ("m.bin", {"config.json": b"{", "metadata.json": b"{}"}),
        ("m.zip", {"config.json": b"{}", "model.weights.npz": b""}),
    ):
        assert "keras" in blocked(samples.zipped(members), name), members
    assert blocked(samples.zipped({"config.json": b'{"model_type": "bert"}'}), "m.zip") == set()


def test_programs_inside_a_zip_are_found() -> None:
    """Wherever they lie, and by name where only the name says so."""
    elf, pickle = b"\x7fELF\x02\x01\x01" + bytes(64), b"\x80\x02ccollections\nOrderedDict\n)R."
    inside = {"m/data.pkl": pickle, "m/data/aotinductor/model/x.so": elf, "m/data/0": bytes(64)}
    assert blocked(samples.zipped(inside), "m.pt2") == {"native-code"}
    assert blocked(samples.zipped({**inside, "m/data/aotinductor/model/x.so": b""}), "m.pt2") == {"native-code"}
    assert blocked(samples.zipped({"m/data.pkl": pickle, "m/data/0": elf}), "m.pt") == {"native-code"}
    assert blocked(samples.zipped({"modeling.py": b"import os"}), "m.zip") == {"source-code"}
    assert blocked(samples.zipped({"run": b"#!/bin/sh\n"}), "m.zip") == {"source-code"}


@pytest.mark.parametrize("magic", ["feedface", "feedfacf", "cefaedfe", "cffaedfe", "cafebabe", "cafebabf"])
def test_programs_of_macos_are_found(magic: str) -> None:
    """32 and 64 bits, both byte orders, and both kinds that hold several."""
    assert blocked(bytes.fromhex(magic) + bytes(64), "weights.bin") == {"native-code"}


def test_compiled_python_is_found_by_its_content() -> None:
    """Of this Python and of older ones, whose headers are shorter."""
    code = marshal.dumps(compile("pass", "m", "exec"))
    for magic, rest in (((3495), 12), ((3394), 12), ((3351), 8), ((3150), 4), ((62211), 4)):
        content = struct.pack("<H", magic) + b"\r\n" + bytes(rest) + code
        assert blocked(content, "weights.bin") == {"native-code"}, magic
    assert blocked(b"ab\r\ncd\r\ncat\r\ncow\r\n", "labels.txt") == set()


def _zip64(members: dict[str, bytes]) -> bytes:
    """A zip whose end record leaves everything to the zip64 record before it."""
    content = samples.zipped(members)
    count, length, offset = struct.unpack("<HII", content[-12:-2])
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(content) - 22, 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:-22] + record + locator + end


@pytest.mark.parametrize("junk", [b"", b"\0", b"junk" * 100])
@pytest.mark.parametrize("make", [samples.zipped, _zip64])
def test_a_zip_inside_the_last_tensor_is_found(make: object, junk: bytes) -> None:
    """As Python finds one: with a zip64 record, or with more bytes behind it."""
    data = make({"data.pkl": EVIL}) + junk  # type: ignore[operator]
    content = safetensors_of({"w": entry(0, len(data), [len(data)])}, data)
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["data.pkl"]
    assert blocked(content, "model.safetensors") == {"polyglot"}


def _tflite() -> bytes:
    return next(content for name, content in corpus().items() if name.startswith("tflite"))


def _appended(model: bytes, members: dict[str, bytes]) -> bytes:
    """As TFLite's metadata writer does it: Python's zipfile appends to the model."""
    out = io.BytesIO(model)
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_tflite_model_may_end_with_its_metadata() -> None:
    """Labels pass, with offsets from the file's or the archive's beginning; code among them does not."""
    model = _tflite()
    labels = {"labels.txt": b"cat\ndog\n", "vocab.txt": b"a\nb\n"}
    assert check(_appended(model, labels), "m.tflite") == []
    assert check(_appended(model, {}), "m.tflite") == []
    assert check(model + samples.zipped(labels), "m.tflite") == []
    for members, rule in (
        ({**labels, "w": EVIL}, "pickle"),
        ({"run.py": b"pass"}, "source-code"),
        ({"../x": b""}, "path"),
        ({"w": gzip.compress(EVIL)}, "archive"),
    ):
        assert blocked(_appended(model, members), "m.tflite") == {rule}
        assert blocked(model + samples.zipped(members), "m.tflite") == {rule}
    for content in (
        _appended(model, labels) + b"junk",
        model + samples.zipped({"w": EVIL}) + samples.zipped(labels),
        model + _zip64(labels) + samples.zipped({})[:22],
    ):
        assert "polyglot" in blocked(content, "m.tflite")


def _lying(content: bytes, claimed: int, true: int) -> bytes:
    return content.replace(struct.pack("<I", true), struct.pack("<I", claimed))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_unpacks_to_more_than_it_claims_is_refused(method: int) -> None:
    """And costs no more memory than what is looked at."""
    size = 50_000_000
    content = _lying(samples.zipped({"w": bytes(size)}, method), 10, size)
    tracemalloc.start()
    try:
        assert blocked(content, "m.zip") == {"header"}
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_of_bzip2_takes_no_memory() -> None:
    """A gigabyte in a kilobyte, which claims ten bytes: looked at in a process that has no room for it."""
    stream = bz2.compress(bytes(900_000 * 20))
    program = (
        "import resource, sys; from tests.scan.samples import blocked;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(blocked(sys.stdin.buffer.read(), 'm.zip'))"
    )
    content = _lying(samples.zipped({"w": bytes(900_000 * 20)}, zipfile.ZIP_BZIP2), 10, 900_000 * 20)
    assert len(stream) < 2000
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, timeout=60, check=False)
    assert done.stdout == b"{'header'}\n", done.stderr


def test_a_dictionary_of_gigabytes_is_not_made() -> None:
    """An LZMA member says itself how much memory it takes."""
    content = bytearray(samples.zipped({"w": b"some text" * 100}, zipfile.ZIP_LZMA))
    at = content.index(b"w") + 1
    assert content[at + 2 : at + 4] == b"\x05\0"
    content[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    (finding,) = [one for one in check(bytes(content), "m.zip") if one.rule == "header"]
    assert "Memory usage limit" in finding.detail
    for broken in (b"\x06\0", b"\0\0"):
        content[at + 2 : at + 4] = broken
        assert blocked(bytes(content), "m.zip") == {"header"}


def test_many_members_cost_no_more_than_a_few() -> None:
    """The budget is one of the archive: a small file of large pickles is refused after some of them."""
    pickles = samples.zipped({f"a{n}/data.pkl": b"N0" * (16 << 20) for n in range(8)}, zipfile.ZIP_DEFLATED)
    hidden = samples.zipped({f"m{n}": b"N0" * 45_000 for n in range(200)}, zipfile.ZIP_DEFLATED)
    start = time.process_time()
    assert blocked(pickles, "m.pt") & {"pickle", "archive"}
    assert blocked(hidden, "m.zip") & {"pickle", "archive"}
    assert time.process_time() - start < 25


def test_a_pickle_that_begins_late_in_a_member_is_found() -> None:
    """A member is unpacked as far as it goes on like a pickle."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        content = b"X" + struct.pack("<I", 200_000) + bytes(200_000) + b"0" + PROTOCOL_0
        assert blocked(samples.zipped({"w": content}, method), "m.zip") == {"pickle"}
