"""UnixFS: the published profile vectors, a real Kubo, and nodes that lie."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core import hamt
from modelnet.core.chunking import FIXED_1M
from modelnet.core.cid import BLAKE3, DAG_PB, RAW, SHA2_256, Cid
from modelnet.core.hamt import SHARD_ABOVE, build_directory
from modelnet.core.tree import build_tree
from modelnet.core.unixfs import (
    DEFAULT,
    MAX_BLOCK,
    UNIXFS_V0_2015,
    UNIXFS_V1_2025,
    Child,
    Kind,
    Link,
    Profile,
    balanced,
    directory,
    encode_links,
    file_node,
    leaf,
    parse_node,
)
from modelnet.errors import MalformedError
from modelnet.hashing import HashedFile, hash_file
from tests.core.damage import damaged
from tests.core.keystream import keystream, pieces
from tests.engines import kubo_add

KIB, MIB = 1024, 1024 * 1024
SIZES = {UNIXFS_V0_2015: 256 * KIB, UNIXFS_V1_2025: MIB}
slow = pytest.mark.slow


def nowhere(_cid: Cid, _block: bytes) -> None:
    """Drop a block: only its CID counts."""


def file_root(content: Iterator[bytes], profile: Profile) -> str:
    """Return the root of a file that comes in chunks, which are hashed on several cores and not kept."""
    with ThreadPoolExecutor(4) as pool:
        leaves = list(pool.map(lambda piece: leaf(piece, profile)[0], content))
    return str(balanced(leaves, nowhere, profile).cid)


# IPIP-499 "Test fixtures", with the seeds and sizes of kubo's test/cli/cid_profiles_test.go.
FILES = [
    (UNIXFS_V0_2015, "chunk-v0-seed", 256 * KIB, "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
    (UNIXFS_V0_2015, "chunk-v0-seed", 256 * KIB + 1, "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
    (UNIXFS_V0_2015, "v0-seed", 44_544 * KIB, "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
    (UNIXFS_V0_2015, "v0-seed", 44_544 * KIB + 1, "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW"),
    (UNIXFS_V0_2015, "v0-seed", 44_800 * KIB, "QmepeWtdmS1hHXx1oZXsPUv6bMrfRRKfZcoPPU4eEfjnbf"),
    (UNIXFS_V1_2025, "chunk-v1-seed", MIB, "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
    (UNIXFS_V1_2025, "chunk-v1-seed", MIB + 1, "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
]
LARGE_FILES = [
    (1024 * MIB, "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
    (1024 * MIB + 1, "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
    (1025 * MIB, "bafybeihmzokxxjqwxjcryerhp5ezpcog2wcawfryb2xm64xiakgm4a5jue"),
]


@pytest.mark.parametrize(
    ("profile", "wanted"),
    [
        (UNIXFS_V0_2015, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
        (UNIXFS_V1_2025, "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
    ],
)
def test_small_file(profile: Profile, wanted: str) -> None:
    """A file of one chunk is its leaf, in both published profiles."""
    assert file_root(iter([b"hello world"]), profile) == wanted


@pytest.mark.parametrize(("profile", "seed", "size", "wanted"), FILES)
def test_published_files(profile: Profile, seed: str, size: int, wanted: str) -> None:
    """Files around one chunk and around one full node have the published roots."""
    assert file_root(pieces(seed, size, SIZES[profile]), profile) == wanted


@slow
def test_published_large_files() -> None:
    """Files of 1024 and 1025 chunks of 1 MiB have the published roots; the stream is made once for all three."""
    last = keystream("v1-2025-seed", MIB, 1024 * MIB)
    with ThreadPoolExecutor(4) as pool:
        starts = range(0, 1024 * MIB, MIB)
        leaves = list(pool.map(lambda start: leaf(keystream("v1-2025-seed", MIB, start), UNIXFS_V1_2025)[0], starts))
    for size, wanted in LARGE_FILES:
        rest = size - 1024 * MIB
        tail = [leaf(last[:rest], UNIXFS_V1_2025)[0]] if rest else []
        assert str(balanced([*leaves, *tail], nowhere, UNIXFS_V1_2025).cid) == wanted


def published_folder(profile: Profile, seed: str, count: int, length: int, last: int) -> list[tuple[str, Child]]:
    """Return the entries of a published directory: names from the seed's stream, each file holding "x"."""
    alphabet = "abcdefghijklmnopqrstuvwxyz01234567890-_"
    stream = keystream(seed, count * length + last)
    child = leaf(b"x", profile)[0]
    entries = []
    for index in range(count):
        size = last if index == count - 1 else length
        letters = stream[index * length : index * length + size]
        entries.append(("".join(alphabet[byte % len(alphabet)] for byte in letters), child))
    return entries


