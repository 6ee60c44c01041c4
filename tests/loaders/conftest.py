"""Fixtures for the loaders' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loaders.shelf import Shelf


@pytest.fixture
def shelf(home: Path) -> Shelf:
    """A fresh store with a publisher; `$MODELNET_HOME` is set to it."""
    return Shelf.make(home)
