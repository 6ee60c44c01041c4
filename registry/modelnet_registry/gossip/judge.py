"""What is true: the logs in the store decide about what peers tell, and hold what is told to them.

    check      judges by what is here, signatures first; of a head that is ahead it says how well it is vouched for …
    fetched    … and judges it once more with the log of who told it, which may take as long as a teller is waited for

Both are called from threads of their own, never from a door. Verdicts name who is to blame: bytes that mean nothing, or
that their own proof contradicts, are a lie of who sent them. A signature by a key that is not known here is none: the
sender may know a newer log than we do.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from modelnet.core import evidence as core_evidence
from modelnet.core.identity import PID
from modelnet.core.merkle import consistency_proof, tree_root
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.core.tiles import WIDTH
from modelnet.errors import IntegrityError, MalformedError, ModelnetError, TrustError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores.logindex import LogRow, LogView
from modelnet.stores.timekeeping import PolicyFile
from modelnet_registry.gossip.effects import Verdict
from modelnet_registry.gossip.errands import Grade
from modelnet_registry.gossip.fetch import Fetch, Patience
from modelnet_registry.gossip.messages import Entries, Evidence, Head, Item, Negative, Note, Proof, Want

__all__ = ["Judge", "Judgement", "Snapshot"]

MAX_PENDING = 16  # heads that wait for entries which come by messages
MAX_PENDING_BYTES = 8 * 1024 * 1024  # of entries for one of them
MAX_PENDING_ENTRIES = 16 * WIDTH
MAX_ENTRIES_BYTES = 192 * 1024  # told in one message
NOTHING_REVOKED = hashlib.sha256(b"").digest()  # the seal over no revocations (`modelnet.stores.logindex`)
BLAMELESS = ("signature", "limit", "publisher", "dead", "threshold", "origin")  # rules that a newer log may explain
# What a teller may send: provenance.md §2.5 has 1 MiB for the key of a head that nobody vouches for; beside the entries
# there are revocations, evidence and hashes. A log that is vouched for, or new, is bounded by `modelnet.syncing` too.
MOST_UNSIGNED = 2 * 1024 * 1024
MOST = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of one publisher, as gossip compares it: `marks` by what they stand for."""

    head: Head
    marks: dict[bytes, bytes | str] = field(default_factory=dict)  # → statement, or id of evidence


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and what `Machine.judged` takes beside it. `first` says that the publisher was unknown before."""

    verdict: Verdict
    head: Head | None = None
    mark: bytes | None = None
    reason: str = ""
    found: tuple[bytes, ...] = ()
    need: Want | None = None
    first: bool = False
    grade: Grade | None = None  # how well the head is vouched for whose log has to be fetched before it is judged
    slow: bool = False  # who was asked for the log took too long


@dataclass(slots=True)
class _Pending:
    note: SignedNote
    head: Head
    first: int
    entries: list[bytes] = field(default_factory=list)


class Judge:
    """Judges by `replicas`; for several threads."""

    def __init__(self, replicas: Replicas, fetch: Fetch) -> None:
        self._replicas = replicas
        self._fetch = fetch
        self._policy = PolicyFile(replicas.store.home.root / "policy")
        self._lock = threading.Lock()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    # What is held.

    def rows(self) -> dict[str, LogRow]:
        """Return what the index has of each publisher: another row means that another process learned something."""
        return {row.pid: row for row in self._replicas.publishers()}

    def glance(self, row: LogRow) -> Snapshot | None:
        """Return what the index says of a log of which nothing has to be told but its head; None where there is more.

        Reading the files of ten thousand logs takes seconds; this takes none, and is what a node begins with.
        """
        if row.revoked != NOTHING_REVOKED or row.quarantined or row.dead:
            return None
        return Snapshot(Head(row.pid, row.epoch, row.size, row.root, row.time or 0))

    def own(self) -> list[str]:
        """Return the publishers whose keys are here: what changes by our own commands."""
        try:
            return [path.stem for path in self._replicas.store.home.keys.glob("*.json") if PID.fullmatch(path.stem)]
        except OSError:
            return []

    def snapshot(self, pid: str) -> Snapshot | None:
        """Return what is known of a publisher; None when nothing is."""
        if not self._replicas.known(pid):
            return None
        standing = self._replicas.standing(pid)
        note = self._replicas.head(pid)
        # Not T_q: it depends on whom this node trusts, and peers could never agree on it.
        times = {} if note is None else note.cosigned([*self._beats(pid, standing.size), *self._witnesses()])
        head = Head(pid, standing.epoch, standing.size, standing.root, max(times.values(), default=0))
        marks: dict[bytes, bytes | str] = {one[:16]: one for one in self._revocations(pid)}
        for data in self._replicas.evidence(pid):
            with contextlib.suppress(ModelnetError):
                name = _evidence_id(data)
                marks[bytes.fromhex(name)[:16]] = name
        return Snapshot(head, marks)

    def _beats(self, pid: str, size: int) -> list[NoteKey]:
        view = self._replicas.view(pid)
        return view.row.beats if isinstance(view, LogView) else self._replicas.state(pid).signers_at(size)[1]

    def _witnesses(self) -> list[NoteKey]:
        return [witness.key for witness in self._policy.read().witnesses]

    def _revocations(self, pid: str) -> set[bytes]:
        view = self._replicas.view(pid)
        if isinstance(view, LogView):  # without folding the log
            return {statement for statements in view.revoked.values() for statement in statements}
        return {one.statement for one in self._replicas.state(pid).revocations.in_force}

    def note(self, pid: str) -> Note | None:
        """Return the head to tell others."""
        note = self._replicas.head(pid)
        return None if note is None else Note.read(note.encode())

    def marked(self, pid: str, mark: bytes, snapshot: Snapshot | None) -> Negative | Evidence | None:
        """Return the negative or evidence with that mark, of what `snapshot` says is known of the publisher."""
        match None if snapshot is None else snapshot.marks.get(mark):
            case str(name):
                return next(
                    (Evidence(pid, data) for data in self._replicas.evidence(pid) if _evidence_id(data) == name), None
                )
            case bytes(statement):
                return self._negative(pid, statement)
        return None

    def _negative(self, pid: str, statement: bytes) -> Negative | None:
        state = self._replicas.state(pid)
        found = next((one for one in state.revocations.in_force if one.statement == statement), None)
        if found is None:
            return None
        if found.index is not None:
            return Negative(pid, next(self._replicas.folder(pid).entries(found.index, found.index + 1)))
        content = (self._replicas.store.home.logs / pid / "negatives" / statement.hex()).read_bytes()
        return Negative(pid, content)

    def entries(self, origin: str, first: int, last: int) -> Entries | None:
        """Return entries of a log, as many as one message holds."""
        pid, epoch = _named(origin)
        snapshot = self.snapshot(pid)
        if snapshot is None or snapshot.head.epoch != epoch or last > snapshot.head.size:
            return None
        entries: list[bytes] = []
        left = MAX_ENTRIES_BYTES
        for entry in self._replicas.folder(pid, epoch).entries(first, last):
            left -= len(entry) + 2
            if left < 0 or len(entries) == WIDTH:
                break
            entries.append(entry)
        return Entries(origin, first, tuple(entries)) if entries else None

    def proof(self, origin: str, before: int, after: int) -> Proof | None:
        """Return the proof that a log of one size continues that of another."""
        pid, epoch = _named(origin)
        snapshot = self.snapshot(pid)
        if snapshot is None or snapshot.head.epoch != epoch or not 0 < before < after <= snapshot.head.size:
            return None
        subtree = self._replicas.folder(pid, epoch).subtree(after)
        return Proof(
            origin, before, after, tree_root(before, subtree), tuple(consistency_proof(before, after, subtree))
        )

    # What is told.

    def check(self, item: Item | Entries | Proof, url: str) -> Judgement:
        """Judge an item by what is here; `url` is where the peer that told it can be asked for more, or empty."""
        match item:
            case Note():
                return _judged(item, self, lambda: self._check_note(item, url))
            case Negative():
                return _judged(item, self, lambda: self._add_negative(item))
            case Evidence():
                return _judged(item, self, lambda: self._add_evidence(item))
            case Entries():
                return _judged(item, self, lambda: self._take_entries(item))
            case Proof():
                return _judged(item, self, lambda: self._take_proof(item))

    def fetched(self, item: Note, url: str, grade: Grade, seconds: float) -> Judgement:
        """Judge a head after asking the node at `url` for its log, which is waited for `seconds` without a byte."""
        try:
            before = self.snapshot(item.pid)
            if before is None or item.head.place > before.head.place:
                most = MOST_UNSIGNED if grade is Grade.UNSIGNED else MOST
                self._fetch(item.pid, url, Patience(seconds, most))
        except UnavailableError as error:
            return Judgement(Verdict.LATER, reason=str(error), slow=error.rule == "slow")
        except (IntegrityError, MalformedError) as error:
            # Its log is false, which says nothing about the head: another peer may have the log that it is of.
            return Judgement(Verdict.BETRAYED, reason=str(error))
        except ModelnetError as error:
            return Judgement(Verdict.LATER, reason=str(error))
        return _judged(item, self, lambda: self._settle_note(item, first=before is None))

    def _settle_note(self, item: Note, *, first: bool) -> Judgement:
        now = self.snapshot(item.pid)
        if now is None or now.head.place < item.head.place:
            return Judgement(Verdict.LATER, reason="the peer does not give the log that its head is of")
        # Also after a fetch: this very note may carry more cosignatures, or be of another history.
        self._replicas.adopt(item.pid, SignedNote.parse(item.content))
        return self.settled(item.pid, Verdict.NEW, first=first)

    def settled(self, pid: str, verdict: Verdict, *, first: bool = False) -> Judgement:
        """Return a verdict with all that is known of a publisher now."""
        snapshot = self.snapshot(pid)
        if snapshot is None:
            return Judgement(Verdict.LATER)
        return Judgement(verdict, snapshot.head, found=tuple(snapshot.marks), first=first)

    def _add_negative(self, item: Negative) -> Judgement:
        revocation = self._replicas.add_negative(item.pid, item.content)
        return Judgement(Verdict.NEW, mark=revocation.statement[:16])

    def _add_evidence(self, item: Evidence) -> Judgement:
        shown = self._replicas.add_evidence(item.pid, item.content)
        return Judgement(Verdict.NEW, mark=bytes.fromhex(shown.id)[:16])

    def _check_note(self, item: Note, url: str) -> Judgement:
        before = self.snapshot(item.pid)
        note = SignedNote.parse(item.content)
        if before is not None and item.head.place <= before.head.place:
            return self._settle_note(item, first=False)
        if not url:
            return self._need(item, note, before)
        # provenance.md §2.5: the signature first, or anybody makes us fetch anything from anywhere.
        return Judgement(Verdict.LATER, grade=self._grade(item.head, note, before))

    def _grade(self, head: Head, note: SignedNote, before: Snapshot | None) -> Grade:
        if before is None:
            return Grade.NEW
        try:
            note.verify(self._log_keys(head))
        except TrustError:
            return Grade.UNSIGNED
        return Grade.SIGNED

    # Entries and proofs that come by messages, where there is no door to the log.

    def _need(self, item: Note, note: SignedNote, before: Snapshot | None) -> Judgement:
        head = item.head
        if before is not None:
            # Junk must not make us ask for anything; a key that we do not know may be in the entries to come.
            note.verify(self._log_keys(head))
        first = 0 if before is None or head.epoch > before.head.epoch else before.head.size
        if head.size - first > MAX_PENDING_ENTRIES:
            return Judgement(Verdict.LATER, reason="too many entries for this way")
        with self._lock:
            waiting = self._pending.get(head.pid)
            if waiting is None or waiting.head != head:
                self._pending[head.pid] = waiting = _Pending(note, head, first)
                if len(self._pending) > MAX_PENDING:
                    self._pending.popitem(last=False)
            need = self._rest(waiting)
            if before is not None and first:
                need = Want(entries=need.entries, proofs=((head.origin, first, head.size),))
        return Judgement(Verdict.LATER, need=need)

    def _log_keys(self, head: Head) -> list[NoteKey]:
        keys = self._replicas.state(head.pid).log_keys()
        return [NoteKey(head.origin, one.key) for one in keys]

    @staticmethod
    def _rest(waiting: _Pending) -> Want:
        begin = waiting.first + len(waiting.entries)
        return Want(entries=((waiting.head.origin, begin, min(begin + WIDTH, waiting.head.size)),))

    def _take_entries(self, item: Entries) -> Judgement:
        with self._lock:
            waiting = self._pending.get(item.pid)
            if waiting is None or waiting.head.origin != item.origin:
                return Judgement(Verdict.LATER)
            if item.first != waiting.first + len(waiting.entries):
                return Judgement(Verdict.LATER)
            waiting.entries += item.entries
            whole = waiting.first + len(waiting.entries) >= waiting.head.size
            if whole or sum(map(len, waiting.entries)) > MAX_PENDING_BYTES:
                del self._pending[item.pid]
            if not whole:
                return Judgement(Verdict.LATER, need=self._rest(waiting))
        known = self._replicas.known(item.pid)
        count = waiting.head.size - waiting.first
        self._replicas.adopt(item.pid, waiting.note, waiting.entries[:count], first=waiting.first)
        return self.settled(item.pid, Verdict.NEW, first=not known)

    def _take_proof(self, item: Proof) -> Judgement:
        """Make evidence of a proof that the other history has another beginning."""
        with self._lock:
            waiting = self._pending.get(item.pid)
        mine = self._replicas.head(item.pid)
        snapshot = self.snapshot(item.pid)
        if waiting is None or mine is None or snapshot is None or waiting.head.origin != item.origin:
            return Judgement(Verdict.LATER)
        if (snapshot.head.size, waiting.head.size) != (item.before, item.after) or snapshot.head.root == item.prefix:
            return Judgement(Verdict.KNOWN)
        made = core_evidence.Evidence(mine, waiting.note, item.prefix, item.hashes)
        shown = self._replicas.add_evidence(item.pid, made.encode())
        return Judgement(Verdict.KNOWN, found=(bytes.fromhex(shown.id)[:16],))


def _evidence_id(data: bytes) -> str:
    """Return the id of evidence that was verified when it was stored."""
    parsed = core_evidence.Evidence.parse(data)
    origin = parsed.a.unverified_text.partition("\n")[0]
    heads = [Checkpoint.parse(note.unverified_text, origin) for note in (parsed.a, parsed.b)]
    return core_evidence.Equivocation(origin, *heads).id


def _named(origin: str) -> tuple[str, int]:
    try:
        _, _, pid, *rest = origin.split("/")
        return pid, int(rest[0][1:]) if rest else 0
    except (ValueError, IndexError) as error:
        raise MalformedError("not the origin of a publisher's log", rule="gossip", got=origin[:80]) from error


def _judged(item: Item | Entries | Proof, judge: Judge, find: Callable[[], Judgement]) -> Judgement:
    """Return what `find` finds, or what its error says about the item and who told it."""
    try:
        return find()
    except UnavailableError as error:
        return Judgement(Verdict.UNKNOWN if error.rule == "missing" else Verdict.LATER, reason=str(error))
    except TrustError as error:
        if error.rule == "equivocation":  # the publisher's own doing, and the evidence is stored
            return judge.settled(item.pid, Verdict.KNOWN)
        return Judgement(Verdict.LATER if error.rule in BLAMELESS else Verdict.FALSE, reason=str(error))
    except ModelnetError as error:
        return Judgement(Verdict.FALSE, reason=str(error))
