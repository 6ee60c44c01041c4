"""A source that answers "close" and then a byte now and then: the one whose socket http.client hides from us."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.transfer.scene import Scene
from tests.transfer.world import attempt

BOUND_S = 20.0  # far above what the shortened clocks allow, far below for ever


@pytest.fixture
def trickle() -> Iterator[str]:
    """Give the URL of a server that promises 100 MB, says that it will close, and sends a byte each 50 ms."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    threads: list[threading.Thread] = []

    def answer(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\nConnection: close\r\n\r\n")
                while not stop.wait(0.05):
                    sock.sendall(b"x")
            except OSError:
                return

    def accept() -> None:
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=answer, args=(sock,)))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.usefixtures("quick")
def test_alone_it_is_given_up(scene: Scene, trickle: str) -> None:
    """Nothing hangs: the pull ends soon, with the error that says what became of the source."""
    started = time.monotonic()

    attempt(scene.world.v1, scene.home, [trickle]).refused(5)

    assert time.monotonic() - started < BOUND_S


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("order", [1, -1])
def test_an_honest_peer_brings_everything(scene: Scene, trickle: str, order: int) -> None:
    """Before or after an honest peer, it costs a moment only."""
    started = time.monotonic()

    attempt(scene.world.v1, scene.home, [trickle, scene.node][::order]).whole(scene.world.files_v1)

    assert time.monotonic() - started < BOUND_S
