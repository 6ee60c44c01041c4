"""The gate over real stores and nodes: what was revoked is refused by every route, whatever was pinned or forgotten."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import modelnet
from modelnet.core.cid import BLAKE3, RAW, Cid
from modelnet.core.events import Digests
from modelnet.errors import ModelnetError, TrustError
from modelnet.gate import Gate
from modelnet.policies import Policies
from modelnet.progress import Progress
from modelnet.replica import Replicas
from modelnet.signed import identify, open_manifest
from modelnet.stores.local import open_store
from modelnet.stores.petnames import Petnames
from modelnet_registry import keyops, statements
from modelnet_registry.denials import Denials
from modelnet_registry.node import run_node

MIB = 1024 * 1024
DAY = 24 * 3600
SHARED = bytes(range(256)) * 8192  # 2 MiB that every version has


@dataclass(frozen=True)
class Publisher:
    """A store with a publisher and `m` at 1.0, 1.1 and 2.0."""

    home: Path
    pid: str
    locators: dict[str, str]
    sheet: str

    def publish(self, version: str, *, name: str = "m", **options: Any) -> str:
        """Publish a version of two files, one of which every version has."""
        folder = self.home.with_name(f"{self.home.name}-files") / name / version
        folder.mkdir(parents=True)
        (folder / "own.bin").write_bytes(f"{name} {version} ".encode() * 200_000)
        (folder / "shared.bin").write_bytes(SHARED)
        self.locators[version] = modelnet.publish(folder, name=name, version=version, home=self.home, **options).locator
        return self.locators[version]

    def says(self, act: Callable[..., Any], *subjects: Any, **options: Any) -> Any:
        """Make a statement in the log."""
        return act(*subjects, home=self.home, **options)

    def revoke(self, version: str = "1.1", severity: str = "malicious") -> Any:
        """Revoke a version."""
        return self.says(statements.revoke, self.locators[version], severity=severity, text="backdoor")


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    """Give a publisher with three releases."""
    home = tmp_path / "acme"
    made = modelnet.init(alias="acme", home=home)
    publisher = Publisher(home, made.pid, {}, made.recovery)
    for version in ("1.0", "1.1", "2.0"):
        publisher.publish(version)
    return publisher


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Run a node over a store; give its URL."""
    stop, urls = threading.Event(), []
    ready = threading.Event()

    def said(url: str) -> None:
        urls.append(url)
        ready.set()

    node = threading.Thread(
        target=run_node, args=(open_store(home), "127.0.0.1", 0), kwargs={"ready": said, "stop": stop}
    )
    node.start()
    try:
        assert ready.wait(20)
        yield urls[0]
    finally:
        stop.set()
        node.join(20)


def refusal(act: Callable[..., object], *arguments: Any, **options: Any) -> ModelnetError:
    """Return the typed error that `act` ends with."""
    with pytest.raises(ModelnetError) as caught:
        act(*arguments, **options)
    return caught.value


def refused_everywhere(home: Path, reference: str, folder: Path, rule: str = "revoked") -> None:
    """Check that pull, verify and load refuse a release that is here, and that it is not served."""
    for act in (
        lambda: modelnet.pull(reference, home=home),
        lambda: modelnet.verify(reference, home=home),
        lambda: modelnet.verify(folder, home=home),
        lambda: modelnet.verify(folder / "own.bin", home=home),
        lambda: modelnet.verified(reference, home=home, pull=False),
    ):
        error = refusal(act)
        assert (error.rule, error.exit_code) == (rule, 4)
        assert error.hint
    with serving(home) as url:
        release = reference.partition("?")[0]
        row = next(row for row in open_store(home).index.releases() if release.endswith(f"{row.name}@{row.version}"))
        assert status(url, row.manifest) == 410


def status(url: str, cid: Cid) -> int:
    """Return the status of a raw block."""
    try:
        with urllib.request.urlopen(f"{url}/ipfs/{cid}?format=raw", timeout=10) as reply:
            reply.read()
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def follower(tmp_path: Path, acme: Publisher, version: str = "1.1", name: str = "bob") -> tuple[Path, Path]:
    """Return a store that pulled a version, and the folder of its files."""
    home = tmp_path / name
    with serving(acme.home) as url:
        return home, modelnet.pull(acme.locators[version], peers=[url], home=home).path


def hear(home: Path, acme: Publisher) -> None:
    """Bring a follower's log up to date, by pulling something else."""
    with serving(acme.home) as url:
        modelnet.pull(acme.locators["1.0"], peers=[url], home=home)


