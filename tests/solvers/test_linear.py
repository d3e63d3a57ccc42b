"""Linear least squares: the function, and the methods that apply its operators, beside SciPy's and their equations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.sparse.linalg import lsqr

import anyoptim as ao
from tests.support.libraries import ENGINES, Library, same_bits

Place = tuple[Library, ao.EngineName | None]

Map = Callable[[Any], Any]


class Counted:
    """A matrix as two functions, with a count of how often each was called."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.calls = [0, 0]

    def forward(self, p: Any) -> Any:
        self.calls[0] += 1
        return self.matrix @ p

    def adjoint(self, r: Any) -> Any:
        self.calls[1] += 1
        return self.matrix.conj().T @ r

    def problem(self, data: Any, weights: Any = None) -> ao.LeastSquares:
        return ao.LeastSquares(self.forward, self.adjoint, data, weights)


def system(m: int, n: int, seed: int = 0, dtype: str = "float64") -> tuple[Any, Any]:
    """A matrix of condition 20 or so, and data that are in no span of it."""
    rng = np.random.default_rng(seed)
    matrix, data = rng.normal(size=(m, n)), rng.normal(size=m)
    if dtype.startswith("complex"):
        matrix, data = matrix + 1j * rng.normal(size=(m, n)), data + 1j * rng.normal(size=m)
    return (matrix * np.linspace(0.3, 2, n)).astype(dtype), data.astype(dtype)


def iterates(method: ao.solvers.Solver, problem: Any, start: Any, steps: int) -> list[Any]:
    """The parameters after each step."""
    params, found = start.copy(), []
    for _ in range(steps):
        params = method.update(params, problem)
        assert method.last_failure is None
        found.append(params.copy())
    return found


def test_value_and_gradient_are_those_of_the_equation() -> None:
    """With weights and without, in float64 by hand; and finite differences agree."""
    matrix, data = system(7, 4)
    p, weights = np.linspace(-1, 2, 4), np.array([0.0, 1, 2, 3, 4, 5, 0.5])
    for w in (None, weights, 2.5, weights.astype("float32")):
        problem = Counted(matrix).problem(data, w)
        r, by = matrix @ p - data, np.ones(7) if w is None else w * np.ones(7)
        value, gradient = problem(p)
        assert value == pytest.approx(0.5 * np.sum(by * r**2), rel=1e-15)
        # The root of a weight, twice: two roundings.
        np.testing.assert_allclose(gradient, matrix.T @ (by * r), rtol=1e-14)
        assert ao.check_grad(problem, p).ok


def test_complex_gradients_are_by_both_parts() -> None:
    """dL/dRe + i dL/dIm, as finite differences say."""
    matrix, data = system(7, 4, dtype="complex128")
    p = np.linspace(-1, 2, 4) + 1j
    assert ao.check_grad(Counted(matrix).problem(data, np.arange(7.0)), p).ok


@pytest.mark.parametrize("damp", [0.0, 0.7])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_cgls_takes_the_steps_of_lsqr(dtype: str, damp: float) -> None:
    """In exact arithmetic they are the same; SciPy's are those of a start at zero."""
    matrix, data = system(30, 12, dtype=dtype)
    # SciPy's LSQR is for real matrices: a complex one is two by two of them.
    real = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    flat = np.concatenate([data.real, data.imag])
    found = iterates(ao.CGLS(damp), Counted(matrix).problem(data), np.zeros(12, dtype), 8)
    for k, p in enumerate(found, 1):
        theirs = lsqr(real, flat, damp=damp, atol=0, btol=0, conlim=0, iter_lim=k)[0]
        # Rounding grows by the condition, of 20, with each step; it is 1e-13 after eight.
        np.testing.assert_allclose(np.concatenate([p.real, p.imag]), theirs, atol=1e-11)


def test_cgls_ends_at_the_solution_with_weights_and_damping() -> None:
    """Beside NumPy's lstsq of the system in full; the value and the gradient are those of the point."""
    matrix, data = system(20, 6)
    weights, damp, start = np.linspace(0, 3, 20), 0.4, np.full(6, 5.0)
    full = np.vstack([np.sqrt(weights)[:, None] * matrix, damp * np.eye(6)])
    expected = np.linalg.lstsq(full, np.concatenate([np.sqrt(weights) * data, np.zeros(6)]))[0]
    problem = Counted(matrix).problem(data, weights)
    method = ao.CGLS(damp)
    result = ao.minimize(problem, start, method=method, stop=ao.Stop(gtol=1e-10))
    np.testing.assert_allclose(result.params, expected, rtol=1e-10)
    value = problem(result.params)[0] + 0.5 * damp**2 * np.sum(expected**2)
    assert result.value == pytest.approx(value, rel=1e-13)
    assert result.converged
    assert result.steps <= 7
    first, *_ = result.history
    assert first.value == pytest.approx(problem(np.full(6, 5.0))[0] + 0.5 * damp**2 * 150, rel=1e-13)


