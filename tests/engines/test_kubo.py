"""The Kubo that other tests compare with works, and is the one that is pinned."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.engines import ROOT_OPTIONS, Kubo, kubo_add, kubo_daemon


def test_version(kubo: Kubo) -> None:
    """The daemon that answers is the pinned version."""
    request = urllib.request.Request(f"{kubo.api}/api/v0/version", method="POST")
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert json.load(reply)["Version"] == "0.43.0"


def test_add_and_cat(kubo: Kubo, tmp_path: Path) -> None:
    """What is added through the daemon comes back from the command line and from the gateway."""
    content = bytes(range(256)) * 9000  # three chunks of at most 1 MiB
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    root = kubo.run("add", *ROOT_OPTIONS, "--quieter", path).decode().strip()
    assert kubo.run("cat", root) == content
    with urllib.request.urlopen(f"{kubo.gateway}/ipfs/{root}", timeout=10) as reply:
        assert reply.read() == content


def test_offline_root_is_the_daemons(kubo: Kubo, tmp_path: Path) -> None:
    """`kubo_add` computes the root that the daemon stores, hidden files and folders included."""
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / ".hidden").write_bytes(b"h")
    (tmp_path / "folder" / "inner" / "weights").write_bytes(b"w" * (1 << 20) + b"w")
    root = kubo.run("add", *ROOT_OPTIONS, "--quieter", "-r", "--hidden", tmp_path / "folder").decode().strip()
    assert kubo_add(tmp_path / "folder") == root
    assert b".hidden" in kubo.run("ls", root)


def test_failures_show_what_kubo_said(kubo: Kubo) -> None:
    """A command that fails raises with Kubo's own words."""
    with pytest.raises(Exception, match="returned non-zero") as caught:
        kubo.run("cat", "not-a-cid")
    assert "invalid" in caught.value.__notes__[0]


def test_the_daemon_is_alone(kubo: Kubo) -> None:
    """The daemon has no peers, no bootstrap list, and listens on loopback only."""
    assert kubo.run("swarm", "peers") == b""
    assert kubo.run("bootstrap", "list") == b""
    listening = kubo.run("swarm", "addrs", "listen").decode().split()
    assert listening
    assert all(address.startswith("/ip4/127.0.0.1/") for address in listening), listening


def test_two_daemons_exchange_a_file(kubo: Kubo, tmp_path: Path) -> None:
    """Daemons with one swarm key connect; one with another key cannot."""
    key = "07" * 32
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with kubo_daemon(tmp_path / "a", swarm_key=key) as a, kubo_daemon(tmp_path / "b", swarm_key=key) as b:
        address = json.loads(a.run("id"))["Addresses"][0]
        b.run("swarm", "connect", address)
        root = a.run("add", *ROOT_OPTIONS, "--quieter", stdin=b"from a").decode().strip()
        assert b.run("cat", root) == b"from a"
        with pytest.raises(Exception, match="returned non-zero"):
            kubo.run("swarm", "connect", address)
