"""Nothing is lost, and nothing false is kept, whatever dies or fails: processes, system calls, the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelnet import IntegrityError, ModelnetError, UnavailableError, UsageError, fsck, init
from modelnet.stores.keyring import own_publishers
from modelnet.stores.local import open_store
from tests.store.faults import STEPS, Fault, counted, failing
from tests.store.soak import Toll, check, kill_nodes, kill_publishers, kill_pullers, seedable
from tests.store.stage import LIMIT_S, Machine, digests, same_files, serving, throttled, write_random

MIB = 1 << 20
KILLS = int(os.environ.get("MODELNET_TEST_KILLS", "10"))  # all of them together; `make` runs 10, a soak 200


# Kill -9.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("story", "share", "seed"),
    [(kill_pullers, 4, 1), (kill_pullers, 4, 2), (kill_pullers, 4, 3), (kill_nodes, 4, 4), (kill_publishers, 4, 5)],
)
def test_kill_9_at_random_moments(tmp_path: Path, story: Callable[..., Toll], share: int, seed: int) -> None:
    """No corrupt state is accepted, what was there is not fetched again, fsck is clean, and in the end all is there."""
    toll = story(tmp_path, max(1, KILLS * share // 20), seed)
    print(f"{story.__name__}: {toll}")


@pytest.fixture
def alice(tmp_path: Path) -> Machine:
    """Give a machine that has published a small model of several files."""
    source = tmp_path / "m"
    write_random(source / "a.bin", 2 * MIB + 5)
    write_random(source / "sub" / "b.bin", 300_000, seed=2)
    write_random(source / "sub" / "none", 0)
    machine = Machine(tmp_path / "alice").with_publisher("acme")
    machine.publish(source)
    return machine


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give the folder that alice has published."""
    return tmp_path / "m"


def locator(alice: Machine) -> str:
    """Return what pulls alice's model."""
    (row,) = open_store(alice.home).index.releases()
    return f"{row.pid}/m@1"


def some(count: int) -> list[int]:
    """Return which of `count` calls to try: all, or the first and the last ones."""
    numbers = range(1, count + 1)
    return list(numbers) if count <= 4 else [*numbers[:2], *numbers[-2:]]


def counts(tmp_path: Path, alice: Machine, url: str) -> dict[str, int]:
    """Return how often a pull does each step."""
    with counted() as seen:
        Machine(tmp_path / "counting").pull(locator(alice), url)
    return dict(seen)


@pytest.mark.parametrize("step", STEPS)
def test_kill_9_at_every_step(tmp_path: Path, alice: Machine, source: Path, step: str) -> None:
    """Dead right before or right after a system call of a pull: the store is whole, and the next pull ends the work."""
    wanted = digests(source)
    with serving(alice.home) as url:
        count = counts(tmp_path, alice, url).get(step, 0)
        # The first and the last: each is two processes, and those between fail without dying in the test below.
        for nth in sorted({1, count} if count else ()):
            for when in ("not-applied", "applied"):
                bob = Machine(tmp_path / f"bob-{nth}-{when}")
                program = [sys.executable, "-m", "tests.store.faults", step, str(nth), when]
                died = subprocess.run(
                    [*program, "pull", locator(alice), "--peer", url],
                    env=bob.environment(), timeout=LIMIT_S, check=False, capture_output=True,
                )  # fmt: skip
                if died.returncode == 0:
                    break  # threads differ in how often they find a folder there
                assert died.returncode == -signal.SIGKILL
                check(bob, wanted)
                got = bob.pull(locator(alice), url)
                assert digests(got.path) == wanted
                check(bob, wanted)
                seedable(bob)


# Failing system calls.


