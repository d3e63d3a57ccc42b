"""Engines agree to the last bit, on every method, dtype, layout and on hostile values."""

from __future__ import annotations

import gc
import inspect
import linecache
import re
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import anyoptim as ao
from anyoptim._engines.blocked import _functions
from anyoptim._engines.blocked import _plan as blocked
from anyoptim._engines.compiled import _plan as compiled
from anyoptim._engines.compiled import _source as loops
from anyoptim._engines.portable import Portable
from tests.support.chains import agree, run
from tests.support.internals import ENGINES as ALL_ENGINES
from tests.support.internals import MemoryLayout, may_overlap, merged_ranges, reduction_text, static_options
from tests.support.layouts import LAYOUTS, hostile
from tests.support.libraries import ENGINES, METHODS, Library, same_bits

OTHERS = [name for name in ENGINES if name != "portable"]
DTYPES = ["float16", "float32", "float64", "complex64", "complex128"]
PRECISIONS = {"single": ("float32", "float16", "complex64"), "double": ("float64", "complex128")}
"""The dtypes that one kernel takes, which takes long to compile."""
BOTH = {"Adam", "Adan", "RAdam"}
"""Methods with all kinds of operations: the others run in float64 among the products."""
BITS = [
    pytest.param(name, precision, marks=() if precision == "single" or name in BOTH else pytest.mark.product)
    for name in METHODS
    for precision in PRECISIONS
]
COMPILED = {"float32", "float64", "complex64", "complex128"}
STEPS = 60
"""Far past the last at which a rule becomes another, as RAdam's does at its sixth."""


def _run(engine: ao.EngineName, method: type[Any], p: Any, gs: list[Any], **hyper: Any) -> tuple[Any, list[Any]]:
    optimizer = method(engine=engine, **hyper)
    for g in gs:
        assert optimizer.update({"p": p}, {"p": g})["p"] is p
    return p, [slot["p"] for slot in optimizer.state.slots.values()]


def _agree(one: tuple[Any, list[Any]], two: tuple[Any, list[Any]]) -> None:
    for a, b in zip((one[0], *one[1]), (two[0], *two[1]), strict=True):
        real = [x.view(x.real.dtype) if x.dtype.kind == "c" else x for x in map(np.ascontiguousarray, (a, b))]
        assert same_bits(*real)


@pytest.mark.parametrize(("name", "precision"), BITS)
def test_bits_over_many_steps_on_hostile_values(name: str, precision: str) -> None:
    """Steps from ordinary values, with gradients of any magnitude; and steps on hostile values."""
    for dtype in PRECISIONS[precision]:
        _over_many_steps(METHODS[name], dtype)


def _over_many_steps(method: type[Any], dtype: str) -> None:
    rng = np.random.default_rng(20)
    p = (rng.normal(size=(7, 9)) + 0j).astype(dtype) if "complex" in dtype else rng.normal(size=(7, 9)).astype(dtype)
    with np.errstate(all="ignore"):
        gs = [(rng.normal(size=(7, 9)) * 10.0 ** rng.integers(-8, 3)).astype(dtype) for _ in range(STEPS)]
    for start, grads in (
        (p, gs),
        (hostile(rng, (7, 9), dtype), [hostile(rng, (7, 9), dtype) for _ in range(20)]),
    ):
        expected = _run("portable", method, start.copy(), grads)
        for engine in OTHERS:
            _agree(expected, _run(engine, method, start.copy(), grads))


