"""The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, Final, NamedTuple

from anyoptim._arrays import Array
from anyoptim._search.line_searches import LineSearch, MoreThuente
from anyoptim._trace._hyperparameters import Count
from anyoptim.solvers._box import Bounds, Box, check_bounds, within
from anyoptim.solvers._function import Function
from anyoptim.solvers._line import Line, check_search
from anyoptim.solvers._memory import Memory, combine, pairs
from anyoptim.solvers._preconditioner import Preconditioner, check_definite, preconditioned
from anyoptim.solvers._solver import TAKE, Iteration, Run, Solver
from anyoptim.solvers._vectors import COPY, Kernel, Vector

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

    With a preconditioner M, M*q stands for (s*y / y*y)*q, the first step length tried is 1, and an iteration reads each
    y three times.

    Within bounds it goes along what no bound holds, s, y and g being 0 elsewhere, and ends each step where its end is
    projected to. Where bounds hold others than before, all products of pairs are found anew.

    Args:
        memory_size: of how many steps s and y are kept, at least 1.
        bounds: the lower and the upper bounds, each a number, an array, a container of these with the keys of the
            parameters, or None for no bound; None for no bounds at all. Parameters have to be real.
        line_search: for step lengths.
        preconditioner: a function of gradients in the container of the parameters, which gives a container like it and
            changes nothing: of M*g, where M is symmetric and positive definite, near to the inverse of the second
            derivative; `lambda grads: {"W": grads["W"] / curvature}`, say. It is called once an iteration, and may
            change from one to the next. None for what the newest pair tells.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Memory: 2*memory_size + 3 arrays for each parameter, in its compute dtype; 4 more with bounds, and one more with a
    preconditioner.

    Raises ValueError in an iteration, where q*M*q is not above 0, which it is for such an M.

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
    bounds: Final[Bounds | None] = None
    line_search: Final[LineSearch] = MoreThuente()
    preconditioner: Final[Preconditioner | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_search(self.line_search)
        if self.bounds is not None:
            check_bounds(self.bounds)

    def kept_vectors(self) -> tuple[str, ...]:
        return (*pairs(self.memory_size),)

    def entered(self, function: Function) -> Function:
        return function if self.bounds is None else within(function, self.bounds)

    def prepare(self, run: Run) -> None:
        saved = "sg" in run.numbers
        Memory.check(run.numbers, self.memory_size)
        run.numbers = Memory.empty(self.memory_size) | run.numbers
        z = run.space.zeros() if self.preconditioner is not None else []
        run.scratch = _Scratch(run.space.zeros(), z, None if self.bounds is None else Box(run.begun, self.bounds))
        box: Box | None = run.scratch.box
        if saved and box is not None:
            box.mark(run.vectors["g"], run.vectors["origin"])
            # A state without bounds, say, has to be put within them first.
            run.space.unsettled = run.space.unsettled or box.leaves_out(run.vectors["origin"])

    def measure(self, run: Run, value: float) -> None:
        run.numbers["value"] = value
        if run.scratch.box is None:
            Memory(run.numbers).measure(run, newest=False)
        else:
            self._hold(run, run.scratch.box, newest=False)

    def hopeless(self) -> Iteration | None:
        found = super().hopeless()
        if found is not None and found.converged and self.run.space.size and self.bounds is not None:
            return found._replace(failure="the gradient is zero, but for what bounds hold")
        return found

    def iteration(self, run: Run) -> Iteration:
        memory = Memory(run.numbers)
        while True:
            line, first, longest = self._line(run, memory)
            if line is not None and line.search(self.line_search, first, longest):
                return self._take_step(run, memory, line)
            if not memory.order:
                failure, converged = (_UPHILL, False) if line is None else line.failure()
                return Iteration(failure=failure, converged=converged)
            memory.forget()

    def _line(self, run: Run, memory: Memory) -> tuple[Line | None, float, float]:
        """The line of the next search, the first step length and the longest; None where the value does not fall."""
        d, box, origin = run.scratch.d, run.scratch.box, run.vectors["origin"]
        g = run.vectors["g"] if box is None else box.gradient
        if self.preconditioner is None:
            z, (of_z, of_pairs, slope) = g, memory.direction(run.numbers["gradient_squared"])
        else:
            z, of_z, of_pairs, slope = self._preconditioned(run, memory, g, self.preconditioner)
        if not slope < 0:
            return None, 0.0, 0.0
        scaled = bool(memory.order) or self.preconditioner is not None
        aim = functools.partial(combine, run, memory, z, d, of_z, of_pairs)
        aim()
        if box is None:
            first = 1.0 if scaled else 1 / math.sqrt(-slope)
            return Line(run, d, slope), first, math.inf
        box.hold(d)
        box.project(d, origin)
        slope, squared = run.space.products((d, g), (d, d))
        scale, longest = 1.0, max(1.0, box.reach(d, origin)) if run.numbers["steps"] else 1.0
        first = 1.0 if scaled or box.boxed or not squared else min(1.0, 1 / math.sqrt(squared))
        if not slope < 0:  # the end was projected to where the value need not fall: go straight on, to the first bound
            aim()
            box.hold(d)
            scale, longest = min(1.0, box.reach(d, origin)), 1.0
            (slope,) = run.space.products((d, g))
            slope *= scale
        line = Line(run, d, slope, scale=scale, box=box) if slope < 0 else None
        return line, first, longest

    def _preconditioned(
        self, run: Run, memory: Memory, g: Vector, of: Preconditioner
    ) -> tuple[Vector, float, list[float], float]:
        """The vector z = M*q, the coefficients of z and of all y and s in the direction, and its slope."""
        q, z, box = run.scratch
        space, order, m = run.space, memory.curved, len(memory.sg)
        a = memory.shares(order)
        combine(run, memory, g, q, 1.0, [*(-a).tolist(), *[0.0] * m])
        if box is not None:
            box.hold(q)
        space.run(COPY, preconditioned(run, of, q), [z])
        if box is not None:
            box.hold(z)
        ys = [run.vectors[f"y{k}"] for k in memory.asked]
        zq, qq, zg, *yz = space.products((q, z), (q, q), (g, z), *((y, z) for y in ys))
        check_definite(zq, qq)
        of_s = memory.steps(order, a, [*yz, *[0.0] * (m - len(yz))])
        return z, -1.0, [*[0.0] * m, *(-of_s).tolist()], -(zg + float(of_s @ memory.sg))

    def _take_step(self, run: Run, memory: Memory, line: Line) -> Iteration:
        """Take the step to the last trial, with its pair if there is curvature along it."""
        start, last, space, box = line.trials[0], line.last, run.space, line.box
        k = memory.next()
        s, y, g = (run.vectors[name] for name in (f"s{k}", f"y{k}", "g"))
        curved = last.slope - start.slope > sys.float_info.epsilon * -start.slope
        kept = [space.params, run.vectors["origin"], g]
        space.run(*((ACCEPT, line.point.gradients, [*kept, s, y]) if curved else (TAKE, line.point.gradients, kept)))
        if curved:
            memory.add(k)
        run.numbers["value"] = last.value
        if box is None:
            return Iteration(last.t, memory.measure(run, newest=curved))
        self._hold(run, box, newest=curved)
        return Iteration(last.t, math.sqrt(space.products((s, s))[0]) if curved else math.nan)

    def _hold(self, run: Run, box: Box, *, newest: bool) -> None:
        """Note what bounds hold at the origin, and what there is to know of the gradient and the pairs without that.

        Where bounds hold what they held, only products with the newest pair, if there is one, are not known.
        """
        space, vectors, memory = run.space, run.vectors, Memory(run.numbers)
        g, origin = vectors["g"], vectors["origin"]
        order, changed = memory.order, box.mark(g, origin)
        both = [(vectors[f"{of}{i}"], box.gradient) for of in "sy" for i in order]
        squared, *found = space.products((box.gradient, box.gradient), *both)
        ahead = [(i, j) for a, i in enumerate(order) for j in order[a:] if changed or (newest and j == order[-1])]
        within = box.products([(vectors[f"{of}{i}"], vectors[f"y{j}"]) for of in "sy" for i, j in ahead])
        memory.know(found, ahead, within)
        run.numbers |= {"gradient_squared": squared, "gradient_max": box.largest(g, origin)}


_UPHILL = "the value does not fall along any direction that the gradient gives: it is too near to the rounding"


class _Scratch(NamedTuple):
    """What is not saved."""

    d: Vector
    z: Vector
    """What the preconditioner gave; empty without one."""
    box: Box | None


def _accepted(xp: Any, x: Array, p: Array, origin: Array, g: Array, s: Array, y: Array, c: Any) -> tuple[Array, ...]:
    """`s <- p - origin; y <- x - g; origin <- p; g <- x`."""
    return p, p, x, p - origin, x - g


ACCEPT = Kernel(_accepted, ("p", "origin", "g", "s", "y"), takes=True)
