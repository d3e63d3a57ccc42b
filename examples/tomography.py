"""Tomography
==========

Find an image from few and noisy X-ray projections, in four ways, with the arrays of any library.

::

    python examples/tomography.py --library torch

A slice is seen from 40 directions, in each of which a row of 96 detectors counts photons. The logarithm of the counts
is linear in the slice, more uncertain where fewer photons arrive, and so this is a linear least-squares problem with
weights, `ao.LeastSquares`: `forward` projects, and `adjoint` projects back. SIRT is what tomography has always been
done with; CGLS needs a tenth of the steps, and their number keeps the noise out; L-BFGS goes on towards the image
that fits the data best, noise and all; and the last one has little total variation beside, as such slices are known
to have. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import anyoptim as ao

Array = Any

N, DETECTORS, ANGLES = 64, 96, 40
"""The pixels along the slice, the detectors in a row, and the directions."""
NAMESPACES = {"numpy": "numpy", "cupy": "cupy", "torch": "torch", "jax": "jax.numpy"}
INK, MUTED = "#1f2933", "#64707d"

ELLIPSES = [
    # attenuation, center (x, y), half axes, angle
    (0.040, 0.0, 0.0, 0.85, 0.92, 0.0),
    (-0.022, 0.0, -0.02, 0.77, 0.84, 0.0),
    (-0.012, 0.26, 0.05, 0.13, 0.34, -0.32),
    (-0.012, -0.26, 0.05, 0.18, 0.42, 0.32),
    (0.014, 0.0, 0.45, 0.24, 0.20, 0.0),
    (0.022, -0.1, -0.62, 0.08, 0.05, 0.0),
    (0.022, 0.12, -0.62, 0.05, 0.07, 0.0),
    (0.022, 0.0, -0.3, 0.06, 0.06, 0.0),
]
"""What the slice consists of, in shares of its half width; attenuations add up, each of a pixel's length."""


def slice_of_pixels() -> Array:
    """The truth: the mean attenuation of each pixel, from 8 by 8 points within."""
    y, x = np.mgrid[: 8 * N, : 8 * N] / (4 * N) - 1 + 1 / (8 * N)
    image = np.zeros_like(x)
    for height, x0, y0, a, b, turn in ELLIPSES:
        u = (x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)
        v = (y - y0) * np.cos(turn) - (x - x0) * np.sin(turn)
        image += height * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    return image.reshape(N, 8, N, 8).mean(axis=(1, 3))


def line_integrals() -> Array:
    """What an ideal scanner sees of the ellipses: chords, which have a formula; of shape (angles, detectors)."""
    theta = np.pi * np.arange(ANGLES)[:, None] / ANGLES
    s = (np.arange(DETECTORS) - (DETECTORS - 1) / 2) * 2 / N
    found = np.zeros((ANGLES, DETECTORS))
    for height, x0, y0, a, b, turn in ELLIPSES:
        squared = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
        off = s - x0 * np.cos(theta) - y0 * np.sin(theta)
        found += height * N * a * b / squared * np.sqrt(np.maximum(squared - off**2, 0))
    return found


def matrix() -> tuple[Array, Array, Array]:
    """The projector: each pixel is seen by the two detectors next to its shadow. Rows, columns and values."""
    theta = np.pi * np.arange(ANGLES)[:, None] / ANGLES
    y, x = (of.ravel() - (N - 1) / 2 for of in np.mgrid[:N, :N])
    shadow = x * np.cos(theta) + y * np.sin(theta) + (DETECTORS - 1) / 2
    left = np.floor(shadow).astype(int)
    rows = np.arange(ANGLES)[:, None] * DETECTORS + np.stack([left, left + 1])
    columns = np.broadcast_to(np.arange(N * N), rows.shape)
    return rows.ravel(), columns.ravel(), np.stack([left + 1 - shadow, shadow - left]).ravel()


class Gather:
    """A sparse matrix as a table: of each row the places of its elements, and these; zeros fill it up.

    A product is `take` and `sum`, which every library has, and adds in the same order each time.
    """

    def __init__(self, asarray: Callable[[Any], Array], rows: Array, columns: Array, values: Array, n: int) -> None:
        order = np.argsort(rows, kind="stable")
        rows, counts = rows[order], np.bincount(rows, minlength=n)
        within = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
        table, weights = np.zeros((n, counts.max()), np.int64), np.zeros((n, counts.max()), np.float32)
        table[rows, within], weights[rows, within] = columns[order], values[order]
        self.shape, self.table, self.weights = table.shape, asarray(table.ravel()), asarray(weights)

    def __call__(self, x: Array) -> Array:
        """The product with a vector."""
        xp = array_namespace(x)
        return xp.sum(xp.reshape(xp.take(x, self.table, axis=0), self.shape) * self.weights, axis=1)


