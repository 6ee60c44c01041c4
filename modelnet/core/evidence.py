"""Proof that a log showed two histories, checkable by anyone who knows its keys.

    {"type": "modelnet-equivocation/v1", "a": note, "b": note}                                    equal sizes
    {"type": "modelnet-equivocation/v1", "a": note, "b": note, "prefix": base64, "proof": [base64…]}   a is smaller

Both notes are checkpoints of one origin, signed by its log. Equal sizes: the roots differ. Different sizes: the proof
shows that the larger tree begins with `prefix` at the smaller size, and `prefix` is not the root that was signed for
that size. An honest log cannot be framed: a tree has one root for each of its prefixes. A log that withholds leaves no
evidence. What is about an origin says nothing about the same publisher's next epoch, which has another origin.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from modelnet.core import strictjson
from modelnet.core.merkle import MAX_PROOF, Subtree, check_consistency, consistency_proof, tree_root
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.errors import MalformedError, TrustError

__all__ = ["MAX_EVIDENCE", "Equivocation", "Evidence", "make_evidence"]

TYPE = "modelnet-equivocation/v1"
MAX_EVIDENCE = 160 * 1024  # two notes of 64 KiB and a proof


@dataclass(frozen=True, slots=True)
class Equivocation:
    """What verified evidence shows: two heads of one log that exclude each other."""

    origin: str
    a: Checkpoint
    b: Checkpoint

    @property
    def id(self) -> str:
        """The same for all evidence of these two heads: hex SHA-256 of the origin and the sorted sizes and roots."""
        heads = sorted((head.size, head.root) for head in (self.a, self.b))
        lines = [self.origin, *(f"{size} {root.hex()}" for size, root in heads)]
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Parsed evidence; `prefix` is None where both notes are of one size."""

    a: SignedNote
    b: SignedNote
    prefix: bytes | None = None
    proof: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the one encoding of evidence, at most 160 KiB."""
        fields = strictjson.parse(data, what="evidence", limit=MAX_EVIDENCE)
        match fields:
            case {"type": "modelnet-equivocation/v1", "a": str(a), "b": str(b), **rest}:
                notes = SignedNote.parse(a.encode()), SignedNote.parse(b.encode())
            case _:
                raise MalformedError("not evidence of equivocation", rule="evidence")
        match rest:
            case {"prefix": str(prefix), "proof": list(proof)} if len(proof) <= MAX_PROOF:
                evidence = cls(*notes, _hash(prefix), tuple(map(_hash, proof)))
            case _:
                evidence = cls(*notes)
        # One value, one encoding: also what refuses other fields and a proof where there is nothing to prove.
        if evidence.encode() != data:
            raise MalformedError("not the one encoding of evidence", rule="evidence")
        return evidence

    def encode(self) -> bytes:
        """Return the evidence's bytes."""
        fields: dict[str, Any] = {"type": TYPE, "a": self.a.encode().decode(), "b": self.b.encode().decode()}
        if self.prefix is not None:
            fields["prefix"] = base64.b64encode(self.prefix).decode()
            fields["proof"] = [base64.b64encode(value).decode() for value in self.proof]
        return strictjson.dump(fields)

    def verify(self, origin: str, keys: Iterable[NoteKey]) -> Equivocation:
        """Return what the evidence shows, `keys` being the log keys that this origin ever had.

        Raises `TrustError` where it shows nothing: another log, unsigned notes, two heads that can both be true;
        `IntegrityError` or `MalformedError` where its proof does not hold.
        """
        known = list(keys)
        a = Checkpoint.parse(self.a.verify(known), origin)
        b = Checkpoint.parse(self.b.verify(known), origin)
        if not 0 < a.size <= b.size:
            raise MalformedError(
                "sizes of the two heads",
                rule="evidence",
                wanted="1 or more, the smaller first",
                got=f"{a.size}, {b.size}",
            )
        if (a.size == b.size) != (self.prefix is None):
            raise MalformedError("a prefix is shown where the sizes differ", rule="evidence")
        shown = b.root
        if self.prefix is not None:
            check_consistency(a.size, b.size, self.proof, self.prefix, b.root)
            shown = self.prefix
        if shown == a.root:
            raise TrustError("both heads are of one history", rule="consistent", got=f"{a.size} and {b.size}")
        return Equivocation(origin, a, b)


def make_evidence(one: SignedNote, two: SignedNote, origin: str, subtree: Subtree) -> Evidence:
    """Return what two heads of `origin` would show against its log; `subtree` reads the tree of the larger one.

    It is for `Evidence.verify` to say whether it shows anything.
    """
    a, b = sorted((one, two), key=lambda note: Checkpoint.parse(note.unverified_text, origin).size)
    before, after = (Checkpoint.parse(note.unverified_text, origin).size for note in (a, b))
    if before == after:
        return Evidence(a, b)
    if before == 0:
        raise MalformedError("an empty log shows nothing", rule="evidence")
    return Evidence(a, b, tree_root(before, subtree), tuple(consistency_proof(before, after, subtree)))


def _hash(text: Any) -> bytes:
    try:
        value = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as error:
        raise MalformedError("evidence holds a hash that is not base64", rule="evidence") from error
    if len(value) != 32:
        raise MalformedError("evidence holds something else than a hash", rule="evidence", got=len(value))
    return value
