"""Huge and vanishing gradients, betas near 0 and coefficients beyond a dtype: finite, right, and the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from tests.reference import textbook
from tests.support.chains import flat
from tests.support.libraries import DISCOVERED, ENGINES, METHODS, Library, same_bits
from tests.support.xla import quick

f = np.float32
SHAPE = (5, 12)  # a matrix, which all methods take; its elements differ, so that few of them show what many would
FEW = settings(max_examples=3)  # with gradients of both kinds in each

ELEMENTWISE = [name for name, method in DISCOVERED.items() if not method.array_rule]

UNSTABLE = {
    "Shampoo": "the inverse roots of a matrix whose eigenvalues are 1e30 apart are beyond float32",
    "Prodigy": "its learning rate is a quotient of sums that it feeds back",
}
"""Where rounding is amplified by more than a number of operations, and why."""


def gradients(seed: int, steps: int, least: int, most: int) -> list[Any]:
    """Of float32, of any size between these powers of ten, or about 1 with spikes of these sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        spread = rng.uniform(least, most, SHAPE) if seed % 2 else rng.choice([0, 0, 0, least, most], SHAPE)
        found.append((rng.normal(size=SHAPE) * 10.0**spread).astype(f))
    return found


def start(seed: int) -> Any:
    return np.random.default_rng([seed, 1]).normal(size=SHAPE).astype(f)


def arrays(optimizer: ao.Optimizer) -> list[Any]:
    """All slots."""
    assert optimizer.state is not None
    return flat(optimizer.state.slots)


