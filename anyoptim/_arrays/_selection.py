"""Patterns of paths, and functions, that select parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import EllipsisType
from typing import Any

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree, listed

__all__ = ["Selection", "Selector", "shown"]

Selector = str | Callable[[str, Array], bool] | EllipsisType
"""A pattern of paths, `where(path, p)`, or `...` for all that nothing else is for.

A path is a parameter's keys, joined by dots: `encoder.0.bias`. In a pattern `*` stands for any part of one key, `?` for
one character of it, and `**` for any number of whole keys, none too: `**.bias`, `encoder.**`, `layer?.W*`.
"""


class Selection:
    """Several selectors, of which each parameter has exactly one: the one that takes it."""

    def __init__(self, owner: str, selectors: Iterable[Any]) -> None:
        self._owner = owner
        self._selectors: dict[Selector, Callable[[str, Array], bool]] = {}
        for selector in selectors:
            if isinstance(selector, str):
                self._selectors[selector] = _matcher(selector)
            elif selector is ...:
                self._selectors[selector] = lambda *_: False  # it takes what nothing else does
            elif callable(selector):
                self._selectors[selector] = selector
            else:
                raise TypeError(
                    f"{owner} has the key {selector!r}; wanted a pattern of paths such as '**.bias', a function of the "
                    "path and the parameter, or ... for all others"
                )
        if not self._selectors:
            raise ValueError(f"{owner} is empty; wanted at least one pattern, or ... for all")

    def __iter__(self) -> Iterator[Selector]:
        return iter(self._selectors)

    def __reduce__(self) -> Any:
        return Selection, (self._owner, [*self._selectors])  # the matchers are closures, which can't be pickled

    def taker(self, path: str) -> Selector | None:
        """The selector of a parameter known by its path alone: the first that takes it, or `...` if it is there.

        Raises whatever a function raises that wants to know more.
        """
        return next((s for s, takes in self._selectors.items() if takes(path, None)), ... if ... in self else None)

    def assign(self, tree: Tree, ps: Sequence[Parameter | None]) -> list[Selector | None]:
        """The selector of each parameter. Raises ValueError, with paths, where there is none or more than one."""
        takers_of: list[list[Selector]] = []
        for i, p in enumerate(ps):
            path = tree.path(i)
            takers = [] if p is None else [s for s, takes in self._selectors.items() if takes(path, p.array)]
            takers_of.append(takers or ([...] if ... in self._selectors else []))
        names = [str(tree.name(i)) for i in range(len(ps))]
        lost = [name for name, p, takers in zip(names, ps, takers_of, strict=True) if p is not None and not takers]
        if lost:
            raise ValueError(f"{self._owner} has nothing for {listed(lost)}; wanted a pattern, or ... for all others")
        twice = [f"{name} ({shown(*takers)})" for name, takers in zip(names, takers_of, strict=True) if len(takers) > 1]
        if twice:
            raise ValueError(f"{self._owner} has more than one pattern for {listed(twice)}; wanted one for each")
        used = {s for p, takers in zip(ps, takers_of, strict=True) if p is not None for s in takers}
        # A pattern that fits nothing is misspelt; a function may well choose nothing: no matrices, say.
        idle = [s for s in self._selectors if s not in used and isinstance(s, str)]
        if idle:
            raise ValueError(f"{self._owner} has {shown(*idle)}, for which there is no parameter among {listed(names)}")
        return [takers[0] if p is not None else None for p, takers in zip(ps, takers_of, strict=True)]


def shown(*selectors: Selector | None) -> str:
    """Selectors as a user would write them."""
    return ", ".join("..." if s is ... else repr(s) for s in selectors)


def _matcher(pattern: str) -> Callable[[str, Array], bool]:
    runs = [""]
    for key in pattern.split("."):
        if key == "**":
            runs.append("")
        else:
            pieces = [re.escape(piece).replace(r"\?", "[^.]") for piece in key.split("*")]
            runs[-1] += _starred(pieces, "[^.]") + r"\."
    matches = re.compile(_starred(runs, r"(?:[^.]*\.)")).fullmatch
    return lambda path, _: matches(f"{path}." if path else "") is not None


def _starred(pieces: Sequence[str], any_: str) -> str:
    """A regular expression: the pieces in a row, and between two of them any number of what `any_` matches.

    Each piece has one length, so that where it fits first is best for all that follow, and no other place is tried:
    trying all takes time that grows with the power of their number.
    """
    first, *others = pieces
    if not others:
        return first
    return first + "".join(f"(?>{any_}*?{piece})" for piece in others[:-1]) + f"{any_}*{others[-1]}"
