"""Windows of updates: who takes part in their steps, the last one, which is shorter, and what is saved within one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support import shim
from tests.support.chains import agree, flat
from tests.support.libraries import ENGINES, Library
from tests.support.xla import quick

NAN = float("nan")

CHAINS: dict[str, Callable[[], list[Any]]] = {
    "decay, clip, Adam, EMA": lambda: [
        ao.WeightDecay(0.1),  # so that who rests is missed in the norm
        ao.ClipGlobalNorm(0.5),
        ao.Adam(lambda t: 0.1 / t),
        ao.EMA(0.5),
    ],
    "gates": lambda: [
        ao.LossScale(interval=1, initial=4.0),
        ao.SkipNonFinite(),
        ao.Momentum(0.1),
    ],
    "each by itself": lambda: [ao.LAMB(0.1)],
    "groups": lambda: [ao.Momentum(0.1), ao.groups({"c": None, "b": {"lr": 0.5}, ...: {}})],
    "a partition": lambda: [
        ao.partition({"a": ao.Adam(0.1), "c": None, ...: ao.chain(ao.SkipNonFinite(), ao.SGD(0.1))})
    ],
}

SHAPES = {"a": (2, 3), "b": (2, 3), "c": ()}
"""Few: JAX compiles each operation for each shape, and each step for each parameter."""

Windows = list[list[dict[str, Any]]]


def _windows(name: str, n: int) -> tuple[dict[str, Any], Windows]:
    """Parameters, and windows of gradients: of up to three updates, of which some have few gradients, or none."""
    rng = np.random.default_rng(5)

    def draw(given: str = "abc") -> dict[str, Any]:
        return {k: np.asarray(rng.normal(size=s), np.float32) if k in given else None for k, s in SHAPES.items()}

    which = [["abc", "ac", ""], ["ac", "abc"], ["", "", ""], ["ac", "", ""]]
    which += [[str(of) for of in rng.choice(["abc", "ac", ""], 3 if i % 2 else 2)] for i in range(4, n)]
    windows = [[draw(given) for given in window] for window in which]
    if name in {"gates", "a partition"}:
        windows[0][0]["b"][1, 2] = NAN
        windows[1][1]["c"] = np.asarray(NAN, np.float32)
        windows.append([draw("ac")])
    return draw(), windows


def _mean(window: list[dict[str, Any]], scale: float) -> dict[str, Any]:
    """Of each parameter its gradients' mean, what is missing being 0; None for no gradient at all."""
    found: dict[str, Any] = {}
    for k, shape in SHAPES.items():
        given = [g[k] * np.float32(scale) for g in window if g[k] is not None]
        total = np.zeros(shape, np.float32)
        for g in given:
            total = total + g
        found[k] = np.asarray(total * np.float32(1 / len(window))) if given else None
    return found


