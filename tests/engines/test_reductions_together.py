"""Several reductions that are taken together have the bits of each by itself, and of exact arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._engines import CoefficientTable
from anyoptim._engines._base import Leaf
from anyoptim._engines._chunks import plans
from anyoptim._engines.compiled import _plan as compiled
from anyoptim._engines.compiled._reductions import TOTALS_TEXT
from tests.reference.norms import norm, total
from tests.support.internals import ENGINES as BY_NAME
from tests.support.internals import (
    Dispatch,
    Part,
    Program,
    elsewhere,
    machine_code,
    on_nothing,
    on_value,
    quiet,
    reduction,
    static_options,
)
from tests.support.internals import library as library_of
from tests.support.libraries import Library

ENGINES: tuple[ao.EngineName, ...] = ("portable", "blocked", "compiled")

LIBRARIES = ["strict", "torch", "dask", "jax-x64", "cuda-shim"]

SLOTS = 3


def _p(xp: Any, p: Any, x: Any, *slots: Any) -> Any:
    return p


def _x(xp: Any, p: Any, x: Any, *slots: Any) -> Any:
    return x


def _slot(j: int) -> Callable[..., Any]:
    return lambda xp, p, x, *slots: slots[j]


def _scaled(xp: Any, p: Any, x: Any, *rest: Any) -> Any:
    *slots, c = rest
    return (x * c.by, *slots)


def _negated(xp: Any, p: Any, x: Any, c: Any) -> Any:
    return -x if c.negative else x


ASKED: tuple[ao.Norm | ao.Dot | ao.Sum | ao.Max | ao.Count, ...] = (
    *(ao.Dot(_x, _slot(j)) for j in range(SLOTS)),
    ao.Dot(_slot(2), _slot(0)),
    ao.Dot(_x, _x),
    ao.Norm(_slot(1)),
    ao.Sum(_x),
    ao.Max(_slot(1)),
    ao.Count(lambda xp, p, x, *slots: x > 0.125),
    ao.Dot(lambda xp, p, x, *slots: p - x, lambda xp, p, x, *slots: 0.5 * slots[0]),
)


def _program(*rules: Part) -> tuple[Program, list[int]]:
    """The rules, and all reductions of what they give; and the numbers of the reductions' parts."""
    parts = [Part(on_nothing, of.functions[0], reduction=of, what="it", seen=(on_value, SLOTS)) for of in ASKED]
    state = Part(on_value, _kept, slots=tuple("uvw"))
    return Program((*rules, *parts, state)), [len(rules) + k for k in range(len(parts))]


def _kept(xp: Any, p: Any, x: Any, *rest: Any) -> Any:
    return (x, *rest[:-1])


PLAIN, KS = _program()

SQUARE = 4
"""The place of `Dot(_x, _x)`."""

Arrays = Sequence[np.ndarray[Any, Any]]


def _dispatch(
    lib: Library, program: Program, leaves: Sequence[Arrays], engine: str | None = None
) -> tuple[Dispatch, Any]:
    """The leaves, each of p, x and the slots, and the gradients as the engines take them."""
    made, xs = [], []
    for arrays in leaves:
        p, x, *slots = map(lib.asarray, arrays)
        own = library_of(p)
        made.append(Leaf(own, p, tuple(slots), p))
        xs.append(x)
    dispatch = Dispatch(engine, [program] * len(made), made, xs, plans(engine))
    return dispatch, dispatch.gather(xs)


def _same(found: Any, wanted: Any) -> bool:
    found, wanted = float(found), float(wanted)
    return (found == wanted and math.copysign(1, found) == math.copysign(1, wanted)) or (
        found != found != wanted != wanted
    )


def _singly(
    dispatch: Dispatch, program: Program, ks: Sequence[int], gathered: Any, rows: CoefficientTable
) -> list[Any]:
    reductions = [(k, program.reduction(k)) for k in ks]
    each = [(of, dispatch.reduced(of.kind, {id(program): k}, gathered, rows)) for k, of in reductions]
    return [dispatch.value_of(*both) for both in each]


def _agree(dispatch: Dispatch, program: Program, ks: Sequence[int], gathered: Any, rows: CoefficientTable) -> list[Any]:
    """The values together, twice, which are those of each. Who takes a step tells NumPy not to warn."""
    with quiet():
        return _agreed(dispatch, program, ks, gathered, rows)


