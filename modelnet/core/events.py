"""The events of a publisher's log: what an entry may say and whose signatures make it count.

    keys, delegate, close, reinstate      signed by the root keys
    rotate, recover                       signed by the next keys, which the event itself shows for the first time
    release                               signed by the release keys or the delegate of its name
    supersede, yank, attest, vouch        signed by the release keys
    revoke                                signed by any one release or root key

Their bytes are in `modelnet.core.entries`, what they do to a publisher in `modelnet.core.fold`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Self, TypeAlias

from modelnet.core.dsse import Envelope, pae
from modelnet.core.identity import HEX, Genesis, Role
from modelnet.core.merkle import leaf_hash
from modelnet.core.release import Release
from modelnet.errors import MalformedError

__all__ = [
    "Attest", "Close", "Delegate", "Digests", "Event", "Founding", "Keys", "Next", "Parent", "Recover", "Reinstate",
    "Released", "Revoke", "Rotate", "Signer", "Supersede", "UnverifiedEvent", "Vouch", "Yank",
]  # fmt: skip


class Signer(Enum):
    """Whose signatures an event needs."""

    ROOT = "root"
    NEXT = "next"
    RELEASE = "release"
    RELEASE_OR_DELEGATE = "release or delegate"
    ANY_RELEASE_OR_ROOT = "any one release or root key"


@dataclass(frozen=True, slots=True)
class Next:
    """Digests (key ids) of the keys that may take over, and how many of them must."""

    digests: tuple[str, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class Digests:
    """What an artifact hashes to, in hex: SHA-256, BLAKE3 or both."""

    sha256: str | None = None
    blake3: str | None = None

    def __post_init__(self) -> None:
        if not self.names or not all(HEX.fullmatch(value) for value in (self.sha256, self.blake3) if value is not None):
            raise MalformedError("not a SHA-256 or BLAKE3 digest", rule="event")

    @property
    def names(self) -> tuple[str, ...]:
        """The digests as keys of a table that holds both kinds."""
        pairs = (("sha256", self.sha256), ("blake3", self.blake3))
        return tuple(f"{name}:{value}" for name, value in pairs if value is not None)

    @classmethod
    def of(cls, release: Release) -> Self:
        """Return the digests of a release's manifest."""
        return cls(release.manifest_sha256, release.manifest.digest.hex())


@dataclass(frozen=True, slots=True)
class Parent:
    """A release that another one was made from; a parent that no digest names is none."""

    digests: Digests
    relation: str
    pid: str | None = None


@dataclass(frozen=True, slots=True)
class Founding:
    """The genesis with the terms that only the log needs; `max_age` in seconds, what counts as fresh."""

    genesis: Genesis
    next: Next
    log: Role
    beat: Role
    max_age: int


@dataclass(frozen=True, slots=True)
class Keys:
    """New keys for the roles that are given, in force from the next index on; `serial` tells equal events apart."""

    signer: ClassVar[Signer] = Signer.ROOT
    pid: str
    release: Role | None = None
    log: Role | None = None
    beat: Role | None = None
    oms: tuple[str, ...] | None = None  # hints of P-256 keys that sign model.sig files: hex SHA-256 of the PEM
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Rotate:
    """The next keys show themselves and become root."""

    signer: ClassVar[Signer] = Signer.NEXT
    pid: str
    root_version: int
    root: Role
    next: Next


@dataclass(frozen=True, slots=True)
class Recover:
    """A rotation that also says which prefix of the log is the good one."""

    signer: ClassVar[Signer] = Signer.NEXT
    pid: str
    root_version: int
    root: Role
    next: Next
    fork_size: int
    fork_root: bytes


@dataclass(frozen=True, slots=True)
class Delegate:
    """Keys that may release names under `prefix`, up to and including index `not_after`; nobody's clock decides."""

    signer: ClassVar[Signer] = Signer.ROOT
    pid: str
    prefix: str
    role: Role
    not_after: int | None = None
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Close:
    """The end of the log; `successor` is advice that needs a person's consent."""

    signer: ClassVar[Signer] = Signer.ROOT
    pid: str
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class Reinstate:
    """Undoes one revoke, named by its entry's leaf hash."""

    signer: ClassVar[Signer] = Signer.ROOT
    pid: str
    revoke: bytes


@dataclass(frozen=True, slots=True)
class Released:
    """A release and what it was made from."""

    signer: ClassVar[Signer] = Signer.RELEASE_OR_DELEGATE
    release: Release
    derived_from: tuple[Parent, ...] = ()

    @property
    def pid(self) -> str:
        """The publisher that is said to release it."""
        return self.release.pid


@dataclass(frozen=True, slots=True)
class Supersede:
    """Who asks for `old` should get `new`."""

    signer: ClassVar[Signer] = Signer.RELEASE
    pid: str
    old: Digests
    new: Digests
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Yank:
    """Not chosen any more; loads where it is pinned (PEP 592)."""

    signer: ClassVar[Signer] = Signer.RELEASE
    pid: str
    subjects: tuple[Digests, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Revoke:
    """Must not be loaded and not be provided: manifests, and files wherever they occur."""

    signer: ClassVar[Signer] = Signer.ANY_RELEASE_OR_ROOT
    pid: str
    subjects: tuple[Digests, ...]
    severity: str
    text: str = ""
    ids: tuple[str, ...] = ()
    files: tuple[Digests, ...] = ()

    @property
    def digests(self) -> tuple[Digests, ...]:
        """All that is revoked, manifests and files."""
        return (*self.subjects, *self.files)


@dataclass(frozen=True, slots=True)
class Vouch:
    """Whom the log's publisher calls `name`: another publisher."""

    signer: ClassVar[Signer] = Signer.RELEASE
    pid: str
    publisher: str
    name: str


@dataclass(frozen=True, slots=True)
class Attest:
    """A statement about artifacts in one of the known vocabularies; `predicate` is not read."""

    signer: ClassVar[Signer] = Signer.RELEASE
    predicate_type: str
    subjects: tuple[Digests, ...]
    predicate: str  # JSON, so that an event stays a value

    @property
    def pid(self) -> None:
        """Nobody: these vocabularies do not name a log."""
        return


Event: TypeAlias = (
    Keys | Rotate | Recover | Delegate | Close | Reinstate | Released | Supersede | Yank | Revoke | Vouch | Attest
)


@dataclass(frozen=True, slots=True)
class UnverifiedEvent:
    """What an entry claims; `unverified.signer` says whose signatures it needs before it means anything."""

    envelope: Envelope
    unverified: Event
    leaf: bytes = field(init=False)  # the entry's leaf hash
    statement: bytes = field(init=False)  # hash of what was signed, whatever signatures stand beside it

    def __post_init__(self) -> None:
        signed = pae(self.envelope.payload_type, self.envelope.unverified_body)
        object.__setattr__(self, "leaf", leaf_hash(self.envelope.encoded))
        object.__setattr__(self, "statement", hashlib.sha256(signed).digest())
