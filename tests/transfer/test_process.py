"""Several pulls and nodes at once, and real processes: killed, continued elsewhere, and told the truth in JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import modelnet
from modelnet.core import transfer
from tests.transfer.hostile import Exchange, Kind, Proxy, split_car
from tests.transfer.scene import Scene
from tests.transfer.test_bytes import flip
from tests.transfer.world import Outcome, World, attempt, serving, sound

CHUNKS = [Kind.CAR, Kind.CHUNK]
LIMIT_S = 60.0


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command line on a store."""
    return subprocess.Popen(
        [sys.executable, "-m", "modelnet_cli.main", *arguments],
        env=os.environ | {"MODELNET_HOME": str(home)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, Any]:
    """Wait for a command with `--json`; return its exit code and what it printed."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert "Traceback" not in err, err
    return process.returncode, json.loads(out)


@contextlib.contextmanager
def gate(node: str, limit: int) -> Iterator[Proxy]:
    """Give a source that stops answering for chunks, but stays there, after `limit` bytes; `struck` says it did."""

    def hold(exchange: Exchange) -> None:
        if exchange.proxy.sent > limit:
            exchange.proxy.struck.set()
            exchange.silence()
        else:
            exchange.honest()

    with Proxy(node, hold, kinds=CHUNKS) as proxy:
        yield proxy


def killed(scene: Scene, reference: str, limit: int = 1_200_000) -> None:
    """Pull in a process that is killed with SIGKILL after about `limit` bytes."""
    with gate(scene.node, limit) as source:
        process = start(scene.home, "pull", reference, "--peer", source.url, "--json")
        assert source.struck.wait(LIMIT_S)
        time.sleep(0.1)  # what was sent may still be on its way to the disk
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == -signal.SIGKILL


def test_killed_then_another_source(scene: Scene) -> None:
    """After kill -9 a pull from another source fetches only what is missing."""
    killed(scene, scene.world.v1)
    with Proxy(scene.node) as other:
        code, said = ended(start(scene.home, "pull", scene.world.v1, "--peer", other.url, "--json"))
    assert code == 0
    assert said["bytes"]["present"] > 300_000
    assert said["bytes"]["fetched"] < said["bytes"]["total"] - 300_000
    attempt(scene.world.v1, scene.home, []).whole(scene.world.files_v1)


def test_killed_then_another_version(scene: Scene) -> None:
    """After kill -9 the next version comes out right, whether or not the index had heard of what arrived."""
    killed(scene, scene.world.v1)
    attempt(scene.world.v2, scene.home, [scene.node]).whole(scene.world.files_v2)
    attempt(scene.world.v1, scene.home, [scene.node]).whole(scene.world.files_v1)


def test_killed_node(scene: Scene) -> None:
    """A node that is killed in the middle: the pull goes on from another one."""
    process = start(scene.world.home, "node", "--listen", "127.0.0.1:0", "--json")
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        kill = threading.Event()

        def hold(exchange: Exchange) -> None:
            if exchange.kind in CHUNKS and not kill.is_set():
                kill.set()
                process.send_signal(signal.SIGKILL)

        with Proxy(scene.node, first=hold) as other:
            outcome = attempt(scene.world.v1, scene.home, [url, other.url])
        outcome.whole(scene.world.files_v1)
        assert outcome.state(url) != "lied"
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)


def test_a_lie_on_the_command_line(scene: Scene) -> None:
    """Exit 3, and every field that a script may want."""

    def lie(exchange: Exchange) -> None:
        exchange.reply(flip(exchange.body, len(exchange.body) - 3))

    with Proxy(scene.node, lie, kinds=CHUNKS) as liar:
        code, said = ended(start(scene.home, "pull", scene.world.v1, "--peer", liar.url, "--json"))
        assert code == 3
        error = said["error"]
        assert (error["kind"], error["rule"], error["source"]) == ("integrity", "hash", liar.url)
        assert error["path"] in scene.world.files_v1
        assert isinstance(error["offset"], int)
        assert error["wanted"] != error["got"]
        assert error["hint"]
        with Proxy(scene.node, first=lambda e: liar.struck.wait(0.5) and None if e.kind in CHUNKS else None) as honest:
            peers = ("--peer", liar.url, "--peer", honest.url)
            code, said = ended(start(scene.home, "pull", scene.world.v1, *peers, "--json"))
    assert code == 0
    assert {source["source"]: source["state"] for source in said["sources"]}[honest.url] == "ok"
    sound(scene.home)


def test_nobody_there_on_the_command_line(scene: Scene) -> None:
    """Exit 5 and what became of each source."""
    with Proxy(scene.node) as gone:
        pass
    code, said = ended(start(scene.home, "pull", scene.world.v1, "--peer", gone.url, "--json"))
    assert code == 5
    assert said["error"]["kind"] == "unavailable"
    assert gone.url in said["error"]["message"]


def test_two_pulls_of_one_release(scene: Scene) -> None:
    """Two pulls of the same release into one store: one does it, the other says that it is being done."""
    results: list[Outcome] = []

    def pull() -> None:
        results.append(attempt(scene.world.v1, scene.home, [scene.node]))

    for _ in range(3):
        threads = [threading.Thread(target=pull) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert len(results) == 12
    for outcome in results:
        if outcome.error is not None:
            assert outcome.error.rule == "busy", str(outcome.error)
            assert outcome.error.exit_code == 5
    assert any(outcome.error is None for outcome in results[:4])
    attempt(scene.world.v1, scene.home, []).whole(scene.world.files_v1)


def test_two_versions_at_once(scene: Scene) -> None:
    """Pulls of two versions into one store do not disturb each other."""
    results: dict[str, Outcome] = {}
    threads = [
        threading.Thread(target=lambda ref=ref: results.update({ref: attempt(ref, scene.home, [scene.node])}))
        for ref in (scene.world.v1, scene.world.v2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    results[scene.world.v1].whole(scene.world.files_v1)
    results[scene.world.v2].whole(scene.world.files_v2)


def test_chain_of_three(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third store pulls from the second while the second is held up half way: what is verified is served on."""
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.01)
    second, third = scene.home / "second", scene.home / "third"
    outcomes: list[Outcome] = []
    with gate(scene.node, 1_500_000) as source, serving(second) as middle:
        puller = threading.Thread(target=lambda: outcomes.append(attempt(scene.world.v1, second, [source.url])))
        puller.start()
        assert source.struck.wait(LIMIT_S)
        deadline = time.monotonic() + 5  # a partial is made known every two seconds
        while not _served(scene, middle) and time.monotonic() < deadline:
            time.sleep(0.05)
        outcome = attempt(scene.world.v1, third, [middle, scene.node])
        outcome.whole(scene.world.files_v1)
        assert outcome.state(middle) != "lied"
        assert next(report.bytes for report in outcome.got.sources if report.source == middle) > 0  # type: ignore[union-attr]
        source.vanish()
        puller.join(LIMIT_S)
    assert len(outcomes) == 1
    attempt(scene.world.v1, second, [scene.node]).whole(scene.world.files_v1)


