"""Events: each one comes back from its own bytes, and what a later version may say is told from what nobody may."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import events, strictjson
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.entries import STATEMENTS, read_event, read_founding, sign_event
from modelnet.core.events import Digests, Signer
from modelnet.core.identity import CONTROL_TYPE
from modelnet.core.release import PAYLOAD_TYPE, STATEMENT_TYPE
from modelnet.errors import MalformedError, ModelnetError
from tests.core.logs import Log, control, digests, following, key, release, role, statement

PID = Log().pid
OTHER = Log("other ").pid
OLD, NEW = digests("llama", "1.0"), digests("llama", "1.1")
FORK = bytes(range(32))

EVENTS: list[events.Event] = [
    events.Keys(PID, release=role("release 2", "release 3", threshold=2)),
    events.Keys(PID, log=role("log 2"), beat=role("beat 2"), oms=("ab" * 32,), serial=7),
    events.Rotate(PID, 2, role("next"), following("next 2")),
    events.Recover(PID, 2, role("next"), following("next 2", "next 3", threshold=2), 5, FORK),
    events.Delegate(PID, "llama/", role("delegate", "delegate 2", threshold=2)),
    events.Delegate(PID, "llama/tiny/", role("delegate"), not_after=0, serial=1),
    events.Close(PID),
    events.Close(PID, OTHER),
    events.Reinstate(PID, FORK),
    events.Supersede(PID, OLD, NEW, "tokenizer fixed"),
    events.Supersede(PID, Digests(OLD.sha256), Digests(blake3=NEW.blake3)),
    events.Yank(PID, (OLD, NEW), "too large"),
    events.Revoke(PID, (OLD,), "malicious"),
    events.Revoke(PID, (OLD,), "vulnerable", "see the advisory", ("CVE-2026-0001",), (Digests(blake3="cd" * 32),)),
    events.Vouch(PID, OTHER, "acme"),
    events.Attest("https://in-toto.io/attestation/svr/v0.1", (OLD,), '{"properties":["EVALUATED"]}'),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_bytes(event: events.Event) -> None:
    """Reading what was signed gives the event that was meant."""
    envelope = sign_event(event, [key("root")])
    assert read_event(envelope.encoded).unverified == event


def test_a_release_says_what_it_was_made_from() -> None:
    """Parents are named by digest; a manifest's CID gives its BLAKE3."""
    base = digests("llama", "1.0")
    lineage = [{"pid": OTHER, "sha256": base.sha256, "blake3": base.blake3, "relation": "finetune"}]
    event = read_event(release(PID, "tiny", "1.0", lineage=lineage)).unverified

    assert isinstance(event, events.Released)
    assert event.derived_from == (events.Parent(base, "finetune", OTHER),)
    assert (event.pid, event.release.name, event.signer) == (PID, "tiny", Signer.RELEASE_OR_DELEGATE)
    assert read_event(sign_event(event, [key("release")]).encoded).unverified.derived_from == event.derived_from


@pytest.mark.parametrize(
    "parent",
    [
        {"base_model": "meta/llama", "relation": "adapter"},
        {"relation": "adapter"},
        {"sha256": "ab" * 32, "relation": "copied"},
        {"sha256": "AB" * 32, "relation": "adapter"},
        {"sha256": "ab" * 32, "relation": "adapter", "pid": "acme"},
        {"manifest": "bafkreiabcd", "relation": "adapter"},
        "llama",
    ],
    ids=repr,
)
def test_threat_27_a_parent_without_a_digest_is_none(parent: Any) -> None:
    """An adapter whose base is a name on some hub is no release: it would need whatever answers to that name."""
    body = strictjson.parse(
        Envelope.parse(release(PID, "tiny", "1.0")).unverified_body, what="body", limit=MAX_ENVELOPE
    )
    body["predicate"]["derived_from"] = [parent]
    with pytest.raises(MalformedError):
        read_event(statement(body, "release"))


def test_the_genesis_founds_the_log() -> None:
    """Entry 0 gives the roles that only the log needs; its max_age must be a number of seconds."""
    log = Log()
    founding = read_founding(log.entries[0], log.pid)
    assert (founding.log, founding.beat, founding.next) == (role("log"), role("beat"), following("next"))
    assert founding.max_age == 7 * 24 * 3600


KEYS: dict[str, Any] = {"type": "keys", "v": 1, "pid": PID, "log": {"keys": ["ab" * 32]}}
ROTATE: dict[str, Any] = {
    "type": "rotate", "v": 1, "pid": PID, "root_version": 2,
    "root": {"keys": ["ab" * 32]}, "next": {"digests": ["cd" * 32]},
}  # fmt: skip
DELEGATE: dict[str, Any] = {"type": "delegate", "v": 1, "pid": PID, "prefix": "llama/", "keys": ["ab" * 32]}

