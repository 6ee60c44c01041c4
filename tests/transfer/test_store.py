"""A store that somebody changed: index rows, the database file, released files. Never accepted, always mendable."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import modelnet
from modelnet.errors import IntegrityError, ModelnetError
from tests.transfer.scene import Scene
from tests.transfer.world import attempt

pytestmark = pytest.mark.usefixtures("quick")

MODEL = "model.safetensors"


@pytest.fixture
def pulled(scene: Scene) -> Path:
    """Give the folder of the first version in the puller's store."""
    return attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1).path


def change(scene: Scene, statement: str) -> None:
    """Change rows of the index behind its back."""
    with closing(sqlite3.connect(scene.home / "index.sqlite")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        assert connection.execute(statement).rowcount > 0


def check_whole_again(scene: Scene) -> None:
    """Repair what can be repaired here, pull the rest: then all is in order."""
    modelnet.fsck(repair=True, home=scene.home)
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)


# What a row of the index may say instead of the truth. `fsck` reports each.
ROWS: dict[str, str] = {
    "chunk-digest": "UPDATE chunk SET digest = randomblob(32) WHERE offset = 0",
    "chunk-offset": "UPDATE chunk SET offset = offset + 1 WHERE offset = 0",
    "chunk-size": "UPDATE chunk SET size = size + 1",
    "file-path": "UPDATE file SET path = CAST('/etc/hostname' AS BLOB) WHERE CAST(path AS TEXT) LIKE '%vocab.bin'",
    "file-gone": "UPDATE file SET path = CAST(CAST(path AS TEXT) || 'x' AS BLOB)",
    "block-content": "UPDATE block SET content = randomblob(200)",
    "block-swapped": "UPDATE block SET content = (SELECT content FROM block LIMIT 1)",
    "release-manifest": "UPDATE release SET manifest = (SELECT cid FROM block WHERE cid != release.manifest LIMIT 1)",
    "release-version": "UPDATE release SET version = '9.9'",
}


@pytest.mark.parametrize("name", ROWS)
def test_row(scene: Scene, pulled: Path, name: str) -> None:
    """A wrong row makes something missing or refused, never wrong; fsck says so, repair and a pull make it whole."""
    change(scene, ROWS[name])
    problems = modelnet.fsck(home=scene.home)
    assert problems
    for target in (str(scene.world.v1), str(pulled)):
        with contextlib.suppress(ModelnetError):
            verified = modelnet.verify(target, home=scene.home)
            assert {entry.path for entry in verified.files} == set(scene.world.files_v1)
    check_whole_again(scene)


@pytest.mark.parametrize("name", ROWS)
def test_row_and_a_pull(scene: Scene, pulled: Path, name: str) -> None:
    """A pull over a wrong row, without any fsck before it, ends with the right files."""
    change(scene, ROWS[name])
    shutil.rmtree(pulled)
    got = attempt(scene.world.v1, scene.home, [scene.node])
    assert got.error is None, str(got.error)
    assert got.got is not None
    assert all((got.got.path / path).read_bytes() == content for path, content in scene.world.files_v1.items())


ODD_ROWS: dict[str, str] = {
    "chunk-size-negative": "UPDATE chunk SET size = -5",
    "chunk-size-huge": "UPDATE chunk SET size = 1 << 40",
    "chunk-offset-negative": "UPDATE chunk SET offset = -offset - 1",
    "chunk-digest-short": "UPDATE chunk SET digest = substr(digest, 1, 3)",
    "release-manifest-garbage": "UPDATE release SET manifest = x'00ff'",
    "release-name": "UPDATE release SET name = '../../x'",
    "release-layout": "UPDATE release SET layout = 'else'",
    "block-cid-garbage": "UPDATE block SET cid = x'00ff' WHERE rowid = (SELECT min(rowid) FROM block)",
}


@pytest.mark.parametrize("name", ODD_ROWS)
def test_odd_row_and_a_pull(scene: Scene, pulled: Path, name: str) -> None:
    """Values that no index ever holds: a pull ends with the right files or a typed error, and verify with neither."""
    change(scene, ODD_ROWS[name])
    with contextlib.suppress(ModelnetError):
        modelnet.verify(str(scene.world.v1), home=scene.home)
    shutil.rmtree(pulled)
    outcome = attempt(scene.world.v1, scene.home, [scene.node])
    if outcome.error is None:
        assert outcome.got is not None
        files = scene.world.files_v1
        assert all((outcome.got.path / path).read_bytes() == content for path, content in files.items())
    else:
        assert outcome.error.exit_code == 3
        assert outcome.error.rule == "index"


@pytest.mark.parametrize("name", ODD_ROWS)
def test_odd_row_and_fsck(scene: Scene, pulled: Path, name: str) -> None:
    """Values that no index ever holds: fsck says something, and repair and a pull make it whole."""
    change(scene, ODD_ROWS[name])
    if name != "release-layout":  # which no check needs
        assert modelnet.fsck(home=scene.home)
    check_whole_again(scene)
    assert pulled.is_dir()


