"""What the candidates are called, in results, tables and pictures."""

from __future__ import annotations

__all__ = ["ANYOPTIM", "BASELINE", "BLOCKED", "FUSED", "LIMIT", "OPTAX", "TORCH", "threads"]

BASELINE, LIMIT = "five lines", "streaming limit"
ANYOPTIM, BLOCKED = "anyoptim", "anyoptim without Numba"
TORCH = ("torch plain", "torch foreach", "torch fused")
FUSED = TORCH[-1]
OPTAX = "optax jit"


def threads(n: int) -> str:
    """A way with that many threads."""
    return f"{n} thread{'s' if n > 1 else ''}"