@pytest.mark.covering(1)  # they become native before a rule sees them
@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("dtype", [">f4", ">c16"])
def test_bits_of_big_endian_arrays(engine: ao.EngineName, method: type[Any], dtype: str) -> None:
    """Foreign byte order in parameter and gradient, and a change to it in mid-training, which changes no value."""
    rng = np.random.default_rng(26)
    native = np.dtype(dtype).newbyteorder("=")
    p = (rng.normal(size=6) + 1j * rng.normal(size=6) if "c" in dtype else rng.normal(size=6)).astype(native)
    gs = [p[::-1].astype(kind) for kind in (native, dtype, native, dtype)]
    results = []
    for name in ("portable", engine):
        optimizer, q = method(engine=name, lr=0.1), p.copy()
        for k, g in enumerate(gs):
            q = q.astype(dtype) if k == 2 else q
            optimizer.update({"p": q}, {"p": g})
        results.append((q.astype(native), [slot["p"] for slot in optimizer.state.slots.values()]))
    _agree(*results)


@settings(max_examples=15)  # for each of fifty cases, which differ
@given(
    shape=array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS))] * 2),
    dtypes=st.tuples(st.integers(0, 1), st.sampled_from(DTYPES[:3])),
    block=st.sampled_from([1, 2, 5, 64]),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("kinds", [DTYPES[:2], pytest.param(["float64"] * 2, marks=pytest.mark.product)], ids=str)
@pytest.mark.parametrize("engine", OTHERS)
def test_bits_on_any_shape_and_layout(
    engine: ao.EngineName,
    kinds: list[str],
    method: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    layouts: tuple[str, str],
    dtypes: tuple[int, str],
    block: int,
    seed: int,
) -> None:
    """Any memory order and dtype of parameter and gradient, cut into blocks of any size."""
    monkeypatch.setattr(blocked, "BLOCK", block)
    rng = np.random.default_rng(seed)
    # A 0-d array has one layout.
    one, two = (LAYOUTS[layout] if shape else np.array for layout in layouts)
    p = np.asarray(rng.normal(size=shape)).astype(kinds[dtypes[0]])
    gs = [two(np.asarray(rng.normal(size=shape)).astype(dtypes[1])) for _ in range(3)]
    _agree(_run("portable", method, one(p.copy()), gs), _run(engine, method, one(p.copy()), gs))


@pytest.mark.parametrize("engine", OTHERS)
def test_bits_across_blocks(engine: ao.EngineName, method: type[Any]) -> None:
    """Arrays longer than a block, whose last block is short."""
    rng = np.random.default_rng(21)
    p = rng.normal(size=(3, blocked.BLOCK + 11)).astype(np.float32)
    gs = [rng.normal(size=p.shape).astype(np.float32) for _ in range(3)]
    _agree(_run("portable", method, p.copy(), gs), _run(engine, method, p.copy(), gs))
    _agree(_run("portable", method, p.copy().T, [g.T for g in gs]), _run(engine, method, p.copy().T, [g.T for g in gs]))


@pytest.mark.parametrize("engine", OTHERS)
def test_gradients_in_memory_to_be_written(engine: ao.EngineName, method: type[Any]) -> None:
    """Gradients that are each other's parameters, shifted views of them, or a base of both, are read before written."""
    results = []
    for name in ("portable", engine):
        m = np.arange(1.0, 13.0, dtype=np.float32)
        params = {"a": m[:4], "b": m[4:8]}
        optimizer = method(engine=name, lr=0.5)
        optimizer.update(params, {"a": params["b"], "b": params["a"]})
        optimizer.update(params, {"a": m[3:7], "b": m[8:]})
        optimizer.update({"a": params["a"], "b": params["b"]}, {"a": params["a"], "b": m[1:5]})
        w = np.arange(4.0, dtype=np.float32)
        method(engine=name, lr=0.5).update([w, v := np.ones(4, np.float32)], [v, w])
        results.append((m, w, v))
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("engine", OTHERS)
def test_gradients_over_several_parameters(engine: ao.EngineName) -> None:
    """The base of a view that is a parameter; the middle of a later parameter; the optimizer's own slots."""
    results = []
    for name in ("portable", engine):
        base = np.arange(1.0, 7.0)
        params = {"a": np.ones(6), "b": base[:3], "c": base[3:]}
        optimizer = ao.Momentum(lr=0.5, engine=name)
        optimizer.update(params, {"a": base, "b": base[1:4], "c": base[2:5]})
        optimizer.update(params, {"a": np.ones(6), "b": np.ones(3), "c": base[:3]})
        slots = optimizer.state.slots["v"]  # type: ignore[union-attr]
        optimizer.update(params, {"a": slots["a"][::-1], "b": slots["a"][:3], "c": slots["b"]})
        results.append([params["a"], base])
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)


