"""`modelnet://` for fsspec: ranges of files, each byte checked before it is given."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.numpy

import modelnet
from modelnet.errors import IntegrityError, TrustError, UsageError
from modelnet.loaders.filesystem import ModelnetFileSystem
from tests.loaders.shelf import Shelf, flip
from tests.scan import samples
from tests.transfer.world import serving


@pytest.fixture
def files(shelf: Shelf, tmp_path: Path) -> ModelnetFileSystem:
    """A published folder, seen through fsspec's own registry."""
    fsspec.register_implementation("modelnet", ModelnetFileSystem, clobber=True)
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    arrays = {f"w{n}": np.full((256, 1024), n, np.float32) for n in range(4)}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub" / "vocab.txt").write_text("one\ntwo\n")
    shelf.publish("tiny", folder)
    return fsspec.filesystem("modelnet")


def test_the_scheme_is_registered() -> None:
    """The package's entry point is what fsspec looks for."""
    (found,) = [one for one in entry_points(group="fsspec.specs") if one.name == "modelnet"]
    assert found.load() is ModelnetFileSystem


def test_releases_are_folders(files: ModelnetFileSystem) -> None:
    """Listing, size, type and digests."""
    base = "modelnet://acme/tiny@1.0"
    names = [one.rpartition("/")[2] for one in files.ls(base, detail=False)]
    assert names == ["config.json", "model.safetensors", "sub"]
    assert files.find(base) == [
        f"acme/tiny@1.0/{name}" for name in ("config.json", "model.safetensors", "sub/vocab.txt")
    ]
    assert files.isdir(f"{base}/sub")
    assert files.isfile(f"{base}/sub/vocab.txt")
    assert not files.exists(f"{base}/other")
    assert files.info(f"{base}/config.json")["size"] == 8
    assert len(files.info(f"{base}/config.json")["sha256"]) == 64
    assert files.cat_file("modelnet://acme/tiny/config.json") == b'{"a": 1}'


def test_ranges_are_verified(files: ModelnetFileSystem, tmp_path: Path) -> None:
    """Damage is met where it is, and nowhere else."""
    path = "modelnet://acme/tiny@1.0/model.safetensors"
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    for start, end in ((0, 8), (None, None), (1 << 20, (1 << 20) + 100), (-5, None), (7, 7), (len(content), None)):
        assert files.cat_file(path, start, end) == content[slice(start, end)]
    with files.open(path) as file:
        file.seek(3_000_000)
        assert file.read(10) == content[3_000_000:3_000_010]
    with fsspec.open(path) as file:
        assert file.read() == content
    flip(tmp_path / "m" / "model.safetensors", 2_500_000)
    assert files.cat_file(path, 0, 1 << 20) == content[: 1 << 20]
    with pytest.raises(IntegrityError, match="tensor 'w2'"):
        files.cat_file(path, 2_400_000, 2_600_000)
    assert fsspec.open("modelnet://acme/tiny@1.0/sub/vocab.txt", "rt").open().read() == "one\ntwo\n"
    with pytest.raises(UsageError):
        files.open(path, "wb")


def test_the_gate_looks_at_what_is_opened(shelf: Shelf, tmp_path: Path, files: ModelnetFileSystem) -> None:
    """A pickle is refused here too."""
    (tmp_path / "model.bin").write_bytes(samples.evil(2))
    shelf.publish("evil", tmp_path / "model.bin")
    with pytest.raises(TrustError) as refused:
        files.cat_file("modelnet://acme/evil/model.bin")
    assert refused.value.rule == "pickle"


def test_a_file_that_is_not_here_is_fetched(
    shelf: Shelf, tmp_path: Path, files: ModelnetFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With known peers a path works before anything was pulled, and only that file is fetched."""
    assert files is not None
    with modelnet.verified("acme/tiny") as model:
        locator = str(model.release.locator)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("MODELNET_HOME", str(runtime))
    with serving(shelf.home) as url:
        (runtime / "peers").write_text(f"{url}\n")
        release = locator.removeprefix("modelnet:")
        assert fsspec.filesystem("modelnet").cat_file(f"modelnet://{release}/config.json") == b'{"a": 1}'
    assert not list(runtime.rglob("model.safetensors"))


def test_an_adapter_opens_as_it_loads(shelf: Shelf, tmp_path: Path, files: ModelnetFileSystem) -> None:
    """The base that its lineage names by a reference is resolved here too; another is refused."""
    for name, base in (("good", "acme/tiny@1.0"), ("bad", "meta/base")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
        shelf.publish(name, tmp_path / name, derived_from="acme/tiny", relation="adapter")
    assert b"acme/tiny@1.0" in files.cat_file("modelnet://acme/good@1.0/adapter_config.json")
    with pytest.raises(TrustError) as refused:
        files.cat_file("modelnet://acme/bad@1.0/adapter_config.json")
    assert refused.value.rule == "base-model"


def test_names_of_several_parts(shelf: Shelf, tmp_path: Path, files: ModelnetFileSystem) -> None:
    """With a version and without: the shortest name that is known is meant."""
    for name, text in (("a/b", "two"), ("a/b/c", "three"), ("x/y", "x")):
        folder = tmp_path / name.replace("/", "-")
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "t.txt").write_text(text)
        shelf.publish(name, folder)
    for path, text in (
        ("acme/a/b@1.0/sub/t.txt", "two"), ("acme/a/b/sub/t.txt", "two"), ("acme/a/b/c@1.0/sub/t.txt", "three"),
        ("acme/x/y/sub/t.txt", "x"),
    ):  # fmt: skip
        assert files.cat_file(f"modelnet://{path}") == text.encode()
    assert files.ls("modelnet://acme/x/y", detail=False) == ["acme/x/y/sub"]
    for path in ("modelnet://acme", "modelnet://acme//t.txt"):
        with pytest.raises(FileNotFoundError):
            files.ls(path)
