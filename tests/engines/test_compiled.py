"""The compiled engine and its shortcuts: what may change between steps, threads, and when it compiles."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optree
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim._engines._base import Leaf
from tests.support.internals import Dispatch, Part, Program, elsewhere, library, machine_code, on_value
from tests.support.internals import headers as _array_headers
from tests.support.internals import threads as _threads
from tests.support.internals import warmup as _warmup
from tests.support.libraries import ENGINES, Library, same_bits

OTHERS = [name for name in ENGINES if name != "portable"]
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 6), "b": (3,), "s": ()}


def _leaves(*trees: Any) -> list[Any]:
    return [leaf for tree in trees for leaf in optree.tree_leaves(tree)]


class _Run:
    """Steps of one engine, and what was to be seen after each."""

    def __init__(self, engine: ao.EngineName | None, make: Callable[..., Any] = ao.Adam, **hyper: Any) -> None:
        self.optimizer = make(engine=engine, **hyper)
        self.seen: list[Any] = []
        self.kept: list[Any] = []
        self.rng = np.random.default_rng(1)

    def draw(self, like: Any) -> Any:
        return np.asarray(self.rng.normal(size=np.shape(like)))

    def step(self, params: Any, grads: Any) -> None:
        error = None
        try:
            self.optimizer.update(params, grads)
        except (TypeError, ValueError) as caught:
            error = type(caught), str(caught)
        arrays = _leaves(params) + _leaves(self.optimizer.state)
        self.seen.append((error, [np.array(a) for a in arrays]))

    def good(self, params: Any, times: int = 1) -> None:
        for _ in range(times):
            self.step(params, optree.tree_map(self.draw, params))


def _params(dtype: str = "float64") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {k: np.array(rng.normal(size=shape)).astype(dtype) for k, shape in SHAPES.items()}


def _same(
    play: Callable[[_Run], None], engine: ao.EngineName | None, make: Callable[..., Any] = ao.Adam, **hyper: Any
) -> _Run:
    """What the engine does, step by step, is what portable does: parameters, slots, step counts, errors."""
    one, two = _Run("portable", make, **hyper), _Run(engine, make, **hyper)
    for run in (one, two):
        play(run)
    assert len(one.seen) == len(two.seen)
    for k, ((error, arrays), (other_error, others)) in enumerate(zip(one.seen, two.seen, strict=True)):
        assert other_error == error, k
        assert len(arrays) == len(others), k
        assert all(map(same_bits, arrays, others)), k
    return two


@pytest.fixture(params=["headers", "Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the compiled engine looks at arrays: through their headers, or as where these can't be relied on."""
    if request.param == "Python":
        monkeypatch.setattr(_array_headers, "reliable", lambda: False)
    else:
        assert _array_headers.reliable()
    return str(request.param)


class _Sub(np.ndarray[Any, Any]):
    """A subclass that adds nothing."""


def _misaligned(a: Any) -> Any:
    memory = np.zeros(a.nbytes + 1, np.uint8)
    found = memory[1:].view(a.dtype).reshape(a.shape)
    found[...] = a
    return found


def _locked(a: Any) -> Any:
    a.flags.writeable = False
    return a


