"""Rows 3, 4, 8 to 13, 22, 23 and 36: old heads, two histories, and revocations, as a store meets them.

Names after `test_rollback.py` of tuf-conformance stand where a row says so: a timestamp is a cosigned head here, a
snapshot is a head, targets are releases.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelnet.core import events
from modelnet.core.adoption import MAX_NEW, MAX_UNSIGNED, revoked_ancestors
from modelnet.core.evidence import Evidence, make_evidence
from modelnet.core.freshness import Status
from modelnet.core.merkle import leaf_hash, subtrees
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.errors import IntegrityError, ModelnetError, TrustError
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from tests.core.logs import T0, Log, digests, following, key, role

V1, V2, V3 = (digests("llama", version) for version in "123")


@pytest.fixture
def log() -> Log:
    """Give a log of three releases, all on `stable`."""
    log = Log()
    for version in "123":
        log.release("llama", version, channels=("stable",))
    return log


def store(home: Path, clock: float = T0) -> Replicas:
    """Open a store as another process would."""
    return Replicas(open_store(home), clock=lambda: clock)


def recovered(log: Log, size: int, then: str = "next 2") -> Log:
    """Return the log after its owner called the first `size` entries the good ones."""
    other = log.fork(size)
    state = other.state
    event = events.Recover(log.pid, 2, role("next"), following(then), state.size, state.tree_root)
    other.add(event, "next")
    return other


def refused(replicas: Replicas, log: Log, note: SignedNote, entries: list[bytes], **options: object) -> TrustError:
    """Adopt what must be refused as equivocation."""
    with pytest.raises(TrustError) as caught:
        replicas.adopt(log.pid, note, entries, **options)  # type: ignore[arg-type]
    assert caught.value.rule == "equivocation"
    return caught.value


# Row 3: rollback to an old head. What was adopted is written down before anybody acts on it.


def test_threat_03_simple_snapshot_rollback(tmp_path: Path, log: Log) -> None:
    """An old head of the same history changes nothing, today or after a restart."""
    store(tmp_path).adopt(log.pid, log.head(), log.entries)
    for replicas in (store(tmp_path), store(tmp_path)):
        for size in (1, 2, 3):
            assert not replicas.adopt(log.pid, log.head(size)).changed
            assert not replicas.adopt(log.pid, log.head(size), log.entries[:size]).changed
        assert replicas.standing(log.pid).size == 4


def test_threat_03_new_timestamp_version_rollback(tmp_path: Path, log: Log) -> None:
    """A head that was cosigned earlier does not make knowledge older."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(time=T0 - 10), log.entries)
    replicas.adopt(log.pid, log.head(time=T0 - 9999))
    replicas.adopt(log.pid, log.head(2, time=T0 - 99_999))
    assert store(tmp_path).standing(log.pid).freshness.age == 10


@pytest.mark.parametrize("lost", [False, True], ids=["with the index", "without it"])
def test_threat_03_snapshot_rollback(tmp_path: Path, log: Log, lost: bool) -> None:  # noqa: FBT001
    """A shorter head with a new signature and a new time is an old head all the same."""
    store(tmp_path).adopt(log.pid, log.head(time=T0 - 5000), log.entries)
    if lost:
        for path in tmp_path.glob("index.sqlite*"):
            path.unlink()
    replicas = store(tmp_path)
    assert not replicas.adopt(log.pid, log.head(2, time=T0 - 1)).changed
    standing = replicas.standing(log.pid)
    # It counts for the time, though: the publisher knew no more then than we do.
    assert (standing.size, standing.freshness.age) == (4, 1)


def test_threat_03_targets_rollback(tmp_path: Path, log: Log) -> None:
    """A revocation that was seen is not unseen by a head from before it."""
    log.add(log.revoke(V3), "release")
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    replicas.adopt(log.pid, log.head(4), log.entries[:4])
    for view in (replicas.view(log.pid), store(tmp_path).view(log.pid)):
        assert view.revocations_of(V3)


