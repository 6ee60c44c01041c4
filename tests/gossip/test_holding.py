"""Who holds what: the share of each member, what moves when one leaves, and the limits of those who help."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest

import modelnet
from modelnet.errors import UnavailableError
from modelnet.replica import Replicas
from modelnet_registry.gossip import helping
from modelnet_registry.gossip.helping import Help
from modelnet_registry.gossip.holding import Allowance, Holding
from modelnet_registry.gossip.members import FROM_ONE, FROM_RANGE, GONE, MAX_MEMBERS, MAX_SPACE, Members
from modelnet_registry.gossip.messages import MemberLine
from modelnet_registry.gossip.messages import Members as Members_
from modelnet_registry.gossip.proving import Proofs
from tests.gossip.nodes import Node, eventually, running
from tests.gossip.test_slow import post

MIB = 1 << 20


def settle(nodes: dict[str, int], models: list[str], copies: int, held: dict[str, set[str]], rounds: int = 60) -> int:
    """Let every node decide again and again; return how many models were fetched."""
    deciders = {url: Holding(url, copies, patience=1.0) for url in nodes}
    fetched = 0
    for turn in range(rounds):
        for url, decider in deciders.items():
            for model in models:
                if model not in held[url] and decider.wants(model, nodes, lambda o, m=model: m in held[o], float(turn)):
                    held[url].add(model)
                    fetched += 1
    return fetched


def test_each_model_has_its_copies_and_each_node_its_share() -> None:
    """A hundred models, three copies each; a node that offers four times the space holds about four times as much."""
    nodes = {f"http://10.{n}.0.1:1": 4 if n < 2 else 1 for n in range(12)}
    models = [f"model {n}" for n in range(300)]
    held: dict[str, set[str]] = {url: set() for url in nodes}
    assert settle(nodes, models, 3, held) == 900
    small = sum(len(held[url]) for url, space in nodes.items() if space == 1) / 10
    large = sum(len(held[url]) for url, space in nodes.items() if space == 4) / 2
    assert 2.5 < large / small < 4.5


def test_when_a_node_leaves_only_what_it_held_moves() -> None:
    """At most 1.1 times the lost copies are made again, and every model has its three copies as before."""
    nodes = {f"http://10.{n}.0.1:1": 1 for n in range(10)}
    models = [f"model {n}" for n in range(200)]
    held: dict[str, set[str]] = {url: set() for url in nodes}
    settle(nodes, models, 3, held)
    gone = next(iter(nodes))
    lost = len(held.pop(gone))
    del nodes[gone]
    moved = settle(nodes, models, 3, held)
    assert lost <= moved <= 1.1 * lost
    assert all(sum(model in mine for mine in held.values()) >= 3 for model in models)


def test_members_that_only_pretend_are_made_up_for() -> None:
    """Invented members with great space take the first ranks and hold nothing: real ones hold three copies anyway."""
    nodes = {f"http://10.{n}.0.1:1": 1 for n in range(6)}
    invented = {f"http://66.{n}.0.1:1": 1000 for n in range(4)}
    held: dict[str, set[str]] = {url: set() for url in (*nodes, *invented)}
    deciders = {url: Holding(url, 3, patience=1.0) for url in nodes}
    for turn in range(20):
        for url, decider in deciders.items():
            if decider.wants("m", nodes | invented, lambda other: "m" in held[other], float(turn)):
                held[url].add("m")
    assert sum("m" in mine for mine in held.values()) == 3


def test_what_an_operator_allows() -> None:
    """Space, hours over midnight, and a rate."""
    allowance = Allowance(100, rate=10.0, quiet_from=22, quiet_to=6)
    assert allowance.allows(60, 40, hour=12)
    assert not allowance.allows(61, 40, hour=12)
    assert [hour for hour in range(24) if allowance.is_quiet(hour)] == [0, 1, 2, 3, 4, 5, 22, 23]
    assert not any(Allowance(1).is_quiet(hour) for hour in range(24))
    assert all(Allowance(1, quiet_from=0, quiet_to=24).is_quiet(hour) for hour in range(24))
    assert [hour for hour in range(24) if Allowance(1, None, 20, 24).is_quiet(hour)] == [20, 21, 22, 23]
    assert allowance.pause(50, elapsed=2.0, done=0) == pytest.approx(3.0)
    assert Allowance(1).pause(10**9, 0.0, 0) == 0.0


def test_members_come_and_go() -> None:
    """A beat that grows keeps a member, one that does not loses it; nobody speaks for us, nor from the future."""
    table = Members("http://10.0.0.1:1", 1.0)
    other, ahead, by = "http://10.0.0.2:1", "http://10.0.0.3:1", "10.0.0.9"
    lines = [MemberLine(other, 5, 100), MemberLine(table.own, 9, 100), MemberLine(ahead, 5, 10**9)]
    table.hear(lines, 0.0, 100, by)
    assert table.alive(1.0) == {other: 5, ahead: 5}
    table.hear([MemberLine(other, 6, 100), MemberLine(ahead, 7, 101)], GONE - 1, 110, by)
    assert table.alive(GONE) == {ahead: 7}
    table.hear([MemberLine(other, 6, 120)], GONE, 120, by)
    table.hear([], 3 * GONE, 120, by)
    table = Members("http://10.0.0.1:1", 1.0)
    table.hear([MemberLine(other, 6, 120)], GONE, 120, by)
    assert table.alive(GONE) == {other: 6}
    table.space = 3
    assert set(table.tell(4, Random(1), GONE, 120)) == {MemberLine(table.own, 3, 120), MemberLine(other, 6, 120)}
    table.hear([MemberLine("http://10.9.9.9:1", 1, 200)], 3 * GONE, 200, by)
    assert table.alive(3 * GONE) == {"http://10.9.9.9:1": 1, table.own: 3}


def test_a_flood_of_members_takes_few_places() -> None:
    """One teller and one range place so many; what a member offers is capped; no line of the wrong kind comes in."""
    table = Members("http://10.0.0.1:1", 1.0)
    table.hear([MemberLine(f"http://66.1.{n >> 8}.{n & 255}:1", 1 << 50, 1) for n in range(5000)], 0.0, 9, "66.1.0.1")
    assert len(table) == FROM_ONE
    assert set(table.alive(0.0).values()) == {MAX_SPACE}
    for teller in range(100):
        lines = [MemberLine(f"http://66.1.{teller}.{n}:1", 1, 1) for n in range(FROM_ONE)]
        table.hear(lines, 0.0, 9, f"66.1.{teller}.9")
    assert len(table) == FROM_RANGE
    for teller in range(100):
        lines = [MemberLine(f"http://{70 + teller}.1.0.{n}:1", 1, 1) for n in range(FROM_ONE)]
        table.hear(lines, 0.0, 9, f"{70 + teller}.1.0.9")
    assert len(table) == MAX_MEMBERS
    table.hear([MemberLine("http://10.9.9.9:1", 1, 1)], 0.0, 9, "10.9.9.9")
    assert "http://10.9.9.9:1" in table.alive(0.0)
    strange = ["http://x:99999", "http://10.2.0.1:1/path", "http://a..b", "http://127.0.0.1:1", "http://2130706433:1"]
    table.hear([MemberLine(url, 1, 1) for url in strange], 0.0, 9, "10.2.0.1")
    assert not {url for url in table.alive(0.0) if url in strange or "127.0.0.1" in url}


def holders(nodes: list[Node]) -> int:
    """Return how many nodes have a release."""
    return sum(bool(node.store.index.releases()) for node in nodes)


@pytest.mark.slow
def test_helpers_take_over_from_those_who_leave(tmp_path: Path) -> None:
    """Five nodes help, two copies are wanted: the publisher goes, then a holder; each time there are two again."""
    modelnet.init(alias="acme", home=tmp_path / "publisher")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(Random(1).randbytes(MIB))
    made = modelnet.publish(folder, name="tiny", version="1.0", home=tmp_path / "publisher")
    pid = made.release.pid
    helping = Help([pid], Allowance(64 * MIB), copies=2, every=2.0)
    with ExitStack() as helpers:
        ends, nodes = [], []
        with running(tmp_path / "publisher") as publisher:
            for number in range(5):
                end = ExitStack()
                helpers.push(end)
                peers = [publisher.url, *(node.url for node in nodes[:1])]
                nodes.append(end.enter_context(running(tmp_path / f"helper-{number}", peers=peers, helping=helping)))
                ends.append(end)
            eventually(lambda: holders(nodes) >= 2, 60)
        assert all(Replicas(node.store).known(pid) for node in nodes)
        # While they join they do not all know the same members yet: one copy too many is possible, five are not.
        assert holders(nodes) <= 3
        first = next(number for number, node in enumerate(nodes) if node.store.index.releases())
        ends[first].close()
        left = [node for node in nodes if node is not nodes[first]]
        eventually(lambda: holders(left) >= 2, 60)
        assert holders(left) <= 3


@contextmanager
def giving(answers: dict[str, bytes]) -> Iterator[str]:
    """Run a node that gives what is in a table, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            content = answers.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def released(home: Path, size: int = MIB) -> Any:
    """Publish a model of some chunks from a new store."""
    modelnet.init(alias="acme", home=home)
    folder = home.parent / f"{home.name} model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(Random(1).randbytes(size))
    return modelnet.publish(folder, name="tiny", version="1.0", home=home)


