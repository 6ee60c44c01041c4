"""The closed-network profile of docs/kubo.md: everything works inside, and no packet goes outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines import need_kubo

NAMESPACES = ("unshare", "--net", "--mount")


def played(folder: Path, *more: str) -> dict[str, Any]:
    """Play the scene of `tests.ipfs.closed` in namespaces of its own, or skip."""
    need_kubo()
    if subprocess.run([*NAMESPACES, "true"], check=False, capture_output=True).returncode:
        pytest.skip("network namespaces need root")
    done = subprocess.run(
        [*NAMESPACES, sys.executable, "-m", "tests.ipfs.closed", folder, *more],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(said, dict)
    return said


def test_nobody_phones_home(tmp_path: Path) -> None:
    """Two Kubos with the profile and a node exchange a release; not one packet tries to leave, not even for a name."""
    said = played(tmp_path)
    assert said["control"] == 1
    assert said["arrived"] == {"kubo": True, "modelnet": True}
    assert said["left"] == 0
    assert all(address.startswith("/ip4/127.0.0.1/tcp/") for address in said["addresses"])


def test_a_kubo_without_the_profile_does(tmp_path: Path) -> None:
    """As `ipfs init` leaves it a Kubo talks to the outside: so the test above would see it."""
    said = played(tmp_path, "--open")
    assert said["left"] > 0
