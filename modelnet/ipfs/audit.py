"""Do they still have it? Random blocks of a release, asked of the target itself and hashed here.

A target that lost the share `f` of the blocks passes an audit of `n` of them with probability (1 - f)^n: 32 blocks find
a loss of 10 % in 97 of 100 audits, one of 1 % in 28. Repeated audits draw other blocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modelnet.core.cid import Cid
from modelnet.errors import IntegrityError, ModelnetError
from modelnet.ipfs.segments import ReleaseBlocks

__all__ = ["Audit", "audit", "draw"]


class _Blocks(Protocol):
    def block(self, cid: Cid) -> bytes:
        """Return a verified block or raise."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found; `missing` holds (CID, why), `wrong` those that came with other bytes."""

    checked: int
    missing: tuple[tuple[Cid, str], ...] = ()
    wrong: tuple[tuple[Cid, str], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every block that was asked for came, and was right."""
        return not self.missing and not self.wrong


def draw(blocks: ReleaseBlocks, count: int, chance: random.Random) -> list[Cid]:
    """Return `count` blocks of the release, each as likely as any other, and always the manifest."""
    others = len(blocks.nodes) - 1
    numbers = chance.sample(range(blocks.chunk_count + others), min(max(count - 1, 0), blocks.chunk_count + others))
    return [blocks.root] + [
        blocks.nodes[number] if number < others else blocks.chunk(number - others)[0] for number in numbers
    ]


def audit(target: _Blocks, cids: Sequence[Cid]) -> Audit:
    """Ask `target` for every one of `cids`."""
    missing: list[tuple[Cid, str]] = []
    wrong: list[tuple[Cid, str]] = []
    for cid in cids:
        try:
            target.block(cid)
        except IntegrityError as error:
            wrong.append((cid, str(error)))
        except ModelnetError as error:
            if error.rule == "audit":
                raise
            missing.append((cid, str(error)))
    return Audit(len(cids), tuple(missing), tuple(wrong))
