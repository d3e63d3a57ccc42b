"""The portable engine: the rule itself, called on the arrays of any library. New arrays come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from anyoptim._arrays import COMPUTE, Array, Library, quiet
from anyoptim._engines._leaf import Commit, Leaf, Result, Rule
from anyoptim._operations import Operations

__all__ = ["compute", "prepare", "start"]


class _Eager(Operations):
    """The operations on arrays of a library, and on numbers of the host."""

    def __init__(self, library: Library, like: Array) -> None:
        self._library, self._like = library, like

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

    def _array(self, a: Any) -> Array:
        return self._library.scalar(a, self._like.dtype, self._like) if isinstance(a, int | float) else a


def prepare(rule: Rule, leaves: Sequence[Leaf]) -> Commit:
    """Compute the step of every leaf, for the commit to write."""
    results = _settled(leaves, compute(rule, leaves))

    def commit() -> list[Result]:
        for leaf, result in zip(leaves, results, strict=True):
            if leaf.destination is not None:
                leaf.library.write(leaf.destination, result.p)
        return results

    return commit


def compute(rule: Rule, leaves: Sequence[Leaf]) -> list[Result]:
    """Apply the rule to each leaf. Nothing that is given is written to."""
    with quiet():
        return [
            (_run_complex if leaf.library.dtype(leaf.p).startswith("complex") else _run_real)(rule, leaf)
            for leaf in leaves
        ]


def _settled(leaves: Sequence[Leaf], results: list[Result]) -> list[Result]:
    """The same with nothing lazy in it."""
    lazy = [i for i, leaf in enumerate(leaves) if leaf.library.lazy]
    if lazy:
        arrays = iter(leaves[lazy[0]].library.settle([a for i in lazy for a in (results[i].p, *results[i].slots)]))
        for i in lazy:
            results[i] = Result(next(arrays), tuple(next(arrays) for _ in results[i].slots))
    return results


def start(
    init: Callable[[Any, Array], tuple[Array, ...]], names: Sequence[str], library: Library, p: Array
) -> tuple[Array, ...]:
    """The first slots of a parameter: `init(xp, p)` of its real form in the compute dtype."""
    xp = library.xp
    name = COMPUTE[library.dtype(p)]
    if name.startswith("complex"):
        real, imag = (start(init, names, library, part(p)) for part in (xp.real, xp.imag))
        return tuple(library.join_complex(re, im, getattr(xp, name)) for re, im in zip(real, imag, strict=True))
    wide = library.guarded(xp.astype(p, getattr(xp, name), copy=False))
    with quiet():
        return _kept(init, init(xp, wide), len(names), library, (wide,))


def _run_complex(rule: Rule, leaf: Leaf) -> Result:
    """A complex parameter is two reals: the rule sees real parts, then imaginary parts."""
    library, p, x, slots, coefficients, _ = leaf
    xp = library.xp
    x = xp.astype(x, p.dtype, copy=False)
    real, imag = (
        _run_real(rule, Leaf(library, part(p), part(x), tuple(part(s) for s in slots), coefficients))
        for part in (xp.real, xp.imag)
    )
    compute = getattr(xp, COMPUTE[library.dtype(p)])
    return Result(
        library.join_complex(real.p, imag.p, p.dtype),
        tuple(library.join_complex(re, im, compute) for re, im in zip(real.slots, imag.slots, strict=True)),
    )


def _run_real(rule: Rule, leaf: Leaf) -> Result:
    library, p, x, slots, coefficients, _ = leaf
    xp = library.xp
    dtype = getattr(xp, COMPUTE[library.dtype(p)])
    wide, x = (library.guarded(xp.astype(a, dtype, copy=False)) for a in (p, x))
    # A traced coefficient may be wider than the compute dtype, and would widen everything.
    row = {k: c if isinstance(c, float | bool | str) else xp.astype(c, dtype) for k, c in coefficients.items()}
    out = rule(_Eager(library, wide), wide, x, *map(library.guarded, slots), **row)
    step, *new = out if isinstance(out, tuple) else (out,)
    moved, *new = _kept(rule, (wide - step, *new), 1 + len(slots), library, (wide, x))
    return Result(xp.astype(moved, p.dtype, copy=False), tuple(new))


def _kept(
    source: Callable[..., Any], results: Any, wanted: int, library: Library, given: tuple[Array, ...]
) -> tuple[Array, ...]:
    """What a user's function gave, as arrays of their own. Raises TypeError, naming it, for what can't be kept."""
    like = given[0]
    if not isinstance(results, tuple) or len(results) != wanted:
        kind = f"{len(results)} arrays" if isinstance(results, tuple) else f"a {type(results).__name__}"
        raise TypeError(f"{source.__qualname__} gave {kind}; wanted a tuple of {wanted}")
    arrays = tuple(map(library.array, results))
    for a in arrays:
        shape, dtype = getattr(a, "shape", None), getattr(a, "dtype", None)
        if shape != like.shape or dtype != like.dtype:
            raise TypeError(
                f"{source.__qualname__} gave a {type(a).__name__} of shape {shape} and dtype {dtype}; "
                f"wanted the shape {tuple(like.shape)} and the dtype {like.dtype} of its parameter"
            )
    # Each slot is an array of its own: not the user's parameter or gradient, and not another slot.
    taken = {id(a) for a in given}
    kept = []
    for a in arrays:
        kept.append(library.xp.asarray(a, copy=True) if id(a) in taken else library.owned(a))
        taken.add(id(a))
    return tuple(kept)
