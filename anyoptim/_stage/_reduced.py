"""The reductions that a stage declares: the parts of its program, and the checks of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyoptim._trace._program import Part, on_nothing
from anyoptim._trace._reductions import Reduction

__all__ = ["check_names", "reduced_parts"]


def reduced_parts(
    cls: type[Any], reductions: Mapping[str, Reduction], act: Callable[..., Any], slots: int
) -> dict[str, Part]:
    """The parts that are reductions, of functions that are given what a rule with this act and as many slots is."""
    return {
        name: Part(
            on_nothing,
            of.functions[0],
            reduction=of,
            what=f"the reduction {name!r} of {cls.__name__}",
            seen=(act, slots),
        )
        for name, of in reductions.items()
        if of.functions
    }


def check_names(cls: type[Any]) -> None:
    """Raise TypeError for what is no reduction, and for two numbers of one name."""
    taken: dict[str, str] = dict.fromkeys(cls.hyperparameters, "hyperparameters")
    for name in cls.borrows:
        if name in taken:
            raise TypeError(f"{cls.__name__} has {name!r} among its hyperparameters and borrows; wanted one of these")
        taken[name] = "borrows"
    for place in ("reductions", "scalars", "metrics"):
        kept = getattr(cls, place)
        if place != "scalars" and not isinstance(kept, Mapping):
            raise TypeError(f"{cls.__name__} has {place} = {kept!r}; wanted a dict of reductions by name")
        for name, of in kept.items() if isinstance(kept, Mapping) else ():  # scalars may be a property
            if not (isinstance(name, str) and name.isidentifier()):
                raise TypeError(f"{cls.__name__} has {place} with the name {name!r}; wanted that of an attribute")
            if place != "scalars" and not isinstance(of, Reduction):
                raise TypeError(
                    f"{cls.__name__} has {place} = {{{name!r}: {of!r}}}; wanted a reduction, such as ao.Norm"
                )
            if place == "metrics" and of.over != "each":
                raise TypeError(f"{cls.__name__} has metrics = {{{name!r}: {of!r}}}; wanted it over='each'")
            if name in taken and (place != "metrics" or taken[name] == "reductions"):
                raise TypeError(f"{cls.__name__} has {name!r} among its {taken[name]} and {place}; wanted another name")
            taken[name] = place