def named(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The arrays of a tree, as `slots['v']['w']`."""
    if isinstance(tree, dict | tuple | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from named(value, f"{path}[{key!r}]")
    else:
        yield path, np.asarray(tree)


def assert_finite(optimizer: ao.Optimizer, params: Any, g: Any, t: int) -> None:
    """Parameters and slots are finite after step t, or AssertionError says which are not."""
    assert optimizer.state is not None
    for what, a in (*named(params, "params"), *named(optimizer.state.slots, "slots")):
        sizes = abs(g[g != 0])
        assert np.isfinite(a).all(), (
            f"{what} of {optimizer!r} has {a[~np.isfinite(a)][0]} from step {t} on, of gradients between "
            f"{sizes.min(initial=np.inf):.0e} and {sizes.max(initial=0):.0e}; wanted finite numbers: where a square "
            "overflows, `squarable` of anyoptim/optimizers/_terms.py, or xp.bound and xp.largest, help; where a "
            "quotient does, an eps"
        )


@pytest.mark.parametrize("name", DISCOVERED)
@FEW
@given(seed=st.integers(0, 1 << 32))
def test_every_method_stays_finite(name: str, seed: int) -> None:
    """Parameters and slots in float32, whatever gradients between 1e-30 and 1e30 come; on two engines the same bits."""
    for kind in (seed & ~1, seed | 1):
        engines = ("portable", "blocked") if name in ELEMENTWISE else ("portable",)
        runs = {engine: ({"w": start(kind)}, DISCOVERED[name](engine=engine)) for engine in engines}
        for t, g in enumerate(gradients(kind, 30, -30, 30), 1):
            for params, optimizer in runs.values():
                optimizer.update(params, {"w": g})
                assert_finite(optimizer, params, g, t)
        (expected, by), *others = runs.values()
        for params, optimizer in others:
            assert same_bits(params["w"], expected["w"])
            assert all(same_bits(a, b) for a, b in zip(arrays(optimizer), arrays(by), strict=True))


def test_what_is_not_finite_is_named() -> None:
    """By slot, step and gradients, for who adds a method."""

    class Overflowing(ao.Optimizer):
        lr: ao.Nonnegative = 0.1
        slots = ("v",)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, v: Any, c: Any) -> tuple[Any, ...]:
            return c.lr * x, v + x * x

    optimizer, params, g = Overflowing(), {"w": np.ones(2, f)}, np.array([1e30, 2e-10], f)
    optimizer.update(params, {"w": g})
    with pytest.raises(
        AssertionError,
        match=r"slots\['v'\]\['w'\] of Overflowing\(lr=0.1\) has inf from step 1 on, of .*"
        r"between 2e-10 and 1e\+30; wanted finite numbers: .*squarable",
    ):
        assert_finite(optimizer, params, g, 1)


@pytest.mark.usefixtures("as_users_compile")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_stays_finite_on_jax(need: Callable[[str], Library], name: str) -> None:
    """As XLA compiles it, without x64; and near NumPy's run, but for what XLA flushes to 0."""
    array = need("jax").asarray
    ours, theirs = {"w": start(3)}, {"w": array(start(3))}
    optimizers, way = [DISCOVERED[name]() for _ in range(2)], 1 + abs(start(3))
    for t, g in enumerate([*gradients(2, 6, -30, 30), *gradients(3, 6, -30, 30)], 1):
        before = ours["w"].copy()
        optimizers[0].update(ours, {"w": g})
        optimizers[1].update(theirs, {"w": array(g)})
        way += abs(ours["w"] - before)
        assert_finite(optimizers[1], theirs, g, t)
    assert (abs(np.asarray(theirs["w"]) - ours["w"]) / way).max() < 100 * 2.0**-24


@pytest.mark.parametrize("name", sorted({*DISCOVERED} - {*UNSTABLE}))
@FEW
@given(seed=st.integers(0, 1 << 32))
def test_every_method_follows_float64(name: str, seed: int) -> None:
    """Where float32 can hold all squares, it is as far from float64 as 30 steps of a few roundings take it.

    Each step has some ten operations of half an ulp of what moves; signs of differences that nearly cancel cost more.
    """
    for kind in (seed & ~1, seed | 1):
        narrow, wide = {"w": start(kind)}, {"w": start(kind).astype(float)}
        optimizers = [DISCOVERED[name](engine="portable") for _ in range(2)]
        way = 1 + abs(wide["w"])
        for g in gradients(kind, 30, -15, 15):
            before = wide["w"].copy()
            optimizers[0].update(narrow, {"w": g})
            optimizers[1].update(wide, {"w": g.astype(float)})
            way += abs(wide["w"] - before)
        assert (abs(narrow["w"] - wide["w"]) / way).max() < 100 * 2.0**-24


@pytest.mark.parametrize("name", ["Adam", "AdaGrad"])
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 32), beta1=st.floats(0, 0.999), beta2=st.floats(0, 0.999))
def test_bits_of_the_table(name: str, engine: ao.EngineName, seed: int, beta1: float, beta2: float) -> None:
    """On float64, up to the largest numbers whose squares are finite, and at every beta."""
    rng = np.random.default_rng(seed)
    betas = {"beta1": beta1, "beta2": beta2} if name == "Adam" else {}
    ours, theirs = {"w": rng.normal(size=8)}, {}
    theirs["w"] = ours["w"].copy()
    optimizer, book = DISCOVERED[name](**betas, engine=engine), textbook.METHODS[name](**betas)
    # The largest square, or half of the largest sum of squares.
    root = np.sqrt(np.finfo(float).max) * (1.0 if name == "Adam" else 0.7)
    for g in [*(rng.normal(size=8) * 10.0 ** rng.uniform(-150, 150, 8) for _ in range(10)), np.full(8, root)]:
        optimizer.update(ours, {"w": g})
        book.update(theirs, {"w": g})
        assert same_bits(ours["w"], theirs["w"])


def trained(optimizer: ao.Optimizer, gradients: Any, dtype: Any = f, array: Callable[[Any], Any] = np.array) -> Any:
    params = {"w": array(np.zeros(1, dtype))}
    for g in gradients:
        optimizer.update(params, {"w": array(np.array([g], dtype))})
    return params["w"]


MOMENTS = ("Adam", "AdamW", "AMSGrad", "CorrectedAMSGrad", "NAdam", "RAdam", "AdaBelief", "LAMB", "Adan")


@pytest.mark.parametrize("engine", [*ENGINES, "jax"])
def test_adam_goes_on_after_a_spike(need: Callable[[str], Library], engine: ao.EngineName) -> None:
    """Gradients 1, 1e20, 1: the steps of float64, where 1e40 is a number."""
    array = need("jax").asarray if engine == "jax" else np.array
    expected = trained(ao.Adam(), [1, 1e20, 1], float)
    assert -0.0024 < expected[0] < -0.0023
    np.testing.assert_allclose(trained(ao.Adam(engine=engine), [1, 1e20, 1], array=array), expected, rtol=1e-6)


