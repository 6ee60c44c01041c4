"""A store with a publisher, for tests that load: real models published where they lie, and copies that may be damaged.

shelf = Shelf.make(tmp_path / "home")
ref = shelf.publish("minilm", need("minilm"))            # acme/minilm
folder = shelf.copy("minilm", need("minilm"))            # published from a copy that a test may write to
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import modelnet

__all__ = ["Shelf", "flip", "rename_over", "write_in_place"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A store in `home` with the publisher `acme`."""

    home: Path

    @classmethod
    def make(cls, home: Path) -> Shelf:
        """Make the store and its publisher."""
        modelnet.init(alias="acme", home=home)
        return cls(home)

    def publish(self, name: str, path: Path, version: str = "1.0", **options: object) -> str:
        """Publish what lies at `path`; return its reference."""
        modelnet.publish(path, name=name, version=version, home=self.home, **options)
        return f"acme/{name}@{version}"

    def copy(self, name: str, path: Path) -> tuple[str, Path]:
        """Publish a copy of the folder at `path`, every file writable; return its reference and the copy."""
        folder = self.home.parent / f"copy-{name}"
        shutil.copytree(path, folder)
        for file in folder.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        return self.publish(name, folder), folder


def flip(file: Path, offset: int) -> None:
    """Change one bit of a file where it lies."""
    with file.open("r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)[0]
        handle.seek(offset)
        handle.write(bytes([byte ^ 0x40]))


def write_in_place(file: Path, evil: bytes) -> None:
    """Overwrite a file's bytes; the inode stays."""
    handle = os.open(file, os.O_WRONLY)
    try:
        os.pwrite(handle, evil, 0)
    finally:
        os.close(handle)


def rename_over(file: Path, evil: bytes) -> None:
    """Put another file in the place of this one."""
    other = file.with_name(f".{file.name}.evil")
    other.write_bytes(evil)
    other.rename(file)
