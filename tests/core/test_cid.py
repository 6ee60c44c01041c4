"""CIDs: known ones, an independent implementation, and no second spelling of any."""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path

import multiformats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.cid import BLAKE3, DAG_CBOR, DAG_PB, IDENTITY, RAW, SHA2_256, Cid, blake3_digest
from modelnet.errors import IntegrityError, MalformedError, ModelnetError
from tests.core.damage import damaged

SHARED = Path(__file__).parents[3] / "shared" / "vectors"
CODECS = {RAW: "raw", DAG_PB: "dag-pb", DAG_CBOR: "dag-cbor"}

KNOWN = {
    # text: (codec, hash, block)
    "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e": (RAW, SHA2_256, b"hello world"),
    "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku": (RAW, SHA2_256, b""),
    "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi": (RAW, BLAKE3, b""),
    "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354": (DAG_PB, SHA2_256, b"\x0a\x02\x08\x01"),
}
cids = st.builds(
    Cid, st.sampled_from(sorted(CODECS)), st.sampled_from([SHA2_256, BLAKE3]), st.binary(min_size=32, max_size=32)
)


@pytest.mark.parametrize("text", KNOWN)
def test_known(text: str) -> None:
    """Published CIDs are computed from their blocks and parse to the same value."""
    codec, code, block = KNOWN[text]
    assert str(Cid.of(codec, block, code)) == text
    assert Cid.parse(text) == Cid.of(codec, block, code)
    Cid.parse(text).verify(block)


def test_version_0() -> None:
    """A CIDv0 is a bare sha2-256 multihash of a dag-pb node, in base58."""
    text = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"  # the empty directory
    cid = Cid.parse(text)
    assert cid == Cid(DAG_PB, SHA2_256, hashlib.sha256(b"\x0a\x02\x08\x01").digest(), 0)
    assert str(cid) == text
    assert Cid.decode(cid.encode()) == cid
    cid.verify(b"\x0a\x02\x08\x01")


def test_gateway_probe() -> None:
    """The identity CID that gateways are probed with holds its own, empty, block."""
    cid = Cid.parse("bafkqaaa")
    assert cid == Cid(RAW, IDENTITY, b"")
    cid.verify(b"")
    with pytest.raises(IntegrityError):
        cid.verify(b"x")


@given(cids)
def test_round_trip(cid: Cid) -> None:
    """Text and bytes come back as the same CID."""
    assert Cid.parse(str(cid)) == cid
    assert Cid.decode(cid.encode()) == cid
    assert Cid.read(b"??" + cid.encode() + b"!!", 2) == (cid, 2 + len(cid.encode()))


@given(cids)
def test_multiformats_agrees(cid: Cid) -> None:
    """The reference implementation reads our text and bytes as the same codec, hash and digest."""
    for theirs in (multiformats.CID.decode(str(cid)), multiformats.CID.decode(cid.encode())):
        assert theirs.codec.name == CODECS[cid.codec]
        assert theirs.hashfun.code == cid.code
        assert theirs.raw_digest == cid.digest
        assert theirs.version == 1
    assert str(multiformats.CID("base32", 1, CODECS[cid.codec], (cid.code, cid.digest))) == str(cid)


@given(st.binary(min_size=32, max_size=32))
def test_multiformats_agrees_on_version_0(digest: bytes) -> None:
    """The reference implementation writes and reads the same CIDv0."""
    cid = Cid(DAG_PB, SHA2_256, digest, 0)
    assert str(multiformats.CID("base58btc", 0, "dag-pb", ("sha2-256", digest))) == str(cid)
    assert Cid.parse(str(cid)) == cid


@pytest.mark.parametrize("text", [*KNOWN, "bafkqaaa", "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"])
def test_every_changed_character_matters(text: str) -> None:
    """A CID with one character replaced, dropped or added is refused, or is another CID."""
    cid = Cid.parse(text)
    letters = string.ascii_letters + string.digits + "=+/ \n\x00é"
    for place in range(len(text) + 1):
        others = {text[:place] + letter + text[place + 1 :] for letter in letters}
        others |= {text[:place] + letter + text[place:] for letter in letters}
        others.add(text[:place] + text[place + 1 :])
        for other in others - {text}:
            try:
                parsed = Cid.parse(other)
            except MalformedError:
                continue
            assert parsed != cid, other
            assert str(parsed) == other


