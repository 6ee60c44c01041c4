"""`modelnet prove`: a release's place in its publisher's log, as a file that any C2SP tool can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelnet_cli.output import Output


def prove(
    output: Output,
    ref: Annotated[str, typer.Argument(metavar="REF|FILE", help="A release; with --check, a proof.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the proof; NAME-VERSION.tlog-proof if not given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the proof in FILE instead of making one.")] = False,
) -> None:
    """Write (or check) a proof that a release is in its publisher's log: small, portable, checked offline.

    A proof shows that the publisher released this. It does not show that the release still stands: what is known here
    about that is asked as well, and a release that was revoked is refused with the best of proofs.
    """
    if check:
        _check(output, Path(ref))
    else:
        _make(output, ref, out)


def _make(output: Output, ref: str, out: Path | None) -> None:
    from modelnet import durable
    from modelnet.core.merkle import inclusion_proof
    from modelnet.core.proof import TlogProof
    from modelnet.errors import UnavailableError
    from modelnet.gate import Gate
    from modelnet.partial import disk_errors
    from modelnet.stores.local import open_store

    gate = Gate.open(open_store())
    trusted = gate.resolve(ref)
    release, standing = trusted.release, trusted.standing
    folder, note = gate.replicas.folder(release.pid), gate.replicas.head(release.pid)
    if note is None:
        raise UnavailableError("the log has no head here", rule="missing")
    entry = next(folder.entries(trusted.index, trusted.index + 1))
    hashes = inclusion_proof(trusted.index, standing.size, folder.subtree(standing.size))
    proof = TlogProof(trusted.index, tuple(hashes), note, entry)
    path = out or Path(f"{release.name.replace('/', '+')}-{release.version}.tlog-proof")
    with disk_errors(path):
        durable.write(path, proof.encode())
    output.result(
        {
            "publisher": release.pid, "name": release.name, "version": release.version, "index": trusted.index,
            "size": standing.size, "root": standing.root.hex(), "file": str(path),
        },
        f"{path}: entry {trusted.index} of {standing.size}",
    )  # fmt: skip


def _check(output: Output, path: Path) -> None:
    from modelnet.core.entries import read_event
    from modelnet.core.events import Released
    from modelnet.core.proof import MAX_TLOG_PROOF, TlogProof
    from modelnet.errors import MalformedError, TrustError, UnavailableError
    from modelnet.gate import Gate
    from modelnet.stores.local import open_store
    from modelnet_cli.knowledge import knowledge_fields, knowledge_text

    try:
        with path.open("rb") as file:
            content = file.read(MAX_TLOG_PROOF + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read it: {error.strerror}", rule="read", path=str(path)) from error
    if len(content) > MAX_TLOG_PROOF:
        raise MalformedError("the proof is too large", rule="proof", path=str(path), wanted=MAX_TLOG_PROOF)
    proof = TlogProof.parse(content)
    entry = proof.unverified_extra
    event = None if entry is None else read_event(entry).unverified
    if entry is None or not isinstance(event, Released):
        raise MalformedError("the proof does not hold a release", rule="proof", path=str(path))
    claimed = event.release
    gate = Gate.open(open_store())
    if not gate.replicas.known(claimed.pid):
        raise TrustError(
            "the publisher of this proof is not known here", rule="unknown-publisher", got=claimed.pid,
            hint="`modelnet sync` its log, or pull one of its releases, first",
        )  # fmt: skip
    state = gate.replicas.state(claimed.pid)
    head = proof.verify(entry, state.origin, state.log_keys())
    if head.size <= state.size:
        # Another history than the one that is followed here: then the two heads are the evidence, which is kept.
        gate.replicas.adopt(claimed.pid, proof.note)
    # In the log is not enough: it must count there, and still stand.
    trusted = gate.resolve(str(claimed.locator))
    if trusted.release.envelope.encoded != entry and trusted.release.manifest != claimed.manifest:
        raise TrustError("the log has another release of that version", rule="unlogged", got=claimed.version)
    output.result(
        {
            "publisher": claimed.pid, "name": claimed.name, "version": claimed.version, "index": proof.index,
            "size": head.size, "root": head.root.hex(), "manifest": str(claimed.manifest),
            "knowledge": knowledge_fields(trusted.knowledge),
        },
        f"{claimed.name}@{claimed.version} is entry {proof.index} of a log of {head.size} that its publisher signed",
    )  # fmt: skip
    if head.size > state.size:
        output.note(f"the log is known here to {state.size} entries only; `modelnet sync` can tell if it leads there")
    output.note(knowledge_text(trusted.knowledge))
