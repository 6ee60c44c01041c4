"""A fleet: services and clusters that keep a release, who of them does, and whether they still do."""

from __future__ import annotations

import base64
import json
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from modelnet import publish, pull
from modelnet.core.cid import DAG_CBOR, RAW, Cid
from modelnet.errors import IntegrityError, ModelnetError, TrustError, UnavailableError, UsageError
from modelnet.gate import Gate
from modelnet.ipfs import services
from modelnet.ipfs.audit import audit, draw
from modelnet.ipfs.fleet import check_manifest, look_after, pin_name, pin_release, unpin_release
from modelnet.ipfs.placement import rank
from modelnet.ipfs.records import all_recorded, erase, note, recorded
from modelnet.ipfs.rest import Rest
from modelnet.ipfs.segments import ReleaseBlocks
from modelnet.ipfs.services import ClusterTarget, ServiceTarget, wait
from modelnet.ipfs.targets import Target
from modelnet.ipfs.withdrawing import revoked_pins, withdraw
from modelnet.stores.local import open_store
from modelnet_registry import statements
from modelnet_registry.withdrawing import Withdrawing
from tests.engines import Kubo
from tests.ipfs.conftest import Maker
from tests.ipfs.services import TOKEN, Cluster, Service, running
from tests.ipfs.stub import Stub, drip
from tests.store.stage import serving

Folder = Callable[[Mapping[str, bytes]], Path]
A, B = Cid.of(DAG_CBOR, b"a"), Cid.of(DAG_CBOR, b"b")


@pytest.fixture(autouse=True)
def secrets_of_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the secrets where they belong, and let no test wait for long."""
    monkeypatch.setenv("MODELNET_PIN_TOKEN", TOKEN)
    monkeypatch.setenv("MODELNET_CLUSTER_AUTH", f"basic:ann:{TOKEN}")
    monkeypatch.setattr(services, "FIRST_WAIT_S", 0.001)


# Placement


def test_the_order_is_everybodys() -> None:
    """It follows from names and key alone; whoever leaves moves only what they had."""
    targets = [(f"target {number}", 1.0) for number in range(5)]
    assert rank("pid/model", targets) == rank("pid/model", targets[::-1])
    for number in range(200):
        before = rank(f"pid/model-{number}", targets)
        after = rank(f"pid/model-{number}", [one for one in targets if one[0] != "target 2"])
        assert after == [name for name in before if name != "target 2"]
    # Never changed: a release that was placed by this version is looked for there by the next.
    assert rank("acme/tiny", [("kubo", 1.0), ("service=https://a", 1.0), ("cluster=http://b", 2.0)]) == [
        "cluster=http://b", "service=https://a", "kubo",
    ]  # fmt: skip


def test_weights_are_shares() -> None:
    """Of 4,000 models a target of weight 3 gets three times what one of weight 1 gets, within sampling error."""
    firsts = Counter(rank(f"model {number}", [("a", 1.0), ("b", 3.0), ("c", 4.0)])[0] for number in range(4000))
    assert firsts["a"] == pytest.approx(500, abs=90)
    assert firsts["b"] == pytest.approx(1500, abs=130)
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="weight"):
            rank("m", [("a", weight), ("b", 1.0)])


# A pinning service


@pytest.fixture
def service() -> Iterator[tuple[Service, ServiceTarget]]:
    """Give a service without a Kubo, and our side of it."""
    kept = Service()
    with running(kept) as url:
        yield kept, ServiceTarget(Rest(url, f"Bearer {TOKEN}"), {"application": "modelnet"})
    assert kept.broken == []


def test_a_pin_at_a_service(service: tuple[Service, ServiceTarget]) -> None:
    """Queued, pinning, pinned; found by its id and by its CID; removed once."""
    kept, target = service
    begun = target.begin(A, "name", ["/ip4/10.0.0.1/tcp/4001/p2p/x"] * 30)
    assert (begun.state, begun.delegates) == ("queued", ("/dnsaddr/pin.example.com",))
    seen: list[str] = []
    done = wait(target, A, begun, told=lambda remote: seen.append(remote.state))
    assert seen == ["pinning", "pinned"]
    assert target.look(A, None) == done == target.look(A, done.request)
    assert target.look(B, None).state == "absent"
    assert target.look(B, "request/99").state == "absent"
    assert target.remove(A, None)
    assert not target.remove(A, None)
    assert not target.remove(A, done.request)
    assert kept.pins == {}


def test_a_new_version_replaces_the_old_pin_in_one_step(service: tuple[Service, ServiceTarget]) -> None:
    """Blocks that both have are never up for collection in between; an old pin that is gone is no obstacle."""
    kept, target = service
    old = wait(target, A, target.begin(A, "1"))
    new = target.begin(B, "2", replaces=old.request)
    assert new.request != old.request
    assert [entry["pin"]["cid"] for entry in kept.pins.values()] == [str(B)]
    assert ("POST", f"pins/{old.request}") in kept.asked
    assert target.begin(A, "3", replaces="request/99").state == "queued"


def test_a_pin_that_fails_or_never_comes(service: tuple[Service, ServiceTarget]) -> None:
    """The service's own reason is told; waiting has an end."""
    kept, target = service
    kept.fate = "failed"
    with pytest.raises(UnavailableError, match="DAG too big") as caught:
        wait(target, A, target.begin(A, "name"))
    assert caught.value.rule == "pin-failed"
    kept.fate = "queued"
    with pytest.raises(UnavailableError) as caught:
        wait(target, B, target.begin(B, "name"), patience_s=0.05)
    assert caught.value.rule == "pin-waiting"


