"""compat.optax's solvers beside optax itself, on optax's own test problems: the same points, as many evaluations.

What rounds otherwise is multiplied by what L-BFGS does with it, step by step. How much that is, optax tells itself: it
runs twice more, from starts that are off by roundings. We may be as far from optax as ten times that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

Function = Callable[[Any], Any]
STEPS = 12


@pytest.fixture
def optax(need: Callable[[str], Library]) -> Iterator[Any]:
    """Optax in float64."""
    with need("jax-x64").context():
        yield pytest.importorskip("optax", reason="optax is not installed")


def rosenbrock(x: Any) -> Any:
    return (100.0 * (x[1:] - x[:-1] ** 2.0) ** 2.0 + (1 - x[:-1]) ** 2.0).sum()


def himmelblau(p: Any) -> Any:
    return (p[0] ** 2 + p[1] - 11.0) ** 2 + (p[0] + p[1] ** 2 - 7.0) ** 2


def matyas(p: Any) -> Any:
    return 0.26 * (p[0] ** 2 + p[1] ** 2) - 0.48 * p[0] * p[1]


def eggholder(p: Any) -> Any:
    from jax import numpy as jnp

    one, two = jnp.sqrt(abs(p[0] / 2.0 + p[1] + 47.0)), jnp.sqrt(abs(p[0] - (p[1] + 47.0)))
    return -(p[1] + 47) * jnp.sin(one) - p[0] * jnp.sin(two)


def zakharov(x: Any) -> Any:
    half = (0.5 * np.arange(1, len(x) + 1) * x).sum()
    return (x**2).sum() + half**2 + half**4


def steep(x: Any) -> Any:
    return ((1e4 * x) ** 2).mean()


def logistic(p: Any) -> Any:
    """Of a model with weights and biases, whose gradients are a tree."""
    from jax import nn

    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(10, 5)), rng.integers(0, 3, 10)
    return -nn.log_softmax(inputs @ p["weights"] + p["bias"])[np.arange(10), labels].mean()


PROBLEMS: dict[str, tuple[Function, Any]] = {
    "rosenbrock": (rosenbrock, np.zeros(2)),
    "himmelblau": (himmelblau, np.ones(2)),
    "far": (himmelblau, np.array([92.0, 0.001])),
    "matyas": (matyas, np.full(2, 6.0)),
    "eggholder": (eggholder, np.full(2, 6.0)),
    "zakharov": (zakharov, np.array([600.0, 700.0, 200.0, 100.0, 90.0, 1e3])),
    "steep": (steep, np.ones(2)),
    "logistic": (logistic, {"weights": np.zeros((5, 3)), "bias": np.zeros(3)}),
}
"""Those of LBFGSTest in optax's alias_test."""


class Fading:
    """A learning rate of the count of steps."""

    def __call__(self, count: Any) -> Any:
        return 1e-2 / (1.0 + count / 4.0)


UNSCALED: dict[str, Any] = {"scale_init_precond": False}
FIXED: dict[str, Any] = {"learning_rate": 1e-3, "memory_size": 5, "linesearch": None}
SHORT = {"max_linesearch_steps": 4, "max_learning_rate": 0.5, "approx_dec_rtol": None, "curv_rtol": 0.1}
LONG = {"max_linesearch_steps": 15, "tol": 1e-3, "increase_factor": 3.0, "slope_rtol": 0.1, "stepsize_precision": 1e-2}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PROBLEMS),
    *((name, UNSCALED) for name in ("rosenbrock", "eggholder", "logistic")),
    *((name, FIXED) for name in ("rosenbrock", "eggholder")),
    *((name, FIXED | UNSCALED) for name in ("himmelblau", "zakharov")),
    ("logistic", {"learning_rate": Fading(), "memory_size": 2, "linesearch": None}),
    ("rosenbrock", {"learning_rate": 0.3, "memory_size": 1}),
    *((name, {"linesearch": SHORT}) for name in ("rosenbrock", "zakharov", "eggholder")),
    *((name, {"linesearch": {**LONG, "initial_guess_strategy": "one"}}) for name in ("rosenbrock", "far")),
]

