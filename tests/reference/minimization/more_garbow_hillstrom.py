"""The 35 problems of More, Garbow and Hillstrom, Testing unconstrained optimization software, 1981, section 3.

Numbers, names, starting points and minima are the paper's. Where it leaves n to the user, n is one of those for which
it prints a minimum, or about 10. x[0] is the paper's x1, and has a value for each of several points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.reference.minimization.problem import Columns, Problem, Vector, least_squares

__all__ = ["PROBLEMS"]

_found: dict[str, Problem] = {}


def _problem(name: str, start: Sequence[float] | Vector, minimum: float = 0.0) -> Callable[[Columns], Columns]:
    """Enter these residuals into the table."""

    def enter(residuals: Columns) -> Columns:
        _found[name] = Problem(name, np.array(start, np.float64), least_squares(residuals), minimum)
        return residuals

    return enter


def _column(*numbers: float) -> Vector:
    return np.array(numbers)[:, None]


def _count(first: int, last: int) -> Vector:
    """The numbers from the first to the last, below each other."""
    return np.arange(first, last + 1.0)[:, None]


def _rows(*parts: Vector) -> Vector:
    """Residuals, or groups of them, below each other."""
    return np.concatenate([np.atleast_2d(part) for part in parts])


@_problem("1 Rosenbrock", [-1.2, 1])
def rosenbrock(x: Vector) -> Any:
    return _rows(10 * (x[1] - x[0] ** 2), 1 - x[0])


@_problem("2 Freudenstein and Roth", [0.5, -2], 48.98425)
def freudenstein_roth(x: Vector) -> Any:
    return _rows(-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1])


@_problem("3 Powell badly scaled", [0, 1])
def powell_badly_scaled(x: Vector) -> Any:
    return _rows(1e4 * x[0] * x[1] - 1, np.exp(-x[0]) + np.exp(-x[1]) - 1.0001)


@_problem("4 Brown badly scaled", [1, 1])
def brown_badly_scaled(x: Vector) -> Any:
    return _rows(x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2)


@_problem("5 Beale", [1, 1])
def beale(x: Vector) -> Any:
    return _column(1.5, 2.25, 2.625) - x[0] * (1 - x[1] ** _count(1, 3))


@_problem("6 Jennrich and Sampson", [0.3, 0.4], 124.3622)
def jennrich_sampson(x: Vector) -> Any:
    i = _count(1, 10)
    return 2 + 2 * i - (np.exp(i * x[0]) + np.exp(i * x[1]))


@_problem("7 helical valley", [-1, 0, 0])
def helical_valley(x: Vector) -> Any:
    theta = np.arctan(x[1] / x[0]) / (2 * np.pi) + np.where(x[0].real < 0, 0.5, 0)
    return _rows(10 * (x[2] - 10 * theta), 10 * (np.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2])


@_problem("8 Bard", [1, 1, 1], 8.214877e-3)
def bard(x: Vector) -> Any:
    y = _column(0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)
    u = _count(1, 15)
    v = 16 - u
    return y - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2]))


@_problem("9 Gaussian", [0.4, 1, 0], 1.127933e-8)
def gaussian(x: Vector) -> Any:
    rising = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521)
    t = (8 - _count(1, 15)) / 2
    return x[0] * np.exp(-x[1] * (t - x[2]) ** 2 / 2) - _column(*rising, 0.3989, *rising[::-1])


@_problem("10 Meyer", [0.02, 4000, 250], 87.94586)
def meyer(x: Vector) -> Any:
    t = 45 + 5 * _count(1, 16)
    fast = (34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744)
    slow = (8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872)
    return x[0] * np.exp(x[1] / (t + x[2])) - _column(*fast, *slow)


@_problem("11 Gulf research and development", [5, 2.5, 0.15])
def gulf(x: Vector) -> Any:
    # The paper prints |y m i x2|, an error: at its own minimum (50, 25, 1.5), |y - x2| is what gives 0.
    t = _count(1, 99) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)
    return np.exp(-(((y - x[1]) ** 2) ** (x[2] / 2)) / x[0]) - t


@_problem("12 Box three-dimensional", [0, 10, 20])
def box(x: Vector) -> Any:
    t = 0.1 * _count(1, 10)
    return np.exp(-t * x[0]) - np.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t))


@_problem("13 Powell singular", [3, -1, 0, 1])
def powell_singular(x: Vector) -> Any:
    a, b, c, d = x
    return _rows(a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2)


@_problem("14 Wood", [-3, -1, -3, -1])
def wood(x: Vector) -> Any:
    a, b, c, d = x
    valleys = 10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c
    return _rows(*valleys, 10**0.5 * (b + d - 2), (b - d) / 10**0.5)


@_problem("15 Kowalik and Osborne", [0.25, 0.39, 0.415, 0.39], 3.075056e-4)
def kowalik_osborne(x: Vector) -> Any:
    y = _column(0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
    u = _column(4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


@_problem("16 Brown and Dennis", [25, 5, -5, -1], 85822.20)
def brown_dennis(x: Vector) -> Any:
    t = _count(1, 20) / 5
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2


@_problem("17 Osborne 1", [0.5, 1.5, -1, 0.01, 0.02], 5.464895e-5)
def osborne1(x: Vector) -> Any:
    rising = (0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751)
    falling = (0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490)
    tail = (0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406)
    t = 10 * _count(0, 32)
    return _column(*rising, *falling, *tail) - (x[0] + x[1] * np.exp(-t * x[3]) + x[2] * np.exp(-t * x[4]))


@_problem("18 Biggs EXP6", [1, 2, 1, 1, 1, 1], 5.655650e-3)
def biggs(x: Vector) -> Any:
    t = 0.1 * _count(1, 13)
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    return x[2] * np.exp(-t * x[0]) - x[3] * np.exp(-t * x[1]) + x[5] * np.exp(-t * x[4]) - y


@_problem("19 Osborne 2", [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5], 4.013774e-2)
def osborne2(x: Vector) -> Any:
    falling = (1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608)
    first = (0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661)
    valley = (0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428)
    second = (0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559)
    third = (0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098, 0.054)
    t = _count(0, 64) / 10
    peaks = sum(x[k] * np.exp(-((t - x[k + 7]) ** 2) * x[k + 4]) for k in (1, 2, 3))
    return _column(*falling, *first, *valley, *second, *third) - (x[0] * np.exp(-t * x[4]) + peaks)


@_problem("20 Watson", np.zeros(6), 2.287670e-3)
def watson(x: Vector) -> Any:
    t, j = _count(1, 29) / 29, np.arange(6)
    slope = (j[1:] * t ** (j[1:] - 1)) @ x[1:]
    return _rows(slope - (t**j @ x) ** 2 - 1, x[0], x[1] - x[0] ** 2 - 1)


@_problem("21 extended Rosenbrock", [-1.2, 1] * 5)
def extended_rosenbrock(x: Vector) -> Any:
    return _rows(10 * (x[1::2] - x[::2] ** 2), 1 - x[::2])


@_problem("22 extended Powell singular", [3, -1, 0, 1] * 3)
def extended_powell_singular(x: Vector) -> Any:
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return _rows(a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2)


@_problem("23 penalty I", np.arange(1, 11), 7.087651e-5)
def penalty1(x: Vector) -> Any:
    return _rows(1e-5**0.5 * (x - 1), (x**2).sum(axis=0) - 0.25)


@_problem("24 penalty II", np.full(4, 0.5), 9.376293e-6)
def penalty2(x: Vector) -> Any:
    i, e = _count(1, 4), np.exp(x / 10)
    y = np.exp(i[1:] / 10) + np.exp(i[:-1] / 10)
    steps = 1e-5**0.5 * (e[1:] + e[:-1] - y), 1e-5**0.5 * (e[1:] - np.exp(-0.1))
    return _rows(x[0] - 0.2, *steps, ((5 - i) * x**2).sum(axis=0) - 1)


@_problem("25 variably dimensioned", 1 - np.arange(1, 11) / 10)
def variably_dimensioned(x: Vector) -> Any:
    all_of_them = (_count(1, 10) * (x - 1)).sum(axis=0)
    return _rows(x - 1, all_of_them, all_of_them**2)


@_problem("26 trigonometric", np.full(10, 0.1), 2.795056e-5)
def trigonometric(x: Vector) -> Any:
    return 10 - np.cos(x).sum(axis=0) + _count(1, 10) * (1 - np.cos(x)) - np.sin(x)


@_problem("27 Brown almost-linear", np.full(10, 0.5))
def brown_almost_linear(x: Vector) -> Any:
    return _rows(x[:-1] + x.sum(axis=0) - 11, x.prod(axis=0) - 1)


def _with_zeros(x: Vector) -> Any:
    """x with x_0 = x_{n+1} = 0."""
    return np.pad(x, ((1, 1), (0, 0)))


T = _count(1, 10) / 11
"""t_i of the two discrete problems, whose step h is 1/11."""


@_problem("28 discrete boundary value", (T * (T - 1)).ravel())
def discrete_boundary_value(x: Vector) -> Any:
    padded = _with_zeros(x)
    return 2 * x - padded[:-2] - padded[2:] + (x + T + 1) ** 3 / 11**2 / 2


@_problem("29 discrete integral equation", (T * (T - 1)).ravel())
def discrete_integral_equation(x: Vector) -> Any:
    cubes, below = (x + T + 1) ** 3, np.tri(10)
    return x + ((1 - T) * (below @ (T * cubes)) + T * ((1 - below) @ ((1 - T) * cubes))) / 11 / 2


@_problem("30 Broyden tridiagonal", np.full(10, -1))
def broyden_tridiagonal(x: Vector) -> Any:
    padded = _with_zeros(x)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


@_problem("31 Broyden banded", np.full(10, -1))
def broyden_banded(x: Vector) -> Any:
    band = np.tri(10, k=1) - np.tri(10, k=-6) - np.eye(10)  # of five variables below, and one above
    return x * (2 + 5 * x**2) + 1 - band @ (x * (1 + x))


@_problem("32 linear, full rank", np.ones(10), 10)
def linear_full_rank(x: Vector) -> Any:
    m = 20
    mean = 2 / m * x.sum(axis=0)
    return _rows(x - mean - 1, np.broadcast_to(-mean - 1, (m - 10, *mean.shape)))


@_problem("33 linear, rank 1", np.ones(10), 20 * 19 / (2 * 41))
def linear_rank1(x: Vector) -> Any:
    return _count(1, 20) * (_count(1, 10) * x).sum(axis=0) - 1


@_problem("34 linear, rank 1 with zero columns and rows", np.ones(10), (20**2 + 3 * 20 - 6) / (2 * 37))
def linear_rank1_zeros(x: Vector) -> Any:
    inner = (_count(2, 9) * x[1:-1]).sum(axis=0)
    return _rows(np.full_like(inner, -1), _count(1, 18) * inner - 1, np.full_like(inner, -1))


@_problem("35 Chebyquad", np.arange(1, 9) / 9, 3.516874e-3)
def chebyquad(x: Vector) -> Any:
    before, T_i = np.ones_like(x), 2 * x - 1
    rows = []
    for i in range(1, 9):
        rows.append(T_i.mean(axis=0) + (0 if i % 2 else 1 / (i**2 - 1)))
        before, T_i = T_i, 2 * (2 * x - 1) * T_i - before
    return _rows(*rows)


PROBLEMS: Mapping[str, Problem] = _found
