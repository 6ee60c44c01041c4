"""Tessera's fsck, unchanged, walks our log folders over HTTP and agrees with every tile, bundle and root."""

from __future__ import annotations

import base64
import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelnet import init
from modelnet.core.fold import PublisherState
from modelnet_registry.keyops import recover, rotate_keys
from tests.go import Refused, build_tessera
from tests.registry.log.stage import Desk
from tests.store.stage import serving

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def fsck() -> Path:
    """Give the built program, or skip."""
    return build_tessera()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's own file server, which does not talk."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files in `folder` on loopback, by no code of ours."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def judge(fsck: Path, state: PublisherState, url: str, folder: Path) -> None:
    """Let fsck judge the log at `url`, knowing nothing but its newest log key; raise `Refused` with its words.

    It exits 0 whatever it finds, and with one worker it waits for ever once a tile is wrong: the words count.
    """
    key = folder / "key"
    key.write_text(state.signers_at(state.size)[0][0].vkey + "\n")
    ran = subprocess.run(
        [fsck, "--storage_url", url, "--public_key", key, "--origin", state.origin, "--ui=false", "-N", "4"],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    root = base64.b64encode(state.tree_root).decode()
    if f"Successfully fsck'd log with size {state.size} and root {root} " not in ran.stderr:
        assert "fsck failed" in ran.stderr
        raise Refused(ran.stderr)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_tessera_agrees(fsck: Path, tmp_path: Path, size: int) -> None:
    """Sizes around the borders of tiles, grown in several steps."""
    desk = Desk.made(tmp_path / "home")
    for begin in range(1, size, 250):
        desk.append(*(desk.release(str(number)) for number in range(begin, min(begin + 250, size))))
    with served(desk.folder.path) as url:
        judge(fsck, desk.state, url, tmp_path)


def test_tessera_agrees_after_new_keys_and_a_recovery(fsck: Path, tmp_path: Path) -> None:
    """Heads with several log signatures and a beat, and the log of the next epoch under its own origin."""
    made = init(home=tmp_path / "home")
    desk = Desk.at(made.home)
    desk.append(*(desk.release(str(number)) for number in range(300)))
    rotate_keys(["log"], home=made.home)
    recover(made.next_seeds, show=lambda _: None, size=290, home=made.home)
    desk = Desk.at(made.home)
    assert desk.state.origin.endswith("/r1")
    with served(desk.folder.path) as url:
        judge(fsck, desk.state, url, tmp_path)


def test_tessera_agrees_with_what_the_node_serves(fsck: Path, tmp_path: Path) -> None:
    """The same through our own door."""
    desk = Desk.made(tmp_path / "home")
    desk.append(*(desk.release(str(number)) for number in range(300)))
    with serving(desk.home.root) as url:
        judge(fsck, desk.state, f"{url}/log/{desk.pid}/", tmp_path)


@pytest.mark.parametrize("tile", ["tile/entries/000", "tile/0/000", "tile/0/001.p/45", "tile/1/000.p/1", "checkpoint"])
def test_tessera_finds_what_is_wrong(fsck: Path, tmp_path: Path, tile: str) -> None:
    """The referee is awake: a flipped bit anywhere is refused."""
    desk = Desk.made(tmp_path / "home")
    desk.append(*(desk.release(str(number)) for number in range(300)))
    state, path = desk.state, desk.folder.path / tile
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with served(desk.folder.path) as url, pytest.raises(Refused):
        judge(fsck, state, url, tmp_path)
