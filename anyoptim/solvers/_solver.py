"""Solvers: methods that are given the value as well as the gradient, and choose their own step lengths."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._engines import EngineName, check_engine
from anyoptim._search._result import Progress
from anyoptim._search._value import Value
from anyoptim._trace._hyperparameters import KW_ONLY
from anyoptim.solvers._function import Function, Point, ValueAndGrad, check_function
from anyoptim.solvers._vectors import COPY, Kernel, Space, Vector

__all__ = ["TAKE", "Iteration", "Run", "Solver", "hopeless"]

P = TypeVar("P")


class Iteration(NamedTuple):
    """What an iteration has done.

    >>> ao.solvers.Iteration(step_length=0.5).failure is None
    True
    """

    step_length: float = math.nan
    step_norm: float = math.nan
    failure: str | None = None
    """Why no step was taken; None if one was."""
    converged: bool = False
    """Whether it failed because there is nothing left to gain."""


def _taken(xp: Any, x: Array, p: Array, origin: Array, g: Array, c: Any) -> tuple[Array, ...]:
    """`origin <- p; g <- x`."""
    return p, p, x


TAKE = Kernel(_taken, ("p", "origin", "g"), takes=True)


class Run:
    """What a solver holds and knows of one problem: vectors and numbers, by name.

    >>> solver = ao.LBFGS(memory_size=1)
    >>> x = solver.update(np.array([3.0]), lambda x: (float(x @ x), 2 * x))
    >>> sorted(solver.run.vectors), solver.run.vectors["g"]
    (['g', 'origin', 's0', 'y0'], [array([4.])])
    """

    def __init__(self) -> None:
        self.function: Function | None = None
        self.vectors: dict[str, Vector] = {}
        """By name; `g` is the gradient where the last iteration ended, and `origin` that point."""
        self.numbers: dict[str, Any] = {
            "steps": 0,
            "evaluations": 0,
            "value": math.nan,
            "largest_value": 0.0,
            "gradient_squared": math.nan,
            "gradient_max": math.nan,
        }
        """What is saved beside vectors: numbers, lists of them and arrays of NumPy's."""
        self.scratch: Any = None
        """What the method needs beside these, which is not saved."""
        self.saved: Mapping[str, Any] | None = None
        """The state of a copy, which waits for parameters."""
        self.failure: str | None = None
        self.busy: bool = False
        """Whether the function is being called, or may be: who calls the solver now is that function itself."""
        self.optimizer: Optimizer | None = None
        """What takes the steps, where an optimizer does; it is made anew where a state is loaded."""

    @property
    def begun(self) -> Function:
        """The function, once there is one."""
        if self.function is None:
            raise RuntimeError("the solver has no parameters yet; wanted update or ao.minimize first")
        return self.function

    @property
    def space(self) -> Space:
        """The parameters that move."""
        return self.begun.space

    @property
    def value(self) -> float:
        """The value where the last iteration ended."""
        return float(self.numbers["value"])

    def ask(self, function: Function) -> Point:
        """What the function gives where the parameters are. It is counted whatever it raises."""
        before, was, self.busy = function.evaluations, self.busy, True
        try:
            return function()
        finally:
            self.busy = was
            self.numbers["evaluations"] += function.evaluations - before

    def settled(self) -> Run:
        """The same, or one with its counts that has yet to begin, where a point was taken of which not all is known."""
        if self.function is None or not self.space.unsettled:
            return self
        anew = type(self)()
        anew.numbers |= {name: self.numbers[name] for name in ("steps", "evaluations")}
        return anew

    def put(self, point: Vector) -> None:
        """Put the parameters at a point."""
        self.space.run(COPY, point, [self.space.params])
        self.begun.put()

    def progress(self, iteration: Iteration, *, params_norm: bool = True, **more: Any) -> Progress:
        """What the last iteration has come to, with the norm of the parameters, or without that pass over them."""
        numbers = self.numbers
        squared = self.space.squared(self.space.params) if params_norm else math.nan
        return Progress(
            value=self.value,
            gradient_max=numbers["gradient_max"],
            gradient_norm=math.sqrt(numbers["gradient_squared"]),
            step_norm=iteration.step_norm,
            params_norm=math.sqrt(squared),
            step_length=iteration.step_length,
            steps=int(numbers["steps"]),
            evaluations=int(numbers["evaluations"]),
            **more,
        )

    def measure(self, value: float) -> None:
        """Note the value at the origin, and what there is to know of the gradient."""
        g = self.vectors["g"]
        largest, squared = self.space.measured((g, g))
        self.numbers |= {"value": value, "gradient_squared": squared, "gradient_max": largest}


