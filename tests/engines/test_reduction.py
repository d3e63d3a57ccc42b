"""Norms do not depend on the order of elements, on how they are cut into arrays, on the engine or on the library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._engines import Dispatch
from anyoptim._engines.portable import _plan as portable
from tests.reference.norms import norm, sum_of_squares, total
from tests.support.internals import library as library_of
from tests.support.internals import reduction
from tests.support.libraries import Library

ENGINES: tuple[ao.EngineName, ...] = ("portable", "blocked", "compiled")

LIBRARIES = ["strict", "torch", "dask", "jax-x64", "cuda-shim"]


def _values(rng: np.random.Generator, dtype: str, n: int, low: float, high: float) -> np.ndarray[Any, Any]:
    """Numbers of both signs with exponents of this range."""
    with np.errstate(all="ignore"):
        values = np.ldexp(rng.uniform(-1, 1, n), rng.uniform(low, high, n).astype(int)).astype(dtype)
    largest = np.finfo(dtype).max
    return np.asarray(np.clip(values, -largest, largest))


def _cases() -> Iterator[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    for dtype, low, high in (("float32", -149, 128), ("float64", -1074, 1024)):
        for k in range(10):  # from all of one exponent to the whole range
            middle, width = rng.uniform(low, high), (high - low) * 0.5**k
            yield _values(rng, dtype, 1500 if k < 1 else 100, max(low, middle - width), min(high, middle + width))
        info = np.finfo(dtype)
        yield np.full(3, info.smallest_subnormal)
        yield np.full(2, info.max)
        # At the edges of the exponents that go together, and squares halfway between two multiples.
        yield np.array([2.0**19 * (1 - info.epsneg), 2.0**-21, 2.0**-41 * 1.5, 3 * 2.0**-40], dtype)
        yield np.array([2.0**19, 2.0**39 * (1 - info.epsneg), 1.0], dtype)
        yield np.array([1.25 * 2.0**19, 1.0, -(2.0**-21)], dtype)
        if dtype == "float64":  # whose squares are within the range, but not what rounds them
            yield np.array([2.0**500, 3 * 2.0**460])
            yield np.array([2.0**-500, 3 * 2.0**-540])
        yield np.array([1.0, math.inf, -2.0], dtype)
        yield np.array([math.nan, math.inf, 1.0, 0.0], dtype)
        yield np.array([0.0, math.nan], dtype)
        yield np.array([-1.0, -math.nan, -2.0], dtype)
        yield np.zeros(2, dtype)


CASES = list(_cases())

Measure = Callable[..., Any]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """The rows that a clip of these gradients measures: all in one."""
    seen: list[Any] = []
    squares = Dispatch.reduced

    def known(self: Dispatch, *arguments: Any) -> Any:
        seen.append(squares(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(Dispatch, "reduced", known)

    def measure(params: list[Any], grads: list[Any], engine: ao.EngineName | None = None) -> Any:
        seen.clear()
        ao.chain(ao.ClipNorm(1.0), ao.SGD(), engine=engine).update(params, grads)
        rows = np.concatenate([np.asarray(rows) for rows in seen[-1].values()])  # before it those of blocks
        one = reduction.merged(rows)
        assert np.array_equal(reduction.norm(np, [rows]), reduction.norm(np, [one]), equal_nan=True)
        return one

    return measure


def _agrees(row: Any, values: list[float]) -> bool:
    """Whether a row has the sum of squares of the definition, in exact arithmetic, and gives its root."""
    found, expected = reduction.norm(np, [row]), norm(values)
    if not 0 < abs(expected) < math.inf:
        return found == expected or (math.isnan(found) and math.isnan(expected))
    code, total = _total(row.tolist())
    return found == expected and (total, code + reduction.FIRST) == sum_of_squares(values)


def _pieces(rng: np.random.Generator, case: np.ndarray[Any, Any], library: str = "numpy") -> list[np.ndarray[Any, Any]]:
    """A permutation, cut somewhere; for JAX, which compiles for each length, in two of which one is always as long."""
    cuts = {"dask": [], "jax-x64": [2]}.get(library, rng.integers(0, len(case) + 1, rng.integers(0, 4)))
    return np.split(rng.permutation(case), np.sort(cuts).astype(int))


@pytest.mark.parametrize("engine", ENGINES)
def test_any_order_and_cut(engine: ao.EngineName, measured: Measure) -> None:
    """Permutations, each in other pieces: the bits of the definition in exact arithmetic."""
    rng = np.random.default_rng(1)
    for number, case in enumerate(CASES):
        for _ in range(5 if number % 5 == 0 else 1):
            grads = _pieces(rng, case)
            assert _agrees(measured([np.ones_like(g) for g in grads], grads, engine), case.tolist()), (number, case)


@pytest.mark.parametrize("library", LIBRARIES)
def test_any_library(library: str, measured: Measure, need: Callable[[str], Library]) -> None:
    """The same bits; but that JAX takes subnormal numbers for 0."""
    lib, rng = need(library), np.random.default_rng(2)
    with lib.context():
        for case in CASES[:: 3 if library in {"dask", "jax-x64"} else 1]:
            least = np.finfo(case.dtype).smallest_normal
            if library == "jax-x64" and ((case != 0) & (abs(case) < least)).any():
                continue
            grads = _pieces(rng, case, library)
            found = measured([lib.asarray(np.ones_like(g)) for g in grads], [lib.asarray(g) for g in grads])
            assert _agrees(found, case.tolist()), case


def test_on_several_devices_of_jax(measured: Measure, need: Callable[[str], Library]) -> None:
    """Whether the axes of the mesh are explicit, as by default, or XLA's to choose: the bits of one device."""
    lib = need("jax-x64")
    import jax

    g = _values(np.random.default_rng(3), "float32", 4096, -60, 60).reshape(32, 128)
    several = len(jax.devices())
    assert several > 1
    with lib.context():
        for axes in (jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto):
            mesh = jax.make_mesh((several,), ("x",), axis_types=(axes,))
            for spec in (("x",), (None, "x")):
                place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
                p, x = jax.device_put(np.ones_like(g), place), jax.device_put(g, place)
                assert _agrees(measured([p], [x]), g.ravel().tolist())


