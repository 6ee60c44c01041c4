"""`modelnet.verified`: a folder that a runtime may open, and nothing before the gate has let it through."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modelnet
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.loaders import Level, sealed
from modelnet.policies import Policies, Terms
from tests.loaders.shelf import Shelf, flip, rename_over, write_in_place
from tests.realmodels import need
from tests.scan import samples
from tests.transfer.world import serving

FILES = {"model.safetensors": samples.tensors(), "config.json": b'{"hidden_size": 2}', "sub/vocab.txt": b"a\nb\n"}


def _folder(path: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def _size_of(path: Path) -> int:
    return len(list(path.iterdir())) if path.exists() else 0


def test_a_release_is_a_folder_for_the_block(shelf: Shelf, tmp_path: Path) -> None:
    """The folder holds the release's files and no others, and is gone afterwards."""
    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    with modelnet.verified(ref) as model:
        folder = model.path
        assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in model} == FILES
        assert (model / "sub/vocab.txt").read_text() == "a\nb\n"
        assert os.fspath(model) == str(folder)
        assert model.level is Level.SEALED
        assert set(model.levels) == set(FILES)
        assert model.manifest.name == "tiny"
        assert model.knowledge is not None
        weights = safetensors.numpy.load_file(model / "model.safetensors")
        assert weights["w"].shape == (2, 3)
        with pytest.raises(UsageError, match="no such file"):
            model / "other"
        with pytest.raises(PermissionError):
            os.link(folder / "config.json", folder / "more") if os.geteuid() else _deny()
    assert not folder.exists()
    with pytest.raises(ValueError, match="closed"):
        _ = model.path


def _deny() -> None:
    raise PermissionError  # root may write into any folder


@pytest.mark.parametrize("spelling", ["acme/tiny", "acme/tiny@1.0", "modelnet:acme/tiny", "modelnet:acme/tiny@1.0"])
def test_names_are_accepted_with_and_without_the_scheme(shelf: Shelf, tmp_path: Path, spelling: str) -> None:
    """What is pasted where a path or a repository id is expected is told by `modelnet:`."""
    shelf.publish("tiny", _folder(tmp_path / "m"))
    with modelnet.verified(spelling) as model:
        assert len(model.files) == 3
    with modelnet.verified(f"{spelling}#sub/vocab.txt") as model:
        assert [entry.path for entry in model.files] == ["sub/vocab.txt"]


def test_a_locator_works_too(shelf: Shelf, tmp_path: Path) -> None:
    """A locator pins the bytes; one that pins others is refused."""
    locator = str(modelnet.publish(_folder(tmp_path / "m"), name="tiny", version="1.0", home=shelf.home).locator)
    with modelnet.verified(locator, pull=False) as model:
        assert str(model.release.locator).partition("?")[0] == locator.partition("?")[0]
    broken = locator.replace("m=", "m=" + "0" * 64 + "&x=")
    with pytest.raises(TrustError) as refused:
        modelnet.verified(broken, pull=False)
    assert refused.value.rule == "pin"


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_flipped_byte_is_refused_with_its_place(shelf: Shelf, tmp_path: Path, path: str) -> None:
    """Every byte of every file: here one of each, the error naming file, offset and where it came from."""
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))
    flip(folder / path, len(FILES[path]) - 2)
    for level in (None, "held", "copy", "cached"):
        with pytest.raises(IntegrityError) as refused:
            modelnet.verified(ref, level=level)
        error = refused.value
        assert (error.rule, error.path, error.offset is not None) == ("hash", path, True)
        assert error.source == str(folder)
    if path == "model.safetensors":
        assert "tensor" in str(error)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_flipped_byte_anywhere(shelf: Shelf, tmp_path: Path, place: float) -> None:
    """A property over all bytes of the weights: never a path, always a refusal that names what lies there."""
    folder = tmp_path / "m"
    if not folder.exists():
        shelf.publish("tiny", _folder(folder))
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"])
    flip(folder / "model.safetensors", int(place * len(FILES["model.safetensors"])))
    before = _size_of(Path("/dev/shm"))
    with pytest.raises(IntegrityError, match=r"(tensor|tensors|header|file).* differs from what was signed"):
        modelnet.verified("acme/tiny")
    assert _size_of(Path("/dev/shm")) <= before + 64  # other tests run beside this one


