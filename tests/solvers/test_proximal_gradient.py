"""Proximal gradients beside pyproximal's, to a duality gap, with any stage, and what they report."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyproximal
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits
from tests.support.proximal import PENALTIES, Misfit
from tests.support.valleys import START, rosenbrock

Vector = np.ndarray[Any, Any]
Evaluated = Callable[[Vector], tuple[float, Vector]]


def _iterates(misfit: Misfit, method: ao.ProximalGradient, steps: int = 300) -> list[Vector]:
    x, found = misfit.start.copy(), list[Vector]()
    for _ in range(steps):
        method.update(x, lambda x: (misfit(x), misfit.grad(x)))
        found.append(x.copy())
    return found


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("name", PENALTIES)
def test_iterates_are_pyproximals(name: str, accelerated: bool) -> None:
    """All 300 of ISTA, and of FISTA without restarts, to the last bit, with one evaluation for each."""
    misfit, (ours, theirs) = Misfit(), PENALTIES[name]
    acceleration = "FISTA" if accelerated else None
    method = ao.ProximalGradient(ours(0.5), misfit.tau, acceleration, restarts=False)
    found = _iterates(misfit, method)
    expected = misfit.theirs(theirs(0.5), "fista" if accelerated else None)
    assert len(found) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert method.evaluations == 301


def test_restarted_iterates_are_the_papers() -> None:
    """O'Donoghue and Candès, equation 9 with their algorithm 1, in NumPy: to the last bit, and there are restarts."""
    misfit, restarts = Misfit(), 0
    x = y = misfit.start
    theta = 1.0
    for found in _iterates(misfit, ao.ProximalGradient(ao.prox.L1(0.5), misfit.tau), 100):
        new = pyproximal.L1(0.5).prox(y - misfit.tau * misfit.grad(y), misfit.tau)
        if (y - new) @ (new - x) > 0:
            y, theta, restarts = new, 1.0, restarts + 1
        else:
            before, theta = theta, (1 + math.sqrt(1 + 4 * theta * theta)) / 2
            y = new + (before - 1) / theta * (new - x)
        x = new
        assert np.array_equal(found, x)
    assert restarts > 1


