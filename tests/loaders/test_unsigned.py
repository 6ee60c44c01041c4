"""`install(unsigned="refuse")`: no way into a wrapped library for what nobody signed, whatever argument it comes by."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ai_edge_litert.compiled_model
import ai_edge_litert.interpreter
import gguf
import numpy as np
import onnxruntime as ort
import pytest
import safetensors
import safetensors.numpy
import xllamacpp

from modelnet import loaders
from modelnet.errors import IntegrityError, TrustError
from modelnet.loaders import litert, llama_cpp, onnxruntime
from tests.loaders import test_runtimes as runtimes
from tests.loaders.shelf import Shelf, flip
from tests.realmodels import need


@pytest.fixture
def refusing() -> Iterator[None]:
    """Refuse what is unsigned, for the test and only for it."""
    loaders.install(unsigned="refuse")
    yield
    loaders.uninstall()


@pytest.fixture
def signed(shelf: Shelf, tmp_path: Path) -> Path:
    """A published folder with a file of each kind."""
    folder = runtimes._model("external", tmp_path / "m")
    runtimes._write_gguf(folder / "tiny.gguf")
    safetensors.numpy.save_file({"w": np.arange(4.0)}, folder / "model.safetensors")
    (folder / "nmp.tflite").write_bytes((need("basic-pitch") / "nmp.tflite").read_bytes())
    shelf.publish("all", folder)
    return folder


@pytest.fixture
def stray(signed: Path, tmp_path: Path) -> Path:
    """The same files in a folder that nobody signed."""
    folder = tmp_path / "stray"
    folder.mkdir()
    for file in signed.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _refused(load: Callable[[], object]) -> None:
    with pytest.raises(TrustError) as refused:
        load()
    assert refused.value.rule == "unsigned"


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("framework", ["np", "pt", "tf", "jax", "flax", "mlx", "numpy", "nothing"])
def test_safetensors_of_every_framework(stray: Path, framework: str) -> None:
    """Also of those that our own reader makes no arrays for."""
    _refused(lambda: safetensors.safe_open(stray / "model.safetensors", framework=framework))


@pytest.mark.usefixtures("refusing")
def test_a_framework_that_we_make_no_arrays_for_reads_verified_bytes(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library maps a sealed copy; damage is met before that."""
    jax = ModuleType("jax")  # safetensors asks for the framework when it makes an array, and not before
    monkeypatch.setitem(sys.modules, "jax", jax)
    file = signed / "model.safetensors"
    with safetensors.safe_open(file, framework="jax") as opened:
        assert list(opened.keys()) == ["w"]
    flip(file, file.stat().st_size - 3)
    with pytest.raises(IntegrityError):
        safetensors.safe_open(file, framework="jax")


@pytest.mark.usefixtures("refusing")
def test_content_in_memory(stray: Path) -> None:
    """Bytes and buffers have no signature, in any library."""
    tflite, tensors = (stray / "nmp.tflite").read_bytes(), (stray / "model.safetensors").read_bytes()
    options = ort.SessionOptions()
    for load in (
        lambda: ai_edge_litert.interpreter.Interpreter(model_content=tflite),
        lambda: ai_edge_litert.interpreter.Interpreter(None, tflite),
        lambda: ai_edge_litert.compiled_model.CompiledModel.from_buffer(tflite),
        lambda: safetensors.numpy.load(tensors),
        lambda: ort.InferenceSession((stray / "model.onnx").read_bytes()),
        lambda: options.add_external_initializers_from_files_in_memory(["weights.bin"], [bytes(8)], [8]),
        lambda: options.add_initializer("w", ort.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32))),
        lambda: gguf.GGUFReader(io.BytesIO(bytes(64))),
    ):
        _refused(load)


@pytest.mark.usefixtures("refusing")
def test_other_files_of_a_session_and_other_spellings_of_a_path(stray: Path) -> None:
    """A library of operators, an adapter, a compiled model; a path as bytes."""
    options = ort.SessionOptions()
    (stray / "ops.so").write_bytes(b"\x7fELF")
    for load in (
        lambda: options.register_custom_ops_library(str(stray / "ops.so")),
        lambda: ai_edge_litert.compiled_model.CompiledModel.from_file(model_path=str(stray / "nmp.tflite")),
        lambda: ai_edge_litert.interpreter.Interpreter(model_path=str(stray / "nmp.tflite")),
        lambda: gguf.GGUFReader(path=stray / "tiny.gguf"),
        lambda: ort.LoraAdapter().Load(str(stray / "model.safetensors")),
        lambda: ai_edge_litert.compiled_model.CompiledModel.from_file(str(stray / "nmp.tflite")),
        lambda: gguf.GGUFReader(os.fsencode(stray / "tiny.gguf")),
    ):
        _refused(load)


@pytest.mark.usefixtures("refusing")
def test_signed_models_load(signed: Path) -> None:
    """By path, by bytes of a path, and through the loaders of this package, which hand over what they hashed."""
    assert len(gguf.GGUFReader(os.fsencode(signed / "tiny.gguf")).tensors) == 4
    assert ai_edge_litert.interpreter.Interpreter(str(signed / "nmp.tflite"))
    assert ai_edge_litert.compiled_model.CompiledModel.from_file(str(signed / "nmp.tflite")).get_num_signatures() >= 0
    assert litert.interpreter("acme/all#nmp.tflite")
    expected = runtimes._session(ort.InferenceSession(signed / "model.onnx", providers=runtimes.CPU))
    ours = onnxruntime.session("acme/all#model.onnx", providers=runtimes.CPU)
    assert runtimes._same(runtimes._session(ours), expected)


