"""Options to draw at random, for constructors that are compared with a peer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

Options = dict[str, Any]
Draw = Callable[[Any], Any]


def uniform(low: float, high: float) -> Draw:
    return lambda rng: float(rng.uniform(low, high))


def or_zero(low: float, high: float) -> Draw:
    return lambda rng: float(rng.uniform(low, high)) if rng.random() < 0.6 else 0.0


def powers(low: float, high: float) -> Draw:
    """10 to a power between these."""
    return lambda rng: float(10 ** rng.uniform(low, high))


def flag(rng: Any) -> bool:
    return bool(rng.random() < 0.5)


def both(first: Draw, second: Draw) -> Draw:
    return lambda rng: (first(rng), second(rng))


def one_of(*values: Any) -> Draw:
    return lambda rng: values[rng.integers(len(values))]


def draws(of: Mapping[str, int], each: float) -> list[Any]:
    """Cases of a name and the number of a draw: all that there are, of which this share runs each time.

    Other numbers from name to name, so that what goes by the number takes turns; a draw at the least.
    """
    cases = []
    for i, (name, n) in enumerate(of.items()):
        some = max(1, round(each * n))
        chosen = {(some * i + k) % n for k in range(some)}
        for k in range(n):
            marks = () if k in chosen else pytest.mark.product
            cases.append(pytest.param(name, k, id=f"{name}-{k}", marks=marks))
    return cases
