"""Groups: whose hyperparameters, by patterns; values that are live; the bits of separate optimizers."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import anyoptim as ao
from tests.support import shim
from tests.support.chains import COPIES, agree, copied_halfway, problem
from tests.support.engines import Watch
from tests.support.libraries import ENGINES, Library, same_bits
from tests.support.xla import quick


def _takes(pattern: list[str], keys: list[str]) -> bool:
    """What the docstring says of a pattern, key by key."""
    if not pattern:
        return not keys
    if pattern[0] == "**":
        return _takes(pattern[1:], keys) or (bool(keys) and _takes(pattern, keys[1:]))
    return bool(keys) and _one(pattern[0], keys[0]) and _takes(pattern[1:], keys[1:])


def _one(pattern: str, key: str) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "*":
        return _one(pattern[1:], key) or (bool(key) and _one(pattern, key[1:]))
    return bool(key) and pattern[0] in {"?", key[0]} and _one(pattern[1:], key[1:])


def _nested(keys: list[str], leaf: Any) -> Any:
    for key in reversed(keys):
        leaf = {key: leaf}
    return leaf


_LETTERS = st.text("ab[\\^$|+(é0", max_size=3)
_PATTERN = st.lists(st.just("**") | st.text("ab*?[\\^$|+(é0", max_size=3), min_size=1, max_size=4)


@settings(max_examples=150)
@given(keys=st.lists(_LETTERS, max_size=4), pattern=_PATTERN)
def test_patterns(keys: list[str], pattern: list[str]) -> None:
    """What a pattern takes, beside a matcher that knows no regular expressions; the others are for nothing else."""
    assume(keys != [""])  # whose path is that of a bare array
    params = _nested(keys, np.zeros(1))
    optimizer = ao.chain(ao.SGD(), ao.groups({".".join(pattern): {"lr": 2.0}, ...: {}}))
    if _takes(pattern, keys):
        optimizer.init(params)
    else:
        with pytest.raises(ValueError, match="for which there is no parameter among"):
            optimizer.init(params)


_MANY_STARS = """
from tests.support.internals import Selection
for pattern, path in (
    ("*a" * 12 + "b", "a" * 60),
    ("*a" * 40 + "b", "a" * 2000),
    ("**.a." * 12 + "b", ".".join("a" * 60)),
    ("**.*a*a*a." * 12 + "b", ".".join(["aaaaaaa"] * 60)),
    ("**." * 30 + "b", ".".join("a" * 400)),
):
    assert Selection("groups", [pattern, ...]).taker(path) is ..., pattern
    path += ".b" if "." in path else "b"
    assert Selection("groups", [pattern, ...]).taker(path) == pattern, pattern
