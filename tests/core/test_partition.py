"""Partitions: different methods for different parameters, with the bits of separate optimizers and one norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support import shim
from tests.support.chains import COPIES, Seen, agree, copied_halfway, problem, step_under_jit
from tests.support.engines import Watch
from tests.support.libraries import ENGINES, Library, same_bits

Lanes = dict[Any, Callable[[], ao.Optimizer] | None]

LANES: Lanes = {
    "W": lambda: ao.chain(ao.WeightDecay(0.1), ao.Adam(lr=0.1), ao.Scale(0.5)),
    "b": lambda: ao.Momentum(0.1),
    ...: lambda: ao.SGD(0.5),
}


def _split(tree: Any) -> dict[str, Any]:
    return {"W": tree["W"], "b": tree["b"], "s": tree["s"]}


def _partition(lanes: Lanes = LANES, engine: ao.EngineName | None = None) -> ao.partition:
    return ao.partition({k: make and make() for k, make in lanes.items()}, engine=engine)


def test_the_bits_of_separate_optimizers(place: tuple[Library, ao.EngineName | None]) -> None:
    """On every library and engine, in place and in the pure form; state where a stage is for the parameter."""
    lib, engine = place
    params, grads = problem("float32", steps=2 if lib.name == "dask" else 5)
    params = {k: lib.asarray(a) for k, a in params.items()}
    alone: dict[str, Any] = {k: lib.asarray(lib.tonumpy(a)) for k, a in params.items()}
    pure = {k: lib.asarray(lib.tonumpy(a)) for k, a in params.items()}
    optimizer = _partition(engine=engine)
    separate = {k: LANES[k if k in LANES else ...]() for k in params}  # type: ignore[misc]
    for one in separate.values():
        one.engine = engine
    state = optimizer.init(pure)
    for g in grads:
        given = {k: lib.asarray(a) for k, a in g.items()}
        params = optimizer.update(params, given)
        pure, state = optimizer.step(pure, given, state)
        alone = {k: one.update(alone[k], given[k]) for k, one in separate.items()}
    for k in params:
        assert same_bits(lib.tonumpy(params[k]), lib.tonumpy(alone[k])), k
        assert same_bits(lib.tonumpy(params[k]), lib.tonumpy(pure[k])), k
    for found in (optimizer.state, state):
        assert found is not None
        assert found.t == {"W": len(grads), "b": len(grads), "s": len(grads)}
        assert [sorted(of) for of in found.slots] == [[], ["m", "v"], [], ["v"], []]
        assert [k for k, a in found.slots[1]["m"].items() if a is not None] == ["W"]
        assert [k for k, a in found.slots[3]["v"].items() if a is not None] == ["b"]
        assert same_bits(lib.tonumpy(found.slots[1]["m"]["W"]), lib.tonumpy(separate["W"].state.slots[1]["m"]))  # type: ignore[union-attr]
        assert same_bits(lib.tonumpy(found.slots[3]["v"]["b"]), lib.tonumpy(separate["b"].state.slots["v"]))  # type: ignore[union-attr]


def _whole(engine: ao.EngineName | None = None) -> ao.chain:
    return ao.chain(ao.ClipGlobalNorm(0.5), _partition(), ao.ClipGlobalNorm(0.2), ao.EMA(0.5), engine=engine)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128"])
def test_the_common_clips_are_of_all(dtype: str) -> None:
    """Before and behind the methods: the norms are those of plain float64, and all engines give the same bits."""
    params, grads = problem(dtype, steps=6)
    results = []
    for engine in ENGINES if dtype == "float32" else ("blocked", "portable"):
        p, optimizer = {k: a.copy() for k, a in params.items()}, _whole(engine)
        for g in grads:
            optimizer.update(p, g)
        assert optimizer.state is not None
        results.append(
            (p, [[a for a in slot.values() if a is not None] for of in optimizer.state.slots for slot in of.values()])
        )
    assert all(agree(results[0], other) for other in results[1:])
    if dtype != "float64":
        return
    wide = {k: a.copy() for k, a in params.items()}
    m, v, momentum = np.zeros((5, 7)), np.zeros((5, 7)), np.zeros(7)
    for t, g in enumerate(grads, 1):
        norm = np.sqrt(sum((a * a).sum() for a in g.values()))
        x = {k: a * min(1.0, 0.5 / norm) for k, a in g.items()}
        decayed = x["W"] + 0.1 * wide["W"]
        m, v = 0.9 * m + 0.1 * decayed, 0.999 * v + 0.001 * decayed**2
        momentum = 0.9 * momentum + 0.1 * x["b"]
        rate = 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        x = {"W": 0.5 * rate * m / (np.sqrt(v) + 1e-7), "b": momentum, "s": 0.5 * x["s"]}
        norm = np.sqrt(sum((a * a).sum() for a in x.values()))
        wide = {k: wide[k] - a * min(1.0, 0.2 / norm) for k, a in x.items()}
    for k, a in wide.items():
        np.testing.assert_allclose(results[0][0][k], a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reduction_of_one_method_is_of_its_parameters(engine: ao.EngineName) -> None:
    """A global norm in one lane sees none of the others; where none of its parameters moves, it is 0."""
    norms: list[float] = []

    optimizer = ao.partition(
        {"a.*": ao.chain(Seen(norms), ao.SGD(1.0)), ...: ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0))}, engine=engine
    )
    params: Any = {"a": [np.zeros(2), np.zeros(2)], "b": np.zeros(1), "c": np.zeros(1)}
    grads: Any = {"a": [np.array([3.0, 0.0]), np.array([0.0, 4.0])], "b": np.array([3.0]), "c": np.array([4.0])}
    for k in range(3):
        optimizer.update(params, grads)
        assert norms == [5.0] * (k + 1)
    optimizer.update(params, {**grads, "a": [None, None]})
    optimizer.update(params, {**grads, "b": None, "c": None})
    assert norms == [5.0] * 4
    assert params["a"][0].tolist() == [-12.0, 0.0]
    np.testing.assert_allclose([params["b"][0], params["c"][0]], [-2.4, -3.2], rtol=1e-15)


@pytest.mark.parametrize("name", ["numpy", "torch", "cuda-shim", "jax"])
@pytest.mark.parametrize("inner", [None, "encoder.b"])
def test_the_frozen_rest(name: str, inner: str | None, need: Callable[[str], Library]) -> None:
    """Whatever their gradient; they have the common stages' slots, and groups have nothing to say to them."""
    lib = need(name)
    given = ao.groups({"encoder.*": {"lr": 5.0, "momentum": 0.5}, ...: {"lr": 2.0}})
    optimizer = ao.chain(
        ao.ClipGlobalNorm(1.0),
        ao.partition({"encoder.**": None, "head": ao.Momentum(1.0)}),
        ao.EMA(0.5),
        *([given] if inner else []),
    )
    params: Any = {"encoder": {"W": lib.array([1.0, 2.0]), "b": lib.array([3.0])}, "head": lib.array([0.0, 0.0])}
    for value in (np.nan, np.inf, 1.0):
        grads = {"encoder": {"W": lib.array([value, 1.0]), "b": lib.array([value])}, "head": lib.array([0.6, 0.8])}
        params = optimizer.update(params, grads)
        _, state = optimizer.step(params, grads, optimizer.init(params))
    assert lib.tonumpy(params["encoder"]["W"]).tolist() == [1.0, 2.0]
    assert lib.tonumpy(params["encoder"]["b"]).tolist() == [3.0]
    moved = (2.0 if inner else 1.0) * (1 + 1.9 + 2.71) * np.array([-0.6, -0.8])
    np.testing.assert_allclose(lib.tonumpy(params["head"]), moved, rtol=1e-6)
    assert optimizer.state is not None
    assert optimizer.state.t == {"encoder": {"W": 0, "b": 0}, "head": 3}
    assert state.t == {"encoder": {"W": 0, "b": 0}, "head": 1}
    assert optimizer.state.slots[1]["v"]["encoder"] == {"W": None, "b": None}
    assert lib.tonumpy(optimizer.state.slots[2]["average"]["encoder"]["W"]).tolist() == [1.0, 2.0]
    (share,) = optimizer.explain(params, grads)
    assert share.parameters == ("head",)


