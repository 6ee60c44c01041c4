"""Files that are programs by their name or their first line, whatever else is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

__all__ = ["named_code"]

SOURCES = frozenset([".py", ".pyw", ".pyx", ".sh", ".bash", ".bat", ".cmd", ".ps1", ".ipynb", ".rb", ".pl"])
NATIVE = frozenset([".so", ".dll", ".dylib", ".pyd", ".pyc", ".pyo", ".exe", ".o", ".a", ".jar", ".class", ".wasm"])


def named_code(path: str, head: bytes) -> Iterator[tuple[str, str]]:
    """Yield the rule that refuses such a file, and why."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in SOURCES or head.startswith(b"#!"):
        yield "source-code", "a program's source, which a runtime may import or run"
    elif suffix in NATIVE:
        yield "native-code", f"a program by its name ({suffix})"
