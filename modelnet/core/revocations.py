"""Which artifacts a publisher has revoked: statements that count once, whatever envelope or route they came by.

A revocation is known by the hash of what was signed. A reinstate names the leaf hash of one entry and takes back the
statement in it, before or after the two meet, so the order in which a node hears them does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from modelnet.core.events import Digests, Revoke

__all__ = ["Revocation", "Revocations"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation that counts; `index` is None while it is not in the log, `leaf` what a reinstate names."""

    event: Revoke
    leaf: bytes
    statement: bytes
    index: int | None = None


@dataclass(slots=True)
class Revocations:
    """A publisher's revocations and what root took back of them; it only ever grows."""

    _known: dict[bytes, Revocation] = field(default_factory=dict)  # by statement
    _by_digest: dict[str, tuple[bytes, ...]] = field(default_factory=dict)  # sha256:… and blake3:… → statements
    _leaves: dict[bytes, bytes] = field(default_factory=dict)  # leaf hash → statement
    _named: set[bytes] = field(default_factory=set)  # leaf hashes that a reinstate names
    _taken_back: set[bytes] = field(default_factory=set)  # statements

    def __contains__(self, statement: bytes) -> bool:
        return statement in self._known

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, revocation: Revocation) -> None:
        """Count a revocation; one that is in the log by now says so."""
        statement = revocation.statement
        self._leaves[revocation.leaf] = statement
        if revocation.leaf in self._named:
            self._taken_back.add(statement)
        known = self._known.get(statement)
        if known is None or known.index is None:
            self._known[statement] = revocation
        if known is None:
            for name in {name for digests in revocation.event.digests for name in digests.names}:
                self._by_digest[name] = (*self._by_digest.get(name, ()), statement)

    def reinstate(self, leaf: bytes) -> None:
        """Take back the revocation in the entry with that leaf hash."""
        self._named.add(leaf)
        if leaf in self._leaves:
            self._taken_back.add(self._leaves[leaf])

    def of(self, digests: Digests) -> list[Revocation]:
        """Return the revocations in force of a manifest or a file; one digest in common is enough."""
        found = dict.fromkeys(statement for name in digests.names for statement in self._by_digest.get(name, ()))
        return [self._known[statement] for statement in found if statement not in self._taken_back]

    @property
    def in_force(self) -> list[Revocation]:
        """Every revocation that root did not take back."""
        return [entry for statement, entry in self._known.items() if statement not in self._taken_back]

    @property
    def outside(self) -> int:
        """How many are known from outside the log only."""
        return sum(entry.index is None for entry in self._known.values())

    def copy(self) -> Self:
        """Return revocations that grow on their own."""
        return type(self)(
            self._known.copy(), self._by_digest.copy(), self._leaves.copy(), self._named.copy(), self._taken_back.copy()
        )