@pytest.mark.own_loops
@pytest.mark.parametrize("dtype", [f, float])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_beta_of_0_keeps_nothing(engine: ao.EngineName, dtype: Any) -> None:
    """Adam(beta1=0, beta2=0) after a gradient of 1 and one of 1e-5: 1e-5/(1e-5 + 1e-7)."""
    optimizer = ao.Adam(lr=1.0, beta1=0.0, beta2=0.0, engine=engine)
    step = trained(ao.Adam(lr=1.0, beta1=0.0, beta2=0.0, engine=engine), [1], dtype) - trained(
        optimizer, [1, 1e-5], dtype
    )
    np.testing.assert_allclose(step, 1e-5 / (1e-5 + 1e-7), rtol=1e-6)


PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "Adam, no betas": ("Adam", {"lr": 1.0, "betas": (0.0, 0.0)}),
    "Adam, AMSGrad": ("Adam", {"amsgrad": True}),
    "NAdam": ("NAdam", {}),
    "RAdam": ("RAdam", {}),
    "RMSprop": ("RMSprop", {}),
    "Adadelta": ("Adadelta", {}),
    "Adamax": ("Adamax", {}),
}
"""Classes of torch.optim."""


@pytest.mark.parametrize("which", PEERS)
@pytest.mark.parametrize("spiked", [[1, 1e20, 1], [1, 1e-5, 1e-9, 1]])
def test_forms_of_torch(need: Callable[[str], Library], which: str, spiked: list[float]) -> None:
    """What torch.optim makes of spikes in float64, in float64 and in float32."""
    need("torch")
    import torch

    name, options = PEERS[which]
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    theirs = getattr(torch.optim, name)([p], **options)
    for g in spiked:
        p.grad = torch.tensor([g], dtype=torch.float64)
        theirs.step()
    for dtype, rtol in ((float, 1e-8 if name == "NAdam" else 1e-12), (f, 1e-6)):  # it keeps its product in float32
        ours = trained(getattr(ao.compat.torch, name)(**options), spiked, dtype)
        np.testing.assert_allclose(ours, p.detach().numpy(), rtol=rtol)


