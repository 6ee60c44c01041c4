"""The store stays whole and small: `gc` frees what nothing points to, `fsck` finds and mends, `remove` lets go."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from modelnet import UnavailableError, fsck, gc, remove
from modelnet.stores.local import open_store
from modelnet.upkeep import Problem
from tests.store.soak import seedable
from tests.store.stage import Machine, digests, same_files, serving, throttled, write_random

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a folder to publish."""
    write_random(tmp_path / "m" / "a.bin", 4 * MIB)
    write_random(tmp_path / "m" / "sub" / "b.bin", 100_000, seed=2)
    return tmp_path / "m"


@pytest.fixture
def alice(tmp_path: Path, source: Path) -> Machine:
    """Give a machine that has published `source`."""
    machine = Machine(tmp_path / "alice").with_publisher("acme")
    machine.publish(source)
    return machine


@pytest.fixture
def bob(tmp_path: Path, alice: Machine) -> Machine:
    """Give a machine that has pulled it."""
    machine = Machine(tmp_path / "bob")
    with serving(alice.home) as url:
        machine.pull(reference(alice), url)
    return machine


def reference(machine: Machine) -> str:
    """Return the reference of the release there."""
    (row,) = open_store(machine.home).index.releases()
    return f"{row.pid}/{row.name}@{row.version}"


def files_of(machine: Machine) -> Path:
    """Return the folder of the release there."""
    (row,) = open_store(machine.home).index.releases()
    return row.path


def unfinished(machine: Machine, beside: Path) -> list[Path]:
    """Return the folders of unfinished pulls, in the store and in the folder `beside`."""
    return [*(machine.home / "partial").glob("*"), *beside.glob(".target*")]


def disk_use(folder: Path) -> int:
    """Return the bytes that `folder` takes on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


# Space.


def test_a_model_is_on_the_disk_once(tmp_path: Path) -> None:
    """Published in place, pulled, and served by both: at most 0.2 % and a small index beside the model."""
    size = 64 * MIB
    write_random(tmp_path / "m" / "a.bin", size)
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    made = alice.publish(tmp_path / "m")
    carol = Machine(tmp_path / "carol")
    with serving(alice.home) as url:
        bob.pull(made.locator, url)
    with serving(bob.home) as url:
        carol.pull(made.locator, url)
        assert disk_use(bob.home) <= 1.002 * size + MIB
    assert disk_use(alice.home) <= 0.002 * size + MIB


# gc.


def test_gc_frees_a_removed_release_and_never_the_publishers_files(alice: Machine, bob: Machine, source: Path) -> None:
    """`--dry-run` says the same bytes that are then freed."""
    kept = digests(source)
    for machine, freed in ((bob, 4 * MIB + 100_000), (alice, 0)):
        release = remove(reference(machine), home=machine.home)
        assert release.name == "m"
        planned = machine.run("gc", "--dry-run", "--grace", "0", "--json").json
        assert disk_use(machine.home) > freed
        assert planned["freed"] >= freed
        done = machine.run("gc", "--grace", "0", "--json").json
        assert done["freed"] == planned["freed"]
        assert open_store(machine.home).index.releases() == []
        assert open_store(machine.home).index.block_cids() == []
        assert gc(grace_s=0, home=machine.home).bytes == 0
        machine.fsck()
    assert not list((bob.home / "models").glob("*/*/*"))
    assert digests(source) == kept


def test_gc_leaves_alone_what_a_release_needs(alice: Machine, bob: Machine) -> None:
    """Nothing is freed where everything is pointed to."""
    for machine in (alice, bob):
        assert gc(grace_s=0, home=machine.home).items == ()
        machine.fsck()
        seedable(machine)


def test_gc_keeps_what_is_younger_than_the_grace_hour(bob: Machine) -> None:
    """It may belong to a pull that has not ended."""
    remove(reference(bob), home=bob.home)
    assert gc(home=bob.home).bytes < MIB
    assert list((bob.home / "models").glob("*/*/*"))


def test_gc_frees_an_unfinished_pull(tmp_path: Path, alice: Machine, source: Path) -> None:
    """But not one that is going on, whatever the grace; in the store, and beside a folder that the user chose."""
    for target in ([], ["--to", str(tmp_path / "target")]):
        bob = Machine(tmp_path / f"bob{len(target)}")
        with serving(alice.home) as url, throttled(url, 4 * MIB) as wire:
            process = bob.start("pull", reference(alice), "--peer", wire.url, *target)
            while sum(map(disk_use, unfinished(bob, tmp_path))) < MIB:
                assert process.poll() is None
            assert gc(grace_s=0, home=bob.home).bytes == 0
            process.kill()
            process.communicate()
        assert gc(home=bob.home).bytes == 0
        assert gc(dry_run=True, grace_s=0, home=bob.home).bytes > MIB // 2
        assert gc(grace_s=0, home=bob.home).bytes > MIB // 2
        assert open_store(bob.home).index.partials() == []
        assert open_store(bob.home).index.files() == []
        assert not list((bob.home / "partial").glob("*"))
        assert not list(tmp_path.glob(".target*"))
        with serving(alice.home) as url:
            same_files(source, bob.pull(reference(alice), url).path)
        bob.fsck()


def test_gc_during_a_pull_costs_it_nothing(tmp_path: Path, alice: Machine, source: Path) -> None:
    """Collecting all the time, without grace, while a pull runs: the release is whole and can be served."""
    bob = Machine(tmp_path / "bob")
    with serving(alice.home) as url, throttled(url, 4 * MIB) as wire:
        process = bob.start("pull", reference(alice), "--peer", wire.url)
        while process.poll() is None:
            gc(grace_s=0, home=bob.home)
        process.communicate()
    assert process.returncode == 0
    same_files(source, files_of(bob))
    bob.fsck()
    seedable(bob)


def test_gc_spares_a_release_published_from_inside_another(bob: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a release points into stays, when the release it came with is let go: older versions allowed it."""
    monkeypatch.setattr("modelnet_registry.gathering._check_apart", lambda *_: None)
    inner = files_of(bob) / "sub"
    made = bob.with_publisher("bob").publish(inner, name="inner")
    (outer,) = [row for row in open_store(bob.home).index.releases() if row.name == "m"]
    remove(f"{outer.pid}/m@1", home=bob.home)
    gc(grace_s=0, home=bob.home)
    assert digests(inner).keys() == {"b.bin"}
    assert made.path == inner
    bob.fsck()


