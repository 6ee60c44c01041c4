"""Private keys at rest: seeds by role, sealed with a passphrase unless the user chose not to.

    keys/<pid>.genesis   the publisher's first log entry, exact bytes: it cannot be made again
    keys/<pid>.json   {"v": 2, "pid": pid, "kdf": "argon2id", "ops": n, "mem": bytes, "salt": hex, "box": hex}
                      {"v": 2, "pid": pid, "seeds": {role: [hex…]}}        made with --no-passphrase

`box` is libsodium's secretbox over the JSON of the seeds under an argon2id key. Version 1 had one seed for each role
and is still read. The `next` seeds are not kept: they are printed once, as the recovery sheet. A role that was taken
offline is in a file of the same form elsewhere.

A keyring holds candidates. Which of them speak for the publisher is what its log says: keys are written here before
the log names them, and dropped after it named others, so a crash in between loses none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from modelnet import durable
from modelnet.core import strictjson
from modelnet.core.identity import HEX, MAX_GENESIS, PID, Genesis, Role
from modelnet.core.keys import SigningKey, VerifyKey
from modelnet.errors import MalformedError, TrustError, UnavailableError, UsageError

__all__ = [
    "ROLES", "Keyring", "draw_keys", "is_locked", "is_sealed", "key_file", "load_genesis", "load_keyring", "load_keys",
    "own_publishers", "read_keyring", "save_keys", "write_keyring",
]  # fmt: skip

ROLES = ("root", "release", "log", "beat", "next")
KEPT = (*ROLES[:-1], "delegate")  # `delegate`: keys that may release names under a prefix of somebody's log
MAX_FILE = 64 * 1024
MAX_SEEDS = 64  # of one role: 16 in force and some that were
MAX_OPS, MAX_MEMORY = 16, 1 << 30  # a key file may not ask for an hour or all memory


@dataclass(frozen=True, slots=True)
class Keyring:
    """Signing keys of one publisher, by role; those that came last stand last."""

    pid: str
    keys: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict)

    def of(self, role: str) -> tuple[SigningKey, ...]:
        """Return the keys kept for `role`."""
        return self.keys.get(role, ())

    def signers(self, role: str, wanted: Iterable[VerifyKey]) -> list[SigningKey]:
        """Return the keys kept for `role` whose public halves are among `wanted`."""
        public = set(wanted)
        return [key for key in self.of(role) if key.verify_key in public]

    def quorum(self, role: str, wanted: Role) -> list[SigningKey]:
        """Return just as many keys as must sign for `wanted`; raise `UsageError` when too few are here."""
        found = self.signers(role, wanted.keys)[: wanted.threshold]
        if len(found) < wanted.threshold:
            raise UsageError(
                f"too few {role} keys are here", rule="keys", wanted=f"{wanted.threshold} of {len(wanted.keys)}",
                got=len(found), hint="give the files of the keys that are kept elsewhere",
            )  # fmt: skip
        return found

    def adding(self, role: str, keys: Iterable[SigningKey]) -> Self:
        """Return a keyring with `keys` too, each once."""
        return type(self)(self.pid, {**self.keys, role: tuple(dict.fromkeys((*self.of(role), *keys)))})

    def without(self, role: str, keys: Iterable[SigningKey] | None = None) -> Self:
        """Return a keyring without some keys of a role, or without any."""
        dropped = set(self.of(role) if keys is None else keys)
        return type(self)(self.pid, {**self.keys, role: tuple(key for key in self.of(role) if key not in dropped)})

    def joined(self, other: Keyring) -> Self:
        """Return a keyring with what `other` holds for the same publisher."""
        if other.pid != self.pid:
            raise UsageError("keys of another publisher", rule="keys", wanted=self.pid, got=other.pid)
        joined = self
        for role, keys in other.keys.items():
            joined = joined.adding(role, keys)
        return joined


def draw_keys(counts: Mapping[str, int] | None = None) -> dict[str, tuple[SigningKey, ...]]:
    """Return fresh keys, from the system's randomness: for each role one, or as many as `counts` says."""
    numbers = dict.fromkeys(ROLES, 1) if counts is None else counts
    return {role: tuple(SigningKey.from_seed(os.urandom(32)) for _ in range(count)) for role, count in numbers.items()}


def save_keys(folder: Path, genesis: Genesis, keys: Mapping[str, Sequence[SigningKey]], passphrase: str | None) -> Path:
    """Write a publisher's genesis and keys into `folder`, sealed when there is a passphrase; return the key file."""
    durable.make_folder(folder.parent)
    folder.mkdir(exist_ok=True, mode=0o700)
    durable.sync_folder(folder.parent)
    # The genesis goes first: keys without it would speak for nobody.
    durable.write(folder / f"{genesis.pid}.genesis", genesis.envelope.encoded)
    path = key_file(folder, genesis.pid)
    write_keyring(path, Keyring(genesis.pid, {role: tuple(keys[role]) for role in KEPT if role in keys}), passphrase)
    return path


