"""The commands about the log, names, keys and policy: what they say, in words and in JSON, and how they end."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from modelnet.core.proof import TlogProof
from modelnet.replica import Replicas
from modelnet.stores.local import open_store
from tests.cli.conftest import Scene
from tests.store.stage import Machine, serving, write_random
from tests.transfer.hostile import Kind, Proxy

OTHER = "b" * 52


def said(machine: Machine, *arguments: str | Path, wanted: int = 0) -> dict[str, Any]:
    """Return what a command says with `--json`."""
    return machine.run(*arguments, "--json", wanted=wanted).json


def refused(machine: Machine, *arguments: str | Path, wanted: int = 4) -> dict[str, Any]:
    """Return the error of a command; in words it is one sentence, and a hint."""
    plain = machine.run(*arguments, wanted=wanted)
    assert plain.out == ""
    assert plain.err.startswith("modelnet: ")
    assert "Traceback" not in plain.err
    return machine.run(*arguments, "--json", wanted=wanted).error


def rule(error: dict[str, Any]) -> str:
    """Return the rule of an error."""
    return str(error["rule"])


def test_revoke_reaches_the_other_machine(scene: Scene, tmp_path: Path) -> None:
    """Revoked on one machine, refused on the other after a sync; `list`, `show` and `log` say why."""
    made = said(
        scene.alice, "revoke", "acme/m@1", "--reason", "backdoor", "--id", "CVE-2026-1", "--out", tmp_path / "r.json"
    )
    assert (made["index"], made["head"]["size"]) == (2, 3)
    assert (tmp_path / "r.json").read_bytes().startswith(b'{"payloadType"')
    assert scene.bob.run("verify", scene.locator).code == 0
    (synced,) = said(scene.bob, "sync", "--peer", scene.url)["publishers"]
    assert (synced["before"], synced["size"]) == (2, 3)
    for command in (("verify", scene.locator), ("pull", scene.locator, "--peer", scene.url)):
        error = refused(scene.bob, *command)
        assert rule(error) == "revoked"
        assert "backdoor" in error["message"]
        assert error["hint"]
    (listed,) = said(scene.bob, "list")["releases"]
    assert (listed["state"], listed["reason"]) == ("revoked", "malicious: backdoor (CVE-2026-1)")
    shown = said(scene.bob, "show", scene.locator)
    assert (shown["state"], shown["reason"]) == ("revoked", "malicious: backdoor (CVE-2026-1)")
    log = said(scene.bob, "log", made["publisher"])
    assert [entry["type"] for entry in log["entries"]] == ["genesis", "release", "revoke"]
    assert (log["size"], log["root"]) == (3, made["head"]["root"])
    assert said(scene.alice, "reinstate", "acme/m@1")["index"] == 3
    said(scene.bob, "sync", "--peer", scene.url)
    assert scene.bob.run("verify", scene.locator).code == 0


def test_a_revocation_travels_as_a_file(scene: Scene, tmp_path: Path) -> None:
    """On a stick, to a machine that reaches nobody; taking it twice is the same, and junk is refused."""
    file = tmp_path / "r.json"
    scene.alice.run("revoke", "acme/m@1", "--severity", "broken", "--out", file)
    for _ in range(2):
        assert said(scene.bob, "sync", "--file", file)["taken"][0]["type"] == "revocation"
    assert rule(refused(scene.bob, "verify", scene.locator)) == "revoked"
    (outside,) = said(scene.bob, "log", scene.locator.split(":")[1].split("/")[0], "--all")["negatives"]
    assert outside["type"] == "revoke"
    file.write_bytes(file.read_bytes().replace(b'"sig":"', b'"sig":"AAAA', 1))
    refused(scene.bob, "sync", "--file", file, wanted=4)
    refused(scene.bob, "sync", "--file", tmp_path / "none", wanted=5)


def test_yank_and_supersede(scene: Scene, tmp_path: Path) -> None:
    """The newest is another one then; what is named is still had, with a warning."""
    write_random(tmp_path / "m2" / "a.bin", 1000, seed=9)
    scene.alice.publish(tmp_path / "m2", version="2")
    assert said(scene.alice, "yank", "acme/m@2", "--reason", "slow")["index"] == 3
    pid = scene.locator.split(":")[1].split("/")[0]
    assert "@1?" in said(scene.bob, "pull", f"{pid}/m", "--peer", scene.url)["locator"]
    named = said(scene.bob, "pull", f"{pid}/m@2", "--peer", scene.url)
    assert any("yanked" in warning for warning in named["warnings"])
    scene.alice.run("reinstate", "acme/m@2")
    scene.alice.run("supersede", "acme/m@2", "--by", "acme/m@1")
    assert "@1?" in said(scene.bob, "pull", f"{pid}/m", "--peer", scene.url)["locator"]
    states = {row["version"]: row["state"] for row in said(scene.alice, "list")["releases"]}
    assert states == {"1": "ok", "2": "superseded"}


def test_the_lock_pins_and_moves(scene: Scene, tmp_path: Path) -> None:
    """What is locked stays, until --update."""
    lock = tmp_path / "modelnet.lock"
    pid = scene.locator.split(":")[1].split("/")[0]
    said(scene.bob, "pull", f"{pid}/m", "--peer", scene.url, "--lock", lock)
    write_random(tmp_path / "m2" / "a.bin", 1000, seed=9)
    scene.alice.publish(tmp_path / "m2", version="2")
    pull = ("pull", f"{pid}/m", "--peer", scene.url, "--lock", lock)
    assert "@1?" in said(scene.bob, *pull)["locator"]
    assert rule(refused(scene.bob, "pull", f"{pid}/m@2", "--lock", lock, wanted=2)) == "lock"
    assert "@2?" in said(scene.bob, *pull, "--update")["locator"]
    assert "@2?s=3&r=" in lock.read_text()


def test_trust(scene: Scene) -> None:
    """Names are given, listed, kept, and taken back; look-alikes are said."""
    pid = scene.locator.split(":")[1].split("/")[0]
    assert said(scene.bob, "trust", "add", "acme", scene.locator) == {"alias": "acme", "publisher": pid}
    assert scene.bob.run("verify", "acme/m@1").code == 0
    assert rule(refused(scene.bob, "trust", "add", "acme", OTHER)) == "petname"
    assert "easily taken" in scene.bob.run("trust", "add", "acne", OTHER).err
    assert [row["alias"] for row in said(scene.bob, "trust", "list")["trusted"]] == ["acme", "acne"]
    assert said(scene.bob, "trust", "remove", "acme")["publisher"] == pid
    assert rule(refused(scene.bob, "verify", "acme/m@1")) == "unknown-publisher"
    for wrong in (("add", "Acme", pid), ("add", "acme", "short"), ("remove", "nobody")):
        refused(scene.bob, "trust", *wrong, wanted=2)


def test_a_proof_is_checked_elsewhere_and_outweighs_no_revocation(scene: Scene, tmp_path: Path) -> None:
    """Made on one machine, checked on another; damaged, unknown or revoked it is refused."""
    file = tmp_path / "m.tlog-proof"
    made = said(scene.alice, "prove", "acme/m@1", "--out", file)
    assert TlogProof.parse(file.read_bytes()).index == made["index"] == 1
    checked = said(scene.bob, "prove", "--check", file)
    assert (checked["name"], checked["version"], checked["size"]) == ("m", "1", 2)
    assert checked["knowledge"]["state"] == "fresh"
    assert rule(refused(Machine(tmp_path / "carol"), "prove", "--check", file)) == "unknown-publisher"
    scene.alice.run("revoke", "acme/m@1")
    scene.bob.run("sync", "--peer", scene.url)
    assert rule(refused(scene.bob, "prove", "--check", file)) == "revoked"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"index 1\n", b"index 0\n", 1))
    refused(scene.bob, "prove", "--check", file, wanted=3)
    file.write_bytes(b"c2sp.org/tlog-proof@v1\n")
    refused(scene.bob, "prove", "--check", file, wanted=3)


def test_keys_over_a_life(scene: Scene, tmp_path: Path) -> None:
    """Rotated, taken offline, taken over with the sheet, recovered: followers go along each time."""
    alice = Machine(tmp_path / "new")
    made = said(alice, "init", "--no-passphrase", "--name", "new", "--root-keys", "2", "--root-threshold", "2")
    sheet = tmp_path / "sheet"
    sheet.write_text(made["recovery"])
    assert len([row for row in said(alice, "keys", "list")["keys"] if row["role"] == "root"]) == 2
    said(alice, "keys", "rotate")
    assert {row["in_force"] for row in said(alice, "keys", "list")["keys"] if row["role"] == "log"} == {True, False}
    said(alice, "keys", "export", "root", tmp_path / "root.keys")
    assert rule(refused(alice, "keys", "rotate", "--role", "release", wanted=2)) == "keys"
    said(alice, "keys", "rotate", "--role", "release", "--key-file", tmp_path / "root.keys")
    turned = said(alice, "keys", "rotate", "--role", "root", "--sheet", sheet)
    again = said(alice, "keys", "rotate", "--role", "root", "--sheet", sheet)
    assert again["index"] == turned["index"], "said twice, done once"
    sheet.write_text(turned["recovery"])
    alice.publish(scene.source, name="m", version="1")
    with serving(alice.home) as url:
        scene.bob.pull(f"{made['publisher']}/m", url)
        said(alice, "keys", "recover", "--size", "4", "--sheet", sheet)
        (synced,) = said(scene.bob, "sync", made["publisher"], "--peer", url)["publishers"]
    assert synced["state"] == "fresh"
    assert rule(refused(scene.bob, "verify", f"{made['publisher']}/m@1", wanted=5)) == "missing"
    (dropped,) = said(scene.bob, "log", made["publisher"], "--all")["dropped"]
    assert dropped["epoch"] == 0
    for wrong in (
        ("rotate", "--role", "king"),
        ("recover",),
        ("delegate", "x", "--key", "ab"),
        ("export", "root", sheet),
    ):
        refused(alice, "keys", *wrong, wanted=2)


def test_a_delegate_releases_under_its_prefix(scene: Scene, tmp_path: Path) -> None:
    """The key is made elsewhere; only its public half comes here."""
    made = said(scene.alice, "keys", "new-delegate", "acme", tmp_path / "bob.key")
    said(scene.alice, "keys", "delegate", "bob/", "--key", made["key"])
    (row,) = [row for row in said(scene.alice, "keys", "list")["keys"] if row["role"].startswith("delegate")]
    assert (row["role"], row["here"]) == ("delegate bob/", False)
    for prefix, key in (("bob", made["key"]), ("bob/../", made["key"]), ("bob/", "0" * 64)):
        refused(scene.alice, "keys", "delegate", prefix, "--key", key, wanted=2)
    refused(scene.alice, "supersede", "acme/m@1", "--by", "acme/m@1", wanted=2)
    refused(scene.alice, "keys", "close", "--successor", "!", wanted=2)


def test_audit_and_beat(scene: Scene) -> None:
    """A whole log is said to be; a damaged tile is found; evidence ends with 4."""
    pid = scene.locator.split(":")[1].split("/")[0]
    audited = said(scene.bob, "audit", pid, "--peer", scene.url)
    assert (audited["size"], audited["peers"], audited["sizes"]) == (2, 1, [2])
    assert said(scene.alice, "beat")["size"] == 2
    tile = next((scene.bob.home / "logs" / pid / "0" / "tile" / "entries").rglob("*2"))
    tile.write_bytes(tile.read_bytes()[:-1] + b"x")
    assert refused(scene.bob, "audit", pid, wanted=3)["hint"]
    assert refused(scene.bob, "audit", OTHER, wanted=5)["rule"] == "missing"


@pytest.mark.parametrize("text", ["x\n", "{origin}\nxyz\nAAAA\n", "{origin}\n7\n" + "A" * 43 + "=\n"])
def test_an_audit_counts_no_head_that_it_did_not_verify(scene: Scene, text: str) -> None:
    """A peer that shows nonsense, or a head that nobody signed, does not agree; the honest one does."""
    pid = scene.locator.split(":")[1].split("/")[0]
    origin = f"modelnet.alt/p/{pid}"
    note = f"{text.format(origin=origin)}\n\u2014 {origin} {base64.b64encode(bytes(68)).decode()}\n".encode()
    with Proxy(scene.url, lambda exchange: exchange.reply(note), kinds=[Kind.HEAD]) as odd:
        audited = said(scene.bob, "audit", pid, "--peer", odd.url, "--peer", scene.url)
        assert (audited["peers"], audited["sizes"]) == (1, [2])
        assert [one["source"] for one in audited["refused"]] == [odd.url]
        (scene.bob.home / "peers").write_text(f"{odd.url}\n")
        assert said(scene.bob, "audit", pid)["peers"] == 0


def test_threat_12_a_proof_of_another_history_is_evidence(scene: Scene, tmp_path: Path) -> None:
    """The head in the proof is signed and not of the log that is followed: both are kept, and the log is in doubt."""
    twin = Machine(tmp_path / "twin")
    shutil.copytree(scene.alice.home, twin.home)
    for machine, version in ((twin, "2"), (scene.alice, "3")):
        machine.publish(scene.source, version=version)
    file = tmp_path / "m.tlog-proof"
    twin.run("prove", "acme/m@1", "--out", file)
    scene.bob.run("sync", "--peer", scene.url)
    assert rule(refused(scene.bob, "prove", "--check", file)) in {"equivocation", "quarantined"}
    pid = scene.locator.split(":")[1].split("/")[0]
    assert len(said(scene.bob, "log", pid, "--all")["evidence"]) == 1


def test_keys_kept_elsewhere_publish(scene: Scene, tmp_path: Path) -> None:
    """A release key, or a delegate's, comes in a file for one command."""
    scene.alice.run("keys", "export", "release", tmp_path / "release.keys")
    words = ("publish", scene.source, "--name", "m", "--version", "2")
    assert rule(refused(scene.alice, *words, wanted=2)) == "keys"
    assert said(scene.alice, *words, "--key-file", tmp_path / "release.keys")["index"] == 2


