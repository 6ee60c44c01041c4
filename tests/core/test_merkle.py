"""The Merkle tree: RFC 6962's own definitions as a slow reference, and the public vectors."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import merkle
from modelnet.errors import IntegrityError, MalformedError

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "merkle" / "testdata"
REFUSED = (IntegrityError, MalformedError)

ENTRIES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(70)]


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as it is written: MTH."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(slow_root(leaves[:k]), slow_root(leaves[k:]))


def slow_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, as it is written: PATH."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*slow_path(index, leaves[:k]), slow_root(leaves[k:])]
    return [*slow_path(index - k, leaves[k:]), slow_root(leaves[:k])]


def slow_proof(before: int, leaves: list[bytes], *, whole: bool = True) -> list[bytes]:
    """RFC 6962 §2.1.2, as it is written: SUBPROOF."""
    if before == len(leaves):
        return [] if whole else [slow_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if before <= k:
        return [*slow_proof(before, leaves[:k], whole=whole), slow_root(leaves[k:])]
    return [*slow_proof(before - k, leaves[k:], whole=False), slow_root(leaves[:k])]


def test_known_roots() -> None:
    """The roots that certificate transparency's own tests freeze come out."""
    leaves = [merkle.leaf_hash(entry) for entry in ENTRIES]

    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.root(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle.root(leaves[:8]).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.parametrize("size", range(71))
def test_root_is_the_reference(size: int) -> None:
    """The one-pass root is that of the recursive definition."""
    assert merkle.root(LEAVES[:size]) == slow_root(LEAVES[:size])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 33, 64, 70])
def test_proofs_are_the_reference_and_check(size: int) -> None:
    """Every proof is that of the recursive definition, and is accepted."""
    leaves = LEAVES[:size]
    subtree = merkle.subtrees(leaves)
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, subtree)
        assert proof == slow_path(index, leaves)
        merkle.check_inclusion(leaves[index], index, size, proof, merkle.root(leaves))
    for before in range(1, size + 1):
        proof = merkle.consistency_proof(before, size, subtree)
        assert proof == slow_proof(before, leaves)
        merkle.check_consistency(before, size, proof, merkle.root(leaves[:before]), merkle.root(leaves))


@given(st.data())
def test_a_changed_proof_is_refused(data: st.DataObject) -> None:
    """A flipped bit, a hash too many or too few, another place or size: never accepted."""
    size = data.draw(st.integers(2, 70))
    before = data.draw(st.integers(1, size - 1))
    index = data.draw(st.integers(0, size - 1))
    subtree, new = merkle.subtrees(LEAVES[:size]), merkle.root(LEAVES[:size])
    edit = data.draw(st.sampled_from(["flip", "drop", "repeat", "append"]))
    for proof, check in (
        (merkle.inclusion_proof(index, size, subtree),
         lambda proof: merkle.check_inclusion(LEAVES[index], index, size, proof, new)),
        (merkle.consistency_proof(before, size, subtree),
         lambda proof: merkle.check_consistency(before, size, proof, merkle.root(LEAVES[:before]), new)),
    ):  # fmt: skip
        check(proof)
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = list(proof)
        if edit == "flip":
            changed[place] = bytes((changed[place][0] ^ 1,)) + changed[place][1:]
        elif edit == "drop":
            del changed[place]
        elif edit == "repeat":
            changed.insert(place, changed[place])
        else:
            changed.append(bytes(32))
        with pytest.raises(REFUSED):
            check(changed)


def vectors(kind: str) -> list[Any]:
    """Return the public vectors of one kind, or one that says why there is none."""
    paths = sorted((VECTORS / kind).rglob("*.json"))
    return paths or [pytest.param(None, marks=pytest.mark.skip(reason=f"no public vectors at {VECTORS / kind}"))]


def _name(path: Path | None) -> str:
    return f"{path.parent.name}-{path.stem}" if path else "none"


def _hash(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@pytest.mark.parametrize(
    "path", vectors("inclusion"), ids=lambda path: f"{path.parent.name}-{path.stem}" if path else ""
)
def test_public_inclusion_vectors(path: Path) -> None:
    """transparency-dev/merkle: each inclusion proof is accepted or refused as its vector says."""
    vector = json.loads(path.read_text())
    proof = [_hash(value) for value in vector["proof"] or []]

    def check() -> None:
        merkle.check_inclusion(
            _hash(vector["leafHash"]), vector["leafIdx"], vector["treeSize"], proof, _hash(vector["root"])
        )

    if vector["wantErr"]:
        with pytest.raises(REFUSED):
            check()
    else:
        check()


@pytest.mark.parametrize("path", vectors("consistency"), ids=_name)
def test_public_consistency_vectors(path: Path) -> None:
    """transparency-dev/merkle: each consistency proof is accepted or refused as its vector says."""
    vector = json.loads(path.read_text())
    proof = [_hash(value) for value in vector["proof"] or []]

    def check() -> None:
        merkle.check_consistency(
            vector["size1"], vector["size2"], proof, _hash(vector["root1"]), _hash(vector["root2"])
        )

    if vector["wantErr"]:
        with pytest.raises(REFUSED):
            check()
    else:
        check()
