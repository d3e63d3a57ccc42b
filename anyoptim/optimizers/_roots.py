"""Roots with an eps inside: none, at no cost, where that is known to be 0."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array

__all__ = ["inside", "root"]


def inside(eps_root: Any, correction: Any = 1.0) -> dict[str, Any]:
    """The coefficient that `root` adds: `eps_root` in units of an uncorrected v; nothing where that is known to be 0.

    `correction` is what a corrected v would be divided by.
    """
    return {} if isinstance(eps_root, float) and not eps_root else {"eps_root": eps_root * correction}


def root(xp: Any, v: Array, eps_root: Any) -> Array:
    """`sqrt(v + eps_root)`."""
    return xp.sqrt(v if eps_root is None else v + eps_root)
