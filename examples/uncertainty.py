"""What a network does not know
============================

Draw what a network knows that it doesn't know: Monte Carlo dropout on a curve with a gap.

::

    python examples/uncertainty.py

A small network learns a curve from noisy points, of which there are none in the middle and beyond the ends. Afterwards
it answers 200 times with Dropout still on: where the answers disagree, it has nothing to go by. Here the curve stays
within two standard deviations; that is no law, and with `--seed 1`, which draws other points, it leaves them beyond an
end. The samples have a stream of their own, so that the same call gives the same answer, in any order, and training
could go on as if nothing had been asked. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import anyoptim as ao

Array = Any

SIZES = (1, 64, 64, 1)
INK, MUTED, BAND, LINE, POINT = "#1f2933", "#64707d", "#0072b2", "#0072b2", "#c77700"


def curve(x: Array) -> Array:
    """What the points lie around."""
    return 1.3 * np.sin(2 * x) * np.exp(-((x / 2.7) ** 2)) + 0.4 * x


class Points(NamedTuple):
    """Columns."""

    x: Array
    y: Array


def draw(seed: int) -> Points:
    """40 points left and 40 right of a gap, with noise of standard deviation 0.1."""
    like = np.zeros(0)
    x = ao.random.uniform((80, 1), seed, 0, like=like)
    x = np.where(np.arange(80)[:, None] < 40, -3 + 2 * x, 0.8 + 2 * x)
    return Points(x, curve(x) + 0.1 * ao.random.normal((80, 1), seed, 1, like=like))


def relu(x: Array) -> Array:
    """X where it is positive, 0 elsewhere."""
    return np.maximum(x, 0)


class Network:
    """Affine layers with ReLU and Dropout between them."""

    def __init__(self, dropout_ratio: float, seed: int) -> None:
        self.params: dict[str, Array] = {}
        self.dropouts = []
        for k, (n, m) in enumerate(itertools.pairwise(SIZES)):
            key = ao.random.spawn(seed, k)
            self.params[f"W{k}"] = ao.random.normal((n, m), key, 0, like=np.zeros(0)) * (2 / n) ** 0.5
            self.params[f"b{k}"] = 1.5 * ao.random.normal((m,), key, 1, like=np.zeros(0)) if k == 0 else np.zeros(m)
            if k:
                self.dropouts.append(ao.Dropout(dropout_ratio, inverted=True, seed=key))

    def forward(self, x: Array) -> Array:
        """In training; remembers what `gradient` needs."""
        self.inputs, self.hidden = [x], []
        for k, dropout in enumerate(self.dropouts):
            self.hidden.append(relu(self.inputs[-1] @ self.params[f"W{k}"] + self.params[f"b{k}"]))
            self.inputs.append(dropout.forward(self.hidden[-1]))
        return self._last(self.inputs[-1])

    def gradient(self, points: Points) -> dict[str, Array]:
        """Of half of the mean square of the errors, under the keys of `params`."""
        d = (self.forward(points.x) - points.y) / points.y.size
        grads = {}
        for k in reversed(range(len(SIZES) - 1)):
            grads[f"W{k}"], grads[f"b{k}"] = self.inputs[k].T @ d, d.sum(0)
            if k:
                h = self.hidden[k - 1]
                d = self.dropouts[k - 1].backward(d @ self.params[f"W{k}"].T) * (h > 0)
        return grads

    def sample(self, x: Array, call: int) -> Array:
        """An answer with Dropout on: of one network among the many that Dropout trains at once.

        Its mask is that of one row, for all x, so that the answer is a curve.
        """
        for k, dropout in enumerate(self.dropouts):
            h = relu(x @ self.params[f"W{k}"] + self.params[f"b{k}"])
            x = h * dropout.sample(np.ones((1, h.shape[1])), call)
        return self._last(x)

    def _last(self, h: Array) -> Array:
        k = len(SIZES) - 2
        return h @ self.params[f"W{k}"] + self.params[f"b{k}"]


def train(network: Network, points: Points, steps: int) -> None:
    """Adam with decay of weights, on all points at once; lr goes down to 0."""
    lr = ao.schedules.warmup_cosine(0.01, steps, steps // 20)
    optimizer = ao.AdamW(lr=lr, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.update(network.params, network.gradient(points))


def plot(axes: Axes, x: Array, samples: Array, points: Points) -> None:
    """The bands of one and two standard deviations around the mean, and some of the answers."""
    mean, deviation = samples.mean(0), samples.std(0)
    for width in (2, 1):
        low, high = mean - width * deviation, mean + width * deviation
        axes.fill_between(x, low, high, color=BAND, alpha=0.15, linewidth=0)
    axes.plot(x, samples[:12].T, color=LINE, linewidth=0.5, alpha=0.35)
    axes.plot(x, mean, color=LINE, linewidth=2.2, label="mean of the answers")
    axes.plot(x, curve(x), color=INK, linewidth=1, linestyle=(0, (4, 3)), label="the curve")
    axes.scatter(points.x, points.y, s=16, color=POINT, edgecolors="white", linewidths=0.5, zorder=3, label="points")
    axes.set(xlim=(x[0], x[-1]), ylim=(-4, 4), xlabel="x", ylabel="y")
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.grid(color="#eceff2")
    axes.legend(loc="upper left", frameon=False, fontsize=10, labelcolor=INK)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, sample, draw. Returns the mean of the deviation where there are points, in the gap and beyond."""
    parser = argparse.ArgumentParser(description="Monte Carlo dropout on a curve with a gap.")
    parser.add_argument("--samples", type=int, default=200, help="how many answers (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of training (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.1, help="the ratio (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of points, weights and Dropout (default: %(default)s)")
    parser.add_argument("--output", default="uncertainty.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    points = draw(options.seed)
    network = Network(options.dropout, options.seed)
    train(network, points, options.steps)
    x = np.linspace(-5, 5, 401)
    samples = np.stack([network.sample(x[:, None], call)[:, 0] for call in range(options.samples)])

    figure = Figure(figsize=(9, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{options.samples} answers with Dropout on", loc="left", color=INK, fontsize=13, fontweight="bold")
    axes.set_title("bands of one and two standard deviations", loc="right", color=MUTED, fontsize=10)
    plot(axes, x, samples, points)
    figure.savefig(options.output)

    deviation = samples.std(0)
    there = ((x > -3) & (x < -1)) | ((x > 0.8) & (x < 2.8))
    gap = (x >= -1) & (x <= 0.8)
    found = {"points": there, "gap": gap, "beyond": ~there & ~gap}
    deviations = {name: float(deviation[where].mean()) for name, where in found.items()}
    print("Standard deviations:", ", ".join(f"{name} {value:.2f}" for name, value in deviations.items()))
    print(f"Picture: {options.output}")
    return deviations


if __name__ == "__main__":
    main()
