"""SGLang: a loader that streams weights which are hashed while they are read.

    python -m sglang.launch_server --model-path FOLDER --model-loader-extra-config '{"modelnet": "acme/tiny@1.0"}'

SGLang's list of load formats is closed, so the key `modelnet` of the extra configuration asks for this loader; its
value is a reference, or true for the release that lies at FOLDER. Registered by the entry point `sglang.srt.plugins`;
`SGLANG_PLUGINS` filters it. Files of configuration are read by SGLang first and hashed before it gets a weight. Level
of the weights: `bytes`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from modelnet.loaders._library import need
from modelnet.loaders.serving import find_model, verified_weights

__all__ = ["register"]

TARGET = "sglang.srt.model_loader.loader.get_model_loader"


def register() -> None:
    """Register the hook around SGLang's choice of a loader."""
    hooks = need("sglang.srt.plugins.hook_registry")
    hooks.HookRegistry.register(TARGET, choose, hooks.HookType.AROUND)


def choose(original: Any, load_config: Any, *arguments: Any, **options: Any) -> Any:
    """Return our loader when the extra configuration asks for it, else what SGLang chooses."""
    extra = load_config.model_loader_extra_config
    if not isinstance(extra, dict) or not extra.get("modelnet"):
        return original(load_config, *arguments, **options)
    plain = copy.copy(load_config)
    plain.model_loader_extra_config = {key: value for key, value in extra.items() if key != "modelnet"}
    reference = extra["modelnet"] if isinstance(extra["modelnet"], str) else None
    return _loader(need("sglang.srt.model_loader.loader").DefaultModelLoader)(plain, reference)


def _loader(default: Any) -> type:
    """Return the loader's class: the library's own, with another source of tensors."""

    class ModelnetModelLoader(default):  # type: ignore[misc]
        """The default loader, but every tensor was hashed in the memory that it is in."""

        def __init__(self, load_config: Any, reference: str | None) -> None:
            super().__init__(load_config)
            self._reference = reference

        def download_model(self, model_config: Any) -> None:
            """Fetch the release if it is not here, and let the gate look at it."""
            find_model(self._reference, model_config.model_path)

        def _get_weights_iterator(self, source: Any, **_: Any) -> Iterator[tuple[str, Any]]:
            trusted = find_model(self._reference, source.model_or_path)
            for name, tensor in verified_weights(trusted, only=source.allow_patterns_overrides or ()):
                yield source.prefix + name, tensor

    return ModelnetModelLoader
