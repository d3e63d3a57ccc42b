"""Whether views overlap is decided exactly: it is compared with the sets of elements that they touch."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anyoptim._arrays import library
from anyoptim._arrays._memory import MemoryLayout, find_overlap, may_overlap, merged_ranges, overlaps_itself

N = 48


@st.composite
def views(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """A view of one buffer through slices with steps, transposition and reshaping."""
    base = draw(st.sampled_from([BUFFER, BUFFER.reshape(6, 8), BUFFER.reshape(8, 6), BUFFER.reshape(2, 3, 8)]))
    index = tuple(
        slice(*draw(st.tuples(st.integers(0, n), st.integers(0, n), st.sampled_from([1, 2, 3])))) for n in base.shape
    )
    view = base[index]
    if draw(st.booleans()):
        view = view.T
    if draw(st.booleans()):
        view = view[::-1]
    return view


BUFFER = np.zeros(N, np.float32)


def _memory(a: np.ndarray[Any, Any]) -> MemoryLayout:
    memory = library(a).memory(a)
    assert memory is not None
    return memory


def _touched(a: np.ndarray[Any, Any]) -> set[int]:
    """The elements of the buffer that a view touches, found out by writing to it."""
    BUFFER[:] = 0
    a[...] = 1
    return set(np.flatnonzero(BUFFER).tolist())


@settings(max_examples=300)
@given(arrays=st.lists(views(), min_size=2, max_size=4))
def test_shared_equals_the_sets_of_elements(arrays: list[np.ndarray[Any, Any]]) -> None:
    """Two views share memory exactly if they touch a common element."""
    sets = [_touched(a) for a in arrays]
    pairs = {(i, j) for i in range(len(sets)) for j in range(i) if sets[i] & sets[j]}
    found = find_overlap([_memory(a) for a in arrays])
    assert (found is not None) == bool(pairs)
    assert found is None or (found[1], found[0]) in pairs


@settings(max_examples=200)
@given(arrays=st.lists(views(), max_size=4), others=st.lists(views(), max_size=4))
def test_near_equals_the_ranges_of_elements(
    arrays: list[np.ndarray[Any, Any]], others: list[np.ndarray[Any, Any]]
) -> None:
    """A view may overlap others exactly if it meets the range from the first to the last element of one of them."""
    arrays, others = ([a for a in group if a.size] for group in (arrays, others))
    ranges = [(min(t), max(t)) for t in map(_touched, others)]
    expected = [any(min(t) <= high and low <= max(t) for low, high in ranges) for t in map(_touched, arrays)]
    theirs = merged_ranges([_memory(a) for a in others])
    assert [may_overlap(_memory(a), theirs) for a in arrays] == expected


@given(a=views())
def test_no_view_overlaps_itself(a: np.ndarray[Any, Any]) -> None:
    """Slicing, transposing and reshaping never put two elements in one place."""
    assert a.size == 0 or not overlaps_itself(_memory(a))


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), steps=st.lists(st.integers(-6, 6), min_size=3))
def test_overlap_with_itself_is_never_missed(shape: list[int], steps: list[int]) -> None:
    """Of any strides those are found that reach one place twice."""
    memory = MemoryLayout("cpu", 0, tuple(shape), tuple(4 * s for s in steps[: len(shape)]), 4)
    places = [sum(i * s for i, s in zip(index, steps, strict=False)) for index in np.ndindex(*shape)]
    if len(set(places)) < len(places):
        assert overlaps_itself(memory)


def test_spaces_are_apart() -> None:
    """One address on two devices is two places."""
    here, there = (MemoryLayout(space, 4096, (8,), (4,), 4) for space in ("cuda:0", "cuda:1"))
    assert find_overlap([here, there]) is None
    assert find_overlap([here, there, here._replace(address=4096 + 28)]) == (0, 2)
