"""Measure how fast a log is folded on one core: python -m tests.core.measure_fold [--events 10000] [--rounds 3].

The log is what a large publisher's would be: releases, and among every hundred entries a supersede, a yank, a revoke
and one with a wrong signature. Processor time is counted, the best of the rounds; what the verification alone takes is
printed beside it.
"""

from __future__ import annotations

import argparse
import time

from modelnet.core import events
from modelnet.core.dsse import Envelope
from modelnet.core.fold import PublisherState
from modelnet.core.keys import VerifyKey
from tests.core.logs import Log, digests, key

WANTED_EVENTS_A_SECOND = 8_000


def make_log(count: int) -> Log:
    """Return a log of `count` entries."""
    log = Log()
    while len(log.entries) < count:
        number = len(log.entries)
        earlier = digests("llama", f"1.0.{number - 1}")
        match number % 100:
            case 25:
                log.add(events.Supersede(log.pid, digests("llama", f"1.0.{number - 3}"), earlier), "release")
            case 50:
                log.add(events.Yank(log.pid, (earlier,), "too large"), "release")
            case 75:
                log.add(log.revoke(earlier, severity="broken"), "release")
            case 99:
                log.release("llama", f"1.0.{number}", keys=("log",))
            case _:
                log.release("llama", f"1.0.{number}", channels=("stable",))
    return log


def measure(count: int, rounds: int) -> tuple[float, float]:
    """Return events a second, and verifications a second, each the best of `rounds`."""
    log = make_log(count)
    public: VerifyKey = key("release").verify_key
    envelope = Envelope.parse(log.entries[1])
    best_fold = best_verify = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        state = PublisherState.fold(log.entries, log.pid)
        best_fold = min(best_fold, time.process_time() - start)
        assert state.size == count
        start = time.process_time()
        for _ in range(1000):
            envelope.verify(envelope.payload_type, [public])
        best_verify = min(best_verify, (time.process_time() - start) / 1000)
    return count / best_fold, 1 / best_verify


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folded, verified = measure(options.events, options.rounds)
    print(f"fold: {folded:,.0f} events/s on one core (wanted: {WANTED_EVENTS_A_SECOND:,})")
    print(f"the signature check alone: {verified:,.0f} a second")


if __name__ == "__main__":
    main()
