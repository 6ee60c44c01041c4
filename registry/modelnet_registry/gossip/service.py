"""The gossip of a running node: the machine, with threads, sockets, a clock and the store's judge.

    with GossipService(judge, Config(), static=["http://10.0.0.5:8710"]) as service:
        door = GossipDoor(service.answer)                    # what peers send us
        service.listen("http://10.0.0.7:8710")               # how peers can reach us; starts the clock

Threads: one keeps time and looks whether another process changed the store; a few exchange batches with peers; those of
the judge (`modelnet_registry.gossip.bench`). The machine is used under one lock, and nothing slow is done in it. Every
queue is bounded; what does not fit is dropped, and found again by comparing heads.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import SystemRandom
from types import TracebackType
from typing import Any, Protocol, Self

from modelnet.errors import MalformedError, ModelnetError, UnavailableError
from modelnet.stores.logindex import LogRow
from modelnet_registry.gossip.addresses import canonical, host_of, told
from modelnet_registry.gossip.bench import Bench
from modelnet_registry.gossip.effects import Also, Blame, Check, Config, Effect, News, Send, Serve
from modelnet_registry.gossip.journal import Journal
from modelnet_registry.gossip.judge import Judge, Judgement, Snapshot
from modelnet_registry.gossip.machine import Machine, url_of
from modelnet_registry.gossip.messages import (
    NOBODY,
    Evidence,
    Head,
    Message,
    Negative,
    Stored,
    encode_batch,
    parse_batch,
)  # fmt: skip
from modelnet_registry.gossip.post import exchange
from modelnet_registry.gossip.shelf import Shelf

__all__ = ["Broadcast", "GossipService"]

log = logging.getLogger("modelnet_registry.gossip")
log.addHandler(logging.NullHandler())

SENDERS = 4
MAX_LEGS = 3  # batches sent in one exchange: compare, tell and ask, tell what was asked for
MAX_SENDS = 256  # exchanges that wait for a sender
LOOK_S = 1.0  # how often the store is looked at for what other processes changed; with short intervals, half of one
STOP_S = 3.0

Exchange = Callable[[str, bytes], bytes]


class Broadcast(Protocol):
    """A bus that reaches everybody at once and may lose anything, as Kubo pubsub."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Tell everybody, as far as it fits."""

    def relay(self, messages: Sequence[Message]) -> None:
        """Tell it after a while, unless somebody else was faster."""


