"""CAR streams: ipfs/specs trustless-gateway.md "CAR Responses", and what gateway-conformance asks of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from modelnet.core import car, dagcbor
from modelnet.core.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW, Cid
from modelnet.core.unixfs import Child, Kind, Link, encode_hamt_data, encode_links, file_node, leaf, parse_node
from modelnet_registry.http.blocks import BufferPool, LocalBlocks
from modelnet_registry.http.dag import Scope
from modelnet_registry.http.doors import Doors
from modelnet_registry.http.gateway import Gateway
from modelnet_registry.http.message import Refusal, Request
from tests.registry.conftest import Serve
from tests.registry.stock import CAR_TYPE, Client, Stock, noise, raw_cid, verified_prefix

MIB = 1024 * 1024
CONTENT = noise(1026)


@pytest.fixture
def model(stock: Stock) -> Child:
    """Give a folder: `config.json` (one chunk) and `sub/weights.bin` (five chunks of 256 bytes)."""
    weights = stock.file("weights.bin", CONTENT, chunk=256)
    config = stock.file("config.json", b"{}")
    return stock.folder({"config.json": config, "sub": stock.folder({"weights.bin": weights})})


def link(stock: Stock, cid: Cid, *names: str) -> Cid:
    """Return the CID that `names` lead to."""
    for name in names:
        cid = next(link.cid for link in parse_node(stock.blocks[cid]).links if link.name == name)
    return cid


def test_the_whole_dag_comes_depth_first(stock: Stock, get: Client, model: Child) -> None:
    """Without parameters the answer is the DAG below the CID, by format and by Accept."""
    for answer in (get(f"/ipfs/{model.cid}?format=car"), get(f"/ipfs/{model.cid}", CAR_TYPE)):
        assert answer.status == 200
        assert answer.cids == stock.below(model.cid)
        assert car.read_header(answer.body)[0] == [model.cid]


def test_the_headers_are_those_of_the_specification(get: Client, model: Child) -> None:
    """Type with every parameter, exact length, disposition, caching; ranges are not offered."""
    answer = get(f"/ipfs/{model.cid}/sub?format=car")
    headers = answer.headers
    end = car.read_header(answer.body)[0][0]
    assert headers["content-type"] == "application/vnd.ipld.car; version=1; order=dfs; dups=n"
    assert int(headers["content-length"]) == len(answer.body)
    assert headers["content-disposition"] == f'attachment; filename="{end}.car"'
    assert headers["cache-control"] == "public, max-age=29030400, immutable"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["accept-ranges"] == "none"
    assert headers["x-ipfs-path"] == f"/ipfs/{model.cid}/sub"
    assert headers["x-ipfs-roots"] == f"{model.cid},{end}"


def test_a_path_is_resolved_and_proven(stock: Stock, get: Client, model: Child) -> None:
    """The blocks on the way come first, then what the path ends at."""
    sub, weights = link(stock, model.cid, "sub"), link(stock, model.cid, "sub", "weights.bin")
    answer = get(f"/ipfs/{model.cid}/sub/weights.bin?format=car")
    assert answer.cids == [model.cid, sub, *stock.below(weights)]
    only = get(f"/ipfs/{model.cid}/sub/weights.bin?format=car&dag-scope=block")
    assert only.cids == [model.cid, sub, weights]
    one = get(f"/ipfs/{model.cid}/config.json?format=car&dag-scope=block")
    assert one.cids == [model.cid, raw_cid(b"{}")]


def test_an_encoded_name_is_decoded_and_an_encoded_slash_is_none(stock: Stock, get: Client) -> None:
    """Percent-encoding is undone within a segment, so `%2F` never leads into a folder."""
    inner = stock.folder({"x": stock.file("x", b"x")})
    root = stock.folder({"é ü": stock.file("e", b"e"), "sub": inner})
    assert get(f"/ipfs/{root.cid}/%C3%A9%20%C3%BC?format=car").cids == [root.cid, raw_cid(b"e")]
    assert get(f"/ipfs/{root.cid}/sub/x?format=car").status == 200
    assert get(f"/ipfs/{root.cid}/sub%2Fx?format=car").status == 404


@pytest.mark.parametrize("path", ["nothing", "sub/nothing", "config.json/below", "sub/weights.bin/below", "../sub"])
def test_a_path_that_leads_nowhere_is_404(get: Client, model: Child, path: str) -> None:
    """Names that are not there, and paths through files."""
    assert get(f"/ipfs/{model.cid}/{path}?format=car").status == 404
    assert get(f"/ipfs/{model.cid}/{path}?format=car", Cache_Control="only-if-cached").status == 412


def test_scopes(stock: Stock, get: Client, model: Child) -> None:
    """`block` is one block, `entity` a file or a listing, `all` everything."""
    sub, weights = link(stock, model.cid, "sub"), link(stock, model.cid, "sub", "weights.bin")
    target = f"/ipfs/{model.cid}?format=car&dag-scope="
    assert get(target + "block").cids == [model.cid]
    assert get(target + "entity").cids == [model.cid]
    assert get(target + "all").cids == [*stock.below(model.cid)]
    assert get(f"/ipfs/{weights}?format=car&dag-scope=block").cids == [weights]
    assert get(f"/ipfs/{weights}?format=car&dag-scope=entity").cids == stock.below(weights)
    assert get(f"/ipfs/{sub}?format=car&dag-scope=entity&entity-bytes=0:*").cids == [sub]
    assert get(target + "most").status == 400


@pytest.fixture
def sharded(stock: Stock) -> Child:
    """Give a folder of 6,000 files of one chunk, which Kubo would shard."""
    small = stock.file("small", b"small")
    entries = {f"file-with-a-name-{number:05}.txt": small for number in range(6000)}
    entries["weights.bin"] = stock.file("weights.bin", CONTENT, chunk=256)
    return stock.folder(entries)


def test_paths_lead_through_shards(stock: Stock, get: Client, sharded: Child) -> None:
    """Only the shards on the way to an entry are sent, in order."""
    assert parse_node(stock.blocks[sharded.cid]).kind is Kind.HAMT
    weights = stock.file("weights.bin", CONTENT, chunk=256).cid
    cids = get(f"/ipfs/{sharded.cid}/weights.bin?format=car").cids
    way = cids[: cids.index(weights)]
    assert cids[len(way) :] == stock.below(weights)
    assert way[0] == sharded.cid
    assert 1 < len(way) <= 4
    for upper, lower in pairwise(way):
        assert lower in [link.cid for link in parse_node(stock.blocks[upper]).links]
    for number in range(0, 6000, 500):
        answer = get(f"/ipfs/{sharded.cid}/file-with-a-name-{number:05}.txt?format=car&dag-scope=block")
        assert answer.cids[-1] == raw_cid(b"small")
    assert get(f"/ipfs/{sharded.cid}/absent.txt?format=car").status == 404
    # A slot's own name is no entry.
    assert get(f"/ipfs/{sharded.cid}/00?format=car").status == 404


def test_the_entity_of_a_sharded_folder_is_its_shards(stock: Stock, get: Client, sharded: Child) -> None:
    """A listing needs every shard and no file."""
    cids = get(f"/ipfs/{sharded.cid}?format=car&dag-scope=entity").cids
    kinds = {parse_node(stock.blocks[cid]).kind for cid in cids}
    assert kinds == {Kind.HAMT}
    below = [cid for cid in stock.below(sharded.cid) if cid.codec == DAG_PB]
    assert cids == [cid for cid in dict.fromkeys(below) if parse_node(stock.blocks[cid]).kind is Kind.HAMT]


def test_documents_are_led_through_and_followed(stock: Stock, get: Client, model: Child) -> None:
    """A path goes through DAG-CBOR fields; `all` follows its links, `entity` does not."""
    fields = {"tree": model.cid, "files": [{"cid": link(stock, model.cid, "config.json"), "n": 1}]}
    block = dagcbor.encode(fields)
    manifest = Cid.of(DAG_CBOR, block)
    stock.emit(manifest, block)
    config = raw_cid(b"{}")
    assert get(f"/ipfs/{manifest}?format=car&dag-scope=entity").cids == [manifest]
    assert get(f"/ipfs/{manifest}?format=car&dag-scope=entity&entity-bytes=0:5").cids == [manifest]
    assert get(f"/ipfs/{manifest}/files/0/cid?format=car").cids == [manifest, config]
    assert get(f"/ipfs/{manifest}/tree/sub?format=car&dag-scope=block").cids == [
        manifest, model.cid, link(stock, model.cid, "sub"),
    ]  # fmt: skip
    assert get(f"/ipfs/{manifest}/files/0/n?format=car").cids == [manifest]
    assert get(f"/ipfs/{manifest}/files/1?format=car").status == 404
    assert get(f"/ipfs/{manifest}?format=car&car-dups=y").cids == [
        manifest, *(cid for value in dagcbor.decode(block).values() for cid in (
            stock.below(value) if isinstance(value, Cid) else [config])),
    ]  # fmt: skip
    assert sorted(get(f"/ipfs/{manifest}?format=car").cids) == sorted({manifest, *stock.below(model.cid)})


def test_repeated_blocks_come_once_or_each_time(stock: Stock, get: Client) -> None:
    """`dups=y` repeats what the DAG repeats, `dups=n` does not; the header says which."""
    same = stock.file("same.bin", bytes(1024), chunk=256, width=2)
    root = stock.folder({"a": same, "b": same, "c": stock.file("c", b"c")})
    once, each = get(f"/ipfs/{root.cid}?format=car&car-dups=n"), get(f"/ipfs/{root.cid}?format=car&car-dups=y")
    assert once.cids == list(dict.fromkeys(stock.below(root.cid)))
    assert each.cids == stock.below(root.cid)
    assert "dups=n" in once.headers["content-type"]
    assert "dups=y" in each.headers["content-type"]
    assert once.headers["etag"] != each.headers["etag"]


@pytest.mark.parametrize(
    ("query", "accept", "dups"),
    [
        ("", "{car}; version=1; order=dfs; dups=y", "y"), ("", "{car};dups=n", "n"), ("", "{car}; order=unk", "n"),
        ("?format=car", "{car}; dups=y", "y"), ("?format=car&car-dups=y", "{car}; dups=n", "y"),
        ("?format=car&car-order=dfs", "{car}; order=unk", "n"), ("?car-dups=y", "{car}", "y"),
        ("", '{car}; dups="y"', "y"), ("", "{car};dups=maybe, {car};q=0.1;dups=y", "y"),
    ],
)  # fmt: skip
def test_car_parameters_come_from_the_url_then_from_accept(
    get: Client, model: Child, query: str, accept: str, dups: str
) -> None:
    """IPIP-412 and IPIP-523: `car-*` wins, and Content-Location says what was answered."""
    answer = get(f"/ipfs/{model.cid}{query}", accept.format(car=CAR_TYPE))
    assert answer.headers["content-type"] == f"application/vnd.ipld.car; version=1; order=dfs; dups={dups}"
    told = get(answer.headers["content-location"])
    assert told.body == answer.body
    assert "content-location" not in told.headers


@pytest.mark.parametrize("query", ["car-version=2", "car-order=rnd", "car-dups=1"])
def test_car_parameters_that_are_not_offered_are_refused(get: Client, model: Child, query: str) -> None:
    """Another version or order is 400 in the URL and 406 in Accept."""
    name, value = query.removeprefix("car-").split("=")
    assert get(f"/ipfs/{model.cid}?format=car&{query}").status == 400
    assert get(f"/ipfs/{model.cid}", f"{CAR_TYPE};{name}={value}").status == 406


def test_etags_tell_requests_apart_and_304_saves_the_bytes(get: Client, model: Child) -> None:
    """Scope, range, path and dups are part of the Etag; a match sends nothing."""
    targets = [
        f"/ipfs/{model.cid}{path}?format=car{rest}"
        for path in ("", "/sub", "/sub/weights.bin")
        for rest in (
            "",
            "&dag-scope=block",
            "&dag-scope=entity",
            "&entity-bytes=0:9",
            "&entity-bytes=0:*",
            "&car-dups=y",
        )
    ]
    etags = {target: get(target, method="HEAD").headers["etag"] for target in targets}
    assert len(set(etags.values())) == len(targets)
    for target, etag in etags.items():
        answer = get(target, If_None_Match=etag)
        assert (answer.status, answer.body) == (304, b"")


def test_identity_blocks_are_never_sent(stock: Stock, get: Client) -> None:
    """What stands in the CID itself is followed but not sent, as the root and within a DAG."""
    probe = get("/ipfs/bafkqaaa?format=car")
    assert (probe.status, probe.cids) == (200, [])
    assert str(car.read_header(probe.body)[0][0]) == "bafkqaaa"
    inline = Cid(RAW, IDENTITY, b"inline")
    assert get(f"/ipfs/{inline}?format=raw").body == b"inline"
    root = stock.folder({"a": Child(inline, 6, 6), "b": stock.file("b", b"b")})
    for dups in "yn":
        assert get(f"/ipfs/{root.cid}?format=car&car-dups={dups}").cids == [root.cid, raw_cid(b"b")]
    child, _ = leaf(b"tail")
    stock.file("tail", b"tail")
    mixed, block = file_node([Child(inline, 6, 6), child])
    stock.emit(mixed.cid, block)
    assert get(f"/ipfs/{mixed.cid}?format=car&car-dups=y").cids == [mixed.cid, child.cid]


@pytest.mark.parametrize(
    ("asked", "chunks"),
    [
        ("0:*", range(5)), ("0:0", range(1)), ("512:*", range(2, 5)), ("512:1023", range(2, 4)),
        ("512:-256", range(2, 4)), ("-5:*", range(3, 5)), ("-9999:*", range(5)), ("-9999:-3", range(4)),
        ("1000:99999", range(3, 5)), ("255:256", range(2)), ("10:5", range(0)), ("-1:-1", range(4, 5)),
    ],
)  # fmt: skip
def test_entity_bytes_gives_the_least_blocks(
    stock: Stock, get: Client, model: Child, asked: str, chunks: range
) -> None:
    """Only the chunks that hold a byte of the range come, behind the nodes above them (1,026 bytes in 256s)."""
    weights = link(stock, model.cid, "sub", "weights.bin")
    leaves = stock.below(weights)[1:]
    answer = get(f"/ipfs/{weights}?format=car&dag-scope=entity&entity-bytes={asked}")
    assert answer.cids == [weights, *(leaves[number] for number in chunks)]
    assert get(f"/ipfs/{weights}?format=car&entity-bytes={asked}").body == answer.body


@pytest.mark.parametrize("asked", ["1026:*", "5000:6000", "0:-9999"])
def test_a_range_outside_of_the_entity_is_400(stock: Stock, get: Client, model: Child, asked: str) -> None:
    """A range without any byte of the file is known up front, for nodes and for single chunks."""
    weights = link(stock, model.cid, "sub", "weights.bin")
    assert get(f"/ipfs/{weights}?format=car&entity-bytes={asked}").status == 400
    assert get(f"/ipfs/{raw_cid(b'{}')}?format=car&entity-bytes={asked}").status == 400


@pytest.mark.parametrize("asked", ["", "5", "a:b", "*:5", "0:", ":5", "0:5:6", "0:٣", "1" * 30 + ":*", "0 :5", "+1:5"])
def test_a_range_that_is_none_is_400(get: Client, model: Child, asked: str) -> None:
    """Other spellings are refused, not guessed at."""
    target = f"/ipfs/{model.cid}?format=car&entity-bytes={asked}".replace(" ", "%20").replace("٣", "%D9%A3")
    assert get(target.replace("+", "%2B")).status == 400


def test_an_empty_file_is_its_one_block(stock: Stock, get: Client) -> None:
    """`0:*` of nothing is the empty chunk."""
    empty = stock.file("empty", b"").cid
    answer = get(f"/ipfs/{empty}?format=car&dag-scope=entity&entity-bytes=0:*")
    assert (answer.status, answer.cids) == (200, [empty])


def test_a_missing_chunk_outside_the_range_does_not_matter(stock: Stock, get: Client, tmp_path: Path) -> None:
    """Blocks before and after the range need not be here."""
    content = noise(3072)
    root = stock.file("three.bin", content, chunk=1024)
    (tmp_path / "three.bin").write_bytes(content[:1024] + noise(1024, 9) + content[2048:])
    first, middle, last = stock.below(root.cid)[1:]
    target = f"/ipfs/{root.cid}?format=car&dag-scope=entity&entity-bytes="
    assert get(target + "0:1000").cids == [root.cid, first]
    assert get(target + "2200:*").cids == [root.cid, last]
    answer = get(target + "0:*")
    assert answer.status == 404
    assert str(middle) in answer.body.decode()


def test_a_chunk_that_changed_breaks_the_stream_off(
    stock: Stock, serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was sent before is right, nothing wrong is sent, and the log names the file and the place."""
    get = serve(Doors(stock.store))[1]
    content = noise(12 * MIB)
    root = stock.file("big.bin", content, chunk=MIB)
    spoilt = bytearray(content)
    spoilt[10 * MIB + 5] ^= 1
    (tmp_path / "big.bin").write_bytes(spoilt)
    blocks = verified_prefix(get.broken(f"/ipfs/{root.cid}?format=car"))
    assert blocks[0] == stock.blocks[root.cid]
    assert content.startswith(b"".join(blocks[1:]))
    assert len(blocks) > 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "big.bin" in caplog.text
    assert str(10 * MIB) in caplog.text


