"""The publishers that live in this store: which one is meant, its keys, and its log opened for writing.

    with open_log(store, own_keyring(store, pid, passphrase)) as log:
        log.append([entry])

A store from before publishers had logs gets one here: its genesis, then its releases in the order they were made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from modelnet.errors import UsageError
from modelnet.gate import resolve_publisher
from modelnet.stores.keyring import Keyring, load_genesis, load_keyring, own_publishers, read_keyring
from modelnet.stores.local import LocalStore
from modelnet_registry.log.guards import Heads
from modelnet_registry.log.writer import Cosign, LogWriter

__all__ = ["open_log", "own_keyring", "own_pid"]


def own_pid(store: LocalStore, publisher: str | None = None) -> str:
    """Return the pid of the publisher that lives here, by its alias or pid where there are several."""
    own = own_publishers(store.home.keys)
    if publisher is not None:
        pid = resolve_publisher(store, publisher)
        if pid not in own:
            raise UsageError("the keys of this publisher are not here", rule="keys", got=publisher)
        return pid
    if len(own) != 1:
        raise UsageError(
            "no publisher lives in this store yet" if not own else "several publishers live in this store",
            rule="publisher", path=str(store.home.root),
            hint="run `modelnet init` first" if not own else "say which with --publisher",
        )  # fmt: skip
    return own[0]


def own_keyring(
    store: LocalStore, pid: str, passphrase: str | None, key_files: Sequence[str | os.PathLike[str]] = ()
) -> Keyring:
    """Return the keys of `pid` in this store, and those in `key_files`: roles that are kept elsewhere."""
    keyring = load_keyring(store.home.keys, pid, passphrase)
    for path in key_files:
        keyring = keyring.joined(read_keyring(Path(path), pid, passphrase))
    return keyring


def open_log(
    store: LocalStore, keyring: Keyring, *, heads: Heads | None = None, cosign: Cosign | None = None,
    recovering: bool = False,
) -> LogWriter:  # fmt: skip
    """Open the log of the keyring's publisher for writing; raises what `LogWriter.open` raises."""
    genesis = load_genesis(store.home.keys, keyring.pid)
    # An index that was set aside does not know the publisher any more.
    store.index.add_publisher(keyring.pid, genesis.envelope.encoded)
    return LogWriter.open(
        store.home, keyring, genesis.envelope.encoded,
        first=lambda: [row.envelope for row in store.index.releases(keyring.pid)],
        heads=heads, cosign=cosign, recovering=recovering,
    )  # fmt: skip
