"""Rules that take complex elements as a whole, by `xp.modulus`: on every engine and library."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import COPIES, Whole, agree
from tests.support.libraries import DISCOVERED, ENGINES, LOADERS, Library, same_bits


class Shrink(ao.ParameterStage):
    """Towards 0 by 1, as far as it goes: what the L1 norm of complex numbers is about."""

    @staticmethod
    def rule(xp: Any, p: Any, c: Any) -> Any:
        size = xp.modulus(p)
        return xp.where(size > 1, p - p / size, 0 * p)


class Phase(ao.ParameterStage):
    """To modulus 1, or at most 1."""

    most: ao.UnitInterval = 0.0

    @staticmethod
    def rule(xp: Any, p: Any, c: Any) -> Any:
        size = xp.modulus(p)
        return p / xp.where(size > c.most, size, 1.0)


class Root(ao.Optimizer):
    """The step by the root of a mean of squared moduli, of which there is one for each element."""

    lr: ao.Nonnegative = 0.5
    slots = ("m", "v")
    real_slots = ("v",)
    starts = {"v": 0.25}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, m: Any, v: Any, c: Any) -> Any:
        m = 0.5 * m + 0.5 * x
        v = 0.5 * v + 0.5 * xp.squared_modulus(x)
        return c.lr * m / xp.sqrt(v), m, v


def slots(optimizer: ao.Optimizer) -> Any:
    """Those of the first stage."""
    assert optimizer.state is not None
    return optimizer.state.slots[0]


def _take(engine: Any, stage: Any, p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    moved: np.ndarray[Any, Any] = ao.chain(ao.SGD(lr=1.0), stage, engine=engine).update(p.copy(), np.zeros_like(p))
    return moved


def test_pythagorean_triples_are_exact() -> None:
    """The shrunk 3+4j is 2.4+3.2j, and integers' moduli that are integers are right to the last bit."""
    for engine in ENGINES:
        assert _take(engine, Shrink(), np.array([3 + 4j])) == [2.4 + 3.2j]
        triples = np.array([3 + 4j, -5 + 12j, 8 - 15j, -7 - 24j, 20 + 21j, 0 - 2j, 0.5 + 0j])
        found = ao.chain(Told(), ao.SGD(lr=0.0), engine=engine)
        found.update(triples.copy(), triples)
        assert [*slots(found)["size"]] == [5, 13, 17, 25, 29, 2, 0.5]


class Told(ao.Stage):
    """Keeps the modulus of the gradient."""

    slots = ("size",)
    real_slots = ("size",)

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, size: Any, c: Any) -> Any:
        return x, xp.modulus(x)


