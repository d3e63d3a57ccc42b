"""Stages that measure each parameter by itself, and their peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from tests.support.chains import agree, problem, step_under_jit
from tests.support.engines import Watch
from tests.support.libraries import ENGINES, Library
from tests.support.xla import quick

# Each stage is compiled in a chain of core/test_chains.py.
pytestmark = [pytest.mark.own_loops, pytest.mark.usefixtures("quickly")]

Arrays = dict[str, Any]


def _length(a: Any) -> float:
    """In 53 bits, by a sum without error."""
    parts = np.stack([a.real, a.imag]) if np.iscomplexobj(a) else a
    return math.sqrt(math.fsum(v * v for v in np.asarray(parts, float).ravel().tolist()))


def _clipped(p: Any, x: Any) -> Any:
    return x * min(0.5 / _length(x), 1.0) if _length(x) else x


def _trusted(p: Any, x: Any) -> Any:
    of_p, of_x = min(max(_length(p), 0.25), 1.5), _length(x)
    return x * (0.125 * of_p / (of_x + 1e-3)) if of_x else x


def _of_two(p: Any, x: Any, f: Callable[[Any, Any], Any]) -> Any:
    """Of complex numbers each part by itself."""
    return f(p.real, x.real) + 1j * f(p.imag, x.imag) if np.iscomplexobj(x) else f(p, x)


STAGES: dict[str, tuple[Callable[[], ao.Stage], Callable[[Any, Any], Any]]] = {
    "ClipNorm": (lambda: ao.ClipNorm(0.5), _clipped),
    "TrustRatio": (lambda: ao.TrustRatio(0.125, 1e-3, lower=0.25, upper=1.5), _trusted),
}


@pytest.mark.telling
@pytest.mark.omit(
    "its other dtypes are jax's",
    lambda lib, dtype, **_: lib == "jax-x64" and dtype not in {"float64", "complex128"},
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "complex64", "complex128"])
@pytest.mark.parametrize("name", STAGES)
def test_equations(lib: Library, name: str, dtype: str) -> None:
    """On every library and engine, beside float64 sums without error; what has no element or no dimension, too."""
    make, plain = STAGES[name]
    rng = np.random.default_rng(4)
    shapes: dict[str, tuple[int, ...]] = {"W": (7, 9), "b": (3,), "s": (), "none": (0,), "zero": (2,), "small": (4,)}

    def draw(scale: float = 1.0) -> Arrays:
        found = {
            k: rng.normal(size=s) * scale + 1j * rng.normal(size=s) * ("complex" in dtype) for k, s in shapes.items()
        }
        found["zero"] *= 0
        found["small"] *= 1e-3
        return {k: a if "complex" in dtype else a.real for k, a in found.items()}

    params, grads = draw(0.5), draw()
    arrays = {k: lib.array(a, dtype) for k, a in params.items()}
    values = {k: np.asarray(lib.tonumpy(a)).astype(complex if "complex" in dtype else float) for k, a in arrays.items()}
    given = {k: lib.array(a, dtype) for k, a in grads.items()}
    exact = {k: np.asarray(lib.tonumpy(a)).astype(complex if "complex" in dtype else float) for k, a in given.items()}
    new = lib.values(ao.chain(make(), ao.SGD(1.0)).update(arrays, given))
    rtol = {"float64": 1e-14, "complex128": 1e-14, "float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-6)
    for k in shapes:
        wanted = values[k] - plain(values[k], exact[k])
        np.testing.assert_allclose(new[k].astype(wanted.dtype), wanted, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("engine", ENGINES)
def test_edges_of_the_trust_ratio(engine: ao.EngineName) -> None:
    """Where |p| or |x| is 0, x stays; a share of 0 is a step of 0; a bound from below stands for |p|."""

    def moved(p: float, x: float, **options: Any) -> float:
        stage = ao.TrustRatio(**options)
        return p - float(ao.chain(stage, ao.SGD(1.0), engine=engine).update(np.array([p]), np.array([x]))[0])

    assert moved(2.0, 4.0) == 2.0
    assert moved(2.0, 4.0, share=0.5, eps=1.0) == 4.0 * (1.0 / 5.0)
    assert moved(0.0, 4.0) == 4.0
    assert moved(0.0, 4.0, share=0.5, eps=1.0) == 4.0
    assert moved(2.0, 0.0) == 0.0
    assert moved(2.0, 4.0, share=0.0) == 0.0
    assert moved(0.0, 4.0, lower=0.5) == 0.5
    assert moved(8.0, 4.0, upper=0.5) == 0.5
    assert moved(8.0, 4.0, share=lambda t: 0.25 * t) == 2.0
    assert math.isnan(moved(2.0, math.nan))
    assert moved(1.0, 1e300) == pytest.approx(1.0, rel=1e-15)  # whose square is beyond all numbers


@pytest.mark.parametrize("engine", ENGINES)
def test_edges_of_clipping_by_parameter(engine: ao.EngineName) -> None:
    """A length that is infinite makes finite elements 0; a NaN changes its own parameter alone."""
    optimizer = ao.chain(ao.ClipNorm(1.0), ao.SGD(1.0), engine=engine)
    p = {k: np.zeros(2) for k in "abcdef"}
    grads = {"a": [3.0, 4.0], "b": [math.inf, 1.0], "c": [math.nan, 1.0], "d": [0.0, 0.0], "e": [0.6, 0.0]}
    grads["f"] = [1e300, 0.0]  # whose square is beyond all numbers
    optimizer.update(p, {k: np.array(v) for k, v in grads.items()})
    np.testing.assert_allclose(p["a"], [-0.6, -0.8], rtol=1e-15)
    assert p["b"][1] == 0.0
    assert math.isnan(p["c"][0])
    assert p["c"][1] == -1.0
    assert p["d"].tolist() == [0.0, 0.0]
    assert p["e"].tolist() == [-0.6, 0.0]
    assert p["f"].tolist() == [-1.0, 0.0]
    optimizer.stages[0].max_norm = math.inf
    assert ao.chain(ao.ClipNorm(math.inf), ao.SGD(1.0), engine=engine).update(np.zeros(1), np.array([1e300])) == -1e300


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(["float64", "complex128"]), after=st.booleans())
@pytest.mark.parametrize("engine", ENGINES)
def test_caution(engine: ao.EngineName, seed: int, dtype: str, after: bool) -> None:
    """Algorithm 1 of the paper: alpha = dim / (kept + 1), and only what goes along with the gradient."""
    rng = np.random.default_rng(seed)

    def draw() -> Any:
        return rng.normal(size=12).view(dtype)

    p, m, g1, g2 = draw(), np.zeros(12), draw(), draw()
    start = p.copy()
    stages = [ao.Momentum(0.5), ao.Cautious(), *([ao.WeightDecay(0.25)] if after else [])]
    optimizer = ao.chain(*stages, engine=engine)
    wanted = start.view(float).copy()
    for g in (g1, g2):
        optimizer.update(p, g)
        flat = g.view(float)
        m = 0.9 * m + 0.5 * flat
        kept = m * flat > 0
        wanted = wanted - np.where(kept, m * 12 / (kept.sum() + 1), 0.0) - 0.25 * after * wanted
    np.testing.assert_allclose(p.view(float), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.telling
@pytest.mark.parametrize("engine", ENGINES)
def test_caution_by_hand(engine: ao.EngineName) -> None:
    """The gradient is that with which the chain began, whatever was done to it since; what is 0 or NaN is dropped."""
    optimizer = ao.chain(ao.Scale(-1.0), ao.SGD(1.0), ao.Scale(-2.0), ao.Cautious(), engine=engine)
    p = optimizer.update(np.zeros(4), np.array([1.0, -2.0, 0.0, math.nan]))
    assert p.tolist() == pytest.approx([-2.0 * 4 / 3, 4.0 * 4 / 3, 0.0, 0.0], rel=1e-15)  # a root is squared
    backwards = ao.chain(ao.SGD(1.0), ao.Scale(-2.0), ao.Cautious(), engine=engine)
    assert backwards.update(np.zeros(3), np.array([1.0, -2.0, 3.0])).tolist() == [0.0] * 3
    one = ao.chain(ao.SGD(1.0), ao.Cautious(), engine=engine).update(
        {"a": np.zeros(()), "e": np.zeros(0)}, {"a": np.ones(()), "e": np.zeros(0)}
    )
    assert float(one["a"]) == -0.5


def test_complex_numbers_are_two_reals(lib: Library) -> None:
    """The same steps for a complex array and for its parts: lengths, counts and the number of elements."""
    if "complex64" not in lib.dtypes:
        pytest.skip(f"{lib.name} has no complex numbers")
    rng = np.random.default_rng(9)

    def stages() -> Any:
        return (ao.ClipNorm(0.5), ao.Momentum(0.5), ao.Cautious(), ao.TrustRatio(0.1))

    start, grads = rng.normal(size=10).astype("float32"), rng.normal(size=(4, 10)).astype("float32")
    p, q = lib.asarray(start.view("complex64")), lib.asarray(start)
    one, two = ao.chain(*stages()), ao.chain(*stages())
    for g in grads[: 2 if lib.name == "dask" else 4]:
        p = one.update(p, lib.asarray(g.view("complex64")))
        q = two.update(q, lib.asarray(g))
    np.testing.assert_allclose(np.asarray(lib.tonumpy(p)).view("float32"), lib.tonumpy(q), rtol=1e-5)


OPTAX: dict[str, tuple[Callable[[Any], Any], Callable[[], ao.Optimizer]]] = {
    "lars": (
        lambda optax: optax.chain(
            optax.scale_by_trust_ratio(trust_coefficient=0.02, eps=1e-3), optax.sgd(0.1, momentum=0.9)
        ),
        lambda: ao.chain(ao.TrustRatio(0.02, 1e-3), ao.Momentum(0.1)),
    ),
    "lamb": (
        lambda optax: optax.chain(
            optax.scale_by_adam(eps=0.0), optax.scale_by_trust_ratio(), optax.scale_by_learning_rate(0.01)
        ),
        lambda: ao.chain(ao.Adam(1.0, eps=0.0), ao.TrustRatio(), ao.Scale(0.01)),
    ),
    "trust with a least norm": (
        lambda optax: optax.chain(optax.scale_by_trust_ratio(min_norm=0.0, eps=0.1), optax.sgd(0.01)),
        lambda: ao.chain(ao.TrustRatio(eps=0.1), ao.SGD(0.01)),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax(name: str, need: Callable[[str], Library]) -> None:
    """optax's, run beside ours in float64 for 60 steps: equal to 1e-12."""
    optax = pytest.importorskip("optax")
    lib = need("jax-x64")

    theirs, ours = OPTAX[name]
    params, grads = problem(steps=60)
    with lib.context():
        their = {k: lib.asarray(a) for k, a in params.items()}
        transform = theirs(optax)
        state, update = transform.init(their), quick(transform.update)
        for g in grads:
            updates, state = update({k: lib.asarray(a) for k, a in g.items()}, state, their)
            their = optax.apply_updates(their, updates)
    optimizer = ours()
    for g in grads:
        optimizer.update(params, g)
    for key in params:
        np.testing.assert_allclose(params[key], their[key], rtol=1e-12, atol=1e-12)


