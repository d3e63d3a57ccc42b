"""The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import numpy as np

from anyoptim._arrays import Array
from anyoptim._trace._hyperparameters import Count
from anyoptim.solvers._line import Line
from anyoptim.solvers._solver import TAKE, Iteration, Run, Solver
from anyoptim.solvers._vectors import Kernel
from anyoptim.solvers.line_searches import LineSearch, MoreThuente, Trial

__all__ = ["LBFGS"]


class LBFGS(Solver):
    """L-BFGS: Newton's step, with what the last few steps have told of the second derivatives.

    ::

        p <- p + t*d, with t of a line search
        s = p_new - p,  y = g_new - g                   kept of the last `memory_size` steps with s*y > 0
        q = g;  a_i = s_i*q / s_i*y_i;  q <- q - a_i*y_i                  from the newest pair to the oldest
        d = (s*y / y*y of the newest) * q;  d <- d + (a_i - y_i*d / s_i*y_i) * s_i      from the oldest to the newest
        d <- -d

    These inner products are found on the host: all but those of the new gradient with each s and y are known before or
    follow from these, so that an iteration reads each s and y twice, for the products and for the direction, however
    many there are. Before the first step d is -g, and the first step length tried is 1/|g|.

    Args:
        memory_size: of how many steps s and y are kept, at least 1.
        line_search: for step lengths.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Memory: 2*memory_size + 3 arrays for each parameter, in its compute dtype.

    Source: Liu and Nocedal, On the limited memory BFGS method for large scale optimization, 1989; Nocedal and Wright,
    Numerical Optimization, 2006, algorithm 7.4; with inner products alone, Chen, Wang and Zhou, Large-scale L-BFGS
    using MapReduce, 2014.

    >>> def rosenbrock(p):
    ...     x, off = p[0], p[1] - p[0] ** 2
    ...     return 100 * off**2 + (1 - x) ** 2, np.array([-400 * x * off - 2 * (1 - x), 200 * off])
    >>> ao.minimize(rosenbrock, np.array([-1.2, 1.0]), method=ao.LBFGS()).params.round(4)
    array([1., 1.])
    """

    memory_size: Final[Count] = 10
    line_search: Final[LineSearch] = MoreThuente()

    def kept_vectors(self) -> tuple[str, ...]:
        return ("d", *_pairs(self.memory_size))

    def first(self, run: Run) -> None:
        run.numbers |= Memory.empty(self.memory_size)

    def moved(self, run: Run) -> None:
        self.first(run)

    def iteration(self, run: Run) -> Iteration:
        memory, m = Memory(run.numbers), self.memory_size
        while True:
            of_g, of_pairs, slope = memory.direction(run.numbers["gradient_squared"])
            if not slope < 0 and memory.order:  # rounding has spoilt what is remembered
                memory.forget()
                continue
            names = _pairs(m)
            vectors = [run.vectors[name] for name in ("d", *names)]
            run.space.run(_direction(m), run.vectors["g"], vectors, g=of_g, **dict(zip(names, of_pairs, strict=True)))
            start = Trial(0.0, run.value, slope)
            line = Line(run.begun, run.vectors["origin"], run.vectors["d"], start)
            if line.search(self.line_search, 1.0 if memory.order else 1 / math.sqrt(-slope)):
                return self._take(run, memory, line)
            if not memory.order:
                failure, converged = line.failure()
                return Iteration(failure=failure, converged=converged)
            memory.forget()

    def _take(self, run: Run, memory: Memory, line: Line) -> Iteration:
        """Take the step to the last trial, with its pair if there is curvature along it."""
        start, last, space = line.trials[0], line.last, run.space
        k = memory.next()
        s, y, g = (run.vectors[name] for name in (f"s{k}", f"y{k}", "g"))
        curved = last.slope - start.slope > sys.float_info.epsilon * -start.slope
        kept = [space.params, run.vectors["origin"], g]
        space.run(*((_ACCEPT, line.point.gradients, [*kept, s, y]) if curved else (TAKE, line.point.gradients, kept)))
        if curved:
            memory.add(k)
        both = [(run.vectors[f"{of}{j}"], g) for of in "sy" for j in memory.order]
        within = [(s, y), (y, y), (s, s)] if curved else []
        squared, *found = space.products((g, g), *both, *within)
        memory.put(found[: len(both)], *found[len(both) : len(both) + 2])
        run.numbers |= {"value": last.value, "gradient_squared": squared, "gradient_max": space.largest(g)}
        return Iteration(last.t, math.sqrt(found[-1]) if curved else math.nan)


class Memory:
    """What is known of the inner products among the last steps s, the changes y of the gradient, and the gradient g."""

    def __init__(self, numbers: MutableMapping[str, Any]) -> None:
        self._numbers = numbers
        self.sg, self.yg, self.sy, self.yy = (numbers[name] for name in ("sg", "yg", "sy", "yy"))
        """Of sy only those of each s with the y that are not older are known."""

    @staticmethod
    def empty(size: int) -> dict[str, Any]:
        """The numbers of a memory of so many pairs, before there is any."""
        return {
            "order": [],
            **{name: np.zeros(size) for name in ("sg", "yg")},
            **{name: np.zeros((size, size)) for name in ("sy", "yy")},
        }

    @property
    def order(self) -> list[int]:
        """The places of the pairs, from the oldest to the newest."""
        return self._numbers["order"]  # type: ignore[no-any-return]

    def next(self) -> int:
        """The place of the next pair: a free one, or that of the oldest."""
        return len(self.order) if len(self.order) < len(self.sg) else self.order[0]

    def add(self, k: int) -> None:
        """Note that the newest pair is at this place."""
        self._numbers["order"] = [j for j in self.order if j != k] + [k]

    def forget(self) -> None:
        """Forget all pairs."""
        self._numbers["order"] = []

    def put(self, found: list[float], sy: float = math.nan, yy: float = math.nan) -> None:
        """Note the products of a new gradient with all s and all y, and of the newest pair, if it is new, its own.

        Those of the others with its y follow: y is the difference of two gradients.
        """
        before = self.sg.copy(), self.yg.copy()
        n = len(self.order)
        self.sg[self.order], self.yg[self.order] = found[:n], found[n:]
        if sy == sy:
            k = self.order[-1]
            self.sy[:, k] = self.sg - before[0]
            self.yy[:, k] = self.yy[k] = self.yg - before[1]
            self.sy[k, k], self.yy[k, k] = sy, yy

    def direction(self, gg: float) -> tuple[float, list[float], float]:
        """The coefficients of g and of all s and y in the direction, and its slope: the recursion of two loops."""
        size, order = len(self.sg), self.order
        a, of_s, gamma = np.zeros(size), np.zeros(size), 1.0
        for i in reversed(order):
            a[i] = (self.sg[i] - self.sy[i] @ a) / self.sy[i, i]
        if order:
            k = order[-1]
            gamma = float(self.sy[k, k] / self.yy[k, k])
        for i in order:
            of_s[i] = a[i] - (gamma * (self.yg[i] - self.yy[i] @ a) + of_s @ self.sy[:, i]) / self.sy[i, i]
        of_y = -gamma * a
        slope = -(gamma * gg + of_y @ self.yg + of_s @ self.sg)
        return -gamma, [*(-of_s).tolist(), *(-of_y).tolist()], float(slope)


def _pairs(m: int) -> list[str]:
    """The names of the vectors of all pairs."""
    return [f"{of}{k}" for of in "sy" for k in range(m)]


def _combined(xp: Any, g: Array, d: Array, *pairs_and_c: Any) -> tuple[Array, ...]:
    """`d <- c.g*g + c.s0*s0 + c.s1*s1 + ...`."""
    *pairs, c = pairs_and_c
    d = c.g * g
    for name, vector in zip(_pairs(len(pairs) // 2), pairs, strict=True):
        d = d + getattr(c, name) * vector
    return d, *pairs


@functools.cache
def _direction(m: int) -> Kernel:
    return Kernel(_combined, ("d", *_pairs(m)))


def _accepted(xp: Any, x: Array, p: Array, origin: Array, g: Array, s: Array, y: Array, c: Any) -> tuple[Array, ...]:
    """`s <- p - origin; y <- x - g; origin <- p; g <- x`."""
    return p, p, x, p - origin, x - g


_ACCEPT = Kernel(_accepted, ("p", "origin", "g", "s", "y"))
