"""Functions along a line with their slopes, and searches run on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from anyoptim.solvers import LineSearch

__all__ = ["MORE_THUENTE", "Line", "Run", "barrier", "quartic", "random_line", "run", "seeded"]

Line = Callable[[float], tuple[float, float]]
"""The value and the slope at a step length."""


def seeded(seed: int) -> Random:
    """Numbers that are the same in each run."""
    return Random(seed)  # noqa: S311 - for tests


class Run(NamedTuple):
    """What a search asked for, and what it said in the end."""

    lengths: list[float]
    taken: bool


def run(search: LineSearch, line: Line, first: float, longest: float = math.inf, rounding: float = 0.0) -> Run:
    """Ask a search, from what the function is at 0."""
    steps, lengths = search.steps(*line(0.0), first, longest, rounding), list[float]()
    try:
        lengths.append(next(steps))
        while True:
            lengths.append(steps.send(line(lengths[-1])))
    except StopIteration as end:
        return Run(lengths, end.value)


def _yanai(b1: float, b2: float) -> Line:
    c1, c2 = (math.sqrt(1 + b * b) - b for b in (b1, b2))

    def line(t: float) -> tuple[float, float]:
        left, right = math.sqrt((1 - t) ** 2 + b2 * b2), math.sqrt(t * t + b1 * b1)
        return c1 * left + c2 * right, -c1 * (1 - t) / left + c2 * t / right

    return line


def _oscillating(t: float, b: float = 0.01, waves: int = 39) -> tuple[float, float]:
    value, slope = abs(1 - t), math.copysign(1.0, t - 1)
    if 1 - b < t < 1 + b:
        value, slope = (t - 1) ** 2 / (2 * b) + b / 2, (t - 1) / b
    angle = waves * math.pi / 2
    return value + 2 * (1 - b) / (waves * math.pi) * math.sin(angle * t), slope + (1 - b) * math.cos(angle * t)


MORE_THUENTE: list[tuple[Line, float, float, list[tuple[int, float]]]] = [
    (
        lambda t: (-t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2),
        *(0.001, 0.1, [(6, 1.4), (3, 1.4), (1, 10.0), (4, 37.0)]),
    ),
    (
        lambda t: ((t + 0.004) ** 5 - 2 * (t + 0.004) ** 4, 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3),
        *(0.1, 0.1, [(12, 1.6), (8, 1.6), (8, 1.6), (11, 1.6)]),
    ),
    (_oscillating, 0.1, 0.1, [(12, 1.0), (12, 1.0), (10, 1.0), (13, 1.0)]),
    (_yanai(0.001, 0.001), 0.001, 0.001, [(4, 0.085), (1, 0.1), (3, 0.35), (4, 0.83)]),
    (_yanai(0.01, 0.001), 0.001, 0.001, [(6, 0.075), (3, 0.078), (7, 0.073), (8, 0.076)]),
    (_yanai(0.001, 0.01), 0.001, 0.001, [(13, 0.93), (11, 0.93), (8, 0.92), (11, 0.92)]),
]
"""Moré and Thuente 1994, section 5: the functions 5.1 to 5.6, c1, c2, and, of tables I to VI, how many evaluations
it took from 1e-3, 1e-1, 1e1 and 1e3, and where it ended."""


def quartic(random: Random) -> Line:
    """A convex function with a minimum, steep in places."""
    a, b, c = random.uniform(0, 1), random.uniform(0.1, 1), random.uniform(0.1, 3)
    return lambda t: (a * (t - c) ** 4 + b * (t - c) ** 2, 4 * a * (t - c) ** 3 + 2 * b * (t - c))


def barrier(wall: float, kind: float) -> Line:
    """A function that falls up to a wall, beyond which it is NaN or infinite, and so is its slope."""
    return lambda t: (-t, -1.0) if t < wall else (kind, kind)


def _shape(random: Random) -> Line:
    a, b, c, d = (random.uniform(-1, 1) for _ in range(4))
    wave, far = 3 * d, 1 + abs(a)
    shapes: list[Line] = [
        lambda t: (
            (0.1 * a + 0.2) * t**4 + b * t**3 + c * t**2 - abs(d) * t,
            4 * (0.1 * a + 0.2) * t**3 + 3 * b * t**2 + 2 * c * t - abs(d),
        ),
        lambda t: (
            a * math.sin(wave * t) + b * math.cos(7 * c * t) - 0.1 * t,
            a * wave * math.cos(wave * t) - 7 * c * b * math.sin(7 * c * t) - 0.1,
        ),
        lambda t: (math.exp(-t) + 0.01 * a * t * t, -math.exp(-t) + 0.02 * a * t),
        lambda t: (abs(t - far) ** 1.5, 1.5 * math.copysign(math.sqrt(abs(t - far)), t - far)),
        *(line for line, *_ in MORE_THUENTE),
    ]
    return random.choice(shapes)


def random_line(random: Random) -> Line:
    """A function that falls at 0, of any scale: one that oscillates, has a kink, falls for ever, or is well-behaved."""
    while True:
        shape, high, far = _shape(random), 10 ** random.uniform(-3, 3), 10 ** random.uniform(-3, 3)

        def line(t: float, shape: Line = shape, high: float = high, far: float = far) -> tuple[float, float]:
            value, slope = shape(t / far)
            return value * high, slope * high / far

        if line(0.0)[1] < 0:
            return line