def _given(lib: Library, grads: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    return {k: None if g is None else lib.asarray(np.asarray(g * np.float32(scale))) for k, g in grads.items()}


def _pair(name: str, engine: ao.EngineName | None = None) -> tuple[ao.chain, ao.chain]:
    return ao.chain(ao.Accumulate(3), *CHAINS[name](), engine=engine), ao.chain(*CHAINS[name](), engine=engine)


def _state(state: Any, gathering: bool) -> Any:
    """What a chain has, with an `Accumulate` before it or without."""
    first = int(gathering)
    return state.step, state.t, state.slots[first:], state.scalars and state.scalars[first:]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Dask computes both outcomes, in threads of its own
@pytest.mark.covering(1)  # who gathers and when is the host's to say, whatever the library
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.omit("x64 widens nothing but numbers", lambda place, name: place[0] == "jax-x64" and name != "gates")
def test_a_window_is_a_step_with_the_mean(place: tuple[Library, ao.EngineName | None], name: str) -> None:
    """Bit for bit, in the pure form, too: of whoever had a gradient; of nobody none; of what is not finite none."""
    lib, engine = place
    params, windows = _windows(name, 4 if lib.slow or "jax" in lib.name else 10)
    if lib.slow:  # its graph grows with each
        del windows[1]
    optimizer, means = _pair(name, engine)
    p, q = _given(lib, params), _given(lib, params)
    pure, state = p, optimizer.init(p)
    p = dict(p) if not lib.writable else _given(lib, params)
    for window in windows:
        scale = optimizer.loss_scale
        assert scale == means.loss_scale
        for grads in window:
            given = _given(lib, grads, scale)
            optimizer.update(p, given)
            pure, state = optimizer.step(pure, given, state)
        optimizer.flush(p)
        pure, state = optimizer.flush_step(pure, state)
        means.update(q, _given(lib, _mean(window, scale)))
        assert optimizer.state is not None
        assert means.state is not None
        ours, theirs = _state(optimizer.state, True), _state(means.state, False)
        one, two, others = lib.values(((p, optimizer.state, ours), (pure, state, ours), (q, theirs)))
        assert agree(one, two)
        assert agree((one[0], one[2]), others)
        assert {float(n) for n in optree.tree_leaves(optimizer.state.pending)} == {0.0}
        assert not any(a.any() for a in flat(one[1].slots[0]["total"]))
    assert optimizer.state is not None
    assert 0 < optimizer.state.step < len(windows)


@pytest.mark.usefixtures("quickly")
# With x64 only the width of counts and numbers is another: a chain that has both shows it.
@pytest.mark.parametrize(
    ("library", "name"),
    [
        *(
            pytest.param("jax", name, marks=() if name in {"gates", "groups"} else pytest.mark.product)
            for name in CHAINS
        ),
        pytest.param("jax-x64", "gates", marks=pytest.mark.product),
    ],
)
def test_under_jit(name: str, library: str, need: Callable[[str], Library]) -> None:
    """Compiled once for each choice of gradients, whatever was gathered; counts and numbers are those of NumPy's."""
    lib, numpy = need(library), need("numpy")
    import jax

    with lib.context():
        q, windows = _windows(name, 6)
        optimizer, host = _pair(name)[0], _pair(name)[0]
        traced: set[Any] = set()

        def step(p: Any, g: Any, state: Any) -> Any:
            kind = (*(g[k] is None for k in g), type(state.step))
            assert kind not in traced
            traced.add(kind)
            return optimizer.step(p, g, state)

        step, flush = quick(step), quick(optimizer.flush_step)
        p = _given(lib, q)
        state = jax.tree.map(jax.numpy.asarray, optimizer.init(p))
        for window in windows:
            for grads in window:
                p, state = step(p, _given(lib, grads, host.loss_scale), state)
                host.update(q, _given(numpy, grads, host.loss_scale))
                _close(lib, p, q, state, host.state)
            host.flush(q)
            p, state = flush(p, state)
            _close(lib, p, q, state, host.state)


def _close(lib: Library, p: Any, q: Any, state: Any, other: Any) -> None:
    counts = (lib.values((of.step, of.t, of.pending, of.scalars)) for of in (state, other))
    for a, b in zip(*map(optree.tree_leaves, counts), strict=True):  # jit sorts keys
        np.testing.assert_allclose(a, b, rtol=1e-6)
    arrays = [optree.tree_leaves(lib.values(of)) for of in ((p, state.slots), (q, other.slots))]
    for a, b in zip(*arrays, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("quickly")
def test_in_a_scan(need: Callable[[str], Library]) -> None:
    """Windows within `jax.lax.scan`, one parameter without any gradient, and the last one flushed."""
    lib = need("jax")
    import jax
    import jax.numpy as jnp

    optimizer = ao.chain(ao.Accumulate(2), ao.WeightDecay(0.5), ao.ClipGlobalNorm(1.0), ao.Momentum(0.1))
    params = {"a": lib.array([1.0, 2.0]), "b": lib.array([3.0])}
    grads = jnp.arange(10.0).reshape(5, 2)

    def step(carry: Any, g: Any) -> Any:
        return optimizer.step(carry[0], {"a": g, "b": None}, carry[1]), None

    (p, state), _ = jax.lax.scan(step, (params, jax.tree.map(jnp.asarray, optimizer.init(params))), grads)
    p, state = jax.jit(optimizer.flush_step)(p, state)
    for g in grads:
        optimizer.update(params, {"a": g, "b": None})
    optimizer.flush(params)
    _close(lib, p, params, state, optimizer.state)
    assert params["b"].tolist() == [3.0]
    assert {k: int(n) for k, n in state.t.items()} == {"a": 3, "b": 0}


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_who_is_without_at_every_second_call(engine: ao.EngineName | None) -> None:
    """Moves all the same, and its total does not grow; a scale is that of its window."""
    optimizer = ao.chain(ao.Accumulate(2), ao.SGD(1.0), engine=engine)
    scaled = ao.chain(ao.Accumulate(2), ao.LossScale(initial=1.0, interval=1), ao.SGD(1.0), engine=engine)
    p, q = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.zeros(1), "b": np.zeros(1)}
    for i in range(8):
        optimizer.update(p, {"a": np.ones(1), "b": None if i % 2 else np.ones(1)})
        if i < 4:
            scale = scaled.loss_scale
            scaled.update(q, {"a": np.full(1, scale), "b": None if i == 1 else np.full(1, scale)})
    assert (p["a"][0], p["b"][0]) == (-4.0, -2.0)
    assert optimizer.state is not None
    assert optimizer.state.slots[0]["total"]["b"][0] == 0.0
    assert (q["a"][0], q["b"][0]) == (-2.0, -1.5)


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_steps_that_are_replayed_ask_who_gathered(engine: ao.EngineName | None) -> None:
    """The gradients of a k-th update are such as at the last: None of b, which has gathered something, or has not."""
    optimizer, p = ao.chain(ao.Accumulate(2), ao.Momentum(1.0, 0.5), engine=engine), {k: np.zeros(1) for k in "ab"}
    means, q = ao.chain(ao.Momentum(1.0, 0.5), engine=engine), {k: np.zeros(1) for k in "ab"}
    for first in (None, None, 1.0, 1.0, None, 2.0, None, None):
        b = None if first is None else np.full(1, first)
        optimizer.update(p, {"a": np.ones(1), "b": b})
        optimizer.update(p, {"a": np.ones(1), "b": None})
        means.update(q, {"a": np.ones(1), "b": None if b is None else b / 2})
        assert agree(p, q)


def test_flush() -> None:
    """The mean of as many as there are; of nothing nothing; nothing without an `Accumulate`; schedules know of it."""
    optimizer = ao.chain(ao.Accumulate(4), ao.SGD(lambda t: 1.0 / t))
    p = {"w": np.zeros(2)}
    assert optimizer.flush(p) is p
    assert optimizer.state is None
    for g in (1.0, 2.0, 6.0):
        optimizer.update(p, {"w": np.full(2, g)})
    assert optimizer.flush(p) is p
    assert p["w"].tolist() == [-3.0] * 2
    state = deepcopy(optimizer.state)
    optimizer.flush(p)
    assert agree(optimizer.state, state)
    for g in (2.0, 2.0, 2.0, 2.0, 4.0):  # a whole window, and one of one
        optimizer.update(p, {"w": np.full(2, g)})
    optimizer.flush(p)
    np.testing.assert_allclose(p["w"], [-3.0 - 2.0 / 2 - 4.0 / 3] * 2, rtol=1e-15)
    assert optimizer.state is not None
    assert (optimizer.state.step, optimizer.state.t) == (3, {"w": 3})
    plain, before = ao.Momentum(1.0), p["w"].copy()
    plain.update(p, {"w": np.zeros(2)})
    assert plain.flush(p) is p
    new, after = plain.flush_step(p, plain.state)
    assert agree((p, new, after), ({"w": before}, {"w": before}, plain.state))


def test_flush_returns_what_takes_the_place(need: Callable[[str], Library]) -> None:
    """Of a bare array that can't be written; a number of the host; a container that can't be given another."""
    lib = need("jax")
    optimizer, w = ao.chain(ao.Accumulate(3), ao.SGD(1.0)), lib.array([1.0])
    w = optimizer.flush(optimizer.update(w, lib.array([0.5])))
    assert w.tolist() == [0.5]
    number = ao.chain(ao.Accumulate(3), ao.SGD(1.0))
    assert number.flush(number.update(1.0, 0.25)) == 0.75
    optimizer.update(w, lib.array([0.5]))
    with pytest.raises(ValueError, match="params"):
        optimizer.flush({"w": w})
    assert optimizer.flush(w).tolist() == [0.0]


def test_optax_has_the_same_mean(need: Callable[[str], Library]) -> None:
    """Its MultiSteps, of gradients that are 0 where ours are None, over whole windows."""
    optax = pytest.importorskip("optax")
    lib = need("jax-x64")
    with lib.context():
        rng = np.random.default_rng(2)
        peer = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 4, accumulator_dtype="float64")
        ours: dict[str, Any] = {"a": rng.normal(size=3), "b": rng.normal(size=2)}
        theirs = {k: lib.asarray(a) for k, a in ours.items()}
        state, peer_update = peer.init(theirs), quick(peer.update)
        optimizer = ao.chain(ao.Accumulate(4), ao.HeavyBall(0.1, momentum=0.9))
        for i in range(16):
            g = {k: rng.normal(size=a.shape) for k, a in ours.items()}
            has = {"a": i % 4 != 3, "b": i % 3 != 0}
            optimizer.update(ours, {k: a if has[k] else None for k, a in g.items()})
            moved, state = peer_update({k: lib.asarray(a * has[k]) for k, a in g.items()}, state, theirs)
            theirs = optax.apply_updates(theirs, moved)
        for k, a in ours.items():
            np.testing.assert_allclose(a, theirs[k], rtol=1e-12)


