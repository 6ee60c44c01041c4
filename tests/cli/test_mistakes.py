"""The likeliest mistakes of each command: one sentence that says what and where, one hint, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Scene
from tests.store.stage import Machine

PID = "a" * 52

Mistake = tuple[int, str, Callable[[Scene], tuple[str | Path, ...]]]

MISTAKES: dict[str, Mistake] = {
    "no command": (2, "no such command", lambda _: ("pul", "x")),
    "no option": (2, "--jsno", lambda _: ("list", "--jsno")),
    "init: twice": (2, "already", lambda _: ("init", "--no-passphrase")),
    "init: no passphrase": (2, "passphrase", lambda _: ("init",)),
    "init: a strange alias": (2, "alias", lambda _: ("init", "--name", "A B", "--no-passphrase")),
    "publish: no name": (2, "--name", lambda scene: ("publish", scene.source, "--version", "1")),
    "publish: no such path": (
        2, "No such file", lambda scene: ("publish", scene.source / "x", "--name", "m", "--version", "1")),
    "publish: a changed version": (
        2, "already published", lambda scene: ("publish", scene.source / "a.bin", "--name", "m", "--version", "1")),
    "publish: a strange name": (
        2, "name", lambda scene: ("publish", scene.source, "--name", "My Model", "--version", "1")),
    "publish: a strange version": (
        2, "version", lambda scene: ("publish", scene.source, "--name", "m", "--version", "v 1")),
    "publish: no such plan": (
        2, "plan", lambda scene: ("publish", scene.source, "--name", "m", "--version", "2", "--plan", "cdc")),
    "publish: half a lineage": (
        2, "lineage",
        lambda scene: ("publish", scene.source, "--name", "n", "--version", "2", "--derived-from", "acme/m")),
    "pull: nonsense": (2, "not a reference", lambda _: ("pull", "tinyllama")),
    "pull: an unknown publisher": (4, "nobody is called", lambda _: ("pull", "meta/llama")),
    "pull: nobody to ask": (5, "nobody to ask", lambda _: ("pull", f"{PID}/m")),
    "pull: a peer that is off": (5, "not to be had", lambda _: ("pull", f"{PID}/m", "--peer", "http://127.0.0.1:9")),
    "pull: a peer without http": (
        2, "not the address of a peer", lambda scene: ("pull", scene.locator, "--peer", "10.0.0.5:8710")),
    "pull: a version that is not there": (
        5, "no such version", lambda scene: ("pull", scene.locator.split("@")[0] + "@9", "--peer", scene.url)),
    "pull: no file matches": (
        2, "no file of the release matches",
        lambda scene: ("pull", scene.locator, "--peer", scene.url, "--only", "*.gguf")),
    "pull: a folder in use": (
        2, "not empty", lambda scene: ("pull", scene.locator, "--peer", scene.url, "--to", scene.source / "sub")),
    "verify: no such path": (2, "no such file", lambda _: ("verify", "./nothing")),
    "verify: an unknown folder": (4, "no release", lambda scene: ("verify", scene.source / "sub")),
    "verify: a release that is not here": (5, "no such version", lambda _: ("verify", "acme/other@1")),
    "show: a release that is not here": (5, "not in this store", lambda _: ("show", "acme/other")),
    "show: nonsense": (2, "not a reference", lambda _: ("show", "m@1")),
    "show: nothing": (2, "REF", lambda _: ("show",)),
    "list: an argument": (2, "unexpected extra argument", lambda _: ("list", "acme")),
    "remove: not here": (5, "not in this store", lambda _: ("remove", "acme/other")),
    "remove: nonsense": (2, "not a reference", lambda _: ("remove", "x")),
    "node: no port": (2, "HOST:PORT", lambda _: ("node", "--listen", "127.0.0.1")),
    "node: a port that is taken": (
        5, "cannot listen", lambda scene: ("node", "--listen", scene.url.removeprefix("http://"))),
    "node: a peer that is no address": (
        2, "not the address of a peer", lambda _: ("node", "--listen", "127.0.0.1:0", "--peer", "ftp://x")),
    "gc: a strange number": (2, "grace", lambda _: ("gc", "--grace", "soon")),
    "gc: a negative number": (2, "grace", lambda _: ("gc", "--grace", "-5")),
    "fsck: a path": (2, "unexpected extra argument", lambda _: ("fsck", "./x")),
    "doctor: an argument": (2, "unexpected extra argument", lambda _: ("doctor", "please")),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_explained(scene: Scene, mistake: str) -> None:
    """In two lines for people, in one object for scripts, with the exit code of its family."""
    code, words, arguments = MISTAKES[mistake]
    machine = scene.alice
    if mistake == "init: no passphrase" or mistake.startswith("init: a strange"):
        machine = Machine(scene.source.parent / "new")
    done = machine.run(*arguments(scene), wanted=code)
    first, *more = done.err.splitlines()
    assert done.out == ""
    assert first.startswith("modelnet: ")
    assert words.lower() in first.lower()
    assert not first.endswith(".")
    assert len(more) == 1, done.err
    assert more[0].startswith("  hint: ")
    as_json = machine.run(*arguments(scene), "--json", wanted=code)
    assert as_json.out.count("\n") == 1
    assert as_json.error["hint"]
    assert "Traceback" not in done.err + as_json.err


def test_the_program_alone_shows_its_help(tmp_path: Path) -> None:
    """Exit 2, for a script that forgot the command."""
    done = Machine(tmp_path / "home").run(wanted=2)
    assert "Usage: modelnet" in done.out + done.err


def test_a_bug_says_where_to_report_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Exit 1, a traceback on stderr, and one JSON object all the same."""
    from modelnet_cli.main import run

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("MODELNET_HOME", str(tmp_path))
    monkeypatch.setattr("modelnet.stores.index.Index.releases", broken)
    assert run(["list", "--json"]) == 1
    printed = capsys.readouterr()
    assert '"rule": "bug"' in printed.out
    assert "report" in printed.out
    assert "ZeroDivisionError" in printed.err