def _moduli(engine: Any, z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = ao.chain(Told(), ao.SGD(lr=0.0), engine=engine)
    found.update(np.zeros_like(z), z)
    sizes: np.ndarray[Any, Any] = slots(found)["size"]
    return sizes


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_modulus_over_all_exponents(dtype: str) -> None:
    """Within 2 units of roundoff of the exact root, or one of the last subnormal place; for every size of both parts.

    Each square is rounded once and their sum again, which the root halves: 1 unit; and the root is rounded: 2 in all.
    A subnormal result is rounded once more when it is scaled back. float64 is exact enough for complex64; for
    complex128 the expected value is the root of an exact sum of integers, by `math.isqrt`.
    """
    real = np.finfo(dtype).dtype
    low, high = int(np.finfo(real).minexp) - np.finfo(real).nmant, int(np.finfo(real).maxexp)
    rng = np.random.default_rng(0)
    step = 1 if dtype == "complex64" else 7
    exponents = np.array([[e, e - d] for e in range(low + 1, high, step) for d in (0, 1, 3, 11, 12, 24, 52, 400)])
    parts = np.ldexp(rng.uniform(0.5, 1, exponents.shape), exponents).astype(real) * rng.choice(
        [-1, 1], exponents.shape
    )
    z = np.ascontiguousarray(parts.astype(real)).view(dtype)[:, 0]
    unit = float(np.finfo(real).eps) / 2
    tiny = float(2.0**low)
    for engine in ENGINES:
        for a, found in zip(z, _moduli(engine, z), strict=True):
            wanted = _exact(float(a.real), float(a.imag))
            near = abs(float(found) - wanted) <= 2 * unit * wanted + tiny
            assert near or (np.isinf(found) and wanted > float(np.finfo(real).max)), (engine, a)


def _exact(re: float, im: float) -> float:
    """The root of the sum of squares, correctly rounded to float64 but for the last bit."""
    (a, b), (c, d) = re.as_integer_ratio(), im.as_integer_ratio()
    denominator = max(b, d)  # powers of two
    square = (a * (denominator // b)) ** 2 + (c * (denominator // d)) ** 2
    shift = max(0, 130 - square.bit_length()) // 2 * 2 + 2
    try:
        return math.isqrt(square << 2 * shift) / (denominator << shift)
    except OverflowError:
        return math.inf


def test_modulus_of_what_is_not_finite() -> None:
    """An infinite part makes it infinite, and a NaN makes it NaN; of zeros it is 0.0, whatever their signs."""
    z = np.array([complex(a, b) for a in (np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0) for b in (np.inf, np.nan, -0.0)])
    for dtype, engine in itertools.product(("complex64", "complex128"), ENGINES):
        found = _moduli(engine, z.astype(dtype))
        nan = np.isnan(z.real) | np.isnan(z.imag)
        assert np.isnan(found[nan]).all()
        assert (found[(np.isinf(z.real) | np.isinf(z.imag)) & ~nan] == np.inf).all()
        assert [math.copysign(1, a) for a in found[z == 0]] == [1.0, 1.0]


@pytest.mark.parametrize("library", LOADERS)
def test_on_any_library(library: str, need: Callable[[str], Library]) -> None:
    """A joint rule with a real slot, a phase and a threshold: NumPy's results, to the bit where that is promised.

    Beside a real parameter of the same precision, which an engine may take in the same pass.
    """
    lib = need(library)
    rng = np.random.default_rng(1)
    for dtype in [d for d in ("complex64", "complex128") if d in lib.dtypes]:
        p, g = ((rng.normal(size=(5, 7)) + 1j * rng.normal(size=(5, 7))).astype(dtype) for _ in range(2))
        results = []
        for convert, back in ((np.array, np.asarray), (lib.asarray, lib.tonumpy)):
            with lib.context():
                optimizer = ao.chain(Root(), Phase(0.9))
                params = {"z": convert(p), "w": convert(p.real.copy())}
                for k in range(lib.steps(3)):
                    of_step = ((k + 1) * g).astype(dtype)
                    grads = {"z": convert(of_step), "w": convert(of_step.imag.copy())}
                    params = optimizer.update(params, grads)
                kept = slots(optimizer)
                found = [params, kept["m"], kept["v"]]
                results.append([back(of[name]) for of in found for name in params])
        for wanted, found in zip(*results, strict=True):
            assert found.dtype == wanted.dtype
            if lib.exact or dtype in lib.reached:
                np.testing.assert_array_equal(found, wanted)
            else:
                np.testing.assert_allclose(found, wanted, rtol=float(8 * np.finfo(dtype).eps))


def test_the_pure_form_under_jit(need: Callable[[str], Library]) -> None:
    """Traced, a joint method takes the steps of NumPy's, to round-off."""
    lib, rng = need("jax"), np.random.default_rng(12)
    import jax

    p, *grads = ({"z": (rng.normal(size=6) + 1j * rng.normal(size=6)).astype("complex64")} for _ in range(4))
    optimizer = ao.chain(ao.Adam(lr=0.1, joint=True), ao.ClipGlobalNorm(0.2))
    params = {"z": lib.asarray(p["z"])}
    state, step = optimizer.init(params), jax.jit(optimizer.step)
    for g in grads:
        params, state = step(params, {"z": lib.asarray(g["z"])}, state)
        optimizer.update(p, g)
    np.testing.assert_allclose(lib.tonumpy(params["z"]), p["z"], rtol=1e-5)
    assert str(state.slots[0]["v"]["z"].dtype) == "float32"


# Methods ---------------------------------------------------------------------------------------------------------

JOINT = {name: method for name, method in DISCOVERED.items() if "joint" in method._fields}


def _steps(optimizer: ao.Optimizer, p: Any, grads: list[Any]) -> Any:
    for g in grads:
        p = optimizer.update(p, g)
    return p


def test_the_methods_that_may_be_joint() -> None:
    """All whose rule divides by the size of an element, and no others."""
    assert len(JOINT) >= 17
    assert JOINT.keys() >= {"Adam", "AdamW", "AMSGrad", "NAdam", "RAdam", "AdaBelief", "AdaGrad", "RMSProp", "LAMB"}
    with pytest.raises(TypeError, match="joint is 1; wanted True or False"):
        ao.Adam(joint=1)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="joint"):
        ao.Adam().joint = True  # type: ignore[misc]


@pytest.mark.parametrize("name", JOINT)
def test_joint_methods_turn_with_the_phase(name: str) -> None:
    """Gradients of another phase give steps of that phase; two reals don't. Tolerances: a few hundred roundings.

    On real parameters joint changes nothing, to the bit.
    """
    rng = np.random.default_rng(2)
    p, *grads = (rng.normal(size=5) + 1j * rng.normal(size=5) for _ in range(7))
    phase = np.exp(0.7j)
    steps = [
        _steps(JOINT[name](joint=joint), turn * p, [turn * g for g in grads]) / turn
        for joint in (True, False)
        for turn in (1.0, phase)
    ]
    starts = {"Yogi", "CorrectedYogi"}  # whose v starts at a number near 0
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-12 if name not in starts else 1e-9)
    assert np.max(np.abs(steps[2] - steps[3])) > 1e-9
    real = [_steps(JOINT[name](joint=joint), p.real.copy(), [g.real.copy() for g in grads]) for joint in (True, False)]
    assert same_bits(*real)


@pytest.mark.parametrize(
    "name",  # of which each has kernels of its own for each dtype
    [pytest.param(name, marks=pytest.mark.product if i % 10 else ()) for i, name in enumerate(JOINT)],
)
def test_joint_methods_have_the_same_bits_on_all_engines(name: str) -> None:
    """Beside a real parameter, and with gradients of another precision, which not all engines take."""
    rng = np.random.default_rng(3)

    def draw(dtype: str) -> dict[str, Any]:
        z = rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))
        return {"z": z.astype(dtype), "w": z.real.astype("float32")}

    p, grads = draw("complex64"), [draw("complex64"), draw("complex128"), draw("complex64")]
    runs = []
    for engine in ENGINES:
        optimizer = JOINT[name](joint=True, engine=engine)
        moved = _steps(optimizer, {k: a.copy() for k, a in p.items()}, grads)
        assert optimizer.state is not None
        runs.append([moved, optimizer.state.slots])
    assert all(agree(run, runs[0]) for run in runs)


