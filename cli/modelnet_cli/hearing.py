"""What follows when a command may have heard of a revocation: deny lists say it, and pins of it are taken back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modelnet_cli.output import Output

if TYPE_CHECKING:
    from modelnet.ipfs.withdrawing import Withdrawn
    from modelnet.stores.local import LocalStore

__all__ = ["act", "hearing", "withdrawn_fields"]


def act(output: Output, store: LocalStore) -> list[Withdrawn]:
    """Bring the deny lists up to date and unpin what was revoked; say what could not be done, and return all of it."""
    from modelnet.errors import ModelnetError
    from modelnet.gate import Gate
    from modelnet.ipfs.withdrawing import withdraw
    from modelnet_registry.denials import Denials

    try:
        gate = Gate.open(store)
        Denials(gate).refresh()
        done = withdraw(store, gate)
    except ModelnetError as error:
        output.note(f"what was revoked may be pinned still, or missing on the deny list: {error}")
        return []
    for one in done:
        name = one.release.partition("?")[0]
        if one.error is None:
            output.note(f"{name} was revoked ({one.reason}): unpinned at {one.target}")
        else:
            output.note(
                f"{name} was revoked ({one.reason}) and is still pinned at {one.target}: {one.error}\n"
                f"  hint: the next `modelnet pin` command and a running node try again; "
                f"`modelnet pin rm --forget {one.root}` if the target is gone for ever"
            )
    return done


def withdrawn_fields(done: list[Withdrawn]) -> dict[str, Any]:
    """Return, as it is in JSON, where something was unpinned and where it still is pinned."""
    return {
        "unpinned": [one.target for one in done if one.error is None],
        "still_pinned": [
            {"target": one.target, "manifest": str(one.root), "release": one.release, "error": str(one.error)}
            for one in done if one.error is not None
        ],
    }  # fmt: skip


def hearing(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command that asks others act on what it heard, also where what it heard made it fail."""

    @functools.wraps(function)
    def run(output: Output, **options: Any) -> None:
        from modelnet.stores.home import Home
        from modelnet.stores.local import open_store

        try:
            function(output, **options)
        finally:
            if Home.find().index.exists():  # else nothing was heard, and nothing is to be made
                store = open_store()
                if _is_concerned(store):
                    act(output, store)

    return run


def _is_concerned(store: LocalStore) -> bool:
    """Tell whether anything is revoked, in doubt, or was: else the releases here need not be looked at one by one."""
    from modelnet.errors import ModelnetError
    from modelnet.ipfs.deny import DENY_NAME
    from modelnet.stores.logindex import NOTHING_REVOKED, read_logs

    try:
        rows = read_logs(store.index)
    except ModelnetError:
        return True  # `act` says what is wrong
    said = (store.home.root / DENY_NAME).exists()
    return said or any(row.revoked != NOTHING_REVOKED or row.quarantined or row.dead for row in rows)
