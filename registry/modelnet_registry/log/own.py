"""The publishers that live in this store: which one is meant, its keys, and its log opened for writing.

    with own_log(publisher="acme", passphrase=secret) as own:
        own.log.append([sign_event(event, own.keys.quorum("root", own.log.state.root)).encoded])

A store from before publishers had logs gets one here: its genesis, then its releases in the order they were made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from modelnet.core.entries import sign_event
from modelnet.core.events import Event
from modelnet.core.fold import PublisherState
from modelnet.core.keys import SigningKey
from modelnet.core.note import Checkpoint
from modelnet.errors import ModelnetError, UsageError
from modelnet.fetching import Fetcher
from modelnet.partial import disk_errors
from modelnet.policies import load_witnesses
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.signed import resolve_publisher
from modelnet.stores.home import Home
from modelnet.stores.http import HttpSource
from modelnet.stores.keyring import (
    Keyring,
    is_sealed,
    key_file,
    load_genesis,
    load_keyring,
    own_publishers,
    read_keyring,
    write_keyring,
)  # fmt: skip
from modelnet.stores.local import LocalStore, open_store
from modelnet.stores.peers import known_peers
from modelnet.syncing import sync
from modelnet_registry.cosigning import cosign as by_witnesses
from modelnet_registry.cosigning import heads_elsewhere, larger_elsewhere
from modelnet_registry.log.guards import Heads, check_recovered
from modelnet_registry.log.writer import Cosign, LogWriter

__all__ = ["Appended", "Own", "Terms", "catch_up", "open_log", "own_keyring", "own_log", "own_pid", "refresh"]


class Terms(TypedDict, total=False):
    """What every operation on an own log takes, all optional.

    `publisher` chooses among several, by alias or pid; `passphrase` unlocks the keys here and those in `key_files`,
    which were taken elsewhere. `heads` says what others saw of the log and `cosign` collects cosignatures, instead of
    the peers and witnesses of the store.
    """

    publisher: str | None
    passphrase: str | None
    key_files: Sequence[str | os.PathLike[str]]
    home: str | os.PathLike[str] | Home | None
    heads: Heads | None
    cosign: Cosign | None


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry of an own log: its place, and the head that contains it."""

    pid: str
    index: int
    head: Checkpoint


@dataclass(slots=True)
class Own:
    """A publisher of this store with its log open for writing; `keys` are those here and those that were given."""

    store: LocalStore
    keys: Keyring
    log: LogWriter
    replicas: Replicas
    _passphrase: str | None

    @property
    def pid(self) -> str:
        """Whose log this is."""
        return self.keys.pid

    def append(self, event: Event, signers: Sequence[SigningKey]) -> Appended:
        """Sign `event`, append it and commit."""
        self.log.append([sign_event(event, signers).encoded])
        return Appended(self.pid, self.log.state.size - 1, self.log.checkpoint)

    def check_not_recovered(self, heads: Heads | None) -> None:
        """Raise `TrustError` with rule `fork` when peers, or whoever `heads` asks, saw a later epoch of this log."""
        check_recovered(self.log.state, self.log.epoch, heads or partial(heads_elsewhere, self.store.home, self.pid))

    def keep(self, change: Callable[[Keyring], Keyring]) -> None:
        """Change the key file of this store, and sign with what it holds then; sealed as it was before."""
        path = key_file(self.store.home.keys, self.pid)
        with disk_errors(path):
            kept = change(load_keyring(self.store.home.keys, self.pid, self._passphrase))
            write_keyring(path, kept, self._passphrase if is_sealed(path) else None)
        self.keys = self.log.keys = self.keys.joined(kept)


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
    replicas: Replicas | None = None, recovering: bool = False,
) -> LogWriter:  # fmt: skip
    """Open the log of the keyring's publisher for writing; raises what `LogWriter.open` raises.

    Unless told otherwise it asks the peers and witnesses of this store what they saw, and its witnesses to cosign.
    With `replicas` of the same store a log that they have folded is not folded again.
    """
    learning = replicas or Replicas(store)
    pid, policy = keyring.pid, load_witnesses(store.home)
    genesis = load_genesis(store.home.keys, pid)
    if store.index.genesis(pid) != genesis.envelope.encoded:
        # An index that was set aside does not know the publisher any more.
        store.index.add_publisher(pid, genesis.envelope.encoded)
    witnessed = bool(policy.witnesses)
    return LogWriter.open(
        store.home, keyring, genesis.envelope.encoded,
        first=lambda: [row.envelope for row in store.index.releases(pid)],
        heads=heads or partial(heads_elsewhere, store.home, pid),
        larger=partial(larger_elsewhere, policy) if witnessed else None,
        cosign=cosign or (partial(by_witnesses, policy) if witnessed else None),
        committed=learning.committed, known=_folded(learning, pid), recovering=recovering,
    )  # fmt: skip


def _folded(replicas: Replicas, pid: str) -> PublisherState | None:
    """Return the log as a replica has it; a damaged one is for the writer to refuse, which says more."""
    try:
        return replicas.state(pid) if replicas.known(pid) else None
    except ModelnetError:
        return None


@contextmanager
def own_log(*, recovering: bool = False, **terms: Unpack[Terms]) -> Iterator[Own]:
    """Open the log of a publisher that lives here; raises what `own_pid`, `own_keyring` and `LogWriter.open` raise."""
    store = open_store(terms.get("home"))
    passphrase = terms.get("passphrase")
    keyring = own_keyring(store, own_pid(store, terms.get("publisher")), passphrase, terms.get("key_files", ()))
    replicas = Replicas(store)
    with open_log(
        store, keyring, heads=terms.get("heads"), cosign=terms.get("cosign"), replicas=replicas, recovering=recovering
    ) as log:  # fmt: skip
        yield Own(store, keyring, log, replicas, passphrase)


def catch_up(**terms: Unpack[Terms]) -> None:
    """Adopt what the peers of this store have of an own log; those that do not answer change nothing."""
    store = open_store(terms.get("home"))
    peers = known_peers(store.home)
    if terms.get("heads") is not None or not peers:
        return
    fetcher = Fetcher([HttpSource.parse(url) for url in peers], SILENT)
    try:
        with suppress(ModelnetError):
            sync(Replicas(store), own_pid(store, terms.get("publisher")), fetcher)
    finally:
        fetcher.close()


def refresh(**terms: Unpack[Terms]) -> Checkpoint:
    """Date the head anew, and have it witnessed again: this keeps the log of a publisher with nothing to say fresh."""
    with own_log(**terms) as own:
        own.log.refresh()
        return own.log.checkpoint
