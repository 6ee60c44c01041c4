"""The door to logs: C2SP paths and types, what caches may keep, what is bounded, and what is no path of ours."""

from __future__ import annotations

from hashlib import sha256

import pytest

from modelnet.core.entries import read_event
from modelnet.core.evidence import Evidence
from modelnet.core.note import MAX_NOTE, Signature, SignedNote
from modelnet.core.tiles import WIDTH, Tile, encode_bundle, parse_bundle, tiles_of
from modelnet.replica import Replicas
from modelnet.stores.logfolder import LogFolder
from modelnet_registry.http import logdoor
from modelnet_registry.http.doors import Doors
from tests.core.logs import T0, Log, digests
from tests.registry.conftest import Serve
from tests.registry.stock import Client, Stock

LOG = Log()
for _number in range(300):
    LOG.add(b"{%d}" % _number)  # inert, and small


def put(stock: Stock, size: int | None = None, *, log: Log = LOG, epoch: int = 0) -> LogFolder:
    """Lay the first `size` entries of a log down in the store."""
    folder = LogFolder(stock.store.home.log(log.pid, epoch))
    folder.append(0, log.entries[:size])
    folder.set_checkpoint(head_of(log, size, epoch))
    return folder


def head_of(log: Log, size: int | None, epoch: int) -> SignedNote:
    """Return a head of some epoch, as though the log had been recovered so often."""
    found = log.head(size, time=T0)
    return SignedNote(found.unverified_text.replace("\n", f"/r{epoch}\n" if epoch else "\n", 1), found.signatures)


def test_every_tile_and_the_head_are_served(stock: Stock, get: Client) -> None:
    """With the types of the specification; full tiles may be kept for ever, the head not at all."""
    folder = put(stock)
    head = get(f"/log/{LOG.pid}/checkpoint")
    assert head.body == LOG.head(time=T0).encode()
    assert head.headers["content-type"] == "text/plain; charset=utf-8"
    assert head.headers["cache-control"] == "no-cache"
    for tile in tiles_of(301):
        for prefix in ("", "r0/"):
            answer = get(f"/log/{LOG.pid}/{prefix}{tile.path}")
            assert answer.body == folder.tile(tile)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert ("immutable" in answer.headers["cache-control"]) == (tile.width == WIDTH)
    entries = get(f"/log/{LOG.pid}/tile/entries/000").body + get(f"/log/{LOG.pid}/tile/entries/001.p/45").body
    assert entries == encode_bundle(LOG.entries[:256]) + encode_bundle(LOG.entries[256:])


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/000", "tile/0/001.p/45", "negatives", "evidence"])
def test_head_and_not_modified(stock: Stock, get: Client, path: str) -> None:
    """HEAD tells the length, and who has the bytes is told so."""
    put(stock)
    target = f"/log/{LOG.pid}/{path}"
    whole = get(target)
    head = get(target, method="HEAD")
    assert (whole.status, head.status, head.body) == (200, 200, b"")
    assert head.headers["content-length"] == str(len(whole.body))
    known = get(target, If_None_Match=whole.headers["etag"])
    assert (known.status, known.body) == (304, b"")
    assert get(target, method="HEAD", If_None_Match=whole.headers["etag"]).status == 304
    assert get(target, method="DELETE").status == 405


def test_a_partial_tile_is_cut_from_a_wider_one(stock: Stock, get: Client) -> None:
    """A reader that is a moment behind still gets the tile of its head's size; nobody gets one of a larger tree."""
    put(stock, 300).prune(300)
    assert parse_bundle(get(f"/log/{LOG.pid}/tile/entries/000.p/7").body, 7) == LOG.entries[:7]
    assert len(get(f"/log/{LOG.pid}/tile/0/001.p/43").body) == 43 * 32
    for path in ("tile/0/001", "tile/0/001.p/45", "tile/0/002.p/1", "tile/1/000.p/2", "tile/2/000.p/1"):
        assert get(f"/log/{LOG.pid}/{path}").status == 404


