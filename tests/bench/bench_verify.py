"""Verifying files on disk beside BLAKE3 of the same files by memory map on all cores, as `b3sum` does. Warm cache.

Verifying checks a signature, reads the chunk list and hashes each chunk against it; b3sum hashes the whole.
"""

from __future__ import annotations

from pathlib import Path

from common import Side, Work, bench, job, measure
from samples import write_safetensors, write_shards

TARGET = 0.85


def compare(title: str, target: Path, files: list[Path], size: int, work: Work) -> None:
    """Publish once, then verify in turn with the limit."""
    job("publish", home=work.folder / "home", path=target)
    ours = Side("modelnet.verify", lambda: job("verify", home=work.folder / "home", path=target))
    paths = [str(path) for path in files]
    measure(title, size, ours, [(Side("limit: BLAKE3, memory map", lambda: job("b3sum", paths=paths)), TARGET)], work)
    work.fresh("home")


with bench("verify", __doc__, rounds=7) as work:
    one, shards = work.folder / "model.safetensors", work.folder / "shards"
    size = write_safetensors(one, work.size(1024, 128))
    compare("one safetensors file", one, [one], size, work)
    one.unlink()
    size = write_shards(shards, 4, work.size(512, 32))
    compare("four shards", shards, sorted(shards.glob("*.safetensors")), size, work)
