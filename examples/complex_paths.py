"""Complex parameters as two reals, and as a whole
==================================================

Draw where Adam leads one complex parameter from starts of several phases: as two reals, and with `joint=True`.

::

    python examples/complex_paths.py

The loss is the same in all directions. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import anyoptim as ao

DISTANCE, STEPS, LR = 4.0, 60, 0.15
DEGREES = {15: "#0072b2", 75: "#c77700", 200: "#00825f", 290: "#c2316e"}
INK, MUTED = "#1f2933", "#64707d"


def gradient(z: complex) -> complex:
    """Of the loss `|z|`, which is as steep everywhere and in whatever direction: the direction of z."""
    return z / abs(z) if z else 0j


def path(start: complex, joint: bool) -> list[complex]:
    """The points that Adam visits: the start, and where each step leads, up to the minimum."""
    z, optimizer, points = np.array([start]), ao.Adam(lr=LR, joint=joint), [start]
    for _ in range(STEPS):
        optimizer.update(z, np.array([gradient(complex(z[0]))]))
        points.append(complex(z[0]))
        if abs(z[0]) < LR:
            break
    return points


def draw(axes: Axes, joint: bool) -> None:
    """One panel: the level lines, the paths and the minimum."""
    x, y = np.meshgrid(np.linspace(-4.6, 4.6, 93), np.linspace(-4.6, 4.6, 93))
    axes.contour(x, y, np.hypot(x, y), levels=[1, 2, 3, 4], colors="#cbdeec", linewidths=1.0)
    for degrees, color in DEGREES.items():
        points = np.array(path(DISTANCE * np.exp(1j * np.deg2rad(degrees)), joint))
        axes.plot(points.real, points.imag, color=color, linewidth=1.5)
        axes.scatter(points.real[1:], points.imag[1:], s=12, color=color, zorder=3)
        axes.scatter(points.real[0], points.imag[0], s=52, color="white", edgecolors=color, linewidths=2, zorder=4)
    axes.scatter(0, 0, s=130, marker="*", color=INK, edgecolors="white", linewidths=0.9, zorder=5)
    name = "Adam(joint=True): one element" if joint else "Adam(): two reals"
    axes.set_title(name, loc="left", color=INK, fontsize=13, fontweight="bold")
    axes.set(aspect="equal", xlim=(-4.6, 4.6), ylim=(-4.6, 4.6), xlabel="Re z", ylabel="Im z")
    axes.label_outer()
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=9)
    axes.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw both panels."""
    parser = argparse.ArgumentParser(description="Draw Adam's paths in the complex plane, by parts and by moduli.")
    parser.add_argument("--output", default="complex_paths.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    figure = Figure(figsize=(11, 5.6), dpi=160, layout="constrained")
    figure.suptitle("From four starts to the minimum of $|z|$", color=INK, fontsize=14)
    for axes, joint in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):
        draw(axes, joint)
    figure.savefig(options.output)
    print(f"Paths: {options.output}")


if __name__ == "__main__":
    main()
