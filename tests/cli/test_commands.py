"""What scripts rely on: one JSON object with its keys, results on stdout, the rest on stderr, exit codes by family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelnet import __version__
from tests.cli.conftest import Scene
from tests.store.stage import Done, Machine, write_random

PID = "a" * 52


def keys(done: Done, *wanted: str) -> None:
    """Assert that stdout is one line of JSON with at least the keys."""
    assert done.out.count("\n") == 1
    assert set(wanted) <= done.json.keys()


def test_init(tmp_path: Path) -> None:
    """The publisher's id, its alias and where it lives."""
    done = Machine(tmp_path / "home").run("init", "--name", "acme", "--no-passphrase", "--json")
    keys(done, "publisher", "alias", "home")
    assert done.json["alias"] == "acme"
    assert done.json["home"] == str(tmp_path / "home")
    assert "not protected" in done.err
    assert (tmp_path / "home" / "keys").stat().st_mode & 0o077 == 0


def test_publish(scene: Scene) -> None:
    """Everything that a release's page needs."""
    done = scene.alice.run("publish", scene.source, "--name", "n", "--version", "2", "--channel", "beta", "--json")
    keys(done, "locator", "publisher", "name", "version", "manifest", "tree", "files", "chunks", "pins")
    assert all({"path", "size", "cid", "blake3", "sha256", "plan"} <= file.keys() for file in done.json["files"])
    assert done.json["chunks"].keys() >= {"count", "new", "bytes", "new_bytes"}
    assert done.json["locator"].startswith(f"modelnet:{done.json['publisher']}/n@2?")


def test_pull(scene: Scene, tmp_path: Path) -> None:
    """Where it is, what it cost, who gave it, how much is known."""
    carol = Machine(tmp_path / "carol")
    for extra in (["--dry-run"], [], ["--only", "sub/*", "--to", str(tmp_path / "to")]):
        done = carol.run("pull", scene.locator, "--peer", scene.url, "--json", *extra)
        keys(done, "locator", "manifest", "path", "bytes", "sources", "knowledge")
        assert done.json["bytes"].keys() >= {"total", "fetched", "reused"}
        assert done.json["knowledge"].keys() >= {"state", "until", "age_s"}
        for source in done.json["sources"]:
            assert source.keys() >= {"source", "bytes", "state"}
            assert source["state"] in {"ok", "slow", "gone", "lied"}
        assert (Path(done.json["path"]) / "sub" / "b.txt").is_file() == (extra != ["--dry-run"])


def test_verify(scene: Scene) -> None:
    """By path, by file and by reference; a changed byte is exit 3 with where, wanted and found."""
    folder = Path(scene.bob.run("list", "--json").json["releases"][0]["path"])
    for target in (folder, folder / "a.bin", scene.locator):
        done = scene.bob.run("verify", target, "--json")
        keys(done, "manifest", "files", "bytes", "knowledge")
        assert done.json["bytes"] >= 2_000_000
    (folder / "a.bin").chmod(0o644)
    with (folder / "a.bin").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    done = scene.bob.run("verify", folder, "--json", wanted=3)
    assert done.error.keys() >= {"kind", "rule", "message", "path", "offset", "wanted", "got"}
    assert (done.error["kind"], done.error["path"]) == ("integrity", "a.bin")
    assert done.error["offset"] <= 1_000_000
    words = scene.bob.run("verify", folder, wanted=3)
    assert words.out == ""
    assert words.err.startswith("modelnet: the file differs from what was signed in a.bin at byte ")


def test_show_and_list(scene: Scene) -> None:
    """The manifest's fields and where the release stands."""
    done = scene.bob.run("show", scene.locator, "--json", "--tensors")
    keys(done, "name", "version", "manifest", "tree", "files", "state", "reason")
    assert done.json["state"] == "ok"
    done = scene.bob.run("list", "--json")
    keys(done, "releases")
    (row,) = done.json["releases"]
    assert row.keys() >= {"publisher", "name", "version", "manifest", "bytes", "state"}


