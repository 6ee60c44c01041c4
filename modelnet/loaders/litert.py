"""LiteRT (TensorFlow Lite): interpreters over bytes that were hashed in our memory.

    from modelnet.loaders import litert
    interpreter = litert.interpreter("acme/pitch#nmp.tflite", num_threads=2)

Uses ai-edge-litert, else tflite-runtime, whichever is installed. Level: `bytes`. Delegates and custom operators that an
app passes on are programs of its own choice and not looked at.
"""

from __future__ import annotations

import os
from typing import Any

from modelnet.errors import UnavailableError
from modelnet.loaders._files import MemorySource, check_format, read_whole, trust_file
from modelnet.loaders._library import need
from modelnet.loaders.choosing import vouched
from modelnet.policies import Policies

__all__ = ["interpreter"]


def library() -> Any:
    """Return the module that has `Interpreter`."""
    try:
        return need("ai_edge_litert.interpreter")
    except UnavailableError as missing:
        try:
            return need("tflite_runtime.interpreter")
        except UnavailableError:
            raise missing from None


def interpreter(
    name: str | os.PathLike[str],
    *,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Return an `Interpreter` of the file that `name` means; `options` are its own."""
    module = library()
    # The interpreter keeps the bytes and reads its weights from them.
    content = verified_content(name, policy=policy, home=home)
    with vouched():
        return module.Interpreter(model_content=content, **options)


def verified_content(
    name: str | os.PathLike[str],
    *,
    policy: Policies | None = None,
    home: str | os.PathLike[str] | None = None,
) -> bytes:
    """Return the verified model."""
    trusted, entry = trust_file(name, suffixes=(".tflite",), policy=policy, home=home)
    content = read_whole(trusted, [entry])[entry.path]
    check_format(MemorySource(content), entry.path, ("tflite",))
    return bytes(content)
