"""`loaders.install`: apps that cannot change load verified, and after `uninstall` nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ai_edge_litert.interpreter
import gguf
import numpy as np
import onnxruntime as ort
import pytest
import safetensors
import safetensors.numpy
import xllamacpp

from modelnet import loaders
from modelnet.errors import IntegrityError, TrustError, UsageError
from modelnet.loaders import installing
from tests.loaders import test_runtimes as runtimes
from tests.loaders.shelf import Shelf, flip
from tests.realmodels import need


@pytest.fixture
def installed() -> Iterator[None]:
    """Wrap for the test, and only for it."""
    loaders.install()
    yield
    loaders.uninstall()


@pytest.mark.usefixtures("installed")
def test_the_libraries_take_our_names(shelf: Shelf, tmp_path: Path) -> None:
    """One call of each library, with a name where it expects a path."""
    fracast, silero, pitch = need("fracast"), need("silero-6.2.3"), need("basic-pitch")
    runtimes._write_gguf(tmp_path / "tiny.gguf")
    for name, path in (("fracast", fracast), ("silero", silero), ("pitch", pitch), ("gguf", tmp_path / "tiny.gguf")):
        shelf.publish(name, path)
    loaded = safetensors.numpy.load_file("modelnet:acme/fracast#model.safetensors")
    with safetensors.safe_open("modelnet:acme/fracast#model.safetensors", framework="np") as file:
        assert file.level is loaders.Level.BYTES
        assert all(np.array_equal(file.get_tensor(name), array) for name, array in loaded.items())
    assert len(gguf.GGUFReader("modelnet:acme/gguf").tensors) == 4
    file = "silero_vad_16k_op15.onnx"
    session = ort.InferenceSession(f"modelnet:acme/silero#{file}", providers=runtimes.CPU)
    assert runtimes._same(runtimes._session(session), runtimes.RUNTIMES["onnxruntime"].plain(silero / file))
    interpreter = ai_edge_litert.interpreter.Interpreter(model_path="modelnet:acme/pitch#nmp.tflite")
    assert runtimes._same(runtimes._interpreter(interpreter), runtimes.RUNTIMES["litert"].plain(pitch / "nmp.tflite"))


@pytest.mark.usefixtures("installed")
def test_paths_of_releases_are_verified_without_a_change(shelf: Shelf, tmp_path: Path) -> None:
    """The path that an app has in its configuration is enough; a damaged file is refused, others pass."""
    runtimes._write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "model.safetensors"
    arrays = {"w": np.arange(99, dtype=np.float32)}
    safetensors.numpy.save_file(arrays, file)
    shelf.publish("one", file)
    shelf.publish("gguf", tmp_path / "tiny.gguf")
    assert np.array_equal(safetensors.numpy.load_file(file)["w"], arrays["w"])
    flip(file, file.stat().st_size - 5)
    flip(tmp_path / "tiny.gguf", 9000)
    with pytest.raises(IntegrityError, match="tensor 'w' differs"):
        safetensors.numpy.load_file(file)
    with pytest.raises(IntegrityError):
        gguf.GGUFReader(tmp_path / "tiny.gguf")
    stray = tmp_path / "stray.safetensors"
    safetensors.numpy.save_file(arrays, stray)
    assert np.array_equal(safetensors.numpy.load_file(stray)["w"], arrays["w"])


def test_unsigned_files_can_be_refused(shelf: Shelf, tmp_path: Path) -> None:
    """A machine that loads signed models only says so once; a verified folder passes."""
    import modelnet

    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, file)
    ref = shelf.publish("one", file)
    stray = tmp_path / "stray.safetensors"
    stray.write_bytes(file.read_bytes())
    loaders.install(unsigned="refuse")
    try:
        assert safetensors.numpy.load_file(file).keys() == {"w"}
        with modelnet.verified(ref) as model:
            assert safetensors.numpy.load_file(model / "model.safetensors").keys() == {"w"}
        for load in (
            lambda: safetensors.numpy.load_file(stray),
            lambda: gguf.GGUFReader(stray),
            lambda: ort.InferenceSession(stray),
            lambda: ort.InferenceSession(b"bytes that nobody signed"),
        ):
            with pytest.raises(TrustError) as refused:
                load()
            assert refused.value.rule == "unsigned"
    finally:
        loaders.uninstall()
    assert safetensors.numpy.load_file(stray).keys() == {"w"}
    with pytest.raises(UsageError):
        loaders.install(unsigned="maybe")


def _everything() -> dict[str, object]:
    """Every entry point that is wrapped, as it is now, and whatever else could have changed."""
    found: dict[str, object] = {"meta_path": list(sys.meta_path), "import": __import__}
    for name, seams in installing.SEAMS.items():
        if name in sys.modules:
            for seam in seams:
                owner, dot, method = seam.partition(".")
                value = getattr(sys.modules[name], owner, None)
                found[f"{name}.{seam}"] = vars(value).get(method) if dot and value is not None else value
    found["numpy"] = safetensors.numpy.safe_open
    found["server"] = xllamacpp.Server
    return found


def test_uninstalling_leaves_nothing_behind() -> None:
    """Every attribute, also of modules that imported it by name, is the very object it was."""
    before = _everything()
    for _ in range(3):
        loaders.install()
        loaders.install(unsigned="refuse")
        assert safetensors.numpy.safe_open is not before["numpy"]
        assert xllamacpp.Server is not before["server"]
        loaders.uninstall()
        after = _everything()
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before if name != "meta_path")
        assert after["meta_path"] == before["meta_path"]
    loaders.uninstall()


def test_a_library_that_is_imported_later_is_wrapped_then(shelf: Shelf, tmp_path: Path) -> None:
    """In a fresh process nothing is imported by installing, and what is imported afterwards is wrapped."""
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.arange(4.0)}, file)
    shelf.publish("one", file)
    runtimes._write_gguf(tmp_path / "tiny.gguf")
    shelf.publish("gguf", tmp_path / "tiny.gguf")
    program = """
