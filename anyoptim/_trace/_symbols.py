"""Scalars that a rule or a schedule calculates with before their values are known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from anyoptim._trace._program import MisuseError

__all__ = ["Scalar", "ScalarTape", "Symbol", "Value", "element", "of_host", "operation", "symbol"]


class Scalar(NamedTuple):
    """A host expression: a coefficient (of which part, its name), a number, or an operation on others."""

    op: str
    arguments: tuple[Any, ...]


class ScalarTape:
    """The tape of values that are all scalars: an operation on them is a host expression, and nothing is recorded."""

    def operation(self, op: str, *operands: Any) -> Any:
        """The value of an operation on values of this tape and Python numbers."""
        if op == "not":  # Python's ~True is -2, and true
            raise MisuseError("it uses ~ on coefficients alone; wanted the opposite comparison")
        return Symbol(self, Scalar(op, tuple(self.argument(a) for a in operands)))

    def argument(self, a: Any) -> Any:
        """An operand as it stands in an operation. Raises MisuseError for what is no value of this tape."""
        if isinstance(a, Symbol) and a.tape is self:
            return a.scalar
        if isinstance(a, int | float):
            return Scalar("number", (float(a).hex(),))  # -0.0 and 0.0 are two numbers
        raise MisuseError(f"it uses {a!r}; wanted its own arrays, its coefficients and Python numbers")


def _binary(op: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    def left(self: Any, other: Any) -> Any:
        if isinstance(other, Value) and other.joins and not self.joins:
            return NotImplemented
        return self.tape.operation(op, self, other)

    def right(self: Any, other: Any) -> Any:
        return self.tape.operation(op, other, self)

    return left, right


class Value:
    """A value of a tape, whose operators are operations of the tape."""

    joins: ClassVar[bool] = False
    """Whether it has values of another tape as its parts, and does what is done to them."""

    __array_ufunc__ = None  # a NumPy scalar beside it leaves the operation to it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tape: ScalarTape) -> None:
        self.tape = tape

    __add__, __radd__ = _binary("add")
    __sub__, __rsub__ = _binary("subtract")
    __mul__, __rmul__ = _binary("multiply")
    __truediv__, __rtruediv__ = _binary("divide")
    __and__, __rand__ = _binary("and")
    __or__, __ror__ = _binary("or")
    __lt__, _ = _binary("less")
    __le__, _ = _binary("less_equal")
    __gt__, _ = _binary("greater")
    __ge__, _ = _binary("greater_equal")
    __eq__, _ = _binary("equal")
    __ne__, _ = _binary("not_equal")

    def __neg__(self) -> Any:
        return self.tape.operation("negative", self)

    def __abs__(self) -> Any:
        return self.tape.operation("abs", self)

    def __invert__(self) -> Any:
        return self.tape.operation("not", self)

    def __bool__(self) -> bool:
        raise MisuseError(
            "it branches on a value that is known only when it runs; wanted xp.where(...), "
            "or a coefficient that is a bool or a string, which is a static option"
        )

    __float__ = __int__ = __index__ = __bool__

    def __pow__(self, other: Any) -> Any:
        raise MisuseError(
            "it uses **; wanted x*x for x**2, xp.sqrt, xp.power, or a coefficient that is the power of others"
        )

    __rpow__ = __pow__

    def __getitem__(self, key: Any) -> Any:
        raise MisuseError(f"it takes [{key!r}] of an array; wanted a rule of one element, or array_rule = True")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name if name.startswith("__") else f"it uses .{name}")

    def __iadd__(self, other: Any) -> Any:
        raise MisuseError("it writes to what it was given; wanted m = m + x, and not m += x")

    __isub__ = __imul__ = __itruediv__ = __iadd__


class Symbol(Value):
    """A number whose value is not known yet: a coefficient in a trace, or what only a device knows."""

    def __init__(self, tape: ScalarTape, scalar: Scalar) -> None:
        super().__init__(tape)
        self.scalar = scalar


class _HostTape(ScalarTape):
    """The tape of numbers that only a device knows, and of elements of arrays that are read; they belong to no rule."""

    def argument(self, a: Any) -> Any:
        # Under `jax.jit` they meet 0-d arrays.
        return Scalar("traced", (a,)) if hasattr(a, "dtype") and not isinstance(a, Value) else super().argument(a)


_HOST = _HostTape()


def symbol(place: int) -> Symbol:
    """The number that stands in this place on the device: a norm, a count of replays."""
    return of_host(Scalar("device", (place,)))


def of_host(scalar: Scalar) -> Symbol:
    """The value of an expression of such numbers and elements."""
    return Symbol(_HOST, scalar)


@functools.cache
def element(place: int, name: str) -> Symbol:
    """The element of an array that is given for a hyperparameter of this name: its place among those that are read."""
    return of_host(Scalar("element", (place, name)))


def operation(op: str, *operands: Any) -> Any:
    """An operation that is no operator, on such numbers and others of the host."""
    return _HOST.operation(op, *operands)