def test_a_second_reference_carries_the_stream_on(stock: Stock, get: Client, tmp_path: Path) -> None:
    """A spoilt chunk is read from the other file that holds it, in the middle of a run."""
    content = noise(12 * MIB)
    root = stock.file("big.bin", content, chunk=MIB)
    stock.file("copy.bin", content[10 * MIB : 11 * MIB])
    spoilt = bytearray(content)
    spoilt[10 * MIB + 5] ^= 1
    (tmp_path / "big.bin").write_bytes(spoilt)
    assert get(f"/ipfs/{root.cid}?format=car").cids == stock.below(root.cid)
    (tmp_path / "big.bin").write_bytes(content[: 10 * MIB])  # the last chunk is nowhere now
    verified_prefix(get.broken(f"/ipfs/{root.cid}?format=car"))


def test_chunks_scattered_over_files_are_gathered(stock: Stock, get: Client) -> None:
    """A file whose chunks lie in several others, in another order, comes whole."""
    parts = [noise(700, seed) for seed in range(40)]
    for number in range(0, 40, 4):
        stock.file(f"piece-{number}.bin", b"".join(reversed(parts[number : number + 4])), chunk=700)
    root, block = file_node([leaf(part)[0] for part in parts])
    stock.emit(root.cid, block)
    answer = get(f"/ipfs/{root.cid}?format=car")
    assert [block for _, block in car.read_car(answer.body)][1:] == parts


