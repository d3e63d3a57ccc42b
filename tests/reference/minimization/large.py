"""Problems of the size and kind that users of solvers bring: a long valley, least squares, and lost phases."""

from __future__ import annotations

import numpy as np
from scipy.fft import dct, idct

from tests.reference.minimization.problem import Problem, Vector

__all__ = ["deconvolution", "phase_retrieval", "rosenbrock"]


def rosenbrock(n: int) -> Problem:
    """The chain of 100*(x_{i+1} - x_i**2)**2 + (1 - x_i)**2 from (-1.2, 1, -1.2, 1, ...): each variable in a valley."""

    def value_and_grad(x: Vector) -> tuple[float, Vector]:
        with np.errstate(all="ignore"):
            bend, rest = x[1:] - x[:-1] ** 2, 1 - x[:-1]
            grad = np.zeros_like(x)
            grad[:-1] = -400 * x[:-1] * bend - 2 * rest
            grad[1:] += 200 * bend
            return float(100 * (bend @ bend) + rest @ rest), grad

    return Problem(f"Rosenbrock, {n}-D", np.tile([-1.2, 1.0], n // 2), value_and_grad, 0.0)


def deconvolution(decades: float, n: int = 100_000) -> Problem:
    """Half of |s*dct(x) - b|**2: singular values s from 1 down over so many decades, b that of a random x."""
    s = np.logspace(0, -decades, n)
    b = s * dct(np.random.default_rng(0).normal(size=n), norm="ortho")

    def value_and_grad(x: Vector) -> tuple[float, Vector]:
        r = s * dct(x, norm="ortho") - b
        return float(r @ r) / 2, idct(s * r, norm="ortho")

    return Problem(f"least squares, {n:,}, condition {10**decades:,.0f}", np.zeros(n), value_and_grad, 0.0)


def phase_retrieval(n: int = 64, masks: int = 6) -> Problem:
    """Coded diffraction: the sum of (|F(m*x)| - y)**2 over masks m of random phases, y = |F(m*z)|, z of random numbers.

    From z with noise of 0.7 of its size. The gradient is dL/dRe + i*dL/dIm. Source: Candes, Li and Soltanolkotabi,
    Phase retrieval from coded diffraction patterns, 2015; the loss of amplitudes: Fienup, 1982.
    """
    rng = np.random.default_rng(0)
    m = np.exp(2j * np.pi * rng.uniform(size=(masks, n, n)))
    z, noise = (rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n)) for _ in range(2))
    y = np.abs(np.fft.fft2(m * z, norm="ortho"))

    def value_and_grad(x: Vector) -> tuple[float, Vector]:
        u = np.fft.fft2(m * x, norm="ortho")
        size = np.abs(u)
        r = size - y
        phase = np.divide(u, size, out=np.zeros_like(u), where=size > 0)
        return float((r * r).sum()), 2 * (m.conj() * np.fft.ifft2(r * phase, norm="ortho")).sum(axis=0)

    return Problem(f"phase retrieval, {n} x {n}", z + 0.7 * noise, value_and_grad, 0.0)
