"""Phase retrieval
===============

Find an object and the probe that lit it from diffraction patterns, by four methods, with the arrays of any library.

::

    python examples/phase_retrieval.py --library torch

As in the example "An object and a probe", a probe is moved over an object, and a detector counts photons behind it;
both are complex images, here in complex64, and in one dict. There a step is a gradient times a learning rate, which
was worked out for each of the two. Here methods are given the loss as well as its gradient, find their step lengths
by themselves, and learn on the way how differently the two images react: L-BFGS is down to the noise after 80
evaluations. Momentum comes there after 120, with the best of six learning rates, of which twice as large ones
diverge. The same lines run with CuPy on a GPU. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import anyoptim as ao

Array = Any
Params = dict[str, Array]

N, M, STEP = 128, 40, 8
"""The pixels along the object, along the probe and the detector, and between two positions."""
NAMESPACES = {"numpy": "numpy", "cupy": "cupy", "torch": "torch", "jax": "jax.numpy"}
INK, MUTED = "#1f2933", "#64707d"


def images(photons: int) -> Params:
    """The truth: an object that dims and delays the light, and a probe out of focus, of so many photons."""
    y, x = np.mgrid[:N, :N] / N
    phase = 0.6 * np.sin(9 * x + 4 * np.sin(5 * y)) * np.cos(6 * y + 2 * np.cos(7 * x))
    grains = [(0.3, 0.35, 0.07), (0.65, 0.55, 0.1), (0.45, 0.75, 0.05)]
    grain = sum(1.0 * ((x - a) ** 2 + (y - b) ** 2 < size**2) for a, b, size in grains)
    v, u = np.mgrid[:M, :M] - (M - 1) / 2
    squared = u**2 + v**2
    probe = np.exp(0.03j * squared - squared / 11**2)
    probe *= np.sqrt(photons / np.sum(np.abs(probe) ** 2))
    return {"object": (1 - 0.4 * grain) * np.exp(1j * (phase + 0.8 * grain)), "probe": probe}


class Experiment:
    """Diffraction patterns of an object and a probe."""

    def __init__(self, asarray: Callable[[Any], Array], photons: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        grid = np.arange(0, N - M + 1, STEP)
        corners = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
        rows, columns = np.clip(corners + rng.integers(-2, 3, corners.shape), 0, N - M).T[:, :, None, None]
        pixels = (rows + np.arange(M)[:, None]) * N + columns + np.arange(M)
        self.truth = images(photons)
        patches = self.truth["object"].ravel()[pixels]
        counts = rng.poisson(np.abs(np.fft.fft2(self.truth["probe"] * patches, norm="ortho")) ** 2)
        v, u = np.mgrid[:M, :M] - (M - 1) / 2
        guess = np.where(np.hypot(u, v) < 13, np.exp(0.02j * (u**2 + v**2)), 0)  # wider, and nearer to the focus
        start = {"object": np.ones((N, N)), "probe": guess * np.sqrt(photons / np.sum(np.abs(guess)))}

        self.shape = pixels.shape
        self.pixels, self.patches = asarray(pixels.ravel()), asarray(inverse(pixels.ravel()))
        self.amplitude = asarray(np.sqrt(counts).astype(np.float32))
        self.start = {name: asarray(a.astype(np.complex64)) for name, a in start.items()}

    def __call__(self, params: Params) -> tuple[float, Params]:
        """Half of the sum of squares of what |wave| and the roots of the counts differ by, and its gradient."""
        xp = array_namespace(self.amplitude)
        patches = xp.reshape(xp.take(xp.reshape(params["object"], (-1,)), self.pixels, axis=0), self.shape)
        wave = xp.fft.fft2(params["probe"] * patches, norm="ortho")
        size = xp.abs(wave)
        off = size - self.amplitude
        back = xp.fft.ifft2(wave * (off / xp.where(size > 0, size, 1.0)), norm="ortho")
        parts = xp.reshape(xp.conj(params["probe"]) * back, (-1,))
        parts = xp.concat([parts, xp.zeros_like(parts[:1])])  # what there is behind the last patch
        whole = xp.sum(xp.reshape(xp.take(parts, xp.reshape(self.patches, (-1,)), axis=0), self.patches.shape), axis=1)
        gradient = {"object": xp.reshape(whole, (N, N)), "probe": xp.sum(xp.conj(patches) * back, axis=0)}
        return float(xp.sum(off * off)) / 2, gradient


def inverse(pixels: Array) -> Array:
    """For each pixel of the object the places in the patches that show it; that behind the last one fills up.

    With it, what belongs to each pixel is found by `take`, and adds up in the same order each time.
    """
    order, counts = np.argsort(pixels, kind="stable"), np.bincount(pixels, minlength=N * N)
    of = pixels[order]
    found = np.full((N * N, counts.max()), len(pixels))
    found[of, np.arange(len(of)) - (np.cumsum(counts) - counts)[of]] = order
    return found


def aligned(a: Array, b: Array) -> Array:
    """The image with the factor and the slope of the phase, which no data can tell, that fit the other one best."""
    turn = a.conj() * b
    down = np.angle(np.sum(turn[1:] * turn[:-1].conj()))
    across = np.angle(np.sum(turn[:, 1:] * turn[:, :-1].conj()))
    a = a * np.exp(1j * (down * np.arange(len(a))[:, None] + across * np.arange(len(a))))
    return a * np.vdot(a, b) / np.vdot(a, a)


def host(x: Array) -> Array:
    """An array as NumPy's."""
    return x.get() if hasattr(x, "get") else np.asarray(x)  # that of CuPy


