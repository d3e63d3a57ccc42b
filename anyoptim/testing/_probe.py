"""A loss at other parameters: written where arrays are writable, in other containers where not, and put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._arrays import Array, library, traced
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._arrays._wide import wide

__all__ = ["Probe", "reals"]


class Probe:
    """The loss and its gradient as functions of the elements of one parameter at a time."""

    def __init__(self, value_and_grad: Callable[[Any], Any], params: Any) -> None:
        self._call = value_and_grad
        self.tree = Tree("params", params)
        self.ps = checks.parameters(self.tree)
        self.owner = checks.owners(self.ps)
        checks.no_overlap(self.tree, self.ps, self.owner)
        for i, p in enumerate(self.ps):
            if p is not None and traced(p.given):
                raise TypeError(f"{self.tree.name(i)} is traced; wanted check_grad outside of the transformed function")
        self.evaluations = 0
        self._leaves = list(self.tree.leaves)
        self._saved: dict[int, Array] = {}

    def start(self) -> tuple[float, list[Any]]:
        """The loss, and for each leaf the gradient, None where there is none: where the parameters are now."""
        loss, grads = self._both()
        return loss, checks.gradients(self.tree, self.ps, self.owner, grads)

    def loss(self) -> float:
        """The loss where the parameters are now."""
        return self._both()[0]

    def parameter(self, i: int) -> Parameter:
        """The parameter of a leaf that has one."""
        p = self.ps[i]
        assert p is not None  # noqa: S101 - it has a gradient
        return p

    def elements(self, i: int) -> np.ndarray[Any, Any]:
        """The elements of a parameter as a row of float64 numbers, two for a complex one."""
        p = self.parameter(i)
        return reals(p, p.array)

    def place(self, i: int, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Give a parameter these elements. Returns what rounding leaves of them."""
        p = self.parameter(i)
        values = x.view(np.complex128) if p.dtype.startswith("complex") else x
        with p.library.on_device_of(p.array), quiet():
            new = p.library.from_host(values.reshape(p.array.shape), p.array)
            new = p.library.sharded_like(new, p.array)
        if p.writable:
            if i not in self._saved:
                self._saved[i] = p.library.copied(p.array)
            p.library.write(p.given, new)
        else:
            self._rebind(i, p.library.rebound(p.given, new))
        return reals(p, new)

    def restore(self, i: int) -> None:
        """Give a parameter its own elements again, or its place to itself."""
        p = self.parameter(i)
        if not p.writable:
            self._rebind(i, p.given)
        elif i in self._saved:
            p.library.write(p.given, self._saved.pop(i))

    def _rebind(self, i: int, new: Any) -> None:
        for j, o in enumerate(self.owner):
            if o == i and self.ps[j] is not None:
                value = self.tree.leaves[j] if new is self.parameter(i).given else new
                self._leaves[j] = value
                if self.tree.fixed_by(j) is None:
                    self.tree.replace(j, value)

    def _both(self) -> tuple[float, Any]:
        self.evaluations += 1
        fixed = any(
            now is not was and self.tree.fixed_by(j) is not None
            for j, (now, was) in enumerate(zip(self._leaves, self.tree.leaves, strict=True))
        )
        with quiet():
            given = self._call(self.tree.build(self._leaves) if fixed else self.tree.container)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise TypeError(f"value_and_grad gave {_described(given)}; wanted (loss, grads)")
        loss, grads = given
        shape = tuple(getattr(loss, "shape", ()))
        if shape:
            raise TypeError(f"value_and_grad gave a loss of shape {shape}; wanted one number: a sum or a mean")
        try:
            return float(library(loss).load(loss)), grads  # which torch would not like to be tracked by autograd
        except TypeError:
            raise TypeError(f"value_and_grad gave {_described(loss)} as the loss; wanted one real number") from None


def reals(p: Parameter, x: Array) -> np.ndarray[Any, Any]:
    """The elements of an array that belongs to a parameter, as a new row of float64 numbers, two for a complex one."""
    return wide(p.library, x).reshape(-1).view(np.float64)


def _described(x: Any) -> str:
    text = repr(x)
    return f"a {type(x).__qualname__}, {text if len(text) < 50 else text[:47] + '...'}"
