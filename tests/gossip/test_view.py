"""Peers: who is kept, who is asked next, and that a flood of addresses does not take the view over."""

from __future__ import annotations

from random import Random

import pytest

from modelnet_registry.gossip.addresses import range_of
from modelnet_registry.gossip.view import (
    FROM_ONE,
    MAX_FRESH,
    MAX_TRIED,
    STRIKES,
    TRANSITIONS,
    PeerState,
    Sign,
    View,
)  # fmt: skip

OWN = "http://192.0.2.1:8710"


def address(number: int, network: int = 10) -> str:
    """Return an address; each `network` is a range of its own."""
    return f"http://{network}.1.{number >> 8}.{number & 255}:8710"


def view(*static: str, own: str = OWN) -> View:
    """Return a view with repeatable randomness."""
    return View(own, Random(1), 1.0, static)


def test_the_table_is_whole() -> None:
    """Every state can be reached and left, and a ban ends by time alone."""
    assert {state for state, _ in TRANSITIONS} == set(PeerState)
    assert {sign for state, sign in TRANSITIONS if state is PeerState.BANNED} == {Sign.PAROLE}


def test_every_static_peer_is_asked_in_turn() -> None:
    """Twenty named peers, two at a time: after ten draws each was asked once, whatever else was heard of."""
    named = [address(n) for n in range(20)]
    peers = view(*named)
    for n in range(200):
        peers.hear(address(n, 20 + n % 7), address(n % 9, 30))
    asked = [url for _ in range(20) for url in peers.pick(2, 0.0)]
    assert set(named) <= set(asked)


def test_a_flood_from_one_source_takes_few_places() -> None:
    """One teller places a handful of addresses; a thousand of them in one range leave room for another range."""
    peers = view()
    for n in range(1000):
        peers.hear(address(n), "http://10.1.9.9:1")
    assert len(peers) == FROM_ONE
    for n in range(5000):
        peers.hear(address(n), address(n, 11))
    assert len(peers) == MAX_FRESH
    assert peers.hear(address(1, 99), address(1, 98))
    assert len(peers) == MAX_FRESH


def test_an_address_is_not_worth_more_for_being_told_often() -> None:
    """A hundred adversaries are told twenty times each, three hundred others once: all have the same chance."""
    shares = []
    for seed in range(20):
        peers = View(OWN, Random(seed), 1.0)
        honest = [address(n, 30 + n % 40) for n in range(300)]
        bad = [address(1000 + n, 30 + n % 40) for n in range(100)]
        order = [(url, address(n, 90 + n % 9)) for n, url in enumerate([*honest, *bad * 20])]
        Random(seed).shuffle(order)
        for url, teller in order:
            peers.hear(url, f"{teller} {url}")
        shares.append(sum(url in bad for url, _, _ in peers.known) / MAX_FRESH)
    assert 0.15 < sum(shares) / len(shares) < 0.35


def test_what_answered_long_ago_stays() -> None:
    """Peers that answered are not pushed out by newcomers of their range, and by others only where it dominates."""
    peers = view()
    old = [address(n, 40 + n) for n in range(MAX_TRIED)]
    for url in old:
        peers.hear(url, url)
        peers.answered(url)
    for n in range(500):
        peers.hear(address(n, 66), address(n, 67))
        peers.answered(address(n, 66))
    assert {url for url, state, _ in peers.known if state is PeerState.TRIED} == set(old)


def test_a_range_that_dominates_gives_way() -> None:
    """Where all places are of one range, a peer of another gets one, and the oldest of the range stays."""
    peers = view()
    for n in range(MAX_TRIED):
        peers.hear(address(n), address(n, 30 + n))
        peers.answered(address(n))
    peers.hear(address(1, 77), address(1, 78))
    peers.answered(address(1, 77))
    tried = {url for url, state, _ in peers.known if state is PeerState.TRIED}
    assert address(1, 77) in tried
    assert address(0) in tried
    assert len(tried) == MAX_TRIED


def test_a_peer_that_fails_rests_and_comes_back() -> None:
    """After failures it is left alone for longer and longer, up to a bound; one that calls us is tried at once."""
    url = address(1)
    peers = view(url)
    rests = []
    now = 0.0
    for _ in range(8):
        assert peers.pick(1, now) == [url]
        peers.failed(url, now)
        rest = 0.0
        while not peers.pick(1, now + rest):
            rest += 0.25
        rests.append(rest)
        now += rest
    assert rests == sorted(rests)
    assert rests[-1] <= 2.0
    peers.failed(url, now)
    assert peers.pick(1, now) == []
    peers.called(url)
    assert peers.pick(1, now) == [url]


def test_a_liar_is_banned_and_later_tried_again() -> None:
    """After a few lies a peer is neither asked nor heard of again, for an hour; a named one is asked after that."""
    stranger, named = address(1), address(2)
    peers = view(named)
    peers.hear(stranger, stranger)
    for number in range(1, STRIKES + 1):
        assert peers.lied(stranger, 0.0, "forged") == (number == STRIKES)
        assert peers.lied(named, 0.0, "forged") == (number == STRIKES)
    assert peers.pick(5, 10.0) == []
    assert not peers.hear(stranger, address(3))
    assert peers.pick(5, 4000.0) == [named]


def test_nobody_is_defamed() -> None:
    """A lie under an address that is not known here bans nobody."""
    peers = view(address(1))
    for _ in range(9):
        peers.lied("192.0.2.9 ", 0.0, "forged")
    assert peers.pick(1, 0.0) == [address(1)]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "http://169.254.169.254", "http://0.0.0.0:1"],
)
def test_our_own_machine_is_no_peer_of_a_public_node(url: str) -> None:
    """Addresses that mean ourselves or the link are not taken from others, whatever our own address is."""
    for own in (OWN, "http://127.0.0.1:8710", ""):
        assert not view(own=own).hear(url, address(1))
        assert not view(own=own).hear(url, "198.51.100.7")


def test_ranges() -> None:
    """An IPv4 /16, an IPv6 /32, the end of a name."""
    assert range_of("http://10.1.2.3:1") == range_of("http://10.1.9.9:2") != range_of("http://10.2.2.3:1")
    assert range_of("http://[2001:db8::1]:1") == range_of("http://[2001:db8:9::1]") != range_of("http://[2001:db9::1]")
    assert range_of("http://a.example.org") == range_of("http://b.example.org")
