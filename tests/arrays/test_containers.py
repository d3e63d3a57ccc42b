"""Containers and layouts: what is written in place, what is rebound, what is matched with what."""

from __future__ import annotations

import pickle
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import anyoptim as ao
from tests.support.libraries import PAIRS, Library, same_bits

pytestmark = pytest.mark.usefixtures("quickly")


class Pair(NamedTuple):
    w: Any
    b: Any


LEAVES = array_shapes(min_dims=0, max_dims=2, max_side=3)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.sampled_from("abcdef"), inner, min_size=1, max_size=3)
        | st.dictionaries(st.sampled_from("abcdef"), inner, min_size=1, max_size=3).map(OrderedDict)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=6,
)


def _filled(tree: Any, make: Callable[[tuple[int, ...]], Any]) -> Any:
    """The tree with an array for each shape, a plain tuple of ints."""
    if type(tree) is tuple:
        return make(tree)
    if isinstance(tree, Pair):
        return Pair(*(_filled(t, make) for t in tree))
    if isinstance(tree, dict):
        return type(tree)((k, _filled(t, make)) for k, t in tree.items())
    return [_filled(t, make) for t in tree]


@settings(max_examples=50)
@given(tree=TREES, seed=st.integers(0, 2**32))
def test_any_nest_is_updated_in_place(tree: Any, seed: int) -> None:
    """In any nest of containers every array moves as it would alone, and stays the same object in its place."""
    rng = np.random.default_rng(seed)
    params = _filled(tree, lambda shape: np.asarray(rng.normal(size=shape)))
    grads = _filled(tree, lambda shape: np.asarray(rng.normal(size=shape)))
    before = optree.tree_leaves(params)
    alone = [ao.Adam().step(p, g, ao.Adam().init(p))[0] for p, g in zip(before, optree.tree_leaves(grads), strict=True)]
    assert ao.Adam().update(params, grads) is params
    for p, now, expected in zip(before, optree.tree_leaves(params), alone, strict=True):
        assert now is p
        assert same_bits(now, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda w, b: {"w": w, "b": b},
        lambda w, b: OrderedDict(w=w, b=b),
        lambda w, b: defaultdict(list, w=w, b=b),
        lambda w, b: [w, b],
        lambda w, b: deque([w, b]),
        lambda w, b: {"layers": [{"w": w}, {"b": b}]},
        lambda w, b: {1: w, "b": b, (2, 3): [b * 2]},
        lambda w, b: {"inner": OrderedDict(z=[w], a=(b, b + 1) if isinstance(b, np.ndarray) else [b, b + 1])},
    ],
)
def test_every_container_on_every_library(lib: Library, make: Callable[[Any, Any], Any]) -> None:
    """The container stays the same object; its arrays are written in place or replaced by moved ones."""
    w, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    params = make(lib.asarray(w), lib.asarray(b))
    grads = make(lib.asarray(w), lib.asarray(b))
    before = optree.tree_leaves(params)
    assert ao.SGD(lr=0.5).update(params, grads) is params
    for old, new, g in zip(before, optree.tree_leaves(params), optree.tree_leaves(grads), strict=True):
        assert (new is old) == lib.writable
        np.testing.assert_array_equal(lib.tonumpy(new), lib.tonumpy(g) / 2)


def test_bare_array(lib: Library) -> None:
    """`w = optimizer.update(w, g)`: the same object where it can be written to, another where not."""
    w, optimizer = lib.array([1.0, 2.0]), ao.Momentum(lr=0.5, momentum=0.5)
    moved = optimizer.update(w, lib.array([2.0, 2.0]))
    moved = optimizer.update(moved, lib.array([0.0, 2.0]))
    assert (moved is w) == lib.writable
    np.testing.assert_array_equal(lib.tonumpy(moved), [-0.5, -0.5])


