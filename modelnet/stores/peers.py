"""Peers that a pull asks when it is not told any: one URL a line in `$MODELNET_HOME/peers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelnet import durable
from modelnet.errors import UsageError
from modelnet.partial import disk_errors
from modelnet.stores.home import Home
from modelnet.stores.http import MAX_URL, HttpSource

__all__ = ["MAX_PEERS", "add_peers", "known_peers"]

MAX_PEERS = 64
MAX_LINE = MAX_URL + 1


def known_peers(home: Home, note: Callable[[str], None] = lambda _: None) -> list[str]:
    """Return the peers that were recorded; lines that are not addresses are passed over, and said to `note`."""
    try:
        with (home.root / "peers").open("rb") as file:
            lines = file.read(MAX_PEERS * MAX_LINE).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    peers = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            peers.append(HttpSource.parse(line.strip()).url)
        except UsageError as error:
            note(f"{home.root / 'peers'}, line {number}, is passed over: {error}")
    return peers[:MAX_PEERS]


def add_peers(home: Home, peers: Sequence[str]) -> None:
    """Record peers beside those that are known; raises `UsageError` for one that is no address."""
    checked = [HttpSource.parse(peer).url for peer in peers]
    known = known_peers(home)
    if new := [peer for peer in dict.fromkeys(checked) if peer not in known]:
        with disk_errors(home.root):
            home.root.mkdir(parents=True, exist_ok=True)
            durable.write(home.root / "peers", "".join(f"{peer}\n" for peer in [*known, *new][-MAX_PEERS:]).encode())