def test_complex_iterates_are_pyproximals() -> None:
    """To 1e-12: each step rounds by some 1e-16, and brings what is apart no further apart."""
    misfit = Misfit("complex128")
    found = _iterates(misfit, ao.ProximalGradient(ao.prox.L1(0.5), misfit.tau, restarts=False))
    for a, b in zip(found, misfit.theirs(pyproximal.L1(0.5), "fista"), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def _gap(misfit: Misfit, x: Vector) -> float:
    """The relative duality gap of the Lasso of weight 0.5: 0 at the minimum."""
    r = misfit.A @ x - misfit.b
    primal = float(r @ r) / 2 + 0.5 * float(np.abs(x).sum())
    u = -r * min(1.0, 0.5 / float(np.abs(misfit.A.T @ r).max()))
    dual = float(misfit.b @ misfit.b - (misfit.b - u) @ (misfit.b - u)) / 2
    return (primal - dual) / primal


def _steps_to(misfit: Misfit, iterates: list[Vector]) -> float:
    return next((k for k, x in enumerate(iterates, 1) if _gap(misfit, x) <= 1e-6), math.inf)


@pytest.mark.parametrize("given", [True, False], ids=["1/L", "lr found"])
def test_lasso_takes_no_more_steps_than_pyproximals(given: bool) -> None:
    """To a relative duality gap of 1e-6."""
    misfit = Misfit()
    expected = _steps_to(misfit, misfit.theirs(pyproximal.L1(0.5), "fista"))
    assert expected < 300
    method = ao.ProximalGradient(ao.prox.L1(0.5), misfit.tau if given else None)
    assert _steps_to(misfit, _iterates(misfit, method)) <= expected


@pytest.mark.parametrize("acceleration", ["FISTA", None])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_step_length_is_found(acceleration: str | None, scale: float) -> None:
    """Whatever the scale of the function is, it comes near to 1/L, and costs few evaluations."""
    misfit = Misfit()

    def scaled(x: Vector) -> tuple[float, Vector]:
        return scale * misfit(x), scale * misfit.grad(x)

    method, x = ao.ProximalGradient(ao.prox.L1(0.5 * scale), None, acceleration), misfit.start.copy()
    result = ao.minimize(scaled, x, method=method, stop=ao.Stop(steps=300))
    exact = 1 / (scale * np.linalg.norm(misfit.A, 2) ** 2)
    assert 0.8 * exact < result.history.step_length[-1] < 4 * exact
    assert result.evaluations < (2 if acceleration else 1) * 300 + 12
    assert _gap(misfit, x) < (1e-4 if acceleration else 0.5)


@pytest.mark.parametrize("far", [1e-3, 1e3])
def test_the_first_step_length_grows(far: float) -> None:
    """Where the minimum is far away, which the first one does not know, and shrinks where it is near."""
    misfit = Misfit()
    misfit.b = far * misfit.b
    result = ao.minimize(
        lambda x: (misfit(x), misfit.grad(x)),
        misfit.start.copy(),
        method=ao.ProximalGradient(ao.prox.L1(0.5 * far), acceleration=None),
        stop=ao.Stop(steps=20),
    )
    exact = 1 / np.linalg.norm(misfit.A, 2) ** 2
    assert 0.8 * exact < result.history.step_length[1] < 20 * exact
    assert result.evaluations < 20 + 12


@pytest.mark.parametrize("acceleration", ["FISTA", None])
def test_without_a_penalty_it_finds_the_minimum(acceleration: str | None) -> None:
    """Of a function that is no quadratic one, with a bound that holds nothing; the gradient is that of f then."""

    def function(x: Vector) -> tuple[float, Vector]:
        off = x - 1
        return float(np.sum(off**4 / 4 + off**2 / 2)), off**3 + off

    method = ao.ProximalGradient(ao.Box(-10.0, 10.0), None, acceleration)
    start = np.array([-4.0, 0.0, 3.0])
    result = ao.minimize(function, start, method=method, stop=ao.Stop(gtol=1e-9, steps=1000))
    assert result.converged, result.message
    np.testing.assert_allclose(result.params, 1, atol=1e-8)


def test_bounds() -> None:
    """The minimum in a box: where a bound holds, the gradient points outwards."""
    result = ao.minimize(
        rosenbrock, START.copy(), method=ao.ProximalGradient(ao.Box(-2.0, 0.5)), stop=ao.Stop(gtol=1e-8, steps=5000)
    )
    assert result.converged, result.message
    x, grad = result.params, rosenbrock(result.params)[1]
    assert np.all(x <= 0.5)
    assert np.all(grad[x == 0.5] < 0)
    np.testing.assert_allclose(grad[x < 0.5], 0, atol=1e-6)
    assert np.any(x == 0.5)


def test_what_is_reported() -> None:
    """The value is f + h at the parameters, if the lr is found, and the gradient is (y - p)/lr."""
    misfit, x = Misfit(), Misfit().start.copy()
    h = 0.5
    seen: list[tuple[float, float]] = []

    def note(result: ao.solvers.Result) -> None:
        seen.append((result.value, misfit(result.params) + h * np.abs(result.params).sum()))

    method = ao.ProximalGradient(ao.prox.L1(h), acceleration=None, penalty=lambda x: h * np.abs(x).sum())
    result = ao.minimize(lambda x: (misfit(x), misfit.grad(x)), x, method=method, stop=ao.Stop(steps=50), callback=note)
    assert all(value == expected for value, expected in seen)
    values = result.history.value
    assert all(a >= b for a, b in itertools.pairwise(values)), "ISTA descends"
    before = x.copy()
    method.update(x, lambda x: (misfit(x), misfit.grad(x)))
    step, lr = before - x, method.run.numbers["lr"]
    assert method.run.numbers["gradient_max"] == pytest.approx(np.abs(step).max() / lr, rel=1e-9)
    assert math.sqrt(method.run.numbers["gradient_squared"]) == pytest.approx(np.linalg.norm(step) / lr, rel=1e-9)
    fast = ao.ProximalGradient(ao.prox.L1(h), penalty=lambda x: h * np.abs(x).sum())
    seen.clear()
    y = misfit.start.copy()
    ao.minimize(lambda x: (misfit(x), misfit.grad(x)), y, method=fast, stop=ao.Stop(steps=50), callback=note)
    assert all(value == expected for value, expected in seen)


def test_a_gradient_of_zero_is_no_minimum_of_the_sum() -> None:
    """And a minimum of the sum is one, where the gradient is not 0."""

    def flat(x: Vector) -> tuple[float, Vector]:
        return 0.0, np.zeros_like(x)

    result = ao.minimize(flat, np.ones(3), method=ao.ProximalGradient(ao.prox.L1(1.0)), stop=ao.Stop(gtol=0, steps=50))
    assert result.converged
    assert result.params.tolist() == [0, 0, 0]
    pushed = ao.minimize(
        lambda x: (-float(x.sum()), -np.ones(3)),
        np.ones(3),
        method=ao.ProximalGradient(ao.Box(-1.0, 1.0)),
        stop=ao.Stop(gtol=0, steps=50),
    )
    assert (pushed.converged, pushed.steps) == (True, 0)
    assert pushed.message == "a proximal step from here leads nowhere else"


@pytest.mark.parametrize(
    "stage", [ao.prox.L21(0.1), ao.prox.Nuclear(0.1), ao.prox.Simplex(1.0), ao.NonNegative()], ids=repr
)
def test_stages_of_whole_arrays(stage: ao.ParameterStage) -> None:
    """The minimum of |p - data|**2 / 2 + h is the proximal step from the data itself."""
    data = np.random.default_rng(0).normal(size=(3, 4))
    result = ao.minimize(
        lambda p: (float(np.sum((p["x"] - data) ** 2)) / 2, {"x": p["x"] - data}),
        {"x": np.zeros((3, 4))},
        method=ao.ProximalGradient(stage),
        stop=ao.Stop(gtol=1e-9, steps=500),
    )
    assert result.converged, result.message
    expected = ao.chain(ao.SGD(1.0), stage).update(data.copy(), np.zeros((3, 4)))
    np.testing.assert_allclose(result.params["x"], expected, atol=1e-8)


def test_operators_of_pyproximal() -> None:
    """Total variation: a picture becomes flat, and its edges stay."""
    picture = np.add.outer(np.arange(8) > 3, 0.5 * (np.arange(9) > 4)) + 0.1 * np.random.default_rng(0).normal(
        size=(8, 9)
    )
    tv = pyproximal.TV(dims=picture.shape, sigma=0.2, niter=20)
    method = ao.ProximalGradient(ao.prox.Operator(tv), 1.0, penalty=lambda x: tv(x.ravel()))
    result = ao.minimize(
        lambda x: (float(np.sum((x - picture) ** 2)) / 2, x - picture),
        picture.copy(),
        method=method,
        stop=ao.Stop(steps=9),
    )
    assert tv(result.params.ravel()) < 0.6 * tv(picture.ravel())
    assert result.value < result.history.value[0]


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("library", ["strict", "torch", "jax", "dask"])
@pytest.mark.parametrize("lr", [None, Misfit().tau])
def test_each_library_has_the_same_bits(
    lr: float | None, library: str, dtype: str, need: Callable[[str], Library], quickly: None
) -> None:
    """As many evaluations, and the same value at each of them; what XLA computes, to its rounding."""
    lib = need(library)
    if dtype not in lib.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    misfit, steps = Misfit(), lib.steps(20)

    def run(lib: Library) -> tuple[list[float], Vector]:
        values = list[float]()

        def function(params: Any) -> Any:
            x = np.concatenate([lib.tonumpy(params["a"]).reshape(-1), lib.tonumpy(params["b"])]).astype("float64")
            values.append(misfit(x))
            grad = misfit.grad(x).astype(dtype)
            return values[-1], {"a": lib.asarray(grad[:20].reshape(4, 5)), "b": lib.asarray(grad[20:])}

        start = {"a": lib.asarray(np.zeros((4, 5), dtype)), "b": lib.asarray(np.zeros(40, dtype))}
        result = ao.minimize(
            function, start, method=ao.ProximalGradient(ao.prox.L1(0.5), lr), stop=ao.Stop(steps=steps)
        )
        return values, np.concatenate([lib.tonumpy(result.params["a"]).reshape(-1), lib.tonumpy(result.params["b"])])

    found, expected = run(lib), run(need("numpy"))
    if library == "jax":
        assert len(found[0]) == len(expected[0])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-3 if dtype == "float32" else 1e-9)
    else:
        assert found[0] == expected[0]
        assert same_bits(found[1], expected[1])


