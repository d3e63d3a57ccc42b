"""Parts of arrays as users name them: rows, or windows."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from anyoptim._arrays import Array, Library, is_scalar, library, traced
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._memory import axis_order
from anyoptim._arrays._tree import Name, Tree

__all__ = ["Key", "PartTree", "TakenPart", "alike", "as_key", "by_leaf", "number_of_rows"]

Key: TypeAlias = "slice | np.ndarray[Any, Any] | tuple[Any, ...]"
"""Where a part is: rows, as a slice or as integers from 0, each once; or a window: slices and integers, in a tuple."""

_WANTED = "wanted rows, as a slice, integers or bools of the first axis, or a window, as a tuple of slices"


def by_leaf(tree: Tree, at: Any) -> dict[int, Any]:
    """What a container, which need not name all parameters, has for each leaf. Raises ValueError or TypeError."""
    found: dict[int, Any] = {}
    paths = tree.spec.paths()

    def walk(name: str, node: Any, inside: Sequence[int], depth: int) -> None:
        if node is None:
            return
        if len(paths[inside[0]]) == depth:
            found[inside[0]] = node
            return
        if not isinstance(node, Mapping | list | tuple):
            wanted = "a dict or list like that of params, with a part for each parameter that is not updated whole"
            raise TypeError(f"{name} is a {type(node).__qualname__}; wanted {wanted}")
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            below = [i for i in inside if paths[i][depth] == key]
            if not below:
                named = (
                    ""
                    if isinstance(node, Mapping)
                    else f"; wanted a part beside its key, {{{paths[inside[0]][depth]!r}: ...}}"
                )
                raise ValueError(f"{name}[{key!r}] has no match in params{named}")
            walk(f"{name}[{key!r}]", value, below, depth + 1)

    walk("at", at, range(len(paths)), 0)
    return found


def as_key(name: str, value: Any, of: str, shape: tuple[int, ...]) -> Key:
    """A part of the parameter that errors call `of`, as a key. Raises ValueError or TypeError for what is none."""
    if not shape:
        raise ValueError(f"{name} is given, but {of} has no axis; wanted it as a whole")
    if isinstance(value, tuple):
        return _window(name, value, of, shape)
    if isinstance(value, slice):
        rows = _range(name, value, shape[0])
        return slice(rows.start, rows.stop, rows.step) if rows.step > 0 else np.array(rows, np.int64)
    return _rows(name, value, of, shape[0])


def _range(name: str, value: slice, n: int) -> range:
    try:
        return range(*value.indices(n))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} is {value!r}: {error}") from None


def _rows(name: str, value: Any, of: str, n: int) -> np.ndarray[Any, Any]:
    """Rows as integers from 0 on, each once."""
    if isinstance(value, list | range):
        value = np.asarray(value) if len(value) else np.zeros(0, np.int64)
    if is_scalar(value) or not hasattr(value, "dtype"):
        raise TypeError(f"{name} is {value!r}; {_WANTED}")
    if traced(value):
        raise TypeError(f"{name} is traced; wanted rows whose values are known")
    rows = library(value).to_host(value)
    if rows.dtype.kind == "b" and rows.shape == (n,):
        return np.flatnonzero(rows)
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise TypeError(f"{name} has shape {rows.shape} and dtype {rows.dtype}, of {n} rows; {_WANTED}")
    if not len(rows):
        return np.zeros(0, np.int64)
    for extreme in (rows.min(), rows.max()):
        if not -n <= extreme < n:
            raise ValueError(f"{name} has row {extreme}, but {of} has {n} rows")
    rows = rows.astype(np.int64)
    rows[rows < 0] += n
    ordered = np.sort(rows)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(f"{name} has row {twice[0]} more than once; wanted each once, with the sum of its gradients")
    return rows


def _window(name: str, value: tuple[Any, ...], of: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """A window with an index for each axis, each within it."""
    dots = [k for k, index in enumerate(value) if index is ...]
    given = len(value) - len(dots)
    if len(dots) > 1 or given > len(shape):
        raise ValueError(f"{name} has {given} indices and {len(dots)} ellipses, but {of} has shape {shape}")
    first = dots[0] if dots else given
    rest = (slice(None),) * (len(shape) - given)
    full = (*value[:first], *rest, *value[first + 1 if dots else first :])
    key: list[Any] = []
    for index, n in zip(full, shape, strict=True):
        if isinstance(index, slice):
            elements = _range(name, index, n)
            if elements.step < 1:
                raise ValueError(f"{name} has {index!r}; wanted a step of at least 1")
            key.append(slice(elements.start, elements.stop, elements.step))
            continue
        try:
            number = operator.index(index) if not isinstance(index, bool | np.bool_) else None
        except TypeError:
            number = None
        if number is None:
            raise TypeError(f"{name} has {index!r}; {_WANTED}")
        if not -n <= number < n:
            raise ValueError(f"{name} has {number}, but {of} has shape {shape}")
        key.append(number % n)
    return (*key, ...)  # without which an element would be a number


def number_of_rows(key: Any, n: int) -> int:
    """How many rows, of n, are those of a key."""
    return len(range(*key.indices(n)) if isinstance(key, slice) else key)


def alike(p: Parameter, key: Key) -> Array:
    """An array like the part of a parameter, for its shape."""
    return p.library.part(p.array, key if isinstance(key, tuple) else slice(0, number_of_rows(key, p.array.shape[0])))


class PartTree(Tree):
    """The same container, in which errors call some parameters parts: `params['W'][at['W']]`."""

    def __init__(self, tree: Tree, named: Sequence[int]) -> None:
        vars(self).update(vars(tree))
        self._named = named

    def name(self, i: int, root: str | None = None) -> Name:
        return _PartName(self, i, self.root) if root is None and i in self._named else super().name(i, root)


class _PartName(Name):
    def __str__(self) -> str:
        return f"{super().__str__()}[{self._tree.name(self._i, 'at')}]"


class TakenPart:
    """A part of arrays that is taken out, in pieces of some rows each, to be put back later."""

    def __init__(
        self,
        p: Parameter,
        arrays: Sequence[Array],
        key: Key,
        begins: Sequence[int],
        *,
        write: bool,
        into: Sequence[Array] = (),
    ) -> None:
        """Take it out.

        Args:
            p: the parameter.
            arrays: the parameter's array, and its slots.
            key: where the part is.
            begins: the first row of each piece.
            write: whether it is put back where it was, and what is contiguous stays there; otherwise into copies.
            into: arrays to take it to, where there are some.
        """
        self._p, self._whole, self._key, self._write = p, arrays, key, write
        self._cuts = [slice(a, b, 1) for a, b in itertools.pairwise([*begins, None])]
        lib = p.library
        with lib.on_device_of(p.array):
            for a, out in zip(arrays, into, strict=bool(into)):
                lib.part_to(a, key, out)
            self._parts = [*into] or [lib.part(a, key) for a in arrays]
            both = zip(self._parts, arrays, strict=True)
            self._inside = [write and not into and lib.writable(a) and _lies_in(lib, part, a) for part, a in both]
            if not isinstance(key, np.ndarray) and not into:
                both_known = zip(self._parts, self._inside, strict=True)
                self._parts = [part if inside else lib.copied(part) for part, inside in both_known]
            self.pieces = [*zip(*map(self.cut, self._parts), strict=True)]
            """The pieces of each array, piece by piece."""
        first = zip(self.pieces[0], self._parts, strict=True)
        self.apart = False
        """Whether `put` found all of what it was to put in the arrays that the part was taken to."""
        self._cut = len(begins) == 1 or all(_lies_in(lib, piece, part) for piece, part in first)

    def cut(self, part: Array) -> list[Array]:
        """The pieces of an array like the part."""
        return [part] if len(self._cuts) == 1 else [self._p.library.part(part, cut) for cut in self._cuts]

    def put(self, news: Sequence[Sequence[Array]]) -> list[Array]:
        """Put new pieces, or what was written to those that were taken, into the arrays: these, or others, then.

        Called again after an exception came in its middle, it does no harm.
        """
        lib, found, apart = self._p.library, [], True
        of_pieces = zip(zip(*self.pieces, strict=True), zip(*news, strict=True), strict=True)
        arrays = zip(self._whole, self._parts, self._inside, of_pieces, strict=True)
        for k, (whole, part, inside, (pieces, new)) in enumerate(arrays):
            written = self._cut and all(map(operator.is_, new, pieces))
            apart = apart and written and not inside
            if written and inside:
                found.append(whole)
                continue
            with lib.on_device_of(part):
                values = part if written else new[0] if len(new) == 1 else lib.xp.concat(new, axis=0)
                target = whole if self._write or not lib.writable(whole) else lib.copied(whole)
                given = self._write and not k and self._p.writable  # which autograd of torch knows
                found.append(lib.with_part(self._p.given if given else target, self._key, values))
        self.apart = apart
        return found


def _lies_in(lib: Library, part: Array, whole: Array) -> bool:
    """Whether a part of an array is contiguous, and in the memory of that array."""
    inner, outer = lib.memory(part), lib.memory(whole)
    if inner is None or outer is None or axis_order(inner) is None or axis_order(outer) is None:
        return False
    size = math.prod(outer.shape) * outer.itemsize
    return bool(inner.space == outer.space and 0 <= inner.address - outer.address < size)
