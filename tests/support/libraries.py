"""The table of array libraries that tests run over, and the methods, discovered."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree

import anyoptim as ao
from anyoptim import _engines

HALF = ("float16", "bfloat16")
REAL = ("float32", "float64")
COMPLEX = ("complex64", "complex128")

DTYPES = {
    "strict": REAL + COMPLEX,
    "jax": (*HALF, "float32", "complex64"),
    "cupy": ("float16", *REAL, *COMPLEX),
}
"""The dtypes of libraries that do not have all of them."""


def dtypes(name: str) -> tuple[str, ...]:
    """The dtypes that a library has, found out without importing it."""
    return DTYPES.get(name, HALF + REAL + COMPLEX)


@dataclass(frozen=True)
class Library:
    """One row: how to make arrays of a library from NumPy's, and how to read them back."""

    name: str
    asarray: Callable[[Any], Any]
    tonumpy: Callable[[Any], np.ndarray[Any, Any]]
    writable: bool = True
    exact: bool = True
    """Whether its arithmetic is NumPy's to the last bit."""
    reached: tuple[str, ...] = ()
    """The dtypes whose arrays NumPy reads and writes where they lie, so that an update has NumPy's bits anyway."""
    computed: Callable[[Any], Any] = lambda nest: nest
    """A function that computes a nest of arrays at once, for a library that computes late."""
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    slow: bool = False
    """Whether each operation takes milliseconds, however small its arrays are."""
    compiles: bool = False
    """Whether each operation takes tens of milliseconds for the first array of a shape and dtype."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        return dtypes(self.name)

    def steps(self, n: int) -> int:
        """The number of steps to take where n would be good, and a first and a later one will do."""
        return min(n, 2) if self.slow else n

    def array(self, values: Any, dtype: str = "float32") -> Any:
        return self.asarray(np.array(values, dtype=numpy_dtype(dtype)))

    def values(self, tree: Any) -> Any:
        """A tree of copies, as NumPy arrays, of all arrays and numbers in a tree."""
        leaves, structure = optree.tree_flatten(tree)
        found = [np.array(a if isinstance(a, int | float) else self.tonumpy(a)) for a in self.computed(leaves)]
        return optree.tree_unflatten(structure, found)


class MissingError(Exception):
    """Why a library can't be tested here."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype(name)


def _numpy() -> Library:
    return Library("numpy", np.array, np.asarray)


def _strict() -> Library:
    import array_api_strict as strict

    return Library("strict", lambda a: strict.asarray(a.copy()), np.from_dlpack)


def _torch(device: str = "cpu") -> Library:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError("torch sees no CUDA device")

    def asarray(a: np.ndarray[Any, Any]) -> Any:
        if a.dtype.name == "bfloat16":
            return torch.tensor(a.astype(np.float32), device=device).to(torch.bfloat16)
        return torch.tensor(a.copy(), device=device)

    def tonumpy(t: Any) -> Any:
        t = t.detach().cpu()
        return t.float().numpy().astype(numpy_dtype("bfloat16")) if t.dtype == torch.bfloat16 else t.numpy().copy()

    # Not exact: its float32 sqrt comes from a vector mathematics library that is 1 ulp off for about a fifth of inputs.
    if device == "cuda":
        return Library("torch-cuda", asarray, tonumpy, exact=False)
    return Library("torch", asarray, tonumpy, exact=False, reached=("float16", *REAL, *COMPLEX))


def _jax() -> Library:
    import jax.numpy as jnp

    # Not exact: XLA flushes subnormals to zero on the CPU.
    return Library("jax", jnp.array, np.asarray, writable=False, exact=False, compiles=True)


def _jax_x64() -> Library:
    import jax
    import jax.numpy as jnp

    return Library(
        "jax-x64",
        jnp.array,  # a copy: `asarray` may look at the memory of NumPy
        np.asarray,
        writable=False,
        exact=False,
        compiles=True,
        context=lambda: jax.enable_x64(True),
    )


