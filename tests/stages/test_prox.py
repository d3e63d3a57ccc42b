"""Proximal steps: their equations, what they promise as operators, and pyproximal's beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from tests.support import shim
from tests.support.libraries import ENGINES, Library, same_bits
from tests.support.proximal import prox

pytestmark = [pytest.mark.telling, pytest.mark.own_loops]  # each stage is compiled in a chain of core/test_chains.py

INF, NAN = math.inf, math.nan


HARD = [0.0, -0.0, 5e-324, -1e-45, 1e-30, 0.1, -0.3, 0.30000000000000004, 1.0, -2.5, 3e38, -1e300, INF, -INF, NAN]
"""Values on the edges, of which float16 and float32 take what they hold."""


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_soft_thresholding_on_the_edges(engine: ao.EngineName, dtype: str) -> None:
    """L1 is sign(p) * max(|p| - lr*sigma, 0) to the last bit, with 0.0 for zeros; what is not finite stays."""
    with np.errstate(all="ignore"):
        p = np.array(HARD * 3, dtype)
    wide = p.astype(np.result_type(dtype, "float32"))
    for lr, sigma in [(1.0, 0.0), (0.1, 3.0), (1e-20, 1e-10), (1.0, 1e38)]:
        threshold = wide.dtype.type(lr * sigma)
        expected = (np.sign(wide) * np.maximum(np.abs(wide) - threshold, 0) + 0.0).astype(dtype)
        assert same_bits(prox(ao.prox.L1(sigma), p, lr, engine), expected), (lr, sigma)


class Penalty(NamedTuple):
    """A stage, the function whose proximal step it is, and what is known of that."""

    stage: Callable[..., ao.ParameterStage]
    value: Callable[[Any], float]
    """f for sigma = 1."""
    dual: Callable[[Any], float] | None
    """If f is a norm, the dual norm."""
    square: float = 0.0
    """By how much of |x|**2/2 it is more than sigma times a norm."""


def _length(x: Any) -> Any:
    return np.sqrt(np.sum(np.abs(x) ** 2, axis=0))


def _singular(x: Any) -> Any:
    return np.linalg.svd(x, compute_uv=False)


PENALTIES = {
    "L1": Penalty(ao.prox.L1, lambda x: np.sum(np.abs(x)), lambda x: np.max(np.abs(x))),
    "L2": Penalty(ao.prox.L2, lambda x: 0.0, lambda x: 0.0, 1.0),
    "ElasticNet": Penalty(
        lambda sigma: ao.prox.ElasticNet(2 * sigma), lambda x: np.sum(np.abs(x)), lambda x: np.max(np.abs(x)), 1.0
    ),
    "L21": Penalty(ao.prox.L21, lambda x: np.sum(_length(x)), lambda x: np.max(_length(x))),
    "Nuclear": Penalty(ao.prox.Nuclear, lambda x: np.sum(_singular(x)), lambda x: np.max(_singular(x))),
}
STAGES: dict[str, Callable[..., ao.ParameterStage]] = {
    **{name: penalty.stage for name, penalty in PENALTIES.items()},
    "Simplex": ao.prox.Simplex,
    "NonNegative": lambda sigma: ao.NonNegative(),
    "Box": lambda sigma: ao.Box(-sigma, sigma),
}

NUMBER = st.floats(-4, 4).map(lambda x: round(x, 6))
MATRIX = st.lists(NUMBER, min_size=12, max_size=12).map(lambda xs: np.array(xs).reshape(4, 3))
WEIGHT = st.floats(0.01, 3).map(lambda x: round(x, 4))


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=25)
@given(x=MATRIX, y=MATRIX, lr=WEIGHT, sigma=WEIGHT)
def test_firmly_nonexpansive(name: str, x: Any, y: Any, lr: float, sigma: float) -> None:
    """|Px - Py|**2 <= <Px - Py, x - y>, as of every proximal operator of a convex function, to round-off of 1e-12."""
    stage = STAGES[name](sigma)
    of_x, of_y = prox(stage, x, lr), prox(stage, y, lr)
    assert np.sum((of_x - of_y) ** 2) <= np.sum((of_x - of_y) * (x - y)) + 1e-12


@pytest.mark.parametrize("name", PENALTIES)
@settings(max_examples=25)
@given(x=MATRIX, lr=WEIGHT, sigma=WEIGHT)
def test_optimal(name: str, x: Any, lr: float, sigma: float) -> None:
    """0 is a subgradient of lr*f + |. - x|**2/2 at Px: for a norm, x - Px is lr*sigma long in the dual one, along Px.

    To 1e-12, the round-off of a singular value decomposition of numbers up to 4.
    """
    penalty = PENALTIES[name]
    p = prox(penalty.stage(sigma), x, lr)
    rest = x - p - lr * sigma * penalty.square * p
    assert penalty.dual is not None
    assert penalty.dual(rest) <= lr * sigma + 1e-12
    assert np.sum(rest * p) == pytest.approx(lr * sigma * penalty.value(p), abs=1e-11)


def _in_ball(x: Any, radius: float) -> Any:
    return x * np.minimum(1.0, radius / np.maximum(_length(x), 1e-300))


def _in_spectral_ball(x: Any, radius: float) -> Any:
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return (u * np.minimum(s, radius)) @ v


CONJUGATES: dict[str, Callable[[Any, float, float], Any]] = {
    "L1": lambda x, tau, sigma: np.clip(x, -sigma, sigma),
    "L2": lambda x, tau, sigma: x * sigma / (sigma + tau),
    "L21": lambda x, tau, sigma: _in_ball(x, sigma),
    "Nuclear": lambda x, tau, sigma: _in_spectral_ball(x, sigma),
}
"""The proximal operator of tau times the conjugate, in closed form."""


@pytest.mark.parametrize("name", CONJUGATES)
@settings(max_examples=25)
@given(x=MATRIX, lr=WEIGHT, sigma=WEIGHT)
def test_moreau(name: str, x: Any, lr: float, sigma: float) -> None:
    """x is the proximal step of lr*f and lr times that of the conjugate, to the round-off of x/lr with lr >= 0.01."""
    parts = prox(STAGES[name](sigma), x, lr) + lr * CONJUGATES[name](x / lr, 1 / lr, sigma)
    np.testing.assert_allclose(parts, x, rtol=0, atol=1e-12)


@settings(max_examples=50)
@given(x=MATRIX, radius=WEIGHT, axis=st.sampled_from([-1, 0, None]))
def test_nearest_on_the_simplex(x: Any, radius: float, axis: int | None) -> None:
    """Within it, and no corner lies beyond the plane through it: then no point is nearer. To 1e-13, of numbers to 4."""
    p = prox(ao.prox.Simplex(radius, axis), x)
    vectors, of = (a.reshape(1, -1) if axis is None else np.moveaxis(a, axis, -1) for a in (p, x))
    assert (p >= 0).all()
    np.testing.assert_allclose(vectors.sum(axis=-1), radius, rtol=1e-13)
    away = of - vectors
    beyond = radius * away - np.sum(away * vectors, axis=-1, keepdims=True)  # to each corner, radius on one axis
    assert beyond.max() <= 1e-12


def test_simplex_far_away() -> None:
    """Of float32 numbers of a million the sum is right, where the plain cumulative sum would lose it."""
    x = np.array([1e6, 1e6 - 0.25, 1e6 - 4, -3e38], "f4")
    assert prox(ao.prox.Simplex(), x).tolist() == [0.625, 0.375, 0.0, 0.0]
    assert np.isnan(prox(ao.prox.Simplex(), np.array([[NAN, 1.0], [3.0, 1.0]]))).tolist() == [[True] * 2, [False] * 2]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e200])
def test_groups_of_tiny_and_huge_elements(scale: float) -> None:
    """No square over- or underflows; to 4 roundings."""
    x = scale * np.array([[3.0, 0.1], [4.0, 0.1]])
    np.testing.assert_allclose(prox(ao.prox.L21(scale), x) / scale, [[2.4, 0], [3.2, 0]], rtol=1e-15)


def test_groups_that_are_not_finite_stay() -> None:
    """And touch no other."""
    x = np.array([[NAN, INF, 3.0, 0.0], [1.0, 2.0, 4.0, 0.0]])
    expected = [[NAN, INF, 2.4, 0.0], [1.0, 2.0, 3.2, 0.0]]
    np.testing.assert_allclose(prox(ao.prox.L21(), x), expected, rtol=1e-15)


def test_groups_along_several_axes() -> None:
    """One number for what lies along all of them, as NumPy's norm of each reshaped group."""
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    lengths = np.linalg.norm(np.moveaxis(x, 1, 0).reshape(4, -1), axis=1)[None, :, None]
    np.testing.assert_allclose(
        prox(ao.prox.L21(4.0, axis=(0, 2)), x), x / lengths * np.maximum(lengths - 4, 0), rtol=1e-14
    )


