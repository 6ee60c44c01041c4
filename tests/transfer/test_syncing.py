"""Logs over the network: what is adopted from whom, and what becomes of sources that lie, lag, fork or stall."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelnet import syncing
from modelnet.core import events
from modelnet.core.entries import read_event
from modelnet.core.evidence import Evidence
from modelnet.core.note import Checkpoint
from modelnet.core.tiles import encode_bundle, parse_bundle
from modelnet.stores.logfolder import LogFolder
from tests.core.logs import T0, Log, digests, following, key, role
from tests.loghosts import Hosts, forked, grown, hosts
from tests.transfer.hostile import Exchange, Proxy, Spoil


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Hosts]:
    """Give a maker of nodes and followers."""
    with hosts(tmp_path) as found:
        yield found


LOG = grown(600)
SMALL = grown(11, prefix="small ")


@pytest.mark.parametrize("sizes", [(1, 2), (1, 255, 256, 257), (3, 600), (256, 512), (300, 301), (601,)])
def test_a_log_is_followed_from_size_to_size(net: Hosts, sizes: tuple[int, ...]) -> None:
    """From the genesis on, over the edges of bundles, every entry is there and the head is the source's."""
    publisher, follower = net.follower(), net.follower()
    url = net.url(publisher)
    before = 0
    for size in sizes:
        publisher.replicas.adopt(LOG.pid, LOG.head(size, time=T0), LOG.entries[before:size])
        report = follower.sync(LOG, url)
        assert (report.before, report.size, report.answered) == (before, size, 1)
        assert follower.size(LOG) == size
        assert list(follower.replicas.folder(LOG.pid).entries(0, size)) == LOG.entries[:size]
        before = size
    assert follower.reports == {url: "ok"}


def test_what_is_followed_is_served_at_once(net: Hosts) -> None:
    """A chain of nodes, each of which got the log from the one before."""
    first, second, third = net.follower().knows(SMALL), net.follower(), net.follower()
    urls = [net.url(first), net.url(second)]
    assert third.refused(SMALL, urls[1]).exit_code == 5
    second.sync(SMALL, urls[0])
    third.sync(SMALL, urls[1])
    assert third.size(SMALL) == 12


def test_only_what_is_new_is_fetched(net: Hosts) -> None:
    """A source is asked for the bundle that the log here ends in, and what follows."""
    follower = net.follower().knows(LOG, 300)
    with Proxy(net.node(LOG), kinds=[]) as proxy:
        follower.sync(LOG, proxy.url)
        first = [path for path in proxy.paths_asked if "/tile/" in path]
        follower.sync(LOG, proxy.url)
        second = [path for path in proxy.paths_asked if "/tile/" in path]
    assert [path.rsplit("/tile/")[1] for path in first] == ["entries/001", "entries/002.p/89"]
    assert second == first


def test_the_largest_of_many_heads_wins(net: Hosts) -> None:
    """In whatever order they come, and each brings the cosignatures that only it has."""
    sizes = (5, 12, 1, 9)
    urls = [net.node(SMALL, size=size) for size in sizes]
    for order in (urls, urls[::-1]):
        follower = net.follower()
        report = follower.sync(SMALL, *order)
        assert follower.size(SMALL) == report.size == 12
        assert sorted(one.size or 0 for one in report.heard) == sorted(sizes)
        assert set(follower.reports.values()) == {"ok"}


def test_cosignatures_come_with_any_head(net: Hosts) -> None:
    """Knowledge grows younger by a beat on the same head, and on an older one of the same history."""
    follower = net.follower().knows(SMALL)
    assert follower.replicas.standing(SMALL.pid).knowledge is None
    times = []
    for size, time in ((5, T0 + 10), (12, T0 + 20), (9, T0 + 30)):
        other = net.follower()
        other.replicas.adopt(SMALL.pid, SMALL.head(size, time=time), SMALL.entries[:size])
        follower.now = T0 + 60
        follower.sync(SMALL, net.url(other))
        knowledge = follower.replicas.standing(SMALL.pid).knowledge
        times.append(knowledge and knowledge.time)
    assert times == [T0 + 10, T0 + 20, T0 + 30]
    assert follower.size(SMALL) == 12


