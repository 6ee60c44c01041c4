"""What a publisher says about releases after they are out: revoked, yanked, superseded, and taken back; and vouching.

    revoke("acme/tiny@1.2.0", severity="malicious", text="…")      must not be loaded nor provided any more
    yank("acme/tiny@1.2.0")                                        not chosen any more; loads where it is pinned
    supersede("acme/tiny@1.2.0", "acme/tiny@1.2.1")                who asks for the one gets the other
    reinstate("acme/tiny@1.2.0")                                   takes all of that back
    vouch("zed", pid) · attest("acme/tiny@1.2.0", type, {…})       about others, and in others' vocabulary

Each signs with the keys that it needs, appends one entry to the own log and returns its place and the head. A
revocation counts on its signature alone: where the log cannot be written (it was forked, or its key is not here), the
signed envelope is counted here and returned, to be brought to others by any route. All functions take the options of
`Terms` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Unpack

from modelnet.core import strictjson
from modelnet.core.dsse import MAX_ENVELOPE, Envelope
from modelnet.core.entries import SEVERITIES, sign_event
from modelnet.core.events import Attest, Digests, Reinstate, Revoke, Supersede, Vouch, Yank
from modelnet.core.fold import Logged, PublisherState
from modelnet.core.keys import SigningKey
from modelnet.core.names import Reference, check_alias, parse_reference
from modelnet.core.note import Checkpoint
from modelnet.core.release import PAYLOAD_TYPE
from modelnet.errors import TrustError, UnavailableError, UsageError
from modelnet.replica import Replicas
from modelnet.signed import resolve_publisher
from modelnet.stores.keyring import Keyring
from modelnet.stores.local import LocalStore, open_store
from modelnet_registry.log.own import Appended, Own, Terms, own_keyring, own_log, own_pid
from modelnet_registry.publisher import signers_of

__all__ = ["Revoked", "attest", "reinstate", "revoke", "supersede", "vouch", "yank"]


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that counts here from now on: in the log at `index`, or outside of it, where `index` is None.

    `envelope` is what any route may carry; `reason` says why the log was not written.
    """

    pid: str
    index: int | None
    head: Checkpoint | None
    envelope: bytes
    reason: TrustError | UsageError | UnavailableError | None = None


def revoke(
    subject: str | Digests, *, severity: str, text: str = "", ids: Sequence[str] = (),
    files: Sequence[str | Digests] = (), **terms: Unpack[Terms],
) -> Revoked:  # fmt: skip
    """Revoke a release, by reference or by its manifest's digests, and `files`: paths in it, or digests of any file.

    `severity` is malicious, vulnerable, broken or legal; `ids` are names of advisories (OSV, CVE). Any one release or
    root key is enough.
    """
    if severity not in SEVERITIES:
        raise UsageError("no such severity", rule="severity", got=severity, wanted=", ".join(SEVERITIES))
    store = open_store(terms.get("home"))
    pid = own_pid(store, _publisher(subject, terms))
    terms["publisher"] = pid
    keyring = own_keyring(store, pid, terms.get("passphrase"), terms.get("key_files", ()))
    try:
        with own_log(**terms) as own:
            state = own.log.state
            event = _revocation(store, state, subject, severity, text, ids, files)
            envelope = sign_event(event, [_any_signer(keyring, state)]).encoded
            own.log.append([envelope])
            return Revoked(pid, own.log.state.size - 1, own.log.checkpoint, envelope)
    except (TrustError, UsageError, UnavailableError) as error:
        if error.rule not in {"fork", "quarantined", "keys", "log"}:
            raise
        return _outside(store, pid, keyring, (subject, severity, text, ids, files), error)


def yank(subject: str | Digests, *, reason: str = "", **terms: Unpack[Terms]) -> Appended:
    """Take a release out of resolution; who pins it may still load it."""
    with _own(subject, terms) as own:
        digests = _digests(own.store, own.log.state, subject)
        return own.append(Yank(own.pid, (digests,), reason), own.keys.quorum("release", own.log.state.release))


def supersede(
    subject: str | Digests, by: str | Digests, *, reason: str = "", **terms: Unpack[Terms]
) -> Appended:  # fmt: skip
    """Let who asks for one release get another one, which must be in the log."""
    with _own(subject, terms) as own:
        state = own.log.state
        old, new = _digests(own.store, state, subject), _digests(own.store, state, by)
        if set(old.names) & set(new.names):
            raise UsageError("a release does not take its own place", rule="supersede", got=str(by))
        if state.manifest(new) is None:
            raise UsageError("what takes its place is not in the log", rule="missing", got=str(by))
        return own.append(Supersede(own.pid, old, new, reason), own.keys.quorum("release", state.release))


def reinstate(subject: str | Digests | bytes, **terms: Unpack[Terms]) -> Appended:
    """Take back what is held against a release: revocations, by root; a yank or supersession, by releasing it again.

    `subject` is a reference, digests, or the leaf hash (32 bytes) of one revoking entry. Raises `UsageError` with rule
    `nothing` when nothing is held against it.
    """
    with _own(subject, terms) as own:
        state = own.log.state
        leaves = [subject] if isinstance(subject, bytes) else []
        logged: Logged | None = None
        if not isinstance(subject, bytes):
            digests = _digests(own.store, state, subject)
            known = own.replicas.state(own.pid)  # also those that are not in the log
            leaves = [revocation.leaf for revocation in known.revocations.of(digests)]
            logged = state.manifest(digests)
        root = own.keys.quorum("root", state.root) if leaves else []
        entries = [sign_event(Reinstate(own.pid, leaf), root).encoded for leaf in leaves]
        if logged is not None and _set_aside(state, logged):
            entries.append(_again(logged, state, own.keys))
        if not entries:
            raise UsageError("nothing is held against this release", rule="nothing", got=str(subject))
        own.log.append(entries)
        return Appended(own.pid, own.log.state.size - 1, own.log.checkpoint)


