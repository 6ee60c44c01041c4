"""What was asked of whom, so that nothing is asked for twice in a row and nobody makes a node ask without end. Pure."""

from __future__ import annotations

from modelnet_registry.gossip.sources import MAX_ASKED, Account

__all__ = ["MAX_ASKS", "Asked"]

MAX_ASKS = 4096  # at one time, of everybody …
MAX_ASKS_STRANGERS = 3072  # … of which those who call us may cause so many: whom we call is always asked

Key = tuple[str, ...]  # whom, and what


class Asked:
    """The questions that are open, or were answered lately."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[Key, tuple[float, Account]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def ask(self, key: Key, account: Account, now: float, until: float, *, called: bool) -> bool:
        """Tell whether to ask now, and if so not again before `until`; `account` caused it, `called` by us or not."""
        known = self._until.get(key)
        if known is not None:
            if known[0] > now:
                return False
        elif account.asked >= MAX_ASKED or len(self._until) >= (MAX_ASKS if called else MAX_ASKS_STRANGERS):
            return False
        self._drop(key)
        self._until[key] = until, account
        account.asked += 1
        return True

    def answered(self, key: Key, now: float) -> bool:
        """Tell whether the question is open, and close it."""
        known = self._until.get(key)
        self._drop(key)
        return known is not None and known[0] > now

    def sweep(self, now: float) -> None:
        """Forget questions whose time is over."""
        for key in [key for key, (until, _) in self._until.items() if until <= now]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        known = self._until.pop(key, None)
        if known is not None:
            known[1].asked -= 1
