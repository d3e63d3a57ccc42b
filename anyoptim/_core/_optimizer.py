"""Optimizers: what a user calls. The work is done by the functions and classes beside it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from anyoptim._arrays import Array, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._library import P
from anyoptim._arrays._tree import Tree, listed, unique_paths
from anyoptim._core import _step
from anyoptim._core._accumulate import contributions
from anyoptim._core._jit_state import carried
from anyoptim._core._loss_scale import loss_scale, scaler, with_loss_scale
from anyoptim._core._pipeline import Pipeline
from anyoptim._core._training import Training
from anyoptim._diagnosis._explanation import Explanation
from anyoptim._engines import EngineName, check_engine
from anyoptim._machine._completed import completed
from anyoptim._machine._ranks import meeting
from anyoptim._stage._param_groups import GroupSpec
from anyoptim._stage._stage import Gate, Stage
from anyoptim._stage._state import FlatState, LiveState, State, flattened, signatures
from anyoptim._trace._hyperparameters import KW_ONLY

if TYPE_CHECKING:
    from anyoptim._diagnosis._table import Diagnosis

__all__ = ["Optimizer"]


class Optimizer(Stage):
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

    Each hyperparameter is a number, or a schedule: a function of the step number, which counts from 1. It can also be
    an array beside the parameter, or a container of arrays and numbers beside the parameters, as far as the arithmetic
    on it is `+ - * /`, comparisons, `sqrt` and `where`: a learning rate of each element, say. What is changed in place
    counts from the next step. What else there is to declare, `Stage` says: a method is the stage that makes the step of
    the gradient, and an optimizer by itself.

    In a signature, the type of a hyperparameter says what it may be: `Nonnegative` is finite and at least 0, `Fraction`
    at least 0 and below 1, `Positive` above 0, `UnitInterval` at least 0 and at most 1, and `Number` anything but NaN.

    `engine` names the machine that runs the rule: `cuda` (one launch for all parameters of a device and dtype: CuPy
    arrays and torch CUDA tensors, contiguous), `compiled` (one Numba loop over all parameters: NumPy arrays and torch
    CPU tensors, contiguous, float32, float64 or complex), `blocked` (NumPy calls over blocks: these in any layout and
    dtype), `jax` (one function that XLA compiles: JAX arrays) or `portable` (all). None chooses the fastest for each
    parameter, and compiles for the CPU once enough elements have been updated for that to be worth its time; what an
    engine can't take, the next one does.
    The results are the same bits (but for torch's own square root, and subnormals that CuPy and XLA flush to 0, where
    `portable` uses these); `explain` says who does what.

    `comm` is a communicator of mpi4py (or anything with its `allgather`, `Get_rank` and `Get_size`), or a process group
    of torch, whose ranks each have their own parts of the parameters: each element is one rank's, and arrays may be cut
    anywhere. All reductions, norms and gates are then of the elements of all ranks, with the bits of one process that
    has whole arrays (but on JAX without x64). All ranks make the same calls, and compare paths, dtypes, which gradients
    are None, groups, counts and coefficients: where anything differs, all raise ValueError with the path, and where one
    rank's update fails, the others raise RuntimeError with its words; nothing is written then. Rules of whole arrays,
    `at`, and arrays that are lazy, traced or divided are refused.

    >>> params = {"W": np.ones(2), "b": np.zeros(1)}
    >>> optimizer = ao.SGD(lr=0.1)
    >>> optimizer.update(params, {"W": np.ones(2), "b": None})
    {'W': array([0.9, 0.9]), 'b': array([0.])}
    """

    _: KW_ONLY
    engine: EngineName | None = None
    """The engine by name; None leaves the choice to anyoptim."""

    comm: Any = None
    """The communicator of the ranks that have parts of the parameters; None where this process has all of them."""

    _nested: ClassVar[bool] = False
    """Whether the slots and scalars of a state are nested by stage."""

    _derived: ClassVar[frozenset[str]] = Stage._derived | {"_pipeline"}  # it is made of the stages

    def __init__(self, *args: Any, **options: Any) -> None:
        self._training = Training()
        super().__init__(*args, **options)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or hasattr(type(self), name):
                return object.__getattribute__(self, name)  # a property that raises says itself why
            raise AttributeError(f"{type(self).__name__} has no {name!r}{self._hint(name)}", name=name, obj=self)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in {"engine", "comm"}:
                check = check_engine if name == "engine" else meeting
                check(value)
                if "_training" in self.__dict__:  # a constructor of one's own may come first
                    self._training.plan = None
                object.__setattr__(self, name, value)
            else:
                super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.comm)] = self.comm  # which belongs to all of its ranks, and can't be copied by one
        copy = memo[id(self)] = type(self).__new__(type(self))
        vars(copy).update(deepcopy(self.__getstate__(), memo))
        return copy

    @property
    def stages(self) -> tuple[Any, ...]:
        """What makes the step: the method, or all stages of a chain."""
        return (self,)

    def update(self, params: P, grads: Any, *, at: Any = None) -> P:
        """Take one step with `params`, in place, and return `params`.

        `params` is a dict, list, tuple, any nest of them, or a bare array; `grads` has the same keys and shapes.
        Arrays are written in place where they are writable and replaced in their container where they are
        not (JAX, Dask, read-only NumPy, Python floats). A bare array that can't be written comes back as
        another: `w = optimizer.update(w, g)`. A gradient that is None leaves its parameter, its slots and its
        step count alone; where all are None, no step is taken, and nothing counts or adapts. An array under two names
        is one parameter, takes one gradient and moves once.

        `at` names parts of parameters, in a container like `params` that need not name all: `at={"W": rows}`. Their
        gradients have the shape of the part, `W[rows]`, and nothing else of these parameters moves; those that it does
        not name move whole. Rows, a slice or different integers (or bools) of the first axis, count their own steps, as
        if each were a parameter, whose gradient is None where it rests: so does all else that a stage keeps or changes,
        as averages and decay do. A window, a tuple of slices and integers, is a step of its whole parameter, which
        counts it; slots are those of its elements. Norms over all parameters are those of the gradients given. Stages
        that look at each parameter as a whole, `Accumulate`, and arrays that are lazy (Dask) or on several devices are
        refused. (`update(W[rows], g)` would be an update of another array: of the same size each time, with one state
        for whatever rows these are.)

        Dtypes: real or complex floating. Arithmetic and slots have at least float32; a gradient of another
        real dtype is cast. A complex parameter is two reals, unless a rule asks for the modulus; its gradient is
        dL/dRe + i*dL/dIm, as torch gives it (the conjugate of JAX's). Dask results are computed (persisted) at once.

        Raises ValueError (keys, shapes, devices, memory, hyperparameters) or TypeError (types, libraries, dtypes; also
        arrays that are traced, as under `jax.jit`) with the key, before anything is written. An optimizer belongs to
        one thread at a time. Where a signal's handler raises an exception in the middle (KeyboardInterrupt, say), the
        step is taken whole and counted, or not at all, unless it raises an `Exception` more than 16 times while one
        step is written. Schedules, handlers and finalizers may update with other optimizers, and not with this one
        (RuntimeError), whose state they can't ask for either while a step is being written; nor may they update while
        the update that they interrupt imports what arrays and containers need that come for the first time. (Python
        3.11 itself may crash where one sets a context variable, as NumPy's error state is, while garbage is collected:
        gh-148891.) Raises FloatingPointError where a gate has skipped more steps in a row than its
        `max_consecutive_skips`: that update is skipped like the others, and who catches it may go on.

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
        if at is not None:
            return self._training.update_parts(self, params, grads, at)  # type: ignore[no-any-return]
        return self._training.update(self._pipeline, self.engine, self.comm, params, grads)  # type: ignore[no-any-return]

    def flush(self, params: P) -> P:
        """Take the step of the gradients that `Accumulate` has gathered so far, before their number is complete.

        As at the end of the data: with their mean, of as many as they are. Where nothing is gathered, and without
        an `Accumulate`, nothing happens. Returns `params` and raises, like `update`.
        """
        return self._training.flush(self._pipeline, self.engine, self.comm, params)  # type: ignore[no-any-return]

    def init(self, params: Any) -> State:
        """The state before the first `step`: no steps taken, slots as the method starts them."""
        return _step.first_state(self._pipeline, params)

    def step(self, params: P, grads: Any, state: State, *, at: Any = None) -> tuple[P, State]:
        """The pure form of `update`: new parameters and a new state, and nothing written.

        `at` names parts of parameters, as in `update`: where it does, the values of all must be known.

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
        return _step.step(self._pipeline, self.engine, self.comm, params, grads, state, at, self)

    def flush_step(self, params: P, state: State) -> tuple[P, State]:
        """The pure form of `flush`: new parameters and a new state, with the step of what is gathered so far.

        Works under `jax.jit`, as `step` does, and there computes a step even where nothing is gathered and none is
        taken.
        """
        return _step.flush_step(self._pipeline, self.engine, self.comm, params, state)

    @property
    def state(self) -> State | None:
        """What `update` remembers, in the form that `init` gives and `step` takes; None before the first update.

        Its arrays are the optimizer's own: to be read and not to be written to, and the next `update` may change them;
        those of JAX it deletes, for the new ones to have their memory.
        """
        live = self._training.caught_up()
        if live is None:
            return None
        flat = carried(live.flat, [signature[0] for signature in live.signatures if signature])
        return self._pipeline.pack(live.spec, flat, live.names)

    def state_dict(self, state: State | None = None) -> dict[str, Any]:
        """What `update` remembers, or a state of the pure form, as plain dicts by the paths of the parameters.

        ::

            {"version": 1, "step": 2, "t": {"W": 2, "b": 2},
             "stages": [{"name": "Momentum", "constants": {}, "hyperparameters": {"lr": 0.01, "momentum": 0.9},
                         "scalars": {}, "slots": {"v": {"W": array, "b": array}}}],
             "groups": {}}

        A path is a parameter's keys, joined by dots: `encoder.0.W`; empty for a bare array. The arrays are copies, in
        the parameters' library. A method by itself is one stage. A hyperparameter that is given element by element
        stands as `{"elements": {"W": array, "b": 0.1}}`. A schedule stands as its text and, of a `Plateau`,
        what it was told; what is a function (a `where`, a schedule) is the program's to make again. With an
        `Accumulate`, "pending" is how many gradients are gathered of each parameter.

        Raises ValueError if two parameters have one path; TypeError under `jax.jit`.
        """
        return self._written(lambda slot: library(slot).copied(slot), state)

    def load_state_dict(self, state: Mapping[str, Any], params: Any, *, strict: bool = True) -> list[str]:
        """Go on from where `state_dict` was taken, with parameters of any library, on any device.

        Slots are converted to the library, device and memory order of `params`, whose values, which are the caller's to
        restore, are not looked at. Hyperparameters that are numbers are set, and arrays in their place to new
        ones like those that are there; a schedule remains the one that is there.

        Args:
            state: of an optimizer of the same stages, made in the same way, for parameters of the same paths.
            params: the parameters to go on with.
            strict: whether to refuse what differs: stages and constants, paths, shapes, dtypes. Otherwise that is left
                as it is in a new optimizer, only dtypes are converted, and a text for each is returned.

        Raises ValueError, with all that differs, or TypeError for what is no such state, before anything is changed;
        RuntimeError if updates were captured in a CUDA graph, which would not see the new slots.
        """
        from anyoptim._core._restore import restored  # noqa: PLC0415 - when it is asked for: importing takes time

        if self._training.recorder is not None:
            raise RuntimeError(
                "updates were captured in a CUDA graph, which would go on with what was; wanted a new optimizer"
            )
        checked = self._pipeline.checked(params)
        tree, ps, owner, groups = checked
        fresh = self._pipeline.start(ps, groups)
        saved = restored(self.stages, self._pipeline.group_spec, checked, fresh, state)
        if strict and saved.differences:
            raise ValueError(f"state is another one: {listed(saved.differences)}")
        state_now = saved.flat and LiveState(tree.spec, signatures(ps, owner), saved.flat, groups.names)

        def load() -> None:
            for setting in saved.settings:
                setting()
            vars(self._training).update(plan=None, state=state_now)

        completed(load)
        return saved.differences

    def eval_params(self, params: P, state: State | None = None) -> P:
        """The parameters to evaluate with, where a stage keeps others: new arrays, in a container like `params`.

        Such are averages: of the state of the last `update`, or of another, of the pure form. Raises ValueError where
        no stage has other parameters to evaluate with than those that are trained.
        """
        from anyoptim._core._evaluate import evaluated  # noqa: PLC0415 - when it is asked for: importing takes time

        if not any(stage.evaluate for stage in self.stages):
            raise ValueError(f"{self!r} has no stage that averages, such as ao.EMA(); its parameters are as they are")
        if state is None:
            self._training.caught_up()
            tree = Tree("params", params)
            plan, live = self._training.recall(self._pipeline, tree)
            return tree.build(evaluated(self.stages, plan.ps, plan.groups, live.flat))  # type: ignore[no-any-return]
        checked = self._pipeline.checked(params)
        flat = self._pipeline.unpack(checked, state)
        return checked.tree.build(evaluated(self.stages, checked.ps, checked.groups, flat))  # type: ignore[no-any-return]

    @property
    def loss_scale(self) -> float:
        """By what to multiply the loss before the gradients of the next update are taken: 1.0 without a `LossScale`."""
        return loss_scale(self.stages, self._training.scalars(self._pipeline))

    @loss_scale.setter
    def loss_scale(self, scale: float) -> None:
        """Multiply the next loss by another, which the `LossScale` of the chain takes up and adapts from then on.

        Raises ValueError for one that is not above 0 and finite, or where no stage, or several, have one; RuntimeError
        where `Accumulate` has gathered gradients, which are of the loss times the old one.
        """
        k, scale = scaler(self, self.stages, scale)
        live = self._training.state
        if live is None and not hasattr(self.stages[k], "initial"):
            raise RuntimeError(f"{self.stages[k]!r} has no scale to begin with; wanted loss_scale set after an update")
        if live is None:
            self.stages[k]._initial = scale
        else:
            live.flat = with_loss_scale(self.stages, live.flat, k, scale)

    @property
    def last_metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """What each `Metrics` saw at the last step: by its name and the path of a parameter.

        Nothing of parameters that rested, and of none where a stage before it called the step off.
        """
        return {stage.name: stage.last for stage in self.stages if stage.metrics}

    @property
    def last_hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters of the last step, by name: `{"lr": 0.001, "beta1": 0.9, ...}`; empty before the first.

        In a chain, a name that several stages have is `WeightDecay.decay`, or `stages[1].decay` of several of a class;
        "groups" has what each pattern of `groups` says, alone where all of them say it. A schedule is asked now, for
        the number of the last step; what was set or told since that step is in it.
        """
        from anyoptim._diagnosis._hyperparameters import values_at  # noqa: PLC0415 - when it is asked for

        live = self._training.caught_up()
        step = 0 if live is None else int(live.flat.step)
        return values_at(step, self.stages, self._group_spec.groups) if step else {}

    def diagnose(self, params: Any, grads: Any) -> Diagnosis:
        """What `update` with these gradients would do to each parameter, and what its arithmetic would lose.

        Changes nothing. A list of `ParameterDiagnosis`: norms of gradient, parameter and step, the step beside that of
        float64, and how many elements are not finite, would not move, or would lose a tenth of their step or more. It
        prints as a table, in colours with rich's `print`, and `.plot()` draws it. It takes two steps and copies of all
        in float64. Raises like `update`, but where a gate would give up: its `note` says why no step would be taken.
        With `comm` all ranks make the call, and the numbers are of this rank's parts.
        """
        from anyoptim._diagnosis._diagnose import diagnosed  # noqa: PLC0415 - when it is asked for

        gates = [stage for stage in self.stages if isinstance(stage, Gate)]
        exact, state = partial(_step.step, self._pipeline.for_host(), "portable", self.comm), self.state
        return diagnosed(self.step, exact, gates, self._pipeline.accumulates, params, grads, state or self.init(params))

    def explain(self, params: Any, grads: Any) -> Explanation:
        """Which engine would run which of these parameters in `update`, the bytes to be moved, and why no faster one.

        Also whether the next step is replayed, without the checks that would only repeat themselves, and if not, which
        guard keeps it from that: one of `Explanation.guards`. Changes nothing. Raises like `update`. What it returns is
        a list of `Share`, and prints as a table, with what the guards in it mean below::

            engine    parameters  elements  MB a step  next step  why not faster
            compiled         159  25502912        714  replayed
            blocked            1      1000      0.028  replayed   it isn't contiguous (fc.bias)
        """
        from anyoptim._diagnosis._guards import failed_guards  # noqa: PLC0415 - when it is asked for: importing takes time

        tree = Tree("params", params)
        guards = failed_guards(self._training, self._pipeline, self.comm, tree, grads)
        plan, live = self._training.recall(self._pipeline, tree)
        groups = plan.groups
        xs = groups.without_frozen(checks.gradients(tree, plan.ps, plan.owner, grads))
        if self._pipeline.accumulates:
            xs, _ = contributions(plan.ps, xs, live.flat, plan.owner, groups.resting)
        moving = [i for i, x in enumerate(xs) if x is not None]
        leaves = [plan.leaf(i, live.flat.slots[i]) for i in moving]
        branches = [groups.branch(i) for i in moving]
        given = {branch: groups.overrides[groups.group_of[i]] for branch, i in zip(branches, moving, strict=True)}
        read = {branch: self._pipeline.read(branch, overrides) for branch, overrides in given.items()}
        return Explanation.of(
            self.engine,
            [branch.program for branch in branches],
            [read[branch] for branch in branches],
            [tree.path(i) for i in moving],
            [guards[i] for i in moving],
            leaves,
            [xs[i] for i in moving],
        )

    def compile(self, params: Any) -> None:
        """Compile at once what runs parameters like these: the `cuda` engine those on a device, `compiled` the others.

        And from the next step on use it, where `engine` leaves the choice.
        Without this, it happens when about 1e9 elements have been updated: what it costs would be more than it saves
        in a small problem. A new method takes a second or two, once on a machine: the machine code is kept in
        the user's cache folder. Parameters that the engine can't take are passed over; `explain` names them.

        Raises ImportError where a package is missing: Numba (`pip install numba`), or cuda.core (`pip install
        'cuda-core[cu13]'` or `'cuda-core[cu12]'`).
        """
        from anyoptim._core._compile import compile_for  # noqa: PLC0415 - when it is asked for: importing takes time

        compile_for(self._pipeline, self._pipeline.checked(params))

    def kernel_source(
        self,
        engine: EngineName = "compiled",
        dtype: Literal["float32", "float64", "complex64", "complex128"] = "float32",
    ) -> str:
        """The code that `cuda`, `compiled` or `blocked` makes from the rules: a pass for each reduction, then the step.

        `dtype` is that of the arithmetic, `float32` or `float64`, or that of complex parameters, whose code is another
        where rules take their elements as a whole. That of `cuda` is one text, which NVRTC, nvcc and
        `cupy.RawModule` compile. Needs no compiler, no device and no parameters.
        """
        from anyoptim._core._compile import kernel_source  # noqa: PLC0415 - when it is asked for: importing takes time

        return kernel_source(self._pipeline, engine, dtype)

    @cached_property
    def _pipeline(self) -> Pipeline:
        this = weakref.ref(self)
        return Pipeline(lambda: this().stages, self._group_spec, self._nested)  # type: ignore[union-attr] # it is asked by its owner

    @property
    def _group_spec(self) -> GroupSpec:
        """Which parameters the stages are for."""
        return GroupSpec([None])

    def _written(self, kept: Callable[[Array], Array], state: State | None = None) -> dict[str, Any]:
        """The state as plain dicts, with what `kept` makes of each slot."""
        from anyoptim._core._statedict import written  # noqa: PLC0415 - when it is asked for: importing takes time

        live = None if state is not None else self._training.caught_up()
        if state is not None:
            spec, flat, names = flattened(self.stages, self._nested, state)
        elif live is not None:
            spec, flat, names = live.spec, live.flat, live.names
        else:
            flat = FlatState(0, [], [], tuple(dict(stage.scalars) for stage in self.stages))
            return written(self.stages, self._group_spec, [], [], flat, kept)
        return written(self.stages, self._group_spec, unique_paths(spec), names, flat, kept)