"""


def test_many_stars() -> None:
    """A pattern of many stars that takes nothing says so, where one that tries all places would go on for years."""
    run = subprocess.run([sys.executable, "-c", _MANY_STARS], check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


PATTERNS: dict[str, list[str]] = {
    "**": ["W", "b", "encoder.0.W", "encoder.0.b", "encoder.1.b"],
    "*": ["W", "b"],
    "**.b": ["b", "encoder.0.b", "encoder.1.b"],
    "encoder.**": ["encoder.0.W", "encoder.0.b", "encoder.1.b"],
    "encoder.*.b": ["encoder.0.b", "encoder.1.b"],
    "encoder.?.W": ["encoder.0.W"],
    "**.0.**": ["encoder.0.W", "encoder.0.b"],
    "enc*.1.b": ["encoder.1.b"],
    "encoder.0": [],
    "encoder": [],
    "ENCODER.**": [],
    "**.encoder.**.b": ["encoder.0.b", "encoder.1.b"],
    "*.*": [],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_by_hand(pattern: str) -> None:
    """The examples of the docstring and their like, on a nest of dicts and lists."""
    one = {"W": np.zeros(1), "b": np.zeros(1), "encoder": [{"W": np.zeros(1), "b": np.zeros(1)}, {"b": np.zeros(1)}]}
    ones = {"W": np.ones(1), "b": np.ones(1), "encoder": [{"W": np.ones(1), "b": np.ones(1)}, {"b": np.ones(1)}]}
    optimizer = ao.chain(ao.SGD(lr=0.0), ao.groups({pattern: {"lr": 1.0}, ...: {}}))
    if not PATTERNS[pattern]:
        with pytest.raises(ValueError, match="for which there is no parameter"):
            optimizer.update(one, ones)
        return
    found: Any = optimizer.update(one, ones)
    paths = {"W": found["W"], "b": found["b"]}
    paths |= {f"encoder.{i}.{k}": a for i, layer in enumerate(found["encoder"]) for k, a in layer.items()}
    assert [path for path, a in paths.items() if a[0] == -1.0] == PATTERNS[pattern]


def test_a_bare_array_has_no_keys() -> None:
    """`**` takes it, `*` does not."""
    assert ao.chain(ao.SGD(1.0), ao.groups({"**": {"lr": 2.0}})).update(np.zeros(1), np.ones(1)).tolist() == [-2.0]
    with pytest.raises(ValueError, match=r"groups has nothing for params; wanted a pattern, or ... for all others"):
        ao.chain(ao.SGD(1.0), ao.groups({"*": {"lr": 2.0}})).update(np.zeros(1), np.ones(1))


def _params(lib: Library, dtype: str = "float32") -> dict[str, Any]:
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> Any:
        return lib.array(rng.normal(size=shape), dtype)

    return {
        "W": draw(3, 4),
        "b": draw(3),
        "head": {"W": draw(3, 4), "b": draw(3), "scale": draw()},
        "norms": [draw(3), draw(3)],
    }


def _leaves(tree: Any) -> list[Any]:
    return [tree["W"], tree["b"], *tree["head"].values(), *tree["norms"]]


FIVE: dict[Any, dict[str, Any]] = {
    "W": {},
    "b": {"lr": 0.5, "beta1": 0.5},
    "head.?": {"beta2": 0.9, "eps": 1e-3},
    "norms.*": {"lr": lambda t: 0.1 / t},
    ...: {"Adam.lr": 0.02, "WeightDecay.decay": 0.0},
}
PLACES = ["W", "b", "head.?", "head.?", ..., "norms.*", "norms.*"]


def _alone(selector: Any, engine: ao.EngineName | None) -> ao.Optimizer:
    """The same chain for one group alone, with its values as its own."""
    adam, decay = ao.Adam(lr=0.1), ao.WeightDecay(0.25)
    for name, value in FIVE[selector].items():
        stage = decay if "decay" in name else adam
        setattr(stage, name.rpartition(".")[2], value)
    return ao.chain(adam, decay, ao.EMA(0.5), engine=engine)


@pytest.mark.omit("x64 widens no group", lambda place: place[0] == "jax-x64")
def test_five_groups_have_the_bits_of_five_optimizers(place: tuple[Library, ao.EngineName | None]) -> None:
    """On every library; numbers and schedules, and in the pure form, too."""
    lib, engine = place
    optimizer = ao.chain(ao.Adam(lr=0.1), ao.WeightDecay(0.25), ao.EMA(0.5), ao.groups(FIVE), engine=engine)
    params, twins, pure = _params(lib), _leaves(_params(lib)), _params(lib)
    alone = [_alone(selector, engine) for selector in PLACES]
    state = optimizer.init(pure)
    rng = np.random.default_rng(6)
    for _ in range(2 if lib.name == "dask" else 4):
        values = iter([rng.normal(size=a.shape) for a in _leaves(params)])
        keep = [lib.array(v) for v in values]
        grads = {
            "W": keep[0],
            "b": keep[1],
            "head": dict(zip(("W", "b", "scale"), keep[2:5], strict=True)),
            "norms": keep[5:],
        }
        params = optimizer.update(params, grads)
        pure, state = optimizer.step(pure, grads, state)
        twins = [one.update(p, g) for one, p, g in zip(alone, twins, keep, strict=True)]
    assert optimizer.state is not None
    slots = [_leaves(optimizer.state.slots[0][key]) for key in ("m", "v")]
    theirs = [[one.state.slots[0][key] for one in alone] for key in ("m", "v")]  # type: ignore[union-attr]
    found, others, stepped = lib.values(((_leaves(params), slots), (twins, theirs), _leaves(pure)))
    assert agree(found, others)
    assert agree(found[0], stepped)


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", ENGINES)
def test_one_global_norm(engine: ao.EngineName) -> None:
    """Of all groups together: that of a chain without groups, whose bits it has where the groups say nothing."""
    params, grads = problem("float32", steps=5)

    def make(*more: Any) -> ao.chain:
        return ao.chain(ao.ClipGlobalNorm(0.5), ao.Momentum(0.1), *more, engine=engine)

    one, two, three = ({k: a.copy() for k, a in params.items()} for _ in range(3))
    plain, same = make(), make(ao.groups({"W": {}, "b": {"momentum": 0.9}, ...: {}}))
    other = make(ao.groups({"b": {"lr": 0.3}, ...: {}}))
    for g in grads:
        plain.update(one, g)
        same.update(two, g)
        other.update(three, g)
    assert agree(one, two)
    assert same_bits(one["W"], three["W"])
    assert not same_bits(one["b"], three["b"])


def test_values_are_live() -> None:
    """A group's value that is set holds from the next step on; the stage's own moves all that have none."""
    optimizer = ao.chain(ao.SGD(lr=1.0), ao.groups({"a": {"lr": 2.0}, ...: {}}))
    params, ones = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.ones(1), "b": np.ones(1)}

    def moved() -> list[float]:
        before = [float(a[0]) for a in params.values()]
        optimizer.update(params, ones)
        return [x - float(a[0]) for x, a in zip(before, params.values(), strict=True)]

    assert moved() == [2.0, 1.0]
    optimizer.stages[0].lr = 4.0
    assert moved() == [2.0, 4.0]
    assert optimizer.groups is not None
    optimizer.groups["a"]["lr"] = 8.0
    assert moved() == [8.0, 4.0]
    optimizer.groups["a"]["lr"] = float
    assert moved() == [4.0, 4.0]
    assert moved() == [5.0, 4.0]
    optimizer.groups["a"].update(lr=np.float64(16.0))
    assert moved() == [16.0, 4.0]
    for wrong, error, match in (
        (-1.0, ValueError, "lr of 'a' is -1.0; wanted finite and at least 0"),
        (math.inf, ValueError, "lr of 'a' is inf; wanted finite and at least 0"),
        ("fast", TypeError, "lr of 'a' is 'fast'; wanted a real number"),
    ):
        with pytest.raises(error, match=match):
            optimizer.groups["a"]["lr"] = wrong
        assert optimizer.groups["a"]["lr"] == 16.0
    optimizer.groups["a"]["lr"] = lambda t: math.nan
    before = {k: a.copy() for k, a in params.items()}
    with pytest.raises(ValueError, match="lr, from its schedule at step 7, is nan"):
        optimizer.update(params, ones)
    assert agree(params, before)
    assert optimizer.state is not None
    assert optimizer.state.step == 6


@pytest.mark.parametrize("copied", COPIES)
def test_values_that_are_set_are_checked(copied: Any) -> None:
    """In a copy, too; for each stage that has the name, in a partition; by nobody while there is no chain."""
    groups = ao.groups({"a": {"lr": 2.0}, ...: {"decay": 0.5}})
    groups["a"]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"lr of 'a' is -1.0; wanted finite and at least 0"):
        ao.chain(ao.SGD(), ao.WeightDecay(0.1), groups)
    groups["a"]["lr"] = 3.0
    optimizer = copied(ao.chain(ao.WeightDecay(0.1), ao.partition({"a": ao.SGD(), "b": ao.Adam()}), groups))
    with pytest.raises(ValueError, match=r"decay of \.\.\. is -0.5; wanted finite and at least 0"):
        optimizer.groups[...]["decay"] = -0.5
    with pytest.raises(ValueError, match=r"lr of 'a' is -2.0; wanted finite and at least 0"):
        optimizer.groups["a"].update(lr=-2.0)
    assert (optimizer.groups["a"]["lr"], optimizer.groups[...]["decay"]) == (3.0, 0.5)


def test_names_are_settled_with_the_chain() -> None:
    """A misspelt one would be ignored in silence, and one that is gone, missed."""
    optimizer = ao.chain(ao.SGD(), ao.groups({"**": {"lr": 2.0}}))
    assert optimizer.groups is not None
    group = optimizer.groups["**"]
    with pytest.raises(KeyError, match=r"the group has \['lr'\]; wanted 'momentum' there from the beginning"):
        group["momentum"] = 0.5
    with pytest.raises(KeyError, match="the group has"):
        group.update(rate=0.5)
    with pytest.raises(KeyError, match="the group has"):
        group.setdefault("rate", 0.5)
    for take in (lambda: group.pop("lr"), group.clear, group.popitem, lambda: group.__delitem__("lr")):
        with pytest.raises(TypeError, match="'lr' can't be taken from a group; wanted another value"):
            take()
    assert dict(group) == {"lr": 2.0}
    assert len(group) == 1
    assert repr(optimizer) == "chain(SGD(lr=0.01), groups({'**': {'lr': 2.0}}))"


def test_printed_groups_build_the_same_again() -> None:
    """With `...` and frozen ones."""
    text = "chain(SGD(lr=0.01), groups({'**.b': {'lr': 0.5}, 'encoder.**': None, ...: {}}))"
    assert repr(eval(text, dict(vars(ao)))) == text  # noqa: S307


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_the_frozen_rest(engine: ao.EngineName | None) -> None:
    """Whatever their gradient, which no norm sees; with their slots and counts."""
    optimizer = ao.chain(
        ao.ClipGlobalNorm(1.0), ao.Momentum(1.0), ao.EMA(0.5), ao.groups({"a": None, ...: {}}), engine=engine
    )
    params = {"a": np.ones(2), "b": np.zeros(2)}
    for a in (np.full(2, np.nan), np.full(2, 1e300), None, np.ones(2)):
        optimizer.update(params, {"a": a, "b": np.array([0.6, 0.8])})
    alone = ao.chain(ao.ClipGlobalNorm(1.0), ao.Momentum(1.0), ao.EMA(0.5), engine=engine)
    twin = np.zeros(2)
    for _ in range(4):
        alone.update(twin, np.array([0.6, 0.8]))
    assert params["a"].tolist() == [1.0, 1.0]
    assert same_bits(params["b"], twin)
    assert optimizer.state is not None
    assert optimizer.state.t == {"a": 0, "b": 4}
    assert optimizer.state.slots[2]["average"]["a"].tolist() == [1.0, 1.0]
    assert [share.parameters for share in optimizer.explain(params, params)] == [("b",)]


def test_functions_select() -> None:
    """`where(path, p)` is asked with the path and the array, once for parameters that stay."""
    asked = []

    def vectors(path: str, p: Any) -> bool:
        asked.append((path, p.ndim))
        return bool(p.ndim == 1)

    groups = ao.groups({vectors: {"lr": 2.0}, "head.*": {"lr": 3.0}, ...: {}})
    optimizer = ao.chain(groups, ao.SGD(1.0))
    params: Any = {"W": np.zeros((2, 2)), "b": np.zeros(2), "head": {"W": np.zeros((1, 1))}, "x": None}
    ones = {"W": np.ones((2, 2)), "b": np.ones(2), "head": {"W": np.ones((1, 1))}, "x": None}
    for _ in range(2):
        optimizer.update(params, ones)
    assert asked == [("W", 2), ("b", 1), ("head.W", 2)]
    assert [a.ravel()[0] for a in (params["W"], params["b"], params["head"]["W"])] == [-2.0, -4.0, -6.0]


def _ao(*stages: Any, **groups: Any) -> ao.chain:
    return ao.chain(*stages, ao.groups(groups))


AT_ONCE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no dict": (lambda: ao.groups([("**", {})]), TypeError, r"groups was given \[\('\*\*', \{\}\)\]; wanted a dict"),  # type: ignore[arg-type]
    "empty": (lambda: ao.groups({}), ValueError, "groups is empty; wanted at least one pattern, or ... for all"),
    "a number as pattern": (lambda: ao.groups({3: {}}), TypeError, "groups has the key 3; wanted a pattern of paths"),
    "a number as group": (lambda: ao.groups({"b": 3}), TypeError, "groups has 3 for 'b'; wanted a dict of hyper"),  # type: ignore[dict-item]
    "names that are none": (lambda: ao.groups({...: {3: 0.5}}), TypeError, r"groups has \{3: 0.5\} for ...; wanted"),  # type: ignore[dict-item]
    "twice": (
        lambda: ao.chain(ao.groups({...: {}}), ao.SGD(), ao.groups({...: {}})),
        ValueError,
        "chain was given groups twice; wanted one",
    ),
    "unknown name": (
        lambda: _ao(ao.WeightDecay(0.1), ao.SGD(), b={"rate": 1.0}),
        ValueError,
        "groups has 'rate' for 'b', which no stage has; wanted one of WeightDecay.decay, SGD.lr",
    ),
    "unknown class": (
        lambda: _ao(ao.SGD(), b={"Adam.lr": 1.0}),
        ValueError,
        "groups has 'Adam.lr' for 'b', which no stage has; wanted one of SGD.lr",
    ),
    "several have it": (
        lambda: _ao(ao.WeightDecay(0.1), ao.SGD(), ao.EMA(), b={"decay": 0.0}),
        ValueError,
        "groups has 'decay' for 'b', which 2 stages have; wanted one of WeightDecay.decay, SGD.lr, EMA.decay",
    ),
    "bad value": (
        lambda: _ao(ao.SGD(), b={"lr": -1.0}),
        ValueError,
        "lr of 'b' is -1.0; wanted finite and at least 0",
    ),
    "bad type": (lambda: _ao(ao.SGD(), b={"lr": None}), TypeError, "lr of 'b' is None; wanted a real number"),
    "for all together": (
        lambda: _ao(ao.Accumulate(2), ao.SGD(), b={"every": 3}),
        ValueError,
        r"groups has 'every' for 'b', but Accumulate\(every=2\) decides for all together",
    ),
    "for all together, a gate": (
        lambda: _ao(ao.LossScale(), ao.SGD(), b={"backoff": 0.25}),
        ValueError,
        r"groups has 'backoff' for 'b', but LossScale\(.*\) decides for all together",
    ),
    "inside of a chain": (
        lambda: ao.chain(_ao(ao.SGD(), b={}), ao.EMA()),
        ValueError,
        "has groups of its own; wanted them in the outer chain",
    ),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_is_wrong_when_a_chain_is_made(name: str) -> None:
    """By name."""
    make, error, match = AT_ONCE[name]
    with pytest.raises(error, match=match):
        make()


LATER: dict[str, tuple[Any, str]] = {
    "unmatched": ({"W": {}}, r"groups has nothing for params\['b'\], params\['head'\]\['W'\], params\['head'\]\['b'\]"),
    "doubly matched": (
        {"**.W": {}, "**.b": {}, "head.**": {}},
        r"more than one pattern for params\['head'\]\['W'\] \('\*\*.W', 'head.\*\*'\), params\['head'\]\['b'\]",
    ),
    "idle": (
        {"**": {}, "tail.**": {}, "bias": None},
        r"groups has 'tail.\*\*', 'bias', for which there is no parameter among params\['W'\], params\['b'\]",
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_what_is_wrong_with_the_parameters(name: str) -> None:
    """With the paths, in all forms, and nothing written or remembered."""
    given, match = LATER[name]
    params = {"W": np.ones(2), "b": np.ones(2), "head": {"W": np.ones(2), "b": np.ones(2)}}
    optimizer = ao.chain(ao.SGD(), ao.groups(given))
    calls: list[Callable[[], Any]] = [
        lambda: optimizer.update(params, params),
        lambda: optimizer.init(params),
        lambda: optimizer.step(params, params, ao.SGD().init(params)),
        lambda: optimizer.explain(params, params),
        lambda: optimizer.compile(params),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=match):
            call()
    assert optimizer.state is None
    assert all(a.tolist() == [1.0, 1.0] for a in (params["W"], params["b"], *params["head"].values()))  # type: ignore[attr-defined]


def test_many_paths_are_counted() -> None:
    """A thousand parameters without a group are some names and a number."""
    params = {f"w{i}": np.ones(1) for i in range(1000)}
    with pytest.raises(ValueError, match=r"params.*, params.* and 995 more; wanted"):
        ao.chain(ao.SGD(), ao.groups({"w": {}})).update(params, params)


def test_tied_arrays_have_one_group() -> None:
    """Under two names with two groups it isn't clear which; with one there is no question."""
    w = np.zeros(1)
    params, grads = {"in": w, "out": w, "b": np.zeros(1)}, {"in": None, "out": np.ones(1), "b": np.ones(1)}
    optimizer = ao.chain(ao.SGD(1.0), ao.groups({"in": {"lr": 2.0}, "out": None, ...: {}}))
    with pytest.raises(ValueError, match=r"params\['in'\] and params\['out'\] are one array.*have 'in', 'out'; wanted"):
        optimizer.update(params, grads)
    assert w[0] == 0.0
    ao.chain(ao.SGD(1.0), ao.groups({"?*t": {"lr": 2.0}, "i*": {"lr": 2.0}, ...: {}}))
    ao.chain(ao.SGD(1.0), ao.groups({lambda path, p: path in {"in", "out"}: {"lr": 2.0}, ...: {}})).update(
        params, grads
    )
    assert (w[0], params["b"][0]) == (-2.0, -1.0)


