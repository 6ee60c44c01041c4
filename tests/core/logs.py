"""A publisher for tests of the log: keys from fixed seeds, entries by one call each, heads, forks and tiles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from modelnet.core import events, merkle, strictjson
from modelnet.core.cid import DAG_PB, Cid
from modelnet.core.cid import RAW as RAW_CODEC
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.entries import sign_event
from modelnet.core.fold import Logged, PublisherState
from modelnet.core.identity import CONTROL_TYPE, Genesis, Role, make_genesis
from modelnet.core.keys import SigningKey
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.core.release import PAYLOAD_TYPE, release_statement

ROLES = ("root", "release", "log", "beat", "next")
T0 = 1_800_000_000  # 2027-01-15, the time at which test logs are looked at


def key(name: str) -> SigningKey:
    """Return the test key of that name; its seed is public."""
    return SigningKey.from_seed(hashlib.sha256(f"modelnet test vector key {name}".encode()).digest())


def role(*names: str, threshold: int = 1) -> Role:
    """Return the role that the named keys hold."""
    return Role(tuple(key(name).verify_key for name in names), threshold)


def following(*names: str, threshold: int = 1) -> events.Next:
    """Return the commitment to the named keys."""
    return events.Next(tuple(key(name).verify_key.keyid for name in names), threshold)


def manifest(name: str, version: str, lineage: Sequence[dict[str, Any]] = ()) -> Manifest:
    """Return a manifest of one file of a few bytes, with a tree that is not looked at."""
    content = f"{name}@{version}".encode()
    blake3 = Cid.of(RAW_CODEC, content).digest
    entry = FileEntry(
        "model.bin", len(content), Cid.of(RAW_CODEC, content), blake3, hashlib.sha256(content).digest(), "test/1"
    )
    extra = {"derived_from": list(lineage)} if lineage else {}
    return Manifest(name, version, Cid.of(DAG_PB, content), (entry,), extra)


def release(
    pid: str, name: str, version: str, *, keys: Sequence[str] = ("release",), channels: Sequence[str] = (),
    lineage: Sequence[dict[str, Any]] = (),
) -> bytes:  # fmt: skip
    """Return the entry that releases `name` at `version`."""
    body = release_statement(manifest(name, version, lineage), pid, channels)
    return Envelope.sign(PAYLOAD_TYPE, body, [key(signer) for signer in keys]).encoded


def digests(name: str, version: str, lineage: Sequence[dict[str, Any]] = ()) -> events.Digests:
    """Return the digests of a test manifest."""
    block = manifest(name, version, lineage)
    return events.Digests(block.sha256, block.cid.digest.hex())


def control(fields: dict[str, Any], *keys: str) -> bytes:
    """Return an entry with a control event of any fields."""
    return Envelope.sign(CONTROL_TYPE, strictjson.dump(fields), [key(signer) for signer in keys]).encoded


def statement(fields: dict[str, Any], *keys: str) -> bytes:
    """Return an entry with a statement of any fields."""
    return Envelope.sign(PAYLOAD_TYPE, strictjson.dump(fields), [key(signer) for signer in keys]).encoded


def relabelled(log: Log, name: str, version: str, digest: tuple[str, str], *, by: str) -> bytes:
    """Return the entry that releases the manifest of `digest` (name, version) under another name."""

    def said(name: str, version: str) -> dict[str, Any]:
        fields = strictjson.parse(release_statement(manifest(name, version), log.pid), what="test", limit=MAX_ENVELOPE)
        assert isinstance(fields, dict)
        return fields

    body = strictjson.dump(said(name, version) | {"subject": said(*digest)["subject"]})
    return Envelope.sign(PAYLOAD_TYPE, body, [key(by)]).encoded


class Log:
    """A publisher's log under construction."""

    def __init__(self, prefix: str = "") -> None:
        """Begin a log; `prefix` makes the keys another publisher's."""
        self.prefix = prefix
        self.genesis: Genesis = make_genesis({name: key(prefix + name) for name in ROLES})
        self.entries: list[bytes] = [self.genesis.envelope.encoded]

    @property
    def pid(self) -> str:
        """The publisher's id."""
        return self.genesis.pid

    @property
    def state(self) -> PublisherState:
        """The log, folded."""
        return PublisherState.fold(self.entries, self.pid)

    def add(self, event: events.Event | bytes, *keys: str) -> bytes:
        """Append an event signed by `keys`, or an entry as it is; return the entry."""
        entry = event if isinstance(event, bytes) else sign_event(event, [key(self.prefix + k) for k in keys]).encoded
        self.entries.append(entry)
        return entry

    def release(self, name: str, version: str, **options: Any) -> bytes:
        """Append a release."""
        options.setdefault("keys", (f"{self.prefix}release",))
        return self.add(release(self.pid, name, version, **options))

    def revoke(self, *subjects: events.Digests, severity: str = "malicious", text: str = "") -> events.Revoke:
        """Return the event that revokes `subjects`."""
        return events.Revoke(self.pid, subjects, severity, text)

    def fork(self, size: int) -> Log:
        """Return another history with the first `size` entries of this one."""
        other = Log(self.prefix)
        other.entries = self.entries[:size]
        return other

    def head(self, size: int | None = None, *, by: str = "log", time: int | None = None) -> SignedNote:
        """Return the signed head at `size`; with `time` the beat key says that it was the newest then."""
        state = PublisherState.fold(self.entries[:size], self.pid)
        note = Checkpoint(state.origin, state.size, state.tree_root).note().sign(state.origin, key(self.prefix + by))
        return note if time is None else note.cosign(f"{state.origin}/beat", key(self.prefix + "beat"), time)

    def proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the inclusion proof of an entry."""
        leaves = [merkle.leaf_hash(entry) for entry in self.entries[:size]]
        return merkle.inclusion_proof(index, len(leaves), merkle.subtrees(leaves))

    def consistency(self, before: int, after: int | None = None) -> list[bytes]:
        """Return the proof that the first `before` entries begin the log."""
        leaves = [merkle.leaf_hash(entry) for entry in self.entries[:after]]
        return merkle.consistency_proof(before, len(leaves), merkle.subtrees(leaves))


def inert_rules(state: PublisherState) -> dict[int, str]:
    """Return which entries are inert, and the rule that each broke."""
    return {inert.index: inert.rule for inert in state.inert}


def described(state: PublisherState) -> dict[str, Any]:
    """Return a state as plain values: what every implementation has to make of a log (fixtures/vectors/log)."""

    def told(role: Role) -> dict[str, Any]:
        return {"keys": [key.public.hex() for key in role.keys], "threshold": role.threshold}

    def named(logged: Logged | None) -> str | None:
        return logged and f"{logged.event.release.name}@{logged.event.release.version}"

    names = sorted({logged.event.release.name for logged in state.releases})
    channels = sorted({
        (logged.event.release.name, channel) for logged in state.releases for channel in logged.event.release.channels
    })  # fmt: skip
    return {
        "pid": state.pid, "origin": state.origin, "epoch": state.epoch, "size": state.size,
        "root_hash": state.tree_root.hex(), "max_age": state.founding.max_age,
        "root_version": state.root_version, "taken_over": state.taken_over,
        "root": told(state.root), "release": told(state.release), "log": told(state.log), "beat": told(state.beat),
        "next": {"digests": list(state.next.digests), "threshold": state.next.threshold}, "oms": list(state.oms),
        "delegates": {
            prefix: told(delegate.role) | {"not_after": delegate.not_after}
            for prefix, delegate in sorted(state.delegates.items())
        },
        "releases": [
            {"index": logged.index, "release": named(logged), "manifest": str(logged.event.release.manifest),
             "sha256": logged.event.release.manifest_sha256, "channels": list(logged.event.release.channels),
             "derived_from": [[*one.digests.names, one.relation, one.pid] for one in logged.event.derived_from]}
            for logged in state.releases
        ],
        "newest": {name: named(state.newest(name)) for name in names},
        "channels": {f"{name} {channel}": named(state.newest(name, channel)) for name, channel in channels},
        "yanked": sorted(state.yanked),
        "superseded": {name: list(event.new.names) for name, event in sorted(state.superseded.items())},
        "revoked": [
            {"index": one.index, "leaf": one.leaf.hex(), "severity": one.event.severity, "ids": list(one.event.ids),
             "digests": [name for item in one.event.digests for name in item.names]}
            for one in state.revocations.in_force
        ],
        "attested": [index for index, _ in state.attested],
        "closed": None if state.closed is None else {"successor": state.closed.successor},
        "inert": {str(index): rule for index, rule in inert_rules(state).items()},
    }  # fmt: skip