def test_cgls_applies_each_operator_once_an_iteration() -> None:
    """And once before the first; as many evaluations are counted."""
    matrix, data = system(30, 12)
    of = Counted(matrix)
    result = ao.minimize(of.problem(data), np.zeros(12), method=ao.CGLS(), stop=ao.Stop(steps=5))
    assert of.calls == [6, 6]
    assert result.evaluations == 6
    of.calls = [0, 0]
    iterates(ao.CGLS(), of.problem(data), np.zeros(12), 5)
    assert of.calls == [6, 6]


def test_containers_and_flat_vectors_are_one() -> None:
    """Parameters and data in dicts and lists, one parameter that does not move, and one array under two names."""
    matrix, data = system(30, 12)
    flat = iterates(ao.CGLS(), Counted(matrix).problem(data), np.zeros(12), 6)[-1]
    a, b, c = matrix[:, :4], matrix[:, 4:8], matrix[:, 8:]

    def forward(p: Any) -> Any:
        image = a @ p["a"] + b @ p["more"][0] + c @ p["more"][1].ravel() + a @ p["fixed"]
        return {"low": image[:9], "high": [image[9:]]}

    def adjoint(r: Any) -> Any:
        r = np.concatenate([r["low"], r["high"][0]])
        return {"a": a.T @ r, "more": [b.T @ r, (c.T @ r).reshape(2, 2)], "fixed": None, "none": None}

    params: dict[str, Any] = {
        "a": np.zeros(4),
        "more": [np.zeros(4), np.zeros((2, 2))],
        "fixed": np.zeros(4),
        "none": None,
    }
    problem = ao.LeastSquares(forward, adjoint, {"low": data[:9], "high": [data[9:]]})
    method = ao.CGLS()
    for _ in range(6):
        method.update(params, problem)
    found = np.concatenate([params["a"], params["more"][0], params["more"][1].ravel()])
    # The operators add up in another order.
    np.testing.assert_allclose(found, flat, rtol=1e-12)
    # What does not move has an image, which is no part of the directions'.
    params["fixed"] = np.ones(4)
    shifted = Counted(matrix).problem(data - a @ np.ones(4))
    for start in ("a", "more"):
        params[start] = np.zeros(4) if start == "a" else [np.zeros(4), np.zeros((2, 2))]
    result = ao.minimize(problem, params, method=ao.CGLS(), stop=ao.Stop(gtol=1e-10))
    expected = ao.minimize(shifted, np.zeros(12), method=ao.CGLS(), stop=ao.Stop(gtol=1e-10))
    np.testing.assert_allclose(result.params["a"], expected.params[:4], rtol=1e-9)
    assert (params["fixed"] == 1).all()


def test_cgls_of_a_parameter_under_two_names() -> None:
    """Both are in the image; the gradient is given once."""
    matrix, data = system(9, 3)
    p = np.zeros(3)
    problem = ao.LeastSquares(lambda p: matrix @ (p["a"] + p["b"]), lambda r: {"a": 2 * matrix.T @ r, "b": None}, data)
    result = ao.minimize(problem, {"a": p, "b": p}, method=ao.CGLS(), stop=ao.Stop(gtol=1e-10))
    assert result.params["a"] is result.params["b"]
    np.testing.assert_allclose(result.params["a"], np.linalg.lstsq(2 * matrix, data)[0], rtol=1e-9)


METHODS: dict[str, Callable[..., ao.solvers.Solver]] = {
    "CGLS": ao.CGLS,
    "CGLS, damped": lambda **o: ao.CGLS(0.5, **o),
    "Landweber": ao.Landweber,
    "Landweber, bounded": lambda **o: ao.Landweber(0.002, bounds=(0.0, 0.4), **o),
    "SIRT": ao.SIRT,
    "SIRT, bounded": lambda **o: ao.SIRT(1.5, bounds=(None, 0.4), **o),
}

