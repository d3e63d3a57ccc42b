"""Values: objects that are made once, of arguments that the body of their class declares, and never change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, dataclass_transform

from anyoptim._stage._fields import ClassSignature, Field, declared, misfit, signature_of

__all__ = ["Value"]


@dataclass_transform(eq_default=True, frozen_default=True)
class Value:
    """An immutable value, equal to those of its class that were made with the same arguments.

    The body of a class declares them, as that of a stage does: `c1: Final[Annotated[float, domain]] = 0.1`.

    >>> search = ao.solvers.Armijo(shrink=0.25)
    >>> search, search == ao.solvers.Armijo(shrink=0.25)
    (Armijo(c1=0.0001, shrink=0.25), True)
    >>> search.shrink = 0.5
    Traceback (most recent call last):
        ...
    AttributeError: Armijo(c1=0.0001, shrink=0.25) can't be changed; wanted a new Armijo
    """

    _fields: ClassVar[Mapping[str, Field]] = {}
    __signature__: ClassVar[ClassSignature] = ClassSignature()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._fields = declared(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        signature = signature_of(self._fields)
        try:
            bound = signature.bind(*args, **options)
        except TypeError:
            raise TypeError(f"{type(self).__name__} was {misfit(signature, args, options)}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            check = self._fields[name].check
            vars(self)[f"_{name}"] = value if check is None else check.value(name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check more, after all arguments have been."""

    @property
    def _arguments(self) -> dict[str, Any]:
        """All by name, in the order of the constructor."""
        return {name: getattr(self, name) for name in signature_of(self._fields).parameters}

    if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

        def __setattr__(self, name: str, value: Any) -> NoReturn:
            raise AttributeError(f"{self!r} can't be changed; wanted a new {type(self).__name__}")

    def __repr__(self) -> str:
        """The call that makes it; what is given by keyword only is left out at its default."""
        fields, shown = self._fields, self._arguments
        texts = [f"{n}={v!r}" for n, v in shown.items() if not (fields[n].keyword and v == fields[n].default)]
        return f"{type(self).__name__}({', '.join(texts)})"

    def __eq__(self, other: object) -> bool:
        return self._arguments == other._arguments if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *self._arguments.values()))
