"""Landweber's iteration and SIRT: steps along minus the gradient, of which SIRT weighs rows and columns."""

from __future__ import annotations

import math
import operator
from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._trace._hyperparameters import KW_ONLY, Domain, positive
from anyoptim.solvers._best import keep_best, take_best
from anyoptim.solvers._box import Bounds, Box, check_bounds, within
from anyoptim.solvers._function import Function
from anyoptim.solvers._linear import LinearRun, LinearSolver
from anyoptim.solvers._solver import TAKE, Iteration, Run
from anyoptim.solvers._vectors import Kernel, Space, Vector
from anyoptim.solvers.curvature import lipschitz
from anyoptim.solvers.least_squares import each

__all__ = ["SIRT", "Landweber"]


class SteadySolver(LinearSolver):
    """A solver that takes `p <- P(p - lr*C*g)`, where P is the projection onto bounds, and C is 1 or of the problem.

    Once the value has risen, `best` is the best point that was seen; until then that is the last.
    """

    _: KW_ONLY
    bounds: Final[Bounds | None] = None

    vectors: ClassVar[tuple[str, ...]] = ("best",)
    smaller: ClassVar[str]
    """What is wanted where the value is not finite after a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None:
            check_bounds(self.bounds)

    def entered(self, function: Function) -> Function:
        return function if self.bounds is None else within(function, self.bounds)

    def prepare(self, run: Run) -> None:
        run.scratch = None if self.bounds is None else Box(run.begun, self.bounds)

    def end(self) -> None:
        """Put the parameters at the best point that was seen."""
        take_best(self.run)

    def first(self, run: Run) -> None:
        run.numbers["best"] = math.inf

    def moved(self, run: Run) -> None:
        self.first(run)

    def measure(self, run: Run, value: float) -> None:
        """Note what there is to know of the gradient, which is 0 here where it leads out of the bounds."""
        if run.scratch is not None:
            run.scratch.held(run.vectors["g"], run.vectors["origin"])
        super().measure(run, value)

    def iteration(self, run: Any) -> Iteration:
        function, space, box = run.begun, run.space, run.scratch
        origin, g, columns, lr = run.vectors["origin"], run.vectors["g"], self.columns(run), self.rate(run)
        try:
            space.run(_WEIGHED if columns else _PLAIN, g, [space.params, origin, *columns], lr=lr)
            if box is not None:
                box.enter()
            function.put()
            point = function()
        except BaseException:
            run.put(origin)
            self.end()
            raise
        if not math.isfinite(point.value):
            run.put(origin)
            return Iteration(failure=f"the value is {point.value} after the step; wanted {self.smaller}")
        moved = space.distance(origin, space.params)
        if point.value > run.value:
            keep_best(run, origin, run.value)
        space.run(TAKE, point.gradients, [space.params, origin, g])
        self.measure(run, point.value)
        return Iteration(1.0, moved)

    def rate(self, run: Any) -> float:
        """The learning rate."""
        raise NotImplementedError

    def columns(self, run: Any) -> list[Vector]:
        """What the gradient is multiplied by beside; nothing or a vector."""
        return []


class Landweber(SteadySolver):
    """Landweber's iteration: gradient descent for linear least squares, with one learning rate.

    ::

        g = adjoint(weights * (forward(p) - data))
        p <- min(max(p - lr*g, lower), upper)

    It converges for lr below 2/L, where L is the square of the largest singular value of `forward`, weighted. With few
    steps it is a regularization: k steps leave what belongs to singular values below root(L/k). `CGLS` does the same in
    far fewer steps, but without bounds. Where the value rises, as it does for a larger lr, the best point is kept.

    Args:
        lr: the learning rate, above 0. None takes 1/L, with an L that `ao.lipschitz` finds in 11 evaluations.
        bounds: as in `LBFGS`: numbers, arrays or containers of both, (0, None) say, for real parameters.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Memory: three arrays for each parameter, in its compute dtype, and two more with bounds.

    Source: Landweber, An iteration formula for Fredholm integral equations of the first kind, 1951; with bounds,
    Goldstein, Convex programming in Hilbert space, 1964.

    >>> A, b = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([1.0, 3.0, 4.0])
    >>> problem = ao.LeastSquares(lambda p: A @ p, lambda r: A.T @ r, b)
    >>> ao.minimize(problem, np.zeros(2), method=ao.Landweber(bounds=(0.0, None))).params.round(3)
    array([0.   , 1.357])
    """

    lr: Final[float | None] = None

    smaller = "a smaller lr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr is not None:
            vars(self)["_lr"] = positive.value("lr", self.lr)

    def rate(self, run: Any) -> float:
        if self.lr is not None:
            return self.lr
        if "lr" not in run.numbers:
            problem, function = run.problem, run.begun
            elsewhere = function.container(run.space.copied(run.vectors["origin"]))

            def curved(p: Any) -> Any:
                function.evaluations += 1
                return problem.back(problem.image(p))

            largest = lipschitz(curved, elsewhere, iterations=_ITERATIONS)
            if not largest > 0:
                raise ValueError("adjoint(forward(p)) is 0 for random p; wanted an operator, or a number for lr")
            run.numbers["lr"] = 1 / largest
        return float(run.numbers["lr"])


class SIRTRun(LinearRun):
    """What SIRT holds beside: inverse sums of rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Vector | None = None
        self.columns: Vector | None = None

    def evaluated(self, params: Any) -> tuple[float, Any]:
        """The value, and what SIRT makes of the residual."""
        rows, _ = self.sums(params)
        residual = self.problem.residual(params)
        weighed = each(operator.mul, self.problem.ps, rows, residual)
        return 0.5 * self.problem.space.squared(residual), self.problem.back(weighed)

    def sums(self, params: Any) -> tuple[Vector, Vector]:
        """The inverse sums of the rows and of the columns, 0 for sums of 0."""
        if self.rows is None or self.columns is None:
            problem, function = self.problem, Function(params, self.engine)
            for name, ps in (("params", function.ps), ("data", problem.ps)):
                if any(p is not None and p.dtype.startswith("complex") for p in ps):
                    raise TypeError(f"{name} are complex; SIRT wants real ones. CGLS and Landweber take both")
            ones = [p.library.xp.ones_like(p.array) for p in problem.ps]
            given = function.gradients(problem.back(problem.space.widened(ones)), "adjoint(residual)")
            space = function.space
            self.columns = _inverse(space, given, "adjoint")
            unit = space.widened([p.library.xp.ones_like(p.array) for p in space.ps])
            self.rows = _inverse(Space(problem.ps, self.engine), problem.image(function.container(unit)), "forward")
            self.numbers["evaluations"] += 1
        return self.rows, self.columns


