"""A pull that was broken off, then somebody changes what it left: none of that is accepted, and the pull completes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transfer.hostile import Exchange, Kind, Proxy
from tests.transfer.scene import Scene
from tests.transfer.world import Outcome, attempt, serving, sound

pytestmark = pytest.mark.usefixtures("quick")

MODEL = "model.safetensors"


def again(scene: Scene, *, dry: bool = False) -> Outcome:
    """Pull from the honest node; with `dry`, look first."""
    if dry:
        assert attempt(scene.world.v1, scene.home, [scene.node], dry_run=True).error is None
    outcome = attempt(scene.world.v1, scene.home, [scene.node])
    outcome.whole(scene.world.files_v1)
    assert list((scene.home / "partial").iterdir()) == []
    return outcome


def test_resumed_from_another_source(scene: Scene) -> None:
    """What came from a source that vanished is kept, counted and not fetched again."""
    folder = scene.begin(0.5)
    kept = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    assert kept > 500_000
    with Proxy(scene.node) as other:
        got = attempt(scene.world.v1, scene.home, [other.url]).whole(scene.world.files_v1)
    assert got.plan.present > 500_000
    assert got.plan.fetched + got.plan.reused + got.plan.present == got.plan.total
    assert other.sent < got.plan.total - got.plan.present + 100_000


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes(scene: Scene, seed: int) -> None:
    """Every chunk with a flipped byte is missing again, the others are not."""
    path = scene.begin() / "files" / MODEL
    rng = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(1 + 3 * seed):
            at = rng.randrange(path.stat().st_size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    again(scene)


def cut(path: Path) -> None:
    """Leave a third."""
    os.truncate(path, path.stat().st_size // 3)


def empty(path: Path) -> None:
    """Leave nothing."""
    os.truncate(path, 0)


def extend(path: Path) -> None:
    """Add bytes behind the end."""
    with path.open("ab") as file:
        file.write(b"more" * 5000)


def shift(path: Path) -> None:
    """Insert one byte at the beginning."""
    path.write_bytes(b"\0" + path.read_bytes()[:-1])


def swap_halves(path: Path) -> None:
    """Exchange the two halves."""
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 2 :] + content[: len(content) // 2])


def remove(path: Path) -> None:
    """Take the file away."""
    path.unlink()


def dangling_link(path: Path) -> None:
    """Put a link to nowhere."""
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def link_outside(path: Path) -> None:
    """Put a link to a precious file."""
    path.unlink()
    path.symlink_to(path.parents[4] / "precious")


def fifo(path: Path) -> None:
    """Put a pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """Put a folder with something in it."""
    path.unlink()
    path.mkdir()
    (path / "x").write_bytes(b"x")


def read_only(path: Path) -> None:
    """Take the right to write away."""
    path.chmod(0o444)


def parent_is_a_link(path: Path) -> None:
    """Make the folder of files a link to somewhere else."""
    elsewhere = path.parents[4] / "elsewhere"
    shutil.move(path.parent, elsewhere)
    path.parent.symlink_to(elsewhere)


def parent_is_a_file(path: Path) -> None:
    """Put a file where the folder belongs."""
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"not a folder")


TAMPERINGS: list[Callable[[Path], None]] = [
    cut, empty, extend, shift, swap_halves, remove, dangling_link, link_outside, fifo, folder, read_only,
    parent_is_a_link, parent_is_a_file,
]  # fmt: skip


@pytest.mark.parametrize("dry", [False, True], ids=["pull", "dry-run-first"])
@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_tampered_file(scene: Scene, tamper: Callable[[Path], None], dry: bool) -> None:  # noqa: FBT001
    """Whatever stands where a file was begun: the pull completes, and nothing outside is touched."""
    precious = scene.home.parent / "precious"
    precious.write_bytes(b"precious")
    path = scene.begin() / "files" / MODEL
    assert path.parents[4] == scene.home.parent
    tamper(path)
    again(scene, dry=dry)
    assert precious.read_bytes() == b"precious"


def test_folder_below_is_a_link(scene: Scene) -> None:
    """A folder of the release that is a link is not written through."""
    elsewhere = scene.home.parent / "elsewhere"
    elsewhere.mkdir()
    inside = scene.begin(0.0) / "files" / "sub"
    shutil.rmtree(inside, ignore_errors=True)
    inside.symlink_to(elsewhere)
    again(scene)
    assert list(elsewhere.iterdir()) == []


def test_extra_file(scene: Scene) -> None:
    """A file that the release does not have is not laid out with it."""
    (scene.begin() / "files" / "extra.py").write_bytes(b"print('hi')")
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)


def test_some_files_of_a_pull_that_was_broken_off(scene: Scene) -> None:
    """`--only` after half of everything lays out what it was asked for, and the half is there for the next pull."""
    folder = scene.begin(0.6)
    assert (folder / "files" / MODEL).stat().st_size == len(scene.world.files_v1[MODEL])
    got = attempt(scene.world.v1, scene.home, [scene.node], only=["config.json"]).got
    assert got is not None
    assert [path.name for path in got.path.iterdir()] == ["config.json"]
    sound(scene.home)
    assert attempt(scene.world.v1, scene.home, [scene.node], only=["config.json"]).error is None
    rest = attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    assert rest.plan.present > 500_000


