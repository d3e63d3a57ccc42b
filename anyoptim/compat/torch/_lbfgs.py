"""torch.optim.LBFGS: many steps in one, and a memory that is only looked at in the next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeVar

from anyoptim._arrays import Array
from anyoptim._trace._hyperparameters import Check, Count, WholeNumber, nonnegative, number
from anyoptim.compat._solvers import Straying, followed, stepped, take
from anyoptim.compat.torch._constructor import refuse_params
from anyoptim.compat.torch._line_search import strong_wolfe
from anyoptim.solvers import Iteration, Run
from anyoptim.solvers._function import Point, ValueAndGrad
from anyoptim.solvers._line import Line
from anyoptim.solvers._memory import Memory, combine, pairs
from anyoptim.solvers._vectors import COPY, Kernel

__all__ = ["LBFGS"]

P = TypeVar("P")


class LBFGS(Straying):
    """torch.optim.LBFGS: `update(params, value_and_grad)` is its `step(closure)`, of up to `max_iter` steps.

    ::

        s = t*d,  y = g - g_before                      kept of the last `history_size` steps with s*y > 1e-10
        d <- -H*g                                       by the two loops of `ao.LBFGS`
        t <- lr; before any step lr*min(1, 1/sum |g_i|)
        p <- p + t*d                                    with "strong_wolfe" t of a line search that begins there

    Each update calls the function where the parameters are, since it may be that of other data by now, and once or more
    for each step; without a line search not after the last one, so that `last_value` is that of the step before. It
    ends after `max_iter` steps or `max_eval` calls (max_iter * 5 // 4 if it is None); where no element of g exceeds
    `tolerance_grad`; where a step changes no element of p by more than `tolerance_change`, or the value by less; and
    where d falls by less than that: `last_failure` then says that no step was taken, if that was the first one.

    Where torch goes on with a value that is not finite, the parameters stay where they were before.

    Memory: 2*history_size + 5 arrays for each parameter from the first update on, in its compute dtype.

    >>> solver = ao.compat.torch.LBFGS(line_search_fn="strong_wolfe")
    >>> x = solver.update(np.array([3.0, 4.0]), lambda x: (float(x @ x), 2 * x))
    >>> round(solver.last_value, 9), solver.evaluations
    (0.0, 3)
    """

    lr: Final[Annotated[float, nonnegative]] = 1
    max_iter: Final[Count] = 20
    max_eval: Final[int | None] = None
    tolerance_grad: Final[Annotated[float, number]] = 1e-7
    tolerance_change: Final[Annotated[float, number]] = 1e-9
    history_size: Final[Count] = 100
    line_search_fn: Final[str | None] = None

    _count: ClassVar[Check] = WholeNumber(1)

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **options: Any) -> None:
            refuse_params("LBFGS", args, options, "update(params, value_and_grad)")
            super().__init__(*args, **options)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_eval is not None:
            self._count.value("max_eval", self.max_eval)
        if self.line_search_fn not in {None, "strong_wolfe"}:
            raise ValueError(f"line_search_fn is {self.line_search_fn!r}; wanted None or 'strong_wolfe'")

    def kept_vectors(self) -> tuple[str, ...]:
        own = ("low",) if self.line_search_fn else super().kept_vectors()
        return ("d", "before", *own, *pairs(self.history_size))

    def first(self, run: Run) -> None:
        run.numbers |= {**Memory.empty(self.history_size), "t": 0.0, "slope": 0.0, "inner": 0, "ahead": False}

    def begin(self, params: Any, value_and_grad: ValueAndGrad) -> None:
        """Take these parameters, and call the function where they are."""
        before = self.run.numbers["evaluations"]
        super().begin(params, value_and_grad)
        run = self.run
        if run.numbers["evaluations"] == before:
            take(run, run.ask(run.begun))
        run.numbers["ahead"] = False

    def note(self, run: Run) -> None:
        if self.line_search_fn is None:
            super().note(run)

    def update(self, params: P, value_and_grad: ValueAndGrad) -> P:
        self.begin(params, value_and_grad)
        super().iterate()
        return self.params  # type: ignore[no-any-return]

    def iterate(self) -> Iteration:
        """Take one iteration, and call the function where it ends."""
        iteration, run = super().iterate(), self.run
        if run.numbers["ahead"]:
            try:
                take(run, run.ask(run.begun))
            except BaseException:
                Line(run, run.vectors["d"], 0.0).back()
                raise
            run.numbers["ahead"] = False
        return iteration

    def iteration(self, run: Run) -> Iteration:
        numbers, space = run.numbers, run.space
        if numbers["gradient_max"] <= self.tolerance_grad:
            return Iteration(
                failure=f"the largest element of the gradient, {numbers['gradient_max']:.3g}, is at most "
                f"tolerance_grad = {self.tolerance_grad:g}",
                converged=True,
            )
        spent, most = 1, self.max_iter * 5 // 4 if self.max_eval is None else self.max_eval
        t, length, failure = math.nan, 0.0, ""
        for n in range(self.max_iter):
            before, first = run.value, self._turned(run)
            if not numbers["slope"] <= -self.tolerance_change:
                failure = f"the slope along the direction, {numbers['slope']:.3g}, is above -tolerance_change"
                break
            line = Line(run, run.vectors["d"], numbers["slope"])
            largest = space.largest(run.vectors["d"])
            if self.line_search_fn is not None:
                steps = strong_wolfe(line.last, first, largest, most - spent)
                found, gradients = followed(run, line, steps, run.vectors["low"])
                numbers["t"] = found.t
                take(run, Point(found.value, gradients))
                spent += len(line.trials) - 1
            elif n + 1 < self.max_iter:
                failure = stepped(line, first)
                if failure:
                    break
                take(run, line.point)
                self.note(run)
                spent += 1
            else:
                line.move(first)
                numbers["ahead"] = True
            t = numbers["t"]
            length += abs(t) * math.sqrt(space.products((run.vectors["d"], run.vectors["d"]))[0])
            if (
                spent >= most
                or numbers["gradient_max"] <= self.tolerance_grad
                or largest * abs(t) <= self.tolerance_change
                or abs(run.value - before) < self.tolerance_change
            ):
                break
        if failure and t != t:
            return Iteration(failure=failure, converged=-self.tolerance_change < numbers["slope"] <= 0)
        return Iteration(t, length)

    def _turned(self, run: Run) -> float:
        """Turn the direction: note what the last step has told, and return the step length to begin with."""
        numbers, space, v = run.numbers, run.space, run.vectors
        memory, length = Memory(numbers), 1.0
        numbers["inner"] += 1
        if numbers["inner"] == 1:
            space.run(_SIGNS, v["g"], [v["d"]])
            length = min(1.0, 1.0 / space.products((v["d"], v["g"]))[0])
        else:
            (slope,) = space.products((v["d"], v["g"]))
            curved = numbers["t"] * (slope - numbers["slope"]) > 1e-10
            if curved:
                k = memory.next()
                space.run(_PAIR, v["g"], [v[f"s{k}"], v[f"y{k}"], v["d"], v["before"]], t=numbers["t"])
                memory.add(k)
            memory.measure(run, newest=curved)
        of_g, of_pairs, _ = memory.direction(numbers["gradient_squared"])
        combine(run, memory, v["g"], v["d"], of_g, of_pairs)
        space.run(COPY, v["g"], [v["before"]])
        numbers["t"] = length * self.lr
        (numbers["slope"],) = space.products((v["d"], v["g"]))
        return float(numbers["t"])


def _signs(xp: Any, x: Array, d: Array, c: Any) -> Array:
    """`d <- sign(x)`."""
    return xp.sign(x)


def _pair(xp: Any, x: Array, s: Array, y: Array, d: Array, before: Array, c: Any) -> tuple[Array, ...]:
    """`s <- t*d; y <- x - before`."""
    return c.t * d, x - before, d, before


_SIGNS, _PAIR = Kernel(_signs, ("d",)), Kernel(_pair, ("s", "y", "d", "before"))
