"""How numbers and other people's words are shown, the same wherever they are."""

from __future__ import annotations

__all__ = ["count_text", "printable", "size_text"]


def size_text(count: float) -> str:
    """Return a number of bytes as people read it, in powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def count_text(count: int, noun: str) -> str:
    """Return a number of things: `1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str) -> str:
    """Return `text` with what could drive a terminal spelled out: a publisher, a peer or a file may have chosen it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
