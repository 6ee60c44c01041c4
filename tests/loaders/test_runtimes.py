"""Real runtimes on real models: the verified load gives what the plain load gives, and no attack changes that.

For each runtime three attacks happen while it loads: a write in place, a rename, and swaps between any two opens. At
the level that a loader reaches by default the result is always that of the signed bytes, or a refusal. At level `held`
a write in place gets through; a test says so, as the documentation does.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter
import gguf as gguf_py
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors
import safetensors.numpy
import xllamacpp
from onnx import TensorProto, helper, numpy_helper

import modelnet
from modelnet import loaders
from modelnet.errors import IntegrityError, TrustError
from modelnet.loaders import Level, gguf, litert, llama_cpp, onnxruntime
from modelnet.loaders import safetensors as ours
from tests.loaders.attacks import ATTACKS, during, swapping
from tests.loaders.shelf import Shelf, flip, write_in_place
from tests.realmodels import need

CPU = ["CPUExecutionProvider"]
SWAPPED_LOADS = 25

Output = list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime, a model for it, and how a result is told from another.

    `enter` is what the loader calls once its check is over; `place` is a byte of the weights that the result shows.
    """

    model: str
    file: str
    enter: tuple[Any, str]
    load: Callable[[str | Path], Output]
    plain: Callable[[Path], Output]
    place: Callable[[Path], int]
    held: Callable[[str], Output] | None = None


def _tensor(file: Path, index: int = 0) -> int:
    from modelnet.formats import BytesSource, read_layout

    layout = read_layout(BytesSource(file.read_bytes()))
    assert layout is not None
    span = sorted(layout.tensors, key=lambda one: one.start - one.end)[index]
    return span.start + (span.end - span.start) // 8 * 4 + 3


def _session(session: ort.InferenceSession) -> Output:
    feeds = {}
    for item in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in item.shape]
        kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}[item.type]
        fill = 16000 if kind is np.int64 and not shape else 1
        feeds[item.name] = (
            np.random.default_rng(5).random(_audio(item.name, shape), np.float32)
            if kind is np.float32
            else np.full(shape, fill, kind)
        )
    return [np.asarray(one) for one in session.run(None, feeds)]


def _audio(name: str, shape: list[int]) -> list[int]:
    return {"input": [1, 576], "state": [2, 1, 128]}.get(name, shape)