def test_damage_is_named(shelf: Shelf, tmp_path: Path) -> None:
    """Missing, shorter, longer, replaced by a link or a folder: each is said."""
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))
    file = folder / "config.json"

    def rule() -> str | None:
        with pytest.raises(ModelnetError) as refused:
            modelnet.verified(ref, pull=False)
        return refused.value.rule

    file.write_bytes(FILES["config.json"][:-1])
    assert rule() == "size"
    file.write_bytes(FILES["config.json"] + b" ")
    assert rule() == "size"
    file.unlink()
    assert rule() == "missing"
    file.symlink_to("/etc/passwd")
    assert rule() == "symlink"
    file.unlink()
    file.mkdir()
    assert rule() == "file-type"
    file.rmdir()
    os.mkfifo(file)
    assert rule() == "file-type"
    file.unlink()
    file.write_bytes(FILES["config.json"])
    (folder / "sub").rename(folder / "elsewhere")
    (folder / "sub").symlink_to(folder / "elsewhere")
    assert rule() == "symlink"


def test_content_that_is_code_needs_the_policy(shelf: Shelf, tmp_path: Path) -> None:
    """A pickle is refused by its content; only a digest in the operator's policy lets it through."""
    ref = shelf.publish("tiny", _folder(tmp_path / "m", {**FILES, "model.bin": samples.evil(2)}))
    with pytest.raises(TrustError) as refused:
        modelnet.verified(ref)
    assert (refused.value.rule, refused.value.path) == ("pickle", "model.bin")
    assert refused.value.hint is not None
    assert "allow_code" in refused.value.hint
    with modelnet.verified(ref, only=["*.safetensors", "*.json"]) as model:
        assert len(model.files) == 2
    digest = next(entry.sha256.hex() for entry in model.manifest.files if entry.path == "model.bin")
    policy = Policies(Terms(), {"acme": Terms(), model.release.pid: Terms(allow_code=frozenset([digest]))})
    with modelnet.verified(ref, policy) as model:
        assert [finding.rule for finding in model.findings] == ["pickle"]
    (shelf.home / "policy.toml").write_text(f'[publisher."{model.release.pid}"]\nallow_code = ["{digest}"]\n')
    with modelnet.verified(ref) as model:
        assert len(model.files) == 4


def test_what_nobody_knows_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    """An unknown publisher, an unknown release, a word that is no reference."""
    shelf.publish("tiny", _folder(tmp_path / "m"))
    with pytest.raises(TrustError) as refused:
        modelnet.verified("stranger/tiny")
    assert refused.value.rule == "unknown-publisher"
    with pytest.raises(UnavailableError):
        modelnet.verified("acme/other", pull=False)
    with pytest.raises(UsageError):
        modelnet.verified("no reference")
    with pytest.raises(UsageError):
        modelnet.verified("acme/tiny", level="strong")
    with pytest.raises(UsageError):
        modelnet.verified("acme/tiny", level="bytes")
    with pytest.raises(UsageError):
        modelnet.verified("acme/tiny", only=["*.gguf"])


def test_what_is_missing_is_pulled(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime's machine fetches on first use, only the files it needs, and works offline afterwards."""
    locator = str(modelnet.publish(_folder(tmp_path / "m"), name="tiny", version="1.0", home=shelf.home).locator)
    monkeypatch.setenv("MODELNET_HOME", str(tmp_path / "runtime"))
    with pytest.raises(ModelnetError):
        modelnet.verified(locator, pull=False)
    with serving(shelf.home) as url:
        with modelnet.verified(f"{locator}#config.json", peers=[url]) as model:
            assert [entry.path for entry in model.files] == ["config.json"]
        with modelnet.verified(locator, peers=[url]) as model:
            assert len(model.files) == 3
    with modelnet.verified(locator) as model:
        assert {path.name: path.read_bytes() for path in model} == {Path(n).name: c for n, c in FILES.items()}


@pytest.mark.parametrize("attack", [write_in_place, rename_over])
@pytest.mark.parametrize("level", ["sealed", "held", "copy", "cached"])
def test_what_each_level_withstands(shelf: Shelf, tmp_path: Path, level: str, attack: object) -> None:
    """The file is attacked after the check: a sealed and a private copy do not change, a held file only in place."""
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))
    file = folder / "model.safetensors"
    evil = FILES["model.safetensors"][:-4] + b"evil"
    with modelnet.verified(ref, level=level) as model:
        attack(file, evil)  # type: ignore[operator]
        for _ in range(2):  # a runtime opens more than once
            got = (model / "model.safetensors").read_bytes()
            in_place = attack is write_in_place and level in ("held", "cached")
            assert got == (evil if in_place else FILES["model.safetensors"])


