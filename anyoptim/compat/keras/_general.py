"""What all optimizers of Keras take, in the order in which it is applied there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, ParamSpec, TypedDict, get_type_hints

from anyoptim._core._chain import chain
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Hyper
from anyoptim.compat._counts import CountedSchedule, Product, ZeroBased
from anyoptim.compat.keras._variants import KerasEMA, KerasOverwritingEMA
from anyoptim.stages import Accumulate, ClipGlobalNorm, ClipNorm, ClipValue, Scale, WeightDecay

__all__ = ["Called", "General", "Options", "constructor", "times"]


@dataclass(frozen=True)
class Called:
    """A function without arguments, which Keras calls at each step, as a schedule."""

    function: Callable[[], Any]

    def __call__(self, t: Any) -> Any:
        """The value now."""
        return self.function()


def times(a: Any, b: Any) -> Hyper:
    """The product of two hyperparameters, one of them perhaps a schedule."""
    return Product(a, b) if callable(a) or callable(b) else a * b


@dataclass(frozen=True)
class General:
    """The arguments of Keras's base class, by its names."""

    clipnorm: float | None = None
    clipvalue: float | None = None
    global_clipnorm: float | None = None
    use_ema: bool = False
    ema_momentum: float = 0.99
    ema_overwrite_frequency: int | None = None
    loss_scale_factor: float | None = None
    gradient_accumulation_steps: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        clips = ("clipnorm", "clipvalue", "global_clipnorm")
        given = [name for name in clips if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; wanted one of {', '.join(clips)}")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name is {self.name!r}; wanted a string, which changes nothing, or None")
        if self.gradient_accumulation_steps and self.gradient_accumulation_steps < 2:
            raise ValueError(f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; wanted at least 2")
        if self.gradient_accumulation_steps and self.use_ema:
            raise ValueError(
                "use_ema is True with gradient_accumulation_steps, where Keras's average also moves with updates that "
                "are no step; wanted one of them"
            )

    def rate(self, learning_rate: Any) -> Hyper:
        """The learning rate: a number, a schedule of the count of updates, or a function without arguments."""
        kinds = {kind.__name__ for kind in type(learning_rate).__mro__}
        if isinstance(learning_rate, CountedSchedule) or "LearningRateSchedule" in kinds:
            return ZeroBased(learning_rate, self.gradient_accumulation_steps or 1)
        return Called(learning_rate) if callable(learning_rate) else learning_rate

    def around(self, *stages: Stage | None, loss: Any = None) -> Optimizer:
        """The stages, some of which may be None, with what comes before and after them.

        `loss` is the share of the parameter that is lost at a step: lr*weight_decay; None for nothing.
        """
        decay = None if loss is None else WeightDecay(loss)
        all_of = [*self._before(), *(stage for stage in (*stages, decay) if stage is not None), *self._after()]
        (first, *others) = all_of
        return first if not others and isinstance(first, Optimizer) else chain(*all_of)

    def _before(self) -> list[Stage]:
        found: list[Stage] = []
        if self.gradient_accumulation_steps:
            found.append(Accumulate(self.gradient_accumulation_steps))
        if self.loss_scale_factor is not None:
            found.append(Scale(1 / self.loss_scale_factor))
        for value, stage in (
            (self.clipnorm, ClipNorm),
            (self.global_clipnorm, ClipGlobalNorm),
            (self.clipvalue, ClipValue),
        ):
            if value and value > 0:
                found.append(stage(value))
        return found

    def _after(self) -> list[Stage]:
        if not self.use_ema:
            return []
        if self.ema_overwrite_frequency:
            return [KerasOverwritingEMA(self.ema_momentum, self.ema_overwrite_frequency)]
        return [KerasEMA(self.ema_momentum)]


class Options(TypedDict, total=False):
    """The arguments of `General`, for type checkers."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


P = ParamSpec("P")


def constructor(make: Callable[P, Optimizer]) -> Callable[P, Optimizer]:
    """The same function with Keras's order of arguments: those of its base class come before the keyword-only ones."""
    types = get_type_hints(General)
    base = [
        Parameter(of.name, Parameter.POSITIONAL_OR_KEYWORD, default=of.default, annotation=types[of.name])
        for of in fields(General)
    ]
    own = [of for of in signature(make, eval_str=True).parameters.values() if of.kind is not Parameter.VAR_KEYWORD]
    place = [of.kind for of in own].count(Parameter.POSITIONAL_OR_KEYWORD)
    after = [of.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for of in own[place:]]
    whole = Signature([*own[:place], *base, *after], return_annotation=Optimizer)

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Optimizer:
        try:
            given = whole.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{make.__name__} of Keras: {error}") from None
        return make(**given)  # type: ignore[call-arg] # all of them by name

    made.__signature__ = whole  # type: ignore[attr-defined] # that `inspect` shows
    made.__annotations__ = {of.name: of.annotation for of in whole.parameters.values()} | {"return": Optimizer}
    return made
