"""The gossip machine alone: what it tells, asks, keeps and refuses, without a socket or a clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet_registry.gossip import machine as machine_module
from modelnet_registry.gossip.asked import MAX_ASKS
from modelnet_registry.gossip.effects import Also, Blame, Check, Config, Effect, Send, Serve, Verdict
from modelnet_registry.gossip.machine import Machine
from modelnet_registry.gossip.messages import (
    Entries,
    Evidence,
    Head,
    HeadLine,
    Heads,
    Marks,
    Message,
    Negative,
    Note,
    Peers,
    Proof,
    Rumour,
    Stored,
    Want,
)
from modelnet_registry.gossip.sources import LIE, MAX_ASKED, NEIGHBOURS

PID, OTHER = "a" * 52, "b" * 52
PEER, SECOND = "http://10.0.0.2:8710", "http://10.1.0.3:8710"


def head(size: int, *, pid: str = PID, root: bytes | None = None, time: int = 0, epoch: int = 0) -> Head:
    """Return a head; its root follows from its size."""
    return Head(pid, epoch, size, root or hashlib.sha256(b"%d" % size).digest(), time)


def note(size: int, **more: Any) -> Note:
    """Return a note; its content stands for any."""
    found = head(size, **more)
    return Note(found, repr(found).encode())


def make(*, size: int = 5, peers: Iterable[str] = (PEER,), **config: Any) -> Machine:
    """Return a machine that knows a log."""
    machine = Machine("http://10.9.9.9:8710", Config(interval=1.0, **config), Random(1), peers)
    machine.follow(PID)
    if size:
        machine.learned(head(size), now=0.0, tell=False)
    return machine


def sent(effects: Sequence[Effect], peer: str = PEER) -> list[Message | Stored]:
    """Return what goes to one peer."""
    return [
        message for effect in effects if isinstance(effect, Send) and effect.peer == peer for message in effect.messages
    ]


def checks(effects: Sequence[Effect]) -> list[Check]:
    """Return what is asked of the judge."""
    return [effect for effect in effects if isinstance(effect, Check)]


def line(found: Head, marks: int = 0) -> HeadLine:
    """Return the line of a head."""
    return HeadLine(found, marks)


def mark(number: int) -> bytes:
    """Return a mark."""
    return hashlib.sha256(b"mark %d" % number).digest()[:16]


def test_a_tick_tells_our_heads() -> None:
    """Once in an interval a few peers are told what we know, and asked for the same."""
    machine = make(peers=[PEER, SECOND], contacts=1)
    told = [sent(machine.tick(float(n)), peer) for n in range(2) for peer in (PEER, SECOND)]
    assert sum(bool(messages) for messages in told) == 2
    heads = next(messages[0] for messages in told if messages)
    assert heads == Heads((line(head(5)),), ask=True)


def test_equal_heads_end_the_exchange() -> None:
    """Nothing is said where nothing differs."""
    assert make().received(PEER, [Heads((line(head(5)),), ask=True)], 0.0) == []


def test_who_is_behind_is_told() -> None:
    """A smaller head gets our note; a follower that has nothing yet gets it too."""
    machine = make()
    assert sent(machine.received(PEER, [Heads((line(head(3)),), ask=True)], 0.0)) == [Stored(PID)]
    assert sent(machine.received(PEER, [Heads((line(Head(PID, 0, 0, b"")),), ask=True)], 0.0)) == [Stored(PID)]


def test_who_is_ahead_is_asked() -> None:
    """A larger head is asked for, not twice in a row from the same peer; so is one of the next epoch."""
    machine = make()
    ahead = [Heads((line(head(9)),), ask=False)]
    assert sent(machine.received(PEER, ahead, 0.0)) == [Want((PID,))]
    assert machine.received(PEER, ahead, 0.1) == []
    assert sent(machine.received(SECOND, ahead, 0.1), SECOND) == [Want((PID,))]
    assert sent(machine.received(PEER, ahead, 1.0)) == [Want((PID,))]
    recovered = [Heads((line(head(2, epoch=1)),), ask=False)]
    assert sent(machine.received(PEER, recovered, 2.0)) == [Want((PID,))]


def test_another_history_is_asked_for_and_told() -> None:
    """Two roots at one size: each side needs the other's note, whatever it thinks of it."""
    machine = make()
    other = [Heads((line(head(5, root=bytes(32))),), ask=True)]
    assert set(sent(machine.received(PEER, other, 0.0))) == {Want((PID,)), Stored(PID)}