def test_policy(scene: Scene, tmp_path: Path) -> None:
    """What holds is shown with its explanation; a mistake is found by `check` and stops everything that asks."""
    shown = scene.bob.run("policy", "show").out
    assert "no key that lets a revoked release through" in shown
    assert "hard_max_days = 30" in shown
    (scene.bob.home / "policy.toml").write_text("hard_max_days = 365\n")
    assert said(scene.bob, "policy", "show")["general"]["hard_max_days"] == 365
    assert said(scene.bob, "policy", "check")["checked"] == [str(scene.bob.home / "policy.toml")]
    (scene.bob.home / "policy.toml").write_text("hard_max_day = 365\n")
    for command in (
        ("policy", "check"),
        ("verify", scene.locator),
        ("policy", "check", scene.bob.home / "policy.toml"),
    ):
        assert rule(refused(scene.bob, *command, wanted=3)) == "policy"
    refused(scene.bob, "policy", "check", tmp_path / "none", wanted=5)


def test_lineage_and_bill_of_materials(scene: Scene, tmp_path: Path) -> None:
    """The tree says what became of each ancestor; the BOM passes CycloneDX's own strict schema."""
    said(scene.alice, "publish", scene.source, "--name", "tuned", "--version", "1",
         "--derived-from", "acme/m@1", "--relation", "finetune", "--license", "Apache-2.0")  # fmt: skip
    scene.alice.run("revoke", "acme/m@1", "--severity", "broken")
    shown = said(scene.alice, "show", "acme/tuned", "--lineage")
    (parent,) = shown["lineage"]["parents"]
    assert (parent["name"], parent["relation"], parent["state"]) == ("m", "finetune", "revoked")
    assert shown["state"] == "ancestor-revoked"
    assert "finetune of m@1" in scene.alice.run("show", "acme/tuned", "--lineage").out
    bom = tmp_path / "bom.json"
    scene.alice.run("show", "acme/tuned", "--cyclonedx", bom)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom.read_text()) is None
    fields = json.loads(scene.alice.run("show", "acme/tuned", "--cyclonedx", "-").out)
    assert fields == json.loads(bom.read_text())
    (ancestor,) = fields["metadata"]["component"]["pedigree"]["ancestors"]
    assert {"name": "modelnet:state", "value": "revoked"} in ancestor["properties"]


