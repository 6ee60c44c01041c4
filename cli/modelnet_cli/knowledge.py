"""How old the knowledge about a release is, in words and in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelnet.wording import age_text, time_text

if TYPE_CHECKING:
    from modelnet.gate import Knowledge

__all__ = ["knowledge_fields", "knowledge_text"]


def knowledge_fields(knowledge: Knowledge) -> dict[str, Any]:
    """Return the `knowledge` object that `--json` prints."""
    return {
        "state": knowledge.state, "until": knowledge.until, "age_s": knowledge.age_s, "by": knowledge.by,
    }  # fmt: skip


def knowledge_text(knowledge: Knowledge) -> str:
    """Return the sentence that ends a pull or a verify."""
    if knowledge.until is None:
        return "signed by its publisher; nobody has said yet how recent its log is"
    if knowledge.by == "this store":
        return "released by this store's own publisher"
    said = " (so the publisher says; no witness does)" if knowledge.by == "publisher" else ""
    return f"revocations after {time_text(knowledge.until)} are unknown ({age_text(knowledge.age_s)}){said}"