def test_newer_cosignatures_are_passed_on() -> None:
    """The same head, vouched for later: asked for once in a long while, told at once."""
    machine = make()
    newer = [Heads((line(head(5, time=9)),), ask=False)]
    assert sent(machine.received(PEER, newer, 0.0)) == [Want((PID,))]
    assert machine.received(PEER, newer, 5.0) == []
    machine.learned(head(5, time=20), now=6.0)
    assert sent(machine.received(PEER, newer, 6.0)) == [Stored(PID)]


def test_what_proves_true_is_pushed_on_at_once() -> None:
    """A new head is taken over and told to others, but not to who told it; the same one again costs nothing."""
    machine = make(peers=[PEER, SECOND])
    (check,) = checks(machine.received(PEER, [note(9)], 0.0))
    assert machine.received(SECOND, [note(9)], 0.0) == [Also(check.key, SECOND)]
    effects = machine.judged(check.key, Verdict.NEW, 0.0, head=head(9))
    assert sent(effects, SECOND) == [Stored(PID)]
    assert sent(effects, PEER) == []
    assert machine.heads[PID] == head(9)
    assert machine.received(SECOND, [note(9)], 0.0) == []


def test_a_head_never_goes_back() -> None:
    """The judge may say that an older head is true; it is not taken over for that."""
    machine = make()
    (check,) = checks(machine.received(PEER, [note(3)], 0.0))
    assert machine.judged(check.key, Verdict.KNOWN, 0.0, head=head(3)) == []
    assert machine.heads[PID] == head(5)


def test_negatives_go_first() -> None:
    """In every batch that we read, and in every one that we send."""
    machine = make(peers=[PEER])
    found = checks(machine.received(PEER, [note(9), Negative(PID, b"no"), Evidence(PID, b"two")], 0.0))
    assert [check.item.KIND for check in found] == ["negative", "evidence", "note"]
    machine.judged(found[0].key, Verdict.NEW, 0.0, mark=mark(1))
    behind = Heads((line(head(3)),), ask=True)
    answer = sent(machine.received(PEER, [behind, Want(marks=((PID, mark(1)),))], 1.0))
    assert answer[0] == Stored(PID, mark(1))


def test_marks_find_what_is_missing() -> None:
    """Sums that differ lead to the lists, and those to what each side lacks."""
    one, two = make(), make()
    one.learned(head(5), [mark(1), mark(2)], now=0.0)
    two.learned(head(5), [mark(2), mark(3)], now=0.0)
    (told,) = sent(two.received(PEER, [one.told()], 0.0))
    assert isinstance(told, Marks)
    assert set(told.marks) == {mark(2), mark(3)}
    answer = sent(one.received(PEER, [told], 0.0))
    assert set(answer) == {Stored(PID, mark(1)), Want(marks=((PID, mark(3)),))}
    assert sent(two.received(PEER, [Want(marks=((PID, mark(3)),))], 0.0)) == [Stored(PID, mark(3))]


def test_a_lie_is_blamed_and_three_end_it() -> None:
    """A false item counts against who told it; after three, that source is not read any more for a while."""
    machine = make()
    for number in range(3):
        (check,) = checks(machine.received(PEER, [note(10 + number)], 0.0, asked=True))
        (blame,) = machine.judged(check.key, Verdict.FALSE, 0.0, reason="forged")
        assert blame == Blame(PEER, "forged", banned=number == 2)
    assert machine.received(PEER, [note(20)], 1.0) == []
    assert machine.tick(1.0) == []
    assert checks(machine.received(PEER, [note(20)], 4000.0))


