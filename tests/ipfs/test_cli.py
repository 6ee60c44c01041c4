"""The commands around Kubo, as processes: publish --pin, pull --from, pin add, status, audit, rm, doctor."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from modelnet_cli.main import run
from tests.engines import Kubo
from tests.ipfs.conftest import Maker
from tests.ipfs.models import release_files
from tests.store.stage import Machine, serving

Folder = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture
def machine(tmp_path: Path, pair: tuple[Kubo, Kubo]) -> Machine:
    """Give a publisher whose own Kubo is the first of the pair."""
    return Machine(tmp_path / "alice", {"IPFS_PATH": str(pair[0].repo)}).with_publisher("acme")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a folder with a model."""
    base = tmp_path / "model"
    base.mkdir()
    (base / "w.bin").write_bytes(secrets.token_bytes(3_000_000))
    return base


def publish(machine: Machine, source: Path, *more: str, version: str = "1", wanted: int = 0) -> dict[str, object]:
    """Publish `source` as m."""
    return machine.run("publish", source, "--name", "m", "--version", version, *more, "--json", wanted=wanted).json


def pins(kubo: Kubo) -> dict[str, str]:
    """Return the recursive pins of a Kubo with their names."""
    lines = kubo.run("pin", "ls", "--type=recursive", "--names").decode().splitlines()
    return {cid: name for cid, _, name in (line.partition(" recursive") for line in lines)}


def test_from_publish_to_pull_through_kubo(
    machine: Machine, source: Path, pair: tuple[Kubo, Kubo], tmp_path: Path
) -> None:
    """One command publishes and pins; on another machine one more source is named, and gives all bytes."""
    made = publish(machine, source, "--pin", "kubo")
    root = str(made["manifest"])
    (pin,) = made["pins"]
    assert (pin["target"], pin["state"], pin["cid"]) == ("kubo", "pinned", root)
    assert pin["bytes_sent"] > 3_000_000
    assert pins(pair[0])[root] == f" modelnet/{str(made['publisher'])[:12]}/m@1"
    content = (source / "w.bin").read_bytes()
    bob = Machine(tmp_path / "bob", {"IPFS_PATH": str(pair[1].repo)})
    with serving(machine.home) as url:
        (source / "w.bin").unlink()
        got = bob.run("pull", str(made["locator"]), "--peer", url, "--from", "kubo", "--json").json
    assert (Path(got["path"]) / "w.bin").read_bytes() == content
    assert {one["source"]: one["bytes"] for one in got["sources"]}[pair[1].gateway] == got["bytes"]["fetched"] > 0


def test_a_pin_over_its_life(machine: Machine, source: Path, pair: tuple[Kubo, Kubo]) -> None:
    """Added at two Kubos, looked at, audited, replaced by the next version, removed."""
    one, two = "kubo", f"kubo=http://127.0.0.1:{pair[1].api.rpartition(':')[2]}"
    first = publish(machine, source)
    ref = str(first["locator"])
    added = machine.run("pin", "add", ref, "--target", one, "--target", two, "--json").json
    assert {pin["target"] for pin in added["pins"]} == {one, two}
    root = str(first["manifest"])
    assert root in pins(pair[0])
    assert root in pins(pair[1])

    seen = machine.run("pin", "status", "--blocks", "5", "--json").json["pins"]
    assert [(pin["state"], pin["audit"]["blocks"], pin["error"]) for pin in seen] == [("pinned", 5, None)] * 2
    assert machine.run("pin", "audit", ref, "--json").json["pins"][0]["audit"]["missing"] == []

    (source / "w.bin").write_bytes(secrets.token_bytes(1_000_000))
    second = publish(machine, source, version="2")
    machine.run("pin", "add", str(second["locator"]), "--target", one, "--replace")
    assert root not in pins(pair[0])
    assert root in pins(pair[1])
    assert str(second["manifest"]) in pins(pair[0])

    (gone,) = machine.run("pin", "rm", ref, "--json").json["unpinned"]
    assert gone == two
    assert root not in pins(pair[1])
    assert machine.run("pin", "rm", ref, "--json").json["unpinned"] == []

    # What is here no more is named by its manifest.
    machine.run("remove", str(second["locator"]))
    root = str(second["manifest"])
    assert machine.run("pin", "status", root, "--json").json["pins"][0]["state"] == "pinned"
    assert machine.run("pin", "rm", root, "--json").json["unpinned"] == [one]
    assert root not in pins(pair[0])


