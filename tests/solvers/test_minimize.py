"""`minimize` and what a solver does between iterations: copies, files, callbacks, optimizers, and where it ends."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.valleys import START, rosenbrock

SOLVERS: dict[str, ao.solvers.Solver] = {
    "LBFGS": ao.LBFGS(memory_size=3),
    "NonlinearCG": ao.NonlinearCG(),
    "GradientDescent": ao.GradientDescent(),
    "ProximalGradient": ao.ProximalGradient(ao.prox.L1(0.01)),
}


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "file"])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_copy_goes_on_by_itself(name: str, how: str, tmp_path: Path) -> None:
    """As the solver does, with the same bits, on parameters of its own."""
    solver, x = copy.deepcopy(SOLVERS[name]), START.copy()
    for _ in range(3):
        solver.update(x, rosenbrock)
    y = x.copy()
    if how == "file":
        ao.save(tmp_path / "run.safetensors", params=x, optimizer=solver)
        found = ao.load(tmp_path / "run.safetensors", like=x)
        other, y = copy.deepcopy(SOLVERS[name]), found.params
        other.load_state_dict(found.optimizer or {}, y)
    else:
        copied: dict[str, Callable[[Any], Any]] = {
            "copy": copy.copy,
            "deepcopy": copy.deepcopy,
            "pickle": lambda s: pickle.loads(pickle.dumps(s)),  # noqa: S301
        }
        other = copied[how](solver)
    assert (other.last_value, other.steps, other.evaluations) == (solver.last_value, solver.steps, solver.evaluations)
    for _ in range(3):
        solver.update(x, rosenbrock)
        other.update(y, rosenbrock)
    np.testing.assert_array_equal(x, y)
    assert other.evaluations == solver.evaluations


def test_an_optimizer_ends_at_the_best_point() -> None:
    """Heavy momentum climbs out of the valley again."""
    x = START.copy()
    seen: list[tuple[float, Any]] = []

    def looked_at(x: Any) -> tuple[float, Any]:
        seen.append((rosenbrock(x)[0], x.copy()))
        return rosenbrock(x)

    result = ao.minimize(looked_at, x, method=ao.Momentum(0.002, 0.98), stop=ao.Stop(steps=60))
    value, best = min(seen, key=lambda of: of[0])
    assert seen[-1][0] > value == result.value
    np.testing.assert_array_equal(result.params, best)
    assert (result.steps, result.evaluations, len(result.history)) == (60, 61, 61)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_is_raised_the_best_point_stays(error: type[BaseException]) -> None:
    """In the function, in the middle of a search."""
    x = START.copy()
    seen: list[tuple[float, Any]] = []

    def failing(x: Any) -> tuple[float, Any]:
        if len(seen) == 20:
            raise error
        seen.append((rosenbrock(x)[0], x.copy()))
        return rosenbrock(x)

    with pytest.raises(error):
        ao.minimize(failing, x, method=ao.LBFGS())
    np.testing.assert_array_equal(x, min(seen, key=lambda of: of[0])[1])


def test_a_callback_is_told_after_each_step_and_may_stop() -> None:
    told: list[ao.solvers.Result] = []

    def callback(result: ao.solvers.Result) -> None:
        told.append(result)
        if result.steps == 4:
            raise StopIteration

    result = ao.minimize(rosenbrock, START.copy(), method=ao.LBFGS(), callback=callback)
    assert [of.steps for of in told] == [1, 2, 3, 4]
    assert (result.steps, result.converged, result.message) == (4, False, "the callback has stopped it")


def test_parameters_that_were_moved_are_looked_at_again() -> None:
    """In place or as other arrays; where they have not moved, the function is not called again."""
    solver, x, calls = ao.LBFGS(), START.copy(), 0

    def counted(x: Any) -> tuple[float, Any]:
        nonlocal calls
        calls += 1
        return rosenbrock(x)

    solver.update(x, counted)
    before = solver.evaluations
    y = solver.update(x.copy(), counted)  # another array of the same values
    assert calls == solver.evaluations
    per_step = solver.evaluations - before
    y[0] += 0.25
    value = rosenbrock(y)[0]
    before = solver.evaluations
    solver.update(y, counted)
    assert solver.evaluations > before + 1
    assert solver.last_value < value
    assert per_step >= 1


@pytest.mark.parametrize(
    ("value_and_grad", "message"),
    [
        (lambda x: (float(x @ x), -2 * x), "the gradient does not fit the value"),
        (lambda x: (float("nan"), x), "the value at the parameters is nan"),
        (lambda x: (1.0, x * np.inf), "the gradient of params is not finite"),
        (lambda x: (1.0, 0 * x), "the gradient is zero"),
        (lambda x: (float(x @ x) if x[0] >= 1 else float("nan"), 2 * x), "a wall: the value is not finite"),
    ],
)
def test_why_there_is_no_step(value_and_grad: Any, message: str) -> None:
    """Nothing is raised, and nothing has moved."""
    x = np.array([1.0, 2.0])
    result = ao.minimize(value_and_grad, x, method=ao.LBFGS())
    assert message in result.message
    assert result.converged == (message == "the gradient is zero")
    np.testing.assert_array_equal(x, [1, 2])


@pytest.mark.parametrize("params", [{}, np.zeros(0), {"a": None}])
def test_nothing_to_minimize(params: Any) -> None:
    grads = params
    for method in (ao.LBFGS(), ao.Adam()):
        result = ao.minimize(lambda _: (1.0, grads), params, method=method)
        assert (result.converged, result.message.partition(":")[0]) == (True, "there is nothing to minimize")


@pytest.mark.parametrize("name", SOLVERS)
def test_an_array_that_is_not_written_to_any_more(name: str) -> None:
    """Once its owner has made it read-only, the solver goes on with others, from where it is."""
    solver, x, curvature = copy.copy(SOLVERS[name]), np.full(2, 3.0), np.array([1.0, 9.0])

    def value_and_grad(x: Any) -> tuple[float, Any]:
        return float(curvature @ x**2), 2 * curvature * x

    solver.update(x, value_and_grad)
    x.setflags(write=False)
    before, value = x.copy(), solver.last_value
    y = solver.update(x, value_and_grad)
    assert y is not x
    assert solver.last_value < value
    np.testing.assert_array_equal(x, before)


def test_a_value_in_bfloat16(need: Callable[[str], Library]) -> None:
    """NumPy has no such dtype, and the value is a number all the same."""
    need("torch")
    import torch

    x = torch.full((2,), 3.0, dtype=torch.bfloat16)
    result = ao.minimize(lambda x: (((x - 1) ** 2).sum(), 2 * (x - 1)), x, method=ao.LBFGS())
    assert (result.value, x.tolist()) == (0.0, [1.0, 1.0])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((1.0,), TypeError, r"value_and_grad gave \(1.0,\); wanted a pair, the value and the gradients"),
        ((np.ones(2), np.ones(2)), TypeError, r"gave a ndarray of shape \(2,\) as the value; wanted one real number"),
        ((1j, np.ones(2)), TypeError, "gave 1j as the value; wanted one real number"),
        ((1.0, np.ones(3)), ValueError, r"params has shape \(2,\) but grads has shape \(3,\)"),
    ],
)
def test_what_a_function_may_not_give(given: Any, error: type[Exception], message: str) -> None:
    x = np.ones(2)
    with pytest.raises(error, match=message):
        ao.minimize(lambda _: given, x, method=ao.LBFGS())
    np.testing.assert_array_equal(x, 1)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"a": np.ones(3), "b": np.ones(2)}, r"params\['a'\] has shape \(2,\) but grads\['a'\] has shape \(3,\)"),
        ({"a": np.ones(2), "b": None}, r"params\['b'\] has no gradient, and had one before"),
        ({"a": np.ones(2)}, r"grads\['b'\] is missing"),
    ],
)
def test_gradients_of_another_form_are_looked_at_again(later: Any, message: str) -> None:
    """Gradients of the form of those before are taken at a glance, and only these; in any order of keys."""
    params, calls = {"a": np.full(2, 3.0), "b": np.full(2, 5.0)}, itertools.count()

    def value_and_grad(p: Any) -> Any:
        grads = {"b": 4 * p["b"], "a": 2 * p["a"]}
        return float(p["a"] @ p["a"] + 2 * p["b"] @ p["b"]), grads if next(calls) < 4 else later

    with pytest.raises(ValueError, match=message):
        ao.minimize(value_and_grad, params, method=ao.NonlinearCG())
    assert abs(params["a"]).max() < 3
    assert abs(params["b"]).max() < 5


@pytest.mark.parametrize("method", [ao.LBFGS(memory_size=3), ao.NonlinearCG(), ao.GradientDescent()])
def test_a_point_that_is_taken_half_is_looked_at_again(
    method: ao.solvers.Solver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception comes when the point has been taken, and its inner products are not known yet."""
    solver, x, space = copy.deepcopy(method), START.copy(), type(ao.LBFGS().run).space
    for _ in range(4):
        solver.update(x, rosenbrock)
    armed = False

    def interrupted(run: Any) -> Any:
        found = space.fget(run)  # type: ignore[attr-defined]
        if armed and found.unsettled:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(type(solver.run), "space", property(interrupted))
    armed = True
    with pytest.raises(KeyboardInterrupt):
        solver.update(x, rosenbrock)
    armed = False
    before = solver.steps
    value = rosenbrock(x)[0]
    solver.update(x, rosenbrock)
    assert solver.steps == before + 1
    assert solver.last_value == rosenbrock(x)[0] < value
    assert solver.run.numbers["gradient_squared"] == pytest.approx(float(np.sum(rosenbrock(x)[1] ** 2)), rel=1e-12)


