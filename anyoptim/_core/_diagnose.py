"""What a step would do to each parameter, and what it loses: as data, as a table, as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anyoptim._arrays import _checks as checks
from anyoptim._arrays import library, traced
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._arrays._wide import wide
from anyoptim._core._stage import Gate
from anyoptim._core._state import State
from anyoptim._core._step import step

if TYPE_CHECKING:
    from anyoptim._core._optimizer import Optimizer

__all__ = ["Diagnosis", "ParameterDiagnosis", "diagnosed"]

LARGE, SMALL = 0.1, 1e-6
"""Relative steps beyond which a remark is made; 1e-3 is usual."""
LOST = 0.1
"""The part of an element's step whose loss counts."""
MANY = 0.01
"""The share of the elements from which on lost steps are remarked."""


class ParameterDiagnosis(NamedTuple):
    """What one step would do to one parameter."""

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
    """What one step would do, parameter by parameter; prints as a table, in colours with rich's `print`."""

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

        The farther a step is to the left of its parameter, the slower that learns. Returns the Axes. Raises ImportError
        where matplotlib is not installed.
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
        ax.set_yticks(list(places), [row.path or "(params)" for row in self])
        ax.invert_yaxis()
        ax.set_xscale("log")
        ax.set_xlabel("2-norm")
        ax.grid(axis="x", alpha=0.3)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
        return ax


def diagnosed(optimizer: Optimizer, params: Any, grads: Any) -> Diagnosis:
    """What `optimizer.update(params, grads)` would do. Nothing is changed."""
    tree = Tree("params", params)
    ps = checks.parameters(tree)
    for i, p in enumerate(ps):
        if p is not None and traced(p.given):
            raise TypeError(f"{tree.name(i)} is traced; wanted diagnose outside of the transformed function")
    owner = checks.owners(ps)
    xs = checks.gradients(tree, ps, owner, grads)
    state = optimizer.state or optimizer.init(params)
    after = _after(optimizer.step, params, grads, state)
    before = [None if p is None else wide(p.library, p.array) for p in ps]
    gradients = [None if x is None else wide(library(x), x) for x in xs]

    def in_float64(*arguments: Any) -> Any:
        return step(optimizer._pipeline, "portable", *arguments)

    # Tied parameters are one array here, too, with one gradient.
    exact_params = tree.build([before[o] for o in owner])
    exact = _after(in_float64, exact_params, tree.build(gradients), _in_float64(state))
    found = Diagnosis()
    found.note = _no_step(optimizer, gradients, state, after)
    news = tree.leaves if after is None else Tree("params", after[0]).leaves
    exacts = before if exact is None else Tree("params", exact[0]).leaves
    counts = [Tree("t", of.t).leaves for of in (state, state if after is None else after[1])]
    for i, p in enumerate(ps):
        if p is not None:
            new = wide(p.library, p.library.load(news[i]))
            numbers = gradients[owner[i]], before[i], new, np.asarray(exacts[i])
            row = _row(tree.path(i), p.dtype, *numbers, moves=not found.note)
            rests = not found.note and int(counts[0][i]) == int(counts[1][i])
            found.append(row._replace(remark="it rests") if rests else row)
    return found


def _after(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a step gives; None where a gate has called off too many in a row."""
    try:
        return call(*arguments)
    except FloatingPointError:
        return None


def _in_float64(state: State) -> State:
    """The state with NumPy's float64 arrays, and Python's numbers."""

    def mapped(part: Any, convert: Callable[[Any], Any]) -> Any:
        tree = Tree("state", part)
        return tree.build([None if leaf is None else convert(leaf) for leaf in tree.leaves])

    slots = mapped(state.slots, lambda slot: wide(library(slot), slot))
    return State(int(state.step), mapped(state.t, int), slots, mapped(state.scalars, float), mapped(state.pending, int))


def _no_step(optimizer: Optimizer, gradients: list[Any], state: State, after: Any) -> str:
    """Why no step would be taken; empty where one would be."""
    if after is not None and int(after[1].step) > int(state.step):
        return ""
    if all(g is None for g in gradients):
        return "no step: there is no gradient"
    finite = all(np.isfinite(g).all() for g in gradients if g is not None)
    gates = [stage for stage in optimizer.stages if isinstance(stage, Gate)]
    if gates and not finite:
        return f"no step: {gates[0]!r} would call it off"
    return "no step: the gradients would only be gathered"


def _row(path: str, dtype: str, g: Any, before: Any, after: Any, exact: Any, *, moves: bool) -> ParameterDiagnosis:
    shape, n = before.shape, before.size
    row = ParameterDiagnosis(path, shape, dtype, math.nan, _norm(before), 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, "")
    if g is None:
        return row._replace(remark="it rests")
    g, before, after, exact = (np.ascontiguousarray(a).reshape(-1).view(np.float64) for a in (g, before, after, exact))
    with quiet():
        moved, wanted = after - before, exact - before
        missed = abs(moved - wanted)
        bad = ~(np.isfinite(g) & np.isfinite(after))
        row = row._replace(
            gradient_norm=_norm(g),
            step_norm=_norm(moved),
            relative_step=_share(_norm(moved), row.parameter_norm),
            exact_norm=_norm(wanted),
            step_error=_share(_norm(missed), _norm(wanted)),
            nonfinite=int(bad.sum()),
            zeros=int((g == 0).sum()),
            vanishing=int(((moved == 0) & (wanted != 0)).sum()),
            cancelling=int(((moved != 0) & (missed > LOST * abs(wanted))).sum()),
        )
    return row._replace(remark="; ".join(_remarks(row, np.flatnonzero(bad), n, moves)))


def _remarks(row: ParameterDiagnosis, bad: np.ndarray[Any, Any], n: int, moves: bool) -> Iterator[str]:
    if bad.size:
        first = int(bad[0]) // (2 if row.dtype.startswith("complex") else 1)
        where = [int(k) for k in np.unravel_index(first, row.shape)] if row.shape else []
        yield f"{bad.size} of {n} elements not finite" + (f", the first at {where}" if where else "")
    elif n and row.gradient_norm == 0:
        yield "its gradient is 0"
    elif n and moves:
        if row.exact_norm == 0:
            yield "its step is 0"
        if row.vanishing > MANY * n:
            yield f"{row.vanishing / n:.0%} of it would not move: the steps are too small for {row.dtype}"
        if row.cancelling > MANY * n:
            yield f"{row.cancelling / n:.0%} of it would lose a tenth of its step or more in {row.dtype}"
        if LARGE < row.relative_step < math.inf:
            yield f"a step of {row.relative_step:.2g} times the parameter is large"
        elif 0 < row.relative_step < SMALL:
            yield f"a step of {row.relative_step:.1g} times the parameter is small"


def _norm(x: np.ndarray[Any, Any]) -> float:
    with quiet():
        return float(np.linalg.norm(x))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0