def write_keyring(path: Path, keyring: Keyring, passphrase: str | None) -> None:
    """Replace the key file at `path` in one step."""
    seeds = {role: [key.seed.hex() for key in keys] for role, keys in keyring.keys.items() if keys}
    fields: dict[str, object] = {"v": 2, "pid": keyring.pid}
    if passphrase is None:
        fields["seeds"] = seeds
    else:
        from nacl import pwhash, secret, utils

        salt = utils.random(pwhash.argon2id.SALTBYTES)
        ops, memory = pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE
        key = pwhash.argon2id.kdf(secret.SecretBox.KEY_SIZE, passphrase.encode(), salt, ops, memory)
        box = bytes(secret.SecretBox(key).encrypt(strictjson.dump(seeds)))
        fields |= {"kdf": "argon2id", "ops": ops, "mem": memory, "salt": salt.hex(), "box": box.hex()}
    durable.write(path, strictjson.dump(fields), mode=0o600)


def own_publishers(folder: Path) -> list[str]:
    """Return the pids whose keys are in `folder`."""
    return sorted(path.stem for path in folder.glob("*.json") if PID.fullmatch(path.stem))


def key_file(folder: Path, pid: str) -> Path:
    """Return where the keys of `pid` are."""
    return folder / f"{pid}.json"


def load_genesis(folder: Path, pid: str) -> Genesis:
    """Return the verified genesis of a publisher whose keys are in `folder`."""
    path = folder / f"{pid}.genesis"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_GENESIS + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read the genesis: {error.strerror}", rule="keys", path=str(path)) from error
    return Genesis.verify(content, pid)


def load_keys(folder: Path, pid: str, passphrase: str | None) -> dict[str, SigningKey]:
    """Return the newest key of each role that `pid` keeps; raises what `read_keyring` raises."""
    return {role: keys[-1] for role, keys in load_keyring(folder, pid, passphrase).keys.items() if keys}


def load_keyring(folder: Path, pid: str, passphrase: str | None) -> Keyring:
    """Return the keys of `pid` in `folder`; raises what `read_keyring` raises."""
    return read_keyring(key_file(folder, pid), pid, passphrase)


def read_keyring(path: Path, pid: str, passphrase: str | None) -> Keyring:
    """Return the keys of `pid` in the file at `path`.

    Raises `UsageError` when a passphrase is needed and there is none, `TrustError` when it is wrong, `MalformedError`
    when the file is damaged or another publisher's.
    """
    fields = _read(path)
    if not isinstance(fields, dict) or fields.get("pid") != pid or fields.get("v") not in (1, 2):
        raise MalformedError("not the key file of this publisher", rule="keys", path=str(path), wanted=pid)
    seeds = fields.get("seeds")
    if seeds is None:
        if passphrase is None:
            raise UsageError(
                "the keys are locked", rule="passphrase", path=str(path),
                hint="set MODELNET_PASSPHRASE or give --passphrase-file",
            )  # fmt: skip
        seeds = strictjson.parse(_unseal(fields, passphrase, path), what="key file", limit=MAX_FILE)
    if not isinstance(seeds, dict) or not seeds.keys() <= set(KEPT):
        raise MalformedError("key file is damaged", rule="keys", path=str(path))
    kept = {role: [listed] if isinstance(listed, str) else listed for role, listed in seeds.items()}
    for listed in kept.values():
        if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SEEDS:
            raise MalformedError("key file is damaged", rule="keys", path=str(path))
        if not all(isinstance(seed, str) and HEX.fullmatch(seed) for seed in listed):
            raise MalformedError("key file is damaged", rule="keys", path=str(path))
    return Keyring(pid, {
        role: tuple(SigningKey.from_seed(bytes.fromhex(seed)) for seed in listed) for role, listed in kept.items()
    })  # fmt: skip


def is_sealed(path: Path) -> bool:
    """Tell whether the key file at `path` needs a passphrase."""
    fields = _read(path)
    return isinstance(fields, dict) and "seeds" not in fields


def is_locked(folder: Path) -> bool:
    """Tell whether the keys in `folder` need a passphrase."""
    for pid in own_publishers(folder):
        try:
            if is_sealed(key_file(folder, pid)):
                return True
        except (UnavailableError, MalformedError):
            continue
    return False


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read the keys: {error.strerror}", rule="keys", path=str(path)) from error
    return strictjson.parse(content, what="key file", limit=MAX_FILE)


def _unseal(fields: Mapping[str, object], passphrase: str, path: Path) -> bytes:
    from nacl import pwhash, secret
    from nacl.exceptions import CryptoError

    match fields:
        case {"kdf": "argon2id", "ops": int(ops), "mem": int(memory), "salt": str(salt), "box": str(box)} if (
            ops <= MAX_OPS and memory <= MAX_MEMORY
        ):
            pass
        case _:
            raise MalformedError("key file is damaged", rule="keys", path=str(path))
    try:
        key = pwhash.argon2id.kdf(secret.SecretBox.KEY_SIZE, passphrase.encode(), bytes.fromhex(salt), ops, memory)
        return bytes(secret.SecretBox(key).decrypt(bytes.fromhex(box)))
    except CryptoError as error:
        raise TrustError("wrong passphrase, or the key file was changed", rule="passphrase", path=str(path)) from error
    except ValueError as error:
        raise MalformedError("key file is damaged", rule="keys", path=str(path)) from error