class GossipService:
    """The gossip of one node. `answer`, `met` and the reading properties may be called from any thread."""

    def __init__(
        self, judge: Judge, config: Config | None = None, *, static: Iterable[str] = (), follow: Iterable[str] = (),
        exchange: Exchange = exchange, changed: Callable[[str], None] = lambda _pid: None,
        said: Callable[[str], None] = lambda _words: None, guard: Callable[[str], None] = lambda _url: None,
    ) -> None:  # fmt: skip
        """Judge with `judge`; `changed(pid)` is called, in a thread of ours, when more is known of a publisher.

        `said` is called with what the operator should read at once; `guard` raises for a URL that may not be called.
        """
        self.guard = guard
        self._said = said
        self.config = config or Config()
        self._judge = judge
        self._exchange = exchange
        self._changed = changed
        self._machine = Machine("", self.config, SystemRandom(secrets.randbits(64)), static)
        self._lock = threading.Lock()
        self._own = NOBODY
        self._stop = threading.Event()
        self._sends: queue.Queue[tuple[str, tuple[Message | Stored, ...]]] = queue.Queue(MAX_SENDS)
        self._bench = Bench(judge, self.config.interval, self._settle)
        self._shelf = Shelf(judge)
        self._known: dict[str, Snapshot] = {}
        self._rows: dict[str, LogRow] = {}
        self._broadcasts: list[Broadcast] = []
        self._threads: list[threading.Thread] = []
        self.journal = Journal()
        self.buses: dict[str, str] = {}  # bus → why it does not work, empty where it does
        self.transfers: dict[str, tuple[int, int]] = {}  # locator → bytes that came, and all of them
        for pid in follow:
            self._machine.follow(pid)

    # Life.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def listen(self, url: str) -> None:
        """Begin; `url` is where peers reach this node, or empty when they cannot."""
        self._own = url or NOBODY
        self._machine.view.own = self._machine.members.own = url
        jobs: list[tuple[str, Callable[[], None]]] = [("clock", self._keep_time), *self._bench.jobs()]
        jobs += [(f"send-{n}", self._send_all) for n in range(SENDERS)]
        for name, job in jobs:
            thread = threading.Thread(target=self._guard, args=(job,), name=f"gossip-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End all threads; what they were doing is found again by the next run."""
        self._stop.set()
        self._bench.stop()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def add_broadcast(self, bus: Broadcast) -> None:
        """Tell news on `bus` as well."""
        self._broadcasts.append(bus)

    def _guard(self, job: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                job()
            except Exception as error:  # the boundary of the thread: one bad message must not end gossip
                log.error("gossip failed: %s: %s", type(error).__name__, error)  # noqa: TRY400
                log.debug("trace", exc_info=error)
                self.counts["failures"] += 1
                self._stop.wait(1.0)

    # What comes in.

    def answer(self, remote: str, body: bytes) -> bytes:
        """Take a batch that a peer sent us and return our answer; raise `MalformedError` where it is none."""
        try:
            sender, messages = parse_batch(body)
        except MalformedError as error:
            self._note("malformed", remote, str(error))
            with self._lock:
                self._blamed(self._machine.malformed(f"{remote} ", time.monotonic(), str(error)))
            raise
        url = self._believable(sender, remote)
        key = f"{remote} {url}"
        with self._lock:
            if url:
                self._machine.met(url, remote)
            effects = self._machine.received(key, messages, time.monotonic(), size=len(body))
        return encode_batch(self._own, self._dispatch(effects, key))

    def heard(self, source: str, sender: str, messages: Sequence[Message], size: int) -> list[Message]:
        """Take what a broadcast bus brought from `source`, who says that `sender` is its URL; return our answer."""
        if sender != NOBODY:
            self.met(sender, source)
        with self._lock:
            key = f"{source} {sender if self._machine.view.knows(sender) else ''}"
            effects = self._machine.received(key, messages, time.monotonic(), size=size)
        return list(self._dispatch(effects, key))

    def heard_nonsense(self, source: str, reason: str) -> None:
        """Note that `source` sent on a broadcast bus what means nothing."""
        self._note("malformed", source, reason)
        with self._lock:
            effects = self._machine.malformed(f"{source} ", time.monotonic(), reason)
        self._blamed(effects)

    def met(self, url: str, source: str) -> None:
        """Note a peer's address, of whatever quality; `source` told it."""
        with self._lock:
            if self._machine.met(url, source):
                self._note("met", url, f"told by {source}")

    def lines(self) -> list[Message]:
        """Return the heads as they are told to everybody."""
        with self._lock:
            return [self._machine.told()]

    def _believable(self, sender: str, remote: str) -> str:
        """Return a claimed address if it is the caller's own, so that nobody makes us call a third party."""
        url = canonical(sender)
        if url is None:
            return ""
        if host_of(url) == remote:
            return url
        # A peer with a name, or behind a router: it may be who it says, and is only called as it is anyway.
        return url if self._machine.view.peer(url) is not None and told(url, remote, self._own) else ""

    # What goes out.

    def _dispatch(self, effects: Sequence[Effect], partner: str = "") -> Iterator[Message]:
        """Do what the machine asks for; return what is for `partner`, who waits for an answer, made as it is taken."""
        answer: list[Message | Stored | Serve] = []
        for effect in effects:
            match effect:
                case Send(peer, messages) if peer == partner:
                    answer += messages
                case Send(peer, messages):
                    self._later(peer, messages)
                case Serve(peer) if peer == partner:
                    answer.append(effect)
                case News():
                    pass  # see `_broadcast`
                case Serve():
                    pass  # only who waits for an answer is served: entries are too large to be sent on a suspicion
                case Check():
                    self._bench.put(effect)
                case Also(key, peer):
                    self._bench.also(key, peer)
                case Blame():
                    self._blamed([effect])
        return self._shelf.solid(answer)

    def _later(self, peer: str, messages: tuple[Message | Stored, ...]) -> None:
        url = url_of(peer)
        if not url.startswith("http"):
            return  # it called us and cannot be called
        try:
            self._sends.put_nowait((url, messages))
        except queue.Full:
            self.counts["dropped"] += 1

    def _send_all(self) -> None:
        while not self._stop.is_set():
            try:
                url, messages = self._sends.get(timeout=0.5)
            except queue.Empty:
                continue
            self._talk(url, self._shelf.solid(messages))

    def _talk(self, url: str, messages: Iterable[Message]) -> None:
        """Exchange batches with a peer until neither has anything to say, at most `MAX_LEGS` times."""
        for _ in range(MAX_LEGS):
            batch = encode_batch(self._own, messages)
            if batch == encode_batch(self._own, ()) or self._stop.is_set():
                return
            try:
                self.guard(url)
                answer = self._exchange(url, batch)
            except UnavailableError as error:
                self._note("failed", url, error.message)
                with self._lock:
                    self._machine.failed(url, time.monotonic(), error.message)
                return
            self.counts["exchanges"] += 1
            self.counts["sent"] += len(batch)
            self.counts["received"] += len(answer)
            try:
                _, heard = parse_batch(answer) if answer else ("", [])
            except MalformedError as error:
                self._note("malformed", url, str(error))
                with self._lock:
                    self._blamed(self._machine.malformed(url, time.monotonic(), str(error)))
                return
            with self._lock:
                effects = self._machine.received(url, heard, time.monotonic(), size=len(answer), asked=True)
            messages = self._dispatch(effects, url)

    # Judging.

    def _settle(self, check: Check, judgement: Judgement) -> None:
        item = check.item
        self._note(item.KIND, check.peer, f"{judgement.verdict.name.lower()} {item.pid} {judgement.reason}".rstrip())
        if judgement.mark is not None and isinstance(item, Negative | Evidence):
            self._shelf.keep(item, judgement.mark)
        now = time.monotonic()
        with self._lock:
            before = self._machine.heads.get(item.pid), len(self._machine.marks.get(item.pid, ()))
            effects: list[Effect] = []
            if judgement.first and judgement.head is not None:
                # What a new log brings along is no news to anybody else.
                effects += self._machine.learned(judgement.head, judgement.found, now=now, tell=False)
            effects += self._machine.judged(
                check.key, judgement.verdict, now, head=judgement.head, mark=judgement.mark, reason=judgement.reason,
                found=judgement.found, need=judgement.need,
            )  # fmt: skip
            after = self._machine.heads.get(item.pid), len(self._machine.marks.get(item.pid, ()))
        if before != after:
            self._tell(item.pid)
        self._dispatch(effects)
        self._broadcast(effects, own=False)

    def _tell(self, pid: str) -> None:
        try:
            self._changed(pid)
        except ModelnetError as error:
            log.warning("what changed could not be put to use: %s", error)

    def _broadcast(self, effects: Iterable[Effect], *, own: bool) -> None:
        """Tell on the broadcast buses what is news: at once if we found it out, else unless others do."""
        if not self._broadcasts:
            return
        items = list(self._shelf.solid(item for effect in effects if isinstance(effect, News) for item in effect.items))
        for bus in self._broadcasts:
            (bus.publish if own else bus.relay)(items)

    # Time, and other processes.

    def _keep_time(self) -> None:
        random = SystemRandom()
        interval = self.config.interval
        next_tick = time.monotonic()
        self._look(everybody=True, news=False)  # what was known before is no news
        while not self._stop.is_set():
            now = time.monotonic()
            self._look(everybody=now >= next_tick, news=True)
            if now >= next_tick:
                with self._lock:
                    effects = self._machine.tick(now, int(time.time()))
                self._dispatch(effects)
                # Jitter: nodes that were started together must not stay together.
                next_tick = now + interval * random.uniform(0.9, 1.1)
            self._stop.wait(max(0.0, min(next_tick - time.monotonic(), LOOK_S, interval / 2)))

    def _look(self, *, everybody: bool, news: bool) -> None:
        """Learn what other processes changed: all publishers at each tick, those with our keys more often."""
        try:
            own = self._judge.own()
            rows = self._judge.rows() if everybody else {}
        except ModelnetError as error:
            log.warning("cannot read what is known: %s", error)
            return
        changed = [pid for pid, row in rows.items() if self._rows.get(pid) != row and pid not in own]
        self._rows.update(rows)
        for pid in (*own, *changed):
            if self._stop.is_set():
                return
            try:
                glance = self._judge.glance(rows[pid]) if not news and pid in rows else None
                snapshot = glance or self._judge.snapshot(pid)
            except (ModelnetError, OSError) as error:
                log.warning("cannot read what is known of %s: %s", pid, error)
                continue
            if snapshot is None or snapshot == self._known.get(pid):
                continue
            self._known[pid] = snapshot
            with self._lock:
                effects = self._machine.learned(snapshot.head, snapshot.marks, now=time.monotonic(), tell=news)
            if effects:
                self._note("learned", "", f"{pid} size {snapshot.head.size}")
            if news:
                self._tell(pid)
            self._dispatch(effects)
            self._broadcast(effects, own=True)

    # For people.

    def _note(self, what: str, peer: str, words: str) -> None:
        self.journal.note(what, peer, words)

    def _blamed(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Blame):
                self._note("banned" if effect.banned else "blamed", effect.peer, effect.reason)
                if not effect.remote:
                    log.error("gossip: %s", effect.reason)

    @property
    def own(self) -> str:
        """How this node calls itself in a batch."""
        return self._own

    @property
    def counts(self) -> Counter[str]:
        """How often what happened."""
        return self.journal.counts

    def bus(self, name: str, reason: str) -> None:
        """Note that a bus works, or why it does not."""
        if self.buses.get(name) != reason:
            self._note(name, "", reason or "works")
            self.buses[name] = reason
            if reason:
                self._said(f"{name} does not work: {reason}")

    def report(self, after: int | None = None) -> dict[str, Any]:
        """Return what an operator may want to see, as plain values; with `after`, the events after that one only."""
        if after is not None:
            return {"url": self._own, **self.journal.report(after)}
        return {
            "url": self._own, "interval": self.config.interval, "quiet": self.config.quiet,
            "peers": [{"url": url, "state": state, "reason": reason} for url, state, reason in self.peers],
            "heads": [
                {
                    "publisher": head.pid, "epoch": head.epoch, "size": head.size, "root": head.root.hex(),
                    "time": head.time,
                }
                for head in self.heads.values()
            ],
            "counts": dict(self.counts), "tables": self.sizes, "buses": self.buses,
            "transfers": [
                {"locator": name, "bytes": done, "total": total}
                for name, (done, total) in list(self.transfers.items())
            ],
            **self.journal.report(),
        }  # fmt: skip

    @property
    def peers(self) -> list[tuple[str, str, str]]:
        """Every peer that is known, its state and why."""
        with self._lock:
            return [(url, state.value, reason) for url, state, reason in self._machine.view.known]

    @property
    def heads(self) -> dict[str, Head]:
        """Where the logs stand that this node cares about."""
        with self._lock:
            return dict(self._machine.heads)

    def offer(self, space: int) -> None:
        """Tell others that this node offers `space` GiB for what they publish."""
        with self._lock:
            self._machine.members.space = space

    @property
    def members(self) -> dict[str, int]:
        """The nodes that offer space, this one among them, and how much each does in GiB."""
        with self._lock:
            return self._machine.members.alive(time.monotonic())

    @property
    def sizes(self) -> dict[str, int]:
        """How full the machine's tables are."""
        with self._lock:
            return self._machine.sizes
