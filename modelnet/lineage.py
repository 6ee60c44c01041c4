"""What a release was made from: the tree of `derived_from` through the logs that are known here, and where each stands.

A parent is what the child's publisher says it is. Its own publisher's log, where it is known here, says what it is
called and whether it was revoked since; a parent that no log here knows stays a digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelnet.core.events import Digests, Parent
from modelnet.core.resolution import Logged
from modelnet.gate import Gate

__all__ = ["Lineage", "lineage_of"]

MAX_NODES = 1000  # of one tree; real lineages are a handful deep


@dataclass(frozen=True, slots=True)
class Lineage:
    """One release in the tree; `relation` is how the one above was made from it, None at the top."""

    digests: Digests
    pid: str
    relation: str | None = None
    name: str | None = None
    version: str | None = None
    state: str = "unknown"
    reason: str | None = None
    parents: tuple[Lineage, ...] = ()

    @property
    def title(self) -> str:
        """What to call it: name and version where they are known, else a digest."""
        if self.name is not None:
            return f"{self.name}@{self.version}"
        return f"manifest {(self.digests.blake3 or self.digests.sha256 or '')[:16]}…"

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Lineage]]:
        """Yield (depth, release) from the top down."""
        yield depth, self
        for parent in self.parents:
            yield from parent.walk(depth + 1)


def lineage_of(gate: Gate, logged: Logged) -> Lineage:
    """Return the tree of what a release was made from, as far as the logs known here tell."""
    budget = [MAX_NODES]

    def node(parent: Parent, owner: str, above: frozenset[Digests]) -> Lineage:
        pid = parent.pid or owner
        found = gate.replicas.view(pid).manifest(parent.digests) if gate.replicas.known(pid) else None
        if found is None:
            return Lineage(parent.digests, pid, parent.relation)
        return named(found, pid, parent.relation, above | {parent.digests})

    def named(found: Logged, pid: str, relation: str | None, above: frozenset[Digests]) -> Lineage:
        state, reason = gate.standing_of(found)
        release = found.event.release
        parents = []
        for parent in found.event.derived_from:
            if parent.digests in above or budget[0] <= 0:
                continue  # nobody is their own ancestor, whatever their statement says
            budget[0] -= 1
            parents.append(node(parent, pid, above))
        return Lineage(
            found.digests, pid, relation, release.name, release.version, state, reason, tuple(parents)
        )  # fmt: skip

    return named(logged, logged.event.release.pid, None, frozenset({logged.digests}))