def test_a_wrong_token() -> None:
    """It is refused in the service's words, and is in no error."""
    with running(Service()) as url:
        target = ServiceTarget(Rest(url, "Bearer wr0ng"))
        with pytest.raises(UnavailableError, match="UNAUTHORIZED") as caught:
            target.begin(A, "name")
    assert caught.value.rule == "http-401"
    assert "wr0ng" not in repr(caught.value.as_dict()) + repr(target)


@pytest.mark.parametrize(
    "answer",
    [
        (200, []),
        (200, {"requestid": 7, "status": "pinned", "pin": {"cid": str(A)}}),
        (200, {"requestid": "x" * 300, "status": "pinned", "pin": {"cid": str(A)}}),
        (200, {"requestid": "x", "status": "done", "pin": {"cid": str(A)}}),
        (200, {"requestid": "x", "status": "pinned", "pin": {"cid": str(B)}}),
        (200, {"requestid": "x", "status": "pinned", "pin": None}),
        (200, {"results": ["a"]}),
        (200, "x" * (2 << 20)),
        (200, None),
        (302, None),
        (500, {"error": {"reason": "OOPS"}}),
        (500, "x" * (2 << 20)),
        (409, {"error": {"reason": "INSUFFICIENT_FUNDS"}}),
    ],
)
def test_services_that_talk_nonsense(answer: tuple[int, object]) -> None:
    """Whatever comes instead of an answer is a typed error, for services and clusters alike."""
    with running(lambda *_: answer) as url:
        for target in (ServiceTarget(Rest(url)), ClusterTarget(Rest(url))):
            with pytest.raises(ModelnetError):
                target.look(A, "request")
            with pytest.raises(ModelnetError):
                target.begin(A, "name")


# A cluster


