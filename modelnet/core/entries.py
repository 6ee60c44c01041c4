"""The bytes of a log's entries: one DSSE envelope each, in its one spelling, kept as it was published.

    control   {"type": T, "v": 1, "pid": P, …}                        about the log itself
    in-toto   {"_type": Statement/v1, "subject": […], "predicateType": U, "predicate": {"packageId": P, …}}

    keys        "release"?, "log"?, "beat"?: {"keys": [hex…], "threshold"}, "oms"?: {"keys": [hex…]}, "serial"?
    rotate      "root_version", "root": {keys, threshold}, "next": {"digests": [hex…], "threshold"}
    recover     the same and "fork": {"size", "root": hex}
    delegate    "prefix", "keys", "threshold", "not_after"?: last index, "serial"?
    close       "successor"?: pid                           reinstate   "revoke": leaf hash in hex
    supersede   subject: old, predicate "replacement": {"digest"}, "reason"?
    yank        subjects, "reason"?                         name        "publisher": pid, "name"
    revoke      subjects, "severity", "text"?, "ids"?, "files"?: [digest sets]

`read_event` says what an entry claims, before anybody's signature was checked: who has to sign depends on the claim.
Fields that this version does not know are ignored. `crit` is refused: it announces fields that must not be ignored,
and this version knows none (as RFC 7515 §4.1.11 has it). `read_event(sign_event(e, keys).encoded).unverified == e`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelnet.core import strictjson
from modelnet.core.cid import BLAKE3, DAG_CBOR, Cid
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.events import (
    Attest,
    Close,
    Delegate,
    Digests,
    Event,
    Founding,
    Keys,
    Next,
    Parent,
    Recover,
    Reinstate,
    Released,
    Revoke,
    Rotate,
    Supersede,
    UnverifiedEvent,
    Vouch,
    Yank,
)  # fmt: skip
from modelnet.core.identity import CONTROL_TYPE, HEX, MAX_AGE_S, MAX_GENESIS, MAX_KEYS, PID, Genesis, Role
from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.core.names import check_alias
from modelnet.core.release import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, Release
from modelnet.errors import MalformedError, UsageError

__all__ = ["STATEMENTS", "read_event", "read_founding", "sign_event"]

CONTROL_EVENTS = ("keys", "rotate", "recover", "delegate", "close", "reinstate")
STATEMENTS = "https://modelnet.alt/statement/"  # .alt is reserved for names outside the DNS (RFC 9476)
RELATIONS = ("finetune", "adapter", "merge", "quantized")
SEVERITIES = ("malicious", "vulnerable", "broken", "legal")
# Statements about artifacts in other people's vocabulary; a log keeps them, their readers judge them.
ATTESTATIONS = (
    "https://in-toto.io/attestation/svr/", "https://slsa.dev/verification_summary/", "https://slsa.dev/provenance/",
    "https://cyclonedx.org/bom", "https://model_signing/signature/",
)  # fmt: skip
_PREFIX = re.compile(r"[a-z0-9][a-z0-9._/-]{0,126}/")


def read_event(entry: bytes) -> UnverifiedEvent:
    """Return what `entry` claims; raise `MalformedError`, with rule `type` or `crit` where a later version may know."""
    envelope = Envelope.parse_entry(entry)
    named = [keyid for keyid, _ in envelope.signatures]
    # Each signature is then tried with one key at most: without this, 32 kB could ask for a thousand verifications.
    if not all(named) or len(set(named)) != len(named):
        raise MalformedError("an entry names the key of each signature, once", rule="envelope")
    fields = strictjson.parse(envelope.unverified_body, what="event", limit=MAX_ENVELOPE)
    if not isinstance(fields, dict):
        raise MalformedError("not an event", rule="event")
    predicate = fields.get("predicate")
    if "crit" in fields or (isinstance(predicate, dict) and "crit" in predicate):
        raise MalformedError("the event needs what this version cannot read", rule="crit")
    if envelope.payload_type == CONTROL_TYPE:
        return UnverifiedEvent(envelope, _control(fields))
    if envelope.payload_type == PAYLOAD_TYPE:
        return UnverifiedEvent(envelope, _statement(envelope, fields))
    raise MalformedError("entry of an unknown type", rule="type", got=repr(envelope.payload_type[:80]))


def read_founding(entry: bytes, pid: str) -> Founding:
    """Return what entry 0 founds, once it is `pid`'s genesis; the one event whose failure is fatal."""
    genesis = Genesis.verify(entry, pid)
    fields = strictjson.parse(genesis.envelope.unverified_body, what="genesis", limit=MAX_GENESIS)
    max_age = fields.get("max_age", MAX_AGE_S)
    if type(max_age) is not int or max_age <= 0:
        raise MalformedError("genesis max_age", rule="genesis", wanted="seconds, 1 or more", got=max_age)
    return Founding(genesis, _next(fields), _role(fields, "log"), _role(fields, "beat"), max_age)


