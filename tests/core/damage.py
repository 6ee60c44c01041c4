"""Every small way to damage a byte string: flip, drop, insert, duplicate, swap."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["damaged"]


def damaged(content: bytes, step: int = 1) -> Iterator[tuple[str, bytes]]:
    """Yield (what was done, other bytes) for every `step`-th place in `content`; never `content` itself."""
    for place in range(0, len(content), step):
        before, byte, after = content[:place], content[place : place + 1], content[place + 1 :]
        cases = {
            "flip the lowest bit": before + bytes((byte[0] ^ 1,)) + after,
            "flip the highest bit": before + bytes((byte[0] ^ 0x80,)) + after,
            "flip every bit": before + bytes((byte[0] ^ 0xFF,)) + after,
            "drop": before + after,
            "insert zero": before + b"\x00" + byte + after,
            "insert space": before + b" " + byte + after,
            "duplicate": before + byte + byte + after,
            "swap": before + after[:1] + byte + after[1:],
            "cut off": before,
        }
        for what, other in cases.items():
            if other != content:
                yield f"{what} at {place}", other
    for extra in (b"\x00", b" ", b"\n", content):
        yield f"append {extra[:4]!r}", content + extra
