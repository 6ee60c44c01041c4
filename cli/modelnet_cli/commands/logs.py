"""`modelnet log`, `sync`, `audit` and `beat`: what a publisher said, and whether what is here is all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelnet.wording import count_text
from modelnet_cli.options import KeyFiles, PassphraseFile, PublisherName, own_terms
from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet.core.events import Event
    from modelnet.gate import Gate
    from modelnet.syncing import Heard

Who = Annotated[str, typer.Argument(metavar="PUBLISHER", help="A name that was given here, or a publisher's id.")]
Peers = Annotated[list[str] | None, typer.Option("--peer", help="Node to ask; may be repeated.")]


def log(
    output: Output,
    publisher: Who,
    everything: Annotated[
        bool, typer.Option("--all", help="Also dropped branches, revocations from outside the log, and evidence.")
    ] = False,
) -> None:
    """Show a publisher's log as it is known here: every entry, and why some count for nothing."""
    from modelnet.gate import Gate
    from modelnet.signed import resolve_publisher
    from modelnet.stores.local import open_store

    gate = Gate.open(open_store())
    pid = resolve_publisher(gate.store, publisher)
    standing = gate.replicas.standing(pid)
    state = gate.replicas.state(pid)
    inert = {one.index: one for one in state.inert}
    entries = []
    for index, entry in enumerate(gate.replicas.folder(pid).entries(0, standing.size)):
        entries.append(_entry(index, entry, inert[index].error if index in inert else None))
    lines = [
        f"publisher  {pid}",
        f"head       {standing.size} entries, root {standing.root.hex()}",
        f"state      {'dead' if standing.dead else standing.status.value}"
        + (f", after {standing.epoch} recoveries" if standing.epoch else ""),
        *map(_line, entries),
    ]
    fields: dict[str, Any] = {
        "publisher": pid, "size": standing.size, "root": standing.root.hex(), "epoch": standing.epoch,
        "state": "dead" if standing.dead else standing.status.value, "entries": entries,
    }  # fmt: skip
    if everything:
        fields |= _beside(gate, pid, lines)
    output.result(fields, *lines)


def _beside(gate: Gate, pid: str, lines: list[str]) -> dict[str, Any]:
    """Return what is known of a publisher beside its adopted log."""
    from modelnet.core.adoption import claimed_size
    from modelnet.core.evidence import Evidence

    negatives = [_entry(None, envelope, None) for envelope in gate.replicas.negatives(pid)]
    lines += [f"outside the log: {_line(one)}" for one in negatives]
    dropped = []
    for epoch in gate.replicas.epochs(pid)[:-1]:
        folder = gate.replicas.folder(pid, epoch)
        head = folder.checkpoint()
        size = 0 if head is None else claimed_size(head)
        entries = [_entry(index, entry, None) for index, entry in enumerate(folder.entries(0, size))]
        dropped.append({"epoch": epoch, "size": size, "entries": entries})
        lines += [f"before recovery {epoch + 1}: {size} entries", *(f"  {_line(one)}" for one in entries)]
    evidence = []
    for content in gate.replicas.evidence(pid):
        shown = Evidence.parse(content)
        heads = [note.unverified_text for note in (shown.a, shown.b)]
        evidence.append({"a": heads[0], "b": heads[1]})
        lines += ["two heads that exclude each other:", *(f"  {line}" for text in heads for line in text.splitlines())]
    return {"negatives": negatives, "dropped": dropped, "evidence": evidence}


def _entry(index: int | None, entry: bytes, error: Exception | None) -> dict[str, Any]:
    from modelnet.core.entries import read_event
    from modelnet.errors import ModelnetError

    if index == 0:
        return {"index": 0, "type": "genesis", "detail": "the publisher's first keys"}
    try:
        event = read_event(entry).unverified
        kind, detail = type(event).__name__.lower(), _detail(event)
    except ModelnetError as unread:
        kind, detail, error = "unknown", "", error or unread
    fields: dict[str, Any] = {"index": index, "type": {"released": "release"}.get(kind, kind), "detail": detail}
    if isinstance(error, ModelnetError):
        fields |= {"inert": error.rule or error.kind, "reason": str(error)}
    return fields