def test_threat_03_new_snapshot_version_mismatch(tmp_path: Path, log: Log) -> None:
    """A head whose entries are not those that it was signed for is not adopted, nor any part of them."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(2), log.entries[:2])
    for entries in (log.entries[2:3], [*log.entries[2:], b"{}"], log.entries[3:1:-1], []):
        with pytest.raises((IntegrityError, TrustError)):
            replicas.adopt(log.pid, log.head(), entries, first=2)
    assert store(tmp_path).standing(log.pid).size == 2
    assert replicas.evidence(log.pid) == []


def test_threat_03_new_snapshot_fast_forward_recovery(tmp_path: Path, log: Log) -> None:
    """A thief who made the log longer cannot keep its owner from a shorter one: recovery is the one rollback."""
    stolen = log.fork(3)
    for number in range(99):
        stolen.release("llama", f"6.{number}")
    replicas = store(tmp_path)
    replicas.adopt(log.pid, stolen.head(), stolen.entries)
    mine = recovered(log, 4)
    adoption = replicas.adopt(log.pid, mine.head(time=T0 - 3), mine.entries)
    assert (adoption.before, adoption.size, adoption.recovered) == (102, 5, True)
    assert not replicas.adopt(log.pid, stolen.head(), stolen.entries).changed, "and there is no way back"
    assert store(tmp_path).standing(log.pid).epoch == 1
    assert store(tmp_path).view(log.pid).find("llama", "6.6") is None


# Row 4: a channel rolled back inside the log, by its owner.


def test_threat_04_the_last_release_wins(tmp_path: Path, log: Log) -> None:
    """Not the highest version: what the publisher said last, step by step."""
    replicas = store(tmp_path)

    def picked(channel: str | None = None) -> str | None:
        size = replicas.standing(log.pid).size if replicas.known(log.pid) else 0
        replicas.adopt(log.pid, log.head(), log.entries[size:])
        view, found = replicas.view(log.pid), None
        for answer in (view.newest("llama", channel), replicas.state(log.pid).newest("llama", channel)):  # type: ignore[attr-defined]
            assert found is None or found == answer
            found = answer
        return found and str(found.event.release.version)

    assert picked("stable") == "3"
    log.add(events.Supersede(log.pid, V3, V2, "3 was too large"), "release")
    assert (picked("stable"), picked()) == ("2", "2")
    log.add(events.Yank(log.pid, (V2,)), "release")
    assert picked("stable") == "1"
    log.release("llama", "0.9", channels=("stable",))
    assert picked("stable") == "0.9"
    log.add(log.revoke(digests("llama", "0.9"), V1), "release")
    assert picked("stable") is None


# Rows 8 and 9: two histories.


def test_threat_08_split_view_of_one_size(tmp_path: Path, log: Log) -> None:
    """Two heads of one size: refused, kept as evidence, quarantined everywhere that hears of it."""
    other = log.fork(3)
    other.release("llama", "6.6")
    here, there = store(tmp_path / "here"), store(tmp_path / "there")
    here.adopt(log.pid, log.head(time=T0), log.entries)
    there.adopt(log.pid, other.head(time=T0), other.entries)
    refused(here, log, other.head(), other.entries[3:])

    (evidence,) = here.evidence(log.pid)
    there.add_evidence(log.pid, evidence)
    for home in ("here", "there"):
        standing = store(tmp_path / home).standing(log.pid)
        assert (standing.status, standing.quarantined) == (Status.QUARANTINED, True)
        assert [row.quarantined for row in store(tmp_path / home).publishers()] == [True]
    assert here.view(log.pid).find("llama", "3") == log.state.find("llama", "3"), "what was known is still known"


def test_threat_08_each_quarantine_is_about_one_publisher(tmp_path: Path, log: Log) -> None:
    """Nothing about another publisher changes."""
    other, neighbour = log.fork(3), Log("neighbour ")
    other.release("llama", "6.6")
    replicas = store(tmp_path)
    replicas.adopt(neighbour.pid, neighbour.head(time=T0), neighbour.entries)
    replicas.adopt(log.pid, log.head(), log.entries)
    refused(replicas, log, other.head(), [])
    assert replicas.standing(neighbour.pid).status == Status.FRESH
    with pytest.raises(ModelnetError):
        replicas.add_evidence(neighbour.pid, replicas.evidence(log.pid)[0])


@pytest.mark.parametrize("kind", ["shorter", "longer", "longer, all entries"])
def test_threat_09_split_view_of_different_sizes(tmp_path: Path, log: Log, kind: str) -> None:
    """A head that is no prefix of ours, or that ours is no prefix of, is proven by the tree of the longer one."""
    other = log.fork(2)
    other.release("llama", "6.6")
    if kind != "shorter":
        other.release("llama", "6.7")
        other.release("llama", "6.8")
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    if kind == "longer, all entries":
        refused(replicas, log, other.head(), other.entries)
    else:
        leaves = [leaf_hash(entry) for entry in other.entries]
        refused(replicas, log, other.head(), other.entries[4:], first=4, tree=subtrees(leaves))
    (evidence,) = replicas.evidence(log.pid)
    shown = Evidence.parse(evidence).verify(log.state.origin, log.state.log_keys())
    assert {shown.a.size, shown.b.size} == {4, len(other.entries)}
    assert store(tmp_path).standing(log.pid).quarantined


# Row 10: nobody honest is framed.


def test_threat_10_framing(tmp_path: Path, log: Log) -> None:
    """Two heads of one history, unsigned notes, and evidence with any field changed are never accepted."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    other = log.fork(2)
    other.release("llama", "6.6")
    leaves = [leaf_hash(entry) for entry in log.entries]
    true = make_evidence(other.head(), log.head(), log.state.origin, subtrees(leaves))
    one_history = make_evidence(log.head(2), log.head(), log.state.origin, subtrees(leaves))
    stranger = Checkpoint(log.state.origin, 4, bytes(32)).note().sign(log.state.origin, key("release"))
    offers = [
        one_history.encode(),
        Evidence(log.head(), stranger).encode(),
        Evidence(log.head(), log.head(time=T0)).encode(),
    ]
    fields = json.loads(true.encode())
    for name, value in fields.items():
        cut = value[:-1] if isinstance(value, list) else value[:-4]
        changes = [fields | {name: changed} for changed in ([], "", None, cut, value * 2)]
        offers += [json.dumps(each, separators=(",", ":"), ensure_ascii=False).encode() for each in changes]
    for offer in offers:
        with pytest.raises(ModelnetError):
            replicas.add_evidence(log.pid, offer)
    assert not store(tmp_path).standing(log.pid).quarantined
    replicas.add_evidence(log.pid, true.encode())
    assert store(tmp_path).standing(log.pid).quarantined


