"""Many at once, much at once, and stores that are old, read-only, busy or damaged."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelnet.core import events
from modelnet.core.note import SignedNote
from modelnet.errors import ModelnetError, UnavailableError
from modelnet.replica import Replicas
from modelnet.stores import index as index_module
from modelnet.stores.index import SCHEMA
from modelnet.stores.local import open_store
from modelnet.stores.logindex import LogView
from tests.core.logs import T0, Log, digests, role
from tests.store.replica_stage import longer, opened
from tests.store.stage import PLAIN_USER

WRITER = """
import sys
from pathlib import Path
from tests.store.replica_stage import longer, opened
home, step = Path(sys.argv[1]), int(sys.argv[2])
log, replicas = longer(), opened(home)
for size in range(4, len(log.entries) + 1, step):
    first = replicas.standing(log.pid).size
    replicas.adopt(log.pid, log.head(size), log.entries[first:size], first=first)
replicas.adopt(log.pid, log.head(), log.entries, first=0)
"""


def test_processes_adopt_at_once(tmp_path: Path) -> None:
    """Three processes take the same log in different steps while a fourth reads: no fork, no error, one end."""
    log = longer()
    opened(tmp_path).adopt(log.pid, log.head(3), log.entries[:3])
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(step)]) for step in (7, 11, 13)]
    replicas, sizes = opened(tmp_path), []
    while any(writer.poll() is None for writer in writers):
        view = replicas.view(log.pid)
        sizes.append(view.size)
        assert view.find("llama", "1.0") is not None
        assert (view.find("llama", "1.2") is not None) <= (view.size == 265)
        assert bool(view.revocations_of(digests("llama", "1.1"))) == (view.size > 263)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sizes == sorted(sizes)
    standing = opened(tmp_path).standing(log.pid)
    assert (standing.size, standing.root, standing.quarantined) == (265, log.state.tree_root, False)
    folder = opened(tmp_path).folder(log.pid)
    assert list(folder.entries(0, 265)) == log.entries
    assert not list(tmp_path.rglob("*.tmp"))


def test_threads_share_one_store(tmp_path: Path) -> None:
    """Readers and writers of one object."""
    log, replicas, errors = longer(), opened(tmp_path), []
    replicas.adopt(log.pid, log.head(3), log.entries[:3])

    def work(number: int) -> None:
        try:
            for size in range(4 + number, 60, 5):
                replicas.adopt(log.pid, log.head(size), log.entries[:size])
                assert replicas.standing(log.pid).size >= size
                assert replicas.view(log.pid).find("llama", "1.1") is not None
                event = events.Revoke(log.pid, (digests("llama", "1.0"),), "broken", f"{number} {size}")
                replicas.add_negative(log.pid, log.fork(1).add(event, "release"))
        except Exception as error:  # noqa: BLE001  (told by the assertion)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert opened(tmp_path).standing(log.pid).size == 59
    assert len(opened(tmp_path).view(log.pid).revocations_of(digests("llama", "1.0"))) == sum(
        len(range(4 + number, 60, 5)) for number in range(4)
    )


def test_a_slow_source_keeps_no_revocation_waiting(tmp_path: Path) -> None:
    """While the entries of a head still come, a revocation is taken, and so is a longer head."""
    log, replicas = longer(), opened(tmp_path)
    replicas.adopt(log.pid, log.head(3), log.entries[:3])
    revoke = log.fork(1).add(log.revoke(digests("llama", "1.0")), "release")

    def slow() -> Iterator[bytes]:
        yield from log.entries[3:9]
        opened(tmp_path).add_negative(log.pid, revoke)
        opened(tmp_path).adopt(log.pid, log.head(20), log.entries[3:20])
        yield from log.entries[9:30]

    assert replicas.adopt(log.pid, log.head(30), slow()).size == 30
    assert replicas.view(log.pid).revocations_of(digests("llama", "1.0"))
    assert list(replicas.folder(log.pid).entries(0, 30)) == log.entries[:30]


def test_a_busy_index_is_waited_for(tmp_path: Path) -> None:
    """Another process writes the index for a moment."""
    log, replicas = longer(), opened(tmp_path)
    replicas.adopt(log.pid, log.head(3), log.entries[:3])
    holder = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: (holder.execute("COMMIT"), holder.close()))
    release.start()
    replicas.adopt(log.pid, log.head(), log.entries[3:])
    release.join()
    assert isinstance(opened(tmp_path).view(log.pid), LogView)


def test_an_index_that_stays_busy_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was adopted is answered from the files; the index follows later."""
    log = longer()
    opened(tmp_path).adopt(log.pid, log.head(3), log.entries[:3])
    monkeypatch.setattr(index_module, "BUSY_TIMEOUT_S", 0.05)
    holder = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    replicas = opened(tmp_path)
    replicas.adopt(log.pid, log.head(), log.entries[3:])
    view = replicas.view(log.pid)
    assert (view.size, len(view.revocations_of(digests("llama", "1.1")))) == (265, 1)
    holder.execute("COMMIT")
    holder.close()
    assert isinstance(opened(tmp_path).view(log.pid), LogView)


def test_a_store_that_cannot_be_written_still_answers(tmp_path: Path) -> None:
    """Also when its index is of an older head; asked by a process that is held to permissions, root's or not."""
    log = longer()
    opened(tmp_path).adopt(log.pid, log.head(), log.entries)
    for path in tmp_path.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.core.logs import digests\n"
        "from tests.store.replica_stage import longer, opened\n"
        "view = opened(Path(sys.argv[1])).view(longer().pid)\n"
        "assert view.revocations_of(digests('llama', '1.1'))\n"
    )
    subprocess.run([*PLAIN_USER, sys.executable, "-c", program, tmp_path], check=True, timeout=60)