def test_references_of_every_form(scene: Scene) -> None:
    """A locator, an alias, a pid; with a version, a channel, or the newest."""
    pid = scene.alice.run("list", "--json").json["releases"][0]["publisher"]
    manifests = {
        scene.alice.run("show", reference, "--json").json["manifest"]
        for reference in (
            scene.locator, "acme/m", "acme/m@1", "acme/m@stable", "acme/m@latest", f"{pid}/m@1", f"modelnet:{pid}/m@1",
        )
    }  # fmt: skip
    assert len(manifests) == 1


def test_upkeep(scene: Scene) -> None:
    """`gc`, `fsck` and `remove`."""
    keys(scene.bob.run("fsck", "--json"), "problems")
    keys(scene.bob.run("gc", "--dry-run", "--json"), "freed")
    keys(scene.bob.run("remove", scene.locator, "--json"), "publisher", "name", "version")
    keys(scene.bob.run("gc", "--grace", "0", "--json"), "freed")


def test_doctor(tmp_path: Path) -> None:
    """Each check with a verdict, what was found, and what to do."""
    done = Machine(tmp_path / "home").run("doctor", "--json")
    keys(done, "checks")
    assert all({"name", "ok", "detail", "hint"} <= check.keys() for check in done.json["checks"])


def test_doctor_fails_for_what_is_needed(tmp_path: Path) -> None:
    """Exit 5 for a damaged index; the report is the same object."""
    machine = Machine(tmp_path / "home").with_publisher()
    for path in machine.home.glob("index.sqlite*"):
        path.write_bytes(b"no database" * 1000)
    checks = {check["name"]: check for check in machine.run("doctor", "--json", wanted=5).json["checks"]}
    assert not checks["index"]["ok"]
    assert checks["index"]["needed"]
    assert checks["index"]["hint"]
    assert checks["python"]["ok"]


def test_node(scene: Scene) -> None:
    """One object a line, the first one `ready` with the URL; stopped by a signal it says so."""
    with scene.alice.start("node", "--listen", "127.0.0.1:0", "--json") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert ready["event"] == "ready"
    assert ready["url"].startswith("http://127.0.0.1:")
    assert ready["doors"]
    assert all("event" in json.loads(line) for line in out.splitlines())
    assert process.returncode == 0
    assert err == ""


def test_exit_codes_follow_the_family(scene: Scene, tmp_path: Path) -> None:
    """2 usage, 3 bytes, 4 trust, 5 unavailable; `kind` says the same in words."""
    carol = Machine(tmp_path / "carol")
    pinned = scene.locator[:-4] + ("0000" if not scene.locator.endswith("0000") else "1111")
    for code, kind, arguments in (
        (2, "usage", ("pull", "nonsense")),
        (2, "usage", ("pull",)),
        (4, "trust", ("pull", "nobody/m")),
        (4, "trust", ("pull", pinned, "--peer", scene.url)),
        (5, "unavailable", ("pull", scene.locator)),
        (5, "unavailable", ("pull", scene.locator, "--peer", "http://127.0.0.1:9")),
        (5, "unavailable", ("show", f"{PID}/m")),
    ):
        done = carol.run(*arguments, "--json", wanted=code)
        assert done.out.count("\n") == 1
        assert done.error["kind"] == kind
        assert done.error.keys() >= {"kind", "rule", "message"}
        assert not done.error["message"][0].isupper()
        assert not done.error["message"].endswith(".")


