"""Content-defined cuts on several cores are those of one core."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelnet import cutting

SIZES = (64 * 1024, 256 * 1024, 1024 * 1024)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """Yield a descriptor and the size of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle, os.fstat(handle).st_size
    finally:
        os.close(handle)


def serial(handle: int, size: int) -> list[int]:
    """Return the chunk lengths as one core cuts them in one go, from the first byte on."""
    return list(cutting._lengths(cutting._cut_from(handle, 0, size, size, SIZES, buffer=memoryview(bytearray(size)))))


CONTENTS = {
    "random": random.Random(1).randbytes(12_345_678),
    "zeros, cut at the largest size": bytes(9_000_000),
    "a short period, which may never meet": (b"abcdefghijk" * 7 + b"q") * 120_000,
    "random between zeros": bytes(3_000_001) + random.Random(2).randbytes(3_000_000) + bytes(3_000_000),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_workers_cut_as_one_core_does(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stitched cuts are those of a single pass, whatever the content."""
    monkeypatch.setattr(cutting, "PARALLEL_ABOVE", 0)
    monkeypatch.setattr(cutting, "WORKERS", 2)
    monkeypatch.setattr(cutting, "SEGMENT", 2 * 1024 * 1024)
    monkeypatch.setattr(cutting, "HEAD", 2 * 1024 * 1024)
    path = tmp_path / "file"
    path.write_bytes(content)
    with opened(path) as (handle, size):
        lengths = list(cutting.content_cuts(handle, size, SIZES))

        assert lengths == serial(handle, size)
        assert sum(lengths) == size


@pytest.mark.parametrize("script", ["raise SystemExit", "import sys; sys.stdout.buffer.write(b'x' * 99)"])
def test_workers_that_fail_cost_time_only(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that end at once, or write something else than cuts, change nothing in the result."""
    monkeypatch.setattr(cutting, "PARALLEL_ABOVE", 0)
    monkeypatch.setattr(cutting, "WORKERS", 2)
    monkeypatch.setattr(cutting, "SEGMENT", 1024 * 1024)
    monkeypatch.setattr(cutting, "HEAD", 1024 * 1024)
    monkeypatch.setattr(cutting, "SCRIPT", script)
    path = tmp_path / "file"
    path.write_bytes(random.Random(3).randbytes(5_000_000))
    with opened(path) as (handle, size):
        assert list(cutting.content_cuts(handle, size, SIZES)) == serial(handle, size)
