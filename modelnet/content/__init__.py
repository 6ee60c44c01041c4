"""What a file is and what loading it would do, told by its content: the part of the gate that looks inside.

`check_content` looks at one file, `check_release` at all files of a release, `refuse` turns findings into a refusal.
"""

from __future__ import annotations

from modelnet.content.check import check_content, check_release, refuse
from modelnet.content.finding import Finding, Severity

__all__ = ["Finding", "Severity", "check_content", "check_release", "refuse"]
