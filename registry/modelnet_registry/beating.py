"""A node says for its own publishers, hour by hour, that the heads of their logs are still the newest.

Without it whoever follows a publisher that has nothing to say would count what it knows as stale after `max_age`. It
needs the keys: those of a store without passphrase, or the passphrase in `$MODELNET_PASSPHRASE`.
"""

from __future__ import annotations

import logging
import os
import threading

from modelnet.errors import ModelnetError
from modelnet.stores.keyring import own_publishers
from modelnet.stores.local import LocalStore
from modelnet_registry.log.own import refresh

__all__ = ["Beating"]

log = logging.getLogger("modelnet_registry.beating")

EVERY_S = 3600.0


class Beating:
    """A thread that dates the heads of a store's own logs anew, until it is closed."""

    def __init__(self, store: LocalStore, *, every_s: float = EVERY_S) -> None:
        """Look after the publishers whose keys are in `store` then, also those made later."""
        self._store = store
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelnet-beat", daemon=True)

    def start(self) -> None:
        """Begin; the first beat is at once."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a beat that is under way is finished first."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def beat(self) -> int:
        """Date every own head anew; return how many were."""
        done = 0
        for pid in own_publishers(self._store.home.keys):
            try:
                refresh(publisher=pid, passphrase=os.environ.get("MODELNET_PASSPHRASE"), home=self._store.home)
                done += 1
            except ModelnetError as error:
                # Sealed keys, a log that is being written, a fork: whoever writes the log is told there.
                log.info("cannot date the head of %s anew: %s", pid, error)
        return done

    def _run(self) -> None:
        try:
            while True:
                self.beat()
                if self._stop.wait(self._every_s):
                    return
        finally:
            self._store.index.close()
