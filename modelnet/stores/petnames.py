"""What publishers are called on this machine: `$MODELNET_HOME/trust`, one `ALIAS PID` a line.

A petname is what a person decided; no network and no model file changes it. A name that is bound stays bound: another
publisher under it is a hard error, never a question. The file is small, readable and survives the index.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from modelnet import durable
from modelnet.core.identity import PID
from modelnet.core.lookalikes import look_alikes
from modelnet.core.names import check_alias
from modelnet.errors import MalformedError, TrustError, UnavailableError, UsageError
from modelnet.stores.home import Home

__all__ = ["Petnames"]

MAX_TRUST = 4 * 1024 * 1024
HEADER = "# Whom this machine calls what; written by `modelnet trust`.\n"


@dataclass(frozen=True, slots=True)
class Petnames:
    """The petnames of one home; read from the file at each call."""

    home: Home

    def all(self) -> dict[str, str]:
        """Return alias → pid."""
        path = self.home.root / "trust"
        try:
            with path.open("rb") as file:
                content = file.read(MAX_TRUST + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UnavailableError(
                f"cannot read the names: {error.strerror}", rule="trust", path=str(path),
                hint="set MODELNET_HOME to a folder that you can read",
            ) from error  # fmt: skip
        found: dict[str, str] = {}
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            match line.split():
                case [] | ["#", *_]:
                    continue
                case [alias, pid] if PID.fullmatch(pid) and _is_alias(alias) and alias not in found:
                    found[alias] = pid
                case _:
                    raise MalformedError(
                        "not a line of names", rule="trust", path=f"{path}, line {number}", wanted="ALIAS PID",
                        got=repr(line[:80]),
                    )  # fmt: skip
        if len(content) > MAX_TRUST:
            raise MalformedError("too many names", rule="trust", path=str(path), wanted=f"at most {MAX_TRUST} bytes")
        return found

    def pid_of(self, alias: str) -> str | None:
        """Return whom `alias` means."""
        return self.all().get(alias)

    def aliases(self) -> dict[str, str]:
        """Return pid → alias; of several names the first in the alphabet."""
        return {pid: alias for alias, pid in sorted(self.all().items(), reverse=True)}

    def add(self, alias: str, pid: str) -> list[str]:
        """Call `pid` `alias` from now on; return the names known here that it may be taken for.

        Raises `TrustError` with rule `petname` when the name means another publisher.
        """
        check_alias(alias)
        if not PID.fullmatch(pid):
            raise UsageError("not a publisher's id", rule="publisher", got=pid[:80], wanted="52 characters")
        with self._locked():
            known = self.all()
            if known.get(alias, pid) != pid:
                raise TrustError(
                    f"{alias!r} is another publisher here", rule="petname", wanted=known[alias], got=pid,
                    hint=f"if the publisher told you of a new identity by other means: modelnet trust remove {alias}",
                )  # fmt: skip
            if alias not in known:
                self._write({**known, alias: pid})
        return look_alikes(alias, (other for other, owner in known.items() if owner != pid))

    def remove(self, alias: str) -> str:
        """Forget `alias`; return whom it meant; raise `UsageError` when nobody is called so."""
        with self._locked():
            known = self.all()
            if alias not in known:
                raise UsageError(f"nobody is called {alias!r} here", rule="trust", hint="see `modelnet trust list`")
            self._write({name: pid for name, pid in known.items() if name != alias})
        return known[alias]

    def _write(self, names: dict[str, str]) -> None:
        lines = [f"{alias} {pid}\n" for alias, pid in sorted(names.items())]
        durable.write(self.home.root / "trust", (HEADER + "".join(lines)).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.home.root / "trust.lock"
        try:
            self.home.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        except OSError as error:
            raise UnavailableError(
                f"cannot write the names: {error.strerror}", rule="trust", path=str(self.home.root),
                hint="set MODELNET_HOME to a folder that you can write",
            ) from error  # fmt: skip


def _is_alias(alias: str) -> bool:
    try:
        check_alias(alias)
    except UsageError:
        return False
    return True