ELSEWHERE = ("CGLS, damped", "Landweber", "SIRT, bounded")
"""Which of them run on other libraries than NumPy: with all that is asked of a library between them."""


@pytest.mark.omit(
    "others do less of the same, and are compiled in test_all_engines_have_the_same_bits",
    lambda place, name: place not in {("numpy", None), ("numpy", "portable")} and name not in ELSEWHERE,
)
@pytest.mark.parametrize("name", METHODS)
def test_on_all_libraries(place: Place, name: str, quickly: None) -> None:
    """A diagonal operator, whose bits are NumPy's where those of the library are; with weights."""
    lib, engine = place
    rng = np.random.default_rng(1)
    a, data, weights = (rng.uniform(0.5, 2, 40).astype("float32") for _ in range(3))

    def solved(make: Callable[[Any], Any], engine: ao.EngineName | None) -> tuple[Any, list[float]]:
        operator = make(a)
        problem = ao.LeastSquares(lambda p: operator * p["x"], lambda r: {"x": operator * r}, make(data), make(weights))
        result = ao.minimize(problem, {"x": make(0 * a)}, method=METHODS[name](engine=engine), stop=ao.Stop(steps=4))
        return result.params["x"], result.history.value

    expected, values = solved(np.array, None)
    found, same = solved(lambda x: lib.array(x, "float32"), engine)
    assert "float32" in str(found.dtype)
    if lib.exact:
        assert same_bits(lib.values(found), expected)
        assert same == values
    else:
        # Fewer subnormals and other roots of weights: some ulp.
        np.testing.assert_allclose(lib.values(found), expected, rtol=2e-6)
        np.testing.assert_allclose(same, values, rtol=1e-6)


COMPLEX = ("CGLS", "CGLS, damped", "Landweber")


def positive(m: int, n: int, dtype: str = "float64") -> tuple[Any, Any]:
    """A matrix without negative elements, and data that are in no span of it."""
    matrix, data = system(m, n, dtype=dtype)
    return np.abs(matrix), data + np.abs(matrix).sum(axis=1) / n


@pytest.mark.omit("bounds and SIRT are for real ones", lambda name, dtype: "c" in dtype and name not in COMPLEX)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    "name",  # each has loops of its own, which take seconds to compile
    [pytest.param(name, marks=() if name in ELSEWHERE else pytest.mark.product) for name in METHODS],
)
def test_all_engines_have_the_same_bits(name: str, dtype: str) -> None:
    """Of parameters and values, with weights, after seven steps."""
    matrix, data = (positive if dtype == "float32" else system)(30, 12, dtype=dtype)
    found = []
    for engine in ENGINES:
        problem = Counted(matrix).problem(data, np.linspace(0, 2, 30, dtype="float32"))
        result = ao.minimize(problem, np.zeros(12, dtype), method=METHODS[name](engine=engine), stop=ao.Stop(steps=7))
        assert result.params.dtype == dtype
        found.append((result.params, result.history.value))
    for params, values in found[1:]:
        assert same_bits(params, found[0][0])
        assert values == found[0][1]


@pytest.mark.parametrize("name", METHODS)
def test_a_solver_goes_on_from_its_state(name: str, tmp_path: Path) -> None:
    """As if it had not stopped, to the bit: from a state, and from a file."""
    matrix, data = positive(30, 12)
    problem = Counted(matrix).problem(data, np.linspace(0, 2, 30))
    expected = iterates(METHODS[name](), problem, np.zeros(12), 6)[-1]
    for filed in (False, True):
        first, second = METHODS[name](), METHODS[name]()
        params = iterates(first, problem, np.zeros(12), 3)[-1]
        if filed:
            ao.save(tmp_path / "file", params=params, optimizer=first.state_dict())
            file = ao.load(tmp_path / "file", like=params)
            params = file.params
            assert file.optimizer is not None
            second.load_state_dict(file.optimizer, params)
        else:
            second.load_state_dict(first.state_dict(), params)
            first.update(params.copy(), problem)  # which has nothing in common with the state
        for _ in range(3):
            params = second.update(params, problem)
        assert same_bits(params, expected)
        assert second.steps == 6


def test_cgls_begins_anew_where_somebody_has_moved_the_parameters() -> None:
    """The residual is that of the new point, and the direction minus the gradient."""
    matrix, data = system(30, 12)
    problem = Counted(matrix).problem(data)
    method, params = ao.CGLS(), np.zeros(12)
    for _ in range(3):
        method.update(params, problem)
    method.load_state_dict(method.state_dict(), params)
    params += 1.0
    expected = iterates(ao.CGLS(), problem, params, 4)
    found = iterates(method, problem, params, 4)
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))


