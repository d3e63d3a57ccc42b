"""Signal handlers and finalizers that update, drop out or draw in the middle of another who does: both are right."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._engines.blocked import _plan as blocked
from anyoptim._engines.blocked import _tiles
from tests.support.engines import dropout_on
from tests.support.internals import threads as _threads
from tests.support.libraries import ENGINES, same_bits

MAKERS: dict[str, Callable[[ao.EngineName], ao.Optimizer]] = {
    "plain": lambda engine: ao.Adam(engine=engine),
    "clipped": lambda engine: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(), engine=engine),
    "without slots": lambda engine: ao.chain(ao.WeightDecay(0.1), ao.SGD(0.1), engine=engine),
}

ROOT = str(Path(ao.__file__).parent)
WRITTEN = "<anyoptim"
"""How the names of files begin that this package writes and runs."""


class Run:
    """Some parameters and their optimizer: small ones in a pack, one alone, one in half precision."""

    def __init__(self, maker: str, engine: ao.EngineName, seed: int) -> None:
        self.optimizer = MAKERS[maker](engine)
        self.seed, self.steps = seed, 0
        rng = np.random.default_rng(seed)
        kinds = {"a": ((3, 4), "f4"), "b": ((5,), "f4"), "c": ((30, 7, 40), "f4"), "h": ((9,), "f2")}
        self.params = {k: rng.normal(size=shape).astype(dtype) for k, (shape, dtype) in kinds.items()}
        self.grads = [{k: rng.normal(size=p.shape).astype(p.dtype) for k, p in self.params.items()} for _ in range(3)]
        if maker == "plain":  # the quickest way is for those of one dtype
            self.params.pop("h")
            for g in self.grads:
                g.pop("h")

    def step(self) -> None:
        self.optimizer.update(self.params, self.grads[self.steps % 3])
        self.steps += 1

    def same(self, other: Run) -> bool:
        slots = [ao.Optimizer.state_dict(run.optimizer)["stages"] for run in (self, other)]
        both = [[*run.params.values(), *_arrays(of)] for run, of in zip((self, other), slots, strict=True)]
        return all(same_bits(a, b) for a, b in zip(*both, strict=True))


def _arrays(stages: Any) -> Iterator[Any]:
    for stage in stages:
        for slot in stage["slots"].values():
            yield from slot.values()


X = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)


def _layer() -> Any:
    """Forwards and a backward, of which some are drawn ahead."""
    layer = ao.Dropout(0.5, seed=1)
    return np.stack([*(layer.forward(X[:8]) for _ in range(4)), layer.backward(X[:8])])


DRAWS: dict[str, Callable[[], Any]] = {
    "dropout": lambda: ao.dropout(X, 0.5, 1, 2),
    "layer": _layer,
    "normal": lambda: ao.random.normal((40, 50), 7, 3, like=X),
}


class Intruder:
    """What a handler does: a step of an optimizer of its own, or a draw, whichever it is the turn of."""

    def __init__(self, engine: ao.EngineName) -> None:
        self.engine = engine
        self.runs = {maker: Run(maker, engine, 10 + k) for k, maker in enumerate(MAKERS)}
        self.drawn: dict[str, list[Any]] = {name: [] for name in DRAWS}
        for run in self.runs.values():
            for _ in range(3):  # which are planned and compiled
                run.step()
        self.calls = [*(run.step for run in self.runs.values()), *(lambda n=n: self.draw(n) for n in DRAWS)]
        self.times, self.busy = 0, False

    def draw(self, name: str) -> None:
        self.drawn[name] = [*self.drawn[name][-3:], DRAWS[name]()]

    def __call__(self) -> None:
        if not self.busy:  # the next signal comes to it, too
            self.busy = True
            self.times += 1
            self.calls[self.times % len(self.calls)]()
            self.busy = False

    def check(self) -> None:
        assert self.times
        for k, (maker, run) in enumerate(self.runs.items()):
            alone = Run(maker, "blocked", 10 + k)  # the fastest: all have the same bits
            for _ in range(run.steps):
                alone.step()
            assert run.same(alone), f"{maker}, within"
        for name, arrays in self.drawn.items():
            assert all(same_bits(a, DRAWS[name]()) for a in arrays), f"{name}, within"


class Anywhere:
    """Comes before every instruction of some files, and before every line of other files of this package."""

    def __init__(self, intruder: Callable[[], None], *closely: str) -> None:
        self.intruder, self.closely = intruder, closely

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        close = any(part in file for part in self.closely)
        if not close and not file.startswith((ROOT, WRITTEN)):
            return None
        frame.f_trace_opcodes = close
        if event == ("opcode" if close else "line"):
            self.intruder()
        return self

    def during(self, call: Callable[[], None]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        finally:
            sys.settrace(before)


@pytest.mark.covering(1)  # the engines differ here more than the optimizers do; the others are products
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_update_in_the_middle_of_another(engine: ao.EngineName, maker: str) -> None:
    """Wherever it comes in a replayed step: parameters and slots of both have the usual bits."""
    alone, run, intruder = Run(maker, engine, 1), Run(maker, engine, 1), Intruder(engine)
    for _ in range(4):
        alone.step()
    for _ in range(3):
        run.step()
    Anywhere(intruder, WRITTEN, "_plan.py", "_quiet.py", "_scratch.py").during(run.step)
    assert run.same(alone)
    intruder.check()


@pytest.mark.own_loops
@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=pytest.mark.product if name == "portable" else ()) for name in ENGINES]
)
def test_an_update_in_the_middle_of_the_first(engine: ao.EngineName) -> None:
    """While a step is planned, traced and written, too."""
    alone, run, intruder = Run("clipped", engine, 1), Run("clipped", engine, 1), Intruder(engine)
    alone.step()
    alone.step()
    Anywhere(intruder).during(run.step)
    run.step()
    assert run.same(alone)
    intruder.check()


@pytest.mark.covering(1)  # the engines draw in ways of their own, and each draw has one
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_update_in_the_middle_of_a_draw(engine: ao.EngineName, draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a draw in the middle of another."""
    dropout_on(engine, monkeypatch)
    expected, intruder, found = DRAWS[draw](), Intruder(engine), []
    Anywhere(intruder, WRITTEN).during(lambda: found.append(DRAWS[draw]()))
    assert same_bits(found[0], expected)
    intruder.check()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two, that share out steps of a few thousand elements, too."""
    monkeypatch.setattr(_threads, "threads", lambda: 2)
    monkeypatch.setattr(_threads, "_POOLS", pools := [])  # type: ignore[var-annotated]
    monkeypatch.setattr(blocked, "THREADED", 2)
    monkeypatch.setattr(blocked, "BLOCK", 1 << 12)
    monkeypatch.setattr(_tiles, "TILE", 1 << 12)
    yield
    for pool in pools:
        for _ in range(pool.threads):
            pool.calls.put(sys.exit)


def _ends(call: Callable[[], None]) -> None:
    """In a thread, since what waits for itself waits for ever."""
    errors: deque[BaseException] = deque()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for itself"
    if errors:
        raise errors[0]


def test_a_step_that_several_threads_share(threads: None) -> None:
    """Even where the pool has its locks in hand: what comes in between is done by the thread that it comes to."""
    alone, run = Run("clipped", "blocked", 1), Run("clipped", "blocked", 1)
    intruder = Intruder("blocked")
    for _ in range(3):
        alone.step()
        run.step()
    alone.step()
    pool = ("_threads.py", "concurrent", "threading.py")
    _ends(lambda: Anywhere(intruder, *pool).during(run.step))
    assert run.same(alone)
    intruder.check()


def test_a_finalizer_in_a_helping_thread(threads: None) -> None:
    """It shares its step with nobody: it would wait for the thread that it is in."""
    done: deque[tuple[int, int]] = deque()

    def outer(i: int) -> None:
        time.sleep(0.01)  # so that both threads take some
        _threads.spread(lambda j: done.append((i, j)), [(j,) for j in range(8)])

    _ends(lambda: _threads.spread(outer, [(i,) for i in range(8)]))
    assert sorted(done) == [(i, j) for i in range(8) for j in range(8)]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_handler_of_a_signal(engine: ao.EngineName) -> None:
    """Some hundred signals, whenever they come but while garbage is collected.

    That may be in the middle of setting a context variable, such as NumPy's error state. If a handler that comes then
    sets one, Python 3.11 goes on in memory that was freed (gh-148891).
    """
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread alone")
    alone, run, intruder = Run("clipped", engine, 1), Run("clipped", engine, 1), Intruder(engine)
    before = signal.signal(signal.SIGALRM, lambda *_: intruder())
    gc.disable()
    signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
    try:
        while intruder.times < 200:
            run.step()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.enable()
        signal.signal(signal.SIGALRM, before)
    for _ in range(run.steps):
        alone.step()
    assert run.same(alone)
    intruder.check()


@pytest.mark.parametrize("engine", ENGINES)
def test_finalizers(engine: ao.EngineName) -> None:
    """Of garbage that is collected wherever anything is allocated."""
    alone, run, intruder = Run("clipped", engine, 1), Run("clipped", engine, 1), Intruder(engine)

    class Cycle:
        left = 100

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            Cycle.left -= 1
            if Cycle.left > 0:
                Cycle()
            intruder()

    before = gc.get_threshold()
    gc.collect()
    Cycle()
    gc.set_threshold(1)
    try:
        while Cycle.left > 0:
            run.step()
    finally:
        gc.set_threshold(*before)
    for _ in range(run.steps):
        alone.step()
    assert run.same(alone)
    intruder.check()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("warm", [0, 1, 3])
def test_a_schedule_that_updates_with_its_own_optimizer(engine: ao.EngineName, warm: int) -> None:
    """Once, in vain: the step around it is right, or refused with nothing written. Each time: it is refused."""
    p, begins, within = np.zeros(4), 0, False

    def schedule(t: int) -> float:
        nonlocal begins, within
        if within:
            raise ValueError
        if begins:
            begins, within = begins - 1, True
            with pytest.raises(ValueError, match=r"^$"):
                optimizer.update(p, np.array([-1e6, 1e6, 0.0, 0.0]))
            within = False
        return 0.1

    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(schedule), engine=engine)
    for _ in range(warm):
        optimizer.update(p, np.ones(4))
    before = p.copy()
    for begins in (1, 100):
        with contextlib.suppress(RuntimeError) if begins == 1 else pytest.raises(RuntimeError, match="one after the"):
            optimizer.update(p, np.ones(4))
            before = before - 0.05
        assert np.allclose(p, before, rtol=1e-14, atol=0)
    begins = 0
    optimizer.update(p, np.ones(4))
    assert np.allclose(p, before - 0.05, rtol=1e-14, atol=0)
