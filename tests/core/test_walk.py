"""The way of a gradient through a replayed step is the one that docs/architecture.md walks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import anyoptim as ao

PAGE = Path(ao.__file__).parents[1] / "docs" / "architecture.md"


def test_the_page_names_every_function_that_a_gradient_passes_through() -> None:
    """At most twelve, in this order; and no other function of ours is given a gradient."""
    pytest.importorskip("numba", reason="the page walks through the compiled engine")
    section = PAGE.read_text(encoding="utf-8").partition("## The same on a replay")[2].partition("\n## ")[0]
    named = re.findall(r"^\d+\. `([\w.]+)`", section, re.M)
    params, grads = ({"W": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32)} for _ in range(2))
    optimizer = ao.Adam(engine="compiled")
    for _ in range(4):
        optimizer.update(params, grads)
    called, given = list[str](), list[str]()

    def at_call(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code.co_filename.startswith(str(Path(ao.__file__).parent)):
            name = frame.f_code.co_qualname.rpartition("<locals>.")[2]
            called.append(name)
            arguments = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            if any(_has(frame.f_locals[a], grads) for a in arguments):
                given.append(name)

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        optimizer.update(params, grads)
    finally:
        sys.settrace(before)
    *ours, loop = named
    assert len(named) <= 12
    assert set(given) <= set(ours)
    rest = iter(called)
    assert all(name in rest for name in ours), (named, called)
    assert f"def {loop}(" in optimizer.kernel_source("compiled")


def _has(value: Any, grads: dict[str, Any]) -> bool:
    """Whether this is the gradients, or a list of some of them."""
    return value is grads or (isinstance(value, list | tuple) and any(x is g for x in value for g in grads.values()))