FEW = [*CASES[::7], *CASES[8:20:3]]
"""With some problems and each kind of options; all run among the products."""


def made(module: Any, options: dict[str, Any]) -> Any:
    """A solver of optax or of ours."""
    search = options.get("linesearch")
    more = {} if search is None else {"linesearch": module.scale_by_zoom_linesearch(**search)}
    return module.lbfgs(**{**options, **more})


def leaves(tree: Any) -> Any:
    return (
        np.concatenate([np.ravel(a) for _, a in sorted(tree.items())]) if isinstance(tree, dict) else np.asarray(tree)
    )


def like(tree: Any, f: Callable[[Any], Any]) -> Any:
    return {k: f(a) for k, a in tree.items()} if isinstance(tree, dict) else f(tree)


def of_arrays(fun: Function) -> Callable[[Any], tuple[float, Any]]:
    """The same function for ours, of NumPy arrays."""
    import jax

    compiled = quick(jax.value_and_grad(fun))

    def value_and_grad(p: Any) -> tuple[float, Any]:
        value, g = compiled(p)
        return float(value), like(g, np.array)

    return value_and_grad


def trajectories(optax: Any, fun: Function, transform: Any, starts: list[Any]) -> Iterator[list[tuple[Any, int]]]:
    """The points of optax from each start, and the steps of all searches so far."""
    import jax

    def step(params: Any, state: Any) -> Any:
        value, g = jax.value_and_grad(fun)(params)
        updates, state = transform.update(g, state, params, value=value, grad=g, value_fn=fun)
        return optax.apply_updates(params, updates), state

    compiled = quick(step)
    runs = [jax.tree.map(jax.numpy.array, start) for start in starts]
    states, counts = [transform.init(params) for params in runs], [0] * len(runs)
    for _ in range(STEPS):
        for k, state in enumerate(states):
            runs[k], states[k] = compiled(runs[k], state)
            info = optax.tree_utils.tree_get(states[k], "info")
            counts[k] += 1 if info is None else int(info.num_linesearch_steps)
        yield [(leaves(params), count) for params, count in zip(runs, counts, strict=True)]


def test_signatures_are_optaxs(optax: Any) -> None:
    """Names, kinds, order and defaults: that of the line search is the same one."""
    for name in ("lbfgs", "polyak_sgd", "scale_by_zoom_linesearch"):
        ours, theirs = (inspect.signature(getattr(of, name)).parameters for of in (ao.compat.optax, optax))
        assert [(p.name, p.kind) for p in ours.values()] == [(p.name, p.kind) for p in theirs.values()]
        for key, p in ours.items():
            assert key == "linesearch" or p.default == theirs[key].default
    search = ao.compat.optax.scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
    assert inspect.signature(ao.compat.optax.lbfgs).parameters["linesearch"].default == search


@pytest.mark.parametrize(
    ("problem", "options"), [pytest.param(*of, marks=() if of in FEW else pytest.mark.product) for of in CASES]
)
def test_lbfgs_equals_optax(problem: str, options: dict[str, Any], optax: Any) -> None:
    """Points, and evaluations while the roundings are small, of twelve steps."""
    fun, start = PROBLEMS[problem]
    rng = np.random.default_rng(1)
    off = [like(start, lambda a: a * (1 + 2.0**-52 * rng.choice([-1, 1], a.shape)) + 1e-16) for _ in range(2)]
    solver, f = made(ao.compat.optax, options), of_arrays(fun)
    p, bound, size, seen = like(start, np.copy), 0.0, 0.0, 0
    for (wanted, count), *others in trajectories(optax, fun, made(optax, options), [start, *off]):
        bound = max(bound, *(np.max(np.abs(other - wanted)) for other, _ in others))
        size = max(size, np.max(np.abs(wanted)))
        p = solver.update(p, f)
        if bound > 1e-6 * size:
            break
        np.testing.assert_allclose(leaves(p), wanted, rtol=0, atol=10 * bound + 1e-14 * size)
        if solver.last_failure is not None:  # at the minimum, where optax evaluates on
            break
        if {other for _, other in others} == {count}:
            assert solver.evaluations == 1 + count
        seen += 1
    assert seen
    assert solver.last_value == f(p)[0]


