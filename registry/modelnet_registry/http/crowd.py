"""Who is connected, and who gives way when all places are taken: no address keeps the others out.

    room is left                                         → everybody comes in
    another address has more than the newcomer's         → its connection that has waited longest goes, or where none
                                                           waits and it has over half of the places, its oldest
    the newcomer's address has as many as any            → its own goes that has waited for a while, if there is one

A connection waits while its peer owes it something: a request, or the rest of one. Whoever drips a request waits too.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from modelnet_registry.gossip.addresses import account_of
from modelnet_registry.http.connection import Connection

__all__ = ["PATIENT_S", "Crowd", "Guest"]

PATIENT_S = 2.0  # a connection that waits for less may be about to ask, and its address has no better one


@dataclass(frozen=True, slots=True, eq=False)
class Guest:
    """One connection; `one_too_many` is told that there is no place, and counts towards another limit."""

    connection: Connection
    sock: socket.socket
    address: str
    one_too_many: bool = False
    since: float = field(default_factory=time.monotonic)


class Crowd:
    """The connections of a server, `most` of them at a time. For any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._guests: dict[threading.Thread, Guest] = {}

    def here(self) -> dict[threading.Thread, Guest]:
        """Return who is connected, and by which thread it is served."""
        with self._lock:
            return dict(self._guests)

    def add(self, thread: threading.Thread, guest: Guest) -> None:
        """Note a connection."""
        with self._lock:
            self._guests[thread] = guest

    def drop(self, thread: threading.Thread) -> None:
        """Forget a connection."""
        with self._lock:
            self._guests.pop(thread, None)

    def refused(self) -> int:
        """Return how many are being told that there is no place."""
        with self._lock:
            return sum(guest.one_too_many for guest in self._guests.values())

    def make_room(self, sock: socket.socket) -> tuple[bool, Guest | None]:
        """Tell whether there is a place for `sock`, and who has to go for it; that one is forgotten already."""
        with self._lock:
            served = {thread: guest for thread, guest in self._guests.items() if not guest.one_too_many}
            if len(served) < self._most:
                return True, None
            thread = self._who_goes(served, address_of(sock))
            return thread is not None, None if thread is None else self._guests.pop(thread)

    def _who_goes(self, served: dict[threading.Thread, Guest], newcomer: str) -> threading.Thread | None:
        counts = Counter(guest.address for guest in served.values())
        greediest, count = counts.most_common(1)[0]
        if counts[newcomer] == count:
            greediest = newcomer
        now = time.monotonic()
        theirs = {thread: guest for thread, guest in served.items() if guest.address == greediest}
        waiting = {
            thread: now - since
            for thread, guest in theirs.items()
            if (since := guest.connection.waiting_since) is not None
        }
        longest = max(waiting, key=lambda thread: waiting[thread], default=None)
        if greediest == newcomer:
            return longest if longest is not None and waiting[longest] >= PATIENT_S else None
        if longest is not None or 2 * count <= self._most:
            return longest
        return min(theirs, key=lambda thread: theirs[thread].since)


def address_of(sock: socket.socket) -> str:
    """Return whom a connection counts towards: its address, for IPv6 the /64 around it."""
    try:
        return account_of(f"{sock.getpeername()[0]} ")
    except (OSError, IndexError):
        return ""
