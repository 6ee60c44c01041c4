"""How far a revocation has spread in networks too large for a machine for each node: NumPy, to a million nodes.

python -m tests.sim.large                  1,000 to 1,000,000 nodes, some two minutes

The machine itself is simulated up to 100,000 nodes (`python -m tests.sim`). This model knows of it only what decides
how fast news travel: each node compares with `contacts` peers once in an interval, at moments of its own, who is behind
learns, and who learns pushes to `push` peers at once. Peers are drawn at random from all; a message takes up to
`delay`. It is set beside the machine's own figures for the same settings in docs/gossip.md, and is to be believed as
far as the two agree. Times in gossip intervals.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np

from tests.sim.experiments import bound, expected

__all__ = ["Spread", "spread"]

STEP = 0.005  # intervals; a tenth of the time that a message may take
LEGS = 3  # messages until one who compares has learned: heads, marks, the revocation
SHARES = (0.5, 0.99, 0.999, 1.0)
LIMIT = 60.0
HEADS, REVOCATION, BATCH = 185, 1170, 40  # bytes of one line of heads, of a revocation, of a batch (tests/sim/network)


@dataclass(frozen=True)
class Spread:
    """When each of SHARES was informed, and the bytes that a node sent until all were."""

    times: tuple[float, ...]
    bytes: float


def spread(nodes: int, *, contacts: int, push: int, delay: float = 0.05, seed: int = 1) -> Spread:
    """Let one node learn something and watch it spread."""
    random = np.random.default_rng(seed)
    informed = np.zeros(nodes, bool)
    ticks = random.random(nodes)
    coming: list[list[np.ndarray]] = [[] for _ in range(int(LIMIT / STEP) + int(LEGS * delay / STEP) + 2)]
    reached: list[float] = []
    sent = 0

    def later(who: np.ndarray, step: int, legs: int) -> None:
        """Let `who` learn when their messages have arrived."""
        if delay == 0.0:
            coming[step].append(who)
            return
        wait = (random.random((len(who), legs)).sum(axis=1) * delay / STEP).astype(np.int64) + 1
        for one in np.unique(wait):
            coming[step + int(one)].append(who[wait == one])

    def learn(who: np.ndarray, step: int) -> None:
        """Inform those who are not yet, and let them push."""
        nonlocal sent
        fresh = np.unique(who[~informed[who]])
        informed[fresh] = True
        if push and len(fresh):
            later(random.integers(nodes, size=push * len(fresh)), step, 1)
            sent += push * len(fresh) * (BATCH + REVOCATION)

    learn(np.array([0]), 0)
    for step in range(int(LIMIT / STEP)):
        now = step * STEP
        while coming[step]:
            learn(coming[step].pop(), step)
        calling = np.flatnonzero(ticks <= now)
        ticks[calling] += random.uniform(0.9, 1.1, len(calling))
        for _ in range(contacts):
            called = random.integers(nodes, size=len(calling))
            differ = informed[calling] != informed[called]
            behind = np.where(informed[calling], called, calling)[differ]
            later(behind, step, LEGS)
            sent += len(calling) * (2 * BATCH + HEADS) + int(differ.sum()) * REVOCATION
        share = informed.mean()
        while len(reached) < len(SHARES) and share >= SHARES[len(reached)]:
            reached.append(now)
        if len(reached) == len(SHARES):
            break
    return Spread(tuple(reached), sent / nodes)


def main() -> None:
    """Print one JSON object a line for each size and way to gossip."""
    for nodes in (1_000, 10_000, 100_000, 1_000_000):
        for name, contacts, push in (("push-pull alone", 1, 0), ("as a node does it", 2, 4)):
            began = time.monotonic()
            found = spread(nodes, contacts=contacts, push=push)
            print(json.dumps({
                "nodes": nodes, "gossip": name, **{f"{100 * share:g} %": round(at, 2) for share, at in
                                                   zip(SHARES, found.times, strict=True)},
                "bound": round(bound(nodes), 1), "theory": round(expected(nodes), 1), "bytes": round(found.bytes),
                "took_s": round(time.monotonic() - began, 1),
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