REFUSED_CONTROL: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": ({**KEYS, "type": "nap"}, "type"),
    "no type": ({"v": 1, "pid": PID}, "type"),
    "a later version": ({**KEYS, "v": 2}, "type"),
    "true is not 1": ({**KEYS, "v": True}, "type"),
    "crit": ({**KEYS, "crit": ["pq"]}, "crit"),
    "an empty crit": ({**KEYS, "crit": []}, "crit"),
    "no publisher": ({name: value for name, value in KEYS.items() if name != "pid"}, "event"),
    "publisher in capitals": ({**KEYS, "pid": PID.upper()}, "event"),
    "no role": ({"type": "keys", "v": 1, "pid": PID}, "event"),
    "a role without keys": ({**KEYS, "log": {"keys": []}}, "event"),
    "one key twice": ({**KEYS, "log": {"keys": ["ab" * 32, "ab" * 32]}}, "event"),
    "seventeen keys": ({**KEYS, "log": {"keys": [f"{number:064x}" for number in range(17)]}}, "event"),
    "a key in capitals": ({**KEYS, "log": {"keys": ["AB" * 32]}}, "event"),
    "a short key": ({**KEYS, "log": {"keys": ["ab" * 31]}}, "event"),
    "threshold zero": ({**KEYS, "log": {"keys": ["ab" * 32], "threshold": 0}}, "event"),
    "threshold above": ({**KEYS, "log": {"keys": ["ab" * 32], "threshold": 2}}, "event"),
    "threshold true": ({**KEYS, "log": {"keys": ["ab" * 32], "threshold": True}}, "event"),
    "a negative serial": ({**KEYS, "serial": -1}, "event"),
    "a genesis inside": ({**KEYS, "type": "genesis"}, "genesis"),
    "rotate without root": ({**ROTATE, "root": None}, "event"),
    "rotate without next": ({**ROTATE, "next": {"digests": []}}, "event"),
    "rotate to a version in words": ({**ROTATE, "root_version": "2"}, "event"),
    "recover without fork": ({**ROTATE, "type": "recover"}, "event"),
    "recover of a short root": ({**ROTATE, "type": "recover", "fork": {"size": 1, "root": "ab"}}, "event"),
    "delegate of everything": ({**DELEGATE, "prefix": ""}, "event"),
    "delegate of a slash": ({**DELEGATE, "prefix": "/"}, "event"),
    "delegate of half a name": ({**DELEGATE, "prefix": "lla"}, "event"),
    "delegate until noon": ({**DELEGATE, "not_after": "12:00"}, "event"),
    "close for nobody": ({"type": "close", "v": 1, "pid": PID, "successor": "acme"}, "event"),
    "reinstate of nothing": ({"type": "reinstate", "v": 1, "pid": PID}, "event"),
}


@pytest.mark.parametrize("case", REFUSED_CONTROL)
def test_control_events_have_one_form(case: str) -> None:
    """What a later version may say has the rule `type` or `crit`; anything else that is not an event has another."""
    fields, rule = REFUSED_CONTROL[case]
    with pytest.raises(MalformedError) as caught:
        read_event(control(fields, "root"))
    assert caught.value.rule == rule


def body(kind: str, predicate: Any, *subjects: Any) -> dict[str, Any]:
    """Return a statement about `subjects`."""
    return {"_type": STATEMENT_TYPE, "subject": list(subjects), "predicateType": kind, "predicate": predicate}


