"""Exceptions from handlers of signals, anywhere in an update: the step is taken whole and counted, or not at all."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._engines.blocked import _plan as blocked
from tests.support import shim
from tests.support.internals import completed as _completed
from tests.support.internals import library, scratch
from tests.support.internals import threads as _threads
from tests.support.interruptions import LOOKS, InterruptionError, interrupted, places
from tests.support.libraries import ENGINES, Library, same_bits

Make = Callable[[ao.EngineName], ao.Optimizer]


def _clipped(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(), ao.EMA(), engine=engine)


def _grouped(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.Adam(), ao.groups({"a": {"lr": 0.1}, ...: {}}), engine=engine)


def _gathering(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.Accumulate(2), ao.Adam(), engine=engine)


def _scaled(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.LossScale(), ao.Metrics(), ao.Adam(), engine=engine)


OPTIMIZERS: dict[str, Make] = {
    "Adam": lambda engine: ao.Adam(engine=engine),
    "a schedule": lambda engine: ao.Adam(ao.schedules.warmup_cosine(0.1, 100, 10), engine=engine),
    "groups": _grouped,
    "a clipped chain": _clipped,
    "Accumulate": _gathering,
    "LossScale": _scaled,
}


def _plain(rng: Any) -> dict[str, Any]:
    return {name: rng.normal(size=n) for name, n in (("a", 30), ("b", 7), ("c", 300))}


def _one_none(rng: Any) -> dict[str, Any]:
    return _plain(rng) | {"b": None}


def _not_finite(rng: Any) -> dict[str, Any]:
    return _plain(rng) | {"b": np.full(7, np.inf)}


GRADIENTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "all": _plain,
    "one None": _one_none,
    "not finite": _not_finite,
}

KINDS: dict[str, tuple[str, ...]] = {
    "float32": ("float32",) * 3,
    "several": ("float32", "float64", "float16"),
}
"""The dtypes of the parameters."""


class Twins:
    """Two optimizers of the same parameters: one is interrupted, and the other takes the steps that this one counts."""

    def __init__(self, make: Make, engine: ao.EngineName, kind: str, larger: int = 1) -> None:
        self.make, self.engine, self.dtypes, self.larger = make, engine, KINDS[kind], larger
        self.arrays: Callable[[Any], Any] = np.array
        self.numpy: Callable[[Any], Any] = np.asarray
        if engine == "jax":
            import jax.numpy as jnp

            self.arrays = jnp.asarray
            self.dtypes = tuple(dtype.replace("64", "32") for dtype in self.dtypes)
        elif engine == "cuda":
            shim.install(shim.Machine())
            self.arrays, self.numpy = shim.asarray, shim.tonumpy
        self.rng = np.random.default_rng(7)
        self.start()

    def start(self) -> None:
        """Begin anew, with both."""
        values = _plain(np.random.default_rng(3))
        self.one, self.two = self.make(self.engine), self.make(self.engine)
        self.p, self.q = self._given(values), self._given(values)
        if self.engine == "compiled":
            self.one.compile(self.p)
            self.two.compile(self.q)
        self.updates = 0

    def _given(self, values: dict[str, Any]) -> dict[str, Any]:
        both = zip(values.items(), self.dtypes, strict=True)
        return {k: None if x is None else self.arrays(np.tile(x, self.larger).astype(dtype)) for (k, x), dtype in both}

    def gradients(self, kind: str) -> dict[str, Any]:
        """Other ones each time."""
        with np.errstate(all="ignore"):
            return self._given(GRADIENTS[kind](self.rng))

    def update(self, kind: str, steps: int = 1) -> None:
        """Let both take steps."""
        for _ in range(steps):
            g = self.gradients(kind)
            self.one.update(self.p, g)
            self.two.update(self.q, g)

    def marks(self, optimizer: ao.Optimizer) -> Any:
        """What an update that is taken changes, whatever it does: counts and scalars."""
        state = optimizer.state
        return None if state is None else (state.step, state.t, state.scalars, state.pending)

    def whole(self, interrupting: Callable[[Callable[[], object]], object], kind: str) -> bool:
        """Whether an update that is interrupted is taken whole or not at all: the other takes it if it is counted."""
        before, g = self.marks(self.one), self.gradients(kind)
        interrupting(lambda: self.one.update(self.p, g))
        if self.marks(self.one) != before:
            self.two.update(self.q, g)
        return self.same()

    def same(self) -> bool:
        """Whether parameters, slots, counts and scalars of both are the same."""
        pairs = [(self.p, self.q), (_state(self.one), _state(self.two))]
        leaves = [both for pair in pairs for both in zip(*map(_leaves, pair), strict=True)]
        return all(same_bits(self.numpy(a), self.numpy(b)) for a, b in leaves)

    def travels(self) -> bool:
        """Whether a new optimizer goes on from a checkpoint of the first, and both take the next step alike."""
        if self.one.state is None:
            return True
        third = self.make(self.engine)
        third.load_state_dict(self.one.state_dict(), self.p)
        self.one = third
        self.update("all")
        return self.same()


def _state(optimizer: ao.Optimizer) -> Any:
    return None if optimizer.state is None else tuple(optimizer.state)


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from _leaves(value)
    elif tree is not None:
        yield tree


PLACES = 16
"""The places of each case that are tried, of hundreds to ten thousand. They are others in each case."""

CASES = [
    ("Adam", "all", "float32"),
    ("a schedule", "one None", "several"),
    ("groups", "one None", "float32"),
    ("a clipped chain", "all", "several"),
    ("Accumulate", "one None", "several"),
    ("LossScale", "not finite", "float32"),
    ("LossScale", "all", "several"),
]


@pytest.mark.usefixtures("quickly")  # both twins run what is compiled
@pytest.mark.parametrize("warm", [0, 1, 4], ids=["the first", "the second", "a replay"])
@pytest.mark.parametrize(("maker", "gradients", "kind"), CASES)
@pytest.mark.parametrize("engine", [*ENGINES, "jax", "cuda"])
def test_an_exception_anywhere(
    engine: ao.EngineName, maker: str, gradients: str, kind: str, warm: int, need: Callable[[str], Library]
) -> None:
    """Before any instruction of anyoptim's own: parameters, slots and counts are of that step, or of the one before."""
    if engine in {"jax", "cuda"}:
        need({"cuda": "cuda-shim"}.get(engine, engine))
    twins = Twins(OPTIMIZERS[maker], engine, kind)
    twins.update(gradients, 3)  # so that all is imported and compiled
    twins.start()
    twins.update(gradients, warm)
    most = places(lambda: twins.one.update(twins.p, twins.gradients(gradients)))
    twins.start()
    rng = np.random.default_rng([*map(ord, engine + maker + gradients + kind)])
    for place in sorted(rng.integers(0, most, PLACES).tolist()):
        if warm < 4:
            twins.start()
        twins.update(gradients, warm)
        assert twins.whole(partial(interrupted, place=place), gradients), place
        assert twins.travels(), place


