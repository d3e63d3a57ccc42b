"""Optimizer: init, step and update. Nothing numeric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from anyoptim import _checks as checks
from anyoptim._arrays import Array, quiet, traced
from anyoptim._bound import Bound, Groups
from anyoptim._checks import Parameter
from anyoptim._engines import LAZY, Crew, Leaf, Result, Rows, known, ready, source, start
from anyoptim._explain import Explanation
from anyoptim._hyperparameters import Hyper
from anyoptim._program import MOVE, Program, Row, floats
from anyoptim._scalars import count
from anyoptim._stage import ParameterStage, Stage
from anyoptim._tree import Tree

__all__ = ["Optimizer", "State"]


class State(NamedTuple):
    """What an optimizer remembers between steps, as plain containers: any tree library can walk it."""

    step: Any
    """The number of steps taken. Schedules are called with the number of the step at hand, one more."""
    t: Any
    """For each parameter the number of steps that it took part in, in a container like `params`."""
    slots: Any
    """For each slot a container like `params` of arrays in the compute dtype: `state.slots["m"]["W1"]`.

    Of a chain a tuple of these, one for each stage: `state.slots[1]["m"]["W1"]`.
    """


class _Flat(NamedTuple):
    """A `State` as lists over leaves; the slots of all stages in a row."""

    step: Any
    t: list[Any]
    slots: list[tuple[Array, ...] | None]


class Optimizer(Stage):
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

    What these are, `Stage` says: a method is the stage that makes the step of the gradient, and an optimizer by itself.

    `engine` names the machine that runs the rule: `compiled` (one Numba loop over all parameters: NumPy arrays and
    torch CPU tensors, contiguous, float32, float64 or complex), `blocked` (NumPy calls over blocks: these in any layout
    and dtype) or `portable` (all). None chooses the fastest for each parameter, and compiles once enough elements
    have been updated for that to be worth its time; what an engine can't take, the next one does. The results
    are the same bits; `explain` says who does what.
    """

    def __init__(self, *, engine: str | None = None, **hyperparameters: Any) -> None:
        super().__init__(**hyperparameters)
        self.engine = engine
        self._memory: _Memory | None = None
        self._bound: Bound | None = None

    engine: str | None
    """The engine by name, or None."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "engine":
            known(value)
            object.__setattr__(self, "_bound", None)
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # The parameters are the caller's to copy and to save, and the program is made of the stages.
        made = {"_order", "_program"}
        return {**{k: v for k, v in self.__dict__.items() if k not in made}, "_bound": None}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What makes the step: the method, or all stages of a chain."""
        return (self,)

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
        bound, memory = self._bound, self._memory
        if bound is not None and memory is not None:
            if bound.alike:
                # A step like the last one: the same arrays, all in one row.
                n = memory.alike + 1
                flat = memory.flat
                if bound.take(params, grads, self._row(flat.step + n, flat.t[0] + n)):
                    memory.alike = n
                    return params
            elif self._quick(bound, memory, params, grads):
                return params
        return self._update(Tree("params", params), grads)

    def _quick(self, bound: Bound, memory: _Memory, params: Any, grads: Any) -> bool:
        """Take the step without checks, if they would only repeat themselves; else do nothing."""
        quick = bound.quick(params, grads)
        if quick is None:
            return False
        crew, moving, gathered = quick
        with quiet():
            rows, t = self._rows(crew, gathered, memory.flat, moving, bound.groups)
            if any(map(_traced, rows.distinct)):
                return False
            crew.prepare(gathered, rows)()
        memory.flat = _Flat(memory.flat.step + 1, t, memory.flat.slots)
        return True

    def _update(self, tree: Tree, grads: Any) -> Any:
        """The same with all checks."""
        if self._memory is not None:
            self._memory.catch_up()
        bound, memory = self._recall(tree)
        ps, owner = bound.ps, bound.owner
        xs = checks.gradients(tree, ps, owner, grads)
        crew, moving = bound.crew(self.engine, self._program, xs, memory.flat.slots)
        for i, leaf in zip(moving, crew.leaves, strict=True):
            if leaf.library.tracing and any(map(traced, (leaf.p, xs[i], *leaf.slots))):
                raise _frozen(tree, i)
        with quiet():
            gathered = crew.gather([xs[i] for i in moving])
            rows, t = self._rows(crew, gathered, memory.flat, moving, bound.groups)
            for k, row in enumerate(rows.distinct):
                if _traced(row):
                    raise _frozen(tree, moving[list(rows.which).index(k)])
            commit = crew.prepare(gathered, rows)
            # What could fail has not.
            results = dict(zip(moving, commit(), strict=True))
        for i, p in enumerate(ps):
            if p is not None and not p.writable and owner[i] in results:
                tree.replace(i, p.library.rebound(p.given, results[owner[i]].p))
        self._memory = _Memory(memory.spec, memory.signature, _stepped(memory.flat, t, results, owner))
        # Of those that were replaced, this would keep the old arrays alive.
        self._bound = bound if all(p is None or p.writable for p in ps) else None
        bound.settle(len(rows.distinct) == 1)
        return tree.container

    @property
    def state(self) -> State | None:
        """What `update` remembers, in the form that `init` gives and `step` takes; None before the first update.

        Its arrays are the optimizer's own: to be read and not to be written to, and the next `update` may change them.
        """
        return None if self._memory is None else self._pack(self._memory.spec, self._memory.catch_up())

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
        flat = self._unpack(tree, ps, state)
        moving = [i for i, x in enumerate(xs) if x is not None]
        some = [xs[i] for i in moving]
        crew = Crew(self.engine, self._program, [self._copied(ps[i], flat.slots[i]) for i in moving], some, LAZY)
        with quiet():
            gathered = crew.gather(some)
            rows, t = self._rows(crew, gathered, flat, moving, Groups(self.stages, tree, ps))
            results = dict(zip(moving, crew.prepare(gathered, rows)(), strict=True))
        new = [
            leaf if p is None or owner[i] not in results else p.library.rebound(leaf, results[owner[i]].p)
            for i, (leaf, p) in enumerate(zip(tree.leaves, ps, strict=True))
        ]
        return tree.build(new), self._pack(tree.spec, _stepped(flat, t, results, owner))

    def compile(self, params: Any) -> None:
        """Compile at once what the compiled engine runs for parameters like these, and use it from the next step on.

        Without this, it happens when about 1e9 elements have been updated: what it costs would be more than it saves
        in a small problem. A new method takes a second or two, once on a machine: the machine code is kept in
        the user's cache folder. Parameters that the engine can't take are passed over; `explain` names them.

        Raises ImportError where Numba is missing (`pip install 'anyoptim[fast]'`).
        """
        row = self._first_row()
        for dtype in {p.dtype for p in checks.parameters(Tree("params", params)) if p is not None}:
            ready(self._program, row, dtype)

    def explain(self, params: Any, grads: Any) -> Explanation:
        """Which engine would run which of these parameters in `update`, the bytes to be moved, and why no faster one.

        Changes nothing. Raises like `update`. What it returns is a list of `Share`, and prints as a table::

            engine    parameters  elements    bytes  why not faster
            compiled         159   25.5 M   715 MB
            blocked            1     1000    28 kB  it isn't contiguous: 'fc.bias'
        """
        tree = Tree("params", params)
        if self._memory is not None:
            self._memory.catch_up()
        bound, memory = self._recall(tree)
        xs = checks.gradients(tree, bound.ps, bound.owner, grads)
        moving = [i for i, x in enumerate(xs) if x is not None]
        leaves = [bound.leaf(i, memory.flat.slots[i]) for i in moving]
        names = [tree.path(i) for i in moving]
        return Explanation.of(self.engine, self._program, names, leaves, [xs[i] for i in moving])

    def kernel_source(self, engine: str = "compiled", dtype: str = "float32") -> str:
        """The code that `compiled` or `blocked` makes from the rules: a pass for each measure, then the step.

        `dtype` is that of the arithmetic, `float32` or `float64`. Needs neither Numba nor parameters.
        """
        if engine not in {"compiled", "blocked"}:
            raise ValueError(f"engine is {engine!r}; wanted 'compiled' or 'blocked', whose code is generated")
        if dtype not in {"float32", "float64"}:
            raise ValueError(f"dtype is {dtype!r}; wanted 'float32' or 'float64'")
        return source(engine, self._program, self._first_row(), dtype)

    @cached_property
    def _program(self) -> Program:
        return Program(tuple(MOVE if stage is None else stage._part for stage in self._order))

    @cached_property
    def _order(self) -> list[Stage | None]:
        """The stages and, as None, the step itself: after it come only stages that see the parameter."""
        stages = list(self.stages)
        at = next((i for i, stage in enumerate(stages) if isinstance(stage, ParameterStage)), len(stages))
        return [*stages[:at], None, *stages[at:]]

    def _row(self, step: int, t: int) -> Row:
        """The coefficients of all parameters, where no stage measures anything or has overrides for some."""
        return tuple(
            [{} if stage is None else stage._coefficients(t, stage._values(step, _NONE)) for stage in self._order]
        )

    def _rows(
        self, crew: Crew, gathered: Sequence[Any], flat: _Flat, moving: Sequence[int], groups: Groups
    ) -> tuple[Rows, list[Any]]:
        """The coefficients of this step, for each parameter that moves, and the step counts after it."""
        step = flat.step + 1
        t = list(flat.t)
        for i in moving:
            t[i] = t[i] + 1
        counts = [t[i] for i in moving]
        if counts and type(counts[0]) is int and len(groups.overrides) == 1 and counts.count(counts[0]) == len(counts):
            numbers: dict[Any, int] = {(counts[0], 0): 0}  # nearly always: all in one row
            which = [0] * len(counts)
        else:
            keys = [
                (n if isinstance(n, int) else _Traced(n), groups.of[i]) for n, i in zip(counts, moving, strict=True)
            ]
            numbers = {key: k for k, key in enumerate(dict.fromkeys(keys))}
            which = [numbers[key] for key in keys]
        rows: list[Row] = [() for _ in numbers]
        values = [self._values_of(step, own) for own in groups.overrides]
        for k, stage in enumerate(self._order):
            norm = None if stage is None or stage.measure is None else crew.norm(k, gathered, Rows(rows, which))
            for r, (at, group) in enumerate(numbers):
                if stage is None:
                    rows[r] += ({},)
                    continue
                given = values[group][k]
                if norm is not None:
                    given = {**given, "norm": norm}
                rows[r] += (stage._coefficients(at if type(at) is int else at.t, given),)
        return Rows(rows, which), t

    def _values_of(self, step: Any, overrides: Sequence[Mapping[str, Hyper]]) -> list[dict[str, Any]]:
        """The hyperparameters of each stage at this step, in the order of the parts."""
        own = iter(overrides)
        return [{} if stage is None else stage._values(step, next(own)) for stage in self._order]

    def _first_row(self) -> Row:
        """The coefficients of a first step, for their names and static options."""
        row: list[dict[str, Any]] = []
        for stage in self._order:
            more = {} if stage is None or stage.measure is None else {"norm": 1.0}
            row.append({} if stage is None else stage._coefficients(1, {**stage._values(1, {}), **more}))
        return tuple(row)

    def _copied(self, p: Parameter | None, slots: tuple[Array, ...] | None) -> Leaf:
        """A leaf of its own, for an engine that writes; where only the portable one would take it, as it is."""
        assert p is not None  # noqa: S101 - it has a gradient
        library, slots = p.library, slots or ()
        if self.engine == "portable" or library.host(p.array) is None:
            return Leaf(library, p.array, slots)
        copy = library.copied(p.array)
        return Leaf(library, copy, tuple(map(library.copied, slots)), copy)

    def _start(self, ps: Sequence[Parameter | None]) -> _Flat:
        slots = [
            None
            if p is None
            else tuple(
                slot for stage in self.stages for slot in start(stage.init_slots, stage.slots, p.library, p.array)
            )
            for p in ps
        ]
        return _Flat(0, [None if p is None else 0 for p in ps], slots)

    def _recall(self, tree: Tree) -> tuple[Bound, _Memory]:
        """The parameters, checked, and what the last update left of them.

        Raises like `update`, if they can't be updated, or are not those of the first update.
        """
        bound, last = self._bound, self._memory
        if bound is not None and last is not None and tree.spec == last.spec and bound.still(tree.leaves):
            return bound, last
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        checks.rebindable(tree, ps, owner)
        checks.separate(tree, ps, owner)
        bound = Bound(tree, ps, owner, Groups(self.stages, tree, ps))
        signature = _signature(ps, owner)
        if last is None:
            return bound, _Memory(tree.spec, signature, self._start(ps))
        order = tree.order(last.spec)
        before, t, slots = ([of[i] for i in order] for of in (last.signature, last.flat.t, last.flat.slots))
        for i, (was, now) in enumerate(zip(before, signature, strict=True)):
            if was != now:
                raise ValueError(
                    f"{tree.name(i)} is {_described(now)}, but was {_described(was)} at the first update; "
                    "wanted a new optimizer"
                )
        names = [name for stage in self.stages for name in stage.slots]
        for i, (p, slots_of) in enumerate(zip(ps, slots, strict=True)):
            for name, s in zip(names, slots_of or (), strict=False):
                if p is not None and not checks.together(p, s):
                    raise ValueError(
                        f"{tree.name(i)} is on device {p.library.device(p.array)} but its slot {name!r} is on "
                        f"{p.library.device(s)}; wanted a new optimizer after a move"
                    )
        return bound, _Memory(tree.spec, signature, _Flat(last.flat.step, t, slots))

    def _pack(self, spec: Any, flat: _Flat) -> State:
        build = spec.unflatten
        columns = iter([[None if of is None else of[k] for of in flat.slots] for k in range(self._program.slots)])
        slots = [{name: build(next(columns)) for name in stage.slots} for stage in self.stages]
        return State(flat.step, build(flat.t), self._packed(slots))

    def _packed(self, slots: list[dict[str, Any]]) -> Any:
        """The slots of all stages as `State` has them."""
        return slots[0]

    def _unpacked(self, slots: Any) -> list[tuple[str, dict[str, Any]]]:
        """The slots of each stage and how a user would write them. Raises ValueError if these are not such."""
        return [("state.slots", slots)]

    def _unpack(self, tree: Tree, ps: Sequence[Parameter | None], state: State) -> _Flat:
        if not isinstance(state, State):
            raise TypeError(f"state is a {type(state).__qualname__}; wanted the State that init(params) gives")
        counts = tree.match("state.t", state.t)
        t = [None if p is None else count(str(tree.name(i, "state.t")), counts[i]) for i, p in enumerate(ps)]
        columns = []
        for stage, (root, slots) in zip(self.stages, self._unpacked(state.slots), strict=True):
            if not isinstance(slots, Mapping):
                raise TypeError(f"{root} is a {type(slots).__qualname__}; wanted a dict with {sorted(stage.slots)}")
            if set(slots) != set(stage.slots):
                raise ValueError(f"{root} has {sorted(slots)}; wanted {sorted(stage.slots)} for {stage!r}")
            names = [f"{root}[{name!r}]" for name in stage.slots]
            columns += [(name, tree.match(name, slots[key])) for name, key in zip(names, stage.slots, strict=True)]
        slots_of = [
            None
            if p is None
            else tuple(checks.slot(tree.name(i, name), of[i], tree.name(i), p) for name, of in columns)
            for i, p in enumerate(ps)
        ]
        return _Flat(count("state.step", state.step), t, slots_of)