def sign_event(event: Event, keys: Sequence[SigningKey]) -> Envelope:
    """Return the log entry that says `event`, signed by `keys`; a release signs itself (`release_statement`)."""
    kind = PAYLOAD_TYPE if isinstance(event, Supersede | Yank | Revoke | Vouch | Attest | Released) else CONTROL_TYPE
    return Envelope.sign(kind, strictjson.dump(_fields(event)), keys)


def _control(fields: Mapping[str, Any]) -> Event:
    if fields.get("v") != 1 or type(fields["v"]) is not int:
        raise MalformedError("control event of another version", rule="type", wanted=1, got=repr(fields.get("v"))[:80])
    kind = fields.get("type")
    if kind == "genesis":
        raise MalformedError("a log has one genesis, its first entry", rule="genesis")
    if kind not in CONTROL_EVENTS:
        raise MalformedError("control event of an unknown type", rule="type", got=repr(kind)[:80])
    pid = _pid(fields, "pid")
    match kind:
        case "keys":
            roles = {name: _role(fields, name) for name in ("release", "log", "beat") if name in fields}
            oms = _hexes(fields["oms"], "keys") if "oms" in fields else None
            if not roles and oms is None:
                raise MalformedError("the keys event names no role", rule="event")
            return Keys(pid, roles.get("release"), roles.get("log"), roles.get("beat"), oms, _number(fields, "serial"))
        case "rotate":
            return Rotate(pid, _number(fields, "root_version"), _role(fields, "root"), _next(fields))
        case "recover":
            fork = _map(fields, "fork")
            return Recover(
                pid, _number(fields, "root_version"), _role(fields, "root"), _next(fields),
                _number(fork, "size"), bytes.fromhex(_hex(fork, "root")),
            )  # fmt: skip
        case "delegate":
            prefix = _text(fields, "prefix")
            if not _PREFIX.fullmatch(prefix):
                raise MalformedError("a delegation is for names under a folder", rule="event", got=repr(prefix[:80]))
            last = _number(fields, "not_after") if "not_after" in fields else None
            return Delegate(pid, prefix, _keys(fields, "delegate"), last, _number(fields, "serial"))
        case "close":
            return Close(pid, _pid(fields, "successor") if "successor" in fields else None)
        case _:
            return Reinstate(pid, bytes.fromhex(_hex(fields, "revoke")))


def _statement(envelope: Envelope, fields: Mapping[str, Any]) -> Event:
    if fields.get("_type") != STATEMENT_TYPE:
        raise MalformedError("not an in-toto statement", rule="type", got=repr(fields.get("_type"))[:80])
    kind, predicate = _text(fields, "predicateType"), _map(fields, "predicate")
    if kind == PREDICATE_TYPE:
        return Released(Release.read(envelope, fields), tuple(map(_parent, _list(predicate, "derived_from"))))
    subjects = _list(fields, "subject")
    if not subjects:
        raise MalformedError("a statement without a subject", rule="event")
    digests = tuple(_digests(_map(subject, "digest")) for subject in subjects)
    if kind.startswith(ATTESTATIONS):
        return Attest(kind, digests, strictjson.dump(predicate).decode())
    match kind.removeprefix(STATEMENTS):
        case "supersede/v1" if len(digests) == 1:
            new = _digests(_map(predicate, "replacement").get("digest"))
            return Supersede(_pid(predicate, "packageId"), digests[0], new, _text(predicate, "reason"))
        case "yank/v1":
            return Yank(_pid(predicate, "packageId"), digests, _text(predicate, "reason"))
        case "revoke/v1":
            severity, ids = _text(predicate, "severity"), _list(predicate, "ids")
            if severity not in SEVERITIES or not all(isinstance(name, str) for name in ids):
                raise MalformedError("not a revocation", rule="event", got=repr(severity[:80]))
            files = tuple(_digests(item) for item in _list(predicate, "files"))
            return Revoke(_pid(predicate, "packageId"), digests, severity, _text(predicate, "text"), tuple(ids), files)
        case "name/v1" if len(digests) == 1:
            publisher, name = _pid(predicate, "publisher"), _text(predicate, "name")
            if digests[0] != Digests(_sha256_of(publisher)):
                raise MalformedError("the statement is about another publisher than its subject", rule="event")
            try:
                return Vouch(_pid(predicate, "packageId"), publisher, check_alias(name))
            except UsageError as error:
                raise MalformedError(error.message, rule="event") from error
        case _:
            raise MalformedError("statement of an unknown type", rule="type", got=repr(kind[:80]))