def vouch(name: str, pid: str, **terms: Unpack[Terms]) -> Appended:
    """Say in the own log that the publisher `pid` (or its alias here) is the one called `name`."""
    with own_log(**terms) as own:
        event = Vouch(own.pid, resolve_publisher(own.store, pid), check_alias(name))
        return own.append(event, own.keys.quorum("release", own.log.state.release))


def attest(
    subject: str | Digests, predicate_type: str, predicate: Mapping[str, Any], **terms: Unpack[Terms]
) -> Appended:  # fmt: skip
    """Put a statement about a release of anybody into the own log, in one of the vocabularies that logs keep.

    SLSA provenance and verification summaries, in-toto test results, CycloneDX and OpenSSF Model Signing are known; in
    another one the entry would count for nothing and is refused.
    """
    with own_log(**terms) as own:
        digests = subject if isinstance(subject, Digests) else _anybodys(own, parse_reference(subject))
        event = Attest(predicate_type, (digests,), strictjson.dump(dict(predicate)).decode())
        return own.append(event, own.keys.quorum("release", own.log.state.release))


def _publisher(subject: object, terms: Terms) -> str | None:
    """Return whom the subject or the options name."""
    named = parse_reference(subject).publisher if isinstance(subject, str) else None
    return named if named is not None else terms.get("publisher")


def _own(subject: object, terms: Terms) -> AbstractContextManager[Own]:
    given: Terms = {**terms, "publisher": _publisher(subject, terms)}
    return own_log(**given)


def _digests(store: LocalStore, state: PublisherState, subject: str | Digests) -> Digests:
    """Return the digests of a release of this log, whatever became of it."""
    if isinstance(subject, Digests):
        known = state.manifest(subject)
        return subject if known is None else Digests.of(known.event.release)
    reference = parse_reference(subject)
    if resolve_publisher(store, reference.publisher) != state.pid:
        raise UsageError("a release of another publisher", rule="publisher", wanted=state.pid, got=subject)
    return Digests.of(_logged(state, reference).event.release)


def _logged(state: PublisherState, reference: Reference) -> Logged:
    """Return the release that a reference to a version means; a moving name is not enough to be said about."""
    if reference.version is None:
        raise UsageError("say which version", rule="reference", got=str(reference), hint="publisher/name@version")
    logged = state.find(reference.name, reference.version)
    if logged is None:
        raise UsageError(f"{reference} is not in the log", rule="missing", hint="see `modelnet log`")
    pinned = reference.manifest_sha256
    if pinned not in (None, logged.event.release.manifest_sha256):
        raise TrustError(
            "the locator pins another manifest", rule="pin", wanted=pinned, got=logged.event.release.manifest_sha256
        )
    return logged


def _anybodys(own: Own, reference: Reference) -> Digests:
    pid = resolve_publisher(own.store, reference.publisher)
    return Digests.of(_logged(own.replicas.state(pid), reference).event.release)


def _revocation(  # noqa: PLR0917  (what a revocation says)
    store: LocalStore, state: PublisherState, subject: str | Digests, severity: str, text: str, ids: Sequence[str],
    files: Sequence[str | Digests],
) -> Revoke:  # fmt: skip
    digests = _digests(store, state, subject)
    listed = tuple(one if isinstance(one, Digests) else _file(store, state, digests, one) for one in files)
    return Revoke(state.pid, (digests,), severity, text, tuple(ids), listed)


def _file(store: LocalStore, state: PublisherState, digests: Digests, path: str) -> Digests:
    """Return the digests of one file of a release, from its manifest."""
    logged = state.manifest(digests)
    block = None if logged is None else store.block(logged.event.release.manifest)
    if logged is None or block is None:
        raise UnavailableError("the release's manifest is not here", rule="missing", path=path)
    for entry in logged.event.release.open(block).files:
        if entry.path == path:
            return Digests(entry.sha256.hex(), entry.blake3.hex())
    raise UsageError("no such file in the release", rule="path", path=path)


def _any_signer(keyring: Keyring, state: PublisherState) -> SigningKey:
    signers = keyring.signers("release", state.release.keys) or keyring.signers("root", state.root.keys)
    if not signers:
        raise UsageError("neither a release key nor a root key is here", rule="signer", got=state.pid)
    return signers[0]


def _outside(
    store: LocalStore, pid: str, keyring: Keyring,
    said: tuple[str | Digests, str, str, Sequence[str], Sequence[str | Digests]],
    reason: TrustError | UsageError | UnavailableError,
) -> Revoked:  # fmt: skip
    """Sign the revocation, count it here, and say why it is not in the log."""
    replicas = Replicas(store)
    state = replicas.state(pid)
    envelope = sign_event(_revocation(store, state, *said), [_any_signer(keyring, state)]).encoded
    replicas.add_negative(pid, envelope)
    return Revoked(pid, None, None, envelope, reason)


def _set_aside(state: PublisherState, logged: Logged) -> bool:
    names = Digests.of(logged.event.release).names
    return any(name in state.yanked or name in state.superseded for name in names)


def _again(logged: Logged, state: PublisherState, keyring: Keyring) -> bytes:
    """Return a new statement of the same release: what lifts a yank or a supersession."""
    release = logged.event.release
    body = strictjson.parse(release.envelope.unverified_body, what="release statement", limit=MAX_ENVELOPE)
    body["predicate"]["serial"] = state.size  # a statement counts once, so this one has to differ
    return Envelope.sign(PAYLOAD_TYPE, strictjson.dump(body), signers_of(release.name, state, keyring)).encoded
