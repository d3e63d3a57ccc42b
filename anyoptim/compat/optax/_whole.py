"""What optax computes with whole arrays: Adafactor's second moment, Muon's direction, means and lengths of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Any, Final

import numpy as np

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._core._stage import Stage
from anyoptim._trace._hyperparameters import Domain, Fraction, Hyper, Nonnegative, Positive
from anyoptim._trace._scalars import following, one_minus_power, power, ratio_up_to_one, where
from anyoptim.optimizers._means import mean
from anyoptim.optimizers.matrices import at_least, summable, unit
from anyoptim.stages.layers import is_complex

__all__ = [
    "AdaptiveMuon",
    "AdaptiveNesterovMuon",
    "BlockRMS",
    "ClipBlockRMS",
    "CorrectedMean",
    "FactoredRMS",
    "Mean",
    "NesterovMuon",
    "PlainMuon",
]

_Integer = Annotated[Hyper, Domain(lambda x: x == int(x), "a whole number")]
_length = Domain(lambda x: x >= 0, "at least 0")


class ClipBlockRMS(Stage):
    """Shorten the gradient of each parameter whose root mean square is more than `threshold`.

    ::

        x <- x * min(threshold / rms(x), 1)
    """

    threshold: Positive
    norms = {"length": lambda xp, p, x: x}

    @staticmethod
    def coefficients(t: Any, *, threshold: Any, length: Any, size: int) -> dict[str, Any]:
        return {"scale": ratio_up_to_one(threshold * math.sqrt(size), length)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, scale: float) -> Array:
        return x * scale


class BlockRMS(Stage):
    """Multiply by the root mean square of each parameter.

    ::

        x <- x * max(rms(p), floor)
    """

    floor: Nonnegative = 1e-3
    norms = {"of_p": lambda xp, p, x: p}

    @staticmethod
    def coefficients(t: Any, *, floor: Any, of_p: Any, size: int) -> dict[str, Any]:
        rms = of_p / math.sqrt(max(size, 1))
        return {"scale": where(rms > floor, rms, floor)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, scale: float) -> Array:
        return x * scale


class Mean(Stage):
    """A running mean of what flows through.

    ::

        m <- decay*m + (1-decay)*x
        x <- m
    """

    decay: Fraction
    slots = ("m",)

    @staticmethod
    def coefficients(t: Any, *, decay: Any) -> dict[str, Any]:
        return {"decay": decay, "new": 1 - decay, "up": 1.0}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, *, decay: float, new: float, up: float) -> tuple[Array, ...]:
        m = decay * m + new * x
        return up * m, m


class CorrectedMean(Mean):
    """The same, corrected for its start at 0: `x <- m / (1 - decay**t)`."""

    @staticmethod
    def coefficients(t: Any, *, decay: Any) -> dict[str, Any]:
        return {"decay": decay, "new": 1 - decay, "up": 1 / one_minus_power(decay, t)}


class FactoredRMS(Optimizer):
    """Adafactor's division by a second moment, from one number for each row and column of the two longest axes.

    ::

        b = 1 - (t-offset)**-decay
        R <- b*R + (1-b) * mean over the longest axis of (g*g + eps)
        C <- b*C + (1-b) * mean over the next longest of (g*g + eps)
        x = g / sqrt(R*C / mean of R)

    Where the shorter of these axes is below `least`, or there is one at most, v <- b*v + (1-b)*(g*g + eps) and
    x = g / sqrt(v).
    """

    decay: Nonnegative
    offset: _Integer
    eps: Nonnegative
    _: KW_ONLY
    least: Final[Annotated[float, _length]]
    slots = ("row", "column", "v")
    array_rule = True

    def slot_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Rows and columns, or elements."""
        if len(shape) < 2 or sorted(shape)[-2] < self.least or 0 in shape:
            return (0,), (0,), shape
        d1, d0 = _longest(shape)
        return tuple(np.delete(shape, d0).tolist()), tuple(np.delete(shape, d1).tolist()), (0,)

    def refusal(self, p: Array) -> str | None:
        """Complex ones."""
        return "is complex; adafactor wants real parameters" if is_complex(p) else None

    @staticmethod
    def coefficients(t: Any, *, decay: Any, offset: Any, eps: Any) -> dict[str, Any]:
        late = t - offset
        return {"new": power(where(late > 0, late, 1), -decay), "eps": eps}

    @staticmethod
    def rule(
        xp: Any, p: Array, x: Array, row: Array, column: Array, v: Array, *, new: float, eps: float
    ) -> tuple[Array, ...]:
        x = summable(xp, x)
        squares = x * x + eps
        if tuple(v.shape) == tuple(x.shape):
            v = mean(v, squares, a=new, b=1 - new)
            return x / xp.sqrt(v), row, column, v
        d1, d0 = _longest(tuple(x.shape))
        row = mean(row, xp.mean(squares, axis=d0), a=new, b=1 - new)
        column = mean(column, xp.mean(squares, axis=d1), a=new, b=1 - new)
        of_row = xp.sqrt(row / xp.mean(row, axis=d1 - (d1 > d0), keepdims=True))
        of_column = xp.sqrt(column)
        root = xp.expand_dims(of_row, axis=d0) * xp.expand_dims(of_column, axis=d1)
        return x / at_least(xp, root, float(xp.finfo(p.dtype).smallest_normal)), row, column, v