class SIRT(SteadySolver):
    """SIRT: the simultaneous iterative reconstruction technique, of tomography.

    ::

        R = 1 / forward(1),  C = 1 / adjoint(1)                         0 where the sum of the row or column is 0
        p <- min(max(p + relaxation * C * adjoint(R * (data - forward(p))), lower), upper)

    It takes nothing but sums of rows and columns for granted, and so needs no learning rate: for an operator without
    negative elements every relaxation below 2 converges, to the minimum of `0.5*sum of R*(forward(p) - data)**2`. The
    value that it tells, and by which it stops, is that of the problem all the same: without R. That one may rise at
    last; the best point is kept. What `gtol` looks at is `adjoint(R * (forward(p) - data))`. With weights, `forward` is
    that of the weighted problem, `root(weights) * forward(p)`.

    The function has to be a `LeastSquares`, and real. The sums count as one evaluation.

    Args:
        relaxation: above 0 and below 2.
        bounds: as in `LBFGS`; `(0, None)` is what attenuation is.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Memory: four arrays for each parameter, two more with bounds, and one for each array of the data, in their compute
    dtypes.

    Raises ValueError for an operator whose sums are negative.

    Source: Gilbert, Iterative methods for the three-dimensional reconstruction of an object from projections, 1972; in
    this form, Gregor and Benson, Computational analysis and improvement of SIRT, 2008, equation 2, as in ASTRA.

    >>> A, b = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([1.0, 3.0, 4.0])
    >>> problem = ao.LeastSquares(lambda p: A @ p, lambda r: A.T @ r, b)
    >>> ao.SIRT().update(np.zeros(2), problem).round(3)
    array([0.833, 0.917])
    """

    relaxation: Final[Annotated[float, Domain(lambda x: 0 < x < 2, "above 0 and below 2")]] = 1.0

    _runs = SIRTRun
    smaller = "a linear forward, and its adjoint"

    def rate(self, run: Any) -> float:
        return self.relaxation

    def columns(self, run: Any) -> list[Vector]:
        return [run.sums(run.begun.tree.container)[1]]


def _inverse(space: Space, sums: Vector, name: str) -> Vector:
    """1/sums, 0 where they are 0 but for rounding. Raises ValueError where they are negative."""
    found, lowest = space.copied(sums), space.zeros()
    floor = 8 * space.rounding * space.largest(found)
    space.run(_BELOW, found, [lowest])
    if not space.largest(lowest) <= floor:
        raise ValueError(f"{name}(ones) is negative or NaN in places; SIRT wants an operator without negative elements")
    space.run(_INVERT, found, [found], floor=floor)
    return found


_ITERATIONS = 10
"""Of the power iteration: what it finds may be some per cent too low, and half of it would do."""


def _plain(xp: Any, g: Array, p: Array, origin: Array, c: Any) -> tuple[Array, ...]:
    """`p <- p - lr*g`."""
    return origin - c.lr * g, origin


def _weighed(xp: Any, g: Array, p: Array, origin: Array, C: Array, c: Any) -> tuple[Array, ...]:
    """`p <- p - lr*C*g`."""
    return origin - c.lr * C * g, origin, C


def _below(xp: Any, x: Array, p: Array, c: Any) -> Array:
    """`p <- x`, but 0 where x is at least that."""
    return xp.where(x >= 0, 0.0, x)


def _inverted(xp: Any, x: Array, p: Array, c: Any) -> Array:
    """`p <- 1/p`, 0 up to the floor."""
    return xp.where(p > c.floor, 1 / xp.where(p > c.floor, p, 1.0), 0.0)


_PLAIN, _WEIGHED = Kernel(_plain, ("p", "origin")), Kernel(_weighed, ("p", "origin", "C"))
_BELOW, _INVERT = (Kernel(rule, ("p",)) for rule in (_below, _inverted))
