"""What an operator sees: peers, where logs stand, and what a node heard; from this machine only."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from modelnet.core.names import Locator
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

        code, out, _ = command(tmp_path / "b", "gossip", "trace", "--once", "--node", b.url, "--json")
        events = json.loads(out)["trace"]
        assert code == 0
        assert any(event["event"] == "negative" and "new" in event["text"] for event in events)
        assert "negative" in command(tmp_path / "b", "gossip", "trace", "--once", "--node", b.url)[1]

        code, out, _ = command(tmp_path / "b", "status", "--node", b.url, "--json")
        told = json.loads(out)
        rows = {row["publisher"]: row for row in told["publishers"]}
        assert code == 0
        assert [peer["url"] for peer in told["peers"]] == [a.url]
        assert told["transfers"] == []
        (revoked,) = rows[log.pid]["revocations"]
        assert (revoked["name"], revoked["version"], revoked["severity"]) == ("llama", "1.1", "malicious")
        assert rows[log.pid]["knowledge"].keys() == {"state", "until", "age_s"}
        assert rows[split.pid]["state"] == "quarantined"
        assert rows[split.pid]["evidence"] == 1
        said = command(tmp_path / "b", "status")[1]
        assert "two histories" in said
        assert "1 revocation" in said
        assert "revoked: llama@1.1 (malicious)" in said
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
    assert command(tmp_path, "status")[1].startswith("no publisher is known here yet\n")
    assert command(tmp_path, "status", "--node", "http://127.0.0.1:9")[0] == 5
    assert command(tmp_path, "gossip", "trace", "--node", "http://127.0.0.1:9")[0] == 5
    from modelnet_registry.http.doors import Doors
    from modelnet_registry.http.gossipdoor import GossipDoor, WithGossip

    server, _ = serve(Doors(stock.store))
    with pytest.raises(UnavailableError):
        ask_node(server.url)
    server, _ = serve(WithGossip(Doors(stock.store), GossipDoor(lambda *_: b"", lambda after=None: {"peers": after})))
    with pytest.raises(MalformedError):
        ask_node(server.url)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--advertise", "203.0.113.7:8710"], "http://203.0.113.7:8710"),
        (["--advertise", "http://a b"], "for example"),
        (["--advertise", "http://a/path"], "for example"),
        (["--help-space", "inf"], "GB"),
        (["--help-rate", "nan"], "help"),
        (["--help-quiet", "8-8"], "8-18"),
        (["--help-quiet", "junk"], "8-18"),
        (["--help-quiet", "25-3"], "8-18"),
        (["--gossip-interval", "0", "--help-hold", "a" * 52], "--help-hold"),
        (["--gossip-interval", "0", "--lan"], "--lan"),
        (["--gossip-interval", "inf"], "30"),
        (["--gossip-interval", "0.000001"], "30"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: list[str], hint: str) -> None:
    """What a node could only ignore, or would be cut off by, is a usage error with a hint."""
    code, _, said = command(tmp_path, "node", "--listen", "127.0.0.1:0", *options)
    assert code == 2, said
    assert hint in said


class Running:
    """A command that runs on, and its lines as they come."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modelnet_cli.main", *arguments],
            env=os.environ | {"MODELNET_HOME": str(home)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def next(self, **wanted: str) -> dict[str, Any]:
        """Return the next event that says what is wanted."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event.items() >= wanted.items():
                return event
        raise AssertionError(self.end())

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop it; return its exit code and what it said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


def test_a_node_says_what_was_revoked_and_a_trace_goes_on(tmp_path: Path) -> None:
    """A locator to follow; a revocation and a split view on stderr and as events; the trace ends with 130."""
    log, split = story("said "), story("said split ")
    fork = split.fork(3)
    fork.release("llama", "6.6")
    locator = str(Locator.of(log.pid, "llama", "1.0", "0" * 64))
    with ExitStack() as stack:
        a = stack.enter_context(running(tmp_path / "a"))
        b = stack.enter_context(running(tmp_path / "b"))
        a.know(log)
        a.know(split)
        node = Running(
            tmp_path / "node", "node", "--listen", "127.0.0.1:0", "--peer", a.url, "--gossip-interval", "0.3", "--json",
            "--follow", locator, "--follow", split.pid, "--pubsub", "http://127.0.0.1:9", "--peer", b.url,
        )  # fmt: skip
        stack.callback(node.process.kill)
        url = node.next(event="ready")["url"]
        eventually(lambda: {head["size"] for head in ask_node(url)["heads"]} == {4})
        trace = Running(tmp_path / "node", "gossip", "trace", "--node", url, "--json")
        stack.callback(trace.process.kill)
        trace.next(event="pubsub")
        a.replicas.add_negative(log.pid, revocation(log))
        b.know(fork)
        assert trace.next(event="negative")["text"]
        found = {event["event"]: event for event in (node.next(), node.next())}
        assert found["revoked"]["publisher"] == log.pid
        assert (found["revoked"]["name"], found["revoked"]["version"]) == ("llama", "1.1")
        assert found["quarantined"]["publisher"] == split.pid
        code, said = trace.end()
        assert code == 130
        assert "interrupted" in said
        assert ask_node(url)["buses"]["pubsub"]
        code, said = node.end()
        assert code == 0
        assert f"revoked: {log.pid}/llama@1.1 (malicious)" in said
        assert f"quarantined: {split.pid}" in said
        assert "pubsub does not work" in said