@pytest.mark.parametrize(
    ("last", "wanted", "kind"),
    [
        (21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4", Kind.DIRECTORY),
        (22, "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu", Kind.HAMT),
    ],
)
def test_published_directories(last: int, wanted: str, kind: Kind) -> None:
    """`unixfs-v1-2025`: a directory of exactly 256 KiB stays flat, one byte more is sharded, as published."""
    entries = published_folder(UNIXFS_V1_2025, "hamt-unixfs-v1-2025", 4766, 11, last)
    blocks: dict[Cid, bytes] = {}
    root = build_directory(entries, blocks.__setitem__, UNIXFS_V1_2025)
    assert str(root.cid) == wanted
    assert parse_node(blocks[root.cid]).kind is kind
    assert (len(directory(entries, UNIXFS_V1_2025)[1]) > SHARD_ABOVE) is (kind is Kind.HAMT)


def test_published_directories_version_0() -> None:
    """`unixfs-v0-2015`: the flat and the sharded node have the published roots (that profile counts other bytes)."""
    flat = published_folder(UNIXFS_V0_2015, "hamt-unixfs-v0-2015", 4096, 30, 30)
    assert str(directory(flat, UNIXFS_V0_2015)[0].cid) == "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN"
    many = published_folder(UNIXFS_V0_2015, "hamt-unixfs-v0-2015", 4033, 31, 31)
    assert str(shard(many, UNIXFS_V0_2015).cid) == "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP"


def shard(entries: list[tuple[str, Child]], profile: Profile) -> Child:
    """Return the sharded directory of `entries`, however small."""
    threshold = hamt.SHARD_ABOVE
    try:
        hamt.SHARD_ABOVE = 0
        return build_directory(entries, nowhere, profile)
    finally:
        hamt.SHARD_ABOVE = threshold


def test_empty_directories() -> None:
    """The empty directory has its two well-known CIDs."""
    assert str(directory([], UNIXFS_V0_2015)[0].cid) == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    assert str(directory([], UNIXFS_V1_2025)[0].cid) == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


def test_empty_file_in_dag_pb() -> None:
    """Without raw leaves an empty file is `08 02 18 00`, Kubo's well-known empty file."""
    assert str(leaf(b"", UNIXFS_V0_2015)[0].cid) == "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"


def hashed(path: Path, name: str) -> HashedFile:
    """Return the file as a publisher with plan `fixed-1m` hashes it."""
    with ThreadPoolExecutor(4) as pool:
        return hash_file(path, name, plan=FIXED_1M, pool=pool, advance=lambda _count: None)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3_000_000, 60_000_000])
def test_fixed_1m_is_what_kubo_adds(size: int, tmp_path: Path) -> None:
    """A file published with `fixed-1m` has the root that `ipfs add` with the same options gives it."""
    path = tmp_path / "model.bin"
    path.write_bytes(keystream("fixed-1m", size))
    assert str(hashed(path, path.name).entry.cid) == kubo_add(path)


def folder_root(base: Path) -> str:
    """Return the root of a folder as a publisher builds it from its files alone."""
    files = sorted(path for path in base.rglob("*") if path.is_file())
    names = [path.relative_to(base).as_posix() for path in files]
    return str(build_tree(((n, hashed(p, n).child) for p, n in zip(files, names, strict=True)), nowhere).cid)


def test_nested_folders_are_what_kubo_adds(tmp_path: Path) -> None:
    """Folders in folders, hidden files and names in several scripts give Kubo's root."""
    names = [
        "README.md",
        ".hidden",
        "a/b/c/d/e/deep.bin",
        "a/b.bin",
        "a.bin",
        "größe/gewichte.bin",
        "模型/权重.safetensors",
        "नमूना/भार.gguf",
        "emoji/👩‍💻 model.onnx",
        "Z/upper",
        "z/lower",
        "empty",
    ]
    for name in names:
        path = tmp_path / "release" / unicodedata.normalize("NFC", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else keystream(name, 1000 + len(name) * 100_000))
    assert folder_root(tmp_path / "release") == kubo_add(tmp_path / "release")