@pytest.mark.parametrize("lr", [1e-4, 1.0])
def test_an_optimizer_that_is_interrupted_ends_at_the_best_point(lr: float) -> None:
    """The function raises at a point that is not looked at so."""
    x = START.copy()
    calls: list[tuple[float, Any]] = []

    def failing(x: Any) -> tuple[float, Any]:
        if len(calls) == 2:
            raise ValueError
        calls.append((rosenbrock(x)[0], x.copy()))
        return rosenbrock(x)

    with pytest.raises(ValueError):  # noqa: PT011
        ao.minimize(failing, x, method=ao.SGD(lr))
    np.testing.assert_array_equal(x, min(calls, key=lambda of: of[0])[1])


def test_an_optimizer_keeps_no_gradients() -> None:
    """As many plans after many steps as after a few."""
    seen = []
    for steps in (5, 50):
        method = ao.Adam(0.01)
        runs: list[Any] = []
        ao.minimize(rosenbrock, START.copy(), method=method, stop=ao.Stop(steps=steps), callback=runs.append)
        (first, last) = (len(runs[0].history), len(runs[-1].history))
        assert (first, last) == (2, steps + 1)  # each is told what there was then
        seen.append(len(gc.get_objects()))
    assert seen[1] - seen[0] < 2000


def test_what_optimizers_are_told_apart_by() -> None:
    """A gradient that is not finite, by its key; a zero one is no reason to stop where a stage moves them."""
    result = ao.minimize(lambda p: (1.0, {"a": np.array([np.nan])}), {"a": np.ones(1)}, method=ao.SGD(0.1))
    assert result.message == "the gradient of params['a'] is not finite, although the value is"
    shrunk = ao.minimize(
        lambda p: (1.0, 0 * p), np.ones(2), method=ao.chain(ao.SGD(1.0), ao.prox.L1(0.25)), stop=ao.Stop(steps=2)
    )
    assert shrunk.steps == 2

    def walled(p: Any) -> tuple[float, Any]:
        return (float("nan") if abs(p[0]) > 1e9 else float(p @ p)), 2 * p

    diverged = ao.minimize(walled, np.ones(2), method=ao.SGD(1e200), stop=ao.Stop(steps=50))
    assert "NaN" in diverged.message
    np.testing.assert_array_equal(diverged.params, 1)


