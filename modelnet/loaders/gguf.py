"""GGUF through gguf-py: a reader over a file that was verified, and whose header our own bounded reader accepted first.

    from modelnet.loaders import gguf
    reader = gguf.reader("acme/tiny#tiny.Q8_0.gguf")        # a gguf.GGUFReader

gguf-py maps the file, so it gets a path: of a sealed copy up to 1 GiB, else of a held descriptor. Level: `sealed` or
`held`. A file that makes gguf-py hang or overrun its buffers (counts near 2^63) is refused before it is opened.
"""

from __future__ import annotations

import os
from typing import Any

from modelnet.loaders._files import hold
from modelnet.loaders._library import need
from modelnet.loaders.levels import Level
from modelnet.policies import Policies

__all__ = ["reader"]


def reader(
    name: str | os.PathLike[str],
    *,
    level: Level | str | None = None,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Any:
    """Return a `gguf.GGUFReader` of the file that `name` means.

    Raises what the gate raises; `UnavailableError` when gguf is not installed.
    """
    library = need("gguf")
    with hold(name, (".gguf",), level=level, policy=policy, home=home, formats=("gguf",)) as held:
        return held.keep(library.GGUFReader(held.path))
