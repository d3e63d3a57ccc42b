"""What the masking engines are told of a draw."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Draw"]


class Draw(NamedTuple):
    """An element is multiplied by the scale where its choice is at least the threshold, else by 0."""

    threshold: int
    """From 0 to 2**32."""
    scale: float
    key: int
    call: int
    offset: int
    """These three as of `anyoptim.random.bernoulli`."""

    @property
    def last(self) -> int:
        """The last choice that drops, where 2**32 is no number; at a threshold of 0 nothing may be dropped."""
        return max(self.threshold - 1, 0)

    @property
    def dropped(self) -> float:
        """What stands for 0, where `last` is compared with."""
        return 0.0 if self.threshold else self.scale
