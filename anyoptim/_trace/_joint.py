"""Values of a joint rule, one that takes complex elements as a whole: both real parts of each, or one real beside them.

An operator or a function of `xp` acts on each part by itself, and a real value, or a number, meets both parts alike.
Only `modulus` and `squared_modulus` make one real of two parts. The parts are what the rule would be given if it were
run over real arrays: arrays of any library, or values that record what is done to them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyoptim._trace._operations import OPERATORS, Operations
from anyoptim._trace._program import Part, Rule, RuleError
from anyoptim._trace._symbols import ScalarTape, Value

__all__ = ["Joint", "JointOperations", "each_part", "parts_of"]

_OPERATORS: Mapping[str, Callable[..., Any]] = {
    **OPERATORS,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.invert,
}


class _EachPart(ScalarTape):
    """What does an operation on each part."""

    def operation(self, op: str, *operands: Any) -> Any:
        return _mapped(_OPERATORS[op], operands)


_EACH_PART = _EachPart()


class Joint(Value):
    """An element of a complex array, by its real and its imaginary part; or one real that belongs to such a one."""

    joins = True

    def __init__(self, *parts: Any) -> None:
        super().__init__(_EACH_PART)
        self.parts = parts


def _mapped(function: Callable[..., Any], operands: Sequence[Any]) -> Joint:
    """The function of the first parts of all operands and, where there are any, of the second ones."""
    count = max(len(a.parts) for a in operands if isinstance(a, Joint))
    each = [a.parts * (count // len(a.parts)) if isinstance(a, Joint) else (a,) * count for a in operands]
    return Joint(*map(function, *each))


class JointOperations(Operations):
    """The namespace of a joint rule, whose operations are those of another on each part."""

    def __init__(self, each: Any) -> None:
        self.each = each
        self.asked = False
        """Whether the rule has asked for a modulus."""

    def of_arrays(self, part: Part) -> tuple[Rule, Any]:
        """A rule of whole arrays, for complex ones or for each part by itself, and the namespace for it."""
        rule, xp = self.each.of_arrays(part)

        @functools.wraps(rule)
        def of_each_part(xp: Any, *arguments: Any) -> Any:
            found = [rule(xp, *each) for each in each_part(arguments)]
            return tuple(map(Joint, *found)) if isinstance(found[0], tuple) else Joint(*found)

        @functools.wraps(rule)
        def of_complex_arrays(xp: Any, *arguments: Any) -> Any:
            found = rule(xp, *map(self._joined, arguments))
            return tuple(_split(xp, a) for a in found) if isinstance(found, tuple) else _split(xp, found)

        return (of_complex_arrays if part.complex_arrays else of_each_part), xp

    def _joined(self, a: Any) -> Any:
        """An argument of a rule of complex arrays."""
        if not isinstance(a, Joint):
            return a
        return self.each.join(*a.parts) if len(a.parts) == 2 else a.parts[0]

    def smallest_normal(self, a: Any) -> Any:
        return self.each.smallest_normal(a)

    def largest(self, a: Any) -> Any:
        return self.each.largest(a)

    def complex(self, re: Any, im: Any) -> Any:
        self.asked = True
        parts = [a.parts if isinstance(a, Joint) else (a,) for a in (re, im)]
        if max(map(len, parts)) > 1:
            raise RuleError("xp.complex was given a complex element; wanted two numbers or real values")
        return Joint(*(a for (a,) in parts))

    def _total(self, a: Any) -> Any:
        re, im = self._parts(a)
        return a if im is None else Joint(re + im)

    def modulus(self, a: Any) -> Any:
        """`sqrt(re*re + im*im)`, whose squares neither overflow nor lose their digits: they are scaled before.

        All scales are powers of two: u, near the square root of the smallest normal number times its fourth root, makes
        numbers near 1 of the largest, and 1/u such of the smallest ones, subnormal ones, too. Between the limits no
        square of the larger part is near either end of the range.
        """
        re, im = self._parts(a)
        if im is None:
            return self.abs(a)
        xp, least = self.each, self.each.smallest_normal(re)
        low = xp.sqrt(xp.sqrt(least) / 2.0)
        unit = low * xp.sqrt(least)
        larger = xp.where(abs(re) < abs(im), abs(im), abs(re))
        small, huge = larger < low, larger > 1.0 / xp.sqrt(least)
        scale = xp.where(small, 1.0 / unit, xp.where(huge, unit, 1.0))
        back = xp.where(small, unit, xp.where(huge, 1.0 / unit, 1.0))
        re, im = scale * re, scale * im
        return Joint(xp.sqrt(re * re + im * im) * back)

    def _direction(self, a: Any) -> Any:
        if self._parts(a)[1] is None:
            return self.sign(a)
        size = self.modulus(a)
        return self.where(size > 0, a / size, a)

    def _parts(self, a: Any) -> tuple[Any, Any]:
        """Both parts, or one value and None."""
        if not (isinstance(a, Joint) and len(a.parts) == 2):
            return a, None
        self.asked = True
        return a.parts


def _split(xp: Any, a: Any) -> Joint:
    """What a rule of complex arrays gave."""
    return Joint(xp.real(a), xp.imag(a)) if "complex" in str(a.dtype) else Joint(a)


def _on_each_part(name: str) -> Callable[..., Any]:
    def function(self: JointOperations, *operands: Any) -> Any:
        call = getattr(self.each, name)
        return _mapped(call, operands) if any(isinstance(a, Joint) for a in operands) else call(*operands)

    return function


for _name in vars(Operations).keys() - vars(JointOperations).keys() - {"squared_modulus"}:
    if not _name.startswith("_"):
        setattr(JointOperations, _name, _on_each_part(_name))


def parts_of(value: Any, count: int, what: str) -> tuple[Any, ...]:
    """The parts of what a joint rule gave for an array whose elements have so many. Raises RuleError for others."""
    parts = value.parts if isinstance(value, Joint) else (value,) * count
    if len(parts) != count:
        if count == 2:
            raise RuleError(f"{what} gave one real number for a complex element; wanted both parts, scale*x, say")
        raise RuleError(f"{what} gave a complex element for a real slot; wanted xp.squared_modulus of it, say")
    return tuple(parts)


def each_part(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The values for the real parts and for the imaginary ones, if any has both, else once."""
    joint = [a if isinstance(a, Joint) else Joint(a) for a in values]
    count = max(len(a.parts) for a in joint)
    return [*zip(*(a.parts * (count // len(a.parts)) for a in joint), strict=True)]
