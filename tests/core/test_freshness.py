"""Freshness: how old knowledge is, on clocks that are right, wrong and turned back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.freshness import (
    HARD_MAX_S,
    OFFLINE_HARD_MAX_S,
    RULES,
    SKEW_S,
    Freshness,
    Knowledge,
    Operation,
    Rule,
    Status,
    freshness,
    knowledge,
    raised,
)  # fmt: skip
from modelnet.core.identity import MAX_AGE_S
from modelnet.core.note import COSIGNATURE, NoteKey
from modelnet.core.policy import Policy
from tests.core.logs import T0, Log, key

DAY = 24 * 3600
YEAR = 365 * DAY
NAMES = ("w1", "w2", "w3", "w4")
KEYS = {name: NoteKey(f"wit.example/{name}", key(f"witness {name}").verify_key, COSIGNATURE) for name in NAMES}
POLICY = Policy.parse(
    "".join(f"witness {name} {entry.vkey}\n" for name, entry in KEYS.items()).encode()
    + b"group g 3 w1 w2 w3 w4\nquorum g\n"
)
ALONE = Policy.parse(b"quorum none\n")
LOG = Log()
LOG.release("llama", "1.0")


def head(size: int | None = None, **times: int):
    """Return the head at a size, cosigned by witnesses at their times."""
    note = LOG.head(size)
    for name, time in times.items():
        note = note.cosign(f"wit.example/{name}", key(f"witness {name}"), time)
    return note


def status(known: Knowledge | None, clock: int, high_water: int = 0, **options: int) -> Status:
    """Return the status alone."""
    return freshness(known, clock=clock, high_water=high_water, **options).status


def test_knowledge_is_as_new_as_the_quorum() -> None:
    """Three of four: the third newest; two are none; smaller heads count, a witness with its newest time."""
    assert knowledge(POLICY, [head(w1=T0, w2=T0 + 5, w3=T0 + 9)]) == Knowledge(T0, witnessed=True)
    assert knowledge(POLICY, [head(w1=T0, w2=T0 + 5)]) is None
    assert knowledge(POLICY, []) is None
    parts = [head(1, w1=T0, w2=T0 + 50), head(w1=T0 + 7), head(1, w3=T0 + 9)]
    assert knowledge(POLICY, parts) == Knowledge(T0 + 7, witnessed=True)


def test_without_witnesses_the_publisher_says_it() -> None:
    """`quorum none`: the beat key's time, and it is told apart."""
    beats = LOG.state.signers_at(2)[1]
    assert knowledge(ALONE, [LOG.head(time=T0)], beats) == Knowledge(T0, witnessed=False)
    assert knowledge(ALONE, [LOG.head()], beats) is None
    assert knowledge(POLICY, [LOG.head(time=T0)], beats) is None


@pytest.mark.parametrize(
    ("age", "wanted"),
    [
        (0, Status.FRESH), (MAX_AGE_S, Status.FRESH), (MAX_AGE_S + 1, Status.STALE), (HARD_MAX_S, Status.STALE),
        (HARD_MAX_S + 1, Status.EXPIRED), (10 * YEAR, Status.EXPIRED),
    ],
)  # fmt: skip
def test_threat_05_a_log_that_stands_still_gets_stale_and_expires(age: int, wanted: Status) -> None:
    """Whoever freezes a log at an old head makes it old: seven days fresh, thirty at most."""
    assert status(Knowledge(T0, witnessed=True), T0 + age) == wanted


def test_limits_can_be_tightened_by_the_publisher_only() -> None:
    """A publisher's max_age counts when it is stricter; machines that are offline may wait longer, if they say so."""
    known = Knowledge(T0, witnessed=True)
    assert status(known, T0 + DAY, max_age=DAY - 1) == Status.STALE
    assert status(known, T0 + 8 * DAY, max_age=YEAR) == Status.STALE
    assert status(known, T0 + 60 * DAY, hard_max=OFFLINE_HARD_MAX_S) == Status.STALE
    assert status(known, T0 + DAY, hard_max=DAY - 1) == Status.EXPIRED
    assert status(None, T0) == Status.EXPIRED


