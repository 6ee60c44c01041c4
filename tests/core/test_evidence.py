"""Evidence of equivocation: what shows it, and that nobody honest can be framed."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import events, merkle, strictjson
from modelnet.core.dsse import Envelope
from modelnet.core.evidence import MAX_EVIDENCE, Evidence, make_evidence
from modelnet.core.identity import CONTROL_TYPE
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError
from tests.core.logs import T0, Log, following, key, role


def story() -> tuple[Log, Log]:
    """Return two histories of one log that part after three entries."""
    one = Log()
    for version in ("1.0", "1.1", "1.2", "1.3", "1.4"):
        one.release("llama", version)
    two = one.fork(3)
    for version in ("6.6", "6.7"):
        two.release("llama", version)
    return one, two


ONE, TWO = story()
ORIGIN = ONE.state.origin
KEYS = ONE.state.log_keys()


def same_size() -> Evidence:
    """Return evidence of two heads of size 5."""
    return Evidence(ONE.head(5), TWO.head(5))


def other_size() -> Evidence:
    """Return evidence of a head of size 4 that is no prefix of one of size 6."""
    return Evidence(TWO.head(4), ONE.head(6), ONE.state.root_at(4), tuple(ONE.consistency(4, 6)))


@pytest.mark.parametrize("evidence", [same_size(), other_size()], ids=["equal sizes", "different sizes"])
def test_evidence_holds_and_comes_back(evidence: Evidence) -> None:
    """Both cases verify, survive their own bytes, and need a few hundred bytes."""
    found = Evidence.parse(evidence.encode()).verify(ORIGIN, KEYS)
    assert found.origin == ORIGIN
    assert found.a.root != found.b.root
    assert len(evidence.encode()) < 1000


def test_threat_08_two_heads_of_one_size_are_evidence() -> None:
    """The same two heads have one id, in either order, with whatever cosignatures."""
    swapped = Evidence(TWO.head(5, time=T0), ONE.head(5))
    assert swapped.verify(ORIGIN, KEYS).id == same_size().verify(ORIGIN, KEYS).id
    assert other_size().verify(ORIGIN, KEYS).id != same_size().verify(ORIGIN, KEYS).id


def test_threat_09_two_heads_of_different_sizes_are_evidence() -> None:
    """A smaller head that is no prefix of the larger one: for every pair of sizes after the fork."""
    for before in (4, 5):
        for after in range(before + 1, 7):
            proof = tuple(ONE.consistency(before, after))
            evidence = Evidence(TWO.head(before), ONE.head(after), ONE.state.root_at(before), proof)
            assert evidence.verify(ORIGIN, KEYS).a.size == before


def test_threat_10_an_honest_log_cannot_be_framed() -> None:
    """Any two heads of one history show nothing, with the right prefix or any other."""
    for before in range(1, 6):
        for after in range(before + 1, 7):
            a, b, proof = ONE.head(before), ONE.head(after), tuple(ONE.consistency(before, after))
            with pytest.raises(TrustError):
                Evidence(a, b, ONE.state.root_at(before), proof).verify(ORIGIN, KEYS)
            for prefix in (bytes(32), ONE.state.root_at(after), TWO.state.root_at(min(before, 5))):
                with pytest.raises((IntegrityError, TrustError)):
                    Evidence(a, b, prefix, proof).verify(ORIGIN, KEYS)
        with pytest.raises(TrustError):
            Evidence(ONE.head(before), ONE.head(before, time=T0)).verify(ORIGIN, KEYS)


def test_threat_11_evidence_of_an_old_epoch_is_not_of_the_new() -> None:
    """After recovery the log has another origin: what was shown before is archived, not applied again."""
    recovered = ONE.fork(3)
    state = recovered.state
    takeover = events.Recover(ONE.pid, 2, role("next"), following("next 2"), state.size, state.tree_root)
    recovered.add(takeover, "next")
    state = recovered.state

    assert same_size().verify(ORIGIN, KEYS)
    with pytest.raises(TrustError):
        same_size().verify(state.origin, state.log_keys())
    with pytest.raises(TrustError):
        same_size().verify(state.origin, [*KEYS, *state.log_keys()])


@pytest.mark.parametrize(("mine", "theirs"), [(6, 4), (6, 5), (4, 5), (5, 5), (6, 3)])
def test_evidence_is_made_of_a_head_and_a_replica(mine: int, theirs: int) -> None:
    """Who holds a log and hears another head of it makes the evidence alone, whichever of the two is larger."""
    larger = ONE if mine >= theirs else TWO
    leaves = larger.state.leaves
    evidence = make_evidence(ONE.head(mine), TWO.head(theirs), ORIGIN, merkle.subtrees(leaves))
    if theirs == 3:
        with pytest.raises(TrustError):
            evidence.verify(ORIGIN, KEYS)
    else:
        assert {evidence.verify(ORIGIN, KEYS).a.size, evidence.verify(ORIGIN, KEYS).b.size} == {mine, theirs}
    empty = Checkpoint(ORIGIN, 0, bytes(32)).note().sign(ORIGIN, key("log"))
    with pytest.raises(MalformedError):
        make_evidence(empty, ONE.head(3), ORIGIN, merkle.subtrees(leaves))


def test_evidence_needs_keys_of_the_log() -> None:
    """Heads that some other key signed, or that nobody signed, show nothing; old log keys do."""
    stranger = Evidence(ONE.head(5, by="release"), TWO.head(5))
    with pytest.raises(TrustError):
        stranger.verify(ORIGIN, KEYS)
    with pytest.raises(TrustError):
        same_size().verify(ORIGIN, [])
    with pytest.raises(TrustError):
        same_size().verify(ORIGIN, [NoteKey(ORIGIN, key("beat").verify_key)])
    longer = ONE.fork(5)
    longer.add(events.Keys(ONE.pid, log=role("log 2")), "root")
    assert same_size().verify(ORIGIN, longer.state.log_keys())


def test_the_smaller_head_comes_first() -> None:
    """Sizes in the other order, size zero, a prefix for equal sizes and none for different ones: not evidence."""
    good = other_size()
    empty = Checkpoint(ORIGIN, 0, bytes(32)).note().sign(ORIGIN, key("log"))
    for evidence in (
        Evidence(good.b, good.a, good.prefix, good.proof),
        Evidence(empty, good.b, good.prefix, ()),
        Evidence(good.a, good.b),
        Evidence(ONE.head(5), TWO.head(5), bytes(32), ()),
    ):
        with pytest.raises(MalformedError):
            evidence.verify(ORIGIN, KEYS)


def fields_of(evidence: Evidence) -> dict[str, Any]:
    """Return the evidence as parsed JSON."""
    fields: dict[str, Any] = strictjson.parse(evidence.encode(), what="evidence", limit=MAX_EVIDENCE)
    return fields


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}",
        strictjson.dump({**fields_of(same_size()), "type": "modelnet-equivocation/v2"}),
        strictjson.dump({**fields_of(same_size()), "why": "because"}),
        strictjson.dump({**fields_of(same_size()), "prefix": "AA=="}),
        strictjson.dump({**fields_of(same_size()), "proof": []}),
        strictjson.dump({**fields_of(other_size()), "proof": "AA=="}),
        strictjson.dump({**fields_of(other_size()), "proof": [base64.b64encode(bytes(32)).decode()] * 64}),
        strictjson.dump({**fields_of(other_size()), "prefix": base64.b64encode(bytes(31)).decode()}),
        strictjson.dump({**fields_of(other_size()), "prefix": base64.urlsafe_b64encode(b"\xff" * 32).decode()}),
        strictjson.dump(dict(reversed(fields_of(other_size()).items()))),
        same_size().encode() + b" ",
        same_size().encode().replace(b'":"', b'": "'),
        b'"' + b"x" * MAX_EVIDENCE + b'"',
    ],
    ids=lambda data: repr(data[-40:]),
)  # fmt: skip
def test_evidence_has_one_encoding(data: bytes) -> None:
    """Other types, fields, orders, spaces, hashes and sizes are refused."""
    with pytest.raises(MalformedError):
        Evidence.parse(data)


@given(st.sampled_from([same_size(), other_size()]), st.integers(0, 2000), st.integers(1, 255))
def test_threat_10_changed_evidence_shows_nothing_new(evidence: Evidence, position: int, change: int) -> None:
    """Whatever byte is changed, it is refused, or it still shows the very same two heads."""
    data = bytearray(evidence.encode())
    data[position % len(data)] ^= change
    try:
        found = Evidence.parse(bytes(data)).verify(ORIGIN, KEYS)
    except ModelnetError:
        return
    assert found == evidence.verify(ORIGIN, KEYS)


HONEST = [ONE.head(size) for size in range(1, 7)]
HASHES = [ONE.state.root_at(size) for size in range(1, 7)] + ONE.state.leaves + [bytes(32)]


@given(
    st.sampled_from(HONEST), st.sampled_from(HONEST), st.none() | st.sampled_from(HASHES),
    st.lists(st.sampled_from(HASHES), max_size=4),
)  # fmt: skip
def test_threat_10_no_mixture_frames_an_honest_log(
    a: SignedNote, b: SignedNote, prefix: bytes | None, proof: list[bytes]
) -> None:
    """Heads of one history, put together with any hashes of its tree, never are evidence."""
    with pytest.raises(ModelnetError):
        Evidence(a, b, prefix, tuple(proof)).verify(ORIGIN, KEYS)


def test_threat_19_a_signature_of_something_else_frames_nobody() -> None:
    """What the log key signed as a statement, or cosigned, is no signature under a head."""
    text = TWO.head(5).unverified_text
    log = key("log")
    line = ONE.head(5).signatures[0]
    statement = Envelope.sign(CONTROL_TYPE, text.encode(), [log]).signatures[0][1]
    cosigned = SignedNote(text, ()).cosign(ORIGIN, log, T0).signatures[0].content
    for content in (statement, cosigned, cosigned[8:]):
        forged = SignedNote(text, (type(line)(ORIGIN, line.keyid, content),))
        with pytest.raises(TrustError):
            Evidence(ONE.head(5), forged).verify(ORIGIN, KEYS)
