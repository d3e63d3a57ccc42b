"""An object and a probe
=====================

Find two complex images from counts of photons, with and without what is known of them beforehand.

::

    python examples/object_and_probe.py

In ptychography a probe is moved over a thin object, and a detector far behind it counts photons. Neighbouring positions
overlap, and so both images can be found, with the phases that no detector sees. This object is transparent, so that its
modulus is 1 and its phase is what there is to see. The probe is 0 outside of its aperture. Both are stages behind the
method, and bring both images about twice as near. The recipe "An object and a probe" goes through the same steps. Needs
`pip install anyoptim[examples]`.
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

N, M = 48, 20
"""The pixels along the object, and along the probe and the detector."""
INNER = (slice(8, 40), slice(8, 40))
"""Of the object what all of the probe has been over."""
INK, MUTED = "#1f2933", "#64707d"


class Transparent(ao.ParameterStage):
    """|p| = 1, with the phase that p has; a 0, which has none, becomes 1."""

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        """The new parameter."""
        size = xp.modulus(p)
        return xp.where(size > 0, p / size, xp.complex(1.0, 0.0))


class Experiment:
    """An object, a probe, and the photons that are counted."""

    def __init__(self, photons: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        row, column = np.mgrid[:N, :N]
        bumps = [(1.2, 18, 17, 8), (-0.9, 31, 32, 7), (0.8, 15, 35, 5)]
        phase = sum(h / (1 + np.exp((np.hypot(row - r, column - c) - size) / 0.6)) for h, r, c, size in bumps)
        v, u = np.mgrid[:M, :M] - (M - 1) / 2
        self.aperture = np.hypot(v, u) < 7.5
        beam = np.where(self.aperture, np.exp((-0.02 + 0.03j) * (u**2 + v**2)), 0)
        probe = beam * np.sqrt(photons / np.sum(np.abs(beam) ** 2))
        self.truth: dict[str, Array] = {"object": np.exp(1j * phase), "probe": probe}
        grid = range(0, N - M + 1, 4)
        corners = [(a + rng.integers(-1, 2), b + rng.integers(-1, 2)) for a in grid for b in grid]
        self.windows = [tuple(slice(k, k + M) for k in np.clip(corner, 0, N - M)) for corner in corners]
        self.amplitude = np.sqrt(rng.poisson(np.abs(self.forward(self.truth)[1]) ** 2))
        flat = self.aperture * np.sqrt(photons / self.aperture.sum()) + 0j
        self.start: dict[str, Array] = {"object": np.ones((N, N), complex), "probe": flat}

    def forward(self, params: dict[str, Array]) -> tuple[Array, Array]:
        """The patches of the object, and the waves at the detector."""
        patches = np.stack([params["object"][window] for window in self.windows])
        return patches, np.fft.fft2(params["probe"] * patches, norm="ortho")

    def gradient(self, params: dict[str, Array]) -> dict[str, Array]:
        """Of half of the sum of squares of what |wave| and the root of the counts differ by."""
        patches, wave = self.forward(params)
        residual = wave - self.amplitude * wave / np.maximum(np.abs(wave), 1e-12)
        back = np.fft.ifft2(residual, norm="ortho")
        of_object = np.zeros_like(params["object"])
        for window, part in zip(self.windows, params["probe"].conj() * back, strict=True):
            of_object[window] += part
        return {"object": of_object, "probe": np.sum(patches.conj() * back, axis=0)}

    def found(self, steps: int, *, known: bool) -> dict[str, Array]:
        """What the method makes of the start, with half of each safe learning rate."""
        light = np.zeros((N, N))
        for window in self.windows:
            light[window] += np.abs(self.start["probe"]) ** 2
        method = ao.partition(
            {
                "object": ao.chain(ao.Momentum(lr=0.5 / light.max()), *[Transparent()] * known),
                "probe": ao.chain(ao.Momentum(lr=0.5 / len(self.windows)), *[ao.Support(self.aperture)] * known),
            }
        )
        params = {name: a.copy() for name, a in self.start.items()}
        for _ in range(steps):
            method.update(params, self.gradient(params))
        return params


def aligned(a: Array, b: Array) -> Array:
    """The image with the factor and the slope of the phase, which no data can tell, that fit the other one best."""
    turn = a.conj() * b
    down = np.angle(np.sum(turn[1:] * turn[:-1].conj()))
    across = np.angle(np.sum(turn[:, 1:] * turn[:, :-1].conj()))
    a = a * np.exp(1j * (down * np.arange(len(a))[:, None] + across * np.arange(len(a))))
    return a * np.vdot(a, b) / np.vdot(a, a)


def plot(axes: Sequence[Axes], title: str, params: dict[str, Array], truth: dict[str, Array]) -> None:
    """The object's modulus and phase, and the probe's modulus."""
    image, probe = aligned(params["object"][INNER], truth["object"][INNER]), aligned(params["probe"], truth["probe"])
    axes[0].imshow(np.abs(image), vmin=0.7, vmax=1.3, cmap="RdBu_r")
    axes[1].imshow(np.angle(image), vmin=-1.3, vmax=1.3, cmap="PuOr")
    axes[2].imshow(np.abs(probe), vmin=0, vmax=np.abs(truth["probe"]).max(), cmap="Greys_r")
    axes[0].set_ylabel(title, color=INK, fontsize=11)
    for one in axes:
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Find both images twice, draw. Returns how far each is off, as a share of it."""
    parser = argparse.ArgumentParser(description="Ptychography with constraints, drawn.")
    parser.add_argument("--photons", type=int, default=5000, help="at each position (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of the method (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of positions and noise (default: %(default)s)")
    parser.add_argument("--output", default="object_and_probe.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    experiment = Experiment(options.photons, options.seed)
    truth = experiment.truth
    results = {
        "what there is": truth,
        "found of the counts": experiment.found(options.steps, known=False),
        "and of what is known": experiment.found(options.steps, known=True),
    }

    figure = Figure(figsize=(7.2, 7.6), dpi=130, layout="constrained")
    rows = figure.subplots(3, 3)
    for axes, (title, params) in zip(rows, results.items(), strict=True):
        plot(axes, title, params, truth)
    for one, title in zip(rows[0], ["|object|", "phase of the object", "|probe|"], strict=True):
        one.set_title(title, loc="left", color=INK, fontsize=11)
    figure.savefig(options.output)

    errors = {}
    for title, params in [*results.items()][1:]:
        errors[title] = {
            name: float(np.linalg.norm(aligned(params[name][at], truth[name][at]) - truth[name][at]))
            / float(np.linalg.norm(truth[name][at]))
            for name, at in (("object", INNER), ("probe", ...))
        }
        print(f"{title}:", ", ".join(f"{name} {error:.1%} off" for name, error in errors[title].items()))
    print(f"Picture: {options.output}")
    return errors


if __name__ == "__main__":
    main()
