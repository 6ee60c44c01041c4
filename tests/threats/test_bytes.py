"""Threats 1 and 35: bytes that changed, and bytes that two parsers read as two things."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modelnet
from modelnet.core import dagcbor, strictjson
from modelnet.core.dsse import Envelope
from modelnet.core.entries import read_event
from modelnet.core.manifest import Manifest
from modelnet.errors import IntegrityError, MalformedError
from tests.core.logs import Log, manifest

CONTENT = hashlib.shake_256(b"model").digest(3_000_000)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a store, and the one file of its release."""
    folder = tmp_path_factory.mktemp("bytes")
    file = folder / "m" / "model.bin"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    modelnet.init(home=folder / "home")
    modelnet.publish(file.parent, name="m", version="1", home=folder / "home")
    return folder / "home", file


changes = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, len(CONTENT) - 1), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.integers(0, len(CONTENT) - 1), st.just(0)),
    st.tuples(st.just("drop"), st.integers(0, len(CONTENT) - 1), st.integers(1, 70_000)),
    st.tuples(st.just("extend"), st.integers(0, len(CONTENT)), st.integers(1, 70_000)),
    st.tuples(st.just("zero"), st.integers(0, len(CONTENT) - 1), st.integers(1, 70_000)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_threat_01_changed_content(published: tuple[Path, Path], change: tuple[str, int, int]) -> None:
    """Flipped, cut, dropped, inserted or zeroed anywhere: refused, with the file and where it begins to differ."""
    home, file = published
    how, at, count = change
    changed = {
        "flip": lambda: CONTENT[:at] + bytes([CONTENT[at] ^ 1 << count % 8]) + CONTENT[at + 1 :],
        "cut": lambda: CONTENT[:at],
        "drop": lambda: CONTENT[:at] + CONTENT[at + count :],
        "extend": lambda: CONTENT[:at] + bytes(count) + CONTENT[at:],
        "zero": lambda: CONTENT[:at] + bytes(min(count, len(CONTENT) - at)) + CONTENT[at + count :],
    }[how]()
    file.write_bytes(changed)
    with pytest.raises(IntegrityError) as caught:
        modelnet.verify(file, home=home)
    assert caught.value.path is not None
    assert caught.value.path.endswith("model.bin")
    file.write_bytes(CONTENT)
    assert modelnet.verify(file, home=home).size == len(CONTENT)


LOG = Log()
ENTRY = Envelope.parse_entry(LOG.entries[0])
AMBIGUOUS = {
    "a key twice": b'{"a":1,"a":2}',
    "a key twice, spelled in two ways": b'{"a":1,"\\u0061":2}',
    "a number beyond 2^53": b'{"a":9007199254740993}',
    "a float that is an integer": b'{"a":1e400}',
    "not a number": b'{"a":NaN}',
    "half a pair": b'{"a":"\\ud800"}',
    "two values": b'{"a":1}{"a":2}',
    "a byte order mark": b'\xef\xbb\xbf{"a":1}',
    "a comment": b'{"a":1/**/}',
    "a trailing comma": b'{"a":1,}',
    "another encoding": '{"a":1}'.encode("utf-16"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_threat_35_json_with_two_meanings(name: str) -> None:
    """What parsers are known to read differently has no meaning here."""
    with pytest.raises(MalformedError):
        strictjson.parse(AMBIGUOUS[name], what="test", limit=1000)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('{"payload', '{ "payload', 1),
        lambda text: text.replace("payloadType", "payload\\u0054ype", 1),
        lambda text: text + " ",
        lambda text: text.replace('"signatures":[', '"signatures":[],"signatures":[', 1),
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
        lambda text: text.replace(json.loads(text)["payload"], json.loads(text)["payload"] + "===", 1),
    ],
)
def test_threat_35_an_entry_has_one_spelling(change: object) -> None:
    """The same envelope written otherwise would have another leaf hash: it is no entry."""
    assert callable(change)
    with pytest.raises(MalformedError):
        Envelope.parse_entry(change(ENTRY.encoded.decode()).encode())


def test_threat_35_the_bytes_verified_are_the_bytes_parsed() -> None:
    """A payload that says one thing twice is refused after its signature was found good, not before."""
    body = b'{"type":"close","v":1,"pid":"%s","pid":"%s"}' % (LOG.pid.encode(), b"a" * 52)
    envelope = json.loads(ENTRY.encoded)
    envelope["payload"] = base64.b64encode(body).decode()
    with pytest.raises(MalformedError):
        read_event(strictjson.dump(envelope))


def longer_length(block: bytes) -> bytes:
    """Return the block with its map's length in two bytes instead of one."""
    return bytes([0xB8, block[0] & 0x1F]) + block[1:]


def last_key_first(block: bytes) -> bytes:
    """Return the block with the keys of its map in another order."""
    fields = dagcbor.decode(block)
    pairs = [dagcbor.encode(key) + dagcbor.encode(value) for key, value in fields.items()]
    return block[:1] + b"".join(reversed(pairs))


@pytest.mark.parametrize(
    "change", [longer_length, last_key_first, lambda block: block + b"\0", lambda block: block[:-1]]
)
def test_threat_35_a_manifest_has_one_encoding(change: object) -> None:
    """CBOR that says the same in other bytes is refused, so that one manifest has one CID."""
    assert callable(change)
    block = manifest("llama", "1.0").encode()
    Manifest.parse(block)
    changed = change(block)
    assert changed != block
    with pytest.raises(MalformedError):
        Manifest.parse(changed)