class Scan(NamedTuple):
    """What the scanner has counted, as a problem."""

    problem: ao.LeastSquares
    sinogram: Array


def scan(asarray: Callable[[Any], Array], photons: int, seed: int) -> Scan:
    """Count photons: `photons` of them reach each detector where nothing is in between."""
    counts = np.maximum(np.random.default_rng(seed).poisson(photons * np.exp(-line_integrals())), 1)
    data, weights = np.log(photons / counts), counts / photons
    rows, columns, values = matrix()
    project = Gather(asarray, rows, columns, values, ANGLES * DETECTORS)
    back = Gather(asarray, columns, rows, values, N * N)

    def forward(p: Array) -> Array:
        xp = array_namespace(p)
        return xp.reshape(project(xp.reshape(p, (-1,))), (ANGLES, DETECTORS))

    def adjoint(r: Array) -> Array:
        xp = array_namespace(r)
        return xp.reshape(back(xp.reshape(r, (-1,))), (N, N))

    data, weights = data.astype(np.float32), weights.astype(np.float32)
    problem = ao.LeastSquares(forward, adjoint, asarray(data), asarray(weights))
    return Scan(problem, data)


def total_variation(library: str, sigma: float) -> ao.prox.Operator:
    """The proximal step of sigma times the total variation."""
    if library != "cupy":
        os.environ.setdefault("CUPY_PYLOPS", "0")  # CuPy would be imported, also where there is no device
    return ao.prox.Operator(importlib.import_module("pyproximal").TV(dims=(N, N), sigma=sigma, niter=20))


def host(x: Array) -> Array:
    """An array as NumPy's."""
    return x.get() if hasattr(x, "get") else np.asarray(x)  # that of CuPy


def show(axes: Axes, image: Array, title: str, **options: Any) -> None:
    """One image."""
    axes.imshow(image, cmap="Greys_r", **options)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Scan, find the slice in four ways, draw. Returns how far each is off, as a share of the slice."""
    parser = argparse.ArgumentParser(description="Tomography from few and noisy projections.")
    parser.add_argument("--library", choices=NAMESPACES, default="numpy", help="whose arrays (default: %(default)s)")
    parser.add_argument("--photons", type=int, default=3000, help="for each detector (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--output", default="tomography.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    asarray = importlib.import_module(NAMESPACES[options.library]).asarray
    scanned = scan(asarray, options.photons, options.seed)

    def empty() -> Array:
        return asarray(np.zeros((N, N), np.float32))

    problem = scanned.problem
    print(ao.check_adjoint(problem.forward, problem.adjoint, empty()))
    methods: dict[str, tuple[ao.solvers.Solver, int]] = {
        "SIRT": (ao.SIRT(bounds=(0, None)), 50),
        "CGLS": (ao.CGLS(), 6),
        "L-BFGS": (ao.LBFGS(bounds=(0, None)), 20),
        "total variation": (ao.ProximalGradient(total_variation(options.library, sigma=0.14)), 30),
    }
    found = {}
    for name, (method, steps) in methods.items():
        result = ao.minimize(problem, empty(), method=method, stop=ao.Stop(steps=steps))
        found[f"{name}, {result.steps} steps"] = result.params

    truth, images = slice_of_pixels(), {name: host(x) for name, x in found.items()}
    errors = {name: float(np.linalg.norm(x - truth) / np.linalg.norm(truth)) for name, x in images.items()}
    figure = Figure(figsize=(7.6, 5.4), dpi=130, layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for one, (name, image) in zip(axes, {"the slice": truth, **images}.items(), strict=False):
        off = f": {errors[name]:.0%} off" if name in errors else ""
        show(one, image, name + off, vmin=0, vmax=0.045)
    show(axes[-1], scanned.sinogram, "what was measured", aspect="auto")
    axes[-1].set_xlabel("detector", color=MUTED, fontsize=9)
    axes[-1].set_ylabel("direction", color=MUTED, fontsize=9)
    figure.savefig(options.output)
    for name, error in errors.items():
        print(f"{name}: {error:.1%} off")
    print(f"Picture: {options.output}")
    return errors


if __name__ == "__main__":
    main()
