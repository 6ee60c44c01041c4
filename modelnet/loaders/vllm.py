"""vLLM: `--load-format modelnet` streams weights that are hashed while they are read.

    vllm serve FOLDER --load-format modelnet [--model-loader-extra-config '{"ref": "acme/tiny@1.0"}']

FOLDER is where the release lies (`modelnet pull` prints it); the reference may be left out. Registered by the entry
point `vllm.general_plugins`, in every worker; `VLLM_PLUGINS` filters it. Files of configuration are read by vLLM first
and hashed before it gets a weight. Level of the weights: `bytes`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from modelnet.loaders._library import need
from modelnet.loaders.serving import find_model, verified_weights

__all__ = ["register"]


def register() -> None:
    """Register the load format `modelnet`; may be called more than once."""
    loading = need("vllm.model_executor.model_loader")
    if "modelnet" not in getattr(loading, "_LOAD_FORMAT_TO_MODEL_LOADER", {}):
        loading.register_model_loader("modelnet")(_loader(loading.DefaultModelLoader))


def _loader(default: Any) -> type:
    """Return the loader's class: the library's own, with another source of tensors."""

    class ModelnetModelLoader(default):  # type: ignore[misc]
        """The default loader, but every tensor was hashed in the memory that it is in."""

        def __init__(self, load_config: Any) -> None:
            extra = dict(load_config.model_loader_extra_config or {})
            self._reference: str | None = extra.pop("ref", None)
            plain = copy.copy(load_config)
            plain.model_loader_extra_config = extra
            super().__init__(plain)

        def download_model(self, model_config: Any) -> None:
            """Fetch the release if it is not here, and let the gate look at it."""
            find_model(self._reference, model_config.model)

        def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, Any]]:
            trusted = find_model(self._reference, source.model_or_path)
            only = source.allow_patterns_overrides or ()
            for name, tensor in verified_weights(trusted, folder=getattr(source, "subfolder", None) or "", only=only):
                yield source.prefix + name, tensor

    return ModelnetModelLoader
