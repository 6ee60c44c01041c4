"""What every benchmark shares: options, a work folder that goes away, child processes, rounds and the table of ratios.

    with bench("publish", __doc__) as work:
        ours, limit = Side("modelnet.publish", ...), Side("limit: hashes", ...)
        measure("one file", size, ours, [(limit, 0.8)], work)

Each run of a side is a fresh process that times itself after its imports. The sides take turns within a round, so that
what else the machine does meets all of them. Nothing is asserted about time: a ratio below its target is said, and the
exit status stays 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "MIB", "Node", "Side", "Spent", "Work", "bench", "child", "disk_used", "free_port", "job", "measure", "peak_of",
    "program", "report", "started", "wait_port",
]  # fmt: skip

MIB = 1024 * 1024
HERE = Path(__file__).parent
CHILD_S = 600.0  # the longest that one run may take
STOP_S = 10.0
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Work:
    """One run of a benchmark: `folder` is its own and is removed at the end."""

    folder: Path
    quick: bool
    rounds: int
    tmpfs: bool

    def fresh(self, name: str) -> Path:
        """Return a path in the folder at which nothing lies any more."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path

    def size(self, full: int, quick: int) -> int:
        """Return a number of bytes given in MiB for a full and for a quick run."""
        return (quick if self.quick else full) * MIB


