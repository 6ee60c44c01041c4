"""A node keeps its own publishers' logs fresh; sealed keys are left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import modelnet
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from modelnet_registry.beating import Beating


def beat_of(home: Path, pid: str) -> int:
    """Return the newest time that the head here carries."""
    replicas = Replicas(open_store(home))
    note = replicas.head(pid)
    assert note is not None
    state = replicas.state(pid)
    return max(note.cosigned(state.signers_at(state.size)[1]).values())


def test_a_head_is_dated_anew(tmp_path: Path) -> None:
    """The same head, a later time; and it goes on by itself until it is closed."""
    pid = modelnet.init(home=tmp_path).pid
    before = beat_of(tmp_path, pid)
    beating = Beating(open_store(tmp_path), every_s=0.2)
    time.sleep(1.1)  # times have whole seconds
    assert beating.beat() == 1
    once = beat_of(tmp_path, pid)
    assert once > before
    beating.start()
    deadline = time.monotonic() + 20
    while beat_of(tmp_path, pid) <= once and time.monotonic() < deadline:
        time.sleep(0.1)
    beating.close()
    assert beat_of(tmp_path, pid) > once
    assert Replicas(open_store(tmp_path)).standing(pid).size == 1


def test_sealed_keys_need_the_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the node serves on and the head stays as it is."""
    pid = modelnet.init(home=tmp_path, passphrase="correct horse").pid  # noqa: S106  (of a test)
    monkeypatch.delenv("MODELNET_PASSPHRASE", raising=False)
    assert Beating(open_store(tmp_path)).beat() == 0
    monkeypatch.setenv("MODELNET_PASSPHRASE", "correct horse")
    assert Beating(open_store(tmp_path)).beat() == 1
    assert Replicas(open_store(tmp_path)).standing(pid).own


def test_a_store_without_publisher_has_nothing_to_do(tmp_path: Path) -> None:
    """Nothing is made by looking."""
    assert Beating(open_store(tmp_path / "none")).beat() == 0
    assert not (tmp_path / "none").exists()
