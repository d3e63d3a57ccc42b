"""A part of a larger draw: by any indices along every axis, the part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyoptim.random import bernoulli, bits, normal, uniform
from tests.reference.philox import word
from tests.support.libraries import Library, same_bits

pytestmark = pytest.mark.usefixtures("quickly")


@st.composite
def parts(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], list[Any], Any]:
    """A whole, the shape of a part, its offset, and the same as an index for NumPy."""
    whole = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    offset: list[Any] = []
    chosen = []
    for m in whole:
        kind = draw(st.sampled_from(["all", "some", "step", "any"]))
        if kind in {"all", "some"}:
            first = 0 if kind == "all" else draw(st.integers(0, m - 1))
            n = m if kind == "all" else draw(st.integers(0, m - first))
            offset.append(first)
            chosen.append(list(range(first, first + n)))
        elif kind == "step":
            offset.append(range(draw(st.integers(0, m - 1)), m, draw(st.integers(1, 4))))
            chosen.append(list(offset[-1]))
        else:
            offset.append(draw(st.lists(st.integers(0, m - 1), max_size=6)))
            chosen.append(offset[-1])
    shape = tuple(len(c) for c in chosen)
    return whole, shape, offset, np.ix_(*(np.array(c, int) for c in chosen))


def test_any_part_is_the_part_of_the_whole(lib: Library) -> None:
    """Blocks, steps, permutations and repetitions, along each axis its own, on every library.

    What is found of a place comes to NumPy's arrays, whatever the library: the others need a few to show that they
    do with those what NumPy does.
    """

    @settings(max_examples=100 if lib.name == "numpy" else 3 if lib.compiles else 10)
    @given(part=parts())
    def check(part: Any) -> None:
        whole, shape, offset, index = part
        like = lib.array([0.0])
        drawn = bits(shape, 3, 4, tuple(offset), within=whole, like=like)
        assert type(drawn) is type(like)
        expected = bits(whole, 3, 4, like=np.empty(0))[index]
        assert tuple(drawn.shape) == shape
        assert lib.tonumpy(drawn).tolist() == expected.tolist()

    check()


def _truths(*arguments: Any, **more: Any) -> Any:
    return bernoulli(0.3, *arguments, **more)


@pytest.mark.covering(1)  # each of these on each library: test_numbers.py
@pytest.mark.parametrize("draw", [uniform, normal, _truths])
def test_numbers_of_parts(lib: Library, draw: Callable[..., Any]) -> None:
    """What is made of the words is divided as they are."""
    whole = lib.tonumpy(draw((6, 10, 3), 1, 2, like=lib.array([0.0])))
    part = draw((2, 5, 3), 1, 2, (3, range(0, 10, 2), 0), within=(6, 10, 3), like=lib.array([0.0]))
    assert same_bits(lib.tonumpy(part), whole[3:5, ::2])


@pytest.mark.parametrize("whole", [(2**20, 2**21, 2**21 + 1), (3, 2**33 + 1), (5, 2**40 + 3, 7)])
def test_far_parts(lib: Library, whole: tuple[int, ...]) -> None:
    """Of more elements than 32 bits count, with carries, beside Python's own integers."""
    first = tuple(m - 2 for m in whole)
    drawn = lib.tonumpy(bits((2,) * len(whole), 9, 5, first, within=whole, like=lib.array([0.0])))
    for index in np.ndindex(*drawn.shape):
        i = 0
        for m, f, k in zip(whole, first, index, strict=True):
            i = i * m + f + k
        assert int(drawn[index]) == word(i, 9, 5)


def test_parts_under_jit(need: Callable[[str], Library]) -> None:
    """With a traced call; where the part lies is known when the function is compiled."""
    for name in ("jax", "jax-x64"):
        lib = need(name)
        with lib.context():
            import jax

            like = lib.array([0.0])
            compiled = jax.jit(lambda call, like=like: bits((4, 3), 7, call, (0, 2), within=(4, 5), like=like))
            for call in (0, 3):
                expected = bits((4, 5), 7, call, like=np.empty(0))[:, 2:]
                assert lib.tonumpy(compiled(call)).tolist() == expected.tolist()


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"offset": (0, 0)}, TypeError, r"offset is \(0, 0\); wanted a number of elements, or the shape of the whole"),
    ({"offset": 3, "within": (4, 4)}, ValueError, r"offset is 3 for shape \(2, 2\) within \(4, 4\); wanted an entry"),
    ({"offset": (1,), "within": (4, 4)}, ValueError, "wanted an entry for each axis"),
    ({"offset": (1, 1, 1), "within": (4, 4, 4)}, ValueError, "wanted an entry for each axis"),
    ({"offset": (3, 0), "within": (4, 4)}, ValueError, r"offset\[0\] is 3 for 2 elements of 4; wanted at most 2"),
    ({"offset": (0, -1), "within": (4, 4)}, ValueError, r"offset\[1\] is -1"),
    ({"offset": (0, 1.0), "within": (4, 4)}, TypeError, r"offset\[1\] is 1.0; wanted an integer"),
    ({"offset": (0, "ab"), "within": (4, 4)}, TypeError, r"offset\[1\] is 'ab'; wanted an integer"),
    ({"offset": (0, [1, 4]), "within": (4, 4)}, ValueError, r"offset\[1\] goes from 1 to 4; wanted at least 0 and bel"),
    ({"offset": (0, [-1, 3]), "within": (4, 4)}, ValueError, r"offset\[1\] goes from -1 to 3"),
    ({"offset": (0, [1]), "within": (4, 4)}, ValueError, r"offset\[1\] has shape \(1,\); wanted \(2,\)"),
    ({"offset": (0, [0.0, 1.0]), "within": (4, 4)}, TypeError, r"offset\[1\] is \[0.0, 1.0\]; wanted integers"),
    ({"offset": (0, 0), "within": (1, 4)}, ValueError, r"within\[0\] is 1 for 2 elements; wanted no fewer"),
    ({"offset": (0, 0), "within": (2**32, 2**31)}, ValueError, r"within is .*; wanted fewer than 2\*\*63 elements"),
    ({"offset": (0, 0), "within": (4, 4.0)}, TypeError, r"within\[1\] is 4.0; wanted an integer"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), BAD)
def test_bad_places(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        bits((2, 2), 0, like=np.zeros(1), **arguments)
