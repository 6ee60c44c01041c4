"""Pins of what was revoked: whoever hears of the revocation takes them off the targets that hold them.

    for one in withdraw(store, gate): …      asks each target; one that does not answer stays written down

Whatever may have heard of one calls this: `revoke`, `sync`, `pull`, `pin add`, `status`, `audit` and `deny-list`, and a
running node; so what failed once is tried again. It makes the blocks collectable; until they are collected, deny lists
stop them from being served (`modelnet.ipfs.deny`).
"""

from __future__ import annotations

from dataclasses import dataclass

from modelnet.core.cid import Cid
from modelnet.core.events import Digests
from modelnet.core.names import parse_reference
from modelnet.core.resolution import View
from modelnet.errors import ModelnetError
from modelnet.gate import Gate
from modelnet.ipfs.fleet import unpin_release
from modelnet.ipfs.records import all_recorded
from modelnet.stores.local import LocalStore

__all__ = ["Withdrawn", "revoked_pins", "withdraw"]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """One pin of a revoked release: where it was, or still is, and then why (`error`)."""

    root: Cid
    release: str
    target: str
    reason: str
    error: ModelnetError | None = None


def revoked_pins(store: LocalStore, gate: Gate) -> dict[Cid, str]:
    """Return the releases that are written down as pinned and were revoked, with the reason of each."""
    found = {}
    for root, records in all_recorded(store.home).items():
        if (reason := _reason(store, gate, root, records[0].release)) is not None:
            found[root] = reason
    return found


def _reason(store: LocalStore, gate: Gate, root: Cid, release: str) -> str | None:
    try:
        pid = parse_reference(release).publisher
        if not gate.replicas.known(pid):
            return None
        view = gate.replicas.view(pid)
    except ModelnetError:
        return None  # edited by hand; or a log that cannot be read, which other commands report
    if (why := _of_release(view, root)) is not None:
        return why
    row = next((row for row in store.index.releases(pid) if row.manifest == root), None)
    files = gate.revoked_files(row) if row is not None else {}
    return next((f"{path}: {why}" for path, why in files.items()), None)


def _of_release(view: View, root: Cid) -> str | None:
    for revocation in view.revocations_of(Digests(blake3=root.digest.hex())):
        event = revocation.event
        return f"{event.severity}: {event.text}" if event.text else event.severity
    return None


def withdraw(store: LocalStore, gate: Gate) -> list[Withdrawn]:
    """Unpin every revoked release wherever it is known to be pinned; return what became of each pin."""
    done: list[Withdrawn] = []
    for root, reason in revoked_pins(store, gate).items():
        release = all_recorded(store.home)[root][0].release
        done += [
            Withdrawn(root, release, outcome.target.name, reason, outcome.error)
            for outcome in unpin_release(store, root)
        ]
    return done
