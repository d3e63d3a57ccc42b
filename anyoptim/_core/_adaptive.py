"""The base of methods that may take complex elements as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Flag

__all__ = ["Adaptive"]


class Adaptive(Optimizer):
    """A method that divides by sizes of elements: of both parts of a complex one, or, if joint, of the whole."""

    _: KW_ONLY
    joint: Final[Flag] = False
    squares: ClassVar[tuple[str, ...]] = ("v",)
    """The slots made of squares: real ones, if joint."""

    @property
    def real_slots(self) -> tuple[str, ...]:  # type: ignore[override] # those of an optimizer, and not of its class
        return self.squares if self.joint else ()

    @property
    def _saved_constants(self) -> dict[str, Any]:
        # The dtypes of slots tell whether it is joint, and of real parameters the state is the same.
        return {name: value for name, value in self.constants.items() if name != "joint"}

    def _coefficients(self, t: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        found = super()._coefficients(t, values)
        return {**found, "joint": 1.0} if self.joint else found  # for `square`, which asks whether it is there
