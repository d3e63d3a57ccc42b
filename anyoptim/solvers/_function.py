"""A user's function: it is called at the parameters as they are, and what it gives is checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from anyoptim._arrays import COMPUTE, Array, is_scalar, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree, reader
from anyoptim._core._optimizer import Optimizer
from anyoptim.solvers._vectors import Space, Vector

__all__ = ["Function", "Point", "ValueAndGrad", "check_function"]

ValueAndGrad = Callable[[Any], tuple[Any, Any]]
"""A function of the parameters, in their container: a number, or an array of one element, and the gradients."""


def check_function(value_and_grad: Any) -> None:
    """Raise TypeError for what is no function: gradients, say, as an optimizer takes them."""
    if not callable(value_and_grad):
        given, wanted = type(value_and_grad).__name__, "a function of params that gives value and gradients"
        raise TypeError(f"value_and_grad is of type {given}; wanted {wanted}")


class Point(NamedTuple):
    """What a function gave at the parameters as they stood."""

    value: float
    gradients: Sequence[Array]
    """One for each parameter that moves."""


class Function:
    """A function of some parameters."""

    def __init__(self, params: Any, engine: str | None) -> None:
        self.engine = engine
        self.tree: Tree = Tree("params", params)
        self.ps: list[checks.Parameter | None] = checks.parameters(self.tree)
        self.owner: list[int] = checks.owners(self.ps)
        checks.no_overlap(self.tree, self.ps, self.owner)
        self.value_and_grad: ValueAndGrad
        self.evaluations: int = 0
        self.outside: tuple[Function, Vector] | None = None
        """Where parameters were before they were put within bounds, until it is known that they may stay there."""
        self.moving: list[int] | None = None
        """The places of the parameters that have a gradient; None before the function was called."""
        self._read: Callable[[Any], Sequence[Any] | None] | None = None
        """What gives the leaves of containers like the parameters', where each is a parameter that moves."""

    @cached_property
    def space(self) -> Space:
        """The parameters that move, once that is known."""
        return Space([p for i in self.moving or () if (p := self.ps[i]) is not None], self.engine)

    @property
    def paths(self) -> list[str]:
        """The keys of each parameter that moves, joined by dots."""
        return [self.tree.paths[i] for i in self.moving or ()]

    def back_outside(self, but: Sequence[int] = ()) -> None:
        """Put parameters where they were before they were put within bounds, but for those at some places."""
        if self.outside is None:
            return
        outer, kept = self.outside
        space, self.outside = outer.space, None
        for k, (i, p) in enumerate(zip(outer.moving or (), space.ps, strict=True)):
            if i in but:
                continue
            if p.writable:
                with quiet(), p.library.on_device_of(p.array):
                    p.library.write(p.array, p.library.xp.astype(kept[k], p.array.dtype, copy=False))
            else:
                space.params[k] = p.array
        outer.put()

    def let_all_move(self) -> None:
        """Let all parameters move, before it is known which of them have a gradient."""
        self.moving = [i for i, p in enumerate(self.ps) if p is not None and self.owner[i] == i]

    def same(self, other: Function) -> bool:
        """Whether another is of the same arrays, where they were in memory, in the same container."""
        mine, theirs = self.tree, other.tree
        if mine.container is not theirs.container or len(mine.leaves) != len(theirs.leaves):
            return False
        leaves, ps = zip(mine.leaves, theirs.leaves, strict=True), zip(self.ps, other.ps, strict=True)
        return all(a is b for a, b in leaves) and all(_place(p) == _place(q) for p, q in ps)

    def take(self, before: Function) -> None:
        """Let the same parameters move. Raises ValueError unless those of `before` are like these."""
        order = self.tree.order(before.tree.spec)
        for i, j in enumerate(order):
            now, was = self.ps[i], before.ps[j]
            kinds = [p and (p.library.name, _shape(p), p.dtype) for p in (now, was)]
            if kinds[0] != kinds[1] or (before.owner[j] == j) != (self.owner[i] == i):
                raise ValueError(
                    f"{self.tree.name(i)} was {kinds[1]} and is {kinds[0]}; wanted a new solver, or restart()"
                )
        self.moving = [i for i, j in enumerate(order) if j in (before.moving or ())]

    def __call__(self) -> Point:
        """The value and the gradients at the parameters as they stand. Raises what `update` raises for gradients."""
        self.evaluations += 1
        given = self.value_and_grad(self.tree.container)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise TypeError(f"value_and_grad gave {_described(given)}; wanted a pair, the value and the gradients")
        return Point(_number(given[0]), self.gradients(given[1]))

    def gradients(self, given: Any, root: str = "grads") -> list[Array]:
        """Gradients in their container as a list, one for each parameter that moves. Raises what `update` raises."""
        xs = self._plain(given)
        if xs is not None:
            return xs
        xs = checks.gradients(self.tree, self.ps, self.owner, given, root)
        moving = [i for i, x in enumerate(xs) if x is not None]
        if self.moving is None:
            self.moving = moving
        elif moving != self.moving:
            i = next(i for i in range(len(xs)) if (i in moving) != (i in self.moving))
            came = "has a gradient, and had none before" if i in moving else "has no gradient, and had one before"
            raise ValueError(f"{self.tree.name(i)} {came}; wanted the same parameters to move at each evaluation")
        if moving == self.owner and self._read is None:
            self._read = reader(self.tree)
        return [x for x in xs if x is not None]

    def _plain(self, given: Any) -> list[Array] | None:
        """Gradients that are without doubt as they were the last time, at a glance; else None."""
        leaves = None if self._read is None else self._read(given)
        if leaves is None:
            return None
        plain = (p.library.is_plain_gradient(x, p.array) for p, x in zip(self.space.ps, leaves, strict=True))
        return [*leaves] if all(plain) else None

    def container(self, vector: Vector) -> Any:
        """A container like the parameters', with a vector in it; zeros for those that do not move."""
        moving, leaves = dict(zip(self.moving or (), vector, strict=True)), []
        for p, o in zip(self.ps, self.owner, strict=True):
            if p is not None:
                with p.library.on_device_of(p.array):
                    array = moving[o] if o in moving else p.library.xp.zeros_like(p.array)
            leaves.append(None if p is None else p.library.rebound(p.given, array))
        return self.tree.build(leaves)

    def mapped(self, name: str, of: Callable[[Any], Any], x: Sequence[Array]) -> Sequence[Array]:
        """What a user's function of gradients, a preconditioner, say, makes of these: one for each that moves.

        Raises what is wrong with it, as of gradients, with a note of its name.
        """
        given = dict(zip(self.moving or (), x, strict=True))
        try:
            found = of(self.tree.build(given.get(i) for i in range(len(self.ps))))
            xs = checks.gradients(self.tree, self.ps, self.owner, found)
            if [i for i, a in enumerate(xs) if a is not None] != self.moving:
                raise ValueError("wanted an array for each gradient, and None for none")
        except Exception as error:
            error.add_note(f"raised by {name}, or for what it gave; wanted a container like its argument")
            raise
        return [a for a in xs if a is not None]

    def updated(self, optimizer: Optimizer, x: Sequence[Array]) -> None:
        """Let an optimizer take a step, with a gradient for each parameter that moves."""
        given, loose = dict(zip(self.moving or (), x, strict=True)), self._loose
        grads = (self.tree if loose is None else loose).build(given.get(i) for i in range(len(self.ps)))
        if loose is None:
            self._renew(Tree("params", optimizer.update(self.tree.container, grads)))
            return
        for i, leaf in enumerate(self.tree.leaves):
            loose.replace(i, leaf)
        self._renew(Tree("params", optimizer.update(loose.container, grads)))
        self.put()

    def _renew(self, tree: Tree) -> None:
        """Take the newest arrays from what an optimizer gave back, where parameters can't be written to."""
        space = self.space
        for k, (i, p) in enumerate(zip(self.moving or (), space.ps, strict=True)):
            space.params[k] = p.array if p.writable else p.library.load(tree.leaves[i])
        if self._loose is None:
            self.tree = tree

    @cached_property
    def _loose(self) -> Tree | None:
        """Containers that can be given other arrays, for an optimizer, where those of the user can't be."""
        tree = self.tree
        held = (p is not None and not p.writable and tree.fixed_by(i) is not None for i, p in enumerate(self.ps))
        return Tree("params", tree.loose()) if any(held) else None

    def put(self) -> None:
        """Put the newest arrays of parameters that can't be written to where a user finds them.

        In their container or, where that can't be given other arrays, in a new one.
        """
        if self.moving is None or all(p.writable for p in self.space.ps):
            return
        newest, tree = dict(zip(self.moving, self.space.params, strict=True)), self.tree
        leaves, fixed = [*tree.leaves], False
        for i, (p, o) in enumerate(zip(self.ps, self.owner, strict=True)):
            if p is not None and not p.writable and o in newest:
                leaves[i] = p.library.rebound(p.given, newest[o])
                fixed = fixed or tree.fixed_by(i) is not None
        if fixed:
            tree.container = tree.build(leaves)
        else:
            for i, (new, old) in enumerate(zip(leaves, tree.leaves, strict=True)):
                if new is not old:
                    tree.replace(i, new)
        tree.leaves = leaves


