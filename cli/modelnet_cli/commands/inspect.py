"""`modelnet list` and `modelnet show`: what is in the store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelnet.core.cid import BLAKE3, RAW, Cid
from modelnet.wording import size_text
from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet.core.filetree import FileTree
    from modelnet.core.manifest import FileEntry, Manifest
    from modelnet.core.release import Release
    from modelnet.gate import Gate
    from modelnet.lineage import Lineage
    from modelnet.stores.local import LocalStore


def list_releases(output: Output) -> None:
    """List the releases in this store."""
    from modelnet.errors import ModelnetError
    from modelnet.gate import Gate
    from modelnet.signed import identify, open_manifest
    from modelnet.stores.local import open_store
    from modelnet.stores.petnames import Petnames

    store = open_store()
    gate = Gate.open(store)
    names = Petnames(store.home).aliases()
    releases: list[dict[str, Any]] = []
    lines = []
    for row in store.index.releases():
        try:
            size = open_manifest(store, identify(store, row, gate.replicas)).size
            state, reason = gate.state(row)
            if state == "ok" and row.layout == "part":
                state = "partial"
        except ModelnetError as error:
            size, state, reason = 0, "unlogged" if error.rule == "unlogged" else "damaged", str(error)
        releases.append({
            "publisher": row.pid, "alias": names.get(row.pid), "name": row.name, "version": row.version,
            "manifest": str(row.manifest), "bytes": size, "state": state, "reason": reason, "path": str(row.path),
        })  # fmt: skip
        shown = names.get(row.pid) or row.pid
        lines.append(f"{shown}/{row.name}@{row.version}  {size_text(size)}  {state}  {row.path}")
    output.result({"releases": releases}, *(lines or ["no releases here yet"]))


def show(
    output: Output,
    ref: Annotated[str, typer.Argument(metavar="REF", help="A release in this store.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors of each file, and their CIDs.")] = False,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Draw what it was made from, and how that stands.")
    ] = False,
    cyclonedx: Annotated[
        str | None, typer.Option("--cyclonedx", metavar="FILE", help="Write a CycloneDX ML-BOM there; - is stdout.")
    ] = None,
) -> None:
    """Show a release: its files, its lineage and where it stands."""
    from modelnet.gate import Gate
    from modelnet.signed import find_row, identify, open_manifest
    from modelnet.stores.local import open_store

    store = open_store()
    gate = Gate.open(store)
    row = find_row(store, ref)
    release = identify(store, row, gate.replicas)
    manifest = open_manifest(store, release)
    state, reason = gate.state(row)
    locator = str(gate.locator(release))
    if cyclonedx == "-":
        print(json.dumps(_bom(gate, release, manifest), indent=2))
        return
    fields: dict[str, Any] = {
        "locator": locator,
        "publisher": release.pid,
        "name": manifest.name,
        "version": manifest.version,
        "channels": list(release.channels),
        "manifest": str(release.manifest),
        "tree": str(manifest.tree),
        "bytes": manifest.size,
        "path": str(row.path),
        "state": "partial" if state == "ok" and row.layout == "part" else state,
        "reason": reason,
        "files": [_plain(entry.as_fields()) for entry in manifest.files],
        **_plain(dict(manifest.extra)),
    }
    lines = [
        f"{manifest.name}@{manifest.version}  by {release.pid}",
        f"locator   {locator}",
        f"manifest  {release.manifest}",
        f"tree      {manifest.tree}",
        f"path      {row.path}",
        *([] if state == "ok" else [f"state     {state}{f': {reason}' if reason else ''}"]),
        *(f"{key:<9} {value}" for key, value in fields.get("metadata", {}).items()),
    ]
    lines += [
        f"{parent['relation']} of {parent.get('pid', '')} {parent['manifest']}"
        for parent in fields.get("derived_from", [])
    ]
    for entry in manifest.files:
        lines.append(f"  {size_text(entry.size):>9}  {entry.format or '-':<12} {entry.path}  {entry.cid}")
        if tensors:
            listed = _tensors(os.fspath(row.path / entry.path))
            _name_tensors(store, entry, listed)
            fields["files"][manifest.files.index(entry)]["tensors"] = listed
            lines += [
                f"  {tensor['dtype']:>9} {tensor['shape']}  {tensor['name']}  @{tensor['offset']}+{tensor['size']}"
                f"  {tensor['cid'] or ('in ' + tensor['block'] if tensor['block'] else '-')}"
                for tensor in listed
            ]
    if lineage:
        tree = _lineage(gate, release)
        fields["lineage"] = _lineage_fields(tree)
        lines += [_ancestor_line(depth, one) for depth, one in tree.walk()]
    if cyclonedx is not None:
        from modelnet import durable
        from modelnet.partial import disk_errors

        with disk_errors(Path(cyclonedx)):
            durable.write(Path(cyclonedx), json.dumps(_bom(gate, release, manifest), indent=2).encode() + b"\n")
        fields["cyclonedx"] = cyclonedx
        lines.append(f"ML-BOM    {cyclonedx}")
    output.result(fields, *lines)


def _lineage(gate: Gate, release: Release) -> Lineage:
    from modelnet.errors import UnavailableError
    from modelnet.lineage import lineage_of

    logged = gate.replicas.view(release.pid).find(release.name, release.version)
    if logged is None:
        raise UnavailableError("the release is in no log that is known here", rule="unlogged")
    return lineage_of(gate, logged)


def _ancestor_line(depth: int, one: Lineage) -> str:
    how = f"{one.relation} of " if one.relation else ""
    return f"{'    ' * depth}{how}{one.title}  by {one.pid[:12]}…  {one.state}{f': {one.reason}' if one.reason else ''}"


def _lineage_fields(one: Lineage) -> dict[str, Any]:
    return {
        "publisher": one.pid, "name": one.name, "version": one.version, "relation": one.relation, "state": one.state,
        "reason": one.reason, "sha256": one.digests.sha256, "blake3": one.digests.blake3,
        "parents": [_lineage_fields(parent) for parent in one.parents],
    }  # fmt: skip


def _bom(gate: Gate, release: Release, manifest: Manifest) -> dict[str, Any]:
    from modelnet.bom import cyclonedx

    return cyclonedx(release, manifest, _lineage(gate, release))


def _plain(value: Any) -> Any:
    """Return a manifest field as JSON has it: CIDs as text, digests as hex."""
    if isinstance(value, Cid):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _name_tensors(store: LocalStore, entry: FileEntry, tensors: list[dict[str, Any]]) -> None:
    """Add to each tensor its `cid`, where one names exactly its bytes, else the `block` that it shares with others.

    A tensor of several chunks is a node of its own, one of a single chunk is that block; small ones share blocks, and a
    plan that does not know tensors cuts through them.
    """
    from modelnet.errors import ModelnetError

    try:
        tree = store.tree(entry)
    except ModelnetError:
        tree = None  # of a file that is here in part
    for tensor in tensors:
        start, end = tensor["offset"], tensor["offset"] + tensor["size"]
        own, shared = (None, None) if tree is None or start >= end else _cid_of(tree, start, end)
        tensor |= {"cid": own and str(own), "block": shared and str(shared)}


def _cid_of(tree: FileTree, start: int, end: int) -> tuple[Cid | None, Cid | None]:
    """Return the CID of exactly the bytes `[start, end)`, and that of the chunk that holds them among others."""
    chunk = tree[tree.index_at(start)]
    if chunk.offset + chunk.size >= end:
        cid = Cid(RAW, BLAKE3, chunk.digest)
        return (cid, None) if (chunk.offset, chunk.size) == (start, end - start) else (None, cid)
    span = tree.covering(start, end)
    return (span.cid, None) if (span.start, span.end) == (start, end) else (None, None)


def _tensors(path: str) -> list[dict[str, Any]]:
    """Return the tensors that the header of a file names; none when there is no reader for it."""
    from modelnet.formats import read_layout
    from modelnet.hashing import FileSource

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return []
    try:
        layout = read_layout(FileSource(handle, os.fstat(handle).st_size, path))
    finally:
        os.close(handle)
    return [
        {
            "name": span.name, "dtype": span.dtype, "shape": list(span.shape),
            "offset": span.start, "size": span.end - span.start,
        }
        for span in (layout.tensors if layout else ())
    ]  # fmt: skip
