"""Which head of a log to believe: growing a state to a signed head, choosing a recovered branch, and lineage.

Nothing is adopted that was not recomputed: a head of size n counts once n entries were folded and hash to its root, so
a head of an absurd size costs nothing. A state passed in never changes; the grown one is returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelnet.core.events import Digests
from modelnet.core.fold import Logged, PublisherState, origin_of
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.core.revocations import Revocation
from modelnet.errors import IntegrityError, MalformedError, TrustError

__all__ = ["MAX_NEW", "MAX_UNSIGNED", "adopt", "check_head", "choose_branch", "revoked_ancestors"]

MAX_NEW = 10_000  # entries folded for one head: about a second
MAX_UNSIGNED = 256  # entries folded for a head that no log key known so far signed: they may bring the key
MAX_ANCESTORS = 1000  # releases walked through; real lineages are a handful deep


def adopt(state: PublisherState, note: SignedNote, entries: Sequence[bytes]) -> tuple[PublisherState, Checkpoint]:
    """Return the state grown by `entries` and its head, once `note` is that head, signed by the log.

    Raises `TrustError` for another log, no valid signature or too many entries, `IntegrityError` for another root.
    """
    # The new entries may hold a recovery: then the head has the next origin.
    following = origin_of(state.pid, state.epoch + 1)
    known = [*state.log_keys(), *(NoteKey(following, one.key) for one in state.log_keys())]
    limit = MAX_NEW if _signed(note, known) else MAX_UNSIGNED
    if len(entries) > limit:
        raise TrustError("more new entries than are taken at once", rule="limit", wanted=limit, got=len(entries))
    grown = state.copy()
    for entry in entries:
        grown.append(entry)
    return grown, check_head(grown, note)


def check_head(state: PublisherState, note: SignedNote) -> Checkpoint:
    """Return the head in `note` once the log keys in force at its size signed it and it is of this very history.

    Raises `IntegrityError` with rule `equivocation` where the log signed another history: evidence can be made of it.
    """
    size = _size(note)
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


def revoked_ancestors(logged: Logged, states: Mapping[str, PublisherState]) -> list[Revocation]:
    """Return the revocations of what a release was made from, as far as `states` (by pid) know, nearest first."""
    found: list[Revocation] = []
    queue, seen = [logged], {Digests.of(logged.event.release)}
    for release in queue:
        for parent in release.event.derived_from:
            owner = states.get(parent.pid or release.event.pid)
            if owner is None or parent.digests in seen or len(seen) > MAX_ANCESTORS:
                continue
            seen.add(parent.digests)
            found += owner.revocations.of(parent.digests)
            known = owner.manifest(parent.digests)
            if known is not None:
                # The parent may be named by one digest and revoked by the other.
                full = Digests.of(known.event.release)
                found += [one for one in owner.revocations.of(full) if one not in found]
                queue.append(known)
    return found


def _signed(note: SignedNote, keys: Sequence[NoteKey]) -> bool:
    try:
        note.verify(keys)
    except TrustError:
        return False
    return True


def _size(note: SignedNote) -> int:
    """Return the size that an unverified head claims."""
    origin = note.unverified_text.partition("\n")[0]
    try:
        return Checkpoint.parse(note.unverified_text, origin).size
    except MalformedError as error:
        raise MalformedError("not a checkpoint", rule="checkpoint") from error
