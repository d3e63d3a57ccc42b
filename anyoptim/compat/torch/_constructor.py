"""What a constructor of torch.optim is given first, and one of here is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from anyoptim._stage._fields import holds_parameters

__all__ = ["refuse_params", "without_params"]

P = ParamSpec("P")
T = TypeVar("T")


def without_params(constructor: Callable[P, T]) -> Callable[P, T]:
    """The constructor, with a TypeError that says where parameters go, in place of one about its other arguments."""

    @wraps(constructor)
    def made(*args: Any, **options: Any) -> T:
        refuse_params(constructor.__name__, args, options, "update(params, grads)")
        return constructor(*args, **options)

    return made


def refuse_params(name: str, args: Sequence[Any], options: Mapping[str, Any], where: str) -> None:
    """Raise TypeError where a constructor was given parameters."""
    if "params" in options or holds_parameters(args[0] if args else None):
        raise TypeError(
            f"ao.compat.torch.{name} was given parameters; wanted them in {where}, and not in the constructor"
        )