def test_a_missing_node_is_404_before_anything_is_sent(stock: Stock, get: Client) -> None:
    """The walk that counts the length finds a missing node, so nothing half is begun."""
    absent = Child(Cid.of(DAG_PB, b"absent"), 512, 600)
    here, _ = leaf(CONTENT)
    stock.file("here", CONTENT)
    root, block = file_node([here, absent])
    stock.emit(root.cid, block)
    assert get(f"/ipfs/{root.cid}?format=car").status == 404
    assert get(f"/ipfs/{root.cid}?format=car&entity-bytes=0:1000").cids == [root.cid, here.cid]


def test_a_node_that_lies_about_sizes_is_refused(stock: Stock, get: Client) -> None:
    """A parent that claims another size than its child has, is refused, for nodes and for chunks alike."""
    inner = stock.file("inner.bin", CONTENT, chunk=256)
    chunk = stock.file("chunk", b"chunk")
    for liar in (Child(inner.cid, 2000, 2100), Child(chunk.cid, 6, 6), Child(chunk.cid, 4, 4)):
        root, block = file_node([Child(raw_cid(b"{}"), 2, 2), liar])
        stock.file("config.json", b"{}")
        stock.emit(root.cid, block)
        assert get(f"/ipfs/{root.cid}?format=car").status == 404