def test_keras_clipnorm_as_tensorflow_writes_it() -> None:
    """`x * clip / max(|x|, clip)`, each parameter by itself: equal to a rounding or two."""
    params, grads = problem(steps=5)
    optimizer, wanted = ao.chain(ao.ClipNorm(2.0), ao.SGD(0.5)), {k: a.copy() for k, a in params.items()}
    for g in grads:
        optimizer.update(params, g)
        wanted = {k: wanted[k] - 0.5 * (g[k] * 2.0 / max(float(np.linalg.norm(g[k])), 2.0)) for k in wanted}
    for k in params:
        np.testing.assert_allclose(params[k], wanted[k], rtol=1e-14)


def test_torch_clip_grad_norm(need: Callable[[str], Library]) -> None:
    """torch's, for one parameter at a time; it adds 1e-6 to the norm."""
    need("torch")
    import torch

    params, grads = problem(steps=3)
    optimizer, theirs = ao.chain(ao.ClipNorm(0.5), ao.SGD(0.1)), {k: torch.tensor(a) for k, a in params.items()}
    for g in grads:
        optimizer.update(params, g)
        for k, p in theirs.items():
            holder = torch.nn.Parameter(p)
            holder.grad = torch.tensor(g[k])
            torch.nn.utils.clip_grad_norm_([holder], 0.5)
            p.sub_(0.1 * holder.grad)
    for k in params:
        np.testing.assert_allclose(params[k], theirs[k], rtol=1e-5)