import sys
from modelnet import loaders
loaders.install()
assert not {"safetensors", "gguf", "numpy"} & set(sys.modules)
import safetensors.numpy, gguf
print(safetensors.numpy.load_file("modelnet:acme/one")["w"].tolist())
print(len(gguf.GGUFReader("modelnet:acme/gguf").tensors))
print(type(safetensors.__spec__.loader).__module__)
loaders.uninstall()
try:
    safetensors.numpy.load_file("modelnet:acme/one")
except FileNotFoundError:
    print("as before")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "[0.0, 1.0, 2.0, 3.0]", "4", "_frozen_importlib_external", "as before",
    ], done.stderr  # fmt: skip


def test_a_wrapper_that_somebody_kept_passes_on(tmp_path: Path) -> None:
    """After `uninstall` a kept reference behaves like the library."""
    loaders.install(unsigned="refuse")
    kept = safetensors.safe_open
    loaders.uninstall()
    file = tmp_path / "stray.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, file)
    with kept(file, framework="np") as opened:
        assert opened.keys() == ["w"]


def test_a_wrapper_that_somebody_kept_enforces_what_was_installed_last(shelf: Shelf, tmp_path: Path) -> None:
    """Kept where no module's names reach, it follows each call of `install`, also one after `uninstall`."""
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, file)
    shelf.publish("one", file)
    stray = tmp_path / "stray.safetensors"
    stray.write_bytes(file.read_bytes())

    def opens(path: Path) -> bool:
        try:
            with App.opener(path, framework="np"):
                return True
        except TrustError:
            return False

    loaders.install(unsigned="refuse")
    try:

        class App:
            opener = staticmethod(safetensors.safe_open)

        results = [(opens(file), opens(stray))]
        for unsigned in ("refuse", "allow", "refuse"):
            loaders.install(unsigned=unsigned)
            results.append((opens(file), opens(stray)))
        assert results == [(True, False), (True, False), (True, True), (True, False)]
        loaders.uninstall()
        assert opens(stray)
        loaders.install(unsigned="refuse")
        assert not opens(stray)
        loaders.install(unsigned="refuse", home=str(tmp_path / "other"))
        assert not opens(file)  # another store knows no such release
    finally:
        loaders.uninstall()
    assert opens(stray)


