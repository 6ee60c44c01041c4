"""Private keys at rest: one file of five seeds, sealed with a passphrase unless the user chose not to.

    keys/<pid>.genesis   the publisher's first log entry, exact bytes: it cannot be made again
    keys/<pid>.json   {"v": 1, "pid": pid, "kdf": "argon2id", "ops": n, "mem": bytes, "salt": hex, "box": hex}
                      {"v": 1, "pid": pid, "seeds": {role: hex}}           made with --no-passphrase

`box` is libsodium's secretbox over the JSON of the seeds under an argon2id key. The `next` seed is not kept: it is
printed once, as the recovery sheet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from modelnet import durable
from modelnet.core import strictjson
from modelnet.core.identity import MAX_GENESIS, PID, Genesis
from modelnet.core.keys import SigningKey
from modelnet.errors import MalformedError, TrustError, UnavailableError, UsageError

__all__ = ["ROLES", "draw_keys", "is_locked", "load_genesis", "load_keys", "own_publishers", "save_keys"]

ROLES = ("root", "release", "log", "beat", "next")
KEPT = ROLES[:-1]
MAX_FILE = 64 * 1024
MAX_OPS, MAX_MEMORY = 16, 1 << 30  # a key file may not ask for an hour or all memory


def draw_keys() -> dict[str, SigningKey]:
    """Return a fresh key for every role, from the system's randomness."""
    return {role: SigningKey.from_seed(os.urandom(32)) for role in ROLES}


def save_keys(folder: Path, genesis: Genesis, keys: Mapping[str, SigningKey], passphrase: str | None) -> Path:
    """Write a publisher's genesis and keys into `folder`, sealed when there is a passphrase; return the key file."""
    pid = genesis.pid
    seeds = {role: keys[role].seed.hex() for role in KEPT}
    fields: dict[str, object] = {"v": 1, "pid": pid}
    if passphrase is None:
        fields["seeds"] = seeds
    else:
        from nacl import pwhash, secret, utils

        salt = utils.random(pwhash.argon2id.SALTBYTES)
        ops, memory = pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE
        key = pwhash.argon2id.kdf(secret.SecretBox.KEY_SIZE, passphrase.encode(), salt, ops, memory)
        box = bytes(secret.SecretBox(key).encrypt(strictjson.dump(seeds)))
        fields |= {"kdf": "argon2id", "ops": ops, "mem": memory, "salt": salt.hex(), "box": box.hex()}
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The genesis goes first: keys without it would speak for nobody.
    durable.write(folder / f"{pid}.genesis", genesis.envelope.encoded)
    path = folder / f"{pid}.json"
    durable.write(path, strictjson.dump(fields), mode=0o600)
    return path


def own_publishers(folder: Path) -> list[str]:
    """Return the pids whose keys are in `folder`."""
    return sorted(path.stem for path in folder.glob("*.json") if PID.fullmatch(path.stem))


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
    """Return the kept keys of `pid`.

    Raises `UsageError` when a passphrase is needed and there is none, `TrustError` when it is wrong, `MalformedError`
    when the file is damaged.
    """
    path = folder / f"{pid}.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"cannot read the keys: {error.strerror}", rule="keys", path=str(path)) from error
    fields = strictjson.parse(content, what="key file", limit=MAX_FILE)
    if not isinstance(fields, dict) or fields.get("pid") != pid:
        raise MalformedError("not the key file of this publisher", rule="keys", path=str(path), wanted=pid)
    seeds = fields.get("seeds")
    if seeds is None:
        if passphrase is None:
            raise UsageError(
                "the keys are locked", rule="passphrase", path=str(path),
                hint="set MODELNET_PASSPHRASE or give --passphrase-file",
            )  # fmt: skip
        seeds = strictjson.parse(_unseal(fields, passphrase, path), what="key file", limit=MAX_FILE)
    try:
        return {role: SigningKey.from_seed(bytes.fromhex(seeds[role])) for role in KEPT}
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError("key file is damaged", rule="keys", path=str(path)) from error


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


def is_locked(folder: Path) -> bool:
    """Tell whether the keys in `folder` need a passphrase."""
    for pid in own_publishers(folder):
        try:
            fields = strictjson.parse((folder / f"{pid}.json").read_bytes(), what="key file", limit=MAX_FILE)
        except (OSError, MalformedError):
            continue
        if isinstance(fields, dict) and "seeds" not in fields:
            return True
    return False