# Either error to a folder that the user chose, and into the store: what differs between them is one hint.
@pytest.mark.parametrize(
    ("error", "to"), [(errno.ENOSPC, None), (errno.EIO, "new"), (errno.ENOSPC, "there")], ids=["store", "new", "there"]
)
@pytest.mark.parametrize("step", STEPS)
def test_a_pull_survives_one_failing_step(  # noqa: PLR0917  (fixtures)
    tmp_path: Path, alice: Machine, source: Path, step: str, error: int, to: str | None
) -> None:
    """Not done, or done and reported as failed: one clear error, the store whole, and a retry completes."""
    wanted = digests(source)
    with serving(alice.home) as url:
        for nth in some(counts(tmp_path, alice, url).get(step, 0)):
            for applied in (False, True):
                bob = Machine(tmp_path / f"bob-{nth}-{applied}")
                target = None if to is None else tmp_path / "targets" / f"{nth}-{applied}"
                if target is not None and to == "there":
                    target.mkdir(parents=True)
                with failing(Fault(step, nth, applied=applied, error=error)) as fault:
                    try:
                        bob.pull(locator(alice), url, to=target)
                    except UnavailableError as refusal:
                        assert refusal.rule in {"disk", "store", "sources"}  # noqa: PT017  (it may also succeed)
                if not fault.happened:
                    break  # threads differ in how often they find a folder there
                check(bob, wanted)
                got = bob.pull(locator(alice), url, to=target)
                assert digests(got.path) == wanted
                check(bob, wanted)
                seedable(bob)
                if target is not None:
                    assert got.path == target
                    assert not list(target.parent.glob(".*"))


@pytest.mark.parametrize("applied", [False, True])
def test_a_publish_survives_a_failing_commit(alice: Machine, source: Path, *, applied: bool) -> None:
    """The release is there whole or not at all, and publishing again gives it."""
    with counted() as seen:
        alice.publish(source, name="counting")
    for nth in range(1, seen["commit"] + 1):
        name = f"m{nth}"
        with failing(Fault("commit", nth, applied=applied, error=errno.ENOSPC)) as fault:
            try:
                alice.publish(source, name=name)
            except UnavailableError as refusal:
                assert refusal.rule == "store"  # noqa: PT017  (what only caches the log may fail in silence)
        assert fault.happened
        check(alice, digests(source))
        made = alice.publish(source, name=name)
        assert [row.manifest for row in open_store(alice.home).index.releases() if row.name == name] == [
            made.release.manifest
        ]
    seedable(alice)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("step", ["mkdir", "fsync", "replace", "commit"])
def test_a_publisher_is_made_whole_or_can_be_made_again(tmp_path: Path, step: str, *, applied: bool) -> None:
    """After a failing step of `init` the store can publish, by the publisher that is there or by a new one."""
    with counted() as seen:
        init(home=tmp_path / "counting")
    for nth in range(1, seen[step] + 1):
        machine = Machine(tmp_path / f"home-{nth}")
        with failing(Fault(step, nth, applied=applied, error=errno.EIO)), contextlib.suppress(UnavailableError):
            init(alias="acme", home=machine.home)
        if not own_publishers(machine.home / "keys"):
            init(alias="acme", home=machine.home)
        write_random(tmp_path / "m" / "a.bin", 10)
        machine.publish(tmp_path / "m")
        assert fsck(home=machine.home) == []


def test_the_index_held_by_another_program_is_an_answer(
    alice: Machine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that never ends: an error after the time-out, not a wait without end."""
    monkeypatch.setattr("modelnet.stores.index.BUSY_TIMEOUT_S", 0.2)
    blocker = sqlite3.connect(alice.home / "index.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(UnavailableError, match="locked") as caught:
            alice.publish(source, name="other")
    finally:
        blocker.close()
    assert caught.value.rule == "store"


# Interrupted in the middle, and going on.


def test_a_pull_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Interrupted, killed, its partial damaged: only what is missing or wrong is fetched."""
    source = write_random(tmp_path / "m" / "a.bin", 24 * MIB).parent
    alice = Machine(tmp_path / "alice").with_publisher()
    made = alice.publish(source)
    bob = Machine(tmp_path / "bob")
    with serving(alice.home) as url:
        with throttled(url, 16 * MIB) as wire:
            process = bob.start("pull", made.locator, "--peer", wire.url)
            while wire.passed < 12 * MIB:
                assert process.poll() is None
            process.kill()
            process.communicate()
        (part,) = (bob.home / "partial").glob("*/files/a.bin")
        before = bob.pull(made.locator, url, dry_run=True).plan.fetched
        assert before <= 24 * MIB - 4 * MIB
        # A flipped byte of what has arrived is noticed: that chunk is missing again.
        with part.open("r+b") as file:
            offset = os.lseek(file.fileno(), 0, os.SEEK_DATA)
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))
        got = bob.pull(made.locator, url)
    assert before < got.plan.fetched <= before + MIB
    same_files(source, got.path)
    bob.fsck()


