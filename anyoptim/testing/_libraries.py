"""The array libraries over which a test can run: how to make arrays of each, and how to read them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyoptim._arrays import library

__all__ = [
    "LIBRARIES",
    "LOADERS",
    "ArrayLibrary",
    "MissingError",
    "dtypes",
    "installed",
    "load_library",
    "need_library",
    "required",
]

HALF = ("float16", "bfloat16")
REAL = ("float32", "float64")
COMPLEX = ("complex64", "complex128")

DTYPES = {
    "strict": REAL + COMPLEX,
    "jax": (*HALF, "float32", "complex64"),
    "cupy": ("float16", *REAL, *COMPLEX),
    "mlx": (*HALF, "float32", "complex64"),
}
"""The dtypes of libraries that do not have all of them."""

INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
"""The other dtypes, which are no parameters' and for which `ArrayLibrary.array` may be asked."""

LOST: dict[str, str] = {"b": "fc", "i": "fc", "u": "fc", "c": ""}
"""The kinds of numbers that a dtype of a kind would cut off: complex ones, where it is not here."""

PACKAGES = {"strict": "array_api_strict", "jax-x64": "jax", "torch-cuda": "torch"}
"""The packages of libraries that have another name."""


class MissingError(Exception):
    """Why a library can't be tested here.

    >>> try:
    ...     library = ao.testing.load_library("torch-cuda")
    ... except ao.testing.MissingError:
    ...     library = ao.testing.load_library("numpy")
    >>> library.array([1.0]).ndim
    1
    """


@dataclass(frozen=True)
class ArrayLibrary:
    """How to make arrays of one library from NumPy's, and how to read them back.

    Dask's arrays are made of two chunks along each axis, on purpose: code that is right for one chunk alone is found.
    `library.xp.asarray(a)` makes one chunk of NumPy's array a.

    >>> library = ao.testing.load_library("numpy")
    >>> w = library.array([1.0, 2.0], dtype="float64")
    >>> library.values({"w": [2 * w]})
    {'w': [array([2., 4.])]}
    """

    name: str
    """One of `LIBRARIES`."""
    asarray: Callable[[Any], Any]
    """A copy of a NumPy array."""
    tonumpy: Callable[[Any], np.ndarray[Any, Any]]
    """The values of an array; bfloat16 as the dtype of ml_dtypes."""
    writable: bool = True
    """Whether arrays can be written to, so that `update` does."""
    # Defaults that are functions, as factories: else they would be methods of the class to those who document it.
    computed: Callable[[Any], Any] = field(default_factory=lambda: lambda nest: nest)
    """A function that computes all arrays in a list, tuple or dict at once: those of Dask, which computes late."""
    context: Callable[[], contextlib.AbstractContextManager[Any]] = field(
        default_factory=lambda: contextlib.nullcontext
    )
    """A function that gives the context in which its arrays are to be made and used: `with library.context():`.

    That of `jax-x64` enables 64 bits, without which JAX's arrays are of float32; the others' do nothing. The fixture
    `array_library` is in it already.
    """
    slow: bool = False
    """Whether each operation takes milliseconds, however small its arrays are."""
    compiles: bool = False
    """Whether each operation takes tens of milliseconds for the first array of a shape and dtype."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of its floating dtypes, real and complex."""
        return dtypes(self.name)

    @property
    def xp(self) -> Any:
        """Its array API namespace."""
        return library(self.asarray(np.zeros(1, np.float32))).xp

    def array(self, values: Any, dtype: str = "float32") -> Any:
        """An array of these numbers, in float32 unless another dtype is named, whatever they are in.

        `dtype` is one of `dtypes`, or `bool` or one of integers. Raises ValueError for one that the library has not, or
        has only within `context`, and for values that would lose a part: complex ones in a real dtype, fractions in
        integers.
        """
        if dtype not in (known := (*self.dtypes, *_integers(self.name))):
            raise ValueError(f"{self.name} has no dtype {dtype!r}; wanted one of {', '.join(known)}")
        given, wanted = np.asarray(values), numpy_dtype(dtype)
        if given.dtype.kind in LOST.get(wanted.kind, "c"):
            raise ValueError(f"values are {given.dtype}, of which {dtype} would lose a part; wanted another dtype")
        made = self.asarray(np.array(values, dtype=wanted))
        if dtype not in str(made.dtype):
            raise ValueError(f"{self.name} made {made.dtype} of {dtype}; wanted `with library.context():` around it")
        return made

    def values(self, tree: Any) -> Any:
        """A tree of copies, as NumPy arrays, of all arrays and numbers in a tree."""
        import optree  # noqa: PLC0415 - importing it takes time

        leaves, structure = optree.tree_flatten(tree)
        found = [np.array(a if isinstance(a, int | float) else self.tonumpy(a)) for a in self.computed(leaves)]
        return optree.tree_unflatten(structure, found)

    def __str__(self) -> str:
        return self.name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of this name; that of bfloat16 is of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: PLC0415 - for those who ask for it

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype(name)


def _numpy() -> ArrayLibrary:
    return ArrayLibrary("numpy", np.array, np.asarray)


def _strict() -> ArrayLibrary:
    import array_api_strict as strict  # noqa: PLC0415

    return ArrayLibrary("strict", lambda a: strict.asarray(a.copy()), np.from_dlpack)


