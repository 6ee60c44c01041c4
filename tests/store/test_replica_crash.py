"""What a store knows survives whatever dies or fails while it learns: the old knowledge or the new, never a mix."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelnet.errors import ModelnetError
from tests.store.faults import Fault, failing
from tests.store.replica_stage import SCENES, opened, steps


@pytest.mark.parametrize("name", SCENES)
def test_each_failing_step_leaves_the_old_or_the_new(tmp_path: Path, name: str) -> None:
    """Not stored, or stored and the reply lost: files and index agree, and another try succeeds."""
    scene, template = SCENES[name], tmp_path / "template"
    scene.prepare(template)
    tried = 0
    for step, count in steps(template, scene).items():
        for nth in range(1, count + 1):
            for applied in (False, True):
                home = tmp_path / "home"
                shutil.copytree(template, home)
                acted = True
                with failing(Fault(step, nth, applied=applied, error=errno.EIO)) as fault:
                    try:
                        scene.act(opened(home))
                    except ModelnetError:
                        acted = False
                assert fault.happened
                scene.check(home, acted=acted)
                shutil.rmtree(home)
                tried += 1
    assert tried >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_kill_9_at_each_step_leaves_the_old_or_the_new(tmp_path: Path, name: str) -> None:
    """The process dies before or after any step; who opens the store next finds it whole."""
    argv = [sys.executable, "-m", "tests.store.replica_stage", str(tmp_path), name]
    ended = subprocess.run(argv, stdout=subprocess.PIPE, timeout=300, check=True)
    assert json.loads(ended.stdout)["killed"] >= 8
