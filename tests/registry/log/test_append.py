"""Appending: what is committed, what is refused before it is written, and what the head says."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from modelnet import ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.core.adoption import check_head
from modelnet.core.fold import origin_of
from modelnet.core.tiles import Tile, tiles_of
from modelnet_registry.log.fsck import check_log
from modelnet_registry.log.storage import FileStorage, Storage
from modelnet_registry.log.writer import LogWriter
from tests.core.logs import T0, key
from tests.registry.log.stage import Desk, MemoryStorage, parsed, size_of


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Give a publisher with an empty log."""
    return Desk.made(tmp_path / "home")


def test_init_begins_the_log(desk: Desk) -> None:
    """One entry, the genesis; the root of the head is the publisher's id."""
    assert desk.entries == [desk.genesis]
    assert size_of(desk.head) == 1
    check_head(desk.state, desk.head)
    desk.check()


def test_the_head_is_signed_and_dated(desk: Desk) -> None:
    """The log key signs, the beat key says when, and both are in force at that size."""
    note = desk.append(desk.release("1"), desk.release("2"))
    head = check_head(desk.state, note)
    assert (head.size, head.origin) == (3, origin_of(desk.pid))
    _, beats = desk.state.signers_at(3)
    assert note.cosigned(beats) == dict.fromkeys(beats, T0)
    desk.check()


def test_every_size_across_a_tile(desk: Desk) -> None:
    """One by one over the border of a tile: only the tiles of the last size are left, and all of them are right."""
    desk.append(*(desk.release(str(number)) for number in range(250)))
    for number in range(250, 262):
        desk.append(desk.release(str(number)))
        desk.check()
    found = {
        path.relative_to(desk.folder.path).as_posix()
        for path in (desk.folder.path / "tile").rglob("*")
        if path.is_file()
    }
    assert found == {tile.path for tile in tiles_of(262 + 1)}


def test_what_would_be_inert_is_refused_before_anything_is_written(desk: Desk, tmp_path: Path) -> None:
    """A replay, a taken version, a stranger's signature: the reason is raised and the log stays as it was."""
    first = desk.release("1")
    desk.append(first)
    before = {path: path.read_bytes() for path in desk.home.logs.rglob("*") if path.is_file()}
    for entry, rule in ((first, "replay"), (b"{}", "envelope"), (Desk.made(tmp_path / "b").release("3"), "publisher")):
        with pytest.raises(ModelnetError) as caught:
            desk.append(desk.release("2"), entry)
        assert caught.value.rule == rule
    assert {path: path.read_bytes() for path in desk.home.logs.rglob("*") if path.is_file()} == before


def test_refresh_dates_the_same_head_again(desk: Desk) -> None:
    """A quiet publisher stays fresh: the same size and root, a newer time, the very same log signature."""
    first = desk.append(desk.release("1"))
    with desk.open(clock=lambda: T0 + 1000) as log:
        note = log.refresh()
    assert note.unverified_text == first.unverified_text
    assert note.signatures[0] == first.signatures[0]
    _, beats = desk.state.signers_at(2)
    assert set(note.cosigned(beats).values()) == {T0 + 1000}
    assert desk.head == note
    desk.check()


def test_witnesses_add_to_the_head_and_cannot_change_it(desk: Desk) -> None:
    """What a cosigner adds is committed; another text, or our signatures gone, is refused."""
    note = desk.append(
        desk.release("1"), cosign=lambda note, _: note.cosign("wit.example/w1", key("witness 1"), T0 + 5)
    )
    assert [line.name for line in desk.head.signatures][-1] == "wit.example/w1"
    with pytest.raises(TrustError, match="changed the head"):
        desk.append(desk.release("2"), cosign=lambda _, __: note)
    # The intention was stored: the next writer finishes it.
    with desk.open() as log:
        assert log.state.size == 3
    desk.check()


