"""Many nodes on a simulated network; each one is the very machine that a node runs (`modelnet_registry.gossip`).

    network = Network(Setting(nodes=1000, seed=1))
    network.start()
    network.run(2.0)                      # gossip intervals
    network.tell(0, REVOCATION)           # node 0 learns something
    network.run_until(lambda: network.informed(REVOCATION) == 1000, limit=50)

What is simulated is only what lies between machines: a message takes up to `delay` intervals, is lost with
probability `loss`, and does not cross a partition. Its size is what it would have on the wire, without HTTP around it.
The judge is the truth itself: an item is true if the simulation made it. Time is in gossip intervals, never in
milliseconds: how long an interval is, the operator chooses.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from modelnet_registry.gossip.effects import Also, Blame, Check, Config, Effect, News, Send, Verdict
from modelnet_registry.gossip.machine import Machine
from modelnet_registry.gossip.messages import Head, Heads, Item, Message, Negative, Note, Peers, Stored
from modelnet_registry.gossip.view import PeerState

__all__ = ["ADVERSARIES", "PID", "Network", "Setting", "head", "negative"]

PID = "a" * 52
UNASKED = (False,)  # a message that is no answer
BATCH = 40  # bytes of a batch's first line
NOTE = 480  # bytes of a head with one cosignature, as the test publisher's are
REVOCATION = 1100  # bytes of a revocation of one release
ADVERSARIES = ("withhold", "replay", "flood", "eclipse")


@dataclass(frozen=True)
class Setting:
    """One network; times in gossip intervals."""

    nodes: int
    seed: int = 1
    peers: int = 24  # addresses that each node begins with, drawn at random
    delay: float = 0.05  # the longest time that a message is under way
    loss: float = 0.0
    hostile: float = 0.0  # share of the nodes that are adversaries …
    attack: str = "withhold"  # … of this kind
    churn: float = 0.0  # share of the nodes that leave in each interval; each stays away for about three
    poisson: bool = False  # clocks as the theorems have them; a node's own clock has a jitter of 10 %
    config: Config = field(default_factory=lambda: Config(interval=1.0, peers_every=0))


@cache
def head(size: int) -> Head:
    """Return the head of the simulated publisher's log at `size`."""
    return Head(PID, 0, size, hashlib.sha256(b"%d" % size).digest(), size)


@cache
def note(size: int) -> Note:
    """Return the note of that head."""
    return Note(head(size), (b"%d" % size).ljust(NOTE, b"n"))


@cache
def negative(number: int) -> Negative:
    """Return a revocation."""
    return Negative(PID, (b"%d" % number).ljust(REVOCATION, b"r"))


def mark(item: Negative) -> bytes:
    """Return the mark of a revocation."""
    return hashlib.sha256(item.content).digest()[:16]


