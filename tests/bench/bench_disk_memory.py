"""Memory of publishing, serving and pulling a large model, and the disk that the puller's store takes while it seeds.

hf_xet moves the same files beside it: its peak memory is what the same work costs where nothing bounds it. Its part is
left out when the disk is too small for its second copy.
"""

from __future__ import annotations

import shutil
import urllib.request

from common import MIB, Node, Work, bench, disk_used, job, report
from samples import write_shards

MEMORY_MIB, DISK = 256, 1.002
SHARDS = 2


def ours(work: Work, size: int) -> None:
    """Publish, serve, pull and seed; print what each took at most."""
    home = work.folder / "puller"
    published = job("publish", home=work.folder / "publisher", path=work.folder / "model")
    with Node.serving(work.folder / "publisher") as node:
        pulled = job("pull", home=home, locator=published.said["_locator"], peers=[node.url])
        serving = node.peak
    with Node.serving(home) as seed:
        # Somebody asks the puller for the DAG and for a shard's chunks: seeding must not make it grow.
        job(
            "pull", home=work.folder / "third", locator=published.said["_locator"], peers=[seed.url], only=["*-00001-*"]
        )
        with urllib.request.urlopen(seed.url + "/healthz", timeout=10) as answer:
            answer.read()
        seeding = seed.peak
        used = disk_used(home)
    report("modelnet publish: peak memory", published.peak / MIB, "MiB", most=MEMORY_MIB)
    report("modelnet node, serving one pull: peak memory", serving / MIB, "MiB", most=MEMORY_MIB)
    report("modelnet pull: peak memory", pulled.peak / MIB, "MiB", most=MEMORY_MIB)
    report("modelnet node of the puller, seeding: peak memory", seeding / MIB, "MiB", most=MEMORY_MIB)
    report("disk of the puller's store / size of the model", used / size, "", most=DISK)
    print(f"  publish {published.seconds:.1f} s, pull {pulled.seconds:.1f} s", flush=True)
    for name in ("publisher", "puller", "third"):
        work.fresh(name)


def xet(work: Work, size: int) -> None:
    """Upload and download the same shards; print what hf_xet took."""
    if shutil.disk_usage(work.folder).free < 2.2 * size:
        print("  hf_xet: left out, the disk is too small for its store and its download")
        return
    cache = {"HF_XET_CACHE": str(work.folder / "xet-cache")}
    paths = sorted(str(path) for path in (work.folder / "model").glob("*.safetensors"))
    store, to = work.folder / "xet", work.folder / "out"
    up = job("xet_upload", _environment=cache, paths=paths, store=store)
    down = job("xet_download", _environment=cache, files=up.said["_files"], store=store, to=to)
    used = disk_used(store) + disk_used(to)
    print(f"  hf_xet upload: peak memory {up.peak / MIB:.0f} MiB, {up.seconds:.1f} s")
    print(f"  hf_xet download: peak memory {down.peak / MIB:.0f} MiB, {down.seconds:.1f} s")
    print(f"  hf_xet store and download / size of the model: {used / size:.3f}", flush=True)
    for name in ("xet", "out", "xet-cache"):
        work.fresh(name)


with bench("disk and memory", __doc__, rounds=1) as work:
    size = write_shards(work.folder / "model", SHARDS, work.size(8192, 512) // SHARDS)
    print(f"\na model of {SHARDS} shards, {size / 1e9:.2f} GB", flush=True)
    ours(work, size)
    xet(work, size)
