"""Publishing beside the time that its hashes take, and beside hf_xet's upload into a folder.

Three models: one safetensors file, four shards, and one file in which no format reader finds anything. What is
published is hashed three times (SHA-256 and BLAKE3 of the file, BLAKE3 of each chunk). The limit does exactly that with
the same C libraries, in two ways, and the faster one counts; SHA-256 of one file runs on one core whoever calls it.
hf_xet chunks, hashes (SHA-256 too) and writes a copy into its store; publishing copies nothing.
"""

from __future__ import annotations

from pathlib import Path

from common import Side, Work, bench, job, measure
from samples import write_random, write_safetensors, write_shards

LIMIT, XET = 0.8, 3.0


def compare(title: str, target: Path, files: list[Path], size: int, work: Work) -> None:
    """Publish `target`, whose large files are `files`, in turn with the others."""
    paths = [str(path) for path in files]
    cache = {"HF_XET_CACHE": str(work.folder / "xet-cache")}
    ours = Side(
        "modelnet.publish",
        lambda: job("publish", home=work.folder / "home", path=target),
        lambda: work.fresh("home"),
    )
    others: list[tuple[Side, float | None]] = [
        (Side("limit: hashes, read by windows", lambda: job("hash_windows", paths=paths)), LIMIT),
        (Side("limit: hashes, memory map", lambda: job("hash_mapped", paths=paths)), LIMIT),
    ]
    if len(paths) == 1:
        others.append((Side("sha256 alone, one core", lambda: job("sha256", path=paths[0])), None))
    if target.suffix == ".bin":
        others.append((Side("FastCDC's cuts alone, one core", lambda: job("cut", path=target)), None))
    xet = Side(
        "hf_xet upload to local://",
        lambda: job("xet_upload", _environment=cache, paths=paths, store=work.folder / "xet"),
        lambda: (work.fresh("xet"), work.fresh("xet-cache")),
    )
    others.append((xet, XET))
    measure(title, size, ours, others, work)


with bench("publish", __doc__) as work:
    one, random, shards = work.folder / "model.safetensors", work.folder / "model.bin", work.folder / "shards"
    size = write_safetensors(one, work.size(1024, 64))
    compare("one safetensors file", one, [one], size, work)
    one.unlink()
    size = write_shards(shards, 4, work.size(512, 32))
    compare("four shards", shards, sorted(shards.glob("*.safetensors")), size, work)
    work.fresh("shards")
    size = write_random(random, work.size(1024, 64))
    compare("one random .bin, cut by content", random, [random], size, work)
