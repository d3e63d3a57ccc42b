"""Dropout's kernel on the device that is none: NumPy's bits, in one launch, wherever it may be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim.random._cuda_source import dropout_kernel
from tests.reference.philox import choice
from tests.support import shim
from tests.support.internals import ELEMENTS
from tests.support.libraries import Library, numpy_dtype, same_bits

DTYPES = sorted(ELEMENTS)


@pytest.fixture(autouse=True)
def machine(need: Callable[[str], Library]) -> shim.Machine:
    need("cuda-shim")
    return shim.machine()


def _values(n: int, dtype: str) -> Any:
    rng = np.random.default_rng(n)
    x = rng.normal(size=n) * 10.0 ** rng.integers(-6, 4, size=n)
    with np.errstate(over="ignore"):
        x = x.astype(numpy_dtype(dtype))
    x[: min(n, 5)] = [np.nan, np.inf, -np.inf, -0.0, 1e-7][: min(n, 5)]
    return x


@given(
    st.sampled_from(DTYPES),
    st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 1023, 1024, 4097]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.25, 0.5, 1 / 3, 1.0]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 9) | st.integers(0, 2**63),
    st.booleans(),
)
def test_bits(dtype: str, n: int, start: int, ratio: float, key: int, call: int, offset: int, inverted: bool) -> None:
    """Of any length, from any place in memory and in the stream."""
    x = _values(n + start, dtype)
    there = shim.asarray(x)[start:]
    before, launches = np.array(there), len(shim.machine().launches)
    y = ao.dropout(there, ratio, key, call, offset, inverted=inverted)
    assert same_bits(shim.tonumpy(y), np.asarray(ao.dropout(x[start:], ratio, key, call, offset, inverted=inverted)))
    assert len(shim.machine().launches) - launches == (n > 0)
    assert same_bits(shim.tonumpy(there), before)


@pytest.mark.parametrize("n", [8, 7])
def test_all_bits_of_a_choice_count(n: int) -> None:
    """Of each of the eight of a counter, used whole or not: at its own value it stays, and is dropped at the next."""
    x = shim.asarray(np.ones(n, np.float32))
    for i in range(n):
        own = choice(i, 5, 6)
        kept = [float(shim.tonumpy(ao.dropout(x, limit / 2**32, 5, 6))[i]) for limit in (own, own + 1)]
        assert kept == [1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layer_forward_and_backward(dtype: str) -> None:
    """One launch each, on any layout: in logical order, as everywhere."""
    x = _values(60, dtype).reshape(4, 5, 3)
    here, there = (ao.Dropout(0.3, inverted=True, seed=5) for _ in range(2))
    for turn in (lambda a: a, np.transpose, lambda a: a[::2]):
        expected, launches = here.forward(turn(x)), len(shim.machine().launches)
        y = there.forward(turn(shim.asarray(x)))
        assert same_bits(shim.tonumpy(y), np.asarray(expected))
        assert same_bits(shim.tonumpy(there.backward(turn(shim.asarray(x)))), np.asarray(here.backward(turn(x))))
        assert [name for name, _ in shim.machine().launches[launches:]] == ["dropout", "dropout"]
        assert same_bits(shim.tonumpy(there.mask), np.asarray(here.mask))


@pytest.mark.parametrize("dtype", DTYPES)
def test_out(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user wants it, by the kernel itself where that is in C order."""
    written: list[int] = []
    original = shim.Library.write

    def counted(self: Any, p: Any, new: Any) -> None:
        written.append(1)
        original(self, p, new)

    monkeypatch.setattr(shim.Library, "write", counted)
    x = _values(60, dtype).reshape(12, 5)
    for turn, copied in ((lambda a: a, 0), (np.transpose, 1), (lambda a: a[::2], 1)):
        expected = np.asarray(ao.dropout(turn(x), 0.3, 5, inverted=True))
        given = turn(shim.asarray(x))
        for out in (turn(shim.asarray(np.zeros_like(x))), given):
            launches, writes = len(shim.machine().launches), len(written)
            assert ao.dropout(given, 0.3, 5, inverted=True, out=out) is out
            assert same_bits(shim.tonumpy(out), expected)
            assert (len(shim.machine().launches) - launches, len(written) - writes) == (1, copied)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_what_the_kernel_does_not_take_goes_the_long_way(dtype: str) -> None:
    x = (np.arange(7) + 1j * np.arange(7)[::-1]).astype(dtype)
    launches = len(shim.machine().launches)
    y = ao.dropout(shim.asarray(x), 0.5, 3)
    assert same_bits(shim.tonumpy(y), np.asarray(ao.dropout(x, 0.5, 3)))
    assert len(shim.machine().launches) == launches


def test_where_autograd_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not see what a kernel does."""
    monkeypatch.setattr(shim.Library, "tracked_by_autograd", lambda self, x: True)
    launches = len(shim.machine().launches)
    x = np.arange(9, dtype=np.float32)
    assert same_bits(shim.tonumpy(ao.dropout(shim.asarray(x), 0.5, 3)), ao.dropout(x, 0.5, 3))
    assert len(shim.machine().launches) == launches


def test_torch_says_what_it_follows(need: Callable[[str], Library]) -> None:
    need("torch")
    import torch

    from tests.support.internals import library

    x = torch.ones(3, requires_grad=True)
    assert library(x).tracked_by_autograd(x)
    assert not library(x).tracked_by_autograd(torch.ones(3))
    with torch.no_grad():
        assert not library(x).tracked_by_autograd(x)
    ao.dropout(x, 0.5, 1).sum().backward()
    assert np.array_equal(x.grad, ao.dropout(np.ones(3), 0.5, 1))


@pytest.mark.covering(1)  # the text is the same for all devices
@pytest.mark.parametrize("architecture", [75, 80, 90, 100, 120])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_compiles_for_devices(dtype: str, architecture: int, nvrtc: Any) -> None:
    text = dropout_kernel(dtype).text
    assert nvrtc.code(text, architecture)
    ptx = nvrtc.ptx(text, architecture)
    assert "fma" not in ptx
    assert ".ftz" not in ptx
    assert "mul.wide.u32" in ptx
    assert re.search(r"ld\.global(\.nc)?\.v[24]\.", ptx)
    assert re.search(r"st\.global\.v[24]\.", ptx)
