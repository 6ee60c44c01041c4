"""Publish to a Kubo: segments side by side, then one recursive pin that names the release.

    import segment 0 … n-2 → import nodes and manifest → is what was sent before still there? → pin → forget the journal

Commit point: the pin. Before it nothing names the release in that Kubo and its garbage collector may take all of it;
the journal only saves sending again what Kubo took. The pin itself would not say that a block is gone: Kubo looks for
it at its peers, for ever. So after a resumed push Kubo is asked whether its own repository has every block, and if not,
or if the pin gets no further, the journal is forgotten and all is sent once more.
The manifest is sent last, so a root that announces itself has everything below it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelnet import durable
from modelnet.core.cid import Cid
from modelnet.errors import UnavailableError
from modelnet.ipfs.kubo import Kubo, Multipart
from modelnet.ipfs.rpc import IncompleteResponseError, KuboRefusedError
from modelnet.ipfs.segments import SIDE_BY_SIDE, ReleaseBlocks, Segment
from modelnet.partial import disk_errors
from modelnet.progress import SILENT, Progress
from modelnet.stores.local import LocalStore

__all__ = ["Pushed", "push"]

MAX_JOURNAL = 1 << 24


@dataclass(frozen=True, slots=True)
class Pushed:
    """What `push` did; `sent` counts the bytes of blocks that went over the wire, `resumed` those it was spared."""

    root: Cid
    name: str
    blocks: int
    bytes: int
    sent: int
    resumed: int


class _Journal:
    """Which segments a Kubo has confirmed; one small file, replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._done: set[str] = set()
        try:
            with path.open("rb") as file:
                told: Any = json.loads(file.read(MAX_JOURNAL))
            self._done = {mark for mark in told if isinstance(mark, str)} if isinstance(told, list) else set()
        except (OSError, ValueError, RecursionError):
            pass  # no journal, or a damaged one: everything is sent

    def has(self, segment: Segment) -> bool:
        return segment.mark in self._done

    def add(self, segment: Segment) -> None:
        with self._lock, disk_errors(self._path.parent):
            self._done.add(segment.mark)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            durable.write(self._path, json.dumps(sorted(self._done)).encode())

    def forget(self) -> None:
        self._done.clear()
        self._path.unlink(missing_ok=True)


def push(
    store: LocalStore,
    kubo: Kubo,
    manifest: Cid,
    name: str,
    *,
    progress: Progress = SILENT,
    segment: int | None = None,
) -> Pushed:
    """Bring the release of `manifest` into `kubo` and pin it under `name`.

    May be interrupted and called again; `segment` is the most bytes that one request carries. Raises
    `UnavailableError` when Kubo fails or a chunk is not here, `IntegrityError` when a file of the release has changed.
    Then nothing is pinned.
    """
    blocks = ReleaseBlocks(store, manifest, segment)
    size = sum(part.bytes for part in blocks.segments)
    journal = _Journal(store.home.root / "kubo" / kubo.peer_id() / f"{manifest}.json")
    sent = 0
    if kubo.pinned(manifest) is None:
        for again in (False, True):
            resumed = any(map(journal.has, blocks.segments))
            sent += _send(store, kubo, blocks, journal, progress)
            try:
                if resumed:
                    _check(kubo, blocks, progress)
                _pin(kubo, manifest, name, blocks, progress)
                break
            except (KuboRefusedError, IncompleteResponseError) as error:
                journal.forget()  # whatever it confirmed, it does not have all of it
                if again or not resumed:
                    raise _not_whole(kubo, manifest, error) from error
                progress.note(f"{kubo} lost blocks that it had taken; sending them again")
    else:
        _pin(kubo, manifest, name, blocks, progress)  # the name may be another now
    if kubo.pinned(manifest) is None:
        raise _not_whole(kubo, manifest, None)
    journal.forget()
    return Pushed(manifest, name, len(blocks), size, sent, max(size - sent, 0))


def _send(store: LocalStore, kubo: Kubo, blocks: ReleaseBlocks, journal: _Journal, progress: Progress) -> int:
    """Import every segment that the journal does not know; return how many bytes of blocks that were."""
    parts = [part for part in blocks.segments if not journal.has(part)]
    if not parts:
        return 0
    total = sum(part.bytes for part in parts)
    progress.begin("sending to kubo", total)
    stopped = threading.Event()

    def send(part: Segment) -> None:
        try:
            if not stopped.is_set():
                _import(kubo, blocks, part, progress, stopped)
                journal.add(part)
        except BaseException:
            stopped.set()  # what the others send now would only delay saying so
            raise
        finally:
            store.index.close()  # this thread's connection

    with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="modelnet-kubo") as pool:
        jobs = [pool.submit(send, part) for part in parts if part is not blocks.segments[-1]]
        try:
            failures = [error for job in jobs if (error := job.exception()) is not None]
        except BaseException:
            stopped.set()
            raise
    if failures:
        raise next((error for error in failures if not isinstance(error, _StoppedError)), failures[0])
    if blocks.segments[-1] in parts:
        send(blocks.segments[-1])
    progress.end()
    return total


class _StoppedError(UnavailableError):
    """Another segment failed."""


def _import(kubo: Kubo, blocks: ReleaseBlocks, part: Segment, progress: Progress, stopped: threading.Event) -> None:
    def advance(count: int) -> None:
        if stopped.is_set():
            raise _StoppedError("broken off because another part failed", rule="stopped")
        progress.advance(str(kubo), count)

    kubo.import_car(Multipart(blocks.car(part), blocks.car_length(part), advance), part.blocks, part.bytes)


def _check(kubo: Kubo, blocks: ReleaseBlocks, progress: Progress) -> None:
    progress.begin("checking kubo", blocks.size)
    told = _growing(lambda count: progress.advance(str(kubo), count))
    kubo.check_whole(blocks.root, len(blocks), progress=told)
    progress.end()


def _pin(kubo: Kubo, manifest: Cid, name: str, blocks: ReleaseBlocks, progress: Progress) -> None:
    progress.begin("pinning", blocks.size)
    kubo.pin(manifest, name, progress=_growing(lambda count: progress.advance(str(kubo), count)))
    progress.end()


def _growing(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """Turn totals so far into what was added."""
    before = 0

    def told(_nodes: int, size: int) -> None:
        nonlocal before
        advance(max(size - before, 0))
        before = max(size, before)

    return told


def _not_whole(kubo: Kubo, manifest: Cid, error: UnavailableError | None) -> UnavailableError:
    return UnavailableError(
        "kubo did not pin the release", rule="kubo-pin", wanted=manifest, got=error and (error.got or error.message),
        source=str(kubo.rpc.address), hint="run it again; is its garbage collector running, or its disk full?",
    )  # fmt: skip