# remove.


def test_a_removed_release_can_be_pulled_again(alice: Machine, bob: Machine, source: Path) -> None:
    """Its files are still there before gc, so nothing is fetched; after gc all is."""
    wanted = reference(bob)
    with serving(alice.home) as url:
        remove(wanted, home=bob.home)
        assert bob.pull(wanted, url).plan.fetched == 0
        remove(wanted, home=bob.home)
        gc(grace_s=0, home=bob.home)
        assert bob.pull(wanted, url).plan.fetched > 4 * MIB
    same_files(source, files_of(bob))
    with pytest.raises(UnavailableError):
        remove(f"{wanted}0", home=bob.home)


# fsck.


def _flip(machine: Machine) -> None:
    path = files_of(machine) / "a.bin"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"\0\1\2\3")


def _cut(machine: Machine) -> None:
    path = files_of(machine) / "a.bin"
    path.chmod(0o644)
    os.truncate(path, 2 * MIB)


def _grow(machine: Machine) -> None:
    path = files_of(machine) / "a.bin"
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"more")


def _lose(machine: Machine) -> None:
    (files_of(machine) / "sub" / "b.bin").unlink()


def _link(machine: Machine) -> None:
    path = files_of(machine) / "sub" / "b.bin"
    path.rename(machine.home / "elsewhere")
    path.symlink_to(machine.home / "elsewhere")


def _fifo(machine: Machine) -> None:
    path = files_of(machine) / "sub" / "b.bin"
    path.unlink()
    os.mkfifo(path)


def sql(machine: Machine, statement: str) -> None:
    """Change the index behind the program's back."""
    connection = sqlite3.connect(machine.home / "index.sqlite", isolation_level=None)
    connection.execute(statement)
    connection.close()


def _damage_block(machine: Machine) -> None:
    sql(machine, "UPDATE block SET content = x'00' WHERE cid = (SELECT manifest FROM release)")


def _damage_node(machine: Machine) -> None:
    sql(machine, "UPDATE block SET content = x'00' WHERE cid != (SELECT manifest FROM release)")


def _lose_blocks(machine: Machine) -> None:
    sql(machine, "DELETE FROM block")


def _wrong_reference(machine: Machine) -> None:
    sql(machine, "UPDATE chunk SET offset = offset + 1")


def _other_manifest(machine: Machine) -> None:
    sql(machine, "UPDATE release SET version = '2'")