def test_ten_thousand_files_are_what_kubo_adds(tmp_path: Path) -> None:
    """A folder of 10,000 small files is sharded as Kubo shards it, by both of Kubo's ways to estimate its size."""
    base = tmp_path / "release"
    base.mkdir()
    files = []
    for number in range(10_000):
        name, content = f"part-{number:05}.txt", b"%d" % number
        (base / name).write_bytes(content)
        files.append((name, leaf(content)[0]))
    blocks: dict[Cid, bytes] = {}
    root = build_tree(files, blocks.__setitem__)
    assert str(root.cid) == kubo_add(base)
    kinds = [parse_node(block).kind for block in blocks.values()]
    assert len(kinds) > 200
    assert set(kinds) == {Kind.HAMT}


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=30), st.integers(2, 5))
def test_file_nodes_round_trip(contents: list[bytes], width: int) -> None:
    """Every node of a file parses to the sizes and links that it was built from, and describes all bytes."""
    contents = [content or b"x" for content in contents]
    blocks: dict[Cid, bytes] = {}
    root = balanced([leaf(content)[0] for content in contents], blocks.__setitem__, Profile(width=width))
    assert root.size == sum(map(len, contents))

    def read(cid: Cid) -> list[Cid]:
        if cid.codec == RAW:
            return [cid]
        node = parse_node(blocks[cid])
        assert node.size == sum(node.sizes)
        assert 1 <= len(node.links) <= width
        children = [Child(to.cid, size, to.tsize) for to, size in zip(node.links, node.sizes, strict=True)]
        assert file_node(children)[1] == blocks[cid]
        return [part for link in node.links for part in read(link.cid)]

    assert read(root.cid) == [Cid.of(RAW, content) for content in contents]
    assert len(set(_depths(root.cid, blocks))) == 1


def _depths(cid: Cid, blocks: dict[Cid, bytes]) -> Iterator[int]:
    if cid.codec == RAW:
        yield 0
        return
    for link in parse_node(blocks[cid]).links:
        for depth in _depths(link.cid, blocks):
            yield depth + 1


def test_a_file_has_a_leaf() -> None:
    """Building a file of no leaves is the caller's mistake."""
    with pytest.raises(ValueError, match="at least one leaf"):
        balanced([], nowhere)


def test_tsize_counts_every_block_below() -> None:
    """A root's cumulative size is the sum of the lengths of all blocks of its DAG, leaf copies counted each time."""
    blocks: dict[Cid, bytes] = {}
    contents = [b"same"] * 3 + [bytes([n]) * n for n in range(1, 10)]
    root = balanced([leaf(content)[0] for content in contents], blocks.__setitem__, Profile(width=3))
    assert root.tsize == sum(map(len, contents)) + sum(map(len, blocks.values()))


def test_sorted_by_name_bytes() -> None:
    """Directory entries stand in the order of their UTF-8 bytes, whatever order they were given in."""
    child = leaf(b"x")[0]
    names = ["b", "a", "é", "z", "B", "a.b", "a-b", "\U0001f600", "\uffee"]
    block = directory([(name, child) for name in names])[1]
    assert [link.name for link in parse_node(block).links] == sorted(names, key=str.encode)


A, B = leaf(b"aaaa")[0], leaf(b"bbb")[0]
NODE = file_node([A, B])[1]