def test_stacks_of_matrices() -> None:
    """Each of the last two axes by itself."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    alone = [prox(ao.prox.Nuclear(0.5), of) for of in x]
    np.testing.assert_allclose(prox(ao.prox.Nuclear(0.5), x), alone, rtol=1e-13, atol=1e-15)
    assert np.linalg.matrix_rank(prox(ao.prox.Nuclear(1.5), x[0])) < 3


@pytest.mark.parametrize("engine", ENGINES)
def test_complex_elements_keep_their_direction(engine: ao.EngineName) -> None:
    """By modulus, of all sizes: 3+4j comes 1 nearer as 2.4+3.2j; what is not finite stays."""
    z = np.array([3 + 4j, 3 - 4j, 0.3 + 0.4j, 0, -5, 2j, complex(INF, 1), complex(1, NAN)])
    expected = np.array([2.4 + 3.2j, 2.4 - 3.2j, 0, 0, -4, 1j, complex(INF, 1), complex(1, NAN)])
    for scale in (1.0, 2.0**-900, 2.0**900):  # exact
        found = prox(ao.prox.L1(scale), (scale * z.view("f8")).view(z.dtype), 1.0, engine)
        wanted = (scale * expected.view("f8")).view(z.dtype)
        assert same_bits(found.view("f8") + 0.0, wanted.view("f8"))
    halved = prox(ao.prox.ElasticNet(2.0), z[:3], 1.0, engine)
    assert same_bits(halved, prox(ao.prox.L1(), z[:3], 1.0, engine) / 2)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("library", ["strict", "torch", "jax", "dask", "cuda-shim"])
def test_complex_elements_of_every_library(library: str, dtype: str, need: Callable[[str], Library]) -> None:
    """The acceptance of the issue: 3+4j, with gradient 0, lr 1 and sigma 1, is 2.4+3.2j; to 2 ulp."""
    lib = need(library)
    if dtype not in lib.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    params = {"z": lib.asarray(np.array([[3 + 4j, 0.5], [0, -3j]], dtype))}
    optimizer = ao.chain(ao.SGD(lr=1.0), ao.prox.L1(1.0))
    found = lib.tonumpy(optimizer.update(params, {"z": lib.asarray(np.zeros((2, 2), dtype))})["z"])
    assert found.dtype == dtype
    rounding = 2 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, [[2.4 + 3.2j, 0], [0, -2j]], rtol=rounding)


@pytest.mark.parametrize("name", PENALTIES)
@settings(max_examples=15)
@given(re=MATRIX, im=MATRIX, sigma=WEIGHT)
def test_optimal_for_complex_elements(name: str, re: Any, im: Any, sigma: float) -> None:
    """As for real ones, with the inner product of both parts: with the same round-off, and that of the modulus."""
    penalty, x = PENALTIES[name], re + 1j * im
    p = prox(penalty.stage(sigma), x)
    rest = x - p - sigma * penalty.square * p
    assert penalty.dual is not None
    assert penalty.dual(rest) <= sigma + 1e-12
    assert np.sum(rest * p.conj()).real == pytest.approx(sigma * penalty.value(p), abs=1e-11)


class Turned(ao.ParameterStage):
    """A rule of complex arrays with a slot: p times the conjugate of its largest element, and the sum of all so far."""

    slots = ("total",)
    array_rule = True
    complex_arrays = True

    @staticmethod
    def rule(xp: Any, p: Any, total: Any, c: Any) -> Any:
        largest = xp.max(xp.abs(p))
        pivot = xp.sum(xp.where(xp.abs(p) == largest, p, xp.zeros_like(p)))
        p = p * xp.conj(pivot) / largest if "complex" in str(p.dtype) else p
        return p, total + p


@pytest.mark.parametrize("library", ["numpy", "strict", "torch", "jax", "dask"])
def test_rules_of_complex_arrays(library: str, need: Callable[[str], Library]) -> None:
    """They are given p, and the slots, whole, between rules of elements and of their parts; real ones as they are."""
    lib = need(library)
    optimizer = ao.chain(ao.Momentum(1.0, momentum=0.5), ao.NonNegative(), Turned(), ao.prox.L2(1.0), ao.EMA(0.5))
    z = average = np.array([3 - 1j, -1 + 4j])
    total = v = np.zeros(2, complex)
    params = {"z": lib.asarray(z.astype("c8")), "x": lib.asarray(np.array([1.0, -2.0], "f4"))}
    for k in range(2):
        g = np.array([1j, -k])
        optimizer.update(params, {"z": lib.asarray(g.astype("c8")), "x": lib.asarray(np.zeros(2, "f4"))})
        v = 0.5 * v - g
        z = z + v
        z = np.maximum(z.real, 0) + 1j * np.maximum(z.imag, 0)
        pivot = z[np.argmax(abs(z))]
        z = z * pivot.conj() / abs(pivot)
        total, z = total + z, z / 2
        average = (average + z) / 2
    state = optimizer.state
    assert state is not None
    for found, wanted in (
        (params["z"], z),
        (state.slots[2]["total"]["z"], total),
        (state.slots[4]["average"]["z"], average),
    ):
        np.testing.assert_allclose(lib.tonumpy(found), wanted, rtol=1e-6)
    np.testing.assert_allclose(lib.tonumpy(params["x"]), [0.25, 0.0])


def test_with_the_learning_rate_of_the_step() -> None:
    """Its schedule, its group, and what was set last, on replays as on the first step: thresholds to the last bit."""
    optimizer = ao.chain(
        ao.SGD(lr=lambda t: 1 / t),
        ao.prox.L1(0.5),
        ao.groups({"slow": {"lr": 0.125}, "late": {"lr": 0.5}, ...: {}}),
    )
    params = {name: np.array([8.0, -8.0]) for name in ("plain", "slow", "late")}
    expected = dict.fromkeys(params, 8.0)
    for t in range(1, 8):
        moving = ["plain", "slow", *["late"] * (t > 2)]
        optimizer.update(params, {name: np.zeros(2) if name in moving else None for name in params})
        for name in moving:
            expected[name] -= {"plain": 1 / t, "slow": 0.125, "late": 0.5}[name] * optimizer.stages[1].sigma
        assert {name: a[0] for name, a in params.items()} == expected
        assert {name: -a[1] for name, a in params.items()} == expected
        if t == 4:
            optimizer.stages[1].sigma = 0.25
    optimizer.stages[0].lr = 2.0
    optimizer.update(params, {"plain": np.zeros(2), "slow": None, "late": None})
    assert params["plain"][0] == expected["plain"] - 0.5
    assert "plain" not in str(optimizer.last_hyperparameters)


def test_each_branch_lends_its_own() -> None:
    """Of several methods in a partition, each parameter goes by the one that it has; of two stages by the last."""
    methods = ao.partition({"a": ao.SGD(0.5), "b": ao.Adam(0.25), "c": ao.Momentum(1.0)})
    optimizer = ao.chain(methods, ao.prox.L1(2.0))
    params = {name: np.full(1, 4.0) for name in "abc"}
    for _ in range(2):
        optimizer.update(params, {name: np.zeros(1) for name in "abc"})
    assert [float(params[name][0]) for name in "abc"] == [2.0, 3.0, 0.0]

    class Slower(ao.Stage):
        lr: ao.Nonnegative
        rule = staticmethod(lambda xp, p, x, c: c.lr * x)

    assert ao.chain(ao.SGD(1.0), Slower(0.5), ao.prox.L1(1.0)).update(np.ones(1), np.zeros(1)).tolist() == [0.5]
    assert ao.chain(Slower(0.5), ao.SGD(1.0), ao.prox.L1(1.0)).update(np.ones(1), np.zeros(1)).tolist() == [0.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_learning_rates_by_element(engine: ao.EngineName) -> None:
    """Make thresholds by element, of replays, too, and of weights by element; what is set counts from the next step."""
    lr = np.array([1.0, 0.5, 0.0])
    rates: Any = {"a": lr, "b": 0.25}
    optimizer = ao.chain(ao.SGD(lr=rates), ao.prox.L1(2.0), engine=engine)
    params = {"a": np.full(3, 4.0), "b": np.full(3, -4.0)}
    for _ in range(2):
        optimizer.update(params, {"a": np.zeros(3), "b": np.zeros(3)})
    assert params["a"].tolist() == [0.0, 2.0, 4.0]
    assert params["b"].tolist() == [-3.0] * 3
    lr[2] = 0.125
    optimizer.update(params, {"a": np.zeros(3), "b": np.zeros(3)})
    assert params["a"].tolist() == [0.0, 1.0, 3.75]
    sigma: Any = np.array([0.0, 1.0, 5.0])
    assert prox(ao.prox.L1(sigma), np.full(3, 3 + 4j), 1.0, engine).tolist() == [3 + 4j, 2.4 + 3.2j, 0]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_learning_rates_by_element_that_make_no_threshold(dtype: str) -> None:
    """For groups, singular values and others' operators: refused by name, before anything is written."""
    p = np.ones((2, 2), dtype)
    each: Any = np.ones((2, 2))
    for stage in (ao.prox.L21(), ao.prox.Nuclear(), ao.prox.Operator(Scaled())):
        with pytest.raises(
            ValueError, match=rf"^lr is given element by element; {type(stage).__name__} wants one number"
        ):
            ao.chain(ao.SGD(each), stage).update(p, p)
    for stage in (ao.prox.L21(each), ao.prox.Nuclear(each)):
        with pytest.raises(TypeError, match=rf"{type(stage).__name__}.sigma is an array, but .* works on whole ones"):
            ao.chain(ao.SGD(), stage).update(p, p)
    with pytest.raises(TypeError, match=r"Simplex.radius is an array, but Simplex works on whole ones"):
        ao.chain(ao.SGD(), ao.prox.Simplex(each)).update(p.real, p.real)
    assert (p == 1).all()


