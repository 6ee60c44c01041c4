"""Variants of a release: declared when it is published, chosen when it is pulled, completed by a later pull."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from modelnet import selection
from modelnet.errors import UnavailableError, UsageError
from tests.store.stage import Machine, serving

GLOBS = {"full": "model.safetensors", "half": ["half.safetensors", "shared.txt"]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a model in two precisions, with a configuration for both."""
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {"w": np.arange(200_000, dtype="f4") / 200_000}
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    safetensors.numpy.save_file({"w": weights["w"].astype("f2")}, folder / "half.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "shared.txt").write_text("only with half")
    return folder


def test_one_of_them_is_pulled_and_the_rest_later(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, or the finest that fits; files of no variant always come."""
    alice, bob = Machine(tmp_path / "alice").with_publisher("alice"), Machine(tmp_path / "bob")
    made = alice.publish(model, variants=GLOBS)
    fields = made.manifest.extra["variants"]
    assert fields["full"] == {
        "files": ["model.safetensors"], "format": "safetensors", "params": 200_000, "bits": 32.0, "quant": "F32",
        "min_memory": (model / "model.safetensors").stat().st_size,
    }  # fmt: skip
    assert alice.publish(model, variants=GLOBS).manifest == made.manifest
    with serving(alice.home) as url:
        half = bob.run("pull", made.locator, "--peer", url, "--variant", "half", "--json").json
        assert (half["variant"], sorted(half["files"])) == ("half", ["config.json", "half.safetensors", "shared.txt"])
        assert half["bytes"]["total"] == sum((model / path).stat().st_size for path in half["files"])
        assert bob.run("verify", made.locator, "--json").json["absent"] == ["model.safetensors"]
        assert bob.pull(made.locator, url, variant="auto").variant == "full"
        monkeypatch.setattr(selection, "available_memory", lambda: 500_000)
        assert Machine(tmp_path / "small").pull(made.locator, url, variant="auto").variant == "half"
        monkeypatch.setattr(selection, "available_memory", lambda: 5_000)
        with pytest.raises(UnavailableError) as caught:
            bob.pull(made.locator, url, variant="auto")
        assert caught.value.rule == "variant"
        error = bob.run("pull", made.locator, "--peer", url, "--variant", "q4", "--json", wanted=2).error
        assert (error["kind"], error["rule"]) == ("usage", "variant")
        assert bob.pull(made.locator, url).plan.fetched == 0
    assert bob.fsck().json["problems"] == []
    shown = bob.run("show", made.locator, "--json").json
    assert json.dumps(shown["variants"]["half"]["files"]) == json.dumps(["half.safetensors", "shared.txt"])


@pytest.mark.parametrize("words", ["full", "full=", "=x", "auto=*.safetensors", "full=none*", "a b=*.safetensors"])
def test_variants_that_cannot_be(tmp_path: Path, model: Path, words: str) -> None:
    """A glob that matches nothing, or a name that is none, is a mistake before anything is signed."""
    alice = Machine(tmp_path / "alice").with_publisher()
    alice.run("publish", model, "--name", "m", "--version", "1", "--variant", words, wanted=2)
    assert alice.run("list", "--json").json["releases"] == []


def test_a_release_without_variants(tmp_path: Path, model: Path) -> None:
    """`auto` takes everything; a name is a mistake."""
    alice, bob = Machine(tmp_path / "alice").with_publisher(), Machine(tmp_path / "bob")
    made = alice.publish(model)
    with serving(alice.home) as url:
        with pytest.raises(UsageError):
            bob.pull(made.locator, url, variant="half")
        assert len(bob.pull(made.locator, url, variant="auto").files) == 4
