"""What a node heard and did lately, for people: events in order, each with a number, and how many of each kind."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Any, NamedTuple

__all__ = ["Event", "Journal"]

MAX_EVENTS = 1000  # for `gossip trace`
MAX_WORDS = 300


class Event(NamedTuple):
    """What happened: its number, unix time, what, with which peer, and more words."""

    seq: int
    time: float
    what: str
    peer: str
    text: str


class Journal:
    """The last events. For any thread."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._lock = threading.Lock()
        self._last = 0

    def note(self, what: str, peer: str, words: str) -> None:
        """Note that something happened."""
        with self._lock:
            self.counts[what] += 1
            self._last += 1
            self._events.append(Event(self._last, time.time(), what, peer.strip(), words[:MAX_WORDS]))

    def events(self, after: int = 0) -> list[Event]:
        """Return the events after the one with a number, as far as they are kept."""
        with self._lock:
            return [event for event in self._events if event.seq > after]

    def report(self, after: int = 0) -> dict[str, Any]:
        """Return the events after the one with a number, as plain values, and the number of the last one."""
        events = self.events(after)
        return {
            "seq": self._last,
            "trace": [
                {"seq": one.seq, "time": one.time, "event": one.what, "peer": one.peer, "text": one.text}
                for one in events
            ],
        }
