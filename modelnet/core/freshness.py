"""How old one's knowledge of a log is, and what may be done with it. Time comes in; nothing here reads a clock.

    T_q   the newest time at or after which the policy's quorum cosigned a head that is a prefix of what is known
          (with `quorum none`: what the publisher's own beat key says, and then said to be so)
    now   max(system clock, high-water)
    age   now - T_q:  FRESH up to max_age, STALE up to hard_max, then EXPIRED

The high-water rises to a T_q only, never to one witness's time, and only while T_q is at most 300 s ahead of the clock.
Where the clock and a quorum contradict each other, one of them is wrong, and nothing counts as FRESH.
Revocations made after T_q are unknown: that window can be shown, not closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from modelnet.core.identity import MAX_AGE_S
from modelnet.core.note import NoteKey, SignedNote
from modelnet.core.policy import Policy

__all__ = [
    "HARD_MAX_S", "OFFLINE_HARD_MAX_S", "RULES", "SKEW_S", "Freshness", "Knowledge", "Operation", "Rule", "Status",
    "freshness", "knowledge", "raised",
]  # fmt: skip

SKEW_S = 300  # how far ahead of this machine's clock a quorum may be before one of the two must be wrong
HARD_MAX_S = 30 * 24 * 3600
OFFLINE_HARD_MAX_S = 365 * 24 * 3600  # the profile of machines that see an update once a year


class Status(Enum):
    """What a publisher's log is worth at this moment; REVOKED is about one digest, the others about the log."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"


class Operation(Enum):
    """What is about to be done."""

    RESOLVE = "resolve"  # `latest`, a channel or a range
    LOAD = "load"  # pull or load what a digest pins
    SERVE = "serve"  # or pin for others


class Rule(Enum):
    """What the table says."""

    ALLOW = "allow"
    WARN = "allow with a warning"
    ACCEPT_STALE = "refuse unless stale knowledge is accepted"
    OFFLINE_PINNED = "refuse unless pinned offline use is accepted"
    COMMON_PREFIX = "refuse unless policy allows releases that both histories share"
    EVIDENCE_ONLY = "serve the evidence and nothing else"
    REFUSE = "refuse"
    STOP = "stop, and write it to the deny list"


RULES: Mapping[tuple[Operation, Status], Rule] = MappingProxyType({
    (Operation.RESOLVE, Status.FRESH): Rule.ALLOW,
    (Operation.RESOLVE, Status.STALE): Rule.ACCEPT_STALE,
    (Operation.RESOLVE, Status.EXPIRED): Rule.REFUSE,
    (Operation.RESOLVE, Status.QUARANTINED): Rule.REFUSE,
    (Operation.RESOLVE, Status.REVOKED): Rule.REFUSE,
    (Operation.LOAD, Status.FRESH): Rule.ALLOW,
    (Operation.LOAD, Status.STALE): Rule.WARN,
    (Operation.LOAD, Status.EXPIRED): Rule.OFFLINE_PINNED,
    (Operation.LOAD, Status.QUARANTINED): Rule.COMMON_PREFIX,
    (Operation.LOAD, Status.REVOKED): Rule.REFUSE,
    (Operation.SERVE, Status.FRESH): Rule.ALLOW,
    (Operation.SERVE, Status.STALE): Rule.ALLOW,
    (Operation.SERVE, Status.EXPIRED): Rule.ALLOW,
    (Operation.SERVE, Status.QUARANTINED): Rule.EVIDENCE_ONLY,
    (Operation.SERVE, Status.REVOKED): Rule.STOP,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Up to when a log is known, in unix seconds, and whether witnesses or only the publisher say so."""

    time: int
    witnessed: bool


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old knowledge is; `doubt` says that the clock and what a quorum vouched for exclude each other."""

    status: Status
    age: int
    doubt: bool = False


def knowledge(policy: Policy, notes: Iterable[SignedNote], beats: Iterable[NoteKey] = ()) -> Knowledge | None:
    """Return T_q over `notes`: heads already checked to be this log's, each a prefix of (or equal to) what is known.

    None when too few witnesses ever cosigned. Each witness counts with the newest time at which it did, on any of them.
    """
    quorum = policy.quorum is not None
    keys = [witness.key for witness in policy.witnesses] if quorum else list(beats)
    newest: dict[NoteKey, int] = {}
    for note in notes:
        for key, time in note.cosigned(keys).items():
            newest[key] = max(time, newest.get(key, 0))
    known = policy.time(newest) if quorum else max(newest.values(), default=None)
    return None if known is None else Knowledge(known, quorum)


def raised(high_water: int, known: Knowledge, clock: int) -> int:
    """Return the high-water after learning `known`: unchanged where its time lies too far ahead of the clock.

    What a publisher says about itself raises nothing: it could hold back or push forward the time of all others.
    """
    if not known.witnessed or known.time > clock + SKEW_S:
        return high_water
    return max(high_water, known.time)


def freshness(
    known: Knowledge | None, *, clock: int, high_water: int, max_age: int = MAX_AGE_S, hard_max: int = HARD_MAX_S
) -> Freshness:
    """Return how old `known` is at system time `clock`; a publisher's `max_age` can only be stricter than ours."""
    now = max(clock, high_water)
    if known is None:
        return Freshness(Status.EXPIRED, now)
    age = max(now - known.time, 0)
    doubt = known.time > now + SKEW_S or high_water > clock + SKEW_S
    if age > hard_max:
        return Freshness(Status.EXPIRED, age, doubt)
    if doubt or age > min(max_age, MAX_AGE_S, hard_max):
        return Freshness(Status.STALE, age, doubt)
    return Freshness(Status.FRESH, age)
