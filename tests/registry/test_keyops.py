"""Keys of a publisher over its life: rotated, taken offline, recovered, delegated; and the end of a log."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelnet import ModelnetError, TrustError, UnavailableError, UsageError, init, publish
from modelnet.core.adoption import check_head
from modelnet.core.fold import origin_of
from modelnet.stores.home import Home
from modelnet.stores.keyring import Keyring, key_file, load_keyring, write_keyring
from modelnet.stores.peers import add_peers
from modelnet_registry.keyops import (
    close,
    delegate,
    export_keys,
    import_keys,
    list_keys,
    make_delegate_key,
    recover,
    rotate_keys,
    rotate_root,
)  # fmt: skip
from modelnet_registry.log.fsck import check_logs
from tests.registry.log.stage import Desk, parsed
from tests.store.faults import Fault, counted, failing
from tests.store.stage import serving, write_random

WORDS, STICK = "open sesame", "on a stick"


class Publisher:
    """A publisher made through the public functions; `sheet` is the newest recovery sheet."""

    def __init__(self, path: Path, **options: Any) -> None:
        """Make it in `path`."""
        made = init(home=path / "home", **options)
        self.pid, self.home, self.sheet = made.pid, made.home, list(made.next_seeds)
        self.model = write_random(path / "model" / "a.bin", 1000).parent

    @property
    def desk(self) -> Desk:
        """The publisher's log."""
        return Desk.at(self.home)

    def show(self, seeds: Any) -> None:
        """Write down a new sheet."""
        self.sheet = list(seeds)

    def publish(self, version: str, name: str = "m", **options: Any) -> Any:
        """Publish the model."""
        return publish(self.model, name=name, version=version, home=self.home, **options)

    def check(self) -> None:
        """Assert that the log is whole, that nothing in it is inert, and that its head is signed as it must be."""
        desk = self.desk
        assert check_logs(self.home) == []
        assert desk.state.inert == []
        check_head(desk.state, desk.head)
        self.publish(f"after-{desk.state.size}")


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    """Give a lone maintainer."""
    return Publisher(tmp_path)


@pytest.fixture
def company(tmp_path: Path) -> Publisher:
    """Give an organisation: 2 of 3 root keys, 2 of 3 next keys, 2 of 2 release keys."""
    return Publisher(
        tmp_path, root_keys=3, root_threshold=2, next_keys=3, next_threshold=2, release_keys=2, release_threshold=2
    )


@pytest.mark.parametrize("roles", [["release"], ["log"], ["beat"], ["release", "log", "beat"]])
def test_rotate_keys(acme: Publisher, roles: list[str]) -> None:
    """New keys are in force, the old ones are out of force, and publishing goes on."""
    acme.publish("1")
    before = acme.desk.state
    done = rotate_keys(roles, home=acme.home)
    after = acme.desk.state
    assert done.index == 2
    for role in ("release", "log", "beat"):
        assert (getattr(before, role) != getattr(after, role)) == (role in roles)
    acme.check()
    rotate_keys(roles, home=acme.home)
    acme.check()


def test_heads_carry_both_log_keys(acme: Publisher) -> None:
    """After a rotation a follower who knows the old log key still recognizes the head; three old keys are kept."""
    old = acme.desk.state.log_keys()
    for number in range(5):
        rotate_keys(["log"], home=acme.home)
        acme.publish(str(number))
        head = acme.desk.head
        lines = [line for line in head.signatures if line.name == acme.desk.state.origin]
        assert len(lines) == min(number + 2, 4)
        if number < 3:
            assert head.verify(old)
    with pytest.raises(TrustError):
        head.verify(old)


def test_list_keys(acme: Publisher) -> None:
    """Which keys there are, in force or not, here or not."""
    rotate_keys(["log"], home=acme.home)
    rows = list_keys(home=acme.home)
    assert [(row.role, row.here, row.in_force) for row in rows] == [
        ("root", True, True), ("release", True, True), ("log", True, True), ("log", True, False), ("beat", True, True),
        ("next", False, True),
    ]  # fmt: skip