def test_wrong_operators_are_told_apart() -> None:
    """By a step that does not do what the gradient says: it is not taken, and the message says what to ask."""
    matrix, data = system(30, 12)
    other = np.random.default_rng(2).normal(size=(12, 30))
    wrong: dict[str, tuple[Map, Map]] = {
        "twice": (lambda p: matrix @ p, lambda r: 2 * matrix.T @ r),
        "half": (lambda p: matrix @ p, lambda r: 0.5 * matrix.T @ r),
        "minus": (lambda p: matrix @ p, lambda r: -matrix.T @ r),
        "none of it": (lambda p: matrix @ p, lambda r: other @ r),
        "not linear": (lambda p: matrix @ p + 3.0, lambda r: matrix.T @ r),
        "zero": (lambda p: 0 * (matrix @ p), lambda r: matrix.T @ r),
        "infinite": (lambda p: matrix @ p / (np.abs(p).max() == 0), lambda r: matrix.T @ r),
    }
    for name, (forward, adjoint) in wrong.items():
        with np.errstate(all="ignore"):
            result = ao.minimize(ao.LeastSquares(forward, adjoint, data), np.zeros(12), method=ao.CGLS())
        assert "ao.check_adjoint tells" in result.message, name
        assert not result.converged
        assert result.value == min(result.history.value)
        assert name in {"none of it", "not linear"} or (result.params == 0).all()


def test_an_exception_leaves_the_best_point() -> None:
    """Of `forward` or of `adjoint`, whenever it comes; and the solver goes on from there."""
    matrix, data = system(30, 12)
    for which in (0, 1):
        of = Counted(matrix)
        problem, method, params = of.problem(data), ao.CGLS(), np.zeros(12)
        for _ in range(3):
            method.update(params, problem)
        before, names = params.copy(), ("forward", "adjoint")
        whole = getattr(of, names[which])

        def broken(x: Any) -> Any:
            raise KeyboardInterrupt

        setattr(problem, names[which], broken)
        with pytest.raises(KeyboardInterrupt):
            method.update(params, problem)
        assert same_bits(params, before)
        setattr(problem, names[which], whole)
        method.update(params, problem)
        assert method.last_failure is None
        np.testing.assert_allclose(method.last_value, problem(params)[0], rtol=1e-12)


def _sirt(relaxation: float, matrix: Any, data: Any, p: Any) -> Any:
    """Gregor and Benson's equation 2, with matrices in full."""
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    inverse_rows = np.diag(np.divide(1.0, rows, out=np.zeros_like(rows), where=rows != 0))
    inverse_columns = np.diag(np.divide(1.0, columns, out=np.zeros_like(columns), where=columns != 0))
    return p + relaxation * inverse_columns @ matrix.T @ inverse_rows @ (data - matrix @ p)


def test_landweber_and_sirt_take_the_steps_of_their_equations() -> None:
    """Those written down in full, in float64; with weights, bounds, and a row and a column of zeros."""
    matrix, data = positive(30, 12)
    matrix[3], matrix[:, 5] = 0.0, 0.0
    weights = np.linspace(0, 2, 30)
    root = np.sqrt(weights)
    start = np.linspace(-0.5, 0.5, 12)
    for w, by in ((None, np.ones(30)), (weights, root)):
        whole, seen = by[:, None] * matrix, by * data
        lr = 1.5 / float(np.linalg.norm(whole, 2)) ** 2

        def steepest(p: Any, a: Any = whole, b: Any = seen, lr: float = lr) -> Any:
            return p - lr * a.T @ (a @ p - b)

        def sirt(p: Any, a: Any = whole, b: Any = seen, relaxation: float = 1.0) -> Any:
            return _sirt(relaxation, a, b, p)

        def within(step: Map, lower: float, upper: float) -> Map:
            return lambda x: np.clip(step(np.clip(x, lower, upper)), lower, upper)

        equations: list[tuple[ao.solvers.Solver, Map]] = [
            (ao.Landweber(lr), steepest),
            (ao.SIRT(), sirt),
            (ao.SIRT(1.7), partial(sirt, relaxation=1.7)),
            (ao.SIRT(bounds=(0.02, 0.3)), within(sirt, 0.02, 0.3)),
            (ao.Landweber(lr, bounds=(0, None)), within(steepest, 0.0, math.inf)),
        ]
        problem = Counted(matrix).problem(data, w)
        for method, step in equations:
            p, params = start, start.copy()
            for _ in range(20):
                p, params = step(p), method.update(params, problem)
                # Another order of sums, in float64.
                np.testing.assert_allclose(params, p, rtol=1e-12, atol=1e-13)
                assert method.last_value == pytest.approx(problem(params)[0], rel=1e-14)


