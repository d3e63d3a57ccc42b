"""Options to draw at random, for constructors that are compared with a peer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
