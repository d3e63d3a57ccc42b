"""The options that torch's own tests try, read from the installed torch: on each dtype, beside torch's optimizer."""

from __future__ import annotations

import importlib
import itertools
import sys
from typing import Any
from unittest import mock

import pytest

import anyoptim as ao
from tests.support.compat_torch import OPTIONS

STEPS = 5
DTYPES = ("float64", "float32", "bfloat16", "float16", "complex128", "complex64")
COMPARED = 468
"""So many combinations of options and dtype torch 2.13 has that can be compared."""

INTERNAL = "torch.testing._internal"
MACHINERY = ("common_device_type", "common_methods_invocations", "common_utils")
"""What the table of torch's tests imports only for their decorators, which are not read here. It takes seconds to
import, wants a package of its own (expecttest), parses the command line and locks torch's global flags."""


@pytest.fixture
def table(torch: Any) -> dict[str, Any]:
    """torch's `OptimizerInfo` by the name of the optimizer."""
    with mock.patch.dict(sys.modules, {f"{INTERNAL}.{name}": mock.MagicMock() for name in MACHINERY}):
        infos = importlib.import_module(f"{INTERNAL}.common_optimizers").optim_db
    return {info.optim_cls.__name__: info for info in infos}


def _inputs(info: Any, device: str = "cpu") -> list[dict[str, Any]]:
    """The options; with a device those that only it can have, too. They are numbers and tensors on the host."""
    return [given.kwargs for given in info.optim_inputs_func(device=device)]


def _complex_refused(info: Any, dtype: str) -> bool:
    return dtype.startswith("complex") and not info.supports_complex


def _drawn(torch: Any, name: str, dtype: str) -> tuple[list[Any], list[list[Any]]]:
    """Two parameters, and gradients for each step.

    The parameters are as short as a few steps are: beside long ones, 16 bits would not show which way a step went.
    """
    generator = torch.Generator().manual_seed(1)
    wide = torch.complex128 if dtype.startswith("complex") else torch.float64
    shapes = [(3, 4), (4, 2)] if name == "Muon" else [(3, 4), (5,)]

    def draw(scale: float) -> list[Any]:
        made = [torch.randn(shape, generator=generator, dtype=wide) for shape in shapes]
        return [(scale * a).to(getattr(torch, dtype)) for a in made]

    return draw(0.01), [draw(1.0) for _ in range(STEPS)]


def test_all_of_torchs_inputs_are_compared(table: dict[str, Any]) -> None:
    """The table has the optimizers that are here, LBFGS, which is a solver here, and one that is not; and how much."""
    assert set(table) - set(OPTIONS) == {"LBFGS", "SparseAdam"}
    assert set(OPTIONS) <= set(table)
    assert issubclass(ao.compat.torch.LBFGS, ao.solvers.Solver)
    with pytest.raises(AttributeError, match="SparseAdam"):
        ao.compat.torch.SparseAdam  # type: ignore[attr-defined]  # noqa: B018
    pairs = itertools.product((table[name] for name in OPTIONS), DTYPES)
    compared = sum(len(_inputs(info)) for info, dtype in pairs if not _complex_refused(info, dtype))
    assert compared >= COMPARED, f"{compared} combinations; wanted {COMPARED}, or why there are fewer"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_beside_torch(name: str, dtype: str, table: dict[str, Any], torch: Any) -> None:
    """5 steps, to as many roundings as torch makes in the dtype; or refused by both.

    Torch, whose arithmetic is that of the dtype, rounds the parameter once or twice a step, by half an eps of it: 5 eps
    of the parameter. What it adds to it is some 20 operations on numbers of the same rounding, and at most as long as
    the longest step: 10 eps of the way. Muon's polynomial multiplies its roundings: 100 eps of its way.
    """
    info = table[name]
    start, grads = _drawn(torch, name, dtype)
    eps, few = torch.finfo(start[0].dtype).eps, 100 if name == "Muon" else 10
    for options in _inputs(info):
        theirs = [torch.nn.Parameter(p.clone()) for p in start]
        ours = {str(i): p.clone() for i, p in enumerate(start)}
        make = getattr(ao.compat.torch, name)
        if _complex_refused(info, dtype):
            with pytest.raises(ValueError, match=f"'0'.* is complex; {name} wants real"):
                make(**options).update(ours, dict(zip(ours, grads[0], strict=True)))
            continue
        optimizer, of_torch = make(**options), info.optim_cls(theirs, **options)
        way = [torch.zeros((), dtype=torch.float64) for _ in theirs]
        for of_step in grads:
            before = [q.detach().clone() for q in theirs]
            for q, g in zip(theirs, of_step, strict=True):
                q.grad = g.clone()
            of_torch.step()
            optimizer.update(ours, dict(zip(ours, of_step, strict=True)))
            way = [w + (q.detach() - b).abs().max() for w, q, b in zip(way, theirs, before, strict=True)]
        for w, p, q in zip(way, ours.values(), theirs, strict=True):
            assert p.dtype == q.dtype
            assert torch.isfinite(q.detach()).all()
            off = (p - q.detach()).abs().to(torch.float64)
            assert (off <= eps * (STEPS * q.detach().abs() + few * w)).all(), (options, p, q)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_only_a_device_can_have(name: str, table: dict[str, Any]) -> None:
    """What says only how torch is to run on it makes the same optimizer, tensors as the numbers that they hold."""
    make = getattr(ao.compat.torch, name)
    for options in _inputs(table[name], "cuda"):
        several = [a for option in options.values() for a in (option if isinstance(option, tuple) else (option,))]
        if any(getattr(a, "ndim", 0) for a in several):
            with pytest.raises(TypeError, match=r"betas\[0\] is tensor.*; wanted a real number"):
                make(**options)
        else:
            numbers = {key: value for key, value in options.items() if key != "capturable"}
            assert repr(make(**options)) == repr(make(**numbers))