def test_frozen_parameters_take_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step on nothing is checked anew, though they have gradients."""
    optimizer = ao.partition({"a": None, ...: ao.Adam()}, engine="compiled")
    params, grads = {"a": np.ones(3), "b": np.ones(3)}, {"a": np.ones(3), "b": np.ones(3)}
    for _ in range(2):
        optimizer.update(params, grads)
    monkeypatch.setattr(type(optimizer._training), "_update", None)
    optimizer.update(params, grads)
    assert optimizer.state is not None
    assert optimizer.state.t == {"a": 0, "b": 3}
    assert params["a"].tolist() == [1.0] * 3


def test_groups_in_a_partition() -> None:
    """A name is that of the parameter's own method; one that it has not is refused, with those that it has."""
    given = ao.groups({"**.b": {"lr": 2.0}, "x.W": {"WeightDecay.decay": 0.5}, ...: {}})
    lanes = {"x.**": ao.chain(ao.WeightDecay(0.0), ao.SGD(1.0)), ...: ao.Momentum(1.0, 0.0)}
    optimizer = ao.chain(ao.partition(lanes), given)
    params = {k: {"W": np.ones(1), "b": np.ones(1)} for k in "xy"}
    ones = {k: {"W": np.ones(1), "b": np.ones(1)} for k in "xy"}
    optimizer.update(params, ones)
    assert {k: (a["W"][0], a["b"][0]) for k, a in params.items()} == {"x": (-0.5, -1.0), "y": (0.0, -1.0)}
    given["**.b"]["lr"] = 4.0
    optimizer.update(params, ones)
    assert (params["x"]["b"][0], params["y"]["b"][0]) == (-5.0, -5.0)
    other = ao.chain(
        ao.partition({"x.**": ao.SGD(), ...: ao.Momentum()}), ao.groups({"**.W": {"momentum": 0.5}, ...: {}})
    )
    with pytest.raises(
        ValueError, match=r"groups has 'momentum' for '\*\*.W', which no stage has; wanted one of SGD.lr"
    ):
        other.update(params, ones)
    with pytest.raises(
        ValueError, match=r"groups has 'rate' for ..., which no stage has; wanted one of SGD.lr, Momentum.lr"
    ):
        ao.chain(ao.partition({"x.**": ao.SGD(), ...: ao.Momentum()}), ao.groups({...: {"rate": 0.5}}))


