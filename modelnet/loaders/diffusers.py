"""diffusers: pipelines and their parts, on a folder of verified files.

    from diffusers import DiffusionPipeline
    from modelnet.loaders import diffusers
    pipeline = diffusers.from_pretrained(DiffusionPipeline, "acme/tiny-diffusion")

Weights are taken from safetensors files only. The rest is as in `modelnet.loaders.transformers`.
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
    need("diffusers")
    options = {"use_safetensors": True, **options}
    return _hub.from_pretrained(
        factory, ref, arguments, options, policy=policy, pull=pull, only=only, level=level, home=home
    )