# Norms of one's own ------------------------------------------------------------------------------------------------


class Normed(ao.Stage):
    """Divides by the length of what flows through a slot, by that of p, and by the number of elements."""

    eps: ao.Nonnegative
    slots = ("s",)
    reductions = {
        "along": ao.Norm(lambda xp, p, x, s: 0.5 * s + x, "each"),
        "of_p": ao.Norm(lambda xp, p, x, s: p, "each"),
        "size": ao.Size("each"),
    }
    coefficients = staticmethod(lambda t, hyper: {"scale": hyper.of_p / (hyper.along + hyper.eps) / hyper.size + t})

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, s: Any, c: Any) -> Any:
        s = 0.5 * s + x
        return s * c.scale, s


class Opposed(ao.GradientStage):
    """Its norms see the gradient, too."""

    reductions = {"apart": ao.Norm(lambda xp, p, x, g: x - g, "each"), "norm": ao.Norm(lambda xp, p, x, g: x + g)}
    coefficients = staticmethod(lambda t, hyper: {"scale": 1 / (1 + hyper.apart + hyper.norm)})
    rule = staticmethod(lambda xp, p, x, g, c: g - x * c.scale)


class Shrunk(ao.ParameterStage):
    """Sees the parameter after its step; a norm of it."""

    reductions = {"of_p": ao.Norm(lambda xp, p, x: p, "each")}
    coefficients = staticmethod(lambda t, hyper: {"scale": 1 / (1 + hyper.of_p)})
    rule = staticmethod(lambda xp, p, c: p * c.scale)


