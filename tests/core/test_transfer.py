"""The plan of a pull, driven on a fake clock by sources that are slow, partial, silent, dying or lying."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelnet.core.filetree import FileTree
from modelnet.core.transfer import (
    LEASE_MOST,
    SLOTS_MOST,
    STALL_S,
    STRIKES,
    Run,
    State,
    Transfer,
)
from tests.core.dags import tree_of
from tests.core.swarm import MIB, Outcome, Peer, pull, states

KIB = 1024
FILE = tree_of([256 * KIB] * 512, width=1024)  # 128 MiB
SMALL = tree_of([1 * KIB] * 40, width=1024)
MIXED = [tree_of([256 * KIB] * 60, width=1024), tree_of(1000), tree_of([[MIB] * 20, 5, [256 * KIB] * 9], width=1024)]


def whole(*trees: FileTree) -> tuple[list[FileTree], list[list[int]]]:
    """Return files of which everything is missing."""
    return list(trees), [list(range(len(tree))) for tree in trees]


def run(*peers: Peer, trees: tuple[FileTree, ...] = (FILE,)) -> Outcome:
    """Pull whole files from `peers`."""
    return pull(*whole(*trees), list(peers))


def complete(outcome: Outcome, trees: tuple[FileTree, ...] = (FILE,)) -> bool:
    """Tell whether every chunk of every file was delivered, and each once."""
    places = {(file, index) for file, tree in enumerate(trees) for index in range(len(tree))}
    return outcome.done and outcome.deliveries == dict.fromkeys(places, 1)


def test_one_source() -> None:
    """One source gives everything, in order and at its full rate, and nothing is sent twice."""
    outcome = run(Peer("a", 50 * MIB))
    assert complete(outcome)
    assert outcome.seconds < 1.1 * 128 / 50 + 0.5
    assert outcome.wasted < 1


@pytest.mark.parametrize("rate", [5, 50, 500])
def test_two_equal_sources_take_half_the_time(rate: int) -> None:
    """Two equal sources finish in at most 0.55 of the time of one, and a little."""
    one = run(Peer("a", rate * MIB))
    two = run(Peer("a", rate * MIB), Peer("b", rate * MIB))
    assert complete(two)
    assert two.seconds <= 0.55 * one.seconds + 0.3
    shares = [source.bytes for source in two.transfer.sources.values()]
    assert min(shares) > 0.4 * sum(shares)


def test_eight_equal_sources() -> None:
    """Eight equal sources finish in little more than an eighth of the time."""
    outcome = run(*[Peer(f"p{number}", 10 * MIB) for number in range(8)])
    assert complete(outcome)
    assert outcome.seconds <= 128 / 80 * 1.25 + 0.3


@pytest.mark.parametrize("share", [2, 10, 100])
def test_a_slower_source_does_not_delay(share: int) -> None:
    """Beside a slower source the fast one is never later than alone, but for the tail."""
    alone = run(Peer("fast", 50 * MIB))
    both = run(Peer("fast", 50 * MIB), Peer("slow", 50 * MIB / share))
    assert complete(both)
    assert both.seconds <= alone.seconds + 0.5


@pytest.mark.parametrize("good", [1, 3])
@pytest.mark.parametrize("late", [0.0, 2.0])
def test_one_byte_a_second(good: int, late: float) -> None:
    """A source of one byte a second among good ones costs half a second at most, whoever comes first."""
    peers = [Peer(f"good {number}", 20 * MIB, late=late) for number in range(good)]
    alone = run(*peers)
    beside = run(Peer("trickle", 1.0), *peers)
    assert complete(beside)
    assert beside.seconds <= alone.seconds + 0.5
    assert beside.wasted <= 2 * SLOTS_MOST * 4 * MIB


def test_a_trickle_alone_is_given_up() -> None:
    """A source below 1 KiB/s that is the only one is as good as none."""
    outcome = run(Peer("trickle", 500.0))
    assert outcome.transfer.hopeless
    assert not outcome.stuck
    assert states(outcome) == {"trickle": State.GONE}


def test_a_source_that_dies() -> None:
    """What a dead source held is asked elsewhere; it is tried a few times more and then counts as gone."""
    outcome = run(Peer("a", 20 * MIB), Peer("b", 20 * MIB, dies=1.0))
    assert complete(outcome)
    assert states(outcome) == {"a": State.OK, "b": State.GONE}
    assert outcome.seconds <= 128 / 20


def test_a_source_that_falls_silent() -> None:
    """A silent source's work is taken over at the end at the latest, not after its time runs out."""
    outcome = run(Peer("a", 20 * MIB), Peer("b", 20 * MIB, stalls=2.5))
    assert complete(outcome)
    assert outcome.seconds < 128 / 20