def _detail(event: Event) -> str:
    from modelnet.core import events

    match event:
        case events.Released(release=release):
            channels = f" on {', '.join(release.channels)}" if release.channels else ""
            return f"{release.name}@{release.version}{channels}  {release.manifest}"
        case events.Revoke(subjects=subjects, severity=severity, text=text):
            return f"{severity}{': ' + text if text else ''}  {_names(subjects)}"
        case events.Yank(subjects=subjects, reason=reason):
            return f"{_names(subjects)}  {reason}".rstrip()
        case events.Supersede(old=old, new=new, reason=reason):
            return f"{_names((old,))} by {_names((new,))}  {reason}".rstrip()
        case events.Reinstate(revoke=leaf):
            return f"the revocation with leaf hash {leaf.hex()[:16]}…"
        case events.Delegate(prefix=prefix, role=role):
            return f"{prefix}* to {len(role.keys)} keys"
        case events.Keys():
            return "new keys for " + ", ".join(name for name in ("release", "log", "beat") if getattr(event, name))
        case events.Rotate(root_version=version) | events.Recover(root_version=version):
            return f"root version {version}"
        case events.Vouch(publisher=publisher, name=name):
            return f"{publisher} is {name}"
        case events.Attest(predicate_type=kind, subjects=subjects):
            return f"{kind}  {_names(subjects)}"
        case events.Close(successor=successor):
            return f"the end{', go on with ' + successor if successor else ''}"


def _names(subjects: tuple[Any, ...]) -> str:
    return ", ".join(f"{(one.sha256 or one.blake3)[:16]}…" for one in subjects)


def _line(entry: dict[str, Any]) -> str:
    index = "" if entry["index"] is None else f"{entry['index']:>6}  "
    counts = f"   (counts for nothing: {entry['reason']})" if "inert" in entry else ""
    return f"{index}{entry['type']:<10} {entry['detail']}{counts}"


def sync(
    output: Output,
    publisher: Annotated[
        list[str] | None, typer.Argument(metavar="[PUBLISHER]...", help="Whose logs; all that are known here if none.")
    ] = None,
    peer: Peers = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="Also take signed revocations or evidence from this file.")
    ] = None,
) -> None:
    """Bring publishers' logs up to date: new releases, revocations, evidence, from any peers or files."""
    from modelnet.errors import ModelnetError, UsageError
    from modelnet.fetching import Fetcher
    from modelnet.replica import Replicas
    from modelnet.signed import resolve_publisher
    from modelnet.stores.http import HttpSource
    from modelnet.stores.local import open_store
    from modelnet.stores.peers import known_peers
    from modelnet.syncing import sync as bring

    store = open_store()
    replicas = Replicas(store)
    pids = [resolve_publisher(store, one) for one in publisher or ()] or [row.pid for row in replicas.publishers()]
    peers = peer or known_peers(store.home, output.note)
    asked = [HttpSource.parse(url) for url in dict.fromkeys(peers)]  # a mistyped one before anything is done
    taken = [_take(replicas, path) for path in file or ()]
    if not peers and not taken:
        raise UsageError("there is nobody to ask", rule="sources", hint="name a node with --peer URL")
    found: list[dict[str, Any]] = []
    failure: ModelnetError | None = None
    with output.bars() as bars:
        for pid in pids if peers else ():
            fetcher = Fetcher(asked, bars)
            try:
                report = bring(replicas, pid, fetcher)
                found.append({
                    "publisher": pid, "before": report.before, "size": report.size, "negatives": report.negatives,
                    "evidence": report.evidence, "sources": report.answered,
                    "state": replicas.standing(pid).status.value,
                })  # fmt: skip
            except ModelnetError as error:
                failure = failure or error
                found.append({"publisher": pid, "error": error.as_dict()})
            finally:
                fetcher.close()
    if failure is not None and len(pids) == 1:
        raise failure
    lines = [
        f"{one['publisher']}  {one['error']['message']}" if "error" in one
        else f"{one['publisher']}  {one['before']} → {one['size']} entries, {one['state']}"
        + (f", {one['negatives']} new revocations" if one["negatives"] else "")
        for one in found
    ]  # fmt: skip
    output.result({"publishers": found, "taken": taken}, *(f"took a {one['type']}" for one in taken), *lines)


