"""The operations a rule may use beside operators: what is exact, and the same, on every library and engine."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ALLOWED", "LOGICAL", "OPERATORS", "Inexact", "Operations"]

LOGICAL = frozenset({"less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "and", "or", "not"})
"""The operations whose results are true or false; the others are add, subtract, multiply, divide, negative, sqrt,
abs, where and bound, which takes both its limits."""

OPERATORS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "abs": abs,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
"""The operations that are Python's operators, for numbers and for arrays."""


class Operations:
    """The namespace `xp` that a rule is given. An engine says what `sqrt`, `abs` and `where` are.

    Beside these a rule has the operators `+ - * /`, unary minus, comparisons and `& | ~` on their results. Operations
    on coefficients alone are done in float64.
    `sign`, `minimum` and `maximum` are comparisons, because libraries disagree on signed zeros and NaN:
    `sign(-0.0)` is `-0.0`, a NaN in the first operand wins, and of two zeros the second.
    All act on each part of a complex element by itself, but for `modulus` and `squared_modulus`, which make
    one real number of both parts; this meets each part alike where it is combined with a complex one.
    """

    def sqrt(self, a: Any) -> Any:
        """The square root, element by element."""
        raise NotImplementedError

    def abs(self, a: Any) -> Any:
        """The magnitude, element by element."""
        raise NotImplementedError

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """`a` where the condition holds, else `b`; arrays or coefficients."""
        raise NotImplementedError

    def modulus(self, a: Any) -> Any:
        """Of a complex element one real number, `sqrt(re*re + im*im)`; of a real one its magnitude."""
        return self.abs(a)

    def squared_modulus(self, a: Any) -> Any:
        """Of a complex element one real number, `re*re + im*im`; of a real one its square."""
        return self._total(a * a)

    def _total(self, a: Any) -> Any:
        """Of a complex element one real number, `re + im`; of a real one itself."""
        return a

    def _direction(self, a: Any) -> Any:
        """Of a complex element `a/|a|`, or `a` itself where it is 0; of a real one its sign."""
        return self.sign(a)

    def smallest_normal(self, a: Any) -> Any:
        """The smallest normal number of the dtype of `a`: what is smaller, and not 0, is subnormal."""
        raise NotImplementedError

    def largest(self, a: Any) -> Any:
        """The largest finite number of the dtype of `a`."""
        raise NotImplementedError

    def bound(self, a: Any, limit: Any) -> Any:
        """`a`, but no further from 0 than `limit`, a coefficient above 0. A NaN stays one."""
        return self.where(a < -limit, -limit, self.where(a > limit, limit, a))

    def sign(self, a: Any) -> Any:
        """1, -1, or `a` itself where it is a zero or NaN."""
        return self.where(a > 0, 1.0, self.where(a < 0, -1.0, a))

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller of an array and another, or a coefficient."""
        return self.where((a < b) | (a != a), a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger of an array and another, or a coefficient."""
        return self.where((a > b) | (a != a), a, b)

    def complex(self, re: Any, im: Any) -> Any:
        """The element with these parts, numbers or real values, of a complex parameter; `re` alone, of a real one."""
        return re

    def elementary(self, op: str, *operands: Any) -> Any:
        """`exp`, `log` or `power` of arrays or coefficients, for rules that say `exact = False`."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        more = "; wanted exact = False in the class body of its stage" if hasattr(Inexact, name) else ""
        raise AttributeError(f"it uses xp.{name}{more}")


class Inexact:
    """The namespace `xp` of a rule that says `exact = False`: `Operations`, and what each library rounds as it likes.

    Its bits then depend on the engine, the machine and the memory layout. `xp.sqrt(xp.sqrt(a))`, a power too, does not
    need it.
    """

    def __init__(self, of: Operations) -> None:
        self._of = of

    def exp(self, a: Any) -> Any:
        """Euler's number to the power of `a`, element by element."""
        return self._of.elementary("exp", a)

    def log(self, a: Any) -> Any:
        """The natural logarithm, element by element: -inf of 0, NaN below."""
        return self._of.elementary("log", a)

    def power(self, a: Any, b: Any) -> Any:
        """`a` to the real power `b`, arrays or coefficients: NaN for a negative `a` unless `b` is whole."""
        return self._of.elementary("power", a, b)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


ALLOWED = (
    "a rule is of one element and has + - * /, comparisons, & | ~ on their results, and of xp "
    f"{', '.join(name for name in vars(Operations) if name[0] != '_' and name != 'elementary')}; wanted x*x for x**2, "
    "exact = False for exp, log and power, reductions for what is of all elements, and array_rule = True for a rule of "
    "whole arrays"
)
"""What rules may do, as the messages of errors say it."""