def test_chains_in_chains() -> None:
    """A partition in a chain in a chain is the same; what is printed builds it again."""
    one = ao.chain(ao.ClipNorm(1.0), ao.chain(_partition(), ao.EMA(0.5)), ao.EMA(0.25))
    two = ao.chain(ao.ClipNorm(1.0), _partition(), ao.EMA(0.5), ao.EMA(0.25))
    three = eval(repr(one), dict(vars(ao)))  # noqa: S307
    assert repr(one) == repr(two) == repr(three)
    assert repr(one).startswith("chain(ClipNorm(max_norm=1.0), partition({'W': chain(WeightDecay(decay=0.1), Adam(")
    text = "partition({'a': None, 'b': SGD(lr=0.5), ...: None})"
    assert repr(eval(text, dict(vars(ao)))) == text  # noqa: S307
    params, grads = problem("float32", steps=3)
    found = []
    for optimizer in (one, two, three):
        p = {k: a.copy() for k, a in params.items()}
        for g in grads:
            optimizer.update(p, g)
        found.append(p)
    assert agree(found[0], found[1])
    assert agree(found[0], found[2])


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no dict": (lambda: ao.partition([ao.SGD()]), TypeError, r"partition was given \[SGD\(lr=0.01\)\]; wanted a dict"),  # type: ignore[arg-type]
    "empty": (lambda: ao.partition({}), ValueError, "partition is empty; wanted at least one pattern"),
    "no method": (lambda: ao.partition({"a": None, ...: None}), ValueError, "partition has no method; wanted one"),
    "a stage": (lambda: ao.partition({...: ao.EMA()}), TypeError, r"has EMA\(decay=0.999\) for ...; wanted a method"),  # type: ignore[dict-item]
    "a class": (lambda: ao.partition({"a": ao.SGD}), TypeError, "for 'a'; wanted a method or a chain of one, or None"),  # type: ignore[dict-item]
    "nested": (lambda: ao.partition({"a": _partition()}), TypeError, "for 'a'; wanted a method or a chain of one"),
    "nested in a chain": (
        lambda: ao.partition({"a": ao.chain(ao.ClipNorm(1.0), ao.partition({...: ao.SGD()}))}),
        TypeError,
        "for 'a'; wanted a method or a chain of one",
    ),
    "groups within": (
        lambda: ao.partition({"a": ao.chain(ao.SGD(), ao.groups({...: {}}))}),
        TypeError,
        "for 'a'; wanted a method or a chain of one",
    ),
    "two": (
        lambda: ao.chain(_partition(), _partition()),
        ValueError,
        "chain was given two partitions; wanted one, with all patterns",
    ),
    "two, one in a chain": (
        lambda: ao.chain(ao.chain(ao.ClipNorm(1.0), _partition()), _partition()),
        ValueError,
        "chain was given two partitions",
    ),
    "and a method": (lambda: ao.chain(_partition(), ao.SGD()), ValueError, "chain was given 2 methods among"),
    "used": (
        lambda: ao.partition({...: _used(ao.SGD())}),
        ValueError,
        "has taken steps, which the chain would forget; wanted a new one",
    ),
    "an engine within": (
        lambda: ao.partition({...: ao.SGD(engine="blocked")}),
        ValueError,
        "has engine='blocked'; wanted it on the chain",
    ),
    "early": (
        lambda: ao.chain(ao.partition({"a": ao.chain(ao.SGD(), ao.EMA()), ...: ao.SGD()}), ao.Scale(2.0)),
        ValueError,
        r"Scale\(factor=2.0\) changes the step, which was taken; wanted it before EMA",
    ),
    "accumulate": (
        lambda: ao.partition({"a": ao.Adam(), "b": ao.chain(ao.Accumulate(2), ao.SGD())}),
        ValueError,
        r"Accumulate\(every=2\) says which updates are steps; wanted it first, before all methods",
    ),
    "accumulate in the first": (
        lambda: ao.partition({"b": ao.chain(ao.Accumulate(2), ao.SGD()), ...: ao.Adam()}),
        ValueError,
        r"Accumulate\(every=2\) says which updates are steps; wanted it first, before all methods",
    ),
    "accumulate behind": (
        lambda: ao.chain(_partition(), ao.Accumulate(2)),
        ValueError,
        r"Accumulate\(every=2\) says which updates are steps; wanted it first, before all methods",
    ),
}


