"""What the gate refuses by the publisher's log, a runtime never gets: by reference, by path, online and offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.numpy

import modelnet
from modelnet import loaders
from modelnet.errors import ModelnetError, TrustError, UnavailableError
from modelnet.loaders import safetensors as ours
from modelnet.policies import Policies, Terms
from modelnet_registry.statements import revoke, yank
from tests.loaders.shelf import Shelf
from tests.scan import samples
from tests.transfer.world import serving


@dataclass(frozen=True, slots=True)
class Runtime:
    """A machine that pulled `m@1.0` and `m@1.1` from a publisher's node and works offline since."""

    shelf: Shelf
    pid: str
    folder: Path

    def news(self) -> str | None:
        """Ask the publisher's node for news, as any pull does; return the rule that a pull is refused with."""
        with serving(self.shelf.home) as url:
            try:
                modelnet.pull(f"{self.pid}/m@1.0", peers=[url])
            except TrustError as error:
                return error.rule
        return None


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Publish twice, pull both."""
    shelf = Shelf.make(tmp_path / "publisher")
    for version, metadata in (("1.0", b"{}"), ("1.1", b'{"a": 1}')):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(samples.tensors())
        (folder / "config.json").write_bytes(metadata)
        shelf.publish("m", folder, version=version)
    with modelnet.verified("acme/m", home=shelf.home) as model:
        pid = model.release.pid
    monkeypatch.setenv("MODELNET_HOME", str(tmp_path / "runtime"))
    with serving(shelf.home) as url:
        first = modelnet.pull(f"{pid}/m@1.0", peers=[url])
        modelnet.pull(f"{pid}/m@1.1", peers=[url])
    return Runtime(shelf, pid, first.path)


def _ways(runtime: Runtime, version: str = "1.0") -> list[Callable[[], object]]:
    """The ways in: a folder, a loader by reference, by path, and an installed library."""
    ref = f"{runtime.pid}/m@{version}"

    def installed() -> object:
        loaders.install()
        try:
            return safetensors.numpy.load_file(runtime.folder / "model.safetensors")
        finally:
            loaders.uninstall()

    return [
        lambda: modelnet.verified(ref, pull=False).close(),
        lambda: ours.load_file(f"{ref}#model.safetensors"),
        lambda: ours.load_file(runtime.folder / "model.safetensors"),
        installed,
    ]


def _refused(runtime: Runtime, rule: str) -> None:
    for way in _ways(runtime):
        with pytest.raises(TrustError) as refused:
            way()
        assert refused.value.rule == rule


def test_what_is_known_is_said(runtime: Runtime) -> None:
    """Offline a load works, and says up to when revocations are known."""
    for way in _ways(runtime):
        way()
    with modelnet.verified(f"{runtime.pid}/m@1.0", pull=False) as model:
        assert model.knowledge.state == "fresh"
        assert model.knowledge.until is not None
        assert model.knowledge.by == "publisher"
        assert model.warnings == ()


def test_a_revoked_release_is_refused_once_it_is_known(runtime: Runtime) -> None:
    """Until the news comes the load works, as the design says; then nothing lets it through, no policy either."""
    revoke("acme/m@1.0", severity="malicious", text="steals", home=runtime.shelf.home)
    for way in _ways(runtime):
        way()
    assert runtime.news() == "revoked"
    _refused(runtime, "revoked")
    everything = Policies(Terms(accept_stale=True, offline_pinned=True, quarantined="pinned", revoked_ancestor="warn"))
    with pytest.raises(TrustError, match="revoked"):
        modelnet.verified(f"{runtime.pid}/m@1.0", everything, pull=False)
    with modelnet.verified(f"{runtime.pid}/m@1.1", pull=False) as model:
        assert model.manifest.version == "1.1"


def test_a_yanked_release_loads_only_where_it_is_named(runtime: Runtime) -> None:
    """Resolution passes it over; a pin loads it with a warning."""
    yank("acme/m@1.1", reason="slow", home=runtime.shelf.home)
    runtime.news()
    with modelnet.verified(f"{runtime.pid}/m", pull=False) as model:
        assert model.manifest.version == "1.0"
    with modelnet.verified(f"{runtime.pid}/m@1.1", pull=False) as model:
        assert any("yanked" in warning for warning in model.warnings)


def test_expired_knowledge_is_refused_unless_policy_pins(runtime: Runtime) -> None:
    """Older than the operator allows: refused, or loaded with its age said."""
    ref = f"{runtime.pid}/m@1.0"
    with pytest.raises(TrustError) as refused:
        modelnet.verified(ref, Policies(Terms(hard_max_s=-1)), pull=False)
    assert refused.value.rule == "expired"
    with modelnet.verified(ref, Policies(Terms(hard_max_s=-1, offline_pinned=True)), pull=False) as model:
        assert model.knowledge.state == "expired"
        assert model.warnings


def test_two_histories_quarantine_the_publisher(runtime: Runtime, tmp_path: Path) -> None:
    """A log that was forked, here by a copied store, is proof enough; nothing of that publisher loads."""
    twin = tmp_path / "twin"
    shutil.copytree(runtime.shelf.home, twin)
    for home, text in ((runtime.shelf.home, b'{"b": 1}'), (twin, b'{"b": 2}')):
        folder = tmp_path / f"{home.name}-1.2"
        folder.mkdir()
        (folder / "config.json").write_bytes(text)
        modelnet.publish(folder, name="m", version="1.2", home=home)
    assert runtime.news() is None
    with serving(twin) as url, pytest.raises(ModelnetError):
        modelnet.pull(f"{runtime.pid}/m", peers=[url])
    _refused(runtime, "quarantined")


def test_strangers_and_other_names_are_refused(runtime: Runtime) -> None:
    """A publisher or a name that is not known, and strictness about who vouches."""
    with pytest.raises(TrustError) as refused:
        modelnet.verified("stranger/m", pull=False)
    assert refused.value.rule == "unknown-publisher"
    with pytest.raises(UnavailableError):
        modelnet.verified(f"{runtime.pid}/n", pull=False)
    with pytest.raises(TrustError) as refused:
        modelnet.verified(f"{runtime.pid}/m@1.0", Policies(Terms(strict=True)), pull=False)
    assert refused.value.rule == "strict"
