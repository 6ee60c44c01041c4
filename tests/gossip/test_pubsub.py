"""Gossip over the pubsub of real Kubos: the same messages, in pieces of 4 KiB, and nothing lost when it is off."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelnet.ipfs.address import KuboAddress
from modelnet_registry.gossip.messages import Head, HeadLine, Heads, Negative, Note, encode_batch, parse_batch
from modelnet_registry.gossip.pubsub import MAX_MESSAGE, KuboPubsub, batched, decoded, topic_argument
from tests.core.logs import Log
from tests.engines import Kubo, kubo_daemon, need_kubo
from tests.gossip.nodes import eventually, running
from tests.gossip.test_hostile import VICTIM, revocation, story


def test_a_batch_is_cut_into_small_ones() -> None:
    """Many heads go out in several messages; an item that fits into none is left to other buses."""
    lines = tuple(
        HeadLine(Head(f"{n:0>52}".translate(str.maketrans("0123456789", "abcdefghij")), 0, 5, bytes(32)))
        for n in range(64)
    )
    small, large = Negative("a" * 52, b"{}"), Negative("a" * 52, bytes(5000))
    batches = list(batched("http://10.0.0.1:8710", [Heads(lines, ask=True), large, small]))
    assert all(len(batch) <= MAX_MESSAGE for batch in batches)
    found = [message for batch in batches for message in parse_batch(batch)[1]]
    assert [line for message in found if isinstance(message, Heads) for line in message.lines] == list(lines)
    assert found[-1] == small
    assert large not in found


def test_multibase() -> None:
    """Topics and data are base64url with a `u`; anything else is no message."""
    assert decoded(topic_argument("modelnet/gossip/v1")) == b"modelnet/gossip/v1"
    assert decoded("zabc") is None
    assert decoded("u" + "A" * 3 * MAX_MESSAGE) is None
    assert decoded("uA") is None


@pytest.mark.slow
def test_two_nodes_with_nothing_but_pubsub_between_them(tmp_path: Path, kubos: tuple[Kubo, Kubo]) -> None:
    """They find each other by it: a head, a revocation and two histories get from one to the other."""
    log, split = story("pubsub "), story("pubsub split ")
    topic = f"modelnet/test/{time.monotonic_ns()}"
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(running(tmp_path / name, follow=[log.pid, split.pid], interval=0.5)) for name in "ab"
        )
        for node, kubo in ((a, kubos[0]), (b, kubos[1])):
            stack.enter_context(KuboPubsub(KuboAddress.parse(kubo.api), node.service, topic=topic))
        a.know(log)
        a.know(split)
        eventually(lambda: b.size(log.pid) == b.size(split.pid) == 4, 60)
        b.replicas.add_negative(log.pid, revocation(log))
        eventually(lambda: a.revoked(log.pid, VICTIM), 60)
        fork, longer = split.fork(4), split.fork(4)
        fork.release("llama", "6.6")
        longer.release("llama", "2.0")
        a.know(fork)
        b.know(longer)
        eventually(lambda: a.quarantined(split.pid) and b.quarantined(split.pid), 60)
        assert a.service.counts["failures"] == b.service.counts["failures"] == 0


@pytest.mark.slow
def test_news_travel_by_pubsub_alone(tmp_path: Path, kubos: tuple[Kubo, Kubo]) -> None:
    """Nodes that cannot call each other still hear of revocations and newer cosignatures; logs need another way."""
    log = story("pubsub alone ")
    topic = f"modelnet/test/{time.monotonic_ns()}"
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(tmp_path / name, follow=[log.pid], interval=0.5)) for name in "ab"]
        for node, kubo in zip(nodes, kubos, strict=True):
            node.service._own = "-"  # as behind a NAT
            node.service._machine.view.own = ""
            stack.enter_context(KuboPubsub(KuboAddress.parse(kubo.api), node.service, topic=topic))
            node.know(log)
        nodes[0].replicas.add_negative(log.pid, revocation(log))
        eventually(lambda: nodes[1].revoked(log.pid, VICTIM), 60)
        nodes[1].know(log, time=1_790_000_000)
        eventually(lambda: nodes[0].service.heads[log.pid].time == 1_790_000_000, 60)


@pytest.mark.slow
def test_a_kubo_without_pubsub_is_no_trouble(tmp_path: Path) -> None:
    """Where the daemon has pubsub off, or is gone, the bus says why and HTTP goes on."""
    need_kubo()
    log = story("no pubsub ")
    (tmp_path / "kubo").mkdir()
    with kubo_daemon(tmp_path / "kubo", config={"Pubsub.Enabled": "false"}) as kubo, ExitStack() as stack:
        a = stack.enter_context(running(tmp_path / "a"))
        b = stack.enter_context(running(tmp_path / "b", peers=[a.url], follow=[log.pid]))
        bus = stack.enter_context(KuboPubsub(KuboAddress.parse(kubo.api), b.service))
        a.know(log)
        eventually(lambda: b.size(log.pid) == 4 and bus.reason != "")
        assert "pubsub" in bus.reason


def note_of(log: Log) -> Note:
    """Return a log's head as a message."""
    return Note.read(log.head().encode())


def test_a_note_fits() -> None:
    """A head with a cosignature, and a revocation, are far below what the bus carries."""
    log = story("fits ")
    assert len(encode_batch("-", [note_of(log), Negative(log.pid, revocation(log))])) < MAX_MESSAGE
