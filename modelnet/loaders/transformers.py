"""transformers: any class with `from_pretrained`, on a folder of verified files.

    from transformers import AutoModel, AutoTokenizer
    from modelnet.loaders import transformers
    model = transformers.from_pretrained(AutoModel, "acme/minilm")
    tokenizer = transformers.from_pretrained(AutoTokenizer, "acme/minilm")

The Hub is switched off meanwhile, so that nothing is fetched by name; the weights' memory map keeps the sealed copy for
as long as it is used. `trust_remote_code=True` runs only files of the release that the operator's policy allows by
their digest. Level: `sealed` for files up to 1 GiB, else `held`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from modelnet.loaders import _hub
from modelnet.loaders._library import need
from modelnet.loaders.levels import Level
from modelnet.policies import Policies

__all__ = ["from_pretrained"]


def from_pretrained(
    factory: Any,
    ref: str,
    *arguments: Any,
    policy: Policies | None = None,
    pull: bool = True,
    only: Sequence[str] = (),
    level: Level | str | None = None,
    home: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Return `factory.from_pretrained(folder, *arguments, **options)` for the release `ref`; raise as the gate does."""
    need("transformers")
    return _hub.from_pretrained(
        factory, ref, arguments, options, policy=policy, pull=pull, only=only, level=level, home=home
    )