def test_threat_10_a_source_that_lies_frames_nobody(tmp_path: Path, log: Log) -> None:
    """Wrong entries or a wrong tree beside a true head say nothing about the publisher."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(2), log.entries[:2])
    wrong = [leaf_hash(entry) for entry in reversed(log.entries)]
    for entries, first in ((log.entries[3:1:-1], 2), ([log.entries[0], *log.entries[:3]], 0)):
        with pytest.raises((IntegrityError, TrustError)) as caught:
            replicas.adopt(log.pid, log.head(), entries, first=first, tree=subtrees(wrong))
        assert not isinstance(caught.value, TrustError) or caught.value.rule != "equivocation"
    assert not replicas.standing(log.pid).quarantined


# Row 11: old evidence after a recovery.


def test_threat_11_old_evidence_is_archived(tmp_path: Path, log: Log) -> None:
    """Evidence from before a recovery is kept, taken, passed on, and quarantines nobody any more."""
    bad = log.fork(3)
    bad.release("llama", "6.6")
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    refused(replicas, log, bad.head(), bad.entries[3:])
    assert replicas.standing(log.pid).quarantined
    mine = recovered(log, 4)
    replicas.adopt(log.pid, mine.head(time=T0), mine.entries)

    newcomer = store(tmp_path / "newcomer")
    newcomer.adopt(log.pid, mine.head(time=T0), mine.entries)
    for one in (replicas, store(tmp_path), newcomer):
        one.add_evidence(log.pid, replicas.evidence(log.pid)[0])
        assert one.standing(log.pid).status == Status.FRESH
        assert len(one.evidence(log.pid)) == 1
    again = mine.fork(5)
    mine.release("llama", "5")
    again.release("llama", "6.7")
    replicas.adopt(log.pid, mine.head(), mine.entries[5:])
    refused(replicas, log, again.head(), again.entries[5:])
    assert store(tmp_path).standing(log.pid).quarantined, "of the new epoch there can be evidence too"


def test_threat_11_two_takeovers_are_the_end(tmp_path: Path, log: Log) -> None:
    """Two branches with a takeover by the next keys: no rule tells the owner from a thief, and none is followed."""
    replicas = store(tmp_path)
    thief = log.fork(3)
    thief.add(events.Rotate(log.pid, 2, role("next"), following("next 3")), "next")
    replicas.adopt(log.pid, thief.head(), thief.entries)
    mine = recovered(log, 4)
    with pytest.raises(TrustError) as caught:
        replicas.adopt(log.pid, mine.head(), mine.entries)
    assert caught.value.rule == "dead"
    for one in (replicas, store(tmp_path)):
        standing = one.standing(log.pid)
        assert (standing.dead, standing.status) == (True, Status.QUARANTINED)
        with pytest.raises(TrustError) as caught:
            one.adopt(log.pid, thief.head())
        assert caught.value.rule == "dead"
    assert [row.dead for row in replicas.publishers()] == [True]


# Rows 12 and 13: parts of two histories, and absurd sizes.


def test_threat_12_mix_and_match(tmp_path: Path, log: Log) -> None:
    """Entries of one branch with the head of another are not adopted in any mixture."""
    other = log.fork(2)
    other.release("llama", "3")
    other.release("llama", "2")
    replicas = store(tmp_path)
    for mixture in itertools.product(*zip(log.entries[1:], other.entries[1:], strict=True)):
        entries = [log.entries[0], *mixture]
        if entries == log.entries:
            continue
        with pytest.raises((IntegrityError, TrustError)):
            replicas.adopt(log.pid, log.head(), entries)
    assert not replicas.known(log.pid)


def test_threat_13_fast_forward(tmp_path: Path, log: Log) -> None:
    """A head of 2^62 entries that the log signed is not adopted, and a stream without end is not read for ever."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"{}"

    huge = Checkpoint(log.state.origin, 1 << 62, bytes(32)).note()
    for signer, most in (("log", MAX_NEW), ("release", MAX_UNSIGNED)):
        note, read = huge.sign(log.state.origin, key(signer)), 0
        with pytest.raises(TrustError) as caught:
            replicas.adopt(log.pid, note, endless())
        assert caught.value.rule == "limit"
        assert read <= most + 1
        with pytest.raises((TrustError, IntegrityError)):
            replicas.adopt(log.pid, note, [])
        with pytest.raises((TrustError, IntegrityError)):
            replicas.adopt(log.pid, note)
    assert store(tmp_path).standing(log.pid).size == 4
    assert list(replicas.folder(log.pid).entries(0, 4)) == log.entries


