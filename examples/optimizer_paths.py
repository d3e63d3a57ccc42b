"""Paths of four optimizers
========================

Draw the paths that four optimizers take down a long, narrow valley.

::

    python examples/optimizer_paths.py

The parameters are two plain Python floats in a dict. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

import anyoptim as ao

START = {"x": -7.0, "y": 2.0}
STEPS = 30
OPTIMIZERS: list[tuple[type[Any], float, str]] = [
    (ao.SGD, 0.95, "#0072b2"),
    (ao.Momentum, 0.1, "#c77700"),
    (ao.AdaGrad, 1.5, "#00825f"),
    (ao.Adam, 0.3, "#c2316e"),
]
INK, MUTED = "#1f2933", "#64707d"
VALLEY = LinearSegmentedColormap.from_list("valley", ["#a9c8e0", "#cbdeec", "#e4edf4", "#f4f7fa"])


def height(x: Any, y: Any) -> Any:
    """The valley, f(x, y) = x**2/20 + y**2: steep across, almost flat along."""
    return x**2 / 20 + y**2


def gradient(x: float, y: float) -> dict[str, float]:
    """The gradient of `height`, under the names of the parameters."""
    return {"x": x / 10, "y": 2 * y}


def path(optimizer: ao.Optimizer, steps: int = STEPS) -> list[tuple[float, float]]:
    """The points that an optimizer visits: the start, and where each step leads."""
    params = dict(START)
    points = [(params["x"], params["y"])]
    for _ in range(steps):
        optimizer.update(params, gradient(**params))
        points.append((params["x"], params["y"]))
    return points


def draw(axes: Axes, points: Sequence[tuple[float, float]], name: str, lr: float, color: str) -> None:
    """One panel: the valley, the path, the start and the minimum."""
    x, y = np.meshgrid(np.linspace(-8, 3, 221), np.linspace(-2.6, 2.6, 105))
    levels = np.linspace(0, 3.2, 17) ** 2  # squares: the lines are evenly spaced
    axes.contourf(x, y, height(x, y), levels, cmap=VALLEY, norm=PowerNorm(0.5))
    axes.contour(x, y, height(x, y), levels, colors="white", linewidths=0.7)

    xs, ys = zip(*points, strict=True)
    halo = [patheffects.withStroke(linewidth=3.5, foreground="#ffffffc0")]
    axes.plot(xs, ys, color=color, linewidth=1.5, solid_joinstyle="round", path_effects=halo)
    axes.scatter(xs[1:], ys[1:], s=17, color=color, edgecolors="white", linewidths=0.6, zorder=3)
    axes.scatter(xs[0], ys[0], s=52, color="white", edgecolors=color, linewidths=2, zorder=4)
    axes.scatter(0, 0, s=130, marker="*", color=INK, edgecolors="white", linewidths=0.9, zorder=5)
    for label, place, offset in (("start", points[0], (8, 4)), ("minimum", (0, 0), (4, -15))):
        axes.annotate(label, place, offset, textcoords="offset points", color=INK, fontsize=9, path_effects=halo)

    axes.set_title(name, loc="left", color=color, fontsize=13, fontweight="bold")
    axes.set_title(f"lr = {lr:g},  f = {height(*points[-1]):.2g} at the end", loc="right", color=MUTED, fontsize=10)
    axes.set(aspect="equal", xlim=(-8, 3), ylim=(-2.6, 2.6), xticks=range(-8, 3, 2), yticks=range(-2, 3))
    axes.set(xlabel="x", ylabel="y")
    axes.label_outer()
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=9)
    axes.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the four panels."""
    parser = argparse.ArgumentParser(description="Draw the paths of four optimizers down a long, narrow valley.")
    parser.add_argument("--output", default="optimizer_paths.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    figure = Figure(figsize=(11, 6.2), dpi=160, layout="constrained")
    figure.suptitle(f"{STEPS} steps down a narrow valley, $f(x, y) = x^2/20 + y^2$", color=INK, fontsize=14)
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, (optimizer, lr, color) in zip(panels, OPTIMIZERS, strict=True):
        draw(axes, path(optimizer(lr=lr)), optimizer.__name__, lr, color)
    figure.savefig(options.output)
    print(f"Paths: {options.output}")


if __name__ == "__main__":
    main()