@pytest.mark.parametrize("lr", [None, Misfit().tau])
@pytest.mark.parametrize("acceleration", ["FISTA", None])
def test_it_goes_on_from_its_state(acceleration: str | None, lr: float | None) -> None:
    """The same bits after five and seven steps as after twelve."""
    misfit = Misfit()

    def method() -> ao.ProximalGradient:
        return ao.ProximalGradient(ao.prox.L1(0.5), lr, acceleration)

    whole = _iterates(misfit, method(), 12)[-1]
    solver, x = method(), misfit.start.copy()
    for _ in range(5):
        solver.update(x, lambda x: (misfit(x), misfit.grad(x)))
    again = method()
    again.load_state_dict(solver.state_dict(), x)
    for _ in range(7):
        again.update(x, lambda x: (misfit(x), misfit.grad(x)))
    assert same_bits(x, whole)


@pytest.mark.parametrize("lr", [None, Misfit().tau])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 7, 8])
def test_an_exception_leaves_the_last_step(after: int, lr: float | None) -> None:
    """Wherever it comes, the parameters are those of a step that was finished; and it goes on from there."""
    misfit, seen = Misfit(), 0
    steps = [misfit.start, *_iterates(misfit, ao.ProximalGradient(ao.prox.L1(0.5), lr), 9)]

    def failing(x: Vector) -> tuple[float, Vector]:
        nonlocal seen
        seen += 1
        if seen == after:
            raise KeyboardInterrupt
        return misfit(x), misfit.grad(x)

    method, x = ao.ProximalGradient(ao.prox.L1(0.5), lr), misfit.start.copy()
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(9):
            method.update(x, failing)
    assert seen == after
    assert any(same_bits(x, step) for step in steps)
    if lr is not None:
        expected = ao.chain(ao.SGD(lr), ao.prox.L1(0.5)).update(x.copy(), misfit.grad(x))
        method.update(x, failing)
        assert same_bits(x, expected), "it begins anew"
    if after in {1, 8}:  # with the least and the most to go on from
        for _ in range(250):
            method.update(x, failing)
        assert _gap(misfit, x) < 1e-4


