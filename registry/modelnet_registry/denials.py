"""What a node must not give to anybody: blocks that only revoked releases, or those of a caught publisher, consist of.

A chunk that a release in good standing has as well is served on: it is that release's. All nodes above a denied chunk,
the manifest and all folders of a denied release are denied too, folders that a release in good standing has excepted.
Of a release with a file that was revoked by its digest that file is denied; the manifest, from which others learn that
they must refuse, is not. The table is made again when the store has changed: by another process within `REFRESH_S`, by
this one as soon as it says so.

What is denied is also written to `$MODELNET_HOME/modelnet.deny` (IPIP-383), and from there to the list of this user's
Kubo where that was made (`modelnet.ipfs.deny`). Whatever hears of a revocation does that, not a node only:
`Denials(gate).refresh()`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from modelnet.core.cid import BLAKE3, DAG_PB, RAW, Cid
from modelnet.core.manifest import Manifest
from modelnet.core.unixfs import parse_node
from modelnet.errors import ModelnetError
from modelnet.gate import Gate
from modelnet.ipfs.deny import DENY_NAME, allow_lines, append_lines, denied, deny_lines, follow
from modelnet.ipfs.segments import folder_nodes
from modelnet.stores.index import ReleaseRow

__all__ = ["Denials", "Denied"]

log = logging.getLogger("modelnet_registry.denials")

REFRESH_S = 0.5

Spoiled: TypeAlias = dict[Cid, dict[str, str]]
"""Manifest of a release that stands → path of each file of it that was revoked → the reason."""


@dataclass(frozen=True, slots=True)
class Denied:
    """One state of the table; `releases` are those that may not be given, with the reason."""

    releases: tuple[tuple[ReleaseRow, str], ...] = ()
    nodes: dict[bytes, str] = field(default_factory=dict)  # BLAKE3 digests of nodes, folders and manifests
    chunks: dict[bytes, str] = field(default_factory=dict)  # BLAKE3 digests of chunks

    def reason(self, cid: Cid) -> str | None:
        """Return why a block may not be given; None when it may."""
        if cid.code != BLAKE3:
            return None
        # Whatever codec it is asked for under, the bytes are the same.
        return self.chunks.get(cid.digest) or self.nodes.get(cid.digest)


class Denials:
    """Keeps the table of one store current; asked by every thread that serves."""

    def __init__(self, gate: Gate) -> None:
        """Decide as `gate` does; nothing is denied before `refresh`."""
        self.gate = gate
        self.current = Denied()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="modelnet-denials", daemon=True)

    def start(self) -> None:
        """Make the table, then keep it current in a thread of its own."""
        self.refresh()
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def reason(self, cid: Cid) -> str | None:
        """Return why a block may not be given; None when it may."""
        return self.current.reason(cid)

    def refresh(self) -> Denied:
        """Make the table from what is known now, and return it."""
        with self._lock:
            store = self.gate.store
            good: list[ReleaseRow] = []
            bad: list[tuple[ReleaseRow, str]] = []
            spoiled: Spoiled = {}
            for row in store.index.releases():
                reason = self.gate.refusal_to_serve(row)
                if reason is not None:
                    bad.append((row, reason))
                elif self.gate.is_logged(row):  # else it is being published, and no reason yet to give anything
                    good.append(row)
                    if files := self.gate.revoked_files(row):
                        spoiled[row.manifest] = files
            self.current = self._table(good, bad, spoiled) if bad or spoiled else Denied()
            self._write_list(good, bad, spoiled)
            return self.current

    def _write_list(self, good: Sequence[ReleaseRow], bad: list[tuple[ReleaseRow, str]], spoiled: Spoiled) -> None:
        """Say on the deny lists what changed; a disk that refuses is said in our log and stops nothing."""
        path = self.gate.store.home.root / DENY_NAME
        try:
            before = denied(path)
            lines: list[str] = []
            # What a good release has stays or comes back, whichever release it was listed for.
            kept = {cid for row in good for cid in self._roots(row, spoiled)} if bad or spoiled or before else set()
            for row, reason in bad:
                lines += deny_lines(row.manifest, row.manifest, self._below(row), reason=reason, keep=kept)
            for cid, reason in self._spoiled_roots(good, spoiled).items():
                lines += deny_lines(cid, cid, (), reason=reason, keep=kept)
            for cid in sorted(cid for cid in kept if str(cid) in before):
                lines += allow_lines(cid, cid, (), reason="in good standing")
            if lines:
                append_lines(path, lines)
            if lines or before:
                follow(path)
        except (OSError, ModelnetError) as error:
            log.warning("cannot write the deny list: %s", error)

    def _below(self, row: ReleaseRow) -> list[Cid]:
        """Return the folders of a release and its files; none where its manifest is not here."""
        if (manifest := self._manifest(row)) is None:
            return []
        return [*self._folders(manifest), *(entry.cid for entry in manifest.files)]

    def _folders(self, manifest: Manifest) -> list[Cid]:
        found: list[Cid] = []
        with contextlib.suppress(ModelnetError):  # a damaged folder: nothing below it can be found to be served
            found += folder_nodes(manifest, self.gate.store.block)
        return found

    def _roots(self, row: ReleaseRow, spoiled: Spoiled) -> set[Cid]:
        """Return the roots of what a release has that may be given: folders, and its files that are not revoked."""
        if (manifest := self._manifest(row)) is None:
            return {row.manifest}
        files = spoiled.get(row.manifest, {})
        listed = (entry.cid for entry in manifest.files if entry.path not in files)
        return {row.manifest, *self._folders(manifest), *listed}

    def _spoiled_roots(self, good: Iterable[ReleaseRow], spoiled: Spoiled) -> dict[Cid, str]:
        """Return the roots of revoked files of releases that stand."""
        roots: dict[Cid, str] = {}
        for row in good:
            files = spoiled.get(row.manifest)
            if files and (manifest := self._manifest(row)) is not None:
                roots |= {entry.cid: files[entry.path] for entry in manifest.files if entry.path in files}
        return roots

    def _table(self, good: Sequence[ReleaseRow], bad: list[tuple[ReleaseRow, str]], spoiled: Spoiled) -> Denied:
        nodes: dict[bytes, str] = {}
        chunks: dict[bytes, str] = {}
        below: dict[Cid, set[bytes]] = {}  # node → the chunks under it
        for row, reason in bad:
            nodes[row.manifest.digest] = reason
            if (manifest := self._manifest(row)) is None:
                continue
            for folder in self._folders(manifest):
                nodes.setdefault(folder.digest, reason)
            for entry in manifest.files:
                for digest in self._chunks(entry.cid, below):
                    chunks.setdefault(digest, reason)
        for cid, reason in self._spoiled_roots(good, spoiled).items():
            for digest in self._chunks(cid, below):
                chunks.setdefault(digest, reason)
        kept = self._kept(good, list(chunks), spoiled)
        for digest in kept:
            del chunks[digest]
        for cid, under in below.items():
            if found := next((digest for digest in under if digest in chunks), None):
                nodes.setdefault(cid.digest, chunks[found])
        if bad:
            # A folder that a good release has too is that release's.
            for row in good:
                if (manifest := self._manifest(row)) is not None:
                    for folder in self._folders(manifest):
                        nodes.pop(folder.digest, None)
        return Denied(tuple(bad), nodes, chunks)

    def _chunks(self, cid: Cid, below: dict[Cid, set[bytes]]) -> set[bytes]:
        """Return the digests of the chunks under a file's node."""
        if cid.codec == RAW:
            return {cid.digest}
        if cid not in below:
            below[cid] = set()
            block = self.gate.store.block(cid) if cid.codec == DAG_PB else None
            for link in parse_node(block).links if block is not None else ():
                below[cid] |= self._chunks(link.cid, below)
        return below[cid]

    def _kept(self, good: Iterable[ReleaseRow], digests: list[bytes], spoiled: Spoiled) -> set[bytes]:
        """Return those of `digests` that lie in a file of a release in good standing."""
        if not digests:
            return set()
        paths: set[Path] = set()
        for row in good:
            if (manifest := self._manifest(row)) is not None:
                files = spoiled.get(row.manifest, {})
                paths |= {row.path / entry.path for entry in manifest.files if entry.path not in files}
        holders = self.gate.store.index.holders(digests)
        return {digest for digest, places in holders.items() if not paths.isdisjoint(map(Path, places))}

    def _manifest(self, row: ReleaseRow) -> Manifest | None:
        block = self.gate.store.block(row.manifest)
        try:
            return None if block is None else Manifest.parse(block)
        except ModelnetError:
            return None  # damaged: `fsck` reports it, and nothing of it can be found to be served

    def _watch(self) -> None:
        index = self.gate.store.index
        seen = None
        try:
            while not self._stop.wait(REFRESH_S):
                try:
                    if (version := index.data_version()) != seen:
                        self.refresh()
                        seen = version
                except ModelnetError as error:
                    log.warning("cannot tell what may be served: %s", error)
        finally:
            index.close()