def test_parameters_and_gradients_in_two_flat_buffers() -> None:
    """Views of two buffers are told apart by sorting, not pair by pair, and no gradient is copied for it."""
    asked = 0

    class Counted(int):
        def __add__(self, other: int) -> Counted:
            nonlocal asked
            asked += 1
            return Counted(int(self) + other)

    n = 200
    memories = [MemoryLayout("cpu", Counted(64 * i), (16,), (4,), 4) for i in range(2 * n)]
    low, high = merged_ranges(memories[:n]), merged_ranges(memories[n:])
    assert not any(may_overlap(m, low) for m in memories[n:])
    assert not any(may_overlap(m, high) for m in memories[:n])
    assert may_overlap(memories[n - 1], low)
    assert asked <= 30 * n

    p, g = np.zeros(n * 8), np.ones(n * 8)
    params = {str(i): p[8 * i : 8 * i + 8] for i in range(n)}
    ao.SGD(lr=0.5).update(params, {str(i): g[8 * i : 8 * i + 8] for i in range(n)})
    assert p.tolist() == [-0.5] * (n * 8)


def test_gradients_in_memory_of_another_library(need: Callable[[str], Library]) -> None:
    """A NumPy gradient over a torch parameter's memory is read before torch writes there."""
    need("torch")
    import torch

    w = np.ones(2)
    params = {"a": torch.from_numpy(w), "b": np.zeros(2)}
    ao.SGD(lr=0.5).update(params, {"a": torch.ones(2, dtype=torch.float64), "b": w})
    assert params["b"].tolist() == [-0.5, -0.5]
    assert w.tolist() == [0.5, 0.5]


