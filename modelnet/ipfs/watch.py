"""A limit on what a socket's own timeout does not see: answers that come, one byte at a time, for ever.

    with Watch(30.0, sockets) as watch:        # shuts the sockets down 30 s after it last heard anything worth while
        for record in answer: watch.heard()
    watch.fired                                # then what was read is cut off, whether or not reading it raised

A socket's timeout starts again with each byte, and HTTP libraries give no total. So a thread shuts the socket down, and
whoever reads from it finds its end.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self

__all__ = ["Watch"]


class Watch:
    """Shuts down what `sockets` gives once nothing was heard for `limit_s` seconds."""

    def __init__(self, limit_s: float, sockets: Callable[[], Iterable[socket.socket | None]]) -> None:
        """Begin to count when the block is entered."""
        self.fired = False
        self._limit_s = limit_s
        self._sockets = sockets
        self._until = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="modelnet-watch", daemon=True)

    def __enter__(self) -> Self:
        self.heard()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def heard(self) -> None:
        """Begin to count again."""
        self._until = time.monotonic() + self._limit_s

    def _wait(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if self._over.wait(left):
                return
        self.fired = True
        # Again and again, since a connection may only now be being made.
        while not self._over.is_set():
            for sock in list(self._sockets()):
                with contextlib.suppress(OSError):
                    if sock is not None:
                        sock.shutdown(socket.SHUT_RDWR)
            self._over.wait(0.1)
