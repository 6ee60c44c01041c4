"""A release at several targets: pinned, replaced, looked after and taken back; and what is written down about it.

    pin_release(store, release, [Target.parse("kubo"), …], copies=2)     the first two by rendezvous hashing that can
    look_after(store, root)                                              what each target says, and random blocks
    unpin_release(store, root)                                           everywhere it is known to be pinned

Where a release was pinned is written down (`modelnet.ipfs.records`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from modelnet.core.cid import Cid
from modelnet.core.release import Release
from modelnet.core.unixfs import MAX_BLOCK
from modelnet.errors import ModelnetError, UnavailableError, UsageError
from modelnet.gate import Gate
from modelnet.ipfs.audit import Audit, audit, draw
from modelnet.ipfs.placement import rank
from modelnet.ipfs.records import MAX_TARGETS, PinRecord, erase, note, recorded
from modelnet.ipfs.segments import ReleaseBlocks
from modelnet.ipfs.targets import KuboPins, PinJob, PinTarget, Target, connector
from modelnet.progress import SILENT, Progress
from modelnet.signed import open_manifest
from modelnet.stores.local import LocalStore

__all__ = [
    "FILE_BYTES",
    "Outcome",
    "Seen",
    "TooFewPinsError",
    "check_manifest",
    "check_targets",
    "look_after",
    "pin_name",
    "pin_release",
    "unpin_release",
]

FILE_BYTES = 210  # what a file adds to a manifest: its digests and CID, and a path of 40 letters


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target: `error` is None where the pin stands."""

    target: Target
    sent: int = 0
    request: str | None = None
    error: ModelnetError | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a target says of a pin, and what an audit found; `error` where it did not answer."""

    record: PinRecord
    state: str
    detail: str = ""
    audit: Audit | None = None
    error: ModelnetError | None = None


def pin_name(release: Release) -> str:
    """Return what a release's pin is called: whose, what, which."""
    return f"modelnet/{release.pid[:12]}/{release.name}@{release.version}"[:255]


def _key(release: Release) -> str:
    return f"{release.pid}/{release.name}"


@contextmanager
def _opened(
    target: Target, store: LocalStore, connect: Callable[[Sequence[str]], None] = lambda _: None
) -> Iterator[PinTarget]:
    opened = target.open(store, connect)
    try:
        yield opened
    finally:
        opened.close()