def test_a_partial_tile_that_is_gone_is_read_from_the_full_one(net: Hosts) -> None:
    """C2SP tlog-tiles: the source's log has grown since it showed its head, and the partial tile was deleted."""
    follower = net.follower().knows(LOG, 280)

    def old_head(exchange: Exchange) -> None:
        if exchange.path.endswith("/checkpoint"):
            exchange.reply(LOG.head(300).encode())
        elif ".p/" in exchange.path:
            exchange.reply(b"", status="404 Not Found")
        else:
            exchange.honest()

    with Proxy(net.node(LOG), old_head) as proxy:
        follower.sync(LOG, proxy.url)
        assert follower.size(LOG) == 300
        assert follower.reports == {proxy.url: "ok"}


def test_any_static_server_of_tiles_is_a_source(net: Hosts) -> None:
    """Who knows nothing of revocations and evidence beside a log still has the log."""
    follower = net.follower()

    def bare(exchange: Exchange) -> None:
        if "negatives" in exchange.path or "evidence" in exchange.path:
            exchange.reply(b"", status="404 Not Found")
        else:
            exchange.honest()

    with Proxy(net.node(SMALL), bare) as proxy:
        assert follower.sync(SMALL, proxy.url).size == 12
        assert follower.sync(SMALL, proxy.url).answered == 1


def test_nothing_is_known_of_a_stranger(net: Hosts) -> None:
    """No source has it: a typed error; once it is known, silence is no error."""
    follower = net.follower()
    url = net.node(SMALL)
    assert follower.refused(LOG, url).exit_code == 5
    assert follower.refused(LOG).exit_code == 5
    follower.knows(LOG, 3)
    report = follower.sync(LOG, url, "http://127.0.0.1:1")
    assert (report.before, report.size, report.answered) == (3, 3, 0)
    assert follower.reports == {url: "ok", "http://127.0.0.1:1": "gone"}


# Sources that lie


def tile(change: Callable[[list[bytes]], bytes]) -> Spoil:
    """Return what changes the entries of every bundle."""

    def spoil(exchange: Exchange) -> None:
        if "/tile/entries/" not in exchange.path:
            return exchange.honest()
        width = re.search(r"\.p/(\d+)$", exchange.path)
        return exchange.reply(change(parse_bundle(exchange.body, int(width[1]) if width else 256)))

    return spoil


def head(content: bytes, *, status: str = "200 OK", headers: str = "") -> Spoil:
    """Return what gives another head."""

    def spoil(exchange: Exchange) -> None:
        if exchange.path.endswith("/checkpoint"):
            exchange.reply(content, status=status, headers=headers)
        else:
            exchange.honest()

    return spoil


def others(exchange: Exchange) -> None:
    """Serve another publisher's log under this one's address."""
    other = exchange.path.replace(SMALL.pid, LOG.pid).replace(".p/12", "")
    status, body = exchange.proxy.fetch(other)
    exchange.reply(body, status=f"{status} Whatever")


def mixed(exchange: Exchange) -> None:
    """Serve another publisher's head only."""
    if exchange.path.endswith("/checkpoint"):
        exchange.reply(LOG.head(12).encode())
    else:
        exchange.honest()


def beside(what: str, content: bytes) -> Spoil:
    """Return what gives other revocations or evidence."""

    def spoil(exchange: Exchange) -> None:
        if what in exchange.path:
            exchange.reply(content)
        else:
            exchange.honest()

    return spoil


def without_length(content: Callable[[bytes], bytes]) -> Spoil:
    """Return what answers without a length, so that only the framing shows that it was cut."""

    def spoil(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + content(exchange.body))

    return spoil