@pytest.mark.parametrize("known", ["the constants", "all"])
def test_under_jit(known: str, need: Callable[[str], Library]) -> None:
    """Where XLA knows the constants that round, and might add them before; and where it knows the gradient, too."""
    lib, case = need("jax-x64"), _values(np.random.default_rng(4), "float64", 500, -20, 20)

    def step(p: Any, g: Any) -> Any:
        optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0))
        return optimizer.step(p, g, optimizer.init(p))[0]

    with lib.context():
        import jax

        p, g = lib.asarray(np.zeros_like(case)), lib.asarray(case)
        new = lib.tonumpy(jax.jit(lambda p: step(p, g))(p) if known == "all" else jax.jit(step)(p, g))
    np.testing.assert_allclose(-new, case * (1 / norm(case.tolist())), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_long_arrays(engine: ao.EngineName, dtype: str, measured: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many chunks, between which the largest element changes: what is guessed from one of the next is wrong."""
    g = _values(np.random.default_rng(2), dtype, 200_000, -60, 60)
    g = g[np.argsort(abs(g))]
    wide = g.astype(float)
    expected = reduction.rows(library_of(wide), "squares", [[[wide]]]).tolist()
    monkeypatch.setattr(portable, "TILE", 1 << 15)
    for one in (g, np.ascontiguousarray(g[::-1]), np.roll(g, 70_000)):
        found = measured([np.ones_like(one)], [one], engine)
        assert reduction.norm(np, [found]) == reduction.norm(np, [np.array(expected)])
        assert _total(found.tolist()) == _total(expected)


def test_sums_of_half_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more elements than an int64 holds the sum of whole digits for, halves are added: to the same integer."""
    g = _values(np.random.default_rng(4), "float64", 1000, -20, 20)
    whole = reduction.rows(library_of(g), "squares", [[[g]]]).tolist()
    monkeypatch.setattr(reduction, "WHOLE", 999)
    halves = reduction.rows(library_of(g), "squares", [[[g]]]).tolist()
    assert whole != halves
    assert _total(whole) == _total(halves)


def _total(row: list[list[int]]) -> tuple[int, int]:
    ((code, *digits),) = row
    return code, sum(digit << 20 * k for k, digit in enumerate(reversed(digits)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_of_many_arrays(engine: ao.EngineName, dtype: str) -> None:
    """Whatever lies before it: larger and smaller arrays, zeros, infinite ones and NaN; each is as long as it is."""
    rng = np.random.default_rng(5)
    scales = [1.0, 1e-8, 1e20, 0.0, 1e-6, math.inf, 9.0, 1e15, math.nan, 7.0, 3e-39, 0.0, 1.0, 1e9, 1e-9]
    grads = [(rng.uniform(0.5, 1, 40 + k) * s).astype(dtype) for k, s in enumerate(scales)]
    params = [np.zeros_like(g) for g in grads]
    ao.chain(ao.ClipNorm(1e-12), ao.SGD(1.0), engine=engine).update(params, grads)
    for p, g, scale in zip(params, grads, scales, strict=True):
        if math.isfinite(scale):
            length = math.sqrt(math.fsum((g.astype(float) ** 2).tolist()))
            wanted = g * min(1.0, 1e-12 / length) if length else g
            np.testing.assert_allclose(-p, wanted, rtol=1e-6 if dtype == "float32" else 1e-14, atol=3e-45)
        else:
            assert np.isnan(p).all()


# Sums, inner products, maxima and counts --------------------------------------------------------------------------


def _same(xp: Any, p: Any, x: Any) -> Any:
    return x


class Asks(ao.Stage):
    """Asks everything, of all parameters and of each, and notes the answers."""

    functions: ClassVar[dict[str, tuple[type[Any], list[Any]]]] = {
        "norm": (ao.Norm, [_same]),
        "square": (ao.Dot, [_same, _same]),
        "sum": (ao.Sum, [lambda xp, p, x: x]),
        "dot": (ao.Dot, [lambda xp, p, x: p, lambda xp, p, x: x]),
        "max": (ao.Max, [lambda xp, p, x: x]),
        "count": (ao.Count, [lambda xp, p, x: x > 1e-3]),
        "size": (ao.Size, []),
    }
    reductions = {
        f"{name}_of_{over}": kind(*of, over=over) for name, (kind, of) in functions.items() for over in ("all", "each")
    }
    answers: ClassVar[list[dict[str, float]]] = []

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        Asks.answers.append({name: float(value) for name, value in vars(hyper).items()})
        return {}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x


def _expected(ps: list[Any], gs: list[Any]) -> dict[str, float]:
    p, x = (np.concatenate([a.ravel() for a in arrays]).astype(float) for arrays in (ps, gs))
    with np.errstate(all="ignore"):
        products = (p * x).tolist()
    length = norm(x.tolist())
    return {
        "norm": length,
        "square": math.nan if 1e150 < length < math.inf else length * length,
        "sum": total(x.tolist()),
        "dot": total(products),
        "max": float(np.max(x, initial=-math.inf)) + 0.0,  # which has the sign of 0.0
        "count": float(np.count_nonzero(x > np.asarray(1e-3, gs[0].dtype))),
        "size": x.size,
    }


def _answers_agree(ps: list[Any], gs: list[Any]) -> None:
    assert len(Asks.answers) == len(ps)  # one row of coefficients for each parameter
    for i, answers in enumerate(Asks.answers):
        for over, wanted in (("all", _expected(ps, gs)), ("each", _expected(ps[i : i + 1], gs[i : i + 1]))):
            for name, number in wanted.items():
                found = answers[f"{name}_of_{over}"]
                if name == "square":  # of a root that was rounded
                    assert math.isnan(number) or found == pytest.approx(number, rel=1e-15, abs=1e-300), (over, name)
                else:
                    same = found == number and math.copysign(1, found) == math.copysign(1, number)
                    assert same or (math.isnan(found) and math.isnan(number)), (over, name, found, number)


def _ask(lib: Library, ps: list[Any], gs: list[Any], engine: ao.EngineName | None = None) -> None:
    Asks.answers.clear()
    ao.chain(Asks(), ao.SGD(), engine=engine).update([lib.asarray(p) for p in ps], [lib.asarray(g) for g in gs])
    _answers_agree(ps, gs)


SIGNED = [
    *CASES,
    *(
        np.array(values, dtype)
        for values in ([1.0, -math.inf, 3.0], [-math.inf, -math.inf], [math.inf, 2.0, -math.inf], [-0.0, -0.0])
        for dtype in ("float32", "float64")
    ),
]
"""And minus infinity, twice too, both infinities, and zeros of the other sign."""


@pytest.mark.telling
@pytest.mark.parametrize("engine", ENGINES)
def test_every_reduction(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Over all parameters and over each, in any order and cut: what exact arithmetic gives."""
    rng, lib = np.random.default_rng(6), need("numpy")
    for case in SIGNED:
        gs = _pieces(rng, case)
        _ask(lib, [_values(rng, str(g.dtype), g.size, -20, 20) for g in gs], gs, engine)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_reduction_on_any_library(library: str, need: Callable[[str], Library]) -> None:
    lib, rng = need(library), np.random.default_rng(7)
    with lib.context():
        for case in SIGNED[:: 3 if library in {"dask", "jax-x64"} else 1]:
            subnormal = (case != 0) & (abs(case) < np.finfo(case.dtype).smallest_normal)
            if library == "jax-x64" and subnormal.any():
                continue
            gs = _pieces(rng, case, library)
            _ask(lib, [_values(rng, str(g.dtype), g.size, -3, 3) for g in gs], gs)


def test_complex_elements_are_two(need: Callable[[str], Library]) -> None:
    """Inner products are real: Re(sum of conj(p) * x)."""
    rng = np.random.default_rng(8)
    p, g = (rng.normal(size=7) + 1j * rng.normal(size=7) for _ in range(2))
    for engine in ENGINES:
        _ask(need("numpy"), [p.view(float)], [g.view(float)], engine)
        reals = Asks.answers[0]
        Asks.answers.clear()
        ao.chain(Asks(), ao.SGD(), engine=engine).update(p.copy(), g)
        assert Asks.answers == [reals]
        assert reals["dot_of_all"] == pytest.approx(np.vdot(p, g).real, rel=1e-14)


def test_sums_that_cancel() -> None:
    """What is left of far larger terms of both signs is as exact as they are."""
    rng = np.random.default_rng(9)
    for scale in (1.0, 1e-300, 1e300):
        x = rng.uniform(0.5, 1, 1000) * scale
        left = float(rng.uniform(0.5, 1)) * scale * 2.0**-18
        g = rng.permutation(np.concatenate([x, -x, [left]]))
        for engine in ENGINES:
            Asks.answers.clear()
            ao.chain(Asks(), ao.SGD(), engine=engine).update(np.ones(g.size), g)
            assert Asks.answers[0]["sum_of_all"] == pytest.approx(left, rel=1e-14, abs=0)


@pytest.mark.parametrize("form", ["jit", "x64"])
def test_every_reduction_under_jit(form: str, need: Callable[[str], Library]) -> None:
    """Traced, the numbers are the same to round-off, infinities included; without x64 to that of float32."""
    lib, rng = need("jax" if form == "jit" else "jax-x64"), np.random.default_rng(10)
    import jax

    names = sorted(Asks.reductions)

    class Told(ao.Stage):
        """Puts the answers into its coefficients, which so come out as the step."""

        reductions = Asks.reductions
        coefficients = staticmethod(lambda t, hyper: {f"n{i}": vars(hyper)[name] for i, name in enumerate(names)})

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return sum((xp.where(p == i, vars(c)[f"n{i}"], 0.0) for i in range(len(names))), start=0.0 * p)

    optimizer = ao.chain(Told(), ao.SGD(lr=1.0))
    p = np.arange(len(names), dtype="float32")
    for case in (
        _values(rng, "float32", len(names), -9, 9),
        *([1.0] * (len(names) - 1) + [v] for v in (math.inf, -math.inf)),
    ):
        g = np.asarray(case, "float32")
        with lib.context():
            q = lib.asarray(p)
            moved, _ = jax.jit(optimizer.step)(q, lib.asarray(g), optimizer.init(q))
        expected = _expected([p], [g])
        for i, name in enumerate(names):
            found = i - float(lib.tonumpy(moved)[i])
            np.testing.assert_allclose(found, expected[name.partition("_")[0]], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("form", ["jax", "jax-x64"])
def test_one_nan_among_many(form: str, need: Callable[[str], Library]) -> None:
    """XLA's own maximum on a CPU loses it, from some thousands of elements on."""
    lib, g = need(form), np.ones(40_000, np.float32)
    g[5] = math.nan
    with lib.context():
        for signs in (g, -g):
            Asks.answers.clear()
            ao.chain(Asks(), ao.SGD(lr=0.0)).update(lib.asarray(np.ones_like(g)), lib.asarray(signs))
            answers = Asks.answers[0]
            assert all(math.isnan(answers[f"{name}_of_all"]) for name in ("norm", "square", "sum", "dot", "max"))
            assert answers["count_of_all"] == 39_999 * (signs is g)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_nothing(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Sums are 0.0, and a maximum is below everything."""
    _ask(need("numpy"), [np.ones((0, 3)), np.ones(2)], [np.ones((0, 3)), np.ones(2)], engine)
    assert Asks.answers[0]["max_of_each"] == -math.inf


@pytest.mark.parametrize("name", Asks.functions)
@pytest.mark.parametrize("engine", ENGINES)
def test_replays(engine: ao.EngineName, name: str) -> None:
    """A step that is like the last one asks again, with the same answer for the same numbers."""
    kind, functions = Asks.functions[name]

    answers: list[float] = []

    class One(ao.Stage):
        reductions = {"answer": kind(*functions)}
        rule = staticmethod(lambda xp, p, x, c: x)

        @staticmethod
        def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
            answers.append(float(hyper.answer))
            return {}

    p, grads = np.array([1.0, -2.0, 0.5]), [np.array([0.5, -4.0, 2.0]), np.array([0.25, 8.0, -1.0])]
    optimizer = ao.chain(One(), ao.SGD(lr=0.0), engine=engine)
    for g in (*grads, *grads):
        optimizer.update(p, g)
    assert answers == [_expected([p], [g])[name] for g in (*grads, *grads)]


def _mixed(form: str, ps: dict[str, Any], gs: dict[str, Any]) -> None:
    """One step of update, or of the pure form, which asks of all these arrays."""
    optimizer = ao.chain(Asks(), ao.SGD())
    if form == "update":
        optimizer.update(ps, gs)
    else:
        optimizer.step(ps, gs, optimizer.init(ps))


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("form", ["update", "step"])
@pytest.mark.parametrize("library", ["jax", "jax-x64", "dask", "torch"])
def test_beside_numpy(library: str, form: str, need: Callable[[str], Library]) -> None:
    """Arrays of two libraries in one question, one of which may have no float64, and infinities in either."""
    lib = need(library)
    ones, cases = np.ones(3, np.float32), [[1.5, -2.0, -7.0], [math.inf, 1.0, 2.0], [-math.inf, 1.0, -math.inf]]
    with lib.context():
        for here in cases:
            for there in cases:
                gs = [np.asarray(g, np.float32) for g in (here, there)]
                Asks.answers.clear()
                _mixed(form, {"a": ones.copy(), "b": lib.asarray(ones)}, {"a": gs[0], "b": lib.asarray(gs[1])})
                if library == "jax":
                    expected = _expected([ones, ones], gs)
                    for name in ("norm", "sum", "dot", "max", "count", "size"):
                        np.testing.assert_allclose(Asks.answers[0][f"{name}_of_all"], expected[name], rtol=1e-6)
                else:
                    _answers_agree([ones, ones], gs)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("library", ["jax", "jax-x64"])
@pytest.mark.parametrize("form", ["update", pytest.param("step", marks=pytest.mark.product)])
def test_what_is_not_finite_on_a_mesh(library: str, form: str, need: Callable[[str], Library]) -> None:
    """NaN and infinities that one device has, and that all have, whoever adds."""
    lib = need(library)
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    several = len(jax.devices())
    cases = [[1.0, 2.0, 3.0, math.nan], [math.nan, 3.0, 2.0, 1.0], [math.inf, 1.0, 1.0, math.nan]]
    for values in (*cases, [-math.inf, 1.0, 1.0, 1.0]):
        g = np.repeat(np.asarray(values, np.float32), several)
        for axes in (AxisType.Explicit, AxisType.Auto):
            with lib.context():
                mesh = jax.make_mesh((several,), ("x",), axis_types=(axes,))
                for spec in (PartitionSpec("x"), PartitionSpec()):
                    p, x = (jax.device_put(a, NamedSharding(mesh, spec)) for a in (np.ones_like(g), g))
                    Asks.answers.clear()
                    _mixed(form, {"a": p}, {"a": x})
                    for name in ("norm", "sum", "dot", "max", "count"):
                        found, wanted = Asks.answers[0][f"{name}_of_all"], _expected([np.ones_like(g)], [g])[name]
                        assert found == wanted or (math.isnan(found) and math.isnan(wanted)), (name, axes, spec, values)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("library", ["jax", "jax-x64"])
def test_a_gate_on_a_mesh_under_jit(library: str, need: Callable[[str], Library]) -> None:
    """The step is called off for a NaN that one device has, whoever knows how the arrays are cut."""
    lib = need(library)
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    several = len(jax.devices())
    both = [(axes, place) for axes in (AxisType.Explicit, AxisType.Auto) for place in (0, -1)]
    for axes, place in both:  # on the first device, and on the last
        g = np.ones(4 * several, np.float32)
        g[place] = math.nan
        with lib.context():
            mesh = jax.make_mesh((several,), ("x",), axis_types=(axes,))
            p, x = (jax.device_put(a, NamedSharding(mesh, PartitionSpec("x"))) for a in (np.ones_like(g), g))
            optimizer = ao.chain(ao.SkipNonFinite(), ao.SGD(1.0))
            moved, _ = jax.jit(optimizer.step)(p, x, optimizer.init(p))
            assert np.asarray(moved).tolist() == [1.0] * len(g), (axes, place)


@pytest.mark.parametrize("form", ["update", "jit"])
def test_of_those_that_move(form: str, need: Callable[[str], Library]) -> None:
    """A step of gathered gradients asks of the parameters that have some; sizes and maxima, too."""
    lib = need("jax-x64")
    import jax

    class Told(ao.Stage):
        reductions = {"size": ao.Size(), "top": ao.Max(lambda xp, p, x: x), "count": ao.Count(lambda xp, p, x: x == x)}
        coefficients = staticmethod(lambda t, hyper: {"code": hyper.size + 10 * hyper.count + 100 * hyper.top})
        rule = staticmethod(lambda xp, p, x, c: 0.0 * x + c.code)

    with lib.context():
        optimizer = ao.chain(ao.Accumulate(2), Told(), ao.SGD(lr=1.0))
        p: Any = {"a": lib.asarray(np.zeros(3)), "b": lib.asarray(np.zeros(5))}
        grads = {"a": lib.asarray(np.full(3, -2.0)), "b": None}
        step, state = jax.jit(optimizer.step), optimizer.init(p)
        for _ in range(2):
            if form == "jit":
                p, state = step(p, grads, state)
            else:
                optimizer.update(p, grads)
        assert lib.tonumpy(p["a"]).tolist() == [-(3 + 30 - 200)] * 3
        assert lib.tonumpy(p["b"]).tolist() == [0.0] * 5


def test_a_coefficient_called_like_what_the_loop_calls() -> None:
    """`inf`, which stands for where a maximum begins."""

    class Named(ao.Stage):
        inf: ao.Positive = 2.0
        slots = ("frexp",)
        reductions = {"top": ao.Max(lambda xp, p, x, s: x * 1.0 - 200.0), "total": ao.Sum(lambda xp, p, x, s: x + s)}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, s: Any, c: Any) -> Any:
            return x * c.inf, s + x

        @staticmethod
        def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
            seen.append((hyper.top, hyper.total))
            return {"inf": hyper.inf}

    results = []
    for engine in ENGINES:
        seen: list[Any] = []
        optimizer, p = ao.chain(Named(), ao.SGD(), engine=engine), np.ones(3)
        for _ in range(3):
            optimizer.update(p, np.ones(3))
        results.append((p.tolist(), seen))
    assert results[0] == results[1] == results[2]
    assert results[0][1] == [(-199.0, 3.0), (-199.0, 6.0), (-199.0, 9.0)]


_NO_ARRAY = "wanted an array of numbers made of p, x and its slots$"
WRONG: dict[str, tuple[Any, str]] = {
    "a number": (lambda xp, p, x: 1.0, f"gave a float; {_NO_ARRAY}"),
    "a comparison": (lambda xp, p, x: x > 0, f"gave a comparison; {_NO_ARRAY}"),
    "a tuple": (lambda xp, p, x: (x, p), f"gave a tuple; {_NO_ARRAY}"),
    "other arguments": (lambda xp, p: p, "is of a function of other arguments; wanted xp, p, x$"),
    "what there isn't": (lambda xp, p, x: xp.tanh(x), "does what no kernel can: it uses xp.tanh"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", WRONG)
def test_functions_that_can_not_be_reduced(name: str, engine: ao.EngineName) -> None:
    """Are named by the stage and the name of the reduction, before anything is written, by each engine alike."""
    function, message = WRONG[name]

    class Told(ao.Stage):
        reductions = {"n": ao.Sum(function)}
        rule = staticmethod(lambda xp, p, x, c: x)

    p = np.ones(2)
    with pytest.raises(TypeError, match=f"^the reduction 'n' of Told {message}"):
        ao.chain(Told(), ao.SGD(), engine=engine).update(p, np.ones(2))
    assert p.tolist() == [1.0, 1.0]


def test_numbers_that_were_not_asked_for() -> None:
    class Told(ao.Stage):
        reductions = {"n": ao.Sum(lambda xp, p, x: x, "each")}
        scalars = {"k": 0.0}
        update_scalars = staticmethod(lambda step, hyper: {"k": hyper.n})
        rule = staticmethod(lambda xp, p, x, c: x)

    with pytest.raises(
        TypeError, match=r"^update_scalars of Told\(\) reads 'n', but is given \['k'\]; .* one over='all'$"
    ):
        ao.chain(Told(), ao.SGD()).update(np.ones(2), np.ones(2))
    Told.update_scalars = staticmethod(lambda step, hyper: {"k": hyper.m})
    with pytest.raises(TypeError, match=r"reads 'm', .* 'm' declared among reductions, scalars or hyperparameters$"):
        ao.chain(Told(), ao.SGD()).update(np.ones(2), np.ones(2))


def test_wrong_reductions() -> None:
    with pytest.raises(TypeError, match=r"^Norm was given 2; wanted a function of xp, p, x and the slots$"):
        ao.Norm(2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Count was given 3; wanted a function"):
        ao.Count(3)  # type: ignore[arg-type]
    for over in ("any", ["all"]):
        with pytest.raises(ValueError, match=r"^Sum was given over=.*; wanted 'all' or 'each'$"):
            ao.Sum(abs, over=over)  # type: ignore[arg-type]
    assert repr(ao.Count(abs)) == "Count(<built-in function abs>, over='all')"


# ------------------------------------------------------------------------------------------------------------------


def test_error_of_the_definition() -> None:
    """Against the exact sum: within what the docs promise."""
    for case in CASES:
        if np.isfinite(case).all() and case.any():
            values = case.tolist()
            total, b = sum_of_squares(values)
            exact = sum((Fraction(v) ** 2 for v in values), Fraction(0))
            bound = Fraction(4, 2**53) + Fraction(len(values), 2**79)
            assert abs(Fraction(total) * Fraction(2) ** (40 * b - 80) - exact) <= bound * exact
            found = norm(values)
            if 2.0**-1022 < found < math.inf:
                assert abs(Fraction(found) ** 2 - exact) <= 2 * bound * exact


EDGES: dict[str, tuple[Callable[[], ao.Optimizer], float, float, float]] = {
    # A method, p, g, and the step: both of four equal elements.
    "LARS, tiny gradient": (lambda: ao.LARS(0.1), 1.0, 1e-20, 0.1 * 0.001),
    "LAMB, huge parameter": (lambda: ao.LAMB(0.1), 1e20, 1.0, 0.1 * 1e20),
    "clip, huge gradient": (lambda: ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0)), 0.0, 1e20, 0.5),
    "clip, hugest gradient": (lambda: ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0)), 0.0, 1e160, 0.5),
    "clip, tiny bound": (lambda: ao.chain(ao.ClipGlobalNorm(1e-26), ao.SGD(1.0)), 0.0, 1e-20, 0.5e-26),
}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("home", [*ENGINES, *LIBRARIES, "jax"])
def test_neither_overflow_nor_underflow(home: str, name: str, need: Callable[[str], Library]) -> None:
    """Squares that float32, or even float64, does not hold: right to round-off, however small or large a norm is."""
    make, p, g, step = EDGES[name]
    lib = need("numpy" if home in ENGINES else home)
    with lib.context():
        for dtype in ("float32", "float64"):
            if dtype in lib.dtypes and max(p, g) < float(np.finfo(dtype).max):
                optimizer = make()
                if home in ENGINES:
                    optimizer.engine = home
                new = optimizer.update(lib.asarray(np.full(4, p, dtype)), lib.asarray(np.full(4, g, dtype)))
                np.testing.assert_allclose(lib.values(new), p - step, rtol=1e-6 if dtype == "float32" else 1e-14)
