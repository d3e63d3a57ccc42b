"""Steps like the last one are replayed, whatever their parameters: groups, ties, gradients that are not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._core import _plan
from anyoptim._core._training import Training
from tests.support.chains import CHAINS
from tests.support.libraries import COMPOSED, ENGINES, Library, same_bits

pytestmark = pytest.mark.usefixtures("quickly")

Tree = dict[str, Any]


class Case(NamedTuple):
    """An optimizer, and which of four gradients it is given at each of six steps: the names of those that are there."""

    make: Callable[[ao.EngineName], ao.Optimizer]
    steps: list[str]
    tied: dict[str, str]
    """The names under which an array stands a second time."""
    slow: int = 1
    """The number of steps that are taken with every check."""


def _groups(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.Adam(), ao.groups({"b": {"lr": 0.1}, "c": None, ...: {}}), engine=engine)


def _partition(engine: ao.EngineName) -> ao.Optimizer:
    return ao.partition({"b": ao.Momentum(), "c": None, ...: ao.Adam()}, engine=engine)


def _chain(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.WeightDecay(0.1, where=lambda path, _: path != "a"), ao.Adam(lr=_rate), engine=engine)


def _rate(step: int) -> float:
    return 0.1 / step


def _clipped(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(), engine=engine)


class _Signed(ao.SGD):
    """A method whose kernel has a static option, which is another for every fourth step."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "signed": t % 4 == 0}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return c.lr * (xp.sign(x) if c.signed else x)


def _adam(engine: ao.EngineName) -> ao.Optimizer:
    return ao.Adam(engine=engine)


