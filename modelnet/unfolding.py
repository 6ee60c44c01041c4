"""From a manifest to the chunk list of each file: DAG nodes from the store or from sources, checked against their CIDs.

    unfolded = unfold(store, fetcher, manifest, entries)
    unfolded.trees                    # one FileTree for each entry: from here on every chunk's hash is known
    unfolded.blocks                   # the nodes, to be kept for others

Nodes come level by level, those of a level side by side. Depth, the number of nodes and of chunks are bounded before
anything is unfolded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelnet.core.cid import RAW, Cid
from modelnet.core.filetree import MAX_DEPTH, FileTree, inner_nodes, parse_file_node
from modelnet.core.manifest import FileEntry, Manifest
from modelnet.core.tree import build_tree, file_child
from modelnet.core.unixfs import Child, Node
from modelnet.errors import IntegrityError, MalformedError
from modelnet.fetching import Fetcher
from modelnet.stores.local import LocalStore

__all__ = ["Unfolded", "unfold"]

MAX_CHUNKS = 1 << 22  # of one pull, at 40 bytes of memory each: 4 TiB in chunks of 1 MiB
MAX_NODES = 1 << 18  # above them: one for each tensor and file, or for 1,024 chunks


@dataclass(frozen=True, slots=True)
class Unfolded:
    """The chunk list of each file, and the blocks that say so."""

    trees: list[FileTree]
    blocks: dict[Cid, bytes]


def unfold(store: LocalStore, fetcher: Fetcher, manifest: Manifest, entries: Sequence[FileEntry]) -> Unfolded:
    """Return the chunk list of each of `entries`, fetching and keeping the DAG nodes that are not here.

    When they are all files of the manifest, its tree must hold exactly them. Raises `MalformedError`,
    `IntegrityError`, and `UnavailableError` when no source has a node.
    """
    nodes: dict[Cid, Node] = {}
    blocks: dict[Cid, bytes] = {}
    paths = {entry.cid: entry.path for entry in entries}
    level = list(dict.fromkeys(entry.cid for entry in entries if entry.cid.codec != RAW))
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH or len(nodes) + len(level) > MAX_NODES:
            raise MalformedError(
                "a file's DAG is too deep or has too many nodes", rule="unixfs", path=paths[level[0]],
                wanted=f"at most {MAX_DEPTH} levels and {MAX_NODES} nodes",
            )  # fmt: skip
        blocks |= _blocks(store, fetcher, {cid: paths.get(cid, "a file of the release") for cid in level})
        following: dict[Cid, None] = {}
        for cid in level:
            nodes[cid] = parse_file_node(cid, blocks[cid], paths.get(cid, "a file of the release"))
            for inner in inner_nodes(nodes[cid]):
                paths.setdefault(inner, paths[cid])
                if inner not in nodes:
                    following[inner] = None
        level = list(following)
    _check_count(entries, nodes)
    if len(entries) == len(manifest.files):
        blocks |= _directories(manifest, {cid: (node, len(blocks[cid])) for cid, node in nodes.items()})
    return Unfolded([FileTree(entry, nodes) for entry in entries], blocks)


def _blocks(store: LocalStore, fetcher: Fetcher, paths: Mapping[Cid, str]) -> dict[Cid, bytes]:
    """Return the blocks of one level; `paths` says of which file each is."""
    blocks = {cid: block for cid in paths if (block := store.block(cid)) is not None}
    if absent := {cid: path for cid, path in paths.items() if cid not in blocks}:
        fetched = fetcher.blocks(absent, "a DAG node")
        store.index.add_blocks(fetched.items())
        blocks |= fetched
    return blocks


def _directories(manifest: Manifest, nodes: Mapping[Cid, tuple[Node, int]]) -> dict[Cid, bytes]:
    """Return the directory nodes above the files; raise unless the manifest's tree holds exactly its files."""
    blocks: dict[Cid, bytes] = {}
    children: list[tuple[str, Child]] = [
        (entry.path, file_child(entry.cid, entry.size, nodes)) for entry in manifest.files
    ]
    tree = build_tree(children, lambda cid, block: blocks.update({cid: block}))
    if tree.cid != manifest.tree:
        raise IntegrityError(
            "the manifest's tree holds other files than it lists", rule="tree", wanted=manifest.tree, got=tree.cid
        )
    return blocks


def _check_count(entries: Sequence[FileEntry], nodes: Mapping[Cid, Node]) -> None:
    """Raise before DAGs that name a child many times unfold into more chunks than memory holds."""
    counts: dict[Cid, int] = {}

    def count(cid: Cid, depth: int) -> int:
        if cid.codec == RAW:
            return 1
        if cid not in counts:
            # A node that `MAX_DEPTH` levels do not reach is refused when its file is unfolded.
            links = nodes[cid].links if depth < MAX_DEPTH else ()
            counts[cid] = sum(count(link.cid, depth + 1) for link in links)
        return counts[cid]

    total = 0
    for entry in entries:
        total += count(entry.cid, 0)
        if total > MAX_CHUNKS:
            raise MalformedError("too many chunks", rule="unixfs", path=entry.path, wanted=MAX_CHUNKS, got=total)
