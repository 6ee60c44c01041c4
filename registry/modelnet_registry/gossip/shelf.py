"""What a node tells, put in the place of its name: heads, revocations, evidence and parts of logs, as they are sent.

Everything is read when a batch has room for it and not before: who asks for 4,096 items gets as many as one batch
holds, and costs no more.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from modelnet.errors import ModelnetError
from modelnet_registry.gossip.effects import Serve
from modelnet_registry.gossip.judge import Judge, Snapshot
from modelnet_registry.gossip.messages import Entries, Evidence, Item, Message, Negative, Proof, Stored

__all__ = ["Shelf"]

log = logging.getLogger("modelnet_registry.gossip")

MAX_CONTENTS = 256  # items kept in memory because they were just judged and are about to be told
MAX_CONTENTS_BYTES = 4 * 1024 * 1024


class Shelf:
    """What `judge` has to tell. For any thread."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._lock = threading.Lock()
        self._contents: OrderedDict[tuple[str, bytes], Negative | Evidence] = OrderedDict()
        self._bytes = 0

    def keep(self, item: Negative | Evidence, mark: bytes) -> None:
        """Keep an item at hand that will be told to several peers in a moment."""
        with self._lock:
            if (item.pid, mark) in self._contents:
                return
            self._contents[item.pid, mark] = item
            self._bytes += len(item.content)
            while len(self._contents) > MAX_CONTENTS or self._bytes > MAX_CONTENTS_BYTES:
                self._bytes -= len(self._contents.popitem(last=False)[1].content)

    def solid(self, messages: Iterable[Message | Stored | Serve]) -> Iterator[Message]:
        """Put items in the place of their names, one at a time."""
        shelves: dict[str, Snapshot | None] = {}  # a batch asks for many marks of one publisher
        for message in messages:
            match message:
                case Stored():
                    made: Message | None = self._content(message, shelves)
                case Serve():
                    made = self._part(message)
                case _:
                    made = message
            if made is not None:
                yield made

    def _content(self, stored: Stored, shelves: dict[str, Snapshot | None]) -> Item | None:
        pid, mark = stored
        try:
            if mark is None:
                return self._judge.note(pid)
            if (kept := self._contents.get((pid, mark))) is not None:
                return kept
            if pid not in shelves:
                shelves[pid] = self._judge.snapshot(pid)
            return self._judge.marked(pid, mark, shelves[pid])
        except (ModelnetError, OSError) as error:
            log.debug("cannot tell what is not readable: %s", error)
            return None

    def _part(self, serve: Serve) -> Entries | Proof | None:
        try:
            made = self._judge.proof if serve.proof else self._judge.entries
            return made(serve.origin, serve.first, serve.last)
        except (ModelnetError, OSError) as error:
            log.debug("cannot serve a part of a log: %s", error)
            return None
