"""Which log is fetched next: slow tellers cost themselves, what nobody vouches for waits, every head has its turn."""

from __future__ import annotations

from modelnet_registry.gossip.effects import Check
from modelnet_registry.gossip.errands import AT_ONCE, MAX_ERRANDS, MAX_OF_LOG, Errand, Errands, Grade
from modelnet_registry.gossip.messages import Head, Note

PIDS = [letter * 52 for letter in "abcdefgh"]


def errand(number: int, grade: Grade, *, pid: str = PIDS[0], url: str = "", peer: str = "") -> Errand:
    """Return an errand for a head of its own, by a teller of its own."""
    url = url or f"http://10.0.{number >> 8}.{number & 255}:1"
    item = Note(Head(pid, 0, number + 1, bytes(32)), b"%d" % number)
    return Errand(Check(b"%d" % number, item, url), peer or url, url, grade)


def test_the_signed_go_first() -> None:
    """Whatever came before: a head signed by a known key, then new publishers, then what may be made up."""
    errands = Errands(1.0, 2.0)
    for number, grade in enumerate([Grade.UNSIGNED, Grade.NEW, Grade.SIGNED]):
        assert errands.add(errand(number, grade, pid=PIDS[number]), 0.0) == []
    order = [errands.next(0.0) for _ in range(4)]
    assert [one and one.grade for one in order] == [Grade.SIGNED, Grade.NEW, Grade.UNSIGNED, None]


def test_what_costs_nothing_to_invent_has_one_thread() -> None:
    """Made-up heads of many tellers run one after the other, and leave room for all others."""
    errands = Errands(1.0, 2.0)
    for number in range(20):
        errands.add(errand(number, Grade.UNSIGNED, pid=PIDS[number % 8]), 0.0)
    first = errands.next(0.0)
    assert first is not None
    assert errands.next(0.0) is None
    for number in range(AT_ONCE - 1):
        errands.add(errand(100 + number, Grade.SIGNED, pid=PIDS[number]), 0.0)
        assert errands.next(0.0) is not None
    assert errands.next(0.0) is None


def test_one_teller_pays_for_what_it_makes_up() -> None:
    """Whatever ports one address names, few of its unsigned heads wait; another address has its turn."""
    errands = Errands(1.0, 2.0)
    refused = 0
    for number in range(30):
        made_up = errand(
            number, Grade.UNSIGNED, pid=PIDS[number % 8], url=f"http://10.9.9.9:{number}", peer=f"10.9.9.9 x{number}"
        )
        refused += len(errands.add(made_up, 0.0))
    assert refused == 26
    assert errands.add(errand(99, Grade.UNSIGNED), 0.0) == []


def test_whom_we_called_comes_before_who_calls_us() -> None:
    """Any number of callers make up heads: the one that a peer of ours told is fetched next."""
    errands = Errands(1.0, 2.0)
    for number in range(20):
        errands.add(errand(number, Grade.UNSIGNED, pid=PIDS[number % 8], peer=f"10.0.0.{number} http://x"), 0.0)
    called = errand(90, Grade.UNSIGNED)
    errands.add(called, 0.0)
    assert errands.next(0.0) is called


def test_a_slow_teller_is_left_alone() -> None:
    """What it told waits no more; it is asked again later, and later still when it is slow again."""
    errands = Errands(1.0, 2.0)
    slow, other = "http://10.0.0.66:1", "http://10.0.0.67:1"
    now = 0.0
    rests = []
    for _ in range(3):
        first, second = errand(1, Grade.SIGNED, url=slow), errand(2, Grade.SIGNED, pid=PIDS[1], url=slow)
        assert errands.add(first, now) == errands.add(second, now) == []
        assert errands.next(now) is first
        assert errands.next(now) is None  # one thread for one teller
        assert errands.done(first, now, slow=True) == [second]
        assert errands.add(second, now) == [second]
        rests.append(next(rest for rest in range(1, 100) if not errands.is_slow(slow, now + rest)))
        now += rests[-1]
    assert rests == sorted(set(rests))
    assert errands.add(errand(3, Grade.SIGNED, url=other), now) == []


def test_a_second_teller_is_asked_when_the_first_takes_long() -> None:
    """The same log is not fetched twice at once, unless who is asked first takes its time."""
    errands = Errands(1.0, 3.0)
    one, two, three = (errand(number, Grade.SIGNED) for number in range(3))
    for each in (one, two, three):
        errands.add(each, 0.0)
    assert errands.next(0.0) is one
    assert errands.next(0.5) is None
    assert errands.next(1.0) is two
    assert errands.next(9.0) is None
    errands.done(one, 9.0, slow=True)
    assert errands.next(9.0) is three


def test_a_made_up_head_keeps_no_true_one_waiting() -> None:
    """While somebody drips about a publisher, a signed head of the same one is fetched at once."""
    errands = Errands(1.0, 3.0)
    errands.add(errand(1, Grade.UNSIGNED), 0.0)
    assert errands.next(0.0) is not None
    true = errand(2, Grade.SIGNED)
    errands.add(true, 0.0)
    assert errands.next(0.0) is true


def test_few_wait() -> None:
    """No publisher and no kind takes all places: what is worth less gives way."""
    errands = Errands(1.0, 2.0)
    for number in range(500):
        errands.add(errand(number, Grade.NEW, pid=PIDS[number % 8]), 0.0)
    assert len(errands) == min(MAX_ERRANDS, 8 * MAX_OF_LOG)
    signed = errand(900, Grade.SIGNED)
    (gone,) = errands.add(signed, 0.0)
    assert gone.grade is Grade.NEW
    assert errands.next(0.0) is signed
    assert errands.like(signed.check.key) is signed
    errands.done(signed, 0.0, slow=False)
    assert not errands.open(signed.check.key)
