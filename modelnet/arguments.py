"""What callers of the API give: paths and lists, checked before anything is done with them.

    given_path(to, "folder to put the files in")    # a Path; not for "" nor for a text with NUL
    given_texts("stable", "channels")               # ("stable",)

One text where a list is expected is a list of one, never of its letters: `*.safetensors` must not mean `*`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from modelnet.errors import UsageError

__all__ = ["MAX_GIVEN", "given_path", "given_texts"]

MAX_GIVEN = 4095  # bytes of a path; PATH_MAX of Linux


def given_path(value: str | os.PathLike[str], what: str) -> Path:
    """Return the path that a caller gave; raise `UsageError` for one that cannot be, `TypeError` for what is none.

    The empty text is refused: `Path("")` is the current folder, and a script whose variable is unset does not mean it.
    """
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"the {what} must be a string or a path, not {type(text).__name__}")
    if not text:
        raise UsageError(f"there is no {what}", rule="path", hint="an empty path is not the current folder; that is .")
    if "\0" in text:
        raise UsageError(f"the {what} holds a NUL character", rule="path", path=text)
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError as error:
        raise UsageError(f"the {what} is no text that names a file", rule="path", path=ascii(text)) from error
    if size > MAX_GIVEN:
        raise UsageError(f"the {what} is too long", rule="path", wanted=f"at most {MAX_GIVEN} bytes", got=size)
    return Path(text)


def given_texts(value: str | Iterable[str], what: str) -> tuple[str, ...]:
    """Return several texts that a caller gave, one alone as a list of one; raise `TypeError` for anything else."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bytes | bytearray):
        raise TypeError(f"{what} must be strings, not bytes")
    texts = tuple(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} must be strings, not {type(text).__name__}")
    return texts
