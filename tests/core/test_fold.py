"""The fold: what each event changes, what leaves no trace, and the attacks on a log that end as inert entries.

Tests named `threat` are the rows of the threat table that can be decided without a network or a disk.
"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import events, merkle, strictjson
from modelnet.core.adoption import MAX_UNSIGNED, adopt, check_head, choose_branch, revoked_ancestors
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.entries import sign_event
from modelnet.core.events import Digests
from modelnet.core.fold import Logged, PublisherState, apply_negative, origin_of
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError
from tests.core.fuzz_log import SLOW_SECONDS, run
from tests.core.logs import Log, control, digests, following, inert_rules, key, relabelled, release, role, statement

V10, V11, V12 = (digests("llama", version) for version in ("1.0", "1.1", "1.2"))


def newest(log: Log, name: str = "llama", channel: str | None = None) -> str | None:
    """Return the version that resolution picks."""
    found = log.state.newest(name, channel)
    return found and found.event.release.version


def takeover(log: Log, *, version: int = 2, by: str = "next", then: str = "next 2") -> events.Rotate:
    """Return the event by which the next key becomes root."""
    return events.Rotate(log.pid, version, role(by), following(then))


def recovery(log: Log, *, version: int = 2, by: str = "next", then: str = "next 2") -> events.Recover:
    """Return the event that calls the log as it is the good prefix."""
    state = log.state
    return events.Recover(log.pid, version, role(by), following(then), state.size, state.tree_root)


def reencoded(entry: bytes) -> bytes:
    """Return the same statement in another envelope: signatures are not signed, so anyone can add one."""
    fields = strictjson.parse(entry, what="entry", limit=MAX_ENVELOPE)
    sig = base64.b64encode(bytes(64)).decode()
    fields["signatures"].append({"keyid": key("nobody").verify_key.keyid, "sig": sig})
    return strictjson.dump(fields)


@pytest.fixture
def log() -> Log:
    """Give a log with three releases, the first two on `stable`."""
    log = Log()
    log.release("llama", "1.0", channels=("stable",))
    log.release("llama", "1.1", channels=("stable",))
    log.release("llama", "1.2")
    return log


def test_a_log_of_one_entry_has_the_pid_as_root(log: Log) -> None:
    """The root over the genesis is the publisher's id, and releases are found by name, version, channel and digest."""
    state = log.state
    assert merkle.leaf_hash(log.entries[0]) == state.root_at(1)
    assert (state.size, state.epoch, state.root_version) == (4, 0, 1)
    assert state.tree_root == merkle.root([merkle.leaf_hash(entry) for entry in log.entries])
    assert (newest(log), newest(log, channel="stable"), newest(log, channel="beta")) == ("1.2", "1.1", None)
    assert (found := state.find("llama", "1.0")) is not None
    assert found == state.manifest(Digests(blake3=V10.blake3))
    assert state.inert == []