def test_an_index_of_version_1_keeps_its_rows(tmp_path: Path) -> None:
    """A store from before the log learns about logs and forgets nothing."""
    with sqlite3.connect(tmp_path / "index.sqlite") as old:
        old.executescript(SCHEMA)
        old.execute("INSERT INTO publisher VALUES ('p', x'00')")
        old.execute("INSERT INTO block VALUES (x'01', x'02')")
        old.execute("PRAGMA user_version = 1")
    old.close()
    log, replicas = longer(), opened(tmp_path)
    assert replicas.store.index.genesis("p") == b"\0"
    replicas.adopt(log.pid, log.head(), log.entries)
    assert replicas.store.index.genesis(log.pid) == log.entries[0]
    assert replicas.store.index.rows("SELECT content FROM block") == [(b"\x02",)]
    assert replicas.view(log.pid).find("llama", "1.2") is not None


@pytest.mark.parametrize("what", ["tile/entries/000", "tile/0/000", "tile/entries/001.p/9"])
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_damaged_log_is_noticed_and_mended(tmp_path: Path, what: str, how: str) -> None:
    """Files of a log that are gone or changed: nothing wrong is said, and all entries again make it whole."""
    log = longer()
    opened(tmp_path).adopt(log.pid, log.head(), log.entries)
    path = opened(tmp_path).folder(log.pid).path / what
    content = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(content.replace(content[3000:3004], b"EVIL"))
    for file in tmp_path.glob("index.sqlite*"):
        file.unlink()
    replicas = opened(tmp_path)
    assert not replicas.intact(log.pid)
    if "entries" in what:
        with pytest.raises(UnavailableError) as caught:
            replicas.view(log.pid)
        assert caught.value.hint
        assert opened(tmp_path).damaged(log.pid)
    other = log.fork(200)
    other.entries += [b"{}"] * 80
    with pytest.raises(ModelnetError):
        replicas.adopt(log.pid, other.head(), other.entries, first=0)
    replicas.adopt(log.pid, log.head(), log.entries, first=0)
    assert path.read_bytes() == content
    assert opened(tmp_path).intact(log.pid)
    assert not opened(tmp_path).damaged(log.pid)
    assert opened(tmp_path).view(log.pid).find("llama", "1.2") is not None


def test_a_damaged_revocation_is_not_passed_over(tmp_path: Path) -> None:
    """A revocation from outside the log that cannot be read any more is an error, not a pardon."""
    log, replicas = longer(), opened(tmp_path)
    replicas.adopt(log.pid, log.head(3), log.entries[:3])
    revocation = replicas.add_negative(log.pid, log.entries[263])
    path = tmp_path / "logs" / log.pid / "negatives" / revocation.statement.hex()
    path.write_bytes(path.read_bytes().replace(b"sig", b"gis"))
    for file in tmp_path.glob("index.sqlite*"):
        file.unlink()
    with pytest.raises(UnavailableError, match="damaged") as caught:
        opened(tmp_path).view(log.pid)
    assert caught.value.path == str(path)


def test_a_long_log_arrives_in_one_stream(tmp_path: Path) -> None:
    """First contact with 11,000 entries whose log keys were replaced on the way: taken as they come, kept nowhere."""
    log, size = Log(), 11_000
    log.add(events.Keys(log.pid, log=role("log 2")), "root")

    def stream() -> Iterator[bytes]:
        for index in range(size):
            if index == 2:
                assert not opened(tmp_path).known(log.pid), "nothing is visible before the head was reached"
            yield log.entries[index] if index < 2 else b'{"index":%d}' % index

    entries = list(stream())
    log.entries = entries
    note: SignedNote = log.head(by="log 2")
    with pytest.raises(ModelnetError, match="at once"):
        opened(tmp_path).adopt(log.pid, note, stream())
    for number in range(10):  # an entry that counts every now and then: it has to be the publisher's
        log.entries[1000 * number + 500] = log.fork(1).release("llama", str(number))
    for number in range(8_000, size):
        log.entries[number] = log.fork(1).release("llama", f"9.{number}")
    note = log.head(by="log 2")
    adoption = opened(tmp_path).adopt(log.pid, note, iter(log.entries))
    assert adoption.size == size
    assert opened(tmp_path).view(log.pid).find("llama", "9.10999") is not None


def test_who_watches_a_log_sees_every_change_at_once(tmp_path: Path) -> None:
    """However quickly changes follow each other, one reader in another process's place misses none."""
    log, reader = longer(), opened(tmp_path)
    opened(tmp_path).adopt(log.pid, log.head(3), log.entries[:3])
    for number in range(4, 40):
        opened(tmp_path).adopt(log.pid, log.head(number), log.entries[number - 1 : number])
        assert reader.standing(log.pid).size == number
        event = events.Revoke(log.pid, (digests("llama", "1.0"),), "broken", str(number))
        opened(tmp_path).add_negative(log.pid, log.fork(1).add(event, "release"))
        assert len(reader.view(log.pid).revocations_of(digests("llama", "1.0"))) == number - 3
        opened(tmp_path).adopt(log.pid, log.head(number, time=T0 - 1000 + number))
        known = reader.standing(log.pid).knowledge
        assert known is not None
        assert known.time == T0 - 1000 + number


def test_making_one_reads_nothing(tmp_path: Path) -> None:
    """A store that is not there yet is not made by looking at it."""
    replicas = Replicas(open_store(tmp_path / "none"))
    assert not replicas.known("a" * 52)
    assert not (tmp_path / "none").exists()
