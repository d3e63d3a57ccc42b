"""What a step would do to each parameter: as data, as a table, as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Diagnosis", "ParameterDiagnosis"]


class ParameterDiagnosis(NamedTuple):
    """What one step would do to one parameter.

    The columns of the table are, from the left: `|g|`, the norm of the gradient (`gradient_norm`); `|w|`, that of the
    parameter (`parameter_norm`); `|step|` (`step_norm`); `|step|/|w|` (`relative_step`); `off float64`, by what part of
    itself the step differs from that in float64 (`step_error`); and then how many elements: `not finite`, that are NaN
    or infinite (`nonfinite`); `0`, whose gradient is 0 (`zeros`); `vanish`, that would not move, though in float64 they
    would (`vanishing`); `cancel`, that would lose more than a tenth of their step (`cancelling`). The last is `remark`.

    >>> row = ao.SGD(lr=0.5).diagnose({"w": np.full(4, 2.0)}, {"w": np.ones(4)})[0]
    >>> row.path, row.gradient_norm, row.parameter_norm, row.step_norm, row.relative_step
    ('w', 2.0, 4.0, 1.0, 0.25)
    """

    path: str
    """Its keys, joined by dots."""
    shape: tuple[int, ...]
    dtype: str
    gradient_norm: float
    """|g|, the 2-norm; NaN where there is no gradient."""
    parameter_norm: float
    """|w|, before the step."""
    step_norm: float
    """|w_new - w|: the step as the parameter sees it, rounded to its dtype."""
    relative_step: float
    """|w_new - w| / |w|; infinite for a parameter that is 0."""
    exact_norm: float
    """The same step computed in float64 from the same gradients and state."""
    step_error: float
    """|step - exact step| / |exact step|."""
    nonfinite: int
    """How many elements of the gradient, or of the parameter after the step, are NaN or infinite."""
    zeros: int
    """How many elements of the gradient are 0."""
    vanishing: int
    """How many elements do not move, though in float64 they would: their step is too small beside them, or became 0."""
    cancelling: int
    """How many others lose more than a tenth of their step: to rounding beside a larger number, or by cancellation."""
    remark: str
    """What is odd, in words; empty where nothing is."""


_HEADINGS = (
    "parameter",
    "dtype",
    "|g|",
    "|w|",
    "|step|",
    "|step|/|w|",
    "off float64",
    "not finite",
    "0",
    "vanish",
    "cancel",
    "",
)


class Diagnosis(list[ParameterDiagnosis]):
    """What one step would do, parameter by parameter; prints as a table, in colours with rich's `print`.

    Its rows are in the order of the container. `ParameterDiagnosis` says what the columns are.

    >>> ao.SGD(lr=1e-9).diagnose({"w": np.ones(4, np.float32)}, {"w": np.ones(4, np.float32)}).remarks
    {'w': '100% of it would not move: the steps are too small for float32'}
    """

    note: str = ""
    """Why no step would be taken; empty where one would be."""

    @property
    def remarks(self) -> dict[str, str]:
        """What is odd, by path."""
        return {row.path: row.remark for row in self if row.remark}

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for row in self:
            numbers = (row.gradient_norm, row.parameter_norm, row.step_norm, row.relative_step, row.step_error)
            counts = (row.nonfinite, row.zeros, row.vanishing, row.cancelling)
            path = row.path or "(params)"
            yield path, row.dtype, *(f"{x:.2g}" for x in numbers), *(str(n or "") for n in counts), row.remark

    def __str__(self) -> str:
        rows = [_HEADINGS, *self._cells()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADINGS) - 1)]
        lines = [self.note] if self.note else []
        for *cells, remark in rows:
            columns = [c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
            lines.append("  ".join([*columns, remark]).rstrip())
        return "\n".join(lines)

    def __rich__(self) -> Any:
        """The table of the package rich, which calls this to print it; what is odd stands below."""
        from rich import box, console, table, text  # noqa: PLC0415 - it is the caller's

        rows = list(self._cells())
        shown = table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for k, heading in enumerate(_HEADINGS[:-1]):
            width = max((len(row[k]) for row in rows), default=0)
            shown.add_column(heading, justify="left" if k < 2 else "right", min_width=width, overflow="fold")
        for *cells, remark in rows:
            shown.add_row(*cells, style="bold red" if remark else None)
        lines = [self.note, *(f"{path or '(params)'}: {remark}" for path, remark in self.remarks.items())]
        return console.Group(shown, *(text.Text(line, style="red") for line in lines if line))

    def plot(self, ax: Any = None) -> Any:
        """Draw |g|, |w| and |step| of each parameter on one logarithmic axis, with matplotlib.

        The farther a step is to the left of its parameter, the slower that learns. What is not finite has a red mark at
        the right edge. Returns the Axes. Raises ImportError where matplotlib is not installed.
        """
        if ax is None:
            try:
                from matplotlib import pyplot  # noqa: PLC0415 - it is large, and only pictures need it
            except ImportError as error:
                raise ImportError(
                    "plot needs matplotlib, which can't be imported; try: pip install matplotlib"
                ) from error
            _, ax = pyplot.subplots(figsize=(7, 1.5 + 0.3 * len(self)), layout="constrained")
        places = range(len(self))
        for name, mark, norms in (
            ("|g|", "x", [row.gradient_norm for row in self]),
            ("|w|", "s", [row.parameter_norm for row in self]),
            ("|step|", "o", [row.step_norm for row in self]),
        ):
            ax.plot([x if 0 < x < math.inf else math.nan for x in norms], places, mark, label=name)
        if bad := [place for place, row in zip(places, self, strict=True) if row.nonfinite]:
            edge = {"transform": ax.get_yaxis_transform(), "clip_on": False, "color": "red"}
            ax.plot([1.0] * len(bad), bad, ">", label="not finite", **edge)
        ax.set_yticks(list(places), [row.path or "(params)" for row in self])
        ax.invert_yaxis()
        ax.set_xscale("log")
        ax.set_xlabel("2-norm")
        ax.grid(axis="x", alpha=0.3)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
        return ax
