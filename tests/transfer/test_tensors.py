"""Pulls of some tensors: their chunks and the headers come and nothing else, and what is not here is never made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import modelnet
from modelnet.errors import IntegrityError, UnavailableError, UsageError
from modelnet.loaders import safetensors as ours
from tests.store.stage import Machine, serving
from tests.transfer.hostile import Exchange, Kind, Proxy

MIB = 1 << 20
NAMES = [f"layers.{layer}.{part}" for layer in range(4) for part in ("q", "k", "norm")]


def tensors(shard: int = 0) -> dict[str, np.ndarray]:
    """Return tensors of 1 MiB, and small ones between them."""
    draw = np.random.default_rng(shard)
    shape = {"q": (512, 512), "k": (512, 512), "norm": (64,)}
    return {f"shard{shard}.{name}": draw.standard_normal(shape[name.rpartition(".")[2]]).astype("f4") for name in NAMES}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a folder of two shards and a configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    for shard in range(2):
        safetensors.numpy.save_file(tensors(shard), folder / f"model-{shard}.safetensors")
    (folder / "config.json").write_text(json.dumps({"layers": 4}))
    return folder


@pytest.fixture
def alice(tmp_path: Path, model: Path) -> Machine:
    """Give a publisher of it."""
    machine = Machine(tmp_path / "alice").with_publisher("alice")
    machine.publish(model)
    return machine


@pytest.fixture
def bob(tmp_path: Path) -> Machine:
    """Give an empty store."""
    return Machine(tmp_path / "bob")


@pytest.fixture
def locator(alice: Machine) -> str:
    """Give the locator that pins the release."""
    return str(alice.run("show", "alice/m", "--json").json["locator"])


@pytest.fixture
def node(alice: Machine) -> Iterator[str]:
    """Give the URL of a node that has everything."""
    with serving(alice.home) as url:
        yield url


def test_only_the_tensors_asked_for_come(bob: Machine, node: str, locator: str, model: Path) -> None:
    """Two of 16 large tensors and the header come; a shard without a match does not; plain files come whole."""
    done = bob.run("pull", locator, "--peer", node, "--tensors", "shard0.layers.1.[qk]", "--json").json
    assert 2 * MIB <= done["bytes"]["fetched"] < 2 * MIB + 64 * 1024
    assert done["bytes"]["total"] == done["bytes"]["fetched"]
    # The other shard's header had to be looked at, too.
    assert 0 < sum(one["bytes"] for one in done["sources"]) - done["bytes"]["fetched"] < 4096
    folder = Path(done["path"])
    assert {path.name for path in folder.iterdir()} == {"model-0.safetensors", "config.json"}
    assert (folder / "model-0.safetensors").stat().st_size == (model / "model-0.safetensors").stat().st_size
    with ours.safe_open(folder / "model-0.safetensors", "np", home=bob.home) as file:
        for name in ("shard0.layers.1.q", "shard0.layers.1.k"):
            assert (file.get_tensor(name) == tensors()[name]).all()
        with pytest.raises(UnavailableError, match=r"'shard0\.layers\.2\.q' is not here") as caught:
            file.get_tensor("shard0.layers.2.q")
    assert caught.value.rule == "missing"


def test_more_tensors_and_then_the_rest(bob: Machine, node: str, locator: str, model: Path) -> None:
    """Each pull adds to what is there and fetches nothing twice; in the end the release is whole."""
    first = bob.pull(locator, node, tensors=["*.layers.0.q"])
    second = bob.pull(locator, node, tensors=["*.layers.3.q"])
    assert second.path == first.path
    assert 2 * MIB <= second.plan.fetched < 2 * MIB + 64 * 1024
    again = bob.pull(locator, node, tensors=["*.layers.0.q", "*.layers.3.q"])
    assert again.plan.fetched == again.plan.reused == 0
    assert bob.run("list", "--json").json["releases"][0]["state"] == "partial"
    assert bob.fsck().json["problems"] == []
    whole = bob.pull(locator, node)
    assert whole.plan.fetched < 12 * MIB + 64 * 1024
    assert bob.run("list", "--json").json["releases"][0]["state"] == "ok"
    for path in model.iterdir():
        assert (whole.path / path.name).read_bytes() == path.read_bytes()
    assert bob.fsck().json["problems"] == []


def test_verify_says_what_is_absent_and_refuses_what_is_wrong(bob: Machine, node: str, locator: str) -> None:
    """Holes are no damage, and are counted; a byte in a hole or in a tensor is."""
    got = bob.pull(locator, node, tensors=["shard0.layers.1.q"])
    done = bob.run("verify", locator, "--json").json
    assert done["bytes"] == got.plan.total
    assert done["holes"] > 6 * MIB
    assert done["absent"] == ["model-1.safetensors"]
    path = got.path / "model-0.safetensors"
    path.chmod(0o644)
    right = path.read_bytes()
    inside, hole = right.index(tensors()["shard0.layers.1.q"].tobytes()[:64]), len(right) - 5
    for offset in (inside, hole):
        path.write_bytes(right[:offset] + bytes([right[offset] ^ 1]) + right[offset + 1 :])
        failed = bob.run("verify", locator, "--json", wanted=3).error
        assert (failed["rule"], failed["path"]) == ("hash", "model-0.safetensors")
    path.write_bytes(right)  # where zeros are written instead of left out
    assert bob.run("verify", locator, "--json").json["holes"] == done["holes"]


def test_what_needs_the_whole_file_gets_it_or_says_so(
    bob: Machine, node: str, locator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verified` and `load_file` do not take a file with holes: offline they refuse, else they pull the rest."""
    monkeypatch.setenv("MODELNET_HOME", str(bob.home))
    bob.pull(locator, node, tensors=["shard0.layers.1.q"])
    with pytest.raises(UnavailableError) as caught:
        modelnet.verified(locator, pull=False, home=bob.home)
    assert caught.value.rule == "missing"
    with modelnet.verified(locator, peers=[node], home=bob.home) as model:
        loaded = safetensors.numpy.load_file(model / "model-0.safetensors")
    assert (loaded["shard0.layers.3.k"] == tensors()["shard0.layers.3.k"]).all()
    assert set(ours.load_file(f"{locator}#model-0.safetensors")) == set(tensors())


