"""The stage of these tests: a publisher of its own, entries to append, and a witness who remembers all that was signed.

desk = Desk.made(tmp_path / "home")
with desk.open() as log:
    log.append([desk.release("1")])
desk.check()               # no fork was ever signed, fsck is clean
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelnet import init
from modelnet.core.dsse import Envelope
from modelnet.core.fold import PublisherState
from modelnet.core.merkle import check_consistency
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.core.release import PAYLOAD_TYPE, release_statement
from modelnet.stores.home import Home
from modelnet.stores.keyring import Keyring, load_genesis, load_keyring, own_publishers
from modelnet.stores.logfolder import LogFolder
from modelnet_registry.log.fsck import check_log
from modelnet_registry.log.storage import conflict
from modelnet_registry.log.writer import LogWriter, Proof, current_epoch
from tests.core.logs import T0, manifest


class MemoryStorage:
    """Compare-and-swap storage in memory, by the rules of `Storage`; `fault` may fail an operation either way."""

    def __init__(self) -> None:
        """Begin empty."""
        self.values: dict[str, bytes] = {}
        self.fault: Callable[[str, Callable[[], None]], None] = lambda _, apply: apply()

    def read(self, name: str) -> bytes | None:
        """Return the content of `name`, or None."""
        return self.values.get(name)

    def create(self, name: str, content: bytes) -> None:
        """Store `content` where there is none."""
        self._replace(name, None, content)

    def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Replace `old` by `new`."""
        self._replace(name, old, new)

    def _replace(self, name: str, old: bytes | None, new: bytes) -> None:
        if self.values.get(name) != old:
            raise conflict(name)
        self.fault(name, lambda: self.values.update({name: new}))


@dataclass
class Desk:
    """A publisher's store; `signed` is every head that ever left it, in order, with proofs from the one before."""

    home: Home
    pid: str
    keys: Keyring
    signed: list[SignedNote] = field(default_factory=list)

    @classmethod
    def made(cls, path: Path, **options: Any) -> Desk:
        """Make a publisher in `path`."""
        return cls.at(init(home=path, **options).home)

    @classmethod
    def at(cls, home: Home) -> Desk:
        """Return the publisher that lives in `home`."""
        (pid,) = own_publishers(home.keys)
        return cls(home, pid, load_keyring(home.keys, pid, None))

    def copied(self, path: Path) -> Desk:
        """Return this publisher as a copy of its whole store has it, with what the outside has seen so far."""
        shutil.copytree(self.home.root, path)
        return replace(self, home=Home(path), signed=list(self.signed))

    @property
    def genesis(self) -> bytes:
        """The first entry."""
        return load_genesis(self.home.keys, self.pid).envelope.encoded

    @property
    def folder(self) -> LogFolder:
        """The log's files."""
        return LogFolder(self.home.log(self.pid, current_epoch(self.home, self.pid) or 0))

    @property
    def head(self) -> SignedNote:
        """The committed head."""
        note = self.folder.checkpoint()
        assert note is not None
        return note

    @property
    def state(self) -> PublisherState:
        """The committed log, folded."""
        return PublisherState.fold(self.entries, self.pid)

    @property
    def entries(self) -> list[bytes]:
        """The committed entries."""
        return list(self.folder.entries(0, size_of(self.head)))

    def release(self, version: str, name: str = "m", **options: Any) -> bytes:
        """Return the entry that releases `version`."""
        body = release_statement(manifest(name, version, **options), self.pid)
        return Envelope.sign(PAYLOAD_TYPE, body, self.keys.of("release")[:1]).encoded

    def open(self, **options: Any) -> LogWriter:
        """Open the log for writing."""
        options = {"cosign": self.witness, "clock": lambda: T0, **options}
        return LogWriter.open(self.home, self.keys, self.genesis, **options)

    def append(self, *entries: bytes, **options: Any) -> SignedNote:
        """Append in one go."""
        with self.open(**options) as log:
            return log.append(entries)

    def witness(self, note: SignedNote, proof: Proof) -> SignedNote:
        """Remember what is about to be shown to the world, once it is proved to contain what was shown before."""
        head = parsed(note)
        for earlier in self.signed:
            seen = parsed(earlier)
            if seen.origin == head.origin:
                assert seen.size <= head.size, "an older head was signed again"
                check_consistency(seen.size, head.size, proof(seen.size), seen.root, head.root)
        self.signed.append(note)
        return note

    def check(self) -> None:
        """Assert that the log contains all that was ever signed, and that fsck finds nothing."""
        state = self.state
        for note in self.signed:
            head = parsed(note)
            if head.origin == state.origin:
                assert head.size <= state.size
                assert state.root_at(head.size) == head.root
        assert check_log(self.home, self.pid) == []


def parsed(note: SignedNote) -> Checkpoint:
    """Return the head in a note, whose signature is not looked at."""
    return Checkpoint.parse(note.unverified_text, note.unverified_text.partition("\n")[0])


def size_of(note: SignedNote) -> int:
    """Return the size of a head."""
    return parsed(note).size
