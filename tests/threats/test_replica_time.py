"""Rows 5 to 7: knowledge that grows old, clocks that were set back, and witnesses from the future.

Names after `test_expiration.py` of tuf-conformance stand where a row says so: a timestamp is a cosigned head here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelnet.core.freshness import HARD_MAX_S, OFFLINE_HARD_MAX_S, Status
from modelnet.core.identity import MAX_AGE_S
from modelnet.core.note import COSIGNATURE, NoteKey, SignedNote
from modelnet.errors import MalformedError
from modelnet.replica import Replicas, Standing
from modelnet.stores.local import open_store
from tests.core.logs import T0, Log, key

DAY = 24 * 3600
WITNESSES = ("wit1", "wit2", "wit3")


def vkey(name: str) -> NoteKey:
    """Return the key of a witness."""
    return NoteKey(f"wit.example/{name}", key(name).verify_key, COSIGNATURE)


@pytest.fixture
def log() -> Log:
    """Give a log of two releases."""
    log = Log()
    log.release("llama", "1")
    log.release("llama", "2")
    return log


def store(home: Path, clock: float = T0, **options: int) -> Replicas:
    """Open a store at a time, as another process would."""
    return Replicas(open_store(home), clock=lambda: clock, **options)


def write_policy(home: Path, threshold: int = 2) -> None:
    """Ask for that many of three witnesses."""
    home.mkdir(exist_ok=True)
    lines = [f"witness {name} {vkey(name).vkey}" for name in WITNESSES]
    (home / "policy").write_text("\n".join([*lines, f"group g {threshold} {' '.join(WITNESSES)}", "quorum g\n"]))


def cosigned(note: SignedNote, **times: int) -> SignedNote:
    """Return the note with cosignatures of witnesses at these times."""
    for name, time in times.items():
        note = note.cosign(vkey(name).name, key(name), time)
    return note


def seen(home: Path, log: Log, clock: float) -> Standing:
    """Return how a store stands at a time, opened anew."""
    return store(home, clock).standing(log.pid)


# Row 5: freeze.


@pytest.mark.parametrize("witnessed", [False, True], ids=["beat", "quorum"])
def test_threat_05_timestamp_expired(tmp_path: Path, log: Log, witnessed: bool) -> None:  # noqa: FBT001
    """Knowledge is fresh, then stale, then expired, at exact ages, whoever vouched for it."""
    note = log.head(time=T0)
    if witnessed:
        write_policy(tmp_path)
        note = cosigned(note, wit1=T0, wit2=T0 + 9)
    store(tmp_path).adopt(log.pid, note, log.entries)
    for age, status in (
        (0, Status.FRESH), (MAX_AGE_S, Status.FRESH), (MAX_AGE_S + 1, Status.STALE), (HARD_MAX_S, Status.STALE),
        (HARD_MAX_S + 1, Status.EXPIRED),
    ):  # fmt: skip
        standing = seen(tmp_path, log, T0 + age)
        assert (standing.status, standing.freshness.age) == (status, age)
        assert standing.knowledge is not None
        assert standing.knowledge.witnessed == witnessed
    offline = store(tmp_path, T0 + HARD_MAX_S + 1, hard_max=OFFLINE_HARD_MAX_S)
    assert offline.standing(log.pid).status == Status.STALE


def test_threat_05_expired_metadata(tmp_path: Path, log: Log) -> None:
    """Knowledge that has expired can still be brought up to date, and a source that freezes cannot hide its age."""
    store(tmp_path).adopt(log.pid, log.head(2, time=T0), log.entries[:2])
    late = T0 + 90 * DAY
    frozen = store(tmp_path, late)
    frozen.adopt(log.pid, log.head(2, time=T0 + DAY))
    assert frozen.standing(log.pid).status == Status.EXPIRED
    store(tmp_path, late).adopt(log.pid, log.head(time=late - 60), log.entries[2:])
    assert seen(tmp_path, log, late).status == Status.FRESH


def test_threat_05_never_cosigned(tmp_path: Path, log: Log) -> None:
    """A head that nobody dated is worth nothing as news; too few witnesses are nobody."""
    store(tmp_path).adopt(log.pid, log.head(), log.entries)
    assert seen(tmp_path, log, T0).status == Status.EXPIRED
    write_policy(tmp_path)
    store(tmp_path).adopt(log.pid, cosigned(log.head(time=T0), wit1=T0, strange=T0))
    standing = seen(tmp_path, log, T0)
    assert (standing.status, standing.knowledge) == (Status.EXPIRED, None)


def test_threat_05_cosignatures_of_older_heads_count(tmp_path: Path, log: Log) -> None:
    """What a witness knew is a prefix of what is known here; each counts with its newest time, on any of them."""
    write_policy(tmp_path)
    replicas = store(tmp_path)
    replicas.adopt(log.pid, cosigned(log.head(2), wit1=T0 - 50), log.entries[:2])
    replicas.adopt(log.pid, cosigned(log.head(), wit2=T0 - 40, wit3=T0 - 9000), log.entries[2:])
    assert seen(tmp_path, log, T0).freshness.age == 50
    replicas.adopt(log.pid, cosigned(log.head(2), wit1=T0 - 10))
    assert seen(tmp_path, log, T0).freshness.age == 40
    head = replicas.head(log.pid)
    assert head is not None
    assert head.cosigned([vkey(name) for name in WITNESSES]).keys() == {vkey("wit2"), vkey("wit3")}
    assert head.unverified_text == log.head().unverified_text


def test_threat_05_forged_cosignatures_do_not_count(tmp_path: Path, log: Log) -> None:
    """A cosignature of another history, by another key, or copied from another head dates nothing."""
    write_policy(tmp_path, 1)
    replicas = store(tmp_path)
    other = log.fork(2)
    other.release("llama", "6")
    replicas.adopt(log.pid, log.head(), log.entries)
    copied = cosigned(other.head(), wit1=T0).signatures[-1]
    replicas.adopt(log.pid, SignedNote(log.head().unverified_text, (*log.head().signatures, copied)))
    replicas.adopt(log.pid, log.head().cosign(vkey("wit1").name, key("wit2"), T0))
    assert seen(tmp_path, log, T0).knowledge is None


def test_threat_05_an_own_log_is_fresh(tmp_path: Path, log: Log) -> None:
    """Who writes a log knows all that is in it."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / f"{log.pid}.json").write_text("{}")
    for clock in (T0, T0 + 900 * DAY):
        standing = seen(tmp_path, log, clock)
        assert (standing.own, standing.status) == (True, Status.FRESH)


