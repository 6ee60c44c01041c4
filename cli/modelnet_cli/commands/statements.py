"""`modelnet revoke`, `yank`, `supersede`, `reinstate`: what a publisher says about its releases afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelnet_cli.hearing import act, withdrawn_fields
from modelnet_cli.options import KeyFiles, PassphraseFile, PublisherName, own_terms
from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet.core.note import Checkpoint

Ref = Annotated[str, typer.Argument(metavar="REF", help="Your release: publisher/name@version, or its locator.")]
Reason = Annotated[str, typer.Option("--reason", help="One sentence for whoever is told.")]


def head_fields(head: Checkpoint | None) -> dict[str, Any] | None:
    """Return a log's head as `--json` prints it."""
    return None if head is None else {"origin": head.origin, "size": head.size, "root": head.root.hex()}


def revoke(
    output: Output,
    ref: Ref,
    reason: Reason = "",
    severity: Annotated[str, typer.Option("--severity", help="malicious, vulnerable, broken or legal.")] = "malicious",
    advisory: Annotated[list[str] | None, typer.Option("--id", help="Advisory, e.g. CVE-2026-1234.")] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", help="Also this file of the release, in every release of yours.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the signed revocation there, to pass it on.")] = None,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Say that a release must not be loaded or given to anybody any more; nothing lets it through again but root.

    It counts on its signature alone: whoever hears of it, by any route, refuses the release from then on.
    """
    from modelnet import durable
    from modelnet.partial import disk_errors
    from modelnet.stores.local import open_store
    from modelnet_registry.statements import revoke as say

    done = say(
        ref, severity=severity, text=reason, ids=advisory or (), files=file or (),
        **own_terms(publisher, key_file, passphrase_file),
    )  # fmt: skip
    if out is not None:
        with disk_errors(out):
            durable.write(out, done.envelope)
    withdrawn = withdrawn_fields(act(output, open_store()))
    lines = [f"revoked {ref}" + (f", entry {done.index} of the log" if done.index is not None else "")]
    if done.index is None:
        lines.append(
            "the log could not be written; the revocation counts here and for everybody who gets it: "
            + (f"pass on {out}" if out else "run again with --out FILE and pass it on")
        )
        output.note(f"why: {done.reason}")
    output.result(
        {
            "publisher": done.pid, "index": done.index, "head": head_fields(done.head), **withdrawn,
            "file": None if out is None else str(out),
        },
        *lines,
        *(f"unpinned from {target}" for target in withdrawn["unpinned"]),
        *(f"still pinned at {one['target']}: {one['error']}" for one in withdrawn["still_pinned"]),
    )  # fmt: skip


def yank(
    output: Output,
    ref: Ref,
    reason: Reason = "",
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take a release out of resolution: who names its version, or has it locked, may still use it."""
    from modelnet_registry.statements import yank as say

    done = say(ref, reason=reason, **own_terms(publisher, key_file, passphrase_file))
    _said(output, done, f"yanked {ref}")


def supersede(
    output: Output,
    ref: Ref,
    by: Annotated[str, typer.Option("--by", metavar="REF", help="Your release that takes its place.")],
    reason: Reason = "",
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let who asks for the newest get another release instead of this one."""
    from modelnet_registry.statements import supersede as say

    done = say(ref, by, reason=reason, **own_terms(publisher, key_file, passphrase_file))
    _said(output, done, f"{by} takes the place of {ref}")


def reinstate(
    output: Output,
    ref: Ref,
    reason: Annotated[str, typer.Option("--reason", help="For your own records: the log's entry has no room.")] = "",
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take back a revocation, with the root keys, or a yank."""
    from modelnet.stores.local import open_store
    from modelnet_registry.statements import reinstate as say

    done = say(ref, **own_terms(publisher, key_file, passphrase_file))
    if reason:
        output.note("the reason is not published: an entry that takes something back names only what it takes back")
    act(output, open_store())
    _said(output, done, f"reinstated {ref}")


def _said(output: Output, done: Any, line: str) -> None:
    output.result(
        {"publisher": done.pid, "index": done.index, "head": head_fields(done.head)},
        f"{line}, entry {done.index} of the log",
    )
