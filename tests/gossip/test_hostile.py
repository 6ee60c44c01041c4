"""Nodes among many that mean harm: what is true gets through, and they cost little."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelnet.core.entries import sign_event
from modelnet.core.evidence import Evidence
from modelnet_registry.gossip.messages import (
    Head,
    HeadLine,
    Heads,
    MemberLine,
    Members,
    Message,
    Negative,
    Peers,
    Rumour,
    Want,
    encode_batch,
)
from tests.core.logs import Log, digests, key
from tests.gossip.hostile import hostiles
from tests.gossip.nodes import eventually, running
from tests.gossip.processes import Swarm
from tests.ports import free_ports

VICTIM = digests("llama", "1.1")


def story(prefix: str) -> Log:
    """Return a publisher with three releases."""
    log = Log(prefix)
    for version in ("1.0", "1.1", "1.2"):
        log.release("llama", version)
    return log


def revocation(log: Log) -> bytes:
    """Return a revocation that is in no log."""
    return sign_event(log.revoke(VICTIM), [key(log.prefix + "release")]).encoded


@pytest.mark.parametrize("caller", ["we call", "it calls"])
def test_threat_22_one_honest_peer_among_twenty_is_enough(tmp_path: Path, caller: str) -> None:
    """Nineteen peers are silent, lie, flood, replay or withhold: the twentieth is heard, whoever of the two calls."""
    log = story("censored ")
    with ExitStack() as stack:
        bad = stack.enter_context(hostiles(log, 19))
        if caller == "we call":
            honest = stack.enter_context(running(tmp_path / "honest"))
            node = stack.enter_context(running(tmp_path / "node", peers=[*bad, honest.url], follow=[log.pid]))
        else:
            node = stack.enter_context(running(tmp_path / "node", peers=bad, follow=[log.pid]))
            honest = stack.enter_context(running(tmp_path / "honest", peers=[node.url]))
        honest.know(log)
        eventually(lambda: node.size(log.pid) == 4, 60)
        honest.replicas.add_negative(log.pid, revocation(log))
        eventually(lambda: node.revoked(log.pid, VICTIM), 60)
        assert node.service.counts["failures"] == 0
        assert any(state == "lied" for _, state, _ in node.service.peers)
        assert honest.url not in {url for url, state, _ in node.service.peers if state == "lied"}


def test_evidence_is_kept_and_verifies_alone(tmp_path: Path) -> None:
    """Two followers were shown two histories; once they meet each holds evidence, and it needs nothing but the keys."""
    log, other = story("split "), story("unsplit ")
    two = log.fork(3)
    two.release("llama", "6.6")
    with running(tmp_path / "a") as a, running(tmp_path / "b", peers=[a.url]) as b:
        a.know(log)
        b.know(two)
        a.know(other)
        eventually(lambda: a.quarantined(log.pid) and b.quarantined(log.pid))
        for node in (a, b):
            (data,) = node.replicas.evidence(log.pid)
            assert Evidence.parse(data).verify(log.state.origin, log.state.log_keys()).origin == log.state.origin
        assert not a.quarantined(other.pid)


def test_an_honest_publisher_is_not_framed_by_gossip(tmp_path: Path) -> None:
    """A node that is behind, one that is ahead and one with other cosignatures agree without a suspicion."""
    log = story("honest ")
    with running(tmp_path / "a") as a, running(tmp_path / "b", peers=[a.url]) as b:
        a.know(log, 2, time=1_700_000_000)
        b.know(log, 4, time=1_700_000_100)
        eventually(lambda: a.size(log.pid) == b.size(log.pid) == 4)
        b.know(log, 4, time=1_700_000_200)
        eventually(lambda: a.service.heads[log.pid].time == 1_700_000_200)
        assert not a.quarantined(log.pid)
        assert not b.quarantined(log.pid)
        assert a.service.counts["blamed"] == b.service.counts["blamed"] == 0


def test_who_does_not_follow_passes_on_rumours(tmp_path: Path) -> None:
    """Two followers who know only a node that follows nobody: a rumour tells of the log, an address where it is."""
    log = story("far ")
    with ExitStack() as stack:
        middle = stack.enter_context(running(tmp_path / "middle"))
        one = stack.enter_context(running(tmp_path / "one", peers=[middle.url], follow=[log.pid]))
        one.know(log)
        eventually(lambda: middle.service.sizes["rumours"] == 1)
        two = stack.enter_context(running(tmp_path / "two", peers=[middle.url], follow=[log.pid]))
        eventually(lambda: two.size(log.pid) == 4)
        assert middle.size(log.pid) == 0


def test_quiet_nodes_hear(tmp_path: Path) -> None:
    """A quiet node tells nobody what it follows and hears of a revocation all the same."""
    log = story("quiet ")
    with ExitStack() as stack:
        loud = stack.enter_context(running(tmp_path / "loud"))
        quiet = stack.enter_context(running(tmp_path / "quiet", peers=[loud.url], follow=[log.pid], quiet=True))
        loud.know(log)
        eventually(lambda: quiet.size(log.pid) == 4)
        loud.replicas.add_negative(log.pid, revocation(log))
        eventually(lambda: quiet.revoked(log.pid, VICTIM))


def resident(pid: int) -> int:
    """Return the largest resident size of a process so far, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def forgeries(log: Log, number: int) -> list[Message]:
    """Return forged revocations and rumours of strangers: nearly as many as a batch holds."""
    strange = "".join(chr(97 + (number >> shift) % 16) for shift in range(52))
    items: list[Message] = [Negative(log.pid, b'{"%d": %d}' % (number, n) + bytes(2000)) for n in range(60)]
    return [*items, *(Rumour(Negative(strange, b"%d" % n * 500)) for n in range(40))]


