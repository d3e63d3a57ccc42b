"""Every solver after an exception of the user's function: what it says is true, and it goes on."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import anyoptim as ao
from tests.support.internals import Box
from tests.support.libraries import same_bits

CALLS = range(1, 13)
"""Which call raises."""

TARGET = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 2.0])
CURVATURE = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


def bowl(x: Any) -> tuple[float, Any]:
    """Convex, with its minimum at `TARGET`, and no quadratic function, of which some solvers need too few calls."""
    off = x - TARGET
    return float(np.sum(CURVATURE * off**2 / 2 + off**4 / 4)), CURVATURE * off + off**3


MATRIX = np.eye(6) * np.arange(3.0, 9.0) + np.random.default_rng(0).random((6, 6))


def misfit(x: Any) -> tuple[float, Any]:
    """That of the linear problem, with the same minimum."""
    r = MATRIX @ x - MATRIX @ TARGET
    return 0.5 * float(np.sum(r * r)), MATRIX.T @ r


class Case(NamedTuple):
    """A solver, and what it promises."""

    make: Callable[[], ao.solvers.Solver]
    best_of: str = "all"
    """Of which points an exception leaves the parameters at the best: all, those of the last search, or last step."""
    linear: bool = False


_NOTHING = ao.prox.L1(0.0)
_POLYAK = ao.solvers.Polyak()

CASES: dict[str, Case] = {
    "LBFGS": Case(ao.LBFGS),
    "LBFGS, bounded": Case(lambda: ao.LBFGS(bounds=(-5.0, 5.0))),
    "NonlinearCG": Case(ao.NonlinearCG),
    "GradientDescent": Case(ao.GradientDescent),
    "GradientDescent, Polyak": Case(lambda: ao.GradientDescent(_POLYAK)),
    "GradientDescent, Armijo": Case(lambda: ao.GradientDescent(ao.solvers.Armijo())),
    "ProximalGradient": Case(lambda: ao.ProximalGradient(_NOTHING), "step"),
    "ProximalGradient, ISTA": Case(lambda: ao.ProximalGradient(_NOTHING, acceleration=None), "step"),
    "ProximalGradient, lr": Case(lambda: ao.ProximalGradient(_NOTHING, 0.05), "step"),
    "ProximalGradient, ISTA, lr": Case(lambda: ao.ProximalGradient(_NOTHING, 0.05, None), "step"),
    "CGLS": Case(ao.CGLS, linear=True),
    "Landweber": Case(lambda: ao.Landweber(0.02), linear=True),
    "Landweber, bounded": Case(lambda: ao.Landweber(bounds=(-5, 5)), linear=True),
    "SIRT": Case(lambda: ao.SIRT(1.5), linear=True),
    "compat.torch.LBFGS": Case(
        lambda: ao.compat.torch.LBFGS(line_search_fn="strong_wolfe", tolerance_change=1e-16), "search"
    ),
    "compat.optax.lbfgs": Case(ao.compat.optax.lbfgs, "search"),
    "compat.optax.polyak_sgd": Case(ao.compat.optax.polyak_sgd, "search"),
}


def test_every_solver_is_among_them() -> None:
    """All classes of `ao.solvers` that are one, and those that compat gives."""
    public = [getattr(ao.solvers, name) for name in ao.solvers.__all__]
    solvers = {of.__name__ for of in public if inspect.isclass(of) and issubclass(of, ao.solvers.Solver)}
    for room in (ao.compat.torch, ao.compat.optax):
        for name in room.__all__:
            of = getattr(room, name)
            if not callable(of):
                continue
            gives = of if inspect.isclass(of) else inspect.signature(of).return_annotation
            if gives == "Solver" or (inspect.isclass(gives) and issubclass(gives, ao.solvers.Solver)):
                solvers.add(f"{room.__name__.removeprefix('anyoptim.')}.{name}")
    assert {name.partition(",")[0] for name in CASES} == solvers - {"Solver"}


class Failing:
    """A function that raises at one of its calls, or a linear problem of whose operators one does."""

    def __init__(self, case: Case, call: int) -> None:
        self.case, self.call, self.calls, self.forwards = case, call, 0, 0
        self.value_and_grad = misfit if case.linear else bowl
        self.seen: list[tuple[float, Any]] = []
        self.problem: Any = self
        if case.linear:
            self.problem = ao.LeastSquares(self.forward, self.adjoint, MATRIX @ TARGET)

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt

    def __call__(self, x: Any) -> tuple[float, Any]:
        self.count()
        value, grad = bowl(x)
        self.seen.append((value, x.copy()))
        return value, grad

    def forward(self, x: Any) -> Any:
        self.forwards += 1
        self.count()
        return MATRIX @ x

    def adjoint(self, r: Any) -> Any:
        self.count()
        return MATRIX.T @ r


def _until_it_raises(case: Case, call: int) -> tuple[ao.solvers.Solver, Any, Failing, list[tuple[float, Any]]]:
    """A solver after the exception, its parameters, the function, and what was told after each step before."""
    solver, x, failing = case.make(), np.zeros(6), Failing(case, call)
    told: list[tuple[float, Any]] = []
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(20):
            solver.update(x, failing.problem)
            told.append((solver.last_value, x.copy()))
            assert solver.last_failure is None
    assert failing.calls == call
    return solver, x, failing, told


@pytest.mark.parametrize("name", CASES)
def test_what_is_told_after_an_exception_is_true(name: str) -> None:
    """Whichever call it is: the value is that at the parameters, or not known, and counts are what was done."""
    case = CASES[name]
    for call in CALLS:
        solver, x, failing, told = _until_it_raises(case, call)
        value = failing.value_and_grad(x)[0]
        # That of linear problems is carried on from step to step.
        assert math.isnan(solver.last_value) or solver.last_value == pytest.approx(value, rel=1e-12 * case.linear), call
        assert math.isnan(solver.last_value) <= (not told or name == "ProximalGradient, lr"), call
        assert solver.last_failure is None
        if case.linear:
            assert abs(solver.evaluations - failing.forwards) <= 1  # which call `adjoint` as well
        else:
            assert solver.evaluations == call
        before = told[-1][1] if told else np.zeros(6)
        finished = name.startswith("ProximalGradient") and not same_bits(x, before)
        assert solver.steps == len(told) + finished, call


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_the_best_seen(name: str) -> None:
    """In a loop of one's own: of all points, or of the last search, or where a step has led."""
    case = CASES[name]
    start = ((misfit if case.linear else bowl)(np.zeros(6))[0], np.zeros(6))
    for call in CALLS:
        _, x, failing, told = _until_it_raises(case, call)
        if case.best_of == "step":
            whole, y = case.make(), np.zeros(6)
            steps = [start[1], *(whole.update(y, bowl).copy() for _ in range(len(told) + 1))]
            assert any(same_bits(x, step) for step in steps[-2:]), call
            continue
        points = [start, *(told if case.linear else failing.seen)]
        if case.best_of == "search" and told:
            points = points[[of[0] for of in points].index(told[-1][0]) :]
        assert same_bits(x, min(points, key=lambda of: of[0])[1]), call


