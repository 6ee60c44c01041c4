"""Publishing into a real Kubo beside `ipfs add`, and pulling from our node beside `ipfs get` between two Kubos.

Every run gets daemons with empty repositories, started out of the clock's sight: private, on loopback, flatfs on the
same disk. `modelnet publish --pin` hashes, signs, sends and pins; `ipfs add` with the same hash and 1 MiB chunks, and
with its defaults, hashes, stores and pins. `ipfs get` and our pull both end with the files on the disk, of another
machine as it were; ours are verified against the publisher's signature and synced as well.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common import MIB, Node, Side, Spent, Work, bench, child, job, measure, peak_of, report
from samples import write_safetensors

from tests.engines import KUBO_MISSING, ROOT_OPTIONS, Kubo, find_kubo, kubo_daemon

ADD, GET, MEMORY_MIB = 0.9, 4.0, 256


class Daemons:
    """Kubos by name, each with an empty repository after `fresh`; those of one run share a swarm."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.running: dict[str, tuple[contextlib.ExitStack, Kubo]] = {}
        self.key = secrets.token_hex(32)
        stack.callback(self.stop)

    def fresh(self, name: str) -> Kubo:
        """Return a new daemon called `name`; the old one ends and its repository goes."""
        self.stop(name)
        (self.folder / name).mkdir()
        own = contextlib.ExitStack()
        kubo = own.enter_context(kubo_daemon(self.folder / name, swarm_key=self.key))
        self.running[name] = (own, kubo)
        return kubo

    def stop(self, *names: str) -> None:
        """End the daemons called `names`, or all."""
        for name in names or list(self.running):
            if name in self.running:
                self.running.pop(name)[0].close()
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def __getitem__(self, name: str) -> Kubo:
        return self.running[name][1]


def run(kubo: Kubo, *arguments: object) -> Spent:
    """Run `ipfs` against a daemon and time it."""
    return child(
        [str(word) for word in (kubo.binary, *arguments)],
        env=kubo.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def daemons(work: Work) -> Iterator[Daemons]:
    """Give a place for daemons in the work folder."""
    folder = work.folder / "kubos"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        yield Daemons(folder, stack)
    shutil.rmtree(folder, ignore_errors=True)


def publishing(work: Work, model: Path, size: int) -> None:
    """Compare ways into Kubo."""
    with daemons(work) as kubos:
        made = job("publish_to_kubo", home=work.folder / "maker", path=model, api=kubos.fresh("a").api).said

        def pushed(name: str, **arguments: object) -> Spent:
            spent = job(name, api=kubos["a"].api, **arguments)
            return replace(spent, said={"kubo peak": f"{peak_of(kubos['a'].pid) // MIB} MiB"})

        def clean() -> None:
            work.fresh("publisher")
            kubos.fresh("a")

        ours = Side(
            "modelnet publish --pin kubo",
            lambda: pushed("publish_to_kubo", home=work.folder / "publisher", path=model),
            clean,
        )
        alone = Side(
            "modelnet pin add (published before)",
            lambda: pushed("push_to_kubo", home=work.folder / "maker", manifest=made["_manifest"]),
            clean,
        )
        same = Side("ipfs add, blake3, 1 MiB chunks", lambda: run(kubos["a"], "add", *ROOT_OPTIONS, "-Q", model), clean)
        plain = Side("ipfs add", lambda: run(kubos["a"], "add", "-Q", model), clean)
        measure("publish to Kubo", size, ours, [(same, ADD), (plain, None), (alone, None)], work)


def pulling(work: Work, model: Path, size: int) -> None:
    """Compare ways from machine to machine."""
    with daemons(work) as kubos:
        a = kubos.fresh("a")
        made = job("publish_to_kubo", home=work.fresh("publisher"), path=model, api=a.api).said
        added = a.run("add", *ROOT_OPTIONS, "-Q", model).decode().strip()
        address = json.loads(a.run("id"))["Addresses"][0]

        def clean() -> None:
            work.fresh("puller")
            work.fresh("out")
            kubos.fresh("b").run("swarm", "connect", address)

        with Node.serving(work.folder / "publisher") as node:
            ours = Side(
                "modelnet pull from a node",
                lambda: job("pull", home=work.folder / "puller", locator=made["_locator"], peers=[node.url]),
                clean,
            )
            between = Side(
                "ipfs get between two Kubos (ipfs add's DAG)",
                lambda: run(kubos["b"], "get", "-o", work.folder / "out", added),
                clean,
            )
            tree = Side(
                "ipfs get between two Kubos (our DAG)",
                lambda: run(kubos["b"], "get", "-o", work.folder / "out", made["_tree"]),
                clean,
            )
            gateway = Side(
                "modelnet pull from a Kubo's gateway",
                lambda: job("pull", home=work.folder / "puller", locator=made["_locator"], peers=[node.url, a.gateway]),
                clean,
            )
            measure("machine to machine", size, ours, [(between, GET), (tree, GET), (gateway, None)], work)


def memory(work: Work) -> None:
    """Say what publishing to Kubo needs of our memory, whatever the size."""
    model = work.folder / "large.safetensors"
    size = write_safetensors(model, work.size(8192, 256))
    with daemons(work) as kubos:
        kubo = kubos.fresh("a")
        spent = job("publish_to_kubo", home=work.fresh("publisher"), path=model, api=kubo.api)
        print(f"\npublish to Kubo, {size / 1e9:.2f} GB: {spent.seconds:.1f} s, {size / spent.seconds / 1e9:.2f} GB/s")
        report("peak memory of modelnet publish --pin kubo", spent.peak / MIB, "MiB", most=MEMORY_MIB)
    model.unlink()


with bench("kubo", __doc__, rounds=3) as work:
    if find_kubo() is None:
        print(f"skipped: {KUBO_MISSING}")
    else:
        model = work.folder / "model.safetensors"
        size = write_safetensors(model, work.size(1024, 64))
        publishing(work, model, size)
        pulling(work, model, size)
        memory(work)
