"""Rows 14 to 17: stolen keys do what their role may, no more; a threshold counts keys."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelnet import TrustError
from modelnet.core.adoption import adopt, choose_branch
from modelnet.core.dsse import Envelope, pae
from modelnet.core.entries import sign_event
from modelnet.core.events import Digests, Keys, Next, Recover, Rotate
from modelnet.core.fold import Inert, PublisherState
from modelnet.core.identity import Role
from modelnet.core.keys import SigningKey
from modelnet.core.note import Checkpoint
from modelnet.core.release import PAYLOAD_TYPE, release_statement
from modelnet.stores.keyring import Keyring
from modelnet_registry.keyops import recover, rotate_keys
from modelnet_registry.statements import revoke
from tests.core.logs import key, manifest
from tests.registry.test_keyops import Publisher


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    """Give a publisher with one release."""
    acme = Publisher(tmp_path)
    acme.publish("1")
    return acme


def forged(acme: Publisher, *signers: SigningKey) -> bytes:
    """Return the release of a poisoned model, signed by `signers`."""
    body = release_statement(manifest("m", "6.6.6"), acme.pid)
    return Envelope.sign(PAYLOAD_TYPE, body, signers).encoded


def poison() -> Digests:
    """Return what the forged release is a release of."""
    block = manifest("m", "6.6.6")
    return Digests(block.sha256, block.cid.digest.hex())


def grown(acme: Publisher, *entries: bytes) -> PublisherState:
    """Return what a follower has after these entries."""
    state = acme.desk.state.copy()
    for entry in entries:
        state.append(entry)
    return state


def adopted(state: PublisherState, entries: Sequence[bytes], log: SigningKey) -> Checkpoint:
    """Return what a newcomer adopts when a thief signs the head of `state`, of these entries, with `log`."""
    note = Checkpoint(state.origin, state.size, state.tree_root).note().sign(state.origin, log)
    return adopt(PublisherState.begin(entries[0], state.pid), note, entries[1:])[1]


class TestThreat14LogKeyStolen:
    """Row 14: the log key shows heads; it releases nothing."""

    def test_threat_14_a_forged_release_is_inert(self, acme: Publisher) -> None:
        """Adopted with the thief's head, the entry keeps its leaf and changes nothing."""
        stolen = acme.desk.keys.of("log")[0]
        entry = forged(acme, stolen)
        state = grown(acme, entry)
        assert adopted(state, [*acme.desk.entries, entry], stolen).size == 3
        assert [inert.rule for inert in state.inert] == ["signature"]
        newest = state.newest("m")
        assert newest is not None
        assert newest.event.release.version == "1"

    def test_threat_14_the_owners_writer_refuses_it(self, acme: Publisher) -> None:
        """Nobody appends it by mistake either."""
        with pytest.raises(TrustError) as caught:
            acme.desk.append(forged(acme, acme.desk.keys.of("log")[0]))
        assert caught.value.rule == "signature"

    def test_threat_14_a_new_log_key(self, acme: Publisher) -> None:
        """After `keys` by root, what the stolen key signs alone is no head of any later size."""
        stolen = acme.desk.keys.of("log")[0]
        rotate_keys(["log"], home=acme.home)
        state = acme.desk.state
        note = Checkpoint(state.origin, state.size, state.tree_root).note().sign(state.origin, stolen)
        with pytest.raises(TrustError):
            adopt(PublisherState.fold(acme.desk.entries[:2], acme.pid), note, acme.desk.entries[2:])

    def test_threat_14_log_and_release_keys_stolen(self, acme: Publisher) -> None:
        """Both stolen, a poisoned release is published: the owner recovers before it, with new keys, and revokes it."""
        log, release = acme.desk.keys.of("log")[0], acme.desk.keys.of("release")[0]
        entry = forged(acme, release)
        followed = grown(acme, entry)
        newest = followed.newest("m")
        assert newest is not None
        assert newest.event.release.version == "6.6.6", "a follower is taken in until it hears more"
        assert adopted(followed, [*acme.desk.entries, entry], log).size == 3

        recover(acme.sheet, show=acme.show, renew=["release", "log", "beat"], home=acme.home)
        revoke(poison(), severity="malicious", text="not ours", home=acme.home)
        chosen = choose_branch(followed, acme.desk.state)
        newest = chosen.newest("m")
        assert newest is not None
        assert newest.event.release.version == "1"
        assert chosen.revocations.of(poison())
        assert isinstance(chosen.copy().append(forged(acme, release)), Inert), "the stolen key is out of force"


