"""Says once what a running node's operator must know: a release was revoked, a publisher showed two histories.

announcer = Announcer(Replicas(store), say)          # what is known by now is no news
announcer(pid)                                        # more is known of a publisher: say what is bad about it
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modelnet.errors import ModelnetError
from modelnet.replica import Replicas
from modelnet_registry.gossip.asking import standing_of
from modelnet_registry.gossip.judge import NOTHING_REVOKED

__all__ = ["Announcer"]

MAX_SAID = 20  # revocations of one publisher at a time: a log that is new here may bring thousands

Say = Callable[[dict[str, Any], str], None]  # an event as plain values, and in words


class Announcer:
    """Remembers what it said. For any thread."""

    def __init__(self, replicas: Replicas, say: Say) -> None:
        """Take what is in the store for known."""
        self._replicas, self._say = replicas, say
        self._lock = threading.Lock()
        self._known: dict[str, frozenset[str]] = {}
        for row in replicas.publishers():
            if row.revoked != NOTHING_REVOKED or row.quarantined or row.dead:
                self._news(row.pid)

    def __call__(self, pid: str) -> None:
        """Say what is bad about a publisher and was not before."""
        with self._lock:
            news = self._news(pid)
        for event in news[:MAX_SAID]:
            self._say(event, _words(event))
        if len(news) > MAX_SAID:
            left = len(news) - MAX_SAID
            event = {"event": "more-revoked", "publisher": pid, "count": left}
            self._say(event, f"{left} more releases of {pid} are revoked; see `modelnet status`")

    def _news(self, pid: str) -> list[dict[str, Any]]:
        try:
            standing = standing_of(self._replicas, pid)
        except ModelnetError:
            return []
        known = self._known.get(pid, frozenset())
        found: dict[str, dict[str, Any]] = {}
        if standing["state"] in ("quarantined", "damaged"):
            state = standing["state"]
            found[state] = {"event": state, "publisher": pid, "reason": standing["reason"]}
        for one in standing.get("revocations", ()):
            found[f"{one['statement']} {one['name']} {one['version']}"] = {"event": "revoked", "publisher": pid, **one}
        self._known[pid] = frozenset(found)
        return [event for key, event in found.items() if key not in known]


def _words(event: dict[str, Any]) -> str:
    pid = event["publisher"]
    if event["event"] != "revoked":
        return f"{event['event']}: {pid}: {event['reason']}"
    what = (
        f"{pid}/{event['name']}@{event['version']}" if event["name"] else f"something of {pid} that is not known here"
    )
    return f"revoked: {what} ({event['severity']})" + (f": {event['reason']}" if event["reason"] else "")