# Revoked, by any route


def test_threat_23_revoked_in_the_log(tmp_path: Path, acme: Publisher) -> None:
    """Who hears of it by pulling anything else refuses it from then on: offline, after a restart, from the lock."""
    lock = tmp_path / "modelnet.lock"
    home, folder = follower(tmp_path, acme)
    with serving(acme.home) as url:
        modelnet.pull(f"{acme.pid}/m@1.1", peers=[url], lock=lock, home=home)
        acme.revoke()
        assert modelnet.verify(folder, home=home).release.version == "1.1", "it has not heard yet"
        for target in (acme.locators["1.1"], f"{acme.pid}/m@1.1"):
            assert refusal(modelnet.pull, target, peers=[url], home=home).rule == "revoked"
        assert refusal(modelnet.pull, f"{acme.pid}/m", peers=[url], lock=lock, home=home).rule == "revoked"
    refused_everywhere(home, acme.locators["1.1"], folder)
    assert refusal(modelnet.pull, f"{acme.pid}/m", lock=lock, home=home).rule == "revoked"


def test_revoked_by_an_envelope_alone(tmp_path: Path, acme: Publisher) -> None:
    """A revocation that never reached a log counts as soon as anybody brings it."""
    home, folder = follower(tmp_path, acme)
    envelope = acme.revoke().envelope
    Replicas(open_store(home)).add_negative(acme.pid, envelope)
    refused_everywhere(home, acme.locators["1.1"], folder)


def test_threat_22_a_third_party_brings_the_revocation(tmp_path: Path, acme: Publisher) -> None:
    """Peers that show the log as it was cannot hide what one other peer has heard."""
    home, folder = follower(tmp_path, acme)
    gossip = tmp_path / "carol"
    with serving(acme.home) as url:
        modelnet.pull(acme.locators["1.0"], peers=[url], home=gossip)
    frozen = tmp_path / "frozen"
    shutil.copytree(home, frozen)
    Replicas(open_store(gossip)).add_negative(acme.pid, acme.revoke().envelope)
    with serving(frozen) as old, serving(gossip) as heard:
        assert refusal(modelnet.pull, acme.locators["1.1"], peers=[old, heard], home=home).rule == "revoked"
    refused_everywhere(home, acme.locators["1.1"], folder)


def test_threat_22_who_names_peers_hears_what_they_know(tmp_path: Path, acme: Publisher) -> None:
    """Knowledge that is fresh does not keep a load from asking the peers that it was given."""
    home, _ = follower(tmp_path, acme)
    acme.revoke()
    with serving(acme.home) as url:
        with modelnet.verified(acme.locators["1.1"], home=home):
            pass
        assert refusal(modelnet.verified, acme.locators["1.1"], peers=[url], home=home).rule == "revoked"
    with pytest.raises(TrustError):
        modelnet.verified(acme.locators["1.1"], home=home)


def test_what_became_of_the_only_release_is_said(tmp_path: Path, acme: Publisher) -> None:
    """A name of which nothing is offered any more is refused with the reason, not as if it had never been."""
    acme.publish("1", name="alone")
    acme.says(statements.revoke, acme.locators["1"], severity="malicious", text="backdoor")
    home = tmp_path / "bob"
    with serving(acme.home) as url:
        error = refusal(modelnet.pull, f"{acme.pid}/alone", peers=[url], home=home)
    assert error.rule == "revoked"
    assert "backdoor" in str(error)


def test_revoked_by_a_file_in_it(tmp_path: Path, acme: Publisher) -> None:
    """A revoked file stops every release of the publisher that has it, also those that came later."""
    acme.says(statements.revoke, acme.locators["1.1"], severity="malicious", files=["shared.bin"])
    home = tmp_path / "bob"
    with serving(acme.home) as url:
        error = refusal(modelnet.pull, acme.locators["2.0"], peers=[url], home=home)
    assert error.rule == "revoked"
    assert "shared.bin" in str(error)
    assert not list(home.glob("models/*/*/*"))


