"""What every command has: `--json`, `--quiet`, `--verbose`, and how its function is wrapped."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from modelnet.errors import UsageError
from modelnet_cli.output import Output

__all__ = [
    "AcceptStale",
    "KeyFiles",
    "OfflinePinned",
    "PassphraseFile",
    "PublisherName",
    "Strict",
    "command",
    "current",
    "own_terms",
    "read_passphrase",
]

PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose first line unlocks the keys.", show_default=False)
]
AcceptStale = Annotated[
    bool, typer.Option("--accept-stale", help="Take what a channel offered when its log was last known.")
]
OfflinePinned = Annotated[
    bool, typer.Option("--offline-pinned", help="Use a pinned release although nothing was heard for very long.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a publisher that has no name here and no locator.")]

PublisherName = Annotated[str | None, typer.Option("--publisher", help="Which of several own publishers says so.")]
KeyFiles = Annotated[
    list[Path] | None, typer.Option("--key-file", help="File with keys that are kept elsewhere; may be repeated.")
]


def own_terms(publisher: str | None, key_files: list[Path] | None, passphrase_file: Path | None) -> dict[str, Any]:
    """Return what operations on an own log take, with the passphrase asked for where one is needed."""
    from modelnet.stores.home import Home
    from modelnet.stores.keyring import is_locked

    passphrase = read_passphrase(passphrase_file, ask=is_locked(Home.find().keys))
    return {"publisher": publisher, "key_files": key_files or (), "passphrase": passphrase}


_COMMON = {
    "as_json": Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and errors only.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Say more, with timings, on stderr.")],
}
MAX_PASSPHRASE_FILE = 4096

current = Output()  # what the running command speaks through; set when it starts


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Give `function`, whose first parameter is an `Output`, the options that every command has."""
    hints = inspect.signature(function, eval_str=True)
    own = list(hints.parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _COMMON.items()
    ]

    @functools.wraps(function)
    def run(*, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
        output = Output(as_json=as_json, quiet=quiet, verbose=verbose)
        globals()["current"] = output
        function(output, **options)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def read_passphrase(file: Path | None, *, confirm: bool = False, ask: bool = True) -> str | None:
    """Return the passphrase from `file`, `$MODELNET_PASSPHRASE` or, on a terminal, from a question; else None."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                content = opened.read(MAX_PASSPHRASE_FILE + 1)
        except OSError as error:
            raise UsageError(
                f"cannot read the passphrase file: {error.strerror}", rule="passphrase", path=str(file)
            ) from error
        line = content.split(b"\n", 1)[0].rstrip(b"\r")
        if not line or len(content) > MAX_PASSPHRASE_FILE:
            raise UsageError("the passphrase file has no first line, or is too long", rule="passphrase", path=str(file))
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise UsageError("the passphrase file is not UTF-8", rule="passphrase", path=str(file)) from error
    if passphrase := os.environ.get("MODELNET_PASSPHRASE"):
        return passphrase
    if not ask or not sys.stdin.isatty():
        return None
    import getpass

    first = getpass.getpass("passphrase for the keys: ", stream=sys.stderr)
    if confirm and getpass.getpass("once more: ", stream=sys.stderr) != first:
        raise UsageError("the two passphrases differ", rule="passphrase")
    return first or None