def test_a_copy_counts_once_a_part_of_it_was_shown(tmp_path: Path) -> None:
    """Who has the model shows it; who has its manifest alone, or is no node, or is nothing, does not."""
    made = released(tmp_path / "publisher")
    proofs = Proofs(Random(1), lambda _url: None, 60.0)
    with running(tmp_path / "publisher") as holder:
        manifest = holder.store.block(made.release.manifest)
        assert manifest is not None
        with giving({f"/ipfs/{made.release.manifest}?format=raw": manifest, "/healthz": b"ok\n"}) as pretender:
            assert proofs.shows(made.release.manifest, holder.url)
            assert not proofs.shows(made.release.manifest, pretender)
            strange = ["http://x:99999", "http://a..b", "http://127.0.0.1:9", ""]
            assert not any(proofs.shows(made.release.manifest, url) for url in strange)
            assert proofs.alive([holder.url, pretender, *strange]) == {holder.url, pretender}
    assert not proofs.shows(made.release.manifest, holder.url)
    assert proofs.alive([holder.url]) == set()


def test_a_crowd_that_only_pretends_is_waited_for_but_not_for_ever() -> None:
    """A thousand members that answer and hold nothing rank before an honest one: it holds after a while."""
    crowd = {f"http://66.1.{n >> 8}.{n & 255}:1": 1 << 14 for n in range(1000)}
    own = "http://10.0.0.1:1"
    decider = Holding(own, 3, patience=1.0)
    held = next(turn for turn in range(100) if decider.wants("m", crowd | {own: 1}, lambda _: False, float(turn)))
    assert 8 < held < 20