def test_who_gives_a_false_log_is_blamed_and_its_head_may_be_true() -> None:
    """A head that its teller cannot prove is judged again when another tells it."""
    machine = make(peers=[PEER, SECOND])
    (check,) = checks(machine.received(PEER, [note(9)], 0.0, asked=True))
    (blame,) = machine.judged(check.key, Verdict.BETRAYED, 0.0, reason="another log")
    assert blame == Blame(PEER, "another log")
    assert checks(machine.received(SECOND, [note(9)], 0.0, asked=True))


CALLER = "198.51.100.7"


def test_lies_of_a_caller_silence_nobody_at_its_address() -> None:
    """Who calls us may name its neighbour: lies cost its address, the neighbour is called and heard as before."""
    machine = make(peers=[PEER])
    for number in range(50):
        for check in checks(machine.received(f"{CALLER} {PEER}", [note(10 + number)], 0.0)):
            (blame,) = machine.judged(check.key, Verdict.FALSE, 0.0, reason="forged")
            assert blame == Blame(f"{CALLER} {PEER}", "forged")
    assert machine.view.knows(PEER)
    assert checks(machine.received(PEER, [Negative(PID, b"true")], 0.0, asked=True))
    assert checks(machine.received(f"{CALLER} {SECOND}", [Negative(PID, b"another")], 0.0))
    assert checks(machine.received(f"{CALLER} {PEER}", [Negative(PID, b"third")], 60.0))


@pytest.mark.parametrize("callers", [[CALLER], [f"2001:db8::{n:x}" for n in range(50)]], ids=["port", "IPv6 host"])
def test_another_name_at_one_address_buys_nothing(callers: list[str]) -> None:
    """A thousand ports of one machine, or hosts of one /64: as much as a few nodes in all."""
    machine = make()
    served = kept = heard = 0
    for number in range(1000):
        peer = f"{callers[number % len(callers)]} http://{CALLER}:{number + 1}"
        served += sum(
            isinstance(one, Serve) for one in machine.received(peer, [Want(entries=((head(5).origin, 0, 5),))], 0.0)
        )
        machine.received(peer, [Negative(OTHER, b"%d" % number * 1000)], 0.0)
        heard += not any(isinstance(one, Blame) for one in machine.received(peer, [], 0.0, size=1024 * 1024))
        for check in checks(machine.received(peer, [Negative(PID, b"%d" % number)], 0.0)):
            machine.judged(check.key, Verdict.FALSE, 0.0)
            kept += 1
    assert heard <= NEIGHBOURS * 4
    assert served <= NEIGHBOURS * 1200 / 4
    assert kept <= NEIGHBOURS * 1200 / LIE
    assert machine.sizes["rumours"] <= 64
    assert len(machine.received(f"203.0.113.1 {SECOND}", [Negative(PID, b"true")], 0.0)) == 1


def test_many_nodes_behind_one_address_are_heard() -> None:
    """Twenty nodes that share an address, each with news of its own."""
    machine = make()
    for number in range(20):
        peer = f"{CALLER} http://{CALLER}:{number + 1}"
        assert checks(machine.received(peer, [Negative(PID, b"%d" % number)], 0.0, size=100_000))


def test_a_caller_that_did_not_answer_is_tried_again() -> None:
    """A peer that rests after failures is asked at once when it calls."""
    machine = make()
    for _ in range(5):
        machine.failed(PEER, 0.0)
    assert machine.tick(0.1) == []
    machine.received(f"10.0.0.2 {PEER}", [], 0.1)
    assert machine.tick(0.1)


