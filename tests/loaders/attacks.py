"""What somebody does to a file while it is loaded, and the moments when they do it.

with during(library, "GGUFReader", attack): ...       # just before the library is given its path
with swapping(file, evil): ...                        # again and again, beside whatever happens: between any two opens
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loaders.shelf import rename_over, write_in_place

__all__ = ["ATTACKS", "during", "swapping"]

ATTACKS = {"write in place": write_in_place, "rename swap": rename_over}


@contextlib.contextmanager
def during(owner: Any, name: str, attack: Callable[[], object]) -> Iterator[list[str]]:
    """Let `attack` happen when `owner.name` is called, before it runs: the check is over, the use begins."""
    real = getattr(owner, name)
    happened: list[str] = []

    def call(*args: Any, **options: Any) -> Any:
        attack()
        happened.append(name)
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield happened


@contextlib.contextmanager
def swapping(file: Path, evil: bytes) -> Iterator[None]:
    """Swap a file for an evil one and back, by renaming, as fast as it goes."""
    good = file.read_bytes()
    spare = file.with_name(f".{file.name}.spare")
    end = threading.Event()

    def swap() -> None:
        while not end.is_set():
            for content in (evil, good):
                spare.write_bytes(content)
                spare.rename(file)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        spare.write_bytes(good)
        spare.rename(file)
