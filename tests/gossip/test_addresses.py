"""What an address that somebody told means: every spelling of our own machine, and who may tell which."""

from __future__ import annotations

import pytest

from modelnet.errors import UnavailableError, UsageError
from modelnet_registry.gossip.addresses import account_of, advertised, canonical, is_loopback, range_of, told
from modelnet_registry.gossip.post import check_reach, exchange

OUTSIDE, OWN = "198.51.100.7", "http://10.0.0.1:8710"

LOOPS = (
    "http://127.1:6379", "http://2130706433", "http://0x7f000001:1", "http://0177.0.0.1", "http://127.0.0.1.",
    "http://[::ffff:127.0.0.1]:1", "http://[::1]", "http://[64:ff9b::7f00:1]", "http://[2002:7f00:1::]",
    "http://localhost", "http://LOCALHOST:1", "http://a.localhost",
)  # fmt: skip
LINKS = ("http://169.254.169.254", "http://[::ffff:169.254.169.254]:80", "http://[fe80::1]", "http://0xa9fea9fe")
NOWHERE = (
    "http://0",
    "http://0.0.0.0:1",
    "http://[::]:1",
    "http://224.0.0.1",
    "http://[ff02::1]",
    "http://255.255.255.255",
)
NONSENSE = (
    "http://x:99999", "http://x:0", "http://u:p@h:1", "http://[", "http://[1", "http://a..b", "http://" + "a" * 70,
    "http://x/?q", "http://x/path", "http://x/#f", "http://-x", "http://a b", "ftp://x", "x:1", "http://1.2.3.4.5",
    "http://256.1.1.1", "http://\u00e9", "", "http://[fe80::1%eth0]", "http://" + "a." * 130,
)  # fmt: skip


@pytest.mark.parametrize("url", LOOPS)
def test_every_spelling_of_our_own_machine(url: str) -> None:
    """What a resolver takes for loopback is loopback; only who is there itself may tell of it."""
    assert is_loopback(url)
    assert told(url, OUTSIDE, OWN) is None
    assert told(url, "http://10.0.0.9:1", "http://127.0.0.1:1") is None
    assert told(url, "pubsub:12D3", OWN) is None
    assert told(url, "127.0.0.1", OWN) == told(url, "mdns", "http://127.0.0.1:1") == canonical(url)


@pytest.mark.parametrize("url", [*LINKS, *NOWHERE])
def test_the_link_and_nowhere(url: str) -> None:
    """Nobody tells of the link but who is at that very address; nobody at all of no single machine."""
    for teller in (OUTSIDE, "127.0.0.1", "mdns", OWN):
        assert told(url, teller, "http://127.0.0.1:1") is None
    assert told("http://169.254.3.4:8710", "169.254.3.4", OWN) == "http://169.254.3.4:8710"


@pytest.mark.parametrize("url", NONSENSE)
def test_what_is_no_address_of_a_node(url: str) -> None:
    """Ports, names and schemes that are none; users, paths and queries, which an address of a node does not have."""
    assert canonical(url) is None
    assert told(url, OUTSIDE, OWN) is None
    with pytest.raises(UsageError) as raised:
        advertised(url)
    assert raised.value.hint


def test_one_spelling() -> None:
    """Whoever is known under one spelling is known under all."""
    for url in ("http://10.0.0.5:8710", "HTTP://10.0.0.5:8710/", "http://10.5:08710", "http://167772165:8710"):
        assert canonical(url) == "http://10.0.0.5:8710"
    assert canonical("https://Example.ORG.") == "https://example.org"
    assert canonical("http://[2001:DB8:0::1]:1") == "http://[2001:db8::1]:1"


def test_an_operator_that_forgets_the_scheme_is_told() -> None:
    """HOST:PORT is what everybody writes first."""
    assert advertised("http://203.0.113.7:8710/") == "http://203.0.113.7:8710"
    with pytest.raises(UsageError) as raised:
        advertised("203.0.113.7:8710")
    assert raised.value.hint == "write http://203.0.113.7:8710"
    with pytest.raises(UsageError):
        advertised("http://0.0.0.0:8710")


def test_who_pays() -> None:
    """A caller's address, for IPv6 its /64; whom we called, itself."""
    assert account_of("10.0.0.1 http://10.0.0.1:1") == account_of("10.0.0.1 ") == account_of("::ffff:10.0.0.1 x")
    assert account_of("2001:db8::1 ") == account_of("2001:db8::ffff:2 x") != account_of("2001:db8:0:1::1 ")
    assert account_of("http://10.0.0.1:1") == "http://10.0.0.1:1"
    assert account_of("pubsub:12D3 http://a") == "pubsub:12D3"
    assert range_of("http://[::ffff:10.1.2.3]:1") == range_of("http://10.1.9.9:1")


@pytest.mark.parametrize("url", ["http://a..b", "ftp://x", "http://" + "a" * 70 + ".example", "http://127.0.0.1:1"])
def test_calling_what_cannot_be_called(url: str) -> None:
    """Whatever an address is, it is at most no answer."""
    with pytest.raises(UnavailableError):
        exchange(url, b"x", 2.0)


def test_a_name_for_our_own_machine() -> None:
    """A name that others told and that means this machine is not called; an address is what it says."""
    check_reach("http://127.0.0.1:1")
    with pytest.raises(UnavailableError) as raised:
        check_reach("http://localhost:1")
    assert raised.value.rule == "inside"