def test_all_fall_silent() -> None:
    """When every source is silent for good the pull ends, soon after their tries are used up."""
    outcome = run(Peer("a", stalls=1.0), Peer("b", stalls=2.0))
    assert not outcome.done
    assert outcome.transfer.hopeless
    assert outcome.seconds < (STRIKES + 1) * STALL_S


def test_a_liar() -> None:
    """A source that sends one wrong chunk is never asked again and is reported so, and the pull goes on."""
    outcome = run(Peer("a", 20 * MIB), Peer("liar", 20 * MIB, lies=frozenset((0, n) for n in range(0, 512, 7))))
    assert complete(outcome)
    assert outcome.leases_after_lie == []
    assert states(outcome)["liar"] is State.LIED


def test_a_lie_outlives_what_follows() -> None:
    """However the other leases of a liar end, it stays a liar and its reason stays the lie."""
    for end in ("failed", "missing", "finished"):
        plan = Transfer(*whole(FILE))
        plan.add_source("liar")
        leases = [plan.lease("liar", 0.0), plan.lease("liar", 0.0)]
        assert None not in leases
        plan.lied(leases[0], "chunk 3 differs")  # type: ignore[arg-type]
        assert plan.verdict(leases[1], 0.1) is not None  # type: ignore[arg-type]
        if end == "failed":
            plan.sources["liar"].strikes = STRIKES
            plan.failed(leases[1], "slow: 1 byte a second", 0.2)  # type: ignore[arg-type]
        elif end == "missing":
            plan.missing(leases[1], 0.2)  # type: ignore[arg-type]
        else:
            plan.finished(leases[1], 0.2)  # type: ignore[arg-type]
        assert (plan.sources["liar"].state, plan.sources["liar"].reason) == (State.LIED, "chunk 3 differs")
        assert plan.lease("liar", 100.0) is None
        assert plan.hopeless


def test_excluded_sources_are_never_asked() -> None:
    """A source that lied before the transfer began gets no lease."""
    plan = Transfer(*whole(FILE))
    plan.add_source("liar")
    plan.exclude("liar", "its manifest was another")
    assert plan.lease("liar", 0.0) is None
    assert plan.hopeless


def test_two_halves() -> None:
    """Two sources with one half each give the whole, both at full speed."""
    outcome = run(
        Peer("first", 20 * MIB, has=lambda _file, index: index < 256),
        Peer("second", 20 * MIB, has=lambda _file, index: index >= 256),
    )
    assert complete(outcome)
    assert outcome.seconds < 0.55 * 128 / 20 + 0.5


@pytest.mark.parametrize("rare", [[100], [0, 511], [7, 77, 177, 277, 377, 477], list(range(3, 512, 16))])
def test_what_only_one_source_has(rare: list[int]) -> None:
    """A source that has nothing else than the last chunks is still asked when the others are at their end."""
    outcome = run(
        Peer("most", 20 * MIB, has=lambda _file, index: index not in rare),
        Peer("rare", 20 * MIB, has=lambda _file, index: index in rare),
    )
    assert complete(outcome)
    assert outcome.requests < 2000


