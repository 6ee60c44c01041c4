"""How much each source of messages may cost: bytes, rumours and judgements, in token buckets; bounded in number.

Whom we called is who it says it is, and has an account of its own. Who calls us proves only its address: what it calls
itself is a label. All labels at one address pay from one account, which is that of a few nodes, and each label may use
no more of it than one node: several honest nodes behind one address get by, and naming another port buys nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from modelnet_registry.gossip.addresses import account_of
from modelnet_registry.gossip.effects import Config

__all__ = ["LIE", "MAX_ASKED", "MAX_SOURCES", "NEIGHBOURS", "Account", "Source", "Sources"]

MAX_SOURCES = 1024  # whose use is counted apart; beyond them, those that have been silent longest are forgotten
MAX_LABELS = 16  # at one address, whose use is counted apart: what is forgotten still counts towards the address
NEIGHBOURS = 4  # nodes at one address that can be as busy as any at the same time; what is usual needs far less
CHECKS_A_MINUTE = 1200.0  # at 0.1 ms a signature, a five-hundredth of a core
STRANGERS_A_MINUTE = 6000.0  # in all, for those who call us
LIE = 20.0  # judgements that a lie costs its address: sixty a minute, and its neighbours are still heard
MAX_ASKED = 512  # things that one source may make us ask for at a time: two whole messages of heads


class Bucket:
    """A token bucket: `rate` a second, and a minute's worth at once."""

    __slots__ = ("at", "level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self.level, self.at = rate, rate * 60, now

    def has(self, amount: float, now: float) -> bool:
        """Tell whether `amount` can be taken."""
        self.level = min(self.rate * 60, self.level + max(now - self.at, 0.0) * self.rate)
        self.at = max(now, self.at)
        return amount <= self.level

    def take(self, amount: float, now: float) -> bool:
        if not self.has(amount, now):
            return False
        self.level -= amount
        return True

    def charge(self, amount: float, now: float) -> None:
        """Take `amount`, or all that is left."""
        self.has(0.0, now)
        self.level = max(0.0, self.level - amount)


class Account:
    """What one payer used of its share; `nodes` is how many of them it may stand for."""

    __slots__ = ("asked", "bytes", "checks", "labels", "muted", "pending", "rumours", "strikes")

    def __init__(self, config: Config, now: float, nodes: int = 1) -> None:
        self.bytes = Bucket(nodes * config.byte_rate, now)
        self.rumours = Bucket(nodes * config.rumour_rate, now)
        self.checks = Bucket(nodes * CHECKS_A_MINUTE / 60, now)
        self.labels: OrderedDict[str, Account] | None = None  # few have more than one
        self.pending = 0
        self.asked = 0
        self.strikes = 0
        self.muted = 0.0  # nothing of it is read before


class Source:
    """Whoever a batch is from: an account, and with a caller the share of what it calls itself."""

    __slots__ = ("account", "share", "shared")

    def __init__(self, account: Account, share: Account | None = None) -> None:
        self.account = account
        self.share = share or account
        self.shared = share is not None

    def _take(self, bucket: str, amount: float, now: float) -> bool:
        mine: Bucket = getattr(self.share, bucket)
        if not self.shared:
            return mine.take(amount, now)
        whole: Bucket = getattr(self.account, bucket)
        if not (mine.has(amount, now) and whole.has(amount, now)):
            return False
        return mine.take(amount, now) and whole.take(amount, now)

    def bytes(self, count: int, now: float) -> bool:
        """Pay for what it sent."""
        return self._take("bytes", count, now)

    def rumours(self, count: float, now: float) -> bool:
        """Pay for bytes that nobody here can judge."""
        return self._take("rumours", count, now)

    def checks(self, count: float, now: float) -> bool:
        """Pay for work of the judge."""
        return self._take("checks", count, now)

    def lied(self, now: float) -> int:
        """Pay for a lie; return how many there were, or 0 where all that is known of the liar is its address."""
        self.share.checks.charge(LIE, now)
        if self.shared:
            # A neighbour's name may have been used: nobody is silenced for what others say at its address.
            self.account.checks.charge(LIE, now)
            return 0
        self.account.strikes += 1
        return self.account.strikes

    def may_wait(self, most: int) -> bool:
        """Tell whether one more of its items may wait for the judge."""
        return self.share.pending < most and self.account.pending < most * (NEIGHBOURS if self.shared else 1)

    def waits(self, count: int) -> None:
        """Count items that wait for the judge."""
        self.account.pending += count
        if self.shared:
            self.share.pending += count


class Sources:
    """The sources that were heard lately."""

    __slots__ = ("_config", "_known", "strangers")

    def __init__(self, config: Config) -> None:
        self._config = config
        self._known: OrderedDict[str, Account] = OrderedDict()
        self.strangers = Bucket(STRANGERS_A_MINUTE / 60, 0.0)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, peer: str, now: float) -> Source:
        """Return the source of what `peer` sends: a URL that we called, or `address label`."""
        _, space, label = peer.partition(" ")
        account = self._account(account_of(peer), now, NEIGHBOURS if space else 1)
        if not space:
            return Source(account)
        labels = account.labels = OrderedDict() if account.labels is None else account.labels
        share = labels.get(label)
        if share is None:
            share = labels[label] = Account(self._config, now)
            if len(labels) > MAX_LABELS:
                labels.popitem(last=False)
        labels.move_to_end(label)
        return Source(account, share)

    def _account(self, name: str, now: float, nodes: int) -> Account:
        account = self._known.get(name)
        if account is None:
            if len(self._known) >= MAX_SOURCES and not self._forget():
                name = "others"
                if (shared := self._known.get(name)) is not None:
                    return shared
            account = self._known[name] = Account(self._config, now, nodes)
        self._known.move_to_end(name)
        return account

    def _forget(self) -> bool:
        """Forget a source that has been silent for longest; one that is muted or waits for the judge stays."""
        for name in list(self._known)[:16]:
            account = self._known[name]
            if account.pending == 0 and account.asked == 0 and account.muted <= account.bytes.at:
                del self._known[name]
                return True
        return False
