"""The mask of Dropout that the engines of random numbers multiply with."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MaskSpec"]


class MaskSpec(NamedTuple):
    """A mask: the scale where an element's choice is at least the threshold, else 0."""

    threshold: int
    """From 0 to 2**32."""
    scale: float
    key: int
    call: int
    offset: int
    """The key, the call and the offset are those of `anyoptim.random.bernoulli`."""

    @property
    def last(self) -> int:
        """The last choice that drops, which 32 bits can hold; at a threshold of 0 it is 0, and `dropped` the scale."""
        return max(self.threshold - 1, 0)

    @property
    def dropped(self) -> float:
        """The factor for choices up to `last`: 0, but at a threshold of 0 the scale."""
        return 0.0 if self.threshold else self.scale
