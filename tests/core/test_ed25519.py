"""The one function that checks signatures, against Project Wycheproof and points of small order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.errors import MalformedError

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "ed25519" / "wycheproof.json"

# The eight points of small order in their canonical encodings (and two that are not): keys that sign everything.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def groups() -> list[Any]:
    """Return the groups of Wycheproof's file, or one that says why there is none."""
    if not VECTORS.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no public vectors at {VECTORS}"))]
    content = json.loads(VECTORS.read_text())
    assert content["numberOfTests"] == sum(len(group["tests"]) for group in content["testGroups"])
    return [pytest.param(group, id=f"tc{group['tests'][0]['tcId']}") for group in content["testGroups"]]


@pytest.mark.parametrize("group", groups())
def test_wycheproof(group: dict[str, Any]) -> None:
    """Each of the 151 signatures is accepted or refused as its vector says."""
    public = VerifyKey(bytes.fromhex(group["publicKey"]["pk"]))
    for test in group["tests"]:
        accepted = public.accepts(bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
        assert accepted == (test["result"] == "valid"), test["comment"] or test["tcId"]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_threat_18_keys_of_small_order_sign_nothing(point: str) -> None:
    """With such a key one signature would fit any message: R equal to the key, or to the neutral point, and S zero."""
    public = VerifyKey(bytes.fromhex(point))
    for message in (b"", b"a", b"any message"):
        for other in SMALL_ORDER:
            assert not public.accepts(message, bytes.fromhex(other) + bytes(32))


def test_threat_18_a_signature_has_one_form() -> None:
    """Adding the group order to S gives another signature in some libraries; here it is refused."""
    key = SigningKey.from_seed(bytes(32))
    signature = key.sign(b"message")
    order = (1 << 252) + 27742317777372353535851937790883648493
    bent = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")

    assert key.verify_key.accepts(b"message", signature)
    assert not key.verify_key.accepts(b"message", bent)
    assert not key.verify_key.accepts(b"message", signature + b"\0")
    assert not key.verify_key.accepts(b"message", signature[:-1])
    assert not key.verify_key.accepts(b"messagf", signature)


def test_a_key_has_32_bytes() -> None:
    """Anything else is no key."""
    for size in (0, 31, 33, 64):
        with pytest.raises(MalformedError):
            VerifyKey(bytes(size))
