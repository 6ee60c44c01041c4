"""Publishing operates a log: what is in the index, what is in the log, and what finishes the one without the other."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from modelnet import TrustError, UnavailableError, fsck
from modelnet.core.names import Floor, parse_reference
from modelnet.core.note import SignedNote
from modelnet.fetching import Fetcher
from modelnet.gate import Gate
from modelnet.progress import SILENT
from modelnet.replica import Replicas
from modelnet.stores.http import HttpSource
from modelnet.stores.local import open_store
from modelnet.stores.peers import add_peers
from modelnet.syncing import sync
from modelnet_registry.denials import Denials, Denied
from modelnet_registry.log.fsck import check_logs
from modelnet_registry.log.own import refresh
from modelnet_registry.log.writer import LogWriter
from tests.registry.log.stage import parsed
from tests.registry.test_keyops import Publisher
from tests.store.faults import Fault, counted, failing
from tests.store.stage import serving

KILLS = int(os.environ.get("MODELNET_TEST_KILLS", "20"))
LIMIT_S = 60.0


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    """Give a publisher with one release."""
    acme = Publisher(tmp_path)
    acme.publish("1")
    return acme


def versions(acme: Publisher) -> list[str]:
    """Return what the log releases, in its order."""
    return [logged.event.release.version for logged in acme.desk.state.releases]


@pytest.mark.parametrize("applied", [False, True], ids=["not done", "done and reported as failed"])
@pytest.mark.parametrize("step", ["mkdir", "fsync", "replace", "unlink", "commit"])
def test_publishing_again_finishes_it(tmp_path: Path, step: str, *, applied: bool) -> None:
    """Whatever fails between the index and the log: the same once more is the same release, once."""
    counting = Publisher(tmp_path / "counting")
    counting.publish("1")
    with counted() as seen:
        counting.publish("2")
    for nth in range(1, seen[step] + 1):
        acme = Publisher(tmp_path / str(nth))
        acme.publish("1")
        with failing(Fault(step, nth, applied=applied, error=errno.EIO)):
            try:
                acme.publish("2")
            except UnavailableError as error:
                assert error.rule in {"disk", "store"}  # noqa: PT017  (it may also succeed)
        made = acme.publish("2")
        assert versions(acme) == ["1", "2"]
        assert made.index == 2
        assert Replicas(open_store(acme.home)).standing(acme.pid).size == 3
        assert check_logs(acme.home) == []
        assert fsck(home=acme.home) == []
        acme.check()


def test_a_crash_between_the_index_and_the_log(acme: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is there and the log has no such release; other files under that version may then still take it."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("modelnet_registry.log.writer.LogWriter.append", dies)
        with pytest.raises(KeyboardInterrupt):
            acme.publish("2")
    assert versions(acme) == ["1"]
    (acme.model / "b.bin").write_bytes(b"more")
    made = acme.publish("2")
    assert {entry.path for entry in made.manifest.files} == {"a.bin", "b.bin"}
    assert versions(acme) == ["1", "2"]
    acme.check()


def test_a_node_that_looks_while_something_is_published(acme: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the index and the log a release is not denied, so that it can be had as soon as the log has it."""
    gate = Gate.open(open_store(acme.home))
    seen: list[Denied] = []

    def look(self: LogWriter, entries: Sequence[bytes], append: Callable[..., SignedNote] = LogWriter.append) -> object:
        seen.append(Denials(gate).refresh())
        return append(self, entries)

    monkeypatch.setattr(LogWriter, "append", look)
    made = acme.publish("2")
    (table,) = seen
    assert table.releases == ()
    assert table.reason(made.release.manifest) is None


def test_a_lost_index_costs_no_release(acme: Publisher) -> None:
    """The log says what was released; publishing the same files again makes them servable again, under one entry."""
    first = acme.publish("2")
    for path in acme.home.root.glob("index.sqlite*"):
        path.unlink()
    made = acme.publish("2")
    assert (made.index, made.release) == (first.index, first.release)
    assert versions(acme) == ["1", "2"]
    assert len(open_store(acme.home).index.releases()) == 1
    acme.check()


