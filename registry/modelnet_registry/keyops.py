"""The keys of a publisher: shown, replaced, taken offline, recovered, delegated, and the log closed.

    rotate_keys(["release"])                  root says which keys are next
    rotate_root([seed], show=print)           the recovery sheet takes over; a new one is shown before a signature
    recover([seed], size=41, show=print)      the same, and everything from index 41 on is dropped: the next epoch
    export_keys("root", "/media/usb/root")    the role leaves this store; `key_files` brings it back for one operation

New keys are stored before the log names them, and old ones dropped after it named others: whatever the log says, its
keys are here. A new sheet is shown first of all. After a crash the old one still works, unless the log says otherwise:
then the new one does. All functions take the options of `Terms` too and raise what opening the log raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from nacl.bindings import crypto_core_ed25519_is_valid_point

from modelnet.core.entries import read_event, sign_event
from modelnet.core.events import Close, Delegate, Event, Keys, Next, Recover, Revoke, Rotate
from modelnet.core.fold import Inert, PublisherState
from modelnet.core.identity import HEX, MAX_KEYS, Role
from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.core.names import check_name
from modelnet.errors import ModelnetError, UsageError
from modelnet.partial import disk_errors
from modelnet.signed import resolve_publisher
from modelnet.stores.keyring import Keyring, draw_keys, read_keyring, write_keyring
from modelnet_registry.log.own import Appended, Own, Terms, catch_up, own_log

__all__ = [
    "ONLINE", "KeyRow", "Show", "close", "delegate", "export_keys", "import_keys", "list_keys", "make_delegate_key",
    "recover", "rotate_keys", "rotate_root",
]  # fmt: skip

ONLINE = ("release", "log", "beat")  # the roles that root replaces by a `keys` event
OLD_LOG_KEYS = 3  # kept after rotations: they sign heads too, for whoever knows only them

Show = Callable[[Sequence[str]], None]
"""Shows the seeds of new next keys, in hex, to a person who writes them down."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key of a publisher; `here` tells whether its private half is at hand, `threshold` how many of the role sign."""

    role: str
    keyid: str
    here: bool
    in_force: bool
    threshold: int


def list_keys(**terms: Unpack[Terms]) -> list[KeyRow]:
    """Return the keys that the log names, and those here that it does not name (any more)."""
    with own_log(recovering=True, **terms) as own:
        state, rows = own.log.state, []
        for role in ("root", *ONLINE):
            rows += _rows(role, getattr(state, role), {key.verify_key for key in own.keys.of(role)})
        for digest in state.next.digests:
            rows.append(KeyRow("next", digest, here=False, in_force=True, threshold=state.next.threshold))
        held = {key.verify_key for key in own.keys.of("delegate")}
        for prefix, given in state.delegates.items():
            rows += _rows(f"delegate {prefix}", given.role, held & set(given.role.keys))
        return rows


def rotate_keys(
    roles: Sequence[str], *, counts: Mapping[str, int] | None = None, release_threshold: int | None = None,
    **terms: Unpack[Terms],
) -> Appended:  # fmt: skip
    """Replace the keys of release, log or beat by fresh ones, as root says; as many as before unless `counts` says.

    Old log keys stay here and sign heads beside the new ones, so that followers and backups that know only them
    recognize what is signed.
    """
    if not roles or not set(roles) <= set(ONLINE):
        raise UsageError(
            "not roles that can be rotated so", rule="role", got=", ".join(roles), wanted=", ".join(ONLINE)
        )
    with own_log(**terms) as own:
        state = own.log.state
        fresh = _fresh(state, roles, counts or {})
        event = _keys_event(state, fresh, release_threshold, state.size)
        signers = own.keys.quorum("root", state.root)
        own.keep(lambda kept: _adding(kept, fresh))
        done = own.append(event, signers)
        own.keep(lambda kept: _current(kept, own.log.state, roles))
        return done


