"""Releases that are signed by their publisher and still wrong: hostile paths, sizes, trees and DAGs.

No source is at fault here, so none may be blamed; the refusal is malformed or integrity, quick, and leaves no file.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from modelnet.core import car, dagcbor
from modelnet.core.cid import DAG_CBOR, DAG_PB, RAW, SHA2_256, Cid
from modelnet.core.unixfs import Child, Link, directory, encode_links, file_node
from modelnet.core.varint import encode as varint
from modelnet.errors import ModelnetError
from tests.transfer.hostile import join_car
from tests.transfer.signer import Library, Signer
from tests.transfer.world import attempt

pytestmark = pytest.mark.usefixtures("quick")

KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """Give a publisher without scruples."""
    return Signer(tmp_path)


def refused(signer: Signer, locator: str, folder: Path, *, seconds: float = 5) -> ModelnetError:
    """Pull; check that it is refused for what it is, that nobody is blamed and that nothing lies about."""
    with signer.stock() as source:
        outcome = attempt(locator, folder / "puller", [source.url])
    error = outcome.refused(3)
    assert outcome.seconds < seconds
    assert "lied" not in str(error)
    assert error.source is None
    assert {path.name for path in folder.iterdir()} == {"puller", "signer"}
    for kept in ("models", "partial"):
        assert not [path for path in (folder / "puller" / kept).rglob("*") if path.is_file()]
    return error


PATHS = [
    "../x", "a/../../x", "/etc/x", "a//b", "a/./b", ".", "..", "", "a/", "C:\\x", "a\\b", "a:b", "con", "nul.txt",
    "a\nb", "a\0b", "a ", "a.", "a\u202eb", "e\u0301", "x" * 300, "d/" * 600 + "x", "\x1b[2J", "a?", "a*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_hostile_path(signer: Signer, tmp_path: Path, path: str) -> None:
    """A path that could leave the folder, or be another file elsewhere, is refused."""
    child = signer.chunk(b"poison")
    error = refused(signer, signer.sign(signer.manifest([signer.entry(path, child)])), tmp_path)
    assert error.rule == "path"


@pytest.mark.parametrize("paths", [("A", "a"), ("a", "a"), ("a", "a/b"), ("A/x", "a/y"), ("ss", "ß"), ("b", "a")])
def test_colliding_paths(signer: Signer, tmp_path: Path, paths: tuple[str, str]) -> None:
    """Two paths that are one file somewhere, or are out of order, are refused."""
    files = [signer.entry(path, signer.chunk(path.encode())) for path in paths]
    refused(signer, signer.sign(signer.manifest(files)), tmp_path)


FIELDS: dict[str, dict[str, object]] = {
    "size-text": {"size": "6"},
    "size-negative": {"size": -1},
    "size-huge": {"size": 1 << 60},
    "size-true": {"size": True},
    "cid-sha2": {"cid": Cid.of(RAW, b"poison", SHA2_256)},
    "cid-identity": {"cid": Cid(RAW, 0, b"poison")},
    "cid-of-manifest": {"cid": Cid.of(DAG_CBOR, b"poison")},
    "cid-text": {"cid": "bafy"},
    "blake3-short": {"blake3": b"abc"},
    "plan-missing": {"plan": None},
}


@pytest.mark.parametrize("name", FIELDS)
def test_hostile_field(signer: Signer, tmp_path: Path, name: str) -> None:
    """A field of a file that is no such field is refused."""
    child = signer.chunk(b"poison")
    refused(signer, signer.sign(signer.manifest([signer.entry("a", child, **FIELDS[name])])), tmp_path)


MANIFESTS: dict[str, dict[str, object]] = {
    "other-name": {"name": "n"},
    "other-version": {"version": "2"},
    "version-9": {"v": 9},
    "crit": {"crit": ["gpu"]},
    "no-files": {"files": []},
    "files-map": {"files": {}},
    "tree-raw": {"tree": Cid.of(RAW, b"")},
    "type": {"type": "else"},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifest(signer: Signer, tmp_path: Path, name: str) -> None:
    """A manifest that is of another release, or needs what we do not know, is refused."""
    child = signer.chunk(b"poison")
    files = [signer.entry("a", child)]
    fields = dagcbor.decode(signer.manifest(files, [child]))
    refused(signer, signer.sign(dagcbor.encode(fields | MANIFESTS[name])), tmp_path)


BLOCKS: dict[str, bytes] = {
    "nothing": b"\xa0",
    "not-cbor": b"hello",
    "nested": b"\x81" * 100_000,
    "claims-2^60-files": b"\xa1efiles\x9b" + (1 << 60).to_bytes(8, "big"),
    "too-long": b"\x59\xff\xff" + bytes(65535) + bytes(17 * MIB),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_not_a_manifest(signer: Signer, tmp_path: Path, name: str) -> None:
    """A block that is no manifest at all is refused, however the signature came about."""
    locator = signer.sign(BLOCKS[name])
    with signer.stock() as source:
        error = attempt(locator, tmp_path / "puller", [source.url]).refused(3)
    assert str(error).isprintable()


def test_sha256_of_another_manifest(signer: Signer, tmp_path: Path) -> None:
    """A statement whose two digests name two manifests is refused."""
    child = signer.chunk(b"poison")
    manifest = signer.manifest([signer.entry("a", child)], [child])
    refused(signer, signer.sign(manifest, sha256="0" * 64), tmp_path)


def test_too_many_files(signer: Signer, tmp_path: Path) -> None:
    """100,001 files are one too many."""
    child = signer.chunk(b"x")
    files = [signer.entry(f"{number:06}", child) for number in range(100_001)]
    refused(signer, signer.sign(signer.manifest(files)), tmp_path, seconds=30)


def test_tree_holds_other_files(signer: Signer, tmp_path: Path) -> None:
    """The tree that the manifest links must hold exactly the files that it lists."""
    good, bad = signer.chunk(b"good"), signer.chunk(b"poison")
    assert refused(signer, signer.sign(signer.manifest([signer.entry("a", good)], [bad])), tmp_path).rule == "tree"


# DAGs

Build = Callable[[Signer], Child]


def repeated(signer: Signer, content: bytes, widths: list[int]) -> Child:
    """Return a DAG of few nodes that name one child over and over."""
    child = signer.chunk(content)
    for width in widths:
        child, block = file_node([child] * width)
        signer.keep(child.cid, block)
    return child


def node(signer: Signer, links: list[Link], data: bytes, size: int) -> Child:
    """Have a node as it is told."""
    block = encode_links(links, data)
    cid = Cid.of(DAG_PB, block)
    signer.keep(cid, block)
    return Child(cid, size, len(block))


def unixfs(kind: int, size: int, sizes: list[int]) -> bytes:
    """Return UnixFS data."""
    return b"\x08" + varint(kind) + b"\x18" + varint(size) + b"".join(b"\x20" + varint(part) for part in sizes)


def chain(signer: Signer, length: int) -> Child:
    """Return a chunk below `length` nodes of one child each."""
    child = signer.chunk(b"deep" * 100)
    for _ in range(length):
        child, block = file_node([child])
        signer.keep(child.cid, block)
    return child


def linked(signer: Signer, cid: Cid) -> Child:
    """Return a node that links `cid`."""
    return node(signer, [Link(cid, "", 6)], unixfs(2, 6, [6]), 6)


def a_folder(signer: Signer) -> Child:
    """Return a directory where a file should be."""
    child, block = directory([("x", signer.chunk(b"poison"))])
    signer.keep(child.cid, block)
    return Child(child.cid, 6, 6)


def empty_children(signer: Signer) -> Child:
    """Return a node with a thousand children of no bytes."""
    return node(signer, [Link(signer.chunk(b"").cid, "", 0)] * 1000, unixfs(2, 0, [0] * 1000), 0)


def big_chunk(signer: Signer) -> Child:
    """Return a node over a chunk of more than 1 MiB."""
    child, block = file_node([signer.chunk(bytes(MIB + 1)), signer.chunk(b"x")])
    signer.keep(child.cid, block)
    return child


DAGS: dict[str, Build] = {
    "billion-laughs-PiB": lambda signer: repeated(signer, bytes(MIB), [1024, 1024, 1024]),
    "billion-laughs-TiB": lambda signer: repeated(signer, b"l" * 1024, [1024, 1024, 1024]),
    "billion-laughs-of-bytes": lambda signer: repeated(signer, b"l", [1024, 1024, 1024]),
    "million-tiny-chunks": lambda signer: repeated(signer, b"tiny", [1024, 1024]),
    "too-deep": lambda signer: chain(signer, 9),
    "far-too-deep": lambda signer: chain(signer, 3000),
    "file-is-folder": a_folder,
    "empty-children": empty_children,
    "chunk-over-1-MiB": big_chunk,
    "raw-over-1-MiB": lambda signer: signer.chunk(bytes(MIB + 1)),
    "link-to-sha2": lambda signer: linked(signer, Cid.of(RAW, b"poison", SHA2_256)),
    "link-to-identity": lambda signer: linked(signer, Cid(RAW, 0, b"poison")),
    "link-to-manifest": lambda signer: linked(signer, Cid.of(DAG_CBOR, b"\xa0")),
    "sizes-too-few": lambda signer: node(signer, [Link(signer.chunk(b"x").cid, "", 1)] * 2, unixfs(2, 1, [1]), 1),
    "sizes-do-not-add-up": lambda signer: node(signer, [Link(signer.chunk(b"x").cid, "", 1)], unixfs(2, 9, [1]), 9),
    "symlink": lambda signer: node(signer, [], b"\x08\x04\x12\x0b/etc/passwd", 6),
    "inline": lambda signer: node(signer, [], b"\x08\x02\x12\x06poison\x18\x06", 6),
    "not-a-node": lambda signer: Child(_kept(signer, b"\xff" * 50), 6, 50),
    "too-many-links": lambda signer: repeated(signer, b"x" * 1024, [9000]),
}


def _kept(signer: Signer, block: bytes) -> Cid:
    cid = Cid.of(DAG_PB, block)
    signer.keep(cid, block)
    return cid


@pytest.mark.parametrize("only", [(), ("a*",)], ids=["whole", "only"])
@pytest.mark.parametrize("name", DAGS)
def test_hostile_dag(signer: Signer, tmp_path: Path, name: str, only: tuple[str, ...]) -> None:
    """A file DAG that is none, or would unfold into more than a file may hold, is refused without unfolding it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = DAGS[name](signer)
    files = [signer.entry("a.bin", child), signer.entry("b.bin", signer.chunk(b"fine"))]
    locator = signer.sign(signer.manifest(files, [child, signer.chunk(b"fine")]))
    with signer.stock() as source:
        outcome = attempt(locator, tmp_path / "puller", [source.url], only=only)
        error = outcome.refused(3)
        assert outcome.seconds < 5
        assert "lied" not in str(error)
        assert len(source.paths_asked) < 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * KIB  # it counts in KiB


