"""Stages: what an equation needs to become part of an optimizer. Nothing numeric."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, ClassVar, Self

import numpy as np

from anyoptim._arrays import Array, is_scalar
from anyoptim._hyperparameters import Domain, Hyper
from anyoptim._program import Part, floats, on_parameter, on_slots, on_value
from anyoptim._quiet import quiet
from anyoptim._trace import Symbol

__all__ = ["ParameterStage", "SlotStage", "Stage", "watch"]


_WATCHED: weakref.WeakKeyDictionary[Any, list[Callable[[str, Any], None]]] = weakref.WeakKeyDictionary()
"""Whom to tell of new values of hyperparameters, before they are set. No part of a stage: a copy has nobody."""


def watch(stage: Any, tell: Callable[[str, Any], None]) -> None:
    """Have `tell(name, value)` called before a hyperparameter is set; it may refuse."""
    _WATCHED.setdefault(stage, []).append(tell)


class Stage:
    """One stage of a chain, between the gradient and the step.

    A value x flows through a chain: it starts as the gradient, and each stage makes another of it. A subclass gives
    its rule and, where it has them, its hyperparameters, slots and coefficients::

        class Signed(ao.Stage):
            @staticmethod
            def rule(xp, p, x):
                return xp.sign(x)

    `rule(xp, p, x, *slots, **coefficients)` gives the new x, or a tuple of it and the new slots, for one element. It
    computes new values and writes to nothing that it is given (`m = beta*m`, not `m *= beta`). An engine may
    call it once, with values that only record what is done to them, and run the record ever after: so it has no
    side effects, reads nothing but its arguments, and branches on nothing but coefficients that are bools or strings.

    Hyperparameters are plain attributes, read at every step. Each is a number or a schedule, a function of the step
    number, which counts from 1; it may be called more than once for a step, and remembers nothing.
    """

    hyperparameters: ClassVar[Mapping[str, Domain]] = {}
    """The attributes that are read at every step, and what each may be."""

    slots: ClassVar[tuple[str, ...]] = ()
    """The names of the arrays kept for each parameter."""

    coefficients: ClassVar[Callable[..., dict[str, Any]]] = staticmethod(lambda _, **hyperparameters: hyperparameters)
    """`coefficients(t, **hyperparameters)`: what the rule needs beside arrays, in float64 on the host.

    t is the parameter's own count of steps, from 1; the hyperparameters are this step's values. As it stands
    here, the coefficients are the hyperparameters. A stage with a `measure` is also given the `norm`.
    """

    rule: Callable[..., Any]
    """`rule(xp, p, x, *slots, **coefficients)`: the new x, or a tuple of it and the new slots, for one element."""

    measure: ClassVar[Callable[..., Any] | None] = None
    """`measure(xp, p, x)`, where the stage needs to see all parameters first: `coefficients` gets `norm`.

    norm is the square root of the sum of `measure(xp, p, x)**2` over all elements of all parameters that move at this
    step, in float64, added in an order that no engine changes: so that its bits are the same on all of them. It is a
    float, under `jax.jit` a 0-d array, and on a CUDA device a symbol: what `coefficients` makes of it by arithmetic is
    computed there; where they ask for more (a branch, a function of `math`), the device is waited for, and they get
    the float.
    """

    _act: ClassVar[Callable[..., Any]] = staticmethod(on_value)

    def __init__(self, **hyperparameters: Any) -> None:
        if set(hyperparameters) != set(self.hyperparameters):
            raise TypeError(
                f"{type(self).__name__} was given {', '.join(hyperparameters) or 'no hyperparameters'}; "
                f"wanted {', '.join(self.hyperparameters) or 'none'}"
            )
        if getattr(getattr(self, "rule", None), "__self__", None) is self:
            raise TypeError(f"{type(self).__name__}.rule reads self; wanted a staticmethod, of its arguments alone")
        for name, value in hyperparameters.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        domain = self.hyperparameters.get(name)
        if domain is not None and not callable(value):
            domain.value(name, value)
        elif domain is None and not name.startswith("_") and not hasattr(type(self), name):
            # A misspelt hyperparameter would be ignored in silence.
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; "
                f"its hyperparameters are {', '.join(self.hyperparameters) or 'none'}"
            )
        self.__dict__.pop("_fixed", None)
        if domain is not None:
            for tell in _WATCHED.get(self, ()):
                tell(name, value)
        super().__setattr__(name, value)

    def __copy__(self) -> Self:
        return deepcopy(self)  # two optimizers over the same slots would be one

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.hyperparameters)
        return f"{type(self).__name__}({values})"

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """The slots of one real parameter, given in its compute dtype: zeros, unless a method says otherwise.

        A tuple of arrays of that shape and dtype, one for each name in `slots`.
        """
        return tuple(xp.zeros_like(p) for _ in self.slots)

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """The hyperparameters that are others for one parameter: `{"decay": 0.0}`. Says the same whenever it is asked.

        `path` is its keys, joined by dots: `encoder.0.bias`; empty for a bare array.
        """
        return {}

    @property
    def _part(self) -> Part:
        cls = type(self)
        return Part(cls._act, self.rule, self.slots, cls.measure)

    def _values(self, step: Any, given: Mapping[str, Hyper]) -> dict[str, Any]:
        """The hyperparameters at this step, schedules called; those that are given instead of the stage's own."""
        own = self.__dict__
        if not given and "_fixed" in own:
            fixed: dict[str, Any] = own["_fixed"]
            return fixed
        values = {}
        for name, domain in self.hyperparameters.items():
            value = given[name] if name in given else own[name]
            if type(value) is float and name not in given:
                values[name] = value  # it was checked when it was set
            elif callable(value):
                with quiet():  # whatever the engine
                    value = value(step)
                values[name] = domain.value(f"{name}, from its schedule at step {step},", value)
            else:
                values[name] = domain.value(name, value)
        if not given and not any(callable(own[name]) for name in values):
            own["_fixed"] = values  # until an attribute is set
        return values

    def _coefficients(self, t: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            found = self.coefficients(t, **values)
        except TypeError as error:
            if any(isinstance(v, Symbol) for v in (t, *values.values())):
                raise TypeError(f"coefficients of {self!r} can't be computed on a device: {error}") from error
            raise
        return found if floats(found) else {k: _number(c) for k, c in found.items()}


class ParameterStage(Stage):
    """A stage that sees the parameter after its step: averages, projections.

    `rule(xp, p, *slots, **coefficients)` gives p, as it is or another, or a tuple of it and the new slots.
    """

    _act = staticmethod(on_parameter)


class SlotStage(Stage):
    """A stage that acts on the slots of all stages before it: `rule(xp, s, **coefficients)` gives the new s."""

    _act = staticmethod(on_slots)


def _number(c: Any) -> Any:
    # A NumPy float64 scalar would turn float32 arrays into float64. A bool or a string is a static option of the rule.
    if isinstance(c, bool | np.bool_ | str):
        return c if isinstance(c, str) else bool(c)
    return float(c) if is_scalar(c) else c