HEAD = SMALL.head().encode()
HUGE = Checkpoint(SMALL.state.origin, 1 << 62, bytes(32)).note().sign(SMALL.state.origin, key("other"))
EMPTY = Checkpoint(SMALL.state.origin, 0, bytes(32)).note().sign(SMALL.state.origin, key("small log"))
OTHER_ENTRY = SMALL.entries[3][:-1] + b" "
LIES: dict[str, Spoil] = {
    "an entry is missing": tile(lambda found: encode_bundle(found[:-1])),
    "an entry too many": tile(lambda found: encode_bundle([*found, b"{}"])),
    "an entry is another": tile(lambda found: encode_bundle([*found[:3], OTHER_ENTRY, *found[4:]])),
    "entries change places": tile(lambda found: encode_bundle([*found[:3], found[4], found[3], *found[5:]])),
    "genesis is another": tile(lambda found: encode_bundle([found[1], *found[1:]])),
    "genesis of another": tile(lambda found: encode_bundle([LOG.entries[0], *found[1:]])),
    "bundle ends in an entry": tile(lambda found: encode_bundle(found)[:-1]),
    "bundle ends in a length": tile(lambda found: encode_bundle(found)[:1]),
    "bundle has a tail": tile(lambda found: encode_bundle(found) + b"\0"),
    "bundle is empty": tile(lambda _: b""),
    "bundle is huge": tile(lambda found: encode_bundle(found[:1]) + b"\xff" * (12 * 65_537 + 1)),
    "head is no note": head(b"hello"),
    "head is empty": head(b""),
    "head is too large": head(HEAD + b"x" * 65_536),
    "head is another's": mixed,
    "head by no key of the log": head(SMALL.head(by="release").encode()),
    "head is spoilt": head(HEAD.replace(b"\n12\n", b"\n11\n")),
    "head has more lines": head(HEAD.replace(b"\n12\n", b"\n12\nx\n")),
    "head is one of two spellings": head(HEAD.replace(b"\n12\n", b"\n012\n")),
    "head is no checkpoint": head(HEAD.replace(b"\n12\n", b"\nx\n")),
    "head of size 0": head(EMPTY.encode()),
    "origin is misspelt": head(HEAD.replace(SMALL.pid.encode() + b"\n", SMALL.pid.encode() + b"/r01\n", 1)),
    "another publisher's log": others,
    "revocations are cut": beside("negatives", b"\0\5abc"),
    "revocations are none": beside("negatives", b"\0\3{}\n"),
    "evidence is none": beside("evidence", b"{}\n"),
    "evidence is too large": beside("evidence", b"x" * 200_000 + b"\n"),
}  # fmt: skip
FAILURES: dict[str, Spoil] = {
    "nothing is here": head(b"", status="404 Not Found"),
    "head of an absurd size": head(HUGE.encode()),
    "head of an epoch to come": head(HEAD.replace(SMALL.pid.encode() + b"\n", SMALL.pid.encode() + b"/r1\n", 1)),
    "redirected to itself": lambda exchange: exchange.reply(
        b"", status="302 Found", headers=f"Location: {exchange.path}\r\n"
    ),
    "moved for good": head(b"", status="301 Moved", headers="Location: http://127.0.0.1:1/\r\n"),
    "broken": head(b"", status="500 Broken"),
    "hangs up": lambda _: None,
    "resets": Exchange.reset,
    "promises more": lambda exchange: exchange.reply(exchange.body, length=len(exchange.body) + 1),
    "is no HTTP": lambda exchange: exchange.send(b"hello\r\n\r\n"),
    "a chunk of -1": lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nxx"),
    "half a tile": lambda exchange: exchange.reply(exchange.body[: len(exchange.body) // 2], length=len(exchange.body)),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [*LIES, *FAILURES])
def test_alone_a_bad_source_changes_nothing(net: Hosts, name: str) -> None:
    """A newcomer adopts nothing, with a typed error, unless only what lies beside the log was bad."""
    follower = net.follower()
    with Proxy(net.node(SMALL, LOG), (LIES | FAILURES)[name]) as proxy:
        if name in ("revocations are cut", "revocations are none", "evidence is none", "evidence is too large"):
            follower.sync(SMALL, proxy.url)
            assert follower.size(SMALL) == 12
        else:
            assert follower.refused(SMALL, proxy.url).exit_code in (3, 4, 5)
            assert follower.size(SMALL) == 0
        assert (follower.reports[proxy.url] == "lied") == (name in LIES), follower.reports
    assert not list(follower.store.home.root.rglob("evidence/*"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [*LIES, *FAILURES])
def test_beside_an_honest_one_a_bad_source_does_no_harm(net: Hosts, name: str) -> None:
    """Who follows the log already, and who does not, both end at the honest head, and nobody is framed."""
    honest = net.node(SMALL)
    with Proxy(net.node(SMALL, LOG), (LIES | FAILURES)[name]) as proxy:
        for follower in (net.follower(), net.follower().knows(SMALL, 4)):
            follower.sync(SMALL, proxy.url, honest)
            assert follower.size(SMALL) == 12
            assert follower.reports[honest] == "ok"
            assert not follower.replicas.standing(SMALL.pid).quarantined
            assert not follower.replicas.evidence(SMALL.pid)


@pytest.mark.usefixtures("quick")
def test_a_source_that_says_nothing_is_left(net: Hosts) -> None:
    """Its time is limited, and the next one is asked."""
    follower = net.follower()
    with Proxy(net.node(SMALL), Exchange.silence) as proxy:
        follower.sync(SMALL, proxy.url, net.node(SMALL))
        assert follower.reports[proxy.url] == "gone"
    assert follower.size(SMALL) == 12


def test_a_body_without_a_length_that_was_cut_is_seen(net: Hosts) -> None:
    """The connection's end is the only end there is: the note's and the bundle's own framing tell."""
    for cut in (0, 1, 40):
        follower = net.follower()
        with Proxy(net.node(SMALL), without_length(lambda body, cut=cut: body[: len(body) - cut])) as proxy:
            if cut:
                follower.refused(SMALL, proxy.url)
            else:
                follower.sync(SMALL, proxy.url)
            assert follower.size(SMALL) == (0 if cut else 12)


# Forks


@pytest.mark.parametrize("sizes", [(12, 12), (12, 9), (9, 12), (6, 12), (12, 6), (600, 300), (300, 600)])
def test_a_fork_leaves_evidence_whichever_side_comes_first(net: Hosts, sizes: tuple[int, int]) -> None:
    """The log signed both: the publisher is quarantined, the evidence convinces others, and no source lied."""
    ours = grown(max(sizes), prefix="two ")
    theirs = forked(ours, 5, max(sizes))
    follower = net.follower()
    one, two = net.node(ours, size=sizes[0]), net.node(theirs, size=sizes[1])
    report = follower.sync(ours, one, two)
    assert report.evidence == 1
    assert report.heard[1].error is not None
    assert report.heard[1].error.rule == "equivocation"
    assert follower.size(ours) == sizes[0]
    assert follower.replicas.standing(ours.pid).quarantined
    (data,) = follower.replicas.evidence(ours.pid)
    Evidence.parse(data).verify(ours.state.origin, ours.state.log_keys())
    assert follower.reports == {one: "ok", two: "ok"}

    # It is kept, served, and believed by who has seen one side only.
    other = net.follower().knows(ours, sizes[0])
    assert other.sync(ours, net.url(follower)).evidence == 1
    assert other.replicas.standing(ours.pid).quarantined
    assert other.sync(ours, net.url(follower)).evidence == 0
    late = net.follower()
    assert late.sync(ours, net.url(other)).evidence == 1


def test_threat_22_what_the_other_branch_revokes_outlives_the_fork(net: Hosts) -> None:
    """A revocation that stands only in a branch that nobody will follow counts by its signature, here and elsewhere."""
    ours = grown(6)
    theirs = forked(ours, 4, 2)
    theirs.add(theirs.revoke(digests("m", "1.0")), "release")
    theirs.add(theirs.revoke(digests("m", "1.1")), "stranger")
    follower = net.follower()
    report = follower.sync(ours, net.node(ours), net.node(theirs))
    assert (report.evidence, report.negatives) == (1, 1)
    assert follower.replicas.view(ours.pid).revocations_of(digests("m", "1.0"))
    assert not follower.replicas.view(ours.pid).revocations_of(digests("m", "1.1"))
    late = net.follower()
    late.sync(ours, net.url(follower))
    assert late.replicas.view(ours.pid).revocations_of(digests("m", "1.0"))


def test_a_fork_with_invented_tiles_is_a_lie(net: Hosts) -> None:
    """Nobody is framed by entries that their own head does not have: the source is to blame, not the publisher."""
    follower = net.follower().knows(SMALL, 5)

    def spoil(exchange: Exchange) -> None:
        if "/tile/" in exchange.path:
            exchange.reply(bytes(reversed(exchange.body)))
        else:
            exchange.honest()

    with Proxy(net.node(SMALL), spoil) as proxy:
        follower.sync(SMALL, proxy.url)
        assert follower.reports == {proxy.url: "lied"}
    assert not follower.replicas.standing(SMALL.pid).quarantined
    assert follower.size(SMALL) == 5


# Recovery


def recovered(log: Log, at: int) -> Log:
    """Return the log as its owner recovers it after `at` entries, with one more release."""
    good = log.fork(at)
    state = good.state
    good.add(events.Recover(log.pid, 2, role("next"), following("next 2"), state.size, state.tree_root), "next")
    good.release("m", "7.0")
    return good


def test_a_recovered_log_replaces_the_branch_that_it_drops(net: Hosts) -> None:
    """Its head has the next origin and comes with all entries; who still shows the old branch changes nothing."""
    log = grown(11)
    good = recovered(log, 5)
    follower = net.follower()
    old = net.node(log)
    follower.sync(log, old)
    new = net.node(good)
    report = follower.sync(log, old, new, old)
    assert (report.epoch, report.size) == (1, 7)
    assert follower.size(good) == 7
    assert not follower.replicas.standing(log.pid).quarantined
    served = net.url(follower)
    assert net.follower().sync(log, served).epoch == 1
    assert LogFolder(follower.store.home.log(log.pid, 0)).root(12) == log.state.tree_root
    assert follower.sync(log, old, floor=(12, log.state.tree_root)).epoch == 1


# Revocations


def test_a_revocation_comes_by_any_route(net: Hosts) -> None:
    """Also from a source whose head is old, before anything else, and also to a newcomer."""
    publisher = net.follower().knows(SMALL, 3)
    revoke = SMALL.fork(12)
    envelopes = [
        revoke.add(SMALL.revoke(digests("m", f"1.{number}"), text=str(number)), "release") for number in range(5)
    ]
    for envelope in envelopes:
        publisher.replicas.add_negative(SMALL.pid, envelope)
    url = net.url(publisher)
    for follower in (net.follower().knows(SMALL), net.follower()):
        assert follower.sync(SMALL, url).negatives == 5
        assert follower.sync(SMALL, url).negatives == 0
        assert len(follower.replicas.state(SMALL.pid).revocations.in_force) == 5
        assert follower.reports == {url: "ok"}


def test_revocations_by_strangers_are_neither_believed_nor_a_lie(net: Hosts) -> None:
    """Another node may know the log further; but one that has heaps of them is not listened to for ever."""
    follower = net.follower().knows(SMALL)
    stranger = SMALL.fork(12)
    framed = b""
    for number in range(2):
        envelope = stranger.add(SMALL.revoke(digests("m", "1.1"), text=str(number)), "x")
        framed += len(envelope).to_bytes(2, "big") + envelope

    def spoil(exchange: Exchange) -> None:
        if "negatives" not in exchange.path:
            return exchange.honest()
        return exchange.reply(framed if "?" not in exchange.path else b"")

    with Proxy(net.node(SMALL), spoil) as proxy:
        report = follower.sync(SMALL, proxy.url)
        assert (report.negatives, follower.reports[proxy.url]) == (0, "ok")
    assert not follower.replicas.state(SMALL.pid).revocations.in_force


def test_pages_that_go_in_circles_are_a_lie(net: Hosts) -> None:
    """The same page again and again ends the visit."""
    follower = net.follower().knows(SMALL)
    envelope = SMALL.fork(12).add(SMALL.revoke(digests("m", "1.1")), "release")
    page = len(envelope).to_bytes(2, "big") + envelope
    with Proxy(net.node(SMALL), beside("negatives", page)) as proxy:
        follower.sync(SMALL, proxy.url)
        assert follower.reports[proxy.url] == "lied"
        assert sum("negatives" in path for path in proxy.paths_asked) == 2
    assert len(follower.replicas.negatives(SMALL.pid)) == 1
    assert read_event(follower.replicas.negatives(SMALL.pid)[0]).statement == read_event(envelope).statement


# Bounds


def test_what_a_log_may_bring_is_bounded(net: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries far larger than entries are: the source is left before it has filled the disk."""
    monkeypatch.setattr(syncing, "SPARE", 100_000)
    log = grown(3)
    for number in range(40):
        log.add(b'{"x":"' + b"x" * 20_000 + b'%d"}' % number)
    follower = net.follower()
    with Proxy(net.node(log), kinds=[]) as proxy:
        assert follower.refused(log, proxy.url).exit_code == 3
    assert follower.size(log) == 0


def test_a_visit_has_an_end(net: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bundles a source spreads its log over, one visit takes a bounded time."""
    monkeypatch.setattr(syncing, "SOURCE_S", -1.0)
    follower = net.follower()
    assert follower.refused(SMALL, net.node(SMALL)).exit_code == 5


def test_many_followers_of_one_source_at_once(net: Hosts) -> None:
    """Threads of one process over one store: each sync ends with the whole log."""
    follower, url = net.follower(), net.node(LOG)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            follower.sync(LOG, url)
        except BaseException as error:  # noqa: BLE001  (handed to the test)
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert follower.size(LOG) == 601
