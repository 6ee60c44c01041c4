r"""A portable proof that an entry is in a log: C2SP tlog-proof.

    c2sp.org/tlog-proof@v1\n
    extra <base64>\n                 may be left out; not authenticated, means what the application says
    index <number>\n
    <base64 of a hash>\n             the inclusion proof, leaf's sibling first
    \n
    <checkpoint, signed>

Whether enough witnesses saw the head that it leads to is a policy's question (`modelnet.core.policy`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from modelnet.core.merkle import MAX_PROOF, check_inclusion, leaf_hash
from modelnet.core.note import MAX_NOTE, Checkpoint, NoteKey, SignedNote
from modelnet.errors import MalformedError

__all__ = ["MAX_TLOG_PROOF", "TlogProof"]

HEADER = "c2sp.org/tlog-proof@v1"
MAX_EXTRA = 64 * 1024  # bytes, in base64; room for an entry of 32 KiB
MAX_TLOG_PROOF = MAX_NOTE + MAX_EXTRA + 64 * (MAX_PROOF + 1)
MAX_INDEX = 1 << 63


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A parsed proof; nothing in it means anything until `verify` was asked."""

    index: int
    hashes: tuple[bytes, ...]
    note: SignedNote
    unverified_extra: bytes | None = None

    def __post_init__(self) -> None:
        hashes_fit = len(self.hashes) <= MAX_PROOF and all(len(value) == 32 for value in self.hashes)
        if not 0 <= self.index < MAX_INDEX or not hashes_fit:
            raise MalformedError("not an inclusion proof", rule="proof")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the one encoding of a proof."""
        if len(data) > MAX_TLOG_PROOF:
            raise MalformedError("proof is too large", rule="proof", wanted=f"at most {MAX_TLOG_PROOF}", got=len(data))
        head, separator, note = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
            title, *rest = lines
            extra = b64decode(rest.pop(0)[6:], validate=True) if rest and rest[0].startswith("extra ") else None
            word, number = rest[0].split(" ")
            proof = cls(
                int(number), tuple(b64decode(line, validate=True) for line in rest[1:]), SignedNote.parse(note), extra
            )
        except (ValueError, IndexError) as error:
            raise MalformedError("not a tlog-proof", rule="proof") from error
        # One value, one encoding: this rejects +7, other base64 bits, and what stands in another place.
        if not separator or (title, word) != (HEADER, "index") or proof.encode() != data:
            raise MalformedError("not the one encoding of a tlog-proof", rule="proof")
        return proof

    def encode(self) -> bytes:
        """Return the proof's bytes, as a `.tlog-proof` file holds them."""
        lines = [HEADER]
        if self.unverified_extra is not None:
            lines.append(f"extra {b64encode(self.unverified_extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [b64encode(value).decode() for value in self.hashes]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()

    def verify(self, entry: bytes, origin: str, keys: Iterable[NoteKey]) -> Checkpoint:
        """Return the head that `entry` is in, once one of the log's `keys` signed it and the proof leads there.

        Whether enough witnesses saw that head is for a policy to say. Raises `TrustError` for another log or no known
        key, `IntegrityError` when the entry is not in the tree.
        """
        checkpoint = Checkpoint.parse(self.note.verify(keys), origin)
        check_inclusion(leaf_hash(entry), self.index, checkpoint.size, self.hashes, checkpoint.root)
        return checkpoint