@pytest.mark.parametrize(
    "dtype", ["complex64", *(pytest.param(of, marks=pytest.mark.product) for of in ("float16", "float32"))]
)
def test_norms_of_ones_own(dtype: str) -> None:
    """With slots, gradients, whole norms beside them and parameters that rest: the same bits on all engines."""
    params, grads = problem(dtype, steps=6)
    for i, g in enumerate(grads):
        g.update({"b": None} if i == 1 else {"s": None} if i == 2 else {})  # type: ignore[dict-item]
    results = []
    for engine in ENGINES:
        p = {k: a.copy() for k, a in params.items()}
        optimizer = ao.chain(Normed(eps=0.5), ao.Momentum(0.1), Opposed(), ao.Scale(0.01), Shrunk(), engine=engine)
        for g in grads:
            optimizer.update(p, g)
        assert optimizer.state is not None
        results.append((p, optimizer.state.slots))
    assert agree(results[0], results[2])
    assert agree(results[1], results[2])


@pytest.mark.parametrize("engine", ENGINES)
def test_norms_of_ones_own_by_hand(engine: ao.EngineName) -> None:
    """Beside the same in plain NumPy, to a few roundings of float64."""
    params, grads = problem(steps=4)
    p = {k: a.copy() for k, a in params.items()}
    optimizer = ao.chain(Normed(eps=0.5), ao.SGD(0.1), Opposed(), ao.Scale(0.01), Shrunk(), engine=engine)
    slots = {k: np.zeros_like(a) for k, a in params.items()}
    for t, g in enumerate(grads, 1):
        optimizer.update(p, g)
        slots = {k: 0.5 * slots[k] + g[k] for k in g}
        x = {k: 0.1 * slots[k] * (_length(a) / (_length(slots[k]) + 0.5) / a.size + t) for k, a in params.items()}
        norm = math.sqrt(sum(_length(x[k] + g[k]) ** 2 for k in g))
        x = {k: 0.01 * (g[k] - x[k] / (1 + _length(x[k] - g[k]) + norm)) for k in g}
        params = {k: (a - x[k]) / (1 + _length(a - x[k])) for k, a in params.items()}
    for k in params:
        np.testing.assert_allclose(p[k], params[k], rtol=1e-13)


