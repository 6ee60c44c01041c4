"""`modelnet doctor`: is everything here that modelnet needs."""

from __future__ import annotations

import importlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import typer

from modelnet.wording import size_text
from modelnet_cli.output import Output

LEAST_FREE = 1 << 30
LEAST_FILES = 256


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; nothing works without what is `needed`, the rest is advice."""

    name: str
    ok: bool
    detail: str
    hint: str | None = None
    needed: bool = False


def doctor(output: Output) -> None:
    """Look at everything that modelnet needs and say what is missing and what to do.

    Exits 5 when something fails without which nothing works; advice, such as to free some space, exits 0.
    """
    checks = list(_checks())
    output.result(
        {"checks": [asdict(replace(check, hint=None) if check.ok else check) for check in checks]},
        *(
            f"{'ok ' if check.ok else 'BAD'}  {check.name}: {check.detail}"
            + (f"\n     hint: {check.hint}" if check.hint and not check.ok else "")
            for check in checks
        ),
    )
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(5)


def _checks() -> Iterator[Check]:
    from modelnet.errors import ModelnetError
    from modelnet.stores.home import Home
    from modelnet.stores.keyring import is_locked, own_publishers
    from modelnet.stores.local import open_store

    yield Check(
        "python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or later", needed=True
    )
    home = Home.find()
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        writable = os.access(home.root, os.W_OK)
    except OSError as error:
        yield Check("home", ok=False, detail=f"{home.root}: {error.strerror}", hint="set MODELNET_HOME", needed=True)
        return
    yield Check("home", writable, str(home.root), "set MODELNET_HOME to a folder that you can write", needed=True)
    free = shutil.disk_usage(home.root).free
    yield Check("disk", free >= LEAST_FREE, f"{size_text(free)} free", "free some space, or move MODELNET_HOME")
    try:
        store = open_store(home)
        store.index.check()
        count = len(store.index.releases())
        yield Check("index", ok=True, detail=f"{count} releases, SQLite {sqlite3.sqlite_version}", needed=True)
    except ModelnetError as error:
        yield Check("index", ok=False, detail=str(error), hint=error.hint, needed=True)
    own = own_publishers(home.keys)
    locked = "locked by a passphrase" if is_locked(home.keys) else "not protected"
    yield Check(
        "keys",
        ok=True,
        detail=f"publisher {own[0]}, {locked}" if own else "none; needed to publish only: modelnet init",
    )
    yield from _libraries()
    yield _kubo()


def _kubo() -> Check:
    """Look for this user's Kubo; having none is well, one that does not answer or cannot be used is not."""
    from modelnet.errors import ModelnetError
    from modelnet.ipfs.address import KuboAddress, repository
    from modelnet.ipfs.kubo import Kubo

    program = shutil.which("ipfs")
    expected = (repository() / "api").exists()  # a daemon wrote down where it listens
    try:
        with Kubo.connect(KuboAddress.parse(), 5.0) as kubo:
            tried = "" if kubo.is_tried else "; not a version that modelnet was tried with"
            return Check("kubo", ok=True, detail=f"{kubo.version} answers at {kubo.rpc.address}{tried}")
    except ModelnetError as error:
        if expected or error.rule not in {"kubo-connection", "kubo-silent", "kubo-answer", "kubo-endpoint"}:
            return Check("kubo", ok=False, detail=str(error), hint=error.hint)
    if program is None:
        return Check("kubo", ok=True, detail="not installed; optional, only for serving through IPFS itself")
    return Check("kubo", ok=True, detail=f"{program} is installed, no daemon runs; start it with `ipfs daemon` to pin")


def _libraries() -> Iterator[Check]:
    try:
        module = importlib.import_module("fastcdc")
        compiled = module.fastcdc.__module__ != "fastcdc.fastcdc_py"
        yield Check(
            "fastcdc", compiled, "compiled" if compiled else "pure Python: slow for files without tensors",
            "install a wheel of fastcdc for this platform, or a C compiler and reinstall it",
        )  # fmt: skip
    except ImportError as error:
        yield Check("fastcdc", ok=False, detail=str(error), hint="reinstall modelnet", needed=True)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield Check("open files", limit >= LEAST_FILES, str(limit), f"raise it: ulimit -n {LEAST_FILES}")
    except ImportError:
        return
