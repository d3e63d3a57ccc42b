"""What a constructor of torch.optim is given first, and one of here is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from anyoptim._stage._fields import holds_parameters

__all__ = ["without_params"]

P = ParamSpec("P")
T = TypeVar("T")


def without_params(constructor: Callable[P, T]) -> Callable[P, T]:
    """The constructor, with a TypeError that says where parameters go, in place of one about its other arguments."""

    @wraps(constructor)
    def made(*args: Any, **options: Any) -> T:
        if "params" in options or holds_parameters(args[0] if args else None):
            raise TypeError(
                f"ao.compat.torch.{constructor.__name__} was given parameters; wanted them in update(params, grads), "
                "and not in the constructor"
            )
        return constructor(*args, **options)

    return made
