"""What a format reader says about a file: a gap-free list of spans.

A reader is given a `ByteSource` and returns a `Layout`. Its rules:

- It reads headers only, in bounded pieces, and never allocates or loops on a number that the file claims before
  that number was checked against the size of the file.
- It refuses a malformed file with `MalformedError`, which names the rule, the offset, what was wanted and found.
- Its result only moves chunk borders: a reader's bug can cost reuse between versions, never integrity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from modelnet.errors import MalformedError

__all__ = ["ByteSource", "BytesSource", "Layout", "Span", "SpanKind", "cover"]


class ByteSource(Protocol):
    """Random access to the bytes of one file."""

    @property
    def size(self) -> int:
        """Length of the file in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`; raise `MalformedError` past the end."""


@dataclass(frozen=True, slots=True)
class BytesSource:
    """A `ByteSource` over bytes in memory."""

    content: bytes

    @property
    def size(self) -> int:
        """Length of the content in bytes."""
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly the bytes `[offset, offset + length)`; raise `MalformedError` past the end."""
        if offset < 0 or length < 0 or offset + length > len(self.content):
            raise MalformedError(
                "the file ends too early", rule="truncated", offset=offset, wanted=f"{length} bytes", got=self.size
            )
        return self.content[offset : offset + length]


class SpanKind(StrEnum):
    """What a run of bytes is for."""

    HEADER = "header"
    TENSOR = "tensor"
    PADDING = "padding"
    TAIL = "tail"


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes `[start, end)` of a file and what they are; `name` and `dtype` are set for tensors."""

    start: int
    end: int
    kind: SpanKind
    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's format and its spans: sorted, non-empty, adjacent, covering `[0, size)` exactly."""

    format: str
    spans: tuple[Span, ...]

    @property
    def tensors(self) -> tuple[Span, ...]:
        """The spans that hold a tensor's data."""
        return tuple(span for span in self.spans if span.kind is SpanKind.TENSOR)


def cover(
    size: int, known: Sequence[Span], *, gap: SpanKind = SpanKind.HEADER, between: SpanKind = SpanKind.PADDING
) -> tuple[Span, ...]:
    """Fill the gaps between `known` spans so that the result covers `[0, size)`.

    Bytes before the first are `gap`, those between two are `between`, those after the last are the tail.

    Empty spans are dropped: a tensor of no elements has no bytes. Raises `MalformedError` (rule `overlap` or
    `out-of-bounds`) when two spans share bytes or one leaves the file.
    """
    spans: list[Span] = []
    position = 0
    for span in sorted(known, key=lambda span: (span.start, span.end)):
        if span.start < 0 or span.end > size or span.end < span.start:
            raise MalformedError(
                f"{span.name or span.kind} lies outside the file",
                rule="out-of-bounds", offset=span.start, wanted=f"at most {size}", got=span.end,
            )  # fmt: skip
        if span.end == span.start:
            continue
        if span.start < position:
            raise MalformedError(
                f"{span.name or span.kind} overlaps what comes before it",
                rule="overlap", offset=span.start, wanted=f"at least {position}", got=span.start,
            )  # fmt: skip
        if span.start > position:
            kind = between if spans else gap
            spans.append(Span(position, span.start, kind))
        spans.append(span)
        position = span.end
    if position < size:
        spans.append(Span(position, size, SpanKind.TAIL if spans else gap))
    return tuple(spans)
