"""Addresses of peers: one that no request could be sent to is refused when it is given, and never bricks a store."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelnet
from modelnet.errors import UsageError
from modelnet.stores.home import Home
from modelnet.stores.http import Connection, HttpSource
from modelnet.stores.loghttp import ask_all
from modelnet.stores.peers import add_peers, known_peers
from tests.store.stage import Machine, serving, write_random

WRONG = [
    "", "10.0.0.5:8710", "ftp://x", "http://", "http:///x", "http://exa mple", "http://exa\tmple", "http://a\r\nb",
    "http://a\0b", "http://exämple", "http://a..b", "http://.a", "http://" + "a" * 64, "http://" + "a." * 200 + "b",
    "http://[::1", "http://::1", "http://[::1]x", "http://[1.2.3.4]", "http://[g::]", "http://a:0", "http://a:65536",
    "http://a:x", "http://u@a", "http://@a", "http://a#x", "http://a#", "http://a?x", "http://a?", "http://a/b c",
    "http://a\u2028b", "http://a%20b", "http://-a", "http://a/" + "x" * 2048, "http://a\\b", " http://a", "http://a ",
]  # fmt: skip
RIGHT = {
    "http://10.0.0.5:8710": ("10.0.0.5", 8710), "https://a.example/base/": ("a.example", 443),
    "http://node_1:80": ("node_1", 80), "http://[::1]:8710": ("::1", 8710), "http://localhost": ("localhost", 80),
    "http://xn--exmple-cua.com.": ("xn--exmple-cua.com.", 80), "http://" + "a" * 63: ("a" * 63, 80),
}  # fmt: skip


@pytest.mark.parametrize("url", WRONG, ids=lambda url: ascii(url)[:30])
def test_what_is_no_address(url: str) -> None:
    """It is refused with an example, in a message of one line."""
    with pytest.raises(UsageError) as caught:
        HttpSource.parse(url)
    assert (caught.value.rule, caught.value.exit_code) == ("peer", 2)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("url", RIGHT)
def test_what_is_an_address(url: str) -> None:
    """A connection can be made ready for each."""
    source = HttpSource.parse(url)
    assert (source.host, source.port) == RIGHT[url]
    source.connect().close()


def test_a_store_with_mistyped_peers_goes_on(tmp_path: Path) -> None:
    """Lines that an older version saved are passed over with a note; publish, sync and pull do their work."""
    write_random(tmp_path / "m" / "a.bin", 1000)
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    for machine in (alice, bob):
        machine.home.mkdir(exist_ok=True)
        (machine.home / "peers").write_text("http://exa mple\nhttp://a..b\n\nhttp://[::1\n")
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url:
        with (bob.home / "peers").open("a") as peers:
            peers.write(f"{url}\n")
        done = bob.run("pull", made.locator, "--json")
        assert done.json["sources"][0]["source"] == url
        assert done.err.count("is passed over") == 3
        assert "line 1" in done.err
        assert bob.run("sync", "--json").json["publishers"][0]["size"] == made.head.size
    add_peers(Home(bob.home), ["http://b"])
    assert known_peers(Home(bob.home)) == [url, "http://b"]


def test_one_mistyped_peer_is_not_saved(tmp_path: Path) -> None:
    """Nor are those beside it: the command did nothing."""
    machine = Machine(tmp_path)
    done = machine.run("node", "--listen", "127.0.0.1:0", "--peer", "http://a", "--peer", "http://exa mple", wanted=2)
    assert "not the address of a peer" in done.err
    assert not (tmp_path / "peers").exists()


def test_a_source_that_cannot_be_begun_with_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked all at once, one fails before its connection is made; the other answers."""
    connect = HttpSource.connect

    def broken(source: HttpSource) -> Connection:
        if source.host == "b":
            raise modelnet.UnavailableError("no certificates")
        return connect(source)

    monkeypatch.setattr(HttpSource, "connect", broken)
    sources = [HttpSource.parse("http://b"), HttpSource.parse("http://a")]
    assert ask_all(sources, lambda connection: connection.source.host, 5) == ["a"]
