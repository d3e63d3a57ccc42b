"""Updates captured in CUDA graphs, on the device that is none: a graph is the list of what a stream was given."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support import shim
from tests.support.chains import CHAINS
from tests.support.libraries import COMPOSED, METHODS, Library, allowed, same_bits

MAKE: dict[str, Callable[..., Any]] = {
    **METHODS,
    **{name: lambda make=make, engine=None: make(engine) for name, make in CHAINS.items()},
}
BRANCHING = ("two slots of one name",)  # its `late` compares t
RECORDED = [
    name
    for name, make in MAKE.items()
    if name not in {*BRANCHING, *COMPOSED}
    and all(isinstance(of, ao.Norm) and of.over == "all" for s in make().stages for of in s.reductions.values())
]
SHAPES = {"W": (3, 5), "b": (), "long": (20001,)}

Arrays = dict[str, Any]


class Twins:
    """An optimizer on the device and one on NumPy arrays, which are given the same gradients."""

    def __init__(self, name: str, dtype: str = "float32", eager: bool = True, warm: int = 3) -> None:
        self.machine = shim.install(shim.Machine(eager))
        self.rng, self.dtype = np.random.default_rng(0), dtype
        self.there, self.here = MAKE[name](), MAKE[name](engine="portable")
        self.q: Arrays = self.values()
        self.p: Arrays = {k: shim.asarray(a) for k, a in self.q.items()}
        self.static: Arrays = {k: shim.asarray(a) for k, a in self.values().items()}
        for _ in range(warm):
            self.update()

    def values(self) -> Arrays:
        return {k: self.rng.normal(size=s).astype(self.dtype) for k, s in SHAPES.items()}

    def update(self) -> None:
        """A step that no graph takes."""
        g = self.values()
        given = {k: shim.asarray(a) for k, a in g.items()}
        self.there.update(self.p, given)
        self.machine.finish()
        self.here.update(self.q, g)

    @contextlib.contextmanager
    def capture(self) -> Iterator[list[Callable[[], object]]]:
        graph: list[Callable[[], object]] = []
        self.machine.finish()
        self.machine.captured = graph
        try:
            yield graph
        finally:
            self.machine.captured = None

    def captured(self) -> list[Callable[[], object]]:
        """A graph of one update with the static gradients."""
        with self.capture() as graph:
            assert self.there.update(self.p, self.static) is self.p
        return graph

    def replay(self, graph: list[Callable[[], object]]) -> None:
        g = self.values()
        for k, a in g.items():
            self.static[k][...] = a
        self.machine.waiting.extend(graph)
        self.machine.finish()
        self.here.update(self.q, g)

    def agree(self) -> None:
        for k, a in self.q.items():
            assert same_bits(shim.tonumpy(self.p[k]), a), k
        there, here = self.there.state, self.here.state
        assert (there.step, there.t) == (here.step, here.t)


@pytest.fixture(autouse=True)
def compiler(need: Callable[[str], Library]) -> None:
    need("cuda-shim")


@pytest.mark.covering(1)  # which rule it is and when the work is done have nothing to do with each other
@pytest.mark.parametrize(("dtype", "eager"), [("float32", False), ("float64", True)], ids=["in a queue", "at once"])
@pytest.mark.parametrize("name", RECORDED)
def test_replays_are_the_steps(name: str, dtype: str, eager: bool) -> None:
    """With t and hyperparameters moving on; the shim's `pow` is Python's, so that the bits are too."""
    twins = Twins(name, dtype, eager)
    graph = twins.captured()
    twins.agree()  # nothing was written
    launches = len(twins.machine.launches)
    for i in range(12):
        if i == 5:
            for optimizer in (twins.there, twins.here):
                for stage in optimizer.stages:
                    for hyper in stage.hyperparameters:
                        setattr(stage, hyper, allowed(stage, hyper, 0.25))
        twins.replay(graph)
    assert len(twins.machine.launches) == launches  # but those of the graph
    twins.agree()


def test_steps_outside_count_for_the_graph_and_for_another() -> None:
    twins = Twins("clip, Adam, EMA")
    first = twins.captured()
    twins.replay(first)
    twins.update()
    second = twins.captured()
    for graph in (second, first, second, second):
        twins.replay(graph)
    twins.update()
    twins.replay(first)
    twins.agree()
    assert twins.there.state.step == 3 + 8


def test_a_graph_outlives_its_optimizer() -> None:
    """What it writes to belongs to nobody else: later optimizers take other memory."""
    twins = Twins("Adam")
    graph = twins.captured()
    twins.replay(graph)
    twins.agree()
    del twins.there
    others = [ao.Adam() for _ in range(5)]
    p = {k: shim.asarray(a) for k, a in twins.values().items()}
    for optimizer in others:
        optimizer.update(p, {k: shim.asarray(a) for k, a in twins.values().items()})
    twins.replay(graph)
    assert all(same_bits(shim.tonumpy(twins.p[k]), a) for k, a in twins.q.items())


def test_copies_go_on_from_where_replays_came() -> None:
    twins = Twins("Adam")
    graph = twins.captured()
    for _ in range(4):
        twins.replay(graph)
    for other in (copy.deepcopy(twins.there), pickle.loads(pickle.dumps(twins.there))):  # noqa: S301
        assert other.state.step == twins.here.state.step
        other.lr = 0.5  # and tells the graph nothing
    twins.replay(graph)
    twins.agree()


def test_uploads_of_later_steps_do_not_reach_what_was_captured() -> None:
    twins = Twins("decay, Momentum")
    graph = twins.captured()
    for _ in range(20):
        twins.update()
        twins.replay(graph)
    twins.agree()


def _with(twins: Twins, name: str, value: Any) -> Any:
    setattr(twins.there, name, value)
    return twins.there


REFUSED: dict[str, tuple[type[Exception], str, Callable[[Twins], object]]] = {
    "a first update": (
        RuntimeError,
        "first update .* is being captured in a CUDA graph",
        lambda t: ao.Adam().update(t.p, t.static),
    ),
    "a schedule": (
        ValueError,
        r"lr of Adam\(.*\) is a schedule, which replays of a CUDA graph can't call",
        lambda t: _with(t, "lr", lambda step: 0.1 / step).update(t.p, t.static),
    ),
    "element by element": (
        ValueError,
        r"lr of Adam\(.*\) is given element by element, which can't be captured in a CUDA graph; wanted a number",
        lambda t: _with(t, "lr", {k: 0.1 * (p != 2) for k, p in t.p.items()}).update(t.p, t.static),
    ),
    "another dtype of a gradient": (
        RuntimeError,
        r"params\['b'\] can't be updated in a CUDA graph, .*: portable takes it, because its gradient has another",
        lambda t: t.there.update(t.p, {**t.static, "b": shim.asarray(np.float64(1))}),
    ),
    "the portable engine": (
        RuntimeError,
        "can't be updated in a CUDA graph, .*: portable takes it, because engine='portable'",
        lambda t: _with(t, "engine", "portable").update(t.p, t.static),
    ),
    "a pure step": (
        RuntimeError,
        "step is being captured in a CUDA graph",
        lambda t: t.there.step(t.p, t.static, t.there.init(t.p)),
    ),
    "a wrong shape": (
        ValueError,
        r"grads\['b'\]",
        lambda t: t.there.update(t.p, {**t.static, "b": shim.asarray(np.ones(2, np.float32))}),
    ),
    "a layer of dropout": (
        RuntimeError,
        "x is being captured in a CUDA graph, whose replays would draw the same mask for ever",
        lambda t: ao.Dropout(seed=0).forward(t.p["long"]),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_replays_would_get_wrong_is_refused(what: str) -> None:
    error, message, attempt = REFUSED[what]
    twins = Twins("Adam")
    with twins.capture() as graph, pytest.raises(error, match=message):
        attempt(twins)
    assert not graph
    assert all(same_bits(shim.tonumpy(twins.p[k]), a) for k, a in twins.q.items())


@pytest.mark.parametrize("name", BRANCHING)
def test_branches_on_t_are_refused(name: str) -> None:
    twins = Twins(name)
    with twins.capture(), pytest.raises(TypeError, match=r"branches on t .* can't be captured in a CUDA graph"):
        twins.there.update(twins.p, twins.static)


@pytest.mark.parametrize("name", COMPOSED)
def test_what_asks_the_device_or_keeps_numbers_is_refused(name: str) -> None:
    """Before anything is written; and the optimizer goes on without a graph."""
    twins = Twins(name)
    message = rf"can't be captured in a CUDA graph: (_Length|{name})\(lr=.*\) needs the host at every step"
    with twins.capture() as graph, pytest.raises(TypeError, match=message):
        twins.there.update(twins.p, twins.static)
    assert sum(launch.args[-1][-1] for launch in graph) % 2**64 == 0  # type: ignore[attr-defined] # of the count
    twins.agree()
    twins.update()
    twins.agree()


def test_two_dtypes_with_a_norm_are_refused() -> None:
    shim.install(shim.Machine())
    p = {"a": shim.asarray(np.ones(3, np.float32)), "b": shim.asarray(np.ones(3))}
    g = {k: shim.asarray(np.array(a)) for k, a in p.items()}
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD())
    optimizer.update(p, g)
    shim.machine().captured = []
    with pytest.raises(RuntimeError, match=r"a norm over several dtypes or devices .* can't be captured"):
        optimizer.update(p, g)
    shim.machine().captured = None


def test_other_parameters_than_captured_are_refused() -> None:
    twins = Twins("Adam")
    graph = twins.captured()
    twins.replay(graph)
    some = {**twins.static, "b": None}
    with pytest.raises(ValueError, match=r"params\['b'\] has no gradient, otherwise than when an update was captured"):
        twins.there.update(twins.p, some)
    with twins.capture(), pytest.raises(ValueError, match=r"params\['b'\] has no gradient"):
        twins.there.update(twins.p, some)
    twins.replay(graph)
    twins.agree()


def test_a_schedule_set_after_a_capture_is_refused() -> None:
    twins = Twins("Adam")
    graph = twins.captured()
    with pytest.raises(ValueError, match=r"lr of Adam.* is a schedule, which replays of a CUDA graph can't call"):
        twins.there.lr = lambda step: 0.1
    assert twins.there.lr == 0.001
    twins.replay(graph)
    twins.agree()


# Found by reading ------------------------------------------------------------------------------------------------


def test_a_step_by_another_engine_is_refused() -> None:
    """Its slots would be new arrays, and replays would go on with the old ones."""
    twins = Twins("Momentum")
    graph = twins.captured()
    twins.replay(graph)
    with pytest.raises(RuntimeError, match="portable takes it, because its gradient has another dtype"):
        twins.there.update(twins.p, {**twins.static, "b": shim.asarray(np.float64(1))})
    twins.replay(graph)
    twins.agree()


@pytest.mark.parametrize("still", [True, False])
def test_replays_are_counted_before_a_refusal(still: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's arrays are checked anew at each such step, and remembered anew."""
    if not still:
        monkeypatch.setattr(shim.Library, "unchanged", lambda self, x, memory: False)
    twins = Twins("Adam")
    graph = twins.captured()
    for _ in range(5):
        twins.replay(graph)
    with pytest.raises(ValueError, match="has no gradient"):
        twins.there.update(twins.p, {**twins.static, "b": None})
    twins.agree()
    twins.update()
    twins.replay(graph)
    twins.agree()


