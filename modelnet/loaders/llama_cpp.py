"""llama.cpp, through xllamacpp or llama-cpp-python: both open a path several times, so it is one that cannot change.

    from modelnet.loaders import llama_cpp
    server = llama_cpp.server("acme/smol#model.gguf", params)     # an xllamacpp.Server; params.model.path is set
    llama = llama_cpp.Llama("acme/smol#model.gguf", n_ctx=512)    # a llama_cpp.Llama

Splits (`name-00001-of-00003.gguf`) are given as their first part; all parts are verified and held side by side.
Level: `sealed` up to 1 GiB, else `held`: there is no copy of a large model in memory, and a process of the same user
that writes into the store's file while it is mapped would be seen by llama.cpp. `level="sealed"` copies anything.
"""

from __future__ import annotations

import os
from typing import Any

from modelnet.loaders._files import hold
from modelnet.loaders._library import need
from modelnet.loaders.levels import Level
from modelnet.policies import Policies

__all__ = ["Llama", "server"]


def server(
    name: str | os.PathLike[str],
    params: Any = None,
    *,
    level: Level | str | None = None,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Any:
    """Return an `xllamacpp.Server` of the model that `name` means; `params` is an `xllamacpp.CommonParams`."""
    library = need("xllamacpp")
    params = library.CommonParams() if params is None else params
    with hold(name, (".gguf",), level=level, policy=policy, home=home) as held:
        params.model.path = held.path
        return held.keep(carrying(library.Server)(params))


def carrying(server: Any) -> Any:
    """Return a subclass whose objects can carry what they hold: the library's own, compiled, take no attributes.

    Without it the memory of every model that a process ever served would be kept. What is no class is returned as is.
    """
    return type("Server", (server,), {}) if isinstance(server, type) else server


def Llama(  # noqa: N802  (the class's own name)
    name: str | os.PathLike[str],
    *,
    level: Level | str | None = None,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Return a `llama_cpp.Llama` of the model that `name` means; `options` are its own."""
    library = need("llama_cpp")
    with hold(name, (".gguf",), level=level, policy=policy, home=home) as held:
        return held.keep(library.Llama(model_path=held.path, **options))