def test_flush_is_the_step_of_what_torch_adds_up(need: Callable[[str], Library]) -> None:
    """torch's loop: gradients added over however many batches are left, each loss over their number."""
    need("torch")
    import torch

    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    peer, ours = torch.optim.Adam([w], lr=0.1, eps=0.0), np.array([1.0, -2.0])
    optimizer = ao.chain(ao.Accumulate(4), ao.Adam(0.1, eps=0.0))
    for size in (4, 4, 3):
        batches = np.random.default_rng(size).normal(size=(size, 2))
        for g in batches:
            optimizer.update(ours, g)
        optimizer.flush(ours)
        w.grad = torch.tensor(batches.sum(0) / size)
        peer.step()
    np.testing.assert_allclose(ours, w.detach().numpy(), rtol=1e-12)


# Within a window ---------------------------------------------------------------------------------------------------


def _begun(engine: ao.EngineName | None = None) -> tuple[ao.chain, dict[str, Any]]:
    """After a step and two updates of three, of which b has one gradient, c none, and d is tied to a."""
    optimizer = ao.chain(ao.Accumulate(3), ao.LossScale(interval=1, initial=2.0), ao.Momentum(0.5), engine=engine)
    a = np.ones(2, np.float32)
    params = {"a": a, "b": np.ones(2, np.float32), "c": np.ones(2, np.float32), "d": a}
    for has in ("abc", "abc", "abc", "ab", "a"):
        optimizer.update(params, {k: np.full(2, 2.0, np.float32) if k in has else None for k in params})
    assert optimizer.state is not None
    assert optimizer.state.pending == {"a": 2, "b": 1, "c": 0, "d": 2}
    return optimizer, params