CASES = {
    "all": Case(_adam, ["abcd"] * 6, {}),
    "one without": Case(_adam, ["abd"] * 6, {}),
    "another count": Case(_adam, ["abd", "abd", *["abcd"] * 4], {}, slow=2),
    "groups": Case(_groups, ["abcd"] * 6, {}),
    "groups without": Case(_groups, ["abc"] * 6, {}),
    "partition": Case(_partition, ["abcd"] * 6, {}),
    "overrides and a schedule": Case(_chain, ["abcd"] * 6, {}),
    "static options": Case(lambda engine: _Signed(engine=engine), ["abcd"] * 6, {}),
    "tied": Case(_adam, ["abcd"] * 6, {"e": "a"}),
    "tied, by its other name": Case(_adam, ["bcde"] * 6, {"e": "a"}),
    "tied, with a norm": Case(_clipped, ["abcd"] * 6, {"e": "a"}),
    "from name to name": Case(_adam, ["abcd", "abcd", "bcde", "bcde", "abcd", "abcd"], {"e": "a"}, slow=3),
    "coming and going": Case(_adam, ["abcd", "abcd", "abc", "abc", "abcd", "abcd"], {}, slow=3),
}
SHAPES: dict[str, tuple[int, ...]] = {"a": (3, 5), "b": (4,), "c": (), "d": (70, 2)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("engine", ["compiled", "blocked", "jax"])
def test_replays(
    name: str, engine: ao.EngineName, need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes is checked once; what does not is replayed: the values, slots and counts are those of `step`."""
    lib, case = need("jax" if engine == "jax" else "numpy"), CASES[name]
    rng = np.random.default_rng(0)
    params: Tree = {k: lib.array(rng.normal(size=shape)) for k, shape in SHAPES.items()}
    params |= {k: params[of] for k, of in case.tied.items()}
    pure = {k: lib.array(np.array(lib.values(v), copy=True)) for k, v in params.items()}
    pure |= {k: pure[of] for k, of in case.tied.items()}
    ours, theirs = case.make(engine), case.make("portable")
    state, checked = theirs.init(pure), []
    original = Training._update

    def with_checks(*given: Any) -> Any:
        checked.append(given)
        return original(*given)

    monkeypatch.setattr(Training, "_update", with_checks)
    for names in case.steps:
        grads = {k: lib.array(rng.normal(size=SHAPES[case.tied.get(k, k)])) if k in names else None for k in params}
        ours.update(params, grads)
        pure, state = theirs.step(pure, grads, state)
    assert len(checked) == case.slow
    assert ours.state is not None
    assert (ours.state.step, ours.state.t) == (6, lib.values(state.t) if engine != "jax" else ours.state.t)
    assert {k: int(n) for k, n in ours.state.t.items()} == {k: int(n) for k, n in state.t.items()}
    close = same_bits if engine != "jax" else lambda a, b: np.allclose(a, b, rtol=1e-6, atol=0)  # 2 ulp a step
    for k in params:
        assert close(lib.values(params[k]), lib.values(pure[k])), k
    slots = ours.state.slots, state.slots
    for one, two in zip(*(lib.values(s) for s in slots), strict=True) if isinstance(slots[0], tuple) else [slots]:
        for slot in one:
            for k, values in one[slot].items():
                assert values is None or close(lib.values(values), lib.values(two[slot][k])), (slot, k)
    assert all(params[k] is params[of] for k, of in case.tied.items())


def test_two_gradients_of_one_array_are_refused_in_a_replay() -> None:
    """As they are at the first step."""
    a = np.ones(3, "f4")
    optimizer, params = ao.Adam(engine="blocked"), {"a": a, "b": a}
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(3, "f4"), "b": None})
    before = a.copy()
    with pytest.raises(ValueError, match=r"params\['a'\] and params\['b'\]|grads\['b'\]"):
        optimizer.update(params, {"a": np.ones(3, "f4"), "b": np.ones(3, "f4")})
    assert same_bits(a, before)
    assert optimizer.state is not None
    assert optimizer.state.t == {"a": 3, "b": 3}


def _flat(rng: np.random.Generator) -> Tree:
    """Views of one buffer."""
    sizes = {k: int(np.prod(shape)) for k, shape in SHAPES.items()}
    buffer = rng.normal(size=sum(sizes.values())).astype("f4")
    ends = np.cumsum([*sizes.values()])
    return {k: buffer[e - n : e].reshape(SHAPES[k]) for e, (k, n) in zip(ends, sizes.items(), strict=True)}


def _own(rng: np.random.Generator) -> Tree:
    return {k: rng.normal(size=shape).astype("f4") for k, shape in SHAPES.items()}


FORMS: dict[str, tuple[Callable[[np.random.Generator], Tree], Callable[[np.random.Generator], Tree]]] = {
    "gradients in one buffer": (_own, _flat),
    "parameters in one buffer": (_flat, _own),
    "both in buffers": (_flat, _flat),
    "gradients that are transposed": (_own, lambda rng: {k: a.T.copy().T for k, a in _own(rng).items()}),
    "gradients of another dtype": (_own, lambda rng: {k: a.astype("f8") for k, a in _own(rng).items()}),
    "gradients of which every other element is taken": (
        _own,
        lambda rng: {k: np.repeat(a[..., None], 2, -1)[..., 0] for k, a in _own(rng).items()},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_replays_of_any_form(form: str, engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step nothing is checked anew, and the bits are those of the portable engine."""
    make_params, make_grads = FORMS[form]
    rng = np.random.default_rng(0)
    params = make_params(rng)
    copies = {k: a.copy() for k, a in params.items()}
    one, two = ao.Adam(engine=engine), ao.Adam(engine="portable")
    for i in range(4):
        grads = make_grads(rng)
        two.update(copies, {k: a.copy() for k, a in grads.items()})
        if i == 1:
            monkeypatch.setattr(Training, "_update", None)
        one.update(params, grads)
        monkeypatch.undo()
    assert all(same_bits(params[k], copies[k]) for k in params)


LARGE = 20_000
"""Elements of an array that is not packed with others."""


@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_a_replay_keeps_off_gradients_that_lie_in_parameters(engine: ao.EngineName) -> None:
    """A gradient that is a view of another parameter is read as it was before the step."""
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=LARGE).astype("f4") for k in "abc"}
    copies = {k: a.copy() for k, a in params.items()}
    one, two = ao.Adam(engine=engine), ao.Adam(engine="portable")
    for i in range(6):
        grads = {k: rng.normal(size=2 * LARGE).astype("f4")[:LARGE] for k in "abc"}
        theirs = {k: g.copy() for k, g in grads.items()}
        if i % 2:
            grads["c"], theirs["c"] = params["a"][:], copies["a"].copy()
            grads["b"], theirs["b"] = params["a"][:], copies["a"].copy()
        one.update(params, grads)
        two.update(copies, theirs)
        assert all(same_bits(params[k], copies[k]) for k in params), i


