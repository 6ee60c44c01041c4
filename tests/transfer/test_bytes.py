"""One byte too many, too few, flipped, doubled or swapped, in every kind of answer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest

from modelnet.core.dsse import Envelope
from modelnet.core.identity import Genesis
from modelnet.core.release import Release
from modelnet.errors import ModelnetError
from tests.transfer.hostile import Exchange, Kind, Proxy, Spoil, bundle, join_car, split_car
from tests.transfer.scene import Scene

pytestmark = pytest.mark.usefixtures("quick")


def flip(body: bytes, at: int) -> bytes:
    """Change one bit."""
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def drop(body: bytes, at: int) -> bytes:
    """Leave one byte out."""
    return body[:at] + body[at + 1 :]


def double(body: bytes, at: int) -> bytes:
    """Say one byte twice."""
    return body[: at + 1] + body[at:]


def swap(body: bytes, at: int) -> bytes:
    """Exchange a byte with the nearest different one after it (or before it, at the end)."""
    for other in (*range(at + 1, len(body)), *range(at)):
        if body[other] != body[at]:
            changed = bytearray(body)
            changed[at], changed[other] = body[other], body[at]
            return bytes(changed)
    raise AssertionError("all bytes are equal")


def insert(body: bytes, at: int) -> bytes:
    """Add a byte that was never there."""
    return body[:at] + bytes([body[at] ^ 0x55]) + body[at:]


EDITS = [flip, drop, double, swap, insert]
Edit = Callable[[bytes, int], bytes]
PLACES: dict[str, Callable[[bytes], int]] = {
    "first": lambda _: 0,
    "middle": lambda body: len(body) // 2,
    "last": lambda body: len(body) - 1,
}


def spoil_with(edit: Edit, place: Callable[[bytes], int]) -> Spoil:
    """Return a spoil that edits the honest body, keeping the framing of HTTP right."""

    def spoil(exchange: Exchange) -> None:
        if exchange.status != 200:
            exchange.honest()
            return
        exchange.reply(edit(exchange.body, place(exchange.body)))

    return spoil


COMPANY = ["alone", "together"]


def check_lie(scene: Scene, spoil: Spoil, kind: Kind, company: str) -> ModelnetError | None:
    """Pull, alone or with an honest source; the liar is called one either way."""
    if company == "together":
        assert scene.together(spoil, [kind]) == "lied"
        return None
    error = scene.alone(spoil, [kind]).error
    assert error is not None
    assert error.exit_code in (3, 4), repr(error)
    assert error.source is not None
    return error


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.NODE, Kind.CHUNK, Kind.CAR])
def test_one_byte(scene: Scene, kind: Kind, edit: Edit, place: str, company: str) -> None:
    """A body that differs in one byte is never accepted, and its sender is named."""
    error = check_lie(scene, spoil_with(edit, PLACES[place]), kind, company)
    if error is not None:
        assert error.wanted is not None or kind is Kind.CAR
        assert error.path is not None or kind is Kind.MANIFEST


@pytest.mark.parametrize("kind", [Kind.CHUNK, Kind.CAR])
def test_error_says_what_and_where(scene: Scene, kind: Kind) -> None:
    """A flipped byte in a chunk: the error has file, offset, wanted, found and source as fields."""

    def spoil(exchange: Exchange) -> None:
        if kind is Kind.CHUNK:
            exchange.reply(flip(exchange.body, 3))
            return
        header, frames = split_car(exchange.body)
        cid, block = frames[-1]
        exchange.reply(join_car(header, [*frames[:-1], (cid, flip(block, len(block) // 2))]))

    error = check_lie(scene, spoil, kind, "alone")
    assert error is not None
    assert error.path in scene.world.files_v1
    assert error.offset is not None
    assert str(error.wanted).startswith("b")
    assert str(error.got).startswith("b")
    assert error.wanted != error.got
    assert error.source is not None
    assert error.kind == "integrity"


def in_genesis(body: bytes) -> int:
    """A byte inside the genesis."""
    return 2 + len(bundle(body)[0]) // 2


def in_payload(body: bytes) -> int:
    """A byte of the release statement."""
    return re.search(rb'in-toto\+json","payload":"', body).end() + 100  # type: ignore[union-attr]


def in_signature(body: bytes) -> int:
    """A byte of the release's signature."""
    return body.rindex(b'"sig":"') + 40


def in_keyid(body: bytes) -> int:
    """A byte of the release's key id."""
    return body.rindex(b'"keyid":"') + 20


LOG_PLACES = [in_genesis, in_payload, in_signature, in_keyid, PLACES["first"], PLACES["last"]]


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("place", LOG_PLACES, ids=["genesis", "payload", "signature", "keyid", "first", "last"])
@pytest.mark.parametrize("edit", EDITS)
def test_one_byte_of_the_log(scene: Scene, edit: Edit, place: Callable[[bytes], int], company: str) -> None:
    """An entry of the log that its publisher did not sign makes its sender a liar."""
    check_lie(scene, spoil_with(edit, place), Kind.LOG, company)


def test_every_byte_of_the_log(scene: Scene) -> None:
    """No flipped bit in an entry yields a release that was not signed, nor another genesis."""
    with Proxy(scene.node) as proxy:
        _, body = proxy.fetch(f"/log/{scene.world.pid}/r0/tile/entries/000.p/3")
    first, entry, _ = bundle(body)
    genesis = Genesis.verify(first, scene.world.pid)
    signed = Release.verify(Envelope.parse(entry), genesis)
    for at in range(len(entry)):
        changed = entry[:at] + bytes([entry[at] ^ 1 << at % 8]) + entry[at + 1 :]
        with contextlib.suppress(ModelnetError):
            release = Release.verify(Envelope.parse(changed), genesis)
            assert (release.name, release.version, release.manifest) == (signed.name, signed.version, signed.manifest)
    for at in range(len(first)):
        changed = first[:at] + bytes([first[at] ^ 1 << at % 8]) + first[at + 1 :]
        with pytest.raises(ModelnetError):
            Genesis.verify(changed, scene.world.pid)
