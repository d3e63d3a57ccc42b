"""The cases that run each time are a covering array."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.covering import case, covering, meetings

FACTORS = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True))


@pytest.mark.parametrize("strength", [1, 2, 3])
@given(factors=FACTORS, left_out=st.sets(st.integers(0, 300)))
def test_all_meet_that_meet_in_any(strength: int, factors: dict[str, list[int]], left_out: set[int]) -> None:
    """Of a product with holes."""
    rows = itertools.product(*factors.values())
    cases: list[dict[str, Any]] = [
        dict(zip(factors, row, strict=True)) for i, row in enumerate(rows) if i not in left_out
    ]
    chosen = covering(cases, strength)
    met = [set(meetings(case, strength)) for case in cases]
    assert set().union(*(met[i] for i in chosen)) == set().union(*met)


def test_a_product_of_three_takes_as_many_as_the_two_longest() -> None:
    """25 methods, 9 libraries and 6 dtypes: 1350 cases, of which some 225 do."""
    cases = [{"m": m, "l": k, "d": d} for m in range(25) for k in range(9) for d in range(6)]
    assert 225 <= len(covering(cases)) <= 250
    assert len(covering(cases, 1)) == 25
    assert covering(cases, 3) == set(range(1350))


def test_what_pytest_numbers_anew_is_the_same_value() -> None:
    """Functions, tuples and floats, which pytest counts on for each value of a fixture before them."""
    value, index = (len, (1, 2), 0.5), itertools.count()
    a, b = (case(SimpleNamespace(params={"lib": k, "of": value}, indices={"of": next(index)})) for k in "ab")
    assert a["of"] == b["of"]
    assert a["lib"] != b["lib"]
    assert a["of"] != case(SimpleNamespace(params={"of": (len, (1, 2), 0.5 + 1)}))["of"]
