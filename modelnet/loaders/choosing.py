"""Which of the things that an app hands to a library are ours, while `modelnet.loaders.install` is in force.

There is one `Chooser` for the process. Every wrapper asks it at each call, so one that somebody kept enforces what was
installed last, and nothing when nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from modelnet.loaders._trusted import PREFIX, find_path, unsigned
from modelnet.loading import is_verified

__all__ = ["Chooser", "vouched"]

# Options that name a place to write to, or that no library opens as a model.
WRITTEN = frozenset(["cache_dir", "offload_folder", "offload_dir", "save_directory", "proxies", "token"])

_vouched: ContextVar[bool] = ContextVar("modelnet_vouched", default=False)


@contextmanager
def vouched() -> Iterator[None]:
    """Say that what the libraries are given meanwhile was verified: content in memory has no name to tell it by."""
    token = _vouched.set(True)
    try:
        yield
    finally:
        _vouched.reset(token)


class Chooser:
    """Decides which names are ours: `modelnet:` names, and paths inside releases of the store."""

    def __init__(self) -> None:
        """Let everything pass until `open`."""
        self.home: str | None = None
        self._refuse = False
        self._active = False

    def open(self, *, refuse: bool, home: str | None) -> None:
        """Take what is ours from now on; refuse what belongs to no release, or let it pass."""
        self._refuse, self.home, self._active = refuse, home, True

    def close(self) -> None:
        """Let everything pass from now on."""
        self._active = False

    @property
    def refuses(self) -> bool:
        """Whether what belongs to no release is refused at this moment."""
        return self._active and self._refuse and not _vouched.get()

    def takes(self, name: Any) -> bool:
        """Tell whether `name` is to be loaded verified; raise `TrustError` for what is neither ours nor allowed.

        Files of a `verified` folder that is open were verified already: the library may have them as they are.
        """
        if not self._active or _vouched.get():
            return False
        if not isinstance(name, str | os.PathLike):
            self.refuse_memory(type(name).__name__)
            return False
        text = os.fsdecode(name)
        if text.startswith(PREFIX):
            return True
        if is_verified(text):
            return False
        if Path(text).exists() and find_path(text, home=self.home) is not None:
            return True
        if self._refuse:
            raise unsigned(text)
        return False

    def refuse_memory(self, what: str) -> None:
        """Raise `TrustError` for content that has no name, and so no signature, unless such things are allowed."""
        if self.refuses:
            raise unsigned(f"<{what}>")

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise `TrustError` for weights, files and folders among a library's options that no release has."""
        if not self.refuses:
            return
        if options.get("state_dict") is not None:
            raise unsigned("<state_dict>")
        for key, value in options.items():
            if isinstance(value, Mapping):
                self.check_options(value)
            elif key not in WRITTEN and _names_a_file(key, value):
                self.takes(value)


def _names_a_file(key: str, value: Any) -> bool:
    """Tell whether an option leads to something on the disk, wherever the library looks from."""
    if not isinstance(value, str | os.PathLike):
        return False
    path = Path(os.fsdecode(value))
    told = not isinstance(value, str) or key.endswith("_file") or key == "config"
    return (told or path.is_absolute() or ".." in path.parts) and path.exists()
