"""Several devices at once, by two that are none: where an array lies is written down by its address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._engines.cuda import _plan as cuda
from anyoptim._engines.cuda._plan import chunk_map
from anyoptim._engines.cuda._source import CHUNK
from tests.support import shim
from tests.support.internals import MemoryLayout
from tests.support.libraries import Library, same_bits

OTHER = 99


@pytest.fixture
def other(need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The second device, and `place(a)`: the values there."""
    need("cuda-shim")
    first, second = shim.install(shim.Machine()), shim.Machine()
    there: dict[int, Any] = {}

    def place(a: Any) -> Any:
        x = shim.asarray(a)
        there[x.ctypes.data] = x  # alive, so that nothing else gets the address
        return x

    memory = shim.Library.memory

    def number(self: Any, x: Any) -> int:
        return OTHER if x.ctypes.data in there else shim.NUMBER

    def of(self: Any, x: Any) -> MemoryLayout | None:
        found = memory(self, x)
        return found and found._replace(space=f"cuda:{number(self, x)}")

    monkeypatch.setattr(shim.Library, "cuda", number)
    monkeypatch.setattr(shim.Library, "device", lambda self, x: f"cuda:{number(self, x)}")
    monkeypatch.setattr(shim.Library, "memory", of)
    monkeypatch.setattr(cuda, "device", {shim.NUMBER: first.device, OTHER: second.device}.__getitem__)
    return second, place


def test_one_launch_on_each_device(other: Any) -> None:
    """Each has tables of its own."""
    second, place = other
    p = {"a": shim.asarray(np.ones(3)), "b": place(np.ones(5)), "c": place(np.ones(2)), "d": shim.asarray(np.ones(4))}
    g = {k: (place if k in "bc" else shim.asarray)(np.full(a.shape, 2.0)) for k, a in p.items()}
    optimizer = ao.SGD(lr=0.25)
    for _ in range(3):
        optimizer.update(p, g)
    assert len(shim.machine().launches) == len(second.launches) == 3
    assert all(shim.tonumpy(a).tolist() == [-0.5] * a.size for a in p.values())
    assert [share.parameters for share in optimizer.explain(p, g)] == [("a", "b", "c", "d")]


def test_a_norm_over_devices_meets_on_the_host(other: Any) -> None:
    """With the bits of one device, or of none."""
    _, place = other
    rng = np.random.default_rng(0)
    here = {"a": rng.normal(size=3000), "b": rng.normal(size=70), "c": rng.normal(size=(20, 90))}
    p = {k: (place if k == "b" else shim.asarray)(a) for k, a in here.items()}
    chains = [ao.chain(ao.ClipGlobalNorm(0.5), ao.SGD(lr=0.25), engine=engine) for engine in ("cuda", "portable")]
    for _ in range(3):
        x = {k: rng.normal(size=a.shape) for k, a in here.items()}
        chains[0].update(p, {k: (place if k == "b" else shim.asarray)(a) for k, a in x.items()})
        chains[1].update(here, x)
    assert all(same_bits(shim.tonumpy(p[k]), here[k]) for k in here)


def test_a_gradient_on_another_device_is_refused(other: Any) -> None:
    _, place = other
    p = {"a": shim.asarray(np.ones(3))}
    with pytest.raises(ValueError, match=r"grads\['a'\].*cuda:99"):
        ao.SGD().update(p, {"a": place(np.ones(3))})
    assert shim.tonumpy(p["a"]).tolist() == [1.0] * 3


def test_chunks_of_more_elements_than_32_bits_count() -> None:
    """Where an element is takes 64 bits; how many are in a chunk does not."""
    n = 2**33 + 5
    chunks, firsts = chunk_map([7, n])
    assert chunks["begin"][-1] == (n - 1) // CHUNK * CHUNK > 2**32
    assert chunks["count"][1:].sum(dtype=np.int64) == n
    assert firsts == [0, 1, 1 + -(-n // 1024)]