def test_what_is_fetched_ends_with_the_allowed_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull that is going on when quiet hours begin ends there; one that goes on when the node stops, too."""
    stop, told = threading.Event(), list[tuple[int, int]]()
    throttle = helping._Throttle(Allowance(100, quiet_from=22, quiet_to=6), stop, lambda *both: told.append(both))
    monkeypatch.setattr(helping, "local_hour", lambda: 21)
    throttle.begin("fetching", 30)
    throttle.advance("", 10)
    monkeypatch.setattr(helping, "local_hour", lambda: 22)
    with pytest.raises(UnavailableError) as raised:
        throttle.advance("", 10)
    assert raised.value.rule == "quiet"
    assert told == [(10, 30), (20, 30)]
    monkeypatch.setattr(helping, "local_hour", lambda: 21)
    stop.set()
    with pytest.raises(UnavailableError):
        throttle.advance("", 10)


@pytest.mark.slow
def test_helpers_that_may_not_hold_are_made_up_for(tmp_path: Path) -> None:
    """Three helpers without room store nothing and count for nothing: a fourth one holds, also in a flood."""
    made = released(tmp_path / "publisher", 4 * MIB)
    pid = made.release.pid
    full = Help([pid], Allowance(MIB), copies=1, every=2.0)
    roomy = Help([pid], Allowance(64 * MIB), copies=1, every=2.0)
    with ExitStack() as stack:
        publisher = stack.enter_context(running(tmp_path / "publisher"))
        nodes = [
            stack.enter_context(running(tmp_path / f"full-{n}", peers=[publisher.url], helping=full)) for n in range(3)
        ]
        last = stack.enter_context(running(tmp_path / "roomy", peers=[publisher.url], helping=roomy))
        for node in (*nodes, last):
            lines = [MemberLine(f"http://127.0.9.9:{1000 + n}", 1 << 40, 1 << 40) for n in range(63)]
            post(node.url, "-", Members_((*lines, MemberLine("http://x:99999", 1 << 40, 1 << 40))))
        eventually(lambda: holders([last]) == 1, 60)
        assert holders(nodes) == 0
        assert all(node.store.block(made.release.manifest) is None for node in nodes)