@pytest.mark.parametrize("change", [1, -1, MIB])
def test_size_is_not_that_of_the_dag(signer: Signer, tmp_path: Path, change: int) -> None:
    """A manifest that gives a file another size than its DAG is refused with the file's name."""
    child = repeated(signer, b"x" * 1000, [3])
    files = [signer.entry("a.bin", child, size=child.size + change)]
    error = refused(signer, signer.sign(signer.manifest(files, [Child(child.cid, 0, child.tsize)])), tmp_path)
    assert error.path == "a.bin"


class Streaming(Library):
    """A library that streams a file's chunks as a CAR too."""

    frames: list[tuple[Cid, bytes]]

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Return what is in the table, or all chunks."""
        return (200, join_car(car.header([]), self.frames)) if "format=car" in path else super().fetch(path)


@pytest.mark.parametrize("change", [1, -1, 5000])
@pytest.mark.parametrize("count", [1, 3])
def test_size_is_not_that_of_the_chunk(signer: Signer, tmp_path: Path, count: int, change: int) -> None:
    """Chunks that hash right and are not as long as was signed are refused, and no source is blamed for them."""
    chunks = [signer.chunk(bytes([65 + number]) * 9000) for number in range(count)]
    claimed = [Child(chunk.cid, chunk.size, chunk.size) for chunk in chunks]
    claimed[count // 2] = Child(claimed[count // 2].cid, 9000 + change, 9000 + change)
    child = claimed[0]
    if count > 1:
        child, block = file_node(claimed)
        signer.keep(child.cid, block)
    locator = signer.sign(signer.manifest([signer.entry("a.bin", child)], [child]))
    with Streaming(signer.files(), signer.blocks) as source:
        source.frames = [(chunk.cid, signer.blocks[str(chunk.cid)]) for chunk in chunks]
        outcome = attempt(locator, tmp_path / "puller", [source.url])
    error = outcome.refused(3)
    assert (error.rule, error.path, error.offset) == ("chunk-size", "a.bin", count // 2 * 9000)
    assert (error.wanted, error.got) == (9000 + change, 9000)
    assert error.source is None
