"""Import a runtime when it is needed, and say clearly when it is not there."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from modelnet.errors import UnavailableError

__all__ = ["need"]

PACKAGES = {"ai_edge_litert": "ai-edge-litert", "llama_cpp": "llama-cpp-python"}


def need(module: str, *, package: str | None = None) -> Any:
    """Return the module; raise `UnavailableError` (rule `missing-library`) that says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != top:
            raise  # the library is there, and lacks one of its own
        name = package or PACKAGES.get(top, top)
        raise UnavailableError(
            f"this loader needs the Python package {name}", rule="missing-library", hint=f"pip install {name}"
        ) from error
