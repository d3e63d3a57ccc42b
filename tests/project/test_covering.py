"""The cases that run each time are a covering array."""

from __future__ import annotations

import itertools
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


SEEN: dict[tuple[int, int], Any] = {}


@pytest.mark.parametrize("one", [(0, 1), (1, 0)])
@pytest.mark.parametrize("other", [[0], [1]])
def test_a_value_of_any_type_is_itself(one: tuple[int, int], other: list[int], request: pytest.FixtureRequest) -> None:
    """In every case in which it stands, and no other is."""
    found = case(request.node.callspec)
    SEEN[one[0], other[0]] = found
    for (a, b), before in SEEN.items():
        assert (found["one"] == before["one"], found["other"] == before["other"]) == (a == one[0], b == other[0])
