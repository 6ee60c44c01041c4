"""`modelnet init`: make a publisher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelnet.errors import UsageError
from modelnet_cli.options import PassphraseFile, read_passphrase
from modelnet_cli.output import Output


def init(
    output: Output,
    name: Annotated[str | None, typer.Option("--name", help="What to call this publisher here.")] = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Leave the keys unprotected.")] = False,
    root_keys: Annotated[int, typer.Option(min=1, max=16, help="How many root keys; take them offline later.")] = 1,
    root_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign.")] = 1,
    release_keys: Annotated[int, typer.Option(min=1, max=16, help="How many release keys.")] = 1,
    release_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them must sign a release.")] = 1,
    next_keys: Annotated[int, typer.Option(min=1, max=16, help="How many lines the recovery sheet has.")] = 1,
    next_threshold: Annotated[int, typer.Option(min=1, max=16, help="How many of them recover the publisher.")] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a publisher: keys, identity, and a recovery sheet that is shown once."""
    from modelnet_registry.identities import init as make

    passphrase = None if no_passphrase else read_passphrase(passphrase_file, confirm=True)
    if passphrase is None and not no_passphrase:
        raise UsageError(
            "the keys need a passphrase", rule="passphrase",
            hint="set MODELNET_PASSPHRASE, give --passphrase-file, or accept unprotected keys with --no-passphrase",
        )  # fmt: skip
    identity = make(
        alias=name, passphrase=passphrase, root_keys=root_keys, root_threshold=root_threshold,
        release_keys=release_keys, release_threshold=release_threshold, next_keys=next_keys,
        next_threshold=next_threshold,
    )  # fmt: skip
    home = Path(identity.home.root)
    if passphrase is None:
        output.note(f"the keys in {home / 'keys'} are not protected by a passphrase")
    output.result(
        {"publisher": identity.pid, "alias": identity.alias, "home": str(home), "recovery": identity.recovery},
        f"publisher  {identity.pid}" + (f"  ({identity.alias})" if identity.alias else ""),
        f"home       {home}",
        *(f"recovery   {line}" for line in identity.recovery.splitlines()),
        "Write the recovery line on paper and keep it apart: it is not stored and will not be shown again.",
    )