def _torch(device: str = "cpu") -> ArrayLibrary:
    import torch  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError("torch sees no CUDA device")

    def asarray(a: np.ndarray[Any, Any]) -> Any:
        if a.dtype.name == "bfloat16":
            return torch.tensor(a.astype(np.float32), device=device).to(torch.bfloat16)
        return torch.tensor(a.copy(), device=device)

    def tonumpy(t: Any) -> Any:
        t = t.detach().cpu()
        return t.float().numpy().astype(numpy_dtype("bfloat16")) if t.dtype == torch.bfloat16 else t.numpy().copy()

    return ArrayLibrary("torch-cuda" if device == "cuda" else "torch", asarray, tonumpy)


def _jax() -> ArrayLibrary:
    import jax.numpy as jnp  # noqa: PLC0415

    return ArrayLibrary("jax", jnp.array, np.asarray, writable=False, compiles=True)


def _jax_x64() -> ArrayLibrary:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    return ArrayLibrary(
        "jax-x64",
        jnp.array,  # a copy: `asarray` may look at the memory of NumPy
        np.asarray,
        writable=False,
        compiles=True,
        context=lambda: jax.enable_x64(True),
    )


def _dask() -> ArrayLibrary:
    import dask  # noqa: PLC0415
    import dask.array as da  # noqa: PLC0415

    def asarray(a: np.ndarray[Any, Any]) -> Any:
        return da.from_array(np.array(a), chunks=tuple(max(1, (n + 1) // 2) for n in a.shape))

    def computed(nest: Any) -> Any:
        return dask.persist(nest)[0]

    return ArrayLibrary(
        "dask", asarray, lambda a: np.asarray(a.compute()), writable=False, slow=True, computed=computed
    )


def _cupy() -> ArrayLibrary:
    import cupy  # noqa: PLC0415

    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise MissingError(f"cupy sees no CUDA device: {error}") from None
    return ArrayLibrary("cupy", cupy.asarray, cupy.asnumpy)


def _mlx() -> ArrayLibrary:
    import mlx.core as mx  # noqa: PLC0415

    def tonumpy(a: Any) -> Any:
        half = a.dtype == mx.bfloat16
        return np.array(a.astype(mx.float32)).astype(numpy_dtype("bfloat16")) if half else np.array(a)

    return ArrayLibrary("mlx", mx.array, tonumpy)


LOADERS: dict[str, Callable[[], ArrayLibrary]] = {
    "numpy": _numpy,
    "strict": _strict,
    "torch": _torch,
    "jax": _jax,
    "jax-x64": _jax_x64,
    "dask": _dask,
    "mlx": _mlx,
    "cupy": _cupy,
    "torch-cuda": lambda: _torch("cuda"),
}

LIBRARIES = tuple(LOADERS)
"""The names of the libraries over which a test can run.

They are those of the packages, but `strict` for array-api-strict, which is nothing but the standard, `jax-x64` for JAX
with 64 bits enabled, whose arrays want `with library.context():`, and `torch-cuda` for torch's tensors on a CUDA
device.

>>> ao.testing.LIBRARIES[:3]
('numpy', 'strict', 'torch')
"""


def dtypes(name: str) -> tuple[str, ...]:
    """The floating dtypes that a library has, found out without importing it."""
    return DTYPES.get(name, HALF + REAL + COMPLEX)


def _integers(name: str) -> tuple[str, ...]:
    """The names of the other dtypes of a library: JAX has 64 bits of none, unless they are enabled."""
    return tuple(dtype for dtype in INTEGERS if not (name == "jax" and dtype.endswith("64")))


def installed(name: str) -> bool:
    """Whether the package of a library is installed, found out without importing it."""
    return importlib.util.find_spec(PACKAGES.get(name, name)) is not None


def load_library(name: str) -> ArrayLibrary:
    """The library of this name, one of `LIBRARIES`. Raises MissingError, with the reason, if it can't be used here.

    What is done with the arrays of `jax-x64` is done within `with library.context():`.

    >>> ao.testing.load_library("numpy").writable
    True
    """
    if name not in LOADERS:
        raise ValueError(f"{name!r} is no library that is known here; wanted one of {', '.join(LIBRARIES)}")
    try:
        return LOADERS[name]()
    except ImportError as error:
        raise MissingError(f"{name} is not installed: {error}") from None


def required() -> frozenset[str]:
    """The libraries that must not be missing: those in the environment variable ANYOPTIM_REQUIRE, after commas."""
    return frozenset(filter(None, map(str.strip, os.environ.get("ANYOPTIM_REQUIRE", "").split(","))))


def need_library(name: str, load: Callable[[str], Any] = load_library) -> Any:
    """The library of this name, for a test with pytest: if it is missing, the test is skipped with the reason.

    Where ANYOPTIM_REQUIRE names the library, as in CI, the test fails instead: a test that is always skipped proves
    nothing. `load` may be a function that knows more libraries than `load_library`.

    >>> ao.testing.need_library("numpy").name
    'numpy'
    """
    import pytest  # noqa: PLC0415 - for those who test with it

    try:
        return load(name)
    except MissingError as why:
        if name in required():
            pytest.fail(f"ANYOPTIM_REQUIRE lists {name}: {why}")
        pytest.skip(str(why))