class Solver(Value, ABC):
    """The base of all solvers: methods that are given the value as well as the gradient.

    `ao.minimize` takes as many iterations as are needed. In a loop of one's own, `update` takes one:

    >>> solver, x = ao.LBFGS(), np.array([3.0])
    >>> for _ in range(3):
    ...     x = solver.update(x, lambda x: (float(x @ x), 2 * x))
    >>> x, solver.last_value
    (array([0.]), 0.0)

    The function is taken to be the same each time: at parameters that are where the solver left them it is not called
    again. For another function, `restart`.

    A subclass declares its arguments in its body, as constants, gives the names of the `vectors` that it keeps, and
    `iteration`.
    """

    _: KW_ONLY
    engine: Final[EngineName | None] = None

    vectors: ClassVar[tuple[str, ...]] = ()
    """The vectors that are kept beside the gradient g and the origin; zeros at first."""

    def __post_init__(self) -> None:
        check_engine(self.engine)
        self.restart()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_run":
                vars(self)[name] = value
            else:
                super().__setattr__(name, value)

    @property
    def run(self) -> Run:
        """What is held and known of the problem."""
        return self._run

    def restart(self) -> None:
        """Forget everything: the next iteration is the first one."""
        self._run = Run()

    def end(self) -> None:
        """Leave the parameters at the best point that was seen, as an iteration does."""

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return int(self.run.numbers["steps"])

    @property
    def evaluations(self) -> int:
        """How often the function was called."""
        return int(self.run.numbers["evaluations"])

    @property
    def last_value(self) -> float:
        """The value at the parameters as the last iteration left them; NaN before the first, and if it is not known."""
        return self.run.value

    @property
    def last_failure(self) -> str | None:
        """Why the last iteration took no step; None if it did, or if an exception came in between."""
        return self.run.failure

    @property
    def params(self) -> Any:
        """The parameters of the last iteration, in their container."""
        return self.run.begun.tree.container

    def update(self, params: P, value_and_grad: ValueAndGrad) -> P:
        """Take one iteration with `params`, and return them: in place, where they can be written to.

        `value_and_grad(params)` is called with the parameters at each trial point. It gives the value, a number or an
        array of one element, and the gradients, in a container with the keys of `params`, as `Optimizer.update` takes
        them; a parameter whose gradient is None does not move. Where there is no step to take, `last_failure` says
        why. Whatever is raised, the parameters are at the best point that was seen, or where the last iteration ended,
        as the method says.
        """
        check_function(value_and_grad)
        self.begin(params, value_and_grad)
        self.iterate()
        return self.params  # type: ignore[no-any-return]

    def begin(self, params: Any, value_and_grad: ValueAndGrad) -> None:
        """Take these parameters, and call the function where they are, unless that is known."""
        self.recall(params)
        run, function = self.run, Function(params, self.engine)
        before, run.failure = run.function, None
        if before is not None:
            if before.same(function):
                function = before
            else:
                function.take(before)
            if not function.space.differ(run.vectors["origin"], function.space.params):
                function.value_and_grad = value_and_grad
                self._adopt(function)
                return
        function = self.entered(function)
        function.value_and_grad = value_and_grad
        if before is not None and function is not before:
            function.take(before)
        try:
            point = run.ask(function)
        except BaseException:
            function.back_outside()
            raise
        function.back_outside(function.moving or ())
        space = function.space
        space.unsettled = True
        if before is None:
            of_zeros = {name: space.zeros() for name in self.kept_vectors()}
            run.vectors = {"origin": space.copied(space.params), "g": space.copied(point.gradients), **of_zeros}
        else:
            space.run(TAKE, point.gradients, [space.params, run.vectors["origin"], run.vectors["g"]])
        self._adopt(function)
        self.measure(run, point.value)
        (self.first if before is None else self.moved)(run)
        space.unsettled = False

    def check_free(self) -> None:
        """Raise RuntimeError where the function that is minimized calls its own solver."""
        if self.run.busy:
            raise RuntimeError("the solver takes an iteration already, in which it was called; wanted another solver")

    def recall(self, params: Any) -> None:
        """Be ready to begin: with the state of which this solver is a copy, now that there are parameters.

        Where an exception came when a point was taken, and not all was known of it, nothing is known but counts.
        """
        self.check_free()
        run = self.run
        if run.saved is not None:
            self.load_state_dict(run.saved, params)
        else:
            self._run = run.settled()

    def _adopt(self, function: Function) -> None:
        if function is not self.run.function:
            self.run.function = function
            self.prepare(self.run)

    def iterate(self) -> Iteration:
        """Take one iteration. Whatever is raised, the parameters are at the best point that was seen.

        Or where the last iteration ended, as the method says.
        """
        run = self.run
        function = run.begun
        before, run.busy = function.evaluations, True
        try:
            iteration = self.hopeless() or self.iteration(run)
        finally:
            run.busy = False
            run.numbers["evaluations"] += function.evaluations - before
        run.failure = iteration.failure
        run.numbers["steps"] += iteration.failure is None
        run.space.unsettled = False
        return iteration

    def hopeless(self) -> Iteration | None:
        """What there is to say where no step can be taken."""
        return hopeless(self.run)

    def kept_vectors(self) -> tuple[str, ...]:
        """The names of the vectors that are kept, where their number depends on an argument."""
        return self.vectors

    def entered(self, function: Function) -> Function:
        """The function with its parameters put where they may be, if they may not be everywhere."""
        return function

    def prepare(self, run: Run) -> None:
        """Make what is needed beside the vectors that are kept, for other arrays than before."""

    def first(self, run: Run) -> None:
        """Begin: nothing is known but what was found at the first point."""

    def moved(self, run: Run) -> None:
        """Note that somebody has moved the parameters, and that the gradient was found there."""

    def measure(self, run: Run, value: float) -> None:
        """Note the value at the origin, where somebody has put the parameters, and what there is to know of g."""
        run.measure(value)

    @abstractmethod
    def iteration(self, run: Run) -> Iteration:
        """Take one iteration, after which `run` has the value, the gradient and the origin of the new point."""

    def state_dict(self) -> dict[str, Any]:
        """What `update` remembers, as plain dicts by the paths of the parameters: to go on with `load_state_dict`.

        The arrays are copies, in the parameters' library. `ao.save` takes a solver as an optimizer.
        """
        from anyoptim.solvers._state import written  # noqa: PLC0415 - when it is asked for

        return written(self, self.run)

    def load_state_dict(self, state: Mapping[str, Any], params: Any) -> None:
        """Go on from where `state_dict` was taken, with parameters of any library, on any device.

        Raises ValueError or TypeError for what is no state of such a solver with such parameters, before anything is
        changed.
        """
        from anyoptim.solvers._state import restored  # noqa: PLC0415 - when it is asked for

        run = restored(self, state, params)
        if run.function is not None:
            self.prepare(run)
        self._run = run

    def __copy__(self) -> Any:
        return deepcopy(self)  # two solvers over the same vectors would be one

    def __getstate__(self) -> dict[str, Any]:
        # The parameters are the caller's to copy and to save.
        arguments = {name: value for name, value in vars(self).items() if name != "_run"}
        return {"arguments": arguments, "state": self.state_dict()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state["arguments"])
        self.restart()
        self.run.numbers |= state["state"]["numbers"]
        self.run.saved = state["state"]


