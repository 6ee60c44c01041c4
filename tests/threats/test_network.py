"""Rows 3, 13, 22, 25 and 28 for logs: old heads, absurd ones, censors, first contact, and peers that never end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from modelnet import fetching
from modelnet.core.adoption import MAX_NEW, MAX_UNSIGNED
from modelnet.core.note import MAX_NOTE, Checkpoint
from modelnet.core.tiles import MAX_ENTRY, WIDTH
from modelnet.errors import TrustError
from modelnet.stores import http
from tests.core.logs import T0, digests, key
from tests.loghosts import Hosts, grown, hosts
from tests.transfer.hostile import Exchange, Proxy, Spoil

LOG = grown(11)
PEERS = 20


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Hosts]:
    """Give a maker of nodes and followers."""
    with hosts(tmp_path) as found:
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make seconds of waiting for a bad peer into tenths."""
    monkeypatch.setattr(fetching, "WATCH_S", 0.05)
    monkeypatch.setattr(fetching, "REQUEST_S", 1.5)
    monkeypatch.setattr(http, "CONNECT_S", 2.0)


def test_threat_03_an_old_head_takes_nothing_back(net: Hosts) -> None:
    """A mirror that goes back to an older log, or was never further, changes nothing, also after a restart."""
    follower = net.follower()
    follower.sync(LOG, net.node(LOG))
    for size in (1, 5, 11):
        report = follower.sync(LOG, net.node(LOG, size=size))
        assert (report.before, report.size) == (12, 12)
    again = net.follower()
    again.store.index.close()
    again.store = follower.store
    again.__post_init__()
    again.sync(LOG, net.node(LOG, size=3))
    assert again.size(LOG) == 12


def test_threat_03_an_old_head_does_not_bring_a_revoked_release_back(net: Hosts) -> None:
    """Revoked in the log: a source that shows the log from before is no way around it."""
    log = LOG.fork(12)
    log.add(log.revoke(digests("m", "1.7")), "release")
    follower = net.follower()
    follower.sync(log, net.node(log))
    follower.sync(log, net.node(LOG))
    assert follower.replicas.view(log.pid).revocations_of(digests("m", "1.7"))


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 40])
@pytest.mark.parametrize("signer", ["log", "thief"])
def test_threat_13_fast_forward(net: Hosts, size: int, signer: str) -> None:
    """A head of an absurd size, signed by the log's own key or not, is not adopted, and the work for it is bounded."""
    head = Checkpoint(LOG.state.origin, size, bytes(32)).note().sign(LOG.state.origin, key(signer))

    def spoil(exchange: Exchange) -> None:
        if exchange.path.endswith("/checkpoint"):
            exchange.reply(head.encode())
        elif "/tile/entries/" in exchange.path:
            exchange.reply((b"\0\2{}") * WIDTH)  # as many entries as anybody could want
        else:
            exchange.honest()

    for follower in (net.follower().knows(LOG, 5), net.follower()):
        known = follower.size(LOG)
        with Proxy(net.node(LOG), spoil) as proxy:
            if known:
                follower.sync(LOG, proxy.url)
            else:
                follower.refused(LOG, proxy.url)
            bundles = sum("/tile/" in path for path in proxy.paths_asked)
        assert follower.size(LOG) == known
        most = MAX_NEW if known and signer == "log" else MAX_UNSIGNED
        assert bundles <= 2 * most // WIDTH + 2
        assert not follower.replicas.evidence(LOG.pid)


