"""A gibibyte: the roots of `fixed-1m` are still those of `ipfs add`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelnet import init, publish
from tests.engines import kubo_add, need_kubo

GIB = 1 << 30


@pytest.mark.slow
def test_a_gibibyte_has_the_root_that_kubo_gives_it(tmp_path: Path) -> None:
    """1,024 chunks fill one node, one byte more makes a second level; the release's folder is Kubo's too."""
    need_kubo()
    base = tmp_path / "model"
    base.mkdir()
    with (base / "exact.bin").open("wb") as file:
        for _ in range(GIB >> 24):
            file.write(os.urandom(1 << 24))
    os.link(base / "exact.bin", base / "again.bin")  # the same file twice costs no disk
    with (base / "more.bin").open("wb") as file:
        file.truncate(GIB + 1)  # zeros: a hole
    init(home=tmp_path / "home")
    made = publish(base, name="m", version="1", plan="fixed-1m", home=tmp_path / "home")
    assert {entry.path: str(entry.cid) for entry in made.manifest.files} == {
        name: kubo_add(base / name) for name in ("again.bin", "exact.bin", "more.bin")
    }
    assert str(made.manifest.tree) == kubo_add(base)
