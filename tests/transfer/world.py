"""A publisher with two versions of a small model, nodes that serve it, and pulls into stores of their own.

    world = World.make(tmp_path)                    # one publisher, `m` at 1.0 and 1.1
    with serving(world.home) as url: ...            # an honest node
    outcome = attempt(world.v1, tmp_path / "b", [url])
    outcome.whole(world.files_v1)                   # every byte is right, and fsck and verify say so

The model has a file of several tensors (CAR streams), files of one chunk (raw blocks), an empty one and equal chunks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

import modelnet
from modelnet.errors import ModelnetError
from modelnet.puller import Pulled
from modelnet.stores.local import open_store
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server

__all__ = ["Outcome", "World", "attempt", "serving"]

KIB = 1024


@dataclass(frozen=True, slots=True)
class World:
    """A publisher's store and what was published from it."""

    home: Path
    pid: str
    v1: str
    v2: str
    files_v1: Mapping[str, bytes]
    files_v2: Mapping[str, bytes]

    @classmethod
    def make(cls, folder: Path, seed: int = 7) -> World:
        """Publish both versions from folders below `folder`; half of the second is new."""
        files_v1, files_v2 = _model(seed), _model(seed, change=True)
        home = folder / "publisher"
        pid = modelnet.init(alias="acme", home=home).pid
        made = []
        for version, files in (("1.0", files_v1), ("1.1", files_v2)):
            write(folder / version, files)
            made.append(modelnet.publish(folder / version, name="m", version=version, home=home).locator)
        return cls(home, pid, made[0], made[1], files_v1, files_v2)


def _model(seed: int, *, change: bool = False) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    tensors = {f"layer.{n}": rng.standard_normal((384, 512), dtype=np.float32) for n in range(4)}
    tensors["bias"] = rng.standard_normal(700, dtype=np.float32)
    plain = random.Random(seed)
    small = {
        "config.json": b'{"hidden": 512, "seed": %d}' % seed,
        "empty.txt": b"",
        "sub/merges.bin": plain.randbytes(40 * KIB),
        "sub/vocab.bin": plain.randbytes(100 * KIB),
        "zeros.bin": bytes(600 * KIB),
    }
    if change:
        tensors["layer.1"] = tensors["layer.1"] + 1
        tensors["layer.3"] = tensors["layer.3"] - 1
        small["config.json"] = b'{"hidden": 512, "more": true}'
    return {"model.safetensors": save(tensors), **small}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` below `folder`."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Run an honest node over the store in `home`; give its URL."""
    store = open_store(home)
    try:
        with Server(Doors(store), "127.0.0.1", 0) as server:
            yield server.url
    finally:
        store.index.close()


@dataclass(slots=True)
class Outcome:
    """How one pull ended: with files, or with a typed error; and how long it took."""

    home: Path
    seconds: float
    got: Pulled | None = None
    error: ModelnetError | None = None

    def whole(self, files: Mapping[str, bytes]) -> Pulled:
        """Check that the pull ended with exactly `files`, and that the store is in order."""
        got = self.whole_files(files)
        sound(self.home)
        modelnet.verify(str(got.release.locator), home=self.home)
        return got

    def whole_files(self, files: Mapping[str, bytes]) -> Pulled:
        """Check that the pull ended with exactly `files`."""
        assert self.error is None, str(self.error)
        assert self.got is not None
        found = {
            path.relative_to(self.got.path).as_posix(): path.read_bytes()
            for path in self.got.path.rglob("*")
            if path.is_file()
        }
        assert found.keys() == dict(files).keys()
        assert all(found[path] == content for path, content in files.items())
        return self.got

    def refused(self, *codes: int) -> ModelnetError:
        """Check that the pull ended with an error of those exit codes, and that nothing wrong was kept."""
        assert self.error is not None, "the pull should not have succeeded"
        assert self.error.exit_code in (codes or (3, 4, 5)), repr(self.error)
        store = open_store(self.home)
        assert store.index.releases() == []
        store.index.close()
        sound(self.home)
        return self.error

    def state(self, url: str) -> str:
        """Return the state that the report gives to the source at `url`."""
        assert self.got is not None
        return next(report.state for report in self.got.sources if report.source == url)


def sound(home: Path) -> None:
    """Check that fsck finds nothing wrong."""
    assert modelnet.fsck(home=home) == []


def attempt(reference: str, home: Path, peers: Sequence[str], **options: object) -> Outcome:
    """Pull; anything but success or a `ModelnetError` is a bug and fails the test."""
    started = time.monotonic()
    got, error = None, None
    try:
        got = modelnet.pull(reference, peers=list(peers), home=home, **options)  # type: ignore[arg-type]
    except ModelnetError as refused:
        error = refused
    return Outcome(home, time.monotonic() - started, got, error)
