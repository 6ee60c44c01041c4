"""Whom to believe about logs: C2SP tlog-policy files.

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <name>…
    quorum <name>|none

Lines end with a newline, items are separated by spaces or tabs, `#` starts a comment line. A name is defined before it
is used, and used in one group at most. There is exactly one quorum line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from modelnet.core.keys import ED25519
from modelnet.core.note import COSIGNATURE, Checkpoint, NoteKey, SignedNote
from modelnet.errors import MalformedError, TrustError

__all__ = ["MAX_POLICY", "Group", "Policy", "Witness"]

MAX_POLICY = 256 * 1024
MAX_DEFINED = 64  # logs, witnesses and groups each; the specification asks for at least 32; also how deep groups nest
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_NUMBER = re.compile(rb"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness as a policy names it."""

    name: bytes
    key: NoteKey
    url: bytes | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """At least `threshold` of `members`."""

    name: bytes
    threshold: int
    members: tuple[Member, ...]


Member: TypeAlias = Witness | Group


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy; `quorum` None means that no witness is asked for."""

    logs: tuple[tuple[NoteKey, bytes | None], ...]
    witnesses: tuple[Witness, ...]
    quorum: Member | None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a policy file; the error's `path` is the number of the line."""
        if len(data) > MAX_POLICY:
            raise MalformedError("policy is too large", rule="policy", wanted=f"at most {MAX_POLICY}", got=len(data))
        if found := _FORBIDDEN.search(data):
            raise MalformedError("policy holds a control character", rule="policy", offset=found.start())
        if data and not data.endswith(b"\n"):
            raise MalformedError("the last line of a policy ends with a newline too", rule="policy", offset=len(data))
        reader = _Reader()
        for number, line in enumerate(data.split(b"\n"), 1):
            items = line.replace(b"\t", b" ").split(b" ")
            items = [item for item in items if item]
            if not items or items[0].startswith(b"#"):
                continue
            try:
                reader.line(items)
            except MalformedError as error:
                raise MalformedError(
                    error.message, rule="policy", path=f"line {number}", wanted=error.wanted, got=error.got
                ) from error
        if not reader.has_quorum:
            raise MalformedError("policy has no quorum line", rule="policy")
        return cls(tuple(reader.logs), tuple(reader.witnesses), reader.quorum)

    def time(self, cosigned: Mapping[NoteKey, int]) -> int | None:
        """Return the largest time at or after which enough witnesses cosigned, or None when too few ever did.

        One witness alone moves it only if the quorum lets one witness decide.
        """
        return None if self.quorum is None else _time(self.quorum, cosigned)

    def verify(self, note: SignedNote, origin: str, keys: Iterable[NoteKey] = ()) -> Checkpoint:
        """Return the head in `note` once a log of the policy (or of `keys`) signed it and the quorum cosigned it."""
        checkpoint = Checkpoint.parse(note.verify([*(key for key, _ in self.logs), *keys]), origin)
        if self.quorum is not None and self.time(note.cosigned(witness.key for witness in self.witnesses)) is None:
            raise TrustError("too few witnesses cosigned the head", rule="quorum", wanted=_told(self.quorum))
        return checkpoint


@dataclass(slots=True)
class _Reader:
    """What the lines read so far define."""

    logs: list[tuple[NoteKey, bytes | None]] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    quorum: Member | None = None
    has_quorum: bool = False
    named: dict[bytes, Member] = field(default_factory=dict)
    grouped: set[bytes] = field(default_factory=set)

    def line(self, items: list[bytes]) -> None:
        match items:
            case [b"log", vkey, *url] if len(url) <= 1:
                self._log(_key(vkey, ED25519), url)
            case [b"witness", name, vkey, *url] if len(url) <= 1:
                self._witness(name, _key(vkey, COSIGNATURE), url)
            case [b"group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case [b"quorum", name]:
                if self.has_quorum:
                    raise MalformedError("a policy has one quorum line", rule="policy")
                self.quorum = None if name == b"none" else self._find(name)
                self.has_quorum = True
            case _:
                raise MalformedError("not a line of a policy", rule="policy", got=repr(b" ".join(items))[:80])

    def _log(self, key: NoteKey, url: list[bytes]) -> None:
        # Duplicate is one public key twice, under whatever name.
        if any(known.key == key.key for known, _ in self.logs):
            raise MalformedError("one log stands twice", rule="policy", got=key.vkey)
        self._count(len(self.logs))
        self.logs.append((key, url[0] if url else None))

    def _witness(self, name: bytes, key: NoteKey, url: list[bytes]) -> None:
        if any(known.key.key == key.key for known in self.witnesses):
            raise MalformedError("one witness stands twice", rule="policy", got=key.vkey)
        self._count(len(self.witnesses))
        witness = Witness(name, key, url[0] if url else None)
        self._define(witness)
        self.witnesses.append(witness)

    def _group(self, name: bytes, threshold: bytes, names: list[bytes]) -> None:
        if len(set(names)) != len(names) or self.grouped.intersection(names):
            raise MalformedError("a name is a member of one group, once", rule="policy", got=repr(name)[:80])
        self._count(len(self.named) - len(self.witnesses))
        members = tuple(map(self._find, names))
        wanted = {b"all": len(members), b"any": 1}.get(threshold)
        if wanted is None:
            wanted = int(threshold) if _NUMBER.fullmatch(threshold) else 0
        if not 0 < wanted <= len(members):
            raise MalformedError(
                "group threshold", rule="policy", wanted=f"all, any or 1 to {len(members)}", got=repr(threshold)[:80]
            )
        self._define(Group(name, wanted, members))
        self.grouped.update(names)

    def _define(self, member: Member) -> None:
        if member.name == b"none" or member.name in self.named:
            raise MalformedError("the name is taken", rule="policy", got=repr(member.name)[:80])
        self.named[member.name] = member

    def _find(self, name: bytes) -> Member:
        if name not in self.named:
            raise MalformedError("no witness or group of this name above", rule="policy", got=repr(name)[:80])
        return self.named[name]

    @staticmethod
    def _count(count: int) -> None:
        if count >= MAX_DEFINED:
            raise MalformedError("policy defines too much", rule="policy", wanted=f"at most {MAX_DEFINED} of a kind")


def _key(vkey: bytes, kind: int) -> NoteKey:
    try:
        key = NoteKey.parse(vkey.decode())
    except UnicodeDecodeError as error:
        raise MalformedError("verifier key is not UTF-8", rule="policy") from error
    if key.kind != kind:
        raise MalformedError(
            "verifier key of another kind", rule="policy", wanted=f"{kind:#04x}", got=f"{key.kind:#04x}"
        )
    return key


def _time(member: Member, cosigned: Mapping[NoteKey, int]) -> int | None:
    if isinstance(member, Witness):
        return cosigned.get(member.key)
    times = sorted((time for one in member.members if (time := _time(one, cosigned)) is not None), reverse=True)
    # The k-th newest: from then on, k members have witnessed.
    return times[member.threshold - 1] if len(times) >= member.threshold else None


def _told(member: Member) -> str:
    name = member.name.decode(errors="replace")
    return name if isinstance(member, Witness) else f"{name}: {member.threshold} of {len(member.members)}"