def _longest(shape: tuple[int, ...]) -> tuple[int, int]:
    """The axes of the second longest and the longest side: of equal ones NumPy's order."""
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])


class PlainMuon(Optimizer):
    """Muon with a corrected mean: the orthogonal direction, scaled by the shape of the matrix.

    ::

        m <- beta*m + (1-beta)*g
        u = m / (1 - beta**t)
        u <- u / (|u| + eps);  for each (a, b, c):  A = u u',  u <- a*u + (b*A + c*A*A) u
        x = u * sqrt(max(1, columns/rows)),    with rms: u * sqrt(max(rows, columns)) * rms
    """

    beta: Fraction
    eps: Nonnegative
    _: KW_ONLY
    ns: Final[Sequence[Sequence[float]]]
    rms: Final[float | None] = None

    def __post_init__(self) -> None:
        self._ns = [[float(a), float(b), float(c)] for a, b, c in self.ns]  # lists, as JSON has them

    slots = ("m",)
    array_rule = True

    def refusal(self, p: Array) -> str | None:
        """All but real matrices."""
        if is_complex(p):
            return "is complex; muon wants real matrices"
        return None if p.ndim == 2 and 0 not in p.shape else f"has shape {tuple(p.shape)}; muon wants matrices"

    def coefficients(self, t: Any, *, beta: Any, eps: Any) -> dict[str, Any]:
        """Those of the mean and of the direction, and of each polynomial."""
        polynomials = {f"{name}{i}": c for i, abc in enumerate(self.ns) for name, c in zip("abc", abc, strict=True)}
        scale = {} if self.rms is None else {"rms": float(self.rms)}
        return {"beta": beta, "new": 1 - beta, **self.lead(t, beta), "eps": eps, **polynomials, **scale}

    @staticmethod
    def lead(t: Any, beta: Any) -> dict[str, Any]:
        """The share of m in the direction, and that of the gradient if it has one."""
        return {"of_m": 1 / one_minus_power(beta, t)}

    @staticmethod
    def rule(
        xp: Any,
        p: Array,
        x: Array,
        m: Array,
        *,
        beta: float,
        new: float,
        of_m: float,
        eps: float,
        of_g: float | None = None,
        rms: float | None = None,
        **polynomials: float,
    ) -> tuple[Array, ...]:
        m = beta * m + new * x
        u = of_m * m if of_g is None else of_m * m + of_g * x
        return _orthogonal(xp, u, eps, polynomials) * _shape_scale(tuple(p.shape), rms), m


def _orthogonal(xp: Any, u: Array, eps: float, polynomials: dict[str, float]) -> Array:
    rows, columns = u.shape
    u = xp.matrix_transpose(u) if rows > columns else u
    u = unit(xp, u, eps)
    for i in range(len(polynomials) // 3):
        a, b, c = (polynomials[f"{name}{i}"] for name in "abc")
        square = u @ xp.matrix_transpose(u)
        u = a * u + (b * square + c * (square @ square)) @ u
    return xp.matrix_transpose(u) if rows > columns else u


def _shape_scale(shape: tuple[int, int], rms: float | None) -> float:
    rows, columns = shape
    return math.sqrt(max(1.0, columns / rows)) if rms is None else math.sqrt(max(rows, columns)) * rms


class NesterovMuon(PlainMuon):
    """The same with `u = beta*m/(1 - beta**(t+1)) + (1-beta)*g/(1 - beta**t)`."""

    @staticmethod
    def lead(t: Any, beta: Any) -> dict[str, Any]:
        return {"of_m": beta / one_minus_power(beta, following(t)), "of_g": (1 - beta) / one_minus_power(beta, t)}


class AdaptiveMuon(PlainMuon):
    """The same with the direction times its product with the mean."""

    @staticmethod
    def rule(
        xp: Any,
        p: Array,
        x: Array,
        m: Array,
        *,
        beta: float,
        new: float,
        of_m: float,
        eps: float,
        of_g: float | None = None,
        rms: float | None = None,
        **polynomials: float,
    ) -> tuple[Array, ...]:
        m = beta * m + new * x
        u = of_m * m if of_g is None else of_m * m + of_g * x
        o = _orthogonal(xp, u, eps, polynomials)
        return xp.sum(u * o) * o * _shape_scale(tuple(p.shape), rms), m


class AdaptiveNesterovMuon(AdaptiveMuon):
    """Both."""

    lead = staticmethod(NesterovMuon.lead)
