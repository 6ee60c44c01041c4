"""`pull --to`: a folder of the user's, in which nothing of theirs is replaced and nothing is written through a link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import modelnet
from modelnet.errors import ModelnetError
from modelnet.stores.home import Home
from modelnet.stores.local import open_store
from modelnet.stores.placements import read_placed
from tests.store.stage import Machine, digests, serving, write_random
from tests.transfer.world import World


@dataclass(frozen=True)
class Place:
    """A release of three files, `bob` who pulls it from `url`, and the folder `to` that he chose."""

    locator: str
    url: str
    source: Path
    bob: Machine
    to: Path

    def pull(self, **options: object) -> modelnet.Pulled:
        """Pull into the folder."""
        return self.bob.pull(self.locator, self.url, **{"to": self.to, **options})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a place of which `a.bin` was pulled."""
    source = tmp_path / "source"
    for number, name in enumerate(("a.bin", "b.txt", "sub/c.txt")):
        write_random(source / name, 100_000, seed=number)
    alice = Machine(tmp_path / "alice").with_publisher()
    made = alice.publish(source)
    with serving(alice.home) as url:
        place = Place(made.locator, url, source, Machine(tmp_path / "bob"), tmp_path / "to")
        place.pull(only=["a.bin"])
        yield place


def a_file(place: Place) -> Path:
    """Write a file of the user's where one of the release belongs."""
    (place.to / "b.txt").write_bytes(b"precious")
    return place.to / "b.txt"


def a_link(place: Place) -> Path:
    """Put a link to a file of the user's there."""
    (place.to.parent / "precious").write_bytes(b"precious")
    (place.to / "b.txt").symlink_to(place.to.parent / "precious")
    return place.to / "b.txt"


def a_folder_link(place: Place) -> Path:
    """Put a link to a folder of the user's there."""
    (place.to.parent / "elsewhere").mkdir()
    (place.to / "sub").symlink_to(place.to.parent / "elsewhere")
    return place.to / "sub"


def a_folder(place: Place) -> Path:
    """Make a folder where a file belongs."""
    (place.to / "b.txt").mkdir()
    return place.to / "b.txt"


def a_file_for_a_folder(place: Place) -> Path:
    """Write a file where a folder belongs."""
    (place.to / "sub").write_bytes(b"precious")
    return place.to / "sub"


def another_in_its_place(place: Place) -> Path:
    """Replace a file that was pulled by one of the user's, as an editor does."""
    (place.to / "new").write_bytes(b"precious")
    (place.to / "new").replace(place.to / "a.bin")
    return place.to / "a.bin"


def a_published_file(place: Place) -> Path:
    """Publish a folder of the user's from where it lies."""
    write_random(place.to / "sub" / "c.txt", 10)
    place.bob.with_publisher().publish(place.to / "sub", "mine")
    return place.to / "sub" / "c.txt"


@pytest.mark.parametrize(
    "theirs",
    [a_file, a_link, a_folder_link, a_folder, a_file_for_a_folder, another_in_its_place, a_published_file],
)
def test_what_is_somebody_elses_is_never_replaced(place: Place, theirs: Callable[[Place], Path]) -> None:
    """The pull is refused, names the file, and changes nothing; with that moved away it completes."""
    path = theirs(place)
    before = digests(place.to.parent / "to")
    inode = path.lstat().st_ino
    with pytest.raises(modelnet.UsageError) as caught:
        place.pull()
    assert (caught.value.rule, caught.value.path) == ("destination", str(path))
    assert digests(place.to) == before
    assert path.lstat().st_ino == inode
    assert not list((place.to.parent / "elsewhere").glob("*"))
    assert not list(place.to.parent.glob(".*"))
    path.rename(place.to.parent / "moved")
    assert digests(place.pull().path) == digests(place.source)
    assert modelnet.verify(place.to, home=place.bob.home).absent == ()


def test_a_file_that_is_signed_already_is_no_obstacle(place: Place) -> None:
    """Whoever put it there: it is what would be put there."""
    (place.to / "b.txt").write_bytes((place.source / "b.txt").read_bytes())
    assert digests(place.pull().path) == digests(place.source)