def _interpreter(interpreter: Any) -> Output:
    interpreter.allocate_tensors()
    for item in interpreter.get_input_details():
        interpreter.set_tensor(item["index"], np.random.default_rng(5).random(item["shape"]).astype(item["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]).copy() for item in interpreter.get_output_details()]


def _reader(reader: gguf_py.GGUFReader) -> Output:
    return [np.array(tensor.data) for tensor in reader.tensors]


def _sorted(arrays: dict[str, np.ndarray]) -> Output:
    return [arrays[name] for name in sorted(arrays)]


RUNTIMES = {
    "safetensors": Runtime(
        "fracast", "model.safetensors", (ours, "read_layout"),
        lambda name: _sorted(ours.load_file(name)),
        lambda path: _sorted(safetensors.numpy.load_file(path)), _tensor,
    ),
    "gguf": Runtime(
        "tiny-gguf", "tiny.gguf", (gguf_py, "GGUFReader"),
        lambda name: _reader(gguf.reader(name)), lambda path: _reader(gguf_py.GGUFReader(path)), _tensor,
        lambda name: _reader(gguf.reader(name, level="held")),
    ),
    "onnxruntime": Runtime(
        "silero-6.2.3", "silero_vad_16k_op15.onnx", (ort, "InferenceSession"),
        lambda name: _session(onnxruntime.session(name, providers=CPU)),
        lambda path: _session(ort.InferenceSession(path, providers=CPU)), _tensor,
    ),
    "onnxruntime, external data": Runtime(
        "external", "model.onnx", (ort, "InferenceSession"),
        lambda name: _session(onnxruntime.session(name, providers=CPU)),
        lambda path: _session(ort.InferenceSession(path, providers=CPU)), lambda _: 7,
    ),
    "litert": Runtime(
        "basic-pitch", "nmp.tflite", (ai_edge_litert.interpreter, "Interpreter"),
        lambda name: _interpreter(litert.interpreter(name)),
        lambda path: _interpreter(ai_edge_litert.interpreter.Interpreter(str(path))), _tensor,
    ),
}  # fmt: skip


def _model(name: str, folder: Path) -> Path:
    """Return a folder with one model that a test may write to."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tiny-gguf":
        _write_gguf(folder / "tiny.gguf")
    elif name == "external":
        _write_external(folder)
    else:
        for file in need(name).iterdir():
            if file.suffix in (".safetensors", ".onnx", ".tflite"):
                shutil.copyfile(file, folder / file.name)
    return folder


def _write_gguf(path: Path) -> None:
    writer = gguf_py.GGUFWriter(path, "llama")
    rng = np.random.default_rng(1)
    for number in range(4):
        writer.add_tensor(f"blk.{number}.weight", rng.standard_normal((64, 256), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_external(folder: Path) -> None:
    weights = numpy_helper.from_array(np.random.default_rng(2).random((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 64])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)


def _same(one: Output, other: Output) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=RUNTIMES)
def staged(request: pytest.FixtureRequest, shelf: Shelf, tmp_path: Path) -> tuple[Runtime, str, Path, Output, bytes]:
    """A runtime, its published model, the file to attack, what the plain load gives, and the evil file."""
    runtime = RUNTIMES[request.param]
    folder = _model(runtime.model, tmp_path / "m")
    ref = shelf.publish("tiny", folder)
    expected = runtime.plain(folder / runtime.file)
    target = folder / ("weights.data" if runtime.model == "external" else runtime.file)
    evil = bytearray(target.read_bytes())
    evil[runtime.place(target)] ^= 0x3F
    return runtime, f"{ref}#{runtime.file}", target, expected, bytes(evil)


Staged = tuple[Runtime, str, Path, Output, bytes]


def test_a_verified_load_gives_what_a_plain_load_gives(staged: Staged, tmp_path: Path) -> None:
    """By reference and by the path of a published file; and the evil file really is another model."""
    runtime, ref, target, expected, evil = staged
    assert _same(runtime.load(ref), expected)
    assert _same(runtime.load(tmp_path / "m" / runtime.file), expected)
    write_in_place(target, evil)
    assert not _same(runtime.plain(tmp_path / "m" / runtime.file), expected)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_after_the_check_changes_nothing(staged: Staged, attack: str) -> None:
    """The file is overwritten, or replaced, at the moment when the library is called."""
    runtime, ref, target, expected, evil = staged
    with during(*runtime.enter, lambda: ATTACKS[attack](target, evil)) as happened:
        # Our own reader hashes what it reads when it reads it: the open file, but not a name, may have changed.
        if runtime.model == "fracast" and attack == "write in place":
            with pytest.raises(IntegrityError) as refused:
                runtime.load(ref)
            assert refused.value.path == runtime.file
            assert "tensor" in str(refused.value)
        else:
            assert _same(runtime.load(ref), expected)
    assert happened


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_after_the_load_changes_nothing(staged: Staged, attack: str) -> None:
    """A plain memory map follows the file; what was loaded verified does not."""
    runtime, ref, target, expected, evil = staged
    got = runtime.load(ref)
    ATTACKS[attack](target, evil)
    assert _same(got, expected)


def test_swaps_between_any_two_opens_change_nothing(staged: Staged) -> None:
    """Whatever is opened when: each load gives the signed model or refuses."""
    runtime, ref, target, expected, evil = staged
    loaded = 0
    with swapping(target, evil):
        for _ in range(SWAPPED_LOADS):
            try:
                got = runtime.load(ref)
            except IntegrityError:
                continue
            assert _same(got, expected)
            loaded += 1
    assert _same(runtime.load(ref), expected)


def test_a_flipped_byte_never_reaches_the_library(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes before the library sees anything, and names tensor, offset and source."""
    runtime, ref, target, _, _ = staged
    flip(target, place := runtime.place(target))
    if runtime.model != "fracast":
        monkeypatch.setattr(*runtime.enter, lambda *_, **__: pytest.fail("the library was called"))
    with pytest.raises(IntegrityError) as refused:
        runtime.load(ref)
    error = refused.value
    assert (error.rule, error.path, error.source) == ("hash", target.name, str(target.parent))
    assert error.offset is not None
    assert error.offset <= place
    assert ("tensor" in str(error)) == (runtime.model != "external")


def test_level_held_lets_a_write_in_place_through(shelf: Shelf, tmp_path: Path) -> None:
    """It is said to, so it is shown: a map of the store's own file follows it; a rename does not reach it."""
    runtime = RUNTIMES["gguf"]
    folder = _model(runtime.model, tmp_path / "m")
    ref = f"{shelf.publish('tiny', folder)}#tiny.gguf"
    evil = bytearray((folder / "tiny.gguf").read_bytes())
    evil[runtime.place(folder / "tiny.gguf")] ^= 0x3F
    expected = runtime.plain(folder / "tiny.gguf")
    assert runtime.held is not None
    for attack, same in (("rename swap", True), ("write in place", False)):
        target = _model(runtime.model, tmp_path / "m") / "tiny.gguf"
        with during(*runtime.enter, lambda attack=attack, target=target: ATTACKS[attack](target, bytes(evil))):
            assert _same(runtime.held(ref), expected) is same


def test_silero_and_magika_through_onnxruntime(shelf: Shelf) -> None:
    """Two published models: equal outputs, from bytes that were hashed."""
    for name, file in (("silero-6.2.3", "silero_vad_16k_op15.onnx"), ("magika-1.0.3", "model.onnx")):
        folder = need(name)
        ref = shelf.publish(name, folder)
        got = _session(onnxruntime.session(f"{ref}#{file}", providers=CPU))
        assert _same(got, _session(ort.InferenceSession(folder / file, providers=CPU)))


def test_minilm_through_safetensors(shelf: Shelf) -> None:
    """104 tensors of a published model, each equal; one alone reads its own chunks only."""
    folder = need("minilm")
    ref = shelf.publish("minilm", folder)
    plain = safetensors.numpy.load_file(folder / "model.safetensors")
    got = ours.load_file(ref)
    assert len(got) == 104
    assert all(np.array_equal(got[name], plain[name]) for name in plain)
    with ours.safe_open(ref) as file:
        assert file.level is Level.BYTES
        assert np.array_equal(file.get_tensor("pooler.dense.weight"), plain["pooler.dense.weight"])


def test_one_tensor_reads_its_own_chunks_only(shelf: Shelf, tmp_path: Path) -> None:
    """Damage in one tensor refuses that tensor, by name, and none of the others."""
    arrays = {f"w{n}": np.full((256, 1024), n, np.float32) for n in range(8)}
    safetensors.numpy.save_file(arrays, file := tmp_path / "m.safetensors")
    ref = shelf.publish("eight", file)
    flip(file, file.stat().st_size - 3 * (1 << 20) - 100)
    with ours.safe_open(ref) as opened:
        for name, array in arrays.items():
            if name == "w4":
                with pytest.raises(IntegrityError, match="tensor 'w4' differs"):
                    opened.get_tensor(name)
            else:
                assert np.array_equal(opened.get_tensor(name), array)


def test_a_held_model_works_in_the_library_of_its_format(shelf: Shelf) -> None:
    """A path of `verified` is a path: safetensors, gguf, onnxruntime and LiteRT open it themselves."""
    folder = need("basic-pitch")
    with modelnet.verified(shelf.publish("pitch", folder)) as model:
        assert _same(
            _session(ort.InferenceSession(model / "nmp.onnx", providers=CPU)),
            _session(ort.InferenceSession(folder / "nmp.onnx", providers=CPU)),
        )
        assert RUNTIMES["litert"].plain(model / "nmp.tflite")


def _generate(server: Any) -> str:
    answer: list[dict[str, Any]] = []
    server.handle_completions(
        {"prompt": "The capital of France is", "max_tokens": 5, "temperature": 0.0}, answer.append
    )
    return str(answer[-1]["choices"][0]["text"])


def _params() -> Any:
    params = xllamacpp.CommonParams()
    params.n_ctx = 256
    params.warmup = False
    params.cpuparams.n_threads = 1  # threads that spin for each other stand still on a busy machine
    params.n_parallel = 1
    return params


@pytest.mark.slow
def test_smollm2_generates_text_through_xllamacpp(shelf: Shelf, tmp_path: Path) -> None:
    """The same words as from a plain load; also when the file is replaced, or overwritten, while it is loaded."""
    source = need("smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file = tmp_path / "model.gguf"
    shutil.copyfile(source, file)
    ref = shelf.publish("smol", file)
    plain = _params()
    plain.model.path = str(source)
    expected = _generate(xllamacpp.Server(plain))
    assert len(expected) > 3
    assert len(gguf.reader(ref).tensors) == 272
    for attack in ATTACKS.values():
        with during(
            xllamacpp, "Server", lambda attack=attack: attack(file, source.read_bytes()[:60_000_000] + bytes(99))
        ):
            assert _generate(llama_cpp.server(ref, _params())) == expected
        file.unlink()
        shutil.copyfile(source, file)
    with during(xllamacpp, "Server", lambda: ATTACKS["rename swap"](file, b"evil")):
        assert _generate(llama_cpp.server(ref, _params(), level="held")) == expected
    shutil.copyfile(source, file)
    with swapping(file, source.read_bytes()[:60_000_000] + bytes(99)):
        for _ in range(2):
            try:
                server = llama_cpp.server(ref, _params())
            except IntegrityError:
                continue
            assert _generate(server) == expected
    shutil.copyfile(source, file)
    loaders.install()
    try:
        params = _params()
        params.model.path = f"modelnet:{ref}"
        server = xllamacpp.Server(params)
    finally:
        loaders.uninstall()
    assert _generate(server) == expected
    handle = server._modelnet_held.file("model.gguf").handle
    os.fstat(handle)
    del server
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
    flip(file, 50_000_000)
    with pytest.raises(IntegrityError, match="tensor 'blk"):
        llama_cpp.server(ref, _params())


def test_a_file_that_makes_a_library_hang_is_refused_first(shelf: Shelf, tmp_path: Path) -> None:
    """49 bytes that claim an array of 2^63 items: signed, and refused by content all the same."""
    import struct

    from tests.scan.samples import gguf_of, string

    (tmp_path / "m.gguf").write_bytes(gguf_of(string(b"k") + struct.pack("<IIQ", 9, 0, 1 << 63), 1))
    ref = shelf.publish("hang", tmp_path / "m.gguf")
    with pytest.raises(TrustError) as refused:
        gguf.reader(ref)
    assert (refused.value.rule, refused.value.path) == ("header", "m.gguf")


def test_split_gguf_is_held_side_by_side(shelf: Shelf, tmp_path: Path) -> None:
    """The first part leads to the others; each is verified, and a damaged one refuses them all."""
    folder = tmp_path / "m"
    folder.mkdir()
    for part in range(1, 4):
        _write_gguf(folder / f"m-{part:05}-of-00003.gguf")
    ref = shelf.publish("split", folder)
    from modelnet.loaders._files import hold

    with hold(f"{ref}#m-00001-of-00003.gguf", (".gguf",)) as held:
        names = sorted(path.name for path in Path(held.path).parent.iterdir())
        assert names == [f"m-{part:05}-of-00003.gguf" for part in range(1, 4)]
    flip(folder / "m-00003-of-00003.gguf", 5000)
    with pytest.raises(IntegrityError):
        gguf.reader(f"{ref}#m-00001-of-00003.gguf")


def test_a_reader_keeps_what_it_may_open_again(shelf: Shelf, tmp_path: Path) -> None:
    """The descriptor behind a library's path stays that file while the library's object lives, and not longer."""
    _write_gguf(tmp_path / "tiny.gguf")
    reader = gguf.reader(shelf.publish("tiny", tmp_path / "tiny.gguf"))
    held = reader._modelnet_held.file("tiny.gguf")
    with Path(held.path).open("rb") as again:
        assert again.read() == (tmp_path / "tiny.gguf").read_bytes()
    handle = held.handle
    del reader, held
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_a_path_that_belongs_to_no_release_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    """A loader of this package loads signed files only, and says what to do."""
    shelf.publish("tiny", _model("external", tmp_path / "m"))
    stray = tmp_path / "stray.safetensors"
    stray.write_bytes((need("fracast") / "model.safetensors").read_bytes())
    with pytest.raises(TrustError) as refused:
        ours.load_file(stray)
    assert refused.value.rule == "unsigned"
