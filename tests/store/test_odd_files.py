"""Folders and fifos where a store has files, and logs that are gone: a typed error, a problem of fsck, never a wait."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelnet
from modelnet import durable
from modelnet.stores.local import open_store
from modelnet_registry.log.fsck import check_logs
from tests.store.stage import Machine, serving, write_random


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[tuple[Machine, Machine, str, str]]:
    """Give a publisher, one who pulled from it, the publisher's id and the URL of its node."""
    write_random(tmp_path / "m" / "a.bin", 1000)
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url:
        bob.pull(made.locator, url)
        yield alice, bob, made.release.pid, url


@pytest.mark.parametrize("kind", ["folder", "fifo"])
@pytest.mark.parametrize("name", ["checkpoint", "tile/entries/000.p/2", "tile/0/000.p/2", "cosigned/x.note"])
def test_no_regular_file_in_a_log(shelf: tuple[Machine, Machine, str, str], name: str, kind: str) -> None:
    """Publishing, asking and checking end with words about the path, and fsck finds it."""
    alice, _, pid, _ = shelf
    path = alice.home / "logs" / pid / "0" / name
    path.unlink(missing_ok=True)
    {"folder": Path.mkdir, "fifo": os.mkfifo}[kind](path)

    with pytest.raises(modelnet.ModelnetError) as caught:
        alice.publish(alice.home.parent / "m", version="2")
    assert caught.value.exit_code in (3, 5)
    assert caught.value.hint
    found = [*modelnet.fsck(home=alice.home), *check_logs(open_store(alice.home).home)]
    assert any(str(path) in f"{problem.path} {problem.message}" for problem in found)


def test_the_commands_say_it_too(shelf: tuple[Machine, Machine, str, str]) -> None:
    """None of them with a traceback."""
    alice, _, pid, _ = shelf
    checkpoint = alice.home / "logs" / pid / "0" / "checkpoint"
    checkpoint.unlink()
    checkpoint.mkdir()
    for command, code in (("list", 0), ("status", 0), ("fsck", 3)):
        done = alice.run(command, wanted=code)
        assert "damaged" in done.out or "not a regular file" in done.out
        assert "Traceback" not in done.err


def test_a_log_that_is_gone_is_a_problem(shelf: tuple[Machine, Machine, str, str]) -> None:
    """Not mended here, and its releases are kept: another sync brings the log, and all is well again."""
    _, bob, pid, url = shelf
    shutil.rmtree(bob.home / "logs" / pid)
    for repair in (False, True):
        rules = {problem.rule for problem in modelnet.fsck(home=bob.home, repair=repair) if not problem.repaired}
        assert rules == {"log", "missing"}
    bob.run("sync", pid, "--peer", url)
    bob.fsck()
    assert [row.name for row in open_store(bob.home).index.releases()] == ["m"]


@pytest.mark.parametrize("name", ["policy.toml", "policy", "chosen.toml"])
def test_a_fifo_for_a_policy(shelf: tuple[Machine, Machine, str, str], name: str) -> None:
    """It is refused and not waited for."""
    _, bob, _, _ = shelf
    os.mkfifo(bob.home / name)
    chosen = [bob.home / name] if name == "chosen.toml" else []
    assert "not a regular file" in bob.run("policy", "check", *chosen, wanted=3).err


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    """A result for a pipe or a device goes through it; it stays what it was, and nothing lies beside it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="No such device"):
        durable.write(fifo, b"x")  # nobody reads: that is said, not waited for
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        durable.write(fifo, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    durable.write(Path(os.devnull), b"content")
    assert Path(os.devnull).is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
    with pytest.raises(IsADirectoryError):
        durable.write(tmp_path, b"x")


def test_a_proof_goes_to_the_output(shelf: tuple[Machine, Machine, str, str], tmp_path: Path) -> None:
    """`--out /dev/stdout`, to a pipe and to a file."""
    _, bob, pid, _ = shelf
    assert "c2sp.org/tlog-proof" in bob.run("prove", f"{pid}/m@1", "--out", "/dev/stdout").out
    with (tmp_path / "out").open("w") as out:
        bob.run("prove", f"{pid}/m@1", "--out", "/dev/stdout", "--quiet", stdout=out)
    assert (tmp_path / "out").read_text().startswith("c2sp.org/tlog-proof")
    assert (tmp_path / "out").read_text().endswith("/dev/stdout: entry 1 of 2\n")
    assert Path("/dev/stdout").is_symlink()
