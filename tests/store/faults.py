"""Make one step of a disk's work fail, or be the last thing that a process does.

with failing(Fault("fsync", 2, applied=True, error=errno.EIO)):   # the second fsync works, and says it did not
    pull(...)

python -m tests.store.faults fsync 2 applied pull REF --peer URL  # killed by SIGKILL right after its second fsync
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

__all__ = ["STEPS", "Fault", "counted", "failing"]

SYSCALLS = ("mkdir", "ftruncate", "pwritev", "fdatasync", "fsync", "fchmod", "replace", "unlink", "rmdir")
STEPS = (*SYSCALLS, "commit")


@dataclass
class Fault:
    """Call number `nth` of `step` raises `error`, before or after it did its work; or kills the process."""

    step: str
    nth: int
    applied: bool
    error: int | None = None  # None: SIGKILL
    happened: bool = False
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, step: str, call: Callable[[], Any]) -> Any:
        """Run one call of `step`, or not."""
        with self.lock:
            self.seen[step] += 1
            mine = step == self.step and self.seen[step] == self.nth
        if not mine:
            return call()
        self.happened = True
        try:
            if self.applied:
                call()
        finally:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
        if step == "commit":
            refusal = sqlite3.OperationalError("database or disk is full")
            refusal.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise refusal
        raise OSError(self.error, os.strerror(self.error or 0))


@contextmanager
def failing(fault: Fault) -> Iterator[Fault]:
    """Let `fault` happen to whatever runs in this process meanwhile."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                cursor: sqlite3.Cursor = fault.run("commit", functools.partial(super().execute, sql))
                return cursor
            return super().execute(sql, *values)

    def wrapped(step: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values, **named: fault.run(step, functools.partial(real, *values, **named))

    patches = [mock.patch.object(os, step, wrapped(step, getattr(os, step))) for step in SYSCALLS]
    patches.append(mock.patch.object(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection)))
    for patch in patches:
        patch.start()
    try:
        yield fault
    finally:
        for patch in patches:
            patch.stop()


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of each step."""
    with failing(Fault("none", 0, applied=False, error=errno.EIO)) as fault:
        yield fault.seen


def main() -> None:
    """Run the command line and die at a step."""
    from modelnet_cli.main import run

    step, nth, when, *arguments = sys.argv[1:]
    with failing(Fault(step, int(nth), applied=when == "applied")):
        sys.exit(run(arguments))


if __name__ == "__main__":
    main()
