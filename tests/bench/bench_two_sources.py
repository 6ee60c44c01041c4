"""One file from two slow sources at once: each is a node behind a proxy that gives 50 MB/s.

The limit is two curls that fetch one half of the same file each through proxies of the same kind: 100 MB/s and no more.
What was pulled is compared with the original by SHA-256 besides.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from common import Node, Side, Spent, bench, job, measure
from ports import file_server, limited, parts
from samples import write_safetensors

RATE = 50 * 10**6
TARGET = 0.95  # of the sum of both


def same(one: Path, other: Path) -> bool:
    """Tell whether two files have the same SHA-256."""
    digests = set()
    for path in (one, other):
        with path.open("rb") as file:
            digests.add(hashlib.file_digest(file, "sha256").digest())
    return len(digests) == 1


with bench("two sources of 50 MB/s", __doc__, rounds=3) as work, ExitStack() as stack:
    subprocess.run(["curl", "--version"], check=True, stdout=subprocess.DEVNULL)
    model = work.folder / "model.safetensors"
    size = write_safetensors(model, work.size(1024, 128))
    locator = str(job("publish", home=work.folder / "publisher", path=model).said["_locator"])
    # Two nodes over two stores: one published, the other has what a copy of it holds.
    shutil.copytree(work.folder / "publisher", work.folder / "other")
    nodes = [stack.enter_context(Node.serving(work.folder / name)) for name in ("publisher", "other")]
    peers = [stack.enter_context(limited(node.url, RATE)) for node in nodes]
    _, url, _ = stack.enter_context(file_server(work.folder, work.folder / "server"))
    plain = [stack.enter_context(limited(url, RATE)) + f"/{model.name}" for _ in range(2)]

    def pull() -> Spent:
        """Pull from both and compare what came with the original."""
        spent = job("pull", home=work.folder / "puller", locator=locator, peers=peers)
        given = spent.said["_bytes"]
        equal = same(model, Path(spent.said["_path"]) / model.name)
        shares = "+".join(f"{given[peer] / 1e6:.0f}" for peer in peers)
        said = {"MB/s": f"{size / spent.seconds / 1e6:.1f}", "MB each": shares, "equal": equal}
        return replace(spent, said=said)

    measure(
        "one file from two sources",
        size,
        Side("modelnet.pull", pull, lambda: work.fresh("puller")),
        [(Side("limit: two curls, a half each", lambda: parts(plain, size, work.folder)), TARGET)],
        work,
    )