def _parameters(**paths: Any) -> Any:
    params = runtimes._params()
    for place, value in paths.items():
        *owners, name = place.split("__")
        owner = params
        for one in owners:
            owner = getattr(owner, one)
        setattr(owner, name, value)
    return params


PLACES = (
    "model__path",
    "mmproj__path",
    "speculative__draft__mparams__path",
    "speculative__ngram_cache__lookup_cache_static",
)


class _Recorded:
    """Stands for the compiled server: remembers the parameters that it was made with."""

    def __init__(self, params: Any) -> None:
        self.paths = {
            "model__path": params.model.path,
            "mmproj__path": params.mmproj.path,
            "speculative__draft__mparams__path": params.speculative.draft.mparams.path,
            "speculative__ngram_cache__lookup_cache_static": params.speculative.ngram_cache.lookup_cache_static,
            "lora": [one.path for one in params.lora_adapters],
            "url": params.model.url,
        }


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    "place",
    [
        *PLACES, "model__hf_repo", "model__url", "model__docker_repo", "mmproj__url", "mmproj__hf_repo",
        "speculative__draft__mparams__hf_repo", "models_dir", "models_preset",
    ],
)  # fmt: skip
def test_every_place_of_a_servers_parameters(signed: Path, stray: Path, place: str) -> None:
    """Beside a signed model, and alone."""
    _refused(lambda: xllamacpp.Server(_parameters(**{place: str(stray / "tiny.gguf")})))
    beside = {"model__path": str(signed / "tiny.gguf"), place: str(stray / "tiny.gguf")}
    _refused(lambda: xllamacpp.Server(_parameters(**beside)))


@pytest.mark.usefixtures("refusing")
def test_adapters_of_a_server(signed: Path, stray: Path) -> None:
    """A list of files."""
    adapter = xllamacpp.CommonAdapterLoraInfo(str(stray / "tiny.gguf"), 1.0)
    _refused(lambda: xllamacpp.Server(_parameters(model__path=str(signed / "tiny.gguf"), lora_adapters=[adapter])))
    _refused(lambda: llama_cpp.server("acme/all#tiny.gguf", _parameters(lora_adapters=[adapter])))


@pytest.mark.parametrize("place", PLACES[1:3])
def test_signed_parts_of_a_server_are_given_as_paths_that_cannot_change(
    signed: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameters that the caller has stay as they were."""
    monkeypatch.setattr(xllamacpp, "Server", _Recorded)
    loaders.install()
    try:
        adapter = xllamacpp.CommonAdapterLoraInfo(str(signed / "tiny.gguf"), 0.5)
        paths = {
            "model__path": str(signed / "tiny.gguf"),
            place: "modelnet:acme/all#tiny.gguf",
            "model__url": "http://x",
        }
        params = _parameters(**paths, lora_adapters=[adapter])
        made = llama_cpp.carrying(xllamacpp.Server)(params)
        seen = made.paths
        for path in (seen["model__path"], seen[place], *seen["lora"]):
            assert Path(path).read_bytes() == (signed / "tiny.gguf").read_bytes()
            assert path.startswith("/proc/self/fd/")
        assert seen["url"] == ""
        assert params.model.path == str(signed / "tiny.gguf")
        assert params.model.url == "http://x"
        assert [(one.path, one.scale) for one in params.lora_adapters] == [(str(signed / "tiny.gguf"), 0.5)]
        flip(signed / "tiny.gguf", 9000)
        with pytest.raises(IntegrityError):
            xllamacpp.Server(params)
    finally:
        loaders.uninstall()


def test_parts_of_a_llama(signed: Path, stray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama-cpp-python takes adapters and a projector beside the model; a handler takes a projector."""

    class Llama:
        def __init__(self, model_path: str, **options: Any) -> None:
            self.paths = {"model_path": model_path, **options}

    class Llava15ChatHandler:
        def __init__(self, clip_model_path: str) -> None:
            self.path = clip_model_path

    top, inner, formats = (
        ModuleType("llama_cpp"),
        ModuleType("llama_cpp.llama"),
        ModuleType("llama_cpp.llama_chat_format"),
    )
    vars(top)["Llama"] = vars(inner)["Llama"] = Llama
    vars(formats)["Llava15ChatHandler"] = Llava15ChatHandler
    for module in (top, inner, formats):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    good, bad = str(signed / "tiny.gguf"), str(stray / "tiny.gguf")
    loaders.install(unsigned="refuse")
    try:
        for part in ("lora_path", "lora_base", "clip_model_path"):
            _refused(lambda part=part: Llama(good, **{part: bad}))
            made = Llama(good, **{part: good}, n_ctx=5)
            assert made.paths.pop("n_ctx") == 5
            assert all(Path(path).read_bytes() == (signed / "tiny.gguf").read_bytes() for path in made.paths.values())
            assert good not in made.paths.values()
            _refused(lambda part=part: llama_cpp.Llama("acme/all#tiny.gguf", **{part: bad}))
        _refused(lambda: Llama(bad))
        _refused(lambda: Llava15ChatHandler(bad))
        _refused(lambda: Llava15ChatHandler(clip_model_path=bad))
        assert Llava15ChatHandler(good).path.startswith("/proc/self/fd/")
        assert Llava15ChatHandler(clip_model_path=good).path.startswith("/proc/self/fd/")
    finally:
        loaders.uninstall()
    assert Llama(bad).paths["model_path"] == bad
