"""What an address that somebody told means, and whom it is charged to. Pure: no name is resolved here.

    canonical     the one spelling of a node's URL: scheme, host, port and nothing else
    told          the same, if an address of that kind may be taken from whoever told it
    account_of    who pays for what a caller sends: its address, never the URL that it says is its own
    range_of      the network that an address counts towards where places are shared out

A resolver reads more spellings than people write: `127.1`, `2130706433`, `0x7f.1` and `::ffff:127.0.0.1` are all this
machine. They are read as it reads them, before anything is decided (inet_aton(3); RFC 4291 §2.5.5; RFC 6052 §2.1).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from enum import Enum
from functools import lru_cache
from sys import intern

from modelnet.errors import UsageError

__all__ = ["Reach", "account_of", "advertised", "canonical", "is_loopback", "range_of", "reach", "told"]

MAX_URL = 248  # what a batch's first line holds (`modelnet_registry.gossip.messages`)
MAX_NAME = 253  # RFC 1035
MAX_PORT = 65_535
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_IPV4 = re.compile(r"https?://([0-9]{1,3}\.[0-9]{1,3})\.[0-9]{1,3}\.[0-9]{1,3}(?::|$)")  # nearly all there are
_LABEL = re.compile(r"[0-9a-z_]([0-9a-z_-]{0,61}[0-9a-z_])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(Enum):
    """Whom an address can mean."""

    WORLD = "some machine, for all that can be told"
    LINK = "something on the link: printers, and the metadata of a cloud"
    LOOP = "the machine itself"
    NOWHERE = "no single machine"


@lru_cache(4096)
def canonical(url: str) -> str | None:
    """Return the one spelling of a node's URL; None for what is none, and for one with a path, a query or a user."""
    match = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    host = None if match is None else _host(match[2])
    if match is None or host is None:
        return None
    port = "" if match[3] is None else f":{int(match[3])}"
    if port and not 0 < int(port[1:]) <= MAX_PORT:
        return None
    return f"{match[1].lower()}://{host}{port}"


def _host(text: str) -> str | None:
    """Return the one spelling of a host as it is written in a URL."""
    if text.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError:
            return None
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    # What ends in a number is an address to every resolver, however it is spelt, or nothing.
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(socket.inet_aton(name)))
        except OSError:
            return None
    return name if len(name) <= MAX_NAME and all(map(_LABEL.fullmatch, labels)) else None


def host_of(url: str) -> str:
    """Return the host of a canonical URL, without brackets; an IP address as it is; empty for anything else."""
    match = _URL.fullmatch(url)
    host = _host(match[2]) if match is not None else None
    return (host or "").strip("[]") or (url if _parsed(url) is not None else "")


def _parsed(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for; another one as it is."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if (inner := address.ipv4_mapped or address.sixtofour) is not None:
        return inner
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


@lru_cache(4096)
def reach(host: str) -> Reach:
    """Tell whom a host, an IP address or a name, can mean."""
    if host == "localhost" or host.endswith(".localhost"):
        return Reach.LOOP
    address = _parsed(host.partition("%")[0])
    if address is None:
        return Reach.WORLD
    address = _plain(address)
    if address.is_loopback:
        return Reach.LOOP
    if address.is_unspecified or address.is_multicast or (address.version == 4 and int(address) == 0xFFFFFFFF):
        return Reach.NOWHERE
    return Reach.LINK if address.is_link_local else Reach.WORLD


def told(url: str, teller: str, own: str) -> str | None:
    """Return the one spelling of an address that `teller` told, or None if it may not be taken from there.

    `teller` is a URL or an IP address, or the name of a bus (`mdns`) that brought it; `own` is this node's URL. An
    address on our own machine, told from outside, is an attempt to make us call what only we can reach.
    """
    found = canonical(url)
    if found is None:
        return None
    host, by = host_of(found), host_of(teller)
    match reach(host):
        case Reach.WORLD:
            return found
        case Reach.LOOP:
            return found if reach(by or host_of(own)) is Reach.LOOP else None
        case Reach.LINK:
            return found if host == by else None
    return None


def advertised(text: str) -> str:
    """Return the one spelling of the URL by which an operator says that peers reach this node, or raise."""
    found = canonical(text)
    if found is None:
        guess = canonical(f"http://{text}")
        hint = f"write {guess}" if guess is not None else "for example http://203.0.113.7:8710"
        raise UsageError(f"not the address of a node: {text!r}", rule="advertise", hint=hint)
    if reach(host_of(found)) is Reach.NOWHERE:
        raise UsageError(
            f"nobody can call {text!r}", rule="advertise", hint="name the address by which others reach this machine"
        )
    return found


def is_loopback(url: str) -> bool:
    """Tell whether a URL or an IP address means the machine itself."""
    return reach(host_of(url)) is Reach.LOOP


def account_of(peer: str) -> str:
    """Return who pays for what `peer` sends: of `address url`, as callers are named, the address.

    One customer of an IPv6 provider has a /64 and more addresses in it than any table holds.
    """
    address, space, _ = peer.partition(" ")
    parsed = _parsed(address) if space else None
    if parsed is None:
        return address if space else peer
    parsed = _plain(parsed)
    return str(parsed) if parsed.version == 4 else str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


@lru_cache(4096)
def range_of(url: str) -> str:
    """Return the address range that a peer counts towards: an IPv4 /16, an IPv6 /32, or the end of a host name."""
    if plain := _IPV4.match(url):
        return intern(plain[1])
    host = host_of(url) or url
    address = _parsed(host)
    if address is None:
        return intern(".".join(host.split(".")[-2:]))
    address = _plain(address)
    return intern(".".join(str(address).split(".")[:2]) if address.version == 4 else address.exploded[:9])