def test_an_empty_log_and_another_genesis_are_fatal(log: Log) -> None:
    """Only entry 0 can make the whole log fail."""
    with pytest.raises(MalformedError):
        PublisherState.fold([], log.pid)
    with pytest.raises(ModelnetError):
        PublisherState.fold(log.entries[1:], log.pid)
    with pytest.raises(TrustError):
        PublisherState.fold(log.entries, Log("other ").pid)


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (b"", "json"), (b"{}", "envelope"), (b"\xff", "json"), (b"x" * (MAX_ENVELOPE + 1), "json"),
        (control({"type": "nap", "v": 1, "pid": Log().pid}, "root"), "type"),
        (control({"type": "close", "v": 1, "pid": Log().pid, "crit": ["later"]}, "root"), "crit"),
        (Log("other ").entries[0], "genesis"),
        (Envelope.sign("text/plain", b"{}", [key("root")]).encoded, "type"),
        (statement({"_type": "x"}, "release"), "type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_inert(log: Log, entry: bytes, rule: str) -> None:
    """Bytes that are no event, or one of a later version, keep their leaf and change nothing."""
    before = log.state
    log.add(entry)
    log.release("llama", "1.3")
    state = log.state

    assert inert_rules(state) == {4: rule}
    assert (state.size, newest(log)) == (6, "1.3")
    assert state.root_at(4) == before.tree_root
    assert state.leaves[4] == merkle.leaf_hash(entry)
    assert (state.inert[0].error.__traceback__, state.inert[0].error.__context__) == (None, None)


def test_threat_04_the_last_release_in_log_order_is_the_newest(log: Log) -> None:
    """Neither a higher number nor a channel's history decides: superseding 1.2 by 1.1 brings 1.1 back, and it stays."""
    log.add(events.Supersede(log.pid, V12, V11, "regression"), "release")
    assert newest(log) == "1.1"
    log.release("llama", "0.9")
    assert newest(log) == "0.9"


def test_superseding_goes_in_steps_and_never_in_circles(log: Log) -> None:
    """1.2 to 1.1 to 1.0, then 1.0 to 1.2: the last statement wins and resolution ends."""
    log.add(events.Supersede(log.pid, V12, V11), "release")
    log.add(events.Supersede(log.pid, V11, V10), "release")
    assert newest(log) == "1.0"
    log.add(events.Supersede(log.pid, V10, V12), "release")
    assert newest(log) == "1.2"
    log.add(events.Supersede(log.pid, V12, V12), "release")
    assert inert_rules(log.state) == {7: "event"}


def test_superseded_by_what_is_not_there_resolves_to_what_is(log: Log) -> None:
    """A replacement that is not in the log, or that was revoked, is not offered; the release before is."""
    log.add(events.Supersede(log.pid, V12, digests("llama", "2.0")), "release")
    assert newest(log) == "1.1"


def test_yanked_is_not_chosen_until_released_again(log: Log) -> None:
    """A yank takes a release out of resolution, not out of the log; a new release statement of it brings it back."""
    log.add(events.Yank(log.pid, (V12,), "too large"), "release")
    assert newest(log) == "1.1"
    assert log.state.find("llama", "1.2") is not None
    log.release("llama", "1.2", channels=("stable",))
    assert (newest(log), inert_rules(log.state)) == ("1.2", {})


def test_a_version_keeps_its_manifest(log: Log) -> None:
    """Releasing other bytes under a version that is taken is inert."""
    lineage = [{"sha256": "ab" * 32, "relation": "merge"}]
    log.release("llama", "1.2", lineage=lineage)
    assert inert_rules(log.state) == {4: "version-exists"}
    assert log.state.manifest(digests("llama", "1.2", lineage)) is None


def test_revoked_is_never_chosen_and_found_by_any_digest(log: Log) -> None:
    """Any one release or root key revokes, manifests and files; one digest in common is enough."""
    shard = Digests(sha256="12" * 32, blake3="34" * 32)
    log.add(log.revoke(V12), "root")
    log.add(events.Revoke(log.pid, (Digests(blake3=V11.blake3),), "vulnerable", "", (), (shard,)), "release")
    found = log.state.revocations

    assert newest(log) == "1.0"
    assert [one.event.severity for one in found.of(V12)] == ["malicious"]
    assert [one.index for one in found.of(V11)] == [5]
    assert found.of(Digests(sha256="12" * 32)) == found.of(Digests(blake3="34" * 32)) == found.of(V11)
    assert len(found.in_force) == 2
    assert found.of(V10) == []


def test_reinstating_undoes_one_revocation_by_root_only(log: Log) -> None:
    """Root takes back one revocation, in every envelope of it; a release key cannot, a new revocation counts again."""
    entry = log.add(log.revoke(V12), "release")
    undo = events.Reinstate(log.pid, merkle.leaf_hash(entry))
    log.add(undo, "release")
    assert newest(log) == "1.1"
    log.add(undo, "root")
    assert newest(log) == "1.2"

    state = log.state
    apply_negative(state, reencoded(entry))
    assert state.revocations.of(V12) == []
    log.add(log.revoke(V12, text="this time for good"), "release")
    assert newest(log) == "1.1"
    assert inert_rules(log.state) == {5: "signature"}


def test_reinstating_first_and_hearing_the_revocation_later_is_the_same(log: Log) -> None:
    """The order in which a node hears the two does not matter."""
    entry = sign_event(log.revoke(V12), [key("release")]).encoded
    log.add(events.Reinstate(log.pid, merkle.leaf_hash(entry)), "root")
    state = log.state
    apply_negative(state, entry)
    assert state.revocations.in_force == []


def test_revocations_count_by_any_route(log: Log) -> None:
    """A revocation counts as soon as its signature verifies, once, and stays when it appears in the log."""
    entry = sign_event(log.revoke(V12), [key("release")]).encoded
    state = log.state
    assert apply_negative(state, entry).index is None
    apply_negative(state, reencoded(entry))
    assert [one.index for one in state.revocations.of(V12)] == [None]
    state.append(entry)
    assert [one.index for one in state.revocations.of(V12)] == [4]
    assert state.inert == []


def test_what_else_comes_from_outside_changes_nothing(log: Log) -> None:
    """Positive statements, other publishers' revocations and those of keys that are not in force do not count."""
    state = log.state
    log.add(events.Keys(log.pid, release=role("release 2")), "root")
    rotated = log.state
    mine = sign_event(log.revoke(V12), [key("release")]).encoded
    with pytest.raises(MalformedError):
        apply_negative(state, release(log.pid, "llama", "9.9"))
    with pytest.raises(TrustError):
        apply_negative(state, sign_event(Log("other ").revoke(V12), [key("release")]).encoded)
    with pytest.raises(TrustError):
        apply_negative(state, sign_event(log.revoke(V12), [key("log")]).encoded)
    with pytest.raises(TrustError):
        apply_negative(rotated, mine)
    assert state.revocations.in_force == rotated.revocations.in_force == []
    apply_negative(state, mine)


def test_a_flood_of_revocations_does_not_keep_roots_out(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside the log only so many revocations by release keys are kept; root's always count."""
    monkeypatch.setattr("modelnet.core.fold.MAX_OUTSIDE", 2)
    state = log.state
    for number in range(2):
        apply_negative(state, sign_event(log.revoke(V10, text=str(number)), [key("release")]).encoded)
    with pytest.raises(TrustError):
        apply_negative(state, sign_event(log.revoke(V12), [key("release")]).encoded)
    apply_negative(state, sign_event(log.revoke(V12), [key("root")]).encoded)
    assert state.revocations.of(V12)


def test_delegates_release_under_their_prefix(log: Log) -> None:
    """The longest prefix decides, an index ends it, the publisher's own keys are never shut out."""
    log.add(events.Delegate(log.pid, "acme/", role("delegate")), "root")
    log.add(events.Delegate(log.pid, "acme/tiny/", role("tiny"), not_after=8), "root")
    for name, signer, index in (
        ("acme/big", "delegate", 6), ("acme/tiny/a", "tiny", 7), ("acme/tiny/b", "delegate", 8),
        ("acme/tiny/c", "tiny", 9), ("acme/tiny/d", "delegate", 10), ("acmes", "delegate", 11),
        ("acme/tiny/e", "release", 12),
    ):  # fmt: skip
        log.release(name, "1.0", keys=(signer,))
        assert len(log.entries) == index + 1
    log.add(events.Yank(log.pid, (digests("acme/big", "1.0"),)), "delegate")

    assert inert_rules(log.state) == dict.fromkeys((8, 9, 10, 11, 13), "signature")


def test_threat_15_a_delegate_changes_nothing_outside_its_prefix(log: Log) -> None:
    """Another name's manifest called one of its own lifts no yank, undoes no supersession and hijacks no name."""
    log.add(events.Delegate(log.pid, "acme/", role("delegate")), "root")
    log.add(events.Yank(log.pid, (V12,)), "release")
    log.add(events.Supersede(log.pid, digests("llama", "1.1"), V10), "release")
    before = log.state
    for number, version in enumerate(("1.0", "1.1", "1.2")):
        log.add(relabelled(log, "acme/x", f"9.{number}", ("llama", version), by="delegate"))
    state = log.state
    assert set(inert_rules(state).values()) == {"manifest-exists"}
    assert (state.yanked, state.superseded) == (before.yanked, before.superseded)
    assert newest(log) == "1.0"
    # Nor does it help to be first: the publisher's own release of the manifest counts.
    log.add(relabelled(log, "acme/y", "1.0", ("llama", "2.0"), by="delegate"))
    log.release("llama", "2.0")
    assert newest(log) == "2.0"
    found = log.state.manifest(digests("llama", "2.0"))
    assert found is not None
    assert found.event.release.name == "llama"


def test_a_closed_log_takes_revocations_only(log: Log) -> None:
    """After close nothing counts any more, but what is dangerous can still be said."""
    log.add(events.Close(log.pid, Log("other ").pid), "root")
    log.release("llama", "2.0")
    log.add(takeover(log), "next")
    log.add(log.revoke(V12), "release")
    state = log.state

    assert state.closed is not None
    assert state.closed.successor == Log("other ").pid
    assert inert_rules(state) == {5: "closed", 6: "closed"}
    assert state.revocations.of(V12)


def test_attestations_and_vouches_are_kept(log: Log) -> None:
    """What a publisher says about others stands in its own log, with its place."""
    other = Log("other ").pid
    vouch = events.Vouch(log.pid, other, "acme")
    verdict = events.Attest("https://slsa.dev/verification_summary/v1", (V10,), '{"verificationResult":"PASSED"}')
    log.add(vouch, "release")
    log.add(verdict, "release")
    log.add(events.Vouch(log.pid, other, "acme"), "log")
    assert log.state.attested == [(4, vouch), (5, verdict)]


def test_keys_are_in_force_from_the_next_index_on(log: Log) -> None:
    """A head of size n is checked with the log keys after entry n - 1; old heads keep verifying with old keys."""
    before = log.head()
    log.add(events.Keys(log.pid, log=role("log 2"), beat=role("beat 2"), oms=("ab" * 32,)), "root")
    after = log.head(by="log 2")
    state = log.state

    assert (check_head(state, before).size, check_head(state, after).size) == (4, 5)
    assert {entry.key for entry in state.log_keys()} == {key("log").verify_key, key("log 2").verify_key}
    assert state.oms == ("ab" * 32,)
    with pytest.raises(TrustError):
        check_head(state, log.head(by="log"))
    with pytest.raises(TrustError):
        check_head(state, log.head(4, by="log 2"))
    assert state.signers_at(5)[1][0].key == key("beat 2").verify_key
    with pytest.raises(ValueError, match="no entry"):
        state.signers_at(6)


@pytest.mark.parametrize(
    ("event", "signer"),
    [
        (lambda pid: events.Keys(pid, release=role("log")), "root"),
        (lambda pid: events.Keys(pid, release=role("root")), "root"),
        (lambda pid: events.Keys(pid, log=role("next")), "root"),
        (lambda pid: events.Keys(pid, log=role("new"), beat=role("new")), "root"),
        (lambda pid: events.Delegate(pid, "llama/", role("release")), "root"),
        (lambda pid: events.Delegate(pid, "llama/", role("next")), "root"),
        (lambda pid: events.Rotate(pid, 2, role("next"), following("release")), "next"),
        (lambda pid: events.Rotate(pid, 2, role("next"), following("next")), "next"),
    ],
)
def test_one_key_serves_one_role_for_ever(log: Log, event: object, signer: str) -> None:
    """A key that serves, or served, one role is refused for another; a next key that was shown is no next key."""
    log.add(event(log.pid), signer)  # type: ignore[operator]
    assert inert_rules(log.state) == {4: "role"}
    log.add(events.Keys(log.pid, release=role("release 2")), "root")
    log.add(events.Keys(log.pid, log=role("release")), "root")
    assert inert_rules(log.state)[6] == "role"


def test_events_of_another_publisher_are_inert(log: Log) -> None:
    """Every event names its publisher: what the same keys signed for another log does not count in this one."""
    other = Log("other ").pid
    log.add(events.Keys(other, release=role("release 2")), "root")
    log.add(events.Close(other), "root")
    log.add(release(other, "llama", "2.0"))
    assert inert_rules(log.state) == dict.fromkeys((4, 5, 6), "publisher")


def test_nothing_counts_twice(log: Log) -> None:
    """Repeating old keys or an old release, in any envelope, brings nothing back; saying it anew does."""
    log.add(events.Keys(log.pid, release=role("release 2")), "root")
    log.add(events.Keys(log.pid, release=role("release")), "root")
    log.add(log.entries[4])
    log.add(reencoded(log.entries[4]))
    log.add(reencoded(log.entries[1]))
    state = log.state
    assert inert_rules(state) == dict.fromkeys((6, 7, 8), "replay")
    assert (state.release, newest(log)) == (role("release"), "1.2")
    log.add(events.Keys(log.pid, release=role("release 2"), serial=1), "root")
    assert log.state.release == role("release 2")


def test_threat_11_a_recovered_log_has_another_origin(log: Log) -> None:
    """After recovery the origin says so, and heads of the old epoch verify under the old origin only."""
    before = log.head()
    log.add(recovery(log), "next")
    after = log.head()
    state = log.state

    assert (state.epoch, state.origin) == (1, origin_of(log.pid, 1))
    assert state.origin == f"modelnet.alt/p/{log.pid}/r1"
    assert check_head(state, before).origin == origin_of(log.pid)
    assert check_head(state, after).origin == state.origin
    assert [entry.name for entry in state.log_keys()] == [state.origin]
    old_origin = Checkpoint(origin_of(log.pid), state.size, state.tree_root).note()
    with pytest.raises(TrustError):
        check_head(state, old_origin.sign(origin_of(log.pid), key("log")))


def test_threat_12_an_entry_of_one_branch_has_no_proof_in_another(log: Log) -> None:
    """One root commits to everything: an entry of one history and a proof of another do not fit together."""
    other = log.fork(3)
    other.release("llama", "6.6")
    leaf = merkle.leaf_hash(log.entries[3])
    merkle.check_inclusion(leaf, 3, 4, log.proof(3), log.state.tree_root)
    with pytest.raises(IntegrityError):
        merkle.check_inclusion(merkle.leaf_hash(other.entries[3]), 3, 4, other.proof(3), log.state.tree_root)
    with pytest.raises(IntegrityError):
        merkle.check_inclusion(leaf, 3, 4, log.proof(3), other.state.tree_root)
    with pytest.raises(IntegrityError):
        adopt(log.fork(3).state, log.head(), other.entries[3:])


def test_threat_13_a_huge_head_costs_nothing(log: Log) -> None:
    """A head of 2^62 entries, signed by the log, is not adopted: only what was recomputed is."""
    state = log.state
    huge = Checkpoint(state.origin, 1 << 62, bytes(32)).note().sign(state.origin, key("log"))
    with pytest.raises(TrustError):
        adopt(state, huge, [])
    with pytest.raises(TrustError):
        check_head(state, huge)
    stranger = Checkpoint(state.origin, 300, bytes(32)).note().sign(state.origin, key("release"))
    with pytest.raises(TrustError, match="at once"):
        adopt(state, stranger, [b""] * (MAX_UNSIGNED + 1))
    assert (state.size, state) == (4, log.state)


def test_adopting_grows_a_copy(log: Log) -> None:
    """A new head is adopted with its entries, and the state before does not change; nor does it when that fails."""
    before = log.state
    log.release("llama", "1.3")
    log.add(log.revoke(V10), "release")
    grown, head = adopt(before, log.head(), log.entries[4:])

    assert (head.size, head.root) == (6, log.state.tree_root)
    assert grown == log.state
    assert (before.size, before.newest("llama"), before.revocations.in_force) == (
        4,
        log.fork(4).state.newest("llama"),
        [],
    )
    with pytest.raises(IntegrityError, match="another history"):
        adopt(before, log.head(), log.entries[4:5] * 2)
    with pytest.raises(TrustError):
        adopt(before, log.head(), log.entries[4:5])
    with pytest.raises(MalformedError):
        adopt(before, SignedNote("text\n", ()).sign(before.origin, key("log")), [])


def test_a_head_may_bring_its_own_key(log: Log) -> None:
    """A head signed by a key that a new entry announces is adopted; of few entries only."""
    before = log.state
    log.add(events.Keys(log.pid, log=role("log 2")), "root")
    assert adopt(before, log.head(by="log 2"), log.entries[4:])[1].size == 5


def test_many_new_entries_need_a_signature_that_is_known(log: Log) -> None:
    """More than a few that change nothing are folded for a head by a known log key only, of this epoch or the next."""
    before = log.state
    log.add(recovery(log), "next")
    for _ in range(MAX_UNSIGNED + 1):
        log.add(b"{}")
    assert adopt(before, log.head(), log.entries[4:])[0].epoch == 1
    with pytest.raises(TrustError, match="at once"):
        adopt(before, log.head(by="log 2"), log.entries[4:])


def test_threat_14_a_stolen_log_key_releases_nothing(log: Log) -> None:
    """The log key cannot forge a release; with the release key too, recovery and revocation end it."""
    log.release("llama", "6.6", keys=("log",))
    assert inert_rules(log.state) == {4: "signature"}

    stolen = log.fork(4)
    stolen.release("llama", "6.6")
    good = log.fork(4)
    good.add(recovery(good), "next")
    good.add(events.Keys(good.pid, release=role("release 2"), log=role("log 2")), "next")
    good.add(good.revoke(digests("llama", "6.6")), "release 2")
    chosen = choose_branch(stolen.state, good.state)

    assert chosen.find("llama", "6.6") is None
    assert chosen.revocations.of(digests("llama", "6.6"))
    good.release("llama", "6.7")
    assert inert_rules(good.state) == {7: "signature"}


def test_threat_15_a_stolen_release_key_ends_with_new_keys(log: Log) -> None:
    """After root replaced it, what the old key signs is inert, and so are its revocations from outside."""
    log.add(events.Keys(log.pid, release=role("release 2")), "root")
    log.release("llama", "6.6")
    log.release("llama", "1.3", keys=("release 2",))
    assert (inert_rules(log.state), newest(log)) == ({5: "signature"}, "1.3")
    with pytest.raises(TrustError):
        apply_negative(log.state, sign_event(log.revoke(V10), [key("release")]).encoded)


def test_threat_16_a_stolen_root_key_cannot_take_over(log: Log) -> None:
    """Only keys whose digests were committed to rotate; the thief of root is out as soon as they do."""
    log.add(takeover(log, by="thief"), "thief")
    log.add(takeover(log), "root")
    log.add(takeover(log, version=3), "next")
    log.add(recovery(log, by="thief"), "thief")
    assert inert_rules(log.state) == {4: "next", 5: "signature", 6: "root-version", 7: "next"}

    log.add(takeover(log), "next")
    log.add(events.Keys(log.pid, release=role("thief")), "root")
    log.add(events.Keys(log.pid, release=role("release 2")), "next")
    log.add(takeover(log, version=3, by="next 2", then="next 3"), "next 2")
    state = log.state
    assert inert_rules(state)[9] == "signature"
    assert (state.root_version, state.root, state.release) == (3, role("next 2"), role("release 2"))
    assert (state.epoch, state.taken_over) == (0, 11)


def test_threat_17_thresholds_count_keys(log: Log) -> None:
    """One key that signs twice is one signer, whatever ids it gives itself.

    tuf-conformance: test_duplicate_keys, test_duplicate_sig_keyids.
    """
    two = role("release 2", "release 3", threshold=2)
    log.add(events.Keys(log.pid, release=two), "root")
    log.release("llama", "2.0", keys=("release 2",))
    log.release("llama", "2.0", keys=("release 2", "release 2"))
    twice = strictjson.parse(log.entries[-1], what="entry", limit=MAX_ENVELOPE)
    twice["signatures"][1]["keyid"] = key("release 3").verify_key.keyid
    log.add(strictjson.dump(twice))
    twice["signatures"][1]["keyid"] = ""
    log.add(strictjson.dump(twice))
    log.release("llama", "2.0", keys=("release 3", "release 2"))
    log.add(log.revoke(V10), "release 3")

    assert inert_rules(log.state) == {5: "signature", 6: "envelope", 7: "signature", 8: "envelope"}
    assert log.state.revocations.of(V10)


def test_thresholds_of_next_keys(log: Log) -> None:
    """Two of three next keys take over; the ones that stayed hidden may be committed to again."""
    log.add(events.Rotate(log.pid, 2, role("next"), following("a", "b", "c", threshold=2)), "next")
    log.add(events.Rotate(log.pid, 3, role("a", "b"), following("c", "d")), "a")
    log.add(events.Rotate(log.pid, 3, role("a", "b"), following("c", "d")), "a", "b")
    assert inert_rules(log.state) == {5: "signature"}
    assert log.state.next == following("c", "d")


def test_threat_19_signatures_of_one_kind_are_none_of_another(log: Log) -> None:
    """A signature over a head is none over a statement, with the same key and the same bytes, and the reverse."""
    state = log.state
    head = Checkpoint(state.origin, state.size, state.tree_root).encode()
    envelope = strictjson.parse(log.entries[1], what="entry", limit=MAX_ENVELOPE)
    envelope["payload"] = base64.b64encode(head.encode()).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key("release").sign(head.encode())).decode()
    bent = Envelope.parse(strictjson.dump(envelope))
    with pytest.raises(TrustError):
        bent.verify(bent.payload_type, [key("release").verify_key])
    note = SignedNote(head, ()).cosign(state.origin, key("log"), 7)
    plain = note.signatures[0]
    stripped = SignedNote(head, (type(plain)(plain.name, state.log_keys()[0].keyid, plain.content[8:]),))
    with pytest.raises(TrustError):
        stripped.verify(state.log_keys())
    as_head = Envelope.sign("x", head.encode(), [key("log")]).signatures[0][1]
    forged = SignedNote(head, (type(plain)(plain.name, state.log_keys()[0].keyid, as_head),))
    with pytest.raises(TrustError):
        forged.verify(state.log_keys())


def test_recovering_drops_a_branch_and_keeps_its_revocations(log: Log) -> None:
    """Who followed the bad branch moves to the recovered one; what was revoked there stays revoked."""
    bad = log.fork(3)
    bad.release("llama", "6.6")
    bad.add(bad.revoke(V10), "release")
    good = log.fork(4)
    good.add(recovery(good), "next")
    chosen = choose_branch(bad.state, good.state)

    assert (chosen.epoch, chosen.find("llama", "6.6")) == (1, None)
    assert [one.index for one in chosen.revocations.of(V10)] == [None]
    good.add(events.Reinstate(good.pid, merkle.leaf_hash(bad.entries[4])), "next")
    assert choose_branch(bad.state, good.state).revocations.of(V10) == []


def test_two_takeovers_are_the_end(log: Log) -> None:
    """Two branches that the next keys both took over: no rule can choose, a person must."""
    one, two = log.fork(4), log.fork(3)
    one.add(recovery(one), "next")
    two.release("llama", "6.6")
    two.add(takeover(two), "next")
    for known, other in ((one, two), (two, one)):
        with pytest.raises(TrustError) as caught:
            choose_branch(known.state, other.state)
        assert caught.value.rule == "dead"


def test_only_a_recovery_chooses_a_branch(log: Log) -> None:
    """Another branch, longer or rotated, does not replace the one that is known; nor does another publisher's."""
    bad = log.fork(3)
    bad.release("llama", "6.6")
    longer, rotated = log.fork(4), log.fork(4)
    longer.release("llama", "1.3")
    rotated.add(takeover(rotated), "next")
    for other in (longer, rotated, Log("other ")):
        with pytest.raises(TrustError) as caught:
            choose_branch(bad.state, other.state)
        assert caught.value.rule == "recover"
    log.add(events.Recover(log.pid, 2, role("next"), following("next 2"), 3, log.fork(3).state.tree_root), "next")
    log.add(events.Recover(log.pid, 2, role("next"), following("next 2"), 5, log.fork(4).state.tree_root), "next")
    assert inert_rules(log.state) == {4: "fork", 5: "fork"}


def test_threat_36_a_revoked_ancestor_is_found(log: Log) -> None:
    """Three levels, over two publishers, named by one digest and revoked by the other."""
    other = Log("other ")
    base = digests("llama", "1.0")
    tuned = [{"pid": log.pid, "blake3": base.blake3, "relation": "finetune"}]
    other.release("tuned", "1", lineage=tuned)
    merged = [{"sha256": digests("tuned", "1", tuned).sha256, "relation": "quantized"}]
    other.release("small", "1", lineage=merged)
    log.add(events.Revoke(log.pid, (Digests(sha256=base.sha256),), "malicious"), "release")
    states = {log.pid: log.state, other.pid: other.state}
    small = other.state.find("small", "1")
    assert small is not None

    assert [one.event.severity for one in revoked_ancestors(small, states)] == ["malicious"]
    assert revoked_ancestors(small, {other.pid: other.state}) == []
    assert revoked_ancestors(small, {}) == []


def test_lineage_in_a_circle_ends() -> None:
    """Two releases that name each other are walked once."""
    log = Log()
    parent = {"relation": "merge", "sha256": digests("b", "1").sha256}
    log.release("a", "1", lineage=[parent])
    log.release("b", "1")
    state = log.state
    a, b = state.find("a", "1"), state.find("b", "1")
    assert a is not None
    assert b is not None
    looped = Logged(b.index, events.Released(b.event.release, (events.Parent(Digests.of(a.event.release), "merge"),)))
    state._manifests.update(dict.fromkeys(Digests.of(b.event.release).names, looped))
    assert revoked_ancestors(a, {log.pid: state}) == []


BASE = Log()
for _version in ("1.0", "1.1"):
    BASE.release("llama", _version)
BASE.add(BASE.revoke(V10), "release")
BASE.add(takeover(BASE), "next")


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_entries_leave_a_state(edits: list[tuple[int, int, int]]) -> None:
    """Whatever byte of whatever entry is changed, the fold ends, and each entry counted or is inert."""
    entries = [bytearray(entry) for entry in BASE.entries]
    for index, position, value in edits:
        entries[index][position % len(entries[index])] = value
    state = PublisherState.fold(map(bytes, entries), BASE.pid)
    assert state.size == len(entries)
    changed = {index for index, entry in enumerate(entries) if bytes(entry) != BASE.entries[index]}
    assert set(inert_rules(state)) <= changed


@given(st.permutations(range(1, 5)))
def test_any_order_of_entries_is_a_log(order: list[int]) -> None:
    """Entries in another order are another log, with a state of its own, and never an error."""
    state = PublisherState.fold([BASE.entries[0], *(BASE.entries[index] for index in order)], BASE.pid)
    assert state.size == 5
    assert len(state.releases) + len(state.revocations.in_force) + (state.root_version - 1) + len(state.inert) == 4


def test_a_short_fuzz_run_meets_typed_errors_only() -> None:
    """Two thousand edits of what a log is made of; the long run is `python -m tests.core.fuzz_log`."""
    outcomes, slowest = run(2000, seed=7)
    assert sum(outcomes.values()) == 2000
    assert slowest < SLOW_SECONDS
