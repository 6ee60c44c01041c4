"""From a reference to a release that may be used: news of the publisher's log from the peers, then the gate.

A source can withhold but not invent: what it says about a log counts once it hashes to a head that the publisher
signed. Where no peer answers, what is known here decides, and says how old it is.
"""

from __future__ import annotations

from dataclasses import replace

from modelnet.core.names import Reference
from modelnet.errors import UnavailableError
from modelnet.fetching import Fetcher
from modelnet.gate import Gate, Trusted
from modelnet.signed import resolve_publisher
from modelnet.syncing import sync

__all__ = ["resolve"]


def resolve(gate: Gate, fetcher: Fetcher, wanted: Reference) -> Trusted:
    """Return the release that `wanted` means, after asking every source for news of its publisher's log.

    Raises `TrustError` where the gate refuses, `UnavailableError` when nobody knows the publisher or the release.
    """
    pid = resolve_publisher(gate.store, wanted.publisher)
    wanted = replace(wanted, publisher=pid)
    if fetcher.sources:
        sync(gate.replicas, pid, fetcher, floor=wanted.floor)
    if not gate.replicas.known(pid):
        if not fetcher.sources:
            raise UnavailableError(
                f"{wanted} is not known here and there is nobody to ask", rule="sources",
                hint="give a node that has it with --peer http://HOST:PORT",
            )  # fmt: skip
        raise fetcher.unavailable(f"{wanted} is not to be had")
    return gate.resolve(wanted)
