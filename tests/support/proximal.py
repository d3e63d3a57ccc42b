"""One proximal step, of nothing else; penalties here and in pyproximal, and a misfit for both to minimize with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyproximal

import anyoptim as ao

__all__ = ["PAIRS", "PENALTIES", "ROUNDING", "SHAPE", "Misfit", "prox"]


def prox(stage: ao.ParameterStage, x: Any, lr: float = 1.0, engine: ao.EngineName | None = "portable") -> Any:
    """What the stage makes of x: the result of a step that leaves it where it is."""
    with np.errstate(all="ignore"):
        return ao.chain(ao.SGD(lr), stage, engine=engine).update(np.array(x), np.zeros_like(x))


Ours = Callable[[float], ao.ParameterStage]
Theirs = Callable[[float], Any]

SHAPE = (4, 6)
ROUNDING = 4e-15
"""Of numbers up to 4: some ten roundings of 1e-16 each."""

PAIRS: dict[str, tuple[Ours, Theirs, float]] = {
    "L1": (ao.prox.L1, lambda sigma: pyproximal.L1(sigma=sigma), 0.0),
    "L2": (ao.prox.L2, lambda sigma: pyproximal.L2(sigma=sigma), 0.0),
    "L21": (ao.prox.L21, lambda sigma: pyproximal.L21(ndim=SHAPE[0], sigma=sigma), ROUNDING),
    "Nuclear": (ao.prox.Nuclear, lambda sigma: pyproximal.Nuclear(dim=SHAPE, sigma=sigma), ROUNDING),
    # Its bisection ends within 1e-10, if it is asked to.
    "Simplex": (ao.prox.Simplex, lambda r: pyproximal.Simplex(24, r, dims=SHAPE, maxiter=200, xtol=1e-11), 1e-10),
    "Simplex of all": (
        lambda r: ao.prox.Simplex(r, axis=None),
        lambda r: pyproximal.Simplex(24, r, maxiter=200, xtol=1e-11),
        1e-10,
    ),
    "Box": (lambda r: ao.Box(-r, 2 * r), lambda r: pyproximal.Box(-r, 2 * r), 0.0),
}
"""A stage of a weight, pyproximal's operator, and how far they may be apart: not at all, where both are one rounding
after the other."""

PENALTIES: dict[str, tuple[Ours, Theirs]] = {name: PAIRS[name][:2] for name in ("L1", "L2")}


class Misfit:
    """|A x - b|**2 / 2, as a function of pyproximal's."""

    def __init__(self, dtype: str = "float64") -> None:
        rng = np.random.default_rng(0)
        self.A = rng.normal(size=(30, 60)) + (1j * rng.normal(size=(30, 60)) if dtype == "complex128" else 0)
        truth = np.where(np.arange(60) % 15, 0, 1.0 + np.arange(60) / 60).astype(dtype)
        self.b = self.A @ truth + 0.01 * rng.normal(size=30)
        # What float32 holds, to which pyproximal rounds it: three bits of the inverse of the largest curvature.
        tau = 1 / np.linalg.norm(self.A, 2) ** 2
        self.tau = float(np.floor(tau / 2.0**-12) * 2.0**-12)
        self.start = np.zeros(60, dtype)
        assert np.float32(self.tau) == self.tau > 0

    def grad(self, x: Any) -> Any:
        return self.A.conj().T @ (self.A @ x - self.b)

    def __call__(self, x: Any) -> float:
        return float(np.linalg.norm(self.A @ x - self.b)) ** 2 / 2

    def iterates(self, stage: ao.ParameterStage, *more: ao.ParameterStage, steps: int = 300) -> list[Any]:
        """Those of ours."""
        optimizer, x, found = ao.chain(ao.SGD(self.tau), stage, *more), self.start.copy(), []
        for _ in range(steps):
            optimizer.update(x, self.grad(x))
            found.append(optimizer.eval_params(x) if more else x.copy())
        return found

    def theirs(self, g: Any, acceleration: str | None) -> list[Any]:
        """And of theirs."""
        found: list[Any] = []
        pyproximal.optimization.primal.ProximalGradient(
            self, g, self.start.copy(), tau=self.tau, niter=300, acceleration=acceleration, callback=found.append
        )
        return found
