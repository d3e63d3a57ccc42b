"""Dropout's engines on this machine: the bits of the portable path, in threads, in place, without a mask."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim.random import _blocked, _blocked_words, _compiled, _dropout
from tests.reference.philox import choice
from tests.support.engines import dropout_on
from tests.support.internals import COMPUTE, library
from tests.support.internals import ENGINES as ALL_ENGINES
from tests.support.internals import headers as _array_headers
from tests.support.internals import threads as _threads
from tests.support.libraries import COMPLEX, HALF, REAL, Library, numpy_dtype, same_bits

ENGINES = ["compiled", "blocked"]
DTYPES = HALF + REAL + COMPLEX
FEW = ("float16", "bfloat16", "float32", "complex64")
"""Each has loops of its own, which take seconds to compile: the others run among the products."""
MIB = 1 << 20
TURNS: list[Callable[[Any], Any]] = [lambda a: a, lambda a: a.T, lambda a: a[::3]]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Each engine in turn, and how often it has run."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the compiled engine needs it")
    monkeypatch.setattr(_dropout, "WORTHWHILE", 0 if request.param == "compiled" else math.inf)
    module = {"compiled": _compiled, "blocked": _blocked}[request.param]
    runs: list[int] = []
    original = module.dropout

    def counted(*given: Any) -> None:
        runs.append(1)
        original(*given)

    monkeypatch.setattr(module, "dropout", counted)
    for each in (_compiled, _blocked):
        monkeypatch.setattr(each, "_PLAIN", {})  # so that nothing is quick, which wouldn't be counted
    return runs.__len__


def _portable(x: Any, *arguments: Any, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        dropout_on("portable", patch)
        return ao.dropout(x, *arguments, **options)


def _values(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Of all sizes, with those among them that a factor of 0 or a rounding can do much to."""
    rng = np.random.default_rng(math.prod(shape))

    def some() -> Any:
        x = rng.normal(size=shape) * 10.0 ** rng.integers(-8, 5, size=shape)
        special = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 6e-8, 65519.0, 65520.0, 3.4e38], size=shape)
        return np.where(rng.random(shape) < 0.3, special, x)

    with np.errstate(over="ignore"):
        if dtype not in COMPLEX:
            return np.asarray(some().astype(numpy_dtype(dtype)))
        z = np.empty(shape, dtype)
        z.real, z.imag = some(), some()
        return z


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": lambda x: x,
    "F": lambda x: np.asarray(x, order="F"),
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "rolled": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "all the same row": lambda x: np.broadcast_to(x[:1], x.shape),
}

OFFSETS = st.integers(0, 9) | st.integers(0, 2**64 - 1) | st.integers(2**35 - 40, 2**35 + 5)
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple) | st.sampled_from(
    [(0,), (3, 0, 2), (1023,), (4096,), (4097,), (70, 50), (3, 1500), (1500, 3), (2, 70, 30)]
)