def test_a_pin_in_a_cluster() -> None:
    """It stands when as many peers as the factor asks for have it; the version before is where they start from."""
    kept = Cluster(peers=4)
    with running(kept) as url:
        rest = Rest(url, "Basic " + base64.b64encode(f"ann:{TOKEN}".encode()).decode())
        target = ClusterTarget(rest, 2, 3)
        done = wait(target, A, target.begin(A, "name", ["/ip4/1.2.3.4/tcp/1"]))
        assert (done.state, done.detail) == ("pinned", "3 pinned")
        wait(target, B, target.begin(B, "name", replaces=str(A)))
        assert kept.updates == [(str(A), None), (str(B), str(A))]
        assert target.remove(A, None)
        assert not target.remove(A, None)
        assert target.look(A, None).state == "absent"

        kept.broken_peers = 2
        with pytest.raises(UnavailableError, match="2 pin_error"):
            wait(target, A, target.begin(A, "name"))
        kept.broken_peers = 1
        assert wait(target, A, target.begin(A, "name")).detail == "1 pin_error, 2 pinned"
        everywhere = ClusterTarget(rest, -1, -1)
        begun = everywhere.begin(A, "name")
        with pytest.raises(UnavailableError, match="pin_error"):
            wait(everywhere, A, begun)
        with pytest.raises(UnavailableError, match="not enough peers"):
            ClusterTarget(rest, 5, 6).begin(A, "name")
    assert kept.broken == []


# Releases in a fleet


def test_a_release_in_a_fleet(maker: Maker, folder: Folder, pair: tuple[Kubo, Kubo]) -> None:
    """Our Kubo gets the content and gives it to the service, which fetches it into a Kubo of its own.

    Both are audited, the next version replaces the first at both, and a revocation takes it back everywhere.
    """
    kept = Service(pair[1], delegates=[pair[1].run("id", "-f=<addrs>").decode().splitlines()[0]])
    home = maker.store.home
    with running(kept) as url:
        targets = [Target.parse(f"kubo={pair[0].api}"), Target.parse(f"service={url},gateway={pair[1].gateway}")]
        first = maker.publish(folder({"w.bin": secrets.token_bytes(1_500_000)}))
        outcomes = pin_release(maker.store, first.release, targets)
        assert {outcome.target.name for outcome in outcomes} == {target.name for target in targets}
        assert [entry["pin"]["name"] for entry in kept.pins.values()] == [pin_name(first.release)]
        seen = look_after(maker.store, first.release.manifest, blocks=8)
        assert [(one.state, one.audit is not None and one.audit.ok) for one in seen] == [("pinned", True)] * 2

        second = maker.publish(folder({"w.bin": secrets.token_bytes(500_000)}), version="2")
        pin_release(maker.store, second.release, targets, replace=True)
        assert recorded(home, first.release.manifest) == []
        assert [entry["pin"]["cid"] for entry in kept.pins.values()] == [str(second.release.manifest)]
        for kubo in pair:
            pins = kubo.run("pin", "ls", "--type=recursive", "-q").decode().split()
            assert str(second.release.manifest) in pins
            assert str(first.release.manifest) not in pins

        outcomes = unpin_release(maker.store, second.release.manifest)
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert all_recorded(home) == {}
        assert kept.pins == {}
        assert kept.broken == []


def test_the_replication_factor_is_met_by_whoever_can(maker: Maker, folder: Folder) -> None:
    """Targets that fail are passed over in rendezvous order; too few is an error that names each."""
    made = maker.publish(folder({"w.bin": b"weights"}))
    good, bad = [Service(), Service()], Service(fate="failed")
    with running(good[0]) as one, running(good[1]) as two, running(bad) as three:
        targets = [Target.parse(f"service={url}") for url in (one, two, three)]
        outcomes = pin_release(maker.store, made.release, targets, copies=2)
        assert sum(outcome.error is None for outcome in outcomes) == 2
        assert len(recorded(maker.store.home, made.release.manifest)) == 2
        with pytest.raises(UnavailableError, match="only 2 of 3") as caught:
            pin_release(maker.store, made.release, targets)
        assert three in str(caught.value)
        assert len(recorded(maker.store.home, made.release.manifest)) == 2
        # Pinned ones are asked, not pinned again.
        assert [kept.numbers for kept in good] == [1, 1]
    seen = look_after(maker.store, made.release.manifest)
    assert [one.state for one in seen] == ["unknown", "unknown"]
    outcomes = unpin_release(maker.store, made.release.manifest)
    assert all(outcome.error is not None for outcome in outcomes)
    assert len(recorded(maker.store.home, made.release.manifest)) == 2