def test_what_no_stage_has_is_refused() -> None:
    """When the chain is made, with the name of the stage; and a declaration that is none."""

    class Plain(ao.Optimizer):
        rule = staticmethod(lambda xp, p, x, c: x)

    with pytest.raises(ValueError, match=r"^L1\(sigma=1.0\) borrows lr of a stage before it, but Plain\(\) has none; "):
        ao.chain(Plain(), ao.prox.L1())
    with pytest.raises(ValueError, match=r"^Nuclear.* borrows lr"):
        ao.chain(ao.partition({"a": ao.SGD(), ...: Plain()}), ao.prox.Nuclear())
    assert ao.chain(Plain(), ao.prox.Simplex()).update(np.ones(2), np.zeros(2)).tolist() == [0.5, 0.5]

    class Alone(ao.Optimizer):
        borrows = ("rate",)
        rule = staticmethod(lambda xp, p, x, c: x)

    with pytest.raises(ValueError, match=r"^Alone\(\) borrows rate of a stage before it, but there is none"):
        Alone().update(np.ones(2), np.zeros(2))
    with pytest.raises(TypeError, match="has 'lr' among its hyperparameters and borrows"):
        type("Both", (ao.ParameterStage,), {"lr": 1.0, "__annotations__": {"lr": ao.Nonnegative}, "borrows": ("lr",)})
    with pytest.raises(TypeError, match=r"has borrows = 'lr'; wanted a tuple of names, such as \('lr',\)"):
        type("Loose", (ao.ParameterStage,), {"borrows": "lr"})