def _ended(optimizer: ao.chain, params: dict[str, Any]) -> dict[str, Any]:
    optimizer.flush(params)
    assert optimizer.state is not None
    assert optimizer.state.t == {"a": 2, "b": 2, "c": 1, "d": 2}
    return params


COPIES: dict[str, Callable[[Any, Any, Path], Any]] = {
    "deepcopy": lambda o, p, _: deepcopy(o),
    "pickle": lambda o, p, _: pickle.loads(pickle.dumps(o)),  # noqa: S301
    "state_dict": lambda o, p, _: _loaded(o.state_dict(), p),
    "state_dict of the pure form": lambda o, p, _: _loaded(o.state_dict(o.state), p),
    "a file": lambda o, p, path: _loaded(_filed(o, p, path), p),
}


def _loaded(state: Any, params: Any) -> ao.chain:
    optimizer = ao.chain(ao.Accumulate(3), ao.LossScale(interval=1, initial=2.0), ao.Momentum(0.5))
    assert optimizer.load_state_dict(state, params) == []
    return optimizer


def _filed(optimizer: Any, params: Any, path: Path) -> Any:
    ao.save(path, params=params, optimizer=optimizer)
    return ao.load(path, like=params).optimizer


@pytest.mark.parametrize("how", COPIES)
def test_copies_know_who_gathered(how: str, tmp_path: Path) -> None:
    """And go on, to the same bits, with ties."""
    optimizer, params = _begun()
    other = COPIES[how](optimizer, params, tmp_path / "run")
    assert other.state.pending == {"a": 2, "b": 1, "c": 0, "d": 2}
    a = params["a"].copy()
    twin = {k: a if k in "ad" else v.copy() for k, v in params.items()}
    assert agree(_ended(optimizer, params), _ended(other, twin))
    assert agree(optimizer.state, other.state)


def test_a_saved_state_that_lacks_a_count() -> None:
    """Is refused by name, or left at 0."""
    optimizer, params = _begun()
    state = optimizer.state_dict()
    assert state["pending"] == {"a": 2, "b": 1, "c": 0, "d": 2}
    del state["pending"]["b"]
    with pytest.raises(ValueError, match=r"state\['pending'\] has none of params\['b'\]"):
        _loaded(state, params)
    other = ao.chain(ao.Accumulate(3), ao.LossScale(interval=1, initial=2.0), ao.Momentum(0.5))
    assert other.load_state_dict(state, params, strict=False) == ["state['pending'] has none of params['b']"]
    assert other.state is not None
    assert other.state.pending == {"a": 2, "b": 0, "c": 0, "d": 2}