def test_writers_take_turns(desk: Desk) -> None:
    """Eight threads append at once: every entry is there, once, and no two heads contradict each other."""
    entries = [desk.release(str(number)) for number in range(24)]
    threads = [
        threading.Thread(target=lambda part=entries[at::8]: [desk.append(one) for one in part]) for at in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(desk.entries[1:]) == sorted(entries)
    desk.check()


def test_a_log_that_is_being_written_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that does not end is waited for, but not for ever."""
    monkeypatch.setattr("modelnet_registry.log.guards.LOCK_S", 0.1)
    with desk.open(), pytest.raises(UnavailableError) as caught:
        desk.open()
    assert caught.value.rule == "busy"


def test_without_the_log_key(desk: Desk) -> None:
    """Reading works, writing says what is missing."""
    desk.keys = desk.keys.without("log")
    with desk.open() as log, pytest.raises(UsageError) as caught:
        log.append([desk.release("1")])
    assert caught.value.rule == "keys"
    assert size_of(desk.head) == 1


def test_the_replica_learns_after_the_lock_is_gone(desk: Desk) -> None:
    """Who is told of a commit may take the same lock."""
    told = []

    def committed(pid: str, note: object, entries: object) -> None:
        desk.open(committed=None).close()
        told.append((pid, note, entries))

    entry = desk.release("1")
    note = desk.append(entry, committed=committed)
    assert told == [(desk.pid, note, [entry])]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_storage_keeps_one_of_two_writers_out(tmp_path: Path, kind: str) -> None:
    """Create is for what is not there, swap for what is as it was; both storages agree."""
    storage: Storage = FileStorage(tmp_path / "own") if kind == "file" else MemoryStorage()
    assert storage.read("x") is None
    storage.create("x", b"1")
    for name, old in (("x", None), ("x", b"0"), ("y", b"")):
        with pytest.raises(UnavailableError) as caught:
            storage.create(name, b"2") if old is None else storage.swap(name, old, b"2")
        assert caught.value.rule == "conflict"
    storage.swap("x", b"1", b"2")
    assert storage.read("x") == b"2"
    assert storage.read("y") is None


def test_another_size_is_never_signed_below_the_intention(desk: Desk) -> None:
    """An intention that the log contradicts stops the writer, whoever wrote either."""
    storage = MemoryStorage()
    desk.append(desk.release("1"), storage=storage)
    head = parsed(desk.head)
    stored = storage.values["0.intended"].decode()
    storage.values["0.intended"] = stored.replace(stored.split("\n")[2], "A" * 43 + "=").encode()
    with pytest.raises(TrustError) as caught:
        desk.append(desk.release("2"), storage=storage)
    assert caught.value.rule == "fork"
    assert parsed(desk.head) == head


class TestFsck:
    """A damaged log is noticed, and what a crash leaves is not called damage."""

    @pytest.fixture
    def long(self, desk: Desk) -> Desk:
        """Give a log of more than one tile."""
        desk.append(*(desk.release(str(number)) for number in range(300)))
        return desk

    @pytest.mark.parametrize("tile", [Tile(None, 0), Tile(0, 0), Tile(1, 0, 1), Tile(None, 1, 45), Tile(0, 1, 45)])
    def test_a_damaged_tile(self, long: Desk, tile: Tile) -> None:
        """Every bit of every tile is checked."""
        path = long.folder.path / tile.path
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert check_log(long.home, long.pid)
        path.unlink()
        assert check_log(long.home, long.pid)

    def test_strays(self, long: Desk) -> None:
        """A file that belongs to no log is shown, and removed when asked."""
        stray = long.folder.path / "tile" / "notes.txt"
        stray.write_text("hello")
        (long.folder.path / ".checkpoint.7.tmp").write_text("half")
        (problem,) = check_log(long.home, long.pid)
        assert problem.rule == "stray"
        assert check_log(long.home, long.pid, repair=True)[0].repaired
        assert check_log(long.home, long.pid) == []
        assert not (long.folder.path / ".checkpoint.7.tmp").exists()

    def test_a_head_of_another_log(self, long: Desk, tmp_path: Path) -> None:
        """The head must be this log's and of these entries."""
        other = Desk.made(tmp_path / "other")
        long.folder.set_checkpoint(other.head)
        assert check_log(long.home, long.pid)

    def test_an_intention_of_another_history(self, long: Desk) -> None:
        """What may have been signed elsewhere is shown."""
        head = parsed(long.head)
        wrong = type(head)(head.origin, head.size, bytes(32)).encode().encode()
        (long.home.logs / long.pid / "own" / "0.intended").write_bytes(wrong)
        (problem,) = check_log(long.home, long.pid)
        assert problem.rule == "intention"
        with pytest.raises(TrustError):
            LogWriter.open(long.home, long.keys, long.genesis)