def _agreed(
    dispatch: Dispatch, program: Program, ks: Sequence[int], gathered: Any, rows: CoefficientTable
) -> list[Any]:
    together = dispatch.values(ks, gathered, rows)
    assert [*map(_same, together, _singly(dispatch, program, ks, gathered, rows))] == [True] * len(ks), together
    assert [*map(_same, together, dispatch.values(ks, gathered, rows))] == [True] * len(ks)
    return together


def _rows(leaves: Sequence[Any], *coefficients: Any) -> CoefficientTable:
    row = (*coefficients, *({},) * (1 + len(ASKED)))
    return CoefficientTable([row], [0] * len(leaves))


def _values(rng: np.random.Generator, dtype: str, n: int, low: float, high: float) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        values = np.ldexp(rng.uniform(-1, 1, n), rng.uniform(low, high + 1, n).astype(int)).astype(dtype)
    largest = np.finfo(dtype).max
    return np.asarray(np.clip(values, -largest, largest))


def _reals(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return a.view(a.real.dtype).astype(float)


def _exact(leaves: Sequence[Arrays]) -> list[float]:
    """The values by the definition, in exact arithmetic; what the functions compute is of the leaves' dtype."""
    dtype = np.result_type(np.float32, *leaves[0][2:])
    with np.errstate(all="ignore"):
        p, x, u, v, w = (np.concatenate([_reals(np.ravel(a)) for a in some]) for some in zip(*leaves, strict=True))
        part = dtype.type(0).real.dtype
        difference, half = ((a.astype(part) for a in (p, x)), np.asarray(0.5, part) * u.astype(part))
        first, second = difference
        products = [x * u, x * v, x * w, w * u, (first - second).astype(float) * half.astype(float)]
    dots = [total(a.tolist()) for a in products]
    length = norm(x.tolist())
    rest = [total(x.tolist()), float(np.max(v, initial=-math.inf)) + 0.0, float(np.count_nonzero(x > 0.125))]
    return [*dots[:4], length, norm(v.tolist()), *rest, dots[4]]


def _right(found: Sequence[Any], leaves: Sequence[Arrays], of: Sequence[int] = range(len(ASKED))) -> None:
    _match(found, [_exact(leaves)[k] for k in of], of)


def _match(found: Sequence[Any], exact: Sequence[float], of: Sequence[int] = range(len(ASKED))) -> None:
    for k, value, wanted in zip(of, map(float, found), exact, strict=True):
        if k != SQUARE:
            assert _same(value, wanted), (k, value, wanted)
        elif not 1e150 < wanted < math.inf:  # of a length that was rounded
            assert value == pytest.approx(wanted * wanted, rel=1e-15, abs=1e-300, nan_ok=True), (value, wanted)


def _cases(normal: bool = False) -> list[list[list[np.ndarray[Any, Any]]]]:
    """Leaves of one dtype: mixed scales, subnormal numbers, cancellation, infinities, NaN, zeros, nothing."""
    rng, cases = np.random.default_rng(1), []
    for dtype, low, high in (("float32", -149, 127), ("float64", -1070, 1023)):
        widths = [(-3.0, 3.0), (-40.0, 40.0), (0.2 * low, 0.2 * high), *([] if normal else [(float(low), float(high))])]
        for least, most in widths:
            sizes = [37, 0, 300, 1]
            cases.append([[_values(rng, dtype, n, least, most) for _ in range(2 + SLOTS)] for n in sizes])
        for bad in ([math.inf], [-math.inf], [math.inf, -math.inf], [math.nan], [-math.nan], [math.inf, math.nan]):
            leaf = [_values(rng, dtype, 50, -3, 3) for _ in range(2 + SLOTS)]
            leaf[1][rng.choice(50, len(bad), replace=False)] = bad
            cases.append([[_values(rng, dtype, 9, -30, 30) for _ in range(2 + SLOTS)], leaf])
        cases.append([[np.zeros(5, dtype)] * (2 + SLOTS), [np.zeros(3, dtype)] * (2 + SLOTS)])
        cases.append([[np.zeros((0, 3), dtype)] * (2 + SLOTS)])
        a = _values(rng, dtype, 64, -3, 3)
        both = np.concatenate([a, -a])
        cases.append([[both, both, *(np.repeat(np.asarray(1.5**j, dtype), 128) for j in range(SLOTS))]])
    return cases


@functools.cache
def _exact_cases() -> list[tuple[list[list[np.ndarray[Any, Any]]], list[float]]]:
    """Each with its values."""
    return [(leaves, _exact(leaves)) for leaves in _cases()]


@pytest.mark.telling
@pytest.mark.parametrize("engine", ENGINES)
def test_values_are_exact(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    for leaves, exact in _exact_cases():
        dispatch, gathered = _dispatch(need("numpy"), PLAIN, leaves, engine)
        _match(_agree(dispatch, PLAIN, KS, gathered, _rows(leaves)), exact)


@pytest.mark.parametrize("library", LIBRARIES)
def test_on_any_library(library: str, need: Callable[[str], Library]) -> None:
    """But that JAX takes subnormal numbers for 0."""
    lib = need(library)
    with lib.context():
        cases = _exact_cases()[:: 4 if library == "dask" else 2]
        if library == "jax-x64":  # which compiles for each shape
            cases = [(leaves[:1], _exact(leaves[:1])) for leaves in _cases(normal=True)[::4]]
        for leaves, exact in cases:
            dispatch, gathered = _dispatch(lib, PLAIN, leaves)
            _match(_agree(dispatch, PLAIN, KS, gathered, _rows(leaves)), exact)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128"])
def test_half_and_complex(dtype: str, engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Half precision is wide in the slots; a complex element is two."""
    rng, leaves = np.random.default_rng(2), []
    wide = {"float16": "float32"}.get(dtype, dtype)
    for n in (40, 0, 7):
        arrays = [_values(rng, np.zeros(0, wide).real.dtype.name, 2 * n, -9, 9) for _ in range(2 + SLOTS)]
        own = [a.view(wide) if wide == dtype else a for a in arrays]
        leaves.append([a.astype(dtype) if i < 2 else a for i, a in enumerate(own)])
    if (dtype, engine) == ("float16", "compiled"):
        pytest.skip("the compiled engine takes no half precision")
    dispatch, gathered = _dispatch(need("numpy"), PLAIN, leaves, engine)
    together = _agree(dispatch, PLAIN, KS, gathered, _rows(leaves))
    _right(together, leaves)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_whole_complex_elements(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """What asks for a modulus is of one number for an element, beside what is of two."""
    asked = [ao.Sum(lambda xp, p, x, u: xp.modulus(u)), ao.Dot(_x, _slot(0)), ao.Max(lambda xp, p, x, u: xp.modulus(x))]
    parts = [Part(on_nothing, of.functions[0], reduction=of, what="it", seen=(on_value, 1)) for of in asked]
    program = Program((*parts, Part(on_value, _kept, slots=("u",))))
    rng = np.random.default_rng(3)
    p, x, u = (rng.normal(size=30) + 1j * rng.normal(size=30) for _ in range(3))
    dispatch, gathered = _dispatch(need("numpy"), program, [[p, x, u], [p[:0], x[:0], u[:0]]], engine)
    rows = CoefficientTable([({},) * 4], [0, 0])
    found = _agree(dispatch, program, [0, 1, 2], gathered, rows)
    moduli = [np.sqrt(a.real * a.real + a.imag * a.imag) for a in (u, x)]
    np.testing.assert_allclose(found, [moduli[0].sum(), np.vdot(x, u).real, moduli[1].max()], rtol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_after_rules_with_other_numbers(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Leaves of which each has its own coefficients and options, which change from one time to the next."""
    program, ks = _program(Part(on_value, _scaled, slots=()), Part(on_value, _negated))
    of = [0, SQUARE]  # each is compiled for each of the options
    rng, lib = np.random.default_rng(4), need("numpy")
    leaves = [[_values(rng, "float64", n, -3, 3) for _ in range(2 + SLOTS)] for n in (50, 11, 8)]
    dispatch, gathered = _dispatch(lib, program, leaves, engine)
    for factors in ((2.0, 0.5, 4.0), (3.0, 8.0, 0.25)):
        for options in ((False, True, False), (True, True, True)):
            both = list(zip(factors, options, strict=True))
            rows: list[Any] = [({"by": by}, {"negative": negative}, *({},) * (1 + len(ASKED))) for by, negative in both]
            found = _agree(dispatch, program, [ks[k] for k in of], gathered, CoefficientTable(rows, [0, 1, 2]))
            given = [
                [p, x * by * (-1 if negative else 1), *slots]
                for (p, x, *slots), (by, negative) in zip(leaves, both, strict=True)
            ]
            _right(found, given, of)


@functools.cache
def _long(order: str) -> tuple[list[list[np.ndarray[Any, Any]]], list[float]]:
    """Arrays whose largest elements grow or shrink, and the values."""
    rng = np.random.default_rng(5)
    arrays = [_values(rng, "float32", 5000, -60, 60) for _ in range(2 + SLOTS)]
    if order != "random":
        arrays = [a[np.argsort(abs(a), kind="stable")][:: 1 if order == "growing" else -1].copy() for a in arrays]
    leaves = [arrays, [a[:1100] for a in arrays]]
    return leaves, _exact(leaves)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("order", ["growing", "shrinking", "random"])
def test_long_arrays(
    order: str,
    engine: ao.EngineName,
    need: Callable[[str], Library],
    small_pieces: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many chunks and tiles, shared among threads, between which the largest element changes; twice."""
    monkeypatch.setattr(compiled, "CHUNK", 2048)  # of two tiles
    leaves, exact = _long(order)
    dispatch, gathered = _dispatch(need("numpy"), PLAIN, leaves, engine)
    _match(_agree(dispatch, PLAIN, KS, gathered, _rows(leaves)), exact)


@pytest.mark.parametrize("engine", ENGINES)
def test_other_gradients(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """Wherever they lie: the plan is laid once."""
    rng, lib = np.random.default_rng(6), need("numpy")
    leaf = [_values(rng, "float32", 100, -3, 3) for _ in range(2 + SLOTS)]
    dispatch, _ = _dispatch(lib, PLAIN, [leaf], engine)
    for _ in range(3):
        x = _values(rng, "float32", 100, -3, 3)
        _right(dispatch.values(KS, dispatch.gather([x]), _rows([leaf])), [[leaf[0], x, *leaf[2:]]])


def test_leaves_of_several_engines(need: Callable[[str], Library]) -> None:
    """Of two libraries, and of layouts that the compiled engine does not take."""
    rng = np.random.default_rng(7)
    torch = need("torch")
    leaves = [[_values(rng, "float32", n, -3, 3) for _ in range(2 + SLOTS)] for n in (20, 30, 40)]
    given = [[*map(torch.asarray, leaves[0])], [np.repeat(a, 2)[::2] for a in leaves[1]], leaves[2]]
    made = [Leaf(library_of(p), p, tuple(slots), p) for p, _, *slots in given]
    xs = [x for _, x, *_ in given]
    dispatch = Dispatch(None, [PLAIN] * 3, made, xs)
    assert len(dispatch.assignments) > 1
    _right(_agree(dispatch, PLAIN, KS, dispatch.gather(xs), _rows(leaves)), leaves)


def test_jax_without_float64(need: Callable[[str], Library]) -> None:
    """Which adds in float32: to the same numbers as one reduction at a time."""
    lib, rng = need("jax"), np.random.default_rng(8)
    leaf = [_values(rng, "float32", 60, -3, 3) for _ in range(2 + SLOTS)]
    with lib.context():
        dispatch, gathered = _dispatch(lib, PLAIN, [leaf])
        found = dispatch.values(KS[:2], gathered, _rows([leaf]))
        np.testing.assert_allclose(found, _singly(dispatch, PLAIN, KS[:2], gathered, _rows([leaf])), rtol=1e-6)


def test_equal_dots_are_one_loop(need: Callable[[str], Library]) -> None:
    """Of other arrays, and of other programs: twenty inner products are compiled once."""
    leaf = [np.ones(8)] * (2 + SLOTS)
    dispatch, gathered = _dispatch(need("numpy"), PLAIN, [leaf], "compiled")
    assert dispatch.values(KS[:3], gathered, _rows([leaf])) == [8.0] * 3
    other, ks = _program(Part(on_value, _negated))
    texts = [compiled.text(PLAIN, k, static_options([{}] * k), "float64").module for k in KS[:3]]
    options = static_options([{"negative": False}, *[{}] * len(ASKED)])
    texts += [compiled.text(other, k, options[:k], "float64").module for k in ks[:3]]
    assert len({*texts}) == 1


def test_one_task_for_each_chunk(need: Callable[[str], Library]) -> None:
    """Of Dask's arrays, whichever the number of reductions."""
    lib = need("dask")
    import dask

    leaf, tasks = [np.ones(8)] * (2 + SLOTS), list[Any]()
    dispatch, gathered = _dispatch(lib, PLAIN, [leaf])
    with dask.callbacks.Callback(pretask=lambda key, *_: tasks.append(key)):
        dispatch.values(KS, gathered, _rows([leaf]))
    blocks = 2 * (2 + SLOTS)  # and the arrays' own
    assert len(tasks) <= blocks + 2 + 1


@pytest.mark.parametrize("engine", ENGINES)
def test_leaves_of_one_gradient(engine: ao.EngineName, need: Callable[[str], Library], small_pieces: None) -> None:
    """Inner products of many vectors with one, as a solver asks for them, and of one with itself: without a copy."""
    program = Program((Part(on_nothing, _p, reduction=ao.Dot(_p, _x), what="it", seen=(None, 0)),))
    rng = np.random.default_rng(9)
    xs = [_values(rng, "float32", n, -30, 30) for n in (5000, 1300, 3)]
    # Of scales that are far apart, since what is guessed of a vector is what was found of the one before.
    vectors = [*([_values(rng, "float32", x.size, b - 30, b + 30) for x in xs] for b in (60, -60, 0, 90, -9)), xs]
    pairs = [(v, x) for vector in vectors for v, x in zip(vector, xs, strict=True)]
    leaves = [Leaf(library_of(v), v, (), v) for v, _ in pairs]
    dispatch = Dispatch(engine, [program] * len(leaves), leaves, [x for _, x in pairs])
    gathered = dispatch.gather([x for _, x in pairs])
    assert all(np.shares_memory(given, x) for given, (_, x) in zip(gathered[0], pairs, strict=True))
    with quiet():
        rows = dispatch.reduced("terms", {id(program): 0}, gathered, CoefficientTable([()], [0] * len(leaves)))
    for i, (v, x) in enumerate(pairs):
        assert _same(dispatch.value_of(program.reduction(0), {i: rows[i]}), total((v.astype(float) * x).tolist()))


@pytest.mark.parametrize("engine", ENGINES)
def test_elements_that_grow_at_once(engine: ao.EngineName, need: Callable[[str], Library]) -> None:
    """From one tile of a chunk to the next, by one unit or several: what was added before moves as many places."""
    rng = np.random.default_rng(10)
    for jump in (-90, 25, 45, 63, 130):
        x, v = (np.concatenate([_values(rng, "float64", 1024, b, b) for b in (18, 18 + jump)]) for _ in range(2))
        dispatch, gathered = _dispatch(need("numpy"), PLAIN, [[x, x, v, v, v]], engine)
        with quiet():
            found = dispatch.values(KS[:1], gathered, _rows([x]))
        assert _same(found[0], total((x * v).tolist())), jump


def test_what_only_asks_has_no_step_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loops are compiled beside training, too."""
    begun: list[Any] = []

    def compilation(texts: Any) -> Any:
        begun.append(texts)
        return SimpleNamespace(done=bool)

    monkeypatch.setattr(elsewhere, "Compilation", compilation)
    asks = Part(on_nothing, _x, reduction=ao.Sum(_x), what="it", seen=(on_value, SLOTS))
    for own in (Part(on_nothing, _x, slots=tuple("uvw")), Part(on_value, _kept, slots=tuple("uvw"))):
        BY_NAME["compiled"].begin(Program((asks, own)), [({},) * 2], "float64")
    of_asks, with_step = begun
    assert len(with_step) == len(of_asks) + 1


def test_values_of_rows_by_machine_code() -> None:
    """The compiled engine makes of rows what `total`, `largest` and `norm` do, bit for bit, or leaves them to these."""
    rng, told, columns = np.random.default_rng(0), machine_code.native(TOTALS_TEXT), reduction.COLUMNS
    for n in [*range(12)] * 40:
        rows, found = np.zeros((5, n, columns), np.int64), np.empty(5)
        rows[:, :, 0] = rng.integers(0, 105) + rng.integers(0, rng.choice([1, 5]), (5, n))
        rows[:, :, 1:] = rng.integers(-(2 ** rng.integers(1, 50)), 2 ** rng.integers(1, 50), (5, n, columns - 1))
        rows[4] = np.abs(rows[4])
        rows[:, :, 1 : rng.integers(1, columns)] //= 2**45  # sums that carry, or cancel
        maxima = rng.choice([-math.inf, -2.0, 0.0, 3.0, math.inf, math.nan], n)
        rows[3, :, 0] = maxima.view(np.int64)
        told.bind(rows, np.array([1, 1, 0, 2, 3], np.int64), np.empty(columns - 1, np.int64), found)()
        assert found[2] != found[2]
        assert _same(found[3], reduction.largest(np, [maxima[:, None]]))
        for k, wanted in ((0, _terms), (1, _terms), (4, reduction.norm)):
            infinite = bool(n) and rows[k, :, 0].max() >= reduction.INFINITE
            assert found[k] != found[k] if infinite else _same(found[k], wanted(np, [rows[k]]))


def _terms(xp: Any, rows: Any) -> Any:
    return reduction.total(xp, rows, "terms")