@pytest.mark.parametrize("acceleration", ["FISTA", None])
def test_an_iteration_tells_how_far_it_went(acceleration: str | None) -> None:
    """Along the parameters, and its lr."""
    misfit = Misfit()
    method, x = ao.ProximalGradient(ao.prox.L1(0.5), misfit.tau, acceleration), misfit.start.copy()
    method.begin(x, lambda x: (misfit(x), misfit.grad(x)))
    for _ in range(4):
        before = x.copy()
        iteration = method.iterate()
        assert iteration.step_norm == pytest.approx(np.linalg.norm(x - before), rel=1e-12)
        assert iteration.step_length == misfit.tau


def test_parameters_that_somebody_moves() -> None:
    """It begins anew where they are."""
    misfit = Misfit()
    method = ao.ProximalGradient(ao.prox.L1(0.5), misfit.tau)
    x = _iterates(misfit, method, 5)[-1]
    x[:] = misfit.start
    found = []
    for _ in range(5):
        method.update(x, lambda x: (misfit(x), misfit.grad(x)))
        found.append(x.copy())
    expected = _iterates(misfit, ao.ProximalGradient(ao.prox.L1(0.5), misfit.tau), 5)
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_wall(beyond: float) -> None:
    """Beyond which the function has no value: step lengths end on this side of it."""

    def walled(x: Vector) -> tuple[float, Vector]:
        if np.any(x > 1.2):
            return beyond, np.full_like(x, math.nan)
        return float(np.sum((x - 1) ** 2)) / 2, x - 1

    result = ao.minimize(
        walled, np.array([-40.0, 0.3]), method=ao.ProximalGradient(ao.prox.L1(0.1)), stop=ao.Stop(gtol=1e-6, steps=200)
    )
    assert result.converged, result.message
    np.testing.assert_allclose(result.params, 0.9, atol=1e-5)


def barrier(x: Vector) -> tuple[float, Vector]:
    """Steep, with its minimum at 1e-7, right before a wall; beyond it the gradient is one of a gentle slope."""
    if np.any(x <= 0):
        return math.inf, -1e-3 + 1e-3 * x
    return float(1e4 * np.sum(x) - 1e-3 * np.sum(np.log(x))), 1e4 - 1e-3 / x


