"""What was hashed before and found right: for fast restarts, and only where the caller asks for level `cached`.

    verdicts.sqlite: verdict (dev, inode, size, mtime_ns, ctime_ns, root, judged, findings)    0600, beside the index

A verdict counts for the open file that has the same device, inode, size and both times; nobody but root can set a
file's ctime. It is not written for a file that changed while it was hashed, nor for one that changed so shortly before
that a later change could leave the same time. A database that others may write is not believed. `judged` names what the
findings depend on, the path among it: two names of one inode are two files. A row that cannot be read is no verdict.

What this cannot see: a process that had the file mapped for writing before it was hashed, and root.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modelnet.content import Severity
from modelnet.core.cid import Cid

__all__ = ["Verdicts"]

BUSY_S = 1.0  # a verdict that cannot be had at once is not worth waiting for: hashing is the alternative
QUIET_NS = 2_000_000_000  # a file's times may be as coarse as this (FAT: 2 s)
MASK = (1 << 63) - 1  # SQLite's integers
MAX_ROWS = 100_000
SCHEMA = """CREATE TABLE IF NOT EXISTS verdict (
  dev INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, root BLOB NOT NULL,
  judged TEXT, findings TEXT, PRIMARY KEY (dev, inode)) STRICT, WITHOUT ROWID"""


FIND = """SELECT findings FROM verdict
  WHERE dev = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND root = ? AND judged = ?"""
KEEP = """UPDATE verdict SET judged = ?, findings = ?
  WHERE dev = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND root = ?"""

Told = tuple[str, str, int | None, str]  # rule, severity, offset, detail


class Verdicts:
    """The verdicts kept at `path`. A cache that cannot be used is empty: nothing here is an error."""

    def __init__(self, path: Path) -> None:
        """Use the database at `path`; it is made by the first verdict."""
        self.path = path

    def holds(self, handle: int, root: Cid) -> bool:
        """Tell whether the open file is the one that was found to be `root`."""
        key = _key(os.fstat(handle))

        def ask(database: sqlite3.Connection) -> bool:
            row = database.execute(
                "SELECT size, mtime_ns, ctime_ns, root FROM verdict WHERE dev = ? AND inode = ?", key[:2]
            ).fetchone()
            return bool(row == (*key[2:], root.encode()))

        return bool(self._use(ask))

    def record(self, handle: int, root: Cid, before: os.stat_result) -> None:
        """Remember that the open file is `root`; `before` is what `fstat` said when hashing it began."""
        now = os.fstat(handle)
        if _key(now) != _key(before) or time.time_ns() - max(now.st_ctime_ns, now.st_mtime_ns) < QUIET_NS:
            return

        def write(database: sqlite3.Connection) -> bool:
            database.execute(SCHEMA)
            database.execute("REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)", (*_key(now), root.encode()))
            if database.execute("SELECT count(*) FROM verdict").fetchone()[0] > MAX_ROWS:
                database.execute("DELETE FROM verdict")
            return True

        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._use(write)

    def findings(self, handle: int, root: Cid, judged: str) -> list[Told] | None:
        """Return what `judge` was told about the open file, or None when it was told nothing."""
        key = (*_key(os.fstat(handle)), root.encode(), judged)
        row = self._use(lambda database: database.execute(FIND, key).fetchone())
        return None if row is None else _told(row[0])

    def judge(self, handle: int, root: Cid, judged: str, findings: Sequence[Told]) -> None:
        """Keep what the content check found beside the verdict; `judged` names all that it depends on."""
        key = (judged, json.dumps(findings), *_key(os.fstat(handle)), root.encode())
        self._use(lambda database: database.execute(KEEP, key))

    def _use(self, action: Callable[[sqlite3.Connection], Any]) -> Any:
        """Return what `action` says, or None when there is no database that may be believed."""
        try:
            if not self._is_ours():
                return None
            with contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)) as database:
                database.execute("PRAGMA trusted_schema = OFF")
                return action(database)
        except (OSError, sqlite3.Error):
            return None

    def _is_ours(self) -> bool:
        status = os.lstat(self.path)
        others = stat.S_IWGRP | stat.S_IWOTH
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_uid == os.geteuid()
            and not status.st_mode & others
            and not self.path.parent.stat().st_mode & others
        )


def _told(text: object) -> list[Told] | None:
    """Return the findings that a row spells, or None: what is no finding was not written here and means nothing."""
    try:
        rows = json.loads(text) if isinstance(text, str) else None
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            return None
        told = [(str(rule), str(Severity(severity)), offset, str(detail)) for rule, severity, offset, detail in rows]
    except (ValueError, TypeError, RecursionError):
        return None
    return told if all(offset is None or type(offset) is int for _, _, offset, _ in told) else None


def _key(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev & MASK, status.st_ino & MASK, status.st_size, status.st_mtime_ns & MASK, status.st_ctime_ns & MASK
    )  # fmt: skip
