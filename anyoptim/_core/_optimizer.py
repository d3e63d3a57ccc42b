"""Optimizer: update, and what it remembers. Nothing numeric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

from anyoptim._arrays import Array, traced
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._core._accumulate import accumulated, cleared, ended, joined, taking
from anyoptim._core._coefficients import StepCoefficients, given_up
from anyoptim._core._explain import Explanation
from anyoptim._core._plan import StepPlan
from anyoptim._core._recorder import Recorder, recordable
from anyoptim._core._remembering import Remembering
from anyoptim._core._state import FlatState, LiveState, nothing, stepped
from anyoptim._engines import Dispatch
from anyoptim._trace._program import Coefficients, floats

__all__ = ["Optimizer"]


class Optimizer(Remembering):
    """The base of all methods: a subclass gives its slots, its coefficients and its rule.

    ::

        class Momentum(Optimizer):
            lr: Nonnegative = 0.01
            momentum: Fraction = 0.9
            slots = ("v",)

            @staticmethod
            def rule(xp, p, x, v, c):
                v = c.momentum * v - c.lr * x
                return -v, v  # the step, which the engine subtracts from p, and the new slots

    Each hyperparameter is a number, or a schedule: a function of the step number, which counts from 1. What else there
    is to declare, `Stage` says: a method is the stage that makes the step of the gradient, and an optimizer by itself.

    `engine` names the machine that runs the rule: `cuda` (one launch for all parameters of a device and dtype: CuPy
    arrays and torch CUDA tensors, contiguous), `compiled` (one Numba loop over all parameters: NumPy arrays and torch
    CPU tensors, contiguous, float32, float64 or complex), `blocked` (NumPy calls over blocks: these in any layout and
    dtype), `jax` (one function that XLA compiles: JAX arrays) or `portable` (all). None chooses the fastest for each
    parameter, and compiles for the CPU once enough elements have been updated for that to be worth its time; what an
    engine can't take, the next one does.
    The results are the same bits (but for torch's own square root, and subnormals that CuPy and XLA flush to 0, where
    `portable` uses these); `explain` says who does what.
    """

    _: KW_ONLY
    engine: str | None = None

    def update(self, params: Any, grads: Any) -> Any:
        """Take one step with `params`, in place, and return `params`.

        `params` is a dict, list, tuple, any nest of them, or a bare array; `grads` has the same keys and shapes.
        Arrays are written in place where they are writable and replaced in their container where they are
        not (JAX, Dask, read-only NumPy, Python floats). A bare array that can't be written comes back as
        another: `w = optimizer.update(w, g)`. A gradient that is None leaves its parameter, its slots and its
        step count alone; where all are None, no step is taken, and nothing counts or adapts. An array under two names
        is one parameter, takes one gradient and moves once.

        Dtypes: real or complex floating. Arithmetic and slots have at least float32; a gradient of another
        real dtype is cast. A complex parameter is two reals, its gradient dL/dRe + i*dL/dIm, as torch gives
        it (the conjugate of JAX's). Dask results are computed (persisted) at once.

        Raises ValueError (keys, shapes, devices, memory, hyperparameters) or TypeError (types, libraries,
        dtypes; also arrays that are traced, as under `jax.jit`) with the key, before anything is written. An optimizer
        belongs to one thread at a time. A signal handler or finalizer that runs in the middle of an update may update
        with other optimizers, and not with this one; nor while the update that it interrupts imports what arrays and
        containers need that come for the first time. (Python 3.11 itself may crash where one sets a context variable,
        as NumPy's error state is, while garbage is collected: gh-148891.) Raises FloatingPointError where a gate has
        skipped more steps in a row than its `max_consecutive_skips`: that update is skipped like the others, and who
        catches it may go on.

        On a CUDA device the step goes to the library's current stream, and nothing waits for it, but for stages that
        look at norms or at each parameter on the host: gates (`LossScale`, `SkipNonFinite`), `Metrics`, `ClipNorm`,
        `TrustRatio`, `Cautious`, `LARS`, `LAMB`, `Prodigy`. While that stream is captured in a CUDA graph, nothing is
        written, and each replay takes the step: it counts it, and reads the hyperparameters as they were last set on
        the same stream, but for those of groups, which can't be set any more. Parameters, gradients and state stay
        where they are, and are kept alive for good. Raises RuntimeError, ValueError or TypeError for what replays would
        get wrong: a first update, schedules, coefficients that branch on t or on hyperparameters, arrays that `cuda`
        can't take, several devices, other parameters than in the optimizer's other graphs. Steps that no graph takes
        wait for the device from then on, to know how many were replayed, and so does `state`.
        """
        plan, live = self._plan, self._live
        if plan and live and self._recorder is None and (not self._accumulates or self._due(live.flat)):
            if plan.alike:
                # A step like the last one: the same arrays, all in one row.
                n = live.alike + 1
                flat = live.flat
                row = self._pipeline.row(flat.step + n, flat.t[0] + n)
                if row is not None and plan.replay(params, grads, row):
                    live.alike = n
                    return params
            elif self._quick(plan, live, params, grads):
                return params
        return self._update(Tree("params", params), grads)

    def _quick(self, plan: StepPlan, live: LiveState, params: Any, grads: Any) -> bool:
        """Take the step without checks, if they would only repeat themselves; else do nothing."""
        if self._accumulates and any(live.flat.pending[i] for i in plan.without):
            return False
        quick = plan.quick(params, grads, live.flat.slots)
        if quick is None:
            return False
        dispatch, moving, given = quick
        with quiet():
            coefficients = self._pipeline.step_coefficients(dispatch, given, live.flat, moving, plan.param_groups)
            if any(map(_traced, coefficients.rows.distinct)) or coefficients.taken is not True:
                return False
            results = dispatch.prepare(given, coefficients.rows)()
        self._note(plan.paths, coefficients)
        slots = live.flat.slots if dispatch.lasting else plan.placed(params, results, live.flat.slots)
        live.flat = FlatState(live.flat.step + 1, coefficients.t, slots, coefficients.scalars, nothing(live.flat))
        return True

    def _update(self, tree: Tree, grads: Any) -> Any:
        """The same with all checks."""
        if self._recorder is not None and not self._recorder.capturing():
            self._caught_up()
        plan, live = self._recall(tree)
        xs = plan.param_groups.moving(checks.gradients(tree, plan.ps, plan.owner, grads))
        if self._accumulates and not self._due(live.flat):
            return self._remain(tree, plan, live, accumulated(self.engine, plan.ps, xs, live.flat, plan.owner))
        return self._step(tree, plan, live, live.flat, xs)

    def flush(self, params: Any) -> Any:
        """Take the step of the gradients that `Accumulate` has gathered so far, before their number is complete.

        As at the end of the data: with their mean, of as many as they are. Where nothing is gathered, and without
        an `Accumulate`, nothing happens. Returns `params` and raises, like `update`.
        """
        if self._live is None or not self._accumulates or not self._live.flat.scalars[0]["gathered"]:
            return params
        tree = Tree("params", params)
        plan, live = self._recall(tree)
        return self._step(tree, plan, live, joined(live.flat), [None] * len(plan.ps))

    def _step(self, tree: Tree, plan: StepPlan, live: LiveState, flat: FlatState, xs: Sequence[Array | None]) -> Any:
        """Take the step that comes after `flat`, with gradients that passed all checks."""
        first, ps, owner = self._live is None, plan.ps, plan.owner
        if self._accumulates:
            xs, _ = taking(ps, xs, flat, owner, plan.param_groups.resting)
        if not any(x is not None for x in xs):
            return self._remain(tree, plan, live, ended(self.stages[0], flat)) if self._accumulates else tree.container
        dispatch, moving = plan.dispatch(self.engine, xs, flat.slots)
        if dispatch.capturing():
            self._record(tree, plan, flat, dispatch, moving, xs, first)
            return tree.container
        if self._recorder is not None:
            recordable(tree, dispatch, moving, first=False)
            self._recorder.same(moving, tree)
        _known(tree, dispatch, moving, xs)
        with quiet():
            given = dispatch.gather([xs[i] for i in moving])
            coefficients = self._pipeline.step_coefficients(dispatch, given, flat, moving, plan.param_groups)
            for k, row in enumerate(coefficients.rows.distinct):
                if _traced(row):
                    raise _frozen(tree, moving[list(coefficients.rows.row_of_leaf).index(k)])
            if coefficients.taken is not True:
                self._note(plan.paths, coefficients)
                flat = flat._replace(scalars=coefficients.kept)
                self._remain(tree, plan, live, cleared(ps, moving, flat, owner) if self._accumulates else flat)
                given_up(self.stages, coefficients, tree)
                return tree.container
            commit = dispatch.prepare(given, coefficients.rows)
            self._note(plan.paths, coefficients)
            # What could fail has not.
            results = dict(zip(moving, commit(), strict=True))
        if self._recorder is not None:
            self._recorder.step()
        placed = list(tree.leaves)
        for i, p in enumerate(ps):
            if p is not None and not p.writable and owner[i] in results:
                placed[i] = p.library.rebound(p.given, results[owner[i]].p)
                tree.replace(i, placed[i])
        flat = stepped(flat, coefficients.t, coefficients.scalars, results, owner)
        self._live = LiveState(live.spec, live.signature, flat, live.names)
        # Else it would keep those alive that were replaced.
        self._plan = plan if plan.rebound(placed) else None
        plan.settle(len(coefficients.rows.distinct) == 1, self._pipeline.simple, flat.slots)
        return tree.container

    def _remain(self, tree: Tree, plan: StepPlan, live: LiveState, flat: FlatState) -> Any:
        """Remember this, the parameters being as they were."""
        self._live, self._plan = LiveState(live.spec, live.signature, flat, live.names), plan
        return tree.container

    def _record(
        self,
        tree: Tree,
        plan: StepPlan,
        flat: FlatState,
        dispatch: Dispatch,
        moving: list[int],
        xs: Sequence[Array | None],
        first: bool,
    ) -> None:
        """Have the CUDA graph that is being captured take this step at each replay. Now, nothing is written."""
        recordable(tree, dispatch, moving, first)
        with quiet():
            new = self._recorder is None
            recorder = self._recorder or Recorder(self._pipeline, self.stages, flat, dispatch, moving, plan.owner)
            recorder.same(moving, tree)
            recorder.record(plan, flat, dispatch, xs)
            if new:
                self._recorder = recorder
                recorder.watch(self._group_spec.groups or {})

    @property
    def loss_scale(self) -> float:
        """By what to multiply the loss before the gradients of the next update are taken: 1.0 without a `LossScale`."""
        kept = [dict(stage.scalars) for stage in self.stages] if self._live is None else self._live.flat.scalars
        both = zip(self.stages, kept, strict=True)
        return math.prod(
            (stage.get_loss_scale(**own) for stage, own in both if stage.get_loss_scale is not None), start=1.0
        )

    @loss_scale.setter
    def loss_scale(self, scale: float) -> None:
        """Multiply the next loss by another, which the `LossScale` of the chain takes up and adapts from then on.

        Raises ValueError for one that is not above 0 and finite, or where no stage, or several, have one; RuntimeError
        where `Accumulate` has gathered gradients, which are of the loss times the old one.
        """
        found = [k for k, stage in enumerate(self.stages) if stage.set_loss_scale is not None]
        if len(found) != 1:
            raise ValueError(f"loss_scale is that of {len(found)} stages of {self!r}; wanted one ao.LossScale()")
        (k,), live = found, self._live
        stage: Any = self.stages[k]
        if traced(scale):
            raise TypeError("loss_scale is traced; wanted a number: in the pure form it is one of the state's")
        scale = stage.ranges["scale"].value("loss_scale", scale)
        if live is None:
            stage._initial = scale
            return
        n = live.flat.scalars[0]["gathered"] if any(live.flat.pending) else 0
        if n:
            raise RuntimeError(
                f"loss_scale is set where {self.stages[0]!r} has gathered gradients of {n:g} updates, of losses times "
                f"{self.loss_scale:g}; wanted it set after the step of these, or after optimizer.flush(params)"
            )
        scalars = list(live.flat.scalars)
        scalars[k] = stage.set_loss_scale(scale, **scalars[k])
        live.flat = live.flat._replace(scalars=tuple(scalars))

    @property
    def last_metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """What each `Metrics` saw at the last step: by its name and the path of a parameter.

        Nothing of parameters that rested, and of none where a stage before it called the step off.
        """
        return {stage.name: stage.last for stage in self.stages if stage.metrics}

    def explain(self, params: Any, grads: Any) -> Explanation:
        """Which engine would run which of these parameters in `update`, the bytes to be moved, and why no faster one.

        Changes nothing. Raises like `update`. What it returns is a list of `Share`, and prints as a table::

            engine    parameters  elements  MB a step  why not faster
            compiled         159  25502912        714
            blocked            1      1000      0.028  it isn't contiguous (fc.bias)
        """
        tree = Tree("params", params)
        plan, live = self._recall(tree)
        xs = plan.param_groups.moving(checks.gradients(tree, plan.ps, plan.owner, grads))
        if self._accumulates:
            xs, _ = taking(plan.ps, xs, live.flat, plan.owner, plan.param_groups.resting)
        moving = [i for i, x in enumerate(xs) if x is not None]
        leaves = [plan.leaf(i, live.flat.slots[i]) for i in moving]
        names = [tree.path(i) for i in moving]
        branches = [plan.param_groups.branch(i) for i in moving]
        measured = {branch: self._pipeline.measured(branch) for branch in dict.fromkeys(branches)}
        programs, measures = (
            [branch.program for branch in branches],
            [measured[branch] for branch in branches],
        )
        return Explanation.of(self.engine, programs, measures, names, leaves, [xs[i] for i in moving])

    def _note(self, paths: Sequence[str], coefficients: StepCoefficients) -> None:
        """Hand the stages what they saw, and the name of the parameter for which one called the step off."""
        for k, stage in enumerate(self.stages):
            if stage.metrics:
                leaves, found = coefficients.metrics.get(k, ((), {name: [] for name in stage.metrics}))
                stage.record_metrics([paths[i] for i in leaves], found)
        if coefficients.refusal is not None:
            k, i = coefficients.refusal
            self.stages[k].offender = paths[i]


def _traced(row: Coefficients) -> bool:
    """Whether a coefficient is not known yet."""
    return any(not floats(part) and any(map(traced, part.values())) for part in row)


def _known(tree: Tree, dispatch: Dispatch, moving: Sequence[int], xs: Sequence[Array | None]) -> None:
    """Raise TypeError where something stands for values that are not known yet."""
    for i, leaf in zip(moving, dispatch.leaves, strict=True):
        if leaf.library.tracing and any(map(traced, (leaf.p, xs[i], *leaf.slots))):
            raise _frozen(tree, i)


def _frozen(tree: Tree, i: int) -> TypeError:
    return TypeError(
        f"the update of {tree.name(i)} is traced, and what the optimizer remembers would be frozen into the "
        "transformed function; wanted the pure form: params, state = optimizer.step(params, grads, state)"
    )