def test_threat_21_a_revoked_file_is_not_served_from_any_release(tmp_path: Path, acme: Publisher) -> None:
    """A node that holds it gives the manifest, from which others learn that they must refuse, and not the file."""
    home, _ = follower(tmp_path, acme, "2.0")
    store = open_store(home)
    (row,) = store.index.releases()
    entries = {entry.path: entry for entry in open_manifest(store, identify(store, row)).files}
    acme.says(statements.revoke, acme.locators["1.1"], severity="malicious", files=["shared.bin"])
    with serving(acme.home) as url:
        assert refusal(modelnet.pull, acme.locators["2.0"], peers=[url], home=home).rule == "revoked"
    gate = Gate.open(store)
    assert gate.state(row)[0] == "revoked"
    table = Denials(gate).refresh()
    assert table.reason(row.manifest) is None
    assert "malicious" in str(table.reason(entries["shared.bin"].cid))
    tree = store.tree(entries["shared.bin"])
    assert all(tree.digest_of(chunk) in table.chunks for chunk in range(len(tree)))
    assert table.reason(entries["own.bin"].cid) is None
    said = (home / "modelnet.deny").read_text()
    assert f"\n/ipfs/{entries['shared.bin'].cid}/*" in said
    assert f"\n/ipfs/{entries['own.bin'].cid}/*" not in said


def test_a_lost_index_forgets_no_revocation(tmp_path: Path, acme: Publisher) -> None:
    """What was heard lies in files: with a new index the release is found again, and refused again."""
    home, folder = follower(tmp_path, acme)
    acme.revoke()
    hear(home, acme)
    for path in home.glob("index.sqlite*"):
        path.unlink()
    error = refusal(modelnet.pull, acme.locators["1.1"], home=home)
    assert error.rule == "revoked"
    with serving(acme.home) as url:
        assert refusal(modelnet.pull, acme.locators["1.1"], peers=[url], home=home).rule == "revoked"
    assert folder.exists()


def test_revoked_while_it_is_being_pulled(tmp_path: Path, acme: Publisher) -> None:
    """A revocation that comes between the first byte and the last leaves nothing at the destination."""
    home, frozen = tmp_path / "bob", tmp_path / "frozen"
    store = open_store(home)
    shutil.copytree(acme.home, frozen)
    envelope = acme.revoke().envelope

    class Revoking(Progress):
        """Hears of the revocation when bytes come."""

        def advance(self, source: str, count: int) -> None:
            """Hear of it; a second time changes nothing."""
            heard.append((source, count))
            Replicas(store).add_negative(acme.pid, envelope)

    heard: list[tuple[str, int]] = []
    with serving(frozen) as url:
        error = refusal(modelnet.pull, acme.locators["1.1"], peers=[url], home=home, progress=Revoking())
    assert error.rule == "revoked"
    assert heard
    assert not list(home.glob("models/*/*/*"))
    assert not open_store(home).index.releases()


def test_revoked_stays_revoked_over_a_recovery(tmp_path: Path, acme: Publisher) -> None:
    """The owner goes on from before the revocation: whoever heard of it still refuses, and a newcomer hears of it."""
    home, folder = follower(tmp_path, acme)
    acme.revoke()
    hear(home, acme)
    keyops.recover([acme.sheet], size=4, show=lambda _: None, home=acme.home)
    hear(home, acme)
    assert Replicas(open_store(home)).standing(acme.pid).epoch == 1
    refused_everywhere(home, acme.locators["1.1"], folder)
    newcomer = tmp_path / "carol"
    with serving(home) as url:
        assert refusal(modelnet.pull, f"{acme.pid}/m@1.1", peers=[url], home=newcomer).rule == "revoked"


def test_reinstated_by_root(tmp_path: Path, acme: Publisher) -> None:
    """A false alarm is taken back by the root keys only, and then everything works again."""
    home, folder = follower(tmp_path, acme)
    acme.revoke()
    hear(home, acme)
    assert refusal(modelnet.verify, folder, home=home).rule == "revoked"
    acme.says(statements.reinstate, acme.locators["1.1"])
    hear(home, acme)
    assert modelnet.verify(folder, home=home).size
    with serving(home) as url:
        assert modelnet.pull(acme.locators["1.1"], peers=[url], home=tmp_path / "carol").path.is_dir()


# Serving