def show(axes: Axes, image: Array, title: str, **options: Any) -> None:
    """One image."""
    axes.imshow(image, **options)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """Find both images by each method, draw. Returns each one's last value, and how far the object is off."""
    parser = argparse.ArgumentParser(description="Ptychography with solvers, drawn.")
    parser.add_argument("--library", choices=NAMESPACES, default="numpy", help="whose arrays (default: %(default)s)")
    parser.add_argument("--photons", type=int, default=100_000, help="at each position (default: %(default)s)")
    parser.add_argument("--evaluations", type=int, default=150, help="for each method (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of positions and noise (default: %(default)s)")
    parser.add_argument("--output", default="phase_retrieval.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    namespace = importlib.import_module(NAMESPACES[options.library])
    experiment = Experiment(namespace.asarray, options.photons, options.seed)
    methods: dict[str, tuple[Any, str]] = {
        "L-BFGS": (ao.LBFGS(), "#0072b2"),
        "conjugate gradients": (ao.NonlinearCG(), "#00825f"),
        "Momentum": (ao.Momentum(lr=1.4e-3), "#c77700"),
        "Adam": (ao.Adam(lr=0.2), "#c2316e"),
    }
    figure = Figure(figsize=(8.4, 5.6), dpi=130, layout="constrained")
    axes = figure.subplot_mosaic([["truth", "modulus", "probe"], ["found", "found modulus", "values"]])
    inner, found = (slice(M // 2, N - M // 2),) * 2, {}
    truth = experiment.truth["object"][inner]
    for name, (method, color) in methods.items():
        params = {key: array_namespace(a).asarray(a, copy=True) for key, a in experiment.start.items()}
        result = ao.minimize(experiment, params, method=method, stop=ao.Stop(evaluations=options.evaluations))
        image = {key: host(a) for key, a in result.params.items()}
        near = aligned(image["object"][inner], truth)
        found[name] = result.value, float(np.linalg.norm(near - truth) / np.linalg.norm(truth))
        print(f"{name}: value {result.value:.4g}, object {found[name][1]:.1%} off")
        axes["values"].plot(result.history.evaluations, result.history.value, color=color, label=name)
        if name == "L-BFGS":
            best, probe = near, image["probe"]
    show(axes["truth"], np.angle(truth), "phase of the object", vmin=-2, vmax=2, cmap="PuOr")
    show(axes["modulus"], np.abs(truth), "|object|", vmin=0.4, vmax=1.2, cmap="Greys_r")
    show(axes["found"], np.angle(best), "found by L-BFGS", vmin=-2, vmax=2, cmap="PuOr")
    show(axes["found modulus"], np.abs(best), "", vmin=0.4, vmax=1.2, cmap="Greys_r")
    show(axes["probe"], np.abs(probe), "|probe|, found", cmap="Greys_r")
    axes["values"].set(yscale="log", xlabel="evaluations")
    axes["values"].set_title("the loss", loc="left", color=INK, fontsize=10)
    axes["values"].legend(frameon=False, fontsize=8, labelcolor=MUTED)
    axes["values"].grid(color="#eceff2")
    axes["values"].spines[:].set_visible(False)
    axes["values"].tick_params(length=0, labelcolor=MUTED, labelsize=8)
    figure.savefig(options.output)
    print(f"Picture: {options.output}")
    return found


if __name__ == "__main__":
    main()