def _place(p: checks.Parameter | None) -> Any:
    """Where the elements of a parameter were when it was taken, as far as its library tells, and if it was writable."""
    return p and (p.memory, p.dtype, p.writable)


def _shape(p: checks.Parameter) -> tuple[int, ...]:
    """The shape that a parameter had when it was taken: an array may have been given another one since."""
    return tuple(p.array.shape if p.memory is None else p.memory.shape)


def _number(value: Any) -> float:
    """The value of a function as a number of the host. Raises TypeError for what is none."""
    try:
        if is_scalar(value) and not isinstance(value, bool | complex):
            return float(value)
        if hasattr(value, "shape") and math.prod(value.shape) == 1:
            lib = library(value)
            array = lib.load(value)
            dtype = lib.dtype(array)
            if not dtype.startswith("complex"):
                wide = lib.xp.astype(array, getattr(lib.xp, COMPUTE.get(dtype, dtype)))  # bfloat16 is not NumPy's
                return float(lib.to_host(wide).reshape(()))
    except (OverflowError, TypeError):
        pass
    raise TypeError(f"value_and_grad gave {_described(value)} as the value; wanted one real number")


def _described(given: Any) -> str:
    shape = getattr(given, "shape", None)
    return f"{given!r}" if shape is None else f"a {type(given).__name__} of shape {tuple(shape)}"
