"""The figures of docs/gossip.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["draw"]

Rows = Sequence[tuple[str, dict[str, Any]]]


def draw(rows: Rows, folder: Path) -> None:
    """Draw what `rows` hold as SVG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "modelnet"  # the same picture has the same bytes
    mpl.rcParams["svg.fonttype"] = "none"
    _spreading(rows, folder / "spreading.svg")
    _troubles(rows, folder / "troubles.svg")


def _spreading(rows: Rows, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    found = [row for kind, row in rows if kind == "spreading"]
    for name in dict.fromkeys(row["gossip"] for row in found):
        mine = [row for row in found if row["gossip"] == name]
        for share, style in (("99 %", ":"), ("100 %", "-")):
            axes.plot([r["nodes"] for r in mine], [r[share] for r in mine], style, marker="o", label=f"{name}, {share}")
    nodes = sorted({row["nodes"] for row in found})
    bounds = {row["nodes"]: row["bound"] for row in found}
    axes.plot(nodes, [bounds[count] for count in nodes], "k--", label="log3 n + ln ln n (theory, rounds)")
    axes.set(xscale="log", xlabel="nodes", ylabel="gossip intervals", title="From one node to all")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def _troubles(rows: Rows, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for kind, row in rows:
        if kind == "trouble":
            times, shares = zip(*row["curve"], strict=True)
            axes.plot(times, [100 * share for share in shares], drawstyle="steps-post", label=row["trouble"])
    axes.set(
        xlabel="gossip intervals after the revocation", ylabel="% of honest nodes that refuse it",
        title="A revocation under loss, churn and adversaries",
    )  # fmt: skip
    axes.set_xlim(0, 4)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, metadata={"Date": None})