def test_python_floats() -> None:
    """Plain floats and NumPy scalars are replaced by numbers of their own type; equal numbers are not one parameter."""
    params = {"x": -7.0, "y": 2.0, "z": np.float32(2), "w": 2.0, "c": 1 + 2j}
    ao.SGD(lr=0.5).update(params, {"x": 1.0, "y": np.float64(2), "z": np.array(4.0), "w": 0.0, "c": 2j})
    assert params == {"x": -7.5, "y": 1.0, "z": np.float32(0), "w": 2.0, "c": 1 + 1j}
    assert [type(v) for v in params.values()] == [float, float, np.float32, float, complex]
    assert ao.SGD(lr=0.5).update(1.0, 1.0) == 0.5


def test_a_scalar_gradient_for_a_0d_array(lib: Library) -> None:
    """A Python float is a gradient for a 0-d array of any library."""
    p = ao.SGD(lr=0.5).update({"p": lib.array(3.0)}, {"p": 2.0})["p"]
    assert lib.tonumpy(p) == 2
    assert lib.tonumpy(p).dtype == np.float32


def test_read_only_arrays_are_rebound(method: type[ao.Optimizer]) -> None:
    """A read-only array keeps its values; another one, with the moved values, takes its place in the container."""
    p = np.ones(3)
    p.flags.writeable = False
    params, twin = {"p": p}, {"p": np.ones(3)}
    for optimizer, tree in ((method(), params), (method(), twin)):
        optimizer.update(tree, {"p": np.full(3, 0.5)})
    assert params["p"] is not p
    assert p.tolist() == [1, 1, 1]
    assert same_bits(params["p"], twin["p"])


def test_read_only_array_inside_array_api_strict(need: Callable[[str], Library]) -> None:
    """Where a library does not tell whether an array can be written to, the array itself is asked."""
    need("strict")
    import array_api_strict as strict

    p = np.ones(3)
    p.flags.writeable = False
    params = {"p": strict.asarray(p, copy=False), "scalar": strict.asarray(1.0)}
    before = dict(params)
    ao.SGD(lr=0.5).update(params, {"p": strict.ones(3), "scalar": strict.asarray(1.0)})
    assert params["p"] is not before["p"]
    assert params["scalar"] is before["scalar"]
    assert p.tolist() == [1, 1, 1]
    assert [float(params["p"][0]), float(params["scalar"])] == [0.5, 0.5]


def test_memmap(tmp_path: Path, method: type[ao.Optimizer]) -> None:
    """A writable memory map is updated in its file; one opened for reading is replaced by an array."""
    path = tmp_path / "w.bin"
    np.arange(4.0).tofile(path)
    twin, optimizer = {"w": np.arange(4.0)}, method()
    file = np.memmap(path, dtype=np.float64, mode="r+")
    params = {"w": file}
    g = {"w": np.ones(4)}
    for _ in range(2):
        optimizer.update(params, g)
    plain = method()
    for _ in range(2):
        plain.update(twin, g)
    assert params["w"] is file
    file.flush()
    assert same_bits(np.fromfile(path), twin["w"])
    reading = {"w": np.memmap(path, dtype=np.float64, mode="r")}
    method().update(reading, g)
    assert not isinstance(reading["w"], np.memmap)
    assert same_bits(np.fromfile(path), twin["w"])


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda a: a[::2, ::-1],
        lambda a: a.T,
        lambda a: np.repeat(a, 2, axis=1)[:, 1::2],
        lambda a: a.astype(">f8"),
    ],
    ids=["Fortran", "strided", "transposed", "interleaved", "big-endian"],
)
def test_layouts_are_matched_element_by_element(
    view: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], method: type[ao.Optimizer]
) -> None:
    """A parameter in any memory order, with gradients in any other, moves as its C-ordered copy does."""
    rng = np.random.default_rng(8)
    p = view(rng.normal(size=(4, 6)))
    plain = np.ascontiguousarray(p).astype(np.float64)
    optimizer, twin = method(), method()
    for k in range(3):
        g = rng.normal(size=p.shape)
        other = [np.asfortranarray(g), np.repeat(g, 2, axis=0)[::2], g.astype(">f8")][k]
        assert optimizer.update({"p": p}, {"p": other})["p"] is p
        twin.update({"p": plain}, {"p": g})
    assert same_bits(np.ascontiguousarray(p).astype(np.float64), plain)


