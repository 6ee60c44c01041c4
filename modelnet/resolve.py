"""Find a signed release among sources that nobody trusts.

A source gives a publisher's log: the genesis, then the releases. The genesis must hash to the publisher's id and each
release must carry the publisher's signature, so a source can withhold but not invent. Among several sources the longest
list of valid releases counts. What a source withholds everywhere is not noticed here; that takes the log's signed head.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelnet.core.dsse import Envelope
from modelnet.core.identity import Genesis
from modelnet.core.names import Reference
from modelnet.core.release import Release, is_release
from modelnet.errors import MalformedError
from modelnet.fetching import Fetcher
from modelnet.gate import check_pin
from modelnet.stores.http import Connection

__all__ = ["Resolved", "resolve_from"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A release and the genesis that its signature was checked with."""

    genesis: Genesis
    release: Release


def resolve_from(fetcher: Fetcher, pid: str, wanted: Reference) -> Resolved:
    """Return the release that `wanted` means, asking every source.

    Raises `TrustError` when the locator pins another manifest, `UnavailableError` when nobody has the release.
    """

    def ask(connection: Connection) -> tuple[Genesis, list[Release]]:
        entries = connection.log(pid)
        if not entries:
            raise MalformedError("an empty log", rule="log", source=connection.source.url)
        genesis = Genesis.verify(entries[0], pid)
        envelopes = [Envelope.parse(entry) for entry in entries[1:]]
        return genesis, [Release.verify(envelope, genesis) for envelope in envelopes if is_release(envelope)]

    best: tuple[Genesis, list[Release]] | None = None
    for genesis, releases in fetcher.each(ask):
        named = [release for release in releases if release.name == wanted.name]
        if best is None or len(named) > len(best[1]):
            best = (genesis, named)
    chosen = None if best is None else _choose(best[1], wanted)
    if best is None or chosen is None:
        raise fetcher.unavailable(f"{wanted} is not to be had")
    check_pin(chosen, wanted)
    return Resolved(best[0], chosen)


def _choose(releases: list[Release], wanted: Reference) -> Release | None:
    """Return the version, else the newest on the channel, else (no version, or `latest`) the newest."""
    if wanted.version is None:
        return releases[-1] if releases else None
    exact = [release for release in releases if release.version == wanted.version]
    found = exact or [release for release in releases if wanted.version in release.channels]
    if not found and wanted.version == "latest":
        found = releases
    return found[-1] if found else None
