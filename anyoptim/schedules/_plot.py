"""Pictures of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyoptim._trace._hyperparameters import Hyper
from anyoptim.schedules._combined import as_schedule
from anyoptim.schedules._schedule import whole_number

__all__ = ["plot"]


def plot(*schedules: Hyper, steps: int, labels: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw schedules, each as a line of its values at the steps 1 to `steps`, with matplotlib.

    Args:
        schedules: any functions of the step number, or numbers.
        steps: how many steps to draw, at least 1.
        labels: for the legend; None shows what the schedules are.
        ax: the matplotlib Axes to draw into; None makes a new figure.

    Returns:
        The Axes; `ax.figure.savefig("schedules.png")` writes the picture.

    Raises TypeError or ValueError for other arguments, ImportError where matplotlib is not installed.

    >>> from matplotlib.figure import Figure
    >>> schedule = ao.schedules.Cosine(1.0, steps=100)
    >>> axes = ao.schedules.plot(schedule, steps=120, ax=Figure().subplots())
    >>> len(axes.lines)
    1
    """
    drawn = [as_schedule(f"schedules[{i}]", schedule) for i, schedule in enumerate(schedules)]
    numbers = range(1, whole_number("steps", steps) + 1)
    names = [getattr(s, "__name__", None) or repr(s) for s in drawn] if labels is None else list(labels)
    if len(names) != len(drawn):
        raise ValueError(f"labels has {len(names)} for {len(drawn)} schedules; wanted one for each")
    values = [[float(schedule(t)) for t in numbers] for schedule in drawn]
    if ax is None:
        try:
            from matplotlib import pyplot  # noqa: PLC0415 - it is large, and only pictures need it
        except ImportError as error:
            raise ImportError("plot needs matplotlib, which can't be imported; try: pip install matplotlib") from error
        _, ax = pyplot.subplots()
    for line, name in zip(values, names, strict=True):
        ax.plot(numbers, line, label=name)
    ax.set_xlabel("step")
    if drawn:
        ax.legend(fontsize="small")
    return ax
