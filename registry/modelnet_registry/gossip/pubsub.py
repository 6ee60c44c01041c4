"""Gossip over Kubo's pubsub (gossipsub): a bus that reaches everybody at once and may lose anything.

    with KuboPubsub(KuboAddress.parse(), service): ...        # beside HTTP; without it everything works as well

What is told: news as it comes, and our heads once in an interval. Who hears heads that differ from its own answers on
the topic, after a pause of random length and only if nobody else did so meanwhile: otherwise a thousand nodes would
answer one question. Batches are those of HTTP, of at most 4 KiB: gossipsub repeats each one several times over. Logs do
not travel here; the sender's address in a batch says where one can be had.

The daemon is not trusted: that a message came from a peer is its word, and only decides whose budget it is paid from.
Sources: https://docs.ipfs.tech/reference/kubo/rpc/ (pubsub/pub, pubsub/sub: topic and data are multibase).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from random import SystemRandom
from types import TracebackType
from typing import Any, Self

from modelnet.errors import MalformedError, ModelnetError
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.kubo import Multipart
from modelnet.ipfs.rpc import IncompleteResponseError, Rpc
from modelnet_registry.gossip.messages import Heads, Message, encode_batch, parse_batch
from modelnet_registry.gossip.service import GossipService

__all__ = ["MAX_MESSAGE", "TOPIC", "KuboPubsub"]

log = logging.getLogger("modelnet_registry.gossip")

TOPIC = "modelnet/gossip/v1"
MAX_MESSAGE = 4096
LINES = 20  # heads in one message
MAX_WAITING = 256  # answers that wait for their time
MAX_BEHIND = 64  # batches that are being published
SUBSCRIBED_S = 3600.0  # without any message, not even our own: then the subscription is made again
RETRY_S = 5.0
STOP_S = 3.0
_PEER = re.compile(r"[0-9A-Za-z]{10,80}")


def topic_argument(topic: str) -> str:
    """Return a topic as the RPC wants it: multibase base64url."""
    return "u" + base64.urlsafe_b64encode(topic.encode()).decode().rstrip("=")


class KuboPubsub:
    """Joins `service` to the topic at the Kubo at `address`."""

    def __init__(self, address: KuboAddress, service: GossipService, *, topic: str = TOPIC) -> None:
        """Prepare; nothing is asked of the daemon before `start`."""
        self._rpc = Rpc(address)
        self._service = service
        self._topic = topic_argument(topic)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting: OrderedDict[bytes, tuple[float, Message]] = OrderedDict()
        self._outgoing: list[bytes] = []
        self._sent: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self.reason = ""  # why it does not work, if it does not

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Subscribe, and tell what is news from now on."""
        self._service.add_broadcast(self)
        for name, job in (("listen", self._listen), ("tell", self._tell)):
            thread = threading.Thread(target=job, name=f"pubsub-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End; what was not told yet is found by comparing heads."""
        self._stop.set()
        self._wake.set()
        deadline = time.monotonic() + STOP_S
        for thread in reversed(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._rpc.close()

    # Telling.

    def publish(self, messages: Sequence[Message]) -> None:
        """Tell everybody, as far as it fits."""
        batches = list(batched(self._service.own, messages))
        with self._lock:
            self._outgoing += batches[: max(0, MAX_BEHIND - len(self._outgoing))]
        self._wake.set()

    def _tell(self) -> None:
        random = SystemRandom()
        interval = self._service.config.interval
        next_heads = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= next_heads:
                next_heads = now + interval * random.uniform(0.9, 1.1)
                self.publish(self._service.lines())
            with self._lock:
                due = [key for key, (when, _) in self._waiting.items() if when <= now]
                answers = [self._waiting.pop(key)[1] for key in due]
            if answers:
                self.publish(answers)
            self._send_all()
            self._wake.wait(max(0.0, min(next_heads - time.monotonic(), interval / 10)))
            self._wake.clear()
        # Our own message comes back to us: that wakes the thread that listens.
        self._send(encode_batch(self._service.own, []))

    def _send_all(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._outgoing:
                    return
                batch = self._outgoing.pop(0)
            if not self._send(batch):
                self._stop.wait(min(RETRY_S, self._service.config.interval))

    def _send(self, batch: bytes) -> bool:
        self._sent.append(hashlib.sha256(batch).digest())
        try:
            for _ in self._rpc.stream(
                "pubsub/pub", self._topic, options={}, terminal=lambda _: True,
                body=Multipart(iter([batch]), len(batch)),
            ):  # fmt: skip
                pass
        except IncompleteResponseError:
            pass  # it answers with nothing; that it arrived is nobody's promise anyway
        except ModelnetError as error:
            self._failed(error)
            return False
        self._works("")
        return True

    def _failed(self, error: ModelnetError) -> None:
        if not self._stop.is_set():
            self._works(str(error))

    def _works(self, reason: str) -> None:
        """Say where an operator looks whether the bus works, or why not."""
        if reason and reason != self.reason:
            log.warning("pubsub does not work: %s", reason)
        self.reason = reason
        self._service.bus("pubsub", reason)

    # Hearing.

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                for record in self._rpc.stream(
                    "pubsub/sub", self._topic, options={}, terminal=lambda _: self._stop.is_set(), read_s=SUBSCRIBED_S
                ):
                    self._hear(record)
            except ModelnetError as error:
                self._failed(error)
                self._stop.wait(min(RETRY_S, self._service.config.interval))

    def _hear(self, record: dict[str, Any]) -> None:
        match record:
            case {"from": str(source), "data": str(data)} if _PEER.fullmatch(source):
                pass
            case _:
                return
        batch = decoded(data)
        if batch is None or len(batch) > MAX_MESSAGE:
            self._service.heard_nonsense(f"pubsub:{source}", "not a message of this topic")
            return
        try:
            sender, messages = parse_batch(batch, MAX_MESSAGE)
        except MalformedError as error:
            self._service.heard_nonsense(f"pubsub:{source}", str(error))
            return
        if hashlib.sha256(batch).digest() in self._sent:
            return  # our own, or the very same said by another
        with self._lock:
            for message in messages:
                self._waiting.pop(named(message), None)  # somebody was faster
        self.relay(self._service.heard(f"pubsub:{source}", sender, messages, len(batch)))

    def relay(self, messages: Sequence[Message]) -> None:
        """Tell it after a while, unless it is heard from somebody else before."""
        random = SystemRandom()
        with self._lock:
            for message in messages:
                if not isinstance(message, Heads) and len(self._waiting) < MAX_WAITING:
                    when = time.monotonic() + random.uniform(0, self._service.config.interval / 2)
                    self._waiting.setdefault(named(message), (when, message))


def batched(sender: str, messages: Iterable[Message]) -> Iterator[bytes]:
    """Yield batches of at most 4 KiB; what does not fit into one is left to other buses."""
    empty = encode_batch(sender, [])
    batch = empty
    for message in (part for whole in messages for part in _split(whole)):
        frame = encode_batch(sender, [message])[len(empty) :]
        if len(empty) + len(frame) > MAX_MESSAGE:
            continue
        if len(batch) + len(frame) > MAX_MESSAGE:
            yield batch
            batch = empty
        batch += frame
    if batch != empty:
        yield batch


def _split(message: Message) -> Iterator[Message]:
    if isinstance(message, Heads):
        for at in range(0, len(message.lines), LINES):
            yield Heads(message.lines[at : at + LINES], ask=False)
    else:
        yield message


def named(message: Message) -> bytes:
    """Return what makes two messages the same answer."""
    return hashlib.sha256(message.KIND.encode() + message.body()).digest()[:16]


def decoded(data: str) -> bytes | None:
    """Return the bytes of a multibase base64url string; None when it is none."""
    if not data.startswith("u") or len(data) > 2 * MAX_MESSAGE:
        return None
    try:
        return base64.urlsafe_b64decode(data[1:] + "=" * (-len(data[1:]) % 4))
    except ValueError:
        return None