def hopeless(run: Run, *, at_rest: bool = True) -> Iteration | None:
    """What there is to say where no method can take a step; `at_rest` says that none can where the gradient is zero."""
    largest = run.numbers["gradient_max"]
    if not run.space.size:
        return Iteration(failure="there is nothing to minimize: no parameter has an element that moves", converged=True)
    if not math.isfinite(run.value):
        return Iteration(failure=f"the value at the parameters is {run.value}; wanted a finite one to begin with")
    if largest == 0 and at_rest:
        return Iteration(failure="the gradient is zero", converged=True)
    if run.numbers["gradient_squared"] == 0 < largest and at_rest:
        says = f"the norm of the gradient is too small for float64, with a largest element of {largest:.3g}"
        return Iteration(failure=f"{says}; wanted a larger scale", converged=run.numbers["steps"] > 0)
    if not math.isfinite(run.numbers["gradient_squared"]):
        return Iteration(failure=_without_norm(run))
    return None


def _without_norm(run: Run) -> str:
    """Why the gradient has no finite norm."""
    tree, g, space = run.begun.tree, run.vectors["g"], run.space
    places = run.begun.moving or ()
    named = (str(tree.name(i)) for i, a, p in zip(places, g, space.ps, strict=True) if not _finite(p, a))
    bad = next(named, None)
    if bad is None:
        return "the norm of the gradient is too large for float64; wanted a smaller scale"
    return f"the gradient of {bad} is not finite, although the value is"


def _finite(p: Any, a: Array) -> bool:
    xp = p.library.xp
    with p.library.on_device_of(a):
        return bool(p.library.to_host(xp.all(xp.isfinite(a))))