@pytest.mark.parametrize("what", ["missing", "of other keys", "negative", "none at all"])
def test_a_state_with_other_counts(what: str) -> None:
    """Is refused by the pure form, by name."""
    optimizer, params = _begun()
    state = optimizer.state
    assert state is not None
    pending, match = {
        "missing": (dict.fromkeys("abc", 0), r"state.pending\['d'\] is missing"),
        "of other keys": (dict.fromkeys("abcde", 0), r"state.pending\['e'\] has no match"),
        "negative": ({**state.pending, "b": -1}, r"state.pending\['b'\] is -1; wanted at least 0"),
        "none at all": ((), "state.pending is a tuple, but params a dict"),
    }[what]
    wrong = state._replace(pending=pending)
    with pytest.raises(ValueError, match=match):
        optimizer.step(params, params, wrong)
    with pytest.raises(ValueError, match=match):
        optimizer.flush_step(params, wrong)


def test_keys_in_another_order() -> None:
    """Between two updates of a window."""
    optimizer, params = _begun()
    other, twin = _begun()
    turned = {k: twin[k] for k in reversed(twin)}
    other.update(turned, dict.fromkeys(turned))
    optimizer.update(params, dict.fromkeys(params))
    assert agree(params, twin)
    assert optimizer.state is not None
    assert optimizer.state.t == {"a": 2, "b": 2, "c": 1, "d": 2}


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_what_fails_leaves_the_window(engine: ao.EngineName | None) -> None:
    """A schedule that is refused, at the k-th update and at a flush, before anything is counted or written."""
    optimizer, params = _begun(engine)
    lr = optimizer.stages[2].lr
    before = deepcopy((params, optimizer.state))
    optimizer.stages[2].lr = lambda t: -1.0
    with pytest.raises(ValueError, match="lr, from its schedule at step 2, is -1"):
        optimizer.flush(params)
    with pytest.raises(ValueError, match="lr, from its schedule at step 2, is -1"):
        optimizer.update(params, {**dict.fromkeys(params), "c": np.ones(2, np.float32)})
    assert agree((params, optimizer.state), before)
    optimizer.stages[2].lr = lr
    other, twin = _begun(engine)
    assert agree(_ended(optimizer, params), _ended(other, twin))


def test_explain_shows_who_would_take_part() -> None:
    """Who gathered something, too, and not who did not."""
    optimizer, params = _begun()
    shares = optimizer.explain(params, dict.fromkeys(params))
    assert sorted(name for share in shares for name in share.parameters) == ["a", "b"]
    shares = optimizer.explain(params, {**dict.fromkeys(params), "c": params["c"]})
    assert sorted(name for share in shares for name in share.parameters) == ["a", "b", "c"]


def test_frozen_parameters_stay_so() -> None:
    """With what a chain that did not freeze them had gathered."""
    loose, params = ao.chain(ao.Accumulate(2), ao.SGD(1.0)), {"a": np.zeros(1), "b": np.zeros(1)}
    loose.update(params, {k: np.ones(1) for k in params})
    frozen = ao.chain(ao.Accumulate(2), ao.SGD(1.0), ao.groups({"b": None, ...: {}}))
    frozen.load_state_dict({**loose.state_dict(), "groups": frozen.state_dict()["groups"]}, params)
    assert frozen.state is not None
    new, _ = frozen.step(params, {k: np.ones(1) for k in params}, frozen.state)
    frozen.update(params, {k: np.ones(1) for k in params})
    assert [new["a"][0], new["b"][0], params["a"][0], params["b"][0]] == [-1.0, 0.0, -1.0, 0.0]


def test_a_window_that_becomes_shorter() -> None:
    """With what was gathered, its mean is that of as many as there were."""
    optimizer, p = ao.chain(ao.Accumulate(8), ao.SGD(1.0)), np.zeros(1)
    for g in (1.0, 2.0, 3.0):
        optimizer.update(p, np.array([g]))
    optimizer.stages[0].every = 2
    optimizer.update(p, np.array([6.0]))
    assert p.tolist() == [-3.0]


