"""The stage that these tests play on: machines with a store of their own, real processes, and a slow wire between them.

    alice = Machine(tmp_path / "a").with_publisher("acme")
    made = alice.run("publish", folder, "--name", "m", "--version", "1")     # a process; made.json is its result
    with alice.node() as url, throttled(url, rate=8 << 20) as wire:
        bob.run("pull", made.json["locator"], "--peer", wire.url)

`serving` runs the same node inside this process, for tests that need no process of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from modelnet import Publication, Pulled, init, publish, pull
from modelnet.stores.local import open_store
from modelnet_registry.node import run_node

__all__ = [
    "LIMIT_S",
    "Done",
    "Machine",
    "Wire",
    "digests",
    "kill",
    "same_files",
    "serving",
    "throttled",
    "write_random",
]

PROGRAM = (sys.executable, "-m", "modelnet_cli.main")
LIMIT_S = 60.0  # nothing here may hang
# Root may read and write what its permissions forbid; without this capability it is held to them like anybody.
PLAIN_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @cached_property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a command that failed."""
        value = self.json["error"]
        assert isinstance(value, dict)
        return value


@dataclass(frozen=True)
class Machine:
    """One store, and the processes that use it."""

    home: Path
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def held_to_permissions(self) -> Machine:
        """Return this machine with processes that heed permission bits, or skip the test."""
        if PLAIN_USER and subprocess.run([*PLAIN_USER, "true"], check=False, capture_output=True).returncode:
            pytest.skip("root cannot lay down its capabilities here")
        return replace(self, prefix=PLAIN_USER)

    def with_publisher(self, alias: str | None = None) -> Machine:
        """Make an unprotected publisher here."""
        init(alias=alias, home=self.home)
        return self

    def environment(self) -> dict[str, str]:
        """Return what a process of this machine sees."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MODELNET_", "COV_", "NO_COLOR", "FORCE_COLOR", "PYTEST_"))
        }
        return {**kept, "MODELNET_HOME": str(self.home), **self.env}

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start `modelnet ARGUMENTS`."""
        options = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            "env": self.environment(), **options,
        }  # fmt: skip
        return subprocess.Popen(
            [*self.prefix, *PROGRAM, *map(os.fspath, arguments)], text=True, encoding="utf-8", **options
        )

    def run(self, *arguments: str | Path, wanted: int | None = 0, **options: Any) -> Done:
        """Run `modelnet ARGUMENTS` to its end; its exit code must be `wanted`."""
        with self.start(*arguments, **options) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            except BaseException:
                process.kill()
                raise
        assert wanted in (None, process.returncode), f"exit {process.returncode}\n{out}\n{err}"
        return Done(process.returncode, out or "", err or "")

    def publish(self, path: Path, name: str = "m", version: str = "1", **options: Any) -> Publication:
        """Publish in this process."""
        return publish(path, name=name, version=version, home=self.home, **options)

    def pull(self, reference: str, *peers: str, **options: Any) -> Pulled:
        """Pull in this process."""
        return pull(reference, peers=peers, home=self.home, **options)

    def fsck(self) -> Done:
        """Run fsck, which must find nothing."""
        done = self.run("fsck", "--json", wanted=None)
        assert done.code == 0, done.out + done.err
        assert done.json["problems"] == []
        return done

    @contextmanager
    def started_node(self, listen: str = "127.0.0.1:0") -> Iterator[subprocess.Popen[str]]:
        """Run `modelnet node` as a process that is ready; it may be killed meanwhile."""
        with self.start("node", "--listen", listen, "--json", stderr=None) as process:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith('{"event": "ready"'), ready
            try:
                yield process
            finally:
                process.terminate()
                process.communicate(timeout=LIMIT_S)

    @contextmanager
    def node(self) -> Iterator[str]:
        """Run `modelnet node` as a process; give its URL."""
        with self.start("node", "--listen", "127.0.0.1:0", "--json", stderr=None) as process:
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()
                process.communicate(timeout=LIMIT_S)


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Serve the store in `home` from a thread of this process; give the URL."""
    stop, ready = threading.Event(), threading.Event()
    urls: list[str] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    thread = threading.Thread(
        target=run_node, args=(open_store(home), "127.0.0.1", 0), kwargs={"ready": on_ready, "stop": stop}
    )
    thread.start()
    try:
        assert ready.wait(LIMIT_S)
        yield urls[0]
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@contextmanager
def throttled(url: str, rate: float) -> Iterator[Wire]:
    """Give a proxy that passes at most `rate` bytes a second, shared by its connections.

    It forwards bytes, not requests; a peer behind it that goes away takes its connections with it, and a new connection
    reaches whatever listens there then.
    """
    target = urlsplit(url)
    assert target.hostname is not None
    assert target.port is not None
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}", rate)
    threads: list[threading.Thread] = []

    def accept() -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=_pump, args=(near, (target.hostname, target.port), wire, stop))
            thread.start()
            threads.append(thread)

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield wire
    finally:
        stop.set()
        acceptor.join(LIMIT_S)
        for thread in threads:
            thread.join(LIMIT_S)
        listener.close()


class Wire:
    """A token bucket at an address: `passed` bytes have come through it; after `silent_after` nothing does."""

    def __init__(self, url: str, rate: float) -> None:
        """Pass `rate` bytes a second."""
        self.url = url
        self.passed = 0
        self.silent_after: int | None = None
        self._rate = rate
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait until `count` more bytes may pass."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + count / self._rate
            self.passed += count
            wait = self._next - now
        time.sleep(max(0.0, wait))


def _pump(near: socket.socket, address: tuple[str, int], wire: Wire, stop: threading.Event) -> None:
    """Pass bytes both ways until one side ends."""
    try:
        far = socket.create_connection(address, timeout=5)
    except OSError:
        near.close()
        return
    # Small buffers, so that what is counted is what has arrived, but for some tens of kilobytes.
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    with near, far, selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        try:
            while not stop.is_set():
                for key, _ in selector.select(0.1):
                    content = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not content:
                        return
                    if key.fileobj is far:
                        if wire.silent_after is not None and wire.passed + len(content) > wire.silent_after:
                            stop.wait()
                        wire.take(len(content))
                    key.data.sendall(content)
        except OSError:
            return


def write_random(path: Path, size: int, seed: int = 1) -> Path:
    """Write `size` seeded random bytes to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder`, by its path as bytes spell it."""
    found = {}
    for inside, _, names in os.walk(folder):
        for name in names:
            path = Path(inside) / name
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def same_files(one: Path, other: Path) -> None:
    """Assert that two folders hold the same files, byte for byte."""
    assert digests(one) == digests(other)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9 a process and wait for its end."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