def test_threat_22_nineteen_of_twenty_peers_censor(net: Hosts) -> None:
    """Nineteen serve the log from before the revocation, and no revocations; the one honest peer is enough."""
    log = LOG.fork(12)
    revoked = log.add(log.revoke(digests("m", "1.7")), "release")
    old = net.node(LOG)

    def censor(exchange: Exchange) -> None:
        if "negatives" in exchange.path:
            exchange.reply(b"")
        else:
            exchange.honest()

    # By its head, and as a statement beside a head that the censors show too.
    informed = net.follower().knows(LOG)
    informed.replicas.add_negative(LOG.pid, revoked)
    for honest in (net.node(log), net.url(informed)):
        with ExitStack() as stack:
            censors = [stack.enter_context(Proxy(old, censor)).url for _ in range(PEERS - 1)]
            for place in (0, PEERS // 2, PEERS - 1):
                follower = net.follower().knows(LOG, 9)
                report = follower.sync(LOG, *censors[:place], honest, *censors[place:])
                assert report.answered == PEERS
                assert follower.replicas.view(LOG.pid).revocations_of(digests("m", "1.7"))
                assert not follower.replicas.view(LOG.pid).revocations_of(digests("m", "1.6"))


def test_threat_25_first_contact_rollback(net: Hosts) -> None:
    """A locator names a head of size 5; a newcomer who is shown size 3 is refused, and the next source is asked."""
    floor = (5, LOG.state.root_at(5))
    old, new = net.node(LOG, size=3), net.node(LOG, size=9)
    error = net.follower().refused(LOG, old, floor=floor)
    assert isinstance(error, TrustError)
    assert error.rule == "floor"
    assert str(error.wanted).startswith("5 ")
    assert str(error.got).startswith("3 ")
    for order in ((old, new), (new, old)):
        follower = net.follower()
        assert follower.sync(LOG, *order, floor=floor).size == 9
    # Nobody may name a floor that the log never had, and one that was known stays known without any source.
    error = net.follower().refused(LOG, new, floor=(5, bytes(32)))
    assert (error.rule, error.exit_code) == ("floor", 4)
    assert follower.sync(LOG, floor=floor).answered == 0
    assert follower.refused(LOG, old, floor=(12, LOG.state.tree_root)).rule == "floor"
    assert follower.refused(LOG, floor=(0, bytes(32))).rule == "floor"


# 28: limits and patience


def at(part: str, answer: Callable[[Exchange], None]) -> Spoil:
    """Return what gives another answer to requests whose path has `part`, and honest ones to others."""

    def spoil(exchange: Exchange) -> None:
        if part in exchange.path:
            answer(exchange)
        else:
            exchange.honest()

    return spoil


METADATA = {
    "/checkpoint": MAX_NOTE,
    "/tile/entries/": 12 * (2 + MAX_ENTRY),
    "negatives": 2 << 20,
    "evidence": 4 << 20,
}


@pytest.mark.parametrize("part", METADATA)
@pytest.mark.parametrize("told", [True, False])
def test_threat_28_max_metadata_lengths(net: Hosts, part: str, *, told: bool) -> None:
    """One byte more than any honest answer can have ends the visit, announced or not, and the rest is not read."""
    most = METADATA[part]

    def more(exchange: Exchange) -> None:
        content = b"x" * (most + 1)
        if told:
            exchange.reply(content)
        else:
            exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + content)
            exchange.repeat(b"x" * 65536)

    follower = net.follower().knows(LOG, 3)
    with Proxy(net.node(LOG), at(part, more)) as proxy:
        follower.sync(LOG, proxy.url)
        assert follower.reports == {proxy.url: "lied"}
        proxy.struck.wait(10)
        assert proxy.sent < most + (16 << 20)  # what lay in the buffers of the sockets
    assert follower.size(LOG) == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", METADATA)
def test_threat_28_endless_answers(net: Hosts, part: str) -> None:
    """A chunked answer without an end is cut off at the limit; an honest peer brings the log."""

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        exchange.repeat(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    follower = net.follower().knows(LOG, 3)
    honest = net.node(LOG)
    with Proxy(honest, at(part, endless)) as proxy:
        follower.sync(LOG, proxy.url, honest)
        assert follower.reports[proxy.url] == "lied"
    assert follower.size(LOG) == 12


@contextmanager
def dripping(head: bytes, body: bytes) -> Iterator[str]:
    """Run a server that sends its answer byte by byte, so slowly that it never ends."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def answer(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(65536)
                sock.sendall(head)
                for byte in body:
                    if stop.wait(0.1):
                        return
                    sock.sendall(bytes([byte]))
            except OSError:
                return

    def accept() -> None:
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(sock,)))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("length", [True, False])
def test_threat_28_a_byte_now_and_then(net: Hosts, *, length: bool) -> None:
    """A peer that drips holds a sync up for the time limit of one request, then the next peer is asked."""
    body = LOG.head(time=T0).encode() * 100
    head = b"HTTP/1.1 200 OK\r\n" + (f"Content-Length: {len(body)}\r\n" if length else "Connection: close\r\n").encode()
    follower = net.follower()
    with dripping(head + b"\r\n", body) as slow:
        began = time.monotonic()
        follower.sync(LOG, slow, net.node(LOG))
        assert time.monotonic() - began < 15  # far above the shortened limit, far below the drip
        assert follower.reports[slow] == "gone"
    assert follower.size(LOG) == 12


@pytest.mark.usefixtures("quick")
def test_threat_28_many_slow_peers_do_not_add_up_to_lies(net: Hosts) -> None:
    """Slow is not a lie, and a slow peer is asked last the next time."""
    follower = net.follower().knows(LOG, 3)
    honest = net.node(LOG)
    with Proxy(honest, at("/tile/", Exchange.silence)) as one, Proxy(honest, Exchange.silence) as two:
        report = follower.sync(LOG, one.url, two.url, honest)
        assert [follower.reports[url] for url in (one.url, two.url, honest)] == ["gone", "gone", "ok"]
        assert report.size == 12
