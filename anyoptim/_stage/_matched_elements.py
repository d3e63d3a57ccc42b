"""Hyperparameters that are given element by element, matched with the parameters that they are for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import Array, library, traced
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import MISSING, Tree, reader
from anyoptim._stage._elements import by_element, is_array, real_array
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Domain, Hyper

__all__ = ["Elements", "OfParameter"]

Place = tuple[int, str]
"""The place of a stage, and the name of one of its hyperparameters."""


class OfParameter(NamedTuple):
    """What is given for one parameter."""

    numbers: tuple[tuple[Place, Hyper], ...] = ()
    arrays: tuple[Place, ...] = ()
    """Where arrays are given, in the order of `reads`."""
    reads: tuple[Array, ...] = ()


class Elements:
    """All that is given element by element, for the parameters of one container."""

    def __init__(self, stages: Sequence[Stage], tree: Tree, *, to_host: bool) -> None:
        """Match what the stages have with the parameters; if `to_host`, NumPy's arrays are made of all others."""
        self._to_host = to_host
        self._domains: dict[Place, Domain] = {}
        self._whole: dict[Place, str] = {}
        """The stages that work on whole arrays, by name, and so take arrays as their learning rate alone."""
        self._columns: dict[Place, Any] = {}
        self._containers: list[tuple[Callable[[Any], Sequence[Any] | None], Any, Sequence[Any]]] = []
        self._places: list[tuple[Callable[[Array], object], Array, object]] = []
        """What tells whether an array lies where it lay, and what it told."""
        for k, stage in enumerate(stages):
            for name in stage.hyperparameters:
                value = getattr(stage, name)
                if by_element(value):
                    self._domains[k, name] = stage.hyperparameters[name]
                    if stage.array_rule:
                        self._whole[k, name] = type(stage).__name__
                    self._columns[k, name] = tree.covered(f"{type(stage).__name__}.{name}", value)
                    given = Tree(name, value)
                    self._containers.append((reader(given), value, given.leaves))

    def __bool__(self) -> bool:
        return bool(self._columns)

    def of(self, tree: Tree, i: int, p: Parameter, stages: Sequence[int]) -> OfParameter:
        """What is given for a parameter that goes through these stages. Raises TypeError or ValueError for misfits."""
        numbers, places, reads = [], [], []
        for place, column in self._columns.items():
            if place[0] not in stages:
                continue
            value, label = column[i]
            if value is MISSING:
                raise ValueError(f"{label} is missing; wanted a number or an array for {tree.name(i)}")
            if value is None:
                raise ValueError(f"{label} is None but {tree.name(i)} is not; wanted a number or an array")
            if is_array(value) or traced(value):
                if place in self._whole and (place[1] != "lr" or p.dtype.startswith("complex")):
                    raise TypeError(
                        f"{label} is an array, but {self._whole[place]} works on whole ones; wanted a number"
                    )
                places.append(place)
                reads.append(self._array(tree.name(i), p, value, label))
            else:
                number = self._domains[place].value(str(label), value)
                numbers.append((place, value if hasattr(value, "ndim") else number))
        return OfParameter(tuple(numbers), tuple(places), tuple(reads))

    def check_tied(self, tree: Tree, first: int, i: int) -> None:
        """Raise ValueError where one array has two names, and other values are given under the second."""
        for column in self._columns.values():
            (a, a_label), (b, b_label) = column[first], column[i]
            if not (a is b or (not is_array(a) and not is_array(b) and bool(a == b))):
                raise ValueError(
                    f"{tree.name(first)} and {tree.name(i)} are one array; wanted one value for both, in "
                    f"{a_label} and {b_label}"
                )

    def _array(self, name: Any, p: Parameter, given: Any, label: Any) -> Array:
        """An array as engines take it."""
        own, x = real_array(label, given)
        if self._to_host:
            x = own.to_host(x)
            own = library(x)
        if own is not p.library:
            raise TypeError(f"{label} is a {own.name} array but {name} is a {p.library.name} array; wanted one library")
        if tuple(x.shape) != tuple(p.array.shape) and is_array(given):
            raise ValueError(f"{name} has shape {tuple(p.array.shape)} but {label} has shape {tuple(x.shape)}")
        if not checks.on_one_device(p, x):
            raise ValueError(f"{name} is on device {own.device(p.array)} but {label} is on device {own.device(x)}")
        if not (own.immutable or own.lazy):
            tell = own.memory if own.address(given) is None else own.address  # which is quicker
            self._places.append((tell, given, tell(given)))
        return own.sharded_like(x, p.array)

    def same(self) -> bool:
        """Whether the containers hold what they held, and the arrays lie where they lay. Their values may be others."""
        for read, container, leaves in self._containers:
            now = read(container)
            if now is None or not all(map(operator.is_, now, leaves)):
                return False
        return all(tell(x) == told for tell, x, told in self._places)
