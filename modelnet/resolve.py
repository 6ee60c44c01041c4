"""From a reference to a release that may be used: news of the publishers' logs from the peers, then the gate.

A source can withhold but not invent: what it says about a log counts once it hashes to a head that the publisher
signed. Where no peer answers, what is known here decides, and says how old it is.

The logs of those whose releases this one was made from are asked for too: a revocation there is one here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from modelnet.core.names import Reference
from modelnet.errors import ModelnetError, UnavailableError
from modelnet.fetching import Fetcher
from modelnet.gate import Gate, Trusted
from modelnet.signed import resolve_publisher
from modelnet.syncing import sync

__all__ = ["resolve", "sync_all"]

MAX_FOREIGN = 16  # publishers asked about because of what a release was made from; real lineages cross a few


def resolve(gate: Gate, fetcher: Fetcher, wanted: Reference) -> Trusted:
    """Return the release that `wanted` means, after asking every source for news of its publisher's log.

    Raises `TrustError` where the gate refuses, `UnavailableError` when nobody knows the publisher or the release.
    """
    pid = resolve_publisher(gate.store, wanted.publisher)
    wanted = replace(wanted, publisher=pid)
    sync_all(gate, fetcher, wanted)
    if not gate.replicas.known(pid):
        if not fetcher.sources:
            raise UnavailableError(
                f"{wanted} is not known here and there is nobody to ask", rule="sources",
                hint="give a node that has it with --peer http://HOST:PORT",
            )  # fmt: skip
        raise fetcher.unavailable(f"{wanted} is not to be had")
    return gate.resolve(wanted)


def sync_all(gate: Gate, fetcher: Fetcher, wanted: Reference) -> None:
    """Ask every source for news of the publisher of `wanted`, and of those whose releases that one was made from.

    Raises what `sync` raises for the publisher itself; an ancestor's log that nobody has is a warning of the gate.
    """
    if not fetcher.sources:
        return
    pid = resolve_publisher(gate.store, wanted.publisher)
    sync(gate.replicas, pid, fetcher, floor=wanted.floor)
    asked = {pid}
    # What one log says about a release may name the next.
    while len(asked) <= MAX_FOREIGN and (foreign := gate.ancestors(replace(wanted, publisher=pid)) - asked):
        for other in sorted(foreign)[: MAX_FOREIGN + 1 - len(asked)]:
            asked.add(other)
            with suppress(ModelnetError):
                sync(gate.replicas, other, fetcher)
