r"""What nodes say to each other, as bytes that any bus can carry: HTTP, Kubo pubsub, a folder on a stick.

    batch    = "modelnet-gossip/v1 " sender "\n" *message               at most 256 KiB; sender is a URL, or "-"
    message  = kind " " length "\n" body                                length in decimal, of the body

    kind       body
    heads      {"ask": bool, "heads": [[origin, size, root, time, marks], …]}     at most 256, JSON
    marks      {"ask": bool, "pid": pid, "marks": [base64url, …]}       ids of negatives and evidence, at most 4,096
    want       {"notes": [pid, …], "marks": [[pid, mark], …], "entries": [[origin, from, to], …], "proofs": likewise}
    peers      [url, …]                                                 at most 32
    members    [[url, space in GiB, beat], …]                           at most 64
    note       a C2SP checkpoint, as it is signed
    negative   pid "\n" DSSE envelope of a revocation
    evidence   pid "\n" modelnet-equivocation/v1
    rumour     kind "\n" body      a note, negative or evidence that the sender cannot judge, of at most 4 KiB
    entries    origin " " from " " to "\n" C2SP entry bundle            to - from at most 256
    proof      origin " " from " " to "\n" base64 hashes, one a line: the root at `from`, then RFC 6962 consistency

A root is base64, `marks` is the XOR of the first eight bytes of each mark in hex, a mark is 16 bytes: the beginning of
the hash of what was signed (negatives) or of the evidence's id. Nothing here is verified; parsing only says that bytes
have a meaning. `parse_batch(encode_batch(sender, messages)) == (sender, messages)`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Self

from modelnet.core import strictjson
from modelnet.core.evidence import MAX_EVIDENCE
from modelnet.core.identity import PID
from modelnet.core.merkle import MAX_PROOF
from modelnet.core.note import MAX_NOTE, Checkpoint
from modelnet.core.tiles import WIDTH, encode_bundle, parse_bundle
from modelnet.errors import MalformedError

__all__ = [
    "MAX_BATCH", "MAX_HEADS", "MAX_MARKS", "MAX_PEERS", "MAX_RUMOUR", "NOBODY", "Entries", "Evidence", "Head",
    "HeadLine", "Heads", "Item", "Marks", "MemberLine", "Members", "Message", "Negative", "Note", "Peers", "Proof",
    "Rumour", "Stored", "Want", "encode_batch", "parse_batch",
]  # fmt: skip

MAX_BATCH = 256 * 1024
MAX_MESSAGES = 512
MAX_MISSES = 4  # messages that do not fit any more, before a batch is full: the next ones may be smaller
MAX_HEADS = 256
MAX_MARKS = 4096  # as many revocations of one publisher count outside its log (`modelnet.core.fold`)
MAX_PEERS = 32
MAX_MEMBERS = 64
MAX_URL = 256
MAX_WANTS = 256
MAX_RUMOUR = 4096
MAX_NEGATIVE = 32 * 1024  # an entry's limit
MARK = 16  # bytes; a second item with the same mark would only hide itself
NOBODY = "-"
MAX_SIZE = 1 << 53  # JSON numbers; a log of that size would hold 2^53 signatures

_PREFIX = "modelnet.alt/p/"
_ORIGIN = re.compile(re.escape(_PREFIX) + r"([a-z2-7]{52})(?:/r([1-9][0-9]{0,5}))?")
_LINE = re.compile(
    rb"(heads|marks|want|peers|members|note|negative|evidence|rumour|entries|proof) (0|[1-9][0-9]{0,6})\n"
)
_BATCH = re.compile(rb"modelnet-gossip/v1 (-|https?://[\x21-\x7e]{1,248})\n")
_RANGE = re.compile(r"(\S+) (0|[1-9][0-9]{0,15}) (0|[1-9][0-9]{0,15})")
_URL = re.compile(r"https?://[\x21-\x7e]{1,248}")


class Head(NamedTuple):
    """Where a log stands: `time` is the newest at which its quorum (or its beat) vouched for it, 0 when unknown."""

    pid: str
    epoch: int
    size: int
    root: bytes
    time: int = 0

    @property
    def origin(self) -> str:
        """The origin of the log's checkpoints."""
        return _PREFIX + self.pid + (f"/r{self.epoch}" if self.epoch else "")

    @property
    def place(self) -> tuple[int, int]:
        """What makes a head newer than another of the same publisher."""
        return self.epoch, self.size


class HeadLine(NamedTuple):
    """A head as it is told, and the sum of the marks that go with its publisher."""

    head: Head
    marks: int = 0


