"""`modelnet scan`: look at the content of any files, signed or not, as the gate does before it lets them through."""

from __future__ import annotations

from typing import Annotated

import typer

from modelnet.wording import count_text, size_text
from modelnet_cli.output import Output


def scan(
    output: Output,
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder or file to look at.")],
) -> None:
    """Say what files are by their content and what loading them would do: code, pickles, broken headers, bad names.

    Nothing is executed or unpacked. Exits 3 when something would be refused.
    """
    from modelnet.arguments import given_path
    from modelnet.content import Severity
    from modelnet.content.scanning import scan as look

    found = look(given_path(path, "path to scan"))
    blocking = sum(one.severity is Severity.BLOCK for one in found.findings)
    lines = []
    for one in found.findings:
        where = one.path if one.offset is None else f"{one.path} at byte {one.offset}"
        lines.append(f"{one.severity:5}  {one.rule:14}  {where}: {one.detail}")
    looked = f"{count_text(found.files, 'file')}, {size_text(found.bytes)}"
    verdict = "nothing to refuse" if not blocking else f"{count_text(blocking, 'finding')} would be refused"
    output.result(
        {
            "path": str(path),
            "files": found.files,
            "bytes": found.bytes,
            "blocking": blocking,
            "findings": [one.as_dict() for one in found.findings],
        },
        *lines,
        f"{looked}: {verdict}",
    )
    if blocking:
        raise typer.Exit(3)
