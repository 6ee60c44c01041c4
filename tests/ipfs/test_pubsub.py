"""Kubo's pubsub carries small messages between two daemons, and says what is wrong when it does not."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from modelnet.errors import UnavailableError, UsageError
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.ipfs.pubsub import MAX_MESSAGE, publish, subscribe
from tests.engines import Kubo, kubo_daemon, need_kubo
from tests.ipfs.stub import Stub, whole

TOPIC = "modelnet/test/heads ü"


def test_messages_travel_from_kubo_to_kubo(pair: tuple[Kubo, Kubo], client: KuboClient) -> None:
    """Bytes of every value arrive as they were sent, the largest too."""
    stop, ready = threading.Event(), threading.Event()
    arrived: list[bytes] = []
    messages = [bytes(range(256)), b"x" * MAX_MESSAGE]

    def listen() -> None:
        with KuboClient.connect(KuboAddress.parse(pair[1].api)) as other:
            for message in subscribe(other, TOPIC, stop, ready):
                arrived.append(message)
                if set(messages) <= set(arrived):
                    stop.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert ready.wait(10)
    for _ in range(200):  # the first ones may be sent before the subscription has spread
        for message in messages:
            publish(client, TOPIC, message)
        if stop.wait(0.1):
            break
    thread.join(20)
    assert not thread.is_alive()
    assert set(arrived) == set(messages)


def test_pubsub_that_is_off(tmp_path: Path) -> None:
    """It says so, and how to switch it on."""
    need_kubo()
    (tmp_path / "kubo").mkdir()
    with (
        kubo_daemon(tmp_path / "kubo", config={"Pubsub.Enabled": "false"}) as kubo,
        KuboClient.connect(KuboAddress.parse(kubo.api)) as client,
    ):
        with pytest.raises(UnavailableError) as caught:
            publish(client, TOPIC, b"x")
        assert caught.value.rule == "kubo-pubsub-off"
        assert "Pubsub.Enabled" in (caught.value.hint or "")
        with pytest.raises(UnavailableError) as caught:
            next(subscribe(client, TOPIC, threading.Event()))
        assert caught.value.rule == "kubo-pubsub-off"


def test_what_is_not_sent(client: KuboClient) -> None:
    """Kubo drops what is too large and says that all is well; we refuse it."""
    for message in (b"", b"x" * (MAX_MESSAGE + 1)):
        with pytest.raises(UsageError):
            publish(client, TOPIC, message)
    for topic in ("", "x" * 257):
        with pytest.raises(UsageError):
            publish(client, topic, b"x")


def test_what_is_passed_over() -> None:
    """Malformed and oversized records are no messages; the rest are."""
    records = [{"data": 7}, {"data": "zabc"}, {"data": "u*"}, {}, {"data": "u" + "A" * 200_000}, {"data": "ueA"}]
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    with Stub({"pubsub/sub": [whole(lines)]}) as stub, KuboClient.connect(KuboAddress.parse(stub.url)) as kubo:
        listening = subscribe(kubo, TOPIC, threading.Event())
        assert next(listening) == b"x"
        with pytest.raises(UnavailableError):
            next(listening)
    old = whole(b'{"Version":"0.42.0"}')
    with (
        Stub({"version": [old]}) as stub,
        KuboClient.connect(KuboAddress.parse(stub.url)) as kubo,
        pytest.raises(UnavailableError, match="not safe"),
    ):
        publish(kubo, TOPIC, b"x")