class Alarm:
    """A signal that comes once, after some time, and whose handler raises."""

    came = 0

    def __enter__(self) -> Alarm:
        self.before = signal.signal(signal.SIGALRM, self)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)

    def __call__(self, *_: object) -> None:
        self.came += 1
        raise InterruptionError

    def during(self, call: Callable[[], object], seconds: float) -> None:
        """Call, with the signal after so long."""
        with contextlib.suppress(InterruptionError):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            call()
            signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
@pytest.mark.parametrize("maker", ["Adam", "a clipped chain"])
@pytest.mark.parametrize("engine", [*ENGINES, "jax"])
def test_signals(engine: ao.EngineName, maker: str, need: Callable[[str], Library], small_pieces: None) -> None:
    """Alarms at any time of steps that threads share out: 60 for each engine and optimizer, and none tears a step."""
    if engine == "jax":
        need("jax")
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread alone")
    twins = Twins(OPTIMIZERS[maker], engine, "float32", 20)
    twins.update("all", 5)
    begin = time.perf_counter()
    twins.update("all", 10)
    step = (time.perf_counter() - begin) / 20
    rng = np.random.default_rng(5)
    gc.disable()  # Python 3.11 may go on in freed memory where a handler comes while garbage is collected (gh-148891)
    try:
        with Alarm() as alarm:
            while alarm.came < 60:
                assert twins.whole(partial(alarm.during, seconds=max(rng.uniform(0, 1.2 * step), 1e-6)), "all")
    finally:
        gc.enable()
    assert twins.travels()


@pytest.mark.parametrize("maker", ["Adam", "a clipped chain"])
@pytest.mark.parametrize("engine", ["blocked", "compiled"])
def test_an_exception_beside_threads(engine: ao.EngineName, maker: str, small_pieces: None) -> None:
    """Anywhere in a replay that several threads share out: what they have begun is finished, too."""
    twins = Twins(OPTIMIZERS[maker], engine, "float32", 20)
    twins.update("all", 4)
    most = places(lambda: twins.one.update(twins.p, twins.gradients("all")))
    twins.start()
    twins.update("all", 4)
    for place in np.random.default_rng(1).integers(0, most, 5 * PLACES).tolist():
        assert twins.whole(partial(interrupted, place=place), "all"), place
        twins.update("all", 2)
        assert twins.same()


