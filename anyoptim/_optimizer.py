"""Optimizer: init, step and update. Nothing numeric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from anyoptim import _checks as checks
from anyoptim._arrays import Array, is_scalar, traced
from anyoptim._checks import Parameter
from anyoptim._engines import Leaf, Result, compute, known, prepare, start
from anyoptim._hyperparameters import Domain
from anyoptim._scalars import count
from anyoptim._tree import Tree

__all__ = ["Optimizer", "State"]


class State(NamedTuple):
    """What an optimizer remembers between steps, as plain containers: any tree library can walk it."""

    step: Any
    """The number of steps taken. Schedules are called with the number of the step at hand, one more."""
    t: Any
    """For each parameter the number of steps that it took part in, in a container like `params`."""
    slots: dict[str, Any]
    """For each slot a container like `params` of arrays in the compute dtype: `state.slots["m"]["W1"]`."""


class _Flat(NamedTuple):
    """A `State` as lists over leaves."""

    step: Any
    t: list[Any]
    slots: list[tuple[Array, ...] | None]


class Optimizer:
    """The base of all methods: a subclass gives its slots, its coefficients and its rule.

    ::

        class Momentum(Optimizer):
            hyperparameters = {"lr": nonnegative, "momentum": fraction}
            slots = ("v",)

            def __init__(self, lr=0.01, momentum=0.9, *, engine=None):
                super().__init__(engine=engine, lr=lr, momentum=momentum)

            @staticmethod
            def coefficients(t, *, lr, momentum):
                return {"lr": lr, "momentum": momentum}

            @staticmethod
            def rule(xp, p, x, v, *, lr, momentum):
                v = momentum * v - lr * x
                return -v, v  # the step, which the engine subtracts from p, and the new slots

    A rule computes new values and writes to nothing that it is given (`m = beta*m`, not `m *= beta`). An engine may
    call it once, with values that only record what is done to them, and run the record ever after: so it has no
    side effects, reads nothing but its arguments, and branches on nothing but coefficients that are bools or strings.
    Hyperparameters are plain attributes, read at every step. Each is a number or a schedule, a callable
    of the step number, which counts from 1.

    `engine` names the machine that runs the rule: `blocked` (NumPy arrays that can be written to) or `portable` (all);
    None chooses the fastest for each parameter, and what an engine can't take, the portable one does. The results
    are the same bits.
    """

    hyperparameters: ClassVar[Mapping[str, Domain]] = {}
    """The attributes that are read at every step, and what each may be."""

    slots: ClassVar[tuple[str, ...]] = ()
    """The names of the arrays kept for each parameter."""

    coefficients: ClassVar[Callable[..., dict[str, Any]]] = staticmethod(lambda _, **hyperparameters: hyperparameters)
    """`coefficients(t, **hyperparameters)`: what the rule needs beside arrays, in float64 on the host.

    t is the parameter's own count of steps, from 1; the hyperparameters are this step's values. As it stands
    here, the coefficients are the hyperparameters.
    """

    rule: Callable[..., Any]
    """`rule(xp, p, x, *slots, **coefficients)`: the step, or the step and the new slots, for one element."""

    def __init__(self, *, engine: str | None = None, **hyperparameters: Any) -> None:
        if set(hyperparameters) != set(self.hyperparameters):
            raise TypeError(
                f"{type(self).__name__} was given {', '.join(hyperparameters) or 'no hyperparameters'}; "
                f"wanted {', '.join(self.hyperparameters) or 'none'}"
            )
        if getattr(self.rule, "__self__", None) is self:
            raise TypeError(f"{type(self).__name__}.rule reads self; wanted a staticmethod, of its arguments alone")
        self.engine = engine
        for name, value in hyperparameters.items():
            setattr(self, name, value)
        self._memory: _Memory | None = None
        self._seen: _Seen | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        domain = self.hyperparameters.get(name)
        if domain is not None and not callable(value):
            domain.value(name, value)
        if name == "engine":
            known(value)
        elif domain is None and not name.startswith("_") and not hasattr(type(self), name):
            # A misspelt hyperparameter would be ignored in silence.
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; its hyperparameters are {', '.join(self.hyperparameters)}"
            )
        super().__setattr__(name, value)

    def __copy__(self) -> Self:
        return deepcopy(self)  # two optimizers over the same slots would be one

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None}  # the parameters are the caller's to copy and to save

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.hyperparameters)
        return f"{type(self).__name__}({values})"

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """The slots of one real parameter, given in its compute dtype: zeros, unless a method says otherwise.

        A tuple of arrays of that shape and dtype, one for each name in `slots`.
        """
        return tuple(xp.zeros_like(p) for _ in self.slots)

    def update(self, params: Any, grads: Any) -> Any:
        """Take one step with `params`, in place, and return `params`.

        `params` is a dict, list, tuple, any nest of them, or a bare array; `grads` has the same keys and shapes.
        Arrays are written in place where they are writable and replaced in their container where they are
        not (JAX, Dask, read-only NumPy, Python floats). A bare array that can't be written comes back as
        another: `w = optimizer.update(w, g)`. A gradient that is None leaves its parameter, its slots and its
        step count alone. An array under two names is one parameter, takes one gradient and moves once.

        Dtypes: real or complex floating. Arithmetic and slots have at least float32; a gradient of another
        real dtype is cast. A complex parameter is two reals, its gradient dL/dRe + i*dL/dIm, as torch gives
        it (the conjugate of JAX's). Dask results are computed (persisted) at once.

        Raises ValueError (keys, shapes, devices, memory, hyperparameters) or TypeError (types, libraries,
        dtypes; also arrays that are traced, as under `jax.jit`) with the key, before anything is written.
        """
        tree = Tree("params", params)
        seen, memory = self._recall(tree)
        ps, owner = seen
        xs = checks.gradients(tree, ps, owner, grads)
        leaves, flat = self._leaves(ps, xs, memory.flat)
        _refuse_traced(tree, leaves)
        commit = prepare(self.engine, self.rule, list(leaves.values()))
        # What could fail has not.
        results = dict(zip(leaves, commit(), strict=True))
        for i, p in enumerate(ps):
            if p is not None and not p.writable and owner[i] in results:
                tree.replace(i, p.library.rebound(p.given, results[owner[i]].p))
        self._memory = memory._replace(flat=_stepped(flat, results, owner))
        # Of those that were replaced, this would keep the old arrays alive.
        if seen is not self._seen:
            self._seen = seen if _still([p and p.given for p in ps], seen) else None
        return tree.container

    @property
    def state(self) -> State | None:
        """What `update` remembers, in the form that `init` gives and `step` takes; None before the first update.

        Its arrays are the optimizer's own: to be read and not to be written to, and the next `update` may change them.
        """
        return None if self._memory is None else self._pack(self._memory.spec, self._memory.flat)

    def init(self, params: Any) -> State:
        """The state before the first `step`: no steps taken, slots as the method starts them."""
        tree = Tree("params", params)
        return self._pack(tree.spec, self._start(checks.parameters(tree)))

    def step(self, params: Any, grads: Any, state: State) -> tuple[Any, State]:
        """The pure form of `update`: new parameters and a new state, and nothing written.

        Works under `jax.jit` and on lazy arrays, in containers of any kind. Raises like `update`. Gives plain arrays,
        without a graph for torch's autograd, for subclasses such as `nn.Parameter`.

        Under `jax.jit` hyperparameters are read once, when the function is compiled, so that what shall change must
        be a schedule, or an argument (`lambda p, g, s, lr: Adam(lr=lr).step(p, g, s)`); and one array under two
        names is two parameters there, because JAX hands it over twice.
        """
        tree = Tree("params", params)
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        xs = checks.gradients(tree, ps, owner, grads)
        leaves, flat = self._leaves(ps, xs, self._unpack(tree, ps, state))
        results = dict(zip(leaves, compute(self.rule, list(leaves.values())), strict=True))
        new = [
            leaf if p is None or owner[i] not in results else p.library.rebound(leaf, results[owner[i]].p)
            for i, (leaf, p) in enumerate(zip(tree.leaves, ps, strict=True))
        ]
        return tree.build(new), self._pack(tree.spec, _stepped(flat, results, owner))

    def _leaves(
        self, ps: Sequence[Parameter | None], xs: Sequence[Array | None], flat: _Flat
    ) -> tuple[dict[int, Leaf], _Flat]:
        """The parameters that move, by index, each with its row of coefficients; and the counts after the step."""
        step = flat.step + 1
        hyperparameters = self._hyperparameters(step)
        rows: dict[int, dict[str, Any]] = {}
        t = list(flat.t)
        leaves = {}
        for i, (p, x) in enumerate(zip(ps, xs, strict=True)):
            if p is None or x is None:
                continue
            t[i] = t[i] + 1
            row = rows.get(t[i]) if isinstance(t[i], int) else None
            if row is None:
                row = {k: _number(c) for k, c in self.coefficients(t[i], **hyperparameters).items()}
                if isinstance(t[i], int):
                    rows[t[i]] = row
            leaves[i] = Leaf(p.library, p.array, x, flat.slots[i] or (), row, p.given if p.writable else None)
        return leaves, flat._replace(step=step, t=t)

    def _hyperparameters(self, step: Any) -> dict[str, Any]:
        """The values at this step, schedules called."""
        values = {}
        for name, domain in self.hyperparameters.items():
            value = getattr(self, name)
            if callable(value):
                values[name] = domain.value(f"{name}, from its schedule at step {step},", value(step))
            else:
                values[name] = domain.value(name, value)
        return values

    def _start(self, ps: Sequence[Parameter | None]) -> _Flat:
        slots = [None if p is None else start(self.init_slots, self.slots, p.library, p.array) for p in ps]
        return _Flat(0, [None if p is None else 0 for p in ps], slots)

    def _recall(self, tree: Tree) -> tuple[_Seen, _Memory]:
        """The parameters, checked, and what the last update left of them.

        Raises like `update`, if they can't be updated, or are not those of the first update.
        """
        seen, last = self._seen, self._memory
        if seen is not None and last is not None and tree.spec == last.spec and _still(tree.leaves, seen):
            return seen, last
        ps = checks.parameters(tree)
        seen = _Seen(ps, checks.owners(ps))
        checks.rebindable(tree, *seen)
        checks.separate(tree, *seen)
        signature = seen.signature()
        if last is None:
            return seen, _Memory(tree.spec, signature, self._start(ps))
        order = tree.order(last.spec)
        before, t, slots = ([of[i] for i in order] for of in (last.signature, last.flat.t, last.flat.slots))
        for i, (was, now) in enumerate(zip(before, signature, strict=True)):
            if was != now:
                raise ValueError(
                    f"{tree.name(i)} is {_described(now)}, but was {_described(was)} at the first update; "
                    "wanted a new optimizer"
                )
        for i, (p, slots_of) in enumerate(zip(ps, slots, strict=True)):
            for name, s in zip(self.slots, slots_of or (), strict=False):
                if p is not None and not checks.together(p, s):
                    raise ValueError(
                        f"{tree.name(i)} is on device {p.library.device(p.array)} but its slot {name!r} is on "
                        f"{p.library.device(s)}; wanted a new optimizer after a move"
                    )
        return seen, _Memory(tree.spec, signature, _Flat(last.flat.step, t, slots))

    def _pack(self, spec: Any, flat: _Flat) -> State:
        build = spec.unflatten
        slots = {name: build([None if of is None else of[k] for of in flat.slots]) for k, name in enumerate(self.slots)}
        return State(flat.step, build(flat.t), slots)

    def _unpack(self, tree: Tree, ps: Sequence[Parameter | None], state: State) -> _Flat:
        if not isinstance(state, State):
            raise TypeError(f"state is a {type(state).__qualname__}; wanted the State that init(params) gives")
        if set(state.slots) != set(self.slots):
            raise ValueError(f"state.slots has {sorted(state.slots)}; wanted {sorted(self.slots)} for {self!r}")
        counts = tree.match("state.t", state.t)
        t = [None if p is None else count(str(tree.name(i, "state.t")), counts[i]) for i, p in enumerate(ps)]
        by_name = [tree.match(f"state.slots[{name!r}]", state.slots[name]) for name in self.slots]
        slots = [
            None
            if p is None
            else tuple(
                checks.slot(tree.name(i, f"state.slots[{name!r}]"), of[i], tree.name(i), p)
                for name, of in zip(self.slots, by_name, strict=True)
            )
            for i, p in enumerate(ps)
        ]
        return _Flat(count("state.step", state.step), t, slots)


class _Memory(NamedTuple):
    """What `update` keeps."""

    spec: Any
    signature: list[tuple[Any, ...] | None]
    """What may not change of each parameter."""
    flat: _Flat


class _Seen(NamedTuple):
    """Parameters that passed all checks. While they are the same arrays, none is repeated."""

    ps: list[Parameter | None]
    owner: list[int]

    def signature(self) -> list[tuple[Any, ...] | None]:
        return [
            None if p is None else (p.library.name, tuple(p.array.shape), p.dtype, self.owner[i] != i)
            for i, p in enumerate(self.ps)
        ]


def _still(leaves: Sequence[Any], seen: _Seen) -> bool:
    """Whether these are the arrays that were checked before, where and as they were, and can be written to."""
    for leaf, p in zip(leaves, seen.ps, strict=True):
        if p is None:
            if leaf is not None:
                return False
        elif leaf is not p.given or not p.library.still(leaf, p.memory) or p.library.dtype(leaf) != p.dtype:
            return False
    return True


def _described(signature: tuple[Any, ...] | None) -> str:
    if signature is None:
        return "None"
    library, shape, dtype, tied = signature
    return f"a {library} array of shape {shape} and dtype {dtype}{' under a second name' if tied else ''}"


def _number(c: Any) -> Any:
    # A NumPy float64 scalar would turn float32 arrays into float64. A bool or a string is a static option of the rule.
    if isinstance(c, bool | np.bool_ | str):
        return c if isinstance(c, str) else bool(c)
    return float(c) if is_scalar(c) else c


def _refuse_traced(tree: Tree, leaves: Mapping[int, Leaf]) -> None:
    passed: set[int] = set()
    for i, leaf in leaves.items():
        values = (leaf.p, leaf.x, *leaf.slots) if leaf.library.tracing else ()
        if id(leaf.coefficients) not in passed:
            passed.add(id(leaf.coefficients))
            values = (*values, *leaf.coefficients.values())
        if any(traced(a) for a in values):
            raise TypeError(
                f"the update of {tree.name(i)} is traced, and what the optimizer remembers would be frozen into the "
                "transformed function; wanted the pure form: params, state = optimizer.step(params, grads, state)"
            )


def _stepped(flat: _Flat, results: Mapping[int, Result], owner: Sequence[int]) -> _Flat:
    """The counts and slots of all leaves, those of a tied one being its owner's."""
    slots = [results[o].slots if o in results else flat.slots[o] for o in owner]
    return _Flat(flat.step, [flat.t[o] for o in owner], slots)
