"""Dropout on a CUDA device in one pass: one read and one write for each element, its choice drawn in between."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._engines import ENGINES
from anyoptim._engines.cuda import _plan as cuda
from anyoptim._engines.cuda._source import THREADS
from anyoptim._machine._c_elements import ELEMENTS
from anyoptim.random._cuda_source import dropout_kernel
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES

__all__ = ["dropout", "precompile"]


def dropout(library: Library, x: Array, number: int, spec: MaskSpec, out: Array | None) -> Array | None:
    """The array with its factors, on its device, in `out` if that is given; None for what no kernel takes."""
    dtype = library.dtype(x)
    if dtype not in ELEMENTS or ENGINES["cuda"].missing():
        return None
    xp, n = library.xp, math.prod(x.shape)
    straight = out is not None and library.address(out) is not None
    with library.on_device_of(x):
        flat = xp.reshape(library.load(x), (-1,))  # in logical order: a copy where it isn't the memory's
        y = library.load(out) if straight else xp.empty_like(flat)
    if n:
        device, kernel = cuda.device(number), dropout_kernel(dtype)
        threads = -(-(spec.offset % CHOICES + n) // CHOICES)
        memories: list[Any] = [library.memory(flat), library.memory(y)]  # none is None, for they have elements
        numbers = (n, spec.offset, spec.key, spec.call, spec.threshold, np.float64(spec.scale).view(np.uint64))
        words = map(np.uint64, (*(m.address for m in memories), *numbers))
        with device.scope():
            stream, code = device.stream(library.stream(number)), device.kernel(kernel.name, kernel.text)
            device.launch(stream, code, -(-threads // THREADS), THREADS, *words)()
    if out is None:
        return xp.reshape(y, tuple(x.shape))
    if straight:
        library.mark_written([out])
    else:
        library.write(out, xp.reshape(y, tuple(x.shape)))
    return out


def precompile(library: Library, x: Array, number: int) -> None:
    """Compile the kernel for arrays like this one, if there is any."""
    dtype = library.dtype(x)
    if dtype in ELEMENTS:
        kernel, device = dropout_kernel(dtype), cuda.device(number)
        with library.on_device_of(x), device.scope():
            device.kernel(kernel.name, kernel.text)
