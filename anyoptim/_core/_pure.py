"""The pure form of an optimizer: init and step, which remember nothing. Nothing numeric."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from anyoptim._arrays import Array
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._core._accumulate import accumulated, cleared, ended, joined, taking
from anyoptim._core._coefficients import given_up
from anyoptim._core._jit_state import begun, carried
from anyoptim._core._measures import distinct
from anyoptim._core._param_groups import GroupSpec, ParamGroups
from anyoptim._core._pipeline import Pipeline
from anyoptim._core._stage import Stage
from anyoptim._core._state import FlatState, State, chosen, pack, stepped, unpack
from anyoptim._engines import LAZY, Dispatch, Leaf, Result, ready, source
from anyoptim._trace._program import Values
from anyoptim._trace._scalars import following, where

__all__ = ["Pure"]


class _Found(NamedTuple):
    """What was found out about parameters."""

    tree: Tree
    ps: list[Parameter | None]
    owner: list[int]
    param_groups: ParamGroups


class Pure(Stage):
    """Stages that make a step: of parameters, gradients and a state, others, with nothing kept in between."""

    engine: str | None
    """The engine by name, or None."""

    _nested: ClassVar[bool] = False
    """Whether the slots of a state are nested by stage."""

    _accumulates = False
    """Whether there are updates that are no step."""

    @property
    def stages(self) -> tuple[Any, ...]:
        """What makes the step: the method, or all stages of a chain."""
        return (self,)

    def init(self, params: Any) -> State:
        """The state before the first `step`: no steps taken, slots as the method starts them."""
        tree, ps, _, param_groups = self._found(params)
        flat = begun(self._pipeline.start(ps, param_groups), ps)
        return pack(self.stages, self._nested, tree.spec, flat, param_groups.names)

    def step(self, params: Any, grads: Any, state: State) -> tuple[Any, State]:
        """The pure form of `update`: new parameters and a new state, and nothing written.

        Works under `jax.jit` and on lazy arrays, in containers of any kind. Raises like `update`; but where arrays are
        traced or lazy, not for too many skips in a row (`max_consecutive_skips`): the state has their number. Gives
        plain arrays, without a graph for torch's autograd, for subclasses such as `nn.Parameter`.

        Under `jax.jit` hyperparameters are read once, when the function is compiled, so that what shall change must
        be a schedule, or an argument (`lambda p, g, s, lr: Adam(lr=lr).step(p, g, s)`); and one array under two
        names is two parameters there, because JAX hands it over twice. A state that `init` gives for JAX arrays can be
        carried by `jax.lax.scan`, and by `jax.vmap` after `jax.vmap(optimizer.init)`.

        On Dask nothing is computed, and the arrays carry the graph of all steps before: `dask.persist(params, state)`
        ends it.
        """
        found = self._found(params)
        tree, ps, owner, param_groups = found
        xs = param_groups.moving(checks.gradients(tree, ps, owner, grads))
        flat = unpack(self.stages, self._nested, tree, ps, state, param_groups.names)
        is_step = self._due(flat)
        waiting = flat if is_step is True else accumulated(self.engine, ps, xs, flat, owner, LAZY, write=False)
        return self._stepped(found, flat, xs, is_step, waiting)

    def flush_step(self, params: Any, state: State) -> tuple[Any, State]:
        """The pure form of `flush`: new parameters and a new state, with the step of what is gathered so far.

        Works under `jax.jit`, as `step` does, and there computes a step even where nothing is gathered and none is
        taken.
        """
        found = self._found(params)
        tree, ps, _, param_groups = found
        flat = unpack(self.stages, self._nested, tree, ps, state, param_groups.names)
        is_step = self._accumulates and flat.scalars[0]["gathered"] > 0
        return self._stepped(found, flat if is_step is False else joined(flat), [None] * len(ps), is_step, flat)

    def _stepped(
        self, found: _Found, flat: FlatState, xs: Sequence[Array | None], is_step: Any, waiting: FlatState
    ) -> tuple[Any, State]:
        """The step that comes after `flat`, if it is due, and else no step but the state in which it is waited for."""
        tree, ps, owner, param_groups = found
        new, after = tree.leaves, waiting
        if is_step is not False:
            unsure: dict[int, Any] = {}
            if self._accumulates:
                xs, unsure = taking(ps, xs, flat, owner, param_groups.resting)
            if any(x is not None for x in xs):
                new, after = self._computed(found, flat, xs, unsure)
            elif self._accumulates:
                after = ended(self.stages[0], flat)
            if not isinstance(is_step, bool):
                new, after = chosen(is_step, (new, after), (tree.leaves, waiting))
        after = carried(after, ps, waiting)
        return tree.build(new), pack(self.stages, self._nested, tree.spec, after, param_groups.names)

    def _computed(
        self, found: _Found, flat: FlatState, xs: Sequence[Array | None], unsure: Mapping[int, Any]
    ) -> tuple[list[Any], FlatState]:
        """The leaves and the state after the step, or as they are where a gate calls it off."""
        tree, ps, owner, param_groups = found
        moving = [i for i, x in enumerate(xs) if x is not None]
        some = [xs[i] for i in moving]
        programs = [param_groups.branch(i).program for i in moving]
        dispatch = Dispatch(self.engine, programs, [self._copied(ps[i], flat.slots[i]) for i in moving], some, LAZY)
        if dispatch.capturing():
            raise RuntimeError("step is being captured in a CUDA graph, whose replays would repeat it; wanted update")
        with quiet():
            given = dispatch.gather(some)
            coefficients = self._pipeline.step_coefficients(
                dispatch, given, flat, moving, param_groups, watching=False, unsure=unsure
            )
            results = (
                {}
                if coefficients.taken is False
                else dict(zip(moving, dispatch.prepare(given, coefficients.rows)(), strict=True))
            )
        given_up(self.stages, coefficients, tree)
        for i, has in unsure.items() if results else ():
            leaf = dispatch.leaves[moving.index(i)]
            p, *slots = (where(has, a, b) for a, b in zip(_arrays(results[i]), _arrays(leaf), strict=True))
            results[i], coefficients.t[i] = Result(p, tuple(slots)), where(has, coefficients.t[i], flat.t[i])
        new = [
            leaf if p is None or owner[i] not in results else p.library.rebound(leaf, results[owner[i]].p)
            for i, (leaf, p) in enumerate(zip(tree.leaves, ps, strict=True))
        ]
        skipped = flat._replace(scalars=coefficients.kept)
        if self._accumulates and coefficients.taken is not True:
            skipped = cleared(ps, moving, skipped, owner, write=False)
        after = (
            skipped
            if coefficients.taken is False
            else stepped(flat, coefficients.t, coefficients.scalars, results, owner)
        )
        if not isinstance(coefficients.taken, bool):
            new, after = chosen(coefficients.taken, (new, after), (tree.leaves, skipped))
        return new, after

    def compile(self, params: Any) -> None:
        """Compile at once what runs parameters like these: the `cuda` engine those on a device, `compiled` the others.

        And from the next step on use it, where `engine` leaves the choice.
        Without this, it happens when about 1e9 elements have been updated: what it costs would be more than it saves
        in a small problem. A new method takes a second or two, once on a machine: the machine code is kept in
        the user's cache folder. Parameters that the engine can't take are passed over; `explain` names them.

        Raises ImportError where a package is missing: Numba (`pip install 'anyoptim[fast]'`), or cuda.core
        (`anyoptim[cuda13]` or `anyoptim[cuda12]`).
        """
        _, ps, _, param_groups = self._found(params)
        kinds = {
            (param_groups.branch(i), p.dtype, p.library.cuda(p.array))
            for i, p in enumerate(ps)
            if p is not None and param_groups.branch(i).program.array_rule is None
        }
        for branch, dtype, number in kinds:
            ready(branch.program, self._pipeline.sample(branch), dtype, number)

    def kernel_source(self, engine: str = "compiled", dtype: str = "float32") -> str:
        """The code that `cuda`, `compiled` or `blocked` makes from the rules: a pass for each measure, then the step.

        `dtype` is that of the arithmetic, `float32` or `float64`. That of `cuda` is one text, which NVRTC, nvcc and
        `cupy.RawModule` compile. Needs no compiler, no device and no parameters.
        """
        if not isinstance(engine, str) or engine not in {"cuda", "compiled", "blocked"}:
            raise ValueError(f"engine is {engine!r}; wanted 'cuda', 'compiled' or 'blocked', whose code is generated")
        if not isinstance(dtype, str) or dtype not in {"float32", "float64"}:
            raise ValueError(f"dtype is {dtype!r}; wanted 'float32' or 'float64'")
        branches = self._pipeline.branches.values()
        whole = [branch.program.array_rule for branch in branches if branch.program.array_rule is not None]
        if whole:
            raise ValueError(f"{whole[0]} works on whole arrays: {engine!r} makes no code of it")
        rows = [(branch, self._pipeline.sample(branch)) for branch in branches]
        return source(
            engine,
            [(branch.program, row, [*distinct(branch, row)]) for branch, row in rows],
            dtype,
        )

    @cached_property
    def _pipeline(self) -> Pipeline:
        # Not `self`: a dropped optimizer, with its slots, would wait for the garbage collector.
        return Pipeline([weakref.proxy(stage) if stage is self else stage for stage in self.stages], self._group_spec)

    @property
    def _group_spec(self) -> GroupSpec:
        """Which parameters the stages are for."""
        return GroupSpec([None], None, None)

    def _found(self, params: Any) -> _Found:
        tree = Tree("params", params)
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        return _Found(tree, ps, owner, self._param_groups(tree, ps, owner))

    def _param_groups(self, tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int]) -> ParamGroups:
        return ParamGroups(self.stages, self._group_spec, self._pipeline.branches, tree, ps, owner)

    def _due(self, flat: FlatState) -> Any:
        """Whether the update at hand is a step, and not one that only gathers gradients."""
        first = self.stages[0]
        if first.is_step is None:
            return True
        return first.is_step(Values({**flat.scalars[0], **first._values(following(flat.step), {})}))

    def _copied(self, p: Parameter | None, slots: tuple[Array, ...] | None) -> Leaf:
        """A leaf of its own, for an engine that writes; where only the portable one would take it, as it is."""
        assert p is not None  # noqa: S101 - it has a gradient
        library, slots = p.library, slots or ()
        if self.engine == "portable" or (library.numpy_view(p.array) is None and library.cuda(p.array) is None):
            return Leaf(library, p.array, slots)
        copy = library.copied(p.array)
        return Leaf(library, copy, tuple(map(library.copied, slots)), copy)


def _arrays(of: Leaf | Result) -> tuple[Array, ...]:
    return of.p, *of.slots