CHANGED: dict[str, tuple[Callable[[Any], Any], type[Exception] | None]] = {
    "shape": (lambda w: setattr(w, "shape", (3, 2)), ValueError),
    "dtype": (lambda w: setattr(w, "dtype", np.int64), TypeError),
    "read-only": (lambda w: setattr(w.flags, "writeable", False), None),
    "resized": (lambda w: w.resize((4, 3), refcheck=False), ValueError),
    "strides": (lambda w: setattr(w, "strides", (0, 8)), ValueError),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, for setting these attributes at all
@pytest.mark.parametrize("name", CHANGED)
def test_parameters_that_changed_under_the_same_object(name: str) -> None:
    """What was checked once is checked anew where it may have changed."""
    change, error = CHANGED[name]
    w, g = np.ones((2, 3)), np.ones((2, 3))
    params, optimizer = {"w": w, "b": np.ones(3)}, ao.Momentum(lr=1.0)
    for _ in range(2):
        optimizer.update(params, {"w": g, "b": np.ones(3)})
    change(w)
    before = np.array(w)
    if error is None:
        optimizer.update(params, {"w": g, "b": np.ones(3)})
        assert params["w"] is not w
        assert params["w"].tolist() != before.tolist()
    else:
        with pytest.raises(error, match=r"params\['w'\]"):
            optimizer.update(params, {"w": np.ones(w.shape), "b": np.ones(3)})
        assert optimizer.state is not None
        assert optimizer.state.step == 2
    assert same_bits(w, before)


def test_parameters_that_traded_places() -> None:
    """Slots belong to names, and views that came later are checked against the others."""
    a, b, g = np.ones(3), np.full(3, 2.0), np.ones(3)
    params, optimizer, twin = {"a": a, "b": b}, ao.Momentum(lr=1.0), ao.Momentum(lr=1.0)
    copies = {"a": a.copy(), "b": b.copy()}
    for one, tree in ((optimizer, params), (twin, copies)):
        one.update(tree, {"a": g, "b": -g})
        tree["a"], tree["b"] = tree["b"], tree["a"]
        one.update(tree, {"a": g, "b": -g})
    assert [params[k].tolist() for k in "ab"] == [copies[k].tolist() for k in "ab"] == [[1.1] * 3, [1.9] * 3]
    params["b"] = params["a"][:]
    with pytest.raises(ValueError, match="under a second name"):
        optimizer.update(params, {"a": g, "b": None})
    params["b"] = np.concatenate([params["a"]] * 2)[:3]
    optimizer.update(params, {"a": g, "b": g})


@pytest.mark.parametrize("name", ["jax", "dask", "torch", "numpy"])
def test_no_array_is_kept_that_was_replaced(name: str, need: Callable[[str], Library]) -> None:
    """The optimizer holds no gradient, and no parameter that is not where the caller has it."""
    lib = need(name)
    params, optimizer = {"w": lib.array([1.0, 2.0])}, ao.Adam()
    g = lib.array([1.0, 1.0])
    old = [weakref.ref(g), *([] if lib.writable else [weakref.ref(params["w"])])]
    optimizer.update(params, {"w": g})
    del g
    gc.collect()
    assert [ref() for ref in old] == [None] * len(old)


@pytest.mark.parametrize("copied", [copy, deepcopy])
def test_copies_have_slots_of_their_own(copied: Callable[[Any], Any], method: type[Any]) -> None:
    """A copy, shallow too, goes its own way."""
    p, g = np.ones(2), np.full(2, 0.5)
    optimizer = method()
    optimizer.update(p, g)
    q, other = p.copy(), copied(optimizer)
    optimizer.update(p, g)
    other.update(q, g)
    assert same_bits(p, q)


def test_slots_that_only_look_at_other_memory() -> None:
    """A broadcast or reshaped start, and a slot passed through, become arrays that every engine can write to."""

    class Lazy(ao.Optimizer):
        lr: ao.Nonnegative
        slots = ("s", "z")

        def init_slots(self, xp: Any, p: Any) -> tuple[Any, ...]:
            return xp.reshape(p, p.shape), xp.broadcast_to(xp.zeros_like(p), p.shape)

        @staticmethod
        def coefficients(t: int, hyper: Any) -> dict[str, Any]:
            return {"lr": hyper.lr, "mode": "move" if t > 2 else "rest"}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, s: Any, z: Any, c: Any) -> Any:
            return (c.lr * s, s + x, z - x) if c.mode == "move" else (c.lr * x, s, z)

    locked = np.ones(2)
    locked.flags.writeable = False
    results = []
    for engines in (("portable",) * 5, ("blocked",) * 5, ("portable", "blocked", "portable", "blocked", "blocked")):
        params, optimizer = {"a": np.ones(2), "b": locked, "c": np.array(1.0)}, Lazy(lr=0.5)
        for engine in engines:
            optimizer.engine = engine
            optimizer.update(params, {k: np.full(np.shape(v), 0.25) for k, v in params.items()})
        results.append(np.concatenate([np.ravel(v) for v in params.values()]))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_a_rule_that_reads_its_optimizer_is_refused() -> None:
    """What it read would be frozen when it is traced."""

    class StepPlan(ao.Optimizer):
        lr: ao.Nonnegative

        def rule(self, xp: Any, p: Any, x: Any, c: Any) -> Any:
            return c.lr * x

    with pytest.raises(TypeError, match=r"StepPlan.rule reads self; wanted a staticmethod"):
        StepPlan(lr=1.0)