@pytest.mark.parametrize("beyond", [math.inf, -math.inf, math.nan])
def test_a_barrier(beyond: float) -> None:
    """The step length shrinks fast enough to come back from far beyond, whatever the gradient is there."""

    def function(x: Vector) -> tuple[float, Vector]:
        value, grad = barrier(x)
        return value if math.isfinite(value) else beyond, grad

    result = ao.minimize(
        function, np.array([1e-3, 2e-3]), method=ao.ProximalGradient(ao.prox.L1(0.0)), stop=ao.Stop(gtol=1e-2)
    )
    assert result.value == function(result.params)[0]
    np.testing.assert_allclose(result.params, 1e-7, rtol=1e-4)


@pytest.mark.parametrize("acceleration", ["FISTA", None])
def test_an_lr_that_leads_beyond_a_wall(acceleration: str | None) -> None:
    """In the first step or a later one: the parameters stay on this side, and it says what it is."""

    def flat_then_steep(x: Vector) -> tuple[float, Vector]:
        return (math.inf, np.array([math.nan])) if x[0] > 10 else (-(float(x[0]) ** 2), -2 * x)

    for function, start in ((barrier, np.full(2, 1e-3)), (flat_then_steep, np.ones(1))):
        result = ao.minimize(
            function, start, method=ao.ProximalGradient(ao.prox.L1(0.0), 0.3, acceleration), stop=ao.Stop(gtol=0)
        )
        assert result.message == "a wall: the value is not finite after a step with lr = 0.3; wanted a smaller lr"
        assert not result.converged
        assert result.value == function(result.params)[0] < math.inf


def test_a_wall_far_away_leaves_the_last_step_to_the_bit() -> None:
    """Where p - (p - before) is 0 in float32; a step that was taken back is not counted, whatever is raised."""
    calls = 0

    def walled(x: Vector) -> tuple[float, Vector]:
        nonlocal calls
        calls += 1
        if calls == raises:
            raise KeyboardInterrupt
        return (float(x[0]) ** 4 / 4, x**3) if abs(x[0]) < 1e12 else (math.inf, 0 * x)

    for raises in (0, 5):
        calls = 0
        solver, x = ao.ProximalGradient(ao.prox.L1(1e-9), 1e-3), np.array([-1000.0], np.float32)
        solver.update(x, walled)
        before = x.copy()
        assert before[0] > 9e5
        with pytest.raises(KeyboardInterrupt) if raises else contextlib.nullcontext():
            solver.update(x, walled)
        assert (calls, solver.steps) == (raises or calls, 1)
        np.testing.assert_array_equal(x, before)
        if not raises:
            assert solver.last_failure is not None
            assert solver.last_failure.startswith("a wall")
            assert solver.last_value == pytest.approx(float(x[0]) ** 4 / 4)


