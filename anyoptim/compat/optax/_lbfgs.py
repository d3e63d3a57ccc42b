"""Optax's methods that are given the value: its L-BFGS, and gradient descent with Polyak's step length."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

from anyoptim._trace._hyperparameters import Count, nonnegative, number
from anyoptim.compat._solvers import Straying, followed, stepped, take
from anyoptim.compat.optax._linesearch import Zoom, scale_by_zoom_linesearch
from anyoptim.solvers import Iteration, Run, Solver
from anyoptim.solvers._line import Line
from anyoptim.solvers._memory import Memory, combine, pairs
from anyoptim.solvers.lbfgs import ACCEPT

__all__ = ["lbfgs", "polyak_sgd"]

_ZOOM = scale_by_zoom_linesearch(20, initial_guess_strategy="one")


def lbfgs(
    learning_rate: Any = None, memory_size: int = 10, scale_init_precond: bool = True, linesearch: Zoom | None = _ZOOM
) -> Solver:
    """optax.lbfgs as a solver: `update(params, value_and_grad)` is one step, with its line search.

    ::

        s = p_new - p,  y = g_new - g               kept of the last `memory_size` steps, whatever s*y is
        d <- -lr*H*g                                by the two loops of `ao.LBFGS`, lr = 1 where it is None
        p <- p + t*d                                t of the line search, or 1

    In H stands `s*y / y*y` of the newest pair, before any step min(1, 1/|g|); with scale_init_precond=False, 1.
    A schedule of the learning rate is given the count of steps so far. What `scale_by_zoom_linesearch` gives is a
    line search; None takes none. As in optax, a search that finds nothing may take a step that raises the value;
    `ao.minimize` ends at the best point. Where optax goes on with a value that is not finite, parameters stay.
    Where a pair leaves next to nothing of the gradient, d is made of roundings: with scale_init_precond=False, far from
    the minimum of a steep function, optax's own points differ from one processor to another, by fused multiply-adds.

    Memory: 2*memory_size + 5 arrays for each parameter, in its compute dtype.

    >>> solver, x = ao.compat.optax.lbfgs(), np.array([1.0, 2.0, 3.0])
    >>> for _ in range(2):
    ...     x = solver.update(x, lambda x: (float(x @ x), 2 * x))
    ...     print(round(solver.last_value, 6))
    7.516685
    0.0
    """
    return OptaxLBFGS(learning_rate, memory_size, scale_init_precond, linesearch)


def polyak_sgd(
    max_learning_rate: float = 1.0,
    scaling: Any = 1.0,
    f_min: float = 0.0,
    eps: float = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> Solver:
    """optax.polyak_sgd as a solver: `update(params, value_and_grad)` is one step.

    ::

        u = scaling*g
        t = min((f - f_min) / (u*u + eps), max_learning_rate);  0 where u*u + eps is at most 2.2e-16
        p <- p - t*u

    With variant="sps+", f - f_min counts as 0 where it is negative. A schedule as `scaling` is given the count of steps
    so far. The steps may raise the value; `ao.minimize` ends at the best point.

    >>> solver, x = ao.compat.optax.polyak_sgd(), np.array([1.0, 2.0, 3.0])
    >>> for _ in range(3):
    ...     x = solver.update(x, lambda x: (float(x @ x), 2 * x))
    ...     print(solver.last_value)
    3.5
    0.875
    0.21875
    """
    return PolyakSGD(max_learning_rate, scaling, f_min, eps, variant)


class OptaxLBFGS(Straying):
    """The solver that `lbfgs` gives."""

    learning_rate: Final[Any] = None
    memory_size: Final[Count] = 10
    scale_init_precond: Final[bool] = True
    linesearch: Final[Zoom | None] = _ZOOM

    def __post_init__(self) -> None:
        super().__post_init__()
        _number("learning_rate", 1.0 if self.learning_rate is None else self.learning_rate)
        if not isinstance(self.linesearch, Zoom | None):
            raise TypeError(f"linesearch is {self.linesearch!r}; wanted what scale_by_zoom_linesearch gives, or None")

    def kept_vectors(self) -> tuple[str, ...]:
        own = () if self.linesearch is None else ("low",)
        return ("d", *own, *super().kept_vectors(), *pairs(self.memory_size))

    def first(self, run: Run) -> None:
        run.numbers |= {**Memory.empty(self.memory_size), "stepsize": 1.0}

    def iteration(self, run: Run) -> Iteration:
        numbers, v, space, memory = run.numbers, run.vectors, run.space, Memory(run.numbers)
        gamma, order = 1.0, [k for k in memory.order if memory.sy[k, k]]
        if self.scale_init_precond:
            gamma = (
                memory.scale(memory.order) if memory.order else min(1.0, 1.0 / math.sqrt(numbers["gradient_squared"]))
            )
        rate = 1.0 if self.learning_rate is None else _at(self.learning_rate, run)
        of_g, of_pairs, _ = memory.direction(numbers["gradient_squared"], order, gamma)
        combine(run, memory, run.vectors["g"], run.vectors["d"], rate * of_g, [rate * c for c in of_pairs])
        (slope,) = space.products((v["d"], v["g"]))
        line = Line(run, v["d"], slope, slopes=self.linesearch is not None)
        if self.linesearch is None:
            if failure := stepped(line, 1.0):
                return Iteration(failure=failure)
            found, gradients = line.last, line.point.gradients
        else:
            guess = numbers["stepsize"] if self.linesearch.initial_guess_strategy == "keep" else 1.0
            found, gradients = followed(run, line, self.linesearch.steps(line.last, guess), v["low"])
        k = memory.next()
        space.run(ACCEPT, gradients, [space.params, v["origin"], v["g"], v[f"s{k}"], v[f"y{k}"]])
        memory.add(k)
        numbers |= {"value": found.value, "stepsize": found.t}
        return Iteration(found.t, memory.measure(run, newest=True))


class PolyakSGD(Straying):
    """The solver that `polyak_sgd` gives."""

    max_learning_rate: Final[float] = 1.0
    scaling: Final[Any] = 1.0
    f_min: Final[float] = 0.0
    eps: Final[float] = 0.0
    variant: Final[Literal["sps", "sps+"]] = "sps"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number("scaling", self.scaling)
        number.value("f_min", self.f_min)
        for name in ("max_learning_rate", "eps"):
            nonnegative.value(name, getattr(self, name))
        if self.variant not in {"sps", "sps+"}:
            raise ValueError(f"variant is {self.variant!r}; wanted 'sps' or 'sps+'")

    def iteration(self, run: Run) -> Iteration:
        scaling = _at(self.scaling, run)
        squared = scaling**2 * run.numbers["gradient_squared"]
        gap = run.value - self.f_min
        if self.variant == "sps+":
            gap = max(gap, 0.0)
        t = min(gap / (squared + self.eps), self.max_learning_rate) if squared + self.eps > 2.0**-52 else 0.0
        line = Line(run, run.vectors["g"], -squared, scale=-scaling, slopes=False)
        if failure := stepped(line, t):
            return Iteration(failure=failure)
        take(run, line.point)
        return Iteration(t, abs(t) * math.sqrt(squared))


def _number(name: str, value: Any) -> None:
    """Raise TypeError or ValueError for what is neither a number nor a schedule."""
    if not callable(value):
        number.value(name, value)


def _at(value: Any, run: Run) -> float:
    """The value of a number or a schedule after the steps so far."""
    return float(value(int(run.numbers["steps"])) if callable(value) else value)