def test_joint_adam_is_the_equation() -> None:
    """Beside NumPy, with |g|**2 in v, of which there is one real number for each element."""
    rng = np.random.default_rng(4)
    p, *grads = (rng.normal(size=9) + 1j * rng.normal(size=9) for _ in range(6))
    optimizer, m, v, wanted = ao.Adam(lr=0.1, joint=True), 0.0 * p, 0.0 * p.real, p.copy()
    for t, g in enumerate(grads, 1):
        optimizer.update(p, g)
        m, v = m + 0.1 * (g - m), v + 0.001 * (np.abs(g) ** 2 - v)
        wanted = wanted - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(p, wanted, rtol=1e-12)
    assert optimizer.state is not None
    assert optimizer.state.slots["v"].dtype == "float64"
    (share,) = optimizer.explain(p, grads[0])
    assert share.bytes == 9 * (2 * 16 + 16 + 2 * 16 + 2 * 8)


# Reductions, states and errors -------------------------------------------------------------------------------------


def test_sums_of_both_parts_and_of_moduli() -> None:
    """The numbers that a joint stage asks for are those of NumPy; a complex element counts with both parts."""
    rng = np.random.default_rng(5)
    shapes = {"z": (70, 1000), "b": (3,)}
    p, g = ({k: rng.normal(size=s) + 1j * rng.normal(size=s) for k, s in shapes.items()} for _ in range(2))
    z, x = (np.concatenate([a[k].ravel() for k in shapes]) for a in (p, g))
    reals, size = x.view(float), np.abs(z)
    products = np.repeat(size, 2) * reals
    wanted = {
        "top": np.abs(x).max(),
        "norm": math.sqrt(math.fsum(products * products)),
        "along": math.fsum(products * 0.5),
        "total": 0.5 * len(x),
        "above": float(np.sum(np.abs(x) ** 2 > 0.1)),
    }
    for engine in ENGINES:
        answers: list[dict[str, float]] = []

        class Asked(Whole):
            coefficients = staticmethod(lambda t, hyper, answers=answers: answers.append(vars(hyper)) or {"scale": 1.0})

        ao.chain(Asked(), ao.SGD(), engine=engine).update({k: a.copy() for k, a in p.items()}, g)
        assert answers[0] == pytest.approx(wanted, rel=1e-13)