def _take(replicas: Any, path: Path) -> dict[str, Any]:
    """Count the revocation or the evidence in a file; say what it was."""
    from modelnet.core.entries import read_event
    from modelnet.core.evidence import MAX_EVIDENCE, Evidence
    from modelnet.errors import MalformedError, UnavailableError
    from modelnet.syncing import epoch_of

    try:
        with path.open("rb") as file:
            content = file.read(MAX_EVIDENCE + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read it: {error.strerror}", rule="read", path=str(path)) from error
    if content.startswith(b'{"type":"modelnet-equivocation'):
        origin = Evidence.parse(content).a.unverified_text.partition("\n")[0]
        pid = origin.removeprefix("modelnet.alt/p/").partition("/")[0]
        if epoch_of(pid, origin) is None:
            raise MalformedError("evidence about no publisher's log", rule="evidence", path=str(path))
        replicas.add_evidence(pid, content)
        return {"type": "evidence", "publisher": pid, "file": str(path)}
    claimed = read_event(content).unverified.pid
    if claimed is None:
        raise MalformedError("a statement about no publisher's releases", rule="negative", path=str(path))
    replicas.add_negative(claimed, content)
    return {"type": "revocation", "publisher": claimed, "file": str(path)}


def audit(output: Output, publisher: Who, peer: Peers = None) -> None:
    """Check a log from its files: every entry, its root, its signed head, evidence, and what peers show of it."""
    from modelnet.errors import IntegrityError, TrustError
    from modelnet.gate import Gate
    from modelnet.signed import resolve_publisher
    from modelnet.stores.local import open_store
    from modelnet.stores.peers import known_peers
    from modelnet_registry.log.fsck import check_log

    gate = Gate.open(open_store())
    pid = resolve_publisher(gate.store, publisher)
    standing = gate.replicas.standing(pid)
    problems = check_log(gate.store.home, pid)
    if problems:
        first = problems[0]
        raise IntegrityError(first.message, rule=first.rule, path=first.path, hint="run `modelnet sync` to mend it")
    heard = _elsewhere(gate, pid, peer or known_peers(gate.store.home, output.note))
    agree = [one for one in heard if one.size is not None and one.error is None]
    standing = gate.replicas.standing(pid)
    if standing.quarantined:
        raise TrustError(
            "the publisher signed two histories that exclude each other", rule="equivocation", got=pid,
            hint="`modelnet log --all` shows both heads",
        )  # fmt: skip
    sizes = sorted({one.size for one in agree if one.size is not None})
    refused = [{"source": one.source, "reason": str(one.error)} for one in heard if one.error is not None]
    output.result(
        {
            "publisher": pid, "size": standing.size, "root": standing.root.hex(), "problems": [],
            "peers": len(agree), "sizes": sizes, "refused": refused, "state": standing.status.value,
        },
        f"{standing.size} entries lead to the signed head, root {standing.root.hex()}",
        f"{count_text(len(agree), 'peer')} agree, with heads of sizes {sizes}"
        if agree else "nobody else was asked, or answered",
        *(f"does not count: {one['source']}: {one['reason']}" for one in refused),
    )  # fmt: skip


def _elsewhere(gate: Gate, pid: str, peers: Sequence[str]) -> list[Heard]:
    """Sync from `peers`; return what each of them had: a head agrees once it was verified against the log here."""
    from modelnet.fetching import Fetcher
    from modelnet.progress import SILENT
    from modelnet.stores.http import HttpSource
    from modelnet.syncing import sync as bring

    fetcher = Fetcher([HttpSource.parse(url) for url in peers], SILENT)
    try:
        return bring(gate.replicas, pid, fetcher).heard
    finally:
        fetcher.close()


def beat(
    output: Output,
    publisher: PublisherName = None,
    key_file: KeyFiles = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Say again, at this time, that your log's head is the newest; `modelnet node` does it by itself."""
    from modelnet_registry.log.own import refresh

    head = refresh(**own_terms(publisher, key_file, passphrase_file))
    pid = head.origin.split("/")[2]
    output.result(
        {"publisher": pid, "size": head.size, "root": head.root.hex()}, f"{head.size} entries, said again now"
    )