def test_all_of_it_swapped_with_another_release(scene: Scene) -> None:
    """The partial of one version in the place of another is only a source of chunks."""
    mine = scene.begin()
    other = scene.home.parent / "other"
    theirs = scene.begin(reference=scene.world.v2, home=other)
    shutil.rmtree(mine / "files")
    shutil.copytree(theirs / "files", mine / "files")
    again(scene)


def test_change_of_version(scene: Scene) -> None:
    """Half of the first version helps the second one, though the first was never finished."""
    scene.begin(0.6)
    got = attempt(scene.world.v2, scene.home, [scene.node]).whole(scene.world.files_v2)
    assert got.plan.reused > 300_000
    assert got.plan.fetched < got.plan.total - 300_000


def test_source_dies_and_another_goes_on(scene: Scene) -> None:
    """One source dies at 40 %; the other finishes, and the report tells them apart."""
    limit = int(0.4 * sum(map(len, scene.world.files_v1.values())))

    def die(exchange: Exchange) -> None:
        if exchange.proxy.sent < limit:
            exchange.honest()
        else:
            exchange.proxy.stopping.set()

    with Proxy(scene.node, die, kinds=[Kind.CAR, Kind.CHUNK]) as mortal:

        def hold(exchange: Exchange) -> None:
            if exchange.kind in (Kind.CAR, Kind.CHUNK):
                mortal.stopping.wait(0.3)

        with Proxy(scene.node, first=hold) as honest:
            outcome = attempt(scene.world.v1, scene.home, [mortal.url, honest.url])
            outcome.whole(scene.world.files_v1)
            assert outcome.state(honest.url) == "ok"
            assert outcome.state(mortal.url) in ("gone", "ok")
        mortal.stopping.clear()


def test_only_then_all(scene: Scene) -> None:
    """A pull of some files, then of all: the first is part of the second."""
    first = attempt(scene.world.v1, scene.home, [scene.node], only=["sub/*", "config.json"])
    assert first.error is None
    assert first.got is not None
    assert {entry.path for entry in first.got.files} == {"config.json", "sub/merges.bin", "sub/vocab.bin"}
    assert not (first.got.path / MODEL).exists()
    got = attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)
    assert got.plan.fetched <= got.plan.total - first.got.plan.total


def test_only_nothing(scene: Scene) -> None:
    """A glob that matches nothing is a usage error that names what there is."""
    error = attempt(scene.world.v1, scene.home, [scene.node], only=["*.gguf"]).refused(2)
    assert "config.json" in (error.hint or "")


def test_to_a_folder(scene: Scene) -> None:
    """`--to` puts the files where it is told; a second pull finds them there."""
    target = scene.home.parent / "models" / "here"
    got = attempt(scene.world.v1, scene.home, [scene.node], to=target).whole(scene.world.files_v1)
    assert got.path == target
    again = attempt(scene.world.v1, scene.home, [], to=target).whole(scene.world.files_v1)
    assert again.plan.fetched == 0
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_to_a_folder_that_is_not_empty(scene: Scene) -> None:
    """`--to` never writes into a folder of somebody else's files."""
    target = scene.home.parent / "mine"
    target.mkdir()
    (target / "config.json").write_bytes(b"mine")
    attempt(scene.world.v1, scene.home, [scene.node], to=target).refused(2)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"config.json": b"mine"}
    attempt(scene.world.v1, scene.home, [scene.node], to=target / "config.json").refused(2, 5)
    assert (target / "config.json").read_bytes() == b"mine"


def test_to_resumed(scene: Scene) -> None:
    """A pull to a folder that was broken off goes on where it stopped, and leaves nothing beside the folder."""
    target = scene.home.parent / "out" / "here"
    limit = 1_000_000

    def vanish(exchange: Exchange) -> None:
        if exchange.proxy.sent < limit:
            exchange.honest()

    with Proxy(scene.node, vanish, kinds=[Kind.CAR, Kind.CHUNK]) as mortal:
        attempt(scene.world.v1, scene.home, [mortal.url], to=target).refused(5)
    assert not target.exists()
    got = attempt(scene.world.v1, scene.home, [scene.node], to=target).whole(scene.world.files_v1)
    assert got.plan.present > 300_000
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_dry_run_writes_no_file(scene: Scene) -> None:
    """A dry run says the plan and leaves no file of the model, and no release."""
    outcome = attempt(scene.world.v1, scene.home, [scene.node], dry_run=True)
    assert outcome.got is not None
    assert outcome.got.plan.fetched > 0
    assert not outcome.got.path.exists()
    assert not (scene.home / "partial").exists()
    with Proxy(scene.node) as proxy:
        attempt(scene.world.v1, scene.home, [proxy.url], dry_run=True)
        assert Kind.CAR not in proxy.kinds_asked
    assert attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1).plan.fetched > 0


def test_served_on_while_it_is_pulled(scene: Scene) -> None:
    """A third store gets chunks from the second while the second still pulls, and the rest from the first."""
    scene.begin(0.5)
    third = scene.home.parent / "third"
    with serving(scene.home) as half:
        outcome = attempt(scene.world.v1, third, [half, scene.node])
        outcome.whole(scene.world.files_v1)
        assert outcome.state(half) != "lied"
    assert outcome.got is not None
    assert next(report.bytes for report in outcome.got.sources if report.source == half) > 0