@dataclass
class _Memory:
    """What `update` keeps."""

    spec: Any
    signature: list[tuple[Any, ...] | None]
    """What may not change of each parameter."""
    flat: _Flat
    alike: int = 0
    """How many steps `flat` is behind, which all parameters took."""

    def catch_up(self) -> _Flat:
        """What is remembered, with all steps counted."""
        if self.alike:
            step, t, slots = self.flat
            self.flat = _Flat(step + self.alike, [n + self.alike for n in t], slots)
            self.alike = 0
        return self.flat


_NONE: Mapping[str, Hyper] = {}


class _Traced:
    """A step count under `jax.jit`, which equals no other."""

    def __init__(self, t: Any) -> None:
        self.t = t


def _traced(row: Row) -> bool:
    """Whether a coefficient is not known yet."""
    return any(not floats(part) and any(map(traced, part.values())) for part in row)


def _signature(ps: Sequence[Parameter | None], owner: Sequence[int]) -> list[tuple[Any, ...] | None]:
    return [
        None if p is None else (p.library.name, tuple(p.array.shape), p.dtype, owner[i] != i) for i, p in enumerate(ps)
    ]


def _described(signature: tuple[Any, ...] | None) -> str:
    if signature is None:
        return "None"
    library, shape, dtype, tied = signature
    return f"a {library} array of shape {shape} and dtype {dtype}{' under a second name' if tied else ''}"


def _frozen(tree: Tree, i: int) -> TypeError:
    return TypeError(
        f"the update of {tree.name(i)} is traced, and what the optimizer remembers would be frozen into the "
        "transformed function; wanted the pure form: params, state = optimizer.step(params, grads, state)"
    )


def _stepped(flat: _Flat, t: Sequence[Any], results: Mapping[int, Result], owner: Sequence[int]) -> _Flat:
    """The counts and slots of all leaves, those of a tied one being its owner's."""
    slots = [results[o].slots if o in results else flat.slots[o] for o in owner]
    return _Flat(flat.step + 1, [t[o] for o in owner], slots)