def test_threat_06_a_clock_turned_back_makes_nothing_fresh() -> None:
    """A year back after a sync: what was stale stays stale, what was fresh is in doubt."""
    old, new = Knowledge(T0, witnessed=True), Knowledge(T0 + 10 * DAY, witnessed=True)
    water = raised(raised(0, old, T0), new, T0 + 10 * DAY)
    back = T0 - YEAR

    assert water == T0 + 10 * DAY
    assert freshness(old, clock=back, high_water=water) == Freshness(Status.STALE, 10 * DAY, doubt=True)
    assert freshness(new, clock=back, high_water=water) == Freshness(Status.STALE, 0, doubt=True)
    assert status(old, back, high_water=T0 + 31 * DAY) == Status.EXPIRED


def test_threat_07_one_witness_of_the_future_moves_nothing() -> None:
    """A witness that says 2100 is outvoted; a quorum that does leaves the high-water where it was, and doubt."""
    future = 4_102_444_800
    known = knowledge(POLICY, [head(w1=future, w2=T0, w3=T0 + 1, w4=T0 + 2)])
    assert known == Knowledge(T0 + 1, witnessed=True)
    assert raised(0, known, T0) == T0 + 1

    poisoned = knowledge(POLICY, [head(w1=future, w2=future, w3=future)])
    assert poisoned is not None
    assert raised(T0, poisoned, T0 + 5) == T0
    assert freshness(poisoned, clock=T0, high_water=T0) == Freshness(Status.STALE, 0, doubt=True)


def test_a_quorum_may_be_a_little_ahead() -> None:
    """Clocks differ: up to 300 seconds are no contradiction."""
    known = Knowledge(T0 + SKEW_S, witnessed=True)
    assert raised(0, known, T0) == T0 + SKEW_S
    assert freshness(known, clock=T0, high_water=T0 + SKEW_S) == Freshness(Status.FRESH, 0)
    ahead = Knowledge(T0 + SKEW_S + 1, witnessed=True)
    assert raised(0, ahead, T0) == 0
    assert status(ahead, T0) == Status.STALE


def test_a_publisher_does_not_move_the_time_of_others() -> None:
    """What a beat key says raises no high-water: a publisher must not age what others published."""
    assert raised(0, Knowledge(T0, witnessed=False), T0) == 0


def test_the_table_is_complete_and_revoked_is_never_loaded() -> None:
    """Every operation has a rule for every status; nothing makes a revoked digest load, resolve or be served."""
    assert set(RULES) == {(operation, one) for operation in Operation for one in Status}
    assert {RULES[operation, Status.REVOKED] for operation in Operation} == {Rule.REFUSE, Rule.STOP}
    assert [RULES[Operation.RESOLVE, one] for one in (Status.FRESH, Status.STALE, Status.EXPIRED)] == [
        Rule.ALLOW, Rule.ACCEPT_STALE, Rule.REFUSE,
    ]  # fmt: skip
    assert [RULES[Operation.LOAD, one] for one in (Status.STALE, Status.EXPIRED, Status.QUARANTINED)] == [
        Rule.WARN, Rule.OFFLINE_PINNED, Rule.COMMON_PREFIX,
    ]  # fmt: skip
    assert RULES[Operation.SERVE, Status.QUARANTINED] == Rule.EVIDENCE_ONLY


TIME = st.integers(0, 1 << 40)


@given(TIME, TIME, TIME, TIME)
def test_a_later_clock_never_makes_fresher(time: int, clock: int, water: int, more: int) -> None:
    """With everything else equal, time passing makes knowledge older; a higher high-water too."""
    order = [Status.FRESH, Status.STALE, Status.EXPIRED]
    known = Knowledge(time, witnessed=True)
    now = freshness(known, clock=clock, high_water=water)
    later = freshness(known, clock=clock + more, high_water=water)
    assert later.age >= now.age
    if not now.doubt:
        assert order.index(later.status) >= order.index(now.status)
    assert freshness(known, clock=clock, high_water=water + more).age >= now.age


@given(TIME, TIME, TIME)
def test_the_high_water_never_falls_and_stays_near_the_clock(water: int, time: int, clock: int) -> None:
    """It rises to a time that a quorum vouched for, never beyond the clock by more than the skew."""
    after = raised(water, Knowledge(time, witnessed=True), clock)
    assert after >= water
    assert after in (water, time)
    assert after == water or after <= clock + SKEW_S