def test_two_manifests_swapped(scene: Scene) -> None:
    """Rows of two versions that point at each other's manifest are refused, not mixed up."""
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    attempt(scene.world.v2, scene.home, [scene.node]).whole(scene.world.files_v2)
    change(scene, "UPDATE release SET manifest = (SELECT manifest FROM release r WHERE r.version != release.version)")
    assert modelnet.fsck(home=scene.home)
    attempt(scene.world.v1, scene.home, [scene.node]).whole_files(scene.world.files_v1)
    attempt(scene.world.v2, scene.home, [scene.node]).whole(scene.world.files_v2)


# The database file

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "page-of-zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "header": lambda content: b"x" + content[1:],
    "one-byte": lambda _: b"S",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_database(scene: Scene, pulled: Path, name: str) -> None:
    """A damaged database file is a typed error; after a repair a pull finds the files where they are."""
    path = settled(scene)
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    with contextlib.suppress(ModelnetError):
        modelnet.verify(str(scene.world.v1), home=scene.home)
    modelnet.fsck(repair=True, home=scene.home)
    got = attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    assert got.path == pulled
    assert got.plan.fetched == 0


def settled(scene: Scene) -> Path:
    """Return the database file, with nothing left in its log."""
    gc.collect()  # closes the connections of pulls that are over
    path = scene.home / "index.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return path


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_of_the_database(scene: Scene, pulled: Path, seed: int) -> None:
    """Flipped bytes anywhere in the database file never make a wrong byte right, and never crash."""
    path = settled(scene)
    sane = path.read_bytes()
    rng = random.Random(seed)
    for _ in range(6):
        damaged = bytearray(sane)
        for _ in range(rng.choice([1, 1, 4, 40])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(ModelnetError):
            verified = modelnet.verify(str(scene.world.v1), home=scene.home)
            assert {entry.path for entry in verified.files} <= set(scene.world.files_v1)
        outcome = attempt(scene.world.v1, scene.home, [scene.node])
        if outcome.error is None:
            assert outcome.got is not None
            files = scene.world.files_v1
            assert all((outcome.got.path / name).read_bytes() == content for name, content in files.items())
        else:
            assert outcome.error.exit_code in (2, 3, 4, 5)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert pulled.is_dir()


# Released files


def loosen(path: Path) -> Path:
    """Make a released file writable."""
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("at", [0, 1_000_000, -1])
def test_flipped_byte_of_a_released_file(scene: Scene, pulled: Path, at: int) -> None:
    """Verify says path, offset, wanted and found; fsck says it; a pull fetches just that chunk again."""
    path = loosen(pulled / MODEL)
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)
    for target in (str(scene.world.v1), str(pulled), str(path)):
        with pytest.raises(IntegrityError) as caught:
            modelnet.verify(target, home=scene.home)
        assert caught.value.path == MODEL
        offset = caught.value.offset
        assert offset is not None
        assert offset <= at % len(content) < offset + 1024 * 1024
        assert caught.value.wanted != caught.value.got
    assert any(MODEL in problem.path for problem in modelnet.fsck(home=scene.home))
    got = attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    assert 0 < got.plan.fetched <= 1024 * 1024


def gone(path: Path) -> None:
    """Remove it."""
    path.unlink()


def shorter(path: Path) -> None:
    """Cut it."""
    os.truncate(path, 1000)


def longer(path: Path) -> None:
    """Add one byte."""
    with path.open("ab") as file:
        file.write(b"x")


def linked(path: Path) -> None:
    """Make it a link to a copy."""
    copy = path.parents[5] / "copy"
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(copy)


def piped(path: Path) -> None:
    """Make it a pipe."""
    path.unlink()
    os.mkfifo(path)


def foldered(path: Path) -> None:
    """Make it a folder."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("tamper", [gone, shorter, longer, linked, piped, foldered])
def test_released_file_is_another_thing(scene: Scene, pulled: Path, tamper: Callable[[Path], None]) -> None:
    """A released file that is cut, extended or no file any more is refused, and a pull puts it back."""
    tamper(loosen(pulled / MODEL))
    with pytest.raises(ModelnetError) as caught:
        modelnet.verify(str(scene.world.v1), home=scene.home)
    assert caught.value.path == MODEL
    assert caught.value.exit_code == 3
    if tamper is foldered:  # may hold what somebody put there: said, not removed
        error = attempt(scene.world.v1, scene.home, [scene.node]).error
        assert error is not None
        assert (error.exit_code, MODEL in str(error.path)) == (5, True)
        (pulled / MODEL).rmdir()
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)


@pytest.mark.parametrize("tamper", [gone, shorter, longer, linked, piped])
def test_fsck_sees_it(scene: Scene, pulled: Path, tamper: Callable[[Path], None]) -> None:
    """What became of a released file is in fsck's report, and after a repair and a pull all is whole."""
    tamper(loosen(pulled / MODEL))
    assert any(MODEL in problem.path for problem in modelnet.fsck(home=scene.home))
    check_whole_again(scene)


def test_extra_file_in_a_release(scene: Scene, pulled: Path) -> None:
    """A file that was not signed is refused by verify: a runtime might load it."""
    (pulled / "extra.py").write_bytes(b"print('hi')")
    with pytest.raises(IntegrityError) as caught:
        modelnet.verify(str(scene.world.v1), home=scene.home)
    assert caught.value.rule == "extra-file"
