"""Peers that say nothing, or nothing that is any use: what they cost, and what is said of them in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from modelnet import fetching
from modelnet.stores import http
from tests.transfer.hostile import Exchange, Proxy
from tests.transfer.scene import Scene
from tests.transfer.world import attempt

TIMEOUT_S = 4.0  # of one request here; at full length 15
SILENT = 5


def endless_100(exchange: Exchange) -> None:
    """Say again and again that an answer will come."""
    exchange.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", every_s=0.01)


def endless_headers(exchange: Exchange) -> None:
    """Begin an answer that never gets to its body."""
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    exchange.repeat(b"X: y\r\n", every_s=0.01)


def huge(exchange: Exchange) -> None:
    """Promise more than there is in the world, and send nothing."""
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n")
    exchange.silence()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one timeout of silence shorter, and tell it from a refusal sooner."""
    monkeypatch.setattr(http, "READ_S", TIMEOUT_S)
    monkeypatch.setattr(fetching, "REQUEST_S", TIMEOUT_S)
    monkeypatch.setattr(fetching, "SILENT_S", TIMEOUT_S / 2)


@pytest.fixture
def peers(scene: Scene) -> Iterator[Callable[[Callable[[Exchange], None], int], list[str]]]:
    """Give the maker of peers that all misbehave in one way."""
    with ExitStack() as stack:
        yield lambda spoil, count: [stack.enter_context(Proxy(scene.node, spoil)).url for _ in range(count)]


def test_many_silent_peers_cost_one_timeout(
    scene: Scene, peers: Callable[[Callable[[Exchange], None], int], list[str]]
) -> None:
    """Named before the honest one, and with a log and blocks to ask for: each only holds up the next for a moment."""
    silent = peers(Exchange.silence, SILENT)
    started = time.monotonic()
    outcome = attempt(scene.world.v1, scene.home, [*silent, scene.node])
    elapsed = time.monotonic() - started
    outcome.whole(scene.world.files_v1)
    assert elapsed < TIMEOUT_S + SILENT + 3  # a head start each; one after the other they would cost 20 s
    assert {outcome.state(url) for url in silent} == {"gone"}
    assert outcome.state(scene.node) == "ok"


@pytest.mark.parametrize("spoil", [endless_100, endless_headers, huge, Exchange.silence])
def test_a_peer_that_never_answered_is_gone(
    scene: Scene,
    peers: Callable[[Callable[[Exchange], None], int], list[str]],
    spoil: Callable[[Exchange], None],
) -> None:
    """Also when the pull ended well without it, by another; and the reason is told."""
    (bad,) = peers(spoil, 1)
    outcome = attempt(scene.world.v1, scene.home, [scene.node, bad])
    got = outcome.whole(scene.world.files_v1)
    (report,) = [report for report in got.sources if report.source == bad]
    assert (report.state, report.bytes) == ("gone", 0)
    assert report.reason


def test_a_peer_that_has_nothing_is_said_to_have_nothing(
    scene: Scene, peers: Callable[[Callable[[Exchange], None], int], list[str]]
) -> None:
    """A 404 is an answer: not "ok", and no fault."""
    (empty,) = peers(lambda exchange: exchange.reply(b"", status="404 Not Found"), 1)
    error = attempt(scene.world.v1, scene.home, [empty]).refused(5)
    assert f"{empty}: does not have it" in str(error)
    assert ": ok" not in str(error)
