"""What publishers' logs cost: folding, opening a store that follows many, finding a name among many releases.

The logs are made by tests/core/logs.py and adopted as from a stranger; making them is not measured, and their files are
not forced to the disk meanwhile. Each figure is the median of fresh processes or of many questions, as it says.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

from common import MIB, Work, bench, peak_of, report

sys.path.insert(0, str(Path(__file__).parents[2]))

from modelnet.core.adoption import MAX_TAKEN
from modelnet.core.merkle import Frontier, leaf_hash
from modelnet.core.note import Checkpoint
from modelnet.gate import Gate
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from tests.core.logs import T0, Log, digests, key, release
from tests.core.measure_fold import measure as measure_fold

EVENTS_A_SECOND = 8_000
OPEN_S, RESOLVE_MS, KNOWN_MS = 0.3, 2.0, 1.0
OPEN = """
import sys, time
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
begin = time.perf_counter()
replicas = Replicas(open_store(sys.argv[1]))
found = replicas.publishers()
replicas.standing(found[len(found) // 2].pid)
print(len(found), time.perf_counter() - begin)
"""


def fold(work: Work) -> None:
    """Measure folding on one core."""
    count = 2_000 if work.quick else 10_000
    folded, verified = measure_fold(count, work.rounds)
    print(f"\nfold, {count:,} events, processor time, the best of {work.rounds}")
    print(
        f"  the signature check alone: {verified:,.0f} a second, so the fold is at {folded / verified:.2f} of its limit"
    )
    least("events folded a second", folded, EVENTS_A_SECOND)


def least(name: str, value: float, bound: float) -> None:
    """Print a figure that has a lower bound."""
    print(f"  {name:<52} {value:9.0f}    target >= {bound}  {'met' if value >= bound else 'BELOW'}", flush=True)


def opening(work: Work) -> None:
    """Measure opening a store that follows many publishers, in fresh processes."""
    count = 500 if work.quick else 10_000
    home = work.fresh("followed")
    replicas = Replicas(open_store(home), clock=lambda: T0)
    with mock.patch.object(os, "fsync", return_value=None):
        for number in range(count):
            log = Log(f"{number} ")
            log.release("llama", "1")
            replicas.adopt(log.pid, log.head(time=T0), log.entries)
    taken = []
    for _ in range(work.rounds):
        argv = [sys.executable, "-c", OPEN, str(home)]
        found, seconds = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        if int(found) != count:
            raise RuntimeError(f"{found} publishers instead of {count}")
        taken.append(float(seconds))
    print(f"\nopening a store that follows {count:,} publishers: all listed, one looked at; {work.rounds} processes")
    limit = listing(home)
    print(f"  limit: reading the table with sqlite3 alone: {limit:.3f} s")
    report("opened", statistics.median(taken), "s", most=OPEN_S)


def listing(home: Path) -> float:
    """Return what the bare rows take."""
    begin = time.perf_counter()
    open_store(home).index.rows("SELECT * FROM log ORDER BY pid")
    return time.perf_counter() - begin


def resolving(work: Work) -> None:
    """Measure questions to the log of a publisher with very many releases."""
    count = 20_000 if work.quick else 1_000_000
    home, log = work.fresh("large"), Log()
    tree = Frontier()

    def entries() -> Iterator[bytes]:
        yield log.entries[0]
        for number in range(count - 1):
            yield release(log.pid, f"model-{number % 1000}", str(number), channels=("stable",))

    def hashed(them: Iterable[bytes]) -> Iterator[bytes]:
        for entry in them:
            tree.append(leaf_hash(entry))
            yield entry

    kept = work.fresh("entries")
    with kept.open("wb") as file:
        for entry in hashed(entries()):
            file.write(len(entry).to_bytes(4, "big") + entry)
    origin = log.state.origin
    note = (
        Checkpoint(origin, count, tree.root).note().sign(origin, key("log")).cosign(f"{origin}/beat", key("beat"), T0)
    )
    replicas = Replicas(open_store(home), clock=lambda: T0)
    begin = time.perf_counter()
    with mock.patch.object(os, "fsync", return_value=None):
        replicas.adopt(log.pid, note, read(kept))
    took = time.perf_counter() - begin
    print(f"\na log of {count:,} releases of 1,000 names ({kept.stat().st_size / 1e6:.0f} MB)")
    print(f"  adopted in {took:.1f} s, {count / took:,.0f} entries a second; peak memory {peak_of() / MIB:.0f} MiB")
    replicas = Replicas(open_store(home), clock=lambda: T0)
    begin = time.perf_counter()
    replicas.standing(log.pid)
    print(f"  a new process knows it in {1000 * (time.perf_counter() - begin):.1f} ms")
    random.seed(1)
    names = [random.randrange(1000) for _ in range(200)]
    view, gate = replicas.view(log.pid), Gate.open(replicas.store, replicas=replicas)
    asked: dict[str, tuple[Callable[[int], object], float]] = {
        "newest of a name": (lambda one: replicas.view(log.pid).newest(f"model-{one}"), RESOLVE_MS),  # type: ignore[attr-defined]
        "newest of a name on a channel": (lambda one: view.newest(f"model-{one}", "stable"), RESOLVE_MS),  # type: ignore[attr-defined]
        "a version": (lambda one: view.find(f"model-{one}", str(one)), RESOLVE_MS),
        "what a digest is, and whether it is revoked": (lambda one: known(replicas, log.pid, one), RESOLVE_MS),
        "how the log stands": (lambda _: replicas.standing(log.pid), KNOWN_MS),
        "the gate on a cached release": (lambda one: gate.resolve(f"{log.pid}/model-{one}@{one}"), KNOWN_MS),
    }
    for name, (ask, most) in asked.items():
        taken = []
        for one in names:
            begin = time.perf_counter()
            answer = ask(one)
            taken.append(1000 * (time.perf_counter() - begin))
            if answer is None:
                raise RuntimeError(f"{name}: no answer")
        report(f"{name} (median of {len(taken)})", statistics.median(taken), "ms", most=most)


def known(replicas: Replicas, pid: str, number: int) -> object:
    """Ask for a manifest and its revocations."""
    which = digests(f"model-{number}", str(number))
    view = replicas.view(pid)
    return None if view.revocations_of(which) else view.manifest(which)


def read(path: Path) -> Iterator[bytes]:
    """Yield the entries in a file."""
    with path.open("rb") as file:
        while length := file.read(4):
            yield file.read(int.from_bytes(length, "big"))


with bench("log", __doc__) as work:
    if MAX_TAKEN < 1_000_000:
        raise RuntimeError("a log of a million entries could not be adopted")
    fold(work)
    opening(work)
    resolving(work)
