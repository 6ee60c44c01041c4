"""The Merkle tree of RFC 6962: roots, inclusion and consistency, over SHA-256.

    leaf(d)    = SHA-256(0x00 ‖ d)
    node(l, r) = SHA-256(0x01 ‖ l ‖ r)
    root of n > 1 leaves = node(root of the first k, root of the rest), k the largest power of two below n

A proof is a list of hashes, leaf to root. Checking one returns nothing or raises `IntegrityError`; there is no partial
success, and a proof that is longer than it has to be is refused.
Sources: RFC 6962 §2.1, RFC 9162 §2.1.3.2 and §2.1.4.2 (the verification algorithms).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from modelnet.errors import IntegrityError, MalformedError

__all__ = [
    "EMPTY_ROOT",
    "MAX_PROOF",
    "Frontier",
    "check_consistency",
    "check_inclusion",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root",
    "subtrees",
    "tree_root",
]

HASH = 32
MAX_PROOF = 63  # hashes: one for each level of a tree of less than 2^63 leaves
EMPTY_ROOT = hashlib.sha256(b"").digest()

# (first leaf, leaf after the last) of a complete or right-most subtree → its root
Subtree = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a log entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """A tree that grows: the roots of its complete subtrees with their heights, largest first, joined when equal."""

    _subtrees: list[tuple[int, bytes]] = field(default_factory=list)

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        height, value = 0, leaf
        while self._subtrees and self._subtrees[-1][0] == height:
            value = node_hash(self._subtrees.pop()[1], value)
            height += 1
        self._subtrees.append((height, value))

    @property
    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._subtrees:
            return EMPTY_ROOT
        value = self._subtrees[-1][1]
        for _, left in self._subtrees[-2::-1]:
            value = node_hash(left, value)
        return value

    def copy(self) -> Frontier:
        """Return a tree that grows on its own."""
        return Frontier(self._subtrees.copy())


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root


def subtrees(leaves: Sequence[bytes]) -> Subtree:
    """Return the function that gives the root of any run of `leaves`; what proofs are made with."""
    return lambda first, last: root(leaves[first:last])


def tree_root(size: int, subtree: Subtree) -> bytes:
    """Return the root over the first `size` leaves, out of complete subtrees: what `subtree` may lack is not asked."""
    first, parts = 0, []
    for height in reversed(range(size.bit_length())):
        if size >> height & 1:
            parts.append(subtree(first, first + (1 << height)))
            first += 1 << height
    if not parts:
        return EMPTY_ROOT
    value = parts.pop()
    while parts:
        value = node_hash(parts.pop(), value)
    return value


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves (RFC 6962 §2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    proof: list[bytes] = []
    first, last = 0, size
    while last - first > 1:
        middle = first + _split(last - first)
        if index < middle:
            proof.append(subtree(middle, last))
            last = middle
        else:
            proof.append(subtree(first, middle))
            first = middle
    return proof[::-1]


def consistency_proof(before: int, after: int, subtree: Subtree) -> list[bytes]:
    """Return the proof that the tree of `before` leaves is a prefix of that of `after` (RFC 6962 §2.1.2)."""
    if not 0 < before <= after:
        raise ValueError(f"no consistency proof from {before} to {after}")
    proof: list[bytes] = []
    first, last, whole = 0, after, True
    while before != last:
        middle = first + _split(last - first)
        if before <= middle:
            proof.append(subtree(middle, last))
            last = middle
        else:
            proof.append(subtree(first, middle))
            first, whole = middle, False
    if not whole:
        proof.append(subtree(first, last))
    return proof[::-1]


def _check_hashes(proof: Sequence[bytes], *values: bytes) -> None:
    if len(proof) > MAX_PROOF:
        raise MalformedError("proof is too long", rule="proof", wanted=f"at most {MAX_PROOF} hashes", got=len(proof))
    if any(len(value) != HASH for value in (*proof, *values)):
        raise MalformedError("proof holds something else than SHA-256 hashes", rule="proof")


def _elsewhere(message: str, wanted: bytes, got: bytes) -> IntegrityError:
    return IntegrityError(message, rule="proof", wanted=wanted.hex(), got=got.hex())


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], wanted: bytes) -> None:
    """Raise unless `proof` shows that `leaf` stands at `index` in the tree of `size` with root `wanted`.

    RFC 9162 §2.1.3.2. `IntegrityError` when the proof leads elsewhere, `MalformedError` when it cannot be one.
    """
    if not 0 <= index < size < 1 << 63:
        raise MalformedError("leaf is not in the tree", rule="proof", wanted=f"below {size}", got=index)
    _check_hashes(proof, leaf, wanted)
    position, end, value = index, size - 1, leaf
    for sibling in proof:
        if end == 0:
            raise IntegrityError("inclusion proof is longer than the tree is high", rule="proof", got=len(proof))
        if position & 1 or position == end:
            value = node_hash(sibling, value)
            while not position & 1 and position:
                position >>= 1
                end >>= 1
        else:
            value = node_hash(value, sibling)
        position >>= 1
        end >>= 1
    if end or value != wanted:
        raise IntegrityError(
            "inclusion proof leads to another root", rule="proof", wanted=wanted.hex(), got=value.hex()
        )


def check_consistency(before: int, after: int, proof: Sequence[bytes], old: bytes, new: bytes) -> None:
    """Raise unless `proof` shows that the tree (`before`, `old`) is a prefix of (`after`, `new`).

    RFC 9162 §2.1.4.2. A tree of no leaves is a prefix of everything and proves nothing: `before` = 0 is refused, and
    who has nothing yet compares with the publisher's id instead.
    """
    if not 0 < before <= after < 1 << 63:
        raise MalformedError("no consistency between these sizes", rule="proof", wanted=f"1 to {after}", got=before)
    if before == after:
        if proof or old != new:
            raise IntegrityError("one size, two roots", rule="proof", wanted=old.hex(), got=new.hex())
        return
    _check_hashes(proof, old, new)
    if not proof:
        raise IntegrityError("consistency proof is empty", rule="proof")
    rest = list(proof)
    position, end = before - 1, after - 1
    while position & 1:
        position >>= 1
        end >>= 1
    # A prefix that is one complete subtree is where both walks begin; otherwise the proof says where.
    start = old if before & before - 1 == 0 else rest.pop(0)
    left, right = start, start
    for sibling in rest:
        if end == 0:
            raise IntegrityError("consistency proof is longer than the tree is high", rule="proof", got=len(proof))
        if position & 1 or position == end:
            left, right = node_hash(sibling, left), node_hash(sibling, right)
            while not position & 1 and position:
                position >>= 1
                end >>= 1
        else:
            right = node_hash(right, sibling)
        position >>= 1
        end >>= 1
    if end or left != old:
        raise IntegrityError(
            "consistency proof leads to another old root", rule="proof", wanted=old.hex(), got=left.hex()
        )
    if right != new:
        raise IntegrityError(
            "consistency proof leads to another new root", rule="proof", wanted=new.hex(), got=right.hex()
        )