def test_what_was_said_before_a_publisher_was_known_counts_once_it_is() -> None:
    """A revocation of a publisher that nobody follows here is judged when its log comes, and found true or not."""
    for follow in (False, True):
        machine = make()
        machine.received(PEER, [Negative(OTHER, b"stop"), note(3, pid=OTHER)], 0.0)
        if follow:
            machine.follow(OTHER)
        effects = checks(machine.learned(head(3, pid=OTHER), now=1.0, tell=False))
        assert [check.item.KIND for check in effects] == ["negative", "note"]
        assert machine.judged(effects[0].key, Verdict.FALSE, 1.0) == []
        assert machine.sizes["rumours"] == 0
    followed = make()
    followed.follow(OTHER)
    (check,) = checks(followed.received(PEER, [Negative(OTHER, b"stop")], 0.0))
    followed.judged(check.key, Verdict.UNKNOWN, 0.0)
    assert [one.item for one in checks(followed.learned(head(3, pid=OTHER), now=1.0))] == [Negative(OTHER, b"stop")]


def test_one_peer_does_not_use_up_what_may_be_asked() -> None:
    """Heads that differ in nothing but an invented time, or in size: others are asked all the same."""
    machine = make()
    for batch in range(17):
        lines = tuple(line(head(5, time=1000 + 256 * batch + n)) for n in range(256))
        machine.received(f"{CALLER} ", [Heads(lines, ask=False)], 0.0)
    assert machine.sizes["asked"] <= MAX_ASKED // 4
    for number in range(64):
        machine.received(f"10.4.{number}.1 ", [Heads((line(head(9)),) * 256, ask=False)], 0.0)
        machine.received(f"10.5.{number}.1 ", [Heads(tuple(line(head(9, time=n)) for n in range(256)), ask=False)], 0.0)
    assert machine.sizes["asked"] < MAX_ASKS
    assert sent(machine.received(PEER, [Heads((line(head(9)),), ask=False)], 0.0, asked=True)) == [Want((PID,))]


def test_one_run_of_a_log_is_served_once() -> None:
    """The same run asked for 256 times in one message, and 256 different ones: a batch holds no more than a few."""
    machine = make()
    same = Want(entries=((head(5).origin, 0, 5),) * 256)
    assert machine.received(PEER, [same], 0.0) == [Serve(PEER, head(5).origin, 0, 5)]
    many = Want(entries=tuple((head(5).origin, n, n + 1) for n in range(256)))
    assert len(machine.received(PEER, [many], 0.0)) == 2


def test_a_rumour_is_nobodys_fault() -> None:
    """Who passes on what it says it cannot judge is not blamed when it proves false."""
    machine = make()
    (check,) = checks(machine.received(PEER, [Rumour(note(9))], 0.0))
    assert machine.judged(check.key, Verdict.FALSE, 0.0) == []


def test_a_judge_that_answers_what_nobody_asked_is_our_fault() -> None:
    """Blame says on which side a fault is."""
    (blame,) = make().judged(b"?", Verdict.NEW, 0.0)
    assert isinstance(blame, Blame)
    assert not blame.remote


def test_rumours_are_kept_told_when_asked_and_bounded() -> None:
    """Notes of unknown publishers: one each, a thousand in all, 64 KiB a minute from one peer; told as rumours."""
    machine = make()
    effects = machine.received(PEER, [Heads((line(head(7, pid=OTHER)),), ask=False)], 0.0)
    assert sent(effects) == [Want((OTHER,))]
    assert machine.received(PEER, [note(7, pid=OTHER)], 0.0) == []
    assert sent(machine.received(SECOND, [Want((OTHER,))], 0.0), SECOND) == [Rumour(note(7, pid=OTHER))]
    told = machine.tick(1.0)[0]
    assert isinstance(told, Send)
    assert line(head(7, pid=OTHER)) in told.messages[0].lines  # type: ignore[union-attr]
    for number in range(3000):
        pid = "".join("abcdefghijklmnop"[number >> shift & 15] for shift in (0, 4, 8)).rjust(52, "c")
        machine.received(f"http://10.3.{number >> 8}.{number & 255}", [note(1, pid=pid)], 1.0)
    assert machine.sizes["rumours"] == 1000
    flooded = make()
    for number in range(100):
        flooded.received(
            PEER, [Note(head(number + 1, pid=OTHER), bytes(4000)), Negative(OTHER, b"%d" % number * 1000)], 1.0
        )
    assert flooded.sizes["rumours"] <= 1 + 64