def test_hyperparameters_are_not_set_within_a_capture() -> None:
    twins = Twins("Adam")
    twins.captured()
    with twins.capture() as graph, pytest.raises(RuntimeError, match=r"lr of Adam.* is being set while a CUDA graph"):
        twins.there.lr = 0.5
    assert not graph
    assert twins.there.lr == 0.001


@pytest.mark.parametrize("ask", [lambda o: o.state, copy.deepcopy, pickle.dumps], ids=["state", "copy", "pickle"])
def test_the_state_is_not_asked_for_within_a_capture(ask: Callable[[Any], object]) -> None:
    twins = Twins("Adam")
    twins.captured()
    with twins.capture(), pytest.raises(RuntimeError, match="asked for while a CUDA graph is being captured"):
        ask(twins.there)
    twins.agree()


def test_a_schedule_of_a_group_is_refused() -> None:
    class Own(ao.SGD):
        def overrides(self, path: str, p: Any) -> Any:
            return {"lr": lambda t: 1 / t} if path == "a" else {}

    shim.install(shim.Machine())
    p = {k: shim.asarray(np.ones(3)) for k in "ab"}
    g = {k: shim.asarray(np.ones(3)) for k in "ab"}
    optimizer = Own(lr=0.1)
    optimizer.update(p, g)
    shim.machine().captured = []
    with pytest.raises(ValueError, match=r"lr of Own.* is a schedule"):
        optimizer.update(p, g)
    shim.machine().captured = None