def test_threat_21_a_node_stops_while_it_runs(tmp_path: Path, acme: Publisher) -> None:
    """Another process hears of the revocation: the node gives neither manifest, folder, nodes nor chunks any more."""
    home, _ = follower(tmp_path, acme)
    with serving(acme.home) as url:
        modelnet.pull(acme.locators["2.0"], peers=[url], home=home)
    store = open_store(home)
    manifests = {row.version: _manifest(home, row.version) for row in store.index.releases()}
    bad, good = manifests["1.1"], manifests["2.0"]
    with serving(home) as url:
        own = {entry.path: entry.cid for entry in bad[1].files}
        assert status(url, bad[0]) == status(url, bad[1].tree) == status(url, own["own.bin"]) == 200
        Replicas(open_store(home)).add_negative(acme.pid, acme.revoke().envelope)
        deadline = time.monotonic() + 20
        while status(url, bad[0]) != 410 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status(url, bad[0]) == status(url, bad[1].tree) == status(url, own["own.bin"]) == 410
        chunks = [open_store(home).tree(entry) for entry in bad[1].files]
        for tree in chunks:
            for index in range(len(tree)):
                cid = Cid(RAW, BLAKE3, tree.digest_of(index))
                assert status(url, cid) == (200 if tree.entry.path == "shared.bin" else 410)
        for cid in (good[0], good[1].tree, *(entry.cid for entry in good[1].files)):
            assert status(url, cid) == 200, "what another release has too is that one's"
        with urllib.request.urlopen(f"{url}/routing/v1/providers/{bad[0]}", timeout=10) as reply:
            assert json.load(reply) == {"Providers": []}
        denied = (home / "modelnet.deny").read_text()
        for cid in (bad[0], bad[1].tree, own["own.bin"]):
            assert f"\n/ipfs/{cid}/*\n" in denied
        assert f"/ipfs/{own['shared.bin']}/" not in denied
        with serving(acme.home) as publisher:
            acme.says(statements.reinstate, acme.locators["1.1"])
            modelnet.pull(acme.locators["1.0"], peers=[publisher], home=home)
        deadline = time.monotonic() + 20
        while status(url, bad[0]) != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status(url, own["own.bin"]) == 200
        assert f"\n!/ipfs/{bad[0]}/*\n" in (home / "modelnet.deny").read_text()


def _manifest(home: Path, version: str) -> Any:
    store = open_store(home)
    gate = Gate.open(store)
    row = next(row for row in store.index.releases() if row.version == version)
    release = gate.replicas.view(row.pid).find(row.name, version)
    assert release is not None
    block = store.block(row.manifest)
    assert block is not None
    return row.manifest, release.event.release.open(block)


# Yanked and superseded


def test_yanked_only_where_it_is_pinned(tmp_path: Path, acme: Publisher) -> None:
    """Resolution passes it over; its version, its locator and its lock still get it, with a warning."""
    lock = tmp_path / "modelnet.lock"
    home = tmp_path / "bob"
    with serving(acme.home) as url:
        assert modelnet.pull(f"{acme.pid}/m", peers=[url], lock=lock, home=home).release.version == "2.0"
        acme.says(statements.yank, acme.locators["2.0"], reason="slow")
        assert modelnet.pull(f"{acme.pid}/m", peers=[url], home=home).release.version == "1.1"
        for pinned in ({"reference": acme.locators["2.0"]}, {"reference": f"{acme.pid}/m", "lock": lock}):
            got = modelnet.pull(**pinned, peers=[url], home=home)
            assert got.release.version == "2.0"
            assert any("yanked" in warning and "slow" in warning for warning in got.trusted.warnings)
        assert modelnet.pull(f"{acme.pid}/m", peers=[url], lock=lock, update=True, home=home).release.version == "1.1"


def test_superseded_moves_resolution_on(tmp_path: Path, acme: Publisher) -> None:
    """Who asks for the newest gets what took its place; the old one is still there for who names it."""
    home = tmp_path / "bob"
    acme.says(statements.supersede, acme.locators["2.0"], acme.locators["1.0"])
    with serving(acme.home) as url:
        assert modelnet.pull(f"{acme.pid}/m", peers=[url], home=home).release.version == "1.0"
        got = modelnet.pull(acme.locators["2.0"], peers=[url], home=home)
    assert any("superseded by 1.0" in warning for warning in got.trusted.warnings)


# Age


def gate_at(home: Path, days: float, **eased: bool) -> Gate:
    """Return the gate of a store as it decides `days` from now."""
    store = open_store(home)
    return Gate.open(store, replicas=Replicas(store, clock=lambda: time.time() + days * DAY), **eased)


