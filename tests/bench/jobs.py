"""What the benchmarks time, each in a process of its own: `python jobs.py NAME '{"argument": ...}'`.

A job imports what it needs, then runs the clock, then prints one JSON line: seconds, processor time and peak memory of
this process, and whatever else it has to say.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

JOBS: dict[str, Callable[..., dict[str, Any] | None]] = {}
CORES = len(os.sched_getaffinity(0))
MIB = 1024 * 1024
_CLOCK: dict[str, float] = {}


@contextlib.contextmanager
def clock() -> Iterator[None]:
    """Time the block; processor time counts the processes that it started and that have ended."""
    before, begin = _cpu(), time.perf_counter()
    yield
    _CLOCK.update(seconds=time.perf_counter() - begin, cpu=_cpu() - before)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def register(function: Callable[..., dict[str, Any] | None]) -> Callable[..., dict[str, Any] | None]:
    """Make `function` a job."""
    JOBS[function.__name__] = function
    return function


# Ours


@register
def publish(home: str, path: str) -> dict[str, Any]:
    """Publish `path` from a new store."""
    from modelnet_registry.identities import init
    from modelnet_registry.publisher import publish as run

    made = init(alias="bench", home=home)
    with clock():
        done = run(path, name="bench", version="1.0.0", home=home)
    return {"_locator": done.locator, "_pid": made.pid, "chunks": done.chunks.count}


@register
def publish_to_kubo(home: str, path: str, api: str) -> dict[str, Any]:
    """Publish `path` from a new store and pin it in the Kubo at `api`."""
    from modelnet.ipfs.targets import KuboPins, PinJob
    from modelnet.stores.local import open_store
    from modelnet_registry.identities import init
    from modelnet_registry.publisher import publish as run

    init(alias="bench", home=home)
    with clock():
        done = run(path, name="bench", version="1.0.0", home=home)
        _push(KuboPins, PinJob, open_store(home), done.release.manifest, api)
    return {"_manifest": str(done.release.manifest), "_tree": str(done.manifest.tree), "_locator": done.locator}


@register
def push_to_kubo(home: str, manifest: str, api: str) -> None:
    """Pin a release of the store at `home` in the Kubo at `api`."""
    from modelnet.core.cid import Cid
    from modelnet.ipfs.targets import KuboPins, PinJob
    from modelnet.stores.local import open_store

    with clock():
        _push(KuboPins, PinJob, open_store(home), Cid.parse(manifest), api)


def _push(pins: Any, job: Any, store: Any, manifest: Any, api: str) -> None:
    from modelnet.ipfs.address import KuboAddress
    from modelnet.ipfs.kubo import Kubo

    opened = pins(store, Kubo.connect(KuboAddress.parse(api)))
    opened.pin(job(manifest, "bench"))
    opened.close()


@register
def pull(home: str, locator: str, peers: list[str], only: list[str] | None = None) -> dict[str, Any]:
    """Pull a release into the store at `home`."""
    from modelnet.puller import pull as run

    with clock():
        done = run(locator, peers=peers, only=only or (), home=home)
    return {
        "_path": str(done.path),
        "_bytes": {report.source: report.bytes for report in done.sources},
        "_fetched": done.plan.fetched,
    }


@register
def verify(home: str, path: str) -> None:
    """Check the files at `path` against what was signed."""
    from modelnet.verifier import verify as run

    with clock():
        run(path, home=home)


# Limits: the same digests by the same C libraries, with nothing around them


@register
def hash_windows(paths: list[str]) -> None:
    """Hash by windows that fit the cache: one thread for a file when there are several, else one for each digest."""
    from blake3 import blake3

    window, grid = 8 * MIB, MIB

    def chunks_of(view: memoryview) -> None:
        for start in range(0, len(view), grid):
            blake3(view[start : start + grid]).digest()

    def alone(path: str) -> None:
        """One core for the file: a MiB is read once and hashed three times while it is in the cache."""
        whole, sha, view = blake3(), hashlib.sha256(), memoryview(bytearray(grid))
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            while count := file.readinto(view):
                sha.update(view[:count])
                whole.update(view[:count])
                blake3(view[:count]).digest()

    def spread(path: str) -> None:
        """All cores for the file: SHA-256 is serial, the rest goes on beside it."""
        whole, sha = blake3(max_threads=blake3.AUTO), hashlib.sha256()
        views = [memoryview(bytearray(window)) for _ in range(4)]
        with (
            open(path, "rb", buffering=0) as file,  # noqa: PTH123
            ThreadPoolExecutor(1) as one,
            ThreadPoolExecutor(1) as two,
            ThreadPoolExecutor(2) as three,
        ):
            flying: list[list[Any]] = [[] for _ in views]
            number = 0
            while True:
                slot = number % len(views)
                for future in flying[slot]:
                    future.result()
                count = file.readinto(views[slot])
                if not count:
                    break
                view = views[slot][:count]
                flying[slot] = [one.submit(sha.update, view), two.submit(whole.update, view),
                                three.submit(chunks_of, view)]  # fmt: skip
                number += 1

    with clock():
        if len(paths) == 1:
            spread(paths[0])
        else:
            with ThreadPoolExecutor(CORES) as pool:
                list(pool.map(alone, paths))


@register
def hash_mapped(paths: list[str]) -> None:
    """Hash memory maps: one call for each whole-file digest, a few tasks for the chunks."""
    from blake3 import blake3

    with clock(), ThreadPoolExecutor(CORES + 2) as pool:
        for path in paths:
            with open(path, "rb") as file:  # noqa: PTH123
                view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

            def whole(view: memoryview = view) -> None:
                blake3(max_threads=blake3.AUTO).update(view)

            def chunks(first: int, view: memoryview = view) -> None:
                for start in range(first, min(first + 64 * MIB, len(view)), MIB):
                    blake3(view[start : start + MIB]).digest()

            pool.submit(lambda view=view: hashlib.sha256(view).digest())
            pool.submit(whole)
            for first in range(0, len(view), 64 * MIB):
                pool.submit(chunks, first)


@register
def cut(path: str) -> None:
    """Find the content-defined cuts of a file with the compiled FastCDC, by windows: serial by its nature."""
    from modelnet.core.chunking import cdc_sizes, cut_content

    view = memoryview(bytearray(8 * MIB))
    size = Path(path).stat().st_size
    sizes = cdc_sizes(size)
    assert sizes is not None
    with clock(), open(path, "rb", buffering=0) as file:  # noqa: PTH123
        offset = 0
        while offset < size:
            count = os.preadv(file.fileno(), [view], offset)
            offset += sum(cut_content(view[:count], sizes, last=offset + count == size))


@register
def b3sum(paths: list[str]) -> None:
    """Hash each file as b3sum does: a memory map, all cores."""
    from blake3 import blake3

    with clock():
        for path in paths:
            blake3(max_threads=blake3.AUTO).update_mmap(path).digest()


@register
def sha256(path: str) -> None:
    """Hash one file with SHA-256, which only one core can do."""
    with clock(), open(path, "rb") as file:  # noqa: PTH123
        hashlib.file_digest(file, "sha256")


# hf_xet, as huggingface_hub drives it, with a store in a folder instead of the service


@register
def xet_upload(paths: list[str], store: str) -> dict[str, Any]:
    """Upload files to the store in the folder `store`."""
    from hf_xet import XetSession

    session = XetSession()
    with clock():
        commit = session.new_upload_commit(endpoint=f"local://{store}")
        handles = [commit.start_upload_file(path) for path in paths]
        commit.wait_to_finish()
    found = [handle.result().xet_info for handle in handles]
    return {"_files": [[info.hash, info.file_size] for info in found]}


@register
def xet_download(files: list[list[Any]], store: str, to: str) -> None:
    """Download files from the store in the folder `store` into the folder `to`."""
    from hf_xet import XetFileInfo, XetSession

    Path(to).mkdir()
    session = XetSession()
    with clock():
        group = session.new_file_download_group(endpoint=f"local://{store}")
        for number, (digest, size) in enumerate(files):
            group.start_download_file(XetFileInfo(digest, size), f"{to}/{number}")
        group.wait_to_finish()


if __name__ == "__main__":
    said = JOBS[sys.argv[1]](**json.loads(sys.argv[2])) or {}
    from common import peak_of

    print(json.dumps({**_CLOCK, "peak": peak_of(), **said}))
