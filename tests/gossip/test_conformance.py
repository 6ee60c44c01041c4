"""What every bus must survive: corrupt, truncated, swapped, replayed, rolled back, oversized, flooding, silent peers.

A `Wire` is a hostile peer's end of a bus. Whatever it sends, the node's store holds nothing that was not signed, no
head goes back, memory stays bounded, and an honest peer's revocation that comes the same way afterwards still counts.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from modelnet.core.entries import sign_event
from modelnet.core.evidence import Evidence as CoreEvidence
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.kubo import Multipart
from modelnet.ipfs.rpc import IncompleteResponseError, Rpc
from modelnet_registry.gossip.messages import (
    MAX_BATCH,
    Entries,
    Evidence,
    Head,
    HeadLine,
    Heads,
    Message,
    Negative,
    Note,
    Peers,
    Proof,
    Rumour,
    Want,
    encode_batch,
)
from modelnet_registry.gossip.pubsub import MAX_MESSAGE, KuboPubsub, topic_argument
from tests.core.logs import Log, digests, key
from tests.engines import Kubo
from tests.gossip.nodes import Node, eventually, running


class Wire(Protocol):
    """A hostile peer's end of a bus that leads to `node`."""

    node: Node
    limit: int  # bytes of the largest batch that the bus carries

    def tell(self, batch: bytes) -> None:
        """Send bytes, whatever they are."""


class HttpWire:
    """The HTTP door, from outside."""

    limit = MAX_BATCH

    def __init__(self, node: Node) -> None:
        self.node = node

    def tell(self, batch: bytes) -> None:
        """Post a batch."""
        parts = urlsplit(self.node.url)
        client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
        try:
            client.request("POST", "/gossip", batch)
            response = client.getresponse()
            assert response.status in (200, 400, 413)
            response.read()
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent
        finally:
            client.close()


@contextmanager
def http_wire(folder: Path, pids: Sequence[str]) -> Iterator[HttpWire]:
    """Give a wire to the door of a running node."""
    with running(folder / "node", follow=pids) as node:
        yield HttpWire(node)


class PubsubWire:
    """The topic of a Kubo, from another Kubo; an honest peer has its own daemon, as everybody does."""

    limit = MAX_MESSAGE

    def __init__(self, node: Node, kubo: Kubo, topic: str) -> None:
        self.node = node
        self._rpc = Rpc(KuboAddress.parse(kubo.api))
        self._topic = topic_argument(topic)

    def tell(self, batch: bytes) -> None:
        """Publish a message."""
        with suppress(IncompleteResponseError):
            for _ in self._rpc.stream(
                "pubsub/pub", self._topic, options={}, terminal=lambda _: True,
                body=Multipart(iter([batch]), len(batch)),
            ):  # fmt: skip
                pass

    def close(self) -> None:
        """Close the connection to the daemon."""
        self._rpc.close()


@contextmanager
def pubsub_wire(folder: Path, pids: Sequence[str], kubos: tuple[Kubo, Kubo]) -> Iterator[PubsubWire]:
    """Give a wire to a running node that listens on a topic."""
    topic = f"modelnet/test/{time.monotonic_ns()}"
    with running(folder / "node", follow=pids) as node, KuboPubsub(
        KuboAddress.parse(kubos[0].api), node.service, topic=topic
    ):  # fmt: skip
        wire = PubsubWire(node, kubos[1], topic)
        # A subscription is known to the other daemon after a moment; until then nothing arrives.
        eventually(lambda: topic in kubos[0].run("pubsub", "ls").decode())
        eventually(lambda: bool(kubos[1].run("pubsub", "peers", topic).strip()))
        try:
            yield wire
        finally:
            wire.close()


LOG, OTHER, STRANGER = Log("wire one "), Log("wire two "), Log("wire stranger ")
for made in (LOG, OTHER, STRANGER):
    for number in range(4):
        made.release("llama", f"1.{number}")
