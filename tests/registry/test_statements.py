"""What is said about a release after it is out: each statement does what the fold says, and can be taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelnet import ModelnetError, TrustError, UsageError
from modelnet.core.events import Attest, Digests, Vouch
from modelnet.core.fold import PublisherState, apply_negative
from modelnet.replica import Replicas
from modelnet.signed import open_manifest
from modelnet.stores.keyring import key_file, load_keyring, write_keyring
from modelnet.stores.local import open_store
from modelnet_registry.keyops import export_keys
from modelnet_registry.statements import attest, reinstate, revoke, supersede, vouch, yank
from tests.registry.log.stage import parsed
from tests.registry.test_keyops import Publisher


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    """Give a publisher with two releases."""
    acme = Publisher(tmp_path)
    acme.publish("1")
    acme.publish("2")
    return acme


def newest(acme: Publisher) -> str | None:
    """Return what resolution picks."""
    logged = acme.desk.state.newest("m")
    return logged and logged.event.release.version


def test_publish_says_where_it_stands(acme: Publisher) -> None:
    """Its index in the log and the head that contains it; publishing the same again says the same place."""
    made = acme.publish("3")
    assert (made.index, made.head.size) == (3, 4)
    assert made.head == parsed(acme.desk.head)
    again = acme.publish("3")
    assert (again.index, again.release) == (3, made.release)
    assert acme.desk.state.size == 4


def test_lineage_is_readable_from_the_log(acme: Publisher) -> None:
    """The parent's manifest by both digests, the relation and the publisher stand in the release's statement."""
    base = acme.publish("3").release
    acme.publish("1", "tuned", derived_from=f"{acme.pid}/m@3", relation="finetune")
    logged = acme.desk.state.find("tuned", "1")
    assert logged is not None
    (parent,) = logged.event.derived_from
    assert parent.digests == Digests.of(base)
    assert (parent.relation, parent.pid) == ("finetune", acme.pid)


def test_yank_and_reinstate(acme: Publisher) -> None:
    """Not chosen any more; released again it is, as the newest."""
    yank(f"{acme.pid}/m@2", reason="too slow", home=acme.home)
    assert newest(acme) == "1"
    acme.publish("2")
    assert newest(acme) == "1", "publishing the same again does not lift a yank by itself"
    done = reinstate(f"{acme.pid}/m@2", home=acme.home)
    assert newest(acme) == "2"
    assert (done.index, done.head.size) == (4, 5)
    acme.check()


def test_supersede_and_reinstate(acme: Publisher) -> None:
    """Resolution moves to the other one, which must be there, and back."""
    supersede(f"{acme.pid}/m@2", f"{acme.pid}/m@1", reason="a mistake", home=acme.home)
    assert newest(acme) == "1"
    reinstate(f"{acme.pid}/m@2", home=acme.home)
    assert newest(acme) == "2"
    with pytest.raises(UsageError) as caught:
        supersede(f"{acme.pid}/m@2", Digests("ab" * 32), home=acme.home)
    assert caught.value.rule == "missing"
    acme.desk.check()


def test_revoke_and_reinstate(acme: Publisher) -> None:
    """Revoked by its manifest and one of its files; root takes it back."""
    done = revoke(
        f"{acme.pid}/m@2", severity="malicious", text="a backdoor", ids=["CVE-2030-1"], files=["a.bin"], home=acme.home
    )
    assert done.index == 3
    state = acme.desk.state
    store = open_store(acme.home)
    release = acme.publish("1").release
    (file,) = open_manifest(store, release).files
    assert state.revocations.of(Digests(file.sha256.hex()))
    assert newest(acme) == "1"
    reinstate(f"{acme.pid}/m@2", home=acme.home)
    assert newest(acme) == "2"
    with pytest.raises(UsageError) as caught:
        reinstate(f"{acme.pid}/m@2", home=acme.home)
    assert caught.value.rule == "nothing"
    acme.check()


def test_revoke_by_digest_and_reinstate_by_leaf(acme: Publisher) -> None:
    """What is not in this log at all can be revoked by its digest: a file that turned up elsewhere."""
    revoke(Digests("cd" * 32), severity="legal", home=acme.home)
    (revocation,) = acme.desk.state.revocations.in_force
    reinstate(revocation.leaf, home=acme.home)
    assert acme.desk.state.revocations.in_force == []


def test_revoke_needs_one_key_of_either_role(acme: Publisher, tmp_path: Path) -> None:
    """With the release key elsewhere, root revokes; with both elsewhere, nobody does."""
    export_keys("release", tmp_path / "release", home=acme.home)
    assert revoke(f"{acme.pid}/m@2", severity="broken", home=acme.home).index == 3
    export_keys("root", tmp_path / "root", home=acme.home)
    with pytest.raises(UsageError) as caught:
        revoke(f"{acme.pid}/m@1", severity="broken", home=acme.home)
    assert caught.value.rule == "signer"


def test_revoke_without_the_log(acme: Publisher) -> None:
    """The log key is lost: the revocation counts here at once, and for anybody who gets its bytes."""
    keyring = load_keyring(acme.home.keys, acme.pid, None)
    write_keyring(key_file(acme.home.keys, acme.pid), keyring.without("log"), None)
    done = revoke(f"{acme.pid}/m@2", severity="malicious", home=acme.home)
    assert done.index is None
    assert done.reason is not None
    assert done.reason.rule == "keys"
    replicas = Replicas(open_store(acme.home))
    assert replicas.state(acme.pid).newest("m").event.release.version == "1"  # type: ignore[union-attr]
    assert replicas.negatives(acme.pid) == [done.envelope]
    stranger = PublisherState.fold(acme.desk.entries, acme.pid)
    apply_negative(stranger, done.envelope)
    assert stranger.newest("m").event.release.version == "1"  # type: ignore[union-attr]


def test_revoke_of_a_forked_log(acme: Publisher, tmp_path: Path) -> None:
    """A restored store may not append, and may still warn."""
    copy = acme.desk.copied(tmp_path / "copy")
    acme.publish("3")
    seen = acme.desk.head
    done = revoke(f"{acme.pid}/m@2", severity="malicious", home=copy.home, heads=lambda _: [seen])
    assert done.index is None
    assert done.reason is not None
    assert done.reason.rule == "fork"
    with pytest.raises(TrustError):
        yank(f"{acme.pid}/m@2", home=copy.home, heads=lambda _: [seen])


def test_attest_and_vouch(acme: Publisher, tmp_path: Path) -> None:
    """Statements about others stand in one's own log."""
    other = Publisher(tmp_path / "other")
    vouch("zed", other.pid, home=acme.home)
    kind = "https://slsa.dev/verification_summary/v1"
    attest(f"{acme.pid}/m@2", kind, {"verificationResult": "PASSED"}, home=acme.home)
    with pytest.raises(ModelnetError):
        attest(f"{acme.pid}/m@2", "https://example.com/unknown", {}, home=acme.home)
    vouched, attested = (event for _, event in acme.desk.state.attested)
    assert isinstance(vouched, Vouch)
    assert vouched.publisher == other.pid
    assert isinstance(attested, Attest)
    assert attested.predicate_type == kind
    acme.check()


def test_mistakes(acme: Publisher, tmp_path: Path) -> None:
    """A moving name, an unknown version, a stranger's release, an unknown severity: usage errors, nothing appended."""
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish("1")
    for reference in (f"{acme.pid}/m", f"{acme.pid}/m@9", f"{stranger.pid}/m@1"):
        with pytest.raises(UsageError):
            yank(reference, home=acme.home)
    with pytest.raises(UsageError) as caught:
        revoke(f"{acme.pid}/m@1", severity="bad", home=acme.home)
    assert caught.value.rule == "severity"
    with pytest.raises(UsageError):
        revoke(f"{acme.pid}/m@1", severity="broken", files=["none.bin"], home=acme.home)
    with pytest.raises(TrustError):
        yank(f"modelnet:{acme.pid}/m@1?m={'ab' * 32}", home=acme.home)
    assert acme.desk.state.size == 3
