"""`modelnet pull`: bring a release here, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelnet.errors import UnavailableError, UsageError
from modelnet.wording import size_text
from modelnet_cli.knowledge import knowledge_fields, knowledge_text
from modelnet_cli.options import AcceptStale, OfflinePinned, Strict
from modelnet_cli.output import Output


def pull(
    output: Output,
    ref: Annotated[str, typer.Argument(metavar="REF", help="A locator, or publisher/name[@version].")],
    peer: Annotated[list[str] | None, typer.Option("--peer", help="Node or gateway to ask; may be repeated.")] = None,
    from_: Annotated[
        list[str] | None, typer.Option("--from", metavar="SOURCE", help="Also from kubo[=GATEWAY]; may be repeated.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FOLDER", help="Folder to put the files in; it must be new.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only files that match this glob.")] = None,
    tensors: Annotated[
        list[str] | None, typer.Option("--tensors", help="Only tensors that match this glob, in files that have any.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="ID|auto", help="Only this variant; auto: the finest that fits.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
    lock: Annotated[Path | None, typer.Option("--lock", help="Lock file to obey and to write.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Move the lock to what is offered now.")] = False,
    accept_stale: AcceptStale = False,
    offline_pinned: OfflinePinned = False,
    strict: Strict = False,
) -> None:
    """Bring a release here from any number of peers, every byte checked under its author's signature."""
    from modelnet.puller import pull as bring
    from modelnet.stores.home import Home
    from modelnet.stores.peers import known_peers

    nodes = peer or known_peers(Home.find(), output.note)
    try:
        with output.bars() as bars:
            got = bring(
                ref, peers=[*nodes, *map(_source, from_ or ())], to=to, only=only or (), tensors=tensors or (),
                variant=variant, dry_run=dry_run, lock=lock, update=update, accept_stale=accept_stale,
                offline_pinned=offline_pinned, strict=strict, progress=bars,
            )  # fmt: skip
    except UnavailableError as error:
        if from_ and not nodes and error.rule == "sources":
            error.hint = "a Kubo has no publisher's log, only blocks: name a node that has it with --peer URL too"
        raise
    plan = got.plan
    verb = "would fetch" if dry_run else "fetched"
    output.result(
        {
            "locator": str(got.trusted.locator),
            "manifest": str(got.release.manifest),
            "path": str(got.path),
            "bytes": {"total": plan.total, "fetched": plan.fetched, "reused": plan.reused, "present": plan.present},
            "files": [entry.path for entry in got.files],
            "variant": got.variant,
            "sources": [
                {"source": report.source, "bytes": report.bytes, "state": report.state, "reason": report.reason or None}
                for report in got.sources
            ],
            "warnings": list(got.trusted.warnings),
            "knowledge": knowledge_fields(got.knowledge),
            "dry_run": dry_run,
        },
        f"{got.manifest.name}@{got.manifest.version}: {size_text(plan.total)}, {verb} {size_text(plan.fetched)}, "
        f"reused {size_text(plan.reused)}",
        str(got.path),
    )
    output.note(knowledge_text(got.knowledge))


def _source(text: str) -> str:
    """Return the URL of a source that is no modelnet node: the gateway of a Kubo."""
    from modelnet.ipfs.address import gateway_url

    kind, equals, address = text.partition("=")
    if kind != "kubo" or (equals and not address):
        raise UsageError(f"no such source: {text!r}", rule="source", hint="kubo, or kubo=http://127.0.0.1:8080")
    return gateway_url(address)
