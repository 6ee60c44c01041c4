"""Signed notes and checkpoints: published examples, the known answer that Go accepts, and no second spelling."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import merkle
from modelnet.core.keys import SigningKey
from modelnet.core.note import COSIGNATURE, Checkpoint, NoteKey, SignedNote
from modelnet.errors import MalformedError, ModelnetError, TrustError

ORIGIN = "modelnet.alt/p/" + "a" * 52
LOG = SigningKey.from_seed(hashlib.sha256(b"modelnet test vector key log1").digest())
WITNESS = SigningKey.from_seed(hashlib.sha256(b"modelnet test vector key wit1").digest())
LOG_KEY = NoteKey(ORIGIN, LOG.verify_key)
WITNESS_KEY = NoteKey("wit.example/w1", WITNESS.verify_key, COSIGNATURE)
TIME = 0x6A_B13B_80

# Accepted by Go's note.Open.
KNOWN = (
    f"{ORIGIN}\n3\nrra8/idLcKFPsGel5VeCZNsPqbUa9eC6FZFY8yngbnc=\n\n"
    f"— {ORIGIN} Mqr4j17i5upSKNC96QxzTr6YCkN2xA5KcbqSdUutDqJ1lvMCUiYlYiyih+2BscTjVwAQTKQbLNJXjiszPoS9L/gDiAA=\n"
    "— wit.example/w1 "
    "v8zkzgAAAABqsTuAg3x9MRWGnZPGamF3tGxgcnBHuNbD007V8nG3FjyBii/MaT0qAYQRQN2Rajh/hkdBg0tiXShBT/NLyYzhI/h3DA==\n"
).encode()

GO = (
    "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    ),
)


def test_the_known_answer_comes_out() -> None:
    """The checkpoint of three leaves, signed and cosigned with the published seeds, is byte for byte the known one."""
    root = merkle.root([merkle.leaf_hash(bytes.fromhex(text)) for text in ("", "00", "10")])
    note = Checkpoint(ORIGIN, 3, root).note().sign(ORIGIN, LOG).cosign("wit.example/w1", WITNESS, TIME)

    assert note.encode() == KNOWN
    assert WITNESS_KEY.vkey == "wit.example/w1+bfcce4ce+BPIJG3kHEImxsANVkG7KuXhoJnG1c5Dum8BjuVeWtclO"


def test_the_known_answer_is_accepted() -> None:
    """Parsing and verifying the known note gives its checkpoint and the witness's time."""
    note = SignedNote.parse(KNOWN)
    checkpoint = Checkpoint.parse(note.verify([LOG_KEY]), ORIGIN)

    assert (checkpoint.size, base64.b64encode(checkpoint.root)) == (3, b"rra8/idLcKFPsGel5VeCZNsPqbUa9eC6FZFY8yngbnc=")
    assert note.cosigned([WITNESS_KEY]) == {WITNESS_KEY: TIME}


def test_the_example_of_go_is_accepted() -> None:
    """The example of golang.org/x/mod/sumdb/note verifies under its published key."""
    key = NoteKey.parse(GO[0])

    assert SignedNote.parse(GO[1].encode()).verify([key]).startswith("If you think cryptography")


@given(st.integers(0, len(KNOWN) - 1), st.integers(1, 255))
def test_a_changed_byte_never_verifies(position: int, change: int) -> None:
    """Whatever byte is changed, the log's key or the witness's time is not there any more, or it was not a note."""
    data = bytearray(KNOWN)
    data[position] ^= change
    try:
        note = SignedNote.parse(bytes(data))
        note.verify([LOG_KEY])
    except ModelnetError:
        return
    assert note.cosigned([WITNESS_KEY]) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        b"text\n\n- name c2ln\n",
        "text\n\n— name\n".encode(),
        "text\n\n—  c2lnYWE=\n".encode(),
        "text\n\n— na+me c2lnYWE=\n".encode(),
        "text\n\n— name c2lnYWE\n".encode(),
        "text\n\n— name c2lnYWE—\n".encode(),
        "text\n\n— name c2ln\n".encode(),
        "text\n\n— name c2lnYWF=\n".encode(),
        "text\n\n— name c2lnYWE=".encode(),
        "text\n\n— name c2lnYWE=\n— junk\n".encode(),
        "te\rxt\n\n— name c2lnYWE=\n".encode(),
        "te\0xt\n\n— name c2lnYWE=\n".encode(),
        b"te\xffxt\n\n\xe2\x80\x94 name c2lnYWE=\n",
        b"text\n\n" + "— name c2lnYWE=\n".encode() * 65,
        b"a" * 70_000,
    ],
    ids=repr,
)
def test_what_is_not_a_note_is_refused(data: bytes) -> None:
    """A missing part, another dash, stray base64 bits, control characters, too many or too much: malformed."""
    with pytest.raises(MalformedError):
        SignedNote.parse(data)


@pytest.mark.parametrize("size", ["+3", "03", "3_0", "٣", "-1", "3 ", "", "9223372036854775808", "1e3"])
def test_sizes_have_one_spelling(size: str) -> None:
    """A checkpoint's size is written in one way only."""
    root = base64.b64encode(bytes(32)).decode()
    with pytest.raises(MalformedError):
        Checkpoint.parse(f"{ORIGIN}\n{size}\n{root}\n", ORIGIN)


def test_checkpoints_of_other_logs_and_with_extensions_are_refused() -> None:
    """The origin must be the expected one, and nothing may follow the root."""
    text = Checkpoint(ORIGIN, 3, bytes(32)).encode()

    with pytest.raises(TrustError):
        Checkpoint.parse(text, "modelnet.alt/p/other")
    with pytest.raises(MalformedError):
        Checkpoint.parse(text + "extension\n", ORIGIN)


def test_a_known_key_with_a_wrong_signature_spoils_the_note() -> None:
    """A good signature does not help when another known key's signature is wrong (C2SP signed-note)."""
    other = SigningKey.from_seed(bytes(32))
    note = SignedNote("text\n", ()).sign("good", LOG).sign("other", other)
    bad = note.signatures[1]
    spoiled = SignedNote("text\n", (note.signatures[0], type(bad)(bad.name, bad.keyid, bytes(64))))
    keys = [NoteKey("good", LOG.verify_key), NoteKey("other", other.verify_key)]

    assert note.verify(keys) == "text\n"
    assert spoiled.verify(keys[:1]) == "text\n"
    with pytest.raises(TrustError):
        spoiled.verify(keys)


def test_a_cosignature_is_no_signature() -> None:
    """A type 0x04 line never counts as a signature over the text, nor the other way round."""
    note = SignedNote("text\n", ()).cosign("w", LOG, 7)

    with pytest.raises(TrustError):
        note.verify([NoteKey("w", LOG.verify_key)])
    with pytest.raises(TrustError):
        note.verify([NoteKey("w", LOG.verify_key, COSIGNATURE)])
    assert SignedNote("text\n", ()).sign("w", LOG).cosigned([NoteKey("w", LOG.verify_key, COSIGNATURE)]) == {}