class Network:
    """The nodes and what lies between them."""

    def __init__(self, setting: Setting) -> None:
        """Make the nodes; nothing runs yet."""
        self.setting = setting
        self.random = random.Random(setting.seed)
        self.names = [f"http://{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}.1:8710" for n in range(setting.nodes)]
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.now = 0.0
        self.bytes = array("q", bytes(8 * setting.nodes))
        self.messages = 0
        self.partition: Callable[[int], int] | None = None
        self.up = bytearray(b"\x01" * setting.nodes)
        hostile = self.random.sample(range(1, setting.nodes), int(setting.hostile * setting.nodes))
        self.hostile = bytearray(setting.nodes)
        for number in hostile:
            self.hostile[number] = 1
        self.honest = setting.nodes - len(hostile)
        self._liars = [self.names[number] for number in hostile]
        self.held: dict[bytes, dict[int, float]] = {}  # mark → node → how long it had been up when it learned it
        self._began: dict[bytes, list[float]] = {}  # mark → how long each node had been up when it was issued
        self._count: dict[bytes, int] = {}  # mark → honest nodes that hold it
        self._was_up = array("d", bytes(8 * setting.nodes))
        self._since = array("d", bytes(8 * setting.nodes))
        self.items: dict[bytes, Negative] = {}
        self.latest: dict[int, float] = {}
        self._queue: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._order = 0
        self.machines = [self._machine(number) for number in range(setting.nodes)]

    def _machine(self, number: int) -> Machine:
        # One source of randomness for all: a generator each would take 2.5 kB.
        machine = Machine(self.names[number], self.setting.config, self.random)
        machine.follow(PID)
        for _ in range(self.setting.peers):
            other = self.random.randrange(self.setting.nodes)
            if other != number:
                # As if each had been heard from somebody else: what is measured is not the first contact.
                machine.view.hear(self.names[other], str(other & 31))
        return machine

    def start(self, size: int = 5) -> None:
        """Give every node the same log, and set its clock going at a random moment."""
        for number, machine in enumerate(self.machines):
            machine.learned(head(size), now=0.0, tell=False)
            self._at(self.random.random(), "tick", number)
        if self.setting.churn:
            self._at(self.random.random(), "churn")

    def tell(self, number: int, item: Negative) -> None:
        """Let node `number` learn a revocation by itself, as its publisher does."""
        found = mark(item)
        self.items[found] = item
        self.held[found] = {}
        self._count[found] = 0
        self._began[found] = [self._uptime(other) for other in range(self.setting.nodes)]
        self._learn(number, found)
        machine = self.machines[number]
        self._do(number, machine.learned(machine.heads[PID], [found], now=self.now))

    def _learn(self, number: int, found: bytes) -> None:
        if number not in self.held[found]:
            self.held[found][number] = self._uptime(number)
            self._count[found] += not self.hostile[number]

    def _uptime(self, number: int) -> float:
        return self._was_up[number] + (self.now - self._since[number] if self.up[number] else 0.0)

    def publish(self, number: int, size: int) -> None:
        """Let node `number` have a longer log."""
        self.latest = {number: self.now}
        self._do(number, self.machines[number].learned(head(size), now=self.now))

    def informed(self, item: Negative) -> float:
        """Return the share of the honest nodes that hold a revocation; with churn, of those that are up."""
        found = mark(item)
        if not self.setting.churn:
            return self._count[found] / self.honest
        held = self.held[found]
        up = [number for number in range(self.setting.nodes) if self.up[number] and not self.hostile[number]]
        return sum(number in held for number in up) / len(up)

    def stale(self, item: Negative) -> float:
        """Return for how long honest nodes were up without a revocation since it was issued, in node-intervals."""
        found = mark(item)
        held, began = self.held[found], self._began[found]
        return sum(
            (held[number] if number in held else self._uptime(number)) - began[number]
            for number in range(self.setting.nodes)
            if not self.hostile[number]
        )

    def captured(self) -> tuple[float, float]:
        """Return the share of adversaries among the peers of honest nodes: on average, and for the worst node."""
        liars = set(self._liars)
        shares = []
        for number, machine in enumerate(self.machines):
            tried = [url for url, state, _ in machine.view.known if state is PeerState.TRIED]
            if tried and not self.hostile[number]:
                shares.append(sum(url in liars for url in tried) / len(tried))
        return sum(shares) / len(shares), max(shares)

    def run(self, until: float) -> None:
        """Run until that time."""
        self.run_until(lambda: False, until)

    def run_until(self, done: Callable[[], bool], limit: float) -> float:
        """Run until `done()`, asked now and then, or the time `limit`; return the time."""
        steps, often = 0, max(16, self.setting.nodes // 16)
        while self._queue and self._queue[0][0] <= limit:
            self.now, _, what, arguments = heapq.heappop(self._queue)
            getattr(self, f"_{what}")(*arguments)
            steps += 1
            if steps % often == 0 and done():
                return self.now
        self.now = max(self.now, limit) if not done() else self.now
        return self.now

    def _at(self, time: float, what: str, *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._queue, (time, self._order, what, arguments))

    def _tick(self, number: int) -> None:
        step = self.random.expovariate(1.0) if self.setting.poisson else self.random.uniform(0.9, 1.1)
        self._at(self.now + step, "tick", number)
        if not self.up[number]:
            return
        if self.hostile[number] and self.setting.attack in ("flood", "replay", "eclipse"):
            self._attack(number)
        self._do(number, self.machines[number].tick(self.now))

    def _churn(self) -> None:
        """Some leave, and some of those that are away come back; nobody forgets anything."""
        self._at(self.now + 0.1, "churn")
        for number in range(1, self.setting.nodes):
            chance = self.setting.churn / 10 if self.up[number] else 1 / 30
            if self.random.random() < chance:
                self._was_up[number] = self._uptime(number)
                self._since[number] = self.now
                self.up[number] ^= 1

    def _reaches(self, one: int, other: int) -> bool:
        if not self.up[one] or not self.up[other]:
            return False
        return self.partition is None or self.partition(one) == self.partition(other)

    def _do(self, number: int, effects: Iterable[Effect], partner: str = "") -> bool:
        """Do what a machine asks for; tell whether it had something to say to `partner`."""
        answered = False
        for effect in effects:
            match effect:
                case Send(peer, messages):
                    answered = answered or peer == partner
                    self._post(number, peer, messages, answer=peer == partner)
                case Check(key, item):
                    self._judge(number, key, item)
                case Also() | Blame() | News():
                    pass
                case _:
                    raise AssertionError(effect)
        return answered

    def _judge(self, number: int, key: bytes, item: object) -> None:
        machine = self.machines[number]
        match item:
            case Note(found):
                true = found == head(found.size)
                fresh = found.place > machine.heads[PID].place
                if true and fresh:
                    self.latest.setdefault(number, self.now)
                verdict = (Verdict.NEW if fresh else Verdict.KNOWN) if true else Verdict.FALSE
                self._do(number, machine.judged(key, verdict, self.now, head=found if true else None))
            case Negative():
                found_mark = mark(item)
                if found_mark in self.items:
                    self._learn(number, found_mark)
                    effects = machine.judged(key, Verdict.NEW, self.now, mark=found_mark)
                else:
                    effects = machine.judged(key, Verdict.FALSE, self.now)
                self._do(number, effects)

    def _post(self, sender: int, peer: str, messages: Sequence[Message | Stored], *, answer: bool) -> None:
        receiver = self.numbers[peer]
        if self.hostile[sender] and self.setting.attack == "withhold":
            # It listens, and keeps to itself what it hears.
            messages = [message for message in messages if isinstance(message, Heads)]
        if self.hostile[sender] and self.setting.attack == "eclipse":
            messages = [self._invitation() if isinstance(message, Peers) else message for message in messages]
        if not messages:
            return
        solid: list[Message] = []
        size = BATCH
        for message in messages:
            item = self._content(sender, message) if isinstance(message, Stored) else message
            solid.append(item)
            size += _size(item)
        self.bytes[sender] += size
        self.messages += 1
        if not self._reaches(sender, receiver):
            self.machines[sender].failed(peer, self.now)
            return
        if self.setting.loss and self.random.random() < self.setting.loss:
            return
        delay = self.random.random() * self.setting.delay
        if delay == 0.0:
            self._deliver(sender, receiver, solid, size, answer)  # an exchange is one step, as in the theorems
        else:
            self._at(self.now + delay, "deliver", sender, receiver, solid, size, answer)

    def _content(self, number: int, stored: Stored) -> Item:
        if stored.mark is None:
            return note(self.machines[number].heads[PID].size)
        return self.items[stored.mark]

    def _deliver(self, sender: int, receiver: int, messages: list[Message], size: int, answer: bool) -> None:  # noqa: FBT001
        if not self._reaches(sender, receiver):
            return
        machine, name = self.machines[receiver], self.names[sender]
        if not answer:
            machine.met(name, name)
        said = self._do(receiver, machine.received(name, messages, self.now, size=size, asked=answer), name)
        if not answer and not said:
            # Who has nothing to say answers all the same, and so shows that it is there.
            self.bytes[receiver] += BATCH
            if self.setting.delay:
                self._at(self.now + self.random.random() * self.setting.delay, "hear", sender, self.names[receiver])
            else:
                self._hear(sender, self.names[receiver])

    def _hear(self, number: int, peer: str) -> None:
        """Take an empty answer."""
        if self.up[number]:
            self.machines[number].received(peer, [], self.now, size=BATCH, asked=True)

    def _invitation(self) -> Peers:
        return Peers(tuple(self.random.sample(self._liars, min(32, len(self._liars)))))

    def _attack(self, number: int) -> None:
        """Send what an adversary would to whoever it knows."""
        targets = self.random.sample(range(self.setting.nodes), 4)
        for target in targets:
            match self.setting.attack:
                case "replay":
                    forged: list[Message] = [note(1), Heads((), ask=True)]
                case "flood":
                    forged = [negative(-self.random.randrange(1, 1 << 30)) for _ in range(40)]
                case _:
                    forged = [self._invitation()]
            size = BATCH + sum(map(_size, forged))
            if self._reaches(number, target):
                self.bytes[number] += size
                self._at(
                    self.now + self.random.random() * self.setting.delay,
                    "deliver",
                    number,
                    target,
                    forged,
                    size,
                    *UNASKED,
                )


_SIZES: dict[int, int] = {}


def _size(message: Message) -> int:
    """Return the message's bytes on the wire; messages that are sent again and again are measured once."""
    if isinstance(message, Note | Negative):
        return len(message.content) + 70
    if isinstance(message, Heads):
        return 40 + 145 * len(message.lines)
    return len(message.body()) + 16
