"""What an optimizer remembers between updates, and how it is looked at, saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anyoptim._arrays import Array, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._tree import Tree, listed, paths
from anyoptim._core._evaluate import evaluated
from anyoptim._core._jit_state import carried
from anyoptim._core._plan import StepPlan
from anyoptim._core._pure import Pure
from anyoptim._core._recorder import Recorder
from anyoptim._core._state import FlatState, LiveState, State, flattened, pack, signature, unpack
from anyoptim._core._statedict import restored, written
from anyoptim._engines import known

__all__ = ["Remembering"]


class Remembering(Pure):
    """Stages with a state of their own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._live: LiveState | None = None
        self._plan: StepPlan | None = None
        self._recorder: Recorder | None = None

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "engine":
                known(value)
                object.__setattr__(self, "_plan", None)
                object.__setattr__(self, name, value)
            else:
                super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # The parameters are the caller's to copy and to save, and the program is made of the stages.
        self._caught_up()
        return {**{k: v for k, v in self.__dict__.items() if k != "_pipeline"}, "_plan": None, "_recorder": None}

    @property
    def state(self) -> State | None:
        """What `update` remembers, in the form that `init` gives and `step` takes; None before the first update.

        Its arrays are the optimizer's own: to be read and not to be written to, and the next `update` may change them;
        those of JAX it deletes, for the new ones to have their memory.
        """
        flat, live = self._caught_up(), self._live
        if flat is None or live is None:
            return None
        return pack(self.stages, self._nested, live.spec, carried(flat, live), live.names)

    def state_dict(self, state: State | None = None) -> dict[str, Any]:
        """What `update` remembers, or a state of the pure form, as plain dicts by the paths of the parameters.

        ::

            {"version": 1, "step": 2, "t": {"W": 2, "b": 2},
             "stages": [{"name": "Momentum", "constants": {}, "hyperparameters": {"lr": 0.01, "momentum": 0.9},
                         "scalars": {}, "slots": {"v": {"W": array, "b": array}}}],
             "groups": {}}

        A path is a parameter's keys, joined by dots: `encoder.0.W`; empty for a bare array. The arrays are copies, in
        the parameters' library. A method by itself is one stage. A schedule stands as its text and, of a `Plateau`,
        what it was told; what is a function (a `where`, a schedule) is the program's to make again. With an
        `Accumulate`, "pending" is how many gradients are gathered of each parameter.

        Raises ValueError if two parameters have one path; TypeError under `jax.jit`.
        """
        return self._written(lambda slot: library(slot).copied(slot), state)

    def load_state_dict(self, state: Mapping[str, Any], params: Any, *, strict: bool = True) -> list[str]:
        """Go on from where `state_dict` was taken, with parameters of any library, on any device.

        Slots are converted to the library, device and memory order of `params`, whose values, which are the caller's to
        restore, are not looked at. Hyperparameters that are numbers are set; a schedule remains the one that is there.

        Args:
            state: of an optimizer of the same stages, made in the same way, for parameters of the same paths.
            params: the parameters to go on with.
            strict: whether to refuse what differs: stages and constants, paths, shapes, dtypes. Otherwise that is left
                as it is in a new optimizer, only dtypes are converted, and a text for each is returned.

        Raises ValueError, with all that differs, or TypeError for what is no such state, before anything is changed;
        RuntimeError if updates were captured in a CUDA graph, which would not see the new slots.
        """
        if self._recorder is not None:
            raise RuntimeError(
                "updates were captured in a CUDA graph, which would go on with what was; wanted a new optimizer"
            )
        tree = Tree("params", params)
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        param_groups = self._param_groups(tree, ps, owner)
        fresh = self._pipeline.start(ps, param_groups)
        found = restored(self.stages, self._group_spec, tree, ps, owner, param_groups, fresh, state)
        if strict and found.left:
            raise ValueError(f"state is another one: {listed(found.left)}")
        for setting in found.settings:
            setting()
        self._plan = None
        self._live = found.flat and LiveState(tree.spec, signature(ps, owner), found.flat, param_groups.names)
        return found.left

    def eval_params(self, params: Any, state: State | None = None) -> Any:
        """The parameters to evaluate with, where a stage keeps others: new arrays, in a container like `params`.

        Such are averages: of the state of the last `update`, or of another, of the pure form. Raises ValueError where
        no stage has other parameters to evaluate with than those that are trained.
        """
        if not any(stage.evaluate for stage in self.stages):
            raise ValueError(f"{self!r} has no stage that averages, such as ao.EMA(); its parameters are as they are")
        tree = Tree("params", params)
        if state is None:
            self._caught_up()
            plan, live = self._recall(tree)
            ps, param_groups, flat = plan.ps, plan.param_groups, live.flat
        else:
            ps = checks.parameters(tree)
            param_groups = self._param_groups(tree, ps, checks.owners(ps))
            flat = unpack(self.stages, self._nested, tree, ps, state, param_groups.names)
        return tree.build(evaluated(self.stages, ps, param_groups, flat))

    def _written(self, kept: Callable[[Array], Array], state: State | None = None) -> dict[str, Any]:
        """The state as plain dicts, of each slot what `kept` makes of it."""
        if state is not None:
            spec, flat, names = flattened(self.stages, self._nested, state)
        elif self._live is None:
            first_scalars = tuple(dict(stage.scalars) for stage in self.stages)
            return written(self.stages, self._group_spec, [], [], FlatState(0, [], [], first_scalars), kept)
        else:
            self._caught_up()
            spec, flat, names = self._live.spec, self._live.flat, self._live.names
        return written(self.stages, self._group_spec, paths(spec), names, flat, kept)

    def _recall(self, tree: Tree) -> tuple[StepPlan, LiveState]:
        """The parameters, checked, and what the last update left of them.

        Raises like `update`, if they can't be updated, or are not those of the first update.
        """
        plan, last = self._plan, self._live
        if last is not None:
            last.catch_up()
        if plan is not None and last is not None and tree.spec == last.spec and plan.still(tree.leaves):
            return plan, last
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        checks.rebindable(tree, ps, owner)
        checks.separate(tree, ps, owner)
        param_groups = self._param_groups(tree, ps, owner)
        plan = StepPlan(tree, ps, owner, param_groups)
        now = signature(ps, owner)
        if last is None:
            return plan, LiveState(tree.spec, now, self._pipeline.start(ps, param_groups), param_groups.names)
        return plan, last.met(tree, ps, now, param_groups.names)

    def _caught_up(self) -> FlatState | None:
        """What is remembered, with all steps counted, those that were replayed too."""
        if self._live is None:
            return None
        flat = self._live.catch_up()
        if self._recorder is not None:
            flat = self._live.flat = self._recorder.catch_up(flat)
        return flat
