"""Paths inside a release: relative, portable, and the same file on every system.

A path is refused (`MalformedError`, rule `path`) when it is empty, absolute, longer than 1,024 bytes, not NFC, when a
part is empty, `.`, `..`, over 255 bytes, ends in a dot or a space or is a Windows device name, or when it holds a
backslash, colon, control character or one of `<>"|?*` or a mark
that turns the reading direction. A set of paths is refused when two differ only in case or when
one is a folder of the other (provenance.md gate 4).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from modelnet.errors import MalformedError

__all__ = ["MAX_PART", "MAX_PATH", "SKIPPED", "check_path", "check_paths"]

MAX_PATH = 1024  # bytes; below every common PATH_MAX together with a base folder
SKIPPED = frozenset([".git", ".DS_Store", "__pycache__"])  # never part of a model; said in the result
MAX_PART = 255  # bytes; NAME_MAX of ext4, APFS, NTFS

_FORBIDDEN = frozenset('\\:<>"|?*')
# Marks that make a name look like another one; joiners stay, scripts and emoji need them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_DEVICES = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"),
    ]
)


def check_path(path: str) -> str:
    """Return `path` if a release may hold a file of that name, else raise `MalformedError` with the reason."""

    def refuse(reason: str) -> MalformedError:
        shown = path.encode("utf-8", "backslashreplace").decode()
        return MalformedError(f"unsafe path: {reason}", rule="path", path=shown[:MAX_PATH])

    try:
        length = len(path.encode())
    except UnicodeEncodeError as error:
        raise refuse("it is not valid Unicode") from error
    if not 0 < length <= MAX_PATH:
        raise refuse(f"it has {length} bytes; 1 to {MAX_PATH} are allowed")
    if unicodedata.normalize("NFC", path) != path:
        raise refuse("it is not in Unicode normal form NFC")
    for letter in path:
        if letter in _FORBIDDEN or letter in _BIDI or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
            raise refuse(f"it holds {letter!a}")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise refuse("it has an empty, '.' or '..' part" if part != "" or not path.startswith("/") else "absolute")
        if len(part.encode()) > MAX_PART:
            raise refuse(f"a part has more than {MAX_PART} bytes")
        if part[-1] in ". ":
            raise refuse("a part ends in a dot or a space")
        if part.split(".")[0].rstrip().casefold() in _DEVICES:
            raise refuse(f"{part} is a device name on Windows")
    return path


def check_paths(paths: Iterable[str]) -> list[str]:
    """Return the paths, sorted, if they can stand side by side on every system, else raise `MalformedError`."""
    ordered = sorted((_fold(check_path(path)).replace("/", "\0"), path) for path in paths)
    # Sorted part by part, paths that share a folded folder stand together, so neighbours tell of every collision.
    for (_, path), (_, following) in pairwise(ordered):
        _check_neighbours(path, following)
    return sorted(path for _, path in ordered)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _check_neighbours(path: str, following: str) -> None:
    parts, others = path.split("/"), following.split("/")
    for depth, (part, other) in enumerate(zip(parts, others, strict=False), 1):
        if part == other:
            continue
        if _fold(part) == _fold(other):
            one, two = "/".join(parts[:depth]), "/".join(others[:depth])
            raise MalformedError(
                f"two names differ only in case: {one!r} and {two!r}",
                rule="path", path=following, hint="rename one of them; they are one file on macOS and Windows",
            )  # fmt: skip
        return
    if len(parts) == len(others):
        raise MalformedError("the same path twice", rule="path", path=path)
    raise MalformedError(f"{path!r} is both a file and a folder", rule="path", path=following)
