"""What a stage may ask of its parameters' elements, all together or of each parameter: a norm, a sum, a maximum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyoptim._trace._exact_sum import Kind, largest, norm, total

__all__ = ["Count", "Dot", "Max", "Norm", "Reduction", "Size", "Sum", "Total"]

Function = Callable[..., Any]
"""`f(xp, p, x, *slots)`, for one element; a stage that is shown the gradient g is given it after x."""

Over = Literal["all", "each"]


@dataclass(frozen=True, repr=False)
class Reduction(ABC):
    """A number that a stage asks for before its rule runs: `Norm`, `Dot`, `Sum`, `Max`, `Count` or `Size`.

    The functions are like rules, of one element: `f(xp, p, x, *slots)`, with the gradient after x for a
    `GradientStage`; for a `ParameterStage` p is the parameter after its step. `over="all"` goes over the elements of
    all parameters that move at this step, `over="each"` over those of each parameter by itself. A complex element is
    two, or one where the function gives one real number, such as its modulus. Numbers of all parameters go to
    `update_scalars` and `coefficients`, those of each to `coefficients`:

    >>> class Bounded(ao.Stage):
    ...     bound: ao.Positive
    ...     reductions = {"top": ao.Max(lambda xp, p, x: xp.abs(x))}
    ...
    ...     @staticmethod
    ...     def coefficients(t, hyper):
    ...         return {"scale": hyper.bound / ao.scalars.maximum(hyper.top, hyper.bound)}
    ...
    ...     @staticmethod
    ...     def rule(xp, p, x, c):
    ...         return x * c.scale
    >>> ao.chain(Bounded(1.0), ao.SGD(lr=1.0)).update(np.zeros(2), np.array([4.0, -2.0]))
    array([-1. ,  0.5])

    The value is a float; under `jax.jit`, and in `step` on Dask, a 0-d array. Its bits depend neither on the order
    of elements nor on how they are cut into arrays, on the engine or on the library, but for JAX without x64, which
    adds in float32. On a CUDA device a `Norm` of all parameters is a symbol: what `coefficients` makes of it by
    arithmetic is computed there, and where they ask for more (a branch, a function of `math`), the device is waited
    for, as for all other reductions. Stages that ask the same take one pass, but in chains with a rule of whole
    arrays.
    """

    functions: tuple[Function, ...]
    """The functions of an element: two are multiplied, in float64."""
    over: Over
    kind: Kind
    """What is done with the values of the functions."""

    def __post_init__(self) -> None:
        for function in self.functions:
            if not callable(function):
                wanted = "wanted a function of xp, p, x and the slots"
                raise TypeError(f"{type(self).__name__} was given {function!r}; {wanted}")
        if self.over not in ("all", "each"):
            raise ValueError(f"{type(self).__name__} was given over={self.over!r}; wanted 'all' or 'each'")

    def __repr__(self) -> str:
        given = [getattr(function, "condition", function) for function in self.functions]
        return f"{type(self).__name__}({', '.join([*map(repr, given), f'over={self.over!r}'])})"

    @abstractmethod
    def value(self, xp: Any, rows: Sequence[Any]) -> Any:
        """The number, from what is known of all parts of the elements."""


class Norm(Reduction):
    """The 2-norm, `sqrt(sum of f*f)`; 0.0 of no elements. Neither over- nor underflows where float64 holds the norm.

    >>> class Told(ao.Stage):
    ...     reductions = {"norm": ao.Norm(lambda xp, p, x: x)}
    ...     coefficients = staticmethod(lambda t, hyper: print(hyper.norm) or {})
    ...     rule = staticmethod(lambda xp, p, x, c: x)
    >>> w = ao.chain(Told(), ao.SGD()).update(np.zeros(2), np.array([3.0, 4.0]))
    5.0
    """

    def __init__(self, of: Function, over: Over = "all") -> None:
        super().__init__((of,), over, "squares")

    def value(self, xp: Any, rows: Sequence[Any]) -> Any:
        """The number, from what is known of all parts of the elements."""
        return norm(xp, rows)


class Total(Reduction):
    """A sum of squares or of terms."""

    def value(self, xp: Any, rows: Sequence[Any]) -> Any:
        """The number, from what is known of all parts of the elements."""
        return total(xp, rows, self.kind)


class Sum(Total):
    """The sum of f, which is computed in the compute dtype of its parameter; 0.0 of no elements.

    >>> class Told(ao.Stage):
    ...     reductions = {"total": ao.Sum(lambda xp, p, x: xp.abs(p))}
    ...     coefficients = staticmethod(lambda t, hyper: print(hyper.total) or {})
    ...     rule = staticmethod(lambda xp, p, x, c: x)
    >>> w = ao.chain(Told(), ao.SGD()).update(np.array([1.0, -2.0]), np.zeros(2))
    3.0
    """

    def __init__(self, of: Function, over: Over = "all") -> None:
        super().__init__((of,), over, "terms")


class Dot(Total):
    """The inner product, the sum of f*g: products are of float64, where those of float32 are exact; 0.0 of no elements.

    `Dot(f, f)` is the square of `Norm(f)`: nothing over- or underflows on the way to it.

    >>> class Told(ao.Stage):
    ...     reductions = {"along": ao.Dot(lambda xp, p, x: p, lambda xp, p, x: x)}
    ...     coefficients = staticmethod(lambda t, hyper: print(hyper.along) or {})
    ...     rule = staticmethod(lambda xp, p, x, c: x)
    >>> w = ao.chain(Told(), ao.SGD()).update(np.array([1.0, -2.0]), np.array([0.5, 1.0]))
    -1.5
    """

    def __init__(self, of: Function, by: Function, over: Over = "all") -> None:
        super().__init__(*(((of,), over, "squares") if of is by else ((of, by), over, "terms")))


class Count(Total):
    """How many elements meet a condition: f gives a comparison.

    >>> class Told(ao.Stage):
    ...     reductions = {"zeros": ao.Count(lambda xp, p, x: p == 0)}
    ...     coefficients = staticmethod(lambda t, hyper: print(hyper.zeros) or {})
    ...     rule = staticmethod(lambda xp, p, x, c: x)
    >>> w = ao.chain(Told(), ao.SGD()).update(np.array([0.0, 1.0, 0.0]), np.zeros(3))
    2.0
    """

    def __init__(self, of: Function, over: Over = "all") -> None:
        super().__init__((_Ones(of) if callable(of) else of,), over, "terms")


@dataclass(frozen=True)
class _Ones:
    """1 where a condition is met, and 0 elsewhere."""

    condition: Function

    def __call__(self, xp: Any, *values: Any) -> Any:
        return xp.where(self.condition(xp, *values), 1.0, 0.0)


class Size(Total):
    """The number of elements, for which nothing is read; a complex one counts as two.

    >>> class Told(ao.Stage):
    ...     reductions = {"size": ao.Size()}
    ...     coefficients = staticmethod(lambda t, hyper: print(hyper.size) or {})
    ...     rule = staticmethod(lambda xp, p, x, c: x)
    >>> w = ao.chain(Told(), ao.SGD()).update(np.zeros((2, 3)), np.zeros((2, 3)))
    6.0
    """

    def __init__(self, over: Over = "all") -> None:
        super().__init__((), over, "terms")


class Max(Reduction):
    """The largest f; -inf of no elements, NaN where an element is. A zero is 0.0, whatever its sign.

    >>> class Told(ao.Stage):
    ...     reductions = {"largest": ao.Max(lambda xp, p, x: xp.abs(x))}
    ...     coefficients = staticmethod(lambda t, hyper: print(hyper.largest) or {})
    ...     rule = staticmethod(lambda xp, p, x, c: x)
    >>> w = ao.chain(Told(), ao.SGD()).update(np.zeros(2), np.array([3.0, -4.0]))
    4.0
    """

    def __init__(self, of: Function, over: Over = "all") -> None:
        super().__init__((of,), over, "largest")

    def value(self, xp: Any, rows: Sequence[Any]) -> Any:
        """The number, from what is known of all parts of the elements."""
        return largest(xp, rows)
