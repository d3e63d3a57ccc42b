"""The constructors of other frameworks, over the methods here: `ao.compat.torch.AdamW(lr=1e-3, betas=(0.9, 0.999))`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyoptim.compat import keras, optax, scipy, torch

__all__ = ["keras", "optax", "scipy", "torch"]


if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

    def __getattr__(name: str) -> Any:
        if name in __all__:  # each is imported where it is asked for
            import importlib  # noqa: PLC0415

            return importlib.import_module(f"anyoptim.compat.{name}")
        raise AttributeError(f"module 'anyoptim.compat' has no attribute {name!r}")