def test_a_witness_cosigns_what_is_published(scene: Scene, tmp_path: Path) -> None:
    """A node run as a witness: its line goes into both policies, and freshness is witnessed from then on."""
    watch = Machine(tmp_path / "watch")
    pid = scene.locator.split(":")[1].split("/")[0]
    said(watch, "sync", pid, "--peer", scene.url)
    with watch.start("witness", "--listen", "127.0.0.1:0", "--json") as witness:
        try:
            assert witness.stdout is not None
            assert witness.stderr is not None
            ready = json.loads(witness.stdout.readline())
            line = next(text for text in witness.stderr if text.startswith("for the policy"))
            _, name, vkey = line.partition(": ")[2].split()
            policy = f"witness w {vkey} {ready['url']}\nquorum w\n"
            for machine in (scene.alice, scene.bob):
                (machine.home / "policy").write_text(policy)
            assert name in vkey
            said(scene.alice, "beat")
            said(scene.bob, "sync", "--peer", scene.url)
            knowledge = said(scene.bob, "verify", scene.locator)["knowledge"]
            assert (knowledge["state"], knowledge["by"]) == ("fresh", "witnesses")
        finally:
            witness.terminate()
    assert Replicas(open_store(scene.bob.home)).standing(pid).knowledge is not None


MISTAKES = [
    ("revoke",), ("yank", "acme/none@1"), ("supersede", "acme/m@1"), ("log",), ("log", "nobody"),
    ("revoke", "acme/m@1", "--severity", "bad"), ("prove", "x"),
]  # fmt: skip


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_explained(scene: Scene, words: tuple[str, ...]) -> None:
    """Nothing given, something unknown, something that makes no sense: an exit code, a sentence, no trace."""
    done = scene.alice.run(*words, wanted=None)
    assert done.code in (2, 4, 5)
    assert done.out == ""
    assert "Traceback" not in done.err
