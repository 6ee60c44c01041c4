"""A node takes pins of revoked releases back: when the store changes, and again while a target does not answer."""

from __future__ import annotations

import logging
import threading

from modelnet.errors import ModelnetError
from modelnet.gate import Gate
from modelnet.ipfs.withdrawing import withdraw

__all__ = ["Withdrawing"]

log = logging.getLogger("modelnet_registry.withdrawing")

LOOK_S = 1.0  # between two looks at whether the store has changed
AGAIN_S = 60.0  # before a target that did not answer is asked again


class Withdrawing:
    """A thread of its own, since targets may be slow; what it cannot do it says in the log and tries again."""

    def __init__(self, gate: Gate, again_s: float = AGAIN_S) -> None:
        """Decide as `gate` does."""
        self._gate = gate
        self._again_s = again_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelnet-withdrawing", daemon=True)

    def start(self) -> None:
        """Begin with what is known now."""
        self._thread.start()

    def close(self) -> None:
        """Let the thread end; one that waits for a target is not waited for."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(LOOK_S)

    def _run(self) -> None:
        index = self._gate.store.index
        seen, left = None, 0.0
        try:
            while not self._stop.is_set():
                try:
                    if (version := index.data_version()) != seen or left <= 0:
                        seen, left = version, self._again_s
                        self._withdraw()
                except ModelnetError as error:
                    log.warning("cannot tell which pins are of revoked releases: %s", error)
                self._stop.wait(LOOK_S)
                left -= LOOK_S
        finally:
            index.close()

    def _withdraw(self) -> None:
        for one in withdraw(self._gate.store, self._gate):
            if one.error is None:
                log.info("unpinned %s at %s: %s", one.release, one.target, one.reason)
            else:
                log.warning("%s was revoked and is still pinned at %s: %s", one.release, one.target, one.error)