def test_a_pull_of_tensors_never_shrinks_what_is_there(bob: Machine, node: str, locator: str) -> None:
    """A file that is whole but for one chunk is mended, not replaced by one with holes."""
    whole = bob.pull(locator, node)
    path = whole.path / "model-0.safetensors"
    path.chmod(0o644)
    content = path.read_bytes()
    offset = content.index(tensors()["shard0.layers.1.q"].tobytes()[:64])
    path.write_bytes(content[:offset] + b"\xff" * 9 + content[offset + 9 :])
    assert bob.pull(locator, node, tensors=["shard0.layers.1.q"]).plan.fetched <= 256 * 1024
    assert path.read_bytes() == content
    assert bob.run("verify", locator, "--json").json["holes"] == 0


def test_names_that_match_nothing(bob: Machine, node: str, locator: str) -> None:
    """A glob that no tensor has is a mistake of the caller, who is told what there is; nothing is made."""
    with pytest.raises(UsageError) as caught:
        bob.pull(locator, node, tensors=["layers.9*"])
    assert caught.value.rule == "tensors"
    assert "shard0.layers.0" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no tensor"):
        bob.pull(locator, node, tensors=["*"], only=["*.json"])
    assert bob.run("list", "--json").json["releases"] == []


def test_a_dry_run_says_what_it_would_fetch(bob: Machine, node: str, locator: str) -> None:
    """The plan is that of the pull; no file is there afterwards."""
    dry = bob.pull(locator, node, tensors=["shard1.layers.0.*"], dry_run=True)
    assert not dry.path.exists()
    assert bob.pull(locator, node, tensors=["shard1.layers.0.*"]).plan.fetched == dry.plan.fetched


def test_a_source_that_lies_about_the_header(bob: Machine, node: str, locator: str) -> None:
    """A wrong header chunk is caught before it is read; another source gives the right one."""

    def spoil(exchange: Exchange) -> None:
        exchange.reply(exchange.body[:-1] + bytes([exchange.body[-1] ^ 1]))

    with Proxy(node, spoil, kinds=[Kind.CHUNK]) as hostile:
        with pytest.raises(IntegrityError) as caught:
            bob.pull(locator, hostile.url, tensors=["shard0.layers.1.q"])
        assert caught.value.source == hostile.url
        got = bob.pull(locator, hostile.url, node, tensors=["shard0.layers.1.q"])
    assert {report.source: report.state for report in got.sources}[hostile.url] == "lied"