def test_a_stage_of_two_chains_tells_both_graphs() -> None:
    machine = shim.install(shim.Machine())
    shared = ao.Scale(1.0)
    graphs, params = [], []
    for _ in range(2):
        p, g, optimizer = shim.asarray(np.zeros(3)), shim.asarray(np.ones(3)), ao.chain(ao.SGD(lr=1.0), shared)
        optimizer.update(p, g)
        machine.captured = []
        optimizer.update(p, g)
        graphs.append(machine.captured)
        machine.captured = None
        params.append((p, g, optimizer))
    shared.factor = 10.0
    for graph, (p, *_) in zip(graphs, params, strict=True):
        machine.waiting.extend(graph)
        machine.finish()
        assert shim.tonumpy(p).tolist() == [-11.0] * 3


@pytest.mark.parametrize("name", BRANCHING)
def test_a_failed_capture_leaves_all_as_it_was(name: str) -> None:
    """Also if the graph is finished: it counts nothing."""
    twins = Twins(name)
    with twins.capture() as graph, pytest.raises(TypeError):
        twins.there.update(twins.p, twins.static)
    twins.machine.waiting.extend(graph)
    twins.machine.finish()
    twins.there.stages[2].lr = lambda step: 0.1  # which no graph minds
    twins.here.stages[2].lr = 0.1
    twins.update()
    twins.agree()


