"""Check publishers' logs in a store against their own heads: entries, every tile, what lies beside them, intentions.

What a crash leaves behind is no problem: tiles beyond the head, an older partial tile, an intention whose entries are
whole. The next append replaces or finishes those. A tile that the head needs and that is wrong is one: from then on
this log can be neither served nor written, until it is had again from a peer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelnet.core.adoption import check_head
from modelnet.core.fold import PublisherState, origin_of
from modelnet.core.identity import PID
from modelnet.core.merkle import root
from modelnet.core.note import Checkpoint
from modelnet.core.tiles import CHECKPOINT_PATH, HEIGHT, WIDTH, Tile, encode_bundle, tiles_of
from modelnet.errors import MalformedError, ModelnetError
from modelnet.stores.home import Home
from modelnet.stores.logfolder import LogFolder
from modelnet.upkeep import Problem
from modelnet_registry.log.guards import lock_log
from modelnet_registry.log.storage import FileStorage
from modelnet_registry.log.writer import intention_of

__all__ = ["check_log", "check_logs"]

BESIDE = ("cosigned",)  # what else lies in a log's folder


def check_logs(home: Home, *, repair: bool = False) -> list[Problem]:
    """Return what is wrong with the logs in a store; with `repair`, remove what belongs to none of them."""
    pids = sorted(path.name for path in home.logs.iterdir()) if home.logs.is_dir() else []
    return [problem for pid in pids if PID.fullmatch(pid) for problem in check_log(home, pid, repair=repair)]


def check_log(home: Home, pid: str, *, repair: bool = False) -> list[Problem]:
    """Return what is wrong with one publisher's logs of every epoch, and with what its writer intended."""
    base = home.logs / pid
    if not base.is_dir():
        return []
    with open(lock_log(base), closefd=True):  # noqa: PTH123  (a descriptor: nobody appends meanwhile)
        epochs = sorted(int(path.name) for path in base.iterdir() if path.name.isascii() and path.name.isdigit())
        return [problem for epoch in epochs for problem in _check_epoch(home, pid, epoch, repair=repair)]


def _check_epoch(home: Home, pid: str, epoch: int, *, repair: bool) -> Iterator[Problem]:
    path = home.log(pid, epoch)
    folder = LogFolder(path)
    state: PublisherState | None = None
    try:
        note = folder.checkpoint()
        if note is not None:
            head = Checkpoint.parse(note.unverified_text, origin_of(pid, epoch))
            state = PublisherState.fold(folder.entries(0, head.size), pid)
            check_head(state, note)
    except ModelnetError as error:
        yield _problem("log", path, error)
        return
    if state is not None:
        yield from _check_tiles(folder, state)
    yield from _check_intention(FileStorage(home.logs / pid / "own"), folder, state, pid, epoch)
    for stray in _strays(path):
        if repair:
            stray.unlink(missing_ok=True)
        if not stray.name.startswith("."):  # what a killed process was still writing is no problem
            yield Problem("stray", str(stray), "this file belongs to no log", repaired=repair)


def _check_tiles(folder: LogFolder, state: PublisherState) -> Iterator[Problem]:
    """Compare every tile that the head needs with what the entries make it."""
    entries = list(folder.entries(0, state.size))
    levels = {0: state.leaves}
    for tile in tiles_of(state.size):
        begin, end = tile.index * WIDTH, tile.index * WIDTH + tile.width
        if tile.level is None:
            wanted = encode_bundle(entries[begin:end])
        else:
            if tile.level not in levels:
                below = levels[tile.level - 1]
                whole = len(below) >> HEIGHT
                levels[tile.level] = [root(below[at * WIDTH : (at + 1) * WIDTH]) for at in range(whole)]
            wanted = b"".join(levels[tile.level][begin:end])
        try:
            found = folder.tile(tile)
        except ModelnetError as error:
            yield _problem("tile", folder.path / tile.path, error)
            continue
        if found != wanted:
            message = "tile is missing" if found is None else "tile is not what the log's entries make it"
            yield Problem("tile", str(folder.path / tile.path), message)


def _check_intention(
    storage: FileStorage, folder: LogFolder, state: PublisherState | None, pid: str, epoch: int
) -> Iterator[Problem]:
    """Check that the largest head that may have been signed here is one that the log has, or can be finished to."""
    path = storage.folder / intention_of(epoch)
    try:
        stored = storage.read(path.name)
        if stored is None:
            return
        intended = Checkpoint.parse(stored.decode("utf-8", "replace"), origin_of(pid, epoch))
        within = state is not None and intended.size <= state.size
        found = state.root_at(intended.size) if state is not None and within else folder.root(intended.size)
    except (OSError, ModelnetError) as error:
        yield _problem("intention", path, error)
        return
    if found != intended.root:
        yield Problem("intention", str(path), "another history of this log may have been signed here")


def _strays(path: Path) -> Iterator[Path]:
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if found.is_dir() and not found.is_symlink():
            continue
        if name == CHECKPOINT_PATH or name.split("/")[0] in BESIDE:
            continue
        try:
            Tile.parse(name)
        except MalformedError:
            yield found


def _problem(rule: str, path: Path, error: Exception) -> Problem:
    return Problem(rule, str(path), str(error))
