"""What solvers of linear least squares have in common: they are given the operators, and keep the residual."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from anyoptim.solvers._function import ValueAndGrad
from anyoptim.solvers._solver import Run, Solver
from anyoptim.solvers.least_squares import LeastSquares

__all__ = ["LinearRun", "LinearSolver"]


class LinearRun(Run):
    """What such a solver holds and knows of one problem."""

    def __init__(self) -> None:
        super().__init__()
        self.given: LeastSquares | None = None
        self.engine: str | None = None

    @property
    def problem(self) -> LeastSquares:
        """The problem, once there is one."""
        assert self.given is not None  # noqa: S101 - `begin` has seen to that
        return self.given

    def evaluated(self, params: Any) -> tuple[float, Any]:
        """The value and the gradient."""
        return self.problem(params)

    @property
    def resolution(self) -> float:
        """The relative rounding of the coarsest of parameters and data."""
        return max(self.space.rounding, self.problem.space.rounding)


class LinearSolver(Solver):
    """A solver whose function has to be a `LeastSquares`."""

    _runs: ClassVar[type[LinearRun]] = LinearRun

    def restart(self) -> None:
        self._run = self._runs()

    def begin(self, params: Any, value_and_grad: ValueAndGrad) -> None:
        """Take these parameters, and ask the problem where they are, unless that is known."""
        if not isinstance(value_and_grad, LeastSquares):
            raise TypeError(
                f"{type(self).__name__} was given {value_and_grad!r}; wanted an ao.LeastSquares, whose forward and "
                "adjoint it applies"
            )
        self.recall(params)
        run = cast("LinearRun", self.run)
        run.given, run.engine = value_and_grad, self.engine
        super().begin(params, run.evaluated)