@pytest.mark.parametrize(
    "dtypes",  # for each of which four loops are compiled; test_tensors has others, too
    [
        ("float32", "float16"),
        pytest.param(("complex64", "float64", "bfloat16", "complex128"), marks=pytest.mark.product),
    ],
)
@settings(max_examples=30)
@example(0, (70, 130), "F", 0.5, 1, 2, 3, True, False)
@example(0, (40, 2000), "F", 0.5, 1, 2, 3, True, False)
@example(1, (1500,), "C", 0.5, 1, 2, 3, True, True)
@example(0, (70, 130), "rolled", 0.5, 2**64 - 1, 2**64 - 1, 2**35 - 7, True, True)
@given(
    st.integers(0, 3),
    SHAPES,
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([0.0, 0.25, 0.5, 1 / 3, 1.0]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    OFFSETS,
    st.booleans(),
    st.booleans(),
)
def test_bits(
    engine: Callable[[], int],
    dtypes: tuple[str, ...],
    which: int,
    shape: tuple[int, ...],
    layout: str,
    ratio: float,
    key: int,
    call: int,
    offset: int,
    inverted: bool,
    inplace: bool,
) -> None:
    """Of any dtype, shape and layout, from any choice on, in new memory and in place, as the portable path has them."""
    x = LAYOUTS[layout](_values(shape, dtypes[which % len(dtypes)]))
    before, runs = x.copy(), engine()
    expected = np.asarray(_portable(x, ratio, key, call, offset, inverted=inverted))
    inplace = inplace and layout != "all the same row"
    y = ao.dropout(x, ratio, key, call, offset, inverted=inverted, out=x if inplace else None)
    assert engine() - runs == (x.size > 0)
    assert (y is x) == inplace
    assert same_bits(np.ascontiguousarray(y), np.ascontiguousarray(expected))
    if not inplace:
        assert same_bits(np.ascontiguousarray(x), np.ascontiguousarray(before))


@pytest.mark.parametrize("dtype", [pytest.param(of, marks=() if of in FEW else pytest.mark.product) for of in DTYPES])
def test_every_half(engine: Callable[[], int], dtype: str) -> None:
    """All 2**16 of them, scaled by factors that round and overflow; and of the other dtypes as many bit patterns."""
    x: Any = np.arange(1 << 16, dtype=np.uint16)
    if dtype not in HALF:
        x = np.random.default_rng(1).integers(0, 256, np.dtype(dtype).itemsize << 16, dtype=np.uint8)
    with np.errstate(invalid="ignore"):
        x = x.view(numpy_dtype(dtype))
        for ratio in (0.0, 0.1, 0.9):
            expected = _portable(x, ratio, 1, inverted=True)
            assert same_bits(ao.dropout(x, ratio, 1, inverted=True), expected)
    assert engine() == 3


@pytest.mark.parametrize("layout", ["C", "F", "rolled"])
def test_threads_share_it_out(engine: Callable[[], int], layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bits of one thread; each does something."""
    seen: list[int] = []
    original = _threads.spread
    monkeypatch.setattr(_threads, "threads", lambda: 3)

    def counted(call: Callable[..., object], pieces: Any) -> None:
        seen.append(len(pieces))
        original(call, pieces)

    monkeypatch.setattr(_threads, "spread", counted)
    monkeypatch.setattr(_compiled, "PIECE", 1 << 10)
    monkeypatch.setattr(_blocked_words, "COUNTERS", 1 << 8)
    monkeypatch.setattr(_blocked_words, "_free", deque())
    x = LAYOUTS[layout](_values((60, 50, 40), "float32"))
    for offset in (0, 3, 2**35 - 70_001):
        expected = np.asarray(_portable(x, 0.3, 5, 6, offset, inverted=True))
        y = ao.dropout(x, 0.3, 5, 6, offset, inverted=True)
        assert same_bits(np.ascontiguousarray(y), np.ascontiguousarray(expected))
    assert min(seen) > 1


def test_without_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NumPy's objects are not as they are taken to be, by addresses."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    monkeypatch.setattr(_dropout, "WORTHWHILE", 0)
    monkeypatch.setattr(_array_headers, "reliable", lambda: False)
    for x in (_values((100,), "float32"), _values((10, 10), "float32")[:, ::2]):
        assert same_bits(np.ascontiguousarray(ao.dropout(x, 0.5, 1)), np.ascontiguousarray(_portable(x, 0.5, 1)))


def test_shards_equal_the_whole(engine: Callable[[], int]) -> None:
    """Wherever it is cut."""
    x = _values((5000,), "float32")
    whole = ao.dropout(x, 0.4, 8, 3, 2**35 - 2000, inverted=True)
    for cut in (1, 2, 7, 1999, 2000, 2001, 4998):
        parts = [ao.dropout(a, 0.4, 8, 3, 2**35 - 2000 + at, inverted=True) for a, at in ((x[:cut], 0), (x[cut:], cut))]
        assert same_bits(np.concatenate(parts), whole)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_all_bits_of_a_choice_count(engine: Callable[[], int], layout: str) -> None:
    """Of each of the eight of a counter: at its own value it stays, and is dropped at the next."""
    x = LAYOUTS[layout](np.ones((4, 2), np.float32))
    for i in range(8):
        own = choice(i, 5, 6)
        kept = [np.asarray(ao.dropout(x, limit / 2**32, 5, 6)).reshape(-1)[i] != 0 for limit in (own, own + 1)]
        assert kept == [True, False]


def test_draws_go_on_beyond_64_bits(engine: Callable[[], int]) -> None:
    """Where offset and element are more than 2**64 together, in whatever order the elements lie."""
    for layout, change in LAYOUTS.items():
        x = change(_values((60, 50, 40), "float32"))
        for offset in (2**64 - 1, 2**64 - 50_001):
            expected, y = _portable(x, 0.3, 1, 2, offset), ao.dropout(x, 0.3, 1, 2, offset)
            assert same_bits(np.ascontiguousarray(y), np.ascontiguousarray(expected)), layout


def test_a_draw_within_a_draw(engine: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the handler of a signal makes: each has a table and buffers of its own, and no more stay than were needed."""
    x, small = _values((100_000,), "float32"), _values((30,), "float32")
    expected, other = _portable(x, 0.5, 1, 2), _portable(small, 0.5, 3)
    inside: list[Any] = []

    def nested(call: Callable[..., None], *args: Any) -> None:
        if not inside:
            inside.append(None)
            inside[0] = ao.dropout(small, 0.5, 3)
        call(*args)

    for module, name in ((_blocked_words, "_draw"), (_compiled, "_run")):
        monkeypatch.setattr(module, name, partial(nested, getattr(module, name)))
        monkeypatch.setattr(module, "_free", deque())
    assert same_bits(ao.dropout(x, 0.5, 1, 2), expected)
    assert same_bits(inside[0], other)
    assert len(_blocked_words._free) <= 2
    assert len(_compiled._free) <= 2


def test_the_layer(engine: Callable[[], int]) -> None:
    """Forward and backward, with gradients of other dtypes and layouts."""
    x = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    layer = ao.Dropout(0.4, inverted=True, seed=3)
    for call in range(3):
        assert same_bits(layer.forward(x), _portable(x, 0.4, 3, call, inverted=True))
        for dout in (x, x[::-1].copy("F"), x.astype(np.float16), x.astype(np.float64)):
            expected = np.asarray(_portable(dout, 0.4, 3, call, inverted=True))
            assert same_bits(np.ascontiguousarray(layer.backward(dout)), np.ascontiguousarray(expected))
    assert engine() == 15


def test_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's small plain arrays, once the loop is there: the same bits, counts and masks; all else by the checks."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    monkeypatch.setattr(_dropout, "WORTHWHILE", 0)
    seen: list[bool] = []
    original = _compiled.fast_dropout

    def watched(*given: Any) -> Any:
        y = original(*given)
        seen.append(y is not None)
        return y

    monkeypatch.setattr(_compiled, "fast_dropout", watched)
    for dtype in ("float16", *REAL):
        for ratio in (0.0, 0.3, 1.0):
            layer, other = (ao.Dropout(ratio, inverted=True, seed=2**64 - 1) for _ in range(2))
            x = np.random.default_rng(0).normal(size=(31, 33)).astype(dtype)
            x[0, :3] = np.inf, np.nan, -0.0
            for call in range(3):
                expected = _portable(x, ratio, 2**64 - 1, call, inverted=True)
                assert same_bits(layer.forward(x), expected)
                assert same_bits(layer.backward(x), expected)
                assert layer.backward(out := x.copy(), out=out) is out
                assert same_bits(out, expected)
                assert other.forward(x.tolist() and x.copy("F")).shape == x.shape
                assert same_bits(layer.mask, other.mask)
                assert layer.state_dict() == other.state_dict()
    assert seen.count(True) > 9 * 6
    x.flags.writeable = False
    with pytest.raises(TypeError, match="out can't be written to"):
        layer.forward(x, out=x)
    assert layer.calls == 3
    del seen[:]
    layer = ao.Dropout(0.5, seed=1)
    small = np.ones((4, 6), np.float32)
    odd: list[Any] = [
        small.T,
        small[:, ::2],
        small.astype(">f4"),
        small.astype(complex),
        np.ones((300, 300), "f4"),
        2.0,
    ]
    for each in odd:
        layer.forward(each)
        layer.backward(each)
    assert not any(seen)
    y = layer.forward(small)
    layer.key += 1
    assert same_bits(layer.backward(small), y)
    with pytest.raises(ValueError, match="dout has shape"):
        layer.backward(small[:2])
    layer.calls = 2**64 - 1
    layer.forward(small)
    with pytest.raises(ValueError, match="call is 1844"):
        layer.forward(small)
    layer.calls, layer.dropout_ratio = 0, 1
    assert not layer.forward(small).any()


def test_no_mask(engine: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a MiB beside 64 MiB of x, which is written to, by as many threads as there are on a large machine."""
    monkeypatch.setattr(_threads, "threads", lambda: 8)
    x = np.ones(1 << 24, np.float32)
    layer = ao.Dropout(0.5, seed=1)
    layer.forward(x, out=x)  # which imports and compiles what there is to
    monkeypatch.setattr(_blocked_words, "_free", deque())  # anew in every thread
    _blocked_words._first.cache_clear()
    tracemalloc.start()
    try:
        layer.forward(x, out=x)
        layer.backward(x, out=x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MIB
    assert 0.24 < x.mean() < 0.26
    assert engine() == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_are_long_enough(dtype: str) -> None:
    """For the longest block of any dtype, from any choice on: of one more element there is a second block."""
    most = _blocked._most(dtype)
    x = np.zeros(most + 1, numpy_dtype(dtype))
    a = x if COMPUTE[dtype] == dtype or dtype == "float16" else x.view(np.uint16)
    assert len(list(_blocked._blocks([a, a], 3, most))) == 2
    for offset in range(4):
        y = ao.dropout(x[:-1] + 1, 0.5, 1, 0, offset)
        assert same_bits(y, _portable(x[:-1] + 1, 0.5, 1, 0, offset))


def test_numba_comes_when_it_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """By dtype, after enough elements; calls count, too."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    taken: list[str] = []
    for module in (_compiled, _blocked):
        monkeypatch.setattr(module, "dropout", lambda dtype, *_, name=module.__name__: taken.append(name[-8:]))
    monkeypatch.setattr(_dropout, "WORTHWHILE", 3 * (_dropout.CALLS + 10))
    for _ in range(5):
        ao.dropout(np.ones(10), 0.5, 1)
    ao.dropout(np.ones(10, np.float32), 0.5, 1)
    assert taken == ["_blocked"] * 3 + ["compiled"] * 2 + ["_blocked"]


@pytest.mark.parametrize("what", ["missing", "broken"])
def test_without_numba(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other engine goes on."""
    monkeypatch.setattr(_dropout, "WORTHWHILE", 0)
    monkeypatch.setattr(ALL_ENGINES["compiled"], what, lambda: "there is none")
    monkeypatch.setattr(_compiled, "dropout", None)
    x = _values((100,), "float32")
    layer = ao.Dropout(0.5, seed=1)
    for found in (ao.dropout(x, 0.5, 1), layer.forward(x), layer.backward(x), layer.forward(x.copy(), call=0)):
        assert same_bits(found, _portable(x, 0.5, 1))


def test_odd_memory(engine: Callable[[], int]) -> None:
    """What isn't aligned goes to NumPy; what isn't native, or no plain array, the long way or as a plain array."""
    odd = np.zeros(9 * 4 + 1, np.uint8)[1:].view(np.float32)
    odd[:] = np.arange(9)
    packed = np.zeros(9, np.dtype([("a", "u1"), ("b", "f4")]))["b"]
    packed[:] = odd
    for x in (odd, packed, odd.astype(">f4")):
        assert same_bits(ao.dropout(x, 0.5, 2).astype("<f4"), _portable(x, 0.5, 2).astype("<f4"))

    class Own(np.ndarray[Any, Any]):
        pass

    y = ao.dropout(odd.copy().view(Own), 0.5, 2)
    assert type(y) is np.ndarray
    assert same_bits(y, _portable(odd, 0.5, 2))


# Results where the user wants them ---------------------------------------------------------------------------------


def test_out(lib: Library) -> None:
    """On every library that can be written to: forward, backward and inference; x itself, or another array."""
    x = np.arange(1.0, 31.0, dtype=np.float32).reshape(5, 6)
    layer, other = (ao.Dropout(0.4, inverted=inverted, seed=2) for inverted in (True, True))
    for turn in TURNS[:2]:
        given, room = turn(lib.asarray(x)), turn(lib.asarray(x * 0))
        if not lib.writable:
            with pytest.raises(TypeError, match=r"out can't be written to \(.*\); wanted None: a new array"):
                layer.forward(given, out=room)
            with pytest.raises(TypeError, match=r"out can't be written to"):
                ao.dropout(given, 0.4, 2, out=given)
            assert layer.calls == 0
            continue
        for out in (room, given):
            expected = lib.tonumpy(other.forward(turn(lib.asarray(x))))
            assert layer.forward(given, out=out) is out
            assert same_bits(lib.tonumpy(out), expected)
            expected = lib.tonumpy(other.backward(out))
            assert layer.backward(out, out=out) is out
            assert same_bits(lib.tonumpy(out), expected)
            plain = ao.Dropout(0.4, seed=2)
            expected = lib.tonumpy(plain.forward(out, training=False))
            assert plain.forward(out, training=False, out=out) is out
            assert same_bits(lib.tonumpy(out), expected)
        assert layer.forward(room, training=False, out=given) is given
        assert same_bits(lib.tonumpy(given), lib.tonumpy(room))


def test_another_object_on_the_same_memory(engine: Callable[[], int]) -> None:
    """Is x, in place, and the one that comes back."""
    x = _values((50, 20), "float32")
    out = x[:]
    expected = _portable(x, 0.5, 1)
    assert ao.dropout(x, 0.5, 1, out=out) is out
    assert same_bits(x, expected)


def _read_only() -> Any:
    a = np.zeros((4, 6), np.float32)
    a.flags.writeable = False
    return a


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "shape": (lambda x: np.zeros((6, 4), np.float32), ValueError, r"out has shape \(6, 4\) but x has shape \(4, 6\)"),
    "broadcastable": (lambda x: np.zeros((1, 4, 6), np.float32), ValueError, r"out has shape \(1, 4, 6\)"),
    "dtype": (lambda x: np.zeros((4, 6)), TypeError, "out has dtype float64 but x has dtype float32; wanted the same"),
    "float": (lambda x: 1.0, TypeError, "out is a builtins.float and x a numpy.ndarray; wanted arrays of one library"),
    "list": (lambda x: [1.0], TypeError, "out is a builtins.list and x"),
    "read-only": (lambda x: _read_only(), TypeError, r"out can't be written to \(numpy, ndarray\)"),
    "masked": (lambda x: np.ma.masked_less(x.copy(), 0), TypeError, "out is a numpy MaskedArray"),
    "overlapping": (lambda x: x.base[1:5], ValueError, "out shares part of its memory with x; wanted x itself, or"),
    "backwards": (lambda x: x[::-1], ValueError, "out shares part of its memory with x"),
    "one row": (lambda x: np.lib.stride_tricks.as_strided(np.zeros(6, "f4"), (4, 6), (0, 4)), ValueError, "overlaps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_out(name: str) -> None:
    """By name, before anything is written or counted."""
    make, error, says = BAD[name]
    whole = _values((6, 6), "float32")
    x = whole[:4]
    out, before = make(x), whole.copy()
    layer = ao.Dropout(0.5, seed=1)
    with pytest.raises(error, match=says):
        ao.dropout(x, 0.5, 1, out=out)
    for training in (True, False):
        with pytest.raises(error, match=says):
            layer.forward(x, training, out=out)
    assert layer.calls == 0
    layer.forward(x)
    with pytest.raises(error, match=re.sub(r"\bx\b", "dout", says)):
        layer.backward(x, out=out)
    assert same_bits(whole, before)


def test_columns_of_one_matrix_share_nothing(engine: Callable[[], int]) -> None:
    """Though they lie between each other."""
    both = _values((50, 8), "float32")
    x, out = both[:, ::2], both[:, 1::2]
    expected = np.asarray(_portable(x, 0.5, 1))
    assert ao.dropout(x, 0.5, 1, out=out) is out
    assert same_bits(np.ascontiguousarray(out), np.ascontiguousarray(expected))


def test_a_float_has_no_room() -> None:
    with pytest.raises(TypeError, match=r"out is a numpy.ndarray and x a builtins.float"):
        ao.dropout(1.0, 0.5, 1, out=np.zeros(()))


# Torch -------------------------------------------------------------------------------------------------------------


@pytest.mark.covering(1)  # what each engine makes of each dtype is seen above
@pytest.mark.parametrize("dtype", [pytest.param(of, marks=() if of in FEW else pytest.mark.product) for of in DTYPES])
def test_tensors(engine: Callable[[], int], dtype: str, need: Callable[[str], Library]) -> None:
    """Where they lie, of any dtype and layout: NumPy's bits; the version counts what was written to it."""
    lib = need("torch")
    x = _values((40, 30), dtype)
    for turn in TURNS:
        given = turn(lib.asarray(x))
        expected, runs, version = np.asarray(_portable(turn(x), 0.3, 1, inverted=True)), engine(), given._version
        y = ao.dropout(given, 0.3, 1, inverted=True)
        assert same_bits(lib.tonumpy(y), expected)
        assert given._version == version
        out = y * 0
        version = out._version
        assert ao.dropout(given, 0.3, 1, inverted=True, out=out) is out
        assert ao.dropout(given, 0.3, 1, inverted=True, out=given) is given
        assert same_bits(lib.tonumpy(out), expected)
        assert same_bits(lib.tonumpy(given), expected)
        assert out._version > version
        assert engine() - runs == 3


def test_a_write_is_noticed(engine: Callable[[], int], need: Callable[[str], Library]) -> None:
    """By a backward that wants the old values."""
    need("torch")
    import torch

    w, x = torch.ones(8, requires_grad=True), torch.ones(8)
    y = (w * x).sum()
    ao.dropout(x, 0.5, 1, out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_what_autograd_follows(engine: Callable[[], int], need: Callable[[str], Library]) -> None:
    """Goes the long way, so that it is followed through, and has no room of the user's."""
    need("torch")
    import torch

    x = torch.ones(64, requires_grad=True)
    ao.dropout(x, 0.5, 1).sum().backward()
    assert engine() == 0
    assert x.grad is not None
    assert np.array_equal(x.grad, _portable(np.ones(64), 0.5, 1))
    with pytest.raises(TypeError, match="out is given, but automatic differentiation follows x"):
        ao.dropout(x, 0.5, 1, out=torch.ones(64))
    with pytest.raises(TypeError, match="out is followed by automatic differentiation"):
        ao.dropout(torch.ones(64), 0.5, 1, out=x)
    with pytest.raises(TypeError, match="out is followed by automatic differentiation"):
        ao.dropout(x, 0.5, 1, out=x)
    with torch.no_grad():
        assert ao.dropout(x, 0.5, 1, out=x) is x
    assert engine() == 1
    lazy = torch.ones(5, dtype=torch.complex64).conj()
    assert ao.dropout(lazy, 0.0, 1).tolist() == [1] * 5
    assert engine() == 1
    with pytest.raises(TypeError, match="out can't be written to"):
        ao.dropout(torch.ones(5, dtype=torch.complex64), 0.5, 1, out=lazy)
    with pytest.raises(TypeError, match=r"out is a numpy.ndarray and x a torch.Tensor"):
        ao.dropout(torch.ones(5), 0.5, 1, out=np.ones(5, np.float32))
    batched = torch.func.vmap(lambda a: ao.dropout(a, 0.5, 1))(torch.ones(3, 64))
    assert same_bits(batched.numpy()[2], _portable(np.ones(64, np.float32), 0.5, 1))


def test_bits_are_the_memory(lib: Library) -> None:
    """What engines write to where they can."""
    for dtype in lib.dtypes:
        x = lib.array([[1.0, 2.0], [3.0, 4.0]], dtype)
        view = library(x).numpy_bits(x)
        if view is None:
            assert lib.name not in {"numpy", "torch"}
            continue
        assert view.dtype == (np.uint16 if dtype == "bfloat16" else np.dtype(dtype))
        view[0, 1] = view[1, 1]
        assert complex(lib.tonumpy(x)[0, 1]) == 4