def test_records_are_not_trusted(maker: Maker, folder: Folder) -> None:
    """A damaged or edited record is as good as none."""
    made = maker.publish(folder({"w.bin": b"weights"}))
    home, root = maker.store.home, made.release.manifest
    path = home.root / "pins" / f"{root}.json"
    path.parent.mkdir()
    for text in ("", "{}", "[" * 10_000, '[{"target":"s3=x","release":"","request":null,"at":1}]', '[{"target":7}]'):
        path.write_text(text)
        assert recorded(home, root) == []
    (path.parent / "not a cid.json").write_text("[]")
    assert all_recorded(home) == {}
    assert look_after(maker.store, root, blocks=4) == []


def test_targets_are_written_as_they_were_read() -> None:
    """Text and value are one to one; secrets are in neither."""
    for text in ("kubo", "kubo=/ip4/10.0.0.5/tcp/5001,weight=2", "cluster=http://c:9094,min=2,max=-1,token=MY_TOKEN"):
        assert str(Target.parse(text)) == text
    assert Target.parse("kubo,weight=2.5").weight == 2.5
    for text in (
        "",
        "kubo,weight=x",
        "kubo,weight=nan",
        "kubo,weight=1,weight=2",
        "kubo,min=1",
        "cluster=",
        "x=http://a",
    ):
        with pytest.raises(UsageError):
            Target.parse(text)


@pytest.mark.parametrize("keeps_ids", [False, True])
def test_every_earlier_version_is_replaced(maker: Maker, folder: Folder, *, keeps_ids: bool) -> None:
    """Not the newest of them only; and the new pin is never the one that is removed, also under an id it took over."""
    kept = Service(keeps_ids=keeps_ids)
    with running(kept) as url:
        target = Target.parse(f"service={url}")
        made = []
        for number in range(4):
            made.append(maker.publish(folder({"w.bin": b"weights %d" % number}), version=str(number)))
            pin_release(maker.store, made[-1].release, [target], replace=number == 3)
        assert [entry["pin"]["cid"] for entry in kept.pins.values()] == [str(made[3].release.manifest)]
        assert list(all_recorded(maker.store.home)) == [made[3].release.manifest]
        assert look_after(maker.store, made[3].release.manifest)[0].state == "pinned"
        # A record of the old pin that a crash left behind names the same request; it is not that pin's any more.
        (record,) = recorded(maker.store.home, made[3].release.manifest)
        note(maker.store.home, made[0].release.manifest, record)
        assert unpin_release(maker.store, made[0].release.manifest)[0].error is None
        assert len(kept.pins) == 1
        assert kept.broken == []


