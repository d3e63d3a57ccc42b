"""Hyperparameters: a number or a schedule, and the domain it must lie in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from anyoptim._arrays import traced
from anyoptim._trace._scalars import whole_number
from anyoptim._trace._symbols import Symbol

if TYPE_CHECKING:
    from dataclasses import KW_ONLY
else:
    KW_ONLY = None  # dataclasses takes time to import, and what follows a `_` is known by that name

__all__ = [
    "KW_ONLY",
    "Check",
    "Count",
    "Domain",
    "Flag",
    "Fraction",
    "Growth",
    "Hyper",
    "Nonnegative",
    "Number",
    "Positive",
    "UnitInterval",
    "Whole",
    "WholeNumber",
    "fraction",
    "nonnegative",
    "number",
    "positive",
    "scheduled",
    "share",
]


class Elements(Protocol):
    """An array of any library."""

    @property
    def shape(self) -> Any:
        """Its shape."""

    @property
    def dtype(self) -> Any:
        """Its dtype."""


Hyper = float | Callable[[int], float] | Elements | Mapping[Any, Any] | list[Any] | tuple[Any, ...]
"""A number, or a schedule: a callable of the step number, which counts from 1; or an array, or a container of both.

>>> rate: ao.Hyper = lambda t: 0.1 / t
>>> ao.SGD(lr=rate).update(1.0, 1.0)
0.9
"""


def scheduled(name: str, value: Any) -> None:
    """Raise TypeError for a schedule that counts from 0: those of `ao.compat.optax` and `.keras`, for their own."""
    if getattr(value, "from_zero", False):
        raise TypeError(
            f"{name} is {value!r}, which counts from 0; wanted a schedule that counts from 1, or this one as the "
            "learning rate of a constructor of its own convention"
        )


class Domain(NamedTuple):
    """The values that a hyperparameter may take.

    >>> from typing import Annotated
    >>> Power = Annotated[ao.Hyper, ao.Domain(lambda x: 1 <= x <= 2, "from 1 to 2")]
    >>> class Powered(ao.Stage):
    ...     exponent: Power = 1.5
    >>> Powered(3.0)
    Traceback (most recent call last):
        ...
    ValueError: exponent is 3.0; wanted from 1 to 2
    """

    holds: Callable[[float], bool]
    """Whether a number is one of them."""
    wanted: str
    """What they are, in words, for messages."""

    def value(self, name: str, value: Any) -> Any:
        """`value` as a float, or as it is where it is traced. Raises TypeError or ValueError with its name."""
        if type(value) is float and self.holds(value):
            return value
        if traced(value) or isinstance(value, Symbol):
            return value
        try:
            # NumPy before 2.4 takes an array of one element for a number.
            none = isinstance(value, bool | str) or getattr(value, "ndim", 0) > 0
            number = float("no number") if none else float(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{name} is {value!r}; wanted a real number, {self.wanted}") from None
        if not self.holds(number):
            raise ValueError(f"{name} is {number}; wanted {self.wanted}")
        return number


nonnegative: Domain = Domain(lambda x: 0 <= x < math.inf, "finite and at least 0")
"""The domain of `Nonnegative`: finite and at least 0.

>>> ao.nonnegative.value("lr", -0.1)
Traceback (most recent call last):
    ...
ValueError: lr is -0.1; wanted finite and at least 0
"""

fraction: Domain = Domain(lambda x: 0 <= x < 1, "at least 0 and below 1")
"""The domain of `Fraction`: at least 0 and below 1.

>>> ao.fraction.value("momentum", 0.9)
0.9
"""

positive = Domain(lambda x: x > 0, "above 0")
share = Domain(lambda x: 0 <= x <= 1, "at least 0 and at most 1")
number = Domain(lambda x: x == x, "a number and not NaN")

Nonnegative = Annotated[Hyper, nonnegative]
"""A hyperparameter that is finite and at least 0: what a stage declares as `lr: Nonnegative = 0.01`.

>>> class Damped(ao.Stage):
...     share: ao.Nonnegative = 0.5
>>> Damped(-1.0)
Traceback (most recent call last):
    ...
ValueError: share is -1.0; wanted finite and at least 0
"""

Fraction = Annotated[Hyper, fraction]
"""A hyperparameter in [0, 1).

>>> class Damped(ao.Stage):
...     share: ao.Fraction = 0.5
>>> Damped(1.0)
Traceback (most recent call last):
    ...
ValueError: share is 1.0; wanted at least 0 and below 1
"""

Positive = Annotated[Hyper, positive]
"""A hyperparameter above 0, which may be infinite.

>>> class Damped(ao.Stage):
...     share: ao.Positive = 0.5
>>> Damped(0.0)
Traceback (most recent call last):
    ...
ValueError: share is 0.0; wanted above 0
"""

UnitInterval = Annotated[Hyper, share]
"""A hyperparameter in [0, 1].

>>> class Damped(ao.Stage):
...     share: ao.UnitInterval = 0.5
>>> Damped(2.0)
Traceback (most recent call last):
    ...
ValueError: share is 2.0; wanted at least 0 and at most 1
"""

Number = Annotated[Hyper, number]
"""A hyperparameter that is any number but NaN.

>>> class Damped(ao.Stage):
...     share: ao.Number = 0.5
>>> Damped(float("nan"))
Traceback (most recent call last):
    ...
ValueError: share is nan; wanted a number and not NaN
"""

Growth = Annotated[Hyper, Domain(lambda x: 1 <= x < math.inf, "finite and at least 1")]
"""A hyperparameter that is finite and at least 1."""

Whole = Annotated[Hyper, Domain(lambda x: x >= 1 and x % 1 == 0, "a whole number and at least 1")]
"""A hyperparameter that counts something, of which there is at least one."""


class WholeNumber:
    """The integers from one on, which a constant may be."""

    def __init__(self, least: int) -> None:
        self.least = least

    def value(self, name: str, value: Any) -> int:
        """`value` as an integer. Raises TypeError or ValueError with its name."""
        return whole_number(name, value, self.least)


Count = Annotated[int, WholeNumber(1)]
"""A constant that counts something, of which there is at least one: `every: Final[Count] = 5`."""


class _Truth:
    """True and False, which a constant may be."""

    def value(self, name: str, value: Any) -> bool:
        """`value` as a bool. Raises TypeError with its name."""
        if type(value).__name__ not in {"bool", "bool_"}:  # NumPy's, too
            raise TypeError(f"{name} is {value!r}; wanted True or False")
        return bool(value)


Flag = Annotated[bool, _Truth()]
"""A constant that is true or false: `joint: Final[Flag] = False`."""

Check = Domain | WholeNumber | _Truth
"""What says which values a field may have."""