# Row 6: the clock set back.


def test_threat_06_clock_set_back(tmp_path: Path, log: Log) -> None:
    """A year back after a sync: stale knowledge stays stale, also of another log, also without the index."""
    write_policy(tmp_path)
    slow, quick = log, Log("other ")
    store(tmp_path).adopt(slow.pid, cosigned(slow.head(), wit1=T0 - 8 * DAY, wit2=T0 - 8 * DAY), slow.entries)
    assert seen(tmp_path, slow, T0).status == Status.STALE
    store(tmp_path).adopt(quick.pid, cosigned(quick.head(), wit1=T0, wit2=T0), quick.entries)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    for clock in (T0 - 366 * DAY, T0 - 8 * DAY, 0):
        standing = seen(tmp_path, slow, clock)
        assert standing.status == Status.STALE
        assert standing.freshness.age == 8 * DAY
        assert standing.freshness.doubt
    assert int((tmp_path / "high-water").read_text()) == T0


@pytest.mark.parametrize("content", [b"", b"soon", b"-1", b"9" * 30])
def test_threat_06_a_damaged_mark_is_made_again(tmp_path: Path, log: Log, content: bytes) -> None:
    """What is known about a log raises the mark again."""
    write_policy(tmp_path)
    store(tmp_path).adopt(log.pid, cosigned(log.head(), wit1=T0, wit2=T0), log.entries)
    (tmp_path / "high-water").write_bytes(content)
    assert seen(tmp_path, log, T0).status == Status.FRESH
    assert seen(tmp_path, log, T0 - 9 * DAY).freshness.doubt
    assert (tmp_path / "high-water").read_bytes() == b"%d\n" % T0


# Row 7: one witness from the future.


def test_threat_07_future_dated_single_witness(tmp_path: Path, log: Log) -> None:
    """One of three says 2100: neither knowledge nor the mark moves, and its true times count once it is well again."""
    write_policy(tmp_path)
    future = 4_102_444_800
    replicas = store(tmp_path)
    replicas.adopt(log.pid, cosigned(log.head(), wit1=future, wit2=T0 - 8 * DAY, wit3=T0 - 9 * DAY), log.entries)
    assert (seen(tmp_path, log, T0).status, seen(tmp_path, log, T0).freshness.age) == (Status.STALE, 8 * DAY)
    assert int((tmp_path / "high-water").read_text()) == T0 - 8 * DAY
    log.release("llama", "3")
    replicas.adopt(log.pid, cosigned(log.head(), wit1=T0 - 5), log.entries[3:])
    assert seen(tmp_path, log, T0).freshness.age == 8 * DAY
    replicas.adopt(log.pid, cosigned(log.head(), wit3=T0 - 5))
    assert seen(tmp_path, log, T0).freshness.age == 5


def test_threat_07_a_quorum_from_the_future_contradicts_the_clock(tmp_path: Path, log: Log) -> None:
    """Either is wrong: nothing counts as fresh, and the mark does not follow."""
    write_policy(tmp_path)
    store(tmp_path).adopt(log.pid, cosigned(log.head(), wit1=T0 + 301, wit2=T0 + 9999), log.entries)
    standing = seen(tmp_path, log, T0)
    assert (standing.status, standing.freshness.doubt) == (Status.STALE, True)
    assert not (tmp_path / "high-water").exists()
    assert seen(tmp_path, log, T0 + 1).status == Status.FRESH, "within five minutes a clock may differ"


def test_threat_07_a_publisher_moves_no_mark(tmp_path: Path, log: Log) -> None:
    """What a publisher says about its own log holds back or pushes forward nobody's time."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(time=T0 + 200), log.entries)
    assert replicas.standing(log.pid).status == Status.FRESH
    assert not (tmp_path / "high-water").exists()


def test_a_policy_that_cannot_be_read_weakens_nothing(tmp_path: Path, log: Log) -> None:
    """A damaged policy file is an error, not `quorum none`."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(time=T0), log.entries)
    (tmp_path / "policy").write_text("quorum nobody\n")
    with pytest.raises(MalformedError):
        replicas.standing(log.pid)
    write_policy(tmp_path)
    assert replicas.standing(log.pid).knowledge is None, "and a new one counts at once"