def test_landweber_finds_its_learning_rate() -> None:
    """1/L, with L a little too small, from the largest singular value; each product is counted."""
    for seed in range(5):
        for weights in (None, np.linspace(0.1, 3, 30)):
            matrix, data = system(30, 12, seed)
            of, method = Counted(matrix), ao.Landweber()
            method.update(np.zeros(12), of.problem(data, weights))
            root = np.ones(30) if weights is None else np.sqrt(weights)
            largest = np.linalg.norm(root[:, None] * matrix, 2) ** 2
            assert 1 <= method.run.numbers["lr"] * largest < 1.3
            assert method.evaluations == of.calls[0] == of.calls[1] == 13


def test_bounded_methods_come_to_the_bounded_minimum() -> None:
    """That of SciPy's NNLS; there the projected gradient is 0, by which they stop."""
    rng = np.random.default_rng(3)
    matrix = rng.uniform(size=(12, 8)) + 5 * np.eye(12, 8)
    data = matrix @ rng.normal(size=8) + rng.normal(size=12)
    # SIRT's minimum is that of the problem with the rows divided by the roots of their sums.
    for method, by in ((ao.Landweber, np.ones(12)), (ao.SIRT, 1 / np.sqrt(matrix.sum(axis=1)))):
        expected, _ = nnls(by[:, None] * matrix, by * data)
        assert 0 < np.count_nonzero(expected) < 8
        problem, solver, params = Counted(matrix).problem(data), method(bounds=(0, None)), np.full(8, -1.0)
        result = ao.minimize(problem, params, method=solver, stop=ao.Stop(gtol=1e-9))
        assert "gtol" in result.message
        # The last point: that of SIRT need not be the one nearest to the data.
        np.testing.assert_allclose(solver.run.vectors["origin"][0], expected, atol=1e-8)
        assert result.value == problem(result.params)[0]


def test_sirt_ends_at_the_point_nearest_to_the_data() -> None:
    """Its limit is another one: here 2/1.1, where the value is lowest at 1.1/1.01."""
    matrix, data, start = np.array([[1.0], [0.1]]), np.ones(2), np.zeros(1)
    problem = Counted(matrix).problem(data)
    points = [p[0] for p in iterates(ao.SIRT(0.5), problem, start, 40)]
    assert points[-1] == pytest.approx(2 / 1.1)
    result = ao.minimize(problem, start, method=ao.SIRT(0.5), stop=ao.Stop(steps=40))
    assert result.params == min(points, key=lambda p: abs(p - 1.1 / 1.01))
    assert result.value == min(result.history.value) == problem(result.params)[0]
    assert start is result.params


def test_steady_methods_apply_each_operator_once_a_step() -> None:
    """SIRT once more, for the sums; as many evaluations are counted."""
    matrix, data = positive(30, 12)
    for method, more in ((ao.Landweber(1e-3), 0), (ao.SIRT(), 1)):
        of = Counted(matrix)
        result = ao.minimize(of.problem(data), np.zeros(12), method=method, stop=ao.Stop(steps=5))
        assert of.calls == [6 + more, 6 + more]
        assert result.evaluations == 6 + more


def test_a_learning_rate_that_is_too_large_ends_at_the_best_point() -> None:
    """The value rises without end; what is best is the start, or a point on the way."""
    matrix, data = positive(30, 12)
    lr = 2.05 / float(np.linalg.norm(matrix, 2)) ** 2
    start = np.zeros(12)
    result = ao.minimize(Counted(matrix).problem(data), start, method=ao.Landweber(lr), stop=ao.Stop(steps=300))
    assert result.history.value[-1] > result.value == min(result.history.value)
    assert Counted(matrix).problem(data)(result.params)[0] == result.value
    with np.errstate(all="ignore"):
        result = ao.minimize(Counted(matrix).problem(data), np.zeros(12), method=ao.Landweber(1e200))
    assert "wanted a smaller lr" in result.message
    assert (result.params == 0).all()


