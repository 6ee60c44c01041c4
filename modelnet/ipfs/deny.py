"""Deny lists (IPIP-383 compact format): what a Kubo must no longer serve, although it may still lie there.

    lines = deny_lines(release.manifest, manifest.tree, [f.cid for f in manifest.files], reason="revoked: stolen key")
    append_lines(repository() / "denylists" / DENY_NAME, lines)

A line blocks one multihash and every path that begins there: the manifest, the tree and each file's root. Chunks are
not listed: other releases share them. Files that a healthy release also has are left out by `keep`. The format is
append-only and the last line that matches wins, so `allow_lines` undoes it.

Kubo reads the lists when it starts and then follows what is appended to those it knows (docs/content-blocking.md),
so the file should exist before: `append_lines(path, [])` makes it.
Source: ipfs/specs compact-denylist-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from modelnet.core.cid import Cid
from modelnet.errors import UnavailableError
from modelnet.partial import disk_errors
from modelnet.wording import printable

__all__ = ["DENY_NAME", "allow_lines", "append_lines", "deny_lines", "header"]

DENY_NAME = "modelnet.deny"
MAX_REASON = 500
MAX_LIST = 256 * 1024 * 1024  # the lines of four million CIDs


def header() -> str:
    """Return how a list of ours begins: YAML, closed by three dashes."""
    return (
        "version: 1\nname: modelnet\n"
        "description: Releases that their publishers revoked; written by modelnet, safe to edit by hand\n---\n"
    )


def deny_lines(manifest: Cid, tree: Cid, files: Iterable[Cid], *, reason: str, keep: Collection[Cid] = ()) -> list[str]:
    """Return the lines that block a release: a comment that says why, then one rule for each root once.

    `keep` holds CIDs that must stay: those of files that are in a release which nobody revoked.
    """
    said = " ".join(printable(reason[:MAX_REASON]).split())
    roots = dict.fromkeys(cid for cid in (manifest, tree, *files) if cid not in keep)
    return [f"# {manifest}: {said}", *(f"/ipfs/{cid}/*" for cid in roots)]


def allow_lines(manifest: Cid, tree: Cid, files: Iterable[Cid], *, reason: str) -> list[str]:
    """Return the lines that take back what `deny_lines` said of a release."""
    return [line if line.startswith("#") else f"!{line}" for line in deny_lines(manifest, tree, files, reason=reason)]


def append_lines(path: Path, lines: Sequence[str]) -> int:
    """Append those of `lines` whose last word on their CID is another, durably; return how many rules that were.

    Makes the list, with its header, where there is none. Raises `UnavailableError` when it cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            if os.fstat(handle).st_size > MAX_LIST:
                raise UnavailableError("the deny list is too long", rule="deny-list", path=str(path))
            known = file.read(MAX_LIST).decode("utf-8", "replace")
            said = {line.removeprefix("!"): line for line in known.splitlines() if line.startswith(("/", "!/"))}
            fresh = [line for line in lines if not line.startswith("#") and said.get(line.removeprefix("!")) != line]
            comments = [line for line in lines if line.startswith("#")] if fresh else []
            text = "".join(f"{line}\n" for line in (*comments, *fresh))
            start = header() if not known else "" if known.endswith("\n") else "\n"
            if start or text:
                file.write((start + text).encode())  # one write: Kubo follows the file line by line
                os.fsync(handle)
    return len(fresh)
