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
from modelnet.core.fields import (
    read_digests,
    read_hex,
    read_hexes,
    read_keys,
    read_list,
    read_map,
    read_next,
    read_number,
    read_pid,
    read_role,
    read_text,
    sha256_of,
)  # fmt: skip
from modelnet.core.identity import CONTROL_TYPE, MAX_AGE_S, MAX_GENESIS, Genesis, Role
from modelnet.core.keys import SigningKey
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
    return Founding(genesis, read_next(fields), read_role(fields, "log"), read_role(fields, "beat"), max_age)


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
    pid = read_pid(fields, "pid")
    match kind:
        case "keys":
            roles = {name: read_role(fields, name) for name in ("release", "log", "beat") if name in fields}
            oms = read_hexes(fields["oms"], "keys") if "oms" in fields else None
            if not roles and oms is None:
                raise MalformedError("the keys event names no role", rule="event")
            return Keys(
                pid, roles.get("release"), roles.get("log"), roles.get("beat"), oms, read_number(fields, "serial")
            )
        case "rotate":
            return Rotate(pid, read_number(fields, "root_version"), read_role(fields, "root"), read_next(fields))
        case "recover":
            fork = read_map(fields, "fork")
            return Recover(
                pid, read_number(fields, "root_version"), read_role(fields, "root"), read_next(fields),
                read_number(fork, "size"), bytes.fromhex(read_hex(fork, "root")),
            )  # fmt: skip
        case "delegate":
            prefix = read_text(fields, "prefix")
            if not _PREFIX.fullmatch(prefix):
                raise MalformedError("a delegation is for names under a folder", rule="event", got=repr(prefix[:80]))
            last = read_number(fields, "not_after") if "not_after" in fields else None
            return Delegate(pid, prefix, read_keys(fields, "delegate"), last, read_number(fields, "serial"))
        case "close":
            return Close(pid, read_pid(fields, "successor") if "successor" in fields else None)
        case _:
            return Reinstate(pid, bytes.fromhex(read_hex(fields, "revoke")))


def _statement(envelope: Envelope, fields: Mapping[str, Any]) -> Event:
    if fields.get("_type") != STATEMENT_TYPE:
        raise MalformedError("not an in-toto statement", rule="type", got=repr(fields.get("_type"))[:80])
    kind, predicate = read_text(fields, "predicateType"), read_map(fields, "predicate")
    if kind == PREDICATE_TYPE:
        return Released(Release.read(envelope, fields), tuple(map(_parent, read_list(predicate, "derived_from"))))
    subjects = read_list(fields, "subject")
    if not subjects:
        raise MalformedError("a statement without a subject", rule="event")
    digests = tuple(read_digests(read_map(subject, "digest")) for subject in subjects)
    if kind.startswith(ATTESTATIONS):
        return Attest(kind, digests, strictjson.dump(predicate).decode())
    match kind.removeprefix(STATEMENTS):
        case "supersede/v1" if len(digests) == 1:
            new = read_digests(read_map(predicate, "replacement").get("digest"))
            return Supersede(read_pid(predicate, "packageId"), digests[0], new, read_text(predicate, "reason"))
        case "yank/v1":
            return Yank(read_pid(predicate, "packageId"), digests, read_text(predicate, "reason"))
        case "revoke/v1":
            severity, ids = read_text(predicate, "severity"), read_list(predicate, "ids")
            if severity not in SEVERITIES or not all(isinstance(name, str) for name in ids):
                raise MalformedError("not a revocation", rule="event", got=repr(severity[:80]))
            files = tuple(read_digests(item) for item in read_list(predicate, "files"))
            return Revoke(
                read_pid(predicate, "packageId"), digests, severity, read_text(predicate, "text"), tuple(ids), files
            )
        case "name/v1" if len(digests) == 1:
            publisher, name = read_pid(predicate, "publisher"), read_text(predicate, "name")
            if digests[0] != Digests(sha256_of(publisher)):
                raise MalformedError("the statement is about another publisher than its subject", rule="event")
            try:
                return Vouch(read_pid(predicate, "packageId"), publisher, check_alias(name))
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
            return _statement_fields(STATEMENTS + "name/v1", [Digests(sha256_of(publisher))], body)
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
    relation = read_text(fields, "relation") if isinstance(fields, dict) else ""
    if relation not in RELATIONS:
        raise MalformedError("not a relation to another release", rule="event", got=repr(fields)[:80])
    given = {name: read_hex(fields, name) for name in ("sha256", "blake3") if name in fields}
    if "manifest" in fields:
        cid = Cid.parse(read_text(fields, "manifest"))
        if (cid.codec, cid.code) != (DAG_CBOR, BLAKE3) or given.setdefault(
            "blake3", cid.digest.hex()
        ) != cid.digest.hex():
            raise MalformedError("not the manifest of a release", rule="event", got=cid)
    return Parent(
        Digests(given.get("sha256"), given.get("blake3")),
        relation,
        read_pid(fields, "pid") if "pid" in fields else None,
    )


def _digest_set(digests: Digests) -> dict[str, str]:
    return _given(sha256=digests.sha256, blake3=digests.blake3)
