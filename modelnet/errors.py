"""Every error a caller can meet, one family for each question it must answer.

    ModelnetError
    ├── MalformedError     these bytes mean nothing                        exit 3
    ├── IntegrityError     these are not the bytes that were signed        exit 3
    ├── TrustError         signatures or policy say no                     exit 4
    ├── UnavailableError   not to be had now; a retry may help             exit 5
    └── UsageError         the request itself makes no sense               exit 2

An error is data: `rule` names what was broken, `path` and `offset` say where, `wanted` and `got` what was
expected and found, `source` who sent it, `hint` what to do. `str(error)` is one sentence made of these.
Misuse of the Python API by its caller stays `ValueError` or `RuntimeError`.
"""

from __future__ import annotations

from typing import ClassVar

from modelnet.wording import printable

__all__ = [
    "IntegrityError",
    "MalformedError",
    "ModelnetError",
    "TrustError",
    "UnavailableError",
    "UsageError",
]


class ModelnetError(Exception):
    """What went wrong, where, what was wanted, what was found, who sent it and what to do about it."""

    kind: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        rule: str | None = None,
        path: str | None = None,
        offset: int | None = None,
        wanted: object = None,
        got: object = None,
        source: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the fields; `message` is one lower-case sentence without a full stop."""
        super().__init__(message)
        self.message = message
        self.rule = rule
        self.path = path
        self.offset = offset
        self.wanted = wanted
        self.got = got
        self.source = source
        self.hint = hint

    def __str__(self) -> str:
        where = [] if self.path is None else [f"in {self.path}"]
        if self.offset is not None:
            where.append(f"at byte {self.offset}")
        parts = [" ".join([self.message, *where])]
        if self.wanted is not None:
            parts.append(f"wanted {self.wanted}")
        if self.got is not None:
            parts.append(f"found {self.got}")
        if self.source is not None:
            parts.append(f"from {self.source}")
        # What a peer or a file chose must not move the cursor or colour the terminal of who reads this.
        return printable(", ".join(parts))

    def as_dict(self) -> dict[str, object]:
        """The error as the `error` object that `--json` prints."""
        fields: dict[str, object] = {"kind": self.kind, "rule": self.rule or self.kind, "message": str(self)}
        for name in ("path", "offset", "source", "hint"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        for name in ("wanted", "got"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value if isinstance(value, int) else str(value)
        return fields


class MalformedError(ModelnetError):
    """These bytes do not follow their format."""

    kind = "malformed"
    exit_code = 3


class IntegrityError(ModelnetError):
    """These are not the bytes that were signed."""

    kind = "integrity"
    exit_code = 3


class TrustError(ModelnetError):
    """A signature, a policy or an identity says no."""

    kind = "trust"
    exit_code = 4


class UnavailableError(ModelnetError):
    """Not to be had at this moment; a retry or another source may help."""

    kind = "unavailable"
    exit_code = 5


class UsageError(ModelnetError):
    """The request makes no sense as it stands."""

    kind = "usage"
    exit_code = 2
