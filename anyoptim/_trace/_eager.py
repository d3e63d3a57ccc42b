"""The operations of rules on arrays of a library, done at once."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import Array, Library
from anyoptim._trace._expressions import elementary
from anyoptim._trace._operations import Operations
from anyoptim._trace._program import Part, Rule

__all__ = ["Eager"]


_NAMES = {"power": "pow"}
"""The operations that the Array API calls otherwise."""


class Eager(Operations):
    """The operations on arrays of a library, and on numbers of the host."""

    def __init__(self, library: Library, like: Array) -> None:
        self._library, self._like = library, like

    def of_arrays(self, part: Part) -> tuple[Rule, Any]:
        """A rule of whole arrays, and the namespace for it: the library's own."""
        return part.rule, self._library.xp

    def join(self, re: Array, im: Array) -> Array:
        """The complex array with these parts."""
        dtype = {"float32": "complex64", "float64": "complex128"}[self._library.dtype(re)]
        return self._library.join_complex(re, im, getattr(self._library.xp, dtype))

    def sqrt(self, a: Any) -> Any:
        return math.sqrt(a) if isinstance(a, int | float) else self._library.xp.sqrt(a)

    def abs(self, a: Any) -> Any:
        return abs(a) if isinstance(a, int | float) else self._library.xp.abs(a)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):
            return a if condition else b
        if isinstance(condition, int | float) or self._library.dtype(condition) != "bool":
            raise TypeError(f"xp.where was given {condition!r}; wanted a comparison (of coefficients without ~)")
        return self._library.xp.where(condition, self._array(a), self._array(b))

    def elementary(self, op: str, *operands: Any) -> Any:
        if all(isinstance(a, int | float) for a in operands):
            return elementary(op, *operands)
        return getattr(self._library.xp, _NAMES.get(op, op))(*map(self._array, operands))

    def smallest_normal(self, a: Any) -> float:
        return float(self._library.xp.finfo(self._like.dtype).smallest_normal)

    def largest(self, a: Any) -> float:
        return float(self._library.xp.finfo(self._like.dtype).max)

    def _array(self, a: Any) -> Array:
        return self._library.scalar(a, self._like.dtype, self._like) if isinstance(a, int | float) else a