def test_a_large_rumour_is_not_kept() -> None:
    """A rumour is small: a note of 64 KiB about an unknown publisher is dropped."""
    machine = make()
    machine.received(PEER, [Note(head(7, pid=OTHER), bytes(5000))], 0.0)
    assert machine.sizes["rumours"] == 0


def test_quiet_asks_and_tells_nothing() -> None:
    """A quiet node sends no head, answers none and relays nothing, but tells what it found out by itself."""
    machine = make(quiet=True)
    told = machine.tick(0.0)[0]
    assert isinstance(told, Send)
    assert told.messages[0] == Heads((), ask=True)
    assert machine.received(PEER, [Heads((line(head(3)),), ask=True), Want((PID,))], 0.0) == []
    assert sent(machine.received(PEER, [Heads((line(head(9)),), ask=False)], 0.0)) == [Want((PID,))]
    (check,) = checks(machine.received(PEER, [Negative(PID, b"no")], 0.0))
    assert machine.judged(check.key, Verdict.NEW, 0.0, mark=mark(1)) == []
    assert sent(machine.learned(head(5), [mark(2)], now=0.0)) == [Stored(PID, mark(2))]


def test_entries_and_proofs_come_only_when_asked_for() -> None:
    """Parts of a log that nobody wanted are dropped; those that the judge needs are asked for and taken once."""
    machine = make()
    origin = head(9).origin
    parts = [Entries(origin, 5, (b"e",)), Proof(origin, 5, 9, bytes(32), ())]
    assert machine.received(PEER, parts, 0.0) == []
    (check,) = checks(machine.received(PEER, [note(9)], 0.0))
    need = Want(entries=((origin, 5, 9),))
    assert sent(machine.judged(check.key, Verdict.LATER, 0.0, need=need)) == [need]
    (taken,) = checks(machine.received(PEER, parts[:1], 0.5))
    assert taken.item == parts[0]
    assert machine.received(PEER, [Entries(origin, 6, (b"f",))], 0.5) == []


def test_parts_of_logs_are_served_to_who_asks() -> None:
    """Of publishers that are known here, and no more often than a source may ask."""
    machine = make()
    run = (head(5).origin, 0, 5)
    effects = machine.received(PEER, [Want(entries=(run, ("modelnet.alt/p/" + OTHER, 0, 5)), proofs=(run,))], 0.0)
    assert effects == [Serve(PEER, *run), Serve(PEER, *run, proof=True)]
    served = sum(len(machine.received(PEER, [Want(entries=(run,) * 256)], 0.0)) for _ in range(2000))
    assert served < 400


def test_addresses_are_exchanged() -> None:
    """Now and then peers are asked whom else they know; who calls us and tells addresses unasked is not listened to."""
    machine = make()
    (tick,) = machine.tick(0.0)
    assert isinstance(tick, Send)
    assert tick.messages[1] == Peers(())
    machine.received(PEER, [], 0.0, asked=True)
    asked = machine.received(SECOND, [Peers(("http://10.4.0.1:1",))], 0.0)
    assert sent(asked, SECOND) == [Peers((PEER,))]
    assert machine.received(PEER, [Peers(("http://10.5.0.1:1",))], 0.0, asked=True) == []
    assert {url for url, _, _ in machine.view.known} == {PEER, "http://10.5.0.1:1"}


def test_a_flood_of_news_waits() -> None:
    """What a publisher says too often at once is not pushed on beyond a bound: exchanges find it."""
    machine = make(peers=[PEER])
    effects = machine.learned(head(5), [mark(n) for n in range(500)], now=0.0)
    assert len(sent(effects)) == 64
    assert len(sent(machine.received(PEER, [Want(marks=tuple((PID, mark(n)) for n in range(500)))], 0.0))) == 500