# Rows 22 and 23: revocations that somebody would rather have unheard.


def test_threat_22_a_censor_cannot_keep_a_revocation_out(tmp_path: Path, log: Log) -> None:
    """The revocation alone, from anybody, is enough; a log that leaves it out changes nothing."""
    full = log.fork(4)
    revoke = full.add(full.revoke(V3), "release")
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    replicas.add_negative(log.pid, revoke)
    log.release("llama", "4")
    replicas.adopt(log.pid, log.head(time=T0), log.entries[4:])  # the censored branch goes on
    for one in (replicas, store(tmp_path)):
        assert one.view(log.pid).revocations_of(V3)
        assert one.negatives(log.pid) == [revoke]
    with pytest.raises(ModelnetError):
        replicas.add_negative(log.pid, log.fork(1).add(log.revoke(V1), "log"))
    with pytest.raises(ModelnetError):
        replicas.add_negative(log.pid, log.entries[1])


def test_threat_22_a_key_that_was_rotated_out_revokes_no_more(tmp_path: Path, log: Log) -> None:
    """What it revoked before stays; what it says now does not count."""
    replicas = store(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries)
    early, late = (log.fork(1).add(log.revoke(which, text="stolen"), "release") for which in (V1, V2))
    replicas.add_negative(log.pid, early)
    log.add(events.Keys(log.pid, release=role("release 2")), "root")
    replicas.adopt(log.pid, log.head(), log.entries[4:])
    with pytest.raises(TrustError):
        replicas.add_negative(log.pid, late)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    view = store(tmp_path).view(log.pid)
    assert view.revocations_of(V1)
    assert not view.revocations_of(V2)