def test_an_audit_that_finds_something(machine: Machine, source: Path, pair: tuple[Kubo, Kubo]) -> None:
    """Who says "pinned" but lost its blocks, or unpinned behind our back, fails the audit with exit code 5."""
    made = publish(machine, source, "--pin", "kubo")
    ref, root = str(made["locator"]), str(made["manifest"])
    assert machine.run("pin", "audit", ref, "--blocks", "20").code == 0
    pair[0].run("pin", "rm", root)
    pair[0].run("repo", "gc", "--quiet")
    (one,) = machine.run("pin", "audit", ref, "--blocks", "20", "--json", wanted=5).json["pins"]
    assert one["state"] == "absent"
    assert one["audit"]["blocks"] == len(one["audit"]["missing"])
    again = machine.run("pin", "add", ref, "--json").json
    assert again["pins"][0]["bytes_sent"] > 3_000_000


def test_only_so_many_copies(machine: Machine, source: Path, pair: tuple[Kubo, Kubo]) -> None:
    """Which target gets the one copy follows from the name; when it cannot be reached the next one takes over."""
    made = publish(machine, source)
    dead = [f"kubo=/ip4/127.0.0.1/tcp/{port}" for port in (1, 2, 3)]
    targets = [word for target in [*dead, "kubo"] for word in ("--target", target)]
    added = machine.run("pin", "add", str(made["locator"]), *targets, "--copies", "1", "--json").json
    assert [pin["target"] for pin in added["pins"]] == ["kubo"]
    error = machine.run("pin", "add", str(made["locator"]), *targets, "--copies", "2", "--json", wanted=5).error
    assert error["rule"] == "copies"
    assert str(made["manifest"]) in pins(pair[0])


def test_no_kubo(tmp_path: Path, source: Path) -> None:
    """Without a Kubo nothing is published, and the words say what to do; nothing else needs one."""
    machine = Machine(tmp_path / "lone", {"IPFS_PATH": str(tmp_path / "none")}).with_publisher()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "api").write_text("/ip4/127.0.0.1/tcp/1")
    error = machine.run("publish", source, "--name", "m", "--version", "1", "--pin", "kubo", "--json", wanted=5).error
    assert "ipfs daemon" in str(error["hint"])
    assert machine.run("list", "--json").json["releases"] == []
    checks = {check["name"]: check for check in machine.run("doctor", "--json").json["checks"]}
    assert checks["kubo"]["ok"] is False
    assert "connection refused" in checks["kubo"]["detail"]
    (tmp_path / "none" / "api").unlink()
    publish(machine, source)


def test_doctor_finds_the_daemon(machine: Machine) -> None:
    """It says the version and where it answers."""
    checks = {check["name"]: check for check in json.loads(machine.run("doctor", "--json").out)["checks"]}
    assert checks["kubo"]["ok"] is True
    assert checks["kubo"]["detail"].startswith("0.43.0 answers at ")


# What was revoked


