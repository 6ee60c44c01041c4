"""The simulator in short: it agrees with theory, and what the machine promises holds for a thousand nodes."""

from __future__ import annotations

import statistics

import pytest

from modelnet_registry.gossip.effects import Config
from tests.sim.experiments import PULL_ALONE, bound, expected, healed, inform
from tests.sim.large import spread
from tests.sim.network import PID, Network, Setting, head, negative


def test_push_pull_alone_takes_as_long_as_theory_says() -> None:
    """With Poisson clocks and nothing pushed, the mean time until all know is the exact expectation, within 20 %."""
    runs = [
        inform(Setting(nodes=300, seed=seed, peers=60, delay=0.0, poisson=True, config=PULL_ALONE)) for seed in range(8)
    ]
    assert statistics.fmean(run.times[-1] for run in runs) == pytest.approx(expected(300), rel=0.2)


@pytest.mark.parametrize("config", [PULL_ALONE, Config(interval=1.0, peers_every=0)], ids=["alone", "as a node does"])
def test_the_model_of_large_networks_agrees_with_the_machine(config: Config) -> None:
    """What is said of a million nodes rests on this: a thousand of them behave as a thousand machines do."""
    machine = [inform(Setting(nodes=1000, seed=seed, config=config)) for seed in range(4)]
    model = [spread(1000, contacts=config.contacts, push=config.push, seed=seed) for seed in range(30)]
    for share in range(4):
        theirs, ours = (statistics.fmean(run.times[share] for run in runs) for runs in (machine, model))
        assert ours == pytest.approx(theirs, rel=0.2, abs=0.1)
    theirs, ours = (statistics.fmean(run.bytes for run in runs) for runs in (machine, model))
    assert ours == pytest.approx(theirs, rel=0.2)


def test_almost_all_are_informed_within_the_bound() -> None:
    """A thousand nodes, 99.9 % within 1.3 times the push-pull bound: with push far within, and without as well."""
    for config in (PULL_ALONE, Config(interval=1.0)):
        run = inform(Setting(nodes=1000, config=config))
        assert run.times[2] <= 1.3 * bound(1000)


def test_threat_22_a_fifth_of_the_nodes_cannot_censor() -> None:
    """Adversaries who withhold, with a tenth of all messages lost: every honest node hears all the same."""
    run = inform(Setting(nodes=1000, hostile=0.2, loss=0.1))
    assert run.curve[-1][1] == 1.0
    assert run.times[-1] <= bound(1000)


@pytest.mark.parametrize("attack", ["replay", "flood", "eclipse"])
def test_adversaries_change_little(attack: str) -> None:
    """Old heads, forged items and floods of addresses: nobody rolls back, and everybody hears."""
    setting = Setting(nodes=400, hostile=0.2, attack=attack, config=Config(interval=1.0))
    run = inform(setting)
    assert run.curve[-1][1] == 1.0
    assert run.times[-1] <= bound(400)
    assert run.captured[0] < 0.5


def test_nobody_goes_back_to_an_older_head() -> None:
    """While a fifth replays old heads a new one reaches all, and no honest node ever has an older one again."""
    network = Network(Setting(nodes=400, hostile=0.2, attack="replay"))
    network.start(size=5)
    network.run(2.0)
    network.publish(0, 9)
    seen = [5] * 400
    for step in range(1, 40):
        network.run(2.0 + step / 4)
        sizes = [machine.heads[PID].size for machine in network.machines]
        assert all(before <= now for before, now in zip(seen, sizes, strict=True))
        seen = sizes
    assert all(
        machine.heads[PID] == head(9) for number, machine in enumerate(network.machines) if not network.hostile[number]
    )


def test_a_healed_network_catches_up_by_itself() -> None:
    """Half of the nodes were cut off while a revocation spread; a few intervals after the link is back all have it."""
    most, everyone = healed(400)
    assert most <= 4.0
    assert everyone <= 10.0


def test_memory_of_a_machine_is_bounded_by_its_tables() -> None:
    """After a long quiet time with many exchanges no table has grown."""
    network = Network(Setting(nodes=50))
    network.start()
    network.run(5.0)
    early = [machine.sizes for machine in network.machines]
    network.tell(0, negative(1))
    network.run(60.0)
    for before, machine in zip(early, network.machines, strict=True):
        late = machine.sizes
        assert late["asked"] <= 4
        assert late["checking"] == 0
        assert late["seen"] <= before["seen"] + 1
