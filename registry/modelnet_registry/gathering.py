"""What lies at the path to publish: regular files with names that a release may have, and no private keys among them.

A publication is signed and served to anybody. So nothing that is, holds or lies in a modelnet home is published, nor a
file that holds keys, wherever it lies: what was given away once cannot be taken back. Pulled models in a home are no
exception, for `gc` deletes them: pulled into a folder of one's own they can be published.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from modelnet.core import strictjson
from modelnet.core.manifest import MAX_FILES
from modelnet.core.paths import MAX_PATH, SKIPPED, check_paths
from modelnet.errors import MalformedError, ModelnetError, UnavailableError, UsageError
from modelnet.stores.home import Home
from modelnet.stores.keyring import MAX_FILE, own_publishers

__all__ = ["Found", "gather"]

STATE = ("keys", "logs", "models", "partial")  # one of these beside an index makes a folder a home


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at the path to publish."""

    base: Path
    paths: list[str]
    layout: str
    skipped: list[str] = field(default_factory=list)


def gather(path: Path, home: Home) -> Found:
    """List the regular files at `path`; refuse what cannot be in a release, with the reason.

    Raises `UsageError`, with rule `private` for what belongs to `home`, or to any other home, or holds keys.
    """
    try:
        status = path.stat(follow_symlinks=False)
    except OSError as error:
        raise UsageError(
            f"cannot publish it: {error.strerror}", rule="path", path=str(path), hint="give a folder or a file"
        ) from error
    base = Path(os.path.abspath(path))  # noqa: PTH100  (resolve() would follow links)
    _check_apart(base, home)
    if stat.S_ISREG(status.st_mode):
        found = Found(base.parent, check_paths([base.name]), "file")
        _check_no_keys(found)
        return found
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(
            "only folders and regular files can be published", rule="file-type", path=str(path),
            got="a symbolic link" if stat.S_ISLNK(status.st_mode) else "a special file",
        )  # fmt: skip
    found = Found(base, [], "folder")
    _walk(base, "", found)
    if not found.paths:
        raise UsageError("there are no files to publish", rule="path", path=str(path))
    try:
        found.paths[:] = check_paths(found.paths)
    except MalformedError as error:
        raise UsageError(error.message, rule=error.rule, path=error.path, hint=error.hint or "rename it") from error
    _check_no_keys(found)
    return found


def _walk(folder: Path, prefix: str, found: Found) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UnavailableError(f"cannot list the folder: {error.strerror}", rule="read", path=str(folder)) from error
    if _is_home(folder, [entry.name for entry in entries]):
        raise _private(folder, folder)
    for entry in entries:
        path = prefix + entry.name
        if entry.name in SKIPPED:
            found.skipped.append(path)
        elif entry.is_symlink():
            raise UsageError(
                "symbolic links cannot be published", rule="symlink", path=path,
                hint="replace it by the file it points to; a release holds the bytes themselves",
            )  # fmt: skip
        elif entry.is_dir(follow_symlinks=False):
            if len(path) >= MAX_PATH:  # nothing below could be published, and the tree may have no end
                raise UsageError("unsafe path: it is too long", rule="path", path=path, wanted=f"{MAX_PATH} bytes")
            _walk(Path(entry.path), path + "/", found)
        elif entry.is_file(follow_symlinks=False):
            found.paths.append(path)
            if len(found.paths) > MAX_FILES:
                raise UsageError("too many files", rule="files", wanted=f"at most {MAX_FILES}", path=str(found.base))
        else:
            raise UsageError("only regular files can be published", rule="file-type", path=path)


def _check_apart(base: Path, home: Home) -> None:
    """Raise for what is, holds or lies in `home`, or lies in another one; links on the way do not hide it."""
    real, root = base.resolve(), home.root.resolve()
    if home.holds(real) or root.is_relative_to(real):
        raise _private(base, home.root)
    for folder in [real, *real.parents]:
        if _is_home(folder, [name for name in ("keys", home.index.name) if (folder / name).exists()]):
            raise _private(base, folder)


def _is_home(folder: Path, names: Collection[str]) -> bool:
    """Tell whether a folder that holds `names` is a modelnet home, or the folder of keys that was copied out of one."""
    if "index.sqlite" in names and any((folder / name).is_dir() for name in STATE):
        return True
    return ("keys" in names and bool(own_publishers(folder / "keys"))) or (
        any(name.endswith(".genesis") for name in names) and bool(own_publishers(folder))
    )


def _private(path: Path, root: Path) -> UsageError:
    return UsageError(
        f"{root} is a folder of modelnet's own, with private keys: it cannot be published",
        rule="private", path=str(path),
        hint="publish a folder beside it; to publish a model that was pulled, pull it with --to FOLDER first",
    )  # fmt: skip


def _check_no_keys(found: Found) -> None:
    for path in found.paths:
        if _holds_keys(found.base / path):
            raise UsageError(
                "the file holds private keys of modelnet: it cannot be published", rule="private", path=path,
                hint="move it out of the folder",
            )  # fmt: skip


def _holds_keys(path: Path) -> bool:
    """Tell whether a file is a key file, sealed or not, by what it says; one that cannot be read fails when hashed."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            # Most files begin otherwise: one byte of each is all that this costs.
            content = os.pread(handle, MAX_FILE + 1, 0) if os.pread(handle, 1, 0) == b"{" else b""
        finally:
            os.close(handle)
        if b'"pid"' not in content:
            return False
        fields = strictjson.parse(content, what="key file", limit=MAX_FILE)
    except (OSError, ModelnetError):
        return False
    return isinstance(fields, dict) and "pid" in fields and not fields.keys().isdisjoint(("seeds", "box"))
