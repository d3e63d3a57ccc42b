"""How many evaluations the solvers need until a function is so small, with SciPy's run beside, from the same start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.optimize

import anyoptim as ao
from tests.reference.evaluations import (
    BOUNDED,
    MOST,
    PUBLISHED,
    TYPICAL,
    Case,
    Solver,
    evaluations,
    scipy_solver,
)
from tests.reference.minimization.problem import Function, Problem

Counts = dict[tuple[str, float], float]
"""Evaluations by problem and target."""


def _ours(method: Callable[[Problem], Any]) -> Solver:
    """Nothing but the target ends a run."""

    def solve(function: Function, problem: Problem) -> Any:
        return ao.minimize(function, problem.start.copy(), method=method(problem), stop=ao.Stop(evaluations=MOST))

    return solve


lbfgs = _ours(lambda problem: ao.LBFGS(memory_size=10))
lbfgs_bounded = _ours(lambda problem: ao.LBFGS(memory_size=10, bounds=problem.bounds))
conjugate = _ours(lambda problem: ao.NonlinearCG())


def _counts(cases: Mapping[str, Case], solver: Solver) -> Counts:
    return {
        (name, target): count
        for name, (problem, targets) in cases.items()
        for target, count in zip(targets, evaluations(problem, targets, solver), strict=True)
    }


def _both(cases: Mapping[str, Case], ours: Solver, peer: str) -> tuple[Counts, Counts]:
    """The counts of ours and of SciPy's method, where SciPy's reaches the target at all."""
    wanted = {key: count for key, count in _counts(cases, scipy_solver(peer)).items() if math.isfinite(count)}
    found = _counts(cases, ours)
    return {key: found[key] for key in wanted}, wanted


@pytest.mark.parametrize(
    ("cases", "ours"),
    [(TYPICAL, lbfgs), (PUBLISHED, lbfgs), (BOUNDED, lbfgs_bounded)],
    ids=["typical", "published", "bounded"],
)
def test_lbfgs_needs_no_more_than_scipys(cases: Mapping[str, Case], ours: Solver) -> None:
    """At each target 1.05 times SciPy's L-BFGS-B or 2 more, at most, and 1.05 times in sum.

    Both have other roundings, by which the longest runs differ by some per cent either way: where ours is longer, the
    median of nine starts that differ in their last digits is what counts, on both sides.
    """
    found, wanted = _both(cases, ours, "L-BFGS-B")
    longer = {name for (name, target), n in wanted.items() if _more(found[name, target], n)}
    medians = {name: [_medians(cases[name], solver) for solver in (ours, scipy_solver("L-BFGS-B"))] for name in longer}
    assert {name: both for name, both in medians.items() if any(map(_more, *both))} == {}
    assert sum(found.values()) <= 1.05 * sum(wanted.values())


def _more(ours: float, theirs: float) -> bool:
    return ours > max(1.05 * theirs, theirs + 2)


def _medians(case: Case, solver: Solver) -> Sequence[float]:
    """For each target the median over starts whose numbers differ by some units of their last digits."""
    rng = np.random.default_rng(0)
    starts = [case.problem.start * (1 + 1e-15 * rng.standard_normal(case.problem.start.shape)) for _ in range(9)]
    counts = [evaluations(case.problem._replace(start=start), case.targets, solver) for start in starts]
    return list(np.median(counts, axis=0))


def test_conjugate_gradients_need_less_than_scipys() -> None:
    """In sum 0.95 of SciPy's CG, at most."""
    found, wanted = _both(TYPICAL, conjugate, "CG")
    assert sum(found.values()) <= 0.95 * sum(wanted.values()), (found, wanted)


@pytest.mark.parametrize("case", BOUNDED.values(), ids=lambda case: case.problem.name)
def test_the_active_set_is_scipys(case: Case) -> None:
    """The same variables end at the same bounds, where a gradient holds them there, and the value is the least."""
    problem = case.problem
    assert problem.bounds is not None
    bounds = scipy.optimize.Bounds(*problem.bounds)
    options = {"maxcor": 10, "ftol": 0.0, "gtol": 1e-8}
    peer = scipy.optimize.minimize(
        problem.value_and_grad, problem.start, method="L-BFGS-B", jac=True, bounds=bounds, options=options
    )
    result = ao.minimize(
        problem.value_and_grad,
        problem.start.copy(),
        method=ao.LBFGS(bounds=problem.bounds),
        stop=ao.Stop(gtol=1e-8) | ao.Stop(evaluations=MOST),
    )
    lower, upper = problem.bounds
    assert np.all(lower <= result.params)
    assert np.all(result.params <= upper)
    held = np.abs(peer.jac) > 1e-6
    np.testing.assert_array_equal((result.params == lower)[held], (peer.x == lower)[held])
    np.testing.assert_array_equal((result.params == upper)[held], (peer.x == upper)[held])
    assert result.value == pytest.approx(problem.minimum, rel=1e-7, abs=1e-10)
