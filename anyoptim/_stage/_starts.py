"""What slots start as, by what a class declares in `starts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from anyoptim._arrays import COMPUTE, Array, Library, library
from anyoptim._arrays._quiet import quiet
from anyoptim._stage._fields import listed
from anyoptim._trace._eager import kept
from anyoptim._trace._expressions import range_of

__all__ = ["check_starts", "first_slots", "start"]


def check_starts(cls: type[Any]) -> None:
    """Raise TypeError for a start of what is no slot, or that is neither a number nor the name of one that stays."""
    body, starts, slots = vars(cls), cls.starts, cls.slots
    declared = {"starts": starts, "slots": slots, "real_slots": cls.real_slots}
    if not declared.keys() & body.keys() or any(isinstance(of, property) for of in declared.values()):
        return
    if cls.__module__.startswith("anyoptim."):
        return  # ours are right, as in `declared`
    for name in cls.real_slots:
        if name not in slots:
            raise TypeError(f"{cls.__name__} has the real slot {name!r}; its slots are {listed(slots) or 'none'}")
        if starts.get(name) == "p":
            raise TypeError(f"{cls.__name__} has a start of the real slot {name!r} as 'p', which may be complex")
    constants = [name for name, field in cls._fields.items() if field.role == "constant"]
    for name, start in starts.items():
        if name not in slots:
            raise TypeError(f"{cls.__name__} has a start of {name!r}; its slots are {listed(slots) or 'none'}")
        # A constant of the name p would be taken for the parameter.
        known = (start in constants) != (start == "p") if isinstance(start, str) else _plain_number(start)
        if not known:
            raise TypeError(
                f"{cls.__name__} has a start of {name!r} as {start!r}; wanted a number, 'p' or the name of a constant"
            )


def first_slots(stage: Any, xp: Any, p: Array) -> tuple[Array, ...]:
    """The slots of a stage for one parameter. Raises ValueError for what it can't start as."""
    shapes = stage.slot_shapes(tuple(p.shape))
    return tuple(_first(stage, xp, p, name, shape) for name, shape in zip(stage.slots, shapes, strict=True))


def _first(stage: Any, xp: Any, p: Array, name: str, shape: tuple[int, ...]) -> Array:
    """What one slot starts as."""
    start, of = stage.starts.get(name), library(p)
    if start == "p":
        if shape != tuple(p.shape):
            raise ValueError(
                f"the slot {name!r} of {stage!r} starts as the parameter, which has shape {tuple(p.shape)}, but "
                f"slot_shapes gives {shape}"
            )
        return p
    zeros = xp.zeros_like(p) if shape == p.shape else xp.zeros(shape, dtype=p.dtype, device=of.creation_device(p))
    number: Any = getattr(stage, start) if isinstance(start, str) else start
    if number is None:
        return zeros
    dtype = of.dtype(p)
    shaped = getattr(number, "shape", ())
    if shaped:
        raise ValueError(f"the slot {name!r} of {stage!r} starts as an array of shape {shaped}; wanted a number")
    known = isinstance(number, str | Sequence | Real)  # and no array, whose value may be traced
    if known and not (_plain_number(number) and abs(number) <= range_of(dtype).largest):
        raise ValueError(f"the slot {name!r} of {stage!r} starts as {number!r}; wanted a number that {dtype} holds")
    return xp.full_like(zeros, number)


def _plain_number(value: Any) -> bool:
    """Whether this is a finite real number, and no bool."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and bool(-math.inf < value < math.inf)  # of an int, too, that is too large for a float


def start(stage: Any, library: Library, p: Array) -> tuple[Array, ...]:
    """The first slots of a parameter: a stage's `init_slots(xp, p)` of each of its parts, in the compute dtype.

    The real slots of a complex parameter are those of its real part, on which what they start as does not depend.
    """
    xp = library.xp
    name = COMPUTE[library.dtype(p)]
    if name.startswith("complex"):
        both = zip(stage.slots, *(start(stage, library, part(p)) for part in (xp.real, xp.imag)), strict=True)
        join, dtype = library.join_complex, getattr(xp, name)
        return tuple(re if slot in stage.real_slots else join(re, im, dtype) for slot, re, im in both)
    wide = library.read_only(xp.astype(p, getattr(xp, name), copy=False))
    with quiet(), library.on_device_of(p):
        init, shapes = stage.init_slots, stage.slot_shapes(tuple(p.shape))
        own = kept(init.__qualname__, init(xp, wide), shapes, library, (wide,))
        return tuple(library.replicated_like(a, p) for a in own)
