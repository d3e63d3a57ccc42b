"""By what CuPy's and torch's arrays are known again, on arrays of theirs that lie in the host's memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.internals import MemoryLayout, library
from tests.support.libraries import REQUIRED, Library


@pytest.fixture
def torch(need: Callable[[str], Library]) -> Any:
    """CPU tensors tell all that is compared but the kind of their device."""
    need("torch")
    return pytest.importorskip("torch")


@pytest.fixture
def cupy() -> Any:
    """CuPy, which needs no device for arrays on memory that it is given."""
    try:
        return importlib.import_module("cupy")
    except ImportError as why:
        if "cupy-host" in REQUIRED:
            pytest.fail(f"ANYOPTIM_REQUIRE lists cupy-host: {why}")
        pytest.skip(f"cupy is not installed: {why}")


def _on_host(cupy: Any, a: np.ndarray[Any, Any], number: int = 0) -> Any:
    memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, number)
    return cupy.ndarray(a.shape, a.dtype, memptr=cupy.cuda.MemoryPointer(memory, 0), strides=a.strides)


def _negative(torch: Any) -> Any:
    return torch.tensor([[1 + 2j] * 3] * 2, dtype=torch.complex64).conj().imag  # a lazy negation


TORCH: dict[str, Callable[[Any], Any]] = {
    "another dtype": lambda torch: torch.ones(2, 3, dtype=torch.float64),
    "another shape": lambda torch: torch.ones(3, 2),
    "another order": lambda torch: torch.ones(3, 2).T,
    "gaps": lambda torch: torch.ones(2, 6)[:, ::2],
    "a subclass": lambda torch: torch.nn.Parameter(torch.ones(2, 3)),
    "a lazy negation": _negative,
    "no storage": lambda torch: torch._efficientzerotensor((2, 3)),
    "sparse": lambda torch: torch.ones(2, 3).to_sparse(),
    "another device": lambda torch: torch.ones(2, 3, device="meta"),
}


@pytest.mark.parametrize("what", TORCH)
def test_gradients_that_are_not_as_their_parameters(what: str, torch: Any) -> None:
    """One among others that are: then all are looked at closely."""
    p, plain = [torch.zeros(2, 3), torch.zeros(4)], [torch.ones(2, 3), torch.ones(4)]
    found = library(p[0])
    marks = found.fingerprint(p)
    assert found.addresses(plain, marks) == [g.data_ptr() for g in plain]
    assert found.addresses([TORCH[what](torch), plain[1]], marks) is None


def _assigned(torch: Any, p: Any, other: Any) -> None:
    p.data = other


MOVES: dict[str, Callable[[Any, Any], None]] = {
    "another memory": lambda torch, p: _assigned(torch, p, torch.zeros(4, 4)),
    "fewer": lambda torch, p: _assigned(torch, p, p.data[:2]),
    "another order": lambda torch, p: _assigned(torch, p, p.data.T),
    "another shape": lambda torch, p: _assigned(torch, p, p.data.reshape(2, 8)),
    "another dtype": lambda torch, p: _assigned(torch, p, p.data.view(torch.int32)),
}


@pytest.mark.parametrize("what", MOVES)
def test_parameters_that_became_others(what: str, torch: Any) -> None:
    """In the same place or not."""
    p = torch.zeros(4, 4)
    found = library(p)
    marks = found.fingerprint([p])
    assert found.unchanged_all([p], marks)
    p.add_(1)
    assert found.unchanged_all([p], marks)
    MOVES[what](torch, p)
    assert not found.unchanged_all([p], marks)


def test_channels_last(torch: Any) -> None:
    """Strides are compared where they aren't those of C order."""
    p, q = (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last) for _ in range(2))
    found = library(p)
    marks = found.fingerprint([p])
    assert found.unchanged_all([p], marks)
    assert found.addresses([q], marks) == [q.data_ptr()]
    assert found.addresses([q.contiguous()], marks) is None


def test_cpu_tensors_are_on_no_cuda_device(torch: Any) -> None:
    assert library(torch.ones(2)).cuda(torch.ones(2)) is None


CUPY: dict[str, Callable[[Any], Any]] = {
    "another dtype": lambda cupy: _on_host(cupy, np.ones((2, 3))),
    "another shape": lambda cupy: _on_host(cupy, np.ones((3, 2), np.float32)),
    "another order": lambda cupy: _on_host(cupy, np.ones((3, 2), np.float32).T),
    "gaps": lambda cupy: _on_host(cupy, np.ones((2, 6), np.float32)[:, ::2]),
    "another device": lambda cupy: _on_host(cupy, np.ones((2, 3), np.float32), 1),
    "numpy": lambda cupy: np.ones((2, 3), np.float32),
}


@pytest.mark.parametrize("what", CUPY)
def test_gradients_of_cupy(what: str, cupy: Any) -> None:
    """The same for CuPy's arrays."""
    hosts = [np.zeros((2, 3), np.float32), np.zeros(4, np.float32)]
    p, plain = [_on_host(cupy, a) for a in hosts], [_on_host(cupy, a + 1) for a in hosts]
    found = library(p[0])
    marks = found.fingerprint(p)
    assert found.unchanged_all(p, marks)
    assert not found.unchanged_all(plain, marks)
    assert found.addresses(plain, marks) == [g.data.ptr for g in plain]
    assert found.addresses([CUPY[what](cupy), plain[1]], marks) is None


def test_where_cupys_arrays_lie(cupy: Any) -> None:
    host = np.ones((2, 3, 4), np.float32).transpose(2, 0, 1)
    x = _on_host(cupy, host, 1)
    found = library(x)
    assert found.name == "cupy"
    assert found.dtype(x) == "float32"
    assert found.cuda(x) == 1
    assert found.memory(x) == MemoryLayout("cuda:1", host.ctypes.data, host.shape, host.strides, 4)
    marks = found.fingerprint([x])
    assert found.addresses([_on_host(cupy, host + 0, 1)], marks) is not None
    assert found.addresses([_on_host(cupy, host.copy(), 1)], marks) is None
