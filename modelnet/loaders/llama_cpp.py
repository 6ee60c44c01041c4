"""llama.cpp, through xllamacpp or llama-cpp-python: both open a path several times, so it is one that cannot change.

    from modelnet.loaders import llama_cpp
    server = llama_cpp.server("acme/smol#model.gguf", params)     # an xllamacpp.Server; params.model.path is set
    llama = llama_cpp.Llama("acme/smol#model.gguf", n_ctx=512)    # a llama_cpp.Llama

Splits (`name-00001-of-00003.gguf`) are given as their first part; all parts are verified and held side by side.
What is loaded beside the model (adapters, a projector, a draft model) is verified in the same way, and refused when no
release has it; so is what llama.cpp would download by itself.
Level: `sealed` up to 1 GiB, else `held`: there is no copy of a large model in memory, and a process of the same user
that writes into the store's file while it is mapped would be seen by llama.cpp. `level="sealed"` copies anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from modelnet.loaders._files import Held, hold
from modelnet.loaders._library import need
from modelnet.loaders._trusted import unsigned
from modelnet.loaders.levels import Level
from modelnet.policies import Policies

__all__ = ["PARTS", "Llama", "held_parameters", "server"]

FORMATS = ("gguf",)
PARTS = ("lora_path", "lora_base", "clip_model_path")  # files of a `llama_cpp.Llama` beside its model
ELSEWHERE = ("url", "hf_repo", "docker_repo")  # where a model's parameters may have llama.cpp fetch it from
FOLDERS = ("models_dir", "models_preset", "models_preset_hf")  # models that a server chooses later, by itself


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
    with hold(name, (".gguf",), level=level, policy=policy, home=home, formats=FORMATS) as held:
        params.model.path = held.path
        with held_parameters(params, lambda path: path != held.path, level=level, policy=policy, home=home) as beside:
            made = held.keep(carrying(library.Server)(params))
            for one in beside:
                one.keep(made)
            return made


@contextmanager
def held_parameters(
    params: Any,
    takes: Callable[[str], bool],
    *,
    refuse: bool = True,
    level: Level | str | None = None,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Iterator[list[Held]]:
    """Let every path in an `xllamacpp.CommonParams` that is ours be one that cannot change, for the block.

    `takes` says which are ours. With `refuse`, raises `TrustError` for what llama.cpp would fetch or choose by itself.
    """
    if refuse:
        for name in FOLDERS:
            if value := getattr(params, name, None):
                raise unsigned(str(value))
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    # Views of what the parameters hold; putting the list back would free it first.
    adapters = list(params.lora_adapters)
    held: list[Held] = []
    with ExitStack() as stack:
        try:
            for owner, name in [*_models(params), *((adapter, "path") for adapter in adapters)]:
                path = getattr(owner, name, None)
                elsewhere = [one for one in ELSEWHERE if getattr(owner, one, None)]
                if elsewhere and refuse:
                    raise unsigned(str(getattr(owner, elsewhere[0])))
                if path and takes(path):
                    options: dict[str, Any] = {"level": level, "policy": policy, "home": home}
                    formats = FORMATS if owner is not getattr(params.speculative, "ngram_cache", None) else ()
                    held.append(stack.enter_context(hold(path, (".gguf",), formats=formats, **options)))
                    put(owner, name, held[-1].path)
                    for one in elsewhere:
                        put(owner, one, "")  # it would go before the path
            yield held
        finally:
            for owner, name, value in reversed(before):
                setattr(owner, name, value)


def _models(params: Any) -> Iterator[tuple[Any, str]]:
    """Yield each place of the parameters that has a model's path, as (object, attribute)."""
    speculative = getattr(params, "speculative", None)
    for owner in (
        params.model, getattr(params, "mmproj", None), getattr(getattr(speculative, "draft", None), "mparams", None),
        getattr(getattr(params, "vocoder", None), "model", None),
    ):  # fmt: skip
        if owner is not None:
            yield owner, "path"
    yield from ((one, "fname") for one in getattr(params, "control_vectors", None) or ())
    # The other one, lookup_cache_dynamic, is what the server writes by itself.
    if (cache := getattr(speculative, "ngram_cache", None)) is not None:
        yield cache, "lookup_cache_static"


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
    wanted = {"model_path": name, **{part: options[part] for part in PARTS if options.get(part)}}
    with ExitStack() as stack:
        held = {
            part: stack.enter_context(hold(path, (".gguf",), level=level, policy=policy, home=home, formats=FORMATS))
            for part, path in wanted.items()
        }
        made = library.Llama(**{**options, **{part: one.path for part, one in held.items()}})
        for one in held.values():
            one.keep(made)
        return made