def test_columns_of_one_matrix_are_separate_parameters() -> None:
    """The columns of a matrix interleave in memory, share no element, and are all updated."""
    m = np.ones((4, 6))
    params = {"left": m[:, :3], "right": m[:, 3:]}
    ao.SGD(lr=1.0).update(params, {"left": np.full((4, 3), 1.0), "right": np.full((4, 3), 2.0)})
    np.testing.assert_array_equal(m, [[0, 0, 0, -1, -1, -1]] * 4)


@pytest.mark.parametrize(("lib", "method"), PAIRS, indirect=True)
def test_one_array_under_two_names_moves_once(lib: Library, method: type[ao.Optimizer]) -> None:
    """Tied weights: one gradient under both names, or under one of them, moves the array as if it had one name."""
    for tied in ({"a": 1, "b": 1}, {"a": 1, "b": None}, {"a": None, "b": 1}):
        w, g = lib.array([1.0, 2.0]), lib.array([0.5, -0.5])
        params, optimizer = {"a": w, "b": w}, method()
        once, single = {"a": lib.array([1.0, 2.0])}, method()
        for _ in range(3):
            optimizer.update(params, {k: g if n else None for k, n in tied.items()})
            single.update(once, {"a": g})
        assert params["a"] is params["b"]
        assert same_bits(lib.tonumpy(params["a"]), lib.tonumpy(once["a"]))
        assert optimizer.state is not None
        assert optimizer.state.t == {"a": 3, "b": 3}


def test_two_views_of_all_of_one_array_move_once() -> None:
    """The same memory in the same layout is the same parameter, whatever object holds it."""
    w = np.ones(3)
    params = {"a": w, "b": w[:]}
    ao.SGD(lr=1.0).update(params, {"a": np.ones(3), "b": None})
    assert w.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("lib", "method"), PAIRS, indirect=True)
def test_none_rests_a_parameter(lib: Library, method: type[ao.Optimizer]) -> None:
    """A None gradient leaves parameter, slots and step count alone: afterwards it moves as if it had begun later."""
    params = {"now": lib.array([1.0]), "later": {"x": lib.array([1.0]), "y": lib.array([1.0])}, "never": None}
    optimizer = method()
    g = lib.array([0.5])
    optimizer.update(params, {"now": g, "later": None, "never": None})
    optimizer.update(params, {"now": g, "later": {"x": None, "y": None}, "never": None})
    assert lib.tonumpy(params["later"]["x"]) == 1
    optimizer.update(params, {"now": None, "later": {"x": g, "y": g}, "never": None})
    fresh = {"x": lib.array([1.0])}
    method().update(fresh, {"x": g})
    assert same_bits(lib.tonumpy(params["later"]["x"]), lib.tonumpy(fresh["x"]))
    assert optimizer.state is not None
    assert optimizer.state.step == 3
    assert optimizer.state.t == {"now": 2, "later": {"x": 1, "y": 1}, "never": None}


def test_keys_are_matched_whatever_their_order() -> None:
    """Params and grads may order their keys differently, change the order, and be dicts of different kinds."""
    optimizer, twin = ao.Adam(), ao.Adam()
    x, y = np.ones(2), np.full(3, 5.0, np.float32)
    b = {"x": x.copy(), "y": y.copy()}
    for k in range(4):
        gx, gy = np.full(2, k + 1.0), np.full(3, -k - 0.5, np.float32)
        a = OrderedDict(x=x, y=y) if k % 2 else OrderedDict(y=y, x=x)
        resting = None if k == 1 else gy
        optimizer.update(a, {"y": resting, "x": gx} if k else OrderedDict(x=gx, y=gy))
        twin.update(b, {"x": gx, "y": resting})
    assert same_bits(x, b["x"])
    assert same_bits(y, b["y"])
    assert optimizer.state is not None
    assert optimizer.state.t == {"x": 4, "y": 3}


def test_a_tuple_of_gradients_for_a_list_of_parameters() -> None:
    """Gradients in a sequence of another kind are matched by position."""
    params = [np.ones(1), np.ones(2)]
    ao.SGD(lr=1.0).update(params, (np.ones(1), np.ones(2)))
    assert [p.tolist() for p in params] == [[0], [0, 0]]


