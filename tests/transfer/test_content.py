"""Sources whose HTTP is right and whose content is not: CAR streams, blocks and logs that were rearranged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import modelnet
from modelnet.core import car, dagcbor, strictjson, varint
from modelnet.core.cid import DAG_PB, RAW, Cid
from modelnet.core.unixfs import Child, file_node
from modelnet.errors import ModelnetError
from tests.transfer.hostile import Exchange, Kind, Proxy, bundle, framed, join_car, split_car
from tests.transfer.scene import Scene
from tests.transfer.world import Outcome, attempt, serving, write

pytestmark = pytest.mark.usefixtures("quick")

COMPANY = ["alone", "together"]
Frames = list[tuple[Cid, bytes]]
FOREIGN = b"a block that nobody asked for" * 100


def code(outcome: Outcome) -> int:
    """Return the exit code of a pull."""
    return outcome.error.exit_code if outcome.error is not None else 0


def chunks_of(frames: Frames) -> list[int]:
    """Return the places of the raw blocks."""
    return [place for place, (cid, _) in enumerate(frames) if cid.codec == RAW]


def rearranged(change: Callable[[Frames], Frames]) -> Callable[[Exchange], None]:
    """Return a spoil that changes the frames of each CAR."""

    def spoil(exchange: Exchange) -> None:
        header, frames = split_car(exchange.body)
        exchange.reply(join_car(header, change(frames)))

    return spoil


def without(frames: Frames, place: int) -> Frames:
    """Leave one frame out."""
    return [*frames[:place], *frames[place + 1 :]]


# What a CAR may lack, repeat or reorder: the protocol allows it, and the chunks that come are right.
HARMLESS: dict[str, Callable[[Frames], Frames]] = {
    "no-nodes": lambda frames: [frame for frame in frames if frame[0].codec == RAW],
    "first-chunk-dropped": lambda frames: without(frames, chunks_of(frames)[0]),
    "last-chunk-dropped": lambda frames: without(frames, chunks_of(frames)[-1]),
    "all-but-one-dropped": lambda frames: frames[: chunks_of(frames)[0] + 1],
    "one-doubled": lambda frames: [*frames, frames[chunks_of(frames)[0]]][-len(frames) - 1 :],
    "reversed": lambda frames: frames[::-1],
    "shuffled": lambda frames: random.Random(1).sample(frames, len(frames)),
}


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("change", HARMLESS)
def test_rearranged_stream(scene: Scene, change: str, company: str) -> None:
    """Right chunks are right in any order; what a stream leaves out is asked for again."""
    spoil = rearranged(HARMLESS[change])
    if company == "together":
        scene.together(spoil, [Kind.CAR])
    else:
        outcome = scene.alone(spoil, [Kind.CAR])
        assert outcome.error is None or change == "one-doubled", str(outcome.error)


def test_everything_doubled(scene: Scene) -> None:
    """A stream that says every chunk twice is longer than what was asked, or fits: either way nothing is wrong."""
    scene.together(rearranged(lambda frames: [frame for frame in frames for _ in range(2)]), [Kind.CAR])


def test_dropped_everywhere(scene: Scene) -> None:
    """A chunk that the only source never gives: the pull ends, says so, and keeps the rest."""
    with Proxy(scene.node) as proxy:
        attempt(scene.world.v1, scene.home / "first", [proxy.url]).whole(scene.world.files_v1)
        _, frames = split_car(next(proxy.fetch(path)[1] for path in proxy.paths_asked if "format=car" in path))
    hidden = frames[-1][0]

    def hide(exchange: Exchange) -> None:
        if exchange.kind is Kind.CAR:
            rearranged(lambda frames: [frame for frame in frames if frame[0] != hidden])(exchange)
        elif str(hidden) in exchange.path:
            exchange.reply(b"", status="404 Not Found")
        else:
            exchange.honest()

    outcome = scene.alone(hide, [Kind.CAR, Kind.CHUNK])
    assert outcome.error is not None
    assert outcome.error.exit_code == 5
    assert "more bytes" in str(outcome.error)


def raw_car(tail: Callable[[bytes], bytes]) -> Callable[[Exchange], None]:
    """Return a spoil that makes another CAR of the bytes of the honest one."""
    return lambda exchange: exchange.reply(tail(exchange.body))


def second_frame(body: bytes) -> int:
    """Return where the second frame begins."""
    _, start = car.read_header(body)
    length, end = varint.decode(body, start)
    return end + length


FOREIGN_CID = Cid.of(RAW, FOREIGN)
FOREIGN_FRAME = car.frame_prefix(FOREIGN_CID, len(FOREIGN)) + FOREIGN
NODE = file_node([Child(FOREIGN_CID, len(FOREIGN), len(FOREIGN))])
NODE_FRAME = car.frame_prefix(NODE[0].cid, len(NODE[1])) + NODE[1]


def edit_header(**fields: object) -> Callable[[bytes], bytes]:
    """Return an edit that puts another header on a CAR."""

    def edit(body: bytes) -> bytes:
        encoded = dagcbor.encode(fields)
        return varint.encode(len(encoded)) + encoded + body[car.read_header(body)[1] :]

    return edit


WRONG_CARS: dict[str, Callable[[bytes], bytes]] = {
    "garbage-behind": lambda body: body + b"\xff" * 1000,
    "foreign-chunk-behind": lambda body: body + FOREIGN_FRAME,
    "foreign-chunk-before": lambda body: body[: car.read_header(body)[1]] + FOREIGN_FRAME + body,
    "foreign-node-behind": lambda body: body + NODE_FRAME,
    "empty-frame": lambda body: body + b"\x00",
    "frame-without-cid": lambda body: body + b"\x01\x01",
    "frame-shorter-than-its-cid": lambda body: body + b"\x05" + FOREIGN_CID.encode(),
    "frame-of-4-GiB": lambda body: body + varint.encode(1 << 32) + FOREIGN_FRAME,
    "frame-of-8-EiB": lambda body: body + varint.encode((1 << 63) - 1) + FOREIGN_FRAME,
    "varint-of-20-bytes": lambda body: body + b"\xff" * 20 + b"\x01",
    "varint-padded": lambda body: body + b"\x85\x80\x00" + bytes(40),
    "cid-version-7": lambda body: body + b"\x06\x07\x55\x1e\x02ab",
    "cid-of-another-hash": lambda body: body + car.frame_prefix(Cid(RAW, 0x12, bytes(32)), 3) + b"abc",
    "cid-identity": lambda body: body + car.frame_prefix(Cid(RAW, 0, b"abc"), 3) + b"abc",
    "cid-of-1-GiB-digest": lambda body: body + b"\x0c\x01\x55\x1e" + varint.encode(1 << 30) + b"abcd",
    "header-of-4-GiB": lambda body: varint.encode(1 << 32) + body,
    "header-twice": lambda body: body[: car.read_header(body)[1]] + body,
    "no-header": lambda body: body[car.read_header(body)[1] :],
    "header-is-not-cbor": lambda body: b"\x05hello" + body,
    "header-of-carv2": edit_header(version=2),
    "header-roots-are-numbers": edit_header(version=1, roots=[1, 2]),
    "header-nested": lambda body: varint.encode(60_000) + b"\x81" * 60_000 + body,
    "a-page": lambda _: b"<html>" * 1000,
    "wrong-block-under-right-cid": lambda body: body[: second_frame(body)] + _under_right_cid(body),
}


def _under_right_cid(body: bytes) -> bytes:
    _, frames = split_car(body)
    cid, block = frames[chunks_of(frames)[0]]
    return car.frame_prefix(cid, len(FOREIGN)) + FOREIGN + car.frame_prefix(cid, len(block)) + block


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("name", WRONG_CARS)
def test_wrong_stream(scene: Scene, name: str, company: str) -> None:
    """A stream that holds what nobody asked for, or is no CAR, makes its sender a liar."""
    spoil = raw_car(WRONG_CARS[name])
    if company == "together":
        assert scene.together(spoil, [Kind.CAR]) == "lied"
        return
    error = scene.alone(spoil, [Kind.CAR]).error
    assert error is not None
    assert error.exit_code == 3
    assert error.path is not None


@pytest.mark.parametrize("company", COMPANY)
def test_endless_stream_of_right_nodes(scene: Scene, company: str) -> None:
    """The same right node again and again: the stream is cut at what it may hold."""

    def endless(exchange: Exchange) -> None:
        header, frames = split_car(exchange.body)
        node = next(frame for frame in frames if frame[0].codec == DAG_PB)
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\n" + header)
        exchange.repeat(join_car(b"", [node]) * 500)

    if company == "together":
        assert scene.together(endless, [Kind.CAR]) == "lied"
    else:
        assert code(scene.alone(endless, [Kind.CAR])) == 3


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.NODE, Kind.CHUNK])
def test_another_block(scene: Scene, kind: Kind, company: str) -> None:
    """A right block, but not the one that was asked for."""

    def spoil(exchange: Exchange) -> None:
        exchange.reply(FOREIGN)

    if company == "together":
        assert scene.together(spoil, [kind]) == "lied"
    else:
        error = scene.alone(spoil, [kind]).error
        assert error is not None
        assert error.exit_code == 3
        assert error.wanted is not None


# Logs


@pytest.fixture
def stranger(tmp_path: Path) -> list[bytes]:
    """Give the log of another publisher with a release of the same name and version."""
    home = tmp_path / "stranger"
    pid = modelnet.init(home=home).pid
    write(tmp_path / "poison", {"model.safetensors": b"poison"})
    modelnet.publish(tmp_path / "poison", name="m", version="1.0", home=home)
    with serving(home) as url, Proxy(url) as proxy:
        return bundle(proxy.fetch(f"/log/{pid}/r0/tile/entries/000.p/2")[1])


def log_with(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Exchange], None]:
    """Return a spoil that changes the entries of a log."""
    return lambda exchange: exchange.reply(framed(change(bundle(exchange.body))))


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("how", ["instead", "genesis", "behind", "release"])
def test_log_of_a_stranger(scene: Scene, stranger: list[bytes], how: str, company: str) -> None:
    """Entries of another publisher are never taken for the ones that were asked for."""
    spoil = log_with({
        "instead": lambda _: stranger,
        "genesis": lambda entries: [stranger[0], *entries[1:]],
        "behind": lambda entries: [*entries, stranger[1]],
        "release": lambda entries: [entries[0], stranger[1]],
    }[how])  # fmt: skip
    if company == "together":
        assert scene.together(spoil, [Kind.LOG]) == "lied"
    else:
        assert code(scene.alone(spoil, [Kind.LOG])) in (3, 4)


JUNK = strictjson.dump({"payloadType": "x", "payload": "", "signatures": []})

WRONG_LOGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "empty": lambda _: [],
    "no-genesis": lambda entries: entries[1:],
    "backwards": lambda entries: entries[::-1],
    "unsigned": lambda entries: [entries[0], entries[1][: entries[1].index(b'"signatures"')] + b'"signatures":[]}'],
    "empty-entry": lambda entries: [*entries, b""],
    "million-empty-entries": lambda entries: [*entries, *[b""] * 1_000_000],
    "not-json": lambda entries: [*entries, b"{" * 60_000],
    "nested-json": lambda entries: [*entries, b"[" * 20_000 + b"]" * 20_000],
    "control-characters": lambda entries: [*entries, b'{"\x1b[2J": 1}'],
    "genesis-twice": lambda entries: [entries[0], *entries],
    "releases-twice": lambda entries: [*entries, *entries[1:]],
    "release-twice-instead": lambda entries: [entries[0], entries[1], entries[1]],
    "hides-a-release": lambda entries: entries[:-1],
    "100,000-unknown-entries": lambda entries: [*entries, *[JUNK] * 100_000],
}


@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("name", WRONG_LOGS)
def test_wrong_log(scene: Scene, name: str, company: str) -> None:
    """A log that its publisher cannot have written makes its sender a liar."""
    spoil = log_with(WRONG_LOGS[name])
    if company == "together":
        assert scene.together(spoil, [Kind.LOG]) == "lied"
        return
    outcome = scene.alone(spoil, [Kind.LOG])
    assert outcome.error is not None
    assert outcome.error.exit_code in (3, 4)
    assert outcome.seconds < 5


def test_the_longest_log_counts(scene: Scene, tmp_path: Path) -> None:
    """Nodes know what they heard: whoever has more of the log decides what is newest, in any order."""
    behind = tmp_path / "behind"
    with Proxy(scene.node) as proxy:
        head = proxy.fetch(f"/log/{scene.world.pid}/checkpoint")[1]
    attempt(scene.world.v1, behind, [scene.node]).whole(scene.world.files_v1)
    write(tmp_path / "newer", {"model.safetensors": b"newer"})
    modelnet.publish(tmp_path / "newer", name="m", version="2.0", home=scene.world.home)
    newest = f"{scene.world.pid}/m"
    with serving(behind) as old, serving(scene.world.home) as new:
        for name, peers in (("a", [old, new]), ("b", [new, old])):
            got = attempt(newest, scene.home / name, peers).whole({"model.safetensors": b"newer"})
            assert got.release.version == "2.0"
        with Proxy(new, lambda exchange: exchange.reply(head), kinds=[Kind.HEAD]) as withheld:
            outcome = attempt(newest, scene.home / "a", [withheld.url])
            assert outcome.got is not None, outcome.error
            assert outcome.got.release.version == "2.0", "what is known once is not forgotten"


def test_a_publisher_with_two_histories_is_caught(scene: Scene, tmp_path: Path) -> None:
    """Keys that were copied to another machine sign another history: whoever meets both believes neither any more."""
    other = tmp_path / "other"
    write(other / "home" / "keys", {path.name: path.read_bytes() for path in (scene.world.home / "keys").iterdir()})
    write(other / "files", {"model.safetensors": b"another 1.0"})
    made = modelnet.publish(other / "files", name="m", version="1.0", home=other / "home")
    with serving(other / "home") as url:
        # The locator says more about the log than this source shows.
        assert attempt(scene.world.v1, scene.home / "a", [url]).refused(4).rule == "floor"
        for name, peers in (("b", [url, scene.node]), ("c", [scene.node, url])):
            for locator in (scene.world.v1, made.locator):
                assert attempt(locator, scene.home / name, peers).refused(4).rule in ("quarantined", "floor")
            assert list((scene.home / name / "logs" / scene.world.pid / "evidence").iterdir())


def test_errors_are_data(scene: Scene) -> None:
    """What a liar sent is in the fields that `--json` prints."""
    error: ModelnetError | None = scene.alone(raw_car(WRONG_CARS["foreign-chunk-behind"]), [Kind.CAR]).error
    assert error is not None
    fields = error.as_dict()
    assert fields["kind"] == "integrity"
    assert fields["got"] == str(FOREIGN_CID)
    assert str(fields["source"]).startswith("http://127.0.0.1:")
    assert fields["hint"]
