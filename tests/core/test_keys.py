"""Ed25519: the public edge cases, and keys that must never verify anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.errors import MalformedError
from tests.core.damage import damaged
from tests.core.releases import key

SHARED = Path(__file__).parents[3] / "shared" / "vectors"
ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD = 2**255 - 19

# RFC 8032 §7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# The eight points whose order divides 8, and their other encodings (y + p where that fits): cr.yp.to/ecdh.html.
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
    bytes(31) + b"\x80",
    b"\x01" + bytes(30) + b"\x80",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    """Keys and signatures are those of the standard; signing is deterministic."""
    signer = SigningKey.from_seed(bytes.fromhex(seed))
    assert signer.verify_key.public.hex() == public
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert signer.verify_key.accepts(bytes.fromhex(message), bytes.fromhex(signature))


def test_wycheproof() -> None:
    """All 151 public edge cases are judged as Wycheproof says."""
    path = SHARED / "ed25519" / "wycheproof.json"
    if not path.exists():
        pytest.skip("the Wycheproof vectors are not beside this checkout")
    count = 0
    for group in json.loads(path.read_text())["testGroups"]:
        public = VerifyKey(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            valid = public.accepts(bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            assert valid is (case["result"] == "valid"), case["comment"]
            count += 1
    assert count == 151


@pytest.mark.parametrize("public", LOW_ORDER, ids=bytes.hex)
def test_low_order_keys_verify_nothing(public: bytes) -> None:
    """A key of low order would accept one signature for many messages; here it accepts none."""
    for nonce in LOW_ORDER:
        for message in range(16):
            assert not VerifyKey(public).accepts(b"%d" % message, nonce + bytes(32))


def test_a_signature_has_one_spelling() -> None:
    """S + order is the same number to a careless verifier, and is refused here."""
    signer = key("one")
    signature = signer.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert signer.verify_key.accepts(b"message", signature)
    assert not signer.verify_key.accepts(b"message", signature[:32] + scalar.to_bytes(32, "little"))


def test_every_damaged_signature_is_refused() -> None:
    """No signature that differs anywhere, in length too, is accepted."""
    signer = key("one")
    for what, other in damaged(signer.sign(b"message")):
        assert not signer.verify_key.accepts(b"message", other), what


def test_key_id() -> None:
    """A key's id is the SHA-256 of its algorithm byte and the key."""
    public = key("one").verify_key
    assert public.keyid == hashlib.sha256(b"\x01" + public.public).hexdigest()


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_length(length: int) -> None:
    """A public key has 32 bytes."""
    with pytest.raises(MalformedError):
        VerifyKey(bytes(length))


def test_a_key_is_never_printed() -> None:
    """The seed is not in the text of a key, which may land in a log."""
    signer = key("one")
    assert repr(signer.seed) not in repr(signer)
    assert signer.seed.hex() not in repr(signer)
