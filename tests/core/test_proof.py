"""Portable proofs: the form of C2SP tlog-proof, and no other."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.note import COSIGNATURE, NoteKey
from modelnet.core.policy import Policy
from modelnet.core.proof import MAX_TLOG_PROOF, TlogProof
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError
from tests.core.logs import T0, Log, key

LOG = Log()
for _number in range(6):
    LOG.release("llama", f"1.{_number}")
KEYS = LOG.state.log_keys()
ORIGIN = LOG.state.origin
HEAD = LOG.head().cosign("wit.example/w1", key("witness 1"), T0)
WITNESS = NoteKey("wit.example/w1", key("witness 1").verify_key, COSIGNATURE)


def proof(index: int, extra: bytes | None = None) -> TlogProof:
    """Return the proof of one entry."""
    return TlogProof(index, tuple(LOG.proof(index)), HEAD, extra)


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("extra", [None, b"", b"context"])
def test_a_proof_comes_back_and_holds(index: int, extra: bytes | None) -> None:
    """Every entry's proof survives its own bytes and leads to the signed head."""
    encoded = proof(index, extra).encode()
    read = TlogProof.parse(encoded)

    assert read == proof(index, extra)
    assert read.verify(LOG.entries[index], ORIGIN, KEYS).size == 7
    for other in {0, 3, 6} - {index}:
        with pytest.raises(IntegrityError):
            read.verify(LOG.entries[other], ORIGIN, KEYS)


def test_the_form_is_that_of_the_specification() -> None:
    """Title, extra, index, hashes, an empty line, the checkpoint as it is."""
    lines = proof(5, b"x").encode().decode().split("\n")
    hashes = [base64.b64encode(value).decode() for value in LOG.proof(5)]
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra eA==", "index 5"]
    assert lines[3:6] == hashes
    assert lines[6:9] == ["", ORIGIN, "7"]


def test_a_proof_of_another_log_or_without_its_signature_is_refused() -> None:
    """The origin and one of the log's keys must be the expected ones."""
    with pytest.raises(TrustError):
        proof(1).verify(LOG.entries[1], ORIGIN + "/r1", KEYS)
    with pytest.raises(TrustError):
        proof(1).verify(LOG.entries[1], ORIGIN, [WITNESS])
    with pytest.raises(TrustError):
        proof(1).verify(LOG.entries[1], ORIGIN, [])


def test_a_policy_judges_the_head_of_a_proof() -> None:
    """Inclusion is one question, enough witnesses another."""
    other = NoteKey("wit.example/w2", key("witness 2").verify_key, COSIGNATURE)
    one = Policy.parse(f"witness a {WITNESS.vkey}\nquorum a\n".encode())
    two = Policy.parse(f"witness a {WITNESS.vkey}\nwitness b {other.vkey}\ngroup g all a b\nquorum g\n".encode())
    assert one.verify(proof(1).note, ORIGIN, KEYS).size == 7
    with pytest.raises(TrustError) as caught:
        two.verify(proof(1).note, ORIGIN, KEYS)
    assert caught.value.rule == "quorum"


GOOD = proof(5).encode()
INDEX = b"index 5\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        GOOD.replace(b"@v1", b"@v2"),
        GOOD.replace(INDEX, b""),
        GOOD.replace(INDEX, b"index +5\n"),
        GOOD.replace(INDEX, b"index 05\n"),
        GOOD.replace(INDEX, b"index  5\n"),
        GOOD.replace(INDEX, b"index -5\n"),
        GOOD.replace(INDEX, b"index 9223372036854775808\n"),
        GOOD.replace(INDEX, b"index 5\nextra eA==\n"),
        GOOD.replace(INDEX, b"extra eA==\nextra eA==\nindex 5\n"),
        GOOD.replace(INDEX, b"extra eB==\nindex 5\n"),
        GOOD.replace(INDEX, b"index 5\nAAAA\n"),
        GOOD.replace(INDEX, INDEX + base64.b64encode(bytes(32)) * 2 + b"\n"),
        GOOD.replace(INDEX, INDEX + (base64.b64encode(bytes(32)) + b"\n") * 61),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.partition(b"\n\n")[0],
        GOOD + b"\n",
        b"\xff" + GOOD,
        GOOD + b"x" * MAX_TLOG_PROOF,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_other_forms_are_refused(data: bytes) -> None:
    """Another version, other numbers, lines in another order, other base64, too much of anything."""
    with pytest.raises(MalformedError):
        TlogProof.parse(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_threat_12_a_changed_byte_never_proves(position: int, change: int) -> None:
    """Whatever byte is changed, it is no proof, or not of this entry, or only a witness's line is gone."""
    data = bytearray(GOOD)
    data[position] ^= change
    try:
        read = TlogProof.parse(bytes(data))
        read.verify(LOG.entries[5], ORIGIN, KEYS)
    except ModelnetError:
        return
    assert read.note.cosigned([WITNESS]) == {}
