"""Bounds of parameters: which elements are held by one, and steps that stay within them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from anyoptim._arrays import Array, is_scalar, slot_dtype
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import MISSING, Name
from anyoptim._stage._elements import is_array, real_array
from anyoptim._trace._hyperparameters import number
from anyoptim._trace._reductions import Count, Dot, Max
from anyoptim.solvers._function import Function
from anyoptim.solvers._vectors import Kernel, Question, Vector

__all__ = ["Bounds", "Box", "check_bounds", "within"]

Bounds = tuple[Any, Any]
"""The lower and the upper bounds: each a number, an array or a container of both with the keys of the parameters, or
None for no bound."""


def _clipped(xp: Any, p: Array, lo: Array, hi: Array) -> Array:
    return xp.where(p < lo, lo, xp.where(p > hi, hi, p))


def _within(xp: Any, x: Array, p: Array, lo: Array, hi: Array, c: Any) -> tuple[Array, ...]:
    """`p <- min(max(p, lo), hi)`."""
    return _clipped(xp, p, lo, hi), lo, hi


def _trial(xp: Any, d: Array, p: Array, origin: Array, lo: Array, hi: Array, c: Any) -> tuple[Array, ...]:
    """`p <- origin + t*d`, and rounding does not lead out of the bounds."""
    moved = xp.where(c.t == 0, origin, origin + c.t * d)
    return _clipped(xp, moved, lo, hi), origin, lo, hi


def _free(xp: Any, g: Array, origin: Array, lo: Array, hi: Array) -> Array:
    """Whether an element is not held by a bound, from which the gradient would lead out."""
    return ~(((origin <= lo) & (g > 0)) | ((origin >= hi) & (g < 0)))


def _marked(
    xp: Any, g: Array, free: Array, origin: Array, lo: Array, hi: Array, within: Array, c: Any
) -> tuple[Array, ...]:
    """`free <- 1 for what no bound holds, else 0; within <- g of what is free`."""
    moves = _free(xp, g, origin, lo, hi)
    return xp.where(moves, 1.0 + 0 * origin, 0 * origin), origin, lo, hi, xp.where(moves, g, 0 * origin)


def _held_back(xp: Any, origin: Array, g: Array, lo: Array, hi: Array, c: Any) -> tuple[Array, ...]:
    """`g <- g of what no bound holds`."""
    return xp.where(_free(xp, g, origin, lo, hi), g, 0 * origin), lo, hi


def _projected(xp: Any, g: Array, d: Array, free: Array, origin: Array, lo: Array, hi: Array, c: Any) -> Any:
    """`d <- (origin + d, projected onto the bounds) - origin`."""
    return _clipped(xp, origin + d, lo, hi) - origin, free, origin, lo, hi


def _held(xp: Any, g: Array, d: Array, free: Array, c: Any) -> tuple[Array, ...]:
    """`d <- d of what is free`."""
    return xp.where(free > 0, d, 0 * d), free


_WITHIN = Kernel(_within, ("p", "lo", "hi"))
_TRIAL = Kernel(_trial, ("p", "origin", "lo", "hi"))
_MARK = Kernel(_marked, ("free", "origin", "lo", "hi", "within"))
_HELD_BACK = Kernel(_held_back, ("g", "lo", "hi"))
_PROJECT = Kernel(_projected, ("d", "free", "origin", "lo", "hi"))
_HOLD = Kernel(_held, ("d", "free"))


def _other(xp: Any, free: Array, g: Array, origin: Array, lo: Array, hi: Array) -> Array:
    return xp.where(_free(xp, g, origin, lo, hi), 1.0 + 0 * origin, 0 * origin) != free


def _out(xp: Any, origin: Array, lo: Array, hi: Array) -> Array:
    return (origin < lo) | (origin > hi)


def _way(xp: Any, origin: Array, g: Array, lo: Array, hi: Array) -> Array:
    return xp.abs(_clipped(xp, origin - g, lo, hi) - origin)


def _used(xp: Any, d: Array, x: Array, origin: Array, lo: Array, hi: Array) -> Array:
    """Which part of the way to a bound one step of d is."""
    return xp.where(d > 0, d / (hi - origin), xp.where(d < 0, -d / (origin - lo), 0 * d))


def _masked(xp: Any, p: Array, x: Array, free: Array) -> Array:
    return xp.where(free > 0, p, 0 * p)


def _itself(xp: Any, p: Array, x: Array, *_: Array) -> Array:
    return x


def _crossed(xp: Any, lo: Array, hi: Array) -> Array:
    """Whether there is no number between them."""
    return ~((lo < hi) | ((lo == hi) & (lo - lo == 0)))


def _unbounded(xp: Any, lo: Array, x: Array, hi: Array) -> Array:
    return ~((lo - lo == 0) & (hi - hi == 0))


_CHANGED = Question("what bounds hold", Count(_other), ("origin", "lo", "hi"))
_OUT = Question("bounds", Count(_out), ("hi",))
_WAY = Question("the projected gradient", Max(_way), ("lo", "hi"))
_USED = Question("the way to the bounds", Max(_used), ("origin", "lo", "hi"))
_MASKED = Question("an inner product", Dot(_masked, _itself), ("free",))
_UNBOUNDED = Question("bounds", Count(_unbounded), ("hi",))
_CROSSED = Question("bounds", Count(_crossed), ())


def check_bounds(bounds: Any) -> None:
    """Raise TypeError or ValueError for what is no pair of bounds, or has numbers that are none."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds is {bounds!r}; wanted a pair, the lower and the upper bounds")
    numbers = [number.value(f"bounds[{k}]", of) for k, of in enumerate(bounds) if is_scalar(of)]
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ValueError(f"bounds[0] is {bounds[0]} and bounds[1] is {bounds[1]}; wanted the lower one first")


