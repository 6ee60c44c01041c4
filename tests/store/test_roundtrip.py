"""What is published at one machine and pulled at another is the same, byte for byte, or is refused with the reason."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelnet import IntegrityError, ModelnetError, Publication, Pulled, UnavailableError, UsageError, verify
from modelnet.progress import SILENT, Progress
from modelnet.signed import find_release, open_manifest
from modelnet.stores.local import open_store
from tests.realmodels import MODELS, need
from tests.store.stage import Machine, digests, same_files, serving, write_random

MIB = 1 << 20


@pytest.fixture
def alice(tmp_path: Path) -> Machine:
    """Give a machine with a publisher."""
    return Machine(tmp_path / "alice").with_publisher("acme")


@pytest.fixture
def bob(tmp_path: Path) -> Machine:
    """Give a machine that has nothing."""
    return Machine(tmp_path / "bob")


def carried(alice: Machine, bob: Machine, source: Path, **options: object) -> tuple[Publication, Pulled]:
    """Publish `source` at alice, pull it at bob, and check that every byte and every digest came along."""
    made = alice.publish(source, **options)
    with serving(alice.home) as url:
        got = bob.pull(made.locator, url)
    wanted = digests(source) if source.is_dir() else {source.name: hashlib.sha256(source.read_bytes()).hexdigest()}
    assert digests(got.path) == wanted
    assert {entry.path: entry.sha256.hex() for entry in got.manifest.files} == wanted
    assert verify(got.path, home=bob.home).size == got.plan.total
    return made, got


def nothing_recorded(machine: Machine) -> None:
    """Assert that no release, file, chunk or block is in the index."""
    index = open_store(machine.home).index
    assert index.releases() == []
    assert index.files() == []
    assert index.block_cids() == []


# Real models.


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_comes_back_byte_for_byte(alice: Machine, bob: Machine, name: str) -> None:
    """Models of every format, from 100 kB to 98 MB."""
    carried(alice, bob, need(name))
    alice.fsck()
    bob.fsck()


def test_the_fixed_plan_comes_back_too(alice: Machine, bob: Machine) -> None:
    """`fixed-1m` cuts every file at each MiB, and says so in the manifest."""
    made, _ = carried(alice, bob, need("silero-6.0.0"), plan="fixed-1m")
    assert {entry.plan for entry in made.manifest.files} == {"fixed-1m"}


# Folders of every shape.


def test_names_contents_and_nesting_of_every_kind(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """Empty files, nested and hidden ones, Unicode, spaces, dashes, the longest names."""
    source = tmp_path / "odd"
    for number, name in enumerate([
        "empty",
        "nested/also-empty.bin",
        "with space/two  spaces .x",
        "-rf",
        "--help",
        ".hidden/.file",
        "模型/naïve café/🦙.safetensors",
        "क्षि/שלום.bin",
        "n" * 255,
        "é" * 127 + "x",
        "/".join("d" * 200) + "/leaf",
        "/".join(["folder"] * 100) + "/leaf",
        "100%25/a&b;c'd`e$f(g)[h]{i}#j=k+l,m~n!o@p^q",
        "lone.gguf",
    ]):  # fmt: skip
        write_random(source / name, 0 if "empty" in name else number * 1000 + 1, seed=number)
    carried(alice, bob, source)


def test_ten_thousand_small_files(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """They come back, and nobody waits long."""
    source = tmp_path / "many"
    for number in range(10_000):
        path = source / f"d{number % 100}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * (number % 300 + 1))
    started = time.monotonic()
    made = alice.run("publish", source, "--name", "many", "--version", "1", "--json")
    with alice.node() as url:
        got = bob.run("pull", made.json["locator"], "--peer", url, "--json")
    elapsed = time.monotonic() - started
    same_files(source, Path(got.json["path"]))
    assert elapsed < 60, f"{elapsed:.1f} s"  # about 12 s on four idle cores; the bound is for busy ones


def test_only_an_empty_file(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """A release of no bytes is a release."""
    _, got = carried(alice, bob, write_random(tmp_path / "m" / "nothing", 0).parent)
    assert got.plan.total == 0


def test_a_single_file(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """A file can be published without the folder around it."""
    write_random(tmp_path / "m" / "not-part-of-it", 10)
    carried(alice, bob, write_random(tmp_path / "m" / "- a model.bin", 3 * MIB + 1))
    alice.fsck()


def test_a_path_that_begins_with_a_dash(tmp_path: Path, alice: Machine) -> None:
    """`--` ends the options, as everywhere."""
    write_random(tmp_path / "-m" / "w.bin", 10)
    made = alice.run("publish", "--name", "m", "--version", "1", "--json", "--", "-m", cwd=tmp_path)
    assert [file["path"] for file in made.json["files"]] == ["w.bin"]


def test_hard_links_and_read_only_sources(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """Two names of one inode are two files of a release; a folder nobody may write to can be published."""
    source = tmp_path / "m"
    first = write_random(source / "one.bin", 2 * MIB)
    (source / "two.bin").hardlink_to(first)
    first.chmod(0o444)
    source.chmod(0o555)
    try:
        made = alice.held_to_permissions().run("publish", source, "--name", "m", "--version", "1", "--json")
        with serving(alice.home) as url:
            got = bob.pull(made.json["locator"], url)
    finally:
        source.chmod(0o755)
    same_files(source, got.path)
    assert made.json["chunks"]["bytes"] == got.plan.fetched == 2 * MIB  # the second name costs nothing


def test_a_sparse_gigabyte_of_zeros(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """One chunk is fetched, however many places it belongs to."""
    source = tmp_path / "m" / "zeros.bin"
    source.parent.mkdir()
    with source.open("wb") as file:
        file.truncate(1 << 30)
    made = alice.publish(source.parent)
    with serving(alice.home) as url:
        got = bob.pull(made.locator, url)
    assert got.plan.fetched <= 2 * MIB
    assert verify(got.path, home=bob.home).size == 1 << 30
    shutil.rmtree(bob.home)


# What cannot be in a release.


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path, alice: Machine) -> None:
    """On macOS and Windows they would be one file; the message names both."""
    for name in ("Model.bin", "model.bin"):
        write_random(tmp_path / "m" / name, 10)
    if len(digests(tmp_path / "m")) == 1:
        pytest.skip("this file system folds case")
    with pytest.raises(UsageError, match=r"differ only in case: 'Model.bin' and 'model.bin'") as caught:
        alice.publish(tmp_path / "m")
    assert caught.value.rule == "path"
    nothing_recorded(alice)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\\b", "holds"),
        ("con.txt", "device name"),
        ("ends.", "ends in a dot"),
        ("e\u0301", "normal form"),
        ("a\nb", "holds"),
        (b"\xff\xfe.bin", "not valid Unicode"),
        ("/".join(["x" * 250] * 5), "bytes"),
    ],
)
def test_a_name_that_some_system_cannot_hold_is_refused(
    tmp_path: Path, alice: Machine, name: str | bytes, reason: str
) -> None:
    """With the name and the reason, as words and as JSON."""
    write_random(tmp_path / "m" / os.fsdecode(name), 10)
    done = alice.run("publish", tmp_path / "m", "--name", "m", "--version", "1", "--json", wanted=2)
    assert done.error["kind"] == "usage"
    assert done.error["rule"] == "path"
    assert reason in done.error["message"]
    assert reason in alice.run("publish", tmp_path / "m", "--name", "m", "--version", "1", wanted=2).err
    nothing_recorded(alice)


def test_folders_without_end_are_refused(tmp_path: Path, alice: Machine) -> None:
    """A tree deeper than any path may be is a refusal, not an exhausted stack."""
    top = tmp_path / "m"
    top.mkdir()
    handle = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)
    try:
        with pytest.raises(UsageError, match="too long") as caught:
            alice.publish(top)
    finally:
        subprocess.run(["rm", "-rf", top], check=True)  # rmtree of this Python is recursive
    assert caught.value.rule == "path"
    nothing_recorded(alice)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(path.parent)  # the address has room for 108 bytes
        try:
            bound.bind(path.name)
        finally:
            os.chdir(here)


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.parametrize("make", [_fifo, _socket, _device])
@pytest.mark.parametrize("alone", [False, True], ids=["in a folder", "alone"])
def test_special_files_are_refused(
    tmp_path: Path, alice: Machine, make: Callable[[Path], None], *, alone: bool
) -> None:
    """Nothing waits for a writer that never comes, and no device is read."""
    write_random(tmp_path / "m" / "model.bin", 10)
    make(tmp_path / "m" / "special")
    with pytest.raises(UsageError) as caught:
        alice.publish(tmp_path / "m" / "special" if alone else tmp_path / "m")
    assert caught.value.rule == "file-type"
    nothing_recorded(alice)


@pytest.mark.parametrize("target", ["model.bin", "missing", "/etc/passwd", "..", "."])
def test_symbolic_links_are_refused(tmp_path: Path, alice: Machine, target: str) -> None:
    """To a file, to nothing, out of the folder, to a folder: all alike, and the message names the link."""
    write_random(tmp_path / "m" / "model.bin", 10)
    (tmp_path / "m" / "link").symlink_to(target)
    with pytest.raises(UsageError) as caught:
        alice.publish(tmp_path / "m")
    assert (caught.value.rule, caught.value.path) == ("symlink", "link")
    nothing_recorded(alice)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_read_is_named(tmp_path: Path, alice: Machine, what: str) -> None:
    """A file or folder without permission: exit 5, its name, and nothing recorded."""
    path = write_random(tmp_path / "m" / "closed" / "model.bin", 10)
    closed = path if what == "file" else path.parent
    closed.chmod(0)
    try:
        done = alice.held_to_permissions().run(
            "publish", tmp_path / "m", "--name", "m", "--version", "1", "--json", wanted=5
        )
    finally:
        closed.chmod(0o755)
    assert done.error["rule"] == "read"
    assert done.error["path"].endswith("closed/model.bin" if what == "file" else "closed")
    nothing_recorded(alice)


def test_an_empty_folder_is_refused(tmp_path: Path, alice: Machine) -> None:
    """There is nothing to sign."""
    (tmp_path / "m" / "empty").mkdir(parents=True)
    with pytest.raises(UsageError, match="no files"):
        alice.publish(tmp_path / "m")


# Files that change meanwhile.


class Meddler:
    """A watcher that runs `edit` once, at a moment of publishing."""

    def __init__(self, moment: str, edit: Callable[[], None]) -> None:
        self._moment = moment
        self._edit: Callable[[], None] | None = edit
        self._lock = threading.Lock()
        self._seen = self._total = 0

    def _at(self, moment: str) -> None:
        with self._lock:
            if moment == self._moment and self._edit is not None:
                self._edit()
                self._edit = None

    def begin(self, _phase: str, total: int) -> None:
        """The first moment."""
        self._total = total
        self._at("before the first byte")

    def advance(self, _source: str, count: int) -> None:
        """Each window."""
        self._seen += count
        self._at("after the first window")
        if self._seen == self._total:
            self._at("after the last byte")

    def note(self, text: str) -> None:
        """Nothing to say."""

    def end(self) -> None:
        """The last moment."""
        self._at("before signing")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    """Write other bytes of the same length and put the times back, as a tool that means well does."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        file.write(b"other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(path: Path) -> None:
    """Put another file of the same size and times in its place."""
    status = path.stat()
    other = write_random(path.parent.parent / "other", status.st_size, seed=99)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _unlink(path: Path) -> None:
    path.unlink()


