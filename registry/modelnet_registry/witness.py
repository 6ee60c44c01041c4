r"""A witness: it cosigns a log's head once it has seen that the head continues the one it cosigned before.

    old <size>\n                    of the head that it cosigned last; 0 for a log that is new to it
    <base64 of a hash>\n            the consistency proof, up to 63
    \n
    <checkpoint, signed by its log>

For each log, by its origin, it keeps one head. The head is replaced by compare-and-swap, durably, before the
cosignature is made: after a crash it has cosigned nothing that it does not remember, and of two heads that exclude each
other it never cosigns both. Which logs it knows its caller says (`followed`).

    witness/key.json             {"v": 1, "name": name, "seed": hex}, 0600: a key of its own, which signs nothing else
    witness/heads/<origin hash>  the head, a signed note, and our newest cosignature below it

Source: C2SP tlog-witness, tlog-cosignature.
"""

from __future__ import annotations

import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self, TypeAlias

from modelnet import durable
from modelnet.core import strictjson
from modelnet.core.evidence import Evidence
from modelnet.core.fold import PublisherState
from modelnet.core.keys import SigningKey
from modelnet.core.merkle import EMPTY_ROOT, MAX_PROOF, check_consistency
from modelnet.core.note import COSIGNATURE, Checkpoint, NoteKey, SignedNote
from modelnet.core.policy import Policy
from modelnet.errors import IntegrityError, MalformedError, TrustError, UnavailableError
from modelnet.partial import disk_errors
from modelnet.policies import load_witnesses
from modelnet.replica import Replicas
from modelnet.stores.home import Home
from modelnet.stores.local import LocalStore
from modelnet_registry.log.storage import FileStorage, Storage

__all__ = ["LogKeys", "Submission", "Witness", "WitnessKey", "followed"]

REUSE_S = 10  # a cosignature is given again for that long: who repeats a public head causes no write
ATTEMPTS = 16  # to store a head while others store theirs
MAX_KEY_FILE = 4096
NAME = "modelnet.alt/w/"  # of a witness that was given none; .alt is no domain (RFC 9476)
_ORIGIN = re.compile(r"modelnet\.alt/p/([a-z2-7]{52})(?:/r[1-9][0-9]{0,5})?")
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")