def test_every_damage_to_a_node() -> None:
    """A node with any byte flipped, dropped, added or swapped is refused, or is another node under another CID."""
    cid = Cid.of(DAG_PB, NODE)
    wanted = parse_node(NODE)
    for what, other in damaged(NODE):
        assert Cid.of(DAG_PB, other) != cid, what
        try:
            node = parse_node(other)
        except MalformedError:
            continue
        # Whatever still parses describes all its bytes.
        if node.kind in (Kind.FILE, Kind.RAW):
            assert node.size == len(node.content) + sum(node.sizes), what
            assert len(node.sizes) == len(node.links), what
        assert node != wanted, what


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes are refused as malformed or parse to a node whose sizes add up."""
    try:
        node = parse_node(data)
    except MalformedError:
        return
    if node.kind in (Kind.FILE, Kind.RAW):
        assert node.size == len(node.content) + sum(node.sizes)


def link(child: Child = A, name: str = "", tsize: int = 4) -> bytes:
    """Return one encoded PBLink field."""
    return encode_links([Link(child.cid, name, tsize)], b"")[:-2]


def data(hexed: str) -> bytes:
    """Return one encoded Data field."""
    body = bytes.fromhex(hexed)
    return b"\x0a" + bytes((len(body),)) + body


HOSTILE = {
    "nothing": b"",
    "no data": link(),
    "data before links": data("0802 1804 2004") + link(),
    "data twice": link() + data("0802 1804 2004") * 2,
    "size too large": link() + data("0802 1805 2004"),
    "size too small": link() + data("0802 1803 2004"),
    "size missing": link() + data("0802 2004"),
    "content not counted": link() + data("0802 1201ff 1804 2004"),
    "one size too few": link() + link() + data("0802 1804 2004"),
    "one size too many": link() + data("0802 1808 2004 2004"),
    "an empty child": link() + link(B) + data("0802 1804 2004 2000"),
    "only empty children": link() + data("0802 1800 2000"),
    "packed sizes": link() + data("0802 1804 220104"),
    "no type": link() + data("1804 2004"),
    "unknown type": link() + data("0806 1804 2004"),
    "size twice": link() + data("0802 1804 1804 2004"),
    "unknown field of the data": link() + data("0802 1804 2004 4801"),
    "unknown field of the node": link() + data("0802 1804 2004") + b"\x18\x01",
    "fixed64 field": data("0802 190000000000000000"),
    "group": data("0802 1b"),
    "size of ten bytes": data("0802 18ffffffffffffffffff01"),
    "size in two bytes where one does": link() + data("0802 188400 2004"),
    "data longer than the block": b"\x0a\x7f\x08\x02",
    "link longer than the block": b"\x12\xff\xff\xff\xff\x07\x0a",
    "link without a CID": b"\x12\x04\x12\x00\x18\x04" + data("0802 1804 2004"),
    "link with a wrong CID": b"\x12\x06\x0a\x02\x01\x55\x12\x00" + data("0802 1804 2004"),
    "link name not UTF-8": b"\x12\x2b\x0a\x24" + A.cid.encode() + b"\x12\x01\xff\x18\x04" + data("0802 1804 2004"),
    "link fields out of order": b"\x12\x2a\x12\x00\x0a\x24" + A.cid.encode() + b"\x18\x04" + data("0802 1804 2004"),
    "link with a CID twice": b"\x12\x4c" + (b"\x0a\x24" + A.cid.encode()) * 2 + data("0802 1804 2004"),
}


@pytest.mark.parametrize("block", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_nodes(block: bytes) -> None:
    """Sizes that do not add up, empty children and unknown or misplaced fields are refused as malformed."""
    with pytest.raises(MalformedError):
        parse_node(block)


def test_block_limit() -> None:
    """A block above 2 MiB is refused before it is parsed."""
    with pytest.raises(MalformedError, match="too large"):
        parse_node(bytes(MAX_BLOCK + 1))


def test_link_limit() -> None:
    """A node of more than 8,192 links is refused although its block is small enough."""
    most = 8192
    many = link() * most
    sizes = b"\x20\x04"
    good = many + b"\x0a" + _length(b"\x08\x02\x18\x80\x80\x02" + sizes * most)
    assert len(parse_node(good).links) == most
    with pytest.raises(MalformedError, match="too many links"):
        parse_node(link() + good)


def _length(body: bytes) -> bytes:
    return encode_links([], body)[1:]


def test_hash_is_part_of_the_profile() -> None:
    """Our own profile differs from `unixfs-v1-2025` in the hash alone."""
    assert Profile(code=SHA2_256) == UNIXFS_V1_2025
    assert DEFAULT.cid(RAW, b"x") == Cid.of(RAW, b"x", BLAKE3)
    assert leaf(b"x")[0].size == leaf(b"x", UNIXFS_V1_2025)[0].size
