"""What a solver has come to: while it runs, step by step, and in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["History", "Progress", "Record", "Result"]


class Progress(NamedTuple):
    """What a solver has come to after a step, or before the first: what a condition to stop is told.

    >>> progress = ao.solvers.Progress(value=2.0, previous=3.0, gradient_max=1e-7, steps=4)
    >>> ao.Stop(gtol=1e-6).reason(progress)
    ('the largest element of the gradient, 1e-07, is at most gtol = 1e-06', True)
    """

    value: float
    previous: float = math.nan
    """The value before the last step; NaN before the first."""
    gradient_max: float = math.nan
    """max |g_i|; where parameters have bounds, of the projected gradient."""
    gradient_norm: float = math.nan
    """|g|, the 2-norm."""
    step_norm: float = math.nan
    """|p_new - p| of the last step; NaN before the first."""
    params_norm: float = math.nan
    """|p|."""
    step_length: float = math.nan
    """How far the last step went, in lengths of its direction; NaN before the first."""
    steps: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    values: Sequence[float] = ()
    """The value before the first step, and after each."""


class Record(NamedTuple):
    """What is kept of one step.

    >>> ao.solvers.Record(value=24.2, gradient_norm=232.9, step_length=float("nan"), evaluations=1, seconds=0.0).value
    24.2
    """

    value: float
    gradient_norm: float
    step_length: float
    """NaN before the first step."""
    evaluations: int
    """All so far, of trials, too."""
    seconds: float
    """All so far."""


class History(list[Record]):
    """What is kept of each step: a list of records, the first of which is of the start, and its columns as lists.

    >>> nan = float("nan")
    >>> history = ao.solvers.History([ao.solvers.Record(4.0, 2.0, nan, 1, 0.0)])
    >>> history.append(ao.solvers.Record(1.0, 0.5, 1.0, 2, 0.1))
    >>> history.value, history.evaluations, history[-1].seconds
    ([4.0, 1.0], [1, 2], 0.1)
    """

    @property
    def value(self) -> list[float]:
        """The values."""
        return [record.value for record in self]

    @property
    def gradient_norm(self) -> list[float]:
        """|g| of each, the 2-norm."""
        return [record.gradient_norm for record in self]

    @property
    def step_length(self) -> list[float]:
        """How far each step went, in lengths of its direction."""
        return [record.step_length for record in self]

    @property
    def evaluations(self) -> list[int]:
        """How many evaluations there were up to each."""
        return [record.evaluations for record in self]

    @property
    def seconds(self) -> list[float]:
        """How much time went by up to each."""
        return [record.seconds for record in self]

    def __str__(self) -> str:
        """A table of the steps 0, 1, 2, 5, 10, 20, 50 and so on, and of the last."""
        rows = [("step", "evaluations", "value", "|g|", "step length", "seconds"), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)

    def _cells(self) -> Iterator[tuple[str, ...]]:
        round_numbers = {k * 10**e for e in range(10) for k in (1, 2, 5)}
        for step, record in enumerate(self):
            if step in round_numbers or step in {0, len(self) - 1}:
                value, *numbers = record.value, record.gradient_norm, record.step_length
                shown = [f"{x:.3g}" if x == x else "" for x in numbers]
                yield str(step), str(record.evaluations), f"{value:.6g}", *shown, f"{record.seconds:.2f}"


class Result(NamedTuple):
    """What a solver has found, and how; prints as a table of steps.

    >>> history = ao.solvers.History([ao.solvers.Record(4.0, 4.0, float("nan"), 1, 0.0)])
    >>> history.append(ao.solvers.Record(0.0, 0.0, 0.5, 2, 0.01))
    >>> result = ao.solvers.Result(np.zeros(1), 0.0, 1, 2, True, "the gradient is 0", history)
    >>> print(result)
    converged after 1 step and 2 evaluations, at the value 0: the gradient is 0
    step  evaluations  value  |g|  step length  seconds
       0            1      4    4                  0.00
       1            2      0    0          0.5     0.01
    """

    params: Any
    """The parameters, in the container that was given, at the best point that was seen."""
    value: float
    """The value there."""
    steps: int
    evaluations: int
    """How often the function was called."""
    converged: bool
    message: str
    """Why the solver stopped."""
    history: History

    def __str__(self) -> str:
        steps, evaluations = _counted(self.steps, "step"), _counted(self.evaluations, "evaluation")
        how = "converged" if self.converged else "stopped"
        return f"{how} after {steps} and {evaluations}, at the value {self.value:.6g}: {self.message}\n{self.history}"

    def plot(self, ax: Any = None) -> Any:
        """Draw the value and, on an axis of its own, |g| over the evaluations, with matplotlib.

        The axis of the value is logarithmic where all values are above 0. What is not finite leaves a gap. Returns the
        Axes of the value. Raises ImportError where matplotlib is not installed.
        """
        if ax is None:
            try:
                from matplotlib import pyplot  # noqa: PLC0415 - it is large, and only pictures need it
            except ImportError as error:
                raise ImportError(
                    "plot needs matplotlib, which can't be imported; try: pip install matplotlib"
                ) from error
            _, ax = pyplot.subplots(layout="constrained")
        history = self.history
        values, norms = (
            [x if math.isfinite(x) else math.nan for x in y] for y in (history.value, history.gradient_norm)
        )
        right = ax.twinx()
        lines = [
            *ax.plot(history.evaluations, values, "C0.-", label="value"),
            *right.plot(history.evaluations, [x or math.nan for x in norms], "C1.-", label="|g|"),
        ]
        if all(x > 0 or x != x for x in values) and any(x > 0 for x in values):
            ax.set_yscale("log")
        if any(x > 0 for x in norms):
            right.set_yscale("log")
        ax.set_xlabel("evaluations")
        ax.set_ylabel("value")
        right.set_ylabel("|g|, 2-norm")
        ax.legend(handles=lines, fontsize="small")
        ax.grid(alpha=0.3)
        return ax


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