def _served(scene: Scene, url: str) -> bool:
    """Tell whether a node has anything of the model's first tensor."""
    manifest = modelnet.pull(scene.world.v1, peers=[scene.node], home=scene.home / "look", dry_run=True).manifest
    root = next(entry.cid for entry in manifest.files if entry.path == "model.safetensors")
    with Proxy(url) as proxy:
        status, body = proxy.fetch(f"/ipfs/{root}?format=car&dag-scope=entity&entity-bytes=100:200000")
    with contextlib.suppress(modelnet.MalformedError, IndexError):
        return status == 200 and len(split_car(body)[1]) > 1
    return False


@pytest.mark.usefixtures("quick")
def test_a_file_that_is_edited_while_it_is_served(scene: Scene, tmp_path: Path) -> None:
    """A node whose file changes under it serves nothing wrong: it is never taken for a liar."""
    world = World.make(tmp_path / "edited", seed=11)
    path = tmp_path / "edited" / "1.0" / "model.safetensors"
    with serving(world.home) as url:

        def edit(exchange: Exchange) -> None:
            if exchange.kind is Kind.MANIFEST:  # which is asked for before any chunk
                with path.open("r+b") as file:
                    file.seek(1_000_000)
                    file.write(b"edited" * 100_000)

        with Proxy(url, first=edit) as proxy:
            error = attempt(world.v1, scene.home, [proxy.url]).refused(5)
            assert "lied" not in str(error)
        outcome = attempt(world.v1, scene.home, [url])
        assert outcome.error is not None
        assert outcome.error.exit_code == 5
        path.write_bytes(world.files_v1["model.safetensors"])
        attempt(world.v1, scene.home, [url]).whole(world.files_v1)