def test_sirt_of_containers() -> None:
    """A parameter that does not move has no part in the sums of rows."""
    matrix, data = positive(30, 12)
    a, b = matrix[:, :7], matrix[:, 7:]
    params: Any = {"a": np.zeros(7), "b": np.ones(5)}
    problem = ao.LeastSquares(lambda p: [a @ p["a"] + b @ p["b"]], lambda r: {"a": a.T @ r[0], "b": None}, [data])
    method = ao.SIRT()
    for _ in range(3):
        method.update(params, problem)
    expected = np.zeros(7)
    for _ in range(3):
        expected = _sirt(1.0, a, data - b @ np.ones(5), expected)
    np.testing.assert_allclose(params["a"], expected, rtol=1e-12)
    assert (params["b"] == 1).all()


@pytest.mark.parametrize("name", METHODS)
def test_an_interruption_leaves_the_best_point(name: str) -> None:
    """Whenever it comes: as many calls as there are."""
    matrix, data = positive(30, 12)
    for stop in range(1, 9):
        of = Counted(matrix)
        problem, params = of.problem(data), np.zeros(12)
        values = [problem(params)[0]]
        calls = itertools.count()

        points = [params.copy()]

        def seen(result: Any, values: list[float] = values, points: list[Any] = points) -> None:
            values.append(result.value)
            points.append(result.params.copy())

        def interrupted(of: Any, calls: Any = calls, stop: int = stop) -> Callable[[Any], Any]:
            def call(x: Any) -> Any:
                if next(calls) == stop:
                    raise KeyboardInterrupt
                return of(x)

            return call

        problem.forward, problem.adjoint = interrupted(of.forward), interrupted(of.adjoint)
        with pytest.raises(KeyboardInterrupt):
            ao.minimize(problem, params, method=METHODS[name](), callback=seen)
        best = points[min(range(len(values)), key=values.__getitem__)]
        # Those with bounds begin within, which no callback has seen.
        assert same_bits(params, best) or (len(points) == 1 and "bounded" in name)


def test_starts_that_leave_nothing_to_do() -> None:
    """At the solution, with data of zeros, and without elements."""
    matrix, _ = system(30, 12)
    p = np.arange(12.0)
    result = ao.minimize(Counted(matrix).problem(matrix @ p), p, method=ao.CGLS())
    assert result.converged
    assert result.steps == 0
    result = ao.minimize(Counted(matrix).problem(np.zeros(30)), np.zeros(12), method=ao.CGLS(), stop=ao.Stop(gtol=0))
    assert result.converged
    assert result.steps == 0
    empty = ao.LeastSquares(lambda p: np.zeros(0), lambda r: np.zeros(0), np.zeros(0))
    assert ao.minimize(empty, np.zeros(0), method=ao.CGLS()).converged


def test_float32_goes_as_far_as_its_precision() -> None:
    """Without a stop but for the gradient being nothing, and without a word about the adjoint."""
    matrix, data = system(200, 50, dtype="float32")
    problem, start = Counted(matrix).problem(data), np.zeros(50, "float32")
    result = ao.minimize(problem, start, method=ao.CGLS(), stop=ao.Stop(steps=400))
    assert "no more than the rounding" in result.message
    assert result.converged
    expected = np.linalg.lstsq(matrix.astype("float64"), data.astype("float64"))[0]
    # The condition is some 20, and float32 has 6e-8.
    np.testing.assert_allclose(result.params, expected, atol=1e-5)


def test_other_solvers_and_optimizers_take_the_problem() -> None:
    """Containers, weights and all."""
    matrix, data = system(30, 12)
    problem, expected = Counted(matrix).problem(data), np.linalg.lstsq(matrix, data)[0]
    result = ao.minimize(problem, np.zeros(12), method=ao.LBFGS(), stop=ao.Stop(gtol=1e-8))
    np.testing.assert_allclose(result.params, expected, atol=1e-7)
    lr = 1 / np.linalg.norm(matrix, 2) ** 2
    result = ao.minimize(problem, np.zeros(12), method=ao.Momentum(lr), stop=ao.Stop(gtol=1e-6, steps=2000))
    np.testing.assert_allclose(result.params, expected, atol=1e-5)


def test_the_gradient_is_no_view_of_what_is_used_again() -> None:
    """An adjoint may give a part of what it was given."""
    problem = ao.LeastSquares(lambda p: p, lambda r: r[::1], np.arange(4.0))
    _, one = problem(np.zeros(4))
    before = one.copy()
    problem(np.ones(4))
    assert (one == before).all()
    result = ao.minimize(problem, np.zeros(4), method=ao.CGLS())
    assert (result.params == np.arange(4.0)).all()