def rotate_root(
    next_seeds: Sequence[str], *, show: Show, keep: bool = True, next_keys: int | None = None,
    next_threshold: int | None = None, root_threshold: int | None = None, **terms: Unpack[Terms],
) -> Appended:  # fmt: skip
    """Let the keys of the recovery sheet become root; new next keys are drawn and shown, before anything is signed.

    With `keep` false the new root keys are not stored here: the sheet that was used is where they are.
    Raises `UsageError` with rule `next` when the seeds are not those of the sheet.
    """
    with own_log(**terms) as own:
        state = own.log.state
        revealed = _revealed(next_seeds, state)
        if revealed is None:
            return _done(own, Rotate)
        following = _draw_next(state, next_keys, next_threshold, show)
        root = Role(tuple(key.verify_key for key in revealed), root_threshold or state.next.threshold)
        if keep:
            own.keep(lambda kept: kept.adding("root", revealed))
        done = own.append(Rotate(own.pid, state.root_version + 1, root, following), revealed)
        own.keep(lambda kept: _current(kept, own.log.state, ["root"]))
        return done


def recover(
    next_seeds: Sequence[str], *, show: Show, size: int | None = None, renew: Sequence[str] = (),
    reissue: Sequence[int] = (), keep: bool = True, next_keys: int | None = None, next_threshold: int | None = None,
    root_threshold: int | None = None, **terms: Unpack[Terms],
) -> Appended:  # fmt: skip
    """Choose the first `size` entries of the log here (all of them by default) as the good ones: a new epoch begins.

    The keys of the recovery sheet become root. `renew` replaces online roles in the same head, for keys that were
    stolen or lost. Of what is dropped, revocations are kept as long as they count, and the entries with the indexes in
    `reissue` are appended again.

    What peers have of the log is adopted first, so that a recovery that was made elsewhere is not made again. Raises
    `UsageError` with rule `recover` when a takeover would be dropped: both branches would then be taken over by the
    publisher's own keys, and nobody could tell any more which of them is right.
    """
    if not set(renew) <= set(ONLINE):
        raise UsageError(
            "not roles that can be renewed so", rule="role", got=", ".join(renew), wanted=", ".join(ONLINE)
        )
    catch_up(**terms)
    with own_log(recovering=True, **terms) as own:
        before = own.log.state
        own.check_not_recovered(terms.get("heads"))
        if (revealed := _revealed(next_seeds, before)) is None:
            return _done(own, Recover, size)
        good = own.log.prefix(before.size if size is None else size)
        if before.taken_over >= good.size:
            raise UsageError(
                f"entry {before.taken_over}, which would be dropped, is a takeover", rule="recover",
                wanted=f"a size above {before.taken_over}", got=good.size,
                hint="what the newest sheet but one signed stays; keep more of the log",
            )  # fmt: skip
        dropped = dict(enumerate(own.log.folder.entries(good.size, before.size), good.size))
        if missing := set(reissue) - dropped.keys():
            raise UsageError("only dropped entries can be issued again", rule="index", got=sorted(missing))
        following = _draw_next(good, next_keys, next_threshold, show)
        root = Role(tuple(key.verify_key for key in revealed), root_threshold or good.next.threshold)
        fresh = _fresh(good, renew, {})
        if keep:
            own.keep(lambda kept: kept.adding("root", revealed))
        own.keep(lambda kept: _adding(kept, fresh))
        event = Recover(own.pid, good.root_version + 1, root, following, good.size, good.tree_root)
        entries = [sign_event(event, revealed).encoded]
        if fresh:
            renewed = sign_event(_keys_event(good, fresh, None, good.size + 1), revealed[: root.threshold])
            entries.append(renewed.encoded)
        entries += _still_counting(good, entries, dropped, reissue)
        own.log.recover(good.size, entries)
        own.keep(lambda kept: _current(kept, own.log.state, ["root", *renew]))
        return Appended(own.pid, good.size, own.log.checkpoint)


