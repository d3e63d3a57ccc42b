"""compat.torch.LBFGS beside torch's own: the same points, and the same number of evaluations, update by update.

What rounds otherwise is multiplied by what L-BFGS does with it, step by step. How much that is, torch tells itself:
it runs twice more, from starts that are off by roundings. We may be as far from torch as ten times that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.internals import Space
from tests.support.libraries import Library

pytestmark = pytest.mark.usefixtures("torch")

Loss = Callable[[dict[str, Any]], Any]


def rosenbrock(p: dict[str, Any]) -> Any:
    """Of torch's test_optim; complex numbers are a point each, as in its test_complex_2d."""
    import torch

    x = torch.view_as_real(p["x"]).reshape(-1) if p["x"].is_complex() else p["x"]
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def affine(p: dict[str, Any]) -> Any:
    """Of torch's test_forloop_goes_right_direction."""
    import torch

    return (p["weight"] @ torch.linspace(-1, 1, 5) + p["bias"]).pow(2).sum()


def flat(p: dict[str, Any]) -> Any:
    """The loss of a linear model that is the same along a direction, and of hardly any curvature along others."""
    return ((p["x"][:3] - p["x"][3:] ** 2) ** 4).sum().log1p()


def starts(rng: np.random.Generator) -> dict[str, tuple[Loss, dict[str, Any]]]:
    return {
        "rosenbrock": (rosenbrock, {"x": np.array([1.5, 1.5])}),
        "rosenbrock10": (rosenbrock, {"x": np.array([-1.2, 1.0] * 5)}),
        "complex": (rosenbrock, {"x": np.array([0.5 + 0.3j])}),
        "affine": (affine, {"weight": rng.normal(size=(10, 5)), "bias": rng.normal(size=10)}),
        "flat": (flat, {"x": rng.normal(size=6)}),
    }


class Beside:
    """torch's own, and how often it calls its closure."""

    def __init__(self, loss: Loss, start: dict[str, Any], options: Any) -> None:
        import torch

        self.params = {k: torch.nn.Parameter(torch.tensor(a)) for k, a in start.items()}
        self.optimizer = torch.optim.LBFGS(self.params.values(), **options)
        self.loss, self.evaluations = loss, 0

    def update(self) -> Any:
        def closure() -> Any:
            self.evaluations += 1
            self.optimizer.zero_grad()
            loss = self.loss(self.params)
            loss.backward()
            return loss

        self.optimizer.step(closure)
        return np.concatenate([p.detach().numpy().ravel() for p in self.params.values()])


def of_arrays(loss: Loss) -> Callable[[dict[str, Any]], tuple[float, dict[str, Any]]]:
    """The same function for ours, of NumPy arrays."""

    def value_and_grad(p: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        import torch

        tensors = {k: torch.tensor(a, requires_grad=True) for k, a in p.items()}
        value = loss(tensors)
        value.backward()
        return value.item(), {k: t.grad.numpy() for k, t in tensors.items()}

    return value_and_grad


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "lr": {"lr": 0.01},
    "gradient": {"tolerance_grad": 1e-6},
    "wolfe": {"line_search_fn": "strong_wolfe"},
    "wolfe-lr": {"line_search_fn": "strong_wolfe", "lr": 0.1, "tolerance_change": 1e-5},
    "wolfe-few": {"line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 4},
    "wolfe-calls": {"line_search_fn": "strong_wolfe", "max_eval": 4, "history_size": 20},
    "calls": {"max_eval": 3, "lr": 0.02},
    "one": {"line_search_fn": "strong_wolfe", "max_eval": 1},
}
"""The first four are torch's own, of `optim_inputs_func_lbfgs`."""


def test_signature_is_torchs(torch: Any) -> None:
    """The names, the order and the defaults, but for `params`, and `engine` behind."""
    _, *theirs = inspect.signature(torch.optim.LBFGS).parameters.values()
    *ours, engine = inspect.signature(ao.compat.torch.LBFGS).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]
    assert engine.name == "engine"


