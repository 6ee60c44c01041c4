"""A release at several targets: pinned, replaced, looked after and taken back; and what is written down about it.

    pin_release(store, release, [Target.parse("kubo"), …], copies=2)     the first two by rendezvous hashing that can
    look_after(store, root)                                              what each target says, and random blocks
    unpin_release(store, root)                                           everywhere it is known to be pinned

`$MODELNET_HOME/pins/<manifest>.json` says where a release was pinned: one small file, replaced whole after each pin, so
a crash forgets at most the pin that was just made, and pinning again finds it. Nothing in it is trusted.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modelnet import durable
from modelnet.core.cid import Cid
from modelnet.core.release import Release
from modelnet.errors import MalformedError, ModelnetError, UnavailableError, UsageError
from modelnet.ipfs.audit import Audit, audit, draw
from modelnet.ipfs.placement import rank
from modelnet.ipfs.segments import ReleaseBlocks
from modelnet.ipfs.targets import KuboPins, PinJob, PinTarget, Target, connector
from modelnet.partial import disk_errors
from modelnet.progress import SILENT, Progress
from modelnet.stores.home import Home
from modelnet.stores.local import LocalStore

__all__ = [
    "Outcome",
    "PinRecord",
    "Seen",
    "all_recorded",
    "look_after",
    "pin_name",
    "pin_release",
    "recorded",
    "unpin_release",
]

MAX_RECORD = 1 << 20
MAX_TARGETS = 64


@dataclass(frozen=True, slots=True)
class PinRecord:
    """A pin as it was made: the target in its own words, the request's id there, and when (unix seconds)."""

    target: str
    release: str
    request: str | None = None
    at: float = 0.0


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


def _path(home: Home, root: Cid) -> Path:
    return home.root / "pins" / f"{root}.json"


def recorded(home: Home, root: Cid) -> list[PinRecord]:
    """Return where `root` is known to be pinned; a damaged record is as good as none."""
    try:
        with _path(home, root).open("rb") as file:
            told: Any = json.loads(file.read(MAX_RECORD))
    except (OSError, ValueError, RecursionError):
        return []
    return list(_records(told))


def _records(told: Any) -> Iterator[PinRecord]:
    for item in (told if isinstance(told, list) else [])[:MAX_TARGETS]:
        match item:
            case {"target": str(target), "release": str(release), "request": str() | None as request, "at": at}:
                if isinstance(at, int | float) and _is_target(target):
                    yield PinRecord(target, release, request, float(at))


def _is_target(text: str) -> bool:
    try:
        Target.parse(text)
    except UsageError:
        return False
    return True


def all_recorded(home: Home) -> dict[Cid, list[PinRecord]]:
    """Return every pin that is known, by manifest."""
    found = {}
    for path in sorted((home.root / "pins").glob("*.json")):
        try:
            root = Cid.parse(path.stem)
        except MalformedError:
            continue
        if records := recorded(home, root):
            found[root] = records
    return found


def _write(home: Home, root: Cid, records: Sequence[PinRecord]) -> None:
    path = _path(home, root)
    with disk_errors(path):
        if not records:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, json.dumps([asdict(record) for record in records], indent=1).encode())


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
    Raises `UnavailableError` when fewer than `copies` pins stand in the end; those that do are written down.
    """
    names = [target.name for target in targets]
    if not targets or len(set(names)) != len(names) or len(targets) > MAX_TARGETS:
        raise UsageError("targets must be named once each", rule="pin-target", got=", ".join(names) or "none")
    wanted = len(targets) if copies is None else copies
    if not 0 < wanted <= len(targets):
        raise UsageError(
            "so many copies cannot be kept", rule="copies", wanted=f"1 to {len(targets)}", got=wanted,
            hint="name more targets",
        )  # fmt: skip
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
        raise UnavailableError(
            f"only {len(outcomes) - len(failed)} of {wanted} pins stand", rule="copies", wanted=release.manifest,
            got="; ".join(f"{outcome.target.name}: {outcome.error}" for outcome in failed),
            hint="run it again; what stands is kept",
        )  # fmt: skip
    return outcomes


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
        home, root = self.store.home, self.release.manifest
        connect = connector(self.kubo.kubo, self.progress.note) if self.kubo is not None else lambda _: None
        opened = target.open(self.store, connect)
        keep = False
        try:
            before = next(
                (
                    (cid, record)
                    for cid in self.older
                    for record in recorded(home, cid)
                    if Target.parse(record.target).name == target.name
                ),
                None,
            )
            job = PinJob(
                root, pin_name(self.release), self.origins,
                before[0] if before else None, before[1].request if before else None,
            )  # fmt: skip
            pinned = opened.pin(job, self.progress)
            if isinstance(opened, KuboPins) and self.kubo is None:
                self.kubo, keep = opened, True
                self.origins += opened.kubo.addresses()
        finally:
            if not keep:
                opened.close()
        here = str(self.release.locator)
        others = [item for item in recorded(home, root) if Target.parse(item.target).name != target.name]
        _write(home, root, [*others, PinRecord(str(target), here, pinned.request, time.time())])
        if before is not None:
            _write(home, before[0], [item for item in recorded(home, before[0]) if item != before[1]])
        return Outcome(target, pinned.sent, pinned.request)


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


def unpin_release(store: LocalStore, root: Cid, *, only: Sequence[str] = ()) -> list[Outcome]:
    """Remove the pins of `root` at every recorded target, or at those named; what failed stays written down.

    This is also what a revocation calls: it makes the blocks collectable. To stop them from being served meanwhile
    there are deny lists (`modelnet.ipfs.deny`).
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
            continue
        outcomes.append(Outcome(target, request=record.request))
        _write(store.home, root, [item for item in recorded(store.home, root) if item != record])
    return outcomes
