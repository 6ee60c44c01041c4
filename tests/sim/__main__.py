"""Run the simulations and print the tables of docs/gossip.md; with `--plots FOLDER` draw its figures as well.

python -m tests.sim                    to 10,000 nodes: a few minutes
python -m tests.sim --most 100000      some ten minutes, 1 GB
python -m tests.sim --most 1000000     the same machine a million times: more than an hour, some 10 GB
python -m tests.sim --short            seconds, to see that it runs
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from modelnet_registry.gossip.effects import Config
from tests.sim.experiments import PULL_ALONE, adversity, bound, expected, healed, inform, mean, repeated
from tests.sim.network import Setting

INTERVAL_S = 30  # the default; only to say node-seconds
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def calibration(short: bool) -> Iterator[dict[str, Any]]:  # noqa: FBT001
    """Push-pull alone beside what theory says."""
    for nodes, seeds in ((300, 5),) if short else ((300, 20), (1_000, 20), (10_000, 3)):
        setting = Setting(nodes=nodes, peers=60, delay=0.0, poisson=True, config=PULL_ALONE)
        yield {
            "nodes": nodes, "seeds": seeds, "theory": round(expected(nodes), 1),
            "simulated": round(mean(repeated(setting, seeds), 1.0), 1),
        }  # fmt: skip


def spreading(most: int, sizes: Sequence[int] = SIZES) -> Iterator[dict[str, Any]]:
    """How a revocation reaches everybody, by the number of nodes."""
    kinds = {
        "push-pull alone": Setting(nodes=0, config=PULL_ALONE),
        "as a node does it": Setting(nodes=0, config=Config(interval=1.0, peers_every=0)),
        "the same, half an interval for each hop": Setting(
            nodes=0, delay=1.0, config=Config(interval=1.0, peers_every=0)
        ),
    }
    for nodes in (size for size in sizes if size <= most):
        for name, setting in kinds.items():
            if nodes == SIZES[-1] and name != "as a node does it":
                continue
            began = time.monotonic()
            run = inform(replace(setting, nodes=nodes, peers=24 if nodes < SIZES[-1] else 12))
            yield {
                "nodes": nodes, "gossip": name, "50 %": round(run.times[0], 2), "99 %": round(run.times[1], 2),
                "99.9 %": round(run.times[2], 2), "100 %": round(run.times[3], 2), "bound": round(bound(nodes), 1),
                "bytes": round(run.bytes), "idle": round(run.idle), "curve": run.curve,
                "took_s": round(time.monotonic() - began),
            }  # fmt: skip


def troubles(nodes: int) -> Iterator[dict[str, Any]]:
    """Stale node-time after a revocation, under loss, churn and adversaries."""
    for name, setting in adversity(nodes).items():
        # An eclipse takes time to close: the attack goes on for long before it counts.
        run = inform(setting, warm=20.0 if setting.attack == "eclipse" else 2.0)
        yield {
            "trouble": name, "nodes": nodes, "50 %": round(run.times[0], 2), "99 %": round(run.times[1], 2),
            "100 %": round(run.times[3], 2), "stale": round(run.stale), "stale_s": round(run.stale * INTERVAL_S),
            "stale_each_s": round(run.stale * INTERVAL_S / nodes, 1), "bytes": round(run.bytes),
            "captured": [round(share, 2) for share in run.captured], "curve": run.curve,
        }  # fmt: skip


def main() -> None:
    """Run what was asked for; print one JSON object a line, as each is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000, help="the largest number of nodes")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", type=int, help="nothing but spreading, in a network of this size")
    parser.add_argument("--plots", type=Path, help="a folder for figures (needs matplotlib)")
    chosen = parser.parse_args()
    nodes = 300 if chosen.short else min(chosen.most, 10_000)
    gc.disable()  # a hundred thousand machines are no garbage, and looking through them takes most of the time
    rows: list[tuple[str, dict[str, Any]]] = []

    def tell(kind: str, row: dict[str, Any]) -> None:
        rows.append((kind, row))
        print(json.dumps({"experiment": kind} | {key: row[key] for key in row if key != "curve"}), flush=True)

    if chosen.only:
        for row in spreading(chosen.only, sizes=(chosen.only,)):
            tell("spreading", row)
        gc.collect()
        return
    for row in calibration(chosen.short):
        tell("calibration", row)
    for row in troubles(nodes):
        tell("trouble", row)
        gc.collect()
    most, everyone = healed(nodes)
    tell("healed", {"nodes": nodes, "99 %": round(most, 2), "100 %": round(everyone, 2)})
    for row in spreading(1_000 if chosen.short else chosen.most):
        tell("spreading", row)
        gc.collect()
    tell("defaults", asdict(Config()))
    if chosen.plots:
        from tests.sim.plots import draw

        draw(rows, chosen.plots)


if __name__ == "__main__":
    main()