def test_what_nobody_has() -> None:
    """A chunk that nobody has ends the pull within a minute of the last delivery, with all else delivered."""
    outcome = run(*[Peer(name, 20 * MIB, has=lambda _file, index: index != 300) for name in "abc"])
    assert not outcome.done
    assert not outcome.stuck
    assert outcome.transfer.left == 256 * KIB
    assert set(states(outcome).values()) == {State.GONE}
    assert outcome.seconds < 60


def test_nothing_to_fetch() -> None:
    """A transfer of nothing is done at once, and one without sources is hopeless."""
    assert Transfer([FILE], [[]]).done
    assert not Transfer([FILE], [[]]).hopeless
    assert Transfer(*whole(FILE)).hopeless


def test_only_what_is_missing_is_asked() -> None:
    """Chunks that are already here are never part of a lease."""
    missing = [5, 6, 7, 100, 300, 301]
    plan = Transfer([FILE], [missing])
    plan.add_source("a")
    asked: list[int] = []
    now = 0.0
    while not plan.done:
        now += 0.1
        lease = plan.lease("a", now)
        assert lease is not None
        for index in range(lease.run.first, lease.run.last):
            asked.append(index)
            assert plan.verified(lease, index)
        plan.finished(lease, now)
    assert asked == missing
    assert plan.left == 0


def test_leases_do_not_overlap() -> None:
    """Until the end game begins no chunk is leased twice, and no lease is above 16 MiB."""
    plan = Transfer(*whole(*MIXED))
    for name in "abcdef":
        plan.add_source(name)
    held: set[tuple[int, int]] = set()
    while plan._pending:
        for name in "abcdef":
            plan.sources[name].slots = 100
            lease = plan.lease(name, 1.0)
            if lease is None or not plan._pending:
                break
            chunks = {(lease.run.file, index) for index in range(lease.run.first, lease.run.last)}
            assert not chunks & held
            assert 0 < lease.size <= LEASE_MOST
            held |= chunks


def test_end_game_gives_twice() -> None:
    """What a silent source holds is given to one idle source, not to all of them."""
    plan = Transfer(*whole(SMALL))
    for name in ("silent", "a", "b", "c"):
        plan.add_source(name)
        plan.sources[name].goodput = 10.0 * MIB
    first = plan.lease("silent", 0.0)
    assert first is not None
    assert first.run == Run(0, 0, 40)
    copies = [plan.lease(name, 5.0) for name in ("a", "a", "b", "c")]
    assert [copy is not None for copy in copies] == [True, False, False, False]


def test_a_duplicate_is_counted_once() -> None:
    """A chunk that two sources deliver counts for the first, and the slower one learns that others were faster."""
    plan = Transfer(*whole(SMALL))
    for name in ("slow", "fast"):
        plan.add_source(name)
    slow = plan.lease("slow", 0.0)
    fast = plan.lease("fast", 5.0)
    assert slow is not None
    assert fast is not None
    for index in range(40):
        assert plan.verified(fast, index)
        assert not plan.verified(slow, index)
    assert plan.verdict(slow, 5.1) == "others were faster"
    assert (plan.sources["fast"].bytes, plan.sources["slow"].bytes) == (40 * KIB, 0)
    assert plan.done


def test_strikes_are_forgiven() -> None:
    """A source that works again after failures starts afresh; one that never does is gone after four."""
    plan = Transfer(*whole(FILE))
    plan.add_source("a")
    now = 0.0
    for _ in range(3):
        for _ in range(STRIKES - 1):
            now += 10
            lease = plan.lease("a", now)
            assert lease is not None
            plan.failed(lease, "reset", now)
        now += 10
        lease = plan.lease("a", now)
        assert lease is not None
        plan.verified(lease, lease.run.first)
        plan.finished(lease, now + 1)
    assert plan.sources["a"].usable
    for _ in range(STRIKES):
        now += 10
        lease = plan.lease("a", now)
        assert lease is not None
        plan.failed(lease, "reset", now)
    assert plan.sources["a"].state is State.GONE
    assert plan.hopeless


