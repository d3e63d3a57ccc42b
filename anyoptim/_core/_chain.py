"""Chains: stages composed as one optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from anyoptim._arrays._selection import Selection, shown
from anyoptim._core._optimizer import Optimizer
from anyoptim._engines import EngineName
from anyoptim._stage._groups import groups
from anyoptim._stage._param_groups import GroupSpec
from anyoptim._stage._stage import ParameterStage, SlotStage, Stage
from anyoptim._stage._stage_program import lenders

__all__ = ["Recipe", "chain", "partition"]


class chain(Optimizer):  # noqa: N801 - it is called like a function
    """Stages, one after the other, as one optimizer that runs them as one pass.

    >>> optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Momentum(lr=0.5), ao.EMA(0.9))
    >>> optimizer.update(np.zeros(2), np.array([30.0, 40.0]))
    array([-0.3, -0.4])

    A value flows through: it starts as the gradient; the stages before the method change it; the method makes the step
    of it; the stages after it change the step; then p <- p - x, and stages such as `EMA` see the new p. A stage
    with a reduction, such as `ClipGlobalNorm`, adds one pass that only reads.

    The stages are `optimizer.stages`, their hyperparameters live: `optimizer.stages[1].lr = 1e-4`. A chain in a chain
    is its stages.

    Args:
        stages: one method, such as `Adam`, and any other stages; those that see the parameter after its step come
            after the method and after all that change the step.
        engine: the machine that runs the chain; None chooses.
        comm: the communicator of ranks that have parts of the parameters, as `Optimizer` says; None for one process.

    Raises TypeError for what is no stage, ValueError for no method, or two, another order, an engine of a stage, or a
    method that has taken steps.
    """

    _stages: tuple[Stage, ...]
    _selectors: tuple[Any, ...]
    """For each stage the selector in the partition that has it, None for a stage of all parameters."""
    _partition: Selection | None = None
    _frozen: frozenset[Any] = frozenset()
    """The selectors of the partition whose parameters rest."""
    _groups: groups | None = None
    _nested = True

    def __init__(self, *stages: Stage | groups, engine: EngineName | None = None, comm: Any = None) -> None:
        flat: list[Stage] = []
        selectors: list[Any] = []
        for stage in stages:
            if isinstance(stage, groups):
                if self._groups is not None:
                    raise ValueError("chain was given groups twice; wanted one, with all patterns")
                self._groups = stage
                continue
            if not isinstance(stage, Stage):
                raise TypeError(f"chain was given {stage!r}; wanted stages, such as ao.Adam()")
            if isinstance(stage, chain) and stage._partition is not None:
                if self._partition is not None:
                    raise ValueError("chain was given two partitions; wanted one, with all patterns")
                self._partition, self._frozen = stage._partition, stage._frozen
            own = _stages_of(stage)
            flat += own
            selectors += stage._selectors if isinstance(stage, chain) else [None] * len(own)
        self._compose(flat, selectors)
        super().__init__(engine=engine, comm=comm)

    def _compose(self, flat: Sequence[Stage], selectors: Sequence[Any]) -> None:
        """Take these stages. Raises ValueError unless the stages of every parameter stand in a right order."""
        for selector in dict.fromkeys(selector for selector in selectors if selector is not None) or [None]:
            _check_order([stage for stage, own in zip(flat, selectors, strict=True) if own is None or own == selector])
        for i, (stage, own) in enumerate(zip(flat, selectors, strict=True)):
            if stage.is_step is not None and (i or own is not None):
                raise ValueError(f"{stage!r} says which updates are steps; wanted it first, before all methods")
            if stage.metrics and stage.name in [other.name for other in flat[:i] if other.metrics]:
                raise ValueError(f"{stage!r} is the second of its name; wanted a name of its own in last_metrics")
        for selector in self._groups or ():
            self._groups.check(selector, flat, unique=self._partition is None)  # type: ignore[union-attr] # there are some
        self._stages, self._selectors = tuple(flat), tuple(selectors)

    def _hint(self, name: str) -> str:
        having = [k for k, stage in enumerate(vars(self).get("_stages", ())) if name in stage.hyperparameters]
        return f"; it is stages[{having[0]}].{name} of this chain" if having else super()._hint(name)

    @property
    def stages(self) -> tuple[Any, ...]:
        """The stages in order."""
        return self._stages

    @property
    def groups(self) -> groups | None:
        """The groups that the chain was given, whose values are live; None for none."""
        return self._groups

    @property
    def _group_spec(self) -> GroupSpec:
        return GroupSpec(self._selectors, self._partition, self._groups, self._frozen)

    def __repr__(self) -> str:
        texts = [repr(stage) for stage, selector in zip(self._stages, self._selectors, strict=True) if selector is None]
        if self._partition is not None:
            first = next(k for k, selector in enumerate(self._selectors) if selector is not None)
            texts.insert(first, self._partition_text())
        if self._groups is not None:
            texts.append(repr(self._groups))
        return f"{type(self).__name__}({', '.join(texts)})"

    def _partition_text(self) -> str:
        stages_of: dict[Any, list[Stage]] = {selector: [] for selector in self._partition or ()}
        for stage, selector in zip(self._stages, self._selectors, strict=True):
            if selector is not None:
                stages_of[selector].append(stage)
        return f"partition({{{', '.join(f'{shown(k)}: {_text(stages)}' for k, stages in stages_of.items())}}})"


class partition(chain):  # noqa: N801 - it is called like a function
    """Different methods for different parameters, as one optimizer.

    ::

        optimizer = ao.chain(
            ao.ClipGlobalNorm(1.0),
            ao.partition({"**.bias": ao.SGD(0.1), "encoder.**": None, ...: ao.Adam()}),
            ao.EMA(0.999),
        )

    Patterns are those of `groups`: each parameter has exactly one, and `...` takes those that nothing else does. None
    instead of a method freezes the parameters: they rest, whatever their gradient. In a chain, the stages before and
    after it are for all parameters: a global norm is that of all that move. What goes through one method is one pass.

    All stages of all methods are `optimizer.stages`, one after the other, and so are the slots of the state, where
    None stands for parameters that a stage is not for.

    Args:
        of: for each pattern a method or a chain, or None.
        engine: the machine that runs it; None chooses.
        comm: the communicator of ranks that have parts of the parameters, as `Optimizer` says; None for one process.

    Raises TypeError and ValueError as `chain` and `groups` do.

    >>> optimizer = ao.partition({"W": ao.Signum(lr=1.0), "b": ao.SGD(lr=1.0), "frozen": None})
    >>> optimizer.update({"W": 0.0, "b": 0.0, "frozen": 0.0}, {"W": 5.0, "b": 5.0, "frozen": 5.0})
    {'W': -1.0, 'b': -5.0, 'frozen': 0.0}
    """

    def __init__(
        self, of: Mapping[Any, Optimizer | None], *, engine: EngineName | None = None, comm: Any = None
    ) -> None:
        if not isinstance(of, Mapping):
            raise TypeError(f"partition was given {of!r}; wanted a dict of patterns and methods")
        self._partition = Selection("partition", of)
        self._frozen = frozenset(selector for selector, method in of.items() if method is None)
        flat: list[Stage] = []
        selectors: list[Any] = []
        for selector, method in of.items():
            if method is None:
                continue
            nests = isinstance(method, chain) and (method._partition is not None or method._groups is not None)
            if not isinstance(method, Optimizer) or nests:
                raise TypeError(
                    f"partition has {method!r} for {shown(selector)}; wanted a method or a chain of one, or None"
                )
            own = _stages_of(method)
            flat += own
            selectors += [selector] * len(own)
        if not flat:
            raise ValueError("partition has no method; wanted one, such as ao.Adam()")
        self._compose(flat, selectors)
        Optimizer.__init__(self, engine=engine, comm=comm)

    def __repr__(self) -> str:
        return self._partition_text()


def _text(stages: Sequence[Stage]) -> str:
    if not stages:
        return "None"
    return repr(stages[0]) if len(stages) == 1 else f"chain({', '.join(map(repr, stages))})"


def _stages_of(stage: Stage) -> Sequence[Stage]:
    """The stages of an optimizer, or a stage by itself. Raises ValueError for an optimizer in use."""
    if not isinstance(stage, Optimizer):
        return [stage]
    for name in ("engine", "comm"):
        if getattr(stage, name) is not None:
            raise ValueError(f"{stage!r} has {name}={getattr(stage, name)!r}; wanted it on the chain")
    if stage.state is not None:
        raise ValueError(
            f"{stage!r} has taken steps, which the chain would forget; wanted a new one, and after that "
            "chain.load_state_dict(optimizer.state_dict(), params, strict=False)"
        )
    if isinstance(stage, chain) and stage.groups is not None:
        raise ValueError(f"{stage!r} has groups of its own; wanted them in the outer chain")
    return stage.stages


def _check_order(flat: Sequence[Stage]) -> None:
    """Raise ValueError unless these make a step, in this order."""
    methods = [i for i, stage in enumerate(flat) if isinstance(stage, Optimizer)]
    if len(methods) != 1:
        raise ValueError(f"chain was given {len(methods)} methods among {[*flat]}; wanted one, such as ao.Adam()")
    early = [stage for stage in flat[: methods[0]] if isinstance(stage, ParameterStage)]
    if early:
        raise ValueError(f"{early[0]!r} sees the parameter after its step; wanted it after {flat[methods[0]]!r}")
    unscaled = [stage for stage in flat[methods[0] :] if stage.get_loss_scale is not None]
    if unscaled:
        raise ValueError(f"{unscaled[0]!r} divides the gradient by a scale; wanted it before {flat[methods[0]]!r}")
    after = next((i for i, stage in enumerate(flat) if isinstance(stage, ParameterStage)), len(flat))
    late = [stage for stage in flat[after:] if not isinstance(stage, ParameterStage | SlotStage)]
    if late:
        raise ValueError(f"{late[0]!r} changes the step, which was taken; wanted it before {flat[after]!r}")
    lenders(flat, range(len(flat)))
    for i, stage in enumerate(flat):
        if isinstance(stage, SlotStage) and not any(before.slots for before in flat[:i]):
            raise ValueError(f"{stage!r} has no slots before it; wanted it after the stages that have some")


_GIVEN = frozenset({"hyperparameter", "constant"})
"""The fields that a recipe hands to its stages."""


class Recipe(Optimizer):
    """A method made of several stages, whose hyperparameters are its own: each that of the stage that has its name."""

    parts: ClassVar[tuple[type[Stage], ...]]
    """The classes of its stages."""

    _nested = True

    def __init__(self, *args: Any, **options: Any) -> None:
        values = self._arguments(args, options)
        each = [{name for name, of in part._fields.items() if of.role in _GIVEN} for part in self.parts]
        both = zip(self.parts, each, strict=True)
        self._stages = tuple(part(**{name: values[name] for name in names}) for part, names in both)
        super().__init__(*args, **options)

    @property
    def stages(self) -> tuple[Any, ...]:
        """The stages in order."""
        return self._stages

    @property
    def _group_spec(self) -> GroupSpec:
        return GroupSpec([None] * len(self._stages))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).hyperparameters:
                return getattr(self._having(name), name)
            return super().__getattr__(name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in type(self).hyperparameters:
                setattr(self._having(name), name, value)
            else:
                super().__setattr__(name, value)

    def _having(self, name: str) -> Stage:
        return next(stage for stage in self._stages if name in stage.hyperparameters)
