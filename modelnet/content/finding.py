"""What the content check has to say about one place in one file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Severity"]


class Severity(StrEnum):
    """What the gate does about a finding."""

    BLOCK = "block"  # refuse, unless the operator's policy allows this very file
    WARN = "warn"  # let it through and say it


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule` names what was found, `offset` is a byte of the file or None, `detail` one sentence for a person."""

    rule: str
    severity: Severity
    path: str
    offset: int | None
    detail: str

    def as_dict(self) -> dict[str, object]:
        """Return the finding as `--json` prints it."""
        return {
            "rule": self.rule, "severity": str(self.severity), "path": self.path,
            "offset": self.offset, "detail": self.detail,
        }  # fmt: skip