def test_an_unscaled_direction_of_roundings() -> None:
    """Where the pair takes all of the gradient but its rounding, d is as near to the exact one as that allows.

    Of optax's directions there, those of processors with fused multiply-adds are nearer, and those of others are not.
    """
    weights = np.arange(1, 7) / 2

    def zakharov_and_gradient(x: Any) -> tuple[float, Any]:
        half = weights @ x
        return float(x @ x + half**2 + half**4), 2 * x + (2 * half + 4 * half**3) * weights

    x = PROBLEMS["zakharov"][1].copy()
    solver, start, before = ao.compat.optax.lbfgs(**UNSCALED), x.copy(), zakharov_and_gradient(x)[1]
    solver.update(x, zakharov_and_gradient)
    g, point = zakharov_and_gradient(x)[1], x.copy()
    solver.update(x, zakharov_and_gradient)

    def dot(a: Any, b: Any) -> Fraction:
        return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))

    exact_g = [Fraction(a) for a in g.tolist()]
    s, y = ([Fraction(a) for a in of.tolist()] for of in (point - start, g - before))
    share = dot(s, exact_g) / dot(s, y)
    q = [a - share * b for a, b in zip(exact_g, y, strict=True)]
    left = share - dot(y, q) / dot(s, y)
    exact = np.array([float(-(a + left * b)) for a, b in zip(q, s, strict=True)])
    assert np.linalg.norm([float(a) for a in q]) < 2.0**-52 * np.linalg.norm(g)  # nothing that float64 could tell
    # Two roundings of each element of q and of each product with y, a factor of |s||y|/(s*y), which is near 1, apart.
    bound = 2 * 2.0**-52 * float(np.linalg.norm(g))
    np.testing.assert_allclose(solver.run.vectors["d"][0], exact, rtol=0, atol=bound)


def test_complex_parameters_are_two_reals(optax: Any) -> None:
    """As in optax, beside which the gradients are conjugates of JAX's."""
    import jax

    def fun(z: Any) -> Any:
        return rosenbrock(jax.numpy.concatenate([z.real, z.imag]))

    transform = optax.lbfgs()
    params = jax.numpy.array([0.5 - 0.3j, 0.2j, 0.1 + 0.4j])
    state, z = transform.init(params), np.array(params)
    solver, asked = ao.compat.optax.lbfgs(), quick(jax.value_and_grad(fun))

    def step(params: Any, state: Any) -> Any:
        value, g = jax.value_and_grad(fun)(params)
        updates, state = transform.update(g.conj(), state, params, value=value, grad=g.conj(), value_fn=fun)
        return optax.apply_updates(params, updates), state

    compiled = quick(step)
    for _ in range(4):
        params, state = compiled(params, state)
        z = solver.update(z, lambda z: (asked(z)[0], np.conj(np.array(asked(z)[1]))))
        np.testing.assert_allclose(z, params, rtol=1e-12)  # some ten roundings a step, multiplied by its curvatures


POLYAK: list[dict[str, Any]] = [
    {},
    {"max_learning_rate": 0.02, "f_min": -0.5, "eps": 0.1},
    {"scaling": 0.5, "max_learning_rate": 100.0, "eps": 1e-3},
    {"scaling": Fading(), "max_learning_rate": 1e4},
    {"f_min": 4.0},
    {"f_min": 4.0, "variant": "sps+"},
]