PROBLEMS = [*starts(np.random.default_rng(0))]
ALL = [(name, problem) for name in OPTIONS for problem in PROBLEMS]
FEW = [(name, PROBLEMS[i % 5]) for i, name in enumerate(OPTIONS)]


@pytest.mark.parametrize(
    ("name", "problem"), [pytest.param(*of, marks=() if of in FEW else pytest.mark.product) for of in ALL]
)
def test_equals_torch(name: str, problem: str) -> None:
    """Three updates, of up to twenty steps each: points, and evaluations while the roundings are small."""
    loss, start = starts(np.random.default_rng(3))[problem]
    rng = np.random.default_rng(4)
    options = OPTIONS[name]
    theirs = Beside(loss, start, options)
    off = [
        Beside(loss, {k: a * (1 + 2.0**-52 * rng.choice([-1, 1], a.shape)) for k, a in start.items()}, options)
        for _ in range(2)
    ]
    solver, p = ao.compat.torch.LBFGS(**options), {k: a.copy() for k, a in start.items()}
    bound, seen = 0.0, 0
    for step in range(3):
        wanted = theirs.update()
        bound = max(bound, *(np.max(np.abs(other.update() - wanted)) for other in off))
        solver.update(p, of_arrays(loss))
        found = np.concatenate([a.ravel() for a in p.values()])
        if bound > 1e-6 or not np.isfinite(wanted).all():
            break
        np.testing.assert_allclose(found, wanted, rtol=0, atol=10 * bound + 1e-14, err_msg=f"update {step}")
        if {other.evaluations for other in off} == {theirs.evaluations}:
            assert solver.evaluations == theirs.evaluations, f"update {step}"
        seen += 1
    assert seen, "torch is too sensitive here for anything to be seen"


def scaled(by: float) -> Loss:
    return lambda p: by * rosenbrock(p)


WOLFE = {"line_search_fn": "strong_wolfe", "tolerance_grad": 0.0, "tolerance_change": 0.0}
PLAIN = {"line_search_fn": None, "tolerance_grad": 1e-12}
CRITERIA: dict[str, tuple[Loss, Any, dict[str, Any]]] = {
    "gradient": (rosenbrock, [1.5, 1.5], {**WOLFE, "tolerance_grad": 1.0}),
    "step": (scaled(1e6), [1.5, 1.5], {**WOLFE, "tolerance_change": 1e-3}),
    "value": (lambda p: 5e-4 * p["x"] @ p["x"], [200.0], {"lr": 0.1, "max_iter": 100, "tolerance_change": 1e-2}),
    "pair": (lambda p: 5e-4 * p["x"] @ p["x"], [1.0], {**WOLFE, **PLAIN}),  # s*y = 1e-9
    "no pair": (lambda p: 1.5e-4 * p["x"] @ p["x"], [1.0], {**WOLFE, **PLAIN}),  # 2.7e-11
}


@pytest.mark.parametrize("name", CRITERIA)
def test_each_criterion_is_torchs(name: str) -> None:
    """One after the other is what ends an update, or lets a pair be remembered."""
    loss, start, options = CRITERIA[name]
    theirs, p = Beside(loss, {"x": np.array(start)}, options), {"x": np.array(start)}
    solver = ao.compat.torch.LBFGS(**options)
    for _ in range(2):
        solver.update(p, of_arrays(loss))
        np.testing.assert_allclose(p["x"], theirs.update(), rtol=1e-8)  # some thirty steps of a known trajectory
        assert solver.evaluations == theirs.evaluations


