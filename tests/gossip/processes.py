"""Nodes as processes of their own: `modelnet node`, each with its own store, on loopback or in network namespaces.

with Swarm(tmp_path, 20, follow=[log.pid], interval=3.0) as swarm:
    swarm[3].know(log)                       # what another command does with that node's store
    eventually(lambda: all(store.size(log.pid) == 4 for store in swarm))
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from modelnet.stores.local import open_store
from tests.gossip.nodes import Store
from tests.ports import free_ports

__all__ = ["Process", "Swarm", "namespaces"]

STOP_S = 10.0


class Process(Store):
    """One node's process and its store."""

    __slots__ = ("process", "url")

    def __init__(
        self, home: Path, url: str, *, peers: Sequence[str], follow: Sequence[str], interval: float,
        inside: Sequence[str],
    ) -> None:  # fmt: skip
        """Start it; `inside` is a command that runs it in another network namespace."""
        super().__init__(open_store(home))
        object.__setattr__(self, "url", url)
        arguments = ["node", "--listen", url.removeprefix("http://"), "--gossip-interval", str(interval), "--json"]
        arguments += [word for peer in peers for word in ("--peer", peer)]
        arguments += [word for pid in follow for word in ("--follow", pid)]
        started = subprocess.Popen(
            [*inside, sys.executable, "-m", "modelnet_cli.main", *arguments],
            env=os.environ | {"MODELNET_HOME": str(home)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        object.__setattr__(self, "process", started)

    def wait_ready(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert '"ready"' in line, line

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.communicate(timeout=STOP_S)

    def interrupt(self) -> None:
        """Ask it to stop, as an operator does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> str:
        """Wait for its end; return what it said on stderr."""
        self.interrupt()
        try:
            _, said = self.process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.store.index.close()
        return said


class Swarm(list[Process]):
    """Some nodes that each know a few of the others."""

    def __init__(
        self, folder: Path, count: int, *, follow: Sequence[str], interval: float, knows: int = 3,
        hosts: Sequence[tuple[str, Sequence[str]]] = (("127.0.0.1", ()),),
    ) -> None:  # fmt: skip
        """Prepare `count` nodes; `hosts` are addresses to put them at, and the commands that lead there."""
        super().__init__()
        self._folder, self._follow, self._interval = folder, follow, interval
        places = [hosts[number % len(hosts)] for number in range(count)]
        ports = free_ports(count)
        self._urls = [f"http://{host}:{port}" for (host, _), port in zip(places, ports, strict=True)]
        self._places = places
        self._random = random.Random(1)
        self._knows = knows

    def __enter__(self) -> Self:
        try:
            for number, url in enumerate(self._urls):
                # A ring, so that nobody is left out, and some chance.
                others = [self._urls[number - 1], *self._random.sample(self._urls, self._knows - 1)]
                self.start(url, [other for other in dict.fromkeys(others) if other != url], self._places[number][1])
            for process in self:
                process.wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def start(self, url: str, peers: Sequence[str], inside: Sequence[str] = ()) -> Process:
        """Start one more node."""
        home = self._folder / f"node-{len(self)}"
        process = Process(home, url, peers=peers, follow=self._follow, interval=self._interval, inside=inside)
        self.append(process)
        return process

    def __exit__(self, *_: object) -> None:
        said = self._stop()
        assert not any("Traceback" in words for words in said), said

    def _stop(self) -> list[str]:
        """End all of them, also when one of them never began; return what each said."""
        for process in self:
            process.interrupt()
        return [process.stop() for process in self]


@contextlib.contextmanager
def namespaces() -> Iterator[list[tuple[str, list[str]]] | None]:
    """Give two network namespaces joined by a link, as (address, command that leads there); None if that may not be.

    `ip -n NAME link set dev m0 down` parts them.
    """
    names = [f"modelnet-{os.getpid()}-{side}" for side in "ab"]
    made: list[str] = []

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", "m0", "netns", names[0], "type", "veth", "peer", "name", "m0", "netns", names[1])
            for number, name in enumerate(names):
                ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "m0")
                for device in ("lo", "m0"):
                    ip("-n", name, "link", "set", "dev", device, "up")
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        yield [(f"10.77.0.{number + 1}", ["ip", "netns", "exec", name]) for number, name in enumerate(names)]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
