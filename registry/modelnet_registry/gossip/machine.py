"""What a node does with what it hears: events in, effects out. Time and randomness come in; nothing here does I/O.

    tick                  → exchange heads with a few peers (anti-entropy): whoever is behind is told or asks
    received(batch)       → compare, answer, and ask the judge about every item that is new
    judged(item, verdict) → what proved true is kept and pushed on at once; a lie counts against who told it
    learned(…)            → what this node found out by itself is pushed on likewise

Nothing is believed here, and nothing is relayed that the judge did not find true, except rumours: items about
publishers whose log is not here go into a small cache, are told when asked for, and count neither for nor against
anybody. Every table has a limit. When one is full, something is dropped, never delayed: heads are compared again with
somebody at every tick, so what was dropped is found again.

Negatives and evidence go before everything else, in every queue.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, ClassVar

from modelnet_registry.gossip.addresses import account_of
from modelnet_registry.gossip.asked import Asked
from modelnet_registry.gossip.effects import Also, Blame, Check, Config, Effect, News, Send, Serve, Verdict
from modelnet_registry.gossip.held import Held
from modelnet_registry.gossip.members import Members as MemberTable
from modelnet_registry.gossip.messages import (
    MAX_WANTS,
    Entries,
    Evidence,
    Head,
    Heads,
    Item,
    Marks,
    Members,
    Message,
    Negative,
    Note,
    Peers,
    Proof,
    Rumour,
    Stored,
    Want,
)
from modelnet_registry.gossip.rumours import Rumours
from modelnet_registry.gossip.sources import MAX_ASKED, Account, Source, Sources
from modelnet_registry.gossip.view import BAN_S, STRIKES, View

__all__ = ["Blame", "Check", "Config", "Effect", "Machine", "Send", "Serve", "Verdict", "url_of"]

MAX_CHECKS = 256  # items at the judge at one time …
MAX_CHECKS_LOW = 192  # … of which notes may take this much: there is always room for a negative
MAX_CHECKS_STRANGERS = 160  # … and those who call us this much: there is always room for whom we called
MAX_CHECKS_PEER = 32
MAX_CHECKS_BYTES = 4 * 1024 * 1024
MAX_SEEN = 4096  # hashes of items that were judged, so that a repetition costs a hash
PUSH_MOST = 64  # items pushed on in one interval; more waits for anti-entropy
PEERS_TOLD = 8
MEMBERS_TOLD = 16  # in one exchange, beside our own line
RUMOURS_FROM_ONE = 8  # rumours asked for in one exchange
MARK_COST = 0.1  # judgements that it costs to find one item that is asked for
SERVED = 2  # runs of a log in one exchange: one of usual entries fills a batch, and more would only cost memory


class Machine:
    """The gossip of one node. Not thread-safe: its driver serialises."""

    __slots__ = (
        "_asked", "_called", "_checking", "_checking_bytes", "_config", "_held", "_pushed", "_random", "_rumours",
        "_seen", "_sources", "_ticks", "_waking", "_wall", "members", "refused", "view",
    )  # fmt: skip

    def __init__(self, own: str, config: Config, random: Random, static: Iterable[str] = ()) -> None:
        """Make the machine of the node at the URL `own`; `random` must be unpredictable to peers."""
        self.view = View(own, random, config.interval, static)
        self.members = MemberTable(own, config.interval)
        self._held = Held(config.heads, random)
        self.refused = 0  # items, for people to see
        self._config = config
        self._random = random
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._checking: dict[bytes, tuple[str, Source, Item | Entries | Proof, bool]] = {}
        self._checking_bytes = 0
        self._called = False  # whether we called whom we are listening to
        self._rumours = Rumours(config.rumours)
        self._waking: list[Item] = []  # rumours about publishers whose log came since
        self._sources = Sources(config)
        self._asked = Asked()
        self._pushed = 0
        self._ticks = 0
        self._wall = 0

    # What the driver tells.

    def follow(self, pid: str) -> None:
        """Care about a publisher, also before anything of its log is here."""
        self._held.follow(pid)

    def learned(self, head: Head, marks: Iterable[bytes] = (), *, now: float, tell: bool = True) -> list[Effect]:
        """Note what this node knows by itself: a head, and marks of the negatives and evidence it holds."""
        stored: list[Stored] = []
        if self._adopt(head):
            stored.append(Stored(head.pid))
        stored += [Stored(head.pid, mark) for mark in marks if self._held.hold(head.pid, mark)]
        return self._wake(now) + (self._push(stored, now, own=True) if tell else [])

    def tick(self, now: float, wall: int = 0) -> list[Effect]:
        """Compare heads with a few peers; to be called once in an interval. `wall` is the clock in unix seconds."""
        self._ticks += 1
        self._wall = wall
        self._pushed = 0
        self._asked.sweep(now)
        messages: list[Message | Stored] = [Heads((), ask=True) if self._config.quiet else self._told(ask=True)]
        if self._config.peers_every and self._ticks % self._config.peers_every == 1:
            messages.append(Peers(()))
        if lines := self.members.tell(MEMBERS_TOLD, self._random, now, wall):
            messages.append(Members(lines))
        sends = [Send(peer, tuple(messages)) for peer in self.view.pick(self._config.contacts, now)]
        return [*sends, *self._wake(now)]

    def failed(self, peer: str, now: float, reason: str = "") -> list[Effect]:
        """Note that a peer could not be reached."""
        self.view.failed(peer, now, reason)
        return []

    def malformed(self, peer: str, now: float, reason: str) -> list[Effect]:
        """Note that what `peer` sent means nothing."""
        return [self._blame(peer, self._sources.of(peer, now), now, reason)]

    def met(self, url: str, source: str) -> bool:
        """Note an address; `source` is who told it (`mdns`, a peer, the peer itself)."""
        return self.view.hear(url, source)

    def received(
        self, peer: str, messages: Sequence[Message], now: float, *, size: int = 0, asked: bool = False
    ) -> list[Effect]:
        """Take a batch of `size` bytes; `asked` says that we called `peer`, so it is who it says it is.

        Who calls us is `address url`: the address is its own, the URL is what it says, and may be empty.
        """
        source = self._sources.of(peer, now)
        if asked:
            self.view.answered(peer)
        else:
            self.view.called(url_of(peer))
        if source.account.muted > now:
            return []
        self._called = asked
        if not source.bytes(size, now):
            return [Blame(peer, "too many bytes")]
        effects: list[Effect] = []
        answer: list[Message | Stored] = []
        for message in sorted(messages, key=_priority) if len(messages) > 1 else messages:
            self.RECEIVED[type(message)](self, peer, message, now, answer, effects)
            if not asked and isinstance(message, Peers):
                answer.append(Peers(self.view.share(PEERS_TOLD)))
        if answer:
            effects.append(Send(peer, tuple(sorted(answer, key=_priority))))
        return effects

    def judged(
        self, key: bytes, verdict: Verdict, now: float, *, head: Head | None = None, mark: bytes | None = None,
        reason: str = "", found: Iterable[bytes] = (), need: Want | None = None,
    ) -> list[Effect]:  # fmt: skip
        """Take the judge's answer: with the head that is known now, or the mark of the negative or evidence.

        `found` are marks of evidence that the judge made out of what it was shown; `need` is what it lacks for a
        judgement and could not fetch by itself.
        """
        entry = self._checking.pop(key, None)
        if entry is None:
            return [Blame("", "the judge answered what it was not asked", remote=False)]
        peer, source, item, rumour = entry
        self._checking_bytes -= _weight(item)
        source.waits(-1)
        effects: list[Effect] = []
        stored: list[Stored] = []
        match verdict:
            case Verdict.NEW | Verdict.KNOWN:
                self._remember(key)
                if head is not None and self._adopt(head):
                    stored.append(Stored(head.pid))
                if mark is not None and self._held.hold(item.pid, mark):
                    stored.append(Stored(item.pid, mark))
            case Verdict.UNKNOWN:
                if isinstance(item, Note | Negative | Evidence):
                    self._rumours.keep(item, key)
            case Verdict.FALSE:
                self._remember(key)
                self.refused += 1
                if not rumour:
                    effects.append(self._blame(peer, source, now, reason or "what it told is not true"))
            case Verdict.BETRAYED:
                # Not remembered: another peer may tell the same and have the log that proves it.
                self.refused += 1
                effects.append(self._blame(peer, source, now, reason or "its log is false"))
            case Verdict.LATER if need is not None:
                effects.append(Send(peer, (need,)))
                for origin, *_ in (*need.entries, *need.proofs):
                    until = now + 2 * self._config.interval
                    self._asked.ask((peer, "parts", origin), source.account, now, until, called=True)
            case Verdict.LATER:
                pass
        stored += [Stored(item.pid, other) for other in found if self._held.hold(item.pid, other)]
        return effects + self._wake(now) + self._push(stored, now, but=peer)

    # What peers say, one method for each kind of message; see RECEIVED.

    def _heads(
        self, peer: str, message: Heads, now: float, answer: list[Message | Stored], _effects: list[Effect]
    ) -> None:
        if self._held.are(message.lines):  # the usual case: nothing happened since
            return
        notes: list[str] = []
        rumours = 0
        account = self._sources.of(peer, now).account
        for head, marks in message.lines:
            mine = self.heads.get(head.pid)
            if mine is None:
                if rumours < min(RUMOURS_FROM_ONE, self._config.rumours):
                    known = self._rumours.note(head.pid)
                    newer = known is None or known.head.place < head.place
                    if newer and self._may_ask(peer, account, head, now):
                        rumours += 1
                        notes.append(head.pid)
                continue
            forked = head.place == mine.place and head.root != mine.root
            newer = head.place > mine.place or forked or (head.place == mine.place and head.time > mine.time)
            if newer and self._may_ask(peer, account, head, now, known=head[:4] == mine[:4]):
                notes.append(head.pid)
            if head.place < mine.place or forked or (head.place == mine.place and head.time < mine.time):
                self._tell(Stored(head.pid), answer)
            if marks != self._held.sums.get(head.pid, 0):
                self._tell_marks(head.pid, answer, ask=True)
        if notes:
            answer.append(Want(tuple(notes[:MAX_WANTS])))
        if message.ask and not self._config.quiet:
            rest = self._told(ask=False, but={line.head.pid for line in message.lines})
            if rest.lines:
                answer.append(rest)

    def _may_ask(self, peer: str, account: Account, head: Head, now: float, *, known: bool = False) -> bool:
        """Ask a peer for the same head at most twice in an interval: its log may have to be fetched meanwhile.

        A head that is `known` but for its time is asked for seldom: nodes that trust other witnesses never agree on it.
        """
        called, interval = self._called, self._config.interval
        if not known:
            return self._asked.ask((peer, head.origin), account, now, now + interval / 2, called=called)
        # Times can be invented without end, and are remembered for long: they leave room for what is more than that.
        key = (peer, head.origin, str(head.time))
        return account.asked < MAX_ASKED // 4 and self._asked.ask(key, account, now, now + 20 * interval, called=called)

    def _tell(self, stored: Stored, answer: list[Message | Stored]) -> None:
        if not self._config.quiet:
            answer.append(stored)

    def _tell_marks(self, pid: str, answer: list[Message | Stored], *, ask: bool) -> None:
        marks = () if self._config.quiet else tuple(self._held.marks.get(pid, ()))
        answer.append(Marks(pid, marks, ask))

    def _compare_marks(
        self, _peer: str, message: Marks, _now: float, answer: list[Message | Stored], _effects: list[Effect]
    ) -> None:
        mine = self._held.marks.get(message.pid, {})
        theirs = dict.fromkeys(message.marks)
        missing = [(message.pid, mark) for mark in theirs if mark not in mine]
        if message.pid in self.heads and missing:
            answer.append(Want(marks=tuple(missing)))
        if message.ask:
            for mark in mine:
                if mark not in theirs:
                    self._tell(Stored(message.pid, mark), answer)

    def _want(
        self, peer: str, message: Want, now: float, answer: list[Message | Stored], effects: list[Effect]
    ) -> None:
        for pid in dict.fromkeys(message.notes):
            if pid in self.heads:
                if self.heads[pid].size:
                    self._tell(Stored(pid), answer)
            elif (rumour := self._rumours.note(pid)) is not None:
                answer.append(Rumour(rumour))
        source = self._sources.of(peer, now)
        for pid, mark in dict.fromkeys(message.marks):
            if mark in self._held.marks.get(pid, ()) and source.checks(MARK_COST, now):
                self._tell(Stored(pid, mark), answer)
        if not self._config.quiet:
            known = [run for run in dict.fromkeys(message.entries) if run[0][15:67] in self.heads][:SERVED]
            runs = [Serve(peer, *run) for run in known]
            known = [run for run in dict.fromkeys(message.proofs) if run[0][15:67] in self.heads][:SERVED]
            runs += [Serve(peer, *run, proof=True) for run in known]
            # Reading a log costs about as much as a few signatures.
            effects += [run for run in runs if source.checks(4, now)]

    def _peers(
        self, peer: str, message: Peers, now: float, _answer: list[Message | Stored], _effects: list[Effect]
    ) -> None:
        # Addresses are taken from whom we asked only: nobody fills our view by calling us often.
        if self._called and self._sources.of(peer, now).rumours(64 * len(message.urls), now):
            for url in message.urls[:PEERS_TOLD]:
                self.view.hear(url, peer)

    def _hear_members(
        self, peer: str, message: Members, now: float, _answer: list[Message | Stored], _effects: list[Effect]
    ) -> None:
        if self._sources.of(peer, now).rumours(64 * len(message.lines), now):
            self.members.hear(message.lines, now, self._wall, account_of(peer))

    def _item(
        self, peer: str, message: Item | Entries | Proof, now: float, _answer: list[Message | Stored],
        effects: list[Effect], *, rumour: bool = False,
    ) -> None:  # fmt: skip
        source = self._sources.of(peer, now)
        if isinstance(message, Entries | Proof):
            # Only what was asked for: anything else could be made up without end.
            if not self._asked.answered((peer, "parts", message.origin), now):
                return
        elif message.pid not in self.heads:
            if source.rumours(len(message.content), now):
                self._rumours.keep(message, _key(message))
            return
        elif isinstance(message, Note) and message.head.epoch < self.heads[message.pid].epoch:
            return  # of a branch that a recovery dropped
        key = _key(message)
        if key in self._seen:
            return
        if key in self._checking:
            # Who told it first may be slow to give the log that it is of, and another one not.
            if isinstance(message, Note) and peer != self._checking[key][0] and source.checks(1, now):
                effects.append(Also(key, peer))
            return
        if not self._has_room(message, source) or not source.checks(1, now):
            return
        if not self._called and not self._sources.strangers.take(1, now):
            return  # a thousand strangers get no more of the judge than a few; whom we call ourselves is not among them
        effects.append(self._check(key, peer, source, message, rumour=rumour))

    def _has_room(self, item: Item | Entries | Proof, source: Source) -> bool:
        """Tell whether one more item may wait for the judge."""
        most = MAX_CHECKS if isinstance(item, Negative | Evidence) else MAX_CHECKS_LOW
        most = most if self._called else min(most, MAX_CHECKS_STRANGERS)
        full = len(self._checking) >= most or self._checking_bytes + _weight(item) > MAX_CHECKS_BYTES
        return not full and source.may_wait(MAX_CHECKS_PEER)

    def _check(
        self, key: bytes, peer: str, source: Source, item: Item | Entries | Proof, *, rumour: bool = False
    ) -> Check:
        source.waits(1)
        self._checking_bytes += _weight(item)
        self._checking[key] = (peer, source, item, rumour)
        return Check(key, item, peer)

    def _rumour(
        self, peer: str, message: Rumour, now: float, answer: list[Message | Stored], effects: list[Effect]
    ) -> None:
        if self._sources.of(peer, now).rumours(len(message.item.content), now):
            self._item(peer, message.item, now, answer, effects, rumour=True)

    def _wake(self, now: float) -> list[Effect]:
        """Judge rumours about publishers whose log came since, as many as there is room for; nobody is to blame."""
        effects: list[Effect] = []
        self._called = True  # it was paid for when it came
        source = self._sources.of("rumours", now)
        while self._waking and self._has_room(self._waking[0], source):
            item = self._waking.pop(0)
            key = _key(item)
            if item.pid in self.heads and key not in self._seen and key not in self._checking:
                effects.append(self._check(key, "", source, item, rumour=True))
        return effects

    # Which method takes which message: the whole of what a peer can make a machine do.
    RECEIVED: ClassVar[Mapping[type[Any], Callable[..., None]]] = MappingProxyType({
        Heads: _heads, Marks: _compare_marks, Want: _want, Peers: _peers, Rumour: _rumour,
        Members: _hear_members,
        Note: _item, Negative: _item, Evidence: _item, Entries: _item, Proof: _item,
    })  # fmt: skip

    # What is kept.

    def _adopt(self, head: Head) -> bool:
        """Take over a head that is true; tell whether it is news."""
        mine = self.heads.get(head.pid)
        if not self._held.adopt(head):
            return False
        if mine is None or not mine.size:
            self._waking += sorted(self._rumours.wake(head.pid), key=_priority)
        return True

    def _remember(self, key: bytes) -> None:
        self._seen[key] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    # What is told.

    def told(self) -> Heads:
        """Return the heads that this node tells everybody; none in quiet mode."""
        return Heads((), ask=False) if self._config.quiet else self._told(ask=False)

    def _told(self, *, ask: bool, but: Iterable[str] = ()) -> Heads:
        """Return the heads to tell."""
        lines = self._held.lines(self._rumours.heads())
        return Heads(tuple(line for line in lines if line.head.pid not in but) if but else lines, ask)

    def _push(self, stored: Sequence[Stored], now: float, *, but: str = "", own: bool = False) -> list[Effect]:
        """Tell news at once, to a few peers; a flood of news waits for the next exchange."""
        room = PUSH_MOST - self._pushed
        if not stored or room <= 0 or (self._config.quiet and not own):
            return []
        self._pushed += len(stored)
        chosen = tuple(sorted(stored, key=_priority)[:room])
        peers = self.view.pick(self._config.push, now, but=(url_of(but),))
        return [News(chosen), *(Send(peer, chosen) for peer in peers)]

    def _blame(self, peer: str, source: Source, now: float, reason: str) -> Blame:
        if source.lied(now) >= STRIKES:
            source.account.strikes, source.account.muted = 0, now + BAN_S
        # Who called us may lie about its address: then the view knows nobody of that name, and nobody is defamed.
        return Blame(peer, reason, self.view.lied(peer, now, reason))

    @property
    def sizes(self) -> dict[str, int]:
        """How full each table is; for people, and for tests of the limits."""
        return {
            "publishers": len(self.heads), "marks": sum(map(len, self._held.marks.values())), "seen": len(self._seen),
            "checking": len(self._checking), "rumours": len(self._rumours), "sources": len(self._sources),
            "asked": len(self._asked), "hot": self._held.hot, "peers": len(self.view),
            "members": len(self.members),
        }  # fmt: skip

    @property
    def heads(self) -> dict[str, Head]:
        """Where the logs stand that this node cares about."""
        return self._held.heads

    @property
    def marks(self) -> Mapping[str, Mapping[bytes, None]]:
        """The marks held, by publisher."""
        return MappingProxyType(self._held.marks)


_PRIORITIES: dict[type[Any], int] = {
    Negative: 0,
    Evidence: 0,
    Rumour: 2,
    Note: 1,
    Want: 1,
    Marks: 1,
    Heads: 1,
    Entries: 3,
    Proof: 3,
}


def url_of(peer: str) -> str:
    """Return the URL in the name of a peer: what a caller, named `address url`, says that it is."""
    return peer.rpartition(" ")[2]


def _priority(message: Message | Stored) -> int:
    if isinstance(message, Stored):
        return 1 if message.mark is None else 0
    return _PRIORITIES.get(type(message), 4)


def _key(item: Item | Entries | Proof) -> bytes:
    content = item.body() if isinstance(item, Entries | Proof) else item.content
    return hashlib.sha256(item.KIND.encode() + content).digest()[:16]


def _weight(item: Item | Entries | Proof) -> int:
    if isinstance(item, Entries):
        return sum(map(len, item.entries))
    return 32 * len(item.hashes) if isinstance(item, Proof) else len(item.content)
