"""`modelnet publish`: sign a folder or file as a release."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelnet.wording import count_text, size_text
from modelnet_cli.commands.pin import pin as pin_release
from modelnet_cli.commands.pin import pins_fields, ready_targets
from modelnet_cli.options import KeyFiles, PassphraseFile, PublisherName, own_terms
from modelnet_cli.output import Output


def publish(
    output: Output,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Folder or file; it is referenced where it is, not copied.")
    ],
    name: Annotated[str, typer.Option("--name", help="The model's name, e.g. tiny-llama.")],
    version: Annotated[str, typer.Option("--version", help="The release's version, e.g. 1.2.0.")],
    channel: Annotated[list[str] | None, typer.Option("--channel", help="Also find it under this channel.")] = None,
    plan: Annotated[str, typer.Option("--plan", help="Chunk plan: grid/1 or fixed-1m.")] = "grid/1",
    derived_from: Annotated[
        str | None, typer.Option("--derived-from", help="Release that this one is made of.")
    ] = None,
    relation: Annotated[str | None, typer.Option("--relation", help="finetune, adapter, merge or quantized.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME=GLOB", help="Files that stand for each other, e.g. q4='*Q4*.gguf'."),
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="SPDX identifier of the licence.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="One sentence about the model.")] = None,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", metavar="TARGET", help="Then pin it, e.g. kubo; may be repeated.")
    ] = None,
) -> None:
    """Sign a folder or file as a release and print its locator."""
    from modelnet.errors import ModelnetError
    from modelnet.ipfs.fleet import TooFewPinsError, check_manifest
    from modelnet.stores.local import open_store
    from modelnet_registry.publisher import publish as make
    from modelnet_registry.variants import parse_variant

    targets = ready_targets(pin or [])
    metadata = {key: value for key, value in (("license", license_), ("description", description)) if value}
    terms = own_terms(publisher, key_file, passphrase_file)
    with output.bars() as bars:
        made = make(
            path, name=name, version=version, channels=channel or (), plan=plan, derived_from=derived_from,
            relation=relation, metadata=metadata, variants=dict(map(parse_variant, variant or ())), progress=bars,
            check_manifest=check_manifest if targets else lambda _: None, **terms,
        )  # fmt: skip
    for skipped in made.skipped:
        output.note(f"left out: {skipped}")
    manifest, chunks = made.manifest, made.chunks
    pins: list[dict[str, Any]] = []
    failure: ModelnetError | None = None
    try:
        pins = pin_release(output, open_store(), made.release, targets) if targets else []
    except ModelnetError as error:
        # It is in the log by now, and its locator must not be lost.
        again = " ".join(f"--target {target}" for target in targets)
        error.hint = f"it is published all the same; to pin it later: modelnet pin add '{made.locator}' {again}"
        pins = pins_fields(made.release, error.outcomes if isinstance(error, TooFewPinsError) else ())
        failure = error
    output.result(
        {
            "locator": made.locator,
            "publisher": made.release.pid,
            "name": manifest.name,
            "version": manifest.version,
            "manifest": str(made.release.manifest),
            "tree": str(manifest.tree),
            "index": made.index,
            "head": {"size": made.head.size, "root": made.head.root.hex()},
            "files": [
                {
                    "path": entry.path, "size": entry.size, "cid": str(entry.cid), "blake3": entry.blake3.hex(),
                    "sha256": entry.sha256.hex(), "plan": entry.plan, "format": entry.format,
                }
                for entry in manifest.files
            ],
            "chunks": {
                "count": chunks.count, "new": chunks.new, "bytes": chunks.bytes, "new_bytes": chunks.new_bytes,
            },
            "pins": pins,
            "skipped": list(made.skipped),
            **({"error": failure.as_dict()} if failure is not None else {}),
        },
        f"{manifest.name}@{manifest.version}: {count_text(len(manifest.files), 'file')}, {size_text(manifest.size)}, "
        f"{size_text(chunks.new_bytes)} of it new here",
        made.locator,
    )  # fmt: skip
    if failure is not None:
        if not output.as_json:
            output.error(failure)
        raise typer.Exit(failure.exit_code)