def test_bounds_of_frozen_parameters_once_others_were_moved() -> None:
    params = {"a": np.full(2, 3.0), "b": np.ones(3)}
    solver = ao.LBFGS(bounds=(None, 2.0))

    def value_and_grad(p: Any) -> tuple[float, Any]:
        return float(((p["a"] - 5) ** 2).sum()), {"a": 2 * (p["a"] - 5), "b": None}

    solver.update(params, value_and_grad)
    params["a"] += 7
    solver.update(params, value_and_grad)
    assert params["a"].tolist() == [2, 2]


def test_linear_solvers_whose_point_is_taken_half_begin_anew() -> None:
    A = np.random.default_rng(0).random((12, 6))
    problem = ao.LeastSquares(lambda p: A @ p, lambda r: A.T @ r, A @ np.arange(6.0))
    for method in (ao.CGLS(), ao.Landweber(), ao.SIRT()):
        x = np.zeros(6)
        method.update(x, problem)
        method.run.space.unsettled = True  # what an exception leaves after a point was taken
        steps, before = method.steps, problem(x)[0]
        for _ in range(20):
            method.update(x, problem)
        assert method.last_value == pytest.approx(problem(x)[0], rel=1e-9, abs=1e-20)
        assert method.last_value < 0.2 * before
        assert method.steps > steps