@pytest.mark.product  # the chain with a joint method of core/test_chains.py clips, too
def test_clipping_after_a_joint_method() -> None:
    """The norms are of the joint steps, all of them or each."""
    rng = np.random.default_rng(6)
    g = rng.normal(size=50) + 1j * rng.normal(size=50)
    for engine in ENGINES:
        for clip in (ao.ClipNorm(0.25), ao.ClipGlobalNorm(0.25)):
            p = ao.chain(ao.Adam(lr=1.0, joint=True), clip, engine=engine).update(np.zeros_like(g), g)
            assert np.linalg.norm(p) == pytest.approx(0.25, rel=1e-12)
            np.testing.assert_allclose(np.angle(-p), np.angle(g), rtol=1e-9)


def test_what_a_joint_method_remembers_goes_with_it() -> None:
    """Copies, state dicts and the pure form go on as the original does; a state of two reals is refused by name."""
    rng = np.random.default_rng(7)
    p, *grads = ({"z": (rng.normal(size=4) + 1j * rng.normal(size=4)).astype("c8")} for _ in range(6))

    def make(joint: bool = True) -> ao.Optimizer:
        return ao.chain(ao.Adam(lr=0.1, joint=joint), ao.EMA(0.5))

    def loaded(of: ao.Optimizer) -> ao.Optimizer:
        other = make()
        other.load_state_dict(of.state_dict(), p)
        return other

    optimizer = make()
    _steps(optimizer, p, grads[:3])
    taken = [(way(optimizer), {"z": p["z"].copy()}) for way in (*COPIES, loaded)]
    assert optimizer.state is not None
    pure, _ = optimizer.step(p, grads[3], optimizer.state)
    _steps(optimizer, p, grads[3:4])
    assert same_bits(pure["z"], p["z"])
    for other, q in taken:
        assert same_bits(_steps(other, q, grads[3:4])["z"], p["z"])
    assert optimizer.state is not None
    m, v = (optimizer.state.slots[0][name] for name in "mv")
    assert (m["z"].dtype, v["z"].dtype) == ("complex64", "float32")
    with pytest.raises(ValueError, match=r"'v'\]\['z'\] has dtype float32, but that of params\['z'\] has complex64"):
        make(joint=False).load_state_dict(optimizer.state_dict(), p)
    state = optimizer.state._replace(slots=({"m": m, "v": m}, optimizer.state.slots[1]))
    with pytest.raises(TypeError, match=r"'v'\]\['z'\] has dtype complex64; wanted float32 for params\['z'\]"):
        optimizer.step(p, grads[4], state)