def test_rotate_root(acme: Publisher) -> None:
    """The sheet takes over and a new sheet is shown; the old root key and the old sheet are worth nothing then."""
    acme.publish("1")
    first, old = list(acme.sheet), acme.desk.keys
    rotate_root(first, show=acme.show, home=acme.home)
    assert acme.desk.state.root_version == 2
    assert acme.sheet != first
    acme.check()
    with pytest.raises(UsageError) as caught:
        rotate_root(["ab" * 32], show=acme.show, home=acme.home)
    assert caught.value.rule == "next"
    rotate_root(acme.sheet, show=acme.show, home=acme.home)
    assert acme.desk.state.root_version == 3
    acme.check()
    write_keyring(key_file(acme.home.keys, acme.pid), old, None)
    with pytest.raises(UsageError, match="root keys"):
        rotate_keys(["release"], home=acme.home)


def test_root_that_stays_on_the_sheet(acme: Publisher) -> None:
    """With `keep` false the new root key is nowhere in this store; a file of it makes it work."""
    seeds = list(acme.sheet)
    rotate_root(seeds, show=acme.show, keep=False, home=acme.home)
    assert not acme.desk.keys.of("root")
    acme.publish("1")
    with pytest.raises(UsageError, match="root keys"):
        rotate_keys(["release"], home=acme.home)


def test_offline_root(acme: Publisher, tmp_path: Path) -> None:
    """Exported, the key is gone here; commands take it from its file, and it can come back."""
    usb = tmp_path / "usb.json"
    (keyid,) = export_keys("root", usb, file_passphrase=STICK, home=acme.home)
    assert acme.desk.keys.of("root") == ()
    acme.publish("1")
    with pytest.raises(UsageError) as caught:
        rotate_keys(["release"], home=acme.home)
    assert caught.value.rule == "keys"
    with pytest.raises(UsageError, match="locked"):
        rotate_keys(["release"], key_files=[usb], home=acme.home)
    rotate_keys(["release"], key_files=[usb], passphrase=STICK, home=acme.home)
    assert acme.desk.keys.of("root") == (), "using it does not bring it back"
    acme.check()
    with pytest.raises(UsageError, match="already"):
        export_keys("release", usb, home=acme.home)
    import_keys(usb, file_passphrase=STICK, home=acme.home)
    assert acme.desk.keys.of("root")[0].verify_key.keyid == keyid
    assert b"seeds" not in usb.read_bytes()


def test_sealed_keys_stay_sealed(tmp_path: Path) -> None:
    """Every change of a sealed key file leaves it sealed with the same passphrase."""
    acme = Publisher(tmp_path, passphrase=WORDS)
    rotate_keys(["release"], passphrase=WORDS, home=acme.home)
    assert b"seeds" not in key_file(acme.home.keys, acme.pid).read_bytes()
    with pytest.raises(UsageError):
        rotate_keys(["release"], home=acme.home)
    acme.publish("1", passphrase=WORDS)


def test_thresholds(company: Publisher, tmp_path: Path) -> None:
    """2 of 3 root keys, each in a file of its own: two files are enough, one is not."""
    rows = [row.keyid for row in list_keys(home=company.home) if row.role == "root"]
    files = [tmp_path / f"root-{number}" for number in range(3)]
    for file, keyid in zip(files, rows, strict=True):
        export_keys("root", file, keyids=[keyid], home=company.home)
    company.publish("1")
    with pytest.raises(UsageError) as caught:
        rotate_keys(["log"], key_files=files[:1], home=company.home)
    assert (caught.value.wanted, caught.value.got) == ("2 of 3", 1)
    rotate_keys(["log"], key_files=files[1:], home=company.home)
    company.check()