def test_a_revocation_while_kubo_is_away(
    machine: Machine, source: Path, pair: tuple[Kubo, Kubo], tmp_path: Path
) -> None:
    """It says that a pin still stands; the next look at the pins takes it off."""
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "api").write_text("/ip4/127.0.0.1/tcp/1")
    away = Machine(machine.home, {"IPFS_PATH": str(tmp_path / "away")})
    made = publish(machine, source, "--pin", "kubo")
    root = str(made["manifest"])
    done = away.run("revoke", str(made["locator"]), "--reason", "stolen", "--json")
    assert done.json["unpinned"] == []
    (still,) = done.json["still_pinned"]
    assert (still["target"], still["manifest"]) == ("kubo", root)
    assert "still pinned at kubo" in done.err
    assert f"\n/ipfs/{root}/*" in (machine.home / "modelnet.deny").read_text()
    (seen,) = away.run("pin", "status", "--json").json["pins"]
    assert "stolen" in seen["revoked"]
    assert away.run("pin", "status").out.startswith("revoked ")
    assert root in pins(pair[0])
    looked = machine.run("pin", "status", "--json").json
    assert looked["pins"] == []
    assert [one["manifest"] for one in looked["unpinned"]] == [root]
    assert root not in pins(pair[0])
    error = machine.run("pin", "add", str(made["locator"]), "--json", wanted=4).error
    assert error["rule"] == "revoked"


def test_a_mirror_hears_of_a_revocation(
    machine: Machine, source: Path, pair: tuple[Kubo, Kubo], tmp_path: Path
) -> None:
    """Syncing unpins what was revoked, writes it on the deny lists, and refuses to pin it again."""
    bob = Machine(tmp_path / "bob", {"IPFS_PATH": str(pair[1].repo)})
    made = publish(machine, source)
    root = str(made["manifest"])
    with serving(machine.home) as url:
        bob.run("pull", str(made["locator"]), "--peer", url)
        bob.run("pin", "add", str(made["locator"]))
        assert root in pins(pair[1])
        assert bob.run("pin", "deny-list", "--json").json["denied"] == 0
        listed = pair[1].repo / "denylists" / "modelnet.deny"
        machine.run("revoke", str(made["locator"]), "--reason", "poisoned")
        done = bob.run("sync", str(made["publisher"]), "--peer", url)
    assert "unpinned at kubo" in done.err
    assert root not in pins(pair[1])
    assert f"\n/ipfs/{root}/*" in listed.read_text()
    assert f"\n/ipfs/{root}/*" in (bob.home / "modelnet.deny").read_text()
    assert bob.run("pin", "add", str(made["locator"]), "--json", wanted=4).error["rule"] == "revoked"
    assert bob.run("pin", "deny-list", "--json").json["denied"] > 1
    machine.run("reinstate", str(made["locator"]), "--reason", "a mistake")
    assert f"\n!/ipfs/{root}/*" in (machine.home / "modelnet.deny").read_text()
    listed.unlink()


# Published, but not pinned


def test_what_is_published_is_said_when_the_pin_fails(machine: Machine, source: Path) -> None:
    """The release is in the log by then: its locator comes, and how to pin it later."""
    target = "service=http://127.0.0.1:1"
    done = machine.run("publish", source, "--name", "m", "--version", "1", "--pin", target, "--json", wanted=5)
    assert done.json["pins"] == []
    assert str(done.json["locator"]) in done.json["error"]["hint"]
    done = machine.run("publish", source, "--name", "m", "--version", "1", "--pin", target, wanted=5)
    assert "modelnet:" in done.out
    assert "it is published all the same" in done.err
    done = machine.run(
        "publish", source, "--name", "m", "--version", "2", "--pin", target, "--pin", "kubo", "--json", wanted=5
    )
    assert [pin["target"] for pin in done.json["pins"]] == ["kubo"]


def test_targets_are_checked_before_anything_is_published(machine: Machine, source: Path) -> None:
    """The same one twice is a mistake that is found while nothing has happened."""
    error = machine.run(
        "publish", source, "--name", "m", "--version", "1", "--pin", "kubo", "--pin", "kubo", "--json", wanted=2
    ).error
    assert error["rule"] == "pin-target"
    assert machine.run("list", "--json").json["releases"] == []