def test_an_unbounded_state_goes_on_within_bounds() -> None:
    free, x = ao.LBFGS(memory_size=3), START.copy()
    for _ in range(3):
        free.update(x, rosenbrock)
    bounded = ao.LBFGS(memory_size=3, bounds=(0.9, None))
    bounded.load_state_dict(free.state_dict(), x)
    bounded.update(x, rosenbrock)
    assert x.min() >= 0.9
    assert bounded.last_value == rosenbrock(x)[0]
    held = ao.minimize(lambda x: (float(x @ x), 2 * x), np.ones(2), method=ao.LBFGS(bounds=(1, 1)))
    assert (held.converged, held.message) == (True, "the gradient is zero, but for what bounds hold")


def test_gradients_in_the_place_of_a_function() -> None:
    """As optimizers take them: before parameters are put within bounds."""
    x = np.full(2, 5.0)
    update: Any = ao.LBFGS(bounds=(0, 1)).update
    for call in (update, lambda x, g: ao.minimize(g, x, method=ao.Adam())):
        with pytest.raises(TypeError, match="value_and_grad is of type ndarray; wanted a function of params"):
            call(x, np.ones(2))
    assert x.tolist() == [5, 5]


def test_what_is_no_search_callback_or_state_is_refused() -> None:
    """Before anything is written."""
    for cls in (ao.LBFGS, ao.NonlinearCG):
        with pytest.raises(TypeError, match="line_search is 'armijo'; wanted a line search"):
            cls(line_search="armijo")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callback is 3; wanted a function of a result"):
        ao.minimize(rosenbrock, START.copy(), method=ao.LBFGS(), callback=3)  # type: ignore[arg-type]
    solver, x = ao.LBFGS(memory_size=3), START.copy()
    solver.update(x, rosenbrock)
    for spoil in (
        lambda state: state["numbers"].update(order=[7]),
        lambda state: state["numbers"].update(sg=np.zeros(5)),
        lambda state: state["numbers"].update(value="x"),
        lambda state: state["numbers"].pop("steps"),
        lambda state: state.update(numbers=None),
        lambda state: state["vectors"]["s0"].clear(),
        lambda state: state.update(method="NonlinearCG"),
    ):
        state = solver.state_dict()
        spoil(state)  # type: ignore[no-untyped-call]
        with pytest.raises((TypeError, ValueError)):
            solver.load_state_dict(state, x)
    value = solver.last_value
    solver.update(x, rosenbrock)
    assert solver.last_value < value


