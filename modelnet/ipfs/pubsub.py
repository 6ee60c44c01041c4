"""Kubo's pubsub as a bus for small messages: unreliable, unordered, from anybody. Nothing on it is believed.

    publish(kubo, "modelnet/net-1/heads", b"…")          at most 64 KiB; no receipt: nobody may be listening
    for message in subscribe(kubo, topic, stop): …       until `stop` is set; what is lost is lost

Kubo relays what any connected peer sends. Messages above 1 MiB it drops and tells the sender that all is well, so we
refuse all that are larger than ours. It must be 0.43 or later: a flood of topics fills up earlier ones
(CVE-2026-46679). And it must be switched on: `ipfs config --json Pubsub.Enabled true`.
Source: kubo core/commands/pubsub.go (topics and data are multibase, base64url), docs/changelogs/v0.43.md.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Iterator

from modelnet.errors import MalformedError, UnavailableError, UsageError
from modelnet.ipfs.kubo import Kubo, Multipart
from modelnet.ipfs.rpc import KuboRefusedError

__all__ = ["MAX_MESSAGE", "publish", "subscribe"]

MAX_MESSAGE = 64 * 1024
MAX_TOPIC = 256
OLDEST = (0, 43)
LISTEN_S = 5.0  # a silent topic is asked for anew this often, so that `stop` is noticed


def _topic(text: str) -> str:
    if not 0 < len(text.encode()) <= MAX_TOPIC:
        raise UsageError("the name of a topic has 1 to 256 bytes", rule="topic", got=repr(text[:80]))
    return _multibase(text.encode())


def _multibase(content: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(content).decode().rstrip("=")


def _check(kubo: Kubo) -> None:
    major, minor, *_ = (int(part) for part in kubo.version.split("."))
    if (major, minor) < OLDEST:
        raise UnavailableError(
            "this Kubo's pubsub is not safe to use", rule="kubo-version", wanted="0.43 or later", got=kubo.version,
            source=str(kubo.rpc.address),
        )  # fmt: skip


def _explain(error: KuboRefusedError) -> None:
    if "pubsub" in str(error.got) and "enabl" in str(error.got):
        error.rule = "kubo-pubsub-off"
        error.hint = "ipfs config --json Pubsub.Enabled true, then start it again"


def publish(kubo: Kubo, topic: str, message: bytes) -> None:
    """Send `message` to whoever listens now. Raises `UnavailableError` when Kubo refuses, e.g. pubsub is off."""
    if not 0 < len(message) <= MAX_MESSAGE:
        raise UsageError("a message has 1 to 65,536 bytes", rule="message-size", got=len(message))
    _check(kubo)
    body = Multipart(iter([message]), len(message))
    try:
        # An empty answer is all it gives; nothing would prove that anybody got it.
        for _ in kubo.rpc.stream("pubsub/pub", _topic(topic), options={}, body=body, terminal=None):
            break
    except KuboRefusedError as error:
        _explain(error)
        raise


def subscribe(kubo: Kubo, topic: str, stop: threading.Event, ready: threading.Event | None = None) -> Iterator[bytes]:
    """Yield messages until `stop` is set, unverified; those that are too large or malformed are passed over.

    `ready` is set when listening begins. Raises `UnavailableError` when Kubo ends it, e.g. because pubsub is off.
    """
    _check(kubo)
    while not stop.is_set():
        try:
            if ready is not None:
                ready.set()
            for record in kubo.rpc.stream(
                "pubsub/sub", _topic(topic), options={}, terminal=lambda _: stop.is_set(), read_s=LISTEN_S
            ):
                if (message := _message(record.get("data"))) is not None:
                    yield message
        except KuboRefusedError as error:
            _explain(error)
            raise
        except MalformedError:
            continue
        except UnavailableError as error:
            if error.rule != "kubo-silent":
                raise


def _message(data: object) -> bytes | None:
    if not isinstance(data, str) or not data.startswith("u") or len(data) > 2 * MAX_MESSAGE:
        return None
    try:
        content = base64.urlsafe_b64decode(data[1:] + "=" * (-(len(data) - 1) % 4))
    except (binascii.Error, ValueError):
        return None
    return content if 0 < len(content) <= MAX_MESSAGE else None
