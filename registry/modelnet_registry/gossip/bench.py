"""The judge's threads: some judge by what is here, some fetch logs, and one takes negatives and evidence only.

A thread that judges never waits for a peer, and one that fetches waits for a peer at most as long as its patience;
which peer is next is decided elsewhere (`modelnet_registry.gossip.errands`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable

from modelnet_registry.gossip.effects import Check, Verdict
from modelnet_registry.gossip.errands import AT_ONCE, Errand, Errands, Grade
from modelnet_registry.gossip.judge import Judge, Judgement
from modelnet_registry.gossip.machine import url_of
from modelnet_registry.gossip.messages import Evidence, Negative, Note

__all__ = ["Bench"]

log = logging.getLogger("modelnet_registry.gossip")

JUDGES = 2
PATIENCE = (2.0, 30.0)  # seconds: an interval, but what any line needs, and no longer than a person would wait
PATIENCE_UNSIGNED = 5.0  # for a head that may be made up: the next one waits meanwhile
MAX_ALSO = 3  # tellers of a head beside the first one
WAIT_S = 0.5


class Bench:
    """Judges what it is given and calls `settle(check, judgement)` once for each; `interval` is that of the gossip."""

    def __init__(self, judge: Judge, interval: float, settle: Callable[[Check, Judgement], None]) -> None:
        self._judge, self._settle = judge, settle
        self._patience = min(max(interval, PATIENCE[0]), PATIENCE[1])
        self._stop = threading.Event()
        self._checks: queue.Queue[Check] = queue.Queue()  # the machine bounds both
        self._urgent: queue.Queue[Check] = queue.Queue()
        self._lock = threading.Condition()
        self._errands = Errands(interval, self._patience)
        self._also: dict[bytes, list[str]] = {}  # items that are not settled → further peers that told them
        self.slow = 0  # tellers that were waited for in vain, for people to see

    def jobs(self) -> Iterable[tuple[str, Callable[[], None]]]:
        """Return what has to run in threads, until `stop`."""
        yield "urgent", lambda: self._judge_from(self._urgent)
        yield from ((f"judge-{n}", lambda: self._judge_from(self._checks)) for n in range(JUDGES))
        yield from ((f"fetch-{n}", self._run_errands) for n in range(AT_ONCE))

    def stop(self) -> None:
        """End the jobs."""
        self._stop.set()
        with self._lock:
            self._lock.notify_all()

    def put(self, check: Check) -> None:
        """Judge an item, negatives and evidence before all others."""
        with self._lock:
            self._also[check.key] = []
        (self._urgent if isinstance(check.item, Negative | Evidence) else self._checks).put(check)

    def also(self, key: bytes, peer: str) -> None:
        """Note that another peer told an item that is being judged."""
        with self._lock:
            tellers = self._also.get(key)
            if tellers is None or len(tellers) >= MAX_ALSO or not url_of(peer).startswith("http"):
                return
            tellers.append(peer)
            known = self._errands.like(key)
        if known is not None:
            self._run_later(Errand(known.check, peer, url_of(peer), known.grade))

    def _judge_from(self, checks: queue.Queue[Check]) -> None:
        while not self._stop.is_set():
            try:
                check = checks.get(timeout=WAIT_S)
            except queue.Empty:
                continue
            judgement = Judgement(Verdict.LATER)
            try:
                url = url_of(check.peer)
                judgement = self._judge.check(check.item, url if url.startswith("http") else "")
            except OSError as error:
                log.warning("cannot judge: %s", error)
            finally:
                # Whatever happened: the machine counts what it waits for.
                if judgement.grade is None:
                    self._end(check, judgement)
            if judgement.grade is not None:
                with self._lock:
                    tellers = [check.peer, *self._also.get(check.key, ())]
                for peer in tellers:
                    self._run_later(Errand(check, peer, url_of(peer), judgement.grade))

    def _run_later(self, errand: Errand) -> None:
        with self._lock:
            refused = self._errands.add(errand, time.monotonic())
            self._lock.notify()
        self._give_up(refused, Judgement(Verdict.LATER, reason="too many logs to fetch"))

    def _give_up(self, errands: Iterable[Errand], judgement: Judgement) -> None:
        """Settle what no errand is left for."""
        for errand in errands:
            with self._lock:
                left = self._errands.open(errand.check.key)
            if not left:
                self._end(errand.check, judgement)

    def _end(self, check: Check, judgement: Judgement) -> None:
        """Settle an item, if nobody was faster."""
        with self._lock:
            if self._also.pop(check.key, None) is None:
                return
            self._errands.drop(check.key)
        self._settle(check, judgement)

    def _run_errands(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                errand = self._errands.next(time.monotonic())
                if errand is None:
                    self._lock.wait(WAIT_S)
                    continue
            judgement = Judgement(Verdict.LATER)
            try:
                if isinstance(item := errand.check.item, Note):
                    most = PATIENCE_UNSIGNED if errand.grade is Grade.UNSIGNED else self._patience
                    patience = min(self._patience, most)
                    judgement = self._judge.fetched(item, errand.url, errand.grade, patience)
            except OSError as error:
                log.warning("cannot judge: %s", error)
            finally:
                self._ran(errand, judgement)

    def _ran(self, errand: Errand, judgement: Judgement) -> None:
        with self._lock:
            self.slow += judgement.slow
            dropped = self._errands.done(errand, time.monotonic(), slow=judgement.slow)
            self._lock.notify()
        if judgement.verdict is Verdict.LATER or (
            # Only the first teller is known to the machine, and only it may be blamed.
            judgement.verdict in (Verdict.BETRAYED, Verdict.FALSE) and errand.peer != errand.check.peer
        ):
            self._give_up([errand], Judgement(Verdict.LATER, reason=judgement.reason))
        else:
            self._end(errand.check, judgement)
        self._give_up(dropped, Judgement(Verdict.LATER, reason="who told it gives its log too slowly"))
