"""Containers of plain dicts, lists and tuples are taken apart without optree, and just as it does."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyoptim._arrays._plain import LEVELS, PlainSpec
from anyoptim._arrays._tree import Tree, reader


class Pair(NamedTuple):
    w: Any
    b: Any


class Registered:
    """A container that is registered with optree."""

    def __init__(self, *children: Any) -> None:
        self.children = children

    def __getitem__(self, i: int) -> Any:
        return self.children[i]

    def __repr__(self) -> str:
        return f"Registered{self.children}"


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    kind: Any = Registered
    optree.register_pytree_node(
        kind,
        lambda x: (vars(x)["children"], None),
        lambda _, children: kind(*children),
        path_entry_type=optree.GetItemEntry,
        namespace="anyoptim",
    )
    yield
    optree.unregister_pytree_node(kind, namespace="anyoptim")


KEYS = st.sampled_from(["a", "b", "B", "", 0, 1, -1, 2.5, (1, "a"), (0,), None, True, b"a", frozenset({1})])
LEAVES = st.sampled_from([None, 1, 2.0, 3j, True, np.ones(2), np.float32(4), "text", np.ma.ones(2), len, {1}])
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(KEYS, inner, max_size=3).map(lambda d: defaultdict(list, d))
        | st.lists(inner, max_size=3).map(deque)
        | st.builds(Pair, inner, inner)
        | st.builds(os.terminal_size, st.tuples(inner, inner))
        | st.builds(Registered, inner, inner)
    ),
    max_leaves=8,
)


def _optrees(container: Any) -> tuple[list[Any], optree.PyTreeSpec]:
    return optree.tree_flatten(container, none_is_leaf=True, namespace="anyoptim")


def _same(these: Any, those: Any) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those, strict=True))


@given(container=PLAIN | TREES)
def test_the_same_leaves_paths_and_names_as_optree(container: Any) -> None:
    """Leaves have optree's order, whatever the keys; a container built of them has its keys in their own order."""
    tree = Tree("params", container)
    leaves, spec = _optrees(container)
    assert _same(tree.leaves, leaves)
    assert tree.spec.paths() == spec.paths()
    assert [str(tree.name(i)) for i in range(len(leaves))] == [a.codify("params") for a in spec.accessors()]
    assert [tree.path(i) for i in range(len(leaves))] == [".".join(map(str, path)) for path in spec.paths()]
    assert tree.spec.is_leaf() == spec.is_leaf()
    assert repr(tree.build(leaves)) == repr(spec.unflatten(leaves)) == repr(container)
    for i, accessor in enumerate(spec.accessors()):
        assert tree.location(i) == ((id(accessor[:-1](container)), accessor[-1].entry) if accessor else (0, None))


def _turned(x: Any) -> Any:
    """The container with other leaves, and the keys of dicts in another order."""
    if type(x) is dict:
        return {key: _turned(x[key]) for key in reversed(x)}
    return type(x)(map(_turned, x)) if type(x) in {list, tuple} else 7 if isinstance(x, int | float) else x


@given(one=PLAIN | TREES, two=PLAIN | TREES)
def test_structures_are_equal_where_optrees_are(one: Any, two: Any) -> None:
    """Structures are equal where optree's are, and have one hash then; copies and pickled ones are equal."""
    a, b, c = (Tree("params", x).spec for x in (one, two, _turned(one)))
    assert (a == b) == (_optrees(one)[1] == _optrees(two)[1])
    assert (a == c) == (_optrees(one)[1] == _optrees(_turned(one))[1])
    assert a != c or hash(a) == hash(c)
    assert a != b or hash(a) == hash(b)
    if isinstance(a, PlainSpec):
        assert a == deepcopy(a) == pickle.loads(pickle.dumps(a))  # noqa: S301 - our own
        assert hash(a) == hash(deepcopy(a))


@given(one=PLAIN | TREES, two=PLAIN | TREES)
def test_leaves_are_read_from_what_looks_like_the_first(one: Any, two: Any) -> None:
    """The reader gives the leaves of containers of one structure; of others None, or what stands in their places."""
    read = reader(Tree("params", one))
    _, spec = _optrees(one)
    shuffled = spec.unflatten([object() for _ in range(spec.num_leaves)])
    if type(shuffled) is dict:
        shuffled = dict(reversed(shuffled.items()))
    for container in (one, two, shuffled):
        found = read(container)
        if spec == _optrees(container)[1]:
            assert found is not None
        if found is not None:
            assert _same(found, spec.flatten_up_to(container))


@pytest.mark.parametrize("levels", [LEVELS - 1, LEVELS, LEVELS + 1, 3 * LEVELS, optree.MAX_RECURSION_DEPTH - 1])
def test_depth(levels: int) -> None:
    """Containers may be as deep as optree can follow."""
    leaf = np.ones(1)
    container: Any = leaf
    for _ in range(levels):
        container = [container]
    tree = Tree("params", container)
    assert _same(tree.leaves, [leaf])
    assert tree.spec.paths() == [(0,) * levels]
    assert reader(tree)(container) == [leaf]
    assert isinstance(tree.spec, PlainSpec) == (levels <= LEVELS)


def _within_itself(container: Any) -> Any:
    if isinstance(container, dict):
        container["self"] = container
    else:
        container.append(container)
    return container


@pytest.mark.parametrize("container", [[], {}, deque(), OrderedDict(), [np.ones(1)]])
def test_a_container_within_itself_is_refused(container: Any) -> None:
    """A container in itself is refused with its name and the number of levels that there may be."""
    with pytest.raises(
        ValueError, match=rf"^x contains itself, or is nested deeper than {optree.MAX_RECURSION_DEPTH} "
    ):
        Tree("x", _within_itself(container))