def test_under_jit(need: Callable[[str], Library]) -> None:
    """With a schedule that is traced: thresholds of 1/t, in float32, and of whole arrays, too."""
    need("jax")
    import jax
    import jax.numpy as jnp

    optimizer = ao.chain(ao.SGD(lr=lambda t: 1 / t), ao.prox.L1(0.5), ao.prox.L21(0.5), ao.prox.Nuclear(0.5))
    step, p = jax.jit(optimizer.step), jnp.array([[4.0], [0.0]])
    state = optimizer.init(p)
    for t in range(1, 4):
        p, state = step(p, 0 * p, state)
        assert float(p[0, 0]) == pytest.approx(4 - 1.5 * sum(1 / k for k in range(1, t + 1)), rel=1e-6)


def test_in_replays_of_a_graph(need: Callable[[str], Library]) -> None:
    """Of a CUDA graph, whose threshold follows what lr is set to."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    p, g = shim.asarray(np.full(3, 8.0)), shim.asarray(np.zeros(3))
    optimizer = ao.chain(ao.SGD(1.0), ao.prox.L1(0.5))
    optimizer.update(p, g)
    machine.captured = []
    optimizer.update(p, g)
    graph, machine.captured = machine.captured, None
    for lr, expected in [(1.0, 7.0), (0.5, 6.75), (4.0, 4.75)]:
        optimizer.stages[0].lr = lr
        machine.waiting.extend(graph)
        machine.finish()
        assert shim.tonumpy(p).tolist() == [expected] * 3


@pytest.mark.parametrize("stage", [ao.prox.L21(0.5), ao.prox.Simplex(), ao.prox.Nuclear(0.5)], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", ["strict", "torch", "jax", "dask"])
def test_whole_arrays_of_every_library(
    library: str, dtype: str, stage: ao.ParameterStage, need: Callable[[str], Library]
) -> None:
    """What NumPy's float64 gives, to 20 roundings; Dask has no singular values of what is in chunks, and says so."""
    lib = need(library)
    if dtype not in lib.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(dtype)
    params, optimizer = {"W": lib.asarray(x)}, ao.chain(ao.SGD(0.5), stage)
    if library == "dask" and isinstance(stage, ao.prox.Nuclear):
        with pytest.raises(
            ValueError, match=r"params\['W'\] is a dask array, in chunks; Nuclear wants matrices in one"
        ):
            optimizer.update(params, {"W": lib.asarray(0 * x)})
        return
    found = lib.tonumpy(optimizer.update(params, {"W": lib.asarray(0 * x)})["W"])
    assert found.dtype == dtype
    np.testing.assert_allclose(found, prox(stage, x.astype("f8"), 0.5), rtol=0, atol=20 * float(np.finfo(dtype).eps))