@pytest.mark.parametrize("lr", [None, 0.05])
def test_a_wall_behind_the_next_y(lr: float | None) -> None:
    """It begins anew on this side, and finds the minimum, which lies close to the wall."""
    beyond = 0

    def walled(x: Vector) -> tuple[float, Vector]:
        nonlocal beyond
        if x[0] > 1.001:
            beyond += 1
            return math.inf, np.full_like(x, math.nan)
        off = (x - 1) * np.array([1.0, 10.0])
        return float(off @ off) / 2, off * np.array([1.0, 10.0])

    method = ao.ProximalGradient(ao.prox.L1(0.0), lr and lr / 5, restarts=False)
    result = ao.minimize(walled, np.array([-40.0, 0.3]), method=method, stop=ao.Stop(gtol=1e-6, steps=2000))
    assert beyond
    assert result.converged, result.message
    np.testing.assert_allclose(result.params, 1, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_wrong_gradient(dtype: str) -> None:
    """It is told apart from a minimum: the message says what tells more."""
    x = np.ones(3, dtype)
    result = ao.minimize(
        lambda x: (float(x @ x), -2 * x), x, method=ao.ProximalGradient(ao.prox.L1(0.0)), stop=ao.Stop(steps=50)
    )
    assert not result.converged
    assert "ao.check_grad tells" in result.message
    assert x.tolist() == [1, 1, 1]


def test_as_far_as_the_precision_goes() -> None:
    """In float32, with no other condition, it does not go on for ever, or on ever shorter steps."""
    misfit = Misfit()

    def function(x: Vector) -> tuple[float, Vector]:
        return misfit(x.astype("float64")), misfit.grad(x).astype("float32")

    method = ao.ProximalGradient(ao.prox.L1(0.5))
    x = misfit.start.astype("float32")
    result = ao.minimize(function, x, method=method, stop=ao.Stop(steps=2000))
    exact = 1 / np.linalg.norm(misfit.A, 2) ** 2
    assert result.history.step_length[-1] > 0.5 * exact
    assert _gap(misfit, x.astype("float64")) < 1e-4


def test_a_gradient_that_is_not_finite() -> None:
    """It is named, and nothing moves."""
    x = np.ones(3)
    for lr in (None, 0.1):
        result = ao.minimize(
            lambda x: (1.0, np.array([1.0, math.nan, 1.0])), x, method=ao.ProximalGradient(ao.prox.L1(0.1), lr)
        )
        assert not result.converged
        assert "gradient" in result.message
        assert "not finite" in result.message
        assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize("acceleration", ["FISTA", None])
def test_a_gradient_that_is_not_finite_later(acceleration: str | None) -> None:
    """The parameters stay where the last step has led."""

    def function(x: Vector) -> tuple[float, Vector]:
        return float(x @ x), 2 * x if x[0] > 1 else np.full_like(x, math.nan)

    method, x = ao.ProximalGradient(ao.prox.L1(0.1), 0.1, acceleration), np.array([2.0, 1.0])
    for _ in range(20):
        before = x.copy()
        method.update(x, function)
        if method.last_failure is not None:
            break
    assert method.last_failure == "the gradient is not finite, although the value is"
    assert same_bits(x, before)
    assert np.isfinite(x).all()


def test_arguments() -> None:
    """What can't be is refused by name, with what is wanted."""
    for wrong in (ao.SGD(0.1), ao.EMA(0.9), pyproximal.L1(0.5), ao.prox.L1):
        with pytest.raises(TypeError, match=r"prox is .*; wanted a stage that makes a proximal step"):
            ao.ProximalGradient(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="acceleration is 'fista'; wanted 'FISTA' or None"):
        ao.ProximalGradient(ao.prox.L1(1.0), acceleration="fista")
    with pytest.raises(ValueError, match=r"lr is 0\.0; wanted above 0"):
        ao.ProximalGradient(ao.prox.L1(1.0), 0.0)


def test_memory() -> None:
    """Five vectors, and three without acceleration."""
    for acceleration, n in (("FISTA", 5), (None, 3)):
        method = ao.ProximalGradient(ao.prox.L1(0.5), None, acceleration)
        method.update(START.copy(), rosenbrock)
        assert len(method.run.vectors) == n


@pytest.mark.parametrize("lr", [None, 0.3])
def test_the_gradient_may_be_the_parameters_themselves(lr: float | None) -> None:
    """Of half a square it is: what it was at y is not what it is once they have gone back."""
    by_copies, by_views = (ao.ProximalGradient(ao.prox.L1(1e-3), lr, restarts=False) for _ in range(2))
    a, b = np.array([3.0, -1.0]), np.array([3.0, -1.0])
    for _ in range(5):
        by_copies.update(a, lambda x: (float(x @ x) / 2, x.copy()))
        by_views.update(b, lambda x: (float(x @ x) / 2, x))
        assert same_bits(a, b)


def test_the_step_length_grows_again() -> None:
    """Where curvature falls by 1e12 on the way, and from beside a wall; an lr that only shrinks takes thousands."""

    def between(x: Vector) -> tuple[float, Vector]:
        inside = np.all(np.abs(x) < 1)
        return float(np.sum(x * x - np.log1p(-x * x))) if inside else math.inf, 2 * x / (1 - x * x) + 2 * x

    for function, start, minimum in ((_log_barrier, 1e-6, 1.0), (between, 0.9999, 0.0)):
        for acceleration, most in (("FISTA", 250), (None, 150)):
            method = ao.ProximalGradient(ao.prox.L1(0.0), acceleration=acceleration)
            result = ao.minimize(function, np.full(3, start), method=method, stop=ao.Stop(gtol=1e-6))
            np.testing.assert_allclose(result.params, minimum, atol=1e-6)
            assert result.evaluations < most, (acceleration, start)


def _log_barrier(x: Vector) -> tuple[float, Vector]:
    return float(np.sum(x - np.log(x))) if np.all(x > 0) else math.inf, 1 - 1 / x


def _told(function: Any, start: Vector, weight: float, steps: int) -> tuple[Vector, Vector, Vector]:
    """The values, the lr and the theta of the steps of FISTA."""
    told: list[tuple[float, float, float]] = []
    method = ao.ProximalGradient(
        ao.prox.L1(weight), restarts=False, penalty=lambda x: weight * float(np.sum(np.abs(x)))
    )

    def note(result: ao.solvers.Result) -> None:
        told.append((result.value, method.run.numbers["lr"], method.run.numbers["theta"]))

    ao.minimize(function, start, method=method, stop=ao.Stop(gtol=1e-9, steps=steps), callback=note)
    values, lrs, next_thetas = np.array(told).T
    return values, lrs, np.array([1.0, *next_thetas[:-1]])


@pytest.mark.parametrize("name", ["far", "near", "lasso"])
def test_the_bound_of_step_lengths_that_grow(name: str) -> None:
    """f + h is at most `|start - minimum|**2 / (2*lr*theta**2)` above its minimum after each step of FISTA."""
    rng, weight, start, minimum, rises = np.random.default_rng(3), 0.0, np.full(3, 1e-6), np.ones(3), 4
    function: Any = _log_barrier
    if name == "near":
        start, rises = np.full(3, 0.1), 1
    if name == "lasso":
        u, _, v = np.linalg.svd(rng.standard_normal((30, 60)), full_matrices=False)
        a, b = u * np.logspace(0, -1, 30) @ v, rng.standard_normal(30)
        start, weight, rises = np.zeros(60), 1e-2, 1

        def function(x: Vector) -> tuple[float, Vector]:
            return float(np.sum((a @ x - b) ** 2)) / 2, a.T @ (a @ x - b)

        method = ao.ProximalGradient(ao.prox.L1(weight))
        minimum = ao.minimize(function, start.copy(), method=method, stop=ao.Stop(gtol=1e-9, steps=3000)).params
    least = function(minimum)[0] + weight * float(np.sum(np.abs(minimum)))
    values, lrs, thetas = _told(function, start.copy(), weight, 150)
    assert (np.diff(lrs) > 0).sum() >= rises
    weights = lrs * thetas**2
    assert (weights[1:] - (lrs * thetas)[1:] <= weights[:-1] * (1 + 1e-12)).all(), "what the proof asks of them"
    assert (values - least <= (start - minimum) @ (start - minimum) / (2 * weights) + 1e-9 * least).all()


@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4])
def test_a_search_for_lr_needs_no_more_steps_than_the_best_lr(condition: float) -> None:
    """With 1/L known FISTA takes so many; where lr grows and is cut in turns, it would take several times that."""
    d, start = np.geomspace(1 / condition, 1, 60), np.zeros(60)
    start[0] = 1e3  # far along what is flat

    def bowl(x: Vector) -> tuple[float, Vector]:
        return float(np.sum(d * (x - 1) ** 2)) / 2, d * (x - 1)

    found = []
    for lr in (1.0, None):
        stop = ao.Stop(value=1e-6, steps=5000)
        found.append(ao.minimize(bowl, start.copy(), method=ao.ProximalGradient(ao.Box(-1e4, 1e4), lr), stop=stop))
    assert all(result.converged for result in found)
    assert found[1].steps <= 1.1 * found[0].steps


def test_an_lr_beyond_float32_is_not_tried() -> None:
    """Where f falls for ever, or is so flat that its lr would be, the search ends, and raises nothing."""

    def exponential(x: Vector) -> tuple[float, Vector]:
        return float(np.sum(np.exp(-x.astype(float)))), -np.exp(-x)

    def flat(x: Vector) -> tuple[float, Vector]:
        return 5e-40 * float(np.sum((x.astype(float) - 1) ** 2)), (1e-39 * (x - 1)).astype(x.dtype)

    def line(x: Vector) -> tuple[float, Vector]:
        return -float(np.sum(x.astype(float))), -np.ones_like(x)

    for function in (exponential, flat, line):
        for acceleration in ("FISTA", None):
            method = ao.ProximalGradient(ao.Box(0.0, math.inf), acceleration=acceleration)
            x = np.full(3, 5.0, np.float32)
            result = ao.minimize(function, x, method=method, stop=ao.Stop(gtol=0, steps=300))
            assert result.value <= function(np.full(3, 5.0, np.float32))[0]
            assert np.isfinite(result.params).all()