def test_a_tuple_of_writable_arrays() -> None:
    """A tuple will do for arrays that are written in place: nothing needs to be rebound."""
    params = (np.ones(1), Pair(np.ones(2), np.ones(3)))
    ao.SGD(lr=1.0).update(params, params)
    assert params[0].tolist() == [0]
    assert params[1].b.tolist() == [0, 0, 0]


def test_gradients_may_be_the_parameters() -> None:
    """The gradients of |p|^2/2 are the parameters themselves, or views of each other's memory: read before written."""
    m = np.arange(1.0, 5.0)
    params = {"a": m[:2], "b": m[2:]}
    ao.SGD(lr=0.5).update(params, {"a": params["b"], "b": params["a"]})
    assert m.tolist() == [-0.5, 0, 2.5, 3]
    slots = ao.Momentum(lr=1.0)
    w, g = np.ones(2), np.ones(2)
    slots.update(w, g)
    g[:] = 100  # the caller's own array: a slot must not be it
    slots.update(w, np.zeros(2))
    assert w.tolist() == [-0.9, -0.9]


@pytest.mark.parametrize(("lib", "method"), PAIRS, indirect=True)
def test_optimizers_are_copied_and_pickled_in_mid_training(lib: Library, method: type[ao.Optimizer]) -> None:
    """A copy, deep or through pickle, goes on exactly as the original."""
    if lib.name == "strict":
        pytest.skip("array-api-strict arrays can't be pickled")
    optimizer = method()
    params = {"w": lib.array([1.0, 2.0]), "b": [lib.array([3.0])]}
    grads = {"w": lib.array([0.1, -0.2]), "b": [lib.array([0.3])]}
    optimizer.update(params, grads)
    results = []
    for copy in (deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), optimizer):  # noqa: S301
        twin = {"w": lib.asarray(lib.tonumpy(params["w"])), "b": [lib.asarray(lib.tonumpy(params["b"][0]))]}
        copy.update(twin, grads)
        results.append(np.concatenate([lib.tonumpy(twin["w"]), lib.tonumpy(twin["b"][0])]))
    assert same_bits(results[0], results[2])
    assert same_bits(results[1], results[2])


def test_a_dask_computation_that_fails_leaves_everything(need: Callable[[str], Library]) -> None:
    """The gradient's own error comes through; parameters, slots and step count are as they were."""
    lib = need("dask")

    def fails(block: Any) -> Any:
        raise ArithmeticError("no gradient today")

    params, optimizer = {"n": np.ones(2), "w": lib.array([1.0, 2.0])}, ao.Momentum()
    optimizer.update(params, {"n": np.ones(2), "w": params["w"]})
    before, w, state = params["n"].copy(), params["w"], optimizer.state
    bad = params["w"].map_blocks(fails, dtype="float32", meta=np.empty(0, "float32"))
    with pytest.raises(ArithmeticError, match="no gradient today"):
        optimizer.update(params, {"n": np.ones(2), "w": bad})
    assert same_bits(params["n"], before)
    assert params["w"] is w
    assert state is not None
    assert optimizer.state is not None
    assert optimizer.state.step == state.step == 1
    assert optimizer.state.slots["v"]["w"] is state.slots["v"]["w"]


def test_a_read_only_broadcast_is_rebound() -> None:
    """A parameter that is broadcast from one element is not written to."""
    params = {"w": np.broadcast_to(np.float64(1), 3)}
    ao.SGD(lr=1.0).update(params, {"w": np.arange(3.0)})
    assert params["w"].tolist() == [1, 0, -1]


def test_one_optimizer_for_many_steps_keeps_the_dask_graph_small(need: Callable[[str], Library]) -> None:
    """`update` computes what it leaves behind: the graph does not grow from step to step."""
    lib = need("dask")
    params, optimizer = {"w": lib.array([1.0, 2.0])}, ao.Adam()
    sizes = []
    for _ in range(5):
        optimizer.update(params, {"w": params["w"] * 2})
        sizes.append(len(dict(params["w"].dask)))
    assert sizes == [sizes[0]] * 5
    assert sizes[0] <= params["w"].npartitions