def test_what_is_too_large_is_not_cut(stock: Stock, get: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many readers cannot make the node hold many copies: a wide bundle is streamed from its file or not given."""
    put(stock, 300).prune(300)
    monkeypatch.setattr(logdoor, "CUT", 100)
    assert get(f"/log/{LOG.pid}/tile/entries/000.p/255").status == 404
    assert get(f"/log/{LOG.pid}/tile/entries/000.p/2").status == 404
    assert parse_bundle(get(f"/log/{LOG.pid}/tile/entries/000").body, 256) == LOG.entries[:256]


@pytest.mark.parametrize(
    "path",
    [
        "", "checkpoint/", "/checkpoint", "Checkpoint", "check%70oint", "checkpoint.p/1", "own/intention", "lock",
        "dead", "r00/checkpoint", "r01/checkpoint", "r-1/checkpoint", "r1/checkpoint", "r9999999/checkpoint", "r0",
        "0/checkpoint", "r0/negatives", "r0/cosigned/x.note", "tile/0/0", "tile/0/0000", "tile/0/x000/000",
        "tile/8/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/07", "tile/0/000/", "tile//0/000",
        "tile/0/%30%30%30", "tile/entries/../0/000", "tile/entries/..%2f..%2fcheckpoint", "../checkpoint",
        "tile/-1/000", "tile/0/x999/x999/x999/x999/x999/x999/999", "tile/0/x9223372/000", "r0/../checkpoint",
        "negatives/", "evidence/x", "tile/0/%D9%A0%D9%A0%D9%A0",
    ],
)  # fmt: skip
def test_other_spellings_are_404(stock: Stock, get: Client, path: str) -> None:
    """Every file has one path, and no path leads anywhere else."""
    put(stock)
    (stock.store.home.logs / LOG.pid / "own").mkdir()
    (stock.store.home.logs / LOG.pid / "own" / "intention").write_text("mine")
    (stock.store.home.logs / LOG.pid / "lock").write_text("")
    assert get(f"/log/{LOG.pid}/{path}").status == 404


def test_unknown_publishers_are_404(stock: Stock, get: Client) -> None:
    """Of whom nothing was adopted nothing is served, whatever the name looks like."""
    put(stock)
    for pid in ("a" * 52, LOG.pid[:-1], "..", ".", "%2e%2e", LOG.pid.upper(), ""):
        for path in ("checkpoint", "negatives", "evidence", "tile/0/000"):
            assert get(f"/log/{pid}/{path}").status in (404, 400)


def test_a_log_is_served_as_soon_as_it_is_committed(stock: Stock, get: Client) -> None:
    """The node looks at the files of each request; a folder without a head is no log yet."""
    folder = LogFolder(stock.store.home.log(LOG.pid))
    folder.append(0, LOG.entries[:3])
    assert get(f"/log/{LOG.pid}/checkpoint").status == 404
    folder.set_checkpoint(LOG.head(3))
    assert get(f"/log/{LOG.pid}/checkpoint").body == LOG.head(3).encode()


def test_the_head_comes_with_what_was_heard_of_it_since(stock: Stock, get: Client) -> None:
    """A follower passes on newer cosignatures of the same head: else knowledge would grow old on its way."""
    replicas = Replicas(stock.store, clock=lambda: T0 + 100)
    replicas.adopt(LOG.pid, LOG.head(3, time=T0), LOG.entries[:3])
    replicas.adopt(LOG.pid, LOG.head(3, time=T0 + 60))
    beats = LOG.state.signers_at(3)[1]
    for path in ("checkpoint", "r0/checkpoint"):
        note = SignedNote.parse(get(f"/log/{LOG.pid}/{path}").body)
        assert list(note.cosigned(beats).values()) == [T0 + 60]
        assert note.verify(LOG.state.log_keys()) == LOG.head(3).unverified_text


def test_a_head_that_strangers_stuffed_is_still_taken(stock: Stock, get: Client) -> None:
    """What was heard of the head since does not push it over the limit at which others stop reading."""
    replicas = Replicas(stock.store, clock=lambda: T0 + 100)
    note = LOG.head(3, time=T0)
    stuffed = note.encode()
    for width in (1500, 60):
        while (
            len(stuffed) + len(line := Signature("x", len(stuffed).to_bytes(4, "big"), bytes(width)).encode())
            < MAX_NOTE
        ):
            stuffed += line.encode()
    assert MAX_NOTE - 120 < len(stuffed) <= MAX_NOTE
    replicas.adopt(LOG.pid, SignedNote.parse(stuffed), LOG.entries[:3])
    for number in range(1, 20):
        replicas.adopt(LOG.pid, LOG.head(3, time=T0 + number))
    shown = SignedNote.parse(get(f"/log/{LOG.pid}/checkpoint").body)
    assert list(shown.cosigned(LOG.state.signers_at(3)[1]).values()) == [T0 + 19]
    shown.verify(LOG.state.log_keys())


def test_the_newest_epoch_is_the_log(stock: Stock, get: Client) -> None:
    """Older ones stay at their own address; one that is not committed yet is not there."""
    other = LOG.fork(5)
    put(stock, 9)
    put(stock, 5, log=other, epoch=2)
    LogFolder(stock.store.home.log(LOG.pid, 10)).append(0, LOG.entries[:2])
    assert get(f"/log/{LOG.pid}/checkpoint").body == head_of(other, 5, 2).encode()
    assert get(f"/log/{LOG.pid}/r2/checkpoint").body == head_of(other, 5, 2).encode()
    assert get(f"/log/{LOG.pid}/r0/checkpoint").body == LOG.head(9, time=T0).encode()
    assert get(f"/log/{LOG.pid}/r0/tile/0/000.p/9").status == 200
    assert get(f"/log/{LOG.pid}/tile/0/000.p/9").status == 404
    assert get(f"/log/{LOG.pid}/r10/checkpoint").status == 404


def test_links_and_fifos_are_not_served(stock: Stock, get: Client) -> None:
    """What lies in place of a tile leads nowhere."""
    folder = put(stock, 3)
    path = folder.path / Tile(0, 0, 3).path
    path.unlink()
    (folder.path / "secret").write_bytes(b"x" * 96)
    path.symlink_to(folder.path / "secret")
    assert get(f"/log/{LOG.pid}/tile/0/000.p/3").status == 503


def revocations(stock: Stock, count: int) -> list[bytes]:
    """Put revocations beside a log; return them as they are to be served."""
    folder = stock.store.home.logs / LOG.pid / "negatives"
    folder.mkdir(parents=True)
    log, found = LOG.fork(1), []
    for number in range(count):
        envelope = log.add(log.revoke(digests("llama", f"1.{number}"), text="x" * 900), "release")
        statement = read_event(envelope).statement.hex()
        (folder / statement).write_bytes(envelope)
        found.append((statement, envelope))
    return [envelope for _, envelope in sorted(found)]


def test_negatives_come_in_pages(stock: Stock, get: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, each is on some page: nobody hides one behind a heap of others."""
    put(stock, 3)
    assert get(f"/log/{LOG.pid}/negatives").body == b""
    monkeypatch.setattr(logdoor, "PAGE", 4000)
    wanted, found, after, pages = revocations(stock, 20), [], "", 0
    (stock.store.home.logs / LOG.pid / "negatives" / ".x.1.tmp").write_bytes(b"half")
    while True:
        body = get(f"/log/{LOG.pid}/negatives" + (f"?after={after}" if after else "")).body
        page = []
        while body:
            length = int.from_bytes(body[:2], "big")
            page.append(body[2 : 2 + length])
            body = body[2 + length :]
        if not page:
            break
        found += page
        pages += 1
        after = read_event(page[-1]).statement.hex()
    assert found == wanted
    assert pages > 2
    for wrong in ("x", "0" * 63, "A" * 64, "..%2f"):
        assert get(f"/log/{LOG.pid}/negatives?after={wrong}").status == 400


def test_evidence_about_the_newest_epoch_comes_first(stock: Stock, get: Client) -> None:
    """Old evidence, of which there may be a heap, does not crowd out what matters now."""
    put(stock, 3, epoch=0)
    put(stock, 3, epoch=1)
    other = LOG.fork(2)
    other.add(b"{else}")
    folder = stock.store.home.logs / LOG.pid / "evidence"
    folder.mkdir()
    old = [Evidence(LOG.head(3, time=T0 + number), other.head(3)).encode() for number in range(20)]
    for content in old:
        (folder / sha256(content).hexdigest()).write_bytes(content)
    text = LOG.head(3).unverified_text.replace("\n", "/r1\n", 1)
    now = Evidence(type(LOG.head(3))(text, LOG.head(3).signatures), LOG.head(3)).encode()
    (folder / ("f" * 64)).write_bytes(now)
    (folder / ("0" * 64)).write_bytes(b"damaged")
    answer = get(f"/log/{LOG.pid}/evidence")
    lines = answer.body.splitlines()
    assert lines[0] == now
    assert len(lines) == logdoor.MAX_SHOWN
    assert set(lines[1:]) < set(old)
    assert answer.headers["content-type"] == "application/x-ndjson"


def test_a_damaged_head_is_503(stock: Stock, serve: Serve) -> None:
    """The peer may come back; the operator has `fsck`."""
    get = serve(Doors(stock.store))[1]
    folder = put(stock, 3)
    (folder.path / "checkpoint").write_bytes(b"not a note")
    assert get(f"/log/{LOG.pid}/checkpoint").status == 503