def test_a_sealed_file_cannot_be_written_by_anybody(shelf: Shelf, tmp_path: Path) -> None:
    """Not through its path, not through the descriptor, not by making it longer or shorter."""
    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    with modelnet.verified(ref) as model:
        held = model.file("model.safetensors")
        with pytest.raises(PermissionError):
            os.pwrite(held.handle, b"evil", 0)
        with pytest.raises(PermissionError):
            os.truncate(held.path, 1)
        with pytest.raises(PermissionError):
            write_in_place(Path(held.path), b"evil")
        program = "import sys; print(len(open(sys.argv[1], 'rb').read()))"
        done = subprocess.run(
            [sys.executable, "-c", program, str(model / "model.safetensors")], capture_output=True, text=True,
            timeout=30, check=True,
        )  # fmt: skip
        assert int(done.stdout) == len(FILES["model.safetensors"])  # a child process may open it too


def test_a_verdict_spares_the_hash_until_the_file_changes(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level `cached` hashes once; a change of the file, or of who may write the cache, makes it hash again."""
    from modelnet.loaders import verdicts

    monkeypatch.setattr(verdicts, "QUIET_NS", 0)  # the files of a test are younger than any clock's grain
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))

    def level() -> Level:
        with modelnet.verified(ref, level="cached") as model:
            return model.levels["model.safetensors"]

    assert [level(), level()] == [Level.HELD, Level.CACHED]
    file = folder / "model.safetensors"
    status = file.stat()
    flip(file, 100)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # the times that a user can set
    with pytest.raises(IntegrityError):
        level()
    flip(file, 100)
    assert [level(), level()] == [Level.HELD, Level.CACHED]
    (shelf.home / "verdicts.sqlite").chmod(0o666)
    assert [level(), level()] == [Level.HELD, Level.HELD]
    (shelf.home / "verdicts.sqlite").write_bytes(b"no database at all, but as long as one" * 100)
    (shelf.home / "verdicts.sqlite").chmod(0o600)
    assert level() is Level.HELD


def test_a_cached_verdict_keeps_what_the_content_check_said(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal stays a refusal, a warning a warning, without looking again; another policy is asked again."""
    from modelnet import loading
    from modelnet.loaders import verdicts

    monkeypatch.setattr(verdicts, "QUIET_NS", 0)
    template = b'{"chat_template": "{{ messages }}"}'
    folder = _folder(tmp_path / "m", {"model.bin": samples.evil(2), "tokenizer_config.json": template})
    ref = shelf.publish("tiny", folder)
    with modelnet.verified(ref, only=["*.json"], level="cached") as model:
        first = model.findings
    monkeypatch.setattr(
        loading, "check_release", lambda readers, *_, **__: [] if not readers else pytest.fail("looked again")
    )
    with modelnet.verified(ref, only=["*.json"], level="cached") as model:
        assert (model.level, model.findings) == (Level.CACHED, first)
    assert [one.rule for one in first] == ["template"]
    monkeypatch.undo()
    monkeypatch.setenv("MODELNET_HOME", str(shelf.home))
    monkeypatch.setattr(verdicts, "QUIET_NS", 0)
    for _ in range(3):
        with pytest.raises(TrustError) as refused:
            modelnet.verified(ref, level="cached")
        assert refused.value.rule == "pickle"


def test_a_file_that_just_changed_gets_no_verdict(shelf: Shelf, tmp_path: Path) -> None:
    """Within the grain of its times a file could change again unseen."""
    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    for _ in range(2):
        with modelnet.verified(ref, level="cached") as model:
            assert model.level is Level.HELD


def test_fs_verity_is_used_only_where_it_is(shelf: Shelf, tmp_path: Path) -> None:
    """Asked for where the file system has none, it is refused and not quietly replaced."""
    from modelnet.loaders import verity

    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))
    handle = os.open(folder / "config.json", os.O_RDONLY)
    try:
        has = verity.is_enabled(handle)
    finally:
        os.close(handle)
    if has:
        pytest.skip("the temporary folder's file system gives every file fs-verity")
    with pytest.raises(UnavailableError) as refused:
        modelnet.verified(ref, level="verity")
    assert refused.value.rule == "level"