@dataclass(frozen=True, slots=True)
class Heads:
    """The logs that the sender knows; `ask` asks for the same in return, as far as it differs."""

    lines: tuple[HeadLine, ...]
    ask: bool

    KIND = "heads"

    def body(self) -> bytes:
        """Return the message's body."""
        lines = [
            [head.origin, head.size, base64.b64encode(head.root).decode(), head.time, f"{marks:016x}"]
            for head, marks in self.lines
        ]
        return strictjson.dump({"ask": self.ask, "heads": lines})

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        match strictjson.parse(body, what="heads", limit=MAX_BATCH):
            case {"ask": bool(ask), "heads": list(lines)} if len(lines) <= MAX_HEADS:
                return cls(tuple(map(_line, lines)), ask)
        raise _malformed("heads")


@dataclass(frozen=True, slots=True)
class Marks:
    """The negatives and evidence about one publisher that the sender holds."""

    pid: str
    marks: tuple[bytes, ...]
    ask: bool

    KIND = "marks"

    def body(self) -> bytes:
        """Return the message's body."""
        marks = [base64.urlsafe_b64encode(mark).decode() for mark in self.marks]
        return strictjson.dump({"ask": self.ask, "pid": self.pid, "marks": marks})

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        match strictjson.parse(body, what="marks", limit=MAX_BATCH):
            case {"ask": bool(ask), "pid": str(pid), "marks": list(marks)} if len(marks) <= MAX_MARKS:
                return cls(_pid(pid), tuple(map(_mark, marks)), ask)
        raise _malformed("marks")


@dataclass(frozen=True, slots=True)
class Want:
    """What the sender would like to have."""

    notes: tuple[str, ...] = ()
    marks: tuple[tuple[str, bytes], ...] = ()
    entries: tuple[tuple[str, int, int], ...] = ()
    proofs: tuple[tuple[str, int, int], ...] = ()

    KIND = "want"

    def body(self) -> bytes:
        """Return the message's body."""
        return strictjson.dump({
            "notes": list(self.notes),
            "marks": [[pid, base64.urlsafe_b64encode(mark).decode()] for pid, mark in self.marks],
            "entries": [list(run) for run in self.entries],
            "proofs": [list(run) for run in self.proofs],
        })  # fmt: skip

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        match strictjson.parse(body, what="want", limit=MAX_BATCH):
            case {"notes": list(notes), "marks": list(marks), "entries": list(entries), "proofs": list(proofs)} if (
                len(marks) <= MAX_MARKS and max(len(notes), len(entries), len(proofs)) <= MAX_WANTS
            ):
                runs = tuple(_run(run, WIDTH) for run in entries)
                return cls(
                    tuple(map(_pid, notes)), tuple(map(_pid_mark, marks)), runs,
                    tuple(_run(run, MAX_SIZE) for run in proofs),
                )  # fmt: skip
        raise _malformed("want")


@dataclass(frozen=True, slots=True)
class Peers:
    """Other nodes' addresses, for what they are worth."""

    urls: tuple[str, ...]

    KIND = "peers"

    def body(self) -> bytes:
        """Return the message's body."""
        return strictjson.dump(list(self.urls))

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        urls = strictjson.parse(body, what="peers", limit=MAX_BATCH)
        if not isinstance(urls, list) or len(urls) > MAX_PEERS:
            raise _malformed("peers")
        if not all(isinstance(url, str) and _URL.fullmatch(url) for url in urls):
            raise _malformed("peers")
        return cls(tuple(urls))


class MemberLine(NamedTuple):
    """A node that offers space, as it says; its beat grows while it is there."""

    url: str
    space: int
    beat: int


@dataclass(frozen=True, slots=True)
class Members:
    """Nodes that offer to hold what others publish."""

    lines: tuple[MemberLine, ...]

    KIND = "members"

    def body(self) -> bytes:
        """Return the message's body."""
        return strictjson.dump([list(line) for line in self.lines])

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        lines = strictjson.parse(body, what="members", limit=MAX_BATCH)
        if not isinstance(lines, list) or len(lines) > MAX_MEMBERS:
            raise _malformed("members")
        return cls(tuple(map(_member, lines)))


