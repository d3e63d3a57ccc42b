"""Containers that are registered with JAX alone, as modules of Flax and Equinox are."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")


@dataclass
class Linear:
    """A container like a module of Equinox: fields by name, one of them static, and arrays that may be missing."""

    weight: Any
    bias: Any
    name: str = "linear"


class Frozen:
    """A container like Flax's FrozenDict: children by key."""

    def __init__(self, **of: Any) -> None:
        self.of = of


class Numbered:
    """A container whose children have numbers, and are made only when they are asked for."""

    def __init__(self, *of: Any) -> None:
        self.of = of


class Never:
    """A class that is registered with neither JAX nor optree."""


@pytest.fixture(autouse=True)
def _known(need: Callable[[str], Library]) -> None:
    need("jax")
    import jax.tree_util as tree

    if not tree.all_leaves([Linear(1, 2)]):
        return
    tree.register_dataclass(Linear, data_fields=["weight", "bias"], meta_fields=["name"])
    tree.register_pytree_with_keys(
        Frozen,
        lambda x: ([(tree.DictKey(k), v) for k, v in x.of.items()], tuple(x.of)),
        lambda keys, children: Frozen(**dict(zip(keys, children, strict=True))),
    )
    tree.register_pytree_node(Numbered, lambda x: ([dict(of) for of in x.of], None), lambda _, of: Numbered(*of))


def _model(make: Callable[[Any], Any], rng: np.random.Generator) -> Any:
    def draw(*shape: int) -> Any:
        return make(rng.normal(size=shape).astype(np.float32))

    return Linear(
        weight=Frozen(inner={"W": draw(2, 3)}, other=Linear(draw(2), None, "second")),
        bias=[Numbered({"b": draw(3)}, {"b": draw()}), (draw(1),)],
    )


def _plain(model: Any) -> dict[str, Any]:
    return {
        "weight": {"inner": model.weight.of["inner"], "other": {"weight": model.weight.of["other"].weight}},
        "bias": {"0": {str(i): of for i, of in enumerate(model.bias[0].of)}, "1": {"0": model.bias[1][0]}},
    }


PATHS = ["weight.inner.W", "weight.other.weight", "bias.0.0.b", "bias.0.1.b", "bias.1.0"]


def test_the_pure_form(need: Callable[[str], Library]) -> None:
    """`step` takes and gives modules, under `jax.jit` too; a state consists of modules; numbers are those of dicts."""
    lib = need("jax")
    import jax

    rng = np.random.default_rng(3)
    model, grads = _model(lib.array, rng), [_model(lib.array, rng) for _ in range(3)]
    optimizer = ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9))
    ours, state = model, optimizer.init(model)
    jitted, carried, step = model, optimizer.init(model), quick(optimizer.step)
    plain = _plain(model)
    twin = ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9), engine="portable")
    for g in grads:
        ours, state = optimizer.step(ours, g, state)
        jitted, carried = step(jitted, g, carried)
        twin.update(plain, _plain(g))
    assert step._cache_size() <= 2
    assert type(ours) is Linear
    assert (ours.name, ours.weight.of["other"].name, ours.weight.of["other"].bias) == ("linear", "second", None)
    assert type(state.slots[1]["m"]) is Linear
    for a, b, c in zip(*map(jax.tree.leaves, (_plain(ours), plain, _plain(jitted))), strict=True):
        assert a.tolist() == b.tolist()
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)
    means = optimizer.eval_params(ours, state)
    assert jax.tree.structure(means) == jax.tree.structure(ours)


def test_paths_and_names(need: Callable[[str], Library]) -> None:
    """Patterns, `where`, explanations and errors name a field as an attribute, and all else as an item."""
    lib = need("jax")
    rng = np.random.default_rng(3)
    model, grads = _model(lib.array, rng), _model(lib.array, rng)
    seen: list[str] = []

    def where(path: str, p: Any) -> bool:
        seen.append(path)
        return path.endswith("W")

    groups = ao.groups({"weight.**": {"lr": 0.0}, "bias.**": {}})
    optimizer = ao.chain(ao.WeightDecay(0.1, where=where), ao.SGD(lr=1.0), groups)
    moved, state = optimizer.step(model, grads, optimizer.init(model))
    assert set(seen) == set(PATHS)
    assert moved.weight.of["inner"]["W"].tolist() == model.weight.of["inner"]["W"].tolist()
    assert moved.bias[1][0].tolist() != model.bias[1][0].tolist()
    assert set(optimizer.state_dict(state)["t"]) == set(PATHS)
    grads.bias[1] = (lib.array([1.0, 2.0]),)
    with pytest.raises(ValueError, match=r"params\.bias\[1\]\[0\] has shape \(1,\) but grads\.bias\[1\]\[0\]"):
        optimizer.step(model, grads, state)
    grads.weight.of["inner"] = {"V": 1.0}
    with pytest.raises(
        ValueError, match=r"params?\.weight\['inner'\]\['W'\]|grads\.weight\['inner'\]\['W'\] is missing"
    ):
        optimizer.step(model, grads, state)
    with pytest.raises(TypeError, match=r"params\.weight is a .*Never; wanted an array"):
        optimizer.init(Linear(Never(), None))


def test_update_refuses_what_it_cannot_rebind(need: Callable[[str], Library]) -> None:
    """An array of JAX in a module, however deep, is refused, for it can't be replaced; writable arrays are updated."""
    lib = need("jax")
    rng = np.random.default_rng(3)
    model, grads = _model(lib.array, rng), _model(lib.array, rng)
    with pytest.raises(TypeError, match=r"params\.weight\['inner'\]\['W'\].*the Linear that holds it.*optimizer.step"):
        ao.SGD().update(model, grads)
    with pytest.raises(TypeError, match=r"params\[0\]\[0\]\['b'\].*the Numbered that holds it"):
        ao.SGD().update([Numbered({"b": lib.array(1.0)})], [Numbered({"b": lib.array(1.0)})])
    ours, theirs = (_model(np.array, np.random.default_rng(3)) for _ in range(2))
    optimizer = ao.Momentum(lr=0.5)
    for _ in range(3):
        assert optimizer.update(ours, theirs) is ours
    assert not np.array_equal(ours.weight.of["inner"]["W"], theirs.weight.of["inner"]["W"])
    assert optimizer.state is not None
    assert type(optimizer.state.t) is Linear
    other = copy.deepcopy(optimizer)
    other.update(ours, theirs)
    assert [share.parameters for share in other.explain(ours, theirs)] == [tuple(PATHS)]


def test_nothing_imports_jax() -> None:
    """JAX is asked for containers only where it is loaded, and from then on."""
    code = """
import sys
import anyoptim as ao
class Box:
    def __init__(self, w): self.w = w
try:
    ao.SGD().init({"a": Box(1.0)})
    raise AssertionError
except TypeError as error:
    assert "params['a'] is a __main__.Box" in str(error), error
assert "jax" not in sys.modules
import jax
jax.tree_util.register_pytree_node(Box, lambda b: ((b.w,), None), lambda _, of: Box(*of))
new, _ = ao.SGD(lr=1.0).step({"a": Box(1.0)}, {"a": Box(0.25)}, ao.SGD(lr=1.0).init({"a": Box(1.0)}))
assert new["a"].w == 0.75
"""
    subprocess.run([sys.executable, "-c", code], check=True)
