"""Reads small files that somebody else may have put there: never a fifo, a device, a folder or more than they may hold.

    read_small(path, MAX_NOTE, "log")    # the content; None when there is no such file

What is refused is refused with the rule of who reads.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modelnet.errors import MalformedError, UnavailableError

__all__ = ["read_small"]


def read_small(path: Path, limit: int, rule: str, *, follow: bool = False, hint: str | None = None) -> bytes | None:
    """Return the content of a regular file of at most `limit` bytes, or None when there is none; `follow` takes links.

    Raises `MalformedError` for what is no regular file or too large, `UnavailableError` for what cannot be read, both
    with that `rule`.
    """
    # A fifo must not block us, and a link in a folder of our own must not lead out of it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        handle = os.open(path, flags)
        try:
            # Before it is made a file of Python's: that refuses a folder in words of its own.
            regular = stat.S_ISREG(os.fstat(handle).st_mode)
            content = _read(handle, limit + 1) if regular else b""
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read it: {error.strerror}", rule=rule, path=str(path), hint=hint) from error
    if not regular:
        raise MalformedError("not a regular file", rule=rule, path=str(path), hint=hint)
    if len(content) > limit:
        raise MalformedError("the file is too large", rule=rule, path=str(path), wanted=f"at most {limit} bytes")
    return content


def _read(handle: int, most: int) -> bytes:
    content = bytearray()
    while len(content) < most and (piece := os.read(handle, most - len(content))):
        content += piece
    return bytes(content)