def _dask() -> Library:
    import dask
    import dask.array as da

    def asarray(a: np.ndarray[Any, Any]) -> Any:
        return da.from_array(np.array(a), chunks=tuple(max(1, (n + 1) // 2) for n in a.shape))

    def computed(nest: Any) -> Any:
        return dask.persist(nest)[0]

    return Library("dask", asarray, lambda a: np.asarray(a.compute()), writable=False, slow=True, computed=computed)


def _cupy() -> Library:
    import cupy

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MissingError(f"cupy sees no CUDA device: {error}") from None
    # Not exact: CuPy compiles its elementwise kernels to flush float32 subnormals.
    return Library("cupy", cupy.asarray, cupy.asnumpy, exact=False)


def _shim() -> Library:
    from tests.support import shim

    if shim.missing():
        raise MissingError(f"kernels can't be run on the host: {shim.missing()}")
    shim.install(shim.Machine())
    return Library("cuda-shim", shim.asarray, shim.tonumpy)


LOADERS: dict[str, Callable[[], Library]] = {
    "numpy": _numpy,
    "strict": _strict,
    "torch": _torch,
    "jax": _jax,
    "jax-x64": _jax_x64,
    "dask": _dask,
    "cupy": _cupy,
    "torch-cuda": lambda: _torch("cuda"),
    "cuda-shim": _shim,
}

PACKAGES = {"strict": "array_api_strict", "jax-x64": "jax"}
"""The packages of libraries that have another name."""


OWN = {"jax-x64": ("float64", "complex128")}
"""The dtypes that a row has beyond the row it extends: its other cases run only where all products do."""


@functools.cache
def absent(name: str) -> bool:
    """Whether a library needs a device, or its package is not installed: found out without importing it."""
    if name == "cuda-shim":
        return shutil.which("g++") is None
    return name in {"cupy", "torch-cuda"} or importlib.util.find_spec(PACKAGES.get(name, name)) is None


REQUIRABLE = {*LOADERS, "cupy-host", "docs"}
"""The rows; CuPy without a device, for tests that need none; and what the site is built with."""

REQUIRED = frozenset(filter(None, os.environ.get("ANYOPTIM_REQUIRE", "").split(",")))


def load(name: str) -> Library:
    """The row, or MissingError with the reason."""
    try:
        return LOADERS[name]()
    except ImportError as error:
        raise MissingError(f"{name} is not installed: {error}") from None


ENGINES = tuple(name for name in _engines.ENGINES if name not in {"cuda", "jax"})
"""The engines for NumPy's arrays; those for other libraries are tested with these."""

DISCOVERED: dict[str, type[ao.Optimizer]] = {
    name: value
    for name, value in vars(ao).items()
    if isinstance(value, type)
    and issubclass(value, ao.Optimizer)
    and value not in {ao.Optimizer, ao.chain, ao.partition}
}

WHOLE = {name: method for name, method in DISCOVERED.items() if method.array_rule}
"""The methods of whole arrays, whose table is in tests/optimizers/test_whole.py."""

COMPOSED = {
    name: method
    for name, method in DISCOVERED.items()
    if method.stages is not ao.Optimizer.stages or method.norms or method.totals or method.scalars
}
"""The methods that measure or keep scalars, which tests/support/chains.py has among the chains."""

METHODS: dict[str, type[Any]] = {name: method for name, method in DISCOVERED.items() if name not in {*WHOLE, *COMPOSED}}
"""The methods whose elements do not depend on each other."""


def allowed(stage: Any, name: str, value: float) -> float:
    """The value, or 1 more where that is too small for this hyperparameter of a stage or its class."""
    return value if stage.hyperparameters[name].holds(value) else 1 + value


PAIRS = [("numpy", name) for name in METHODS] + [
    (lib, name) for lib in LOADERS if lib != "numpy" for name in ("SGD", "Adam")
]
"""Pairs of `lib` and `method`, for tests of what all methods do alike: each with NumPy, and two with each library."""


def same_bits(a: Any, b: Any) -> bool:
    """Whether two NumPy arrays are equal to the last bit: signed zeros told apart, NaN equal to NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    with np.errstate(invalid="ignore"):  # a signalling NaN
        nan, other = a != a, b != b
    return bool(np.array_equal(nan, other) and a[~nan].tobytes() == b[~nan].tobytes())