def test_a_large_file_is_held_and_not_copied(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, or without memory to spare, the strongest level without a copy applies."""
    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    monkeypatch.setattr(sealed, "room", lambda: 100)
    with modelnet.verified(ref) as model:
        assert model.levels["model.safetensors"] is Level.HELD
        assert model.levels["config.json"] is Level.SEALED
        assert model.level is Level.HELD


def test_a_release_of_many_files(shelf: Shelf, tmp_path: Path) -> None:
    """More files than descriptors are to be had: the largest are held, the others copied privately."""
    files = {f"part-{n:04}.txt": b"x" * n for n in range(400)}
    ref = shelf.publish("many", _folder(tmp_path / "m", files))
    with modelnet.verified(ref) as model:
        assert {path.name: path.read_bytes() for path in model} == files
        assert model.levels["part-0399.txt"] is Level.SEALED
        assert model.levels["part-0001.txt"] is Level.COPY


def test_nothing_is_left_open(shelf: Shelf, tmp_path: Path) -> None:
    """Neither a load nor a refusal keeps a descriptor or a folder."""
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))
    with modelnet.verified(ref):
        pass
    gc.collect()  # errors of earlier tests keep what they were raised in
    before = _size_of(Path("/proc/self/fd"))
    for _ in range(5):
        for level in (None, "held", "copy", "cached"):
            modelnet.verified(ref, level=level).close()
    flip(folder / "model.safetensors", 100)
    for level in (None, "held", "copy", "cached"):
        with pytest.raises(IntegrityError):
            modelnet.verified(ref, level=level)
    gc.collect()
    assert _size_of(Path("/proc/self/fd")) <= before


def test_importing_is_light() -> None:
    """Neither `import modelnet` nor the loaders import a runtime, a client or a command line."""
    program = (
        "import sys, modelnet; from modelnet import loaders; loaders.safetensors; modelnet.verified;"
        "heavy = {'numpy', 'torch', 'onnxruntime', 'gguf', 'safetensors', 'typer', 'rich', 'ipfshttpclient', 'h11',"
        "'huggingface_hub', 'transformers', 'fsspec'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_library_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loader says what to install, before anything is read."""
    from modelnet import loaders

    names = ("gguf", "onnxruntime", "xllamacpp", "llama_cpp", "torch", "transformers", "diffusers", "ai_edge_litert",
             "tflite_runtime", "numpy", "fsspec")  # fmt: skip
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
        for loaded in [module for module in sys.modules if module.startswith(f"{name}.")]:
            monkeypatch.setitem(sys.modules, loaded, None)
    calls = {
        "gguf": lambda: loaders.gguf.reader("acme/x"),
        "onnxruntime": lambda: loaders.onnxruntime.session("acme/x"),
        "xllamacpp": lambda: loaders.llama_cpp.server("acme/x"),
        "llama-cpp-python": lambda: loaders.llama_cpp.Llama("acme/x"),
        "torch": lambda: loaders.torch.load("acme/x"),
        "transformers": lambda: loaders.transformers.from_pretrained(object, "acme/x"),
        "diffusers": lambda: loaders.diffusers.from_pretrained(object, "acme/x"),
        "ai-edge-litert": lambda: loaders.litert.interpreter("acme/x"),
        "numpy": lambda: loaders.safetensors.load_file("acme/x"),
    }
    for package, call in calls.items():
        with pytest.raises(UnavailableError) as refused:
            call()
        assert (refused.value.rule, refused.value.hint) == ("missing-library", f"pip install {package}")


def test_arrays_are_what_the_library_gives(shelf: Shelf, tmp_path: Path) -> None:
    """Every type that NumPy has, empty tensors, scalars, and a file whose data is not aligned."""
    rng = np.random.default_rng(3)
    arrays = {
        kind: (rng.standard_normal((3, 5)) * 20).astype(kind)
        for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8")
    }
    arrays |= {"none": np.zeros((0, 4), np.float32), "scalar": np.array(7, np.int32)}
    content = safetensors.numpy.save(arrays, metadata={"format": "np"})
    odd = samples.safetensors_of(
        {"a": samples.entry(0, 3, [3]), "b": samples.entry(3, 11, [2], "F32")}, b"abc" + np.float32([1, 2]).tobytes()
    )
    ref = shelf.publish("tiny", _folder(tmp_path / "m", {"all.safetensors": content, "odd.safetensors": odd}))
    from modelnet.loaders import safetensors as ours

    got = ours.load_file(f"{ref}#all.safetensors")
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
    with ours.safe_open(f"{ref}#all.safetensors", framework="np") as file:
        with safetensors.safe_open(tmp_path / "m" / "all.safetensors", framework="np") as plain:
            assert file.keys() == plain.keys()
            assert file.metadata() == plain.metadata() == {"format": "np"}
            for name in plain.keys():  # noqa: SIM118
                np.testing.assert_array_equal(file.get_tensor(name), plain.get_tensor(name))
            for wanted in (slice(1, 3), slice(None), (slice(0, 2), slice(1, 4)), slice(2, 2)):
                theirs, mine = plain.get_slice("f4"), file.get_slice("f4")
                np.testing.assert_array_equal(mine[wanted], theirs[wanted])
                assert (mine.get_shape(), mine.get_dtype()) == (theirs.get_shape(), theirs.get_dtype())
        np.testing.assert_array_equal(file.get_slice("f4")[1], arrays["f4"][1])
        np.testing.assert_array_equal(file.get_slice("f4")[-1], arrays["f4"][-1])
        np.testing.assert_array_equal(file.get_slice("f4")[::2], arrays["f4"][::2])
        with pytest.raises(UsageError):
            file.get_tensor("nothing")
    np.testing.assert_array_equal(ours.load_file(f"{ref}#odd.safetensors")["b"], np.float32([1, 2]))
    assert dict(ours.tensors(f"{ref}#odd.safetensors"))["a"].tobytes() == b"abc"


def test_a_base_must_be_what_the_lineage_names(shelf: Shelf, tmp_path: Path) -> None:
    """An adapter whose base is a signed release, and named as its ancestor, loads; another name does not."""
    shelf.publish("base", _folder(tmp_path / "base"))
    for name, base, lineage in (
        ("good", "acme/base@1.0", {"derived_from": "acme/base", "relation": "adapter"}),
        ("hub", "meta/base", {"derived_from": "acme/base", "relation": "adapter"}),
        ("unnamed", "acme/base@1.0", {}),
    ):
        config = f'{{"base_model_name_or_path": "{base}"}}'.encode()
        shelf.publish(name, _folder(tmp_path / name, {"adapter_config.json": config}), **lineage)
    with modelnet.verified("acme/good") as model:
        assert model.findings == ()
    for name in ("hub", "unnamed"):
        with pytest.raises(TrustError) as refused:
            modelnet.verified(f"acme/{name}")
        assert refused.value.rule == "base-model"


def test_a_system_without_descriptor_paths_gets_copies(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on Linux a private copy is made, and a stronger level is refused when it is asked for."""
    from modelnet.loaders import securing

    monkeypatch.setattr(securing, "DESCRIPTORS", "/nowhere")
    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    with modelnet.verified(ref) as model:
        assert model.level is Level.COPY
        assert {path.relative_to(model.path).as_posix(): path.read_bytes() for path in model} == FILES
    with pytest.raises(UnavailableError) as refused:
        modelnet.verified(ref, level="sealed")
    assert refused.value.rule == "level"


def test_a_cached_finding_is_that_of_its_path(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes under another name are another thing: an adapter's configuration names a base, notes do not."""
    from modelnet.loaders import securing, verdicts

    monkeypatch.setattr(verdicts, "QUIET_NS", 0)
    folder = _folder(tmp_path / "m", {"notes.txt": b'{"base_model_name_or_path": "evil/base"}'})
    os.link(folder / "notes.txt", folder / "adapter_config.json")
    ref = shelf.publish("tiny", folder)
    for level in ("held", "cached"):  # what has two names may be written by the other one
        with pytest.raises(UnavailableError) as unavailable:
            modelnet.verified(ref, only="notes.txt", level=level)
        assert (unavailable.value.rule, unavailable.value.path) == ("hardlink", "notes.txt")
    for level in (None, "sealed", "copy"):
        modelnet.verified(ref, only="notes.txt", level=level).close()
    monkeypatch.setattr(securing, "has_other_names", lambda _: False)
    for _ in range(2):
        modelnet.verified(ref, only="notes.txt", level="cached").close()
        with pytest.raises(TrustError) as refused:
            modelnet.verified(ref, only="adapter_config.json", level="cached")
        assert refused.value.rule == "base-model"


def test_a_file_with_two_names_is_sealed_and_not_held(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a large file would be held it is copied if memory has room, and else refused with the reason."""
    from modelnet import loading

    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m"))
    os.link(folder / "model.safetensors", tmp_path / "elsewhere")
    monkeypatch.setattr(loading, "SEAL_LIMIT", 10)
    with modelnet.verified(ref) as model:
        assert model.levels["model.safetensors"] is Level.SEALED
        assert model.levels["config.json"] is Level.HELD
    monkeypatch.setattr(sealed, "room", lambda: 100)
    with pytest.raises(UnavailableError) as refused:
        modelnet.verified(ref)
    assert refused.value.rule == "hardlink"


@pytest.mark.parametrize(
    "findings",
    ['[["x", "bogus", 0, "d"]]', '[["x", "warn", "0", "d"]]', '[["x", "warn"]]', '{"a": 1}', "7", "[" * 100_000, "[7]"],
)
def test_a_bad_row_among_the_verdicts_is_no_verdict(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, findings: str
) -> None:
    """What is in that database is not believed further than it can be read: the file is looked at again."""
    from modelnet.loaders import verdicts

    monkeypatch.setattr(verdicts, "QUIET_NS", 0)
    ref = shelf.publish("tiny", _folder(tmp_path / "m", {"t.json": b'{"chat_template": "{{ messages }}"}'}))
    modelnet.verified(ref, level="cached").close()
    with contextlib.closing(sqlite3.connect(shelf.home / "verdicts.sqlite", isolation_level=None)) as database:
        assert database.execute("UPDATE verdict SET findings = ?", (findings,)).rowcount == 1
    with modelnet.verified(ref, level="cached") as model:
        assert [one.rule for one in model.findings] == ["template"]


def test_few_descriptors_are_enough(shelf: Shelf, tmp_path: Path) -> None:
    """A process that may have 256 loads 200 files, one that may have 100 too: what cannot be held is copied."""
    files = {f"part-{n:04}.txt": b"x" * n for n in range(200)}
    ref = shelf.publish("many", _folder(tmp_path / "m", files))
    program = """
import resource, sys
import modelnet
for limit in (256, 100, 60):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for level in (None, "held", "copy"):
        with modelnet.verified(sys.argv[1], level=level) as model:
            assert all(path.read_bytes() == b"x" * int(path.stem[5:]) for path in model)
            print(limit, sorted({one.label for one in model.levels.values()}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, ref], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "256 ['copy', 'sealed']"
    assert done.stdout.splitlines()[-1] == "60 ['copy']"


def test_arguments_are_what_they_look_like(shelf: Shelf, tmp_path: Path) -> None:
    """One glob is not its letters, a level is no number, a path of the release may be a `Path`."""
    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    with modelnet.verified(ref, only="*.json") as model:
        assert [entry.path for entry in model.files] == ["config.json"]
        assert (model / Path("config.json")).read_bytes() == FILES["config.json"]
        assert (model / "config.json").read_bytes() == FILES["config.json"]
    with modelnet.verified(ref) as model:
        assert (model / (Path("sub") / "vocab.txt")).read_bytes() == FILES["sub/vocab.txt"]
        with pytest.raises(UsageError):
            model / Path("../config.json")
    for level in (7, 3.5, 4, True, b"sealed"):
        with pytest.raises(UsageError) as refused:
            modelnet.verified(ref, level=level)
        assert refused.value.rule == "level"
    for thing in (tmp_path / "m", b"acme/tiny", None, 3):
        with pytest.raises(UsageError) as refused:
            modelnet.verified(thing)
        assert refused.value.rule == "reference"
    for empty in (f"{ref}#", "#config.json"):
        with pytest.raises(UsageError):
            modelnet.verified(empty)


def test_any_file_name_that_may_be_published_can_be_chosen(shelf: Shelf, tmp_path: Path) -> None:
    """Also one with the sign that sets it apart, and with the signs of a glob."""
    names = ("x#y.txt", "#", "a[1].txt", "sub/#b#")
    ref = shelf.publish("tiny", _folder(tmp_path / "m", {name: name.encode() for name in names}))
    for name in names:
        with modelnet.verified(f"{ref}#{name}") as model:
            assert [path.read_bytes() for path in model] == [name.encode()]


def test_a_refusal_names_what_can_be_told(shelf: Shelf, tmp_path: Path) -> None:
    """A file without tensors has no header; of what one hash covers nothing is singled out, and its bytes are given."""
    rng = np.random.default_rng(7)
    large = safetensors.numpy.save({"a": rng.standard_normal(1 << 19), "b": rng.standard_normal(1 << 19)})
    two = safetensors.numpy.save({"a": np.zeros(4), "b": np.zeros(4)})
    one = safetensors.numpy.save({"w": np.zeros(4)})
    files = {"config.json": b'{"a": 1}', "large.safetensors": large, "one.safetensors": one}
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m", {**files, "two.safetensors": two}))

    def told(path: str, offset: int) -> str:
        flip(folder / path, offset)
        with pytest.raises(IntegrityError) as refused:
            modelnet.verified(f"{ref}#{path}")
        flip(folder / path, offset)
        return refused.value.message

    differs = "differs from what was signed"
    assert told("config.json", 3) == f"the file {differs}"
    assert told("two.safetensors", len(two) - 3) == (
        f"the header or one of the 2 tensors 'a' to 'b' (bytes 0 to {len(two) - 1}) {differs}"
    )
    assert told("one.safetensors", len(one) - 2) == f"the header or tensor 'w' {differs}"
    assert told("large.safetensors", len(large) - 1000) == f"tensor 'b' {differs}"

    silero = need("silero-6.2.3") / "silero_vad_16k_op15.onnx"
    (folder / "m.onnx").write_bytes(silero.read_bytes())
    ref = shelf.publish("silero", folder / "m.onnx")
    last = "tensors 'model.decoder.rnn.bias_ih' to 'model.decoder.decoder.2.bias' or what lies beside them (bytes "
    assert f"one of the 4 {last}" in told("m.onnx", silero.stat().st_size - 20)
    assert told("m.onnx", 10).startswith("the header or one of the 162 tensors (bytes 0 to ")


def test_empty_tensors_are_ordered_as_the_library_orders_them(shelf: Shelf, tmp_path: Path) -> None:
    """A tensor without bytes comes before the one that begins where it lies."""
    entries = {
        "z": samples.entry(0, 0, [0]), "a": samples.entry(0, 3, [3]), "b": samples.entry(3, 5, [2]),
        "y": samples.entry(3, 3, [0, 2]),
    }  # fmt: skip
    content = samples.safetensors_of(entries, b"abcde")
    ref = shelf.publish("tiny", folder := _folder(tmp_path / "m", {"m.safetensors": content}))
    from modelnet.loaders import safetensors as ours

    with (
        ours.safe_open(f"{ref}#m.safetensors") as mine,
        safetensors.safe_open(folder / "m.safetensors", framework="np") as theirs,
    ):
        assert mine.offset_keys() == list(theirs.offset_keys()) == ["z", "a", "y", "b"]


def test_a_file_of_another_format_is_refused_before_its_library(shelf: Shelf, tmp_path: Path) -> None:
    """Each loader says what it wanted and what it was given; the library's own error would not."""
    from modelnet import loaders

    ref = shelf.publish("tiny", _folder(tmp_path / "m"))
    calls = {
        "gguf": [loaders.gguf.reader, loaders.llama_cpp.server], "tflite": [loaders.litert.interpreter],
        "onnx": [loaders.onnxruntime.session],
    }  # fmt: skip
    for wanted, loads in calls.items():
        for load in loads:
            with pytest.raises(MalformedError) as refused:
                load(f"{ref}#model.safetensors")
            error = refused.value
            assert (error.rule, error.path, error.wanted) == ("format", "model.safetensors", wanted)
            assert error.got == "safetensors"
