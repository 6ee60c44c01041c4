"""Passphrases: from a file, from the environment, from a question on a terminal, never from a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
from pathlib import Path

import pytest

from tests.store.stage import LIMIT_S, PROGRAM, Machine, write_random


@pytest.fixture
def locked(tmp_path: Path) -> Machine:
    """Give a machine whose keys are sealed with `open sesame`."""
    machine = Machine(tmp_path / "home", env={"MODELNET_PASSPHRASE": "open sesame"})
    machine.run("init", "--json")
    write_random(tmp_path / "m" / "a.bin", 10)
    return Machine(tmp_path / "home")


def publish(machine: Machine, tmp_path: Path, *arguments: str | Path, wanted: int) -> dict[str, object]:
    """Publish and return the JSON."""
    done = machine.run("publish", tmp_path / "m", "--name", "m", "--version", "1", "--json", *arguments, wanted=wanted)
    return done.json if wanted == 0 else done.error


def test_a_passphrase_opens_the_keys(tmp_path: Path, locked: Machine) -> None:
    """Right: from a file's first line or the environment. Wrong: exit 4. None: exit 2, without a question."""
    file = tmp_path / "passphrase"
    file.write_text("open sesame\r\nwhatever follows\n")
    assert publish(locked, tmp_path, "--passphrase-file", file, wanted=0)["locator"]
    file.write_text("open barley\n")
    assert publish(locked, tmp_path, "--passphrase-file", file, wanted=4)["rule"] == "passphrase"
    assert publish(locked, tmp_path, wanted=2)["rule"] == "passphrase"
    opened = Machine(locked.home, env={"MODELNET_PASSPHRASE": "open sesame"})
    assert publish(opened, tmp_path, wanted=0)["locator"]


@pytest.mark.parametrize("content", [None, b"", b"\nsecond", b"\xff\n", b"x" * 5000])
def test_a_passphrase_file_that_is_none(tmp_path: Path, locked: Machine, content: bytes | None) -> None:
    """Missing, empty, no text, endless: exit 2 with the file's name."""
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    error = publish(locked, tmp_path, "--passphrase-file", file, wanted=2)
    assert error["rule"] == "passphrase"
    assert error["path"] == str(file)


def test_keys_at_rest_are_sealed(locked: Machine) -> None:
    """The file holds a box, no seeds, and nobody else may read it."""
    (path,) = (locked.home / "keys").glob("*.json")
    text = path.read_text()
    assert "argon2id" in text
    assert "seeds" not in text
    assert path.stat().st_mode & 0o777 == 0o600


def on_terminal(machine: Machine, arguments: list[str], typed: bytes) -> tuple[int, str]:
    """Run a command whose terminal is ours, type something at each question, return its exit code and what it said."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=machine.environment(),
        preexec_fn=take_terminal,  # noqa: PLW1509  (no threads of ours run here)
    )  # fmt: skip
    os.close(theirs)
    said = b""
    lines = typed.splitlines(keepends=True)
    try:
        while select.select([ours], [], [], LIMIT_S)[0]:
            try:
                said += os.read(ours, 1000)
            except OSError:
                break  # the other end was closed
            if said.endswith(b": ") and lines:
                os.write(ours, lines.pop(0))
        return process.wait(LIMIT_S), said.decode()
    finally:
        process.kill()
        os.close(ours)


def test_a_terminal_is_asked_twice(tmp_path: Path) -> None:
    """`init` asks for a new passphrase and once more; what is typed is not shown."""
    machine = Machine(tmp_path / "home")
    code, said = on_terminal(machine, ["init"], b"one\ntwo\n")
    assert (code, "differ" in said) == (2, True)
    code, said = on_terminal(machine, ["init"], b"secret\nsecret\n")
    assert code == 0, said
    assert "secret" not in said
    write_random(tmp_path / "m" / "a.bin", 10)
    publishing = ["publish", str(tmp_path / "m"), "--name", "m", "--version", "1"]
    assert on_terminal(machine, publishing, b"wrong\n")[0] == 4
    assert on_terminal(machine, publishing, b"secret\n")[0] == 0
