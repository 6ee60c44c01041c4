"""Two small files about trust and time: the witness policy, and the newest time that a quorum ever vouched for.

policy        a C2SP tlog-policy file; when there is none, `quorum none`
high-water    unix seconds, decimal: time does not run backwards past it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelnet import durable
from modelnet.core.freshness import Knowledge, raised
from modelnet.core.policy import MAX_POLICY, Policy
from modelnet.errors import MalformedError, UnavailableError
from modelnet.partial import disk_errors
from modelnet.stores.locking import locked

__all__ = ["HighWater", "PolicyFile"]

NO_POLICY = Policy((), (), None)
MAX_NUMBER = 20  # bytes of a file that holds one number below 2^63


@dataclass(slots=True)
class PolicyFile:
    """The witness policy in `path`."""

    path: Path
    _read: tuple[bytes, Policy] | None = None

    def read(self) -> Policy:
        """Return the policy as the file is now; raise `MalformedError` when it is none: a wrong one must not weaken."""
        content = _content(self.path, MAX_POLICY)
        if content is None:
            return NO_POLICY
        if self._read is None or self._read[0] != content:
            try:
                self._read = content, Policy.parse(content)
            except MalformedError as error:
                error.source = str(self.path)
                raise
        return self._read[1]


@dataclass(frozen=True, slots=True)
class HighWater:
    """The high-water mark of time in `path`."""

    path: Path

    def read(self) -> int:
        """Return the mark in unix seconds; 0 when there is none that can be read: knowledge raises it again."""
        content = _content(self.path, MAX_NUMBER) or b""
        text = content.strip()
        return int(text) if text.isdigit() and int(text) < 1 << 63 else 0

    def learn(self, known: Knowledge, clock: int) -> int:
        """Raise the mark as `known` says, durably before anybody uses it; return what it is now."""
        mark = self.read()
        if raised(mark, known, clock) > mark:
            with disk_errors(self.path), locked(self.path.with_name(f"{self.path.name}.lock")):
                mark = raised(self.read(), known, clock)
                durable.write(self.path, b"%d\n" % mark)
        return mark


def _content(path: Path, limit: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read: {error.strerror}", rule="store", path=str(path)) from error
    return content
