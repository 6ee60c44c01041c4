"""What a publisher says are variants of a release, from globs to the manifest's field.

    described({"q4": ["*Q4*.gguf"], "q8": ["*Q8*.gguf"]}, hashed)

Beside its files each says what helps to choose: format, parameters, bits for each on average, the type that most bytes
have, and the memory that its weights take.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from modelnet.core.variants import MAX_VARIANTS, Variant
from modelnet.errors import UsageError
from modelnet.hashing import HashedFile

__all__ = ["described", "parse_variant"]


def parse_variant(text: str) -> tuple[str, list[str]]:
    """Parse `NAME=GLOB[,GLOB]...`, as the command line has it."""
    name, equals, globs = text.partition("=")
    listed = [glob for glob in globs.split(",") if glob]
    if not equals or not listed:
        raise UsageError("not a variant", rule="variant", got=text, hint="--variant q4='*Q4*.gguf'")
    return name, listed


def described(variants: Mapping[str, Sequence[str]], hashed: Sequence[HashedFile]) -> dict[str, Any]:
    """Return the manifest's field for `variants`, name to globs; raise `UsageError` for a glob that matches nothing."""
    if len(variants) > MAX_VARIANTS:
        raise UsageError("too many variants", rule="variant", wanted=f"at most {MAX_VARIANTS}", got=len(variants))
    found: dict[str, Any] = {}
    for name, globs in variants.items():
        for glob in globs:
            if not any(fnmatch.fnmatchcase(file.entry.path, glob) for file in hashed):
                raise UsageError("no file of the release matches", rule="variant", path=name, got=glob)
        own = [file for file in hashed if any(fnmatch.fnmatchcase(file.entry.path, glob) for glob in globs)]
        Variant(name, tuple(file.entry.path for file in own))  # refuses a name that is none
        found[name] = {"files": [file.entry.path for file in own], **_weights(own)}
    return found


def _weights(files: Sequence[HashedFile]) -> dict[str, Any]:
    """Return what is known of the weights in some files; nothing of formats that no reader knows."""
    with_tensors = [file for file in files if file.tensors]
    told: dict[str, Any] = {"min_memory": sum(file.entry.size for file in with_tensors or files)}
    if formats := sorted({file.entry.format for file in with_tensors if file.entry.format}):
        told["format"] = "+".join(formats)
    tensors = [span for file in with_tensors for span in file.tensors if span.shape]
    params = sum(math.prod(span.shape) for span in tensors)
    if params:
        told["params"] = params
        # As integers as far as can be: the same files must make the same block everywhere.
        told["bits"] = round(8 * sum(span.end - span.start for span in tensors) / params, 2)
    types = Counter[str]()
    for span in tensors:
        types[span.dtype] += span.end - span.start
    if types and (most := types.most_common(1)[0][0]):
        told["quant"] = most
    return told
