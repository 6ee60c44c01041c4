"""The rules of the user interface, in one place.

- Results go to stdout; progress, notes and errors to stderr.
- With `--json` stdout gets one JSON object (or, from a command that runs on, one a line), errors included.
- An error is one sentence that says what, where, wanted and found, then one line of what to do.
- Bars are drawn on a terminal only. `NO_COLOR`, `--quiet` and `--verbose` are heeded everywhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from modelnet.errors import ModelnetError
from modelnet.wording import printable, size_text
from modelnet_cli.stopping import INTERRUPTED

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Bars", "Output"]


class Output:
    """Where a command says its result."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        """Speak JSON or words, more or less of them."""
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose

    def result(self, fields: Mapping[str, Any], *lines: str) -> None:
        """Print the result: `fields` with `--json`, else `lines`."""
        if self.as_json:
            print(json.dumps(fields))
        else:
            for line in lines:
                print(printable(line))
        sys.stdout.flush()

    def interrupted(self) -> None:
        """Say that the command was stopped, and how to go on."""
        text = INTERRUPTED
        if self.as_json:
            print(json.dumps({"error": {"kind": "interrupted", "rule": "interrupted", "message": text}}), flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Say something beside the result."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Say something that only `--verbose` shows."""
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    def error(self, error: ModelnetError) -> None:
        """Say what went wrong."""
        if self.as_json:
            print(json.dumps({"error": error.as_dict()}), flush=True)
            return
        print(f"modelnet: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)

    def bars(self) -> Bars:
        """Return a progress display that obeys these rules."""
        return Bars(self)


class Bars:
    """Draws a long operation: one bar with speed and ETA, one line for each source with its own rate."""

    def __init__(self, output: Output) -> None:
        """Draw on stderr, if that is a terminal."""
        self._output = output
        self._progress: RichProgress | None = None
        self._tasks: dict[str, Any] = {}
        self._phase = ""
        self._total = 0
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, phase: str, total: int) -> None:
        """Start a phase of `total` bytes."""
        self.end()
        self._phase, self._total, self._started = phase, total, time.monotonic()
        if self._output.quiet or total == 0:
            return
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description:<28}"), BarColumn(bar_width=30),
            DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=console, transient=False, refresh_per_second=8,
        )  # fmt: skip
        self._progress.start()
        self._tasks = {"": self._progress.add_task(phase, total=total)}

    def advance(self, source: str, count: int) -> None:
        """Add verified bytes."""
        if self._progress is None:
            return
        if self._phase == "fetching" and source not in self._tasks:
            self._tasks[source] = self._progress.add_task(f"  {source}"[:28], total=self._total)
        self._progress.advance(self._tasks[""], count)
        if source in self._tasks:
            self._progress.advance(self._tasks[source], count)

    def note(self, text: str) -> None:
        """Say one line without breaking the bars."""
        if self._output.quiet:
            return
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False)
        else:
            self._output.note(text)

    def end(self) -> None:
        """The phase is over."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks = {}
        if self._phase and self._total:
            elapsed = max(time.monotonic() - self._started, 1e-6)
            self._output.detail(
                f"{self._phase}: {size_text(self._total)} in {elapsed:.2f} s, {size_text(self._total / elapsed)}/s"
            )
        self._phase, self._total = "", 0