def test_broadcast_weights_and_those_of_some_data() -> None:
    """An array that broadcasts, a number, None for 1; on data in a container."""
    data = {"a": np.ones((3, 4)), "b": np.ones(2), "c": np.ones(2)}
    mask = np.array([0.0, 1.0, 2.0, 3.0])
    problem = ao.LeastSquares(lambda p: p, lambda r: r, data, {"a": mask, "b": None, "c": 4.0})
    value, gradient = problem({"a": np.zeros((3, 4)), "b": np.zeros(2), "c": np.zeros(2)})
    assert value == 0.5 * (18 + 2 + 8)
    np.testing.assert_allclose(gradient["a"], -np.ones((3, 1)) * mask, rtol=1e-15)
    assert (gradient["b"] == -1).all()
    assert (gradient["c"] == -4).all()


ONES = np.ones(3)
EYE: Any = np.eye(3)
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no function": (lambda: ao.LeastSquares(EYE, lambda r: r, ONES), "forward is a ndarray; wanted a function"),
    "no data": (lambda: ao.LeastSquares(abs, abs, {"a": None}), r"data\['a'\] is None; wanted an array"),
    "counts": (lambda: ao.LeastSquares(abs, abs, np.arange(3)), "data has dtype int64; wanted one of"),
    "negative": (lambda: ao.LeastSquares(abs, abs, ONES, -ONES), "weights has an element that is negative"),
    "infinite": (lambda: ao.LeastSquares(abs, abs, ONES, math.inf), "weights is inf; wanted finite and at least 0"),
    "complex": (lambda: ao.LeastSquares(abs, abs, ONES, 1j * ONES), "weights has dtype complex128"),
    "too many": (lambda: ao.LeastSquares(abs, abs, ONES, np.ones(4)), r"weights has shape \(4,\) but data has shape"),
    "other keys": (lambda: ao.LeastSquares(abs, abs, {"a": ONES}, {"b": ONES}), r"weights\['b'\]"),
    "shape": (
        lambda: ao.LeastSquares(lambda p: p[:2], abs, ONES)(ONES),
        r"data has shape .* but forward\(params\) has",
    ),
    "kind": (lambda: ao.LeastSquares(lambda p: 1j * p, abs, ONES)(ONES), r"forward\(params\) has dtype complex128"),
    "none": (
        lambda: ao.LeastSquares(lambda p: {"a": None}, abs, {"a": ONES})(ONES),
        r"forward\(params\)\['a'\] is None",
    ),
    "back": (
        lambda: ao.minimize(ao.LeastSquares(abs, lambda r: r[:2], ONES), ONES, method=ao.CGLS()),
        r"params has shape \(3,\) but grads has shape \(2,\)",
    ),
    "no problem": (
        lambda: ao.minimize(lambda x: (float(x @ x), 2 * x), ONES, method=ao.CGLS()),
        "CGLS was given .*; wanted an ao.LeastSquares",
    ),
    "half": (
        lambda: ao.minimize(ao.LeastSquares(abs, abs, ONES), ONES.astype("float16"), method=ao.CGLS()),
        "params has dtype float16, whose rounding CGLS can't follow",
    ),
    "negative sums": (
        lambda: ao.minimize(ao.LeastSquares(lambda p: -p, lambda r: -r, ONES), ONES, method=ao.SIRT()),
        r"adjoint\(ones\) is negative or NaN in places; SIRT wants",
    ),
    "complex SIRT": (
        lambda: ao.minimize(ao.LeastSquares(abs, abs, ONES), 1j * ONES, method=ao.SIRT()),
        "params are complex; SIRT wants real ones",
    ),
    "complex bounds": (
        lambda: ao.minimize(
            ao.LeastSquares(lambda p: p, lambda r: r, 1j * ONES), 1j * ONES, method=ao.Landweber(1.0, bounds=(0, 1))
        ),
        "params has dtype complex128; wanted real numbers, which bounds are for",
    ),
    "bounds": (lambda: ao.SIRT(bounds=(1, 0)), "wanted the lower one first"),
    "one bound": (lambda: ao.SIRT(bounds=EYE[0]), "bounds is .*; wanted a pair, the lower and the upper bounds"),
    "nan": (lambda: ao.SIRT(bounds=(math.nan, 1)), r"bounds\[0\] is nan"),
    "lr": (lambda: ao.Landweber(0.0), "lr is 0.0; wanted above 0"),
    "relaxation": (lambda: ao.SIRT(2.0), "relaxation is 2.0; wanted above 0 and below 2"),
    "damp": (lambda: ao.CGLS(-1.0), "damp is -1.0; wanted finite and at least 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_came_and_what_was_wanted(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("which", ["forward", "adjoint"])
def test_cgls_begins_anew_after_an_exception(which: str) -> None:
    """The direction is that of no iteration any more."""
    matrix, data = system(30, 12)
    of = Counted(matrix)
    problem, method, params = of.problem(data), ao.CGLS(), np.zeros(12)
    for _ in range(3):
        method.update(params, problem)
    expected = iterates(ao.CGLS(), of.problem(data), params, 3)
    whole = getattr(of, which)
    setattr(problem, which, _broken)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            method.update(params, problem)
    setattr(problem, which, whole)
    for p in expected:
        # The residual is the carried one, and the gradient: rounding is all that is apart.
        np.testing.assert_allclose(method.update(params, problem), p, rtol=1e-11)


def _broken(x: Any) -> Any:
    raise KeyboardInterrupt


def test_sirt_takes_rows_and_columns_that_are_small() -> None:
    """Sums of 1e-9 are no zeros in float64: one step with them is that of the equation."""
    matrix, data = np.diag([1.0, 1e-9]), np.array([2.0, 3e-9])
    np.testing.assert_allclose(ao.SIRT().update(np.zeros(2), Counted(matrix).problem(data)), [2.0, 3.0], rtol=1e-12)


CLIMBS: dict[str, Callable[[], Any]] = {
    "Landweber": lambda: ao.Landweber(2.05 / float(np.linalg.norm(positive(30, 12)[0], 2)) ** 2),
    "SIRT": lambda: ao.SIRT(0.5),
}


def _climbing(name: str) -> tuple[Any, Any, Any, Any]:
    """A method after a rise of the value, its problem and parameters, and the best of these."""
    matrix, data = (np.array([[1.0], [0.1]]), np.ones(2)) if name == "SIRT" else positive(30, 12)
    problem, method, params = Counted(matrix).problem(data), CLIMBS[name](), np.zeros(matrix.shape[1])
    seen = [(problem(params)[0], params.copy())]
    while not seen[-1][0] > min(seen, key=lambda of: of[0])[0]:
        method.update(params, problem)
        seen.append((method.last_value, params.copy()))
    return method, problem, params, min(seen, key=lambda of: of[0])


@pytest.mark.parametrize("name", CLIMBS)
def test_an_exception_after_a_rise_leaves_the_best_point(name: str) -> None:
    """Of `update`, too; and it goes on from there."""
    method, problem, params, (value, best) = _climbing(name)
    whole = problem.forward

    def broken(x: Any) -> Any:
        raise KeyboardInterrupt

    problem.forward = broken
    with pytest.raises(KeyboardInterrupt):
        method.update(params, problem)
    assert same_bits(params, best)
    assert method.last_value == value
    problem.forward = whole
    method.update(params, problem)
    assert method.last_failure is None


@pytest.mark.parametrize("name", CLIMBS)
def test_a_state_has_the_best_point(name: str) -> None:
    method, problem, params, (value, best) = _climbing(name)
    other, there = CLIMBS[name](), params.copy()
    other.load_state_dict(method.state_dict(), there)
    other.begin(there, problem)
    other.end()
    assert same_bits(there, best)
    assert other.last_value == value
    names = {"Landweber": ("three", 3), "SIRT": ("four", 4)}
    word, count = names[name]
    assert f"Memory: {word} arrays for each parameter" in str(type(method).__doc__)
    assert len(method.run.vectors) + (name == "SIRT") == count


def test_dtypes_are_refused_each_time() -> None:
    """What was refused once is not begun with."""
    half, complexes = ONES.astype("float16"), 1j * ONES
    for method, params, message in (
        (ao.CGLS(), half, "params has dtype float16"),
        (ao.Landweber(1.0, bounds=(0, 1)), complexes, "params has dtype complex128"),
    ):
        problem = ao.LeastSquares(lambda p: p, lambda r: r, params / 2)
        for _ in range(3):
            with pytest.raises(TypeError, match=message):
                method.update(params, problem)
        assert method.steps == 0