def test_release_threshold(company: Publisher, tmp_path: Path) -> None:
    """2 of 2 release keys: with one of them elsewhere nothing is hashed for nothing."""
    second = list_keys(home=company.home)[4].keyid
    export_keys("release", tmp_path / "second", keyids=[second], home=company.home)
    with pytest.raises(UsageError, match="release keys"):
        company.publish("1")
    made = company.publish("1", key_files=[tmp_path / "second"])
    assert len(made.release.envelope.signatures) == 2
    assert company.desk.state.find("m", "1") is not None


def test_threshold_recovery(company: Publisher) -> None:
    """2 of 3 lines of the sheet recover; one line does not."""
    company.publish("1")
    with pytest.raises(UsageError) as caught:
        recover(company.sheet[:1], show=company.show, home=company.home)
    assert caught.value.rule == "next"
    recover(company.sheet[1:], show=company.show, home=company.home)
    assert len(company.sheet) == 3
    company.desk.check()
    assert company.desk.state.epoch == 1
    assert company.desk.state.root.threshold == 2


@pytest.mark.parametrize("options", [
    {"root_keys": 2, "root_threshold": 3}, {"next_keys": 0}, {"release_threshold": 0}, {"root_keys": 17},
])  # fmt: skip
def test_thresholds_that_cannot_be(tmp_path: Path, options: dict[str, int]) -> None:
    """Refused before any key is drawn."""
    with pytest.raises(UsageError) as caught:
        init(home=tmp_path, **options)
    assert caught.value.rule == "threshold"
    assert not (tmp_path / "keys").exists()


