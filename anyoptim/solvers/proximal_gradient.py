"""Proximal gradients: for a function with a gradient and another one with a proximal step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from anyoptim._arrays import Array
from anyoptim._core._chain import chain
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._planned_rows import FLOAT32
from anyoptim._stage._stage import ParameterStage
from anyoptim._trace._hyperparameters import Flag, positive
from anyoptim.optimizers import SGD
from anyoptim.solvers._function import Point, ValueAndGrad
from anyoptim.solvers._proximal_trial import ProximalTrial
from anyoptim.solvers._solver import Iteration, Run, Solver
from anyoptim.solvers._vectors import COPY, Kernel

__all__ = ["ProximalGradient"]

TRIALS = 40
"""How many step lengths are tried at most."""

_GROWTH = 4.0
"""By how much an lr grows from one step to the next where it is far too short."""


class ProximalGradient(Solver):
    """Proximal gradients, ISTA and FISTA: the minimum of f + h, where h has no gradient but a proximal step.

    ::

        p <- prox(y - lr*gradient(y))                       what ao.chain(ao.SGD(lr), prox) does
        theta_new = (1 + sqrt(1 + 4*theta**2)) / 2
        y <- p + (theta - 1)/theta_new * (p - p_before)     "FISTA"; without acceleration y is p, and that is ISTA
        theta <- 1 and y <- p where (y - p)*(p - p_before) > 0      restarts

    Of f the value and the gradient are asked for, as `ao.minimize` does. h is what the stage is the proximal step of:
    `ao.prox.L1(sigma)`, for a sparse solution, `ao.Box(lo, hi)` for bounds, `ao.prox.Operator(g)` for total variation
    and all else that pyproximal has.

    Without an lr the step length is found: it shrinks until f(p) is at most the parabola through f(y), its slope and
    1/lr as curvature. The first one may grow as far as that allows, and each later one to four times the last, where
    this was less than a tenth of what the curvature along its step allows, or was cut by a wall: in FISTA, where it has
    been cut, not in the next steps, of which there are twice as many each time, and with theta_new then as
    (1 + sqrt(1 + theta**2))/2, which keeps the bound. FISTA calls the function twice a step, at p and at y. With an
    lr it is called once, at y; any lr up to 1/L will do, L the largest curvature of f (`ao.lipschitz`), and without
    acceleration up to 2/L.

    What is reported as the gradient is (y - p)/lr, which is 0 at the minimum of f + h and for h = 0 the gradient, and
    as the value f(p), or f(y) where only that is known, plus `penalty(params)`. The parameters end where the last step
    has led; where an exception comes in between, at the last one that was finished.

    Memory: 5 arrays for each parameter, in its compute dtype, and 3 without acceleration.

    Args:
        prox: a stage that makes a proximal step or projects, which borrows its learning rate from the method before it.
            Its weight is a number, an array, or a tree of both.
        lr: the step length, above 0; None to find one.
        acceleration: "FISTA" or None.
        restarts: whether FISTA begins anew where it has gone too far, without which values go up and down again.
        penalty: h as a function of the parameters, which gives a number; None leaves it out of what is reported.
        engine: the machine that makes the steps, as in `Optimizer`; None chooses.

    Raises TypeError for what is no such stage, ValueError for another acceleration.

    Source: Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, 2009;
    Scheinberg, Goldfarb and Bai, Fast first-order methods for composite convex optimization with backtracking, 2014;
    O'Donoghue and Candès, Adaptive restart for accelerated gradient schemes, 2015, section 3.2.

    >>> A, b = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]), np.array([2.0, 0.1])
    >>> misfit = lambda x: (float(np.sum((A @ x - b) ** 2)) / 2, A.T @ (A @ x - b))
    >>> method = ao.ProximalGradient(ao.prox.L1(0.5), penalty=lambda x: 0.5 * np.sum(np.abs(x)))
    >>> result = ao.minimize(misfit, np.zeros(3), method=method, stop=ao.Stop(gtol=1e-9))
    >>> result.params.round(6), round(result.value, 6)
    (array([1.5, 0. , 0. ]), 0.88)
    """

    prox: Final[ParameterStage]
    lr: Final[float | None] = None
    acceleration: Final[str | None] = "FISTA"
    restarts: Final[Flag] = True
    penalty: Final[Callable[[Any], Any] | None] = None

    def __post_init__(self) -> None:
        prox = self.prox
        if not isinstance(prox, ParameterStage) or prox.slots or prox.scalars or prox.reductions:
            raise TypeError(f"prox is {prox!r}; wanted a stage that makes a proximal step, such as ao.prox.L1(0.1)")
        if self.acceleration not in ("FISTA", None):
            raise ValueError(f"acceleration is {self.acceleration!r}; wanted 'FISTA' or None")
        if self.lr is not None:
            vars(self)["_lr"] = positive.value("lr", self.lr)
        super().__post_init__()

    def kept_vectors(self) -> tuple[str, ...]:
        return ("d",) if self.acceleration is None else ("d", "e", "y")

    def first(self, run: Run) -> None:
        lr = math.nan if self.lr is None else self.lr
        run.numbers |= {"lr": lr, "grows": 0.0, "pause": 0.0, "paused": 0.0}
        self.moved(run)

    def moved(self, run: Run) -> None:
        run.numbers |= {"theta": 1.0, "ahead": 0.0, "value_y": math.nan}

    def begin(self, params: Any, value_and_grad: ValueAndGrad) -> None:
        """Take these parameters, and call the function where they are, unless that is known."""
        super().begin(params, value_and_grad)
        run, numbers = self.run, self.run.numbers
        if numbers["ahead"] != numbers["ahead"]:  # an exception has come before the function was known at y
            point = run.ask(run.begun)
            self._know(run, point, ahead=0.0)
            numbers |= {"theta": 1.0, "value": point.value, "value_y": math.nan}
        if numbers["value_y"] != numbers["value_y"]:
            value = numbers["value"]
            # Whether it is the minimum of the sum, the gradient of f alone does not tell.
            numbers |= {"value_y": value, "value": value + self._h(run), "gradient_max": math.nan}

    def iteration(self, run: Run) -> Iteration:
        try:
            found = self._search(run)
            if isinstance(found, ProximalTrial):
                return self._advance(run, found)
        except BaseException:
            run.put(run.vectors["origin"])
            raise
        run.put(run.vectors["origin"])
        return found

    def _search(self, run: Run) -> ProximalTrial | Iteration:
        """The step from y to p, where the parameters are then; or why there is none."""
        numbers, lr, trials = run.numbers, run.numbers["lr"], list[ProximalTrial]()
        first = lr != lr
        lr = min(self._first_lr(run) if first else lr * _GROWTH if numbers["grows"] else lr, FLOAT32.largest)
        while len(trials) < TRIALS:
            trial = self._trial(run, lr)
            if not math.isfinite(trial.squared):
                return Iteration(failure="the gradient is not finite, although the value is")
            if trial.squared == 0 and trials:
                break
            if trial.squared == 0 and not numbers["ahead"]:
                return Iteration(failure="a proximal step from here leads nowhere else", converged=True)
            if self.lr is not None:
                return trial
            trial = trial.told(run, run.begun())
            if trial.finite and (trial.falls or (trial.falls_by_slopes and not any(of.odd for of in trials))):
                first = first and trial.may_be_longer and lr < FLOAT32.largest and len(trials) < TRIALS // 2
                if not first:
                    self._plan_growth(run, trials, trial)
                    return trial
                lr = min(trial.longer, FLOAT32.largest)
            else:
                first, lr = False, trial.shorter(0.9 if len(trials) < TRIALS // 8 else 0.5)
            trials.append(trial)
        return self._failed(run, trials)

    def _plan_growth(self, run: Run, trials: list[ProximalTrial], trial: ProximalTrial) -> None:
        """Decide whether the next lr is to be longer than that of this trial, which comes after others that failed.

        With acceleration theta pays for each growth, and a cut does not give that back: so after each cut lr rests,
        twice as many steps as after the one before.
        """
        numbers = run.numbers
        if self.acceleration is not None and trials and trial.lr < numbers["lr"]:
            numbers["paused"] = numbers["pause"] = 2 * numbers["pause"] + 1
        numbers["paused"] = max(0.0, numbers["paused"] - 1)
        cut_by_wall = bool(trials) and not trials[-1].finite
        longer = cut_by_wall or (not trials and trial.far_too_short)
        numbers["grows"] = float(longer and not numbers["paused"])

    def _trial(self, run: Run, lr: float) -> ProximalTrial:
        """Make a step of this length from y."""
        space, d, g = run.space, run.vectors["d"], run.vectors["g"]
        y = run.vectors["y" if run.numbers["ahead"] else "origin"]
        run.put(y)
        optimizer = self._optimizer(run)
        optimizer.stages[0].lr = lr
        run.begun.updated(optimizer, g)
        space.run(_CHANGE, space.params, [d, y])
        slope, squared = space.products((d, g), (d, d))
        return ProximalTrial(lr, squared, slope)

    def _first_lr(self, run: Run) -> float:
        """That of a step as long as the parameters, or of length 1 if these are all 0."""
        origin = run.vectors["origin"]
        (squared,) = run.space.products((origin, origin))
        return math.sqrt((squared or 1.0) / (run.numbers["gradient_squared"] or 1.0))

    def _optimizer(self, run: Run) -> Optimizer:
        """What makes the steps of this run: one optimizer for each, since it has a state."""
        if run.optimizer is None:
            run.optimizer = chain(SGD(1.0), self.prox, engine=self.engine)
        return run.optimizer

    def _failed(self, run: Run, trials: list[ProximalTrial]) -> Iteration:
        """Why no step length would do."""
        origin = run.vectors["origin"]
        (size,) = run.space.products((origin, origin))
        last = trials[-1]
        if not last.finite:
            wall = f"a wall: the value is not finite after a proximal step, even with an lr of {last.lr:.3g}"
            return Iteration(failure=wall)
        # What is beyond the rounding of the parameters is no rounding of the value either.
        odd = [trial for trial in trials if trial.odd and trial.squared > (16 * run.space.rounding) ** 2 * size]
        last = odd[-1] if odd else last
        changed = f"a proximal step with an lr of {last.lr:.3g} changes the value by {last.change:.3g}"
        if not odd:
            return Iteration(failure=f"{changed}: this is as far as the precision goes", converged=True)
        says = f"where the gradient says {last.slope:.3g}; ao.check_grad tells if the gradient is right"
        return Iteration(failure=f"{changed}, {says}")

    def _advance(self, run: Run, trial: ProximalTrial) -> Iteration:
        """Take the step, and ask for the function at the next y."""
        numbers, space, origin, point = run.numbers, run.space, run.vectors["origin"], trial.point
        size, largest, ahead = trial.squared, space.largest(run.vectors["d"]), 0.0
        if self.acceleration is not None:
            size, ahead = self._ahead(run)
        if point is None and not ahead:
            point = run.begun()
            if not math.isfinite(point.value):
                run.put(origin)
                return _too_far(trial.lr)
        numbers |= {"ahead": math.nan, "value": math.nan, "lr": trial.lr}
        if point is None:  # p may lie beyond a wall, from which it goes back to where e is then
            space.run(COPY, origin, [run.vectors["e"]])
        space.run(_ARRIVE, space.params, [origin])
        try:
            within = self._look_ahead(run, point, ahead)
        except BaseException:
            numbers["steps"] += 1  # the step is taken, and only what comes next is not known
            raise
        if not within:
            self._go_back(run)
            return _too_far(trial.lr)
        numbers |= {"gradient_squared": trial.squared / trial.lr**2, "gradient_max": largest / trial.lr}
        return Iteration(trial.lr, math.sqrt(size))

    def _look_ahead(self, run: Run, point: Point | None, ahead: float) -> bool:
        """Find the value, and know the function at the next y, from what it gave at p, if that is known.

        Returns whether p is no point beyond a wall.
        """
        numbers, origin = run.numbers, run.vectors["origin"]
        penalty = self._h(run)
        if point is not None:
            numbers["value"] = point.value + penalty
        there = point
        if ahead:
            run.put(run.vectors["y"])
            there = run.begun()
            if math.isfinite(there.value):
                self._know(run, there, ahead)  # the gradient may be the parameters themselves, which go back now
                run.put(origin)
            else:  # y lies beyond a wall
                run.put(origin)
                there, ahead, numbers["theta"] = run.begun(), 0.0, 1.0
        assert there is not None  # noqa: S101 - where y is p, p is known
        if not math.isfinite(there.value):
            return False
        if not ahead:
            self._know(run, there, ahead)
        if point is None:
            numbers["value"] = there.value + penalty
        return True

    def _go_back(self, run: Run) -> None:
        """Take back the step, and know the function where it began."""
        run.space.run(COPY, run.vectors["e"], [run.vectors["origin"]])
        run.put(run.vectors["origin"])
        there = run.begun()
        self._know(run, there, ahead=0.0)
        run.numbers["value"] = there.value + self._h(run)

    def _ahead(self, run: Run) -> tuple[float, float]:
        """Find the next y. Returns the square of the last step, and which part of it y lies ahead."""
        numbers, space = run.numbers, run.space
        d, e, y, origin = (run.vectors[name] for name in ("d", "e", "y", "origin"))
        space.run(_CHANGE, space.params, [e, origin])
        along, squared = space.products((d, e), (e, e))
        if self.restarts and along < 0:
            numbers["theta"] = 1.0
            return squared, 0.0
        shorter = 1 / _GROWTH if numbers["grows"] else 1.0  # than the next lr, by which the bound of FISTA is kept
        theta = (1 + math.sqrt(1 + 4 * shorter * numbers["theta"] * numbers["theta"])) / 2
        ahead = (numbers["theta"] - 1) / theta
        numbers["theta"] = theta
        space.run(_GO_ON, space.params, [y, e], ahead=ahead)
        return squared, ahead

    def _know(self, run: Run, point: Point, ahead: float) -> None:
        """Note what the function gives at y."""
        run.space.run(_ARRIVE, point.gradients, [run.vectors["g"]])
        run.numbers |= {"value_y": point.value, "ahead": ahead}

    def _h(self, run: Run) -> float:
        """The penalty where the parameters are, if that is asked for."""
        return 0.0 if self.penalty is None else float(self.penalty(run.begun.tree.container))


def _too_far(lr: float) -> Iteration:
    """What there is to say where a step of an lr that was given leads beyond a wall."""
    return Iteration(failure=f"a wall: the value is not finite after a step with lr = {lr:.3g}; wanted a smaller lr")


def _changed(xp: Any, x: Array, d: Array, y: Array, c: Any) -> tuple[Array, ...]:
    """`d <- p - y`."""
    return x - y, y


def _arrived(xp: Any, x: Array, origin: Array, c: Any) -> Array:
    """`origin <- p`, or `g <- gradient`."""
    return x


def _gone_on(xp: Any, x: Array, y: Array, e: Array, c: Any) -> tuple[Array, ...]:
    """`y <- p + ahead*e`."""
    return x + c.ahead * e, e


_CHANGE, _ARRIVE = Kernel(_changed, ("d", "y")), Kernel(_arrived, ("origin",))
_GO_ON = Kernel(_gone_on, ("y", "e"))
