"""A genuine publisher who signs whatever they like, and a source that has it.

    signer = Signer(tmp_path)
    release = signer.release(files=[signer.entry("a.bin", b"...")])
    with signer.stock() as source: pull(release, peers=[source.url])

Nothing here goes through the checks of `modelnet_registry.publisher`: manifests and nodes are written as they are told.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import modelnet
from modelnet.core import dagcbor, strictjson
from modelnet.core.cid import DAG_CBOR, RAW, Cid, blake3_digest
from modelnet.core.dsse import Envelope
from modelnet.core.fold import origin_of
from modelnet.core.merkle import leaf_hash, root
from modelnet.core.names import Locator
from modelnet.core.note import Checkpoint
from modelnet.core.release import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from modelnet.core.tiles import WIDTH, tiles_of
from modelnet.core.tree import build_tree
from modelnet.core.unixfs import Child, Emit
from modelnet.stores.keyring import load_genesis, load_keys
from modelnet.stores.local import open_store
from tests.transfer.hostile import Exchange, Proxy, framed

__all__ = ["Library", "Signer"]

Fields = dict[str, Any]


class Library(Proxy):
    """A source that answers from a table of blocks and the files of a log; it knows no CAR streams."""

    def __init__(self, log: Mapping[str, bytes], blocks: Mapping[str, bytes]) -> None:
        super().__init__("http://127.0.0.1:1", Exchange.honest)
        self._table = dict(log)
        self._table |= {f"/ipfs/{cid}?format=raw": block for cid, block in blocks.items()}

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Return what is in the table."""
        content = self._table.get(path)
        return (404, b"not here") if content is None else (200, content)


class Signer:
    """A publisher without scruples."""

    def __init__(self, folder: Path) -> None:
        """Make the identity in a store below `folder`."""
        home = folder / "signer"
        self.pid = modelnet.init(home=home).pid
        store = open_store(home)
        self.genesis = load_genesis(store.home.keys, self.pid).envelope.encoded
        self.keys = load_keys(store.home.keys, self.pid, None)
        self.log = [self.genesis]
        self.blocks: dict[str, bytes] = {}

    def keep(self, cid: Cid, block: bytes | memoryview) -> None:
        """Have `block` to give."""
        self.blocks[str(cid)] = bytes(block)

    @property
    def emit(self) -> Emit:
        """What builders of DAGs hand their nodes to."""
        return self.keep

    def chunk(self, content: bytes) -> Child:
        """Have `content` as a chunk."""
        cid = Cid.of(RAW, content)
        self.keep(cid, content)
        return Child(cid, len(content), len(content))

    def entry(self, path: str, child: Child, **fields: object) -> Fields:
        """Return the fields of a file."""
        zero = bytes(32)
        return {
            "path": path, "size": child.size, "cid": child.cid, "blake3": zero, "sha256": zero, "plan": "grid/1",
        } | fields  # fmt: skip

    def manifest(self, files: Sequence[Fields], children: Sequence[Child] = (), **fields: object) -> bytes:
        """Return a manifest whose tree holds `children` under the paths of `files`."""
        named = [(str(file["path"]), child) for file, child in zip(files, children, strict=False)]
        tree = build_tree(named, self.keep).cid
        return dagcbor.encode(
            {"type": "modelnet/manifest", "v": 1, "name": "m", "version": "1", "tree": tree, "files": list(files)}
            | fields
        )

    def sign(self, manifest: bytes, *, version: str = "1", sha256: str | None = None) -> str:
        """Sign `manifest` as `m` at `version`; return its locator."""
        cid = Cid.of(DAG_CBOR, manifest)
        self.keep(cid, manifest)
        digest = hashlib.sha256(manifest).hexdigest() if sha256 is None else sha256
        body = strictjson.dump({
            "_type": STATEMENT_TYPE,
            "subject": [{
                "name": "m", "uri": f"ipfs://{cid}",
                "digest": {"sha256": digest, "blake3": blake3_digest(manifest).hex()},
            }],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"packageId": self.pid, "name": "m", "version": version, "channels": []},
        })  # fmt: skip
        self.log.append(Envelope.sign(PAYLOAD_TYPE, body, [self.keys["release"]]).encoded)
        return str(Locator.of(self.pid, "m", version, digest))

    def stock(self) -> Library:
        """Return a source of everything that was kept."""
        return Library(self.files(), self.blocks)

    def files(self) -> dict[str, bytes]:
        """Return the log as a source has it: a signed head and bundles of entries, by request path."""
        origin = origin_of(self.pid)
        head = Checkpoint(origin, len(self.log), root(map(leaf_hash, self.log))).note().sign(origin, self.keys["log"])
        head = head.cosign(f"{origin}/beat", self.keys["beat"], int(time.time()))
        files = {f"/log/{self.pid}/checkpoint": head.encode()}
        for tile in tiles_of(len(self.log)):
            if tile.level is None:
                entries = self.log[tile.index * WIDTH : tile.index * WIDTH + tile.width]
                files[f"/log/{self.pid}/r0/{tile.path}"] = framed(entries)
        return files
