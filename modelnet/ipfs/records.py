"""What is written down about pins: `$MODELNET_HOME/pins/<manifest>.json`, one small file for each release.

A file is replaced whole, as soon as a target was asked to pin, so a crash forgets at most the pin that was just asked
for, and pinning again finds it. Nothing in it is trusted: what makes no sense is as good as not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelnet import durable
from modelnet.core.cid import Cid
from modelnet.errors import MalformedError, UsageError
from modelnet.ipfs.services import is_request
from modelnet.ipfs.targets import Target
from modelnet.partial import disk_errors
from modelnet.stores.home import Home

__all__ = ["MAX_TARGETS", "PinRecord", "all_recorded", "erase", "note", "recorded"]

MAX_RECORD = 1 << 20
MAX_TARGETS = 64


@dataclass(frozen=True, slots=True)
class PinRecord:
    """A pin as it was asked for: the target in its own words, the request's id there, and when (unix seconds)."""

    target: str
    release: str
    request: str | None = None
    at: float = 0.0

    @property
    def name(self) -> str:
        """What the target is known by, without its options."""
        return Target.parse(self.target).name


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
                if isinstance(at, int | float) and _is_target(target) and release.isprintable():
                    # Without an id that can be one, the target is asked by the CID.
                    yield PinRecord(target, release, request if is_request(request) else None, float(at))


def _is_target(text: str) -> bool:
    try:
        Target.parse(text)
    except UsageError:
        return False
    return text.isprintable()


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


def note(home: Home, root: Cid, record: PinRecord) -> None:
    """Write down a pin, in place of what was known of the same target. Raises `UnavailableError` on a full disk."""
    _write(home, root, [*(item for item in recorded(home, root) if item.name != record.name), record])


def erase(home: Home, root: Cid, name: str) -> None:
    """Forget that `root` is pinned at the target called `name`."""
    _write(home, root, [item for item in recorded(home, root) if item.name != name])


def _write(home: Home, root: Cid, records: Sequence[PinRecord]) -> None:
    path = _path(home, root)
    with disk_errors(path):
        if not records:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, json.dumps([asdict(record) for record in records], indent=1).encode())
