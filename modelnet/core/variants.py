"""Variants: files of one release that stand for each other, such as quantizations; who pulls takes one of them.

    "variants": {"q4": {"files": ["tiny-Q4_K_M.gguf"], "min_memory": 98000000, "bits": 4.5, "format": "gguf",
                        "quant": "Q4_K", "params": 134000000}, …}

A file that no variant lists belongs to all of them (a configuration, a tokenizer). A file may be in several. What a
variant says of itself beside its files helps to choose and is never relied upon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelnet.errors import MalformedError, UnavailableError, UsageError

__all__ = ["AUTO", "MAX_VARIANTS", "Variant", "choose", "files_of", "read_variants"]

AUTO = "auto"  # choose by the memory that there is
MAX_VARIANTS = 256  # quantizations of one model; real releases have a few dozen at most
MOST_BITS = 256.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant: its own files, and what it takes: `min_memory` bytes, `bits` for each parameter on average."""

    name: str
    files: tuple[str, ...]
    min_memory: int = 0
    bits: float = 0.0

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.name) or self.name == AUTO:
            raise UsageError("not the name of a variant", rule="variant", got=self.name, hint="for example q4_k_m")


def read_variants(fields: object, paths: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants that a manifest's field says, sorted by name; raise `MalformedError` when it is none.

    `paths` are the files that the manifest lists.
    """
    if not isinstance(fields, Mapping) or len(fields) > MAX_VARIANTS:
        raise MalformedError("manifest variants", rule="variant", wanted=f"a map of at most {MAX_VARIANTS}")
    known = set(paths)
    found = []
    for name, body in sorted(fields.items()):
        files = body.get("files") if isinstance(body, Mapping) else None
        if not isinstance(files, list) or not files or not all(isinstance(path, str) for path in files):
            raise MalformedError("a variant lists no files", rule="variant", got=name)
        if unknown := [path for path in files if path not in known]:
            raise MalformedError(
                "a variant has a file that the manifest does not list", rule="variant", path=unknown[0]
            )
        try:
            found.append(Variant(name, tuple(files), _memory(body), _bits(body)))
        except UsageError as error:
            raise MalformedError(error.message, rule="variant", got=name) from error
    return tuple(found)


def _memory(body: Mapping[str, Any]) -> int:
    value = body.get("min_memory", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedError("a variant's min_memory is a number of bytes", rule="variant", got=value)
    return value


def _bits(body: Mapping[str, Any]) -> float:
    value = body.get("bits", 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_BITS:
        raise MalformedError("a variant's bits are those of a parameter", rule="variant", got=value)
    return float(value)


def choose(variants: Sequence[Variant], wanted: str, memory: int | None = None) -> Variant | None:
    """Return the variant that `wanted` names; for `auto` the finest that fits into `memory` bytes.

    None means all files: `auto` where there is nothing to choose from. Raises `UsageError` for a name that there is
    not, `UnavailableError` when not even the smallest fits.
    """
    if wanted == AUTO and not variants:
        return None
    if wanted != AUTO:
        for variant in variants:
            if variant.name == wanted:
                return variant
        raise UsageError(
            "the release has no such variant", rule="variant", got=wanted,
            hint=f"its variants: {', '.join(variant.name for variant in variants)}" if variants else "it has none",
        )  # fmt: skip
    fitting = [variant for variant in variants if memory is None or variant.min_memory <= memory]
    if not fitting:
        least = min(variants, key=lambda variant: variant.min_memory)
        raise UnavailableError(
            "no variant fits into the memory of this machine", rule="variant", wanted=f"{least.min_memory} bytes",
            got=memory, hint=f"--variant {least.name} takes the smallest all the same",
        )  # fmt: skip
    return max(fitting, key=lambda variant: (variant.bits, variant.min_memory))


def files_of(variant: Variant | None, variants: Sequence[Variant], paths: Sequence[str]) -> list[str]:
    """Return which of `paths` belong to a variant: its own, and those that belong to none; all without one."""
    if variant is None:
        return list(paths)
    others = {path for one in variants for path in one.files} - set(variant.files)
    return [path for path in paths if path not in others]