def _fields(event: Event) -> dict[str, Any]:
    """Return the body that says `event`."""
    match event:
        case Keys(pid, release, log, beat, oms, serial):
            roles = {"release": release, "log": log, "beat": beat}
            body: dict[str, Any] = {name: _role_fields(role) for name, role in roles.items() if role is not None}
            more = {"oms": {"keys": list(oms)}} if oms is not None else {}
            return _control_fields("keys", pid) | body | more | _given(serial=serial or None)
        case Rotate(pid, version, root, following):
            return _control_fields("rotate", pid) | _takeover_fields(version, root, following)
        case Recover(pid, version, root, following, size, fork):
            body = _takeover_fields(version, root, following) | {"fork": {"size": size, "root": fork.hex()}}
            return _control_fields("recover", pid) | body
        case Delegate(pid, prefix, role, last, serial):
            body = {"prefix": prefix, **_role_fields(role)} | _given(not_after=last, serial=serial or None)
            return _control_fields("delegate", pid) | body
        case Close(pid, successor):
            return _control_fields("close", pid) | _given(successor=successor)
        case Reinstate(pid, revoke):
            return _control_fields("reinstate", pid) | {"revoke": revoke.hex()}
        case Supersede(pid, old, new, reason):
            body = {"packageId": pid, "replacement": {"digest": _digest_set(new)}} | _given(reason=reason or None)
            return _statement_fields(STATEMENTS + "supersede/v1", [old], body)
        case Yank(pid, subjects, reason):
            return _statement_fields(
                STATEMENTS + "yank/v1", subjects, {"packageId": pid} | _given(reason=reason or None)
            )
        case Revoke(pid, subjects, severity, text, ids, files):
            body = {"packageId": pid, "severity": severity} | _given(text=text or None, ids=list(ids) or None)
            body |= _given(files=[_digest_set(item) for item in files] or None)
            return _statement_fields(STATEMENTS + "revoke/v1", subjects, body)
        case Vouch(pid, publisher, name):
            body = {"packageId": pid, "publisher": publisher, "name": name}
            return _statement_fields(STATEMENTS + "name/v1", [Digests(_sha256_of(publisher))], body)
        case Attest(kind, subjects, predicate):
            body = strictjson.parse(predicate.encode(), what="predicate", limit=MAX_ENVELOPE)
            return _statement_fields(kind, subjects, body)
        case Released(release):
            raw = release.envelope.unverified_body
            fields: dict[str, Any] = strictjson.parse(raw, what="release statement", limit=MAX_ENVELOPE)
            return fields


def _control_fields(kind: str, pid: str) -> dict[str, Any]:
    return {"type": kind, "v": 1, "pid": pid}


