"""`modelnet pin`: keep a release on Kubo, at pinning services and in clusters, and see that they keep it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelnet.errors import UnavailableError
from modelnet.wording import count_text, size_text
from modelnet_cli.hearing import act
from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet.core.cid import Cid
    from modelnet.core.release import Release
    from modelnet.ipfs.fleet import Outcome, Seen
    from modelnet.ipfs.targets import Target
    from modelnet.stores.local import LocalStore

REF = Annotated[str, typer.Argument(metavar="REF", help="A locator, or publisher/name[@version], that is here.")]
TARGET = Annotated[
    list[str] | None,
    typer.Option(
        "--target", metavar="TARGET", help="kubo[=ADDRESS], service=URL or cluster=URL[,weight=2...]; may be repeated."
    ),
]
COPIES = Annotated[
    int | None,
    typer.Option("--copies", min=1, help="At so many of the targets only; which ones follows from the name."),
]
REPLACE = Annotated[bool, typer.Option("--replace", help="Then unpin this model's earlier versions there.")]
ORIGIN = Annotated[
    list[str] | None,
    typer.Option("--origin", metavar="MULTIADDR", help="Where services can fetch it from; may be repeated."),
]


def add(
    output: Output,
    ref: REF,
    target: TARGET = None,
    copies: COPIES = None,
    replace: REPLACE = False,
    origin: ORIGIN = None,
) -> None:
    """Pin a release: push it into a Kubo, or ask services and clusters to fetch it; returns when the pins stand."""
    from modelnet.ipfs.fleet import check_targets, pin_name
    from modelnet.signed import find_release
    from modelnet.stores.local import open_store

    targets = parse_targets(target or ["kubo"])
    check_targets(targets)
    store = open_store()
    release = find_release(store, ref)
    pins = pin(output, store, release, targets, copies=copies, replace=replace, origins=origin or ())
    output.result(
        {"locator": str(release.locator), "manifest": str(release.manifest), "name": pin_name(release), "pins": pins},
        *(f"pinned at {one['target']}, {size_text(one['bytes_sent'])} sent" for one in pins),
        str(release.manifest),
    )


def parse_targets(texts: list[str]) -> list[Target]:
    """Return the targets that were named; raise `UsageError` for one that is none."""
    from modelnet.ipfs.targets import Target

    return [Target.parse(text) for text in texts]


def ready_targets(texts: list[str]) -> list[Target]:
    """Return the targets that were named, once each, and the Kubos among them answer: before anything is published."""
    from modelnet.ipfs.address import KuboAddress
    from modelnet.ipfs.fleet import check_targets
    from modelnet.ipfs.kubo import Kubo

    targets = parse_targets(texts)
    if targets:
        check_targets(targets)
    for target in targets:
        if target.kind == "kubo":
            Kubo.connect(KuboAddress.parse(target.address)).close()
    return targets


def pin(
    output: Output,
    store: LocalStore,
    release: Release,
    targets: list[Target],
    *,
    copies: int | None = None,
    replace: bool = False,
    origins: Any = (),
) -> list[dict[str, Any]]:
    """Pin with bars; return the pins that stand as they are in JSON."""
    from modelnet.ipfs.fleet import pin_release

    # A file that was denied for an older release must be allowed again before a Kubo can pin it.
    act(output, store)
    with output.bars() as bars:
        outcomes = pin_release(
            store, release, targets, copies=copies, replace=replace, origins=list(origins), progress=bars
        )
    return pins_fields(release, outcomes)


def pins_fields(release: Release, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the pins that stand as they are in JSON."""
    return [
        {
            "target": outcome.target.name, "state": "pinned", "cid": str(release.manifest),
            "request": outcome.request, "bytes_sent": outcome.sent,
        }
        for outcome in outcomes if outcome.error is None
    ]  # fmt: skip


def status(
    output: Output,
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="One release; all that were pinned if none.")
    ] = None,
    blocks: Annotated[int, typer.Option("--blocks", min=0, help="Also ask each target for so many random blocks.")] = 4,
) -> None:
    """Say where releases are pinned, what each target says about it, and whether it gives random blocks of them."""
    _look(output, ref, blocks, strict=False)


def audit(
    output: Output,
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="One release; all that were pinned if none.")
    ] = None,
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="So many random blocks of each release.")] = 32,
) -> None:
    """Ask every target for random blocks of what it should hold, and hash them.

    Exits 3 when one gave other bytes, 5 when one lacks blocks, its pin or an answer.
    """
    _look(output, ref, blocks, strict=True)


def _root(store: LocalStore, ref: str) -> Cid:
    """Return the manifest that `ref` means: a release that is here, or the CID itself of one that is here no more."""
    from modelnet.core.cid import Cid
    from modelnet.errors import MalformedError
    from modelnet.signed import find_release

    try:
        return Cid.parse(ref)
    except MalformedError:
        return find_release(store, ref).manifest


