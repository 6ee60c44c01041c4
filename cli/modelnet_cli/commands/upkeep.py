"""`modelnet gc`, `fsck` and `remove`: keep the store whole and small."""

from __future__ import annotations

from typing import Annotated

import typer

from modelnet.wording import count_text, size_text
from modelnet_cli.output import Output


def remove(
    output: Output,
    ref: Annotated[str, typer.Argument(metavar="REF", help="A release in this store.")],
) -> None:
    """Let go of a release; the next gc frees its files. A publisher's own files are never deleted."""
    from modelnet.upkeep import remove as let_go

    release = let_go(ref)
    output.result(
        {"publisher": release.pid, "name": release.name, "version": release.version, "manifest": str(release.manifest)},
        f"let go of {release.name}@{release.version}; `modelnet gc` frees its space",
    )


def gc(
    output: Output,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be freed, and stop.")] = False,
    grace: Annotated[float, typer.Option("--grace", help="Keep what was touched in the last SECONDS.", min=0)] = 3600.0,
) -> None:
    """Free what no release points to: unfinished pulls, old folders, unused blocks."""
    from modelnet.upkeep import gc as collect

    freed = collect(dry_run=dry_run, grace_s=grace)
    verb = "would free" if dry_run else "freed"
    output.result(
        {"freed": freed.bytes, "items": list(freed.items), "dry_run": dry_run},
        *freed.items,
        f"{verb} {size_text(freed.bytes)}",
    )


def fsck(
    output: Output,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended here.")] = False,
) -> None:
    """Check the index, every block, release, file and log; exits 3 when something stays wrong."""
    from modelnet.stores.home import Home
    from modelnet.upkeep import fsck as check
    from modelnet_registry.log.fsck import check_logs

    with output.bars() as bars:
        problems = check(repair=repair, progress=bars)
    problems += check_logs(Home.find(), repair=repair)
    left = [problem for problem in problems if not problem.repaired]
    output.result(
        {
            "problems": [
                {
                    "rule": problem.rule, "path": problem.path, "message": problem.message,
                    "repaired": problem.repaired, "offset": problem.offset,
                }
                for problem in problems
            ]
        },
        *(f"{'mended' if problem.repaired else 'wrong '}  {problem.path}: {problem.message}" for problem in problems),
        f"{count_text(len(left), 'problem')} left" if left else "the store is whole",
    )  # fmt: skip
    if left:
        raise typer.Exit(3)