def test_function_may_be_another_each_time() -> None:
    """A mini-batch for each update: the memory is of gradients that the first call of the next update gives."""
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(8, 3)), rng.normal(size=8)) for _ in range(5)]
    start = {"x": np.zeros(3)}
    for options in ({"max_iter": 2, "lr": 0.3}, {"max_iter": 3, "line_search_fn": "strong_wolfe"}):
        solver, p = ao.compat.torch.LBFGS(**options), {"x": np.zeros(3)}
        theirs = Beside(lambda p: None, start, options)
        for A, b in batches:

            def loss(p: dict[str, Any], A: Any = A, b: Any = b) -> Any:
                import torch

                return ((torch.tensor(A) @ p["x"] - torch.tensor(b)) ** 2).mean()

            theirs.loss = loss
            solver.update(p, of_arrays(loss))
            np.testing.assert_allclose(p["x"], theirs.update(), rtol=1e-11)  # some ten steps, each of some roundings
            assert solver.evaluations == theirs.evaluations


def test_minimize_calls_once_where_an_update_ends() -> None:
    """The next one begins there: what torch calls there again is saved; without a search, it is called at the end."""
    start = {"x": np.array([-1.2, 1.0])}
    for options, more in ((OPTIONS["lr"], 1), (OPTIONS["wolfe-few"], -2)):
        theirs, p = Beside(rosenbrock, start, options), {"x": start["x"].copy()}
        result = ao.minimize(
            of_arrays(rosenbrock), p, method=ao.compat.torch.LBFGS(**options), stop=ao.Stop(steps=3, value=0)
        )
        wanted = [theirs.update() for _ in range(3)][-1]
        np.testing.assert_allclose(p["x"], wanted, rtol=1e-12)
        assert (result.steps, result.evaluations) == (3, theirs.evaluations + more)
        assert result.value == of_arrays(rosenbrock)(p)[0]


def test_minimize_ends_at_the_best_point() -> None:
    """Without a line search, steps climb; `update` goes with them, as torch does."""
    solver, p = ao.compat.torch.LBFGS(lr=2.1, max_iter=1), {"x": np.array([1.0])}
    result = ao.minimize(lambda p: (float(p["x"] @ p["x"]), {"x": 2 * p["x"]}), p, method=solver, stop=ao.Stop(steps=3))
    assert result.history.value[-1] > min(result.history.value) == result.value == float(p["x"] @ p["x"])


@pytest.mark.parametrize("options", [{"lr": 0.01, "max_iter": 3}, {"line_search_fn": "strong_wolfe", "max_iter": 3}])
def test_goes_on_from_a_state(options: dict[str, Any]) -> None:
    """Also where the function was not called at the last point."""
    f = of_arrays(rosenbrock)
    solver, p = ao.compat.torch.LBFGS(**options), {"x": np.array([-1.2, 1.0])}
    for _ in range(3):
        solver.update(p, f)
    other, q = ao.compat.torch.LBFGS(**options), {"x": p["x"].copy()}
    other.load_state_dict(solver.state_dict(), q)
    for _ in range(3):
        solver.update(p, f)
        other.update(q, f)
    assert np.array_equal(p["x"], q["x"])
    assert solver.evaluations == other.evaluations