CHANGES = [_append, _rewrite, _replace, _truncate, _unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moment", ["after the first window", "after the last byte", "before signing"])
def test_a_file_that_changes_while_it_is_hashed_is_refused(
    tmp_path: Path, alice: Machine, change: Callable[[Path], None], moment: str
) -> None:
    """Whatever changed and when: rule `changed`, and neither the release nor a chunk of it is recorded."""
    path = write_random(tmp_path / "m" / "model.bin", 20 * MIB)
    with pytest.raises(IntegrityError) as caught:
        alice.publish(tmp_path / "m", progress=Meddler(moment, lambda: change(path)))
    assert (caught.value.rule, caught.value.path) == ("changed", "model.bin")
    nothing_recorded(alice)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_another_is_hashed_is_refused(
    tmp_path: Path, alice: Machine, change: Callable[[Path], None]
) -> None:
    """A small file that was hashed first and changed last is noticed before anything is recorded."""
    small = write_random(tmp_path / "m" / "config.json", 1000)
    write_random(tmp_path / "m" / "model.bin", 9 * MIB)
    with pytest.raises(IntegrityError) as caught:
        alice.publish(tmp_path / "m", progress=Meddler("before signing", lambda: change(small)))
    assert (caught.value.rule, caught.value.path) == ("changed", "config.json")
    nothing_recorded(alice)


def test_a_small_file_that_shrinks_under_the_reader_is_refused(
    tmp_path: Path, alice: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its size and its bytes: still `changed`, not a malformed file."""
    path = write_random(tmp_path / "m" / "config.json", 1000)
    real = os.fstat

    def shrinking(handle: int) -> os.stat_result:
        status = real(handle)
        if status.st_size == 1000:
            os.truncate(path, 10)
        return status

    monkeypatch.setattr("os.fstat", shrinking)
    with pytest.raises(IntegrityError) as caught:
        alice.publish(tmp_path / "m")
    assert caught.value.rule == "changed"
    monkeypatch.undo()
    nothing_recorded(alice)


@pytest.mark.parametrize("moment", ["before the first byte", "after the first window", "before signing"])
def test_a_folder_that_vanishes_is_refused(tmp_path: Path, alice: Machine, moment: str) -> None:
    """Nothing hangs and nothing is recorded."""
    write_random(tmp_path / "m" / "a.bin", 20 * MIB)
    write_random(tmp_path / "m" / "b" / "c.bin", 10)
    with pytest.raises((IntegrityError, UnavailableError)):
        alice.publish(tmp_path / "m", progress=Meddler(moment, lambda: shutil.rmtree(tmp_path / "m")))
    nothing_recorded(alice)


def test_a_watcher_that_fails_ends_the_work(tmp_path: Path, alice: Machine) -> None:
    """An error in the watcher's own code reaches its owner; nothing is recorded."""

    def fail() -> None:
        raise RuntimeError("the watcher's own")

    write_random(tmp_path / "m" / "a.bin", 20 * MIB)
    with pytest.raises(RuntimeError, match="own"):
        alice.publish(tmp_path / "m", progress=Meddler("after the first window", fail))
    nothing_recorded(alice)


# Versions.


def test_publishing_the_same_again_changes_nothing(tmp_path: Path, alice: Machine) -> None:
    """Same files, same name, same version: the same locator, and no new chunk."""
    write_random(tmp_path / "m" / "a.bin", 3 * MIB)
    first = alice.publish(tmp_path / "m")
    again = alice.publish(tmp_path / "m")
    assert again.locator == first.locator
    assert again.release.envelope.encoded == first.release.envelope.encoded
    assert (again.chunks.new, first.chunks.new) == (0, first.chunks.count)
    assert len(open_store(alice.home).index.releases()) == 1


def test_a_version_never_changes_its_bytes(tmp_path: Path, alice: Machine) -> None:
    """Other files under a version that exists are refused, and the first release stays as it was."""
    path = write_random(tmp_path / "m" / "a.bin", 1000)
    first = alice.publish(tmp_path / "m")
    kept = path.read_bytes()
    write_random(path, 1000, seed=2)
    with pytest.raises(UsageError) as caught:
        alice.publish(tmp_path / "m")
    assert caught.value.rule == "version-exists"
    path.write_bytes(kept)
    assert find_release(open_store(alice.home), "acme/m@1").manifest == first.release.manifest


def test_each_version_names_the_one_before_as_its_parent(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """The manifest carries the earlier manifest's CID, also after a pull."""
    path = write_random(tmp_path / "m" / "a.bin", 1000)
    first = alice.publish(tmp_path / "m", version="1")
    path.rename(tmp_path / "m" / "b.bin")
    second, got = carried(alice, bob, tmp_path / "m", version="2")
    assert "parents" not in first.manifest.extra
    assert [str(parent) for parent in second.manifest.extra["parents"]] == [str(first.release.manifest)]
    assert got.manifest.extra["parents"] == second.manifest.extra["parents"]


def test_lineage_is_signed_with_the_release(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """`derived_from` names the base's publisher, manifest and the relation; half of it is refused."""
    base = alice.publish(write_random(tmp_path / "base" / "a.bin", 1000).parent, name="base")
    source = write_random(tmp_path / "m" / "b.bin", 1000).parent
    for half in (
        {"derived_from": "acme/base@1"},
        {"relation": "merge"},
        {"derived_from": "acme/base", "relation": "x"},
    ):
        with pytest.raises(UsageError) as caught:
            alice.publish(source, **half)
        assert caught.value.rule == "lineage"
    _, got = carried(alice, bob, source, derived_from="acme/base@1", relation="quantized")
    (lineage,) = got.manifest.extra["derived_from"]
    assert (lineage["pid"], lineage["relation"]) == (base.release.pid, "quantized")
    assert str(lineage["manifest"]) == str(base.release.manifest)


def test_a_base_that_is_not_here_is_refused(tmp_path: Path, alice: Machine) -> None:
    """Lineage that nobody could check is not signed."""
    write_random(tmp_path / "m" / "b.bin", 10)
    with pytest.raises(ModelnetError):
        alice.publish(tmp_path / "m", derived_from="acme/nothing@1", relation="merge")
    nothing_recorded(alice)


# Pulling.


def test_some_files_first_and_the_rest_later(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """`only` brings some files; a later pull of all fetches just the others."""
    write_random(tmp_path / "m" / "a.bin", 2 * MIB)
    write_random(tmp_path / "m" / "sub" / "b.txt", 1000, seed=2)
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url:
        part = bob.pull(made.locator, url, only=["sub/*"])
        assert list(digests(part.path)) == ["sub/b.txt"]
        whole = bob.pull(made.locator, url)
    same_files(tmp_path / "m", whole.path)
    assert whole.plan.fetched == 2 * MIB
    bob.fsck()


@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
def test_a_chosen_folder(tmp_path: Path, alice: Machine, bob: Machine, *, exists: bool) -> None:
    """`to` holds the files and nothing else, whether the folder was new or there and empty."""
    write_random(tmp_path / "m" / "a.bin", 2 * MIB)
    write_random(tmp_path / "m" / "sub" / "b.txt", 1000)
    target = tmp_path / "somewhere" / "t"
    if exists:
        target.mkdir(parents=True)
        inode = target.stat().st_ino
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url:
        got = bob.pull(made.locator, url, to=target)
    assert got.path == target
    same_files(tmp_path / "m", target)
    assert os.listdir(target.parent) == ["t"]  # noqa: PTH208
    if exists:
        assert target.stat().st_ino == inode  # a shell may stand in it
    bob.fsck()


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """What modelnet did not put there it does not touch."""
    write_random(tmp_path / "m" / "a.bin", 10)
    theirs = write_random(tmp_path / "t" / "a.bin", 10, seed=5)
    kept = theirs.read_bytes()
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url, pytest.raises(UsageError) as caught:
        bob.pull(made.locator, url, to=tmp_path / "t")
    assert caught.value.rule == "destination"
    assert theirs.read_bytes() == kept
    assert digests(tmp_path / "t").keys() == {"a.bin"}


def test_a_pull_can_be_served_on(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """Who pulled becomes a source: a third machine gets everything while the first is off."""
    write_random(tmp_path / "m" / "a.bin", 2 * MIB)
    made = alice.publish(tmp_path / "m")
    with serving(alice.home) as url:
        bob.pull(made.locator, url)
    carol = Machine(tmp_path / "carol")
    with serving(bob.home) as url:
        got = carol.pull(made.locator, url)
    same_files(tmp_path / "m", got.path)


def test_whole_processes_carry_a_model(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """`modelnet publish`, `node`, `pull` and `verify` as a person runs them."""
    source = write_random(tmp_path / "m" / "a.bin", 5 * MIB).parent
    made = alice.run("publish", source, "--name", "m", "--version", "1", "--json").json
    with alice.node() as url:
        got = bob.run("pull", made["locator"], "--peer", url, "--json").json
    same_files(source, Path(got["path"]))
    assert got["bytes"] == {"total": 5 * MIB, "fetched": 5 * MIB, "reused": 0, "present": 0}
    assert bob.run("verify", got["path"], "--json").json["bytes"] == 5 * MIB


def test_the_manifest_is_the_same_wherever_it_is_made(tmp_path: Path, alice: Machine) -> None:
    """Chunks, tree and digests are a function of the bytes: another machine cuts and hashes alike."""
    source = write_random(tmp_path / "m" / "a.bin", 5 * MIB).parent
    other = Machine(tmp_path / "other").with_publisher()
    copied = shutil.copytree(source, tmp_path / "copy")
    one, two = alice.publish(source), other.publish(copied)
    assert one.manifest == two.manifest
    assert open_manifest(open_store(alice.home), one.release) == two.manifest


def test_progress_is_told_every_byte(tmp_path: Path, alice: Machine, bob: Machine) -> None:
    """What the bars draw adds up to the size."""
    counted: dict[str, int] = {}

    class Counter:
        def begin(self, phase: str, total: int) -> None:
            self.phase = phase
            counted[f"{phase} total"] = total

        def advance(self, _source: str, count: int) -> None:
            counted[self.phase] = counted.get(self.phase, 0) + count

        def note(self, text: str) -> None:
            pass

        def end(self) -> None:
            pass

    watcher: Progress = Counter()
    assert SILENT is not watcher
    write_random(tmp_path / "m" / "a.bin", 20 * MIB)
    made = alice.publish(tmp_path / "m", progress=watcher)
    with serving(alice.home) as url:
        bob.pull(made.locator, url, progress=watcher)
    assert counted == {"hashing total": 20 * MIB, "hashing": 20 * MIB, "fetching total": 20 * MIB, "fetching": 20 * MIB}