def test_a_wait_that_is_broken_off_forgets_no_request(
    maker: Maker, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is written down before anybody waits for it, so that it can be looked at and taken back."""
    made = maker.publish(folder({"w.bin": b"weights"}))
    kept = Service(fate="queued")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with running(kept) as url:
        monkeypatch.setattr("modelnet.ipfs.targets.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pin_release(maker.store, made.release, [Target.parse(f"service={url}")])
        (record,) = recorded(maker.store.home, made.release.manifest)
        assert record.request in kept.pins
        assert look_after(maker.store, made.release.manifest)[0].state == "queued"
        assert unpin_release(maker.store, made.release.manifest)[0].error is None
        assert kept.pins == {}


@pytest.mark.parametrize("request_id", ["a\ud800", "", "a b", "a\n", "x" * 256])
def test_ids_that_are_none(maker: Maker, folder: Folder, request_id: str) -> None:
    """They are refused before they are written down; in a record that has one, the pin is found by its CID."""
    told = {"requestid": request_id, "status": "pinned", "pin": {"cid": str(A)}, "delegates": []}
    with running(lambda *_: (200, {"results": [told]} if _[0] == "GET" else told)) as url, pytest.raises(ModelnetError):
        ServiceTarget(Rest(url)).look(A, None)
    made = maker.publish(folder({"w.bin": b"weights"}))
    root = made.release.manifest
    with running(Service()) as url:
        pin_release(maker.store, made.release, [Target.parse(f"service={url}")])
        (record,) = recorded(maker.store.home, root)
        path = maker.store.home.root / "pins" / f"{root}.json"
        path.write_text(json.dumps([{**asdict(record), "request": request_id}]))
        assert [one.state for one in look_after(maker.store, root)] == ["pinned"]
        assert [one.error for one in unpin_release(maker.store, root)] == [None]


def test_a_service_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no answer: head and body together have a time in which they must come."""
    monkeypatch.setattr("modelnet.ipfs.rest.TIMEOUT_S", 0.4)
    for start, again in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: y\r\n"),
    ):
        done = threading.Event()
        with Stub({"pins": [drip(start, again, done)]}) as stub:
            with pytest.raises(UnavailableError) as caught:
                ServiceTarget(Rest(f"{stub.url}/api/v0")).look(A, None)
            done.set()
        assert caught.value.rule == "connection"


# What must not be pinned


def test_a_revoked_release_is_not_pinned(maker: Maker, folder: Folder) -> None:
    """Nor one with a revoked file; nothing is sent to anybody."""
    kept = Service()
    made = maker.publish(folder({"w.bin": b"weights", "bad.bin": b"bad"}))
    again = maker.publish(folder({"w.bin": b"other weights"}), version="2")
    statements.revoke(str(made.release.locator), severity="malicious", files=["bad.bin"], home=maker.home)
    with running(kept) as url:
        for release in (made.release, again.release):
            with pytest.raises(TrustError) as caught:
                pin_release(maker.store, release, [Target.parse(f"service={url}")])
            assert caught.value.rule == "revoked"
    assert kept.asked == []


def test_what_was_revoked_is_unpinned_by_whoever_hears_of_it(maker: Maker, folder: Folder) -> None:
    """A target that does not answer stays written down, and is asked again."""
    made = maker.publish(folder({"w.bin": b"weights"}))
    other = maker.publish(folder({"w.bin": b"healthy"}), version="2")
    kept = Service()
    with running(kept) as url:
        for one in (made, other):
            pin_release(maker.store, one.release, [Target.parse(f"service={url}")])
    gate = Gate.open(maker.store)
    assert withdraw(maker.store, gate) == []
    statements.revoke(str(made.release.locator), severity="malicious", text="stolen", home=maker.home)
    gate = Gate.open(maker.store)
    (one,) = withdraw(maker.store, gate)
    assert (one.root, one.reason) == (made.release.manifest, "malicious: stolen")
    assert one.error is not None
    assert revoked_pins(maker.store, gate) == {made.release.manifest: "malicious: stolen"}
    (record,) = recorded(maker.store.home, made.release.manifest)
    with running(kept) as url:
        note(maker.store.home, made.release.manifest, replace(record, target=f"service={url}"))
        erase(maker.store.home, made.release.manifest, record.name)
        worker = Withdrawing(gate)
        worker.start()
        deadline = time.monotonic() + 20
        while recorded(maker.store.home, made.release.manifest) and time.monotonic() < deadline:
            time.sleep(0.05)
        worker.close()
    assert list(all_recorded(maker.store.home)) == [other.release.manifest]
    assert [entry["pin"]["cid"] for entry in kept.pins.values()] == [str(other.release.manifest)]


