"""A publish to Kubo that is broken off, by whom and when ever, is resumed; nothing half-published is ever pinned."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from modelnet import pull
from modelnet.errors import IntegrityError, ModelnetError, UnavailableError
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.ipfs.push import Pushed, push
from modelnet.ipfs.segments import ReleaseBlocks
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server
from tests.engines import Kubo, kubo_repository, kubo_running, need_kubo
from tests.ipfs.conftest import Maker

Folder = Callable[[Mapping[str, bytes]], Path]
SEGMENT = 2_000_000
SIZE = 24_000_000


class Watcher:
    """Calls `strike` when a phase begins, or after some bytes of it."""

    def __init__(self, phase: str, after: int, strike: Callable[[], None]) -> None:
        self.phase, self.after, self.strike = phase, after, strike
        self.now, self.seen, self.notes = "", 0, list[str]()

    def begin(self, phase: str, total: int) -> None:
        """Remember the phase."""
        self.now, self.seen = phase, 0
        assert total > 0
        self._look()

    def advance(self, source: str, count: int) -> None:
        """Count bytes."""
        assert source
        self.seen += count
        self._look()

    def _look(self) -> None:
        if self.now == self.phase and self.seen >= self.after:
            self.phase = ""
            self.strike()

    def note(self, text: str) -> None:
        """Keep what was said."""
        self.notes.append(text)

    def end(self) -> None:
        """Nothing."""


@pytest.fixture
def repo(tmp_path: Path) -> Kubo:
    """Give a repository without a daemon."""
    need_kubo()
    (tmp_path / "kubo").mkdir()
    return kubo_repository(tmp_path / "kubo")


def go(maker: Maker, made: object, kubo: Kubo, watcher: Watcher | None = None) -> Pushed:
    """Push what was published."""
    root = made.release.manifest  # type: ignore[attr-defined]
    with KuboClient.connect(KuboAddress.parse(kubo.api)) as client:
        if watcher is None:
            return push(maker.store, client, root, "modelnet/m@1", segment=SEGMENT)
        return push(maker.store, client, root, "modelnet/m@1", segment=SEGMENT, progress=watcher)


def pins(kubo: Kubo) -> str:
    """Return the recursive pins."""
    return kubo.run("pin", "ls", "--type=recursive", "--names").decode()


@contextmanager
def killed_at(repo: Kubo, phase: str, after: int) -> Iterator[tuple[Kubo, Watcher]]:
    """Run a daemon that dies by SIGKILL at a point of a push."""
    with kubo_running(repo) as kubo:
        yield kubo, Watcher(phase, after, lambda: os.kill(kubo.pid, signal.SIGKILL))


@pytest.mark.parametrize(
    ("phase", "after"), [("sending to kubo", 0), ("sending to kubo", 11_000_000), ("pinning", 0)], ids=str
)
def test_the_daemon_is_killed(maker: Maker, folder: Folder, repo: Kubo, phase: str, after: int) -> None:
    """Before, amid the import and before the pin: a clear error, no pin, and the next push sends only the rest."""
    made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE), "config.json": b"{}"}))
    with killed_at(repo, phase, after) as (kubo, watcher), pytest.raises(UnavailableError) as caught:
        go(maker, made, kubo, watcher)
    assert caught.value.rule in {"kubo-connection", "kubo-silent"}
    assert caught.value.hint
    with kubo_running(repo) as kubo:
        assert str(made.release.manifest) not in pins(kubo)
        pushed = go(maker, made, kubo)
        assert f"{made.release.manifest} recursive modelnet/m@1" in pins(kubo)
        kubo.run("dag", "stat", "--offline", "--progress=false", str(made.release.manifest))
    if phase == "pinning":
        assert (pushed.sent, pushed.resumed) == (0, pushed.bytes)
    elif after:
        assert 0 < pushed.sent < pushed.bytes
        assert pushed.sent + pushed.resumed == pushed.bytes
    else:
        assert pushed.sent == pushed.bytes


@pytest.mark.parametrize("lost", ["all", "one chunk"])
def test_kubo_collected_what_it_had_taken(maker: Maker, folder: Folder, repo: Kubo, lost: str) -> None:
    """Blocks went between a killed push and the next: that is noticed before the pin, and all is sent again."""
    made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE), "config.json": b"{}"}))
    with killed_at(repo, "pinning", 0) as (kubo, watcher), pytest.raises(UnavailableError):
        go(maker, made, kubo, watcher)
    assert list((maker.home / "kubo").glob("*/*.json"))
    with kubo_running(repo) as kubo:
        if lost == "all":
            kubo.run("repo", "gc", "--quiet")
        else:
            blocks = ReleaseBlocks(maker.store, made.release.manifest)
            kubo.run("block", "rm", str(blocks.chunk(blocks.chunk_count // 2)[0]))
        watcher = Watcher("", 0, lambda: None)
        pushed = go(maker, made, kubo, watcher)
        assert f"{made.release.manifest} recursive modelnet/m@1" in pins(kubo)
        assert any("lost blocks" in note for note in watcher.notes)
        assert pushed.sent == pushed.bytes
        kubo.run("dag", "stat", "--offline", "--progress=false", str(made.release.manifest))
    assert not list((maker.home / "kubo").glob("*/*.json"))


def test_the_daemon_stops_reading(maker: Maker, folder: Folder, repo: Kubo) -> None:
    """A daemon that hangs in the middle of an import is given up after our patience; awake again it gets the rest."""
    made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE)}))
    root = made.release.manifest
    with kubo_running(repo) as kubo, KuboClient.connect(KuboAddress.parse(kubo.api), 1.0) as client:
        watcher = Watcher("sending to kubo", 5_000_000, lambda: os.kill(kubo.pid, signal.SIGSTOP))
        try:
            with pytest.raises(UnavailableError) as caught:
                push(maker.store, client, root, "modelnet/m@1", segment=12_000_000, progress=watcher)
        finally:
            os.kill(kubo.pid, signal.SIGCONT)
        assert caught.value.rule == "kubo-silent"
        assert str(root) not in pins(kubo)
        go(maker, made, kubo)
        assert str(root) in pins(kubo)


def test_a_part_of_a_release_cannot_be_pinned(maker: Maker, folder: Folder, repo: Kubo, tmp_path: Path) -> None:
    """Who pulled some files only has no whole release to give; the error says what to do."""
    made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE), "config.json": b"{}"}))
    some = Maker(tmp_path / "some")
    with Server(Doors(maker.store), "127.0.0.1") as node:
        pull(made.locator, peers=[node.url], only=["config.json"], home=some.home)
    with kubo_running(repo) as kubo:
        with pytest.raises(UnavailableError) as caught:
            go(some, made, kubo)
        assert caught.value.rule == "missing"
        assert str(made.release.manifest) not in pins(kubo)


def test_kubo_lost_what_it_had_taken(maker: Maker, folder: Folder, repo: Kubo) -> None:
    """Its garbage collector ran between two attempts: the journal is not believed against the pin."""
    made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE)}))
    with killed_at(repo, "pinning", 0) as (kubo, watcher), suppress(UnavailableError):
        go(maker, made, kubo, watcher)
    with kubo_running(repo) as kubo:
        kubo.run("repo", "gc", "--quiet")
        watcher = Watcher("", 0, lambda: None)
        pushed = go(maker, made, kubo, watcher)
        assert pushed.sent == pushed.bytes
        assert any("lost blocks" in note for note in watcher.notes)
        assert str(made.release.manifest) in pins(kubo)
        again = go(maker, made, kubo)
        assert (again.sent, again.resumed) == (0, pushed.bytes)


def test_we_are_interrupted(maker: Maker, folder: Folder, repo: Kubo) -> None:
    """An exception in the middle, as Ctrl-C is one, leaves no pin and a journal to go on with."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE)}))
    with kubo_running(repo) as kubo:
        with pytest.raises(KeyboardInterrupt):
            go(maker, made, kubo, Watcher("sending to kubo", 13_000_000, interrupt))
        assert str(made.release.manifest) not in pins(kubo)
        assert 0 < go(maker, made, kubo).sent < SIZE