def test_parameters_that_do_not_fit_are_refused() -> None:
    """Before anything is written, by their names."""
    cases: list[tuple[ao.ParameterStage, Any, str]] = [
        (ao.prox.L21(axis=2), np.ones((2, 2)), r"has shape \(2, 2\); L21 wants an axis 2"),
        (ao.prox.L21(axis=(0, -3)), np.ones((2, 2)), r"has shape \(2, 2\); L21 wants an axis -3"),
        (ao.prox.Simplex(), np.array(1.0), r"has shape \(\); Simplex wants an axis -1"),
        (ao.prox.Simplex(), np.ones(2, complex), "is complex; Simplex wants real parameters"),
        (ao.prox.Nuclear(), np.ones(2), r"has shape \(2,\); Nuclear wants matrices"),
    ]
    for stage, p, why in cases:
        before = p.copy()
        with pytest.raises(ValueError, match=rf"^params\['p'\] {why}"):
            ao.chain(ao.SGD(), stage).update({"p": p}, {"p": p})
        assert same_bits(p, before)
    for wrong in ("0", 1.0, True, (), (0, 1.0)):
        with pytest.raises(TypeError, match="wanted an integer"):
            ao.prox.L21(axis=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wanted an integer, or None"):
        ao.prox.Simplex(axis=(0, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"radius is 0.0; wanted above 0 and finite"):
        ao.prox.Simplex(0)


@pytest.mark.parametrize(
    "make",
    [lambda: ao.prox.L21(axis=(0, 1)), lambda: ao.prox.Simplex(axis=None), lambda: ao.prox.Operator(Scaled())],
)
def test_checkpoints(make: Callable[[], ao.ParameterStage], tmp_path: Path) -> None:
    """From a file into the same chain, which goes on alike; another axis is another chain."""
    optimizer, params = ao.chain(ao.Momentum(0.5), make()), {"W": np.arange(6.0).reshape(2, 3)}
    grads = {"W": np.ones((2, 3))}
    optimizer.update(params, grads)
    ao.save(tmp_path / "saved", params=params, optimizer=optimizer)
    loaded, other = ao.load(tmp_path / "saved", like=params), ao.chain(ao.Momentum(0.5), make())
    assert loaded.optimizer is not None
    other.load_state_dict(loaded.optimizer, loaded.params)
    assert same_bits(optimizer.update(params, grads)["W"], other.update(loaded.params, grads)["W"])
    if not isinstance(make(), ao.prox.Operator):
        moved = ao.chain(ao.Momentum(0.5), type(make())(axis=0))
        with pytest.raises(ValueError, match=r"\['constants'\]\['axis'\] is .*, not 0"):
            moved.load_state_dict(loaded.optimizer, loaded.params)


@pytest.mark.parametrize("stage", [ao.prox.L21(), ao.prox.Simplex(), ao.prox.Nuclear()], ids=repr)
def test_arrays_without_elements(stage: ao.ParameterStage) -> None:
    assert prox(stage, np.ones((0, 3))).shape == (0, 3)


class Scaled:
    """An operator of somebody's that divides, and takes down what it is given."""

    def __init__(self, spoils: Callable[[Any], Any] = lambda x: x) -> None:
        self.seen: list[tuple[Any, float]] = []
        self.spoils = spoils

    def prox(self, x: Any, tau: float) -> Any:
        self.seen.append((x.copy(), tau))
        return self.spoils(x / (1 + tau))


def test_an_operator_is_given_vectors() -> None:
    """Each parameter that moves as a vector of its own, in C order and at least float32, with the learning rate."""
    f = Scaled()
    optimizer = ao.chain(ao.SGD(lr=lambda t: t - 1.0), ao.prox.Operator(f))
    half = np.array([1.0, 2.0], "f2")
    params = {"W": np.array([[1.0, 2.0], [3.0, 4.0]], order="F"), "half": half, "rests": np.ones(1)}
    grads = {"W": np.zeros((2, 2)), "half": np.zeros(2, "f2"), "rests": None}
    optimizer.update(params, grads)
    assert f.seen == []  # a step of 0 goes nowhere
    optimizer.update(params, grads)
    assert [(x.tolist(), x.dtype.name, tau) for x, tau in f.seen] == [
        ([1.0, 2.0, 3.0, 4.0], "float64", 1.0),
        ([1.0, 2.0], "float32", 1.0),
    ]
    assert params["W"].tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert half.tolist() == [0.5, 1.0]


def test_an_operator_may_spoil_its_argument() -> None:
    """And keep what it gives: both are its own."""

    class InPlace:
        def prox(self, x: Any, tau: float) -> Any:
            x *= 0.5
            self.kept = x
            return x

    f, p = InPlace(), np.ones(3)
    optimizer = ao.chain(ao.SGD(1.0), ao.prox.Operator(f), ao.EMA(0.5))
    assert optimizer.update(p, np.zeros(3)).tolist() == [0.5] * 3
    f.kept[:] = 7.0
    assert optimizer.update(p, np.zeros(3)).tolist() == [0.25] * 3
    assert optimizer.eval_params(p).tolist() == [0.5] * 3


def test_an_operator_that_fails_writes_nothing() -> None:
    """Not to the parameters before it, either; its own error, with a note of where it came from."""

    def fails(x: Any) -> Any:
        raise ArithmeticError("no minimum")

    params = {"a": np.ones(2), "b": np.full((1, 3), 2.0)}
    grads = {"a": np.ones(2), "b": np.ones((1, 3))}
    f = Scaled()
    optimizer = ao.chain(ao.Momentum(0.5), ao.prox.Operator(f))
    optimizer.update(params, grads)
    before, slots = {k: a.copy() for k, a in params.items()}, optimizer.state.slots[0]["v"]["a"].copy()  # type: ignore[union-attr]
    wrong: dict[str, Callable[[Any], Any]] = {
        r"gave a ndarray of shape \(2,\) and dtype float64; wanted a ndarray of shape \(3,\)": lambda x: x[:2],
        "gave a float of shape None": lambda x: 1.0,
        "dtype complex128; wanted a ndarray": lambda x: x + 0j,
    }
    for spoils in (fails, *wrong.values()):
        f.spoils = lambda x, spoils=spoils: spoils(x) if x.size == 3 else x  # type: ignore[misc]
        with pytest.raises((ArithmeticError, TypeError)) as caught:
            optimizer.update(params, grads)
        if spoils is fails:
            assert "for a parameter of shape (1, 3)" in caught.value.__notes__[0]
        else:
            assert caught.match(next(message for message, of in wrong.items() if of is spoils))
        assert all(same_bits(params[k], before[k]) for k in params)
        assert same_bits(optimizer.state.slots[0]["v"]["a"], slots)  # type: ignore[union-attr]


def test_no_operator() -> None:
    with pytest.raises(TypeError, match=r"f is <class .*Halved'>; wanted an object with prox\(x, tau\)"):
        ao.prox.Operator(type("Halved", (), {"prox": lambda self, x, tau: x / (1 + tau)}))
    with pytest.raises(TypeError, match=r"f is 3; wanted an object with prox\(x, tau\), such as pyproximal's"):
        ao.prox.Operator(3)


@pytest.mark.parametrize("library", ["dask", "jax"])
def test_an_operator_needs_elements(library: str, need: Callable[[str], Library]) -> None:
    """Those of Dask's arrays, and of those that jit traces, are not there yet; the parameter is named."""
    lib = need(library)
    optimizer, x = ao.chain(ao.SGD(), ao.prox.Operator(Scaled())), lib.asarray(np.ones(3, "f4"))
    call: Callable[..., Any] = optimizer.update
    if library == "jax":
        import jax

        call = jax.jit(lambda params, grads: optimizer.step(params, grads, optimizer.init(params)))
    with pytest.raises(
        ValueError, match=rf"params\['W'\] is a {library} array that is not, or not yet, in this machine"
    ):
        call({"W": x}, {"W": x})
