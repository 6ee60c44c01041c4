"""What may be published: somebody's own files, and never what modelnet itself keeps, private keys least of all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import modelnet
from modelnet.stores.home import Home
from modelnet.stores.local import open_store
from tests.store.stage import Machine, serving, write_random

Prepared = Callable[[Path, Path], Path]


def project_around(home: Path, project: Path) -> Path:
    """Return a project folder that holds the home."""
    home.rename(project / ".state")
    return project


def linked(home: Path, project: Path) -> Path:
    """Return a folder of the home by the name of a link to it."""
    (project.parent / "link").symlink_to(home)
    return project.parent / "link" / "keys"


def other_home(_home: Path, project: Path) -> Path:
    """Return a project folder that holds another home."""
    modelnet.init(home=project / "deep" / "other")
    return project


def copied_keys(home: Path, project: Path) -> Path:
    """Return a project folder with a copy of the folder of keys under another name."""
    shutil.copytree(home / "keys", project / "backup")
    return project


def one_key_file(home: Path, project: Path) -> Path:
    """Return a project folder with a key file under another name."""
    shutil.copy(next((home / "keys").glob("*.json")), project / "notes.txt")
    return project


PLACES: dict[str, Prepared] = {
    "the home": lambda home, _: home,
    "its keys": lambda home, _: home / "keys",
    "a key file": lambda home, _: next((home / "keys").glob("*.json")),
    "its index": lambda home, _: home / "index.sqlite",
    "the folder above it": lambda home, _: home.parent,
    "a project around it": project_around,
    "through a link": linked,
    "a project around another home": other_home,
    "keys that were copied": copied_keys,
    "a key file by another name": one_key_file,
}


@pytest.mark.parametrize("place", PLACES)
def test_private_keys_are_never_published(tmp_path: Path, place: str) -> None:
    """Whatever the path is called: refused before anything is hashed or signed, in words that say why."""
    home, project = tmp_path / "a" / "home", tmp_path / "project"
    modelnet.init(home=home)
    (project / "model").mkdir(parents=True)
    (project / "model" / "a.bin").write_bytes(b"weights")
    modelnet.publish(project / "model", name="n", version="1", home=home)
    path = PLACES[place](home, project)
    used = home if home.exists() else project / ".state"

    with pytest.raises(modelnet.UsageError) as caught:
        modelnet.publish(path, name="m", version="1", home=used)

    assert caught.value.rule == "private"
    assert caught.value.hint
    assert [row.name for row in open_store(used).index.releases()] == ["n"]
    assert not any(str(used / "keys") in file for _, file, _ in open_store(used).index.files())


def test_a_sealed_key_file_is_not_published_either(tmp_path: Path) -> None:
    """A passphrase may be weak, and what was given away stays given away."""
    modelnet.init(home=tmp_path / "sealed", passphrase="a passphrase")  # noqa: S106  (of a test)
    modelnet.init(home=tmp_path / "home")
    shutil.copy(next((tmp_path / "sealed" / "keys").glob("*.json")), tmp_path / "x")
    with pytest.raises(modelnet.UsageError) as caught:
        modelnet.publish(tmp_path / "x", name="m", version="1", home=tmp_path / "home")
    assert caught.value.rule == "private"


def test_a_pulled_model_is_published_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    """Not from the store, where gc would delete it; what is pulled with `--to` belongs to who pulled it."""
    write_random(tmp_path / "source" / "a.bin", 1000)
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob").with_publisher()
    made = alice.publish(tmp_path / "source")
    with serving(alice.home) as url:
        stored = bob.pull(made.locator, url).path
        placed = bob.pull(made.locator, url, to=tmp_path / "mine").path
    with pytest.raises(modelnet.UsageError) as caught:
        bob.publish(stored, "again")
    assert "--to" in (caught.value.hint or "")
    assert bob.publish(placed, "again").manifest.tree == made.manifest.tree


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_a_file_that_only_says_that_it_is_empty_is_refused(tmp_path: Path) -> None:
    """What the kernel makes up when it is read has no bytes to be signed."""
    modelnet.init(home=tmp_path)
    with pytest.raises(modelnet.UsageError) as caught:
        modelnet.publish("/proc/self/status", name="m", version="1", home=tmp_path)
    assert caught.value.rule == "file-type"


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, path: str) -> None:
    """The empty one too: a script whose variable is not set does not mean the current folder."""
    modelnet.init(home=tmp_path)
    with pytest.raises(modelnet.UsageError):
        modelnet.publish(path, name="m", version="1", home=tmp_path)


def test_one_channel_is_one_channel(tmp_path: Path) -> None:
    """A text where a list is expected is a list of one, never of its letters."""
    home = Home(tmp_path / "home")
    modelnet.init(home=home)
    source = write_random(tmp_path / "a.bin", 100)
    made = modelnet.publish(source, name="m", version="1", channels="stable", home=home)
    assert made.release.channels == ("stable",)
    with pytest.raises(TypeError):
        modelnet.publish(source, name="m", version="2", channels=[1], home=home)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        modelnet.publish(source, name="m", version="2", channels=b"beta", home=home)  # type: ignore[arg-type]
