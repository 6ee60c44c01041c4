"""A real Kubo refuses what our deny lists say, and serves what they leave."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from modelnet.core.cid import RAW, Cid
from modelnet.errors import UnavailableError
from modelnet.ipfs.address import KuboAddress
from modelnet.ipfs.deny import DENY_NAME, allow_lines, append_lines, deny_lines, header
from modelnet.ipfs.kubo import Kubo as KuboClient
from modelnet.ipfs.push import push
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
