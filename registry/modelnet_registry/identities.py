"""Make a publisher: keys, genesis, log, alias.

The keys are written before the log is begun and before the index learns of the publisher, so no publisher is ever known
here without its keys. A crash in between leaves a publisher whose log is begun by its first use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from modelnet.core.identity import MAX_KEYS, make_genesis
from modelnet.core.names import check_alias
from modelnet.errors import UsageError
from modelnet.partial import disk_errors
from modelnet.stores.home import Home
from modelnet.stores.keyring import ROLES, Keyring, draw_keys, own_publishers, save_keys
from modelnet.stores.local import open_store
from modelnet.stores.petnames import Petnames
from modelnet_registry.log.own import open_log

__all__ = ["Identity", "init"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A new publisher; `next_seeds` are those of its next root keys in hex, shown once and kept nowhere."""

    pid: str
    alias: str | None
    home: Home
    next_seeds: tuple[str, ...]

    @property
    def recovery(self) -> str:
        """The recovery sheet: one next key a line."""
        return "\n".join(self.next_seeds)


def init(
    *, alias: str | None = None, passphrase: str | None = None,
    root_keys: int = 1, root_threshold: int = 1, release_keys: int = 1, release_threshold: int = 1,
    next_keys: int = 1, next_threshold: int = 1, home: str | os.PathLike[str] | Home | None = None,
) -> Identity:  # fmt: skip
    """Make a publisher in this store; its keys are sealed with `passphrase` when there is one.

    A threshold says how many of a role's keys must sign. All keys are made here; `modelnet_registry.keyops.export_keys`
    takes some of them elsewhere. Raises `UsageError` when the store has a publisher of its own already or the alias is
    taken, `UnavailableError` when the folder cannot be written.
    """
    if passphrase is not None and not isinstance(passphrase, str):
        raise TypeError(f"a passphrase is a string, not {type(passphrase).__name__}")
    if passphrase == "":
        raise UsageError("the passphrase is empty", rule="passphrase", hint="give one, or None for unprotected keys")
    counts = dict.fromkeys(ROLES, 1) | {"root": root_keys, "release": release_keys, "next": next_keys}
    thresholds = {"root": root_threshold, "release": release_threshold, "next": next_threshold}
    for role, threshold in thresholds.items():
        if not 0 < threshold <= counts[role] <= MAX_KEYS:
            raise UsageError(
                f"{threshold} of {counts[role]} {role} keys cannot be asked for", rule="threshold",
                wanted=f"1 to {MAX_KEYS} keys, and a threshold of at most as many",
            )  # fmt: skip
    store = open_store(home)
    names = Petnames(store.home)
    if alias is not None and (taken := names.pid_of(check_alias(alias))) is not None:
        raise UsageError(f"somebody is called {alias!r} here already", rule="alias", got=taken)
    if own := own_publishers(store.home.keys):
        raise UsageError(
            "this store has a publisher already", rule="exists", path=str(store.home.root), got=own[0],
            hint="use another folder with MODELNET_HOME for a second one",
        )  # fmt: skip
    keys = draw_keys(counts)
    genesis = make_genesis(keys, thresholds)
    with disk_errors(store.home.keys):
        save_keys(store.home.keys, genesis, keys, passphrase)
    store.index.add_publisher(genesis.pid, genesis.envelope.encoded)
    if alias is not None:
        names.add(alias, genesis.pid)
    open_log(store, Keyring(genesis.pid, keys)).close()
    return Identity(genesis.pid, alias, store.home, tuple(key.seed.hex() for key in keys["next"]))
