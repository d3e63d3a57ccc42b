"""Methods that are chains."""

from __future__ import annotations

from typing import Any

from anyoptim._chain import chain

__all__ = ["Recipe"]


class Recipe(chain):
    """A method made of several stages, whose hyperparameters are its own: each that of the stage that has its name."""

    def __getattr__(self, name: str) -> Any:
        if name in type(self).hyperparameters:
            return getattr(self._having(name), name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).hyperparameters:
            setattr(self._having(name), name, value)
        else:
            super().__setattr__(name, value)

    def _having(self, name: str) -> Any:
        return next(stage for stage in self._stages if name in stage.hyperparameters)

    def __repr__(self) -> str:
        return super(chain, self).__repr__()
