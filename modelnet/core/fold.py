"""What a publisher's log amounts to: its entries, folded one by one, in log order.

An entry that breaks any rule is inert: it keeps its leaf, changes nothing, and the reason is kept. Only entry 0, the
genesis, is fatal. The rules beside those of each event (`modelnet.core.events`):

- Keys are counted, not signatures. A key serves one role, for ever; a next key serves none before it is revealed.
- A control event names the publisher it is for, and no statement counts twice: a thief of the log key cannot bring back
  old keys or an old release by repeating what was signed once, also not beside other signatures.
- Last in log order wins. Releasing a manifest again (in a new statement) lifts what superseded or yanked it, never a
  revocation. A version keeps its manifest.
- Negative statements count by any route (`apply_negative`), also after `close`, and stay until root reinstates them.

Nothing here knows the time: `not_after` of a delegation is an index.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Self

from modelnet.core import events
from modelnet.core.dsse import Envelope
from modelnet.core.entries import read_event, read_founding
from modelnet.core.identity import Role
from modelnet.core.keys import VerifyKey
from modelnet.core.merkle import Frontier, leaf_hash, root
from modelnet.core.note import COSIGNATURE, NoteKey
from modelnet.core.resolution import Listed, Logged, newest, offered
from modelnet.core.revocations import Revocation, Revocations
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError

__all__ = ["Inert", "Logged", "PublisherState", "Revocation", "apply_negative", "origin_of"]

MAX_OUTSIDE = 4096  # revocations by release keys that are not in the log: 128 MiB, were each as large as it may be


@dataclass(frozen=True, slots=True)
class Inert:
    """An entry that changed nothing, and the error that says why."""

    index: int
    error: ModelnetError

    @property
    def rule(self) -> str:
        """The broken rule."""
        return self.error.rule or self.error.kind


def origin_of(pid: str, epoch: int = 0) -> str:
    """Return the origin of checkpoints after `epoch` recoveries: a recovered branch is a log of its own."""
    return f"modelnet.alt/p/{pid}" + (f"/r{epoch}" if epoch else "")


@dataclass(slots=True)
class PublisherState:
    """A publisher as its log has it so far; made by `fold`, grown by `append`, never taken back."""

    pid: str
    founding: events.Founding
    root: Role
    next: events.Next
    release: Role
    log: Role
    beat: Role
    root_version: int = 1
    oms: tuple[str, ...] = ()
    closed: events.Close | None = None
    taken_over: int = 0  # index of the newest rotate or recover
    leaves: list[bytes] = field(default_factory=list)
    releases: list[Logged] = field(default_factory=list)
    delegates: dict[str, events.Delegate] = field(default_factory=dict)
    yanked: dict[str, events.Yank] = field(default_factory=dict)  # by digest, sha256:… and blake3:…; the next too
    superseded: dict[str, events.Supersede] = field(default_factory=dict)
    revocations: Revocations = field(default_factory=Revocations)
    attested: list[tuple[int, events.Attest | events.Vouch]] = field(default_factory=list)
    inert: list[Inert] = field(default_factory=list)
    _tree: Frontier = field(default_factory=Frontier)
    _roles: dict[str, str] = field(default_factory=dict)  # key id → the one role it ever serves
    _seen: set[bytes] = field(default_factory=set)  # statements that counted
    _sizes: list[int] = field(default_factory=list)  # from this size on …
    _signers: list[tuple[Role, Role, int]] = field(default_factory=list)  # … these log keys, beat keys and epoch
    _versions: dict[tuple[str, str], Logged] = field(default_factory=dict)
    _names: dict[str, list[Logged]] = field(default_factory=dict)
    _manifests: dict[str, Logged] = field(default_factory=dict)
    _by_delegates: set[int] = field(default_factory=set)  # indexes of releases that the publisher did not sign

    @classmethod
    def begin(cls, genesis: bytes, pid: str) -> Self:
        """Return the state after entry 0; raise what `Genesis.verify` raises."""
        founding = read_founding(genesis, pid)
        first = founding.genesis
        state = cls(pid, founding, first.root, founding.next, first.release, founding.log, founding.beat)
        for name in ("root", "release", "log", "beat"):
            state._roles.update((key.keyid, name) for key in getattr(state, name).keys)
        state._grow(leaf_hash(genesis))
        state._note_signers(0)
        return state

    @classmethod
    def fold(cls, entries: Iterable[bytes], pid: str) -> Self:
        """Return the state after `entries`, the whole log of `pid`."""
        rest = iter(entries)
        genesis = next(rest, None)
        if genesis is None:
            raise MalformedError("an empty log", rule="log")
        state = cls.begin(genesis, pid)
        for entry in rest:
            state.append(entry)
        return state

    @property
    def size(self) -> int:
        """How many entries were folded."""
        return len(self.leaves)

    @property
    def tree_root(self) -> bytes:
        """The root over all entries, inert ones too."""
        return self._tree.root

    @property
    def epoch(self) -> int:
        """How often the log was recovered."""
        return self._signers[-1][2]

    @property
    def origin(self) -> str:
        """The origin of checkpoints of this size."""
        return origin_of(self.pid, self.epoch)

    def root_at(self, size: int) -> bytes:
        """Return the root over the first `size` entries."""
        return self.tree_root if size == self.size else root(self.leaves[:size])

    def signers_at(self, size: int) -> tuple[list[NoteKey], list[NoteKey]]:
        """Return the log keys and the beat keys that speak for a checkpoint of `size`: those after entry size - 1."""
        if not 0 < size <= self.size:
            raise ValueError(f"no entry {size - 1}")
        return self._note_keys(self._signers[bisect_right(self._sizes, size) - 1])

    def log_keys(self, epoch: int | None = None) -> list[NoteKey]:
        """Return every log key of this origin (or that of `epoch`), old ones too: what equivocation is judged by."""
        wanted = self.epoch if epoch is None else epoch
        keys = [key for entry in self._signers if entry[2] == wanted for key in self._note_keys(entry)[0]]
        return list(dict.fromkeys(keys))

    def find(self, name: str, version: str) -> Logged | None:
        """Return the release of that version, whatever became of it since."""
        return self._versions.get((name, version))

    def manifest(self, digests: events.Digests) -> Logged | None:
        """Return the release with that manifest."""
        return next((self._manifests[name] for name in digests.names if name in self._manifests), None)

    def names(self) -> list[str]:
        """Return the names that were ever released, sorted."""
        return sorted(self._names)

    def listed(self, name: str) -> Iterator[Logged]:
        """Return the releases of a name, newest in log order first."""
        return reversed(self._names.get(name, []))

    def listed_as(self, digests: events.Digests) -> Logged | None:
        """Return the last release with that manifest."""
        return self.manifest(digests)

    def logged(self, listed: Listed) -> Logged:
        """Return a listed release with all that it says."""
        return self.releases[bisect_left(self.releases, listed.index, key=lambda logged: logged.index)]

    def newest(self, name: str, channel: str | None = None) -> Logged | None:
        """Return what resolution picks: the last release in log order, or what superseded it, that is offered."""
        return newest(self, name, channel)

    def offered(self, logged: Logged) -> bool:
        """Tell whether resolution may pick a release: neither revoked nor yanked."""
        return offered(self, logged)

    def yank(self, digests: events.Digests) -> events.Yank | None:
        """Return the event that yanked a manifest."""
        return next((self.yanked[name] for name in digests.names if name in self.yanked), None)

    def revocations_of(self, digests: events.Digests) -> list[Revocation]:
        """Return the revocations in force of a manifest or a file; one digest in common is enough."""
        return self.revocations.of(digests)

    @property
    def has_revocations(self) -> bool:
        """Whether anything at all was ever revoked."""
        return bool(self.revocations)

    def supersession(self, digests: events.Digests) -> events.Supersede | None:
        """Return the event that superseded a manifest."""
        return next((self.superseded[name] for name in digests.names if name in self.superseded), None)

    def copy(self) -> Self:
        """Return a state that grows on its own."""
        copied = copy(self)
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "_names":
                setattr(copied, name, {key: list(items) for key, items in value.items()})
            elif isinstance(value, list | dict | set | Frontier | Revocations):
                setattr(copied, name, value.copy())
        return copied

    def append(self, entry: bytes) -> events.Event | Inert:
        """Fold the next entry; return what it did, or why it did nothing."""
        try:
            event = read_event(entry)
            self._apply(event, delegated=self._admit(event))
        except ModelnetError as error:
            # Kept without the frames it came through: they hold the entry and all that was read of it.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            inert = Inert(self.size, error)
            self.inert.append(inert)
            self._grow(leaf_hash(entry))
            return inert
        self._seen.add(event.statement)
        self._grow(event.leaf)
        return event.unverified

    def _grow(self, leaf: bytes) -> None:
        self.leaves.append(leaf)
        self._tree.append(leaf)

    def _admit(self, event: events.UnverifiedEvent) -> bool:
        """Raise unless the event is for this log, new, and signed by those who may say it; tell if a delegate did."""
        claim = event.unverified
        if self.closed is not None and not isinstance(claim, events.Revoke):
            raise TrustError("the log is closed", rule="closed")
        if claim.pid not in (None, self.pid):
            raise TrustError("event of another publisher", rule="publisher", wanted=self.pid, got=claim.pid)
        if event.statement in self._seen:
            raise TrustError("the statement stands in the log already", rule="replay")
        match claim.signer:
            case events.Signer.ROOT:
                self._check(event.envelope, self.root)
            case events.Signer.RELEASE:
                self._check(event.envelope, self.release)
            case events.Signer.NEXT if isinstance(claim, events.Rotate | events.Recover):
                self._check(event.envelope, Role(claim.root.keys, self.next.threshold))
            case events.Signer.RELEASE_OR_DELEGATE if isinstance(claim, events.Released):
                return self._check_release(event.envelope, claim)
            case _:
                self._check(event.envelope, Role((*self.release.keys, *self.root.keys)))
        return False

    @staticmethod
    def _check(envelope: Envelope, role: Role) -> None:
        envelope.verify(envelope.payload_type, role.keys, role.threshold)

    def _check_release(self, envelope: Envelope, claim: events.Released) -> bool:
        """Raise unless the publisher or the delegate of the name signed; tell whether it was the delegate."""
        try:
            self._check(envelope, self.release)
        except TrustError:
            delegate = self.delegate_of(claim.release.name)
            if delegate is None:
                raise
            self._check(envelope, delegate.role)
            return True
        return False

    def delegate_of(self, name: str) -> events.Delegate | None:
        """Return who may release `name` next, beside the publisher: the delegation with the longest prefix."""
        parts = name.split("/")
        for depth in range(len(parts) - 1, 0, -1):
            delegate = self.delegates.get("/".join(parts[:depth]) + "/")
            if delegate is not None:
                return delegate if delegate.not_after is None or self.size <= delegate.not_after else None
        return None

    def _apply(self, event: events.UnverifiedEvent, *, delegated: bool) -> None:
        """Change the state as the admitted event says; every check comes before the first change."""
        match event.unverified:
            case events.Released() as released:
                self._publish(Logged(self.size, released), delegated=delegated)
            case events.Supersede(new=new, old=old) as supersede:
                if set(old.names) & set(new.names):
                    raise MalformedError("a manifest does not supersede itself", rule="event")
                self.superseded.update(dict.fromkeys(old.names, supersede))
                for name in new.names:
                    self.superseded.pop(name, None)
            case events.Yank(subjects=subjects) as yank:
                self.yanked.update((name, yank) for digests in subjects for name in digests.names)
            case events.Revoke() as revoke:
                self.revocations.add(Revocation(revoke, event.leaf, event.statement, self.size))
            case events.Reinstate(revoke=leaf):
                self.revocations.reinstate(leaf)
            case events.Attest() | events.Vouch() as attested:
                self.attested.append((self.size, attested))
            case events.Keys() as keys:
                self._replace_keys(keys)
            case events.Rotate() | events.Recover() as takeover:
                self._take_over(takeover)
            case events.Delegate() as delegate:
                self._claim("delegate", delegate.role.keys)
                self.delegates[delegate.prefix] = delegate
            case events.Close() as close:
                self.closed = close

    def _publish(self, logged: Logged, *, delegated: bool) -> None:
        release = logged.event.release
        names = (f"sha256:{release.manifest_sha256}", f"blake3:{release.manifest.digest.hex()}")
        for name in names:
            # A manifest says its own name and version. Whoever may release some names must not, by calling another
            # name's manifest one of them, undo what was said of it; nor keep the publisher from releasing its own.
            owner = self._manifests.get(name)
            taken = owner is not None and _title(owner) != _title(logged)
            if owner is not None and taken and (delegated or owner.index not in self._by_delegates):
                raise TrustError(
                    "the manifest was released as another name or version", rule="manifest-exists",
                    wanted="@".join(_title(owner)), got="@".join(_title(logged)),
                )  # fmt: skip
        earlier = self._versions.setdefault((release.name, release.version), logged)
        if earlier.event.release.manifest != release.manifest:
            raise IntegrityError(
                "the version is taken by another manifest", rule="version-exists",
                wanted=earlier.event.release.manifest, got=release.manifest,
            )  # fmt: skip
        if delegated:
            self._by_delegates.add(logged.index)
        self.releases.append(logged)
        self._names.setdefault(release.name, []).append(logged)
        for name in names:
            self._manifests[name] = logged
            self.superseded.pop(name, None)
            self.yanked.pop(name, None)

    def _replace_keys(self, keys: events.Keys) -> None:
        given = {name: role for name in ("release", "log", "beat") if (role := getattr(keys, name)) is not None}
        claimed = [(name, key) for name, role in given.items() for key in role.keys]
        if len({key for _, key in claimed}) != len(claimed):
            raise TrustError("one key serves two roles", rule="role")
        for name, role in given.items():
            self._check_claim(name, role.keys)
        for name, role in given.items():
            self._claim(name, role.keys)
            setattr(self, name, role)
        self.oms = self.oms if keys.oms is None else keys.oms
        self._note_signers(self.epoch)

    def _take_over(self, event: events.Rotate | events.Recover) -> None:
        revealed = {key.keyid for key in event.root.keys}
        if event.root_version != self.root_version + 1:
            raise TrustError("root version", rule="root-version", wanted=self.root_version + 1, got=event.root_version)
        if not revealed <= set(self.next.digests):
            raise TrustError("a revealed key was not committed to", rule="next")
        if (revealed | self._roles.keys()) & set(event.next.digests):
            raise TrustError("a next key has been shown already", rule="role")
        if isinstance(event, events.Recover) and (event.fork_size, event.fork_root) != (self.size, self.tree_root):
            raise TrustError("the recovery is of another prefix", rule="fork", wanted=self.size, got=event.fork_size)
        self._roles.update(dict.fromkeys(revealed, "root"))
        self.root, self.next, self.root_version = event.root, event.next, event.root_version
        self.taken_over = self.size
        self._note_signers(self.epoch + isinstance(event, events.Recover))

    def _check_claim(self, role: str, keys: Sequence[VerifyKey]) -> None:
        for key in keys:
            if self._roles.get(key.keyid, role) != role or key.keyid in self.next.digests:
                raise TrustError("one key serves two roles", rule="role", got=key.keyid)

    def _claim(self, role: str, keys: Sequence[VerifyKey]) -> None:
        self._check_claim(role, keys)
        self._roles.update((key.keyid, role) for key in keys)

    def _note_signers(self, epoch: int) -> None:
        self._sizes.append(self.size + 1 if self._sizes else 1)
        self._signers.append((self.log, self.beat, epoch))

    def _note_keys(self, signers: tuple[Role, Role, int]) -> tuple[list[NoteKey], list[NoteKey]]:
        log, beat, epoch = signers
        origin = origin_of(self.pid, epoch)
        beats = [NoteKey(f"{origin}/beat", key, COSIGNATURE) for key in beat.keys]
        return [NoteKey(origin, key) for key in log.keys], beats


def _title(logged: Logged) -> tuple[str, str]:
    return logged.event.release.name, logged.event.release.version


def apply_negative(state: PublisherState, envelope: bytes) -> Revocation:
    """Count a revocation that came by any route, and return it; it needs a key that `state` lists now.

    Raises `MalformedError` on anything but a revocation, `TrustError` when nobody who may revoke signed it.
    """
    event = read_event(envelope)
    claim = event.unverified
    if not isinstance(claim, events.Revoke):
        raise MalformedError("only revocations count outside the log", rule="negative")
    if claim.pid != state.pid:
        raise TrustError("revocation of another publisher", rule="publisher", wanted=state.pid, got=claim.pid)
    full = event.statement not in state.revocations and state.revocations.outside >= MAX_OUTSIDE
    # A stolen release key must not fill the table and so keep the owner's own revocations out.
    keys = state.root.keys if full else (*state.release.keys, *state.root.keys)
    event.envelope.verify(event.envelope.payload_type, keys)
    revocation = Revocation(claim, event.leaf, event.statement)
    state.revocations.add(revocation)
    return revocation