@pytest.mark.parametrize("library", ["torch", "jax", "dask", "strict"])
def test_a_checkpoint_goes_on_elsewhere(library: str, need: Callable[[str], Library], tmp_path: Path) -> None:
    """With the arrays of another library, to round-off."""
    lib, rng = need(library), np.random.default_rng(8)
    p, *grads = ({"z": (rng.normal(size=4) + 1j * rng.normal(size=4)).astype("c8")} for _ in range(3))
    here, there = ao.Adam(lr=0.1, joint=True), ao.Adam(lr=0.1, joint=True)
    _steps(here, p, grads[:1])
    ao.save(tmp_path / "run", params=p, optimizer=here)
    saved = ao.load(tmp_path / "run", like={"z": lib.asarray(np.zeros_like(p["z"]))})
    q = saved.params
    assert saved.optimizer is not None
    there.load_state_dict(saved.optimizer, q)
    _steps(here, p, grads[1:])
    q = _steps(there, q, [{"z": lib.asarray(g["z"])} for g in grads[1:]])
    np.testing.assert_allclose(lib.tonumpy(q["z"]), p["z"], rtol=1e-5)


def test_stages_around_a_joint_method() -> None:
    """Gathered gradients, averages to evaluate with, slots that are flushed, and `diagnose`, on complex elements."""
    rng = np.random.default_rng(9)
    p, *grads = (rng.normal(size=6) + 1j * rng.normal(size=6) for _ in range(5))
    one, two = p.copy(), p.copy()
    _steps(ao.chain(ao.Accumulate(2), ao.Adam(lr=0.1, joint=True), ao.FlushSubnormals()), one, grads[:4])
    pairs = [(grads[k] + grads[k + 1]) / 2 for k in (0, 2)]
    _steps(ao.Adam(lr=0.1, joint=True), two, pairs)
    np.testing.assert_allclose(one, two, rtol=1e-14)
    free, q = ao.ScheduleFreeAdamW(lr=0.1, joint=True), p.copy()
    _steps(free, q, grads)
    assert free.state is not None
    np.testing.assert_allclose(free.eval_params(q), (q - (1 - 0.9) * free.state.slots["z"]) / 0.9, rtol=1e-14)
    (row,) = ao.Adam(lr=0.1, joint=True).diagnose(p, grads[0])
    assert row.step_error < 1e-12


