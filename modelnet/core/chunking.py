"""Where a file is cut: plans `grid/1` and `fixed-1m`.

A plan is a pure function of the file's bytes and the plan's name.

`grid/1`, for a file whose format reader gave spans:
1. runs of adjacent spans that are each under 4 KiB form one region; every other span is a region of its own;
2. each region is cut on a grid from its own start: 256 KiB, or 1 MiB where the region has 32 MiB or more.
   The same tensor gives the same chunks in any container, at any offset.
`grid/1`, for a file without spans: one chunk up to 256 KiB; else FastCDC, 16/64/256 KiB below 64 MiB and
64/256/1024 KiB from there on.

`fixed-1m`: 1 MiB from byte 0, the layout of `ipfs add` with the profile `unixfs-v1-2025`.

Cut points are a hint that only the publisher computes; what is verified is the DAG built over them.
Measurements behind the numbers: Xia et al. 2016 (FastCDC) for the gear hash, our own corpus for 4/256 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelnet.formats.layout import Span

__all__ = ["FIXED_1M", "GRID_1", "MAX_CHUNK", "PLANS", "Region", "cdc_sizes", "cut", "cut_content", "regions"]

KIB, MIB = 1024, 1024 * 1024

GRID_1 = "grid/1"
FIXED_1M = "fixed-1m"
PLANS = (GRID_1, FIXED_1M)

MAX_CHUNK = MIB  # the interoperable block size of specs/unixfs.md
SMALL_SPAN = 4 * KIB
GRID = 256 * KIB
LARGE_REGION = 32 * MIB
LARGE_GRID = MIB
LARGE_FILE = 64 * MIB


@dataclass(frozen=True, slots=True)
class Region:
    """The bytes `[start, end)` of a file that are cut on one grid and get one node in the DAG."""

    start: int
    end: int
    grid: int


def regions(size: int, spans: Sequence[Span]) -> list[Region]:
    """Return the regions of `grid/1` for a file of `size` bytes that `spans` cover without a gap."""
    found: list[Region] = []
    run_start: int | None = None
    position = 0
    for span in spans:
        if span.start != position or span.end <= span.start:
            raise ValueError(f"spans do not cover the file: {span.start} follows {position}")
        position = span.end
        if span.end - span.start < SMALL_SPAN:
            run_start = span.start if run_start is None else run_start
            continue
        if run_start is not None:
            found.append(_region(run_start, span.start))
            run_start = None
        found.append(_region(span.start, span.end))
    if run_start is not None:
        found.append(_region(run_start, position))
    if position != size:
        raise ValueError(f"spans end at {position} of {size}")
    return found


def _region(start: int, end: int) -> Region:
    return Region(start, end, LARGE_GRID if end - start >= LARGE_REGION else GRID)


def cut(region: Region) -> Iterator[tuple[int, int]]:
    """Yield the (offset, length) of each chunk of `region`."""
    for offset in range(region.start, region.end, region.grid):
        yield offset, min(region.grid, region.end - offset)


def cdc_sizes(size: int) -> tuple[int, int, int] | None:
    """Return FastCDC's (least, average, most) for a file of `size` bytes without spans; None means one chunk."""
    if size <= GRID:
        return None
    return (16 * KIB, 64 * KIB, 256 * KIB) if size < LARGE_FILE else (64 * KIB, 256 * KIB, 1024 * KIB)


def cut_content(content: memoryview, sizes: tuple[int, int, int], *, last: bool) -> list[int]:
    """Return the lengths of FastCDC's chunks at the start of `content`.

    A cut depends only on the bytes after the one before it, so a file can be cut window by window: unless `last`,
    what is left when fewer than `most` bytes remain is not cut, and the next window begins there.
    """
    from fastcdc import fastcdc  # compiled; brings in click, so only when a file needs it

    least, average, most = sizes
    lengths: list[int] = []
    position = 0
    for chunk in fastcdc(content, min_size=least, avg_size=average, max_size=most):
        if not last and len(content) - position < most:
            break
        lengths.append(chunk.length)
        position += chunk.length
    return lengths