@dataclass(frozen=True, slots=True)
class Note:
    """A signed head; `head.time` is 0, because who cosigned is for the judge to say."""

    head: Head
    content: bytes

    KIND = "note"

    @property
    def pid(self) -> str:
        """The publisher that it claims to be about."""
        return self.head.pid

    def body(self) -> bytes:
        """Return the message's body."""
        return self.content

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body: only the text that is signed; the signatures are read by who checks them."""
        if len(body) > MAX_NOTE:
            raise _malformed("note")
        try:
            text = body[: body.index(b"\n\n") + 1].decode()
        except ValueError as error:
            raise _malformed("note") from error
        pid, epoch = _origin(text.partition("\n")[0])
        checkpoint = Checkpoint.parse(text, text.partition("\n")[0])
        if not 0 < checkpoint.size <= MAX_SIZE:
            raise _malformed("note of a log of a possible size")
        return cls(Head(pid, epoch, checkpoint.size, checkpoint.root), body)


@dataclass(frozen=True, slots=True)
class Negative:
    """A signed revocation, which counts by whatever route it comes."""

    pid: str
    content: bytes

    KIND = "negative"

    def body(self) -> bytes:
        """Return the message's body."""
        return self.pid.encode() + b"\n" + self.content

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body; the envelope is read by who checks it."""
        return cls(*_about(body, MAX_NEGATIVE))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Proof that a publisher's log showed two histories."""

    pid: str
    content: bytes

    KIND = "evidence"

    def body(self) -> bytes:
        """Return the message's body."""
        return self.pid.encode() + b"\n" + self.content

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body; the evidence is read by who checks it."""
        return cls(*_about(body, MAX_EVIDENCE))


Item = Note | Negative | Evidence
ITEMS: dict[str, type[Item]] = {"note": Note, "negative": Negative, "evidence": Evidence}


@dataclass(frozen=True, slots=True)
class Rumour:
    """An item about a publisher whose log the sender does not have: it may be anything."""

    item: Item

    KIND = "rumour"

    def body(self) -> bytes:
        """Return the message's body."""
        return self.item.KIND.encode() + b"\n" + self.item.body()

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        kind, newline, rest = body.partition(b"\n")
        if not newline or len(rest) > MAX_RUMOUR or kind not in (b"note", b"negative", b"evidence"):
            raise _malformed("rumour")
        return cls(ITEMS[kind.decode()].read(rest))


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries `[first, last)` of a log, for buses that have no door to the log itself."""

    origin: str
    first: int
    entries: tuple[bytes, ...]

    KIND = "entries"

    @property
    def pid(self) -> str:
        """The publisher that it claims to be about."""
        return _origin(self.origin)[0]

    def body(self) -> bytes:
        """Return the message's body."""
        head = f"{self.origin} {self.first} {self.first + len(self.entries)}\n"
        return head.encode() + encode_bundle(self.entries)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        origin, first, last, rest = _range(body)
        if not 0 < last - first <= WIDTH:
            raise _malformed("entries")
        return cls(origin, first, tuple(parse_bundle(rest, last - first)))


@dataclass(frozen=True, slots=True)
class Proof:
    """That the log of `after` entries begins with one of `before` entries whose root is `prefix`."""

    origin: str
    before: int
    after: int
    prefix: bytes
    hashes: tuple[bytes, ...]

    KIND = "proof"

    @property
    def pid(self) -> str:
        """The publisher that it claims to be about."""
        return _origin(self.origin)[0]

    def body(self) -> bytes:
        """Return the message's body."""
        hashes = (base64.b64encode(value).decode() for value in (self.prefix, *self.hashes))
        return "".join(f"{line}\n" for line in (f"{self.origin} {self.before} {self.after}", *hashes)).encode()

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Parse the body."""
        origin, before, after, rest = _range(body)
        lines = rest.split(b"\n")
        if lines.pop() or not 0 < len(lines) <= MAX_PROOF + 1 or not 0 < before < after:
            raise _malformed("proof")
        prefix, *hashes = (_hash(line.decode("latin-1")) for line in lines)
        return cls(origin, before, after, prefix, tuple(hashes))


class Stored(NamedTuple):
    """Stands in what the machine sends for an item that the judge holds: a publisher's note, or what has this mark."""

    pid: str
    mark: bytes | None = None


Message = Heads | Marks | Want | Peers | Members | Note | Negative | Evidence | Rumour | Entries | Proof
KINDS: dict[str, type[Message]] = {
    kind.KIND: kind for kind in (Heads, Marks, Want, Peers, Members, Note, Negative, Evidence, Rumour, Entries, Proof)
}  # fmt: skip


