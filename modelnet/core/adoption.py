"""Which head of a log to believe: growing a state to a signed head, choosing a recovered branch, and lineage.

Nothing is adopted that was not recomputed: a head of size n counts once n entries were folded and hash to its root, so
a head of an absurd size costs nothing. A state passed in never changes; the grown one is returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelnet.core.events import Digests, Keys, Recover, Rotate
from modelnet.core.fold import Inert, PublisherState, origin_of
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.core.resolution import Logged, View
from modelnet.core.revocations import Revocation
from modelnet.errors import IntegrityError, MalformedError, TrustError

__all__ = [
    "MAX_NEW", "MAX_TAKEN", "MAX_UNSIGNED", "Growth", "adopt", "ancestor_publishers", "check_head", "choose_branch",
    "claimed_size",
    "revoked_ancestors",
]  # fmt: skip

MAX_TAKEN = 1_000_000  # entries folded for one head: minutes
MAX_NEW = 10_000  # of them such that changed nothing: a log that is worth following has few
MAX_UNSIGNED = 256  # and while no log key known so far has signed the head: what is new may bring the key
MAX_ANCESTORS = 1000  # releases walked through; real lineages are a handful deep


class Growth:
    """A state that takes the entries of a head one by one; what it was made from never changes.

    The work that a liar can cause is bounded: only the publisher can make entries that change something, so those that
    change nothing are counted, and few are taken before a log key known by then has signed the head.
    """

    def __init__(self, state: PublisherState, note: SignedNote) -> None:
        """Begin with what is known."""
        self.note = note
        self.state = state.copy()
        self._idle = self._taken = 0
        self._signed = self._is_signed()

    def take(self, entry: bytes) -> None:
        """Fold the next entry; raise `TrustError` when these are more than are worth the work."""
        self._taken += 1
        limit = MAX_NEW if self._signed else MAX_UNSIGNED
        if self._idle >= limit or self._taken > MAX_TAKEN:
            raise TrustError("more new entries than are taken at once", rule="limit", wanted=limit, got=self._taken)
        event = self.state.append(entry)
        if isinstance(event, Inert):
            self._idle += 1
        elif not self._signed and isinstance(event, Keys | Rotate | Recover):
            self._signed = self._is_signed()

    def finish(self) -> Checkpoint:
        """Return the head once the note is that of the grown state; see `check_head`."""
        return check_head(self.state, self.note)

    def _is_signed(self) -> bool:
        # The new entries may hold a recovery: then the head has the next origin.
        known = self.state.log_keys()
        following = origin_of(self.state.pid, self.state.epoch + 1)
        return _signed(self.note, [*known, *(NoteKey(following, one.key) for one in known)])


def adopt(state: PublisherState, note: SignedNote, entries: Iterable[bytes]) -> tuple[PublisherState, Checkpoint]:
    """Return the state grown by `entries` and its head, once `note` is that head, signed by the log.

    Raises `TrustError` for another log, no valid signature or too many entries, `IntegrityError` for another root.
    """
    growth = Growth(state, note)
    for entry in entries:
        growth.take(entry)
    return growth.state, growth.finish()


def check_head(state: PublisherState, note: SignedNote) -> Checkpoint:
    """Return the head in `note` once the log keys in force at its size signed it and it is of this very history.

    Raises `IntegrityError` with rule `equivocation` where the log signed another history: evidence can be made of it.
    """
    size = claimed_size(note)
    if not 0 < size <= state.size:
        raise TrustError("the head is of another size", rule="size", wanted=f"1 to {state.size}", got=size)
    log, _ = state.signers_at(size)
    head = Checkpoint.parse(note.verify(log), log[0].name)
    if head.root != (wanted := state.root_at(size)):
        raise IntegrityError(
            "the log's head is of another history", rule="equivocation", wanted=wanted.hex(), got=head.root.hex()
        )
    return head


def choose_branch(known: PublisherState, recovered: PublisherState) -> PublisherState:
    """Return `recovered` with what `known` revoked, once it may replace the branch that was followed so far.

    Raises `TrustError`: rule `recover` where the other branch holds no recovery, rule `dead` where both hold a takeover
    by the next keys: then no rule can tell the owner from a thief.
    """
    pairs = zip(known.leaves, recovered.leaves, strict=False)
    common = next((index for index, (a, b) in enumerate(pairs) if a != b), min(known.size, recovered.size))
    ours, theirs = (state.taken_over >= common < state.size for state in (known, recovered))
    if common and ours and theirs:
        raise TrustError(
            "two branches were both taken over by the next keys", rule="dead",
            hint="ask the publisher for a new identity, and compare it by other means",
        )  # fmt: skip
    if not common or recovered.epoch <= known.epoch:
        raise TrustError("the other branch does not recover the log", rule="recover", got=f"fork at {common}")
    chosen = recovered.copy()
    for revocation in known.revocations.in_force:
        if revocation.statement not in chosen.revocations:
            chosen.revocations.add(Revocation(revocation.event, revocation.leaf, revocation.statement))
    return chosen


def revoked_ancestors(logged: Logged, states: Mapping[str, View]) -> list[Revocation]:
    """Return the revocations of what a release was made from, as far as `states` (by pid) know, nearest first."""
    found: list[Revocation] = []
    queue, seen = [logged], {Digests.of(logged.event.release)}
    for release in queue:
        for parent in release.event.derived_from:
            owner = states.get(parent.pid or release.event.pid)
            if owner is None or parent.digests in seen or len(seen) > MAX_ANCESTORS:
                continue
            seen.add(parent.digests)
            found += owner.revocations_of(parent.digests)
            known = owner.manifest(parent.digests)
            if known is not None:
                # The parent may be named by one digest and revoked by the other.
                full = Digests.of(known.event.release)
                found += [one for one in owner.revocations_of(full) if one not in found]
                queue.append(known)
    return found


def ancestor_publishers(logged: Logged, states: Mapping[str, View]) -> set[str]:
    """Return the publishers of what a release was made from, as far as `states` (by pid) know; those not known too."""
    found: set[str] = set()
    queue, seen = [logged], {Digests.of(logged.event.release)}
    for release in queue:
        for parent in release.event.derived_from:
            pid = parent.pid or release.event.pid
            found.add(pid)
            owner = states.get(pid)
            if owner is None or parent.digests in seen or len(seen) > MAX_ANCESTORS:
                continue
            seen.add(parent.digests)
            if (known := owner.manifest(parent.digests)) is not None:
                queue.append(known)
    return found


def _signed(note: SignedNote, keys: Sequence[NoteKey]) -> bool:
    try:
        note.verify(keys)
    except TrustError:
        return False
    return True


def claimed_size(note: SignedNote) -> int:
    """Return the size that an unverified head claims."""
    origin = note.unverified_text.partition("\n")[0]
    try:
        return Checkpoint.parse(note.unverified_text, origin).size
    except MalformedError as error:
        raise MalformedError("not a checkpoint", rule="checkpoint") from error
