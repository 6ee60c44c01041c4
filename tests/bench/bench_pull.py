"""Pulling over the loopback beside curl from nginx, and beside hf_xet from a folder; on the disk and in memory.

One node serves one safetensors file; each pull goes into an empty store, is verified against the publisher's signature
and is durable (fsync) when it ends. curl checks nothing and leaves the bytes in the page cache; `curl + fsync` is what
it takes to have them on the disk as well. Four curls use as many connections as a pull does for its chunks. hf_xet
reads its local store and reconstructs the file; no network is in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import MIB, Node, Side, Spent, Work, bench, child, job, measure
from ports import Connections, file_server, parts
from samples import write_safetensors

LIMIT, XET = 0.8, 2.0


def curl(url: str, to: Path, *, durable: bool) -> Spent:
    """Download `url`; sync the file as well when it shall be durable."""
    begin = time.perf_counter()
    spent = child(["curl", "--silent", "--fail", "--output", str(to), url])
    if durable:
        handle = os.open(to, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return replace(spent, seconds=time.perf_counter() - begin)


def compare(title: str, work: Work) -> None:
    """Publish, serve, and let the pulls take turns, all in the work folder."""
    model = work.folder / "model.safetensors"
    size = write_safetensors(model, work.size(1024, 128))
    locator = str(job("publish", home=work.folder / "publisher", path=model).said["_locator"])
    cache = {"HF_XET_CACHE": str(work.folder / "xet-cache")}
    uploaded = job("xet_upload", _environment=cache, paths=[str(model)], store=work.folder / "xet").said["_files"]

    with Node.serving(work.folder / "publisher") as node, file_server(work.folder, work.folder / "server") as server:
        name, url, _ = server

        def pull() -> Spent:
            before = node.cpu
            with Connections(node.port) as open_now:
                spent = job("pull", home=work.folder / "puller", locator=locator, peers=[node.url])
            said = {"connections": open_now.most, "node cpu": f"{node.cpu - before:.2f} s"}
            return replace(spent, said={**said, "node peak": f"{node.peak // MIB} MiB"})

        out = work.folder / "out"
        plain = Side(f"curl from {name}", lambda: curl(f"{url}/{model.name}", out, durable=False), lambda: clear(work))
        synced = Side("curl + fsync", lambda: curl(f"{url}/{model.name}", out, durable=True), lambda: clear(work))
        xet = Side(
            "hf_xet download from local://",
            lambda: job("xet_download", _environment=cache, files=uploaded, store=work.folder / "xet", to=out),
            lambda: clear(work),
        )
        four = Side(
            "four curls, a quarter each",
            lambda: parts([f"{url}/{model.name}"] * 4, size, out),
            lambda: clear(work, out),
        )
        disk: list[tuple[Side, float | None]] = [] if work.tmpfs else [(synced, LIMIT)]
        sides = [(plain, LIMIT), *disk, (four, None), (xet, XET)]
        measure(title, size, Side("modelnet.pull", pull, lambda: clear(work)), sides, work)
        clear(work)


def clear(work: Work, folder: Path | None = None) -> None:
    """Remove what the run before left, and make `folder`."""
    for name in ("puller", "out", "xet-cache"):
        work.fresh(name)
    if folder is not None:
        folder.mkdir()


with bench("pull", __doc__) as work:
    subprocess.run(["curl", "--version"], check=True, stdout=subprocess.DEVNULL)
    compare("in memory (tmpfs)" if work.tmpfs else "on the disk", work)
    shared = Path("/dev/shm")
    if not work.tmpfs and shared.is_dir() and shutil.disk_usage(shared).free > 6 * work.size(1024, 128):
        with tempfile.TemporaryDirectory(prefix="modelnet-bench-", dir=shared) as folder:
            compare("in memory (tmpfs)", replace(work, folder=Path(folder), tmpfs=True))
