"""Who has an old version fetches little of the new one: each kind of change of `tests.pairs`, with its numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.pairs import NAMES, build
from tests.store.stage import Machine, digests, serving, write_random

MIB = 1 << 20
SLACK = 1.0  # percentage points that the plan may lose to one with 256 KiB blocks everywhere


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_new_version_costs_what_changed(tmp_path: Path, name: str, record_property: pytest.RecordProperty) -> None:
    """The bytes fetched are those that the old version does not hold, within a percentage point."""
    pair = build(name, tmp_path / "pairs")
    old = tmp_path / "old"
    for path, source in pair.old_files.items():
        (old / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, old / path)
    alice, bob = Machine(tmp_path / "alice").with_publisher("acme"), Machine(tmp_path / "bob")
    first = alice.publish(old, version="1.0")
    second = alice.publish(tmp_path / "pairs" / name, version="1.1")
    with serving(alice.home) as url:
        bob.pull(first.locator, url)
        done = bob.run("pull", second.locator, "--peer", url, "--json")
    assert digests(Path(done.json["path"])) == digests(tmp_path / "pairs" / name)
    spent = done.json["bytes"]
    assert spent["fetched"] + spent["reused"] + spent["present"] == spent["total"] == second.manifest.size
    reused = 100 * (1 - spent["fetched"] / spent["total"])
    record_property("reused", reused)
    print(f"{name:32} {reused:6.2f} % reused, {pair.expected} % in blocks of 256 KiB, {pair.expected_1m} % of 1 MiB")
    # A grid of 1 MiB where one tensor is large: between the two columns when single rows of it changed.
    assert reused >= (pair.expected if pair.expected - pair.expected_1m < 1 else pair.expected_1m) - SLACK
    # The wire carried that and little more.
    assert sum(source["bytes"] for source in done.json["sources"]) == spent["fetched"]
    bob.fsck()
    if reused > 0:
        assert "1.0 → 1.1: " in done.err


def test_the_plan_is_said_before_it_is_carried_out(tmp_path: Path) -> None:
    """In words on stderr, and by `--dry-run` as numbers, which then come true."""
    alice, bob = Machine(tmp_path / "alice").with_publisher("acme"), Machine(tmp_path / "bob")
    write_random(tmp_path / "m" / "a.bin", 8 * MIB)
    first = alice.publish(tmp_path / "m", version="1.0")
    write_random(tmp_path / "m" / "b.bin", 2_500_000, seed=2)
    second = alice.publish(tmp_path / "m", version="1.1")
    with serving(alice.home) as url:
        bob.pull(first.locator, url)
        planned = bob.run("pull", second.locator, "--peer", url, "--json", "--dry-run").json
        done = bob.run("pull", second.locator, "--peer", url, "--json")
    assert "1.0 → 1.1: 2.5 MB of 10.9 MB to fetch" in done.err
    assert planned["bytes"] == done.json["bytes"] == {
        "total": 8 * MIB + 2_500_000, "fetched": 2_500_000, "reused": 8 * MIB, "present": 0,
    }  # fmt: skip


def test_an_old_version_that_was_edited_is_not_used(tmp_path: Path) -> None:
    """What a local file does not hold any more is fetched, and the release is right."""
    alice, bob = Machine(tmp_path / "alice").with_publisher("acme"), Machine(tmp_path / "bob")
    write_random(tmp_path / "m" / "a.bin", 8 * MIB)
    first = alice.publish(tmp_path / "m", version="1.0")
    write_random(tmp_path / "m" / "b.bin", 10, seed=2)
    second = alice.publish(tmp_path / "m", version="1.1")
    with serving(alice.home) as url:
        old = bob.pull(first.locator, url).path / "a.bin"
        old.chmod(0o644)
        with old.open("r+b") as file:
            file.seek(4 * MIB)
            file.write(b"edited")
        done = bob.run("pull", second.locator, "--peer", url, "--json")
    assert digests(Path(done.json["path"])) == digests(tmp_path / "m")
    assert 10 < done.json["bytes"]["fetched"] <= MIB + 10
    assert "have changed" in done.err


def test_a_renamed_file_is_not_fetched(tmp_path: Path) -> None:
    """Names cost nothing, nor does a second copy."""
    alice, bob = Machine(tmp_path / "alice").with_publisher("acme"), Machine(tmp_path / "bob")
    path = write_random(tmp_path / "m" / "a.bin", 5 * MIB)
    first = alice.publish(tmp_path / "m", version="1.0")
    path.rename(tmp_path / "m" / "b.bin")
    shutil.copyfile(tmp_path / "m" / "b.bin", tmp_path / "m" / "c.bin")
    second = alice.publish(tmp_path / "m", version="1.1")
    with serving(alice.home) as url:
        bob.pull(first.locator, url)
        got = bob.pull(second.locator, url)
    assert got.plan.fetched == 0
    assert json.dumps(digests(got.path), sort_keys=True) == json.dumps(digests(tmp_path / "m"), sort_keys=True)
