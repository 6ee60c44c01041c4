"""What every test may use: a store of its own, one real Kubo for the whole run, and examples that CI can repeat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.engines import Kubo, kubo_daemon, need_kubo

# Machines that run tests are busy: an example is never too slow, it only counts if it fails.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty `$MODELNET_HOME` (not created yet) and no passphrase."""
    path = tmp_path / "modelnet-home"
    monkeypatch.setenv("MODELNET_HOME", str(path))
    monkeypatch.delenv("MODELNET_PASSPHRASE", raising=False)
    return path


@pytest.fixture(scope="session")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """Give a running private Kubo, or skip; one for all tests of a worker, so do not rely on an empty repository."""
    need_kubo()
    with kubo_daemon(tmp_path_factory.mktemp("kubo")) as node:
        yield node