GRADIENTS: dict[str, Callable[[Any], Any]] = {
    "shape": lambda g: g.reshape(6, 4),
    "longer": lambda g: np.concatenate([g, g]),
    "another dimension": lambda g: g[None],
    "0-d": lambda g: g[0, 0, ...],
    "float32": lambda g: g.astype("f4"),
    "float16": lambda g: g.astype("f2"),
    "integers": lambda g: g.view(np.int64),
    "complex": lambda g: g.astype("c16"),
    "complex of as many bytes": lambda g: g.view("c8"),
    "truth": lambda g: g > 0,
    "objects": lambda g: g.astype(object),
    "dates": lambda g: g.view("M8[s]"),
    "big-endian": lambda g: g.astype(">f8"),
    "a dtype with metadata": lambda g: g.astype(np.dtype("f8", metadata={"unit": "m"})),
    "Fortran": np.asfortranarray,
    "strided": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
    "reversed": lambda g: g[::-1],
    "a view": lambda g: np.concatenate([g, g])[2:6],
    "broadcast": lambda g: np.broadcast_to(g[0], g.shape),
    "misaligned": _misaligned,
    "read-only": _locked,
    "a subclass": lambda g: g.view(_Sub),
    "a matrix": np.matrix,
    "masked": lambda g: np.ma.masked_array(g, g > 0),
    "a list": lambda g: g.tolist(),
    "a float": lambda g: 0.5,
    "a string": lambda g: "g",
    "None": lambda g: None,
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("engine", OTHERS)
def test_another_gradient_after_good_ones(engine: ao.EngineName, name: str, way: str) -> None:
    """Of another shape, dtype, order, type: taken or refused like by portable, with its words, and nothing lost."""

    def play(run: _Run) -> None:
        params = _params()
        for _ in range(2):
            run.good(params, 3)
            run.step(
                params, {"b": run.draw(params["b"]), "w": GRADIENTS[name](run.draw(params["w"])), "s": np.array(1.0)}
            )
            run.step(
                params, {"b": run.draw(params["b"]), "w": GRADIENTS[name](run.draw(params["w"])), "s": np.array(1.0)}
            )
        run.good(params, 2)

    _same(play, engine)


def test_a_memmap_as_parameter_and_gradient(tmp_path: Path, way: str) -> None:
    """A subclass that is written in place, through the file."""
    for engine in OTHERS:

        def play(run: _Run) -> None:
            w = np.memmap(tmp_path / f"w{run.optimizer.engine}", "f8", "w+", shape=(4, 6))
            g = np.memmap(tmp_path / f"g{run.optimizer.engine}", "f8", "w+", shape=(4, 6))
            params = {"w": w, "b": np.ones(3)}
            for _ in range(4):
                g[...] = run.draw(g)
                run.step(params, {"w": g, "b": run.draw(params["b"])})
            run.good(params, 2)
            assert params["w"] is w
            w.flush()
            run.seen.append((None, [np.fromfile(tmp_path / f"w{run.optimizer.engine}")]))

        _same(play, engine)


def _restride(w: Any) -> None:
    w.strides = (8, 32)


def _grown_and_shrunk(w: Any) -> None:
    shape = w.shape
    w.resize((100_000,), refcheck=False)
    w.resize(shape, refcheck=False)


CHANGES: dict[str, Callable[[Any], object]] = {
    "shape": lambda w: setattr(w, "shape", (6, 4)),
    "flat": lambda w: setattr(w, "shape", (24,)),
    "integers": lambda w: setattr(w, "dtype", np.int64),
    "complex of as many bytes": lambda w: setattr(w, "dtype", np.complex64),
    "float32": lambda w: setattr(w, "dtype", np.float32),
    "big-endian": lambda w: setattr(w, "dtype", ">f8"),
    "Fortran": _restride,
    "read-only": _locked,
    "smaller": lambda w: w.resize((3, 6), refcheck=False),
    "larger": lambda w: w.resize((1000, 6), refcheck=False),
    "moved": _grown_and_shrunk,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, for setting these attributes at all
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("first", ["old", "new"])
def test_a_parameter_that_changed_under_the_same_object(engine: ao.EngineName, name: str, first: str, way: str) -> None:
    """The new shape, dtype, strides, flags and memory count, as they do for portable; gradients of the same kind."""

    def play(run: _Run) -> None:
        params = _params()
        w = params["w"]
        run.good(params, 3)
        CHANGES[name](w)
        changed = np.empty(w.shape, w.dtype)
        changed[...] = 1
        if first == "old":  # a gradient of the kind that was right before
            run.step(params, {"w": np.ones((4, 6)), "b": np.ones(3), "s": np.array(1.0)})
            run.step(params, {"w": np.ones((4, 6)), "b": np.ones(3), "s": None})
        run.step(params, {"w": changed, "b": np.ones(3), "s": np.array(1.0)})
        run.step(params, {"w": changed, "b": np.ones(3), "s": np.array(1.0)})
        run.seen.append((None, [w.copy()]))
        run.kept.append(w)

    _same(play, engine)


@pytest.mark.parametrize("engine", OTHERS)
def test_gradients_at_addresses_of_old_ones(engine: ao.EngineName, way: str) -> None:
    """New objects and new memory where old ones were, good and bad in turn, are not taken for the old."""
    wrong = [lambda g: g.reshape(6, 4), lambda g: g.view(np.int64), lambda g: g.T.copy().T, lambda g: g.astype("f4")]

    def play(run: _Run) -> None:
        params = {"w": np.ones((4, 6)), "v": np.ones((4, 6))}
        for k in range(120):
            a, b = run.draw(params["w"]), run.draw(params["w"])
            if k % 5 == 4:
                a = wrong[k // 5 % 4](a)
            run.step(params, {"w": a, "v": b})
            del a, b

    _same(play, engine)


def _own(run: _Run, name: str, slot: str = "m") -> Any:
    state = run.optimizer.state
    return state.slots[slot][name] if run.optimizer.engine != "portable" else state.slots[slot][name].copy()


INSIDE: dict[str, Callable[[_Run, dict[str, Any], Any], Any]] = {
    "itself": lambda run, params, base: params["a"],
    "the other": lambda run, params, base: params["b"],
    "a shifted view": lambda run, params, base: base[1:41],
    "a view from before": lambda run, params, base: base[39:79],
    "its end": lambda run, params, base: base[-40:],
    "its slot": lambda run, params, base: _own(run, "a"),
    "another's slot": lambda run, params, base: _own(run, "b", "v"),
    "its slot reversed": lambda run, params, base: _own(run, "a")[::-1],
}


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("engine", OTHERS)
def test_gradients_in_memory_that_is_written_after_good_ones(engine: ao.EngineName, name: str, way: str) -> None:
    """They are read before anything is written there, at the third step as at the first."""

    def play(run: _Run) -> None:
        base = np.random.default_rng(2).normal(size=120)
        params = {"a": base[:40], "b": base[40:80]}
        run.good(params, 3)
        for _ in range(2):
            run.step(params, {"a": INSIDE[name](run, params, base), "b": base[20:60]})
            run.step(params, {"a": run.draw(params["a"]), "b": INSIDE[name](run, params, base)})
        run.good(params, 2)
        run.seen.append((None, [base.copy()]))

    _same(play, engine)


@pytest.mark.parametrize("engine", OTHERS)
def test_gradients_that_view_parameters_which_own_their_memory(engine: ao.EngineName, way: str) -> None:
    """Where nothing was a view before."""

    def play(run: _Run) -> None:
        params = {"a": np.arange(20_000.0), "b": np.arange(20_000.0) + 50}  # too large for a pack
        run.good(params, 3)
        run.step(params, {"a": params["b"][::-1], "b": params["a"][:]})
        run.good(params, 2)
        run.step(params, {"a": params["b"][:], "b": params["a"][:]})
        run.good(params, 2)
        run.step(params, {"a": params["b"], "b": params["a"]})

    _same(play, engine)


def _reordered(params: dict[str, Any]) -> None:
    params["w"] = params.pop("w")


def _swapped(params: dict[str, Any]) -> None:
    params["b"], params["c"] = params["c"], params["b"]


TREES: dict[str, Callable[[dict[str, Any]], object]] = {
    "swapped": _swapped,
    "reordered": _reordered,
    "another array": lambda params: params.update(w=params["w"].copy()),
    "another order": lambda params: params.update(w=np.asfortranarray(params["w"])),
    "a view": lambda params: params.update(w=np.ones((8, 6))[::2]),
    "a key more": lambda params: params.update(z=np.ones(2)),
    "a key less": lambda params: params.pop("b"),
    "another name": lambda params: params.update(z=params.pop("b")),
    "None": lambda params: params.update(b=None),
    "a number": lambda params: params.update(b=1.0),
    "one array twice": lambda params: params.update(b=params["c"]),
    "an overlap": lambda params: params.update(b=params["w"].reshape(-1)[:3], c=params["w"].reshape(-1)[2:5]),
    "a list": lambda params: params.update(b=[params["b"]]),
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("engine", OTHERS)
def test_a_container_that_changed(engine: ao.EngineName, name: str, way: str) -> None:
    """What stands in it now counts: taken or refused like by portable, and the rest goes on."""

    def play(run: _Run) -> None:
        params = {"w": np.ones((4, 6)), "b": np.arange(3.0), "c": np.arange(3.0) + 5}
        run.good(params, 3)
        before = dict(params)
        TREES[name](params)
        run.good(params, 3)
        params.clear()
        params.update(before)
        run.good(params, 3)

    _same(play, engine)


CONTAINERS: dict[str, Callable[[], Any]] = {
    "a bare array": lambda: np.ones((3, 2)),
    "a list": lambda: [np.ones(3), np.ones((2, 2))],
    "a tuple": lambda: (np.ones(3), np.ones((2, 2))),
    "nested": lambda: {"a": [np.ones(3), {"b": (np.ones(2), np.ones(()))}], "c": np.ones((2, 2))},
    "in Fortran order": lambda: {"a": np.asfortranarray(np.ones((3, 2))), "b": np.ones(4)},
    "with nothing in it": lambda: {"a": np.ones((0, 3)), "b": np.ones(4)},
    "mixed": lambda: {"a": np.ones(3, "f2"), "b": np.ones(4), "c": 1.0, "d": np.ones(8)[::2], "e": np.ones(2, "f4")},
    "only read-only": lambda: {"a": _locked(np.ones(3))},
    "empty": dict,
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("engine", [*OTHERS, None])
def test_containers(engine: ao.EngineName | None, name: str, way: str) -> None:
    """Any container; from time to time a gradient is None, each in turn, all of them, none."""

    def play(run: _Run) -> None:
        params = CONTAINERS[name]()
        run.good(params, 3)
        for k in range(8):
            leaves, spec = optree.tree_flatten(params)
            grads = [None if i == k % 4 or k == 6 else run.draw(p) for i, p in enumerate(leaves)]
            run.step(params, spec.unflatten(grads))
        run.good(params, 3)

    _same(play, engine)


def _chain(engine: ao.EngineName | None) -> Any:
    clip, decay = ao.ClipGlobalNorm(0.7), ao.WeightDecay(0.01, lambda path, p: np.ndim(p) > 1)
    return ao.chain(clip, decay, ao.Adam(lr=0.1), ao.EMA(0.9), engine=engine)


ACTIONS = [*(("g", name) for name in GRADIENTS), *(("p", name) for name in CHANGES), *(("t", name) for name in TREES)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:the matrix subclass:PendingDeprecationWarning")
@settings(max_examples=25)
@given(st.lists(st.sampled_from(ACTIONS), min_size=3, max_size=8))
@pytest.mark.parametrize("make", [ao.Momentum, _chain])
@pytest.mark.parametrize("engine", OTHERS)
def test_anything_after_anything(
    engine: ao.EngineName, make: Callable[..., Any], way: str, actions: list[tuple[str, str]]
) -> None:
    """All of the above in any order."""

    def play(run: _Run) -> None:
        params: Any = {"w": np.ones((4, 6)), "b": np.arange(3.0), "c": np.arange(3.0) + 5}
        run.good(params, 3)
        for kind, name in actions:
            if kind == "g":
                given = {k: None if p is None else run.draw(p) for k, p in params.items()}
                w: Any = given.get("w")
                if np.shape(w) == (4, 6):
                    given["w"] = GRADIENTS[name](w)
                run.step(params, given)
            elif kind == "p":
                run.kept.append(params["w"])
                if isinstance(params["w"], np.ndarray) and params["w"].flags.owndata:
                    with contextlib.suppress(AttributeError, ValueError):  # what no array in that order can become
                        CHANGES[name](params["w"]) if params["w"].shape == (4, 6) else None
                run.good(params, 2)
                if params["w"].shape != (4, 6) or params["w"].dtype != np.float64:
                    params["w"] = np.full((4, 6), 2.0)
            else:
                before = dict(params)
                TREES[name](params) if {"w", "b", "c"} <= set(params) else None
                run.good(params, 2)
                params.clear()
                params.update(before)
            run.good(params, 2)

    _same(play, engine, make)


@pytest.mark.parametrize("make", [ao.Adam, _chain])
@pytest.mark.parametrize("engine", OTHERS)
def test_what_fails_changes_nothing(engine: ao.EngineName, make: Callable[..., Any], way: str) -> None:
    """A bad gradient in the middle, a schedule that raises or gives nonsense: all is as it was, and goes on."""
    mood = "good"

    def lr(step: int) -> float:
        if mood == "bad":
            raise ZeroDivisionError("made up")
        return 0.1 if mood == "good" else float("nan")

    optimizer, twin = make(engine=engine), make(engine="portable")
    for one in (optimizer, twin):
        next(s for s in one.stages if isinstance(s, ao.Adam)).lr = 0.1
    params, copies, rng = _params("float32"), _params("float32"), np.random.default_rng(3)

    def grads() -> dict[str, Any]:
        return {k: np.asarray(rng.normal(size=shape)).astype("f4") for k, shape in SHAPES.items()}

    def step() -> None:
        g = grads()
        optimizer.update(params, g)
        twin.update(copies, g)
        seen, expected = (_leaves(tree, o.state) for tree, o in ((params, optimizer), (copies, twin)))
        assert all(map(same_bits, seen, expected))

    def fails(error: type[Exception], match: str, g: Any) -> None:
        before = [np.array(a) for a in _leaves(params, optimizer.state)]
        with pytest.raises(error, match=match):
            optimizer.update(params, g)
        assert all(map(same_bits, before, _leaves(params, optimizer.state)))

    for _ in range(3):
        step()
    fails(ValueError, r"grads\['b'\]", {**grads(), "b": np.ones(4, "f4")})
    step()
    fails(TypeError, r"grads\['s'\]", {**grads(), "s": np.array(1)})
    fails(ValueError, "keys|missing|grads", {k: v for k, v in grads().items() if k != "b"})
    step()
    method = next(s for s in optimizer.stages if isinstance(s, ao.Adam))
    method.lr = lr
    for _ in range(3):
        step()
    mood = "bad"
    fails(ZeroDivisionError, "made up", grads())
    mood = "mad"
    fails(ValueError, "schedule", grads())
    mood = "good"
    for _ in range(3):
        step()
    with pytest.raises(ValueError, match="lr"):
        method.lr = -1.0
    step()
    assert optimizer.state.step == twin.state.step


@pytest.mark.parametrize("engine", OTHERS)
def test_one_optimizer_in_several_threads_in_turn(engine: ao.EngineName, way: str) -> None:
    """Nothing that a thread laid ready for itself is used by another."""

    def play(run: _Run) -> None:
        params = _params()
        for _ in range(4):
            thread = threading.Thread(target=run.good, args=(params, 3))
            thread.start()
            thread.join()
            run.good(params, 2)

    _same(play, engine)
    _same(play, engine, _chain)


def _large(dtype: str = "float32") -> dict[str, Any]:
    rng = np.random.default_rng(4)
    shapes = [(3, 1024 + 5), (1024 - 1,), (7,), (2 * 1024,)]
    return {f"p{k}": rng.normal(size=shape).astype(dtype) for k, shape in enumerate(shapes)}


@pytest.mark.parametrize("make", [ao.Adam, _chain])
@pytest.mark.parametrize("engine", OTHERS)
def test_threads_change_no_bits(engine: ao.EngineName, make: Callable[..., Any], way: str, small_pieces: None) -> None:
    """Neither several pieces, nor the order in which threads take them; and threads do take them."""
    workers, original = set(), _threads.Pieces._work

    def seen(pieces: Any, *place: Any) -> None:
        workers.add(threading.get_ident())
        time.sleep(1e-4)  # so that others get some
        original(pieces, *place)

    def play(run: _Run) -> None:
        params = _large()
        for _ in range(6):
            run.step(params, {k: run.draw(p).astype(p.dtype) for k, p in params.items()})
        params = {k: p.copy() for k, p in params.items()}
        run.step(
            params,
            {k: p if k == "p3" else params["p0"][0, : p.size] if p.ndim == 1 else p for k, p in params.items()}
            | {"p3": params["p3"][::-1]},
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_threads.Pieces, "_work", seen)
        _same(play, engine, make)
    assert len(workers) > 1


@pytest.mark.parametrize("engine", OTHERS)
def test_optimizers_in_several_threads_at_once(engine: ao.EngineName, way: str, small_pieces: None) -> None:
    """They share one pool of threads, and nothing else."""

    def run() -> list[Any]:
        params, rng, optimizer = _large(), np.random.default_rng(5), _chain(engine)
        for _ in range(8):
            optimizer.update(params, {k: rng.normal(size=p.shape).astype(p.dtype) for k, p in params.items()})
        return _leaves(params, optimizer.state)

    expected, results = run(), [[] for _ in range(4)]  # type: ignore[var-annotated]
    threads = [threading.Thread(target=lambda k=k: results[k].extend(run())) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results:
        assert len(found) == len(expected)
        assert all(map(same_bits, found, expected))


@pytest.mark.parametrize("engine", OTHERS)
def test_a_thread_that_flushes_subnormals_works_alone(
    engine: ao.EngineName, need: Callable[[str], Library], small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would give other bits: the result is that of one thread in the same mode, and not that of the default."""
    need("torch")
    import torch

    def run(make: Callable[..., Any]) -> Any:
        params = {"p": np.full(8 * 1024, 5e-39, np.float32)}
        optimizer = make(engine=engine, lr=0.25)
        for _ in range(3):
            optimizer.update(params, {"p": np.full(8 * 1024, 4e-39, np.float32)})
        return params["p"]

    usual = run(ao.SGD)  # and the pool is there, in the usual mode
    assert usual.min() > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush subnormals")
    try:
        many = run(ao.SGD)
        monkeypatch.setattr(_threads, "threads", lambda: 1)
        alone = run(ao.SGD)
    finally:
        torch.set_flush_denormal(False)
    assert many.tobytes() == alone.tobytes()
    assert many.tobytes() != usual.tobytes()
    assert many.tobytes() == bytes(many.nbytes)


_FLUSH = """
import ctypes, struct, sys, threading
from anyoptim._engines.compiled._plan import _threads
_threads.threads = lambda: 3
libm = ctypes.CDLL("libm.so.6")
state = (ctypes.c_uint8 * 64)()
def mode(bits):
    libm.fegetenv(state)
    word = int.from_bytes(bytes(state[28:32]), "little") & ~0x8040 | bits
    state[28:32] = list(word.to_bytes(4, "little"))
    libm.fesetenv(state)
_threads.spread(lambda k: None, [(k,) for k in range(9)])
seen = []
for bits in (0, 0x8000, 0x40, 0x8040):
    mode(bits)
    seen.append(_threads._flushing())
    here = threading.get_ident()
    threads = []
    def call(k):
        import time
        threads.append(threading.get_ident())
        time.sleep(0.01)
    _threads.spread(call, [(k,) for k in range(9)])
    mode(0)
    assert len(threads) == 9
    assert (set(threads) == {here}) == (bits != 0), bits
assert seen == [(False, False), (True, False), (False, True), (True, True)], seen
"""


def _python(code: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | more
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)


def test_results_and_operands_are_flushed_each_by_itself() -> None:
    """FTZ and DAZ are two bits of the processor, and a worker that has not the same two does nothing."""
    import platform

    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        pytest.skip("sets the bits through the C library of Linux on x86-64")
    run = _python(_FLUSH)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError])
def test_an_exception_in_a_worker_reaches_the_caller(error: type[Exception], small_pieces: None) -> None:
    """Whatever it is, from whichever thread, when the others have ended; no piece is done twice."""
    for bad in range(12):
        done: list[int] = []

        def call(k: int, bad: int = bad, done: list[int] = done) -> None:
            if k == bad:
                raise error("made up")
            done.append(k)

        with pytest.raises(error, match="made up"):
            _threads.spread(call, [(k,) for k in range(12)])
        ended = list(done)
        time.sleep(0.01)
        assert sorted(done) == sorted({*ended} - {bad})


_FORK = """
import os, sys, warnings
import numpy as np
warnings.simplefilter("ignore", DeprecationWarning)  # Python's, for a fork beside threads
import anyoptim as ao
from anyoptim._engines.compiled._plan import _threads
from anyoptim._engines.blocked import _plan as blocked
from anyoptim._engines.compiled import _plan as compiled
_threads.threads = lambda: 3
compiled.PIECE = 64; compiled.CHUNK = 4096; blocked.THREADED = 2; blocked.BLOCK = 4096
def run(optimizer, p, times):
    for k in range(times):
        optimizer.update(p, np.full(p.shape, 0.5 + k))
    return p
for engine in ("compiled", "blocked"):
    one, two = ao.Adam(engine=engine), ao.Adam(engine=engine)
    p, q = np.ones(50_000), np.ones(50_000)
    run(one, p, 4)
    child = os.fork()
    if child == 0:
        try:
            run(one, p, 4)
            run(two, q, 4)
            same = run(two, q, 4).tobytes() == p.tobytes()
        finally:
            os._exit(0 if same else 3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, (engine, status)
    run(one, p, 4)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """A child of a process whose pool has run takes steps, with the same bits, and ends."""
    run = _python(_FORK)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr


_LATE = """
import threading, time
import numpy as np
import anyoptim as ao
from anyoptim._engines.compiled._plan import _threads
from anyoptim._engines.compiled import _plan as compiled
_threads.threads = lambda: 2
compiled.PIECE = 1 << 16
def work(engine):
    p, optimizer = np.ones(1 << 20), ao.SGD(lr=0.5, engine=engine)
    optimizer.update(p, np.ones(1 << 20))
    threading.main_thread().join()
    time.sleep(0.1)
    for _ in range(3):
        optimizer.update(p, np.ones(1 << 20))
    assert (p == -1.0).all()
    print("done")
for engine in ("compiled", "blocked"):
    threading.Thread(target=work, args=(engine,)).start()
"""


def test_a_thread_that_trains_on_after_the_main_one_ended() -> None:
    """When no thread can be started any more, the step is taken without help."""
    run = _python(_LATE)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\ndone\n", "")


_SHORT = """
import sys
import numpy as np
import anyoptim as ao
params = {"W": np.ones((50, 10)), "b": np.ones(10)}
optimizer = ao.Adam()
for _ in range(30):
    optimizer.update(params, {"W": np.ones((50, 10)), "b": np.ones(10)})
assert optimizer.explain(params, params)[0].engine == "blocked"
ours = {f"anyoptim.{name}" for name in (
    "_engines.compiled._source", "_engines.cuda._plan", "_machine._cuda_device", "_engines.jax._plan"
)}
print(sorted({"numba", "llvmlite", *ours} & set(sys.modules)))
"""


def test_a_short_run_imports_no_compiler() -> None:
    """Thirty steps of two small arrays, for which no part of an engine is loaded that they don't need."""
    run = _python(_SHORT)
    assert run.stdout == "[]\n", run.stderr


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not updated anything yet."""
    monkeypatch.setattr(_warmup, "_worked", {})


def _engine_of(optimizer: ao.Optimizer, params: Any) -> list[str]:
    return [share.engine for share in optimizer.explain(params, params)]


@pytest.mark.parametrize("make", [ao.Adam, _chain])
def test_it_compiles_in_mid_training(
    make: Callable[..., Any], no_work: None, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """When enough has been updated; the bits are portable's before, at and after it; other optimizers follow."""
    n = sum(int(np.prod(s)) + _warmup.CALLS for s in SHAPES.values())
    monkeypatch.setattr(_warmup, "WORTHWHILE", 5 * n)
    engines: list[str] = []
    ran: list[str] = []

    def play(run: _Run) -> None:
        params = _params()
        for _ in range(9):
            run.good(params)
            engines.append(_engine_of(run.optimizer, params)[0])
            dispatch = run.optimizer._training.plan._dispatch
            ran.append(dispatch.choices[0].engine if dispatch else "portable")

    _same(play, None, make)
    # A step that asks for a norm has its coefficients too late to begin with what they compile: the next one does.
    late = make is _chain
    assert engines[9:] == ["blocked"] * (4 + late) + ["compiled"] * (5 - late)  # who would take the next step
    assert ran[9:] == ["blocked"] * (5 + late) + ["compiled"] * (4 - late)
    fresh = make(engine=None)
    assert _engine_of(fresh, _params()) == ["compiled"]
    assert "blocked" in _engine_of(fresh, _params("float32"))  # other machine code, for which nothing has been done
    assert _engine_of(ao.AdaGrad(), _params()) == ["blocked"]


def test_work_adds_up_over_small_arrays_and_optimizers(no_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array costs calls, however small: it counts as thousands of elements."""
    monkeypatch.setattr(_warmup, "WORTHWHILE", 6 * _warmup.CALLS)
    for _ in range(6):
        p, optimizer = np.ones(1), ao.Momentum()
        assert _engine_of(optimizer, p) == ["blocked"]
        optimizer.update(p, np.ones(1))
    assert _engine_of(optimizer, p) == ["compiled"]


def test_a_step_of_many_arrays_is_more_work(no_work: None) -> None:
    """The direction of L-BFGS from ten pairs, 22 arrays with d and g, counts as five steps of Adam."""
    added = []
    for slots in (("m", "v"), tuple(f"v{k}" for k in range(20))):
        program = Program((Part(on_value, lambda xp, p, x, *rest: (x, *rest[:-1]), slots),))
        leaf = Leaf(library(np.ones(1)), p := np.ones(1), tuple(np.ones(1) for _ in slots), p)
        added.append(Dispatch(None, [program], [leaf], [np.ones(1)]).waiting.total())
    assert added == [1 + _warmup.CALLS, 5 * (1 + _warmup.CALLS)]


def test_reductions_by_themselves_are_work_too(no_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inner products of a solver, which take most of its time, are compiled though no step of a rule has them."""
    monkeypatch.setattr(_warmup, "WORTHWHILE", 200 * _warmup.CALLS)
    monkeypatch.setattr(elsewhere.Compilation, "done", lambda _: False)
    s = np.logspace(0, -2, 20)
    method = ao.LBFGS(memory_size=1)
    ao.minimize(lambda x: (s @ x**2, 2 * s * x), np.ones(20), method=method, stop=ao.Stop(steps=20))
    begun = [work.program for work in _warmup._worked.values() if work.done is not None]
    assert any(len(program.reductions) > 1 for program in begun)


@pytest.mark.parametrize("make", [ao.Adam, _chain])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_compile_does_it_at_once(make: Callable[..., Any], dtype: str, no_work: None) -> None:
    """Also between two steps of a run, for the other parameters of that dtype, too; what can't be is passed over."""

    def play(run: _Run) -> None:
        params = _params(dtype)
        params["h"] = np.ones(3, np.float16)
        for k in range(6):
            if k == 3 and run.optimizer.engine is None:
                before = [np.array(a) for a in _leaves(params, run.optimizer.state)]
                run.optimizer.compile(params)
                assert all(map(same_bits, before, _leaves(params, run.optimizer.state)))
            run.step(params, {name: run.draw(p).astype(p.dtype) for name, p in params.items()})
            if run.optimizer.engine is None:
                assert _engine_of(run.optimizer, params) == (["compiled", "blocked"] if k >= 3 else ["blocked"] * 2)

    _same(play, None, make)


@pytest.mark.usefixtures("no_work")
def test_optimizers_in_threads_of_their_own() -> None:
    """Each takes each of its steps once, though all run the same loop, which some gradients make refuse."""
    ones, wrong = np.ones((50, 40)), list[int]()
    forms = [[ones], [ones], [ones, np.asfortranarray(ones), np.ones((50, 80))[:, ::2]]]

    def train(grads: list[Any], steps: int) -> None:
        w, optimizer = np.zeros((50, 40)), ao.SGD(lr=1.0, engine="compiled")
        for i in range(steps):
            optimizer.update(w, grads[i % len(grads)])
            if w[0, 0] != -(i + 1):
                wrong.append(i)
                w[...] = -(i + 1)

    train([ones], 5)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        running = [threading.Thread(target=train, args=(grads, 4000)) for grads in forms]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert wrong == []


_TRAINING = """
import hashlib, importlib, json, sys, time
import numpy as np
import anyoptim as ao
_warmup = importlib.import_module("anyoptim._machine._warmup")
from tests.support.internals import Part, Program, elsewhere, library, machine_code, on_value
_warmup.WORTHWHILE = 3 * (1000 + _warmup.CALLS)
rng = np.random.default_rng(0)
p, g = (rng.normal(size=1000).astype("f4") for _ in range(2))
optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam())
engines, reasons, steps = [], set(), 0
while engines[-2:] != ["compiled"] * 2:
    optimizer.update(p, g)
    steps += 1
    (share,) = optimizer.explain(p, g)
    engines.append(share.engine)
    reasons.add(str(share.reason))
    if share.reason == _warmup.COMPILING:
        time.sleep(0.01)
print(json.dumps({"steps": steps, "bits": hashlib.sha256(p.tobytes()).hexdigest(), "numba": "numba" in sys.modules,
    "reasons": sorted(reasons), "left": len(elsewhere._children)}))
"""


@pytest.mark.product  # seconds; tests/machine/test_elsewhere.py has its parts
def test_a_training_goes_on_meanwhile(tmp_path: Path) -> None:
    """Compiling is a process of its own: Numba is never imported, the bits are portable's, and none is left."""
    run = _python(_TRAINING, XDG_CACHE_HOME=str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    found: dict[str, Any] = json.loads(run.stdout)
    rng = np.random.default_rng(0)
    p, g = (rng.normal(size=1000).astype("f4") for _ in range(2))
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(), engine="portable")
    for _ in range(found["steps"]):
        optimizer.update(p, g)
    assert found["bits"] == hashlib.sha256(p.tobytes()).hexdigest()
    assert not found["numba"]
    assert found["left"] == 0
    assert len(found["reasons"]) == 3  # it was not worth it, it was being compiled, it was compiled


ABSENT = {
    "missing": ("sys.modules['numba'] = None", "numba can't be found"),
    "unable": (
        "import importlib\ndef fails(_): raise MemoryError('no right to make code')\n"
        "importlib.import_module('anyoptim._machine._compiling').compiled, sys.executable = fails, None",
        "Numba can't compile: no right to make code",
    ),
    "broken": ("sys.path.insert(0, sys.argv[1])", "Numba can't be imported: Numba needs NumPy 2.2 or less. Got NumPy"),
    "switched off": (
        "os.environ['NUMBA_DISABLE_JIT'] = '1'",
        "Numba can't compile: it is switched off (NUMBA_DISABLE_JIT)",
    ),
}

_ABSENT = """
import importlib, os, sys, time
{what}
import numpy as np
import anyoptim as ao
_warmup = importlib.import_module("anyoptim._machine._warmup")
_warmup.WORTHWHILE = 0
params, grads = {{"w": np.ones(3)}}, {{"w": np.ones(3)}}
optimizer = ao.SGD(lr=0.5)
for _ in range(4):
    optimizer.update(params, grads)
assert params["w"].tolist() == [-1.0] * 3
(share,) = optimizer.explain(params, grads)
while share.reason == _warmup.COMPILING:  # which fails there, too
    time.sleep(0.01)
    (share,) = optimizer.explain(params, grads)
print(share.engine, share.reason)
for call in (lambda: ao.SGD(engine="compiled"), lambda: setattr(optimizer, "engine", "compiled"),
             lambda: optimizer.compile(params)):
    try:
        call()
    except ImportError as error:
        print(error)
assert optimizer.engine is None
assert optimizer.kernel_source()
optimizer.update(params, grads)
"""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.product if name in {"broken", "switched off"} else ()) for name in ABSENT],
)
def test_without_numba(name: str, tmp_path: Path) -> None:
    """Missing, broken, unable or switched off: blocked steps, a reason in `explain`, an ImportError for who asks."""
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 2.2 or less. Got NumPy 2.4')")
    what, why = ABSENT[name]
    run = _python(_ABSENT.format(what=what), str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert run.returncode == 0, run.stderr
    told, *errors = run.stdout.splitlines()
    assert told.startswith(f"blocked {why}")
    assert len(errors) == 3
    assert all(why in line for line in errors)
    if name == "missing":
        assert all("pip install numba" in line for line in errors)


@pytest.mark.parametrize("engine", ["compiled", "blocked"])
@pytest.mark.parametrize("make", [_chain])
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
def test_a_chain_allocates_no_temporaries(engine: ao.EngineName, make: Callable[..., Any], dtype: str) -> None:
    """Beside the slots at most 1 MiB for 4M elements, the reduction's pass included: by NumPy's own accounting."""
    import tracemalloc

    p, g = np.ones(4 << 20, dtype), np.full(4 << 20, 0.5, dtype)
    optimizer = make(engine=engine)
    for x in (g, g, g[::-1]):  # scratch memory is kept
        optimizer.update(p, x)
    tracemalloc.start()
    try:
        for _ in range(2):
            optimizer.update(p, g)
        optimizer.update(p, g[::-1])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_headers_are_read_right() -> None:
    """Where CPython is as usual, they can be relied on: nothing else would show that they no longer are."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("another layout of objects")
    _array_headers.reliable.cache_clear()
    assert _array_headers.reliable()


def test_expressions_of_the_dtype_at_a_repeated_step() -> None:
    """The smallest normal number is float32's at every step: what is below it is flushed when the step is repeated."""
    expected = [5e-38, 2.5e-38, 1.25e-38, 0.0, 0.0, 0.0]
    for engine in ENGINES:
        p, found = np.zeros(3, np.float32), []
        optimizer = ao.chain(ao.Momentum(lr=0.5, momentum=0.5), ao.FlushSubnormals(), engine=engine)
        for k in range(6):
            optimizer.update(p, np.full(3, 0.0 if k else -1e-37, np.float32))
            found.append(float(optimizer.state.slots[0]["v"][0]))  # type: ignore[union-attr]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0, err_msg=engine)


def test_modules_of_the_engine_import_no_compiler() -> None:
    """`_intrinsics`, `_bits` and `_compiling` alone do."""
    for name in ("_engines.compiled._plan", "_machine._machine_code", "_machine._array_headers"):
        assert "numba" not in vars(importlib.import_module(f"anyoptim.{name}"))


def test_machine_code_that_is_kept_is_loaded_sooner(no_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the cache folder is taken from there once a look into it pays, and nothing else is begun."""
    begun: list[Any] = []
    ao.Momentum().compile(np.ones(1))  # so that it can be taken from there
    monkeypatch.setattr(elsewhere, "Compilation", begun.append)
    for kept, engine in ((True, "compiled"), (False, "blocked")):
        monkeypatch.setattr(_warmup, "_worked", {})
        monkeypatch.setattr(_warmup, "LOADING", 3 * _warmup.CALLS)
        looks: list[Any] = []
        monkeypatch.setattr(machine_code, "known", lambda of, kept=kept, looks=looks: looks.append(of) or kept)
        p, optimizer = np.ones(1), ao.Momentum()
        for _ in range(3):
            assert _engine_of(optimizer, p) == ["blocked"]
            assert not looks
            optimizer.update(p, np.ones(1))
        seen = len(looks)
        assert seen
        assert _engine_of(optimizer, p) == [engine]
        if not kept:
            optimizer.update(p, np.ones(1))
            assert len(looks) == seen  # one look is enough
    assert not begun


def test_a_cache_that_can_not_be_read_is_none(no_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps go on where looking for machine code raises, as of an llvmlite that can't be imported."""

    def raising(of: Any) -> bool:
        raise OSError("no such library")

    monkeypatch.setattr(_warmup, "LOADING", 1)
    monkeypatch.setattr(machine_code, "known", raising)
    p, optimizer = np.ones(1), ao.Momentum()
    for _ in range(2):
        optimizer.update(p, np.ones(1))
    assert _engine_of(optimizer, p) == ["blocked"]
