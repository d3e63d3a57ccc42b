"""Conjugate gradients for functions that need not be quadratic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple

from anyoptim._arrays import Array
from anyoptim._search.line_searches import LineSearch, MoreThuente
from anyoptim._trace._hyperparameters import positive
from anyoptim.solvers._line import Line, check_search
from anyoptim.solvers._preconditioner import Preconditioner, check_definite, preconditioned
from anyoptim.solvers._solver import TAKE, Iteration, Run, Solver
from anyoptim.solvers._vectors import Kernel

__all__ = ["BETAS", "NonlinearCG"]


class _Products(NamedTuple):
    """The inner products that the next direction depends on, of the gradients g before a step and g1 after it."""

    zg: float
    """z1*g1."""
    zg_between: float
    """z1*g."""
    zg_before: float
    """z*g."""
    dg: float
    """d*g1."""
    dg_before: float
    """d*g."""

    @property
    def zy(self) -> float:
        """z1*y, where y = g1 - g."""
        return self.zg - self.zg_between

    @property
    def dy(self) -> float:
        """d*y, above 0 after a search for the Wolfe conditions."""
        return self.dg - self.dg_before


def _hager_zhang(of: _Products) -> float:
    """The product of y with `z1 - z - 2*d*(y*z)/(d*y)`, over d*y: that of g1 with it, z1 - z being the change of z."""
    yz = of.zg - 2 * of.zg_between + of.zg_before
    return (of.zy - 2 * yz * of.dg / of.dy) / of.dy


BETAS: Mapping[str, Callable[[_Products], float]] = {
    "PR+": lambda of: max(0.0, of.zy / of.zg_before),
    "HS": lambda of: of.zy / of.dy,
    "HS+": lambda of: max(0.0, of.zy / of.dy),
    "FR": lambda of: of.zg / of.zg_before,
    "DY": lambda of: of.zg / of.dy,
    "HS-DY": lambda of: max(0.0, min(of.zy, of.zg) / of.dy),
    "HZ": _hager_zhang,
}
"""What share of the last direction goes into the next one."""


class NonlinearCG(Solver):
    """Nonlinear conjugate gradients: directions that spoil little of what the ones before have gained.

    ::

        p <- p + t*d, with t of a line search
        y = g_new - g
        beta =  g_new*y / g*g,  or 0 if that is below 0       "PR+", Polak and Ribière
                g_new*y / d*y                                 "HS",  Hestenes and Stiefel; "HS+", or 0 likewise
                g_new*g_new / g*g                             "FR",  Fletcher and Reeves
                g_new*g_new / d*y                             "DY",  Dai and Yuan
                the smaller of HS and DY, or 0 likewise       "HS-DY"
                g_new*y / d*y - 2*(y*y / d*y)*(d*g_new / d*y) "HZ",  Hager and Zhang
        d <- beta*d - g_new

    It begins anew, with d = -g, where d is no direction of descent, where d*y is not above 0, where a line search finds
    nothing, and where |g_new*g|, which is 0 on a quadratic function, is at least `restart_at` times g_new*g_new
    (Powell). The first step length that is tried is the one at which a parabola would fall as far as the value fell in
    the last step, but at most 10 times the last one; before that, 1/|g|. With a preconditioner M, z = M*g stands for
    one g in each product of two and in d, and the first step length is 1.

    Memory: 3 arrays for each parameter, in its compute dtype, where L-BFGS has two for each step that it remembers.

    Args:
        beta: one of these names.
        line_search: for step lengths. A direction depends on the last one, so that a step must end near a minimum of
            its line: c2 of 0.1 and not of 0.9.
        restart_at: above 0; infinite for never. 0.1 is usual for FR, which may else take many short steps in a row;
            HS+ and PR+ begin anew by themselves.
        preconditioner: a function of gradients in the container of the parameters, which gives a container like it and
            changes nothing: of M*g, where M is symmetric and positive definite, near to the inverse of the second
            derivative; `lambda grads: {"W": grads["W"] / curvature}`, say. None for M = 1.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Raises ValueError for another beta; and in an iteration, where z*g is not above 0, which it is for such an M.

    Source: Nocedal and Wright, Numerical optimization, 2006, section 5.2 and equation 3.60 for the first step length;
    Hager and Zhang, A survey of nonlinear conjugate gradient methods, 2006.

    >>> def rosenbrock(p):
    ...     x, off = p[0], p[1] - p[0] ** 2
    ...     return 100 * off**2 + (1 - x) ** 2, np.array([-400 * x * off - 2 * (1 - x), 200 * off])
    >>> result = ao.minimize(rosenbrock, np.array([-1.2, 1.0]), method=ao.NonlinearCG(), stop=ao.Stop(gtol=1e-8))
    >>> result.params.round(6), result.converged
    (array([1., 1.]), True)
    """

    beta: Final[str] = "HS+"
    line_search: Final[LineSearch] = MoreThuente(c1=1e-4, c2=0.1)
    restart_at: Final[Annotated[float, positive]] = math.inf
    preconditioner: Final[Preconditioner | None] = None

    vectors: ClassVar[tuple[str, ...]] = ("d",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search(self.line_search)
        if self.beta not in BETAS:
            raise ValueError(f"beta is {self.beta!r}; wanted one of {', '.join(map(repr, BETAS))}")

    def first(self, run: Run) -> None:
        run.numbers |= dict.fromkeys(("slope", "zg", "fall", "step_length"), math.nan)

    def moved(self, run: Run) -> None:
        self.first(run)

    def iteration(self, run: Run) -> Iteration:
        numbers = run.numbers
        anew = not numbers["slope"] < 0
        while True:
            if anew:
                self._begin(run)
            line = Line(run, run.vectors["d"], numbers["slope"])
            if line.search(self.line_search, self._first_length(run)):
                return self._take(run, line)
            if anew:
                failure, converged = line.failure()
                return Iteration(failure=failure, converged=converged)
            anew = True

    def _begin(self, run: Run) -> None:
        """Let the direction be -z."""
        z = self._preconditioned(run, run.vectors["g"])
        zg = self._size(run, z)
        run.space.run(_NEXT, z, [run.vectors["d"]], beta=0.0)
        run.numbers |= {"zg": zg, "slope": -zg}

    def _first_length(self, run: Run) -> float:
        """The first step length to try."""
        slope, fall, last = (run.numbers[name] for name in ("slope", "fall", "step_length"))
        if fall > 0:
            return float(min(2 * fall / -slope, 10 * last))
        return 1 / math.sqrt(-slope) if self.preconditioner is None else 1.0

    def _take(self, run: Run, line: Line) -> Iteration:
        """Take the step to the last trial, and find the next direction."""
        start, last, x, space, numbers = line.trials[0], line.last, line.point.gradients, run.space, run.numbers
        g, d = run.vectors["g"], run.vectors["d"]
        z = self._preconditioned(run, x)
        between, squared = space.products((g, z), (d, d))
        space.run(TAKE, x, [space.params, run.vectors["origin"], g])
        run.measure(last.value)
        zg = self._size(run, z)
        of = _Products(zg, between, numbers["zg"], last.slope, start.slope)
        beta = self._share(of)
        space.run(_NEXT, z, [d], beta=beta)
        numbers |= {
            "zg": zg,
            "slope": beta * of.dg - zg if beta else -zg,
            "fall": start.value - last.value,
            "step_length": last.t,
        }
        return Iteration(last.t, last.t * math.sqrt(squared))

    def _share(self, of: _Products) -> float:
        """The share of the last direction; 0 to begin anew."""
        anew = not abs(of.zg_between) < self.restart_at * of.zg or not of.dy > 0
        return 0.0 if anew else BETAS[self.beta](of)

    def _preconditioned(self, run: Run, x: Sequence[Array]) -> Sequence[Array]:
        """M times a gradient."""
        if self.preconditioner is None:
            return x
        return preconditioned(run, self.preconditioner, x)

    def _size(self, run: Run, z: Sequence[Array]) -> float:
        """z*g. Raises ValueError where it can't be what M is said to be."""
        if self.preconditioner is None:
            return float(run.numbers["gradient_squared"])
        (found,) = run.space.products((run.vectors["g"], z))
        check_definite(found, run.numbers["gradient_squared"])
        return found


def _next(xp: Any, x: Array, d: Array, c: Any) -> Array:
    """`d <- beta*d - z`; for a beta of 0, -z, whatever d is."""
    return xp.where(c.beta == 0, -x, c.beta * d - x)


_NEXT = Kernel(_next, ("d",))
