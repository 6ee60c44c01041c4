"""Seeded test content: the ChaCha20 keystream that the UnixFS profile vectors are made of (RFC 8439 §2.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

__all__ = ["keystream", "pieces"]

BLOCK = 64
STEP = 1 << 20  # bytes made at once: the sixteen words of its blocks stay in the cache
CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")
COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def keystream(seed: str, size: int, start: int = 0) -> bytes:
    """Return bytes `[start, start + size)` of ChaCha20 with key SHA-256(seed) and a nonce of zeros."""
    first, skip = divmod(start, BLOCK)
    count = -(-(skip + size) // BLOCK)
    out = b"".join(
        _blocks(seed, first + done, min(STEP // BLOCK, count - done)) for done in range(0, count, STEP // BLOCK)
    )
    return out[skip : skip + size]


def pieces(seed: str, size: int, length: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of the stream in pieces of `length`; none is kept."""
    for start in range(0, size, length):
        yield keystream(seed, min(length, size - start), start)


def _blocks(seed: str, counter: int, count: int) -> bytes:
    key = np.frombuffer(hashlib.sha256(seed.encode()).digest(), "<u4")
    state = np.zeros((16, count), np.uint32)
    state[0:4] = CONSTANTS[:, None]
    state[4:12] = key[:, None]
    state[12] = np.arange(counter, counter + count, dtype=np.uint32)
    words = list(state.copy())
    for _ in range(10):
        for a, b, c, d in COLUMNS + DIAGONALS:
            _quarter(words, a, b, c, d)
    return (np.stack(words) + state).T.astype("<u4").tobytes()


def _quarter(words: list[np.ndarray], a: int, b: int, c: int, d: int) -> None:
    for left, right, target, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        words[left] += words[right]
        words[target] ^= words[left]
        words[target] = (words[target] << np.uint32(shift)) | (words[target] >> np.uint32(32 - shift))