@pytest.mark.parametrize("engine", ["blocked", "compiled", "portable"])
def test_memory_runs_out(engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any allocation of scratch: nothing is moved where two dtypes are, and later updates go on."""
    twins = Twins(OPTIMIZERS["Adam"], engine, "several", 2000)
    twins.update("all")
    original, left = np.empty, 0

    def empty(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError("made up")
        return original(*arguments, **options)

    for number in range(20):
        monkeypatch.setattr(scratch, "_free", deque())  # what is kept from step to step
        left = number

        def without_memory(update: Callable[[], object]) -> None:
            with monkeypatch.context() as patch, contextlib.suppress(MemoryError):
                patch.setattr(np, "empty", empty)
                update()

        assert twins.whole(without_memory, "all"), number
    twins.update("all")
    assert twins.same()


LAYERS: dict[str, Callable[[], Any]] = {
    "Dropout": lambda: ao.Dropout(0.5, seed=1),
    "AlphaDropout": lambda: ao.AlphaDropout(0.5, seed=1),
    "GaussianDropout": lambda: ao.GaussianDropout(0.5, seed=1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_exception_in_a_forward(name: str) -> None:
    """Anywhere: the draw is counted and has its mask for backward, or it is neither."""
    layer, x = LAYERS[name](), np.ones((20, 30), np.float32)
    for _ in range(3):
        layer.forward(x, training=True)
    most = places(lambda: layer.forward(x, training=True))
    for place in range(0, most, max(most // (10 * PLACES), 1)):
        calls = layer.calls
        interrupted(lambda: layer.forward(x, training=True), place)
        twin = LAYERS[name]()
        twin.calls = layer.calls - 1
        assert layer.calls - calls in {0, 1}
        twin.forward(x, training=True)
        assert same_bits(layer.backward(x), twin.backward(x)), place


@pytest.mark.covering(1)  # engines and cases meet in test_an_exception_anywhere; the others are products
@pytest.mark.parametrize(("maker", "gradients", "kind"), CASES)
@pytest.mark.parametrize("engine", [*ENGINES, "cuda"])
def test_places_near_the_end(
    engine: ao.EngineName, maker: str, gradients: str, kind: str, need: Callable[[str], Library]
) -> None:
    """All of the last places of an update, where it is written, counted and remembered; asking for the state, too."""
    if engine == "cuda":
        need("cuda-shim")
    twins = Twins(OPTIMIZERS[maker], engine, kind)
    twins.update(gradients, 4)
    most = places(lambda: twins.one.update(twins.p, twins.gradients(gradients)))
    twins.start()
    twins.update(gradients, 4)
    for place in range(max(most - 120, 0), most + 2):
        assert twins.whole(partial(interrupted, place=place), gradients), place
        twins.update(gradients)
        interrupted(lambda: twins.one.state, place % 60)
        assert twins.same(), place


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("warm", [0, 1, *(pytest.param(n, marks=pytest.mark.product) for n in (2, 3))])
def test_an_exception_in_the_code_of_jax(warm: int, need: Callable[[str], Library]) -> None:
    """Where JAX compiles, its own Python code runs: also after it has been given slots to overwrite."""
    need("jax")
    twins = Twins(OPTIMIZERS["Adam"], "jax", "float32")
    for dtype in ("float32", "float16") if warm else ("float32",):  # in mid-training gradients of another dtype come
        most = 1
        for share in (1.0, 0.3, 0.9, 0.97, 0.99, 0.995, 0.999):
            twins.start()
            twins.update("all", warm)
            import jax

            jax.clear_caches() if warm == 0 else None
            twins.dtypes = (dtype,) * 3
            interrupt = partial(interrupted, place=float("inf") if share == 1 else int(share * most), package="/jax/")

            def counted(update: Callable[[], object], interrupt: Any = interrupt) -> None:
                nonlocal most
                most = max(most, interrupt(update))

            assert twins.whole(counted, "all"), (dtype, share)
            assert twins.travels(), (dtype, share)
            twins.dtypes = ("float32",) * 3


class Again(Alarm):
    """A signal that comes again and again, each time with an exception."""

    def during(self, call: Callable[[], object], seconds: float) -> None:
        try:
            signal.setitimer(signal.ITIMER_REAL, 10 * seconds, seconds)  # when the step is being written
            call()
        except InterruptionError:
            pass
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptionError:
                signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_many_signals_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of many blocks, in which an exception arrives again and again, is finished all the same."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread alone")
    monkeypatch.setattr(_threads, "threads", lambda: 1)
    twins = Twins(OPTIMIZERS["Adam"], "blocked", "float32", 20_000)
    twins.update("all", 2)
    gc.disable()
    try:
        with Again() as alarm:
            for _ in range(3):
                assert twins.whole(partial(alarm.during, seconds=5e-4), "all")
    finally:
        gc.enable()
    assert alarm.came > 6


def test_threads_are_asked_again_after_an_interruption(small_pieces: None) -> None:
    """An interrupted reduction leaves no thread to itself for good."""
    for place in range(0, 400, 7):
        interrupted(lambda: _threads.spread(time.sleep, [(1e-5,)] * 8), place)
        assert not _threads._SHARING.now()


def test_what_fails_once_in_a_helping_thread_is_done_again(small_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lack of memory there, say: the step is taken whole."""
    twins = Twins(OPTIMIZERS["Adam"], "blocked", "float32", 20)
    twins.update("all", 2)
    original, failures, main = blocked._block, [MemoryError("made up")], threading.get_ident()

    def failing(*arguments: Any) -> Any:
        if failures and threading.get_ident() != main:
            raise failures.pop()
        time.sleep(1e-4)  # so that others get some
        return original(*arguments)

    monkeypatch.setattr(blocked, "_block", failing)
    for _ in range(50):
        twins.update("all")
    assert twins.same()
    assert not failures


def test_a_report_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the update is interrupted; and a hook that raises is not called again."""
    made: list[Any] = []

    class Counting(ao.Metrics):
        def record_metrics(self, *arguments: Any) -> None:
            made.append(arguments)
            super().record_metrics(*arguments)

    optimizer, p, g = ao.chain(Counting(), ao.SGD(), engine="blocked"), np.ones(3), np.ones(3)
    for _ in range(3):
        optimizer.update(p, g)
    most = places(lambda: optimizer.update(p, g))
    for place in range(max(most - 300, 0), most):
        before, steps = len(made), optimizer.state.step  # type: ignore[union-attr]
        interrupted(lambda: optimizer.update(p, g), place)
        assert len(made) - before <= 1
        assert optimizer.state.step - steps <= 1  # type: ignore[union-attr]


@pytest.mark.parametrize("ask", ["update", "state", "state_dict"])
def test_a_handler_that_asks_in_the_middle_is_refused(ask: str) -> None:
    """While a step is being written: a checkpoint of then would be torn."""
    optimizer, p, g = ao.Adam(engine="portable"), {"a": np.ones(3)}, {"a": np.ones(3)}
    optimizer.update(p, g)
    refused: list[str] = []

    def written(library: Any, array: Any, new: Any) -> None:
        asked = getattr(optimizer, ask) if ask != "state" else lambda: optimizer.state
        try:
            asked(*[p, g] if ask == "update" else [])
        except RuntimeError as error:
            refused.append(str(error))
        np.asarray(array)[...] = new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(library(p["a"])), "write", written)
        optimizer.update(p, g)
    assert refused
    assert "in the middle of a step" in refused[0]
    assert optimizer.state.step == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("interrupts", range(1, 4))
def test_a_signal_while_another_is_dealt_with(interrupts: int) -> None:
    """At each place where CPython looks for signals once the action was interrupted: it is finished all the same."""

    def completing(place: float) -> int:
        left = [InterruptionError] * interrupts

        def action() -> None:
            if left:
                raise left.pop()

        ran = interrupted(lambda: _completed.completed(action), place, _completed.__file__, LOOKS)
        assert not left, place
        return ran

    most = completing(float("inf"))
    assert most > interrupts
    for place in range(2, most):  # 0 is where it begins, and 1 the first call: nothing has been done yet
        completing(place)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_action_that_always_fails_ends(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """And raises what it raised; nothing waits for ever."""
    monkeypatch.setattr(_completed, "SIGNALS", 100)
    calls: list[int] = []

    def failing() -> None:
        calls.append(1)
        raise error("made up")

    with pytest.raises(error, match="made up"):
        _completed.completed(failing)
    assert len(calls) == 1 + (_completed.FAILURES if error is ValueError else 100)


def test_which_exception_goes_on() -> None:
    """The first; but one that is no `Exception` goes before one that is, whenever it comes."""
    for raised, wanted in (
        ((ValueError, TypeError), ValueError),
        ((ValueError, KeyboardInterrupt, SystemExit), KeyboardInterrupt),
        ((SystemExit, KeyboardInterrupt, ValueError), SystemExit),
    ):
        left = [*reversed(raised)]

        def action(left: Any = left) -> None:
            if left:
                raise left.pop()

        with pytest.raises(wanted):
            _completed.completed(action)
        assert not left