def pin_release(
    store: LocalStore,
    release: Release,
    targets: Sequence[Target],
    *,
    copies: int | None = None,
    replace: bool = False,
    origins: Sequence[str] = (),
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Pin a release at `copies` of `targets` (all of them if None); return what became of each that was tried.

    Which ones is decided by rendezvous hashing over publisher and name; a target that fails is passed over for the
    next. Kubos come first among the chosen: they can then give the content to the others. `replace` removes the pins of
    this model's earlier versions wherever the new one now stands.
    Raises `UnavailableError` when fewer than `copies` pins stand in the end; those that do are written down. Nothing is
    sent, and `TrustError` raised, when the gate does not let the release through, `UsageError` when no IPFS could hold
    it.
    """
    check_targets(targets)
    wanted = len(targets) if copies is None else copies
    if not 0 < wanted <= len(targets):
        raise UsageError(
            "so many copies cannot be kept", rule="copies", wanted=f"1 to {len(targets)}", got=wanted,
            hint="name more targets",
        )  # fmt: skip
    _check_pinnable(store, release)
    by_name = {target.name: target for target in targets}
    ranked = [by_name[name] for name in rank(_key(release), [(target.name, target.weight) for target in targets])]
    waiting = sorted(ranked[:wanted], key=lambda target: target.kind != "kubo") + ranked[wanted:]
    fleet = _Fleet(store, release, list(origins), progress, replace=replace)
    outcomes: list[Outcome] = []
    try:
        while waiting and sum(outcome.error is None for outcome in outcomes) < wanted:
            outcomes.append(fleet.pin(waiting.pop(0)))
    finally:
        fleet.close()
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if len(outcomes) - len(failed) < wanted:
        first = failed[0].error
        if wanted == 1 and len(failed) == 1 and first is not None:
            raise first
        error = TooFewPinsError(
            f"only {len(outcomes) - len(failed)} of {wanted} pins stand", rule="copies", wanted=release.manifest,
            got="; ".join(f"{outcome.target.name}: {outcome.error}" for outcome in failed),
            hint="run it again; what stands is kept",
        )  # fmt: skip
        error.outcomes = outcomes
        raise error
    return outcomes


def check_targets(targets: Sequence[Target]) -> None:
    """Raise `UsageError` unless there are targets, each named once."""
    names = [target.name for target in targets]
    if not targets or len(set(names)) != len(names) or len(targets) > MAX_TARGETS:
        raise UsageError(
            "targets must be named once each", rule="pin-target", got=", ".join(names) or "none",
            hint="see `modelnet pin add --help`",
        )  # fmt: skip


def check_manifest(size: int) -> None:
    """Raise `UsageError` when a manifest of `size` bytes is larger than any block that IPFS carries."""
    if size > MAX_BLOCK:
        raise UsageError(
            "the release has too many files to be pinned", rule="pin-manifest",
            wanted=f"a manifest of at most {MAX_BLOCK} bytes, about {MAX_BLOCK // FILE_BYTES:,} files",
            got=f"{size} bytes",
            hint="put small files into an archive, or make several releases of it; nodes serve it as it is",
        )  # fmt: skip


def _check_pinnable(store: LocalStore, release: Release) -> None:
    """Ask the gate, and see that all of the release is here."""
    rows = store.index.releases(release.pid, release.name)
    row = next((row for row in rows if row.manifest == release.manifest), None)
    if row is None:
        raise UnavailableError("the release is not in this store", rule="missing", hint="pull it first")
    gate = Gate.open(store)
    trusted = gate.admit(row)
    manifest = open_manifest(store, release)
    gate.check_files(trusted, manifest)
    if row.layout == "part":
        raise UnavailableError(
            f"only a part of {release.name}@{release.version} is here", rule="partial",
            hint="only a whole release can be pinned; pull all of it first",
        )  # fmt: skip
    check_manifest(len(store.block(release.manifest) or b""))


class TooFewPinsError(UnavailableError):
    """Fewer pins stand than were wanted; `outcomes` says which do."""

    outcomes: Sequence[Outcome] = ()


class _Fleet:
    """One run of `pin_release`."""

    def __init__(
        self, store: LocalStore, release: Release, origins: list[str], progress: Progress, *, replace: bool
    ) -> None:
        self.store, self.release, self.origins, self.progress = store, release, origins, progress
        self.older = _older(store, release) if replace else []
        self.kubo: KuboPins | None = None  # kept open: services may want it to connect to them

    def close(self) -> None:
        if self.kubo is not None:
            self.kubo.close()

    def pin(self, target: Target) -> Outcome:
        try:
            return self._pin(target)
        except ModelnetError as error:
            self.progress.note(f"{target.name}: {error}")
            return Outcome(target, error=error)

    def _pin(self, target: Target) -> Outcome:
        root = self.release.manifest
        connect = connector(self.kubo.kubo, self.progress.note) if self.kubo is not None else lambda _: None
        opened = target.open(self.store, connect)
        keep = False
        try:
            before = self._before(target)
            was = target.name in {record.name for record in recorded(self.store.home, root)}
            job = PinJob(
                root, pin_name(self.release), self.origins, before[0][0] if before else None,
                before[0][1].request if before else None, lambda request: self._note(target, request),
            )  # fmt: skip
            try:
                pinned = opened.pin(job, self.progress)
            except UnavailableError as error:
                if error.rule == "pin-failed" and not was:
                    erase(self.store.home, root, target.name)  # there is no pin; whoever waits in vain keeps the record
                raise
            self._note(target, pinned.request)
            self._retire(opened, target, before)
            if isinstance(opened, KuboPins) and self.kubo is None:
                self.kubo, keep = opened, True
                self.origins += opened.kubo.addresses()
        finally:
            if not keep:
                opened.close()
        return Outcome(target, pinned.sent, pinned.request)

    def _note(self, target: Target, request: str | None) -> None:
        record = PinRecord(str(target), str(self.release.locator), request, time.time())
        note(self.store.home, self.release.manifest, record)

    def _before(self, target: Target) -> list[tuple[Cid, PinRecord]]:
        """Return the pins of earlier versions at a target, the newest first."""
        return [
            (cid, record)
            for cid in self.older
            for record in recorded(self.store.home, cid)
            if record.name == target.name
        ]

    def _retire(self, opened: PinTarget, target: Target, before: Sequence[tuple[Cid, PinRecord]]) -> None:
        """Remove the pins of earlier versions; the new one stands, and what cannot be removed stays written down."""
        for cid, record in before:
            try:
                opened.unpin(cid, record.request)
            except ModelnetError as error:
                self.progress.note(f"{target.name} still has {record.release.partition('?')[0]}: {error}")
                continue
            erase(self.store.home, cid, target.name)


def _older(store: LocalStore, release: Release) -> list[Cid]:
    """Return the manifests of this model that were published before, newest first."""
    rows = store.index.releases(release.pid, release.name)
    at = next((number for number, row in enumerate(rows) if row.version == release.version), len(rows))
    return [row.manifest for row in reversed(rows[:at]) if row.manifest != release.manifest]


def look_after(store: LocalStore, root: Cid, *, blocks: int = 0, chance: random.Random | None = None) -> list[Seen]:
    """Ask every recorded target about `root`, and each for `blocks` random blocks of it."""
    records = recorded(store.home, root)
    cids: list[Cid] = []
    lacking: ModelnetError | None = None
    if blocks and records:
        try:
            cids = draw(ReleaseBlocks(store, root), blocks, chance or random.SystemRandom())
        except ModelnetError as error:
            lacking = error  # removed here, or never whole: then nobody here knows which blocks it has
    seen = [_look(store, root, record, cids) for record in records]
    return seen if lacking is None else [replace(one, error=one.error or lacking) for one in seen]


def _look(store: LocalStore, root: Cid, record: PinRecord, cids: Sequence[Cid]) -> Seen:
    try:
        with _opened(Target.parse(record.target), store) as target:
            remote = target.look(root, record.request)
            try:
                found = audit(target, cids) if cids else None
            except UnavailableError as error:
                return Seen(record, remote.state, remote.detail, None, error)
            return Seen(record, remote.state, remote.detail, found)
    except ModelnetError as error:
        return Seen(record, "unknown", error=error)


def unpin_release(
    store: LocalStore, root: Cid, *, only: Sequence[str] = (), forget: bool = False
) -> list[Outcome]:  # fmt: skip
    """Remove the pins of `root` at every recorded target, or at those named; what failed stays written down.

    With `forget` a target that fails is taken off the record too: it may be gone for ever. This is also what a
    revocation calls: it makes the blocks collectable. To stop them from being served meanwhile there are deny lists
    (`modelnet.ipfs.deny`).
    """
    outcomes: list[Outcome] = []
    for record in recorded(store.home, root):
        target = Target.parse(record.target)
        if only and target.name not in only and record.target not in only:
            continue
        try:
            with _opened(target, store) as opened:
                opened.unpin(root, record.request)
        except ModelnetError as error:
            outcomes.append(Outcome(target, request=record.request, error=error))
            if not forget:
                continue
        else:
            outcomes.append(Outcome(target, request=record.request))
        erase(store.home, root, target.name)
    return outcomes