def test_slots_of_one_name_are_refused() -> None:
    """One of them would be lost in a checkpoint."""

    class Twice(ao.Optimizer):
        slots = ("m", "m")

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, m: Any, n: Any, c: Any) -> Any:
            return x, m, n

    with pytest.raises(TypeError, match=r"Twice has the slots \('m', 'm'\); wanted each name once"):
        Twice()


@pytest.mark.parametrize("engine", list(ENGINES))
def test_coefficients_beyond_float32_warn_nobody(engine: ao.EngineName) -> None:
    """They are the largest number there, without a word."""
    with np.errstate(all="raise"):
        optimizer = ao.chain(ao.Scale(1e39), ao.SGD(lr=1.0), engine=engine)
        p = optimizer.update(np.zeros(1, np.float32), np.ones(1, np.float32))
    assert p.tolist() == [-np.finfo(np.float32).max]


@pytest.mark.parametrize("engine", OTHERS)
def test_a_choice_between_a_slot_and_another(engine: ao.EngineName) -> None:
    """The slot's new value is chosen from its old one: its place may not be written before it has been read."""

    class Choice(ao.Optimizer):
        slots = ("a", "b")

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, a: Any, b: Any, c: Any) -> Any:
            return x, xp.where(x > 0, a, x), xp.where(x > 0, x, b)

    gs = [np.array([1.0, -2.0, 3.0]), np.array([-4.0, 5.0, 6.0]), np.array([7.0, 8.0, -9.0])]
    result = _run(engine, Choice, np.zeros(3), gs)
    _agree(_run("portable", Choice, np.zeros(3), gs), result)
    assert [s.tolist() for s in result[1]] == [[-4, -2, -9], [7, 8, 6]]


@pytest.mark.parametrize(
    "engine",  # the compiled loop of so many slots takes six seconds
    [pytest.param(name, marks=pytest.mark.product if name == "compiled" else ()) for name in OTHERS],
)
def test_slots_that_are_called_like_what_is_generated(engine: ao.EngineName) -> None:
    """A slot may be called like a variable of the loop around its rule, in the step and in a reduction behind it."""

    class Named(ao.Optimizer):
        slots = tuple(sorted({*re.findall(r"\b_([a-z]+)", loops._STEP + reduction_text.LOOPS["squares"])}))

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, *slots_and_c: Any) -> Any:
            new = [s + x for s in slots_and_c[:-1]]
            return sum(new[1:], start=new[0]), *new

    assert {"n", "i", "leaf", "code"} <= {*Named.slots}
    results = []
    for each in (engine, "portable"):
        p, x = np.arange(3000.0), np.linspace(-1, 1, 3000)
        optimizer = ao.chain(Named(), ao.ClipGlobalNorm(5.0), engine=each)
        results.append(run(optimizer, p, [x, 2 * x]))
    assert agree(*results)


@pytest.mark.telling
@pytest.mark.parametrize("engine", OTHERS)
def test_every_operation(engine: ao.EngineName) -> None:
    """A rule of every operation there is, with slots that trade places and one that remembers the gradient."""

    class All(ao.Optimizer):
        lr: ao.Nonnegative
        slots = ("a", "b", "g")

        @staticmethod
        def coefficients(t: int, hyper: Any) -> dict[str, Any]:
            return {"lr": hyper.lr, "even": t % 2 == 0, "t": float(t)}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, a: Any, b: Any, g: Any, c: Any) -> Any:
            y = xp.where((x > g) & ~(a == b) | (p != p), xp.minimum(x, 1.0), xp.maximum(g, -c.lr))
            y = xp.where((x <= a) | (x >= 2.0), y, -xp.abs(xp.sign(b)))
            y = xp.where(c.t > 3.0, y, xp.where(c.lr < 1.0, y + xp.sqrt(xp.abs(a)) / (2.0 - x), x))
            g = xp.where(x > 0.5, xp.where(g > x, g, x), g)  # in g's own place
            y = xp.where((x > 0) & (c.t < 5.0) & (c.lr > 0.2), y, xp.minimum(1.0, c.lr) * y)
            return c.lr * y if c.even else y, b, a + y, g

    rng = np.random.default_rng(22)
    for dtype in ("float32", "float64"):
        p, gs = hostile(rng, (50,), dtype), [hostile(rng, (50,), dtype) for _ in range(8)]
        _agree(_run("portable", All, p.copy(), gs, lr=0.3), _run(engine, All, p.copy(), gs, lr=0.3))


