"""How much each source of messages may cost: bytes, rumours and judgements, in token buckets; bounded in number."""

from __future__ import annotations

from collections import OrderedDict

from modelnet_registry.gossip.effects import Config

__all__ = ["MAX_SOURCES", "Source", "Sources"]

MAX_SOURCES = 1024  # whose use is counted apart; beyond them, those that have been silent longest are forgotten
CHECKS_A_MINUTE = 1200.0  # at 0.1 ms a signature, a five-hundredth of a core
STRANGERS_A_MINUTE = 6000.0  # in all, for those who call us


class Bucket:
    """A token bucket: `rate` a second, and a minute's worth at once."""

    __slots__ = ("at", "level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self.level, self.at = rate, rate * 60, now

    def take(self, amount: float, now: float) -> bool:
        self.level = min(self.rate * 60, self.level + max(now - self.at, 0.0) * self.rate)
        self.at = now
        if amount > self.level:
            return False
        self.level -= amount
        return True


class Source:
    """What one source used of its share."""

    __slots__ = ("bytes", "checks", "muted", "pending", "rumours", "strikes")

    def __init__(self, config: Config, now: float) -> None:
        self.bytes = Bucket(config.byte_rate, now)
        self.rumours = Bucket(config.rumour_rate, now)
        self.checks = Bucket(CHECKS_A_MINUTE / 60, now)
        self.pending = 0
        self.strikes = 0
        self.muted = 0.0  # nothing of it is read before


class Sources:
    """The sources that were heard lately."""

    __slots__ = ("_config", "_known", "strangers")

    def __init__(self, config: Config) -> None:
        self._config = config
        self._known: OrderedDict[str, Source] = OrderedDict()
        self.strangers = Bucket(STRANGERS_A_MINUTE / 60, 0.0)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, peer: str, now: float) -> Source:
        """Return the account of `peer`."""
        source = self._known.get(peer)
        if source is None:
            if len(self._known) >= MAX_SOURCES and not self._forget():
                peer = "others"
                if (shared := self._known.get(peer)) is not None:
                    return shared
            source = self._known[peer] = Source(self._config, now)
        self._known.move_to_end(peer)
        return source

    def _forget(self) -> bool:
        """Forget a source that has been silent for longest; one that is muted or waits for the judge stays."""
        for name in list(self._known)[:16]:
            source = self._known[name]
            if source.pending == 0 and source.muted <= source.bytes.at:
                del self._known[name]
                return True
        return False