FORK = LOG.fork(3)
FORK.release("llama", "6.6")
FORK.release("llama", "6.7")
VICTIM = digests("llama", "1.1")


def revocation(log: Log, *, by: str = "release", version: str = "1.1") -> bytes:
    """Return a revocation that is in no log."""
    return sign_event(log.revoke(digests("llama", version)), [key(log.prefix + by)]).encoded


NOTE = LOG.head().encode()
NEGATIVE = revocation(LOG)
EVIDENCE = CoreEvidence(LOG.head(), FORK.head()).encode()


@pytest.fixture(params=["http", "pubsub"])
def wire(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wire]:
    """Give a hostile peer's end of each bus; the node at the other knows two publishers."""
    pids = [LOG.pid, OTHER.pid]
    with ExitStack() as stack:
        found: Wire
        if request.param == "http":
            found = stack.enter_context(http_wire(tmp_path, pids))
        else:
            found = stack.enter_context(pubsub_wire(tmp_path, pids, request.getfixturevalue("kubos")))
        found.node.know(LOG)
        found.node.know(OTHER)
        eventually(lambda: {head.size for head in found.node.service.heads.values()} == {5})
        yield found


def batch(*messages: Message) -> bytes:
    """Return a batch from nobody."""
    return encode_batch("-", messages)


def untouched(wire: Wire) -> None:
    """Check that the node believes what it believed, and that an honest peer is heard on the same bus."""
    node = wire.node
    assert node.size(LOG.pid) == node.size(OTHER.pid) == 5
    assert not node.revoked(LOG.pid, VICTIM)
    assert not node.quarantined(LOG.pid)
    assert not node.quarantined(OTHER.pid)
    assert node.service.counts["failures"] == 0
    wire.tell(encode_batch("http://127.0.0.1:9", [Negative(OTHER.pid, revocation(OTHER))]))
    eventually(lambda: node.revoked(OTHER.pid, VICTIM))
    assert not node.revoked(LOG.pid, VICTIM)