def test_a_file_of_the_release_changed(maker: Maker, folder: Folder, repo: Kubo) -> None:
    """The error names file and place; what was right before it stays sent, nothing is pinned."""
    base = folder({"w.bin": secrets.token_bytes(SIZE)})
    made = maker.publish(base)
    with (base / "w.bin").open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"changed")
    with kubo_running(repo) as kubo:
        with pytest.raises(IntegrityError) as caught:
            go(maker, made, kubo)
        assert caught.value.path == str(base / "w.bin")
        assert caught.value.offset is not None
        assert 0 <= 20_000_000 - caught.value.offset < 1 << 18
        (base / "w.bin").unlink()
        with pytest.raises(ModelnetError):
            go(maker, made, kubo)
        assert str(made.release.manifest) not in pins(kubo)


def test_kubos_disk_is_full(maker: Maker, folder: Folder, tmp_path: Path) -> None:
    """A small disk refuses the import in Kubo's own words; with more space the push goes on."""
    need_kubo()
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        made = maker.publish(folder({"w.bin": secrets.token_bytes(SIZE)}))
        repo = kubo_repository(disk)
        with kubo_running(repo) as kubo:
            with pytest.raises(UnavailableError) as caught:
                go(maker, made, kubo)
            assert caught.value.rule in {"kubo-disk", "kubo-connection"}
            subprocess.run(["mount", "-o", "remount,size=128m", disk], check=True, capture_output=True)
            assert str(made.release.manifest) not in pins(kubo)
            go(maker, made, kubo)
            assert str(made.release.manifest) in pins(kubo)
    finally:
        subprocess.run(["umount", "-l", disk], check=False, capture_output=True)


def test_the_daemon_is_killed_in_the_middle_of_a_pull(maker: Maker, folder: Folder, repo: Kubo, tmp_path: Path) -> None:
    """What came through its gateway is kept; the pull says who is gone, and the next one fetches the rest."""
    base = folder({"w.bin": secrets.token_bytes(SIZE)})
    made = maker.publish(base)
    with Server(Doors(maker.store), "127.0.0.1") as node, kubo_running(repo) as kubo:
        go(maker, made, kubo)
        (base / "w.bin").rename(tmp_path / "aside")
        watcher = Watcher("fetching", 5_000_000, lambda: os.kill(kubo.pid, signal.SIGKILL))
        arguments = {"to": tmp_path / "got", "home": tmp_path / "puller"}
        with pytest.raises(UnavailableError) as caught:
            pull(made.locator, peers=[node.url, kubo.gateway], progress=watcher, **arguments)
        assert kubo.gateway in str(caught.value)
        with kubo_running(repo) as again:
            got = pull(made.locator, peers=[node.url, again.gateway], **arguments)
    assert 0 < got.plan.fetched < SIZE
    assert (tmp_path / "got" / "w.bin").read_bytes() == (tmp_path / "aside").read_bytes()