def test_results_are_on_stdout_and_nothing_else_is(scene: Scene, tmp_path: Path) -> None:
    """A pull's plan and its knowledge are notes; `--quiet` drops them, `--verbose` adds timings."""
    plain = Machine(tmp_path / "c1").run("pull", scene.locator, "--peer", scene.url)
    assert plain.out.splitlines()[0] == "m@1: 2.0 MB, fetched 2.0 MB, reused 0 B"
    assert "to fetch" in plain.err
    assert "revocations after" in plain.err
    quiet = Machine(tmp_path / "c2").run("pull", scene.locator, "--peer", scene.url, "--quiet")
    assert quiet.err == ""
    assert quiet.out.splitlines()[0] == plain.out.splitlines()[0]
    verbose = Machine(tmp_path / "c3").run("pull", scene.locator, "--peer", scene.url, "-v")
    assert "fetching: 2.0 MB in " in verbose.err


def test_names_that_are_not_text_are_shown(tmp_path: Path) -> None:
    """A file name that is no UTF-8, an ASCII terminal: still a sentence, still JSON."""
    path = tmp_path / "m" / os.fsdecode(b"\xff.bin")
    path.parent.mkdir()
    path.symlink_to("nowhere")
    machine = Machine(tmp_path / "home", env={"PYTHONIOENCODING": "ascii"}).with_publisher()
    for ours in (machine, Machine(tmp_path / "home")):
        assert ours.run("publish", path.parent, "--name", "m", "--version", "1", "--json", wanted=2).error["path"]
        assert "symbolic link" in ours.run("publish", path.parent, "--name", "m", "--version", "1", wanted=2).err
    path.unlink()
    write_random(tmp_path / "m" / "é.bin", 10)
    made = machine.run("publish", path.parent, "--name", "m", "--version", "1", "--json")
    assert made.json["files"][0]["path"] == "é.bin"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` and `-h` of the program and of each command, in a sentence."""
    from modelnet_cli.main import build, run

    names = [command.name for command in build().registered_commands]
    assert {"init", "publish", "pull", "verify", "list", "show", "node", "gc", "fsck", "doctor"} <= set(names)
    for arguments in ([], *([name] for name in names)):
        for option in ("--help", "-h") if arguments in ([], ["pull"]) else ("--help",):
            assert run([*arguments, option]) == 0
            printed = capsys.readouterr()
            assert "Usage: modelnet" in printed.out
            assert printed.err == ""
            assert arguments == [] or "--json" in printed.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, shell: str) -> None:
    """Each shell's script names the program, and completes its commands."""
    detection_off = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = Machine(tmp_path / "home", env=detection_off).run("--show-completion", shell).out
    assert f"_MODELNET_COMPLETE=complete_{shell}" in script
    words = {"COMP_WORDS": "modelnet pu", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "modelnet pu"}
    if shell == "fish":
        words["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    asked = Machine(tmp_path / "home", env={"_MODELNET_COMPLETE": f"complete_{shell}", **words}).run()
    assert "publish" in asked.out
    assert "pull" in asked.out
    assert "verify" not in asked.out


def test_version(tmp_path: Path) -> None:
    """One line, and no store is made for it."""
    done = Machine(tmp_path / "home").run("--version")
    assert done.out == f"modelnet {__version__}\n"
    assert not (tmp_path / "home").exists()


def test_nothing_warns(tmp_path: Path) -> None:
    """With warnings as errors every command works, and nothing is said about it."""
    source = write_random(tmp_path / "m" / "a.bin", 100_000).parent
    env = Machine(tmp_path / "home").environment()

    def run(*arguments: str | Path, code: int = 0) -> str:
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "modelnet_cli.main", *map(os.fspath, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == code, done.stderr
        assert "Warning" not in done.stderr
        assert "Exception ignored" not in done.stderr
        return done.stdout

    run("init", "--no-passphrase")
    made = json.loads(run("publish", source, "--name", "m", "--version", "1", "--json"))
    for arguments in (("list",), ("show", made["locator"]), ("verify", source), ("fsck",), ("gc",), ("doctor",)):
        run(*arguments)
    from tests.store.stage import serving

    with serving(tmp_path / "home") as url:
        run("pull", made["locator"], "--peer", url, "--to", tmp_path / "to")
    run("pull", f"{PID}/m", "--peer", "http://127.0.0.1:9", code=5)
