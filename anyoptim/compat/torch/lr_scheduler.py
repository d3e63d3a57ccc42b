"""torch.optim.lr_scheduler's schedulers as schedules."""

from __future__ import annotations

__all__: list[str] = []
