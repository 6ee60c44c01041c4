"""The UnixFS directory of a whole release, built from its files alone.

Both ends build it: the publisher to name it, the puller to check that the tree in a manifest holds exactly the files
that the manifest lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelnet.core.cid import RAW, Cid
from modelnet.core.hamt import build_directory
from modelnet.core.unixfs import Child, Emit, Node

__all__ = ["build_tree", "file_child"]

Folder = dict[str, "Child | Folder"]


def build_tree(files: Iterable[tuple[str, Child]], emit: Emit) -> Child:
    """Return the root directory of `files` (path, root of its DAG); every directory block goes to `emit`."""
    root: Folder = {}
    for path, child in files:
        *folders, name = path.split("/")
        folder = root
        for part in folders:
            inner = folder.setdefault(part, {})
            if isinstance(inner, Child):
                raise TypeError(f"{part!r} in {path!r} is both a file and a folder")
            folder = inner
        folder[name] = child
    return _build(root, emit)


def _build(folder: Folder, emit: Emit) -> Child:
    entries = [(name, inner if isinstance(inner, Child) else _build(inner, emit)) for name, inner in folder.items()]
    return build_directory(entries, emit)


def file_child(cid: Cid, size: int, nodes: Mapping[Cid, tuple[Node, int]]) -> Child:
    """Return a file's root as its directory sees it; `nodes` gives the root's parsed node and its length in bytes."""
    if cid.codec == RAW:
        return Child(cid, size, size)
    node, length = nodes[cid]
    return Child(cid, size, length + sum(link.tsize for link in node.links))
