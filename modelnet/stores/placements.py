"""Where pulls put files at a user's wish, beside the one place that a release's own row points to.

    placed (path, pid, name, version, manifest, envelope, layout, added)

A release has one row and may have been pulled to many folders, each in full or in part: what lies in a folder is judged
by what was put there. Trusted as little as the rest of the index; a lost row makes a folder one of unknown files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelnet.stores.index import Index, ReleaseRow

__all__ = ["PLACED_SCHEMA", "add_placed", "forget_placed", "read_placed"]

PLACED_SCHEMA = """
CREATE TABLE placed (
  path BLOB PRIMARY KEY, pid TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, manifest BLOB NOT NULL,
  envelope BLOB NOT NULL, layout TEXT NOT NULL, added REAL NOT NULL) STRICT
"""


def add_placed(index: Index, row: ReleaseRow) -> None:
    """Record what was put into the folder `row.path`; what was known of it before is forgotten."""
    with index.transaction() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO placed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(row.path), row.pid, row.name, row.version, row.manifest.encode(), row.envelope,
                row.layout, row.added,
            ),
        )  # fmt: skip


def read_placed(index: Index) -> list[ReleaseRow]:
    """Return what was put where, in that order."""
    return index.release_rows(
        "SELECT pid, name, version, manifest, envelope, path, layout, added FROM placed ORDER BY added, rowid"
    )


def forget_placed(index: Index, paths: Iterable[Path]) -> None:
    """Forget folders."""
    with index.transaction() as connection:
        connection.executemany("DELETE FROM placed WHERE path = ?", ((os.fsencode(path),) for path in paths))