def test_a_gradient_of_another_form_is_taken_by_the_engine_for_that_form() -> None:
    """The compiled engine takes back what it could not take; and the bits are right whatever comes after what."""
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(200, 100)).astype("f4")}
    copies = {k: a.copy() for k, a in params.items()}
    one, two = ao.Adam(engine="compiled"), ao.Adam(engine="portable")
    ran = []
    for kind in ("c", "c", "t", "t", "c", "c", "d", "d", "c", "t", "d", "t"):
        g = rng.normal(size=(200, 100)).astype("f8" if kind == "d" else "f4")
        one.update(params, {"a": np.asfortranarray(g) if kind == "t" else g})
        two.update(copies, {"a": g})
        assert same_bits(params["a"], copies["a"])
        plan: Any = one._training.plan
        ran.append(plan._dispatch.choices[0].engine)
    compiled, blocked = "compiled", "blocked"
    expected = {"c": compiled, "t": blocked, "d": blocked}
    assert ran == [expected[kind] for kind in "ccttccddctdt"]


def test_a_rate_that_is_set_between_replays_is_checked() -> None:
    """One that float32 can't hold is refused by name, and the next one counts."""
    params, grads = {"a": np.ones(3, "f4")}, {"a": np.ones(3, "f4")}
    optimizer = ao.chain(ao.SGD(0.5), ao.groups({"a": {}}), engine="blocked")
    for _ in range(3):
        optimizer.update(params, grads)
    optimizer.stages[0].lr = 1e39
    with pytest.raises(ValueError, match=r"lr is 1e\+39; wanted at most 3.4.* params at 'a', of dtype float32"):
        optimizer.update(params, grads)
    assert params["a"].tolist() == [-0.5] * 3
    optimizer.stages[0].lr = 0.25
    optimizer.update(params, grads)
    assert params["a"].tolist() == [-0.75] * 3


@pytest.mark.parametrize("dtypes", [["f4"], ["f4", "f8"]])
@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_a_traced_rate_is_refused_in_a_replay(
    engine: ao.EngineName, dtypes: list[str], need: Callable[[str], Library]
) -> None:
    """As at the first step, by one plan or several: what is remembered would be frozen into what is transformed."""
    need("jax")
    import jax

    params = {f"p{i}": np.ones(3, dtype) for i, dtype in enumerate(dtypes)}
    grads = {k: np.ones_like(p) for k, p in params.items()}
    optimizer = ao.SGD(0.5, engine=engine)
    for _ in range(3):
        optimizer.update(params, grads)

    def traced(lr: Any) -> Any:
        optimizer.lr = lr
        optimizer.update(params, grads)
        return lr

    with pytest.raises(TypeError, match=r"the update of params\['p0'\] is traced"):
        jax.jit(traced)(0.25)
    assert all(p.tolist() == [-0.5] * 3 for p in params.values())