def delegate(
    prefix: str, keys: Sequence[str], *, threshold: int = 1, not_after: int | None = None, **terms: Unpack[Terms]
) -> Appended:
    """Let who holds `keys` (public, in hex) release names under `prefix`, up to and including index `not_after`."""
    with own_log(**terms) as own:
        if not all(HEX.fullmatch(key) for key in keys):
            raise UsageError("a public key is 64 lower-case hex digits", rule="keys")
        if weak := [key for key in keys if not crypto_core_ed25519_is_valid_point(bytes.fromhex(key))]:
            # The log would take it, and from then on the delegation would be one that nobody can use.
            raise UsageError("nobody can sign with this key", rule="keys", got=weak[0])
        if not prefix.endswith("/"):
            raise UsageError("not a prefix of names", rule="prefix", got=prefix, hint="it ends with a slash: llama/")
        check_name(prefix[:-1])
        role = Role(tuple(VerifyKey(bytes.fromhex(key)) for key in keys), threshold)
        event = Delegate(own.pid, prefix, role, not_after, own.log.state.size)
        return own.append(event, own.keys.quorum("root", own.log.state.root))


def close(*, successor: str | None = None, **terms: Unpack[Terms]) -> Appended:
    """End the log: nothing but revocations counts afterwards. `successor` advises followers of another publisher."""
    with own_log(**terms) as own:
        if successor is not None:
            successor = resolve_publisher(own.store, successor)
        return own.append(Close(own.pid, successor), own.keys.quorum("root", own.log.state.root))


def export_keys(
    role: str, path: str | os.PathLike[str], *, keyids: Sequence[str] | None = None,
    file_passphrase: str | None = None, **terms: Unpack[Terms],
) -> list[str]:  # fmt: skip
    """Move the keys of `role` (or some, by their ids) from this store into a file; return their ids.

    The file is written and read back before the keys are dropped here. It is sealed with `file_passphrase`, which has
    to be the passphrase of the store where it is to be used together with it.
    """
    target = Path(path)
    with own_log(recovering=True, **terms) as own:
        chosen = [key for key in own.keys.of(role) if keyids is None or key.verify_key.keyid in keyids]
        if not chosen or (keyids is not None and len(chosen) != len(set(keyids))):
            raise UsageError(f"no such {role} keys are here", rule="keys")
        if target.exists():
            raise UsageError("there is a file of that name already", rule="exists", path=str(target))
        moved = Keyring(own.pid, {role: tuple(chosen)})
        with disk_errors(target):
            write_keyring(target, moved, file_passphrase)
        if read_keyring(target, own.pid, file_passphrase) != moved:
            raise UsageError("the file does not hold the keys", rule="keys", path=str(target))
        own.keep(lambda kept: kept.without(role, chosen))
        return [key.verify_key.keyid for key in chosen]


def import_keys(path: str | os.PathLike[str], *, file_passphrase: str | None = None, **terms: Unpack[Terms]) -> None:
    """Take the keys in a file into this store; the file stays where it is."""
    with own_log(recovering=True, **terms) as own:
        taken = read_keyring(Path(path), own.pid, file_passphrase)
        own.keep(lambda kept: kept.joined(taken))


def make_delegate_key(path: str | os.PathLike[str], pid: str, *, file_passphrase: str | None = None) -> str:
    """Make a key that may release names in the log of `pid` once its owner delegates to it; return its public half."""
    target = Path(path)
    if target.exists():
        raise UsageError("there is a file of that name already", rule="exists", path=str(target))
    drawn = draw_keys({"delegate": 1})
    with disk_errors(target):
        write_keyring(target, Keyring(pid, drawn), file_passphrase)
    return drawn["delegate"][0].verify_key.public.hex()


def _rows(role: str, named: Role, held: set[VerifyKey]) -> list[KeyRow]:
    old = sorted(held - set(named.keys), key=lambda key: key.keyid)
    return [
        KeyRow(role, key.keyid, here=key in held, in_force=key in named.keys, threshold=named.threshold)
        for key in (*named.keys, *old)
    ]


