"""Look at any folder or file, signed or not: the content check on what lies on a disk, and on its names.

Links are reported and not followed; what is neither file nor folder is reported and not opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelnet.checking import open_file
from modelnet.content.check import check_release
from modelnet.content.finding import Finding, Severity
from modelnet.core.paths import MAX_PATH, SKIPPED, check_path
from modelnet.errors import MalformedError, UnavailableError, UsageError
from modelnet.hashing import FileSource

__all__ = ["Scan", "scan"]

MAX_FILES = 100_000  # as many as a release may have
MAX_TARGET = 4095  # bytes; PATH_MAX of Linux


@dataclass(frozen=True, slots=True)
class Scan:
    """What was looked at, and what there is to say; the worst first."""

    files: int
    bytes: int
    findings: tuple[Finding, ...]


def scan(path: str | os.PathLike[str]) -> Scan:
    """Look at the file or folder at `path`; what cannot be read in a folder is a finding, and the rest is looked at.

    Raises `UsageError` when nothing lies there, `UnavailableError` when itself cannot be read.
    """
    base = Path(path)
    if len(os.fsencode(base)) > MAX_TARGET:
        raise UsageError("the path is too long", rule="path", wanted=f"at most {MAX_TARGET} bytes")
    if not base.exists() and not base.is_symlink():
        raise UsageError("no such file or folder", rule="path", path=str(path))
    findings: list[Finding] = []
    sizes: dict[str, int] = {}
    documents: dict[str, Path] = {}
    folded: dict[str, str] = {}
    alike: set[str] = set()
    for name, file in _walk(base, findings):
        try:
            check_path(name)
        except MalformedError as error:
            findings.append(Finding("path", Severity.BLOCK, name, None, error.message))
        # Where case does not count, A/ and a/ are one folder too, which gets the files of both.
        for part in (name, *(folder.as_posix() for folder in PurePosixPath(name).parents[:-1])):
            if (other := folded.setdefault(part.casefold(), part)) != part and part not in alike:
                alike.add(part)
                findings.append(Finding("path", Severity.BLOCK, part, None, f"differs from {other!r} only in case"))
        documents[name] = file
        if len(documents) > MAX_FILES:
            raise UsageError("the folder has more files than a release may", rule="path", wanted=MAX_FILES)
    for name, file in documents.items():
        try:
            size, found = _look(name, file, documents)
        except OSError as error:
            if file == base:
                raise _unavailable(error, "file", base) from error
            findings.append(_unreadable(name, error))
            continue
        sizes[name] = size
        findings += found
    findings.sort(key=lambda one: (one.severity is not Severity.BLOCK, one.path, one.offset or 0, one.rule))
    return Scan(len(sizes), sum(sizes.values()), tuple(findings))


def _look(name: str, file: Path, listed: dict[str, Path]) -> tuple[int, list[Finding]]:
    handle = open_file(file)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):  # it was one when the folder was listed
            return 0, [Finding("file-type", Severity.BLOCK, name, None, "not a regular file")]
        source = FileSource(handle, status.st_size, name)
        return status.st_size, check_release({name: source}, listed=listed)
    except MalformedError as error:
        return 0, [Finding("changed", Severity.BLOCK, name, error.offset, "the file changed while it was looked at")]
    finally:
        os.close(handle)


def _walk(base: Path, findings: list[Finding]) -> Iterator[tuple[str, Path]]:
    """Yield each regular file and its path below `base`; report everything else."""
    if not base.is_dir() or base.is_symlink():
        if _is_regular(base, base.name, findings):
            yield base.name, base
        return

    def unlisted(error: OSError) -> None:
        folder = Path(error.filename)
        if folder == base:
            raise _unavailable(error, "folder", base) from error
        findings.append(_unreadable(folder.relative_to(base).as_posix(), error))

    for folder, folders, names in os.walk(base, onerror=unlisted):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        inside = Path(folder).relative_to(base)
        for name in sorted([*names, *(name for name in folders if os.path.islink(Path(folder) / name))]):  # noqa: PTH114
            path = (inside / name).as_posix()
            try:
                is_regular = name not in SKIPPED and _is_regular(Path(folder) / name, path, findings)
            except OSError as error:
                findings.append(_unreadable(path, error))
                continue
            if is_regular:
                yield path, Path(folder) / name


def _unreadable(name: str, error: OSError) -> Finding:
    """What was not looked at is not let through."""
    return Finding("unreadable", Severity.BLOCK, name, None, f"cannot be read: {error.strerror}")


def _unavailable(error: OSError, what: str, path: Path) -> UnavailableError:
    return UnavailableError(f"cannot read the {what}: {error.strerror}", rule="read", path=str(path))


def _is_regular(file: Path, path: str, findings: list[Finding]) -> bool:
    mode = file.lstat().st_mode
    if stat.S_ISLNK(mode):
        target = str(file.readlink())[:MAX_PATH]
        findings.append(Finding("symlink", Severity.BLOCK, path, None, f"a symbolic link to {target!r}"))
    elif not stat.S_ISREG(mode):
        findings.append(Finding("file-type", Severity.BLOCK, path, None, "neither a file nor a folder"))
    return stat.S_ISREG(mode)