@contextlib.contextmanager
def bench(title: str, text: str | None, *, rounds: int = 5) -> Iterator[Work]:
    """Parse the options, make the work folder, and remove it whatever happens."""
    parser = argparse.ArgumentParser(description=(text or title).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the work folder is made")
    parser.add_argument("--tmpfs", action="store_true", help="make it in /dev/shm")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it works")
    parser.add_argument("--rounds", type=int, help="how often each side runs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = Path("/dev/shm") if options.tmpfs else options.dir
    folder = Path(tempfile.mkdtemp(prefix="modelnet-bench-", dir=base))
    kind = "quick" if options.quick else "full"
    cores = len(os.sched_getaffinity(0))
    print(f"# {title}: {cores} cores, load {os.getloadavg()[0]:.1f}, {file_system(folder)}, {kind}", flush=True)
    try:
        yield Work(folder, options.quick, options.rounds or (2 if options.quick else rounds), options.tmpfs)
        print(f"# load at the end: {os.getloadavg()[0]:.1f}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, found = "", "unknown file system"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, found = mount, kind
    return found


# Processes


@dataclass(frozen=True, slots=True)
class Spent:
    """What one run took; `peak` is the most memory that was resident, in bytes, and 0 when it was not looked at."""

    seconds: float
    cpu: float = 0.0
    peak: int = 0
    said: dict[str, Any] = field(default_factory=dict)


def job(name: str, *, _environment: dict[str, str] | None = None, **arguments: Any) -> Spent:
    """Run a function of `jobs.py` in a process of its own and return what it says of itself."""
    argv = [sys.executable, str(HERE / "jobs.py"), name, json.dumps(arguments, default=str)]
    environment = {**os.environ, **(_environment or {})}
    ended = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=CHILD_S, check=False, env=environment)
    if ended.returncode != 0:
        raise RuntimeError(f"job {name} ended with {ended.returncode}")
    said = json.loads(ended.stdout.splitlines()[-1])
    return Spent(said.pop("seconds"), said.pop("cpu"), said.pop("peak"), said)


def child(argv: Sequence[str], **options: Any) -> Spent:
    """Run a program to its end, start included, and return its time and its processor time."""
    begin = time.perf_counter()
    process = subprocess.Popen(argv, **options)
    try:
        _, status, usage = _wait(process, CHILD_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime)


def _wait(process: subprocess.Popen[bytes], limit: float) -> tuple[int, int, Any]:
    """Wait for one child and its own usage; a timer kills it by its own handle when it takes too long."""
    previous = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return os.wait4(process.pid, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def started(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program beside us; end it, and nothing else, when the block ends."""
    process = subprocess.Popen(argv, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def program(name: str) -> str:
    """Return the path of a script that is installed beside this Python, else what PATH has."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


@dataclass(frozen=True, slots=True)
class Node:
    """A running `modelnet node`."""

    url: str
    pid: int

    @classmethod
    @contextlib.contextmanager
    def serving(cls, home: Path) -> Iterator[Node]:
        """Serve the store in `home` on a free port of this machine until the block ends."""
        argv = [program("modelnet"), "node", "--listen", "127.0.0.1:0", "--json"]
        environment = {**os.environ, "MODELNET_HOME": str(home)}
        with started(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
            for line in process.stdout or ():
                if json.loads(line).get("event") == "ready":
                    yield cls(json.loads(line)["url"], process.pid)
                    return
            raise RuntimeError("the node ended before it was ready")

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def cpu(self) -> float:
        """Processor time so far, in seconds."""
        return cpu_of(self.pid)

    @property
    def peak(self) -> int:
        """The most memory that was ever resident, in bytes."""
        return peak_of(self.pid)


def peak_of(pid: int | str = "self") -> int:
    """Return VmHWM of a running process in bytes; unlike `ru_maxrss` it does not count what came before its exec."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def cpu_of(pid: int) -> float:
    """Return the user and system time of a running process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def free_port() -> int:
    """Return a port of the loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_port(port: int) -> None:
    """Return when something listens on `port`."""
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def disk_used(folder: Path) -> int:
    """Return the bytes that the files in `folder` take on the disk, each file once however many names it has."""
    blocks: dict[tuple[int, int], int] = {}
    for base, _, names in os.walk(folder):
        for path in [Path(base), *(Path(base) / name for name in names)]:
            status = path.stat(follow_symlinks=False)
            blocks[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(blocks.values())


# Rounds and the table


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared: `run` does it once, on what `before` prepares out of the clock's sight."""

    name: str
    run: Callable[[], Spent]
    before: Callable[[], object] = lambda: None


def measure(
    title: str, size: int, ours: Side, others: Sequence[tuple[Side, float | None]], work: Work
) -> dict[str, list[Spent]]:
    """Let all sides take turns; print their medians, and our speed as a share of each other's beside its target.

    Of several sides called `limit: ...` only the fastest counts. A target of None means a figure for the reader only.
    """
    sides = [ours, *(side for side, _ in others)]
    runs: dict[str, list[Spent]] = {side.name: [] for side in sides}
    for _ in range(work.rounds):
        for side in sides:
            side.before()
            os.sync()  # what the side before left to be written must not be written on this one's time
            runs[side.name].append(side.run())
    print(f"\n{title}, {size / 1e9:.2f} GB, {work.rounds} rounds in turn (median, and the range)")
    for side in sides:
        _row(side.name, size, runs[side.name])
    medians = {name: statistics.median(run.seconds for run in found) for name, found in runs.items()}
    best = {name: min(run.seconds for run in found) for name, found in runs.items()}
    limit = min((name for name in medians if name.startswith("limit")), key=medians.__getitem__, default=None)
    for side, target in others:
        if target is not None and (not side.name.startswith("limit") or side.name == limit):
            ratio, at_best = (found[side.name] / found[ours.name] for found in (medians, best))
            verdict = "met" if ratio >= target else "BELOW"
            print(
                f"  ratio  {ours.name + ' / ' + side.name:<58} {ratio:5.2f} (best runs {at_best:.2f})"
                f"  target >= {target}  {verdict}"
            )
    sys.stdout.flush()
    return runs


def _row(name: str, size: int, runs: Sequence[Spent]) -> None:
    seconds = [run.seconds for run in runs]
    median = statistics.median(seconds)
    cpu = statistics.median(run.cpu for run in runs)
    peak = max(run.peak for run in runs)
    more = "".join(f"  {key} {value}" for key, value in runs[-1].said.items() if not key.startswith("_"))
    print(
        f"  {name:<38} {median:7.3f} s ({min(seconds):.3f}-{max(seconds):.3f})  {size / median / 1e9:5.2f} GB/s"
        + (f"  cpu {cpu:5.2f} s" if cpu else "")
        + (f"  peak {peak / MIB:.0f} MiB" if peak else "")
        + more
    )


def report(name: str, value: float, unit: str, *, most: float) -> None:
    """Print a figure that has an upper bound."""
    print(f"  {name:<52} {value:9.3f} {unit}  target <= {most}  {'met' if value <= most else 'ABOVE'}", flush=True)
