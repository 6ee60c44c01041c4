"""What a store knows about publishers: adoption, revocation, evidence, time; the files are the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelnet.core import events
from modelnet.core.freshness import Status
from modelnet.errors import IntegrityError, TrustError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from tests.core.logs import T0, Log, digests


@pytest.fixture
def log() -> Log:
    """A log of two releases."""
    log = Log()
    log.release("llama", "1.0")
    log.release("llama", "1.1", channels=("stable",))
    return log


def replicas(home: Path, clock: float = T0) -> Replicas:
    """Open a store as another process would."""
    return Replicas(open_store(home), clock=lambda: clock)


def test_the_first_head_is_adopted_with_its_entries(tmp_path: Path, log: Log) -> None:
    """First contact: the log is folded, stored, and asked without folding from then on."""
    here = replicas(tmp_path)
    assert not here.known(log.pid)
    with pytest.raises(UnavailableError) as refusal:
        here.standing(log.pid)
    assert refusal.value.rule == "missing"

    adoption = here.adopt(log.pid, log.head(time=T0 - 60), log.entries)
    assert (adoption.before, adoption.size, adoption.changed) == (0, 3, True)
    for again in (here, replicas(tmp_path)):
        standing = again.standing(log.pid)
        assert (standing.size, standing.root, standing.status) == (3, log.state.tree_root, Status.FRESH)
        found = again.view(log.pid).find("llama", "1.0")
        assert found == log.state.find("llama", "1.0")
        assert again.state(log.pid).tree_root == log.state.tree_root
    assert [row.pid for row in here.publishers()] == [log.pid]


def test_a_longer_head_needs_only_what_is_new(tmp_path: Path, log: Log) -> None:
    """The entries from the adopted size on are enough, and the view follows."""
    here = replicas(tmp_path)
    here.adopt(log.pid, log.head(), log.entries)
    log.release("llama", "1.2")
    log.add(log.revoke(digests("llama", "1.0")), "release")
    assert here.adopt(log.pid, log.head(), log.entries[3:]).size == 5
    assert not here.adopt(log.pid, log.head(3)).changed
    view = here.view(log.pid)
    assert [one.event.severity for one in view.revocations_of(digests("llama", "1.0"))] == ["malicious"]
    newest = replicas(tmp_path).state(log.pid).newest("llama")
    assert newest is not None
    assert newest.event.release.version == "1.2"


def test_an_outside_revocation_counts_at_once_and_for_ever(tmp_path: Path, log: Log) -> None:
    """By any route, after a restart, after the index is lost."""
    here = replicas(tmp_path)
    here.adopt(log.pid, log.head(), log.entries)
    envelope = log.fork(3).add(log.revoke(digests("llama", "1.1")), "release")
    here.add_negative(log.pid, envelope)
    assert here.view(log.pid).revocations_of(digests("llama", "1.1"))
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    again = replicas(tmp_path)
    assert again.view(log.pid).revocations_of(digests("llama", "1.1"))
    assert [row.pid for row in again.publishers()] == [log.pid]
    assert again.negatives(log.pid) == [envelope]


def test_two_heads_of_one_size_are_evidence(tmp_path: Path, log: Log) -> None:
    """A head of another history is refused, and what it proves is kept."""
    here = replicas(tmp_path)
    here.adopt(log.pid, log.head(), log.entries)
    other = log.fork(2)
    other.release("llama", "6.6")
    with pytest.raises(TrustError) as refusal:
        here.adopt(log.pid, other.head(), other.entries[2:])
    assert refusal.value.rule == "equivocation"
    assert here.standing(log.pid).status == Status.QUARANTINED
    there = replicas(tmp_path / "there")
    there.adopt(log.pid, other.head(), other.entries)
    there.add_evidence(log.pid, here.evidence(log.pid)[0])
    assert there.standing(log.pid).quarantined


def test_lies_of_a_source_change_nothing(tmp_path: Path, log: Log) -> None:
    """Entries that are not the head's are the source's fault, not the publisher's."""
    here = replicas(tmp_path)
    with pytest.raises(IntegrityError):
        here.adopt(log.pid, log.head(), [log.entries[0], log.entries[2], log.entries[1]])
    assert not here.known(log.pid)
    here.adopt(log.pid, log.head(2), log.entries[:2])
    with pytest.raises(IntegrityError):
        here.adopt(log.pid, log.head(), [log.entries[1]])
    assert not here.standing(log.pid).quarantined
    assert here.standing(log.pid).size == 2


def test_a_recovery_moves_to_the_next_epoch(tmp_path: Path, log: Log) -> None:
    """The dropped branch stays in its folder, and what it revoked stays revoked."""
    from tests.core.logs import following, role

    here = replicas(tmp_path)
    lost = log.fork(3)
    lost.release("llama", "6.6")
    lost.add(lost.revoke(digests("llama", "1.0")), "release")
    here.adopt(log.pid, lost.head(), lost.entries)
    state = log.state
    log.add(events.Recover(log.pid, 2, role("next"), following("next 2"), state.size, state.tree_root), "next")
    adoption = here.adopt(log.pid, log.head(), log.entries)
    assert adoption.recovered
    assert (adoption.epoch, adoption.size) == (1, 4)
    assert here.view(log.pid).revocations_of(digests("llama", "1.0"))
    assert here.view(log.pid).find("llama", "6.6") is None
    assert here.epochs(log.pid) == [0, 1]
    assert list(here.folder(log.pid, 0).entries(0, 5)) == lost.entries
    assert replicas(tmp_path).view(log.pid).revocations_of(digests("llama", "1.0"))
