"""Which release a name means: the rules once, whatever holds the log that they are asked about.

A `View` is a folded log: `modelnet.core.fold.PublisherState` in memory, or what an index keeps of one. Resolution picks
the last release in log order (on a channel, if one is asked for), steps on to what superseded it, and passes over what
was yanked or revoked. Semantic versions decide nothing: the publisher's order does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from modelnet.core.events import Digests, Released, Supersede, Yank
from modelnet.core.revocations import Revocation

__all__ = ["Listed", "Logged", "View", "newest", "offered"]


@dataclass(frozen=True, slots=True)
class Logged:
    """A release that counts, at its place in the log."""

    index: int
    event: Released

    @property
    def digests(self) -> Digests:
        """What the release's manifest hashes to."""
        return Digests.of(self.event.release)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that it was released to."""
        return self.event.release.channels


class Listed(Protocol):
    """What resolution has to know of a release that counts."""

    @property
    def index(self) -> int:
        """Its place in the log."""

    @property
    def digests(self) -> Digests:
        """What its manifest hashes to."""

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that it was released to."""


class View(Protocol):
    """What can be asked of a folded log."""

    @property
    def pid(self) -> str:
        """The publisher."""

    @property
    def size(self) -> int:
        """How many entries the log has."""

    @property
    def epoch(self) -> int:
        """How often it was recovered."""

    def names(self) -> list[str]:
        """Return the names that were ever released, sorted."""

    def listed(self, name: str) -> Iterable[Listed]:
        """Return the releases of a name, newest in log order first."""

    def listed_as(self, digests: Digests) -> Listed | None:
        """Return the last release with that manifest."""

    def logged(self, listed: Listed) -> Logged:
        """Return a listed release with all that it says."""

    def find(self, name: str, version: str) -> Logged | None:
        """Return the release that took that version, whatever became of it since."""

    def manifest(self, digests: Digests) -> Logged | None:
        """Return the last release with that manifest."""

    def supersession(self, digests: Digests) -> Supersede | None:
        """Return the event that superseded a manifest."""

    def yank(self, digests: Digests) -> Yank | None:
        """Return the event that yanked a manifest; of its subjects at least this one is told."""

    def revocations_of(self, digests: Digests) -> list[Revocation]:
        """Return the revocations in force of a manifest or a file; one digest in common is enough."""

    @property
    def has_revocations(self) -> bool:
        """Whether anything at all is revoked: without it no digest needs to be asked about."""


def newest(view: View, name: str, channel: str | None = None) -> Logged | None:
    """Return what resolution picks: the last release in log order, or what superseded it, that is offered."""
    for listed in view.listed(name):
        if channel is not None and channel not in listed.channels:
            continue
        found: Listed | None = listed
        seen: set[int] = set()
        while found is not None and (step := view.supersession(found.digests)) is not None:
            # A statement may name a manifest by one digest only, so that two of them can lead in a circle.
            seen.add(found.index)
            found = view.listed_as(step.new)
            if found is not None and found.index in seen:
                found = None
        if found is not None and offered(view, found):
            return view.logged(found)
    return None


def offered(view: View, listed: Listed) -> bool:
    """Tell whether resolution may pick a release: neither revoked nor yanked."""
    return not view.revocations_of(listed.digests) and view.yank(listed.digests) is None
