"""A real Kubo refuses what our deny lists say, and serves what they leave."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from modelnet.core.cid import RAW, Cid
from modelnet.errors import UnavailableError
from modelnet.gate import Gate
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.deny import (
    DENY_NAME,
    allow_lines,
    append_lines,
    denied,
    deny_lines,
    follow,
    header,
    make_kubo_list,
)
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.ipfs.push import push
from modelnet_registry import statements
from modelnet_registry.denials import Denials
from tests.engines import Kubo, kubo_repository, kubo_running, need_kubo
from tests.ipfs.conftest import Maker

Folder = Callable[[Mapping[str, bytes]], Path]
A, B, C, D = (Cid.of(RAW, bytes([number])) for number in range(4))


def test_lines() -> None:
    """One comment, one rule for each root, none twice, none that is kept; a reason cannot smuggle in a rule."""
    assert deny_lines(A, B, [C, C, D], reason="evil\n/ipfs/x  y", keep=[D]) == [
        f"# {A}: evil\\n/ipfs/x y", f"/ipfs/{A}/*", f"/ipfs/{B}/*", f"/ipfs/{C}/*",
    ]  # fmt: skip
    assert allow_lines(A, B, [], reason="mistake") == [f"# {A}: mistake", f"!/ipfs/{A}/*", f"!/ipfs/{B}/*"]


def test_a_list_only_grows(tmp_path: Path) -> None:
    """The header comes once; a rule is repeated only when the last word on it was another."""
    path = tmp_path / "denylists" / DENY_NAME
    assert append_lines(path, []) == 0
    assert path.read_text() == header()
    deny = deny_lines(A, B, [C], reason="revoked")
    assert append_lines(path, deny) == 3
    assert append_lines(path, deny) == 0
    assert append_lines(path, allow_lines(A, B, [C], reason="reinstated")) == 3
    assert append_lines(path, deny) == 3
    assert path.read_text() == header() + "".join(
        f"{line}\n" for line in [*deny, *allow_lines(A, B, [C], reason="reinstated"), *deny]
    )
    path.write_text("/ipfs/edited by hand, without a newline")
    append_lines(path, deny[:2])
    assert path.read_text().splitlines()[0] == "/ipfs/edited by hand, without a newline"


def test_a_list_that_cannot_be_written(tmp_path: Path) -> None:
    """The system's reason comes as a typed error."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnavailableError):
        append_lines(tmp_path / "file" / DENY_NAME, [])


@pytest.fixture(params=["a file", "a link"])
def repo(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Kubo, Path]:
    """Give a repository whose Kubo knows our list, and the list: in its own folder, or linked there from another."""
    need_kubo()
    (tmp_path / "kubo").mkdir()
    repo = kubo_repository(tmp_path / "kubo")
    known = repo.repo / "denylists" / DENY_NAME
    path = known if request.param == "a file" else tmp_path / DENY_NAME
    append_lines(path, [])
    if path != known:
        known.parent.mkdir(exist_ok=True)
        known.symlink_to(path)
    return repo, path


def test_kubo_obeys(maker: Maker, folder: Folder, repo: tuple[Kubo, Path]) -> None:
    """A running Kubo refuses a revoked release from the moment its lines are there, and serves it when taken back.

    A file that a healthy version has too stays available; nothing is restarted.
    """
    old = maker.publish(folder({"w.bin": b"poisoned" * 100_000, "config.json": b"{}"}), version="1")
    new = maker.publish(folder({"w.bin": b"healthy" * 100_000}), version="2")
    (shared,) = [entry.cid for entry in new.manifest.files if entry.path == "config.json"]
    roots = (old.release.manifest, old.manifest.tree, [entry.cid for entry in old.manifest.files])
    kept, path = repo
    with kubo_running(kept) as kubo:
        with KuboClient.connect(KuboAddress.parse(kubo.api)) as client:
            folder({"w.bin": b"poisoned" * 100_000})
            maker.publish(folder({}), version="1")
            push(maker.store, client, old.release.manifest, "m@1")
            folder({"w.bin": b"healthy" * 100_000})
            maker.publish(folder({}), version="2")
            push(maker.store, client, new.release.manifest, "m@2")
        tree = str(old.manifest.tree)
        assert kubo.run("cat", f"{tree}/w.bin").startswith(b"poisoned")
        append_lines(path, deny_lines(*roots, reason="revoked", keep=[shared]))
        _until(lambda: _refused(kubo, "cat", f"{tree}/w.bin"))
        for arguments in (
            ("ls", tree),
            ("cat", str(old.manifest.files[1].cid)),
            ("dag", "get", str(old.release.manifest)),
            ("dag", "get", f"{old.release.manifest}/tree"),
        ):
            assert _refused(kubo, *arguments), arguments
        assert kubo.run("cat", str(shared)) == b"{}"
        assert kubo.run("cat", f"{new.manifest.tree}/w.bin").startswith(b"healthy")
        append_lines(path, allow_lines(*roots, reason="reinstated"))
        _until(lambda: not _refused(kubo, "cat", f"{tree}/w.bin"))


