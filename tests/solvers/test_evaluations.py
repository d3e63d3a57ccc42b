"""How many evaluations the solvers need until a function is so small, with SciPy's run beside, from the same start."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import scipy.optimize

import anyoptim as ao
from tests.reference.evaluations import (
    BOUNDED,
    LARGE,
    MOST,
    PUBLISHED,
    TYPICAL,
    Case,
    Solver,
    evaluations,
    scipy_solver,
)
from tests.reference.minimization.problem import Function, Problem

STARTS = 5
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


def _more(found: Counts, wanted: Counts) -> Counts:
    """What is more than 1.05 times SciPy's and more than 2 more."""
    return {key: found[key] for key, n in wanted.items() if found[key] > max(1.05 * n, n + 2)}


def _medians(case: Case, solver: Solver) -> Counts:
    """Over starts that differ by no more than rounding."""
    problem, counts = case.problem, []
    for seed in range(STARTS):
        noise = 1e-14 * np.random.default_rng(seed).normal(size=problem.start.shape)
        counts.append(evaluations(problem._replace(start=problem.start * (1 + noise)), case.targets, solver))
    medians = map(statistics.median, zip(*counts, strict=True))
    return {(problem.name, target): n for target, n in zip(case.targets, medians, strict=True)}


@pytest.mark.parametrize(
    ("cases", "ours"),
    [
        pytest.param(TYPICAL, lbfgs, id="typical"),
        pytest.param(LARGE, lbfgs, id="large", marks=pytest.mark.product),
        pytest.param(PUBLISHED, lbfgs, id="published", marks=pytest.mark.product),
        pytest.param(BOUNDED, lbfgs_bounded, id="bounded"),
    ],
)
def test_lbfgs_needs_no_more_than_scipys(cases: Mapping[str, Case], ours: Solver) -> None:
    """At each target 1.05 times SciPy's L-BFGS-B or 2 more, at most, and 1.05 times in sum.

    Where that does not hold, medians over starts that differ in their last bits must: in a bent valley SciPy's own
    counts vary by a tenth with these (Wood, to 1e-6: between 100 and 109 in nine of ten cases).
    """
    found, wanted = _both(cases, ours, "L-BFGS-B")
    for name in {name for name, _ in _more(found, wanted)}:
        found |= _medians(cases[name], ours)
        wanted |= _medians(cases[name], scipy_solver("L-BFGS-B"))
    assert _more(found, wanted) == {}
    assert sum(found[key] for key in wanted) <= 1.05 * sum(wanted.values())


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