def test_form_of_optax(need: Callable[[str], Library]) -> None:
    """optax's own float32 ends the run, its v being infinite; ours has the steps of float64."""
    need("jax")
    expected = trained(ao.compat.optax.adam(1e-3), [1, 1e20, 1], float)
    np.testing.assert_allclose(trained(ao.compat.optax.adam(1e-3), [1, 1e20, 1]), expected, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_variance_is_at_least_0(engine: ao.EngineName, noise: float) -> None:
    """CenteredRMSProp with a gradient that hardly changes: finite, and the steps of float64 with exact differences."""
    rng = np.random.default_rng(5)
    grads = (0.1 * (1 + noise * rng.normal(size=(1000 if noise else 3000, 50)))).astype(f)
    p, optimizer = {"w": np.zeros(50, f)}, ao.CenteredRMSProp(lr=1e-3, engine=engine)
    expected, h, m = np.zeros(50), np.zeros(50, np.longdouble), np.zeros(50, np.longdouble)
    for g in grads:
        optimizer.update(p, {"w": g})
        h, m = h + 0.01 * (np.longdouble(1) * g * g - h), m + 0.01 * (g - m)
        expected -= 1e-3 * g / (np.sqrt(np.maximum(np.float64(h - m * m), 0)) + 1e-7)
    assert np.isfinite(p["w"]).all()
    # Of the constant one no difference of extended precision has a variance after some 2,000 steps.
    if noise:
        np.testing.assert_allclose(p["w"], expected, rtol=1e-4)


@pytest.mark.parametrize("how", ["torch", "optax", "corrected", "keras"])
def test_centered_forms_of_frameworks(need: Callable[[str], Library], how: str) -> None:
    """A thousand gradients that hardly change, where the framework's own differences stay finite in float64."""
    need("torch"), need("jax")
    import jax
    import optax
    import torch

    rng = np.random.default_rng(6)
    grads = 0.1 * (1 + 0.01 * rng.normal(size=(1000, 20)))
    p: dict[str, Any] = {"w": np.zeros(20)}
    if how == "torch":
        q = torch.zeros(20, dtype=torch.float64, requires_grad=True)
        theirs: Any = torch.optim.RMSprop([q], lr=1e-3, centered=True)
        ours: Any = ao.compat.torch.RMSprop(lr=1e-3, centered=True)
        for g in grads:
            q.grad = torch.tensor(g)
            theirs.step()
            ours.update(p, {"w": g})
        expected = q.detach().numpy()
    elif how == "keras":
        ours, expected = ao.compat.keras.RMSprop(1e-3, centered=True), np.zeros(20)
        h, m = np.zeros(20), np.zeros(20)
        for g in grads:  # Keras computes in float32
            h, m = 0.9 * h + 0.1 * g * g, 0.9 * m + 0.1 * g
            expected -= 1e-3 * g / np.sqrt(h - m * m + 1e-7)
            ours.update(p, {"w": g})
    else:
        with jax.enable_x64(True):
            tx = optax.rmsprop(1e-3, centered=True, bias_correction=how == "corrected")
            ours = ao.compat.optax.rmsprop(1e-3, centered=True, bias_correction=how == "corrected")
            q = jax.numpy.zeros(20)
            state, update = tx.init(q), quick(tx.update)
            for g in grads[:200]:
                u, state = update(jax.numpy.asarray(g), state, q)
                q = q + u
                ours.update(p, {"w": g})
            expected = np.asarray(q)
    np.testing.assert_allclose(p["w"], expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_centered_form_of_complex_parameters(need: Callable[[str], Library], dtype: str) -> None:
    """Two reals each: from torch in the middle, and back to it, as torch goes on."""
    need("torch")
    import torch

    rng = np.random.default_rng(7)
    grads = [torch.tensor((rng.normal(size=(5, 2)) @ [1, 1j]).astype(dtype)) for _ in range(20)]
    ours, theirs, back = (torch.zeros(5, dtype=getattr(torch, dtype)) for _ in range(3))
    their, again = (torch.optim.RMSprop([p.requires_grad_()], lr=0.01, centered=True) for p in (theirs, back))

    def go(optimizer: Any, p: Any, some: Any) -> None:
        for g in some:
            p.grad = g.clone()
            optimizer.step()

    go(their, theirs, grads[:5])
    ours.copy_(theirs.detach())
    optimizer = ao.compat.torch.from_torch(their.state_dict(), ["p"], {"p": ours})
    for g in grads[5:10]:
        optimizer.update({"p": ours}, {"p": g})
    with torch.no_grad():
        back.copy_(ours)
    again.load_state_dict(ao.compat.torch.to_torch(optimizer, ["p"]))
    go(their, theirs, grads[5:])
    go(again, back, grads[10:])
    torch.testing.assert_close(back, theirs, rtol=1e-4 if dtype == "complex64" else 1e-10, atol=0)


# Coefficients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [*ENGINES, "jax"])
def test_an_eps_too_small_for_the_dtype(need: Callable[[str], Library], engine: ao.EngineName) -> None:
    """1e-50 becomes the least number, not 0: a gradient of 0 makes no 0/0. So do subnormal ones where these flush."""
    array = need("jax").asarray if engine == "jax" else np.array
    for eps in (1e-50, 1e-40):
        assert trained(ao.Adam(eps=eps, engine=engine), [0, 0], array=array) == 0


def test_an_eps_too_small_under_jit(need: Callable[[str], Library]) -> None:
    """The same where coefficients are traced float32 numbers."""
    need("jax")
    import jax

    optimizer = ao.Adam(eps=1e-50)
    params = {"w": jax.numpy.ones(1)}
    params, _ = jax.jit(optimizer.step)(params, {"w": jax.numpy.zeros(1)}, optimizer.init(params))
    assert params["w"] == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make", [ao.SGD, ao.Adam, ao.LAMB, lambda lr, engine: ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(lr), engine=engine)]
)
def test_a_rate_too_large_for_the_dtype(engine: ao.EngineName, make: Any) -> None:
    """1e39 is refused by name where arithmetic is in float32: at the first step, in mid-training, from a schedule."""
    refused = pytest.raises(ValueError, match=r"^lr is 1e\+39; wanted at most 3\.4028235e\+38, the largest number")
    for dtype in (f, np.float16):
        p = {"w": np.ones(3, dtype)}
        with refused:
            make(lr=1e39, engine=engine).update(p, {"w": np.ones(3, dtype)})
        assert (p["w"] == 1).all()
    optimizer = make(lr=lambda t: 1e39 if t == 3 else 0.0, engine=engine)
    for _ in range(2):
        optimizer.update(p, {"w": np.ones(3, np.float16)})
    with refused:
        optimizer.update(p, {"w": np.ones(3, np.float16)})
    assert (p["w"] == 1).all()
    q = {"w": np.zeros(3)}
    make(lr=1e39, engine=engine).update(q, {"w": np.ones(3)})
    assert np.isfinite(q["w"]).all()


def test_a_traced_rate_is_refused_in_mid_training(need: Callable[[str], Library]) -> None:
    """In words of ours, also where steps are taken without all checks: whether it is too large nobody knows."""
    need("jax")
    import jax

    params, optimizer = {"w": np.ones(2, f)}, ao.SGD(0.5, engine="blocked")

    def update(rate: Any) -> Any:
        optimizer.lr = rate
        optimizer.update(params, {"w": np.ones(2, f)})
        return rate

    for _ in range(3):
        optimizer.update(params, {"w": np.ones(2, f)})
    with pytest.raises(TypeError, match="what the optimizer remembers would be frozen"):
        jax.jit(update)(0.5)
    assert params["w"].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ao.chain(ao.groups({"a": {"lr": 1e39}, "b": {}}), ao.SGD(0.1)),
        lambda: ao.partition({"a": ao.SGD(1e39), "b": ao.SGD(0.1)}),
    ],
)
def test_a_rate_is_asked_of_its_own_parameters(make: Callable[[], ao.Optimizer]) -> None:
    """1e39 for a parameter of float64 beside one of float32; the error names the one that can't have it."""
    for _ in range(2):
        params: dict[str, Any] = make().update(
            {"a": np.ones(2), "b": np.ones(2, f)}, {"a": np.full(2, 1e-39), "b": np.ones(2, f)}
        )
        np.testing.assert_allclose(params["a"], 0, atol=1e-12)
    with pytest.raises(ValueError, match="in which params at 'a', of dtype float32, are updated"):
        make().update({"a": np.ones(2, f), "b": np.ones(2, f)}, {"a": np.ones(2, f), "b": np.ones(2, f)})


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_reduction_is_of_saturates(engine: ao.EngineName) -> None:
    """A trust ratio of 1e39 is float32's largest number: its step is finite, in float64 exact."""
    p, q = {"w": np.full(1, 1.0, f)}, {"w": np.full(1, 1.0)}
    for params in (p, q):
        optimizer = ao.chain(ao.TrustRatio(share=1e9), ao.SGD(1.0), engine=engine)
        optimizer.update(params, {"w": np.full(1, 1e-30, params["w"].dtype)})
    np.testing.assert_allclose(p["w"], 1 - np.finfo(f).max * 1e-30, rtol=1e-6)
    np.testing.assert_allclose(q["w"], 1 - 1e9, rtol=1e-12)


@pytest.mark.own_loops
def test_rules_can_bound() -> None:
    """`xp.bound` and `xp.largest` for rules of one's own: the same bits on each engine; NaN stays, infinities don't."""

    class Bounded(ao.Optimizer):
        limit: ao.Nonnegative

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return xp.bound(x, c.limit) + xp.bound(x, 0.5 * xp.largest(x))

    x = np.array([0.0, -0.0, 1.0, -3.0, np.inf, -np.inf, np.nan, 1e-45], f)
    found = []
    for engine in ENGINES:
        p = {"w": np.zeros(8, f)}
        Bounded(2.0, engine=engine).update(p, {"w": x})
        found.append(p["w"])
    half = f(0.5 * float(np.finfo(f).max))
    expected = -np.array([0, 0, 2, -5, half, -half, np.nan, 2 * f(1e-45)], f) + f(0)
    assert all(same_bits(a, expected) for a in found)