DAMAGE = [
    _flip, _cut, _grow, _lose, _link, _fifo, _damage_block, _damage_node, _lose_blocks,
    _wrong_reference, _other_manifest,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_fsck_finds_every_damage_and_a_pull_mends_it(
    alice: Machine, bob: Machine, source: Path, damage: Callable[[Machine], None]
) -> None:
    """Exit 3 with what and where; `--repair` and a pull make the store whole again."""
    wanted = reference(bob)
    damage(bob)
    found = bob.run("fsck", "--json", wanted=3).json["problems"]
    assert found
    assert all({"rule", "path", "message", "repaired"} <= problem.keys() for problem in found)
    assert not any(problem["repaired"] for problem in found)
    assert "bug" not in bob.run("fsck", wanted=3).err
    bob.run("fsck", "--repair", "--json", wanted=None)
    with serving(alice.home) as url:
        got = bob.pull(wanted, url)
    same_files(source, got.path)
    if damage is _other_manifest:
        sql(bob, "DELETE FROM release WHERE version = '2'")
    assert fsck(home=bob.home) == []
    seedable(bob)


def test_fsck_mends_from_another_release_that_has_the_bytes(alice: Machine, bob: Machine, source: Path) -> None:
    """A damaged pulled file is put together again from the other version's files, without a network."""
    shutil.copytree(source, source.parent / "m2")
    write_random(source.parent / "m2" / "c.bin", 10, seed=3)
    second = alice.publish(source.parent / "m2", version="2")
    with serving(alice.home) as url:
        got = bob.pull(second.locator, url)
    path = got.path / "a.bin"
    path.chmod(0o644)
    os.truncate(path, 100)
    problems = fsck(repair=True, home=bob.home)
    assert {problem.repaired for problem in problems} == {True}
    assert digests(got.path) == digests(source.parent / "m2")
    assert path.stat().st_mode & 0o777 == 0o444
    bob.fsck()
    seedable(bob)


def test_fsck_never_writes_into_the_publishers_files(alice: Machine, source: Path) -> None:
    """An edited source is reported, its references are dropped, its bytes are the publisher's business."""
    with (source / "a.bin").open("r+b") as file:
        file.write(b"edited")
    edited = digests(source)
    assert [problem["rule"] for problem in alice.run("fsck", "--json", wanted=3).json["problems"]] == [
        "reference",
        "hash",
    ]
    problems = fsck(repair=True, home=alice.home)
    assert [(problem.rule, problem.repaired) for problem in problems] == [("reference", True), ("hash", False)]
    assert digests(source) == edited


def test_a_stale_partial_is_no_problem(tmp_path: Path, alice: Machine) -> None:
    """Half a pull, even with a byte flipped in it, is whatever the next pull makes of it."""
    bob = Machine(tmp_path / "bob")
    with serving(alice.home) as url, throttled(url, 2 * MIB) as wire:
        process = bob.start("pull", reference(alice), "--peer", wire.url)
        while wire.passed < 3 * MIB:
            assert process.poll() is None
        process.kill()
        process.communicate()
    (part,) = (bob.home / "partial").glob("*/files/a.bin")
    with part.open("r+b") as file:
        file.write(bytes(1000))
    bob.fsck()


@pytest.mark.parametrize("how", ["header", "middle", "text", "empty page"])
def test_a_damaged_index_is_set_aside(alice: Machine, bob: Machine, source: Path, how: str) -> None:
    """Every command says so with exit 3; after the repair a pull finds the files and fetches nothing."""
    wanted = reference(bob)
    path = bob.home / "index.sqlite"
    sql(bob, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    match how:
        case "header":
            content[:16] = b"not an SQLite db"
        case "middle":
            content[4096:] = os.urandom(len(content) - 4096)
        case "text":
            content = bytearray(b"something else entirely\n" * 1000)
        case _:
            content[4096:8192] = bytes(4096)
    for leftover in bob.home.glob("index.sqlite-*"):
        leftover.unlink()
    path.write_bytes(content)
    for command in (("fsck",), ("list",), ("verify", files_path(bob)), ("gc",)):
        done = bob.run(*command, "--json", wanted=None)
        if how in {"header", "text", "middle"}:
            assert done.code == 3, (command, done)
        assert "Traceback" not in done.err
    assert bob.run("fsck", "--json", wanted=3).json["problems"][0]["rule"] == "index"
    repaired = bob.run("fsck", "--repair", "--json").json["problems"]
    assert repaired[0]["repaired"]
    assert list(bob.home.glob("index.sqlite.damaged-*"))
    bob.fsck()
    with serving(alice.home) as url:
        assert bob.pull(wanted, url).plan.fetched == 0
    same_files(source, files_of(bob))
    seedable(bob)


def files_path(machine: Machine) -> Path:
    """Return the folder of the release without asking the index."""
    (path,) = (machine.home / "models").glob("*/m/1")
    return path


def test_a_lost_index_costs_no_identity(alice: Machine, source: Path) -> None:
    """With the keys still there the publisher publishes on, under the same pid."""
    pid = reference(alice).split("/", maxsplit=1)[0]
    for path in alice.home.glob("index.sqlite*"):
        path.unlink()
    made = alice.publish(source)
    assert made.release.pid == pid
    alice.fsck()


def test_problems_are_values() -> None:
    """A caller of the API can compare them."""
    assert Problem("hash", "a", "b") == Problem("hash", "a", "b")


def test_a_lock_that_nobody_holds_does_not_keep_a_partial(bob: Machine) -> None:
    """The lock dies with its process; the file means nothing."""
    folder = bob.home / "partial" / "old"
    write_random(folder / "files" / "a.bin", MIB)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    (row,) = open_store(bob.home).index.releases()
    open_store(bob.home).index.begin_partial(row.manifest, folder)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert gc(grace_s=0, home=bob.home).bytes == 0
    finally:
        os.close(handle)
    assert gc(grace_s=0, home=bob.home).bytes >= MIB
    assert not folder.exists()