def test_two_pulls_at_once(tmp_path: Path, alice: Machine, source: Path) -> None:
    """The second says that one is going on, or finds everything there; nothing is damaged."""
    bob = Machine(tmp_path / "bob")
    with serving(alice.home) as url, throttled(url, 2 * MIB) as wire:
        first = bob.start("pull", locator(alice), "--peer", wire.url, "--json")
        while wire.passed < MIB:
            assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        second = bob.run("pull", locator(alice), "--peer", url, "--json", wanted=5)
        first.send_signal(signal.SIGCONT)
        assert second.error["rule"] == "busy"
        first.communicate(timeout=LIMIT_S)
        assert first.returncode == 0
    check(bob, digests(source))
    seedable(bob)


def test_a_source_that_goes_away_for_good(tmp_path: Path, alice: Machine) -> None:
    """Exit 5 with what became of it, soon; what has arrived is kept."""
    source = write_random(tmp_path / "big" / "a.bin", 16 * MIB).parent
    made = alice.publish(source, name="big")
    bob = Machine(tmp_path / "bob")
    with alice.started_node("127.0.0.1:0") as node:
        assert node.stdout is not None
    with serving(alice.home) as url:
        with throttled(url, 8 * MIB) as wire:
            process = bob.start("pull", made.locator, "--peer", wire.url, "--json")
            while wire.passed < 8 * MIB:
                assert process.poll() is None
        out, _ = process.communicate(timeout=LIMIT_S)  # the wire is cut: nobody listens there any more
        assert process.returncode == UnavailableError.exit_code, out
        got = bob.pull(made.locator, url)
    assert got.plan.present > 0
    same_files(source, got.path)


# The disk.


@contextmanager
def disk(path: Path, size: int) -> Iterator[Path]:
    """Mount an empty disk of `size` bytes at `path`, or skip the test."""
    path.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=False, capture_output=True
        )
    except OSError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip("only root mounts disks")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


class Filler:
    """A watcher that fills the disk at `folder` when the first bytes have come."""

    def __init__(self, folder: Path) -> None:
        """Fill by one file, `hog`."""
        self.hog = folder / "hog"

    def advance(self, source: str, _count: int) -> None:
        """Fill the disk, once."""
        if source == "disk" or self.hog.exists():
            return
        with self.hog.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017  (the disk is full now: that was the point)

    def begin(self, phase: str, total: int) -> None:
        """Nothing to draw."""

    def note(self, text: str) -> None:
        """Nothing to say."""

    def end(self) -> None:
        """Nothing to end."""


def test_a_disk_that_is_too_small_is_said_first(tmp_path: Path, alice: Machine) -> None:
    """How much is needed and how much is there, before a byte is fetched."""
    made = alice.publish(write_random(tmp_path / "big" / "a.bin", 24 * MIB).parent, name="big")
    with disk(tmp_path / "disk", 32 * MIB) as small, serving(alice.home) as url:
        done = Machine(small / "home").run("pull", made.locator, "--peer", url, "--json", wanted=5)
    assert done.error["rule"] == "disk"
    assert "wanted 41.9 MB free" in done.error["message"]
    assert done.error["hint"]


@pytest.mark.parametrize("where", ["home", "to", "to is the disk itself"])
def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, alice: Machine, where: str) -> None:
    """A clear error; with space again the pull goes on with what had arrived."""
    source = write_random(tmp_path / "big" / "a.bin", 24 * MIB).parent
    made = alice.publish(source, name="big")
    with disk(tmp_path / "disk", 64 * MIB) as small, serving(alice.home) as url, throttled(url, 10 * MIB) as wire:
        bob = Machine(small / "home" if where == "home" else tmp_path / "bob")
        target = {"home": None, "to": small / "t", "to is the disk itself": small}[where]
        filler = Filler(small)
        with pytest.raises(UnavailableError) as caught:
            bob.pull(made.locator, wire.url, to=target, progress=filler)
        assert caught.value.rule in {"disk", "store"}
        assert caught.value.hint is not None
        filler.hog.unlink()
        assert fsck(home=bob.home) == []
        got = bob.pull(made.locator, url, to=target)
        assert got.plan.present > 0
        assert digests(got.path) == digests(source)
        bob.fsck()
        seedable(bob)