@pytest.mark.parametrize("name", CASES)
def test_minimize_ends_at_the_best_point_seen(name: str) -> None:
    """Whatever is raised: the value there is at most that after any step."""
    case = CASES[name]
    for call in CALLS:
        x, failing = np.zeros(6), Failing(case, call)
        told = [failing.value_and_grad(x)[0]]
        with pytest.raises(KeyboardInterrupt):
            ao.minimize(failing.problem, x, method=case.make(), callback=lambda of: told.append(of.value))  # noqa: B023
        assert failing.value_and_grad(x)[0] <= min(told) * (1 + 1e-12), call


@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_after_an_exception(name: str) -> None:
    """To the same minimum: of the calls those of the first steps, and one of a later."""
    case = CASES[name]
    for call in (1, 2, 3, 4, 11):
        solver, x, failing, _ = _until_it_raises(case, call)
        for _ in range(400):
            solver.update(x, failing.problem)
            if solver.last_failure is not None or np.abs(x - TARGET).max() < 1e-6:
                break
        np.testing.assert_allclose(x, TARGET, rtol=0, atol=1e-6, err_msg=f"{call} {solver.last_failure}")
        assert solver.last_value == pytest.approx(failing.value_and_grad(x)[0], rel=1e-6, abs=1e-12)


