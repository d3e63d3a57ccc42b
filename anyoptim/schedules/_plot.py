"""Pictures of schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._trace._hyperparameters import Hyper
from anyoptim.schedules._combined import as_schedule, join
from anyoptim.schedules._decay import Constant
from anyoptim.schedules._schedule import Schedule, whole_number

__all__ = ["plot"]


def plot(*schedules: Hyper, steps: int, labels: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw schedules, each as a line of its values at the steps 1 to `steps`, with matplotlib.

    Args:
        schedules: any functions of the step number, or numbers.
        steps: how many steps to draw, at least 1.
        labels: for the legend, which stands to the right of the picture; None takes the name of each, with the
            arguments by which schedules of one name differ.
        ax: the matplotlib Axes to draw into; None makes a new figure, with room for the legend.

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
    names = _told_apart(drawn) if labels is None else list(labels)
    if len(names) != len(drawn):
        raise ValueError(f"labels has {len(names)} for {len(drawn)} schedules; wanted one for each")
    values = [[float(schedule(t)) for t in numbers] for schedule in drawn]
    if ax is None:
        try:
            from matplotlib import pyplot  # noqa: PLC0415 - it is large, and only pictures need it
        except ImportError as error:
            raise ImportError("plot needs matplotlib, which can't be imported; try: pip install matplotlib") from error
        _, ax = pyplot.subplots(layout="constrained")
    for line, name in zip(values, names, strict=True):
        ax.plot(numbers, line, label=name)
    ax.set_xlabel("step")
    ax.set_ylabel("value")
    if drawn:
        ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _short(value: Any) -> str:
    """What a schedule, or an argument of one, is called."""
    if isinstance(value, join):
        return ", ".join(map(_short, value.schedules))
    if isinstance(value, Constant):
        return f"{value.value:g}"
    if callable(value):
        return getattr(value, "__name__", None) or type(value).__name__
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _told_apart(schedules: Sequence[Any]) -> list[str]:
    """A name for each: that of its class or function, and behind it what tells it from others of that name."""
    short = [_short(schedule) for schedule in schedules]
    arguments: list[Mapping[str, Any]] = [vars(s) if isinstance(s, Schedule) else {} for s in schedules]
    names = []
    for name, mine in zip(short, arguments, strict=True):
        alike = [other for other, theirs in zip(arguments, short, strict=True) if theirs == name]
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in alike)]
        names.append(name + (f"({', '.join(f'{key}={_short(mine[key])}' for key in differing)})" if differing else ""))
    times = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, times, strict=True)]
