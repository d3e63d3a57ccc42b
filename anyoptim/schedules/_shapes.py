"""The ways from one value to another, for step counts that are Python integers or traced 0-d arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from anyoptim._trace._scalars import beyond, cos, floating, sqrt, where

__all__ = ["EASES", "after", "between", "cosine", "left", "progress", "through"]


def after(n: Any, begin: int) -> Any:
    """The number of those of n steps that came after the first `begin`."""
    return 0 if beyond(n, begin) else where(n >= begin, n - begin, 0)


def left(n: Any, steps: int) -> Any:
    """The share of `steps` steps that is left after n of them: from 1.0 to 0.0."""
    if beyond(n, steps):
        return 1 - floating(n) / float(steps)
    return floating(where(n < steps, steps - n, 0)) / float(steps)


def progress(n: Any, steps: int, begin: int = 0) -> Any:
    """The share of `steps` steps, which begin after the first `begin`, that n steps cover: from 0.0 to 1.0."""
    # The 1 is said, because XLA multiplies by the reciprocal instead of dividing, and could miss it.
    share = floating(after(n, begin)) / float(max(steps, 1))
    return share if beyond(n, begin + steps) else where(n < begin + steps, share, 1.0)


def between(a: Any, b: Any, x: Any) -> Any:
    """The point at x between a and b: exactly a at 0, b at 1, and for no x in between of another sign than both."""
    return a * (1 - x) + b * x


def cosine(x: Any) -> Any:
    """The way from 0 to 1 along half a period of a cosine: slowly, fast, slowly."""
    return (1 - cos(math.pi * x)) / 2


EASES: dict[str, Callable[[Any], Any]] = {
    "constant": lambda x: where(x < 1, 0.0, 1.0),
    "linear": lambda x: x,
    "cosine": cosine,
    "sqrt": sqrt,
}
"""Ways from 0 to 1, for x from 0 to 1."""


def through(n: Any, points: Sequence[tuple[int, float]], ease: str) -> Any:
    """The value after n steps on the way through points (steps, value); the first before them, the last after."""
    (begin, value), *others = points
    for end, target in others:
        # A part that has not begun leaves the value as it is, and one that is over gives its target, both exactly.
        value = between(value, target, EASES[ease](progress(n, end - begin, begin)))
        begin = end
    return value