def damaged(content: bytes) -> list[bytes]:
    """Return copies with one byte changed, here and there."""
    return [
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(0, len(content), len(content) // 3)
    ]


def test_corrupt(wire: Wire) -> None:
    """Changed bytes in items, and in the batch around them: nothing of it counts."""
    for content in damaged(NEGATIVE)[:2]:
        wire.tell(batch(Negative(LOG.pid, content)))
    for content in damaged(EVIDENCE)[:2]:
        wire.tell(batch(Evidence(LOG.pid, content)))
    wire.tell(batch(Negative(LOG.pid, NEGATIVE)).replace(b"negative", b"positive"))
    untouched(wire)


def test_truncated(wire: Wire) -> None:
    """A batch that ends early means nothing, also up to where it would have meant something."""
    whole = batch(Peers(()), Negative(LOG.pid, NEGATIVE))
    for end in (len(whole) - 1, len(whole) // 2):
        wire.tell(whole[:end])
    untouched(wire)


def test_swapped(wire: Wire) -> None:
    """One publisher's revocation, head or evidence under another's name."""
    wire.tell(batch(Negative(LOG.pid, revocation(OTHER, version="1.2"))))
    wire.tell(batch(Negative(LOG.pid, revocation(STRANGER))))
    wire.tell(batch(Evidence(OTHER.pid, EVIDENCE)))
    text = LOG.head().unverified_text
    swapped = OTHER.head().encode().replace(OTHER.head().unverified_text.encode(), text.encode())
    wire.tell(batch(Note.read(swapped)))
    untouched(wire)


def test_signed_by_others(wire: Wire) -> None:
    """A revocation signed by the log key, which may not revoke; a head signed by the release key."""
    wire.tell(batch(Negative(LOG.pid, revocation(LOG, by="log"))))
    longer = LOG.fork(5)
    longer.release("llama", "9.9")
    wire.tell(batch(Note.read(longer.head(by=LOG.prefix.removeprefix("wire one ") + "release").encode())))
    untouched(wire)


def test_replayed(wire: Wire) -> None:
    """The same true items again and again are read once."""
    again = batch(Note.read(OTHER.head().encode()), Note.read(NOTE))
    for _ in range(20):
        wire.tell(again)
    untouched(wire)
    assert wire.node.service.counts["note"] <= 4


def test_rolled_back(wire: Wire) -> None:
    """An older head, truly signed, takes nothing back."""
    wire.tell(
        batch(Note.read(LOG.head(2).encode()), Heads((HeadLine(Head(LOG.pid, 0, 2, LOG.state.root_at(2))),), ask=True))
    )
    untouched(wire)
    assert wire.node.service.heads[LOG.pid].size == 5


def test_a_head_that_nobody_can_show(wire: Wire) -> None:
    """A head of an absurd size, and one whose log nobody gives: no adoption, no endless work."""
    for size in (1 << 52, 9000):
        wire.tell(batch(Heads((HeadLine(Head(LOG.pid, 0, size, bytes(32))),), ask=True)))
    origin = LOG.state.origin
    text = f"{origin}\n{1 << 52}\n{'A' * 43}=\n\n".encode() + NOTE.split(b"\n\n")[1]
    wire.tell(batch(Note.read(text)))
    untouched(wire)


def test_unasked_parts(wire: Wire) -> None:
    """Entries and proofs that nobody asked for are not looked at."""
    wire.tell(batch(Entries(LOG.state.origin, 5, (b"{}",)), Proof(LOG.state.origin, 5, 9, bytes(32), (bytes(32),))))
    untouched(wire)
    assert wire.node.service.counts["entries"] == 0


def test_oversized(wire: Wire) -> None:
    """More bytes than the bus carries, and more than a batch may have, are refused."""
    wire.tell(batch(Negative(LOG.pid, NEGATIVE)) + b"peers 2\n[]" * (wire.limit // 10 + 1))
    untouched(wire)


def test_flooding(wire: Wire) -> None:
    """Thousands of forged items, rumours and addresses: bounded tables, and the honest word is heard."""
    forged = [Negative(LOG.pid, NEGATIVE.replace(b"A", b"B", 1 + n % 3) + b" " * n) for n in range(8)]
    strange = "".join(chr(97 + n % 26) for n in range(52))
    for turn in range(60):
        wire.tell(encode_batch("-", forged, wire.limit))
        rumours = [Rumour(Negative(strange[:-1] + chr(97 + turn % 26), b"%d %d" % (turn, n) * 40)) for n in range(20)]
        wire.tell(encode_batch("-", rumours, wire.limit))
        wire.tell(encode_batch("-", [Peers(tuple(f"http://127.0.{turn}.{n}:9" for n in range(16)))], wire.limit))
        wire.tell(encode_batch("-", [Want((LOG.pid,) * 40)], wire.limit))
    untouched(wire)
    sizes = wire.node.service.sizes
    assert sizes["rumours"] <= 1000
    assert sizes["peers"] <= 256
    assert sizes["checking"] <= 256


def test_silent(wire: Wire) -> None:
    """A peer that connects and says nothing, or nothing more, keeps nobody else from speaking."""
    parts = urlsplit(wire.node.url)
    with ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(socket.create_connection((str(parts.hostname), parts.port or 0)))
            sock.sendall(b"POST /gossip HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nmodelnet")
        untouched(wire)


def test_true_items_count(wire: Wire) -> None:
    """Revocations and evidence that hold are believed from anybody."""
    wire.tell(batch(Negative(LOG.pid, NEGATIVE)))
    eventually(lambda: wire.node.revoked(LOG.pid, VICTIM))
    wire.tell(batch(Evidence(LOG.pid, EVIDENCE)))
    eventually(lambda: wire.node.quarantined(LOG.pid))
    assert not wire.node.quarantined(OTHER.pid)
