"""Find a signed release among sources that nobody trusts.

A source gives a publisher's log: the genesis, then the releases. The genesis must hash to the publisher's id and each
release must carry the publisher's signature, so a source can withhold but not invent. A version may come from any of
several sources; which one is the newest, the longest list of distinct releases says. What is withheld everywhere is not
noticed here; that takes the log's signed head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelnet.core.dsse import Envelope
from modelnet.core.identity import Genesis
from modelnet.core.names import Reference
from modelnet.core.release import PAYLOAD_TYPE, Release, is_release
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
        envelopes = [Envelope.parse_entry(entry) for entry in entries[1:]]
        for envelope in envelopes:
            # Checked before it is read: a statement that was damaged is a lie, not an entry of a kind we do not know.
            if envelope.payload_type == PAYLOAD_TYPE:
                envelope.verify(PAYLOAD_TYPE, genesis.release.keys, genesis.release.threshold)
        return genesis, [Release.verify(envelope, genesis) for envelope in envelopes if is_release(envelope)]

    genesis: Genesis | None = None
    logs: list[list[Release]] = []
    for found, releases in fetcher.each(ask):
        genesis = found
        logs.append(_distinct(release for release in releases if release.name == wanted.name))
    merged = _merge(logs)
    pinned = [release for release in merged if release.manifest_sha256 == wanted.manifest_sha256]
    chosen = _choose(pinned, wanted) or _choose(merged, wanted)
    if genesis is None or chosen is None:
        raise fetcher.unavailable(f"{wanted} is not to be had")
    check_pin(chosen, wanted)
    return Resolved(genesis, chosen)


def _distinct(releases: Iterable[Release]) -> list[Release]:
    """Return each release once: repeating old ones must not make a list look longer than one with newer ones."""
    return list({(release.version, release.manifest): release for release in releases}.values())


def _merge(logs: list[list[Release]]) -> list[Release]:
    """Return what any source has, the longest list last: its newest is the newest of all."""
    longest = max(logs, key=len, default=[])
    listed = {(release.version, release.manifest) for release in longest}
    others = [release for log in logs for release in log if (release.version, release.manifest) not in listed]
    return [*_distinct(others), *longest]


def _choose(releases: list[Release], wanted: Reference) -> Release | None:
    """Return the version, else the newest on the channel, else (no version, or `latest`) the newest."""
    if wanted.version is None:
        return releases[-1] if releases else None
    exact = [release for release in releases if release.version == wanted.version]
    found = exact or [release for release in releases if wanted.version in release.channels]
    if not found and wanted.version == "latest":
        found = releases
    return found[-1] if found else None
