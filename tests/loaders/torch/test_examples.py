"""The documentation's examples that need torch."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.loaders import examples
from tests.loaders.shelf import Shelf


@pytest.mark.parametrize("heading", ["torch", "transformers, diffusers"])
def test_example(shelf: Shelf, heading: str) -> None:
    """Run it on the published models that it names."""
    examples.publish_all(shelf, examples.EXAMPLES[heading])
    examples.run(examples.EXAMPLES[heading])
