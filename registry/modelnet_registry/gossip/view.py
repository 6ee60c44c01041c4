"""Which peers a node knows and whom it talks to next: a bounded view that a flood of addresses cannot take over.

    static    what the operator named; always kept, always asked in turn
    tried     peers that answered us, oldest first; a newcomer replaces one only where there is room, or where
              its address range holds more places than any other
    fresh     addresses that were only heard of, bounded for each source of them and for each range; of more than fit,
              those with the smallest keyed hash stay, so that an address is not worth more for being told often

Peers are drawn from a shuffled deck without putting back, so each one is asked within a known number of draws; at most
half of a deck are addresses that nobody tried. What a peer does moves it between states by one table.
The ideas are those of Bitcoin's addrman
after Heilman et al., "Eclipse Attacks on Bitcoin's Peer-to-Peer Network", 2015, and of the samplers of Brahms
(Bortnikov et al., 2009).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from random import Random
from types import MappingProxyType

from modelnet_registry.gossip.addresses import range_of, told

__all__ = ["MAX_FRESH", "MAX_TRIED", "TRANSITIONS", "PeerState", "Sign", "View"]

MAX_TRIED = 32
MAX_FRESH = 128
MAX_STATIC = 64
MAX_BANNED = 1024
FROM_ONE = 16  # fresh addresses that one source may have placed at a time
# In gossip intervals, so that a network that heals is found again soon: a failure costs this, doubled each time …
BACKOFF = 0.5
BACKOFF_MOST = 8.0  # … up to this, and up to this for a peer that the operator named:
BACKOFF_STATIC = 2.0
BAN_S = 3600.0
STRIKES = 3  # lies until a ban; one may be a bug or a peer that was itself lied to


class PeerState(Enum):
    """What is known of a peer."""

    FRESH = "heard of"
    TRIED = "answered"
    FAILING = "does not answer"
    BANNED = "lied"


class Sign(Enum):
    """What a peer did."""

    ANSWERED = "answered"
    FAILED = "did not answer"
    LIED = "lied"
    PAROLE = "its ban ended"


# (state, what happened) → state. What is not listed changes nothing: only time ends a ban.
TRANSITIONS: Mapping[tuple[PeerState, Sign], PeerState] = MappingProxyType({
    (PeerState.FRESH, Sign.ANSWERED): PeerState.TRIED,
    (PeerState.FRESH, Sign.FAILED): PeerState.FAILING,
    (PeerState.FRESH, Sign.LIED): PeerState.BANNED,
    (PeerState.TRIED, Sign.FAILED): PeerState.FAILING,
    (PeerState.TRIED, Sign.LIED): PeerState.BANNED,
    (PeerState.FAILING, Sign.ANSWERED): PeerState.TRIED,
    (PeerState.FAILING, Sign.LIED): PeerState.BANNED,
    (PeerState.BANNED, Sign.PAROLE): PeerState.FRESH,
})  # fmt: skip


class Peer:
    """One peer that was contacted, or that the operator named."""

    __slots__ = ("failures", "reason", "state", "strikes", "until", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.state = PeerState.FRESH
        self.failures = 0
        self.strikes = 0
        self.until = 0.0  # not asked before
        self.reason = ""


class View:
    """The peers of the node at `own`."""

    __slots__ = (
        "_banned", "_deck", "_fresh", "_interval", "_random", "_ranges", "_secret", "_sources", "_static", "_tried",
        "own",
    )  # fmt: skip

    def __init__(self, own: str, random: Random, interval: float, static: Iterable[str] = ()) -> None:
        """Begin with the peers that the operator named; `interval` (seconds) is that of the gossip."""
        self.own = own
        self._interval = interval
        self._random = random
        self._static: dict[str, Peer] = {}
        self._tried: dict[str, Peer] = {}  # the oldest first
        self._secret = random.randbytes(8)
        self._fresh: dict[str, tuple[str, bytes]] = {}  # address → who told it, and its keyed hash
        self._sources: Counter[str] = Counter()  # of the fresh ones
        self._ranges: Counter[str] = Counter()  # of the fresh ones
        self._banned: OrderedDict[str, Peer] = OrderedDict()
        self._deck: list[str] = []
        for url in static:
            self.name(url)

    def name(self, url: str) -> None:
        """Keep `url` for good: the operator named it."""
        if url != self.own and url not in self._static and len(self._static) < MAX_STATIC:
            known = self._tried.pop(url, None)
            self._static[url] = known if known is not None else Peer(url)
            self._forget(url)
            self._deck.append(url)

    def hear(self, url: str, source: str) -> bool:
        """Note an address that `source` told; tell whether there was a place for it."""
        if (found := told(url, source, self.own)) is None:
            return False
        url = found
        if url == self.own or url in self._static or url in self._tried or url in self._banned or url in self._fresh:
            return False
        if self._sources[source] >= FROM_ONE:
            return False
        mine, key = range_of(url), self._key(url)
        if len(self._fresh) >= MAX_FRESH and not self._make_room(mine, key):
            return False
        self._fresh[url] = source, key
        self._sources[source] += 1
        self._ranges[mine] += 1
        return True

    def _key(self, url: str) -> bytes:
        return blake2b(url.encode(), key=self._secret, digest_size=8).digest()

    def _make_room(self, mine: str, key: bytes) -> bool:
        """Give up the last address, by keyed hash, of the fullest range; not for one of that range that comes later."""
        fullest = max(self._ranges, key=lambda name: self._ranges[name])
        same = self._ranges[mine] >= self._ranges[fullest]
        crowd = mine if same else fullest
        last = max((url for url in self._fresh if range_of(url) == crowd), key=lambda url: self._fresh[url][1])
        if same and self._fresh[last][1] <= key:
            return False
        return self._forget(last)

    def _forget(self, url: str) -> bool:
        """Remove a fresh address; tell whether it was one."""
        known = self._fresh.pop(url, None)
        if known is None:
            return False
        for counter, key in ((self._sources, known[0]), (self._ranges, range_of(url))):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        return True

    def _newest_of_fullest(self, mine: str) -> str | None:
        """Return the peer that answered last among those of the fullest range; None where that is the newcomer's own.

        Within one range who came first stays: an address that has been good for long is worth more.
        """
        ranges = Counter(map(range_of, self._tried))
        fullest = max(ranges, key=lambda name: ranges[name])
        if ranges[mine] >= ranges[fullest]:
            return None
        return next(url for url in reversed(self._tried) if range_of(url) == fullest)

    def peer(self, url: str) -> Peer | None:
        """Return what is known of a contacted or named peer."""
        return self._static.get(url) or self._tried.get(url) or self._banned.get(url)

    def knows(self, url: str) -> bool:
        """Tell whether an address is one that may be called: named, tried or heard of, and not banned."""
        return url in self._static or url in self._tried or url in self._fresh

    def _move(self, peer: Peer, sign: Sign) -> PeerState:
        peer.state = TRANSITIONS.get((peer.state, sign), peer.state)
        return peer.state

    def answered(self, url: str) -> None:
        """Note that the peer that we asked answered."""
        peer = self.peer(url)
        if peer is None:
            if not self._forget(url):
                return
            if len(self._tried) >= MAX_TRIED and not self._replace_failing():
                newest = self._newest_of_fullest(range_of(url))
                if newest is None:
                    return
                del self._tried[newest]
            peer = self._tried[url] = Peer(url)
        if self._move(peer, Sign.ANSWERED) is PeerState.TRIED:
            peer.failures, peer.until = 0, 0.0
            peer.reason = ""

    def _replace_failing(self) -> bool:
        failing = next((url for url, peer in self._tried.items() if peer.state is PeerState.FAILING), None)
        if failing is not None:
            del self._tried[failing]
        return failing is not None

    def failed(self, url: str, now: float, reason: str = "") -> None:
        """Note that the peer could not be asked; it is left alone for a while that doubles each time."""
        self._forget(url)
        peer = self.peer(url)
        if peer is not None and self._move(peer, Sign.FAILED) is PeerState.FAILING:
            most = BACKOFF_STATIC if url in self._static else BACKOFF_MOST
            peer.until = now + self._interval * min(BACKOFF * 2.0 ** min(peer.failures, 30), most)
            peer.failures += 1
            peer.reason = reason

    def called(self, url: str) -> None:
        """Note that somebody who says to be `url` called us: if it was not to be had before, it is worth a try."""
        peer = self.peer(url)
        if peer is not None and peer.state is PeerState.FAILING:
            peer.until = 0.0

    def lied(self, url: str, now: float, reason: str) -> bool:
        """Note that the peer that we asked said what cannot be true; tell whether it is banned now."""
        peer = self.peer(url)
        if peer is None:
            if url not in self._fresh:
                return False
            peer = Peer(url)
        peer.strikes += 1
        peer.reason = reason
        if peer.strikes < STRIKES:
            self.answered(url)
            if (kept := self.peer(url)) is not None:
                kept.strikes, kept.reason = peer.strikes, reason
            return False
        self._move(peer, Sign.LIED)
        peer.until = now + BAN_S
        self._forget(url)
        self._tried.pop(url, None)
        if url not in self._static:  # a named peer is only left alone: its operator's choice is kept
            self._banned[url] = peer
            if len(self._banned) > MAX_BANNED:
                self._banned.popitem(last=False)
        return True

    def _usable(self, url: str, now: float) -> bool:
        peer = self.peer(url)
        if peer is None:
            return url in self._fresh
        if peer.state is PeerState.BANNED and peer.until <= now:
            self._move(peer, Sign.PAROLE)
            peer.strikes = 0
            self._banned.pop(url, None)
            return url in self._static
        return peer.until <= now

    def pick(self, count: int, now: float, *, but: Sequence[str] = ()) -> list[str]:
        """Return up to `count` peers to talk to now, each a different one, none of `but`."""
        chosen: list[str] = []
        kept: list[str] = []
        shuffles = 0
        while len(chosen) < count:
            if not self._deck:
                if shuffles:
                    break
                shuffles += 1
                self._shuffle()
                continue
            url = self._deck.pop()
            if url in chosen or not self._usable(url, now):
                continue
            (kept if url in but else chosen).append(url)
        self._deck += kept
        return chosen

    def _shuffle(self) -> None:
        proven = [*self._static, *self._tried]
        most = max(4, len(proven))
        fresh = list(self._fresh)
        if len(fresh) > most:
            fresh = self._random.sample(fresh, most)
        self._deck = [*proven, *fresh]
        self._random.shuffle(self._deck)

    def share(self, count: int) -> tuple[str, ...]:
        """Return some peers that answered, to tell others."""
        known = [peer.url for peer in (*self._static.values(), *self._tried.values()) if peer.state is PeerState.TRIED]
        return tuple(self._random.sample(known, min(count, len(known))))

    @property
    def known(self) -> list[tuple[str, PeerState, str]]:
        """Every peer, its state and why; for people."""
        contacted = [*self._static.values(), *self._tried.values(), *self._banned.values()]
        fresh = [(url, PeerState.FRESH, f"told by {teller}") for url, (teller, _) in self._fresh.items()]
        return [(peer.url, peer.state, peer.reason) for peer in contacted] + fresh

    def __len__(self) -> int:
        """How many addresses are held, the banned ones too."""
        return len(self._static) + len(self._tried) + len(self._fresh) + len(self._banned)