def test_publishing_and_making_a_publisher_on_a_full_disk(tmp_path: Path) -> None:
    """Clear errors, nothing recorded, and all works once there is space."""
    source = write_random(tmp_path / "m" / "a.bin", 3 * MIB).parent
    with disk(tmp_path / "disk", 4 * MIB) as small:
        machine = Machine(small / "home")
        filler = Filler(small)
        filler.advance("test", 1)
        assert machine.run("init", "--no-passphrase", "--json", wanted=5).error["hint"]
        filler.hog.unlink()
        machine.run("init", "--no-passphrase", "--json")
        filler.advance("test", 1)
        done = machine.run("publish", source, "--name", "m", "--version", "1", "--json", wanted=5)
        assert done.error["rule"] == "store"
        filler.hog.unlink()
        assert open_store(machine.home).index.releases() == []
        machine.run("publish", source, "--name", "m", "--version", "1", "--json")
        machine.fsck()


def test_a_disk_that_is_read_only(tmp_path: Path, alice: Machine, source: Path) -> None:
    """Pulling there is refused clearly; nothing hangs and what is there stays."""
    with disk(tmp_path / "disk", 64 * MIB) as small, serving(alice.home) as url:
        bob = Machine(small / "home")
        bob.run("pull", locator(alice), "--peer", url)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        for command in (
            ("pull", f"{locator(alice)[:-2]}@2", "--peer", url),
            ("pull", locator(alice), "--peer", url, "--to", small / "t"),
            ("publish", source, "--name", "x", "--version", "1"),
            ("init", "--no-passphrase"),
        ):
            done = bob.run(*command, "--json", wanted=None)
            assert done.code in {2, 5}, done
            assert "bug" not in done.out + done.err
        done = Machine(tmp_path / "carol").run(
            "pull", locator(alice), "--peer", url, "--to", small / "t", "--json", wanted=5
        )
        assert done.error["rule"] == "disk"
        assert "--to" in done.error["hint"]
        (path,) = (small / "home" / "models").glob("*/m/1")
        same_files(source, path)


@pytest.mark.parametrize("what", ["home", "to", "parent of to"])
def test_a_folder_that_may_not_be_written(tmp_path: Path, alice: Machine, source: Path, what: str) -> None:
    """Exit 5 with the folder and a hint; nothing is left behind."""
    closed = tmp_path / "closed"
    closed.mkdir()
    bob = Machine(closed / "home" if what == "home" else tmp_path / "bob").held_to_permissions()
    target = {"home": [], "to": ["--to", closed], "parent of to": ["--to", closed / "t"]}[what]
    closed.chmod(0o555)
    try:
        with serving(alice.home) as url:
            done = bob.run("pull", locator(alice), "--peer", url, "--json", *target, wanted=5)
    finally:
        closed.chmod(0o755)
    assert str(closed) in done.error["message"] + done.error["path"]
    assert done.error["hint"]
    assert list(closed.iterdir()) == []
    assert digests(source)


def test_a_home_that_is_a_file(tmp_path: Path, source: Path) -> None:
    """Not a bug of ours, and said so."""
    (tmp_path / "file").write_text("not a folder")
    write_random(source / "a.bin", 10)
    machine = Machine(tmp_path / "file")
    for command in (("list",), ("init", "--no-passphrase"), ("publish", source, "--name", "m", "--version", "1")):
        done = machine.run(*command, "--json", wanted=None)
        assert done.code in {2, 5}
        assert done.error["hint"]


def test_errors_have_families(tmp_path: Path, alice: Machine) -> None:
    """What the tests above catch is what a caller catches: every refusal is a `ModelnetError` of one family."""
    for family in (UnavailableError, UsageError, IntegrityError):
        assert issubclass(family, ModelnetError)
    with pytest.raises(UnavailableError):
        Machine(tmp_path / "bob").pull(locator(alice), "http://127.0.0.1:9")
