"""torch: weights only, and only from files whose pickle names nothing but tensors.

    from modelnet.loaders import torch
    state = torch.load("acme/crepe#full.pth", map_location="cpu")

A zip of tensors is loaded with `weights_only=True` from a sealed copy or a held descriptor, which torch may open as
often as it likes. A pickle that imports anything else, a legacy pickle and a TorchScript program are refused by
content; `jit_load` loads the last kind when the operator's policy allows that very file. Level: `sealed` or `held`.
"""

from __future__ import annotations

import os
from typing import Any

from modelnet.errors import TrustError
from modelnet.loaders._files import hold
from modelnet.loaders._library import need
from modelnet.loaders.levels import Level
from modelnet.policies import Policies

__all__ = ["jit_load", "load"]

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SCRIPTS = (".pt", ".jit", ".pts")
ZIPS = ("torch-zip", "zip", "pickle", "tar")  # what torch has written over the years


def load(
    name: str | os.PathLike[str],
    map_location: Any = None,
    *,
    weights_only: bool = True,
    level: Level | str | None = None,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Return what the file that `name` means holds; `map_location` and `options` are those of `torch.load`.

    Raises `TrustError` (rule `pickle`) for content that is code, and for `weights_only=False`.
    """
    if not weights_only or options.get("pickle_module") is not None:
        raise TrustError(
            "a full unpickler runs what the file says", rule="pickle", path=os.fspath(name),
            hint="leave weights_only and pickle_module as they are",
        )  # fmt: skip
    library = need("torch")
    with hold(name, SUFFIXES, level=level, policy=policy, home=home, formats=ZIPS) as held:
        return library.load(held.path, map_location=map_location, weights_only=True, **options)


def jit_load(
    name: str | os.PathLike[str],
    map_location: Any = None,
    *,
    level: Level | str | None = None,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Any:
    """Return the TorchScript module in the file that `name` means; the policy must allow that file's code."""
    library = need("torch")
    with hold(name, SCRIPTS, level=level, policy=policy, home=home, formats=ZIPS) as held:
        return library.jit.load(held.path, map_location=map_location)
