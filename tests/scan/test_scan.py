"""`modelnet scan` on folders and files, signed or not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelnet.checking import open_file
from modelnet.content import scanning
from modelnet.content.scanning import scan
from modelnet.errors import UnavailableError, UsageError
from tests.realmodels import need
from tests.scan import samples
from tests.store.stage import Machine

PROGRAM = (sys.executable, "-m", "modelnet_cli.main", "scan")


def _rules(path: Path) -> set[tuple[str, str]]:
    return {(one.rule, one.path) for one in scan(path).findings}


def test_a_folder_is_looked_at_with_its_names(tmp_path: Path) -> None:
    """Links, special files, names of two cases and unsafe names are reported, and nothing is followed."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.safetensors").write_bytes(samples.tensors())
    (tmp_path / "pytorch_model.bin").write_bytes(samples.evil(2))
    (tmp_path / "Config.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a:b").write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    assert _rules(tmp_path) == {
        ("pickle", "pytorch_model.bin"),
        ("path", "config.json"),
        ("path", "a:b"),
        ("symlink", "link"),
        ("symlink", "folder"),
        ("file-type", "pipe"),
    }
    assert scan(tmp_path).files == 5


def test_folders_that_differ_only_in_case_are_one_to_some(tmp_path: Path) -> None:
    """Whatever is in them: each pair is said once."""
    for name in ("A/x", "a/y", "a/z", "b/C/v", "b/c/w"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [(one.rule, one.path) for one in scan(tmp_path).findings] == [("path", "a"), ("path", "b/c")]


def test_what_cannot_be_read_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a finding, for what was not looked at is not let through, and all the rest is looked at."""
    (tmp_path / "a.pkl").write_bytes(samples.evil(2))
    (tmp_path / "b.txt").write_text("text")
    (tmp_path / "z.pkl").write_bytes(samples.evil(2))
    (tmp_path / "sub").mkdir()

    def closed(path: Path) -> int:
        if path.name == "b.txt":
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path)

    def walk(top: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(errno.EACCES, "Permission denied", str(top / "sub")))
        yield from os_walk(top, onerror=onerror)

    os_walk = os.walk
    monkeypatch.setattr(scanning, "open_file", closed)
    monkeypatch.setattr(scanning.os, "walk", walk)
    found = scan(tmp_path)
    assert {(one.rule, one.path) for one in found.findings} == {
        ("pickle", "a.pkl"),
        ("unreadable", "b.txt"),
        ("unreadable", "sub"),
        ("pickle", "z.pkl"),
    }
    assert found.files == 2
    with pytest.raises(UnavailableError):
        scan(tmp_path / "b.txt")


def test_a_file_without_permissions_is_a_finding(tmp_path: Path) -> None:
    """The same with the permissions themselves, for a user that they bind."""
    bound = Machine(tmp_path / "home").held_to_permissions()
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a.pkl").write_bytes(samples.evil(2))
    (folder / "b.txt").write_text("text")
    (folder / "b.txt").chmod(0)
    (folder / "sub").mkdir(mode=0)
    found = bound.run("scan", folder, "--json", wanted=3).json["findings"]
    assert {(one["rule"], one["path"]) for one in found} == {
        ("pickle", "a.pkl"), ("unreadable", "b.txt"), ("unreadable", "sub"),
    }  # fmt: skip


def test_one_file_is_looked_at_alone(tmp_path: Path) -> None:
    """A file may be given instead of a folder."""
    file = tmp_path / "model.pkl"
    file.write_bytes(samples.evil(4))
    assert _rules(file) == {("pickle", "model.pkl")}
    with pytest.raises(UsageError):
        scan(tmp_path / "nothing")


def test_the_command_says_what_it_found_and_exits_3(tmp_path: Path) -> None:
    """People get a line for each finding, scripts one object; the exit status says whether something blocks."""
    (tmp_path / "model.safetensors").write_bytes(samples.tensors())
    done = subprocess.run([*PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "1 file, 160 B: nothing to refuse\n")
    (tmp_path / "weights.bin").write_bytes(samples.evil(0))
    done = subprocess.run([*PROGRAM, "--json", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    said = json.loads(done.stdout)
    assert said["blocking"] == 1
    (finding,) = said["findings"]
    assert finding.keys() == {"rule", "severity", "path", "offset", "detail"}
    assert (finding["rule"], finding["severity"], finding["path"]) == ("pickle", "block", "weights.bin")


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("minilm", set()),
        ("fracast", set()),
        ("magika-1.0.3", set()),
        ("basic-pitch", set()),
        ("smollm2", {"template"}),
        ("silero-6.2.3", {"torchscript"}),
    ],
)
def test_real_models(name: str, rules: set[str]) -> None:
    """Published models give no false alarm; a TorchScript among them is code and said to be."""
    assert {one.rule for one in scan(need(name)).findings} == rules