def test_a_target_that_is_gone_for_ever_is_forgotten(maker: Maker, folder: Folder) -> None:
    """Only when that is asked for."""
    made = maker.publish(folder({"w.bin": b"weights"}))
    with running(Service()) as url:
        pin_release(maker.store, made.release, [Target.parse(f"service={url}")])
    root = made.release.manifest
    assert unpin_release(maker.store, root)[0].error is not None
    assert len(recorded(maker.store.home, root)) == 1
    assert unpin_release(maker.store, root, forget=True)[0].error is not None
    assert recorded(maker.store.home, root) == []


def test_a_release_of_too_many_files(maker: Maker, folder: Folder) -> None:
    """Its manifest would be larger than any block that IPFS carries: nothing is sent, and nothing signed for a pin."""
    base = folder({f"{'f' * 150}{number}": b"%d" % number for number in range(7_500)})
    kept = Service()
    with pytest.raises(UsageError) as caught:
        publish(base, name="m", version="1", home=maker.home, check_manifest=check_manifest)
    assert caught.value.rule == "pin-manifest"
    assert caught.value.hint
    assert maker.store.index.releases() == []
    made = maker.publish(base)
    with running(kept) as url, pytest.raises(UsageError) as caught:
        pin_release(maker.store, made.release, [Target.parse(f"service={url}")])
    assert caught.value.rule == "pin-manifest"
    assert kept.asked == []


def test_a_part_of_a_release_is_not_pinned(maker: Maker, folder: Folder, tmp_path: Path) -> None:
    """The refusal says what to do."""
    made = maker.publish(folder({"a.bin": b"a" * 1000, "b.bin": b"b" * 1000}))
    with serving(maker.home) as url:
        pull(made.locator, peers=[url], only=["a.bin"], home=tmp_path / "bob")
    with running(Service()) as url, pytest.raises(UnavailableError, match="only a part") as caught:
        pin_release(open_store(tmp_path / "bob"), made.release, [Target.parse(f"service={url}")])
    assert "all of it" in str(caught.value.hint)


# Audits


class Half:
    """A target that has lost some blocks and damaged others."""

    def __init__(self, missing: set[Cid], wrong: set[Cid]) -> None:
        self.missing, self.wrong = missing, wrong

    def block(self, cid: Cid) -> bytes:
        """Give it, or fail as a real one does."""
        if cid in self.wrong:
            raise IntegrityError("block differs from its CID", rule="hash", wanted=cid)
        if cid in self.missing:
            raise UnavailableError("refused: 404", rule="http-404")
        return b""


def test_what_an_audit_draws(maker: Maker, folder: Folder) -> None:
    """Always the manifest, then distinct blocks of the release, nodes and chunks alike, never more than there are."""
    made = maker.publish(folder({"w.bin": secrets.token_bytes(3_000_000), "config.json": b"{}"}))
    blocks = ReleaseBlocks(maker.store, made.release.manifest)
    every = draw(blocks, 1000, random.Random(1))
    assert len(every) == len(set(every)) == len(blocks)
    assert every[0] == made.release.manifest
    assert draw(blocks, 1, random.Random(1)) == [made.release.manifest]
    drawn = Counter(cid for seed in range(300) for cid in draw(blocks, 4, random.Random(seed))[1:])
    assert set(drawn) == set(every[1:])
    lost = {cid for cid in every if cid.codec == RAW}
    found = audit(Half(lost - {every[1]}, {every[1]}), every)
    assert (found.checked, found.ok, [cid for cid, _ in found.wrong]) == (len(every), False, [every[1]])
    assert {cid for cid, _ in found.missing} == lost - {every[1]}


def test_a_service_without_a_gateway_cannot_be_audited(maker: Maker, folder: Folder) -> None:
    """It says so, beside what the service claims."""
    made = maker.publish(folder({"w.bin": b"weights"}))
    with running(Service()) as url:
        pin_release(maker.store, made.release, [Target.parse(f"service={url}")])
        (seen,) = look_after(maker.store, made.release.manifest, blocks=4)
    assert (seen.state, seen.audit) == ("pinned", None)
    assert seen.error is not None
    assert seen.error.rule == "audit"
