"""Kill -9 of the puller, the node or the publisher at random moments, with real processes and a slow wire.

    python -m tests.store.soak --kills 200 [--seed 7]

After each kill: no release is recorded whose files are not byte for byte what was published, fsck is clean, and what
has arrived is not fetched again but for what was on the way. In the end everything is there.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from modelnet import UnavailableError, fsck
from modelnet.gate import Gate
from modelnet.signed import identify, open_manifest
from modelnet.stores.local import ChunkReader, open_store
from tests.ports import free_ports
from tests.store.stage import LIMIT_S, Machine, digests, kill, serving, throttled, write_random

__all__ = ["MODEL", "Toll", "check", "kill_nodes", "kill_publishers", "kill_pullers", "seedable"]

MIB = 1 << 20
RATE = 32 * MIB  # bytes a second: a pull takes two seconds, so that most kills land in it
MODEL = 48 * MIB
# What a kill may cost: on the way in four connections, each with a buffer of 4 MiB and what its sockets hold.
ON_THE_WAY = 4 * (4 * MIB + MIB)


@dataclass
class Toll:
    """What the kills did: how many there were, what they cost in bytes, how often a command had to be run again."""

    kills: int = 0
    cycles: int = 0
    lost: list[int] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.kills} kills in {self.cycles} cycles"
        if self.lost:
            spread = sorted(self.fractions)
            text += (
                f"; fetched again: {max(self.lost) / MIB:.1f} MiB at most, {sum(self.lost) / len(self.lost) / MIB:.1f}"
                f" MiB on average; killed when {spread[0]:.0%} to {spread[-1]:.0%} was there"
            )
        return text


def model(folder: Path) -> Path:
    """Write a model with large, small, nested and empty files."""
    source = folder / "model"
    write_random(source / "a.bin", MODEL - 8 * MIB, seed=1)
    write_random(source / "b.bin", 7 * MIB, seed=2)
    for number in range(20):
        write_random(source / "parts" / f"{number}.json", 50_000, seed=10 + number)
    write_random(source / "parts" / "none", 0)
    return source


def check(machine: Machine, wanted: dict[str, str]) -> None:
    """Assert that whatever release is recorded is whole, and that fsck finds nothing."""
    store = open_store(machine.home)
    gate = Gate.open(store)
    for row in store.index.releases():
        if not gate.is_logged(row):
            assert row.layout in ("folder", "file"), "only a publication can stop before its log"
            continue
        # A partial that could not be removed may still lie beside the files.
        found = {path: digest for path, digest in digests(row.path).items() if ".modelnet/" not in path}
        assert found == wanted
    assert fsck(home=machine.home) == []
    store.index.close()


def seedable(machine: Machine) -> None:
    """Assert that every chunk of every release can be read here, and that nothing is left of unfinished pulls."""
    store = open_store(machine.home)
    with ChunkReader(store) as reader:
        for row in filter(Gate.open(store).is_logged, store.index.releases()):
            for entry in open_manifest(store, identify(store, row)).files:
                tree = store.tree(entry)
                for index in range(len(tree)):
                    assert reader.read(tree.digest_of(index), tree.size_of(index)) is not None
    assert store.index.partials() == []
    assert not [path for path in (machine.home / "partial").glob("*") if any(path.iterdir())]
    store.index.close()


def kill_pullers(folder: Path, kills: int, seed: int) -> Toll:
    """Kill pulls at random moments, going on after each, until `kills` have died."""
    dice = random.Random(seed)
    toll = Toll()
    source = model(folder)
    wanted = digests(source)
    alice = Machine(folder / "alice").with_publisher()
    locator = alice.publish(source).locator
    with serving(alice.home) as url, throttled(url, RATE) as slow:
        while toll.kills < kills:
            toll.cycles += 1
            bob = Machine(folder / f"bob{toll.cycles}")
            had = 0
            target = ["--to", str(folder / f"to{toll.cycles}")] if toll.cycles % 3 == 0 else []
            for _ in range(dice.randint(1, 6)):
                passed = slow.passed
                process = bob.start("pull", locator, "--peer", slow.url, "--json", *target)
                try:
                    process.wait(dice.uniform(0.15, 1.4))
                except subprocess.TimeoutExpired:
                    kill(process)
                    toll.kills += 1
                else:
                    process.communicate(timeout=LIMIT_S)
                    assert process.returncode == 0
                    break
                check(bob, wanted)
                has = bob.pull(locator, url, dry_run=True, to=target[1] if target else None).plan
                kept = has.total - has.fetched
                toll.lost.append(max(0, slow.passed - passed - (kept - had)))
                toll.fractions.append(kept / has.total)
                assert toll.lost[-1] <= ON_THE_WAY, toll
                had = kept
                if toll.kills >= kills:
                    break
            done = bob.run("pull", locator, "--peer", url, "--json", *target).json
            assert done["bytes"]["fetched"] + had <= done["bytes"]["total"]
            assert digests(Path(done["path"])) == wanted
            check(bob, wanted)
            bob.fsck()
            seedable(bob)
            subprocess.run(["rm", "-rf", bob.home, *target[1:]], check=True)
    alice.fsck()
    return toll


def kill_nodes(folder: Path, kills: int, seed: int) -> Toll:
    """Kill and restart the node while pulls go on, until it has died `kills` times."""
    dice = random.Random(seed)
    toll = Toll()
    source = model(folder)
    wanted = digests(source)
    alice = Machine(folder / "alice").with_publisher()
    locator = alice.publish(source).locator
    (port,) = free_ports(1)
    listen = f"127.0.0.1:{port}"
    with throttled(f"http://{listen}", RATE) as slow:
        while toll.kills < kills:
            toll.cycles += 1
            bob = Machine(folder / f"bob{toll.cycles}")
            process = None
            started = time.monotonic()
            while True:
                with alice.started_node(listen) as node:
                    # A pull that begins while nobody is there ends at once, so it begins when somebody is.
                    process = process or bob.start("pull", locator, "--peer", slow.url, "--json")
                    try:
                        process.wait(dice.uniform(0.3, 1.2) if toll.kills < kills else None)
                    except subprocess.TimeoutExpired:
                        kill(node)
                        toll.kills += 1
                        check(alice, wanted)
                if process.poll() == 0:
                    break
                if process.poll() is not None:  # it gave up while nobody was there: exit 5, and a retry goes on
                    assert process.returncode == UnavailableError.exit_code
                    process.communicate()
                    check(bob, wanted)
                    process = None
                assert time.monotonic() - started < LIMIT_S
            process.communicate()
            (row,) = open_store(bob.home).index.releases()
            assert digests(row.path) == wanted
            bob.fsck()
            seedable(bob)
            subprocess.run(["rm", "-rf", bob.home], check=True)
    alice.fsck()
    return toll


def kill_publishers(folder: Path, kills: int, seed: int) -> Toll:
    """Kill publishers at random moments; a release is recorded whole or not at all."""
    dice = random.Random(seed)
    toll = Toll()
    source = model(folder)
    wanted = digests(source)
    alice = Machine(folder / "alice").with_publisher()
    for version in range(kills * 10):
        if toll.kills >= kills:
            break
        arguments = ("publish", source, "--name", "m", "--version", str(version), "--json")
        process = alice.start(*arguments)
        try:
            process.wait(dice.uniform(0.1, 0.7))
        except subprocess.TimeoutExpired:
            kill(process)
            toll.kills += 1
        else:
            process.communicate()
        check(alice, wanted)
        seedable(alice)
        if dice.random() < 0.3:
            toll.cycles += 1
            alice.run(*arguments)
            rows = open_store(alice.home).index.releases()
            assert [row for row in rows if row.version == str(version)]
    assert digests(source) == wanted
    alice.fsck()
    return toll


def main(arguments: list[str] | None = None) -> int:
    """Kill as often as the command line says; print what it cost."""
    parser = argparse.ArgumentParser(prog="python -m tests.store.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(arguments)
    plan = [
        (kill_pullers, given.kills - 2 * (given.kills // 5)),
        (kill_nodes, given.kills // 5),
        (kill_publishers, given.kills // 5),
    ]
    for number, (story, kills) in enumerate(plan):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{story.__name__}: {story(Path(folder), kills, given.seed + number)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