def test_nothing_is_pinned(machine: Machine, source: Path) -> None:
    """To audit a release that was never pinned fails: nobody keeps it."""
    made = publish(machine, source)
    assert machine.run("pin", "audit", str(made["locator"]), "--json", wanted=5).error["rule"] == "not-pinned"
    assert machine.run("pin", "audit", "--json").json["pins"] == []
    assert machine.run("pin", "rm", str(made["locator"]), "--forget", "--json").json["forgotten"] == []


def test_a_kubo_has_no_log(machine: Machine, source: Path, pair: tuple[Kubo, Kubo], tmp_path: Path) -> None:
    """Alone it is no source for somebody who does not know the publisher; the hint says what is missing."""
    made = publish(machine, source, "--pin", "kubo")
    bob = Machine(tmp_path / "bob", {"IPFS_PATH": str(pair[0].repo)})
    error = bob.run("pull", str(made["locator"]), "--from", "kubo", "--json", wanted=5).error
    assert "--peer" in error["hint"]
    assert "log" in error["hint"]


def test_tensors_by_their_cids(machine: Machine, tmp_path: Path, pair: tuple[Kubo, Kubo]) -> None:
    """What `show --tensors` names is what `ipfs cat` gives: exactly the tensor's bytes."""
    base = tmp_path / "tensors"
    base.mkdir()
    content = release_files()["model.safetensors"]
    (base / "model.safetensors").write_bytes(content)
    made = publish(machine, base, "--pin", "kubo")
    shown = machine.run("show", str(made["locator"]), "--tensors", "--json").json
    tensors = {tensor["name"]: tensor for tensor in shown["files"][0]["tensors"]}
    assert set(tensors) == {"embed", "norm", "head"}
    for name in ("embed", "head"):
        tensor = tensors[name]
        got = pair[0].run("cat", tensor["cid"])
        assert got == content[tensor["offset"] : tensor["offset"] + tensor["size"]]
        assert tensor["block"] is None
    small = tensors["norm"]
    part = content[small["offset"] : small["offset"] + small["size"]]
    assert part in pair[0].run("cat", small["cid"] or small["block"])
    text = machine.run("show", str(made["locator"]), "--tensors").out
    assert tensors["embed"]["cid"] in text


@pytest.fixture
def ref(maker: Maker, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a release in the store of this process."""
    monkeypatch.setenv("MODELNET_HOME", str(maker.home))
    return maker.publish(folder({"w.bin": b"weights"})).locator


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("pin", "add", "REF", "--target", "s3=bucket"), "pin-target"),
        (("pin", "add", "REF", "--target", "kubo,weight=0"), "pin-target"),
        (("pin", "add", "REF", "--target", "kubo,color=red"), "pin-target"),
        (("pin", "add", "REF", "--target", "service="), "pin-target"),
        (("pin", "add", "REF", "--target", "service=ftp://x"), "pin-target"),
        (("pin", "add", "REF", "--target", "cluster=http://x,min=0"), "pin-target"),
        (("pin", "add", "REF", "--target", "service=http://x,token=a-b"), "pin-target"),
        (("pin", "add", "REF", "--target", "kubo", "--target", "kubo,weight=2"), "pin-target"),
        (("pin", "add", "REF", "--target", "kubo", "--copies", "2"), "copies"),
        (("pin", "add", "REF", "--target", "kubo=nonsense"), "kubo-address"),
        (("pin", "add", "REF", "--target", "kubo="), "pin-target"),
        (("pin", "add", "REF", "--target", "service=127.0.0.1:3"), "pin-target"),
        (("pin", "add", "REF", "--target", "service=http://x,gateway=y"), "pin-target"),
        (("pull", "REF", "--from", "elsewhere"), "source"),
        (("pull", "REF", "--from", "kubo="), "source"),
        (("pull", "REF", "--from", "kubo=/unix/x"), "kubo-address"),
    ],
)
def test_words_that_make_no_sense(
    ref: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], rule: str
) -> None:
    """They are usage errors with a rule and, mostly, an example."""
    assert run([*(ref if word == "REF" else word for word in arguments), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["rule"] == rule
