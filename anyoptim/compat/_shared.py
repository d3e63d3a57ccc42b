"""Chains with a learning rate, and checks of arguments, for the constructors of all frameworks."""

from __future__ import annotations

from typing import Any

from anyoptim._core._chain import chain
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._groups import groups
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Domain

__all__ = ["Rated", "composed", "given", "refused", "zero"]


class Rated(chain):
    """A chain whose `lr` is a hyperparameter of one of its stages, to be read and set in mid-training.

    Raises AttributeError where there are groups, because each of them has its own.
    """

    def __init__(self, *stages: Stage | groups, of: Stage, name: str = "lr") -> None:
        super().__init__(*stages)
        self._of, self._name = next(k for k, stage in enumerate(self.stages) if stage is of), name

    @property
    def lr(self) -> Any:
        """The learning rate: a number or a schedule of the step number."""
        return getattr(self._rated, self._name)

    @lr.setter
    def lr(self, value: Any) -> None:
        setattr(self._rated, self._name, value)

    @property
    def _rated(self) -> Stage:
        if self.groups is not None:
            key = self._name if self._name == "lr" else f"{type(self.stages[self._of]).__name__}.{self._name}"
            raise AttributeError(f"the lr of each group is its own; wanted optimizer.groups[...][{key!r}]")
        return self._stages[self._of]

    def __repr__(self) -> str:
        return f"chain{super().__repr__().removeprefix(type(self).__name__)}"


def composed(*stages: Stage | None, of: Stage, name: str = "lr") -> Optimizer:
    """The stages, without None, as an optimizer: a method alone, or a chain whose `lr` is `name` of the stage `of`."""
    present = [stage for stage in stages if stage is not None]
    first, *others = present
    return first if isinstance(first, Optimizer) and not others else Rated(*present, of=of, name=name)


def given(domain: Domain, **values: Any) -> list[Any]:
    """The hyperparameters as floats, and schedules as they are.

    Raises TypeError or ValueError for a value outside the domain, with the name that the user knows it by.
    """
    return [value if callable(value) else domain.value(name, value) for name, value in values.items()]


def zero(value: Any) -> bool:
    """Whether a hyperparameter is the number 0, and no schedule that might become another."""
    return isinstance(value, int | float) and not value


def refused(framework: str, **options: Any) -> None:
    """Raise NotImplementedError for the first of these options that is asked for."""
    for name, value in options.items():
        if value:
            raise NotImplementedError(f"{name}={value!r} of {framework} can't be had here; wanted {name} left out")
