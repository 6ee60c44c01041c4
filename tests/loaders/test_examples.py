"""The documentation's examples work as they stand there."""

from __future__ import annotations

import pytest

from tests.loaders import examples
from tests.loaders.shelf import Shelf

HEAVY = {"torch", "transformers, diffusers"}


def test_every_runtime_has_an_example() -> None:
    """One for each loader, and the ways in beside them."""
    assert set(examples.EXAMPLES) == HEAVY | {
        "Any runtime", "safetensors", "gguf", "llama.cpp", "ONNX Runtime", "LiteRT", "Apps that cannot change",
        "fsspec",
    }  # fmt: skip


@pytest.mark.parametrize("heading", sorted(set(examples.EXAMPLES) - HEAVY))
def test_example(shelf: Shelf, heading: str) -> None:
    """Run it on the published models that it names."""
    examples.publish_all(shelf, examples.EXAMPLES[heading])
    examples.run(examples.EXAMPLES[heading])
