"""Make a publisher: keys, genesis, alias; and call other publishers by a local name.

The keys are written before the index learns of the publisher, so no publisher is ever known here without its keys.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from modelnet.core.identity import make_genesis
from modelnet.core.names import check_alias
from modelnet.errors import UsageError
from modelnet.partial import disk_errors
from modelnet.stores.home import Home
from modelnet.stores.keyring import draw_keys, own_publishers, save_keys
from modelnet.stores.local import open_store

__all__ = ["Identity", "init"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A new publisher; `recovery` is the seed of its next root key in hex, shown once and kept nowhere."""

    pid: str
    alias: str | None
    home: Home
    recovery: str


def init(
    *, alias: str | None = None, passphrase: str | None = None, home: str | os.PathLike[str] | Home | None = None
) -> Identity:
    """Make a publisher in this store; its keys are sealed with `passphrase` when there is one.

    Raises `UsageError` when the store has a publisher of its own already or the alias is taken, `UnavailableError`
    when the folder cannot be written.
    """
    if passphrase is not None and not isinstance(passphrase, str):
        raise TypeError(f"a passphrase is a string, not {type(passphrase).__name__}")
    if passphrase == "":
        raise UsageError("the passphrase is empty", rule="passphrase", hint="give one, or None for unprotected keys")
    store = open_store(home)
    if alias is not None and (taken := store.index.pid_of(check_alias(alias))) is not None:
        raise UsageError(f"somebody is called {alias!r} here already", rule="alias", got=taken)
    if own := own_publishers(store.home.keys):
        raise UsageError(
            "this store has a publisher already", rule="exists", path=str(store.home.root), got=own[0],
            hint="use another folder with MODELNET_HOME for a second one",
        )  # fmt: skip
    keys = draw_keys()
    genesis = make_genesis(keys)
    with disk_errors(store.home.keys):
        save_keys(store.home.keys, genesis, keys, passphrase)
    store.index.add_publisher(genesis.pid, genesis.envelope.encoded, alias)
    return Identity(genesis.pid, alias, store.home, keys["next"].seed.hex())
