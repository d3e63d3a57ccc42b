"""The classes that the guide shows as methods and stages of one's own, in a step under `jax.jit`."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "own-methods.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
REFUSED = {"Branching"}
"""That which the page shows as refused."""
CLASSES = [name for name in re.findall(r"^class (\w+)\(ao\.\w+\):", CODE, re.MULTILINE) if name not in REFUSED]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's code defines."""
    names: dict[str, Any] = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(CODE, "own-methods.md", "exec", dont_inherit=True), names)  # noqa: S102
    return names


def _optimizer(of: Any) -> ao.Optimizer:
    if issubclass(of, ao.Optimizer):
        return of()  # type: ignore[no-any-return]
    parts = [of(), ao.SGD(lr=0.1)]
    return ao.chain(*(parts[::-1] if issubclass(of, ao.ParameterStage) else parts))


def _jitted(optimizer: ao.Optimizer, params: Any, grads: list[Any]) -> Any:
    import jax
    import jax.numpy as jnp

    p, step = {k: jnp.asarray(a) for k, a in params.items()}, jax.jit(optimizer.step)
    state = optimizer.init(p)
    for g in grads:
        p, state = step(p, {k: jnp.asarray(a) for k, a in g.items()}, state)
    return p


def _problem() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(0)

    def draw() -> dict[str, Any]:
        return {"a": rng.normal(size=3).astype(np.float32), "b": rng.normal(size=(2, 2)).astype(np.float32)}

    return draw(), [{k: np.zeros_like(a) for k, a in draw().items()}, *(draw() for _ in range(10))]


def test_the_classes_are_found() -> None:
    assert {"Lion", "MyAdam", "Signed", "UnitLength"} <= {*CLASSES}


@pytest.mark.parametrize("name", CLASSES)
def test_steps_under_jit_are_those_of_updates(name: str, page: dict[str, Any], need: Callable[[str], Library]) -> None:
    """Of NumPy's arrays, to some roundings of float32; the first gradients are zeros."""
    need("jax")
    params, grads = _problem()
    found = _jitted(_optimizer(page[name]), params, grads)
    optimizer = _optimizer(page[name])
    for g in grads:
        optimizer.update(params, g)
    for k, a in params.items():
        np.testing.assert_allclose(found[k], a, rtol=0, atol=1e-6)


def test_the_pages_adam_is_adam_under_jit(page: dict[str, Any], need: Callable[[str], Library]) -> None:
    """To some roundings, which `1 - beta2**t` in float32 is not: its first steps are off by 1e-5 of themselves."""
    need("jax")
    params, grads = _problem()
    ours, theirs = (_jitted(of(lr=0.1), params, grads[1:]) for of in (page["MyAdam"], ao.Adam))
    for k in params:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=0, atol=3e-7)