@pytest.mark.parametrize("engine", OTHERS)
def test_engines_may_change_in_mid_training(engine: ao.EngineName, method: type[Any]) -> None:
    """Equal bits make the change invisible."""
    rng = np.random.default_rng(23)
    p = rng.normal(size=20).astype(np.float32)
    one, two, q = method(engine="portable"), method(engine=engine), p.copy()
    for k in range(9):
        g = rng.normal(size=20).astype(np.float32)
        two.engine = (engine, "portable", None)[k % 3]
        one.update(p, g)
        two.update(q, g)
    assert same_bits(p, q)


def test_which_engine_takes_what(lib: Library) -> None:
    """Arrays in NumPy's reach that can be written to: compiled in the dtypes that are not cast, blocked in all.

    JAX's have an engine of their own.
    """
    rng = np.random.default_rng(24)
    in_reach = lib.name in {"numpy", "torch"}
    for dtype in set(lib.dtypes):
        p, g = ({"p": lib.array(rng.normal(size=3), dtype)} for _ in range(2))
        shares = [ao.SGD(engine=engine).explain(p, g)[0].engine for engine in ("compiled", "blocked", "portable")]
        other = "blocked" if in_reach and dtype != "bfloat16" else "jax" if "jax" in lib.name else "portable"
        compiled = "compiled" if in_reach and dtype in COMPILED else other
        assert shares == [compiled, other, "portable"]


@pytest.mark.parametrize("engine", OTHERS)
def test_a_step_allocates_no_temporaries(engine: ao.EngineName, method: type[Any]) -> None:
    """Beside the slots at most 1 MiB, whatever the size: measured by NumPy's own accounting on 4M elements."""
    p, g = np.ones(4 << 20, np.float32), np.full(4 << 20, 0.5, np.float32)
    optimizer = method(engine=engine)
    optimizer.update(p, g)
    tracemalloc.start()
    try:
        optimizer.update(p, g)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("engine", OTHERS)
def test_threads_have_scratch_of_their_own(engine: ao.EngineName) -> None:
    """Optimizers in several threads at once do not disturb each other."""
    rng = np.random.default_rng(25)
    start = rng.normal(size=100_000)
    gs = [rng.normal(size=100_000) for _ in range(20)]
    expected, _ = _run(engine, ao.Adam, start.copy(), gs)
    results: list[Any] = [None] * 4

    def work(k: int) -> None:
        results[k], _ = _run(engine, ao.Adam, start.copy(), gs)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_bits(r, expected) for r in results)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_rule_is_traced_once(engine: ao.EngineName) -> None:
    """Neither steps, nor hyperparameters, shapes or optimizers make a new kernel; a static option does."""
    calls = []

    class Counted(ao.Optimizer):
        lr: ao.Nonnegative

        @staticmethod
        def coefficients(t: int, hyper: Any) -> dict[str, Any]:
            return {"lr": hyper.lr, "late": t > 3}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            calls.append(c.late)
            return c.lr * x if c.late else x

    for shape in ((3,), (4, 5)):
        optimizer: Any = Counted(lr=0.1, engine=engine)
        for _ in range(6):
            optimizer.lr = optimizer.lr / 2
            optimizer.update({"a": np.ones(shape), "b": np.ones(2)}, {"a": np.ones(shape), "b": np.ones(2)})
    assert calls == [False, True]


