"""Conjugate gradients for linear least squares."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Final, cast

from anyoptim._arrays import Array
from anyoptim._trace._hyperparameters import nonnegative
from anyoptim.solvers._linear import LinearRun, LinearSolver
from anyoptim.solvers._solver import Iteration, Run
from anyoptim.solvers._vectors import Kernel, Space, Vector

__all__ = ["CGLS"]


class ResidualRun(LinearRun):
    """What a solver holds that keeps the residual itself."""

    def __init__(self) -> None:
        super().__init__()
        self.residual: Vector | None = None
        """That of the parameters; None where it is not known."""

    def evaluated(self, params: Any) -> tuple[float, Any]:
        """The value and the gradient; the residual is kept."""
        return self.problem.at(self.look(params))

    def look(self, params: Any) -> Vector:
        """Apply `forward` to the parameters, and keep the residual."""
        self.images: Space = Space(self.problem.ps, self.engine)
        self.residual = self.problem.residual(params)
        return self.residual

    def known(self, params: Any) -> Vector:
        """The residual that is kept or was saved; else that of the parameters."""
        saved = self.numbers.pop("residual", ())
        if self.residual is None:
            self.images = Space(self.problem.ps, self.engine)
            like = self.images.zeros()
            if [host.shape for host in saved] == [tuple(a.shape) for a in like]:
                threes = zip(self.problem.ps, like, saved, strict=True)
                self.residual = [p.library.with_values(a, host) for p, a, host in threes]
        return self.look(params) if self.residual is None else self.residual


class CGLS(LinearSolver):
    """CGLS: conjugate gradients for linear least squares, with one `forward` and one `adjoint` an iteration.

    ::

        r = A p - data,  g = A' r + damp**2 * p                                                 at the start
        d <- -g + beta*d,  beta = |g_new|**2 / |g|**2, at first 0
        q = A d
        t = |g|**2 / (|q|**2 + damp**2 * |d|**2)
        p <- p + t*d
        r <- r + t*q
        g <- A' r + damp**2 * p

    It minimizes `0.5*|A p - data|**2 + 0.5*damp**2*|p|**2`, where A is `forward` and A' `adjoint`; weighted, if the
    problem is. Each step goes to the lowest point that so many products with A can reach, so that few are needed, and
    of noisy data their number is what keeps the noise out: `ao.Stop(steps=20)`, or `ao.Stop(value=...)` with half of
    what the squares of the noise add up to. The residual is carried from step to step and not computed anew. Each step
    lowers the value by t*|g|**2/2: where it is off by a factor 2, `adjoint` is not that of `forward`, or `forward` not
    linear, and the solver stops at the point before and says so. It also stops where |g| is down to the rounding of
    A' r, 8*eps*|A|*|r|.

    The function has to be a `LeastSquares`. An iteration counts as one evaluation. Parameters in float16 and bfloat16
    are refused: they would not be where the residual says.

    Args:
        damp: the root of the weight of |p|**2, finite and at least 0, as in SciPy's `lsqr`.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Memory: three arrays for each parameter and one for each array of the data, in their compute dtypes.

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952, section 10; Björck,
    Numerical Methods for Least Squares Problems, 1996, algorithm 7.4.1.

    >>> A, b = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), np.array([1.0, 3.0, 4.0])
    >>> result = ao.minimize(ao.LeastSquares(lambda p: A @ p, lambda r: A.T @ r, b), np.zeros(2), method=ao.CGLS())
    >>> result.params.round(6), result.steps
    (array([-0.333333,  1.5     ]), 2)
    """

    damp: Final[Annotated[float, nonnegative]] = 0.0

    vectors: ClassVar[tuple[str, ...]] = ("d",)
    _runs = ResidualRun

    def first(self, run: Run) -> None:
        for i, p in enumerate(run.space.ps):
            if p.dtype in {"float16", "bfloat16"}:
                name = run.begun.tree.name((run.begun.moving or [])[i])
                self.restart()  # or the next update would go on
                raise TypeError(f"{name} has dtype {p.dtype}, whose rounding CGLS can't follow; wanted float32 or more")
        self.moved(run)

    def moved(self, run: Run) -> None:
        run.numbers |= {"beta": 0.0, "norm_squared": 0.0}
        if self.damp:
            origin, damp2 = run.vectors["origin"], self.damp**2
            run.space.run(_DAMP, origin, [run.vectors["g"]], damp2=damp2)
            run.measure(run.value + 0.5 * damp2 * run.space.products((origin, origin))[0])

    def iteration(self, run: Any) -> Iteration:
        function, space, problem, numbers = run.begun, run.space, run.problem, run.numbers
        origin, g, d = (run.vectors[name] for name in ("origin", "g", "d"))
        damp2, gg, norm = self.damp**2, numbers["gradient_squared"], math.sqrt(numbers["norm_squared"])
        floor = 8 * run.resolution * norm * math.sqrt(2 * run.value)
        if gg <= floor**2:
            hidden = f"|g| = {math.sqrt(gg):.3g} is no more than the rounding of A' r, {floor:.3g}"
            return Iteration(failure=f"{hidden}: this is as far as precision goes", converged=True)
        residual: Vector = run.known(function.tree.container)
        # An iteration that comes to nothing leaves d of no use: the next one begins anew.
        beta, numbers["beta"] = numbers["beta"], 0.0
        space.run(_DIRECTION, g, [d], beta=beta)
        q = problem.image(function.container(d))
        qq = run.images.squared(q)
        pp, pd, dd = space.products((origin, origin), (origin, d), (d, d)) if damp2 else (0.0, 0.0, 0.0)
        curvature = qq + damp2 * dd
        if not 0 < curvature < math.inf:
            return Iteration(failure=f"|forward(d)|**2 is {qq:g} along minus the gradient; {_POINTER}")
        t = gg / curvature
        run.residual = None  # it is not that of the parameters until they have moved, too
        run.images.run(_ADVANCE, q, [residual], t=t)
        value = 0.5 * (run.images.squared(residual) + damp2 * (pp + 2 * t * pd + t * t * dd))
        function.evaluations += 1
        expected, margin = t * gg / 2, 16 * run.resolution * run.value
        if not expected / 2 - margin <= run.value - value <= 2 * expected + margin:
            return _parted(run.value, value, expected, margin)
        x = function.gradients(problem.back(residual), "adjoint(residual)")
        space.run(_STEP, x, [space.params, origin, g, d], t=t, damp2=damp2)
        function.put()
        run.residual = residual
        squared, dd = space.products((g, g), (d, d))
        numbers |= {
            "value": value,
            "gradient_squared": squared,
            "gradient_max": space.largest(g),
            "beta": squared / gg,
            "norm_squared": max(numbers["norm_squared"], curvature / dd),
        }
        return Iteration(t, t * math.sqrt(dd))

    def state_dict(self) -> dict[str, Any]:
        state, run = super().state_dict(), cast("ResidualRun", self.run)
        if run.residual is not None:
            pairs = zip(run.problem.ps, run.residual, strict=True)
            state["numbers"]["residual"] = [p.library.to_host(a).copy() for p, a in pairs]
        return state


_POINTER = "ao.check_adjoint tells if adjoint is that of forward, and forward linear"


def _parted(before: float, value: float, expected: float, margin: float) -> Iteration:
    """Why no step was taken where the value does not change as the gradient says."""
    promise = f"the gradient promises a fall by {expected:.3g}"
    if expected <= margin:
        hidden = f"{promise}, which the rounding of the value, {before:.6g}, hides: this is as far as precision goes"
        return Iteration(failure=hidden, converged=True)
    return Iteration(failure=f"the value changes by {value - before:.3g}, where {promise}; {_POINTER}")


def _damped(xp: Any, p: Array, g: Array, c: Any) -> Array:
    """`g <- g + damp**2 * p`."""
    return g + c.damp2 * p


def _directed(xp: Any, g: Array, d: Array, c: Any) -> Array:
    """`d <- -g + beta*d`."""
    return c.beta * d - g


def _advanced(xp: Any, q: Array, r: Array, c: Any) -> Array:
    """`r <- r + t*q`."""
    return r + c.t * q


def _stepped(xp: Any, x: Array, p: Array, origin: Array, g: Array, d: Array, c: Any) -> tuple[Array, ...]:
    """`p <- p + t*d; g <- x + damp**2 * p`."""
    p = origin + c.t * d
    return p, p, x + c.damp2 * p, d


_DAMP = Kernel(_damped, ("g",))
_DIRECTION = Kernel(_directed, ("d",))
_ADVANCE = Kernel(_advanced, ("r",))
_STEP = Kernel(_stepped, ("p", "origin", "g", "d"), takes=True)