PASSES: dict[str, tuple[Callable[[ao.EngineName], ao.Optimizer], int]] = {
    "clip by parameter": (lambda e: ao.chain(ao.ClipNorm(1.0), ao.SGD(), engine=e), 1),
    "trust": (lambda e: ao.chain(ao.TrustRatio(), ao.SGD(), engine=e), 2),
    "caution": (lambda e: ao.chain(ao.SGD(), ao.Cautious(), engine=e), 1),
    "skip, clip": (lambda e: ao.chain(ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.SGD(), engine=e), 1),
    "skip, metrics, clip, clip": (
        lambda e: ao.chain(
            ao.SkipNonFinite(), ao.Metrics(), ao.ClipGlobalNorm(1.0), ao.ClipNorm(1.0), ao.SGD(), engine=e
        ),
        3,  # a norm, that of the parameters, that of what is clipped
    ),
    "metrics, clip": (lambda e: ao.chain(ao.Metrics(), ao.ClipGlobalNorm(1.0), ao.SGD(), engine=e), 2),
    "clip, metrics": (lambda e: ao.chain(ao.ClipGlobalNorm(1.0), ao.Metrics(), ao.SGD(), engine=e), 3),
    "scale, clip": (lambda e: ao.chain(ao.LossScale(), ao.ClipGlobalNorm(1.0), ao.SGD(), engine=e), 1),
    "scale, skip, clip, trust": (
        lambda e: ao.chain(
            ao.LossScale(), ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.TrustRatio(), ao.SGD(), engine=e
        ),
        3,  # of x, of p, of what is clipped
    ),
    "clip, clip by parameter of one": (
        lambda e: ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(), ao.ClipNorm(1.0), engine=e),
        2,
    ),
    "two norms of one": (lambda e: ao.chain(ao.Metrics("a"), ao.Metrics("b"), ao.SGD(), ao.Metrics("c"), engine=e), 3),
}


@pytest.mark.covering(1)  # what is measured together is decided before an engine is asked
@pytest.mark.parametrize("engine", ["blocked", "compiled", "portable"])
@pytest.mark.parametrize("name", PASSES)
def test_one_pass_for_each_reduction(name: str, engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured twice is one pass over the elements; the step is one more."""
    watch = Watch(engine, monkeypatch)
    make, reductions = PASSES[name]
    optimizer, p = make(engine), np.ones(5000)
    for step in range(1, 4):
        optimizer.update(p, np.ones(5000))
        assert len(watch.passes) == step * (reductions + 1)


def test_under_jit(need: Callable[[str], Library]) -> None:
    """Traced once; agrees with NumPy to 1e-5."""

    def make() -> Any:
        return ao.chain(
            ao.ClipNorm(0.5), ao.Momentum(0.1), ao.TrustRatio(0.1, 1e-3, lower=0.1, upper=2.0), ao.Cautious()
        )

    step_under_jit(make, need("jax"))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "max_norm": (lambda: ao.ClipNorm(0.0), "max_norm is 0.0; wanted above 0"),
    "share": (lambda: ao.TrustRatio(-1.0), "share is -1.0; wanted finite and at least 0"),
    "eps": (lambda: ao.TrustRatio(eps=math.inf), "eps is inf; wanted finite and at least 0"),
    "lower": (lambda: ao.TrustRatio(lower=-1.0), "lower is -1.0; wanted finite and at least 0"),
    "upper": (lambda: ao.TrustRatio(upper=0.0), "upper is 0.0; wanted above 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name: str) -> None:
    """By name."""
    make, match = WRONG[name]
    with pytest.raises(ValueError, match=match):
        make()
