"""How old the knowledge about a release is, in words and in JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from modelnet.puller import Knowledge

__all__ = ["knowledge_fields", "knowledge_text"]


def knowledge_fields(knowledge: Knowledge) -> dict[str, Any]:
    """Return the `knowledge` object that `--json` prints."""
    return {"state": knowledge.state, "until": knowledge.until, "age_s": knowledge.age_s}


def knowledge_text(knowledge: Knowledge) -> str:
    """Return the sentence that ends a pull or a verify."""
    if knowledge.until is None:
        return "signed by its publisher; whether it was revoked since is not known (no log head was ever seen)"
    until = datetime.fromtimestamp(knowledge.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"revocations after {until} are unknown"
