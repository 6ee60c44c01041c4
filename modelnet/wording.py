"""How numbers and other people's words are shown, the same wherever they are."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["age_text", "count_text", "printable", "size_text", "time_text"]


def size_text(count: float) -> str:
    """Return a number of bytes as people read it, in powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def count_text(count: int, noun: str) -> str:
    """Return a number of things: `1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def age_text(seconds: float | None) -> str:
    """Return an age as people say it: `3 days`, `1 hour`; None is one that nobody knows."""
    if seconds is None:
        return "of unknown age"
    for noun, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return count_text(int(seconds // size), noun)
    return count_text(int(seconds), "second")


def time_text(time: float) -> str:
    """Return a time in unix seconds as `2026-11-20 14:00 UTC`."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def printable(text: str) -> str:
    """Return `text` with what could drive a terminal spelled out: a publisher, a peer or a file may have chosen it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
