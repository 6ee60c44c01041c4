"""Where files are cut: the rules, the grid, and cut points that never move."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnet.core.chunking import (
    GRID,
    LARGE_FILE,
    LARGE_GRID,
    LARGE_REGION,
    MAX_CHUNK,
    SMALL_SPAN,
    Region,
    cdc_sizes,
    cut,
    cut_content,
    regions,
)
from modelnet.formats.layout import Span, SpanKind
from tests.core.keystream import keystream

KIB, MIB = 1024, 1024 * 1024
GOLDEN = Path(__file__).parents[2] / "fixtures" / "vectors" / "chunking.json"
SMALL, LARGE = (16 * KIB, 64 * KIB, 256 * KIB), (64 * KIB, 256 * KIB, 1024 * KIB)

lengths = st.lists(
    st.one_of(
        st.integers(1, 2 * SMALL_SPAN), st.sampled_from([SMALL_SPAN - 1, SMALL_SPAN, LARGE_REGION - 1, LARGE_REGION])
    ),
    max_size=30,
)


def spans(*sizes: int) -> list[Span]:
    """Return adjacent spans of the given sizes."""
    found, start = [], 0
    for size in sizes:
        found.append(Span(start, start + size, SpanKind.TENSOR))
        start += size
    return found


@given(lengths)
def test_regions_cover_the_file(sizes: list[int]) -> None:
    """Regions are adjacent, and together are the file."""
    found = regions(sum(sizes), spans(*sizes))
    assert [region.start for region in found] == [0, *[region.end for region in found]][: len(found)]
    assert (found[-1].end if found else 0) == sum(sizes)
    assert all(region.start < region.end for region in found)


@given(lengths)
def test_small_spans_run_together(sizes: list[int]) -> None:
    """A span of 4 KiB or more is a region; a maximal run of smaller ones is one; nothing else is."""
    wanted, run = [], 0
    for size in sizes:
        if size < SMALL_SPAN:
            run += size
            continue
        wanted += [run] * bool(run) + [size]
        run = 0
    wanted += [run] * bool(run)
    assert [region.end - region.start for region in regions(sum(sizes), spans(*sizes))] == wanted


@pytest.mark.parametrize(
    ("size", "grid"),
    [(1, GRID), (SMALL_SPAN, GRID), (LARGE_REGION - 1, GRID), (LARGE_REGION, LARGE_GRID), (2**40, LARGE_GRID)],
)
def test_grid(size: int, grid: int) -> None:
    """A region is cut every 256 KiB, and every 1 MiB from 32 MiB on."""
    assert regions(size, spans(size)) == [Region(0, size, grid)]


def test_small_spans_can_make_a_large_region() -> None:
    """What counts for the grid is the region, not the spans in it."""
    count = LARGE_REGION // 4095 + 1
    assert regions(count * 4095, spans(*[4095] * count))[0].grid == LARGE_GRID


@given(st.integers(0, 2**40), st.integers(1, 40 * MIB))
def test_cuts(start: int, size: int) -> None:
    """Cuts are adjacent, on the grid from the region's own start, and only the last is short."""
    region = Region(start, start + size, LARGE_GRID if size >= LARGE_REGION else GRID)
    found = list(cut(region))
    assert [offset for offset, _ in found] == list(range(start, start + size, region.grid))
    assert sum(length for _, length in found) == size
    assert all(length == region.grid for _, length in found[:-1])
    assert 0 < found[-1][1] <= region.grid <= MAX_CHUNK


@given(lengths, st.integers(0, 10_000))
def test_a_tensor_is_cut_alike_wherever_it_lies(sizes: list[int], before: int) -> None:
    """The same large span gives the same cut lengths behind any header and before any tail."""
    size = 700 * KIB + 5

    def cuts_of(layout: list[int], place: int) -> list[int]:
        found = regions(sum(layout), spans(*layout))
        start = sum(layout[:place])
        return [length for region in found if region.start == start for _, length in cut(region)]

    header = [before] if before else []
    assert cuts_of([*header, size, *sizes], len(header)) == [256 * KIB, 256 * KIB, 188 * KIB + 5]


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (10, []),
        (10, [(0, 4), (5, 10)]),  # a gap
        (10, [(0, 6), (5, 10)]),  # an overlap
        (10, [(1, 10)]),
        (10, [(0, 9)]),
        (10, [(0, 11)]),
        (10, [(0, 0), (0, 10)]),  # an empty span
        (10, [(0, 10), (10, 5)]),
        (10, [(5, 10), (0, 5)]),
    ],
)
def test_spans_must_cover(size: int, found: list[tuple[int, int]]) -> None:
    """Spans with gaps, overlaps or the wrong end are a reader's bug and never become a plan."""
    with pytest.raises(ValueError, match="spans"):
        regions(size, [Span(start, end, SpanKind.TENSOR) for start, end in found])