def test_restored_synced_and_publishing_again(acme: Publisher, tmp_path: Path) -> None:
    """What the refusal says helps: after a sync the restored store continues where the log is, without a fork."""
    backup = acme.desk.copied(tmp_path / "backup")
    acme.publish("2")
    witness = acme.desk
    with serving(acme.home.root) as url:
        add_peers(backup.home, [url])
        with pytest.raises(TrustError) as caught:
            backup.open(heads=lambda _: [witness.head]).close()
        assert caught.value.rule == "fork"
        fetcher = Fetcher([HttpSource.parse(url)], SILENT)
        try:
            sync(Replicas(open_store(backup.home)), acme.pid, fetcher)
        finally:
            fetcher.close()
        restored = Publisher.__new__(Publisher)
        restored.pid, restored.home, restored.model = acme.pid, backup.home, acme.model
        made = restored.publish("3")
    assert made.head.size == 4
    assert versions(restored) == ["1", "2", "3"]
    # The first store is the old one now.
    with serving(backup.home.root) as url:
        add_peers(acme.home, [url])
        with pytest.raises(TrustError):
            acme.publish("4")


def test_two_programs_publish_at_once(acme: Publisher) -> None:
    """Both releases are in the log, each once."""
    program = "import sys, modelnet; modelnet.publish(sys.argv[1], name='m', version=sys.argv[2], home=sys.argv[3])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, acme.model, str(version), acme.home.root])
        for version in range(2, 6)
    ]
    for process in processes:
        assert process.wait(LIMIT_S) == 0
    assert sorted(versions(acme)) == ["1", "2", "3", "4", "5"]
    acme.check()


@pytest.mark.slow
def test_kill_9_of_a_publisher(acme: Publisher) -> None:
    """Killed at random moments of `publish`: what was acknowledged is in the log, and the next one goes on."""
    program = (
        "import sys, modelnet\n"
        "for number in range(int(sys.argv[2]), 10**6):\n"
        "    made = modelnet.publish(sys.argv[1], name='m', version=str(number), home=sys.argv[3])\n"
        "    print(f'{number} {made.index}\\n', end='', flush=True)\n"
    )
    draw = random.Random(5)
    acknowledged: dict[str, int] = {}
    heads: list[SignedNote] = []
    for _ in range(max(2, KILLS // 3)):
        begin = len(versions(acme)) + 1
        with subprocess.Popen(
            [sys.executable, "-c", program, acme.model, str(begin), acme.home.root], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(draw.random() * 0.3)
            process.kill()
            rest, _ = process.communicate(timeout=LIMIT_S)
        for line in (first + rest).split("\n")[:-1]:  # the last one may be cut
            version, index = line.split()
            acknowledged[version] = int(index)
        heads.append(acme.desk.head)
        assert check_logs(acme.home) == []
        assert fsck(home=acme.home) == []
    state = acme.desk.state
    for version, index in acknowledged.items():
        logged = state.find("m", version)
        assert logged is not None
        assert logged.index == index
    for head in map(parsed, heads):
        assert state.root_at(head.size) == head.root
    acme.check()


def test_the_locator_carries_the_head(acme: Publisher) -> None:
    """Who pastes it gets no older log than the one that holds the release; publishing it again gives the same line."""
    made = acme.publish("2")
    reference = parse_reference(made.locator)
    assert reference.floor == Floor(3, acme.desk.state.tree_root)
    assert acme.publish("2").locator == made.locator


def test_refresh_keeps_a_quiet_log_fresh(acme: Publisher) -> None:
    """The head is dated again; followers merge it like any other head."""
    before = acme.desk.head
    head = refresh(home=acme.home)
    after = acme.desk.head
    assert head == parsed(before) == parsed(after)
    _, beats = acme.desk.state.signers_at(head.size)
    assert min(after.cosigned(beats).values()) >= max(before.cosigned(beats).values())
    acme.check()