rates = st.sampled_from([1.0, 2000.0, 0.3 * MIB, 3 * MIB, 30 * MIB])


@st.composite
def swarms(draw: st.DrawFn) -> list[Peer]:
    """Draw one good source and up to five of every other kind."""
    peers = [Peer("good", draw(st.sampled_from([3 * MIB, 30 * MIB])), late=draw(st.sampled_from([0.0, 1.0])))]
    for number in range(draw(st.integers(0, 5))):
        seed, part = draw(st.integers(0, 99)), draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
        chooser = random.Random(seed)
        held = {
            (file, index) for file, tree in enumerate(MIXED) for index in range(len(tree)) if chooser.random() < part
        }
        peers.append(
            Peer(
                f"p{number}",
                draw(rates),
                has=None if part == 1.0 else lambda file, index, held=held: (file, index) in held,  # type: ignore[misc]
                dies=draw(st.none() | st.floats(0, 5)),
                stalls=draw(st.none() | st.floats(0, 5)),
                lies=frozenset(draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 59)), max_size=3))),
                latency=draw(st.sampled_from([0.0, 0.2])),
                late=draw(st.sampled_from([0.0, 0.5, 3.0])),
            )
        )
    return draw(st.permutations(peers))


@settings(max_examples=150)
@given(swarms())
def test_any_swarm_with_one_good_source(peers: list[Peer]) -> None:
    """Beside one good source nothing that others do stops the pull, delays it without bound, or is counted twice."""
    outcome = pull(*whole(*MIXED), peers, limit=300)
    trees = tuple(MIXED)
    good = next(peer for peer in peers if peer.name == "good")
    total = sum(tree.entry.size for tree in trees)
    assert complete(outcome, trees)
    assert outcome.leases_after_lie == []
    assert outcome.seconds <= good.late + total / good.rate + 10
    # Each source can waste what its connections hold when others were faster, and no more.
    assert outcome.wasted <= len(peers) * SLOTS_MOST * 4 * MIB
    for source in outcome.transfer.sources.values():
        assert source.active >= 0


@settings(max_examples=150)
@given(swarms())
def test_any_swarm_comes_to_an_end(peers: list[Peer]) -> None:
    """Without any good source a pull still ends: everything arrived once, or nobody is left to ask."""
    others = [peer for peer in peers if peer.name != "good"]
    for peer in others:
        peer.rate = max(peer.rate, 0.3 * MIB) if peer.rate > 1024 else peer.rate  # seconds, not hours
    outcome = pull(*whole(*MIXED), others, limit=900)
    assert not outcome.stuck
    assert outcome.done or outcome.transfer.hopeless
    assert set(outcome.deliveries.values()) <= {1}
    assert outcome.leases_after_lie == []
    delivered = sum(MIXED[file].size_of(index) for file, index in outcome.deliveries)
    assert delivered + outcome.transfer.left == sum(tree.entry.size for tree in MIXED)


@settings(max_examples=60)
@given(st.integers(2, 4), st.integers(0, 10**6), st.sampled_from([0.1, 1.0]))
def test_everything_is_somewhere(count: int, seed: int, change: float) -> None:
    """Where every chunk is held by some honest source the pull completes, however the chunks are spread."""
    chooser = random.Random(seed)
    owner: dict[tuple[int, int], int] = {}
    for file, tree in enumerate(MIXED):
        current = 0
        for index in range(len(tree)):
            if chooser.random() < change:
                current = chooser.randrange(count)
            owner[file, index] = current
    peers = [
        Peer(f"p{number}", 20 * MIB, has=lambda file, index, number=number: owner[file, index] == number)  # type: ignore[misc]
        for number in range(count)
    ]
    outcome = pull(*whole(*MIXED), peers, limit=600)
    assert complete(outcome, tuple(MIXED))