def test_what_appears_during_a_pull_is_not_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at again before the files are put there."""
    from modelnet.gate import Gate

    monkeypatch.setattr(Gate, "recheck", lambda *_: (place.to / "b.txt").write_bytes(b"precious"))
    with pytest.raises(modelnet.UsageError):
        place.pull()
    assert (place.to / "b.txt").read_bytes() == b"precious"
    assert not (place.to / "sub").exists()


HOMES: dict[str, Callable[[Path], Path]] = {
    "the home": lambda home: home,
    "keys": lambda home: home / "keys",
    "partial": lambda home: home / "partial" / "x",
    "models": lambda home: home / "models",
    "another release": lambda home: home / "models" / "x" / "m" / "1",
    "the folder above": lambda home: home.parent,
}


@pytest.mark.parametrize("where", HOMES)
def test_folders_of_modelnet_itself_are_refused(place: Place, where: str) -> None:
    """Where gc may delete, or where keys lie; also by another name."""
    home = place.bob.home
    (home.parent / "link").symlink_to(home)
    for root in (home, home.parent / "link"):
        with pytest.raises(modelnet.UsageError) as caught:
            place.pull(to=HOMES[where](root) if where != "the folder above" else home.parent)
        assert caught.value.rule == "destination"
    assert not (home / "keys").exists()


def test_the_releases_own_place_may_be_named(place: Place) -> None:
    """It is where the files would go without `--to`."""
    release = place.pull(only=["a.bin"]).release
    own = Home(place.bob.home).release(release.pid, release.name, release.version)
    assert place.pull(to=own).path == own
    assert digests(own) == digests(place.source)
    place.bob.fsck()


@pytest.mark.parametrize("to", ["/", "//", "", "a\0b", "~nobody-is-called-so/x", "x" * 5000])
def test_what_can_be_no_folder(place: Place, to: str) -> None:
    """Each is a usage error, on the command line as well, before anybody is asked."""
    with pytest.raises(modelnet.UsageError):
        place.pull(to=to)
    if "\0" not in to and len(to) < 100:
        done = place.bob.run("pull", place.locator, "--peer", "http://127.0.0.1:9", "--to", to, wanted=2)
        assert done.err.startswith("modelnet: ")


@pytest.mark.parametrize("options", [{"lock": "a\0b"}, {"home": "a\0b"}, {"home": ""}, {"lock": ""}])
def test_other_paths_that_cannot_be(place: Place, options: dict[str, str]) -> None:
    """A NUL is a mistake of the caller's and no bug of ours."""
    with pytest.raises(modelnet.UsageError):
        modelnet.pull(place.locator, peers=[place.url], **{"home": place.bob.home, **options})
    with pytest.raises(modelnet.UsageError):
        modelnet.verify("a\0b", home=place.bob.home)


def test_one_text_is_a_list_of_one(place: Place) -> None:
    """A glob, a peer: never the list of their letters, of which `*` would be everything."""
    got = modelnet.pull(place.locator, peers=place.url, only="b.*", home=place.bob.home)
    assert [entry.path for entry in got.files] == ["b.txt"]
    for options in ({"only": [1]}, {"tensors": b"x"}, {"peers": [None]}):
        with pytest.raises(TypeError):
            modelnet.pull(place.locator, home=place.bob.home, **options)


@pytest.mark.parametrize("first", [True, False])
def test_a_partial_copy_is_judged_by_what_was_put_there(place: Place, *, first: bool) -> None:
    """Whether or not there is a complete copy elsewhere, made before or after."""
    place.pull(to=place.to.parent / "whole")
    chosen = place.to
    if first:
        chosen = place.pull(only=["b.txt"], to=place.to.parent / "other").path
    found = modelnet.verify(chosen, home=place.bob.home)
    assert (len(found.files), len(found.absent)) == (1, 2)
    (file,) = chosen.glob("*.*")
    assert modelnet.verify(file, home=place.bob.home).size == 100_000
    file.chmod(0o644)
    file.write_bytes(b"other")
    with pytest.raises(ModelnetError) as caught:
        modelnet.verify(chosen, home=place.bob.home)
    assert caught.value.exit_code == 3
    file.unlink()
    with pytest.raises(modelnet.IntegrityError):
        modelnet.verify(chosen, home=place.bob.home)
    place.bob.run("verify", place.locator)


def test_gc_forgets_folders_that_are_gone(place: Place) -> None:
    """And those of a release that was let go of."""
    store = open_store(place.bob.home)
    place.pull(to=place.to.parent / "other")
    assert {row.path.name for row in read_placed(store.index)} == {"to", "other"}
    (place.to / "a.bin").unlink()
    place.to.rmdir()
    modelnet.gc(grace_s=0, home=place.bob.home)
    assert {row.path.name for row in read_placed(store.index)} == {"other"}
    modelnet.remove(place.locator, home=place.bob.home)
    modelnet.gc(grace_s=0, home=place.bob.home)
    assert read_placed(store.index) == []


def test_some_tensors_beside_a_whole_copy(tmp_path: Path) -> None:
    """A file with holes is what was put there, though all of it is elsewhere."""
    world = World.make(tmp_path)
    bob = Machine(tmp_path / "bob")
    with serving(world.home) as url:
        bob.pull(world.v1, url)
        bob.pull(world.v1, url, to=tmp_path / "some", only=["*.safetensors"], tensors=["layer.0"])
    assert modelnet.verify(tmp_path / "some", home=bob.home).holes > 0
    assert modelnet.verify(tmp_path / "some" / "model.safetensors", home=bob.home).holes > 0