def test_a_solver_is_not_called_by_its_own_function() -> None:
    solver, x = ao.LBFGS(), START.copy()

    def within(x: Any) -> tuple[float, Any]:
        if solver.run.busy:
            ao.minimize(rosenbrock, START.copy(), method=solver)
        return rosenbrock(x)

    with pytest.raises(RuntimeError, match="takes an iteration already"):
        solver.update(x, within)
    np.testing.assert_array_equal(x, START)


def test_a_result_of_nothing_is_drawn() -> None:
    """Where no number can be drawn on a logarithmic axis."""
    result = ao.minimize(lambda x: (float("nan"), x), np.ones(2), method=ao.LBFGS())
    result.plot().figure.canvas.draw()


class Pair(NamedTuple):
    """Names that are in no alphabetical order."""

    w: Any
    b: Any


@pytest.mark.parametrize("name", [*SOLVERS, "Adam", "chain"])
@pytest.mark.parametrize(
    "held",
    [
        lambda a, b, c: (a, b, c),
        lambda a, b, c: Pair(a, (b, {"c": c})),
        lambda a, b, c: ((), [a, {"z": (b,), "a": c}]),
    ],
    ids=["tuple", "named", "nested"],
)
def test_containers_that_cannot_be_given_other_arrays(name: str, held: Any) -> None:
    """As with arrays that can be written to; and the arrays that were given stay as they are."""

    def misfit(params: Any) -> tuple[float, Any]:
        leaves, spec = optree.tree_flatten(params)
        assert spec == optree.tree_structure(given)
        return sum(float((a - 1) @ (a - 1)) for a in leaves), optree.tree_unflatten(spec, [2 * (a - 1) for a in leaves])

    results = []
    for writable in (True, False):
        arrays = [np.array([3.0, 0.5]) + k for k in range(3)]
        for a in arrays:
            a.flags.writeable = writable
        chained = ao.chain(ao.ClipGlobalNorm(1.0), ao.AdamW(0.1), ao.EMA(0.9))
        methods: dict[str, Any] = {**SOLVERS, "Adam": ao.Adam(0.1), "chain": chained}
        given = held(*arrays)
        result = ao.minimize(misfit, given, method=methods[name], stop=ao.Stop(steps=12))
        results.append((result.value, result.steps, [*map(np.ndarray.tolist, optree.tree_leaves(result.params))]))
        assert [a.flags.writeable for a in arrays] == [writable] * 3
        assert writable or [*map(np.ndarray.tolist, arrays)] == [[3.0 + k, 0.5 + k] for k in range(3)]
    assert results[0] == results[1]


def _moved(array: Any, values: Any) -> None:
    """Let an array have these elements, in other memory."""
    if isinstance(array, np.ndarray):
        array.resize(len(values), refcheck=False)
        array[:] = values
    else:
        array.data = array.new_tensor(values)


@pytest.mark.parametrize("form", ["numpy", "torch"])
@pytest.mark.parametrize("name", SOLVERS)
def test_an_array_that_has_other_memory(name: str, form: str, need: Callable[[str], Library]) -> None:
    """One with as many elements is looked at again; any other is refused, and works once it is as it was."""
    lib, solver = need(form), copy.copy(SOLVERS[name])
    solver.restart()
    w = lib.asarray(np.arange(3.0))
    params = {"w": w}

    def misfit(params: Any) -> tuple[Any, Any]:
        return ((params["w"] - 1) ** 2).sum(), {"w": 2 * (params["w"] - 1)}

    solver.update(params, misfit)
    evaluations = solver.evaluations
    _moved(w, np.zeros(5))
    with pytest.raises(
        ValueError, match=r"params\['w'\] was .*\(3,\).* and is .*\(5,\).* wanted a new solver, or restart"
    ):
        solver.update(params, misfit)
    assert solver.evaluations == evaluations
    assert not lib.tonumpy(w).any()
    _moved(w, np.array([5.0, 6.0, 7.0]))
    for _ in range(30):
        solver.update(params, misfit)
    np.testing.assert_allclose(lib.tonumpy(w), 1.0, atol=0.01)  # the weight of the L1 norm
