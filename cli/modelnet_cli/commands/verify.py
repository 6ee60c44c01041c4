"""`modelnet verify`: hash files against what was signed."""

from __future__ import annotations

from typing import Annotated

import typer

from modelnet.wording import count_text, printable, size_text
from modelnet_cli.knowledge import knowledge_fields, knowledge_text
from modelnet_cli.options import AcceptStale, OfflinePinned, Strict
from modelnet_cli.output import Output


def verify(
    output: Output,
    target: Annotated[str, typer.Argument(metavar="PATH|REF", help="Folder, file, or a release in this store.")],
    accept_stale: AcceptStale = False,
    offline_pinned: OfflinePinned = False,
    strict: Strict = False,
) -> None:
    """Hash files against what their publisher signed; say the first byte range that differs."""
    from modelnet.verifier import verify as check

    with output.bars() as bars:
        found = check(target, accept_stale=accept_stale, offline_pinned=offline_pinned, strict=strict, progress=bars)
    output.result(
        {
            "manifest": str(found.release.manifest),
            "locator": str(found.trusted.locator),
            "path": str(found.path),
            "files": len(found.files),
            "bytes": found.size,
            "absent": list(found.absent),
            "holes": found.holes,
            "warnings": list(found.trusted.warnings),
            "knowledge": knowledge_fields(found.knowledge),
        },
        f"{found.manifest.name}@{found.manifest.version}: {count_text(len(found.files), 'file')}, "
        f"{size_text(found.size)}, all as signed",
    )
    for warning in found.trusted.warnings:
        output.note(printable(warning))
    if found.absent:
        output.note(f"not looked at, of {count_text(len(found.manifest.files), 'file')}: {', '.join(found.absent[:8])}")
    if found.holes:
        output.note(f"not here, of these files: {size_text(found.holes)}; only some tensors were pulled")
    output.note(knowledge_text(found.knowledge))