def _statement_fields(kind: str, subjects: Iterable[Digests], predicate: Mapping[str, Any]) -> dict[str, Any]:
    subject = [{"digest": _digest_set(digests)} for digests in subjects]
    return {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": kind, "predicate": dict(predicate)}


def _role_fields(role: Role) -> dict[str, Any]:
    return {"keys": [key.public.hex() for key in role.keys], "threshold": role.threshold}


def _takeover_fields(version: int, root: Role, following: Next) -> dict[str, Any]:
    digests = {"digests": list(following.digests), "threshold": following.threshold}
    return {"root_version": version, "root": _role_fields(root), "next": digests}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _parent(fields: Any) -> Parent:
    """Read one item of `derived_from`; a manifest named by its CID gives the BLAKE3 digest that is in it."""
    relation = _text(fields, "relation") if isinstance(fields, dict) else ""
    if relation not in RELATIONS:
        raise MalformedError("not a relation to another release", rule="event", got=repr(fields)[:80])
    given = {name: _hex(fields, name) for name in ("sha256", "blake3") if name in fields}
    if "manifest" in fields:
        cid = Cid.parse(_text(fields, "manifest"))
        if (cid.codec, cid.code) != (DAG_CBOR, BLAKE3) or given.setdefault(
            "blake3", cid.digest.hex()
        ) != cid.digest.hex():
            raise MalformedError("not the manifest of a release", rule="event", got=cid)
    return Parent(
        Digests(given.get("sha256"), given.get("blake3")), relation, _pid(fields, "pid") if "pid" in fields else None
    )


def _map(fields: Any, name: str) -> Mapping[str, Any]:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, dict):
        raise MalformedError(f"event field {name!r} is not a map", rule="event")
    return value


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise MalformedError(f"event field {name!r} is not a list", rule="event")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise MalformedError(f"event field {name!r} is not text", rule="event")
    return value


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    if type(value) is not int or value < 0:
        raise MalformedError(f"event field {name!r} is not a number", rule="event")
    return value


def _hex(fields: Mapping[str, Any], name: str) -> str:
    value = _text(fields, name)
    if not HEX.fullmatch(value):
        raise MalformedError(f"event field {name!r} is not 64 lower-case hex digits", rule="event")
    return value


def _hexes(fields: Any, name: str) -> tuple[str, ...]:
    """Read a list of 1 to 16 different digests or keys."""
    values = _list(fields, name) if isinstance(fields, dict) else []
    if not 0 < len(values) <= MAX_KEYS or not all(isinstance(value, str) and HEX.fullmatch(value) for value in values):
        raise MalformedError(f"event field {name!r} is not 1 to {MAX_KEYS} times 64 hex digits", rule="event")
    if len(set(values)) != len(values):
        raise MalformedError(f"event field {name!r} holds one twice", rule="event")
    return tuple(values)


def _pid(fields: Mapping[str, Any], name: str) -> str:
    value = _text(fields, name)
    if not PID.fullmatch(value):
        raise MalformedError(f"event field {name!r} is not a publisher id", rule="event", got=repr(value[:80]))
    return value


def _threshold(fields: Mapping[str, Any], count: int) -> int:
    threshold = _number(fields, "threshold") if "threshold" in fields else 1
    if not 0 < threshold <= count:
        raise MalformedError("threshold", rule="event", wanted=f"1 to {count}", got=threshold)
    return threshold


def _keys(fields: Mapping[str, Any], role: str) -> Role:
    try:
        keys = tuple(VerifyKey(bytes.fromhex(value)) for value in _hexes(fields, "keys"))
        return Role(keys, _threshold(fields, len(keys)))
    except MalformedError as error:
        raise MalformedError(f"{role} keys: {error.message}", rule="event") from error


def _role(fields: Mapping[str, Any], name: str) -> Role:
    return _keys(_map(fields, name), name)


def _next(fields: Mapping[str, Any]) -> Next:
    following = _map(fields, "next")
    digests = _hexes(following, "digests")
    return Next(digests, _threshold(following, len(digests)))


def _sha256_of(pid: str) -> str:
    """Return the leaf hash that a publisher id spells; the four bits that 52 letters have too many must be zero."""
    digest = base64.b32decode(pid.upper() + "====")
    if base64.b32encode(digest).decode().rstrip("=").lower() != pid:
        raise MalformedError("not the one spelling of a publisher id", rule="event", got=pid)
    return digest.hex()


def _digests(fields: Any) -> Digests:
    """Read a DigestSet; algorithms beside the two are left out."""
    if not isinstance(fields, dict):
        raise MalformedError("not a digest set", rule="event")
    return Digests(*(_text(fields, name) if name in fields else None for name in ("sha256", "blake3")))


def _digest_set(digests: Digests) -> dict[str, str]:
    return _given(sha256=digests.sha256, blake3=digests.blake3)