def within(function: Function, bounds: Bounds) -> Function:
    """The function with its parameters put within bounds, which it may put back; itself, if they are there."""
    outer = Function(function.tree.container, function.engine)
    outer.moving = function.moving
    if outer.moving is None:
        outer.let_all_move()
    kept = outer.space.copied(outer.space.params)
    Box(outer, bounds).enter()
    if not outer.space.differ(kept, outer.space.params):
        return function
    outer.put()
    entered = Function(outer.tree.container, function.engine)
    entered.outside = outer, kept
    return entered


class Box:
    """The bounds of the parameters that move, which elements they hold at the origin, and g without these."""

    def __init__(self, function: Function, bounds: Bounds) -> None:
        """Take bounds as vectors. Raises TypeError or ValueError for what are no bounds of these parameters."""
        self.space = space = function.space
        self.lo = _vector(function, "bounds[0]", bounds[0], -math.inf)
        self.hi = _vector(function, "bounds[1]", bounds[1], math.inf)
        if space.answer(_CROSSED, self.hi, self.lo):
            raise ValueError(
                "bounds leave no number, for some elements; wanted bounds[0] at most bounds[1], not both infinite"
            )
        self.boxed = space.answer(_UNBOUNDED, self.lo, self.lo, self.hi) == 0
        """Whether all elements have both bounds."""
        self.free: Vector = []
        self.gradient: Vector = []

    def enter(self) -> None:
        """Put the parameters within the bounds."""
        self.space.run(_WITHIN, self.lo, [self.space.params, self.lo, self.hi])

    def leaves_out(self, origin: Vector) -> bool:
        """Whether an element of a point is out of the bounds."""
        return self.space.answer(_OUT, self.lo, origin, self.hi) > 0

    def held(self, g: Vector, origin: Vector) -> None:
        """Make a gradient 0 where bounds hold the origin."""
        self.space.run(_HELD_BACK, origin, [g, self.lo, self.hi])

    def mark(self, g: Vector, origin: Vector) -> bool:
        """Note which elements are held, at another origin. Returns whether these are others than before."""
        if not self.free:
            self.free, self.gradient = self.space.zeros(), self.space.zeros()
        changed = self.space.answer(_CHANGED, g, self.free, origin, self.lo, self.hi) > 0
        self.space.run(_MARK, g, [self.free, origin, self.lo, self.hi, self.gradient])
        return changed

    def largest(self, g: Vector, origin: Vector) -> float:
        """The largest element of the projected gradient: of the way from the origin to origin - g, projected."""
        return self.space.answer(_WAY, g, origin, self.lo, self.hi)

    def products(self, pairs: Sequence[tuple[Vector, Vector]]) -> list[float]:
        """The inner products of what is free of some vectors."""
        return self.space.answers(_MASKED, [(x, a, self.free) for a, x in pairs])

    def hold(self, d: Vector) -> None:
        """Make a direction 0 where bounds hold."""
        self.space.run(_HOLD, self.gradient, [d, self.free])

    def project(self, d: Vector, origin: Vector) -> None:
        """Let a direction end where its end is projected to."""
        self.space.run(_PROJECT, self.gradient, [d, self.free, origin, self.lo, self.hi])

    def reach(self, d: Vector, origin: Vector) -> float:
        """The longest step length within the bounds."""
        used = self.space.answer(_USED, self.gradient, d, origin, self.lo, self.hi)
        return 1 / used if used > 0 else math.inf

    def move(self, d: Vector, origin: Vector, length: float) -> None:
        """Put the parameters at a step length."""
        self.space.run(_TRIAL, d, [self.space.params, origin, self.lo, self.hi], t=length)


def _vector(function: Function, root: str, given: Any, none: float) -> Vector:
    """Bounds on one side as a vector."""
    space, tree = function.space, function.tree
    vector = space.zeros()
    column = tree.covered(root, given) if tree.leaves else []
    for k, (i, p) in enumerate(zip(function.moving or (), space.ps, strict=True)):
        value, name = column[i]
        if value is MISSING:
            raise ValueError(f"{name} is missing; wanted a number, an array or None for {tree.name(i)}")
        if p.dtype.startswith("complex"):
            raise TypeError(f"{tree.name(i)} has dtype {p.dtype}; wanted real numbers, which bounds are for")
        with quiet(), p.library.on_device_of(p.array):
            if is_array(value):
                bound = _array(p, value, name, tree.name(i))
            else:
                bound = none if value is None else number.value(str(name), value)
            vector[k] = p.library.load(vector[k] + bound)  # of no axis NumPy makes a scalar
    return vector


def _array(p: Parameter, value: Any, name: Name, of: Name) -> Array:
    own, x = real_array(name, value)
    if own is not p.library:
        raise TypeError(f"{name} is a {own.name} array but {of} is a {p.library.name} array; wanted one library")
    if tuple(x.shape) != tuple(p.array.shape):
        raise ValueError(f"{of} has shape {tuple(p.array.shape)} but {name} has shape {tuple(x.shape)}")
    if not checks.on_one_device(p, x):
        raise ValueError(f"{of} is on device {own.device(p.array)} but {name} is on device {own.device(x)}")
    return own.xp.astype(own.sharded_like(x, p.array), getattr(own.xp, slot_dtype(p.dtype)), copy=False)