@pytest.mark.parametrize("text", KNOWN)
def test_every_changed_byte_matters(text: str) -> None:
    """A binary CID that is damaged anywhere is refused, or is another CID."""
    cid = Cid.parse(text)
    for what, other in damaged(cid.encode()):
        try:
            parsed = Cid.decode(other)
        except MalformedError:
            continue
        assert parsed != cid, what
        assert parsed.encode() == other, what


@given(st.binary(max_size=80))
def test_bytes_have_one_meaning(data: bytes) -> None:
    """Any bytes are refused as malformed or are the one encoding of what they decode to."""
    try:
        cid = Cid.decode(data)
    except MalformedError:
        return
    assert cid.encode() == data


@given(st.text(max_size=80) | st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=80).map("b".__add__))
def test_text_has_one_meaning(text: str) -> None:
    """Any text is refused as malformed or is the one spelling of what it parses to."""
    try:
        cid = Cid.parse(text)
    except MalformedError:
        return
    assert str(cid) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "B" + "AFKQAAA",
        "BAFKQAAA",
        "bafkqaaaa",
        "bafkqaab",  # stray bits behind the last byte
        "zb2rhe5P4gXftAwvA4eXQ5HJwsER2owDyS9sKaQRRVQPn93bA",  # base58btc CIDv1: a spelling that we never write
        "f01551220" + "00" * 32,
        "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3N",
        "Qm" + "1" * 44,
        "Qm0OIl",
        "b" + "a" * 300,
        "bciqe3mpwp4cbjiu5bhiuqy4w3b3eq5ytgzzlzlxwxnmvzkzcsg3wzaq",  # a bare multihash in base32
    ],
)
def test_refused_text(text: str) -> None:
    """Other bases, other cases, cut, padded and overlong texts are refused."""
    with pytest.raises(MalformedError):
        Cid.parse(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x02\x55\x1e\x20" + bytes(32),  # version 2
        b"\x00\x55\x1e\x20" + bytes(32),
        b"\x01\x55\x1e\x1f" + bytes(31),  # a truncated BLAKE3
        b"\x01\x55\x1e\x21" + bytes(33),
        b"\x01\x55\x12\x14" + bytes(20),
        b"\x01\xd5\x00\x1e\x20" + bytes(32),  # codec 0x55 in two bytes
        b"\x01\x55\x1e\x20" + bytes(31),
        b"\x01\x55\x1e\x20" + bytes(33),
        b"\x01\x55\x00\x81\x01" + bytes(129),  # an identity CID may hold 128 bytes
        b"\x01\x55\x1e\xff\xff\xff\xff\x7f",  # a digest of 34 GB
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
    ],
)
def test_refused_bytes(data: bytes) -> None:
    """Other versions, wrong digest lengths, padded numbers and cut or overlong bytes are refused."""
    with pytest.raises(MalformedError):
        Cid.decode(data)


@pytest.mark.parametrize("code", [SHA2_256, BLAKE3])
def test_verify_notices_every_bit(code: int) -> None:
    """A block that differs in one bit, or in length, is not the one that its CID names."""
    block = bytes(range(48))
    cid = Cid.of(RAW, block, code)
    cid.verify(block)
    for what, other in damaged(block):
        with pytest.raises(IntegrityError) as caught:
            cid.verify(other, source="peer")
        assert caught.value.source == "peer", what


def test_unknown_hash() -> None:
    """A CID of a hash that we do not compute parses, and no block is ever accepted for it."""
    cid = Cid.decode(b"\x01\x55\x13\x40" + bytes(64))  # sha2-512
    assert Cid.parse(str(cid)) == cid
    with pytest.raises(ModelnetError):
        cid.verify(b"")


def test_no_cid_of_another_hash() -> None:
    """Making a CID with an unknown hash is the caller's mistake."""
    with pytest.raises(ValueError, match="0x13"):
        Cid.of(RAW, b"", 0x13)


def test_blake3_vectors() -> None:
    """Our BLAKE3 gives the official digests for all 35 lengths."""
    path = SHARED / "blake3" / "test_vectors.json"
    if not path.exists():
        pytest.skip("the official BLAKE3 vectors are not beside this checkout")
    cases = json.loads(path.read_text())["cases"]
    assert len(cases) == 35
    for case in cases:
        content = bytes(index % 251 for index in range(case["input_len"]))
        assert blake3_digest(content).hex() == case["hash"][:64]