class TestRecover:
    """The sheet chooses the good prefix."""

    def test_the_whole_log(self, acme: Publisher) -> None:
        """By default nothing is dropped; the epoch is a new one."""
        acme.publish("1")
        done = recover(acme.sheet, show=acme.show, home=acme.home)
        assert done.head.origin == origin_of(acme.pid, 1)
        assert acme.desk.state.find("m", "1") is not None
        acme.check()
        recover(acme.sheet, show=acme.show, home=acme.home)
        assert acme.desk.state.epoch == 2
        acme.check()

    def test_a_prefix(self, acme: Publisher) -> None:
        """What is dropped is gone from the new epoch, kept in the old one's folder, and may be issued again."""
        acme.publish("1")
        acme.publish("2")
        good = acme.publish("3")
        recover(acme.sheet, show=acme.show, size=2, reissue=[good.index], home=acme.home)
        state = acme.desk.state
        assert [logged.event.release.version for logged in state.releases] == ["1", "3"]
        assert acme.home.log(acme.pid, 0).exists()
        acme.check()

    def test_stolen_online_keys(self, acme: Publisher) -> None:
        """Log, release and beat keys are renewed in the same head."""
        acme.publish("1")
        before = acme.desk.state
        recover(acme.sheet, show=acme.show, renew=["release", "log", "beat"], home=acme.home)
        after = acme.desk.state
        assert not {key for role in (before.release, before.log, before.beat) for key in role.keys} & {
            key for role in (after.release, after.log, after.beat) for key in role.keys
        }
        acme.check()

    def test_a_lost_log_key(self, acme: Publisher) -> None:
        """Without the log key nothing is written; the sheet makes a new one."""
        keyring = load_keyring(acme.home.keys, acme.pid, None)
        write_keyring(key_file(acme.home.keys, acme.pid), keyring.without("log"), None)
        with pytest.raises(UsageError):
            acme.publish("1")
        recover(acme.sheet, show=acme.show, renew=["log"], home=acme.home)
        acme.check()

    def test_nonsense(self, acme: Publisher) -> None:
        """Sizes that never were, entries that were not dropped, lines that are none."""
        for options in ({"size": 0}, {"size": 9}, {"reissue": [7]}, {"renew": ["root"]}):
            with pytest.raises(ModelnetError):
                recover(acme.sheet, show=acme.show, home=acme.home, **options)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            recover(["xyz"], show=acme.show, home=acme.home)
        assert acme.desk.state.size == 1

    def test_a_takeover_is_never_dropped(self, acme: Publisher) -> None:
        """A spent sheet cannot choose a prefix before its own takeover: followers of the other branch would give up."""
        acme.publish("1")
        first = list(acme.sheet)
        rotate_root(first, show=acme.show, home=acme.home)
        for sheet, rule in ((first, "next"), (acme.sheet, "recover")):
            with pytest.raises(UsageError) as caught:
                recover(sheet, show=acme.show, size=2, home=acme.home)
            assert caught.value.rule == rule
        assert (acme.desk.state.size, acme.desk.state.epoch) == (3, 0)
        acme.check()

    def test_a_sheet_that_rotated_has_not_recovered(self, acme: Publisher) -> None:
        """What the sheet did is said; it is no success of something else."""
        first = list(acme.sheet)
        rotate_root(first, show=acme.show, home=acme.home)
        with pytest.raises(UsageError) as caught:
            recover(first, show=acme.show, home=acme.home)
        assert caught.value.rule == "next"
        second = list(acme.sheet)
        done = recover(second, show=acme.show, home=acme.home)
        assert recover(second, show=acme.show, home=acme.home) == done
        with pytest.raises(UsageError):
            recover(second, show=acme.show, size=1, home=acme.home)
        with pytest.raises(UsageError):
            rotate_root(second, show=acme.show, home=acme.home)

    def test_threat_33_a_recovery_made_elsewhere_is_not_made_again(self, acme: Publisher, tmp_path: Path) -> None:
        """A restored backup with the spent sheet takes over what peers have, or refuses: no second takeover."""
        acme.publish("1")
        backup = tmp_path / "backup"
        shutil.copytree(acme.home.root, backup)
        spent = list(acme.sheet)
        recover(spent, show=acme.show, home=acme.home)
        acme.publish("2")
        head, origin = acme.desk.head, acme.desk.state.origin
        with pytest.raises(TrustError) as caught:
            recover(spent, show=acme.show, home=backup, heads=lambda _: [head])
        assert caught.value.rule == "fork"
        assert not Home(backup).log(acme.pid, 1).exists()
        with serving(acme.home.root) as url:
            add_peers(Home(backup), [url])
            done = recover(spent, show=acme.show, home=backup)
        assert (done.head.origin, done.head.size) == (origin, acme.desk.state.size)
        assert Desk.at(Home(backup)).head.signatures[0] == head.signatures[0]

    @pytest.mark.parametrize("applied", [False, True])
    @pytest.mark.parametrize("step", ["mkdir", "fsync", "replace"])
    def test_every_failing_step(self, tmp_path: Path, step: str, *, applied: bool) -> None:
        """Failed in the middle, tried again with whichever sheet is the newest: one recovery, and no way back lost."""
        counting = Publisher(tmp_path / "counting")
        with counted() as seen:
            recover(counting.sheet, show=counting.show, home=counting.home)
        for nth in range(1, seen[step] + 1):
            acme = Publisher(tmp_path / f"{nth}")
            first = list(acme.sheet)
            with failing(Fault(step, nth, applied=applied, error=errno.EIO)):
                try:
                    recover(first, show=acme.show, home=acme.home)
                except UnavailableError as error:
                    assert error.rule in {"disk", "store"}  # noqa: PT017  (it may also succeed)
            recover(first, show=acme.show, home=acme.home)
            assert acme.desk.state.epoch == 1
            assert acme.desk.state.inert == []
            assert check_logs(acme.home) == []
            rotate_root(acme.sheet, show=acme.show, home=acme.home)
            acme.check()