@pytest.mark.parametrize("route", ["in the log", "beside it", "in a dropped branch"])
def test_threat_23_revoked_stays_revoked(tmp_path: Path, log: Log, route: str) -> None:
    """Through restarts, forks, epochs and the loss of the index; by manifest and by file; until root takes it back."""
    file = events.Digests("ab" * 32)
    event = events.Revoke(log.pid, (V2,), "malicious", files=(file,))
    branch = log.fork(4)
    revoke = branch.add(event, "release")
    replicas = store(tmp_path)
    if route == "in the log":
        log.add(revoke)
        replicas.adopt(log.pid, log.head(), log.entries)
    elif route == "beside it":
        replicas.adopt(log.pid, log.head(), log.entries)
        replicas.add_negative(log.pid, revoke)
    else:
        branch.release("llama", "6.6")
        replicas.adopt(log.pid, branch.head(), branch.entries)

    def revoked() -> bool:
        one = store(tmp_path)
        answers = {
            bool(one.view(log.pid).revocations_of(which)) for which in (V2, file, events.Digests(None, V2.blake3))
        }
        (answer,) = answers
        return answer

    assert revoked()
    mine = recovered(log, len(log.entries))
    replicas.adopt(log.pid, mine.head(), mine.entries)
    assert revoked()
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    assert revoked()
    mine.add(events.Reinstate(log.pid, leaf_hash(revoke)), "next")
    store(tmp_path).adopt(log.pid, mine.head(), mine.entries[len(log.entries) + 1 :])
    assert not revoked()


def test_threat_23_a_damaged_index_hides_no_revocation(tmp_path: Path, log: Log) -> None:
    """Rows that are gone or changed are noticed, and made again from the files."""
    log.add(log.revoke(V3), "release")
    store(tmp_path).adopt(log.pid, log.head(), log.entries)
    for damage in (
        "DELETE FROM log_revoked", "DELETE FROM log_revocation", "DELETE FROM log", "UPDATE log SET size = 3",
        "UPDATE log_revoked SET digest = 'sha256:00' || substr(digest, 10)", "UPDATE log SET revoked = x'00'",
        "UPDATE log_revocation SET body = CAST(replace(body, 'malicious', 'broken') AS BLOB)",
    ):  # fmt: skip
        with open_store(tmp_path).index.transaction() as connection:
            connection.execute(damage)
        found = store(tmp_path).view(log.pid).revocations_of(V3)
        assert [one.event.severity for one in found] == ["malicious"], damage


# Row 36: a poisoned ancestor.


def test_threat_36_a_revoked_ancestor_marks_its_descendants(tmp_path: Path) -> None:
    """Three publishers deep: the base is revoked, and the adapter of its finetune is known to be made from it."""
    base, tuned, adapter = Log(), Log("tuner "), Log("adapter ")
    base.release("base", "1")
    parent = digests("base", "1")
    lineage = [{"pid": base.pid, "sha256": parent.sha256, "blake3": parent.blake3, "relation": "finetune"}]
    tuned.release("tuned", "1", lineage=lineage)
    middle = digests("tuned", "1", lineage)
    adapter.release("lora", "1", lineage=[{"pid": tuned.pid, "sha256": middle.sha256, "relation": "adapter"}])
    replicas = store(tmp_path)
    for one in (base, tuned, adapter):
        replicas.adopt(one.pid, one.head(), one.entries)

    def marks() -> list[str]:
        views = {one.pid: replicas.view(one.pid) for one in (base, tuned, adapter)}
        found = views[adapter.pid].find("lora", "1")
        assert found is not None
        return [one.event.severity for one in revoked_ancestors(found, views)]

    assert marks() == []
    base.add(base.revoke(parent, severity="malicious"), "release")
    replicas.adopt(base.pid, base.head(), base.entries[2:])
    assert marks() == ["malicious"]