def encode_batch(sender: str, messages: Iterable[Message], limit: int = MAX_BATCH) -> bytes:
    """Return a batch of as many of `messages` as fit into `limit` bytes, the first ones first.

    They are made as they are taken: after a few that do not fit no more of them are.
    """
    parts = [f"modelnet-gossip/v1 {sender}\n".encode()]
    left = limit - len(parts[0])
    misses = 0
    for message in islice(messages, MAX_MESSAGES):
        body = message.body()
        part = f"{message.KIND} {len(body)}\n".encode() + body
        # What does not fit is not lost: the next exchange finds the same difference.
        if len(part) <= left:
            parts.append(part)
            left -= len(part)
        elif (misses := misses + 1) == MAX_MISSES:
            break
    return b"".join(parts)


def parse_batch(data: bytes, limit: int = MAX_BATCH) -> tuple[str, list[Message]]:
    """Return the sender's address (a claim) and the messages of a batch; raise `MalformedError` on anything else."""
    if len(data) > limit:
        raise MalformedError("gossip batch is too large", rule="gossip", wanted=f"at most {limit}", got=len(data))
    opening = _BATCH.match(data)
    if opening is None:
        raise MalformedError("not a gossip batch", rule="gossip", offset=0)
    sender, offset = opening[1].decode(), opening.end()
    messages: list[Message] = []
    while offset < len(data):
        line = _LINE.match(data, offset)
        if line is None or len(messages) == MAX_MESSAGES:
            raise MalformedError("not a gossip message", rule="gossip", offset=offset)
        end = line.end() + int(line[2])
        if end > len(data):
            raise MalformedError("gossip message is cut off", rule="gossip", offset=offset, wanted=end, got=len(data))
        body = data[line.end() : end]
        message = KINDS[line[1].decode()].read(body)
        # One value, one encoding: what is deduplicated by its bytes must not come in two spellings.
        if message.body() != body:
            raise MalformedError("not the one encoding of a gossip message", rule="gossip", offset=offset)
        messages.append(message)
        offset = end
    return sender, messages


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"gossip: not {what}", rule="gossip")


def _origin(text: str) -> tuple[str, int]:
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise _malformed("the origin of a publisher's log")
    return match[1], int(match[2] or 0)


def _pid(value: Any) -> str:
    if not isinstance(value, str) or not PID.fullmatch(value):
        raise _malformed("a publisher's id")
    return value


def _hash(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _malformed("a hash") from error
    if len(value) != 32:
        raise _malformed("a hash")
    return value


def _mark(value: Any) -> bytes:
    try:
        mark = base64.urlsafe_b64decode(value) if isinstance(value, str) and len(value) == 24 else b""
    except (binascii.Error, ValueError) as error:
        raise _malformed("a mark") from error
    if len(mark) != MARK:
        raise _malformed("a mark")
    return mark


def _pid_mark(value: Any) -> tuple[str, bytes]:
    match value:
        case [pid, mark]:
            return _pid(pid), _mark(mark)
    raise _malformed("a mark")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SIZE:
        raise _malformed("a size or time")
    return value


def _member(value: Any) -> MemberLine:
    match value:
        case [str(url), space, beat] if _URL.fullmatch(url):
            return MemberLine(url, _size(space), _size(beat))
    raise _malformed("a member")


def _run(value: Any, most: int) -> tuple[str, int, int]:
    match value:
        case [str(origin), first, last] if _size(first) < _size(last) <= first + most:
            _origin(origin)
            return origin, first, last
    raise _malformed("a run of entries")


def _line(value: Any) -> HeadLine:
    match value:
        case [str(origin), size, str(root), time, str(marks)] if re.fullmatch("[0-9a-f]{16}", marks):
            pid, epoch = _origin(origin)
            # A follower that has nothing yet says so: size 0, and no root.
            digest = _hash(root) if root else b""
            if (_size(size) == 0) != (digest == b""):
                raise _malformed("a head")
            return HeadLine(Head(pid, epoch, size, digest, _size(time)), int(marks, 16))
    raise _malformed("a head")


def _about(body: bytes, limit: int) -> tuple[str, bytes]:
    pid, newline, content = body.partition(b"\n")
    if not newline or not content or len(content) > limit:
        raise _malformed("an item about a publisher")
    return _pid(pid.decode("latin-1")), content


def _range(body: bytes) -> tuple[str, int, int, bytes]:
    line, newline, rest = body.partition(b"\n")
    match = _RANGE.fullmatch(line.decode("latin-1"))
    if not newline or match is None:
        raise _malformed("a range of a log")
    _origin(match[1])
    return match[1], _size(int(match[2])), _size(int(match[3])), rest