@pytest.mark.parametrize("engine", list(ENGINES))
def test_nothing_waits_for_the_garbage_collector(engine: ao.EngineName) -> None:
    """Replaced parameters, the slots before a step and dropped optimizers go at once: collectors count no bytes."""
    params, optimizer = {"a": np.ones(3), "b": np.ones(2)}, ao.Adam(engine=engine)
    gc.collect()
    gc.disable()
    try:
        old = []
        for _ in range(5):
            params["a"] = params["a"] * 1.0
            optimizer.update(params, {"a": np.ones(3), "b": np.ones(2)})
            old.append(weakref.ref(params["a"]))
        assert [ref() is not None for ref in old] == [False] * 4 + [True]
        gone = weakref.ref(optimizer.state.slots["m"]["a"])  # type: ignore[union-attr]
        if engine == "portable":
            optimizer.update(params, {"a": np.ones(3), "b": np.ones(2)})
            assert gone() is None
        last = weakref.ref(optimizer)
        del optimizer
        assert last() is None
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", OTHERS)
def test_a_step_that_failed_leaves_nothing_behind(engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of some parameters that was stopped, each gradient still goes to its own parameter."""
    p, optimizer = {k: np.zeros(2) for k in "abc"}, ao.SGD(lr=1.0, engine=engine)
    for _ in range(3):
        optimizer.update(p, dict.fromkeys("abc", np.ones(2)))

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        plan = {"blocked": blocked.BlockedPlan, "compiled": compiled.CompiledPlan}[engine]
        patch.setattr(plan, "prepare", stopped)
        with pytest.raises(KeyboardInterrupt):
            optimizer.update(p, {"a": None, "b": np.ones(2), "c": np.ones(2)})
    optimizer.update(p, {"a": np.full(2, 1.0), "b": np.full(2, 2.0), "c": np.full(2, 3.0)})
    assert {k: a.tolist() for k, a in p.items()} == {"a": [-4.0] * 2, "b": [-5.0] * 2, "c": [-6.0] * 2}


def test_an_engine_is_an_object_and_an_entry_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the rest of the package has never heard of can be named, is explained, and takes the steps."""

    class Last(Portable):
        name = "last"

    monkeypatch.setitem(ALL_ENGINES, "last", Last())
    p, optimizer = np.ones(2), ao.chain(ao.ClipNorm(1.0), ao.SGD(lr=0.5), engine="last")  # type: ignore[arg-type]
    for _ in range(2):
        optimizer.update(p, np.array([1.0, 0.0]))
    assert p.tolist() == [0.0, 1.0]
    (share,) = optimizer.explain(p, p)
    assert (share.engine, share.reason) == ("last", "engine='last'")
    with pytest.raises(ValueError, match="'portable', 'last', or None"):
        ao.SGD(engine="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_coefficient_that_becomes_an_option(engine: ao.EngineName) -> None:
    """One that no kernel read is a string at the third step, and the rule branches on it."""

    class Turns(ao.Optimizer):
        lr: ao.Nonnegative

        @staticmethod
        def coefficients(t: int, hyper: Any) -> dict[str, Any]:
            return {"lr": hyper.lr, "mode": 1.0 if t < 3 else "back"}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return -c.lr * x if isinstance(c.mode, str) else c.lr * x

    p, optimizer = np.zeros(2), Turns(lr=1.0, engine=engine)
    for _ in range(5):
        optimizer.update(p, np.ones(2))
    assert p.tolist() == [1.0, 1.0]


def test_sources_of_the_blocked_engine_are_shown(method: type[Any]) -> None:
    """Its functions are no files; linecache has them."""
    optimizer = method(engine="blocked")
    optimizer.update(np.ones(3), np.ones(3))
    track = optimizer._pipeline.branch
    function = _functions.block_function(track.program, None, static_options(optimizer._pipeline.sample(track)))
    linecache.checkcache()
    assert inspect.getsource(function.call) in optimizer.kernel_source("blocked")
