"""Discovery on the local network: nodes find each other with no configuration, and adverts are only hints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelnet.errors import UnavailableError
from modelnet_registry.discovery import Discovery, advert, in_common
from tests.core.logs import Log
from tests.gossip.nodes import eventually, running
from tests.gossip.test_hostile import story

LOOPBACK = ["127.0.0.1"]
SALT = bytes(range(8))


def encoded(properties: dict[str, str]) -> dict[bytes, bytes | None]:
    """Return a TXT record as it arrives."""
    return {key.encode(): value.encode() for key, value in properties.items()}


def test_an_advert_tells_followers_and_nobody_else() -> None:
    """Who follows the same publisher recognises it; the publisher's id is not in the advert, and salts differ."""
    mine, other = Log("mine ").pid, Log("other ").pid
    properties = advert([mine], SALT)
    assert in_common(encoded(properties), [mine, other]) == 1
    assert in_common(encoded(properties), [other]) == 0
    assert mine not in str(properties)
    assert advert([mine], bytes(8))["f"] != properties["f"]
    assert max(len(f"{key}={value}") for key, value in advert([mine] * 1000, SALT).items()) <= 255


@pytest.mark.parametrize(
    "told",
    [
        {},
        {b"s": b"zz", b"f": b"1"},
        {b"s": b"\xff", b"f": b"\xff"},
        {b"f": None},
        {b"s": b"00" * 99, b"f": b"," * 9999},
    ],
)
def test_an_advert_that_says_nonsense_is_a_node_like_any_other(told: dict[bytes, bytes | None]) -> None:
    """Whatever a TXT record holds, it is at most no hint."""
    assert in_common(told, ["a" * 52]) == 0


@pytest.fixture
def zeroconf() -> Iterator[None]:
    """Skip where the extra is not installed or this machine has no multicast on loopback."""
    pytest.importorskip("zeroconf")
    try:
        with Discovery("http://127.0.0.1:1", met=lambda *_: None, interfaces=LOOPBACK):
            yield
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("zeroconf")
def test_nodes_on_one_network_find_each_other(tmp_path: Path) -> None:
    """Two nodes that were told nothing of each other: a log gets from one to the other."""
    log = story("found ")
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(tmp_path / name, follow=[log.pid])) for name in "ab"]
        found = [
            stack.enter_context(Discovery(node.url, met=node.service.met, follow=[log.pid], interfaces=LOOPBACK))
            for node in nodes
        ]
        nodes[0].know(log)
        eventually(lambda: nodes[1].size(log.pid) == 4, 30)
        eventually(lambda: found[1].found.get(nodes[0].url) == 1, 30)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is a sentence with a hint."""
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(UnavailableError) as raised:
        Discovery("http://127.0.0.1:1", met=lambda *_: None).start()
    assert "mdns" in str(raised.value.hint)