@pytest.mark.parametrize("data", [b"", b"\x08\x09", encode_hamt_data(b"\x01", 100), encode_hamt_data(b"\x01", 1 << 20)])
def test_nodes_that_are_no_unixfs_are_not_walked(stock: Stock, get: Client, data: bytes) -> None:
    """They come as blocks, but a walk through them is 404, not a server error."""
    block = encode_links([Link(raw_cid(b"x"), "00x", 1)], data)
    root = Cid.of(DAG_PB, block)
    stock.emit(root, block)
    assert get(f"/ipfs/{root}?format=raw").body == block
    assert get(f"/ipfs/{root}?format=car&dag-scope=block").cids == [root]
    assert get(f"/ipfs/{root}?format=car").status == 404
    assert get(f"/ipfs/{root}/x?format=car").status == 404


def test_a_dag_that_unfolds_without_end_is_refused(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders in folders, twice each, are counted once with `dups=n` and refused with `dups=y`."""
    monkeypatch.setattr("modelnet_registry.http.dag.MAX_VISITS", 5000)
    folder = stock.folder({"x": stock.file("x", b"x")})
    for _ in range(40):
        folder = stock.folder({"a": folder, "b": folder})
    gateway = Gateway(LocalBlocks(stock.store))
    chunks = gateway.blocks.chunks()
    once = gateway.respond(Request("GET", f"/ipfs/{folder.cid}", "format=car"), chunks)
    assert once.status == 200
    with pytest.raises(Refusal) as refused:
        gateway.respond(Request("GET", f"/ipfs/{folder.cid}", "format=car&car-dups=y"), chunks)
    assert refused.value.status == 400
    for _ in range(120):
        folder = stock.folder({"a": folder})
    with pytest.raises(Refusal, match="deep"):
        gateway.respond(Request("GET", f"/ipfs/{folder.cid}", "format=car"), chunks)
    chunks.close()


def test_more_streams_than_buffers_are_told_to_come_back(
    get: Client, model: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free buffer the answer is 503 with Retry-After, not a stream that stalls."""
    monkeypatch.setattr("modelnet_registry.http.stream.PATIENCE_S", 0.0)
    assert get(f"/ipfs/{model.cid}?format=car").status == 200
    monkeypatch.setattr(BufferPool, "lend", BufferPool(0).lend)
    answer = get(f"/ipfs/{model.cid}?format=car")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


def test_scope_windows() -> None:
    """The window of a range: half open, cut to the entity, None for no byte."""
    assert Scope().window(10) == (0, 10)
    assert Scope("entity", 0, None).window(0) is None
    assert Scope("entity", 3, -3).window(10) == (3, 8)
    assert Scope("entity", 5, 2).window(10) is None