def _two_groups(engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(ao.Adam(), ao.groups({"a": {"lr": 0.1}, ...: {}}), engine=engine)


def _two() -> tuple[Tree, Tree]:
    """Parameters and gradients: more than one, of one dtype."""
    return {"a": np.ones(3, "f4"), "b": np.ones(2, "f4")}, {"a": np.ones(3, "f4"), "b": np.ones(2, "f4")}


@pytest.mark.parametrize("make", [_adam, _two_groups])
@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_a_schedule_may_look_at_the_state(make: Callable[[ao.EngineName], ao.Optimizer], engine: ao.EngineName) -> None:
    """Each step is counted once, though steps that a replay has not counted yet are counted in its middle."""
    params, grads = _two()
    optimizer = make(engine)
    seen = []

    def look(step: int) -> float:
        seen.append(None if optimizer.state is None else int(optimizer.state.step))
        return 1e-3

    optimizer.stages[0].lr = look
    for _ in range(9):
        optimizer.update(params, grads)
    assert optimizer.state is not None
    assert (optimizer.state.step, optimizer.state.t) == (9, {"a": 9, "b": 9})
    assert [*dict.fromkeys(seen)] == [None, *range(1, 9)]


@pytest.mark.parametrize("measured", [False, True])
def test_a_schedule_may_set_the_state_back(measured: bool) -> None:
    """The step that is being replayed then follows what was set, where something is measured, too."""
    params, grads = _two()
    method = ao.SGD(0.5)
    optimizer = ao.chain(*[ao.ClipGlobalNorm(1e9)] * measured, method, engine="blocked")
    optimizer.update(params, grads)
    saved = optimizer.state_dict()

    def restore(step: int) -> float:
        if step == 5:
            optimizer.load_state_dict(saved, params, strict=False)
        return 0.5

    method.lr = restore
    for _ in range(4):
        optimizer.update(params, grads)
    assert params["a"].tolist() == [-1.5] * 3
    assert optimizer.state is not None
    assert optimizer.state.step == 2


def test_gradients_in_another_container_keep_the_engines_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a tuple for a list: they are checked at every step, but nothing is laid ready anew."""
    params = [np.ones(3, "f4"), np.ones(2, "f4")]
    optimizer = ao.Adam(engine="blocked")
    for i in range(4):
        if i == 1:
            monkeypatch.setattr(_plan, "Dispatch", None)
        optimizer.update(params, tuple(np.ones_like(p) for p in params))
    assert optimizer.state is not None
    assert optimizer.state.t == [4, 4]


def test_a_window_with_a_tie_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step at its end repeats no check: the second name of an array is at rest no more than the first."""
    a = np.ones(3)
    params, grads = {"a": a, "b": a}, {"a": np.ones(3), "b": None}
    optimizer = ao.chain(ao.Accumulate(2), ao.Adam(), engine="blocked")
    for _ in range(3):
        optimizer.update(params, grads)
    monkeypatch.setattr(Training, "_update", None)
    optimizer.update(params, grads)
    assert optimizer.state is not None
    assert optimizer.state.t == {"a": 2, "b": 2}


def test_a_replay_computes_coefficients_as_the_first_step_does() -> None:
    """Whatever NumPy is told to do about numbers that underflow."""
    params, grads = _two()

    class Small(ao.SGD):
        @staticmethod
        def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
            return {"lr": hyper.lr + float(np.float64(1e-300) * np.float64(1e-300))}

    optimizer = Small(0.5, engine="blocked")
    with np.errstate(under="raise"):
        for _ in range(3):
            optimizer.update(params, grads)
    assert params["a"].tolist() == [-0.5] * 3


def test_coefficients_may_change_what_they_are_given() -> None:
    """It is theirs: the next step has the hyperparameters as they were set."""

    class Decaying(ao.SGD):
        @staticmethod
        def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
            values: dict[str, Any] = vars(hyper)
            values["lr"] /= t
            return values

    p = np.zeros(1)
    optimizer = Decaying(1.0)
    for _ in range(3):
        optimizer.update(p, np.ones(1))
    assert p[0] == -1.0 - 0.5 - 1 / 3


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", [*CHAINS, *COMPOSED])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_like_the_last_traces_nothing(name: str, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its rules nor what its stages ask for, of which chains with several reductions compare the graphs."""
    optimizer = CHAINS[name](engine) if name in CHAINS else COMPOSED[name](engine=engine)
    params = {k: np.ones((3, 2)) for k in "ab"}
    grads = {k: np.full((3, 2), 0.1) for k in "ab"}
    for _ in range(8):  # past the last at which one of them does something new
        optimizer.update(params, grads)
    monkeypatch.setattr("anyoptim._trace._graph._traced", lambda *_: pytest.fail("it is traced anew"))
    optimizer.update(params, grads)