def demands(log: Log, number: int) -> list[Message]:
    """Return a small batch that asks for 256 times as much as an answer holds, in one way or another."""
    origin = f"modelnet.alt/p/{log.pid}"  # not `log.state`, which would fold the log again
    runs = tuple((origin, 0 if number % 2 else n % 200, 256) for n in range(256))
    return [Want(entries=runs, proofs=tuple((origin, first + 1, last) for _, first, last in runs))]


def names(log: Log, number: int) -> list[Message]:
    """Return addresses, members and heads that nobody has heard of, as many as the messages hold."""
    lines = [MemberLine(f"http://127.0.{number % 256}.{n}:{number + 1}", 1 << 50, number) for n in range(64)]
    heads = [HeadLine(Head(log.pid, 0, 9 + n, bytes(32), number * 256 + n)) for n in range(256)]
    return [Members(tuple(lines)), Peers(tuple(line.url for line in lines[:32])), Heads(tuple(heads), ask=True)]


@pytest.mark.slow
@pytest.mark.parametrize("hostile", [forgeries, demands, names])
def test_a_thousand_hostile_peers_cost_little_memory(
    tmp_path: Path, hostile: Callable[[Log, int], list[Message]]
) -> None:
    """A thousand batches of one kind, many at once: at most 64 MiB more, and honest news comes through."""
    log = story("flooded ")
    if hostile is demands:
        for number in range(256):
            log.release("llama", f"2.{number}")
    (port,) = free_ports(1)
    with Swarm(tmp_path, 0, follow=[log.pid], interval=0.5) as swarm:
        node = swarm.start(f"http://127.0.0.1:{port}", [])
        node.wait_ready()
        with running(tmp_path / "honest", peers=[node.url]) as honest:
            honest.know(log)
            eventually(lambda: node.size(log.pid) == len(log.entries))
            before = resident(node.process.pid)
            address = (str(urlsplit(node.url).hostname), port)

            def attack(numbers: range) -> None:
                for number in numbers:
                    body = encode_batch(f"http://127.0.0.1:{20000 + number}", hostile(log, number))
                    head = (
                        f"POST /gossip HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    )
                    try:
                        with socket.create_connection(address, timeout=20) as sock:
                            sock.sendall(head.encode() + body)
                            while sock.recv(65536):
                                pass
                    except OSError:
                        continue  # cut off: there are too many of us

            threads = [threading.Thread(target=attack, args=(range(n, 1000, 25),)) for n in range(25)]
            for thread in threads:
                thread.start()
            honest.replicas.add_negative(log.pid, revocation(log))
            eventually(lambda: node.revoked(log.pid, VICTIM), 60)
            for thread in threads:
                thread.join()
            assert resident(node.process.pid) - before <= 64 * 1024 * 1024


def test_a_node_that_starts_again_knows_what_it_knew(tmp_path: Path) -> None:
    """After a restart heads, revocations and evidence are told to others as before, from the store alone."""
    plain, revoked, split = story("plain "), story("revoked "), story("split again ")
    fork = split.fork(3)
    fork.release("llama", "6.6")
    with running(tmp_path / "a") as a:
        for log in (plain, revoked, split):
            a.know(log, time=1_790_000_000)
        a.replicas.add_negative(revoked.pid, revocation(revoked))
        a.replicas.add_evidence(split.pid, Evidence(split.head(), fork.head()).encode())
    follow = [log.pid for log in (plain, revoked, split)]
    with running(tmp_path / "a") as a, running(tmp_path / "b", peers=[a.url], follow=follow) as b:
        eventually(lambda: all(b.size(pid) == 4 for pid in follow))
        eventually(lambda: b.revoked(revoked.pid, VICTIM) and b.quarantined(split.pid))
        assert not b.revoked(plain.pid, VICTIM)
        eventually(lambda: b.service.heads[plain.pid].time == a.service.heads[plain.pid].time == 1_790_000_000)