class TestThreat15ReleaseKeyStolen:
    """Row 15: the release key needs the log to release, and root takes it out of force."""

    def test_threat_15_post_rotation_release_is_inert(self, acme: Publisher) -> None:
        """What the old key signs after the rotation counts for nothing, wherever it is appended."""
        stolen = acme.desk.keys.of("release")[0]
        rotate_keys(["release"], home=acme.home)
        state = grown(acme, forged(acme, stolen))
        assert [inert.rule for inert in state.inert] == ["signature"]
        with pytest.raises(TrustError):
            acme.desk.append(forged(acme, stolen))

    def test_threat_15_bad_digests_are_revoked_first(self, acme: Publisher) -> None:
        """Revoked by digest before it was ever released: when it turns up it is refused."""
        revoke(poison(), severity="malicious", home=acme.home)
        state = grown(acme, forged(acme, acme.desk.keys.of("release")[0]))
        newest = state.newest("m")
        assert newest is not None
        assert newest.event.release.version == "1"


class TestThreat16RootStolen:
    """Row 16: root alone cannot take over; who holds the sheet can, also after root was used against the owner."""

    def test_threat_16_rotate_without_the_next_keys_is_inert(self, acme: Publisher) -> None:
        """A takeover signed by the old root, or by keys that were never committed to."""
        root = acme.desk.keys.of("root")[0]
        following = Next((key("thief next").verify_key.keyid,))
        for signer in (root, key("thief root")):
            event = Rotate(acme.pid, 2, Role((signer.verify_key,)), following)
            state = grown(acme, sign_event(event, [signer]).encoded)
            assert [inert.rule for inert in state.inert] == ["next"]
            assert state.root_version == 1
        size, tree_root = acme.desk.state.size, acme.desk.state.tree_root
        taken = Recover(acme.pid, 2, Role((root.verify_key,)), following, size, tree_root)
        assert [inert.rule for inert in grown(acme, sign_event(taken, [root]).encoded).inert] == ["next"]

    def test_threat_16_recover(self, acme: Publisher) -> None:
        """The thief installs keys of its own with root and log; the sheet drops that branch for every follower."""
        keys, thief = acme.desk.keys, key("thief release")
        hijack = Keys(acme.pid, release=Role((thief.verify_key,)))
        followed = grown(acme, sign_event(hijack, keys.of("root")).encoded, forged(acme, thief))
        newest = followed.newest("m")
        assert newest is not None
        assert newest.event.release.version == "6.6.6"
        recover(acme.sheet, show=acme.show, renew=["log"], home=acme.home)
        chosen = choose_branch(followed, acme.desk.state)
        newest = chosen.newest("m")
        assert newest is not None
        assert newest.event.release.version == "1"
        assert isinstance(chosen.copy().append(sign_event(hijack, keys.of("root")).encoded), Inert)
        acme.check()

    def test_threat_16_the_thief_in_the_owners_own_log(self, acme: Publisher) -> None:
        """The thief wrote into this very store: the owner recovers from before the first entry that was not his."""
        desk, thief = acme.desk, key("thief release")
        hijack = Keys(acme.pid, release=Role((thief.verify_key,)))
        desk.append(sign_event(hijack, desk.keys.of("root")).encoded, forged(acme, thief))
        recover(acme.sheet, show=acme.show, size=2, home=acme.home)
        newest = acme.desk.state.newest("m")
        assert newest is not None
        assert newest.event.release.version == "1"
        acme.check()


class TestThreat17Thresholds:
    """Row 17: a threshold counts distinct keys."""

    @pytest.fixture
    def company(self, tmp_path: Path) -> Publisher:
        """Give a publisher whose releases need two of two keys."""
        return Publisher(tmp_path / "company", release_keys=2, release_threshold=2)

    def test_duplicate_sig_keyids(self, company: Publisher) -> None:
        """One key's signature twice, under one key id or under the other key's: not two signatures."""
        one, two = company.desk.keys.of("release")
        body = release_statement(manifest("m", "6.6.6"), company.pid)
        assert isinstance(company.desk.state.copy().append(forged(company, one, one)), Inert)
        assert isinstance(company.desk.state.copy().append(forged(company, one)), Inert)
        honest = forged(company, one, two)
        assert not isinstance(company.desk.state.copy().append(honest), Inert)
        signature = one.sign(pae(PAYLOAD_TYPE, body))
        envelope = Envelope.parse(honest)
        # The second key id, with the first key's signature.
        faked = honest.replace(base64.b64encode(envelope.signatures[1][1]), base64.b64encode(signature))
        assert faked != honest
        assert isinstance(company.desk.state.copy().append(faked), Inert)

    def test_duplicate_keys(self, company: Publisher) -> None:
        """A keys event that lists one key twice, to reach a threshold with it alone, is inert."""
        root = company.desk.keys.of("root")
        fresh = key("fresh").verify_key
        event = Keys(company.pid, release=Role((fresh, fresh), 2))
        entry = sign_event(event, root).encoded
        assert isinstance(company.desk.state.copy().append(entry), Inert)

    def test_a_keyring_with_a_key_twice_is_not_a_quorum(self, company: Publisher) -> None:
        """The publisher's own side counts keys as well."""
        one, _ = company.desk.keys.of("release")
        doubled = Keyring(company.pid, {"release": (one,)}).adding("release", [one, one])
        assert doubled.of("release") == (one,)
