"""`modelnet scan` on folders and files, signed or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelnet.content.scanning import scan
from modelnet.errors import UsageError
from tests.realmodels import need
from tests.scan import samples

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
