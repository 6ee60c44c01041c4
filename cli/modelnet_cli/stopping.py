"""Being interrupted, from the first moment on: exit 130 and a word, never a traceback or death by a signal.

    answer_early()         while the program is being loaded: nothing was begun, so it ends there and then
    answer_by_raising()    from then on: KeyboardInterrupt, so that what runs can end in order

This module loads nothing that Python has not loaded by itself: what comes before the handlers cannot be answered for.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["INTERRUPTED", "answer_by_raising", "answer_early", "settle"]

INTERRUPTED = "interrupted; what was done is kept, run the same command again to go on"
EXIT = 130


def answer_early() -> None:
    """End the program at once when it is interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def answer_by_raising() -> None:
    """Raise `KeyboardInterrupt` in the main thread when the program is interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def settle() -> None:
    """Let the program end by its exit code although it was interrupted.

    CPython (Python/pythonrun.c, run_eval_code_obj) remembers an interrupt that came out of source text, such as
    `dataclass` runs while a module is loaded, and dies by SIGINT in the end, caught or not; other text resets that.
    """
    exec("")  # noqa: S102  (nothing)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(_signal: int, _frame: object) -> NoReturn:
    # Not by an exception: it could be raised, and lost, anywhere in the import of a library.
    try:
        if "--json" in sys.argv:
            os.write(1, b'{"error": {"kind": "interrupted", "rule": "interrupted", "message": "%s"}}\n' % _text())
        if "--quiet" not in sys.argv and "-q" not in sys.argv:
            os.write(2, _text() + b"\n")
    finally:
        os._exit(EXIT)


def _text() -> bytes:
    return INTERRUPTED.encode()
