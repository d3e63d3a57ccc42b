"""Callbacks: functions that are called with the result so far after each step, put together, and one that stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyoptim._arrays import is_scalar, library
from anyoptim._arrays._tree import Tree
from anyoptim._search._result import Result
from anyoptim._trace._scalars import whole_number

__all__ = ["Callbacks", "Store"]

Callback = Callable[[Result], object]
"""What is called with the result so far after each step; it may raise StopIteration to end the run."""


class Callbacks:
    """Several callbacks as one: each is called, in order, and the run ends if one of them raises StopIteration.

    >>> ao.solvers.Callbacks(print, ao.solvers.Store(every=10))
    Callbacks(<built-in function print>, Store(every=10))
    """

    def __init__(self, *callbacks: Callback) -> None:
        for i, callback in enumerate(callbacks):
            if not callable(callback):
                raise TypeError(f"callback {i} is {callback!r}; wanted a function of a result")
        self.callbacks = callbacks

    def __call__(self, result: Result) -> None:
        """Call them all."""
        ended = False
        for callback in self.callbacks:
            try:
                callback(result)
            except StopIteration:
                ended = True
        if ended:
            raise StopIteration

    def __repr__(self) -> str:
        return f"Callbacks({', '.join(map(repr, self.callbacks))})"


class Store:
    """A callback that keeps copies of the parameters: `params[10]` are those after step 10.

    Args:
        every: it keeps those after each step whose number this divides, at least 1.

    >>> store = ao.solvers.Store(every=10)
    >>> w = {"w": np.ones(2)}
    >>> store(ao.solvers.Result(w, 1.0, 10, 12, False, "", ao.solvers.History()))
    >>> w["w"][:] = 0
    >>> store.params
    {10: {'w': array([1., 1.])}}
    """

    def __init__(self, every: int = 1) -> None:
        self.every: int = whole_number("every", every)
        self.params: dict[int, Any] = {}
        """The copies, in containers like the one of the parameters, by the number of steps."""

    def __call__(self, result: Result) -> None:
        """Keep a copy, if it is time."""
        if result.steps % self.every == 0:
            tree = Tree("params", result.params)
            copies = [x if x is None or is_scalar(x) else library(x).copied(x) for x in tree.leaves]
            self.params[result.steps] = tree.build(copies)

    def __repr__(self) -> str:
        return f"Store(every={self.every})"