@pytest.mark.parametrize(
    ("days", "pinned", "channel"),
    [(0, None, None), (6.9, None, None), (8, None, "stale"), (29, None, "stale"), (31, "expired", "expired")],
)
def test_threat_05_the_table_of_ages(
    tmp_path: Path, acme: Publisher, days: float, pinned: str | None, channel: str | None
) -> None:
    """Old knowledge answers no question about the newest; very old knowledge none at all."""
    home, _ = follower(tmp_path, acme)
    gate = gate_at(home, days)
    for reference, rule in ((acme.locators["1.1"], pinned), (f"{acme.pid}/m", channel)):
        if rule is None:
            assert bool(gate.resolve(reference).warnings) == (days > 7)
        else:
            error = refusal(gate.resolve, reference)
            assert (error.rule, error.exit_code) == (rule, 4)
    assert gate_at(home, days, accept_stale=True, offline_pinned=True).resolve(acme.locators["1.1"])


def test_what_a_person_and_the_policy_allow(tmp_path: Path, acme: Publisher) -> None:
    """`accept_stale`, `offline_pinned` and `hard_max_days` move the borders, for one call or for good."""
    home, _ = follower(tmp_path, acme)
    assert gate_at(home, 8, accept_stale=True).resolve(f"{acme.pid}/m").release.version == "2.0"
    assert refusal(gate_at(home, 31, accept_stale=True).resolve, f"{acme.pid}/m").rule == "expired"
    assert gate_at(home, 31, offline_pinned=True).resolve(acme.locators["1.1"]).warnings
    (home / "policy.toml").write_text(f'[publisher."{acme.pid}"]\nhard_max_days = 365\n')
    assert gate_at(home, 300).resolve(acme.locators["1.1"]).warnings
    assert refusal(gate_at(home, 366).resolve, acme.locators["1.1"]).rule == "expired"
    (home / "policy.toml").write_text("hard_max_days = 2\n")
    assert refusal(gate_at(home, 3).resolve, acme.locators["1.1"]).rule == "expired"


def test_no_policy_lets_a_revoked_release_through(tmp_path: Path, acme: Publisher) -> None:
    """Every leniency at once changes nothing about a revocation; nor does an old clock."""
    home, folder = follower(tmp_path, acme)
    acme.revoke()
    hear(home, acme)
    (home / "policy.toml").write_text(
        'hard_max_days = 3650\naccept_stale = true\noffline_pinned = true\nquarantined = "pinned"\n'
        'revoked_ancestor = "warn"\n'
    )
    for days in (-3650, 0, 400):
        gate = gate_at(home, days, accept_stale=True, offline_pinned=True)
        assert refusal(gate.resolve, acme.locators["1.1"]).rule == "revoked"
    refused_everywhere(home, acme.locators["1.1"], folder)


def test_an_own_log_is_known_to_be_current(acme: Publisher) -> None:
    """The machine that writes the log needs nobody to tell how old it is."""
    knowledge = gate_at(acme.home, 400).resolve(f"{acme.pid}/m").knowledge
    assert (knowledge.state, knowledge.by) == ("fresh", "this store")


# Who says so


def test_strict_wants_more_than_an_id(tmp_path: Path, acme: Publisher) -> None:
    """First use by a bare id is refused with `strict`; a locator or a name given here is enough."""
    home = tmp_path / "bob"
    with serving(acme.home) as url:
        assert refusal(modelnet.pull, f"{acme.pid}/m", peers=[url], strict=True, home=home).rule == "strict"
        modelnet.pull(acme.locators["1.0"], peers=[url], strict=True, home=home)
        Petnames(open_store(home).home).add("acme", acme.pid)
        assert modelnet.pull("acme/m", peers=[url], strict=True, home=home).release.version == "2.0"


def test_threat_02_another_release_of_the_publisher(tmp_path: Path, acme: Publisher) -> None:
    """Valid bytes of another version are not what was asked for (tuf-conformance: substitutes_target_file)."""
    home, _ = follower(tmp_path, acme)
    one, two = (acme.locators[version] for version in ("1.0", "1.1"))
    mixed = one.rpartition("m=")[0] + "m=" + two.rpartition("m=")[2]
    with serving(acme.home) as url:
        assert refusal(modelnet.pull, mixed, peers=[url], home=home).rule == "pin"


# Lineage


