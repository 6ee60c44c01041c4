"""Signals, pipes and terminals: stopping is clean, bars are for eyes only."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Scene
from tests.store.stage import LIMIT_S, PROGRAM, Machine, digests, serving, throttled, write_random

MIB = 1 << 20
SOON_S = 5.0  # from the signal to the end


def heeding() -> None:
    """Let the child heed Ctrl-C, also where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Send a signal; return what was said. The process must end soon, cleanly, and say how to go on."""
    process.send_signal(number)
    started = time.monotonic()
    out, err = process.communicate(timeout=LIMIT_S)
    assert time.monotonic() - started < SOON_S
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "again" in err
    assert "Traceback" not in err
    return out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_stopped_goes_on_later(tmp_path: Path, number: signal.Signals) -> None:
    """Exit 130, a way to go on, and what had arrived is kept."""
    source = write_random(tmp_path / "m" / "a.bin", 16 * MIB).parent
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    made = alice.publish(source)
    with serving(alice.home) as url:
        with throttled(url, 8 * MIB) as wire:
            process = bob.start("pull", made.locator, "--peer", wire.url, preexec_fn=heeding)
            while wire.passed < 8 * MIB:
                assert process.poll() is None
            stopped(process, number)
        bob.fsck()
        done = bob.run("pull", made.locator, "--peer", url, "--json").json
    assert done["bytes"]["present"] >= 2 * MIB
    assert digests(Path(done["path"])) == digests(source)


@pytest.mark.parametrize("silent_after", [0, 2000, 60_000])
def test_a_pull_from_a_silent_peer_can_be_stopped(tmp_path: Path, silent_after: int) -> None:
    """Whatever it waits for: the log, the DAG, the chunks."""
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    for number in range(40):
        write_random(tmp_path / "m" / f"{number}.bin", MIB, seed=number)
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url, throttled(url, 100 * MIB) as wire:
        wire.silent_after = silent_after
        process = bob.start("pull", made.locator, "--peer", wire.url, preexec_fn=heeding)
        time.sleep(1.5)
        assert process.poll() is None
        stopped(process, signal.SIGINT)


def test_a_pull_from_several_silent_peers_can_be_stopped(tmp_path: Path) -> None:
    """While more than one of them is waited for at once."""
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    made = alice.publish(write_random(tmp_path / "a.bin", 1000))
    with serving(alice.home) as url, throttled(url, MIB) as wire:
        wire.silent_after = 0
        peers = ["--peer", wire.url, "--peer", wire.url.replace("127.0.0.1", "localhost")]
        process = bob.start("pull", made.locator, *peers, preexec_fn=heeding)
        time.sleep(2.5)
        assert process.poll() is None
        stopped(process, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_is_still_being_loaded(tmp_path: Path, number: signal.Signals) -> None:
    """Before a library is there: the same exit, the same words, and one object with `--json`."""
    (tmp_path / "typer.py").write_text("import os, time\nos.write(2, b'loading\\n')\ntime.sleep(60)\n")
    machine = Machine(tmp_path / "home", env={"PYTHONPATH": str(tmp_path)})
    process = machine.start("list", "--json", preexec_fn=heeding)
    assert process.stderr is not None
    assert process.stderr.readline() == "loading\n"
    out, _ = stopped(process, number)
    assert json.loads(out)["error"]["kind"] == "interrupted"


def test_an_interrupt_in_source_text_is_an_exit_code(tmp_path: Path) -> None:
    """What a dataclass runs while it is made is text; CPython would die by SIGINT for an interrupt that was caught."""
    program = tmp_path / "program.py"
    program.write_text(
        "from modelnet_cli import stopping\n"
        "try:\n    exec('raise KeyboardInterrupt')\nexcept KeyboardInterrupt:\n    stopping.settle()\n"
        "raise SystemExit(130)\n"
    )
    assert subprocess.run([sys.executable, program], check=False, timeout=LIMIT_S).returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_publish_that_is_stopped_records_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Also in the middle of a large file; with `--json` there is one object all the same."""
    path = tmp_path / "m" / "a.bin"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(6 << 30)  # sparse: seconds to hash, nothing on the disk
    machine = Machine(tmp_path / "home").with_publisher()
    process = machine.start("publish", path.parent, "--name", "m", "--version", "1", "--json", "-v", preexec_fn=heeding)
    time.sleep(1.2)
    assert process.poll() is None
    out, _ = stopped(process, number)
    assert '"interrupted"' in out
    assert out.count("\n") == 1
    assert machine.run("list", "--json").json["releases"] == []
    machine.fsck()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_is_stopped_by_a_signal(scene: Scene, number: signal.Signals) -> None:
    """Exit 0: being stopped is how a node ends."""
    with scene.alice.start("node", "--listen", "127.0.0.1:0", preexec_fn=heeding) as process:
        assert process.stdout is not None
        assert "serving" in process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0


def test_a_reader_that_goes_away_is_no_error(scene: Scene) -> None:
    """`modelnet list | head -0`: no traceback, no word."""
    for arguments in (["list"], ["list", "--json"], ["show", scene.locator], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [*PROGRAM, *arguments], stdout=writer, stderr=subprocess.PIPE, env=scene.alice.environment(), check=False
        )
        os.close(writer)
        assert done.stderr == b"", arguments
        assert done.returncode in {0, 141}


# Terminals.


def seen(machine: Machine, *arguments: str | Path, **env: str) -> str:
    """Return what a command draws on a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        while True:
            try:
                drawn.append(os.read(ours, 1 << 16))
            except OSError:
                return

    reader = threading.Thread(target=read)
    process = subprocess.Popen(
        [*PROGRAM, *map(os.fspath, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
        env={**machine.environment(), "TERM": "xterm-256color", **env},
    )  # fmt: skip
    os.close(theirs)
    reader.start()
    assert process.wait(LIMIT_S) == 0
    reader.join(LIMIT_S)
    os.close(ours)
    return b"".join(drawn).decode()


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("hashing", lambda scene: ("publish", scene.source, "--name", "new", "--version", "1")),
        ("verifying", lambda scene: ("verify", scene.source)),
        ("verifying", lambda _: ("fsck",)),
    ],
)
def test_bars_are_drawn_on_a_terminal_only(
    scene: Scene, what: str, arguments: Callable[[Scene], tuple[str | Path, ...]]
) -> None:
    """With `NO_COLOR` they have no colour, with `--quiet` there are none, and a pipe never sees one."""
    drawn = seen(scene.alice, *arguments(scene))
    assert what in drawn
    assert "\x1b[" in drawn
    assert "\x1b[3" in drawn
    colourless = seen(scene.alice, *arguments(scene), NO_COLOR="1")
    assert what in colourless
    assert "\x1b[3" not in colourless
    assert seen(scene.alice, *arguments(scene), "--quiet") == ""
    assert "\x1b" not in scene.alice.run(*arguments(scene), "--verbose").err


def test_a_pull_draws_each_source(scene: Scene, tmp_path: Path) -> None:
    """One bar for all and one for each source, and the plan before them."""
    drawn = seen(Machine(tmp_path / "carol"), "pull", scene.locator, "--peer", scene.url)
    assert "2.0 MB of 2.0 MB to fetch" in drawn
    assert "fetching" in drawn
    assert scene.url[:20] in drawn