@pytest.mark.parametrize("options", POLYAK)
def test_polyak_equals_optax(options: dict[str, Any], optax: Any) -> None:
    """Twelve steps of some ten roundings each; with a minimum that is not reached, they climb, or rest."""

    def fun(x: Any) -> Any:
        return ((x - 1) ** 2 * np.arange(1.0, 4.0)).sum()

    start = np.array([1.0, 2.0, 3.0])
    solver, f, x = ao.compat.optax.polyak_sgd(**options), of_arrays(fun), start.copy()
    for ((wanted, _),) in trajectories(optax, fun, optax.polyak_sgd(**options), [start]):
        x = solver.update(x, f)
        np.testing.assert_allclose(x, wanted, rtol=1e-13)
    assert solver.evaluations == 1 + STEPS


def test_polyak_rests_where_the_gradient_is_nothing() -> None:
    """Where its square is at most 2**-52, optax divides no more."""
    x = ao.compat.optax.polyak_sgd().update(np.array([1e-9]), lambda x: (float(x @ x), 2 * x))
    assert x == 1e-9


@pytest.mark.parametrize(
    "solver", [ao.compat.optax.lbfgs(), ao.compat.optax.polyak_sgd(), made(ao.compat.optax, FIXED)]
)
def test_goes_on_from_a_state(solver: ao.solvers.Solver) -> None:
    """With the same bits."""

    def f(x: Any) -> tuple[float, Any]:
        return float(((x - 1) ** 4).sum()), 4 * (x - 1) ** 3

    solver.restart()
    x = np.array([3.0, -2.0])
    for _ in range(3):
        x = solver.update(x, f)
    other, y = type(solver)(**solver._arguments), x.copy()
    other.load_state_dict(solver.state_dict(), y)
    for _ in range(3):
        x, y = solver.update(x, f), other.update(y, f)
    assert np.array_equal(x, y)
    assert solver.evaluations == other.evaluations


@pytest.mark.parametrize("options", [{}, {"linesearch": None, "learning_rate": 0.1}])
def test_stays_where_values_are_finite(options: dict[str, Any]) -> None:
    """Beyond a wall there are none: the search goes back, and without one there is no step."""

    def walled(x: Any) -> tuple[float, Any]:
        return (float(-x[0]), np.array([-1.0])) if x[0] < 0.25 else (np.inf, np.array([np.nan]))

    solver, x = ao.compat.optax.lbfgs(**options), np.zeros(1)
    for _ in range(4):
        x = solver.update(x, walled)
        assert x[0] < 0.25
        assert solver.last_value == -x[0]
        assert solver.run.vectors["g"][0] == -1
    assert x[0] > 0
    assert not options or "is inf" in str(solver.last_failure)


def test_minimize_ends_at_the_best_point() -> None:
    """Steps that are too long climb."""
    solver = ao.compat.optax.lbfgs(2.5, linesearch=None, scale_init_precond=False)
    result = ao.minimize(
        lambda x: (float(x @ x), 2 * x), np.array([1.0]), method=solver, stop=ao.Stop(steps=2, gtol=1e-9)
    )
    assert result.history.value[-1] > result.value == float(result.params @ result.params)


def test_refusals() -> None:
    of = ao.compat.optax
    with pytest.raises(ValueError, match="memory_size is 0"):
        of.lbfgs(memory_size=0)
    with pytest.raises(TypeError, match="linesearch is 'zoom'; wanted what scale_by_zoom_linesearch gives, or None"):
        of.lbfgs(linesearch="zoom")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="initial_guess_strategy is 'two'; wanted 'one' or 'keep'"):
        of.scale_by_zoom_linesearch(9, initial_guess_strategy="two")  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="verbose"):
        of.scale_by_zoom_linesearch(9, verbose=True)
    with pytest.raises(ValueError, match=r"variant is 'sps\+\+'; wanted 'sps' or 'sps\+'"):
        of.polyak_sgd(variant="sps++")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scaling is 'a'"):
        of.polyak_sgd(scaling="a")