def test_a_failure_is_forgotten_where_an_exception_comes() -> None:
    """It was that of an iteration before."""
    solver, x = ao.LBFGS(), TARGET.copy()
    solver.update(x, bowl)
    assert solver.last_failure == "the gradient is zero"
    x[0] += 1.0
    with pytest.raises(KeyboardInterrupt):
        solver.update(x, Failing(CASES["LBFGS"], 1))
    assert solver.last_failure is None


def test_the_best_of_several_rises_is_kept() -> None:
    """The value of a steep step goes up and down: of all points from which it has risen, the lowest."""
    values: list[float] = []

    def rippled(x: Any) -> tuple[float, Any]:
        values.append([5.0, 4.0, 1.0, 6.0, 3.0, 7.0, 6.5][min(len(values), 6)])
        return values[-1], np.ones_like(x)

    result = ao.minimize(rippled, np.zeros(1), method=ao.GradientDescent(0.5), stop=ao.Stop(steps=6))
    assert (result.value, result.params.tolist()) == (1.0, [-1.0])


def test_an_exception_after_the_search() -> None:
    """The parameters are at the new point, and so is the value: a preconditioner raises at its third call."""
    calls = 0

    def preconditioner(g: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return g / 10

    solver, x = ao.NonlinearCG(preconditioner=preconditioner), np.zeros(6)
    solver.update(x, bowl)  # which has called it at the beginning, and after the step
    with pytest.raises(KeyboardInterrupt):
        solver.update(x, bowl)
    assert solver.last_value == bowl(x)[0] < bowl(np.zeros(6))[0]


def test_an_interruption_of_a_step_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the step is within them, too, nothing has moved."""
    solver, x = ao.Landweber(0.02, bounds=(-5, 5)), np.ones(6)
    problem = ao.LeastSquares(lambda p: MATRIX @ p, lambda r: MATRIX.T @ r, MATRIX @ TARGET)
    solver.begin(x, problem)
    monkeypatch.setattr(Box, "enter", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        solver.iterate()
    np.testing.assert_array_equal(x, 1)
    assert solver.last_value == pytest.approx(misfit(x)[0])


@pytest.mark.parametrize("way", ["state", "copy"])
def test_a_state_after_an_exception_begins_anew(way: str) -> None:
    """Where a point was taken of which not all was known: counts go on, and the minimum is found from there."""
    calls = 0

    def preconditioner(g: Any) -> Any:
        nonlocal calls
        calls += 1
        return -g if calls == 3 else g / 10  # which is refused once the step is taken

    solver, x = ao.NonlinearCG(preconditioner=preconditioner), np.zeros(6)
    solver.update(x, bowl)
    with pytest.raises(ValueError, match="positive definite"):
        solver.update(x, bowl)
    assert not solver.state_dict()["vectors"]
    if way == "state":
        again = ao.NonlinearCG(preconditioner=preconditioner)
        again.load_state_dict(solver.state_dict(), x)
    else:
        again = copy.copy(solver)
    assert again.evaluations == solver.evaluations
    for _ in range(60):
        again.update(x, bowl)
    np.testing.assert_allclose(x, TARGET, rtol=0, atol=1e-6)
    assert again.last_value == bowl(x)[0]
