"""What stands between a writer and a fork: the lock of the log, what others saw of it, and evidence that lies here."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from modelnet import durable
from modelnet.core.evidence import MAX_EVIDENCE, Evidence
from modelnet.core.fold import PublisherState, origin_of
from modelnet.core.note import Checkpoint, NoteKey, SignedNote
from modelnet.errors import ModelnetError, TrustError, UnavailableError
from modelnet.partial import disk_errors
from modelnet.stores.home import Home

__all__ = ["Heads", "check_elsewhere", "check_evidence", "check_recovered", "forked", "lock_log"]

LOCK_S = 30.0  # an append takes less than a second, and its witnesses some seconds each
LOCK_POLL_S = 0.02
MAX_HEADS = 256  # heads of one log looked at before an append
MAX_EVIDENCES = 64

Heads: TypeAlias = Callable[[str], Iterable[SignedNote]]
"""Origin → heads of this log, or of its next epoch, seen at peers and witnesses; unverified."""


def lock_log(folder: Path) -> int:
    """Take the lock of a publisher's files, in `folder`; it ends when the returned descriptor is closed."""
    with disk_errors(folder):
        durable.make_folder(folder)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOCK_S
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "another program is writing this log", rule="busy", path=str(folder), hint="wait for it to end"
                    ) from None
                time.sleep(LOCK_POLL_S)
            else:
                return handle
    except BaseException:
        os.close(handle)
        raise


def check_elsewhere(state: PublisherState, epoch: int, heads: Heads) -> None:
    """Raise `TrustError` with rule `fork` when this log's key signed a head that `state` does not contain."""
    origin = origin_of(state.pid, epoch)
    for seen in _seen(state, epoch, heads):
        if seen.origin != origin or seen.size > state.size or seen.root != state.root_at(seen.size):
            ours = Checkpoint(origin, state.size, state.tree_root)
            raise forked("the key of this log is used elsewhere", seen, ours)


def check_recovered(state: PublisherState, epoch: int, heads: Heads) -> None:
    """Raise `TrustError` with rule `fork` when this log's key signed a head of the epoch that we would begin."""
    origin = origin_of(state.pid, epoch)
    for seen in _seen(state, epoch, heads):
        if seen.origin != origin:
            ours = Checkpoint(origin, state.size, state.tree_root)
            raise forked("this log was recovered elsewhere", seen, ours)


def _seen(state: PublisherState, epoch: int, heads: Heads) -> Iterator[Checkpoint]:
    """Yield the heads of this epoch and the next that others saw, if a key of this log signed them."""
    origin, following = origin_of(state.pid, epoch), origin_of(state.pid, epoch + 1)
    keys = {origin: state.log_keys(), following: [NoteKey(following, key.key) for key in state.log_keys()]}
    for note in islice(heads(origin), MAX_HEADS):
        named = note.unverified_text.partition("\n")[0]
        try:
            yield Checkpoint.parse(note.verify(keys.get(named, [])), named)
        except ModelnetError:
            continue  # not signed by this log: it says nothing


def check_evidence(home: Home, state: PublisherState, epoch: int) -> None:
    """Raise `TrustError` with rule `quarantined` when what lies here proves that this epoch of the log was forked."""
    folder = home.logs / state.pid / "evidence"
    for path in sorted(folder.iterdir())[:MAX_EVIDENCES] if folder.is_dir() else []:
        try:
            with path.open("rb") as file:
                evidence = Evidence.parse(file.read(MAX_EVIDENCE + 1))
            evidence.verify(origin_of(state.pid, epoch), state.log_keys())
        except (OSError, ModelnetError):
            continue  # of another epoch, or nothing
        raise TrustError(
            "this log showed two histories", rule="quarantined", path=str(path),
            hint="find out how, then choose the good one with `modelnet keys recover`",
        )  # fmt: skip


def forked(message: str, got: Checkpoint | int, ours: Checkpoint) -> TrustError:
    """Return the refusal to sign; `got` is the other head, or its size where that is all that is known."""
    return TrustError(
        message, rule="fork", wanted=f"{ours.size} {ours.root.hex()}",
        got=got if isinstance(got, int) else f"{got.size} {got.root.hex()}",
        hint="this key is used elsewhere, or this store was restored: run `modelnet sync`, and write in one place only",
    )  # fmt: skip
