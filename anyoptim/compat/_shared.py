"""What the conventions of several frameworks share."""

from __future__ import annotations

from typing import Any

from anyoptim._core._chain import chain
from anyoptim._core._groups import groups
from anyoptim._core._optimizer import Optimizer
from anyoptim._core._stage import Stage
from anyoptim._trace._hyperparameters import Domain

__all__ = ["Rated", "composed", "given", "refused", "zero"]


class Rated(chain):
    """A chain whose `lr` is that of one of its stages: to be read, and set in mid-training.

    Where groups have one of their own, each has: AttributeError.
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
    """The stages that are there as an optimizer with an `lr`, which is `name` of one of them: a method, or a chain."""
    there = [stage for stage in stages if stage is not None]
    (only, *others) = there
    return only if isinstance(only, Optimizer) and not others else Rated(*there, of=of, name=name)


def given(domain: Domain, **values: Any) -> list[Any]:
    """These hyperparameters as floats, if they are in the domain, and schedules as they are.

    Raises TypeError or ValueError with the name that the user knows them by.
    """
    return [value if callable(value) else domain.value(name, value) for name, value in values.items()]


def zero(value: Any) -> bool:
    """Whether a hyperparameter is known to be 0, for good."""
    return isinstance(value, int | float) and not value


def refused(framework: str, **options: Any) -> None:
    """Raise NotImplementedError for the first of these options that is asked for."""
    for name, value in options.items():
        if value:
            raise NotImplementedError(f"{name}={value!r} of {framework} can't be had here; wanted {name} left out")