@pytest.mark.usefixtures("installed")
def test_a_class_stays_a_class(shelf: Shelf, tmp_path: Path) -> None:
    """For code that asks what an object is, or makes a class of its own: as far as the library lets it."""
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, file)
    stray = tmp_path / "stray.safetensors"
    stray.write_bytes(file.read_bytes())
    shelf.publish("one", file)
    wrapped = safetensors.safe_open
    for path in (file, stray):
        with safetensors.safe_open(path, framework="np") as opened:
            assert isinstance(opened, safetensors.safe_open)
    assert isinstance(wrapped, type)
    assert issubclass(wrapped, wrapped)
    assert not isinstance(file, wrapped)
    assert (wrapped.__name__, wrapped.__doc__) == ("safe_open", wrapped.__wrapped__.__doc__)
    with pytest.raises(TypeError, match="not an acceptable base type"):

        class Own(safetensors.safe_open):  # as without us
            pass

    class Server(xllamacpp.Server):
        pass

    assert issubclass(Server, xllamacpp.Server)
    assert issubclass(xllamacpp.Server.__wrapped__, xllamacpp.Server)
    assert not isinstance(file, xllamacpp.Server)
    loaders.uninstall()
    with safetensors.safe_open(stray, framework="np") as opened:
        assert isinstance(opened, wrapped)


@pytest.mark.usefixtures("installed")
def test_every_way_to_a_file_of_a_release_is_verified(shelf: Shelf, tmp_path: Path) -> None:
    """Through a link to its folder, through a link to a folder above, by bytes, from another folder."""
    folder = tmp_path / "real" / "m"
    folder.mkdir(parents=True)
    safetensors.numpy.save_file({"w": np.zeros(3)}, folder / "model.safetensors")
    runtimes._write_gguf(folder / "tiny.gguf")
    shelf.publish("one", folder)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "above").symlink_to(tmp_path / "real")
    (tmp_path / "file.safetensors").symlink_to(folder / "model.safetensors")
    ways = [tmp_path / "link", tmp_path / "above" / "m", folder / ".." / "m"]
    for way in ways:
        safetensors.numpy.load_file(way / "model.safetensors")
        gguf.GGUFReader(os.fsencode(way / "tiny.gguf"))
    flip(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 3)
    flip(folder / "tiny.gguf", 9000)
    for way in ways:
        with pytest.raises(IntegrityError):
            safetensors.numpy.load_file(way / "model.safetensors")
        for path in (way / "tiny.gguf", os.fsencode(way / "tiny.gguf")):
            with pytest.raises(IntegrityError):
                gguf.GGUFReader(path)
    with pytest.raises(IntegrityError):
        safetensors.numpy.load_file(tmp_path / "file.safetensors")


@pytest.mark.usefixtures("installed")
def test_a_link_inside_a_release_leads_to_no_other(shelf: Shelf, tmp_path: Path) -> None:
    """A file of one release that was replaced by a link to a file of another is refused, and not taken for it."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        safetensors.numpy.save_file({name: np.zeros(3)}, tmp_path / name / "model.safetensors")
        shelf.publish(name, tmp_path / name)
    file = tmp_path / "new" / "model.safetensors"
    file.unlink()
    file.symlink_to(tmp_path / "old" / "model.safetensors")
    with pytest.raises(IntegrityError) as refused:
        safetensors.numpy.load_file(file)
    assert refused.value.rule == "symlink"


def test_a_folder_that_was_published_by_itself_is_that_release(shelf: Shelf, tmp_path: Path) -> None:
    """Also when a folder above it was published later, with other files in it."""
    from modelnet.loaders._trusted import find_path

    inner = tmp_path / "m" / "enc"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text("{}")
    shelf.publish("inner", inner)
    shelf.publish("outer", tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    for path, name, inside in (
        (inner, "inner", ""), (tmp_path / "m", "outer", ""), (tmp_path / "link" / "enc", "inner", ""),
    ):  # fmt: skip
        found = find_path(path)
        assert found is not None
        assert (found[0].release.name, found[1]) == (name, inside)
    assert find_path(tmp_path / "m" / "other") is None
