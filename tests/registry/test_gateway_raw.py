"""Raw blocks: ipfs/specs trustless-gateway.md "Block Responses", and path-gateway.md for headers and status codes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelnet.core.cid import DAG_CBOR, Cid, blake3_digest
from modelnet.stores.index import FileStat
from tests.registry.stock import CAR_TYPE, RAW_TYPE, Client, Stock, noise, raw_cid

CONTENT = noise(1000)


@pytest.fixture
def chunk(stock: Stock) -> Cid:
    """Give the CID of a file of one chunk."""
    return stock.file("one.bin", CONTENT).cid


def test_a_block_comes_by_format_and_by_accept(get: Client, chunk: Cid) -> None:
    """`format=raw` and `Accept` both give the exact bytes."""
    for answer in (get(f"/ipfs/{chunk}?format=raw"), get(f"/ipfs/{chunk}", RAW_TYPE)):
        assert (answer.status, answer.body) == (200, CONTENT)


def test_the_headers_are_those_of_the_specification(get: Client, chunk: Cid) -> None:
    """Type, length, disposition, caching and the path are told."""
    headers = get(f"/ipfs/{chunk}", RAW_TYPE).headers
    assert headers["content-type"] == RAW_TYPE
    assert headers["content-length"] == "1000"
    assert headers["content-disposition"] == f'attachment; filename="{chunk}.bin"'
    assert headers["etag"] == f'"{chunk}.raw"'
    assert headers["cache-control"] == "public, max-age=29030400, immutable"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-ipfs-path"] == f"/ipfs/{chunk}"
    assert headers["x-ipfs-roots"] == str(chunk)
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-location"] == f"/ipfs/{chunk}?format=raw"


def test_format_wins_over_accept(get: Client, chunk: Cid) -> None:
    """When both are given and differ, the query decides."""
    assert get(f"/ipfs/{chunk}?format=raw", CAR_TYPE).headers["content-type"] == RAW_TYPE
    assert get(f"/ipfs/{chunk}?format=car", RAW_TYPE).headers["content-type"].startswith(CAR_TYPE)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 400), ("*/*", 400), ("application/*", 400), ("", 400),
        ("text/html", 406), ("text/html, */*;q=0.8", 406), (f"{RAW_TYPE};q=0", 400),
        (f"text/html, {RAW_TYPE};q=0.5", 200), (f"*/*, {RAW_TYPE};q=0.1", 200),
        ("application/vnd.ipld.car;version=2", 406), (f"{CAR_TYPE};order=rnd, {CAR_TYPE};order=dfs;q=0.5", 200),
    ],
)  # fmt: skip
def test_accept_is_negotiated(get: Client, chunk: Cid, accept: str | None, status: int) -> None:
    """A request that names no format that is offered is refused: nothing is interpreted here."""
    assert get(f"/ipfs/{chunk}", accept).status == status


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/ipfs/nonsense?format=raw", 400), ("/ipfs/bafk?format=raw", 400), ("/ipfs/?format=raw", 404),
        ("/ipfs/{cid}?format=tar", 400), ("/ipfs/{cid}?format=ipns-record", 400), ("/ipfs/{cid}?format=", 400),
        ("/ipfs/{cid}?format=raw&format=car", 400), ("/ipfs/{cid}/below?format=raw", 400),
        ("/ipfs/{cid}/?format=raw", 200), ("/ipns/example.org?format=raw", 501), ("/elsewhere", 404),
        ("/ipfs/%ff%fe?format=raw", 400), ("/ipfs/{cid}?%ff=%ff&format=raw", 400),
        ("/ipfs/{cid}?" + "&".join(f"a{i}=1" for i in range(40)), 400),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_client_error(get: Client, chunk: Cid, target: str, status: int) -> None:
    """Bad CIDs, unknown formats and paths below a raw block are told apart from what is not here."""
    assert get(target.format(cid=chunk)).status == status


def test_an_absent_block_is_404_and_412_when_only_the_cache_was_asked(get: Client) -> None:
    """`only-if-cached` turns 404 into 412; neither is a server error nor may be cached."""
    absent = raw_cid(b"nobody has this")
    for target in (f"/ipfs/{absent}?format=raw", f"/ipfs/{absent}?format=car"):
        assert get(target).status == 404
        assert get(target, method="HEAD").status == 404
        assert get(target).headers["cache-control"] == "no-store"
        assert get(target, Cache_Control="only-if-cached").status == 412


def test_head_is_get_without_the_body(get: Client, chunk: Cid) -> None:
    """HEAD tells the same headers, and the connection goes on."""
    for target in (f"/ipfs/{chunk}?format=raw", f"/ipfs/{chunk}?format=car"):
        full, head = get(target), get(target, method="HEAD")
        assert head.body == b""
        assert {**head.headers, "date": ""} == {**full.headers, "date": ""}
        assert int(head.headers["content-length"]) == len(full.body)


def test_the_probe_is_answered(get: Client) -> None:
    """`bafkqaaa` tells that this is a gateway: 200 and empty, for GET and HEAD, with and without a format."""
    for target in ("/ipfs/bafkqaaa", "/ipfs/bafkqaaa?format=raw"):
        for method in ("GET", "HEAD"):
            answer = get(target, method=method)
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert get("/ipfs/bafkqaaa", RAW_TYPE).status == 200


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=990-", 990, 1000), ("bytes=-5", 995, 1000),
     ("bytes=-5000", 0, 1000), ("bytes=990-5000", 990, 1000)],
)  # fmt: skip
def test_one_range_is_served(get: Client, chunk: Cid, asked: str, start: int, end: int) -> None:
    """A single range of a raw block comes as 206, cut from verified bytes."""
    answer = get(f"/ipfs/{chunk}?format=raw", Range=asked)
    assert (answer.status, answer.body) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000"


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_outside_is_416(get: Client, chunk: Cid, asked: str) -> None:
    """A range that holds no byte of the block is refused with its size."""
    answer = get(f"/ipfs/{chunk}?format=raw", Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */1000")


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=٣-"])
def test_what_is_no_single_range_is_ignored(get: Client, chunk: Cid, asked: str) -> None:
    """Several ranges, or nonsense, give the whole block (RFC 9110 §14.2)."""
    answer = get(f"/ipfs/{chunk}?format=raw", Range=asked.encode().decode("latin-1"))
    assert (answer.status, answer.body) == (200, CONTENT)


def test_conditions_are_kept(get: Client, chunk: Cid) -> None:
    """If-None-Match gives 304, If-Range decides whether a range counts."""
    target, etag = f"/ipfs/{chunk}?format=raw", f'"{chunk}.raw"'
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = get(target, If_None_Match=sent)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert get(target, If_None_Match='"other"').status == 200
    assert get(target, Range="bytes=0-1", If_Range=etag).status == 206
    assert get(target, Range="bytes=0-1", If_Range='"other"').status == 200


def test_a_filename_is_offered_without_breaking_the_header(get: Client, chunk: Cid) -> None:
    """`filename` names the download; what could end the quotes or the header does not get through."""
    target = f"/ipfs/{chunk}?format=raw&filename="
    assert get(f"{target}model.bin").headers["content-disposition"] == 'attachment; filename="model.bin"'
    told = get(f'{target}a"%0d%0aX:1%C3%A9.bin').headers["content-disposition"]
    assert told == "attachment; filename=\"a___X:1_.bin\"; filename*=UTF-8''a%22%0D%0AX%3A1%C3%A9.bin"


def test_dag_nodes_manifests_and_empty_files_are_blocks_too(stock: Stock, get: Client) -> None:
    """Whatever the index holds comes by its CID: dag-pb, dag-cbor, and the empty chunk."""
    root = stock.file("big.bin", noise(5000), chunk=1000).cid
    note = Cid.of(DAG_CBOR, b"\xa0")
    stock.emit(note, b"\xa0")
    assert get(f"/ipfs/{root}?format=raw").body == stock.blocks[root]
    assert get(f"/ipfs/{note}?format=raw").body == b"\xa0"
    empty = get(f"/ipfs/{raw_cid(b'')}?format=raw")
    assert (empty.status, empty.body) == (200, b"")


def test_an_edited_file_makes_its_chunk_missing(get: Client, chunk: Cid, tmp_path: Path) -> None:
    """A byte that changed on disk is never served: the chunk is gone."""
    (tmp_path / "one.bin").write_bytes(b"X" + CONTENT[1:])
    for method in ("GET", "HEAD"):
        answer = get(f"/ipfs/{chunk}?format=raw", method=method)
        assert answer.status == 404
        assert b"one.bin" not in answer.body
    assert get(f"/ipfs/{chunk}?format=car").status == 404


@pytest.mark.parametrize("harm", ["edited", "truncated", "removed", "fifo"])
def test_a_second_reference_repairs_the_first(stock: Stock, get: Client, tmp_path: Path, harm: str) -> None:
    """A chunk that two files hold is served as long as one of them is whole."""
    chunk = stock.file("a.bin", CONTENT).cid
    stock.file("b.bin", CONTENT)
    first = tmp_path / "a.bin"
    match harm:
        case "edited":
            first.write_bytes(noise(1000, 2))
        case "truncated":
            first.write_bytes(CONTENT[:10])
        case "removed":
            first.unlink()
        case _:
            first.unlink()
            os.mkfifo(first)
    answer = get(f"/ipfs/{chunk}?format=raw")
    assert (answer.status, answer.body) == (200, CONTENT)


def test_a_damaged_index_row_is_a_missing_block(stock: Stock, get: Client) -> None:
    """A node whose bytes in the index do not hash to its CID is absent."""
    root = stock.file("big.bin", noise(5000), chunk=1000).cid
    stock.store.index.add_blocks([(root, b"other bytes")])
    assert get(f"/ipfs/{root}?format=raw").status == 404
    assert get(f"/ipfs/{root}?format=car").status == 404


def test_a_wrong_size_in_the_index_is_a_missing_chunk(stock: Stock, get: Client, tmp_path: Path) -> None:
    """A reference that claims more bytes than any block has is not followed."""
    path = tmp_path / "huge.bin"
    path.write_bytes(b"")
    number = stock.store.index.set_file(str(path), FileStat.of(path.stat()))
    stock.store.index.add_chunks(number, [(blake3_digest(b"claimed"), 0, 1 << 40)])
    assert get(f"/ipfs/{raw_cid(b'claimed')}?format=raw").status == 404
    assert get(f"/ipfs/{raw_cid(b'claimed')}?format=car").status == 404


def test_chunks_that_come_while_the_node_runs_are_served(stock: Stock, get: Client) -> None:
    """A pull in another process adds rows; the next request sees them, on the same connection."""
    chunk = raw_cid(CONTENT)
    assert get(f"/ipfs/{chunk}?format=raw").status == 404
    stock.file("late.bin", CONTENT)
    assert get(f"/ipfs/{chunk}?format=raw").body == CONTENT