def _look(output: Output, ref: str | None, blocks: int, *, strict: bool) -> None:
    from modelnet.gate import Gate
    from modelnet.ipfs.fleet import look_after
    from modelnet.ipfs.records import all_recorded
    from modelnet.ipfs.withdrawing import revoked_pins
    from modelnet.stores.local import open_store

    store = open_store()
    roots = list(all_recorded(store.home)) if ref is None else [_root(store, ref)]
    withdrawn = [one for one in act(output, store) if one.error is None and (ref is None or one.root in roots)]
    revoked = revoked_pins(store, Gate.open(store))
    seen = [(root, one) for root in roots for one in look_after(store, root, blocks=blocks)]
    if strict and ref is not None and not seen:
        raise UnavailableError(
            "the release is not known to be pinned anywhere", rule="not-pinned", wanted=str(roots[0]),
            hint="pin it with `modelnet pin add`",
        )  # fmt: skip
    output.result(
        {
            "pins": [{"manifest": str(root), **_fields(one), "revoked": revoked.get(root)} for root, one in seen],
            "unpinned": [
                {"manifest": str(one.root), "release": one.release, "target": one.target, "revoked": one.reason}
                for one in withdrawn
            ],
        },
        *(_line(one, revoked.get(root)) for root, one in seen),
        *([] if seen else ["nothing is known to be pinned"]),
    )
    if strict and any(one.audit is not None and one.audit.wrong for _, one in seen):
        raise typer.Exit(3)
    if strict and not all(_is_well(one) for _, one in seen):
        raise typer.Exit(5)


def _is_well(one: Seen) -> bool:
    return one.state == "pinned" and one.error is None and one.audit is not None and one.audit.ok


def _fields(one: Seen) -> dict[str, Any]:
    found = one.audit
    return {
        "release": one.record.release,
        "target": one.record.target,
        "state": one.state,
        "detail": one.detail or None,
        "error": str(one.error) if one.error else None,
        "audit": None if found is None else {
            "blocks": found.checked,
            "missing": [{"cid": str(cid), "reason": why} for cid, why in found.missing],
            "wrong": [{"cid": str(cid), "reason": why} for cid, why in found.wrong],
        },
    }  # fmt: skip


def _line(one: Seen, revoked: str | None) -> str:
    found = one.audit
    name = one.record.release.partition("?")[0]
    if revoked is not None:
        said = str(one.error) if one.error else f"there it is {one.state}"
        return f"revoked   {one.record.target}  {name}: {revoked}; {said}; to take it off: modelnet pin rm {name}"
    if one.error is not None:
        tail = str(one.error)
    elif found is None:
        tail = one.detail
    elif found.ok:
        tail = f"{count_text(found.checked, 'random block')} right"
    else:
        tail = f"of {count_text(found.checked, 'block')} {len(found.missing)} missing, {len(found.wrong)} wrong"
    return f"{one.state:8}  {one.record.target}  {name}{f': {tail}' if tail else ''}"


def remove(
    output: Output,
    ref: REF,
    target: TARGET = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also strike off targets that do not answer: they are gone for ever.")
    ] = False,
) -> None:
    """Unpin a release everywhere it is known to be pinned, or at the targets named; blocks go when they collect."""
    from modelnet.ipfs.fleet import unpin_release
    from modelnet.stores.local import open_store

    store = open_store()
    root = _root(store, ref)
    names = [one.name for one in parse_targets(target or [])]
    outcomes = unpin_release(store, root, only=names, forget=forget)
    gone = [outcome for outcome in outcomes if outcome.error is None]
    forgotten = [outcome for outcome in outcomes if outcome.error is not None]
    if forgotten and not forget:
        raise _failed(outcomes)
    output.result(
        {
            "manifest": str(root),
            "unpinned": [outcome.target.name for outcome in gone],
            "forgotten": [outcome.target.name for outcome in forgotten],
        },
        *(f"unpinned at {outcome.target.name}" for outcome in gone),
        *(f"struck off, whatever it still holds: {outcome.target.name}: {outcome.error}" for outcome in forgotten),
        *([] if outcomes else ["it is not known to be pinned there" if names else "it is not known to be pinned"]),
    )


def _failed(outcomes: list[Outcome]) -> UnavailableError:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    return UnavailableError(
        f"could not unpin at {len(failed)} of {count_text(len(outcomes), 'target')}", rule="unpin",
        got="; ".join(f"{outcome.target.name}: {outcome.error}" for outcome in failed),
        hint="run it again when they answer; --forget strikes off those that never will",
    )  # fmt: skip


def deny_list(output: Output) -> None:
    """Let this user's Kubo know what is revoked: make its deny list, which whoever hears of a revocation adds to.

    A Kubo that is running must be started again once, so that it knows the list.
    """
    from modelnet.ipfs.deny import DENY_NAME, denied, make_kubo_list
    from modelnet.stores.local import open_store

    store = open_store()
    act(output, store)
    path, fresh = make_kubo_list(store.home.root / DENY_NAME)
    count = len(denied(path))
    output.result(
        {"path": str(path), "new": fresh, "denied": count},
        f"{path}: {count_text(count, 'CID')} denied",
        *(["start Kubo again once, if it is running: it looks for new lists only then"] if fresh else []),
    )