def test_an_empty_file_has_no_region() -> None:
    """No bytes, no spans, no regions."""
    assert regions(0, []) == []


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(0, None), (GRID, None), (GRID + 1, SMALL), (LARGE_FILE - 1, SMALL), (LARGE_FILE, LARGE), (2**40, LARGE)],
)
def test_cdc_sizes(size: int, wanted: tuple[int, int, int] | None) -> None:
    """A file without spans is one chunk up to 256 KiB; from 64 MiB on its chunks are four times as large."""
    assert cdc_sizes(size) == wanted
    assert wanted is None or wanted[2] <= MAX_CHUNK


def by_windows(content: bytes, sizes: tuple[int, int, int], window: int) -> list[int]:
    """Cut content window by window, as a file is read."""
    found, offset = [], 0
    while offset < len(content):
        view = memoryview(content)[offset : offset + window]
        cuts = cut_content(view, sizes, last=offset + len(view) == len(content))
        assert cuts
        found += cuts
        offset += sum(cuts)
    return found


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
@pytest.mark.parametrize("window", [1024 * KIB, 1024 * KIB + 1, 3_000_000, 8 * MIB])
@pytest.mark.parametrize("kind", ["random", "zeros", "text", "period"])
def test_windows_do_not_move_a_cut(sizes: tuple[int, int, int], window: int, kind: str) -> None:
    """Cutting window by window gives what cutting at once gives, whatever the content and the window."""
    content = {
        "random": keystream("windows", 9_000_000),
        "zeros": bytes(9_000_000),
        "text": b"the quick brown fox jumps over the lazy dog\n" * 200_000,
        "period": keystream("period", 300_007) * 30,
    }[kind]
    at_once = cut_content(memoryview(content), sizes, last=True)
    assert sum(at_once) == len(content)
    assert all(sizes[0] <= length <= sizes[2] for length in at_once[:-1])
    assert by_windows(content, sizes, window) == at_once


def test_an_insertion_moves_few_cuts() -> None:
    """After a byte is inserted the old cut points come back within a few chunks."""
    content = keystream("insertion", 4 * MIB)

    def digests(whole: bytes) -> set[bytes]:
        found, offset = set(), 0
        for length in cut_content(memoryview(whole), SMALL, last=True):
            found.add(hashlib.sha256(whole[offset : offset + length]).digest())
            offset += length
        return found

    before, after = digests(content), digests(content[: 2 * MIB] + b"!" + content[2 * MIB :])
    assert len(after - before) <= 3


def golden() -> dict[str, list[dict[str, object]]]:
    """Return the frozen cut points."""
    found: dict[str, list[dict[str, object]]] = json.loads(GOLDEN.read_text())
    return found


@pytest.mark.parametrize("case", golden()["content_defined"], ids=lambda case: str(case["seed"]))
def test_golden_content_cuts(case: dict[str, object]) -> None:
    """FastCDC cuts these inputs where it cut them when the plan was frozen; otherwise old releases lose reuse."""
    content = keystream(str(case["seed"]), int(str(case["size"])))
    assert hashlib.sha256(content).hexdigest() == case["sha256"]
    least, average, most = case["sizes"]  # type: ignore[misc]
    assert cut_content(memoryview(content), (least, average, most), last=True) == case["lengths"]


@pytest.mark.parametrize("case", golden()["grid"], ids=lambda case: str(case["name"]))
def test_golden_grid_cuts(case: dict[str, object]) -> None:
    """Spans are cut where they were cut when the plan was frozen."""
    layout: list[int] = case["spans"]  # type: ignore[assignment]
    found = [list(piece) for region in regions(sum(layout), spans(*layout)) for piece in cut(region)]
    assert found == case["cuts"]
