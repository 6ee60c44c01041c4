"""Loading verified beside a plain read, hashing alone, and the library's own load of the same file. Warm page cache.

A load asks the gate, reads the chunk list, reads the file into memory of its own and hashes it there. Nothing is faster
than the slower of reading and hashing, so that is the limit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from common import CHILD_S, HERE, MIB, Side, Spent, bench, job, measure, report

MOST = 1.15  # of the slower of reading and hashing
MOST_EXTRA_MS = 5.0  # a file, for a reload with a cached verdict
MOST_MEMORY = 64.0  # MiB beside the model
TENSORS = 256


def load_job(name: str, **arguments: Any) -> Spent:
    """Run a function of `loadjobs.py` in a process of its own and return what it says of itself."""
    argv = [sys.executable, str(HERE / "loadjobs.py"), name, json.dumps(arguments, default=str)]
    ended = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=CHILD_S, check=True)
    said = json.loads(ended.stdout.splitlines()[-1])
    return Spent(said.pop("seconds"), said.pop("cpu"), said.pop("peak"), said)


with bench("load", __doc__, rounds=7) as work:
    home, folder = work.folder / "home", work.folder / "m"
    folder.mkdir()
    path, size = folder / "model.safetensors", work.size(1024, 128)
    load_job("write_model", path=path, size=size, tensors=TENSORS)
    job("publish", home=home, path=folder)
    sides = [
        (Side("read, one thread", lambda: load_job("read", path=path)), None),
        (Side("BLAKE3 alone, all cores", lambda: job("b3sum", paths=[str(path)])), None),
        (Side("safetensors.numpy.load_file", lambda: load_job("load_plain", path=path)), None),
        (Side("verified(), sealed copy", lambda: load_job("verified_folder", home=home, level="sealed")), None),
        (Side("verified(), held", lambda: load_job("verified_folder", home=home, level="held")), None),
    ]
    ours = Side("loaders.safetensors.load_file", lambda: load_job("load_verified", home=home))
    runs = measure("one safetensors file", size, ours, sides, work)
    for what, of in (("median", statistics.median), ("best", min)):
        medians = {name: of(run.seconds for run in found) for name, found in runs.items()}
        limit = max(medians["read, one thread"], medians["BLAKE3 alone, all cores"])
        report(f"verified load / max(read, hash), {what}", medians[ours.name] / limit, "x", most=MOST)
    spare = max(run.peak - run.said["_base"] - size for run in runs[ours.name])
    report("peak memory beside the model", spare / MIB, "MiB", most=MOST_MEMORY)

    print("\nreload with a cached verdict")
    load_job("reload_cached", home=home)  # the verdict is written here, once the file is old enough
    extra = statistics.median(load_job("reload_cached", home=home).said["_extra"] for _ in range(work.rounds))
    report("more than the plain load, a file", extra * 1000, "ms", most=MOST_EXTRA_MS)

    print("\none tensor")
    spent = load_job("one_tensor", home=home, tensor="w0100")
    print(f"  {spent.said['bytes'] / 1e6:.1f} MB of {size / 1e9:.2f} GB in {spent.seconds * 1000:.1f} ms")
    report("bytes read beside the tensor's own", (spent.said["read"] - spent.said["bytes"]) / MIB, "MiB", most=4.0)
