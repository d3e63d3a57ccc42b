"""The cases of a test that run each time: so many that each two values of its factors meet in one of them.

A test over methods, libraries and dtypes has as many cases as their product. A fault that takes one value, or two that
meet, is found by far fewer: by a covering array of strength 2, here made greedily. Where a test's factors have nothing
to do with each other, or meet in another test, `@pytest.mark.covering(1)` asks for each value once. All other cases are
marked `product`; `-m product` runs them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

Case = Mapping[str, Hashable]


def case(callspec: Any) -> Case:
    """The values of a test's parameters, as pytest has them; those that don't say what they are, by their identity.

    All cases of a test have the same objects. (pytest's own indices of them are of the cases, not of the values.)
    """
    plain = (str, int, type, type(None))
    return {
        name: (type(value), value if isinstance(value, plain) else id(value)) for name, value in callspec.params.items()
    }


def meetings(case: Case, strength: int) -> Iterator[Hashable]:
    """All sets of so many values of different factors that meet in a case; one set of all, if it has fewer factors."""
    return itertools.combinations(sorted(case.items(), key=lambda item: item[0]), min(strength, len(case)))


def covering(cases: Sequence[Case], strength: int = 2) -> set[int]:
    """The indices of some cases in which all sets of values meet that meet in any case.

    Each time the one with the most meetings that are new, and of several the first: what a test names first is quick.
    """
    left = [set(meetings(case, strength)) for case in cases]
    where: dict[Hashable, list[int]] = defaultdict(list)
    for i, found in enumerate(left):
        for meeting in found:
            where[meeting].append(i)
    new = {i: len(found) for i, found in enumerate(left)}
    chosen = set()
    while where:
        best = max(new, key=new.__getitem__)
        chosen.add(best)
        for meeting in left[best]:
            for i in where.pop(meeting, ()):
                new[i] -= 1
    return chosen
