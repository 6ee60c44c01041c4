"""One small module for each runtime: what it loads passed the gate, and is what was hashed.

    from modelnet.loaders import safetensors, gguf, onnxruntime, litert, llama_cpp, torch, transformers, diffusers
    from modelnet import loaders
    loaders.install()     # opt-in: the libraries' own entry points take `modelnet:` names; uninstall() undoes it

Each module says which level of the ladder it reaches (`modelnet.loaders.levels`). Nothing is imported before it is
used; a loader whose library is missing says what to install.
"""

from __future__ import annotations

import importlib
from typing import Any

from modelnet.loaders.levels import Level

__all__ = [
    "Level",
    "diffusers",
    "gguf",
    "install",
    "litert",
    "llama_cpp",
    "onnxruntime",
    "safetensors",
    "torch",
    "transformers",
    "uninstall",
]

_MODULES = frozenset(__all__) - {"Level", "install", "uninstall"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"modelnet.loaders.{name}")
    if name in ("install", "uninstall"):
        return getattr(importlib.import_module("modelnet.loaders.installing"), name)
    raise AttributeError(f"module 'modelnet.loaders' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