def test_not_flushed_in_a_cuda_graph(need: Callable[[str], Library]) -> None:
    """Whose replays would take the step again."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    optimizer, p = ao.chain(ao.Accumulate(3), ao.SGD()), shim.asarray(np.zeros(2))
    optimizer.update(p, shim.asarray(np.ones(2)))
    state, machine.captured = optimizer.state, []
    assert state is not None
    try:
        with pytest.raises(RuntimeError, match="step is being captured"):
            optimizer.flush_step(p, state)
        with pytest.raises((RuntimeError, TypeError), match=r"Accumulate\(every=3\) needs the host|first update"):
            optimizer.flush(p)
    finally:
        machine.captured = None
    assert shim.tonumpy(p).tolist() == [0.0, 0.0]


# Without any gradient ------------------------------------------------------------------------------------------------


def _none(tree: Any) -> Any:
    return optree.tree_map(lambda _: None, tree)


@pytest.mark.own_loops
def test_an_update_without_gradients_is_no_step(place: tuple[Library, ao.EngineName | None]) -> None:
    """Not the first, nor one between: for no count, schedule, scale, average or sum of norms, in either form."""
    lib, engine = place
    asked: list[Any] = []

    def rate(t: Any) -> float:
        asked.append(t)
        return 0.5

    optimizer = ao.chain(
        ao.LossScale(interval=1, initial=2.0),
        ao.ScheduleFreeSGD(rate),
        ao.groups({"frozen": None, ...: {}}),
        engine=engine,
    )
    params = {k: lib.array([1.0, 2.0]) for k in ("a", "b", "frozen")}
    nothing = {"a": None, "b": None, "frozen": lib.array([1.0, 1.0])}
    optimizer.update(params, _none(params))
    assert optimizer.state is None
    pure, state = dict(params), optimizer.init(params)
    pure, state = optimizer.step(pure, nothing, state)
    assert agree(lib.values(state), lib.values(optimizer.init(params)))
    if lib.writable:
        pure = {k: lib.asarray(np.array(lib.tonumpy(a))) for k, a in params.items()}
    grads = {**nothing, "a": lib.array([0.5, 0.5])}
    optimizer.update(params, grads)
    pure, state = optimizer.step(pure, grads, state)
    before = lib.values((params, optimizer.state))
    for given in (nothing, _none(params)):
        optimizer.update(params, given)
        pure, state = optimizer.step(pure, given, state)
    assert agree(lib.values((params, optimizer.state)), before)
    assert agree(lib.values((pure, state)), before)
    assert {*map(int, asked)} == {1}
    assert optimizer.loss_scale == 4.0


def test_nor_under_jit(need: Callable[[str], Library]) -> None:
    """The state comes out as it went in."""
    lib = need("jax")
    import jax

    optimizer = ao.chain(ao.LossScale(interval=1), ao.Adam())
    params, step = {"w": lib.array([1.0])}, quick(optimizer.step)
    state = jax.tree.map(jax.numpy.asarray, optimizer.init(params))
    params, state = step(params, {"w": lib.array([1.0])}, state)
    for _ in range(2):
        p, after = step(params, {"w": None}, state)
        assert agree(lib.values((p, after)), lib.values((params, state)))
        assert [a.dtype for a in jax.tree.leaves(after)] == [a.dtype for a in jax.tree.leaves(state)]
        params, state = step(params, {"w": lib.array([1.0])}, state)


def test_metrics_of_an_update_without_gradients() -> None:
    """Are those of the last step."""
    optimizer, p = ao.chain(ao.Metrics(), ao.SGD(1.0)), {"w": np.zeros(1)}
    optimizer.update(p, {"w": np.full(1, 3.0)})
    optimizer.update(p, {"w": None})
    assert optimizer.last_metrics["gradient"]["w"].norm == 3.0


@pytest.mark.parametrize("engine", ENGINES)
def test_totals_as_gradients(engine: ao.EngineName) -> None:
    """What has been gathered is gathered again, each by the other: copies of them are read, which nobody else has."""
    n = 50_000
    optimizer = ao.chain(ao.Accumulate(2), ao.SGD(lr=1.0), engine=engine)
    p = {"a": np.zeros(n), "b": np.zeros(n)}
    optimizer.update(p, {"a": np.ones(n), "b": np.full(n, 2.0)})
    assert optimizer.state is not None
    (totals,) = optimizer.state.slots[0].values()
    optimizer.update(p, {"a": totals["b"], "b": totals["a"]})
    assert np.unique(p["a"]).tolist() == np.unique(p["b"]).tolist() == [-1.5]
