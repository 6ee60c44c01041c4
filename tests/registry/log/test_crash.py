"""Threat 34: whatever fails between append and sign, the log never forks and never loses what was acknowledged."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelnet import TrustError, UnavailableError
from modelnet.core.fold import PublisherState
from modelnet.core.note import SignedNote
from modelnet_registry.log.fsck import check_log
from tests.registry.log.appender import END
from tests.registry.log.stage import Desk, MemoryStorage, parsed
from tests.store.faults import Fault, counted, failing

KILLS = int(os.environ.get("MODELNET_TEST_KILLS", "20"))
LIMIT_S = 60.0
# Sizes at which an append writes one partial tile, fills a tile, and begins the next one.
BEFORE = (3, 255, 256)


def desk_of(path: Path, size: int) -> Desk:
    """Return a publisher with a log of `size` entries."""
    desk = Desk.made(path)
    desk.append(*(desk.release(str(number)) for number in range(size - 1)))
    return desk


def ended(desk: Desk, entry: bytes) -> None:
    """Try again as a caller does: look first, then append; afterwards the entry is there once and all is whole."""
    with desk.open() as log:
        if entry not in list(log.folder.entries(0, log.state.size)):
            log.append([entry])
    assert desk.entries.count(entry) == 1
    desk.check()


@pytest.mark.parametrize("size", BEFORE)
@pytest.mark.parametrize("step", ["mkdir", "fsync", "replace", "unlink"])
def test_threat_34_every_system_call_of_an_append(tmp_path: Path, step: str, size: int) -> None:
    """Not done, or done and reported as failed: one typed error; the next append ends or repeats the work."""
    base = desk_of(tmp_path / "base", size)
    entry = base.release("next")
    other = base.copied(tmp_path / "counting")
    with counted() as seen:
        other.append(entry)
    assert seen["fsync"] >= 6, "tiles, intention and head, each with its folder"
    for nth in range(1, seen[step] + 1):
        for applied in (False, True):
            desk = base.copied(tmp_path / f"{nth}-{applied}")
            before = desk.entries
            acknowledged = False
            with failing(Fault(step, nth, applied=applied, error=errno.EIO)) as fault:
                try:
                    desk.append(entry)
                    acknowledged = True
                except UnavailableError as error:
                    assert error.rule == "disk"  # noqa: PT017  (it may also succeed)
            assert fault.happened
            assert desk.entries[: len(before)] == before
            assert acknowledged <= (entry in desk.entries)
            assert check_log(desk.home, desk.pid) == []
            ended(desk, entry)


@pytest.mark.parametrize("applied", [False, True], ids=["not stored", "stored, reply lost"])
@pytest.mark.parametrize("operation", [1, 2, 3])
def test_threat_34_the_intention_fails(tmp_path: Path, operation: int, *, applied: bool) -> None:
    """The storage refuses, or did it and the reply was lost: another entry afterwards never forks the log."""
    desk = Desk.made(tmp_path / "home")
    storage, calls = MemoryStorage(), 0

    def fault(_: str, apply: Callable[[], None]) -> None:
        nonlocal calls
        calls += 1
        if calls != operation or applied:
            apply()
        if calls == operation:
            raise UnavailableError("the storage does not answer", rule="storage")

    storage.fault = fault
    wanted = []
    for version in ("1", "2", "3"):
        try:
            desk.append(desk.release(version), storage=storage)
            wanted.append(version)
        except UnavailableError as error:
            assert error.rule == "storage"  # noqa: PT017  (one of three fails)
    assert len(wanted) == 2
    with desk.open(storage=storage) as log:
        found = [logged.event.release.version for logged in log.state.releases]
    # What failed may have been stored; then the next writer appended it, in its place.
    assert [version for version in found if version in wanted] == wanted
    # The first operation of all only notes the head that `init` committed, before anything is appended.
    assert len(found) == (3 if applied and operation > 1 else 2)
    desk.check()


def test_threat_34_a_signature_that_nobody_committed(tmp_path: Path) -> None:
    """Signed and shown, then dead before the commit: the next writer commits that very head, signature by signature."""
    desk = desk_of(tmp_path / "home", 7)
    shown: list[SignedNote] = []

    def dies(note: SignedNote, _: object) -> SignedNote:
        shown.append(note)
        raise UnavailableError("killed", rule="test")

    with pytest.raises(UnavailableError, match="killed"):
        desk.append(desk.release("a"), cosign=dies)
    with desk.open() as log:
        assert log.checkpoint == parsed(shown[0])
        assert log.head is not None
        assert log.head.signatures[0] == shown[0].signatures[0]
        log.append([desk.release("b")])
    desk.check()


def test_threat_34_entries_of_an_intended_head_are_gone(tmp_path: Path) -> None:
    """Tiles that were durable are missing: nothing is signed any more, rather than a fork."""
    desk = desk_of(tmp_path / "home", 7)

    def dies(*_: object) -> SignedNote:
        raise UnavailableError("killed", rule="test")

    with pytest.raises(UnavailableError, match="killed"):
        desk.append(desk.release("a"), cosign=dies)
    (desk.folder.path / "tile" / "entries" / "000.p" / "8").unlink()
    with pytest.raises(TrustError) as caught:
        desk.open()
    assert caught.value.rule == "fork"
    assert parsed(desk.head).size == 7


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_threat_34_kill_9_in_a_loop(tmp_path: Path, seed: int) -> None:
    """A publisher killed at random moments: every acknowledged release is there, and all heads ever shown agree."""
    draw = random.Random(seed)
    desk = Desk.made(tmp_path / "home")
    seen = tmp_path / "seen"
    acknowledged: set[str] = set()
    for _ in range(max(2, KILLS // 2)):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.registry.log.appender", desk.home.root, seen],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            acknowledged.add(process.stdout.readline().split()[1])  # it is at work
            time.sleep(draw.random() * 0.1)
            process.kill()
            rest, _ = process.communicate(timeout=LIMIT_S)
            acknowledged |= {line.split()[1] for line in rest.splitlines() if line.startswith("ack ")}
        desk.check()
    with desk.open() as log:
        state = log.state
    assert acknowledged <= {logged.event.release.version for logged in state.releases}
    assert not state.inert
    _agree(state, [SignedNote.parse(note) for note in seen.read_bytes().split(END)[:-1]])
    desk.check()


def _agree(state: PublisherState, notes: list[SignedNote]) -> None:
    """Assert that every head that was ever shown is one of this history."""
    assert notes
    for head in {parsed(note) for note in notes}:
        assert head.size <= state.size
        assert head.root == state.root_at(head.size)
