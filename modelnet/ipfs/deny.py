"""Deny lists (IPIP-383 compact format): what a Kubo must no longer serve, although it may still lie there.

    lines = deny_lines(release.manifest, manifest.tree, [f.cid for f in manifest.files], reason="revoked: stolen key")
    append_lines(repository() / "denylists" / DENY_NAME, lines)

A line blocks one multihash and every path that begins there: the manifest, the tree and each file's root. Chunks are
not listed: other releases share them. Files that a healthy release also has are left out by `keep`. The format is
append-only and the last line that matches wins, so `allow_lines` undoes it.

The store's own list lies in its home. A Kubo reads the lists in `$IPFS_PATH/denylists` when it starts and then follows
what is appended to those it knows (docs/content-blocking.md). So one is made there (`make_kubo_list`, `modelnet pin
deny-list`), Kubo is started again once, and from then on `follow` tells it what the store's list says. It is a file of
its own, never a link: Kubo does not start when a link there leads nowhere.
Source: ipfs/specs compact-denylist-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from modelnet.core.cid import Cid
from modelnet.errors import UnavailableError
from modelnet.ipfs.address import repository
from modelnet.partial import disk_errors
from modelnet.wording import printable

__all__ = ["DENY_NAME", "allow_lines", "append_lines", "denied", "deny_lines", "follow", "header", "make_kubo_list"]

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


def _last_words(path: Path) -> dict[str, tuple[bool, str]]:
    """Return, for each CID that a list of ours names, whether it is denied, and the comment above its last rule."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LIST).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    found: dict[str, tuple[bool, str]] = {}
    comment = ""
    for line in text.splitlines():
        if line.startswith("#"):
            comment = line
        elif (rule := line.removeprefix("!")).startswith("/ipfs/") and rule.endswith("/*"):
            cid = rule.removeprefix("/ipfs/").removesuffix("/*")
            found.pop(cid, None)  # what was said last comes last
            found[cid] = (line == rule, comment)
    return found


def denied(path: Path) -> set[str]:
    """Return the CIDs that the list at `path` denies, as text. Raises `UnavailableError` when it cannot be read."""
    with disk_errors(path):
        return {cid for cid, (is_denied, _) in _last_words(path).items() if is_denied}


def _kubo_list() -> Path:
    return repository() / "denylists" / DENY_NAME


def follow(own: Path) -> int:
    """Say on the list of this user's Kubo, if it was made, what the list `own` says; return how many rules are new.

    Raises `UnavailableError` when it cannot be written.
    """
    path = _kubo_list()
    with disk_errors(path):
        # A link is somebody else's arrangement, or leads to our own list.
        if path.is_symlink() or not path.is_file():
            return 0
        there = _last_words(path)
        lines: list[str] = []
        for cid, (is_denied, comment) in _last_words(own).items():
            if is_denied is not there.get(cid, (False, ""))[0]:
                lines += [
                    *([comment] if comment and comment not in lines else []),
                    f"{'' if is_denied else '!'}/ipfs/{cid}/*",
                ]
    return append_lines(path, lines) if lines else 0


def make_kubo_list(own: Path) -> tuple[Path, bool]:
    """Make the list of this user's Kubo, and say on it what `own` says; return its path and whether it is new.

    A new one is known to Kubo from its next start on. Raises `UnavailableError` when there is no repository here or it
    cannot be written.
    """
    path = _kubo_list()
    if not (repository() / "config").is_file():
        raise UnavailableError(
            "there is no Kubo repository here", rule="kubo-repository", path=str(repository()),
            hint="set IPFS_PATH, and run this as the user whose Kubo it is, on its machine",
        )  # fmt: skip
    if path.is_symlink():
        raise UnavailableError(
            "the deny list is a link, and Kubo does not start when it leads nowhere", rule="deny-list", path=str(path),
            hint="remove the link and run this again: it makes a file",
        )  # fmt: skip
    fresh = not path.exists()
    append_lines(path, [])
    follow(own)
    return path, fresh