def _used(optimizer: ao.Optimizer) -> ao.Optimizer:
    optimizer.update(np.ones(1), np.ones(1))
    return optimizer


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name: str) -> None:
    """By name."""
    make, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"W": ao.SGD()}, r"partition has nothing for params\['b'\], params\['s'\]; wanted a pattern, or ... for all"),
        (
            {"*": ao.SGD(), "W": None},
            r"partition has more than one pattern for params\['W'\] \('\*', 'W'\); wanted one",
        ),
        ({"**": ao.SGD(), "V": ao.SGD()}, r"partition has 'V', for which there is no parameter among params\['W'\]"),
    ],
)
def test_unmatched_parameters(given: Any, match: str) -> None:
    """They are listed."""
    params, (g,) = problem(steps=1)
    for call in (lambda: ao.partition(given).update(params, g), lambda: ao.partition(given).init(params)):
        with pytest.raises(ValueError, match=match):
            call()


def test_wrong_states() -> None:
    """A slot that is None where a stage is for the parameter; one where it is not is no matter."""
    optimizer = _partition()
    params, (g,) = problem(steps=1)
    state = optimizer.init(params)
    slots = [dict(of) for of in state.slots]
    slots[3] = {"v": {"W": None, "b": None, "s": None}}
    with pytest.raises(ValueError, match=r"state.slots\[3\]\['v'\]\['b'\] is None but params\['b'\] is not"):
        optimizer.step(params, g, state._replace(slots=tuple(slots)))
    slots[3] = {"v": {"W": np.ones(3), "b": state.slots[3]["v"]["b"], "s": None}}
    one, after = optimizer.step(params, g, state._replace(slots=tuple(slots)))
    two, _ = optimizer.step(params, g, state)
    assert agree(one, two)
    assert after.slots[3]["v"]["W"] is None


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("engine", [None, "portable"])
def test_copies_go_on_alone(engine: ao.EngineName | None, copied: Callable[[Any], Any]) -> None:
    """A copy in mid-training gives the same bits."""
    copied_halfway(_whole(engine), copied, *problem("float32", steps=6))