def test_beside_a_rule_of_whole_arrays() -> None:
    """Which sees both parts, one after the other, as it does without a joint rule."""
    rng = np.random.default_rng(10)
    g = rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))
    chained = ao.chain(ao.Centralize(), ao.SGD(lr=1.0), Phase(0.5)).update(np.zeros_like(g), g)
    alone = ao.chain(ao.SGD(lr=1.0), Phase(0.5)).update(np.zeros_like(g), g - g.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(chained, alone, rtol=1e-13)


class Misfits:
    """Rules that give one real number where both parts are wanted, and both where one is."""

    class Real(ao.ParameterStage):
        rule = staticmethod(lambda xp, p, c: xp.modulus(p))

    class Flow(ao.Stage):
        rule = staticmethod(lambda xp, p, x, c: xp.modulus(x))

    class Both(ao.Stage):
        slots = real_slots = ("s",)
        rule = staticmethod(lambda xp, p, x, s, c: (x, s + x))


@pytest.mark.parametrize("engine", ENGINES)
def test_rules_that_give_other_numbers_than_they_should(engine: ao.EngineName) -> None:
    """One real for a complex element and the other way round; before anything is written."""
    z = np.array([3 + 4j])
    one = r"^Misfits\.{}\.<lambda> gave one real number for a complex element"
    misfits = [
        (Misfits.Real(), one.format("Real")),
        (Misfits.Flow(), one.format("Flow")),
        (Misfits.Both(), "for a real slot"),
    ]
    for stage, says in misfits:
        stages = (ao.SGD(), stage) if isinstance(stage, ao.ParameterStage) else (stage, ao.SGD())
        with pytest.raises(TypeError, match=says):
            ao.chain(*stages, engine=engine).update(z, z.copy())
        assert z == 3 + 4j


class Towards(ao.ParameterStage):
    """Half of the way to a complex number, or image; and 0 becomes 1."""

    re: ao.Number = 0.0
    im: ao.Number = 0.0

    @staticmethod
    def rule(xp: Any, p: Any, c: Any) -> Any:
        return xp.where(xp.modulus(p) > 0, p + 0.5 * (xp.complex(c.re, c.im) - p), xp.complex(1.0, 0.0))


def test_complex_numbers_in_rules(lib: Library) -> None:
    """By their two parts, numbers or arrays; of a real parameter the first one alone."""
    for real, imaginary in ((1.0, -2.0), ([1.0, 3.0, 5.0], [0.5, 0.0, -1.0])):
        parts = [a if isinstance(a, float) else lib.array(a, "float32") for a in (real, imaginary)]
        for dtype, target in (("complex64", np.array(real) + 1j * np.array(imaginary)), ("float32", np.array(real))):
            p = np.array([0, 3 + 4j, -2j] if dtype == "complex64" else [0, 3, -2])
            for engine in (*ENGINES, None) if lib.name == "numpy" else (None,):
                optimizer = ao.chain(ao.SGD(lr=0.0), Towards(*parts), engine=engine)
                moved = optimizer.update({"p": lib.array(p, dtype)}, {"p": lib.array(0 * p, dtype)})["p"]
                np.testing.assert_array_equal(lib.tonumpy(moved), np.where(p == 0, 1, p + 0.5 * (target - p)))


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_a_huge_gradient_ends_no_run(name: str, dtype: str) -> None:
    """Of whole elements as of two reals: what squares would overflow saturates, and the next steps are finite."""
    huge = np.finfo(dtype).max * 0.9
    for g in (huge * (1 + 1j), np.sqrt(huge) * (1 + 1j)):
        optimizer, z = JOINT[name](joint=True), np.ones(3, dtype)
        for x in (g, 0.1 + 0.1j, 0.1 - 0.1j):
            optimizer.update(z, np.full(3, x, dtype))
        assert np.isfinite(z).all()
        assert optimizer.state is not None
        kept = optimizer.state.slots
        assert all(np.isfinite(a).all() for of in (kept if isinstance(kept, tuple) else [kept]) for a in of.values())


def test_a_complex_number_of_a_complex_element() -> None:
    """Its parts are real, and it says so."""
    stage = type("S", (ao.ParameterStage,), {"rule": staticmethod(lambda xp, p, c: xp.complex(p, 0.0))})
    with pytest.raises(TypeError, match=r"xp\.complex was given a complex element; wanted two numbers or real values"):
        ao.chain(ao.SGD(), stage()).update(np.array([1j]), np.array([1j]))


def test_real_slots_that_can_not_be() -> None:
    with pytest.raises(TypeError, match="has the real slot 'v'; its slots are m"):
        type("Other", (ao.Stage,), {"slots": ("m",), "real_slots": ("v",)})
    with pytest.raises(TypeError, match="real slot 'm' as 'p', which may be complex"):
        type("Started", (ao.Stage,), {"slots": ("m",), "real_slots": ("m",), "starts": {"m": "p"}})


@pytest.mark.parametrize("engine", ["compiled", "blocked", "cuda"])
def test_the_code_for_complex_elements(engine: ao.EngineName) -> None:
    """Is that of two reals where nothing asks for more, and else has both parts by their names."""
    assert ao.Adam().kernel_source(engine, "complex64") == ao.Adam().kernel_source(engine)
    text = ao.Adam(joint=True).kernel_source(engine, "complex64")
    assert {"p_real", "p_imag", "m_real", "m_imag", "v"} <= {*re.findall(r"\w+", text)}
    assert "v_imag" not in text


@pytest.mark.parametrize("name", JOINT)
def test_a_state_of_real_parameters_is_of_both(name: str) -> None:
    """A method that is joint goes on from the state of one that is not, which may be older than the choice."""
    rng = np.random.default_rng(11)
    p, *grads = ({"w": rng.normal(size=3)} for _ in range(4))
    one, other = JOINT[name](), JOINT[name](joint=True)
    _steps(one, p, grads[:2])
    state, q = one.state_dict(), {"w": p["w"].copy()}
    assert "joint" not in str(state)
    other.load_state_dict(state, q)
    assert same_bits(_steps(one, p, grads[2:])["w"], _steps(other, q, grads[2:])["w"])
