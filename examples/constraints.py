"""What is left of a number, and of an image
=========================================

Draw what constraints and proximal steps do: to one number, and to what is found of a blurred signal.

::

    python examples/constraints.py

Above, each stage takes a number from where a step has led it to where it may be. Below, eight spikes are blurred, and
80 noisy measurements are made of 160 unknowns. What gradient descent finds explains the measurements, and has no spike
anywhere. With a bound, nothing is negative any more; with a proximal step nearly everything is 0, and what is left
stands where the spikes are. All three take the same steps. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import anyoptim as ao

Array = Any

INK, MUTED = "#1f2933", "#64707d"
COLORS = ["#0072b2", "#c77700", "#009e73", "#9b4f96"]

STAGES: dict[str, ao.ParameterStage] = {
    "NonNegative()": ao.NonNegative(),
    "Box(-1.5, 1.5)": ao.Box(-1.5, 1.5),
    "prox.L1(1)": ao.prox.L1(1.0),
    "prox.L2(1)": ao.prox.L2(1.0),
}

WAYS: dict[str, list[ao.ParameterStage]] = {
    "SGD": [],
    "SGD, NonNegative": [ao.NonNegative()],
    "SGD, prox.L1, NonNegative": [ao.prox.L1(0.15), ao.NonNegative()],
}
"""What comes behind the method, by what the pictures call it."""


def blurred(seed: int) -> tuple[Array, Array, Array]:
    """A blur that keeps every other place as a matrix, a signal of eight spikes, and what is measured of it."""
    rng, n = np.random.default_rng(seed), 160
    A = np.exp(-(((np.arange(0, n, 2)[:, None] - np.arange(n)) / 2.5) ** 2))
    signal = np.zeros(n)
    signal[np.linspace(8, n - 9, 8).astype(int)] = rng.uniform(0.5, 1.0, 8)
    return A, signal, A @ signal + 0.05 * rng.normal(size=n // 2)


def found(A: Array, d: Array, stages: Sequence[ao.ParameterStage], steps: int) -> Array:
    """What some steps make of measurements, beginning with nothing; lr is 1/L, the longest that is safe."""
    x, optimizer = np.zeros(A.shape[1]), ao.chain(ao.SGD(lr=float(1 / np.linalg.norm(A, 2) ** 2)), *stages)
    for _ in range(steps):
        optimizer.update(x, A.T @ (A @ x - d))
    return x


def plot_stage(axes: Axes, name: str, color: str) -> None:
    """Where each number between -3 and 3 goes."""
    before = np.linspace(-3, 3, 241)
    after = ao.chain(ao.SGD(lr=1.0), STAGES[name]).update(before.copy(), np.zeros(241))
    axes.plot(before, before, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(before, after, color=color, linewidth=2.2)
    axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axes.set_title(name, loc="left", color=INK, fontsize=10)


def plot_signal(axes: Axes, name: str, signal: Array, x: Array, color: str) -> None:
    """What was found, over the spikes."""
    where = np.flatnonzero(signal)
    axes.plot(x, color=color, linewidth=1.6)
    axes.scatter(where, signal[where], s=18, facecolor=INK, zorder=3)
    axes.set(xlim=(0, signal.size), ylim=(-0.4, 1.2), xticks=[], yticks=[0, 1])
    axes.set_title(name, loc="left", color=INK, fontsize=10)


def main(argv: Sequence[str] | None = None) -> dict[str, Array]:
    """Descend, draw. Returns what each way has found."""
    parser = argparse.ArgumentParser(description="Constraints and proximal steps, drawn.")
    parser.add_argument("--steps", type=int, default=3000, help="of descent (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the spikes and the noise (default: %(default)s)")
    parser.add_argument("--output", default="constraints.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    A, signal, d = blurred(options.seed)
    results = {name: found(A, d, stages, options.steps) for name, stages in WAYS.items()}

    figure = Figure(figsize=(9, 5.4), dpi=130, layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[1.1, 1])
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    above.suptitle("One number: before, and after", x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    below.suptitle("Eight spikes, and what is found", x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    for axes, name, color in zip(above.subplots(1, 4), STAGES, COLORS, strict=True):
        plot_stage(axes, name, color)
    for axes, name, color in zip(below.subplots(1, 3, sharey=True), WAYS, [MUTED, COLORS[0], COLORS[2]], strict=True):
        plot_signal(axes, name, signal, results[name], color)
    for axes in figure.axes:
        axes.tick_params(length=0, labelcolor=MUTED, labelsize=9)
        axes.spines[:].set_visible(False)
        axes.grid(color="#eceff2")
    figure.savefig(options.output)

    for name, x in results.items():
        off = np.linalg.norm(x - signal) / np.linalg.norm(signal)
        print(f"{name}: {np.count_nonzero(x == 0)} of {x.size} are 0, and {off:.0%} off")
    print(f"Picture: {options.output}")
    return results


if __name__ == "__main__":
    main()
