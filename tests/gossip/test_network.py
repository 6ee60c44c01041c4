"""Twenty real processes without a centre: what one learns all learn, and lies end where they begin.

Intervals are long and bounds are counted in intervals, so that a busy machine changes nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelnet
from modelnet.core.entries import sign_event
from tests.core.logs import Log, digests, key
from tests.gossip.nodes import eventually
from tests.gossip.processes import Swarm, namespaces
from tests.ports import free_ports

pytestmark = pytest.mark.xdist_group("swarm")  # twenty processes, once

COUNT = 20
INTERVAL = 3.0
WITHIN = 3 * INTERVAL
START_S = 60.0


def story(prefix: str) -> Log:
    """Return a publisher with three releases."""
    log = Log(prefix)
    for version in ("1.0", "1.1", "1.2"):
        log.release("llama", version)
    return log


def revocation(log: Log, version: str) -> bytes:
    """Return a revocation that is in no log."""
    return sign_event(log.revoke(digests("llama", version)), [key(log.prefix + "release")]).encoded


@pytest.fixture(scope="module")
def logs() -> list[Log]:
    """Give two publishers that all nodes follow."""
    return [story("net one "), story("net two ")]


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the home of a publisher that is a node as well: the first of the swarm."""
    home = tmp_path_factory.mktemp("swarm") / "node-0"
    modelnet.init(alias="acme", home=home)
    return home


@pytest.fixture(scope="module")
def swarm(acme: Path, logs: list[Log]) -> Iterator[Swarm]:
    """Give twenty running nodes that follow three publishers."""
    follow = [modelnet_pid(acme), *(log.pid for log in logs)]
    with Swarm(acme.parent, COUNT, follow=follow, interval=INTERVAL) as swarm:
        for number, log in enumerate(logs):
            swarm[5 * number + 3].know(log)
        eventually(lambda: all(store.size(log.pid) == 4 for store in swarm for log in logs), START_S)
        yield swarm


def modelnet_pid(home: Path) -> str:
    """Return the publisher whose keys are in a home."""
    (path,) = (home / "keys").glob("*.json")
    return path.stem


def test_a_log_reaches_all(swarm: Swarm, logs: list[Log]) -> None:
    """A log that one node has is soon everywhere, fetched from whoever told of it."""
    eventually(lambda: all(store.size(log.pid) == 4 for store in swarm for log in logs), START_S)


@pytest.mark.slow
def test_a_release_published_on_one_is_pulled_from_the_others(swarm: Swarm, acme: Path, tmp_path: Path) -> None:
    """Its publisher publishes and goes on; every follower hears of it, and a pull needs no name but the locator."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4096)
    made = modelnet.publish(folder, name="tiny", version="1.0", home=acme)
    pid = modelnet_pid(acme)
    size = swarm[0].size(pid)
    eventually(lambda: all(store.size(pid) == size for store in swarm), START_S)
    # One more hop each time: who pulled serves.
    for source, number in ((0, 7), (7, 13)):
        got = modelnet.pull(str(made.locator), peers=[swarm[source].url], home=swarm[number].store.home.root)
        assert (got.path / "weights.bin").read_bytes() == bytes(range(256)) * 4096


@pytest.mark.slow
def test_threat_21_a_revocation_issued_anywhere_is_known_to_all_within_three_intervals(
    swarm: Swarm, logs: list[Log]
) -> None:
    """Any node of twenty hears it first; no store offers the release after three intervals."""
    eventually(lambda: all(store.size(logs[0].pid) == 4 for store in swarm), START_S)
    for number, version in ((17, "1.1"), (2, "1.2")):
        swarm[number].replicas.add_negative(logs[0].pid, revocation(logs[0], version))
        eventually(lambda v=version: all(store.revoked(logs[0].pid, digests("llama", v)) for store in swarm), WITHIN)  # type: ignore[misc]
    for store in swarm:
        newest = store.replicas.view(logs[0].pid).newest("llama")
        assert newest is not None
        assert newest.event.release.version == "1.0"


@pytest.mark.slow
def test_a_late_joiner_hears_what_was_revoked(swarm: Swarm, logs: list[Log]) -> None:
    """A node that knows nothing but one peer and a publisher's id learns log and revocation."""
    swarm[4].replicas.add_negative(logs[0].pid, revocation(logs[0], "1.1"))
    (port,) = free_ports(1)
    late = swarm.start(f"http://127.0.0.1:{port}", [swarm[9].url])
    late.wait_ready()
    eventually(lambda: late.revoked(logs[0].pid, digests("llama", "1.1")), START_S)
    assert late.size(logs[0].pid) == 4


@pytest.mark.slow
def test_threat_08_a_split_view_is_caught_by_all_within_three_intervals(swarm: Swarm, logs: list[Log]) -> None:
    """Two histories of one publisher, shown to one node each: all twenty quarantine it, and only it."""
    eventually(lambda: all(store.size(logs[1].pid) == 4 for store in swarm), START_S)
    one, two = logs[1].fork(4), logs[1].fork(4)
    one.release("llama", "2.0")
    two.release("llama", "6.6")
    # Each node adopts what it is shown, as nodes in different parts of the world would.
    swarm[1].know(one)
    swarm[12].know(two)
    eventually(lambda: all(store.quarantined(logs[1].pid) for store in swarm), WITHIN)
    assert not any(store.quarantined(logs[0].pid) for store in swarm)


@pytest.mark.slow
def test_nodes_that_die_are_missed_by_nobody(swarm: Swarm, logs: list[Log]) -> None:
    """A quarter of the nodes is killed; what one of the rest hears, all of the rest hear."""
    dead = [swarm[number] for number in (0, 6, 10, 15, 19)]
    for process in dead:
        process.kill()
    left = [store for store in swarm if store not in dead]
    eventually(lambda: all(store.size(logs[0].pid) == 4 for store in left), START_S)
    left[3].replicas.add_negative(logs[0].pid, revocation(logs[0], "1.0"))
    eventually(lambda: all(store.revoked(logs[0].pid, digests("llama", "1.0")) for store in left), 2 * WITHIN)


@pytest.mark.slow
def test_a_network_that_was_parted_agrees_once_it_heals(tmp_path: Path) -> None:
    """Two halves in network namespaces: what one hears while the link is down, the other hears once it is up again."""
    log = story("net parted ")
    with namespaces() as hosts:
        if hosts is None:
            pytest.skip("this machine gives no network namespaces")
        cut = ["ip", "-n", hosts[0][1][-1], "link", "set", "dev", "m0"]
        with Swarm(tmp_path, 8, follow=[log.pid], interval=1.0, hosts=hosts) as swarm:
            swarm[0].know(log)
            eventually(lambda: all(store.size(log.pid) == 4 for store in swarm), START_S)
            subprocess.run([*cut, "down"], check=True)
            swarm[2].replicas.add_negative(log.pid, revocation(log, "1.1"))
            here, there = swarm[0::2], swarm[1::2]
            eventually(lambda: all(store.revoked(log.pid, digests("llama", "1.1")) for store in here), START_S)
            assert not any(store.revoked(log.pid, digests("llama", "1.1")) for store in there)
            subprocess.run([*cut, "up"], check=True)
            eventually(lambda: all(store.revoked(log.pid, digests("llama", "1.1")) for store in there), START_S)
