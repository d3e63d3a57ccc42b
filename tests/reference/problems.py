"""Three problems, on which each method documents in its row of tests/reference/methods.py which loss it reaches.

`python -m benchmarks.problems --search NAME` proposes what a row says, `python -m benchmarks.problems` writes
docs/problems.md from the rows, and tests/optimizers/test_problems.py runs all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import anyoptim as ao
from tests.support.libraries import DISCOVERED

__all__ = ["PROBLEMS", "TOLERANCE", "Problem", "Run", "excess", "make", "run"]

Arrays = dict[str, np.ndarray[Any, Any]]

TOLERANCE = 0.01
"""How far a loss may be from the one that is documented, as a share of it."""


class Problem(NamedTuple):
    """A loss to be minimised, with its first parameters and the number of steps."""

    title: str
    steps: int
    start: Callable[[], Arrays]
    """The parameters before the first step, in new arrays of float64."""
    loss: Callable[[Arrays], float]
    """The loss above the least there is."""
    gradient: Callable[[Arrays], Arrays]


class Run(NamedTuple):
    """The loss that a method documents on one problem, and how it is reached."""

    loss: float
    """The loss above the least there is, after the problem's steps."""
    hyper: Mapping[str, float]
    """The hyperparameters that are not the default; `cosine` is an lr that falls to 0 over the problem's steps."""


def run(loss: float, **hyper: float) -> Run:
    """`run(1e-3, lr=0.1)`: that loss at that learning rate."""
    return Run(loss, hyper)


def _quadratic() -> Problem:
    """Half of d.T A d, of the distance d to a random point: eigenvalues from 0.001 to 1, rotated at random."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    A = Q * np.logspace(-3, 0, 10) @ Q.T
    truth = rng.normal(size=10)

    def loss(params: Arrays) -> float:
        d = params["W"].ravel() - truth
        return float(d @ A @ d) / 2

    def gradient(params: Arrays) -> Arrays:
        # A matrix, for methods that treat matrices as such; new, because an update looks twice at a view.
        return {"W": np.array((A @ (params["W"].ravel() - truth)).reshape(5, 2))}

    return Problem("quadratic, condition 1,000", 200, lambda: {"W": np.zeros((5, 2))}, loss, gradient)


def _rosenbrock() -> Problem:
    """(1-x)**2 + 100*(y-x*x)**2 from (-1.2, 1), in a curved valley."""

    def loss(params: Arrays) -> float:
        x, y = params["x"].ravel().tolist()
        return float((1 - x) ** 2 + 100 * (y - x * x) ** 2)

    def gradient(params: Arrays) -> Arrays:
        x, y = params["x"].ravel().tolist()
        return {"x": np.array([[-2 * (1 - x) - 400 * x * (y - x * x)], [200 * (y - x * x)]])}

    return Problem("Rosenbrock", 1000, lambda: {"x": np.array([[-1.2], [1.0]])}, loss, gradient)


def _logistic() -> Problem:
    """The mean of log(1 + exp(-s*(X@w + b))) and 0.0005*w@w, over the 569 tumours that come with scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    X, t = load_breast_cancer(return_X_y=True)
    s = 2.0 * t - 1
    Z = s[:, None] * (X - X.mean(axis=0)) / X.std(axis=0)
    n, features = Z.shape
    l2 = 0.001

    def start() -> Arrays:
        return {"w": np.zeros((features, 1)), "b": np.zeros((1, 1))}  # matrices, for methods that take no others

    def loss(params: Arrays) -> float:
        w = params["w"].ravel()
        margins = Z @ w + s * params["b"].item()
        return float(np.logaddexp(0, -margins).mean() + l2 / 2 * (w @ w))

    def gradient(params: Arrays) -> Arrays:
        w = params["w"].ravel()
        wrong = 0.5 - 0.5 * np.tanh((Z @ w + s * params["b"].item()) / 2)
        return {"w": (l2 * w - wrong @ Z / n)[:, None], "b": np.array([[-(wrong @ s) / n]])}

    def least() -> float:
        # The steps of Newton's method get shorter than rounding here after ten.
        x = np.zeros(features + 1)
        both, decay = np.column_stack([Z, s]), np.diag([l2] * features + [0.0])
        for _ in range(20):
            wrong = 0.5 - 0.5 * np.tanh(both @ x / 2)
            hessian = both.T @ (both * (wrong * (1 - wrong))[:, None]) / n + decay
            x -= np.linalg.solve(hessian, decay @ x - wrong @ both / n)
        return loss({"w": x[:-1], "b": x[-1]})

    floor = least()
    title = "logistic regression, breast cancer"
    return Problem(title, 100, start, lambda params: loss(params) - floor, gradient)


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "quadratic": functools.cache(_quadratic),
    "rosenbrock": functools.cache(_rosenbrock),
    "logistic": functools.cache(_logistic),
}


def make(name: str, hyper: Mapping[str, float], steps: int) -> ao.Optimizer:
    """The method with these hyperparameters."""
    given: dict[str, Any] = dict(hyper)
    if "cosine" in given:
        given["lr"] = ao.schedules.Cosine(given.pop("cosine"), steps)
    return DISCOVERED[name](**given)


def excess(
    optimizer: ao.Optimizer,
    problem: Problem,
    *,
    moved: float = 0.0,
    after: Callable[[ao.Optimizer, Arrays, Arrays], ao.Optimizer] = lambda optimizer, before, params: optimizer,
) -> float:
    """The loss above the least after the problem's steps, with gradients off by such a share; infinite if it diverges.

    `after(optimizer, before, params)` may change the parameters after each step and gives the optimizer of the next.
    """
    params = problem.start()
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        for _ in range(problem.steps):
            grads = problem.gradient(params)
            if not all(np.isfinite(g).all() for g in grads.values()):
                return np.inf
            if moved:
                grads = {key: g * (1 + moved * rng.normal(size=g.shape)) for key, g in grads.items()}
            before = {key: p.copy() for key, p in params.items()}
            optimizer.update(params, grads)
            optimizer = after(optimizer, before, params)
        if any(stage.evaluate is not None for stage in optimizer.stages):
            params = optimizer.eval_params(params)
        loss = problem.loss(params)
    return loss if np.isfinite(loss) else np.inf
