"""What is asked of the simulator; each experiment returns plain rows. Times are in gossip intervals."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

from modelnet_registry.gossip.effects import Config
from tests.sim.network import Network, Setting, negative

__all__ = ["PULL_ALONE", "Informed", "adversity", "bound", "expected", "healed", "inform"]

PULL_ALONE = Config(interval=1.0, contacts=1, push=0, peers_every=0)  # push-pull as the theorems have it
SHARES = (0.5, 0.99, 0.999, 1.0)
WARM = 2.0  # intervals before the revocation, so that clocks and views are as they are in the middle of a day
LIMIT = 60.0


@dataclass(frozen=True)
class Informed:
    """How a revocation spread: when each share of SHARES held it, what it cost, and who was stale for how long."""

    nodes: int
    times: tuple[float, ...]
    bytes: float  # sent by a node from the revocation until all knew
    idle: float  # sent by a node in an interval in which nothing happens
    stale: float  # node-intervals
    curve: tuple[tuple[float, float], ...]
    captured: tuple[float, float] = (0.0, 0.0)


def bound(nodes: int) -> float:
    """Return the push-pull bound in synchronous rounds: log3 n + ln ln n (Karp et al., FOCS 2000)."""
    return math.log(nodes, 3) + math.log(math.log(nodes))


def expected(nodes: int) -> float:
    """Return the exact expected time until all know, push-pull with one contact and Poisson clocks, whole graph.

    With k informed, a pair of an informed and another node meets at rate 2 k (n - k) / (n - 1).
    """
    return sum((nodes - 1) / (2 * k * (nodes - k)) for k in range(1, nodes))


def inform(setting: Setting, *, limit: float = LIMIT, warm: float = WARM) -> Informed:
    """Revoke something after `warm` intervals and watch it spread."""
    network = Network(setting)
    network.start()
    network.run(warm)
    idle = sum(network.bytes) / setting.nodes / warm
    before = sum(network.bytes)
    item = negative(7)
    network.tell(0, item)
    times: list[float] = []
    curve: list[tuple[float, float]] = [(0.0, 1 / setting.nodes)]
    reached = [*(step / 20 for step in range(1, 20)), 0.97, *SHARES[1:]]
    for share in reached:
        at = network.run_until(lambda share=share: network.informed(item) >= share, warm + limit) - warm  # type: ignore[misc]
        curve.append((at, network.informed(item)))
        if share in SHARES:
            times.append(at)
    spent = (sum(network.bytes) - before) / setting.nodes
    captured = network.captured() if setting.attack == "eclipse" and setting.hostile else (0.0, 0.0)
    return Informed(setting.nodes, tuple(times), spent, idle, network.stale(item), tuple(curve), captured)


def repeated(setting: Setting, seeds: int) -> list[Informed]:
    """Repeat with other seeds."""
    return [inform(replace(setting, seed=seed)) for seed in range(1, seeds + 1)]


def mean(runs: list[Informed], share: float) -> float:
    """Return the mean time until that share knew."""
    return statistics.fmean(run.times[SHARES.index(share)] for run in runs)


def adversity(nodes: int) -> dict[str, Setting]:
    """Return the troubles that a revocation has to get through, by what they are called in the report."""
    common = Setting(nodes=nodes, config=Config(interval=1.0))
    return {
        "none": common,
        "10 % loss": replace(common, loss=0.1),
        "30 % loss": replace(common, loss=0.3),
        "churn: 10 % leave in each interval": replace(common, churn=0.1),
        "20 % withhold": replace(common, hostile=0.2, attack="withhold"),
        "20 % replay old heads": replace(common, hostile=0.2, attack="replay"),
        "20 % flood": replace(common, hostile=0.2, attack="flood"),
        "20 % eclipse": replace(common, hostile=0.2, attack="eclipse"),
        "50 % withhold": replace(common, hostile=0.5, attack="withhold"),
        "20 % withhold, 10 % loss, churn": replace(common, hostile=0.2, attack="withhold", loss=0.1, churn=0.1),
    }


def healed(nodes: int, parted: float = 5.0) -> tuple[float, float]:
    """Part a network in two, revoke in one half, heal; return how long the other half took to 99 % and to all."""
    network = Network(Setting(nodes=nodes, config=Config(interval=1.0)))
    network.start()
    network.run(WARM)
    network.partition = lambda number: number % 2
    item = negative(7)
    network.tell(0, item)
    network.run(WARM + parted)
    assert network.informed(item) <= 0.5 + 1 / nodes
    network.partition = None
    begin = network.now
    most = network.run_until(lambda: network.informed(item) >= 0.99, begin + LIMIT) - begin
    return most, network.run_until(lambda: network.informed(item) >= 1.0, begin + LIMIT) - begin