def test_a_healthy_release_comes_back(
    maker: Maker, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and a folder of a revoked release that a later one has too are served by Kubo again, nothing else is.

    Whatever hears of the revocation writes both lists, the store's and the one that this user's Kubo knows.
    """
    need_kubo()
    (tmp_path / "kubo").mkdir()
    repo = kubo_repository(tmp_path / "kubo")
    monkeypatch.setenv("IPFS_PATH", str(repo.repo))
    own = maker.home / DENY_NAME
    path, fresh = make_kubo_list(own)
    assert (path, fresh, make_kubo_list(own)[1]) == (repo.repo / "denylists" / DENY_NAME, True, False)
    shared = {"a.bin": b"shared" * 100_000, "conf/config.json": b"{}"}
    gate = Gate.open(maker.store)
    old = maker.publish(folder({**shared, "w.bin": b"poisoned" * 100_000}), version="1")
    entries = {entry.path: str(entry.cid) for entry in old.manifest.files}
    with kubo_running(repo) as kubo:
        with KuboClient.connect(KuboAddress.parse(kubo.api)) as client:
            push(maker.store, client, old.release.manifest, "m@1")
            statements.revoke(str(old.release.locator), severity="malicious", home=maker.home)
            Denials(gate).refresh()
            for name in entries:
                _until(lambda name=name: _refused(kubo, "cat", f"{old.manifest.tree}/{name}"))
            assert all(_refused(kubo, "cat", cid) for cid in entries.values())
            (tmp_path / "model" / "w.bin").rename(tmp_path / "aside")
            new = maker.publish(folder({"w.bin": b"healthy" * 100_000}), version="2")
            Denials(gate).refresh()
            push(maker.store, client, new.release.manifest, "m@2")
        for name in ("a.bin", "conf/config.json", "w.bin"):
            _until(lambda name=name: not _refused(kubo, "cat", f"{new.manifest.tree}/{name}"))
        assert kubo.run("cat", f"{new.manifest.tree}/a.bin") == shared["a.bin"]
        assert kubo.run("cat", entries["conf/config.json"]) == b"{}"
        assert _refused(kubo, "cat", entries["w.bin"])
        assert _refused(kubo, "ls", str(old.manifest.tree))
        kubo.run("dag", "stat", "--progress=false", str(new.release.manifest))
    assert Denials(gate).refresh()
    before = path.read_text()
    Denials(gate).refresh()
    assert path.read_text() == before, "what was said is not said again"


def test_a_list_of_kubo_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is made unasked, none where there is no Kubo, and none through a link, which may lead nowhere."""
    own = tmp_path / DENY_NAME
    append_lines(own, deny_lines(A, B, [], reason="revoked"))
    repo = tmp_path / "ipfs"
    monkeypatch.setenv("IPFS_PATH", str(repo))
    assert follow(own) == 0
    with pytest.raises(UnavailableError) as caught:
        make_kubo_list(own)
    assert caught.value.rule == "kubo-repository"
    (repo / "denylists").mkdir(parents=True)
    (repo / "config").write_text("{}")
    assert follow(own) == 0
    link = repo / "denylists" / DENY_NAME
    link.symlink_to(tmp_path / "nowhere")
    assert follow(own) == 0
    with pytest.raises(UnavailableError) as caught:
        make_kubo_list(own)
    assert caught.value.rule == "deny-list"
    link.unlink()
    make_kubo_list(own)
    assert denied(link) == denied(own) == {str(A), str(B)}
    append_lines(own, allow_lines(A, A, [], reason="mistake"))
    assert follow(own) == 1
    assert denied(link) == {str(B)}
    assert follow(own) == 0


def _refused(kubo: Kubo, *arguments: str) -> bool:
    try:
        kubo.run(*arguments)
    except subprocess.CalledProcessError as error:
        return b"blocked" in error.stderr
    return False


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(100):  # each asks a process, so this waits as long as Kubo may need to notice
        if condition():
            return
    raise AssertionError("Kubo did not follow its deny list")