SUBJECT = {"digest": {"sha256": "ab" * 32}}
REFUSED_STATEMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown vocabulary": (body("https://example.com/x", {}, SUBJECT), "type"),
    "unknown statement of ours": (body(STATEMENTS + "praise/v1", {"packageId": PID}, SUBJECT), "type"),
    "another kind of statement": ({"_type": "https://in-toto.io/Statement/v0.1"}, "type"),
    "crit": (body(STATEMENTS + "yank/v1", {"packageId": PID, "crit": ["x"]}, SUBJECT), "crit"),
    "crit outside": ({**body(STATEMENTS + "yank/v1", {"packageId": PID}, SUBJECT), "crit": ["x"]}, "crit"),
    "no subject": (body(STATEMENTS + "yank/v1", {"packageId": PID}), "event"),
    "a subject without a digest": (body(STATEMENTS + "yank/v1", {"packageId": PID}, {"name": "llama"}), "event"),
    "a digest of another kind": (body(STATEMENTS + "yank/v1", {"packageId": PID}, {"digest": {"md5": "ab"}}), "event"),
    "a digest in capitals": (
        body(STATEMENTS + "yank/v1", {"packageId": PID}, {"digest": {"sha256": "AB" * 32}}), "event"
    ),
    "nobody's yank": (body(STATEMENTS + "yank/v1", {}, SUBJECT), "event"),
    "a predicate that is a list": (body(STATEMENTS + "yank/v1", [], SUBJECT), "event"),
    "no replacement": (body(STATEMENTS + "supersede/v1", {"packageId": PID}, SUBJECT), "event"),
    "two superseded": (
        body(STATEMENTS + "supersede/v1", {"packageId": PID, "replacement": SUBJECT}, SUBJECT, SUBJECT), "type"
    ),
    "a severity of our own": (body(STATEMENTS + "revoke/v1", {"packageId": PID, "severity": "bad"}, SUBJECT), "event"),
    "ids that are numbers": (
        body(STATEMENTS + "revoke/v1", {"packageId": PID, "severity": "legal", "ids": [1]}, SUBJECT), "event"
    ),
    "files by name": (
        body(STATEMENTS + "revoke/v1", {"packageId": PID, "severity": "legal", "files": ["x"]}, SUBJECT), "event"
    ),
    "a vouch for another subject": (
        body(STATEMENTS + "name/v1", {"packageId": PID, "publisher": OTHER, "name": "acme"}, SUBJECT), "event"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_STATEMENTS)
def test_statements_have_one_form(case: str) -> None:
    """A statement that is not one of the known has the rule `type` or `crit`; a known one that is bent has another."""
    fields, rule = REFUSED_STATEMENTS[case]
    with pytest.raises(MalformedError) as caught:
        read_event(statement(fields, "release"))
    assert caught.value.rule == rule


def unnamed(envelope: dict[str, Any]) -> None:
    """Take the key ids away."""
    for signature in envelope["signatures"]:
        del signature["keyid"]


def repeated(envelope: dict[str, Any]) -> None:
    """Let one key sign twice."""
    envelope["signatures"] *= 2


def retyped(envelope: dict[str, Any]) -> None:
    """Call it something else."""
    envelope["payloadType"] = "text/plain"


def not_a_map(envelope: dict[str, Any]) -> None:
    """Sign a list."""
    envelope["payload"] = base64.b64encode(b"[]").decode()


@pytest.mark.parametrize("change", [unnamed, repeated, retyped, not_a_map], ids=lambda change: change.__name__)
def test_an_entry_names_the_key_of_each_signature_once(change: Callable[[dict[str, Any]], None]) -> None:
    """Unnamed and repeated signatures, other payloads and other bodies are refused before anything is verified."""
    envelope = strictjson.parse(sign_event(EVENTS[0], [key("root")]).encoded, what="entry", limit=MAX_ENVELOPE)
    change(envelope)
    with pytest.raises(MalformedError):
        read_event(strictjson.dump(envelope))


def test_a_pid_with_stray_bits_is_nobody() -> None:
    """52 letters hold four bits more than a hash: a publisher is vouched for in one spelling only."""
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    bent = OTHER[:-1] + alphabet[alphabet.index(OTHER[-1]) | 1]
    raw = base64.b32decode(OTHER.upper() + "====").hex()
    fields = body(
        STATEMENTS + "name/v1", {"packageId": PID, "publisher": bent, "name": "acme"}, {"digest": {"sha256": raw}}
    )
    with pytest.raises(MalformedError):
        read_event(statement(fields, "release"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 54) | st.text(max_size=8) | st.sampled_from([PID, "ab" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(EVENTS), st.data())
def test_a_bent_event_is_an_event_or_malformed(event: events.Event, data: st.DataObject) -> None:
    """Whatever stands in one field instead, the only error is a typed one, and what is read can be signed again."""
    envelope = sign_event(event, [key("root")])
    fields = strictjson.parse(envelope.unverified_body, what="event", limit=MAX_ENVELOPE)
    place: Any = fields
    while True:
        name = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[name] or not isinstance(place[name], dict | list) or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = data.draw(JSON)
    kind = CONTROL_TYPE if envelope.payload_type == CONTROL_TYPE else PAYLOAD_TYPE
    try:
        encoded = Envelope.sign(kind, strictjson.dump(fields), [key("root")]).encoded
        read = read_event(encoded).unverified
    except ModelnetError:
        return
    assert read_event(sign_event(read, [key("root")]).encoded).unverified == read


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_an_event_or_malformed(position: int, change: int) -> None:
    """Flipping any byte of an entry leaves an entry or raises a typed error."""
    data = bytearray(sign_event(EVENTS[3], [key("next")]).encoded)
    data[position % len(data)] ^= change
    try:
        read_event(bytes(data))
    except ModelnetError:
        return
