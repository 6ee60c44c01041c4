"""Threats 24 and 26: a name taken over, and names that look like another's."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from modelnet.core.lookalikes import alike
from modelnet.errors import MalformedError, TrustError, UsageError
from modelnet.stores.home import Home
from modelnet.stores.petnames import Petnames

ONE, TWO = "a" * 52, "b" * 52


def test_threat_24_a_changed_publisher_behind_a_known_name_is_a_hard_error(tmp_path: Path) -> None:
    """Whoever takes over a name elsewhere does not get it here; forgetting it first is a person's own act."""
    names = Petnames(Home(tmp_path))
    assert names.add("acme", ONE) == []
    names.add("acme", ONE)
    with pytest.raises(TrustError) as caught:
        names.add("acme", TWO)
    assert (caught.value.rule, caught.value.wanted, caught.value.got) == ("petname", ONE, TWO)
    assert names.pid_of("acme") == ONE
    assert names.remove("acme") == ONE
    names.add("acme", TWO)
    assert names.aliases() == {TWO: "acme"}
    with pytest.raises(UsageError, match="nobody"):
        names.remove("acme.")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("acme", "acne"), ("acme", "acrne"), ("acme", "acmee"), ("google", "goog1e"),
        ("google", "g00gle"), ("llama", "1lama"), ("llama", "llarna"), ("meta-ai", "metaai"), ("meta.ai", "meta-ai"),
        ("will", "vvill"), ("hugging", "huggnig"), ("bert", "berts"), ("s5", "55"),
    ],
)  # fmt: skip
def test_threat_26_look_alikes_are_said(tmp_path: Path, one: str, two: str) -> None:
    """A name that looks like a known one, or is one slip away, is named when it is added."""
    names = Petnames(Home(tmp_path))
    names.add(one, ONE)
    assert names.add(two, TWO) == [one]
    assert alike(two, one)


@pytest.mark.parametrize(("one", "two"), [("acme", "umbrella"), ("bert", "gpt"), ("a1", "b1"), ("abc", "abd")])
def test_other_names_are_not(one: str, two: str) -> None:
    """Names that nobody confuses raise no alarm."""
    assert not alike(one, two)


CONFUSABLES = [
    "\u0430cme",
    "acm\u0435",
    "\uff41\uff43\uff4d\uff45",
    "acme\u200b",
    "\xe1cme",
    "acm\uff45",
    "\u217dcme",
    "acme\u202e",
    "\u0430\u0441\u043c\u0435",
]


@pytest.mark.parametrize("name", CONFUSABLES)
def test_threat_26_other_scripts_never_get_in(tmp_path: Path, name: str) -> None:
    """A homoglyph of another script is no name at all."""
    with pytest.raises(UsageError, match="not an alias"):
        Petnames(Home(tmp_path)).add(name, ONE)


def test_a_damaged_file_is_said_and_kept(tmp_path: Path) -> None:
    """A line that cannot be read is an error with its number; the names are not silently lost."""
    path = tmp_path / "trust"
    for text in (f"acme {ONE} {ONE}\n", "acme\n", f"acme {ONE}\nacme {TWO}\n", "acme short\n", f"../acme {ONE}\n"):
        path.write_text(text)
        with pytest.raises(MalformedError, match="line"):
            Petnames(Home(tmp_path)).all()
        with pytest.raises(MalformedError):
            Petnames(Home(tmp_path)).add("other", TWO)
        assert path.read_text() == text


def _add(root: Path, number: int) -> None:
    Petnames(Home(root)).add(f"name{number:03}x{number}", ONE)


def test_several_processes_add_at_once(tmp_path: Path) -> None:
    """No name gets lost when others are written at the same time."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(tmp_path, number)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert len(Petnames(Home(tmp_path)).all()) == 12