LogKeys: TypeAlias = Callable[[str], Sequence[NoteKey]]
"""Gives the keys that speak for the log of an origin; none for a log that is not known."""


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """The witness's name and key."""

    name: str
    key: SigningKey

    @property
    def note_key(self) -> NoteKey:
        """What a policy names."""
        return NoteKey(self.name, self.key.verify_key, COSIGNATURE)

    @classmethod
    def load(cls, home: Home) -> Self | None:
        """Return the key of this home, or None when it has none."""
        path = home.root / "witness" / "key.json"
        try:
            with path.open("rb") as file:
                content = file.read(MAX_KEY_FILE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(f"cannot read the key: {error.strerror}", rule="keys", path=str(path)) from error
        match strictjson.parse(content, what="key file", limit=MAX_KEY_FILE):
            case {"v": 1, "name": str(name), "seed": str(seed)} if re.fullmatch(r"[0-9a-f]{64}", seed):
                found = cls(name, SigningKey.from_seed(bytes.fromhex(seed)))
            case _:
                raise MalformedError("not the key file of a witness", rule="keys", path=str(path))
        found.note_key  # noqa: B018  (refuses a name that no note may have)
        return found

    @classmethod
    def make(cls, home: Home, name: str | None = None) -> Self:
        """Return the key of this home, made now if there is none; a name once given stays."""
        if (known := cls.load(home)) is not None:
            if name not in (None, known.name):
                raise TrustError("the witness has another name", rule="name", wanted=known.name, got=name)
            return known
        key = SigningKey.from_seed(os.urandom(32))
        made = cls(name or NAME + key.verify_key.keyid[:16], key)
        made.note_key  # noqa: B018
        path = home.root / "witness" / "key.json"
        with disk_errors(path):
            durable.make_folder(path.parent)
            fields = {"v": 1, "name": made.name, "seed": key.seed.hex()}
            durable.write(path, strictjson.dump(fields), mode=0o600)
        return made


@dataclass(frozen=True, slots=True)
class Submission:
    """What a log asks a witness to cosign."""

    old: int
    proof: tuple[bytes, ...]
    note: SignedNote

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the body of an add-checkpoint request."""
        head, separator, note = data.partition(b"\n\n")
        try:
            first, *rest = head.decode("ascii").split("\n")
            proof = tuple(b64decode(line, validate=True) for line in rest)
        except ValueError as error:
            raise MalformedError("not an add-checkpoint request", rule="submission") from error
        old = _OLD.fullmatch(first)
        if old is None or not separator or len(proof) > MAX_PROOF or any(len(value) != 32 for value in proof):
            raise MalformedError("not an add-checkpoint request", rule="submission")
        found = cls(int(old[1]), proof, SignedNote.parse(note))
        if found.encode() != data:
            raise MalformedError("not the one encoding of an add-checkpoint request", rule="submission")
        return found

    def encode(self) -> bytes:
        """Return the body of the request."""
        lines = [f"old {self.old}", *(b64encode(value).decode() for value in self.proof)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()


def followed(policy: Policy, state: Callable[[str], PublisherState | None]) -> LogKeys:
    """Return the keys of the logs that a policy names, and of those that `state` (by pid) knows here.

    Of a publisher's log those in force at its newest known head count: an old key, which may have been stolen, must not
    make the witness remember a head that the log never had. A recovered log's former origin is not known any more.
    """

    def keys(origin: str) -> Sequence[NoteKey]:
        named = [key for key, _ in policy.logs if key.name == origin]
        if named or (found := _ORIGIN.fullmatch(origin)) is None or (known := state(found[1])) is None:
            return named
        log, _ = known.signers_at(known.size)
        return log if known.origin == origin else ()

    return keys


class Witness:
    """Cosigns heads; safe to use from several threads, and from several processes over one home."""

    def __init__(
        self,
        key: WitnessKey,
        storage: Storage,
        logs: LogKeys,
        *,
        clock: Callable[[], float] = time.time,
        forked: Callable[[str, Evidence], object] = lambda _origin, _evidence: None,
    ) -> None:
        """Keep heads in `storage`; `forked` is told of two heads of one size, which prove that their log lies."""
        self.key = key
        self._storage = storage
        self._logs = logs
        self._clock = clock
        self._forked = forked

    @classmethod
    def open(cls, store: LocalStore, key: WitnessKey) -> Self:
        """Return the witness of a store: it knows the publishers that are followed there, and the logs of its policy.

        The policy is read now. Evidence of a fork is kept with the publisher's log, for gossip and the gate.
        """
        replicas = Replicas(store)

        def state(pid: str) -> PublisherState | None:
            return replicas.state(pid) if replicas.known(pid) else None

        def forked(origin: str, evidence: Evidence) -> None:
            if (found := _ORIGIN.fullmatch(origin)) is not None and replicas.known(found[1]):
                replicas.add_evidence(found[1], evidence.encode())

        logs = followed(load_witnesses(store.home), state)
        return cls(key, FileStorage(store.home.root / "witness" / "heads"), logs, forked=forked)

    def add_checkpoint(self, asked: Submission) -> bytes:
        """Return the cosignature line for the head in `asked`.

        Raises `TrustError` with rule `origin` for an unknown log and `signature` when no key of the log signed,
        `MalformedError` for what is no checkpoint, `UnavailableError` with rule `size` and the size that it knows in
        `got` when another size than `old` was cosigned last, or another head of this size, `IntegrityError` when the
        head does not continue that one.
        """
        origin = asked.note.unverified_text.partition("\n")[0]
        keys = self._logs(origin)
        if not keys:
            raise TrustError("this log is not known here", rule="origin", got=origin[:200])
        head = _head(asked.note.verify(keys), origin)
        if asked.old > head.size:
            raise MalformedError("the old size is larger than the head", rule="submission", got=asked.old)
        # One line for each key of the log: what others added is not ours to pass on.
        signers = {(key.name, key.keyid) for key in keys}
        lines = {(line.name, line.keyid): line for line in asked.note.signatures if (line.name, line.keyid) in signers}
        note = SignedNote(asked.note.unverified_text, tuple(lines.values()))
        return self._remember(_name(origin), asked, head, note)

    def checkpoint(self, origin_hash: str) -> bytes | None:
        """Return the newest head that was cosigned for the origin with that SHA-256 (hex), with the cosignature."""
        if re.fullmatch(r"[0-9a-f]{64}", origin_hash) is None:
            return None
        stored = self._storage.read(origin_hash)
        if stored is None or self._cosigned(SignedNote.parse(stored)) is None:
            return None
        return stored

    def _remember(self, name: str, asked: Submission, head: Checkpoint, note: SignedNote) -> bytes:
        """Make `head` the one that is known, then cosign it."""
        for _ in range(ATTEMPTS):
            stored = self._storage.read(name)
            known = None if stored is None else SignedNote.parse(stored)
            self._check(asked, head, known, note)
            now = int(self._clock())
            if stored is not None and known is not None and known.unverified_text == note.unverified_text:
                if (ours := self._cosigned(known)) is not None and 0 <= now - ours[0] <= REUSE_S:
                    return ours[1]
                base = stored
            else:
                base = note.encode()
                try:
                    if stored is None:
                        self._storage.create(name, base)
                    else:
                        self._storage.swap(name, stored, base)
                except UnavailableError as error:
                    if error.rule != "conflict":
                        raise
                    continue
            # From here on the head is remembered through a power cut; only now may a cosignature exist.
            cosigned = note.cosign(self.key.name, self.key.key, now)
            try:
                self._storage.swap(name, base, cosigned.encode())
            except UnavailableError as error:
                if error.rule != "conflict":  # somebody has moved on already: what is known now continues this head
                    raise
            return cosigned.signatures[-1].encode().encode()
        raise UnavailableError("too many heads at once", rule="busy")

    def _check(self, asked: Submission, head: Checkpoint, known: SignedNote | None, note: SignedNote) -> None:
        last = Checkpoint(head.origin, 0, EMPTY_ROOT) if known is None else _head(known.unverified_text, head.origin)
        if asked.old != last.size:
            raise UnavailableError("another size was cosigned last", rule="size", wanted=asked.old, got=last.size)
        if head.size == 0 and head.root != EMPTY_ROOT:
            raise IntegrityError("an empty log has one root", rule="proof")
        if asked.old == 0:
            if asked.proof:
                raise IntegrityError("nothing is to be proved from size 0", rule="proof")
            return
        try:
            check_consistency(last.size, head.size, asked.proof, last.root, head.root)
        except MalformedError as error:
            raise IntegrityError("not a consistency proof", rule="proof") from error
        except IntegrityError:
            if known is not None and head.size == last.size and head.root != last.root:
                ours = self._cosigned(known)
                lines = known.signatures if ours is None else known.signatures[:-1]
                self._forked(head.origin, Evidence(SignedNote(known.unverified_text, lines), note))
                # C2SP tlog-witness: "If the old size is equal to the checkpoint size, the witness MUST check that the
                # root hashes are also identical. If they don't match, the witness MUST respond with a 409".
                raise UnavailableError(
                    "another head of this size was cosigned", rule="size", wanted=head.root.hex(), got=last.size
                ) from None
            raise

    def _cosigned(self, note: SignedNote) -> tuple[int, bytes] | None:
        """Return when we cosigned a stored note, and the line; None when a crash came before."""
        line = note.signatures[-1]
        times = SignedNote(note.unverified_text, (line,)).cosigned([self.key.note_key])
        return (times[self.key.note_key], line.encode().encode()) if times else None


def _name(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()


def _head(text: str, origin: str) -> Checkpoint:
    """Return the head in a verified note; other logs than ours may have extension lines below it."""
    lines = text.split("\n")
    if len(lines) < 4 or "" in lines[:-1]:
        raise MalformedError("not a checkpoint", rule="checkpoint")
    return Checkpoint.parse("\n".join([*lines[:3], ""]), origin)
