"""What is said about publishers whose log is not here: a small cache, believed by nobody, told to who asks. Pure.

    keep      one note of each publisher, and what else is said about it; the newest of all
    wake      what is said about a publisher whose log came in the meantime: it can be judged now

A revocation that came before its publisher was known must count from the moment that its log is here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from modelnet_registry.gossip.messages import MAX_RUMOUR, Head, Item, Note

__all__ = ["Rumours"]

MAX_ABOUT_ONE = 64  # so that nobody makes one publisher's rumours push out those of all others


class Rumours:
    """The newest `most` rumours."""

    __slots__ = ("_about", "_known", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, bytes], Item] = OrderedDict()
        self._about: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, item: Item, key: bytes) -> None:
        """Keep `item`, known by `key`; of a publisher's notes the last one."""
        if len(item.content) > MAX_RUMOUR or not self._most:
            return
        at = (item.pid, b"" if isinstance(item, Note) else key)
        if at not in self._known:
            if self._about.get(item.pid, 0) >= MAX_ABOUT_ONE:
                return
            self._about[item.pid] = self._about.get(item.pid, 0) + 1
        self._known[at] = item
        self._known.move_to_end(at)
        if len(self._known) > self._most:
            self._forget(next(iter(self._known)))

    def _forget(self, at: tuple[str, bytes]) -> None:
        del self._known[at]
        self._about[at[0]] -= 1
        if not self._about[at[0]]:
            del self._about[at[0]]

    def note(self, pid: str) -> Note | None:
        """Return the note of a publisher, if one is kept."""
        found = self._known.get((pid, b""))
        return found if isinstance(found, Note) else None

    def heads(self) -> Mapping[str, Head]:
        """Return the heads that rumours tell of, by publisher."""
        return {pid: item.head for (pid, _), item in self._known.items() if isinstance(item, Note)}

    def wake(self, pid: str) -> list[Item]:
        """Return what was said about a publisher, and keep it no longer."""
        if pid not in self._about:
            return []
        found = [at for at in self._known if at[0] == pid]
        items = [self._known[at] for at in found]
        for at in found:
            self._forget(at)
        return items