def test_gradients_that_are_none_rest() -> None:
    def f(p: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        return float(p["a"] @ p["a"]), {"a": 2 * p["a"], "b": None}

    p = {"a": np.array([3.0, 4.0]), "b": np.ones(2)}
    ao.compat.torch.LBFGS().update(p, f)
    np.testing.assert_allclose(p["a"], 0, atol=1e-14)
    assert np.array_equal(p["b"], [1, 1])


@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.product)])
def test_on_other_arrays(library: str, need: Callable[[str], Library], quickly: None) -> None:
    """The same points as on NumPy's, in float32: to some roundings of it, after six steps."""
    makes: list[Callable[[Any], Any]] = [lambda a: a, need(library).array]
    points = []
    for make in makes:
        p = {"x": make(np.array([1.5, -0.5], "float32"))}
        solver = ao.compat.torch.LBFGS(max_iter=3, line_search_fn="strong_wolfe")
        for _ in range(2):
            solver.update(p, lambda p: ((p["x"] * p["x"] * p["x"] * p["x"]).sum(), {"x": 4 * p["x"] ** 3}))
        points.append(np.asarray(p["x"]))
    assert points[1].dtype == np.float32
    np.testing.assert_allclose(points[1], points[0], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe"}])
def test_stays_where_values_are_finite(options: dict[str, Any]) -> None:
    """Beyond a wall there are none: torch's parameters become NaN, or stay beyond it."""

    def walled(x: Any) -> tuple[float, Any]:
        return (float(-x[0]), np.array([-1.0])) if x[0] < 1.75 else (np.nan, np.array([np.nan]))

    solver, x = ao.compat.torch.LBFGS(**options), np.zeros(1)
    for _ in range(4):
        x = solver.update(x, walled)
        assert x[0] < 1.75
        assert solver.last_value == -x[0]
        assert solver.run.vectors["g"][0] == -1
    assert x[0] >= 1
    assert options or "is nan" in str(solver.last_failure)


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("options", [{"lr": 0.001}, {"line_search_fn": "strong_wolfe"}])
def test_an_exception_leaves_the_best_point(options: dict[str, Any], error: type[BaseException]) -> None:
    """Of those on the line that it was on; StopIteration is no end of the search."""
    calls: list[tuple[float, Any]] = []

    def f(x: Any) -> tuple[float, Any]:
        value, g = of_arrays(rosenbrock)({"x": x})
        if len(calls) == 3:
            raise error
        calls.append((value, x.copy()))
        return value, g["x"]

    x = np.array([-1.2, 1.0])
    with pytest.raises(error):
        ao.compat.torch.LBFGS(**options).update(x, f)
    assert np.array_equal(x, min(calls, key=lambda call: call[0])[1])


def test_why_it_does_not_move() -> None:
    """It says so, and that there is nothing left to gain."""
    f = of_arrays(rosenbrock)
    for options, words in (({"tolerance_grad": 1e-3}, "tolerance_grad"), ({"tolerance_grad": 0}, "slope")):
        p = {"x": np.array([1 + 1e-6, 1.0])}
        result = ao.minimize(f, p, method=ao.compat.torch.LBFGS(**options), stop=ao.Stop(steps=99))
        assert result.converged
        assert words in result.message


def test_refusals(torch: Any) -> None:
    with pytest.raises(TypeError, match=r"LBFGS was given parameters; wanted them in update\(params, value_and_grad\)"):
        ao.compat.torch.LBFGS([np.ones(2)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="line_search_fn is 'armijo'; wanted None or 'strong_wolfe'"):
        ao.compat.torch.LBFGS(line_search_fn="armijo")
    with pytest.raises(ValueError, match="max_eval is 0"):
        ao.compat.torch.LBFGS(max_eval=0)
    with pytest.raises(ValueError, match="lr is -1"):
        ao.compat.torch.LBFGS(-1)


def test_a_best_point_is_known_once_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption of the copy leaves the parameters where they are, and not at a vector of zeros."""
    run = Space.run

    def interrupted(space: Any, kernel: Any, x: Any, vectors: Any, **numbers: Any) -> None:
        if any(vector is solver.run.vectors["best"] for vector in vectors):
            raise KeyboardInterrupt
        run(space, kernel, x, vectors, **numbers)

    monkeypatch.setattr(Space, "run", interrupted)
    solver, p = ao.compat.torch.LBFGS(lr=2.1, max_iter=1), {"x": np.array([1.0])}
    solver.begin(p, lambda p: (float(p["x"] @ p["x"]), {"x": 2 * p["x"]}))
    with pytest.raises(KeyboardInterrupt):
        solver.iterate()
    assert "best" not in solver.run.numbers


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_memory_is_what_the_docstring_says(search: str | None) -> None:
    solver = ao.compat.torch.LBFGS(history_size=3, line_search_fn=search)
    solver.update(np.array([3.0, 4.0]), lambda x: (float(x @ x), 2 * x))
    assert "2*history_size + 5 arrays" in str(type(solver).__doc__)
    assert len(solver.run.vectors) == 2 * 3 + 5