@pytest.mark.parametrize("copied", COPIES)
def test_copies_go_on_alone(copied: Callable[[Any], Any]) -> None:
    """A copy in mid-training gives the same bits, and the values of its groups are its own."""
    make = ao.groups({"b": {"lr": 0.5}, ...: {}, "s": None})
    optimizer = ao.chain(ao.Adam(lr=0.1), ao.EMA(0.5), make)
    params, grads = problem("float32", steps=6)
    other, twin = copied_halfway(optimizer, copied, params, grads[:5])
    other.groups["b"]["lr"] = 0.25
    assert make["b"]["lr"] == 0.5
    optimizer.update(params, grads[5])
    other.update(twin, grads[5])
    assert same_bits(params["W"], twin["W"])
    assert not same_bits(params["b"], twin["b"])


@pytest.mark.parametrize("engine", ["blocked", "compiled"])
def test_values_that_move_compile_nothing(engine: ao.EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel for all groups, whatever their values."""
    watch = Watch(engine, monkeypatch)
    given = ao.groups({"W": {"lr": 0.5}, "b": {"lr": lambda t: 0.1 / t, "beta1": 0.5}, ...: {"eps": 1e-3}})
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(), given, engine=engine)
    params, grads = problem("float32", steps=6)
    for i, g in enumerate(grads):
        optimizer.update(params, g)
        given["W"]["lr"] = 0.25 / (i + 1)
    assert len(watch.kernels) == 2  # the norm, and the step


def test_under_jit(need: Callable[[str], Library]) -> None:
    """Traced once; groups and a traced value of one."""
    lib = need("jax")

    params, grads = problem("float32", steps=8)
    traces = []

    def step(p: Any, g: Any, state: Any, lr: Any) -> Any:
        traces.append(1)
        given = ao.groups({"b": {"lr": lr}, "s": None, ...: {}})
        return ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=0.1), given).step(p, g, state)

    step = quick(step)
    p: Any = {k: lib.asarray(a) for k, a in params.items()}
    rates = [0.5 / (i + 1) for i in range(8)]
    given = ao.groups({"b": {"lr": 0.5}, "s": None, ...: {}})
    eager = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=0.1), given)
    state = eager.init(p)
    for g, rate in zip(grads, rates, strict=True):
        p, state = step(p, {k: lib.asarray(a) for k, a in g.items()}, state, rate)
        given["b"]["lr"] = rate
        eager.update(params, g)
    assert len(traces) == 1
    for k, a in params.items():
        np.testing.assert_allclose(p[k], a, rtol=1e-5, atol=1e-5)


def test_in_a_cuda_graph(need: Callable[[str], Library]) -> None:
    """Groups are captured with their values, which can't be set any more; the stage's own move on."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    given = ao.groups({"a": {"lr": 2.0}, "c": None, ...: {}})
    optimizer = ao.chain(ao.SGD(lr=1.0), given)
    p, g = ({k: shim.asarray(np.full(2, v)) for k in "abc"} for v in (0.0, 1.0))
    optimizer.update(p, g)
    given["a"]["lr"] = 4.0
    machine.captured = []
    optimizer.update(p, g)
    graph, machine.captured = machine.captured, None
    with pytest.raises(RuntimeError, match="lr of a group is part of a CUDA graph, whose replays would go on"):
        given["a"]["lr"] = 8.0
    optimizer.stages[0].lr = 16.0
    machine.waiting.extend(graph)
    machine.finish()
    assert [shim.tonumpy(a)[0] for a in p.values()] == [-6.0, -17.0, 0.0]
    deepcopy(optimizer).groups["a"]["lr"] = 8.0  # type: ignore[index]


def test_a_schedule_in_a_cuda_graph(need: Callable[[str], Library]) -> None:
    """Is refused by name, as one of the stage itself."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    optimizer = ao.chain(ao.SGD(lr=1.0), ao.groups({"a": {"lr": lambda t: 1.0 / t}, ...: {}}))
    p, g = ({k: shim.asarray(np.full(2, v)) for k in "ab"} for v in (0.0, 1.0))
    optimizer.update(p, g)
    machine.captured = []
    with pytest.raises(ValueError, match=r"lr of SGD.* is a schedule, which replays of a CUDA graph can't call"):
        optimizer.update(p, g)
    machine.captured = None


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", ENGINES)
def test_a_group_beside_what_a_stage_says_itself(engine: ao.EngineName) -> None:
    """Both count, also once somebody has asked for the stage's own values; and questions change nothing."""

    def make() -> ao.Optimizer:
        decay = ao.WeightDecay(0.5, where=lambda path, _: path == "W")
        return ao.chain(decay, ao.SGD(lr=1.0), ao.groups({"b": {"decay": 0.25}, ...: {}}), engine=engine)

    asked, alone = make(), make()
    p, q = ({k: np.ones(1) for k in "Wb"} for _ in range(2))
    zero = {k: np.zeros(1) for k in "Wb"}
    for _ in range(3):
        asked.update(p, zero)
        alone.update(q, zero)
        asked.explain(p, zero)
        asked.kernel_source()
        assert asked.last_hyperparameters
    assert p["W"].tolist() == q["W"].tolist() == [0.5**3]
    assert p["b"].tolist() == q["b"].tolist() == [0.75**3]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_array_as_a_value_is_read_at_every_step(engine: ao.EngineName) -> None:
    """Of a group, and of a stage itself: it may be written to."""
    own, of_group = np.array(1.0), np.array(2.0)
    optimizer = ao.chain(ao.SGD(own), ao.groups({"a": {"lr": of_group}, ...: {}}), engine=engine)
    p = {"a": np.zeros(1), "b": np.zeros(1)}
    for _ in range(3):
        optimizer.update(p, {k: np.ones(1) for k in p})
    own[...], of_group[...] = 0.5, 0.25
    optimizer.update(p, {k: np.ones(1) for k in p})
    assert p["a"].tolist() == [-6.25]
    assert p["b"].tolist() == [-3.5]