def test_counts_of_tied_parameters() -> None:
    machine = shim.install(shim.Machine())
    w, g = shim.asarray(np.ones(3)), shim.asarray(np.ones(3))
    optimizer, p = ao.Adam(), {"decoder": w, "encoder": w}
    optimizer.update(p, {"decoder": g, "encoder": None})
    machine.captured = []
    optimizer.update(p, {"decoder": g, "encoder": None})
    graph, machine.captured = machine.captured, None
    for _ in range(5):
        machine.waiting.extend(graph)
        machine.finish()
    assert optimizer.state.t == {"decoder": 6, "encoder": 6}  # type: ignore[union-attr]


def test_parts_are_not_captured() -> None:
    """Nor updated beside graphs, which count the steps of whole parameters."""
    twins, at = Twins("Adam"), {"W": [0, 2]}
    grads = {"W": shim.asarray(np.ones((2, 5), np.float32)), "b": None, "long": None}
    with twins.capture(), pytest.raises(RuntimeError, match="a part of a parameter can't be updated in a CUDA graph"):
        twins.there.update(twins.p, grads, at=at)
    twins.agree()
    graph = twins.captured()
    twins.replay(graph)
    with pytest.raises(RuntimeError, match="CUDA graphs count the steps of whole parameters; wanted update without at"):
        twins.there.update(twins.p, grads, at=at)
    twins.agree()
