"""`modelnet keys`: a publisher's keys over its life."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelnet.errors import UsageError
from modelnet_cli.commands.statements import head_fields
from modelnet_cli.options import KeyFiles, PassphraseFile, PublisherName, own_terms, read_passphrase
from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet_registry.keyops import KeyRow

Sheet = Annotated[
    Path | None,
    typer.Option("--sheet", help="File with the recovery sheet, one line for each key; asked for on a terminal."),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Do not store the new root keys here: the sheet that is used is where they are."),
]
MAX_SHEET = 16 * 1024


def list_keys(
    output: Output,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """List the keys that your log names, and which of them are here."""
    from modelnet_registry.keyops import list_keys as rows

    found = rows(**own_terms(publisher, key_file, passphrase_file))
    output.result(
        {
            "keys": [
                {
                    "role": row.role,
                    "keyid": row.keyid,
                    "here": row.here,
                    "in_force": row.in_force,
                    "threshold": row.threshold,
                }
                for row in found
            ]
        },
        *map(_row, found),
    )


def _row(row: KeyRow) -> str:
    parts = [f"{row.role:<10} {row.keyid[:16]}…", "here" if row.here else "elsewhere"]
    parts += [] if row.in_force else ["not in force any more"]
    parts += [f"{row.threshold} must sign"] if row.threshold > 1 else []
    return "  ".join(parts)


def rotate(
    output: Output,
    role: Annotated[
        list[str] | None, typer.Option("--role", help="release, log, beat (all three if none is given), or root.")
    ] = None,
    sheet: Sheet = None,
    offline: Offline = False,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Replace keys: release, log and beat by the word of root, root by the keys on the recovery sheet."""
    from modelnet_registry.keyops import rotate_keys, rotate_root

    roles = role or ["release", "log", "beat"]
    terms = own_terms(publisher, key_file, passphrase_file)
    if roles == ["root"]:
        shown: list[str] = []
        seeds = _seeds(sheet)
        done = rotate_root(seeds, show=lambda seeds: _show(output, seeds, shown), keep=not offline, **terms)
    elif "root" in roles:
        raise UsageError("root is rotated alone", rule="role", hint="run `modelnet keys rotate --role root`")
    else:
        shown = []
        done = rotate_keys(roles, **terms)
    _said(output, done, f"new keys for {', '.join(roles)}", shown)


def recover(
    output: Output,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="How many entries of the log are good; all that are here if not given."),
    ] = None,
    renew: Annotated[list[str] | None, typer.Option("--renew", help="Also new keys for release, log or beat.")] = None,
    reissue: Annotated[list[int] | None, typer.Option("--reissue", help="Dropped entry to append again.")] = None,
    sheet: Sheet = None,
    offline: Offline = False,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """After theft or two histories: choose the good part of the log; the keys of the recovery sheet become root."""
    from modelnet_registry.keyops import recover as begin

    shown: list[str] = []
    done = begin(
        _seeds(sheet), show=lambda seeds: _show(output, seeds, shown), size=size, renew=renew or (), keep=not offline,
        reissue=reissue or (), **own_terms(publisher, key_file, passphrase_file),
    )  # fmt: skip
    _said(output, done, "the log goes on under a new origin", shown)


def delegate(
    output: Output,
    prefix: Annotated[str, typer.Argument(help="Names under it, e.g. llama/")],
    key: Annotated[list[str], typer.Option("--key", help="Public key in hex, from `keys new-delegate`.")],
    threshold: Annotated[int, typer.Option(min=1, help="How many of these keys must sign.")] = 1,
    not_after: Annotated[int | None, typer.Option(min=0, help="Last log index at which it counts.")] = None,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let somebody else release names under a prefix in your log."""
    from modelnet_registry.keyops import delegate as give

    terms = own_terms(publisher, key_file, passphrase_file)
    _said(output, give(prefix, key, threshold=threshold, not_after=not_after, **terms), f"{prefix}* is delegated", [])


def new_delegate(
    output: Output,
    owner: Annotated[str, typer.Argument(metavar="PUBLISHER", help="In whose log the key is to release.")],
    file: Annotated[Path, typer.Argument(help="Where to put the new key.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a key that a publisher may delegate a prefix to; prints its public half."""
    from modelnet.signed import resolve_publisher
    from modelnet.stores.local import open_store
    from modelnet_registry.keyops import make_delegate_key

    pid = resolve_publisher(open_store(), owner)
    public = make_delegate_key(file, pid, file_passphrase=read_passphrase(passphrase_file, confirm=True))
    output.result({"publisher": pid, "key": public, "file": str(file)}, public)


def export(
    output: Output,
    role: Annotated[str, typer.Argument(help="root, release, log or beat.")],
    file: Annotated[Path, typer.Argument(help="Where to put the keys; they are dropped here.")],
    publisher: PublisherName = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Move a role's keys into a file, to be kept offline; commands take it with --key-file."""
    from modelnet_registry.keyops import export_keys

    terms = own_terms(publisher, None, passphrase_file)
    ids = export_keys(role, file, file_passphrase=terms["passphrase"], **terms)
    output.result(
        {"role": role, "keys": ids, "file": str(file)},
        f"the {role} keys are in {file} and not here any more; commands that need them take --key-file {file}",
    )


def close(
    output: Output,
    successor: Annotated[
        str | None, typer.Option("--successor", help="Publisher whom followers should look at.")
    ] = None,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End your log for good: afterwards nothing but revocations counts in it."""
    from modelnet_registry.keyops import close as end

    done = end(successor=successor, **own_terms(publisher, key_file, passphrase_file))
    _said(output, done, "the log is closed", [])


def _seeds(sheet: Path | None) -> list[str]:
    """Return the lines of the recovery sheet, from a file or a terminal."""
    import getpass
    import sys

    if sheet is not None:
        try:
            with sheet.open("rb") as file:
                text = file.read(MAX_SHEET).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("cannot read the recovery sheet", rule="next", path=str(sheet)) from error
    elif sys.stdin.isatty():
        text = getpass.getpass("the recovery sheet's keys, separated by blanks: ", stream=sys.stderr)
    else:
        raise UsageError("this needs the recovery sheet", rule="next", hint="give it with --sheet FILE")
    return text.split()


def _show(output: Output, seeds: Any, shown: list[str]) -> None:
    """Give the new sheet before anything is signed with what it commits to."""
    shown += seeds
    if not output.as_json:
        print("The new recovery sheet; the old one is worth nothing once this is done. Write it on paper:")
        for seed in seeds:
            print(f"recovery   {seed}")


def _said(output: Output, done: Any, line: str, recovery: list[str]) -> None:
    fields: dict[str, Any] = {"publisher": done.pid, "index": done.index, "head": head_fields(done.head)}
    output.result(
        fields | ({"recovery": "\n".join(recovery)} if recovery else {}), f"{line}, entry {done.index} of the log"
    )
