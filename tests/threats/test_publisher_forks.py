"""Row 33: a restored backup and a copied key are refused before they sign; forced, they leave evidence."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from modelnet import TrustError, init
from modelnet.core.evidence import Evidence, make_evidence
from modelnet.core.fold import PublisherState
from modelnet.core.note import SignedNote
from modelnet.stores.home import Home
from modelnet.stores.peers import add_peers
from modelnet_registry.keyops import recover, rotate_keys
from modelnet_registry.log.guards import Heads
from tests.registry.log.stage import Desk, parsed, size_of
from tests.store.stage import Machine, serving, write_random


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Give a publisher with two releases."""
    desk = Desk.made(tmp_path / "home")
    desk.append(desk.release("1"))
    desk.append(desk.release("2"))
    return desk


def seen(*notes: SignedNote) -> Heads:
    """Return peers that have seen `notes`."""

    def heads(_: str) -> Iterable[SignedNote]:
        return notes

    return heads


def refused(desk: Desk, version: str, *notes: SignedNote) -> TrustError:
    """Try to append; check that it is refused and that nothing was signed."""
    signed = len(desk.signed)
    with pytest.raises(TrustError) as caught:
        desk.append(desk.release(version), heads=seen(*notes))
    assert caught.value.rule == "fork"
    assert caught.value.hint is not None
    assert "modelnet sync" in caught.value.hint
    assert len(desk.signed) == signed
    return caught.value


def test_threat_33_backup_restore(desk: Desk, tmp_path: Path) -> None:
    """A store restored from before two releases asks the peers, and does not sign."""
    backup = desk.copied(tmp_path / "backup")
    desk.append(desk.release("3"))
    note = desk.append(desk.release("4"))
    error = refused(backup, "5", note)
    assert str(size_of(note)) in str(error.got)
    assert size_of(backup.head) == 3


def test_threat_33_backup_without_the_writers_state(desk: Desk, tmp_path: Path) -> None:
    """The same when the state was left out of the backup, as the documentation asks."""
    backup = desk.copied(tmp_path / "backup")
    (backup.home.logs / backup.pid / "own" / "0.intended").unlink()
    refused(backup, "5", desk.append(desk.release("3")))


def test_threat_33_backup_from_before_a_new_log_key(desk: Desk, tmp_path: Path) -> None:
    """A backup that knows only the old log key recognizes the new heads, for the old key signs them as well."""
    backup = desk.copied(tmp_path / "backup")
    rotate_keys(["log"], home=desk.home)
    desk.keys = Desk.at(desk.home).keys
    note = desk.append(desk.release("3"))
    refused(backup, "5", note)


def test_threat_33_copied_key_on_two_machines(desk: Desk, tmp_path: Path) -> None:
    """Two machines with one key: the second is refused, whether the first is ahead, behind or level with it."""
    copy = desk.copied(tmp_path / "copy")
    first = desk.append(desk.release("3"))
    refused(copy, "other", first)
    # Forced, offline: now both have another third release.
    forked = copy.append(copy.release("other"))
    refused(copy, "more", first)
    refused(desk, "more", forked)
    longer = copy.append(copy.release("other-2"))
    refused(desk, "more", longer)
    refused(copy, "more", first)


def test_threat_33_what_was_seen_of_this_history_is_no_hindrance(desk: Desk, tmp_path: Path) -> None:
    """Older heads, our own head, heads of other logs, and heads that nobody of ours signed say nothing."""
    older, own = desk.signed[0], desk.head
    stranger = Desk.made(tmp_path / "stranger")
    foreign = stranger.append(stranger.release("1"), stranger.release("2"), stranger.release("3"))
    forged = parsed(foreign)
    fake = type(forged)(desk.state.origin, 99, forged.root).note().sign(desk.state.origin, stranger.keys.of("log")[0])
    desk.append(desk.release("3"), heads=seen(older, own, foreign, fake))
    desk.check()


def test_threat_33_after_a_recovery_elsewhere(tmp_path: Path) -> None:
    """A copy that recovered the log is ahead, in the next epoch, and is heard."""
    made = init(home=tmp_path / "home")
    desk = Desk.at(made.home)
    copy = desk.copied(tmp_path / "copy")
    recover(made.next_seeds, show=lambda _: None, home=copy.home)
    refused(desk, "3", Desk.at(copy.home).head)


def test_threat_33_publish_asks_the_peers_of_the_store(tmp_path: Path) -> None:
    """With real nodes: a restored store is refused by what a follower serves, before anything is hashed or signed."""
    alice = Machine(tmp_path / "alice").with_publisher("acme")
    source = write_random(tmp_path / "m" / "a.bin", 1000).parent
    alice.publish(source, version="1")
    backup = Machine(tmp_path / "backup")
    shutil.copytree(alice.home, backup.home)
    alice.publish(source, version="2")
    with serving(alice.home) as url:
        add_peers(Home(backup.home), [url])
        with pytest.raises(TrustError) as caught:
            backup.publish(source, version="3")
    assert caught.value.rule == "fork"
    assert Desk.at(Home(backup.home)).state.size == 2
    # Offline nobody can tell.
    assert backup.publish(source, version="3").head.size == 3


@pytest.mark.parametrize(
    ("ours", "theirs"), [(1, 1), (1, 3), (3, 1)], ids=["equal sizes", "ours first", "theirs first"]
)
def test_threat_33_a_forced_fork_is_evidence(desk: Desk, tmp_path: Path, ours: int, theirs: int) -> None:
    """Both published offline: whoever hears both heads can prove it to anyone who knows the log key."""
    copy = desk.copied(tmp_path / "copy")
    heads = []
    for one, count, name in ((desk, ours, "a"), (copy, theirs, "b")):
        for number in range(count):
            heads_note = one.append(one.release(f"{name}{number}"))
        heads.append((one, heads_note))
    (left, a), (right, b) = sorted(heads, key=lambda pair: size_of(pair[1]))
    state = PublisherState.fold(desk.entries, desk.pid)
    evidence = make_evidence(a, b, state.origin, right.folder.subtree(size_of(b)))
    shown = Evidence.parse(evidence.encode()).verify(state.origin, state.log_keys())
    assert {shown.a.size, shown.b.size} == {size_of(a), size_of(b)}
    # With the evidence beside its log, neither side writes any more.
    for one in (left, right):
        folder = one.home.logs / one.pid / "evidence"
        folder.mkdir(exist_ok=True)
        (folder / shown.id).write_bytes(evidence.encode())
        with pytest.raises(TrustError) as caught:
            one.append(one.release("after"))
        assert caught.value.rule == "quarantined"