KINDS = st.one_of(
    st.builds(
        Heads, st.lists(st.builds(line, st.builds(head, st.integers(1, 12)), st.integers(0, 3)), max_size=3).map(tuple),
        st.booleans(),
    ),
    st.builds(note, st.integers(1, 12)),
    st.builds(Negative, st.sampled_from([PID, OTHER]), st.binary(min_size=1, max_size=3)),
    st.builds(lambda n: Marks(PID, tuple(mark(i) for i in range(n)), n % 2 == 0), st.integers(0, 5)),
    st.builds(lambda n: Want((PID, OTHER), ((PID, mark(n)),)), st.integers(0, 5)),
    st.builds(lambda n: Peers((f"http://10.0.0.{n}:1",)), st.integers(0, 255)),
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from([PEER, SECOND, "10.7.7.7 "]), st.lists(KINDS, max_size=4), st.booleans()), max_size=30
    ),
    st.sampled_from(list(Verdict)),
    st.integers(0, 1 << 32),
)
def test_no_sequence_of_messages_breaks_a_machine(
    events: list[tuple[str, list[Message], bool]], verdict: Verdict, seed: int
) -> None:
    """Whatever comes, in whatever order: heads only grow, tables stay bounded, and every question has one answer."""
    machine = Machine("http://10.9.9.9:1", Config(interval=1.0), Random(seed), [PEER])
    machine.follow(PID)
    machine.learned(head(5), now=0.0)
    now = 0.0
    for peer, messages, asked in events:
        now += 0.3
        for effect in machine.received(peer, messages, now, size=100, asked=asked):
            if isinstance(effect, Check):
                item = effect.item
                known = head(max(5, item.head.size)) if isinstance(item, Note) else None
                found = mark(len(item.content)) if isinstance(item, Negative) else None
                before = machine.heads[PID].place
                machine.judged(effect.key, verdict, now, head=known, mark=found)
                assert machine.heads[PID].place >= before
        machine.tick(now)
    sizes = machine.sizes
    assert sizes["checking"] == 0
    assert sizes["marks"] <= 6
    assert sizes["asked"] < 64


def test_tables_are_bounded_under_a_thousand_hostile_sources() -> None:
    """Each of a thousand sources sends all it can: no table grows beyond its limit, and honest news still gets in."""
    machine = make(peers=[PEER])
    for number in range(1500):
        source = f"10.{number >> 8}.{number & 255}.1 "
        junk: list[Message] = [Negative(PID, b"%d %d" % (number, n)) for n in range(50)]
        junk += [Note(head(100 + n, root=bytes(32)), b"%d %d" % (number, n) * 100) for n in range(50)]
        junk += [
            Heads(
                tuple(
                    line(head(9, pid=f"{n:0>52}".translate(str.maketrans("0123456789", "abcdefghij"))))
                    for n in range(256)
                ),
                ask=True,
            )
        ]
        for effect in machine.received(source, junk, number / 100, size=200_000):
            if isinstance(effect, Check) and number % 3:
                machine.judged(effect.key, Verdict.FALSE, number / 100)
    sizes = machine.sizes
    assert sizes["checking"] <= machine_module.MAX_CHECKS
    assert sizes["sources"] <= 1025
    assert sizes["seen"] <= machine_module.MAX_SEEN
    assert sizes["asked"] <= machine_module.MAX_SEEN
    assert sizes["rumours"] == 0
    now = 1e6
    while sizes["checking"]:  # the judge gets through
        for key in list(machine._checking):
            machine.judged(key, Verdict.FALSE, now)
        sizes = machine.sizes
    (check,) = checks(machine.received(PEER, [Negative(PID, b"true")], now, asked=True))
    machine.judged(check.key, Verdict.NEW, now, mark=mark(1))
    assert mark(1) in machine.marks[PID]
