"""A comparison of states, whatever library their arrays are of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from tests.support.libraries import same_bits


def equal_states(a: Any, b: Any, tonumpy: Callable[[Any], Any] = np.asarray) -> bool:
    """Whether two states, or None and None, have the same structure and values."""

    def value(x: Any) -> Any:
        return tonumpy(x) if hasattr(x, "shape") else np.asarray(x)

    same = optree.tree_structure(a) == optree.tree_structure(b)
    leaves = zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True)
    return same and all(same_bits(value(x), value(y)) for x, y in leaves)
