"""The picture of the results: how much of the memory's speed each candidate reaches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.names import ANYOPTIM, BASELINE, BLOCKED, FUSED, OPTAX, TORCH

__all__ = ["KEY", "digest", "draw"]

Shares = Mapping[str, Mapping[str, Mapping[str, float]]]

# Okabe and Ito's colours, which the colour-blind can tell apart; anyoptim's are the dark and the light of one.
COLORS = {
    BASELINE: "#9aa5b1",
    TORCH[0]: "#f5d6a8",
    TORCH[1]: "#eeb04f",
    FUSED: "#d55e00",
    OPTAX: "#009e73",
    BLOCKED: "#8ec7ec",
    ANYOPTIM: "#0060a8",
}
ROOM = 0.85
"""A longer bar has no room for its number before the limit."""
INK, MUTED = "#1f2933", "#4a5562"
KEY = "Description"


def digest(shares: Shares) -> str:
    """What tells pictures of other results apart, whatever version of Matplotlib drew them."""
    return hashlib.sha256(json.dumps(shares, sort_keys=True).encode()).hexdigest()


def _label(axes: Axes, bars: BarContainer, values: Sequence[float]) -> None:
    """Beside a bar; within a long one, so that the line of the limit strikes no number through."""
    for bar, value in zip(bars, values, strict=True):
        place, ink, side = (value - 0.01, "white", "right") if value > ROOM else (value + 0.01, INK, "left")
        middle = bar.get_y() + bar.get_height() / 2
        axes.text(place, middle, f"{value:.0%}", color=ink, fontsize=9, ha=side, va="center_baseline")


def draw(shares: Shares, title: str, path: Path) -> None:
    """One panel for each method, one group of bars for each shape list, one bar for each candidate."""
    sizes = list(next(iter(shares.values())))
    names = [who for who in COLORS if any(who in of for by in shares.values() for of in by.values())]
    thick = 0.84 / len(names)
    figure = Figure(figsize=(10, 1.05 * len(sizes) + 1.6), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (method, by_size) in zip(panels, shares.items(), strict=True):
        for i, who in enumerate(names):
            places = [y + (i - (len(names) - 1) / 2) * thick for y, size in enumerate(sizes) if who in by_size[size]]
            values = [by_size[size][who] for size in sizes if who in by_size[size]]
            bars = axes.barh(places, values, 0.9 * thick, color=COLORS[who], label=who)
            if who in {ANYOPTIM, FUSED}:
                _label(axes, bars, values)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_title(method, loc="left", color=INK, fontsize=13, fontweight="bold")
        axes.set_yticks(range(len(sizes)), sizes)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("speed, as a share of the streaming limit", color=MUTED)
        axes.grid(axis="x", color="#e3e8ed")
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=INK, labelsize=11)
        axes.spines[:].set_visible(False)
    panels[0].set_ylim(len(sizes) - 0.5, -0.5)
    panels[0].set_xlim(0, max(1.0, *(v for by in shares.values() for of in by.values() for v in of.values())) * 1.12)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=16, fontweight="bold")
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=11, labelcolor=INK)
    figure.savefig(path, metadata={KEY: digest(shares)})