@pytest.mark.parametrize(("severity", "refused"), [("malicious", True), ("vulnerable", False)])
def test_threat_36_a_poisoned_ancestor(tmp_path: Path, acme: Publisher, severity: str, *, refused: bool) -> None:
    """What was made from it, over three levels and two publishers, is refused or marked as the policy says."""
    other = Publisher(tmp_path / "other", modelnet.init(home=tmp_path / "other").pid, {}, "")
    with serving(acme.home) as url:
        modelnet.pull(acme.locators["1.1"], peers=[url], home=other.home)
    other.publish("1", name="tuned", derived_from=acme.locators["1.1"], relation="finetune")
    leaf = other.publish("2", name="small", derived_from=other.locators["1"], relation="quantized")
    home, folder = follower(tmp_path, acme)
    with serving(other.home) as url:
        assert not modelnet.pull(leaf, peers=[url], home=home).trusted.warnings
    acme.revoke(severity=severity)
    hear(home, acme)
    gate = Gate.open(open_store(home))
    if refused:
        assert refusal(gate.resolve, leaf).rule == "ancestor-revoked"
        gate.policies = Policies.parse('revoked_ancestor = "warn"')
    warnings = gate.resolve(leaf).warnings
    assert any("made from" in warning and "backdoor" in warning for warning in warnings)
    gate.policies = Policies.parse('revoked_ancestor = "deny"')
    assert refusal(gate.resolve, leaf).rule == "ancestor-revoked"
    assert folder.exists()


def test_threat_36_the_log_of_an_ancestor_is_asked_for(tmp_path: Path, acme: Publisher) -> None:
    """Who never followed the base's publisher hears of its revocation from the same peers, else that it is unknown."""
    middle = Publisher(tmp_path / "middle", modelnet.init(home=tmp_path / "middle").pid, {}, "")
    other = Publisher(tmp_path / "other", modelnet.init(home=tmp_path / "other").pid, {}, "")
    with serving(acme.home) as url:
        modelnet.pull(acme.locators["1.1"], peers=[url], home=middle.home)
    middle.publish("1", name="tuned", derived_from=acme.locators["1.1"], relation="finetune")
    with serving(middle.home) as url:
        modelnet.pull(middle.locators["1"], peers=[url], home=other.home)
    leaf = other.publish("2", name="small", derived_from=middle.locators["1"], relation="quantized")
    acme.revoke()
    with serving(other.home) as theirs, serving(middle.home) as between, serving(acme.home) as base:
        stripped = tmp_path / "stripped"
        for pid in (acme.pid, middle.pid):
            shutil.rmtree(other.home / "logs" / pid)
        warnings = modelnet.pull(leaf, peers=[theirs], home=stripped).trusted.warnings
        assert any("not known here" in warning and middle.pid in warning for warning in warnings)
        error = refusal(modelnet.pull, leaf, peers=[theirs, between, base], home=tmp_path / "new")
    assert error.rule == "ancestor-revoked"


# Two histories


def test_quarantine_is_about_one_publisher(tmp_path: Path, acme: Publisher) -> None:
    """Both histories are out, pinned releases only where the policy says so; other publishers are not concerned."""
    home, folder = follower(tmp_path, acme)
    twin = tmp_path / "twin"
    shutil.copytree(acme.home, twin)
    acme.publish("3.0")
    forked = Publisher(twin, acme.pid, {}, "")
    forked.publish("3.1")
    with serving(acme.home) as one, serving(twin) as two:
        modelnet.pull(acme.locators["3.0"], peers=[one], home=home)
        assert refusal(modelnet.pull, acme.locators["1.1"], peers=[two], home=home).rule == "quarantined"
    refused_everywhere(home, acme.locators["1.1"], folder, rule="quarantined")
    gate = Gate.open(open_store(home))
    gate.policies = Policies.parse(f'[publisher."{acme.pid}"]\nquarantined = "pinned"')
    assert any("two histories" in warning for warning in gate.resolve(acme.locators["1.1"]).warnings)
    assert refusal(gate.resolve, f"{acme.pid}/m").rule == "quarantined"
    other = modelnet.init(home=tmp_path / "other").pid
    elsewhere = Publisher(tmp_path / "other", other, {}, "")
    elsewhere.publish("1")
    with serving(elsewhere.home) as url:
        modelnet.pull(elsewhere.locators["1"], peers=[url], home=home)


def test_a_release_that_is_in_no_log_is_none(tmp_path: Path, acme: Publisher) -> None:
    """A row of the index, or a manifest that somebody else signed, is not enough."""
    home, _ = follower(tmp_path, acme)
    store = open_store(home)
    gate = Gate.open(store)
    (row,) = store.index.releases()
    view = gate.replicas.view(acme.pid)
    assert view.manifest(Digests(blake3="00" * 32)) is None
    with store.index.transaction() as connection:
        connection.execute("UPDATE release SET version = '9.9'")
    (row,) = store.index.releases()
    with pytest.raises(TrustError) as caught:
        gate.admit(row)
    assert caught.value.rule == "unlogged"
