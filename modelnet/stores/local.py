"""The local store: chunks are read where they lie, in released files, and hashed each time.

    >>> store = LocalStore(Home.find())          # doctest: +SKIP
    >>> store.read_chunk(digest)                 # the verified bytes, or None        # doctest: +SKIP

There is no second copy of anything: a chunk is (file, offset, length). A file that was edited makes its chunks missing,
never wrong, because nothing leaves here unhashed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from modelnet.core.cid import IDENTITY, RAW, Cid, blake3_digest
from modelnet.core.filetree import FileTree, inner_nodes, parse_file_node
from modelnet.core.manifest import FileEntry
from modelnet.core.unixfs import Node
from modelnet.errors import IntegrityError, UnavailableError
from modelnet.stores.home import Home
from modelnet.stores.index import Index, Location

__all__ = ["ChunkReader", "LocalStore", "open_store"]

OPEN_FILES = 64  # a release has a handful of large files; far below any descriptor limit
RUN = 4 * 1024 * 1024  # bytes read at once when chunks lie next to each other


@dataclass(frozen=True, slots=True)
class LocalStore:
    """The store in one home folder."""

    home: Home
    index: Index

    def block(self, cid: Cid) -> bytes | None:
        """Return the verified bytes of a manifest or DAG node (or an identity CID's own), or None."""
        if cid.code == IDENTITY:
            return cid.digest
        content = self.index.block(cid)
        if content is None:
            return None
        try:
            cid.verify(content, source="the local index")
        except IntegrityError:
            return None  # damaged: the same as absent, and `fsck` reports it
        return content

    def tree(self, entry: FileEntry) -> FileTree:
        """Return the chunk list of a file whose DAG nodes are here; raises `UnavailableError` when one is not."""
        nodes: dict[Cid, Node] = {}
        wanted = [entry.cid] if entry.cid.codec != RAW else []
        while wanted:
            cid = wanted.pop()
            if cid in nodes:
                continue
            content = self.block(cid)
            if content is None:
                raise UnavailableError("a DAG node is not in the store", rule="missing", path=entry.path, wanted=cid)
            nodes[cid] = parse_file_node(cid, content, entry.path)
            wanted += inner_nodes(nodes[cid])
        return FileTree(entry, nodes)


def open_store(home: Home | str | os.PathLike[str] | None = None) -> LocalStore:
    """Return the store in `home`, else in `$MODELNET_HOME` or the platform's folder."""
    found = home if isinstance(home, Home) else Home.find(None if home is None else os.fspath(home))
    return LocalStore(found, Index(found.index))


class ChunkReader:
    """Reads verified chunks; keeps a few files open. One for each thread, closed when done."""

    def __init__(self, store: LocalStore) -> None:
        """Read through `store`."""
        self._index = store.index
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that were kept open."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _handle(self, path: str) -> int | None:
        if (handle := self._open.get(path)) is not None:
            self._open.move_to_end(path)
            return handle
        try:
            # A file may have become a fifo or a link since it was indexed; neither may block us.
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        if len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = handle
        return handle

    def forget(self) -> None:
        """Close everything: files may have been replaced or renamed."""
        self.close()

    def read(self, digest: bytes, size: int | None = None) -> bytes | None:
        """Return the chunk with `digest`, from whichever reference still holds it, or None."""
        for place in self._index.locate([digest]).get(digest, []):
            if size is not None and place.size != size:
                continue
            content = self._read_at(place)
            if content is not None and blake3_digest(content) == digest:
                return content
        return None

    def _read_at(self, place: Location) -> bytes | None:
        handle = self._handle(place.path)
        if handle is None:
            return None
        try:
            return os.pread(handle, place.size, place.offset)
        except OSError:
            return None

    def locate(self, digests: Sequence[bytes]) -> dict[bytes, list[Location]]:
        """Return where each digest may be read."""
        return self._index.locate(digests)

    def read_into(self, places: Sequence[Location], buffer: memoryview) -> bool:
        """Fill `buffer` with the adjacent `places` of one file by a single read; tell whether all bytes came."""
        handle = self._handle(places[0].path)
        if handle is None:
            return False
        wanted = sum(place.size for place in places)
        try:
            return os.preadv(handle, [buffer[:wanted]], places[0].offset) == wanted
        except OSError:
            return False