def _revealed(seeds: Sequence[str], state: PublisherState) -> list[SigningKey] | None:
    """Return the next keys of these seeds; None when they took over already."""
    texts = [seed.strip().lower() for seed in seeds]
    if not texts or not all(HEX.fullmatch(text) for text in texts):
        raise UsageError("a line of the recovery sheet is 64 hex digits", rule="next")
    keys = list(dict.fromkeys(SigningKey.from_seed(bytes.fromhex(text)) for text in texts))
    if {key.verify_key for key in keys} == set(state.root.keys):
        return None
    known = [key for key in keys if key.verify_key.keyid in state.next.digests]
    if len(known) != len(keys) or len(known) < state.next.threshold:
        raise UsageError(
            "these are not the lines of the newest recovery sheet", rule="next",
            wanted=f"{state.next.threshold} of {len(state.next.digests)}", got=len(known),
            hint="each sheet is good for one takeover; look for the one that was shown last",
        )  # fmt: skip
    return keys


def _draw_next(state: PublisherState, count: int | None, threshold: int | None, show: Show) -> Next:
    number, wanted = count or len(state.next.digests), threshold or state.next.threshold
    if not 0 < wanted <= number <= MAX_KEYS:
        raise UsageError(f"{wanted} of {number} next keys cannot be asked for", rule="threshold")
    drawn = draw_keys({"next": number})["next"]
    # Before anything is signed: a sheet that nobody has seen would be the only way back into this log.
    show([key.seed.hex() for key in drawn])
    return Next(tuple(key.verify_key.keyid for key in drawn), wanted)


def _fresh(state: PublisherState, roles: Sequence[str], counts: Mapping[str, int]) -> dict[str, tuple[SigningKey, ...]]:
    return draw_keys({role: counts.get(role) or len(getattr(state, role).keys) for role in roles})


def _keys_event(
    state: PublisherState, fresh: Mapping[str, Sequence[SigningKey]], release_threshold: int | None, serial: int
) -> Event:
    roles = {}
    for name, keys in fresh.items():
        threshold = min(getattr(state, name).threshold, len(keys))
        if name == "release" and release_threshold is not None:
            threshold = release_threshold
        roles[name] = Role(tuple(key.verify_key for key in keys), threshold)
    return Keys(state.pid, roles.get("release"), roles.get("log"), roles.get("beat"), serial=serial)


def _adding(keyring: Keyring, fresh: Mapping[str, Sequence[SigningKey]]) -> Keyring:
    for role, keys in fresh.items():
        keyring = keyring.adding(role, keys)
    return keyring


def _current(keyring: Keyring, state: PublisherState, roles: Sequence[str]) -> Keyring:
    """Return the keyring without keys of `roles` that the log does not name any more."""
    for role in roles:
        named: Role = getattr(state, role)
        old = [key for key in keyring.of(role) if key.verify_key not in named.keys]
        keyring = keyring.without(role, old[:-OLD_LOG_KEYS] if role == "log" else old)
    return keyring


def _still_counting(
    good: PublisherState, begun: Sequence[bytes], dropped: Mapping[int, bytes], reissue: Sequence[int]
) -> list[bytes]:
    """Return the dropped revocations that count in the recovered log, and the entries that are to be in it again."""
    state = good.copy()
    for entry in begun:
        state.append(entry)
    again = []
    for index, entry in dropped.items():
        try:
            revoked = isinstance(read_event(entry).unverified, Revoke)
        except ModelnetError:
            continue
        if (revoked or index in reissue) and not isinstance(state.append(entry), Inert):
            again.append(entry)
    return again


def _done(own: Own, wanted: type[Rotate | Recover], size: int | None = None) -> Appended:
    """Return the takeover that these seeds have made already: a crash came after the commit, or its reply was lost.

    Raises `UsageError` with rule `next` when what they made was another one.
    """
    index = own.log.state.taken_over
    event = read_event(next(own.log.folder.entries(index, index + 1))).unverified if index else None
    if not isinstance(event, wanted) or (isinstance(event, Recover) and size not in (None, event.fork_size)):
        raise UsageError(
            "this sheet has taken over already", rule="next", got=f"entry {index}",
            hint="each sheet is good for one takeover; look for the one that was shown last",
        )  # fmt: skip
    return Appended(own.pid, index, own.log.checkpoint)