class TestDelegate:
    """Somebody else releases under a prefix."""

    def test_a_delegate_releases(self, acme: Publisher, tmp_path: Path) -> None:
        """Names under the prefix, with the delegate's key file and without a release key; no other names."""
        public = make_delegate_key(tmp_path / "lab", acme.pid)
        delegate("llama/", [public], home=acme.home)
        export_keys("release", tmp_path / "release", home=acme.home)
        acme.publish("1", "llama/tiny", key_files=[tmp_path / "lab"])
        assert acme.desk.state.find("llama/tiny", "1") is not None
        with pytest.raises(UsageError, match="release keys"):
            acme.publish("1", "other", key_files=[tmp_path / "lab"])
        assert [row.here for row in list_keys(home=acme.home) if row.role == "delegate llama/"] == [False]

    def test_until_an_index(self, acme: Publisher, tmp_path: Path) -> None:
        """After `not_after` the delegation is over; given again, it is another statement."""
        public = make_delegate_key(tmp_path / "lab", acme.pid)
        export_keys("release", tmp_path / "release", home=acme.home)
        done = delegate("llama/", [public], not_after=2, home=acme.home)
        assert done.index == 1
        acme.publish("1", "llama/tiny", key_files=[tmp_path / "lab"])
        with pytest.raises(UsageError):
            acme.publish("2", "llama/tiny", key_files=[tmp_path / "lab"])
        delegate("llama/", [public], home=acme.home)
        acme.publish("2", "llama/tiny", key_files=[tmp_path / "lab"])
        acme.desk.check()


def test_close(acme: Publisher) -> None:
    """After the end nothing is published any more, and the reason is said."""
    acme.publish("1")
    close(home=acme.home)
    with pytest.raises(TrustError) as caught:
        acme.publish("2")
    assert caught.value.rule == "closed"
    assert acme.desk.state.closed is not None
    acme.desk.check()


def test_key_files_of_version_1(tmp_path: Path) -> None:
    """A store from before there could be several keys works, and is written in the new form by the first change."""
    acme = Publisher(tmp_path)
    path = key_file(acme.home.keys, acme.pid)
    fields = json.loads(path.read_bytes())
    fields = {"v": 1, "pid": acme.pid, "seeds": {role: seeds[0] for role, seeds in fields["seeds"].items()}}
    path.write_text(json.dumps(fields, separators=(",", ":")))
    assert load_keyring(acme.home.keys, acme.pid, None).of("root")
    acme.publish("1")
    rotate_keys(["release"], home=acme.home)
    assert json.loads(path.read_bytes())["v"] == 2
    acme.check()


@pytest.mark.parametrize("content", [
    b"", b"{}", b'{"v":3,"pid":"%s","seeds":{}}', b'{"v":2,"pid":"%s","seeds":{"root":[]}}',
    b'{"v":2,"pid":"%s","seeds":{"root":["zz"]}}', b'{"v":2,"pid":"%s","seeds":{"king":["%s"]}}',
    b'{"v":2,"pid":"%s","seeds":[]}', b'{"v":2,"pid":"%s","seeds":{"root":{"a":1}}}',
    b'{"v":2,"pid":"%s","kdf":"argon2id","ops":99,"mem":8192,"salt":"00","box":"00"}', b"x" * 70_000,
])  # fmt: skip
def test_damaged_key_files(acme: Publisher, content: bytes) -> None:
    """One typed refusal, and nothing is asked of the machine that the file could choose."""
    path = key_file(acme.home.keys, acme.pid)
    path.write_bytes(content.replace(b"%s", acme.pid.encode(), 1).replace(b"%s", b"00" * 32))
    with pytest.raises(ModelnetError):
        load_keyring(acme.home.keys, acme.pid, "secret")


def test_stores_from_before_logs(acme: Publisher) -> None:
    """Genesis beside the keys, releases in the index, no log: the first use makes it, in their order."""
    versions = ["1", "2", "1.5"]
    for version in versions:
        acme.publish(version)
    entries = acme.desk.entries
    shutil.rmtree(acme.home.logs)
    made = acme.publish("3")
    assert acme.desk.entries[:-1] == entries
    assert made.index == 4
    assert parsed(acme.desk.head).size == 5
    acme.check()


def test_a_keyring_is_of_one_publisher() -> None:
    """Keys of another publisher are not taken in."""
    with pytest.raises(UsageError):
        Keyring("a" * 52).joined(Keyring("b" * 52))