def test_sources_and_explanations() -> None:
    """A kernel for each method, each once; the bytes of each parameter are those of its own stages."""
    optimizer = ao.partition({"W": ao.Adam(), "b": ao.SGD(), "c": ao.SGD(0.5)})
    for engine in ("compiled", "blocked", "cuda"):
        text = optimizer.kernel_source(engine)
        assert text.count("lr_t") == ao.Adam().kernel_source(engine).count("lr_t")
        adam, sgd = ao.Adam().kernel_source(engine), ao.SGD().kernel_source(engine)
        if engine == "cuda":  # the types are defined once
            assert text.startswith(adam)
            assert sgd.endswith(text.removeprefix(adam + "\n"))
        else:
            assert text == f"{adam}\n\n{sgd}"
    params = {k: np.ones(10, np.float32) for k in "Wbc"}
    shares = optimizer.explain(params, params)
    assert sum(share.bytes for share in shares) == 10 * (4 * (2 + 1 + 4) + 2 * 4 * 3)
    optimizer.compile(params)
    assert [(share.engine, len(share.parameters)) for share in optimizer.explain(params, params)] == [("compiled", 3)]
    optimizer = ao.partition({"W": ao.chain(ao.Centralize(), ao.Adam()), ...: ao.SGD()}, engine="compiled")
    shares = optimizer.explain(params, params)
    assert {share.engine: (share.parameters, share.reason) for share in shares} == {
        "portable": (("W",), "Centralize works on whole arrays"),
        "compiled": (("b", "c"), None),
    }
    with pytest.raises(ValueError, match="Centralize works on whole arrays: 'compiled' makes no code of it"):
        optimizer.kernel_source("compiled")
    optimizer.compile(params)


@pytest.mark.parametrize("engine", ["blocked", "compiled"])
def test_one_pass_for_each_method(engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one more of each for a common norm; methods of one class and chain run by one kernel."""
    watch = Watch(engine, monkeypatch)
    optimizer = ao.chain(
        ao.ClipGlobalNorm(1.0), ao.partition({"a": ao.SGD(), "b": ao.SGD(0.5), "c": ao.Adam()}), engine=engine
    )
    params = {k: np.ones(5000) for k in "abc"}
    for step in range(1, 4):
        optimizer.update(params, params and {k: np.ones(5000) for k in "abc"})
        assert len(watch.passes) == step * 6
    assert len(watch.kernels) == 4


def test_under_jit(need: Callable[[str], Library]) -> None:
    """Traced once, with the frozen and a common norm; agrees with NumPy to 1e-5, as XLA contracts."""

    def make() -> ao.chain:
        lanes = ao.partition({"W": ao.Adam(0.1), "b": ao.Momentum(0.1), "s": None})
        return ao.chain(ao.ClipGlobalNorm(0.5), lanes, ao.EMA(0.5))

    params, p = step_under_jit(make, need("jax"))
    assert float(p["s"]) == float(params["s"])


def test_in_a_cuda_graph(need: Callable[[str], Library]) -> None:
    """One method can be captured, of a partition whose other parameters rest; several can't."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    lanes: Any = {"a": ao.SGD(1.0), "b": ao.chain(ao.Scale(2.0), ao.Scale(0.5), ao.ClipGlobalNorm(1.0), ao.SGD(1.0))}
    optimizer = ao.partition(lanes)
    p = {k: shim.asarray(np.zeros(2)) for k in "ab"}
    both, one = (
        {k: shim.asarray(np.array([0.0, 4.0])) for k in "ab"},
        {"a": None, "b": shim.asarray(np.array([0.0, 4.0]))},
    )
    optimizer.update(p, both)
    machine.captured = []
    with pytest.raises(RuntimeError, match="parameters with several methods can't be updated in one CUDA graph"):
        optimizer.update(p, both)
    machine.captured = []
    optimizer.update(p, one)
    graph, machine.captured = machine.captured, None
    for _ in range(3):
        machine.waiting.extend(graph)
        machine.finish()
    assert shim.tonumpy(p["b"]).tolist() == [0.0, -4.0]
    assert optimizer.state is not None
    assert optimizer.state.step == 4
    assert optimizer.state.t == {"a": 1, "b": 4}
