"""More than one copy of a release: none that is whole is forgotten, and none is taken for whole that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import modelnet
from modelnet.stores.home import Home
from modelnet.stores.local import open_store
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.server import Server


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Give the locator of a release of three files, and the URL of a node that serves it."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.bin", "b.bin", "c.txt"):
        (source / name).write_bytes(name.encode() * 50_000)
    home = Home(tmp_path / "publisher")
    modelnet.init(home=home)
    made = modelnet.publish(source, name="m", version="1", home=home)
    with Server(Doors(open_store(home)), "127.0.0.1", 0) as server:
        yield made.locator, server.url


def test_a_smaller_pull_elsewhere_does_not_cost_the_whole_copy(published: tuple[str, str], tmp_path: Path) -> None:
    """After `--to` with `--only`, gc keeps what was pulled first, and the release is still all there."""
    locator, url = published
    home = tmp_path / "puller"
    first = modelnet.pull(locator, peers=[url], home=home)
    modelnet.pull(locator, peers=[url], to=tmp_path / "part", only=["a*"], home=home)

    assert modelnet.gc(grace_s=0, home=home).bytes == 0
    found = modelnet.verify(locator, home=home)
    assert (found.path, len(found.files), found.absent) == (first.path, 3, ())
    assert (tmp_path / "part" / "a.bin").exists()


def test_a_second_whole_copy_leaves_the_store_its_own(published: tuple[str, str], tmp_path: Path) -> None:
    """A copy for somebody else may be deleted by them; the store's own is still there and still known."""
    locator, url = published
    home = tmp_path / "puller"
    first = modelnet.pull(locator, peers=[url], home=home)
    second = modelnet.pull(locator, peers=[url], to=tmp_path / "copy", home=home)

    assert second.path == tmp_path / "copy"
    assert modelnet.gc(grace_s=0, home=home).bytes == 0
    assert modelnet.verify(locator, home=home).path == first.path
    assert modelnet.verify(second.path, home=home).size == modelnet.verify(first.path, home=home).size


def test_a_damaged_copy_elsewhere_is_mended_by_pulling_there_again(published: tuple[str, str], tmp_path: Path) -> None:
    """What an earlier pull put into a folder is ours to mend, though the release points elsewhere."""
    locator, url = published
    home = tmp_path / "puller"
    modelnet.pull(locator, peers=[url], home=home)
    copy = modelnet.pull(locator, peers=[url], to=tmp_path / "copy", home=home).path
    (copy / "b.bin").chmod(0o644)
    (copy / "b.bin").write_bytes(b"other")

    modelnet.pull(locator, peers=[url], to=copy, home=home)

    assert modelnet.verify(copy, home=home).absent == ()


def test_a_file_dropped_from_a_whole_copy_is_missed(published: tuple[str, str], tmp_path: Path) -> None:
    """A partial pull of the release, elsewhere or first, does not excuse a missing file."""
    locator, url = published
    home = tmp_path / "puller"
    whole = modelnet.pull(locator, peers=[url], to=tmp_path / "whole", home=home).path
    modelnet.pull(locator, peers=[url], to=tmp_path / "part", only=["a*"], home=home)
    (whole / "b.bin").unlink()

    with pytest.raises(modelnet.IntegrityError) as caught:
        modelnet.verify(whole, home=home)
    assert (caught.value.rule, caught.value.path) == ("missing", "b.bin")


def test_a_file_dropped_from_a_partial_copy_is_missed(published: tuple[str, str], tmp_path: Path) -> None:
    """Of a partial pull the files that were asked for must be there, and the others are named."""
    locator, url = published
    home = tmp_path / "puller"
    part = modelnet.pull(locator, peers=[url], to=tmp_path / "part", only=["*.bin"], home=home).path

    assert modelnet.verify(part, home=home).absent == ("c.txt",)
    (part / "b.bin").unlink()
    with pytest.raises(modelnet.IntegrityError):
        modelnet.verify(part, home=home)


def test_a_version_says_what_it_said_first(tmp_path: Path) -> None:
    """A channel cannot be added to a version, nor share its name; a bad one is refused in any case."""
    home = Home(tmp_path / "home")
    modelnet.init(home=home)
    source = tmp_path / "file"
    source.write_bytes(b"weights")
    publish = modelnet.publish
    publish(source, name="m", version="1", channels=["stable"], home=home)

    assert publish(source, name="m", version="1", channels=["stable"], home=home).release.channels == ("stable",)
    for options in ({"channels": ["beta"]}, {"channels": ["A B"]}, {"version": "stable"}, {"version": "latest"}):
        with pytest.raises(modelnet.UsageError):
            publish(source, **{"name": "m", "version": "1", "home": home, **options})


@pytest.mark.parametrize("arguments", [{"reference": None}, {"reference": "a/b", "peers": [1]}])
def test_wrong_types_are_type_errors(arguments: dict[str, object], tmp_path: Path) -> None:
    """A caller's mistake is a `TypeError`, before anything happens."""
    with pytest.raises(TypeError):
        modelnet.pull(**arguments, home=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
