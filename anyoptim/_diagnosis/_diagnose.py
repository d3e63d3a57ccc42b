"""A step taken twice, on the parameters as they are and in float64, and compared; nothing is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import _checks as checks
from anyoptim._arrays import library, traced
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._arrays._wide import wide
from anyoptim._diagnosis._table import Diagnosis, ParameterDiagnosis

__all__ = ["diagnosed"]

Step = Callable[..., Any]

LARGE, SMALL = 0.1, 1e-6
"""Relative steps beyond which a remark is made; 1e-3 is usual."""
LOST = 0.1
"""The part of an element's step whose loss counts."""
MANY = 0.01
"""The share of the elements from which on lost steps are remarked."""
MOSTLY = 0.9
"""The share of the elements from which on gradients of 0 are remarked."""


def diagnosed(
    step: Step, exact_step: Step, gates: Sequence[Any], accumulates: bool, params: Any, grads: Any, state: Any
) -> Diagnosis:
    """What a step would do.

    Args:
        step: `step(params, grads, state)`: new parameters and a new state.
        exact_step: the same for NumPy's arrays of float64.
        gates: the stages that may call a step off.
        accumulates: whether gradients may be gathered instead.
        params: the parameters.
        grads: their gradients.
        state: the optimizer's state before the step.
    """
    tree = Tree("params", params)
    ps = checks.parameters(tree)
    for i, p in enumerate(ps):
        if p is not None and traced(p.given):
            raise TypeError(f"{tree.name(i)} is traced; wanted diagnose outside of the transformed function")
    owner = checks.owners(ps)
    xs = checks.gradients(tree, ps, owner, grads)
    after = _after(step, params, grads, state)
    before = [None if p is None else wide(p.library, p.array) for p in ps]
    gradients = [None if x is None else wide(library(x), x) for x in xs]

    # Tied parameters are one array here, too, with one gradient.
    exact_params = tree.build([before[o] for o in owner])
    exact = _after(exact_step, exact_params, tree.build(gradients), _in_float64(state))
    found = Diagnosis()
    found.note = _no_step(gates, accumulates, gradients, state, after)
    news = tree.leaves if after is None else Tree("params", after[0]).leaves
    exacts = before if exact is None else Tree("params", exact[0]).leaves
    counts = [Tree("t", of.t).leaves for of in (state, state if after is None else after[1])]
    for i in _in_order(tree):
        p = ps[i]
        if p is not None:
            new = wide(p.library, p.library.load(news[i]))
            numbers = gradients[owner[i]], before[i], new, np.asarray(exacts[i])
            row = _row(tree.path(i), p.dtype, *numbers, moves=not found.note)
            rests = not found.note and np.array_equal(counts[0][i], counts[1][i])
            found.append(row._replace(remark="it rests") if rests else row)
    return found


def _in_order(tree: Tree) -> list[int]:
    """The numbers of the leaves in the order of the container: those of dicts are sorted by key."""

    def places(i: int) -> Iterator[int]:
        node = tree.container
        for entry in tree.accessors[i]:
            if not isinstance(node, dict | list | tuple):
                break  # of what only optree or JAX knows
            keys = list(node) if isinstance(node, dict) else []
            yield keys.index(entry.entry) if keys else int(entry.entry)
            node = entry(node)
        yield i

    return sorted(range(len(tree.leaves)), key=lambda i: tuple(places(i)))


def _after(call: Step, *arguments: Any) -> Any:
    """What a step gives; None where a gate has called off too many in a row."""
    try:
        return call(*arguments)
    except FloatingPointError:
        return None


def _in_float64(state: Any) -> Any:
    """The state with NumPy's float64 arrays, and Python's numbers."""

    def mapped(part: Any, convert: Callable[[Any], Any]) -> Any:
        tree = Tree("state", part)
        return tree.build([None if leaf is None else convert(leaf) for leaf in tree.leaves])

    return state._replace(
        step=int(state.step),
        t=mapped(state.t, lambda n: n if isinstance(n, np.ndarray) and n.ndim else int(n)),
        slots=mapped(state.slots, lambda slot: wide(library(slot), slot)),
        scalars=mapped(state.scalars, float),
        pending=mapped(state.pending, int),
    )


def _no_step(gates: Sequence[Any], accumulates: bool, gradients: Sequence[Any], state: Any, after: Any) -> str:
    """Why no step would be taken; empty where one would be."""
    if after is not None and int(after[1].step) > int(state.step):
        return ""
    if all(g is None for g in gradients):
        return "no step: there is no gradient"
    finite = all(np.isfinite(g).all() for g in gradients if g is not None)
    # Without an Accumulate it is a gate that holds it back, although other ranks may have what is not finite.
    if gates and not (finite and accumulates):
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
        parts = n, 2 if dtype.startswith("complex") else 1  # one is enough to be odd, but an element is 0 if all are
        bad = ~(np.isfinite(g) & np.isfinite(after)).reshape(parts).all(axis=1)
        row = row._replace(
            gradient_norm=_norm(g),
            step_norm=_norm(moved),
            relative_step=_share(_norm(moved), row.parameter_norm),
            exact_norm=_norm(wanted),
            step_error=_share(_norm(missed), _norm(wanted)),
            nonfinite=int(bad.sum()),
            zeros=int((g == 0).reshape(parts).all(axis=1).sum()),
            vanishing=int(((moved == 0) & (wanted != 0)).reshape(parts).any(axis=1).sum()),
            cancelling=int(((moved != 0) & (missed > LOST * abs(wanted))).reshape(parts).any(axis=1).sum()),
        )
    return row._replace(remark="; ".join(_remarks(row, np.flatnonzero(bad), n, moves)))


def _norm(x: np.ndarray[Any, Any]) -> float:
    with quiet():
        return float(np.linalg.norm(x))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0


def _remarks(row: ParameterDiagnosis, bad: np.ndarray[Any, Any], n: int, moves: bool) -> Iterator[str]:
    if bad.size:
        where = [int(k) for k in np.unravel_index(int(bad[0]), row.shape)] if row.shape else []
        yield f"{bad.size} of {n} elements not finite" + (f", the first at {where}" if where else "")
    elif n and row.gradient_norm == 0:
        yield "its gradient is 0"
    elif n and moves:
        if row.zeros > MOSTLY * n:
            yield f"{math.floor(100 * row.zeros / n)}% of its gradient is 0"
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
