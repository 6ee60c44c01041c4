"""Go's own checksum-database code accepts what we sign and prove, and refuses what we refuse."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelnet.core import merkle
from modelnet.core.evidence import Evidence
from modelnet.core.fold import PublisherState
from modelnet.core.note import Checkpoint, SignedNote
from modelnet.core.proof import TlogProof
from modelnet.errors import ModelnetError
from tests.core.logs import T0, Log, key
from tests.go import Referee, Refused, build

LOG = Log()
for _number in range(12):
    LOG.release("llama", f"1.{_number}")
OTHER = LOG.fork(5)
for _number in range(8):
    OTHER.release("llama", f"6.{_number}")
LEAVES = [merkle.leaf_hash(entry) for entry in LOG.entries]


@pytest.fixture(scope="module")
def judge() -> Referee:
    """Give the built referee, or skip."""
    return build()


def state(size: int) -> PublisherState:
    """Return the log's state at a size."""
    return PublisherState.fold(LOG.entries[:size], LOG.pid)


@pytest.mark.parametrize("size", [1, 2, 7, 13])
def test_go_opens_our_heads(judge: Referee, size: int) -> None:
    """Signed, with a beat and a witness below: `note.Open` gives the text that we signed."""
    keys = [one.vkey for one in LOG.state.log_keys()]
    note = LOG.head(size, time=T0).cosign("wit.example/w1", key("witness 1"), T0)
    assert judge.open(note.encode(), keys) == note.unverified_text
    assert Checkpoint.parse(judge.open(note.encode(), keys), LOG.state.origin).size == size
    with pytest.raises(Refused):
        judge.open(LOG.head(size, by="release").encode(), keys)


@pytest.mark.parametrize("index", range(13))
def test_go_accepts_our_inclusion_proofs(judge: Referee, index: int) -> None:
    """`tlog.CheckRecord` accepts each entry's proof, and none for another place."""
    proof = TlogProof(index, tuple(LOG.proof(index)), LOG.head())
    head = TlogProof.parse(proof.encode()).verify(LOG.entries[index], LOG.state.origin, LOG.state.log_keys())
    judge.record(index, head.size, LEAVES[index], head.root, proof.hashes)
    with pytest.raises(Refused):
        judge.record((index + 1) % 13, head.size, LEAVES[index], head.root, proof.hashes)


@pytest.mark.parametrize("before", [1, 2, 4, 5, 8, 12])
def test_go_accepts_our_consistency_proofs(judge: Referee, before: int) -> None:
    """`tlog.CheckTree` accepts that each smaller log begins the larger one, and that no other does."""
    proof = LOG.consistency(before)
    judge.tree(before, 13, LOG.state.root_at(before), LOG.state.tree_root, proof)
    with pytest.raises(Refused):
        judge.tree(before, 13, bytes(32), LOG.state.tree_root, proof)


@pytest.mark.parametrize(("before", "after"), [(6, 13), (8, 9), (7, 12), (12, 13)])
def test_threat_09_go_confirms_evidence_of_different_sizes(judge: Referee, before: int, after: int) -> None:
    """Go opens both notes and confirms that the larger tree begins with a prefix that was not signed."""
    prefix, proof = LOG.state.root_at(before), tuple(LOG.consistency(before, after))
    evidence = Evidence.parse(Evidence(OTHER.head(before), LOG.head(after), prefix, proof).encode())
    found = evidence.verify(LOG.state.origin, LOG.state.log_keys())
    keys = [one.vkey for one in LOG.state.log_keys()]

    assert judge.open(evidence.a.encode(), keys) == found.a.encode()
    assert judge.open(evidence.b.encode(), keys) == found.b.encode()
    judge.tree(before, after, prefix, found.b.root, proof)
    assert found.a.root != prefix
    with pytest.raises(Refused):
        judge.tree(before, after, found.a.root, found.b.root, proof)


NOTE = LOG.head(13, time=T0).encode()


# Each example starts a process, so there are few.
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, len(NOTE) - 1), st.integers(0, 127))
def test_go_opens_whatever_we_open(judge: Referee, position: int, value: int) -> None:
    """Where a byte is changed and we still accept the note, Go does too, with the same text: ours is the stricter."""
    data = bytearray(NOTE)
    data[position] = value
    try:
        text = SignedNote.parse(bytes(data)).verify(LOG.state.log_keys())
    except ModelnetError:
        return
    assert judge.open(bytes(data), [one.vkey for one in LOG.state.log_keys()]) == text
