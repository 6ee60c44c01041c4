"""What an operator sees: peers, where logs stand, and what a node heard; from this machine only."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelnet.errors import MalformedError, UnavailableError
from modelnet_registry.gossip.asking import ask_node, publishers
from tests.gossip.nodes import eventually, running
from tests.gossip.test_hostile import VICTIM, revocation, story
from tests.registry.conftest import Serve
from tests.registry.stock import Stock


def command(home: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command line on a store."""
    done = subprocess.run(
        [sys.executable, "-m", "modelnet_cli.main", *arguments],
        env=os.environ | {"MODELNET_HOME": str(home)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_peers_status_and_trace(tmp_path: Path) -> None:
    """Two nodes, one revocation, two histories: the three commands say so, in words and in JSON."""
    log, split = story("seen "), story("seen split ")
    with running(tmp_path / "a") as a, running(tmp_path / "b", peers=[a.url], follow=[log.pid]) as b:
        a.know(log)
        a.know(split)
        b.know(split.fork(3))
        fork = split.fork(3)
        fork.release("llama", "6.6")
        b.know(fork)
        eventually(lambda: b.size(log.pid) == 4 and b.quarantined(split.pid) and a.quarantined(split.pid))
        a.replicas.add_negative(log.pid, revocation(log))
        eventually(lambda: b.revoked(log.pid, VICTIM))

        code, out, _ = command(tmp_path / "b", "peers", "--node", b.url, "--json")
        assert code == 0
        assert json.loads(out)["peers"] == [{"url": a.url, "state": "answered", "reason": ""}]
        assert a.url in command(tmp_path / "b", "peers", "--node", b.url)[1]

        code, out, _ = command(tmp_path / "b", "gossip", "trace", "--node", b.url, "--json")
        events = json.loads(out)["trace"]
        assert code == 0
        assert any(event["event"] == "negative" and "new" in event["text"] for event in events)
        assert "negative" in command(tmp_path / "b", "gossip", "trace", "--node", b.url)[1]

        code, out, _ = command(tmp_path / "b", "status", "--json")
        rows = {row["publisher"]: row for row in json.loads(out)["publishers"]}
        assert code == 0
        assert rows[log.pid]["revocations"] == 1
        assert rows[split.pid]["state"] == "quarantined"
        assert rows[split.pid]["evidence"] == 1
        said = command(tmp_path / "b", "status")[1]
        assert "two histories" in said
        assert "1 revocation" in said
        assert publishers(b.store)[0].keys() >= {"publisher", "state", "reason", "size", "until"}


def test_a_report_is_for_this_machine(tmp_path: Path) -> None:
    """Whoever comes through a proxy is told nothing, and the door takes no other method."""
    with running(tmp_path / "a") as node:
        parts = urlsplit(node.url)
        for method, headers, status in (
            ("GET", {"X-Forwarded-For": "10.0.0.1"}, 403), ("GET", {"Forwarded": "for=10.0.0.1"}, 403),
            ("GET", {}, 200), ("HEAD", {}, 200), ("PUT", {}, 405),
        ):  # fmt: skip
            client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
            client.request(method, "/gossip", headers=headers)
            assert client.getresponse().status == status
            client.close()


def test_asking_where_no_node_is(tmp_path: Path, serve: Serve, stock: Stock) -> None:
    """No node, a node without gossip, another program: each is a sentence with a hint."""
    with pytest.raises(UnavailableError) as raised:
        ask_node("http://127.0.0.1:9")
    assert "modelnet node" in str(raised.value.hint)
    assert command(tmp_path, "peers", "--node", "http://127.0.0.1:9")[0] == 5
    assert command(tmp_path, "status")[1] == "no publisher is known here yet\n"
    from modelnet_registry.http.doors import Doors
    from modelnet_registry.http.gossipdoor import GossipDoor, WithGossip

    server, _ = serve(Doors(stock.store))
    with pytest.raises(UnavailableError):
        ask_node(server.url)
    server, _ = serve(WithGossip(Doors(stock.store), GossipDoor(lambda *_: b"", lambda after=None: {"peers": after})))
    with pytest.raises(MalformedError):
        ask_node(server.url)
