"""Which targets hold a model: weighted rendezvous hashing. Pure.

Every publisher's machine computes the same order from the model's name and the targets alone; nothing is stored. A
target that joins or leaves moves only the models that it gets or had. The key is the model, not the version: versions
share chunks, so they belong together.

    score(target) = -weight / ln(u),  u uniform in (0, 1) from BLAKE3(target, key)      highest first

A target of twice the weight gets twice the models (Schindelhauer and Schomaker 2005, "logarithmic method").
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from modelnet.core.cid import blake3_digest

__all__ = ["rank"]


def rank(key: str, targets: Iterable[tuple[str, float]]) -> list[str]:
    """Return the names of `targets` (name, weight above 0) in the order in which they should hold `key`."""

    def score(target: tuple[str, float]) -> tuple[float, str]:
        name, weight = target
        if not weight > 0 or math.isinf(weight):
            raise ValueError(f"the weight of {name!r} is not above zero")
        digest = blake3_digest(b"modelnet placement\0" + name.encode() + b"\0" + key.encode())
        uniform = ((int.from_bytes(digest[:8], "big") >> 11) + 0.5) / (1 << 53)  # never 0, never 1
        return (-weight / math.log(uniform), name)

    return [name for name, _ in sorted(targets, key=score, reverse=True)]
