"""Array libraries: the only module that tells them apart.

`Library` says what anyoptim asks of an array library, in terms of the Array API standard alone;
a subclass overrides what its library does in its own way. Nothing is imported here but NumPy and
array-api-compat: a library is met when one of its arrays arrives.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np

from anyoptim._memory import Memory

__all__ = ["COMPUTE", "Array", "Library", "Marks", "host_memory", "is_scalar", "library", "traced"]

Array = Any
"""An array of any library. The standard has no common base class to name here."""

COMPUTE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "complex64",
    "complex128": "complex128",
}
"""Which dtype a parameter's arithmetic and slots have: at least float32, and two reals for complex."""


class Marks(NamedTuple):
    """By what arrays on a CUDA device are known again: lists, which compare faster than arrays one by one."""

    begins: list[int]
    dtypes: list[Any]
    shapes: list[tuple[int, ...]]
    devices: list[int]


class Library:
    """An array library, as far as the Array API standard describes it."""

    wide_integers = True
    """Whether 64-bit integers are at hand without a switch."""

    tracing = False
    """Whether its arrays may stand for values that are not known yet."""

    lazy = False
    """Whether results wait, as a growing graph, for somebody to ask for them."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.name = _name(xp)
        self._dtypes: dict[Any, str] = {}

    def dtype(self, x: Array) -> str:
        """The name of the dtype: `float32` for `torch.float32` and for a big-endian `>f4`."""
        name = self._dtypes.get(x.dtype)
        if name is None:  # NumPy composes it anew each time, at the price of an addition of a thousand elements
            name = self._dtypes[x.dtype] = getattr(x.dtype, "name", None) or str(x.dtype).rpartition(".")[2]
        return name

    def refusal(self, x: Array) -> str | None:
        """Why an array that looks like any other can't be taken, or None."""
        return None

    def load(self, x: Array) -> Array:
        """The array to compute with: on the same memory, outside any automatic differentiation."""
        return x

    def guarded(self, x: Array) -> Array:
        """The same array for a rule to read; where the library can, one that it can't write to."""
        return x

    def rebound(self, old: Array, new: Array) -> Array:
        """What stands in a container for `new` where `old` stood."""
        return new

    def write(self, p: Array, new: Array) -> None:
        """Write the elements of `new` into the memory of `p`."""
        p[...] = new

    def writable(self, x: Array) -> bool:
        """Whether `write` would be seen by everybody who holds `x`."""
        try:
            empty = (slice(0, 0), ...) if x.ndim else ...
            x[empty] = x[empty]
        except (TypeError, ValueError, RuntimeError):
            return False
        return True

    def traced(self, x: Array) -> bool:
        """Whether `x` stands for values that are not known yet."""
        return False

    def device(self, x: Array) -> Any:
        """The device of `x`, or None where the question has no answer."""
        return compat.device(x)

    def placement(self, like: Array) -> Any:
        """What to give a creation function as `device`, for an array that is to meet `like`."""
        return self.device(like)

    def scalar(self, value: Any, dtype: Any, like: Array) -> Array:
        """A 0-d array that can meet `like`."""
        return self.xp.asarray(value, dtype=dtype, device=self.placement(like))

    def host(self, x: Array) -> np.ndarray[Any, Any] | None:
        """NumPy's view of the memory of `x`, for its functions to read and write; None where there is none."""
        return None

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """The values of `x`, for NumPy to read."""
        try:
            return np.from_dlpack(x)
        except (TypeError, ValueError, RuntimeError, BufferError):  # it lies elsewhere
            return np.from_dlpack(compat.to_device(x, "cpu"))

    def widest_float(self) -> Any:
        """The dtype to add in: float64, where the library has it."""
        return self.xp.float64

    def still(self, x: Array, memory: Memory | None) -> bool:
        """Whether an array met before is writable and without doubt where it was: quicker than to ask anew."""
        return False

    def plain(self, x: Array, p: Array) -> bool:
        """Whether `x` is without doubt a gradient for the loaded `p` as it stands: quicker than all checks."""
        return False

    def address(self, x: Array) -> int | None:
        """Where the elements of `x`, which is `plain`, begin, if they are contiguous in C order; else None."""
        return None

    def cuda(self, x: Array) -> int | None:
        """The number of the CUDA device whose kernels may read and write `x` where it lies; None where none may."""
        return None

    def stream(self, number: int) -> int:
        """The stream of this device that the library's own work goes to now."""
        raise NotImplementedError

    def capturing(self, number: int) -> bool:
        """Whether that stream only records what it is given, for a CUDA graph."""
        return False

    def marks(self, ps: Sequence[Array]) -> Marks:
        """What `stayed` and `addresses` compare with, of arrays on a CUDA device."""
        return Marks([], [], [], [])

    def stayed(self, ps: Sequence[Array], marks: Marks) -> bool:
        """Whether these parameters, met before, are without doubt where and as they were: quicker than to ask anew."""
        return False

    def addresses(self, xs: Sequence[Array], marks: Marks) -> list[int] | None:
        """Where gradients begin, if without doubt all are such as their parameters and in C order; else None."""
        return None

    def followed(self, x: Array) -> bool:
        """Whether automatic differentiation follows what becomes of `x`."""
        return False

    def copied(self, x: Array) -> Array:
        """A copy in the same memory order."""
        return self.xp.asarray(x, copy=True)

    def touched(self, arrays: Sequence[Array]) -> None:
        """Take notice that `host` views of these were written to. Does not fail."""

    def memory(self, x: Array) -> Memory | None:
        """Where `x` lies, or None where the library does not tell."""
        try:
            return host_memory(np.from_dlpack(x))
        except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
            return None

    def array(self, result: Array) -> Array:
        """The result of an operation on arrays, as an array."""
        return result

    def owned(self, result: Array) -> Array:
        """An array with these values that an engine may write to, whatever the user writes to."""
        return result

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        """The complex array with these two parts; the standard has no constructor that keeps -0 and inf."""
        return self.xp.astype(real, dtype) + self.xp.astype(imag, dtype) * 1j

    def aligned(self, x: Array, like: Array) -> Array:
        """`x` divided into pieces as `like`, of its shape, is."""
        return x

    def settle(self, arrays: list[Array]) -> list[Array]:
        """The same arrays with nothing left to compute."""
        return arrays


class _NumPy(Library):
    """NumPy arrays, NumPy scalars and plain Python numbers."""

    def refusal(self, x: Array) -> str | None:
        if type(x) is not np.ndarray and isinstance(x, np.matrix | np.ma.MaskedArray):
            return f"is a numpy {type(x).__name__}, whose operators mean something else; wanted a plain array"
        return None

    def load(self, x: Array) -> Array:
        return np.asarray(x)

    def rebound(self, old: Array, new: Array) -> Array:
        array = self.array(new)
        if isinstance(old, np.ndarray):
            return array
        return array[()] if isinstance(old, np.generic) else array.item()

    def owned(self, result: Array) -> Array:
        return result if result.base is None and result.flags.writeable else result.copy()

    def array(self, result: Array) -> Array:
        return np.asarray(result)  # arithmetic on 0-d arrays gives scalars

    def write(self, p: Array, new: Array) -> None:
        np.asarray(p)[...] = new  # past whatever a subclass makes of assignment

    def writable(self, x: Array) -> bool:
        return isinstance(x, np.ndarray) and x.flags.writeable

    def guarded(self, x: Array) -> Array:
        view = x.view()
        view.flags.writeable = False
        return view

    def device(self, x: Array) -> Any:
        return "cpu"

    def host(self, x: Array) -> np.ndarray[Any, Any] | None:
        # bfloat16 is a guest among NumPy's dtypes.
        return x if isinstance(x, np.ndarray) and x.dtype.kind in "fc" else None

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def copied(self, x: Array) -> Array:
        return x.copy(order="K")

    def still(self, x: Array, memory: Memory | None) -> bool:
        # `resize`, there and back, moves the memory under an array that is otherwise as it was.
        return type(x) is np.ndarray and memory is not None and x.flags.writeable and host_memory(x) == memory

    def plain(self, x: Array, p: Array) -> bool:
        return type(x) is np.ndarray and x.dtype is p.dtype and x.shape == p.shape

    def address(self, x: Array) -> int | None:
        return x.__array_interface__["data"][0] if x.flags.c_contiguous and x.flags.aligned else None

    def memory(self, x: Array) -> Memory | None:
        return host_memory(x) if isinstance(x, np.ndarray) else None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return _by_parts(self.xp, real, imag, dtype)


class _CuPy(Library):
    def cuda(self, x: Array) -> int | None:
        return int(x.device.id)

    def stream(self, number: int) -> int:
        return int(sys.modules["cupy"].cuda.get_current_stream(number).ptr)

    def capturing(self, number: int) -> bool:
        return bool(sys.modules["cupy"].cuda.get_current_stream(number).is_capturing())

    def marks(self, ps: Sequence[Array]) -> Marks:
        begins, devices = [p.data.ptr for p in ps], [p.data.device_id for p in ps]
        return Marks(begins, [p.dtype for p in ps], [p.shape for p in ps], devices)

    def stayed(self, ps: Sequence[Array], marks: Marks) -> bool:
        return [p.data.ptr for p in ps] == marks.begins  # they never move, nor change but in shape

    def addresses(self, xs: Sequence[Array], marks: Marks) -> list[int] | None:
        if {*map(type, xs)} != {sys.modules["cupy"].ndarray} or [x.shape for x in xs] != marks.shapes:
            return None
        # `flags.c_contiguous` would take ten times as long.
        if [x.dtype for x in xs] != marks.dtypes or False in [x._c_contiguous for x in xs]:
            return None
        memory = [x.data for x in xs]
        return [m.ptr for m in memory] if [m.device_id for m in memory] == marks.devices else None

    def copied(self, x: Array) -> Array:
        return x.copy(order="K")

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x.get())

    def writable(self, x: Array) -> bool:
        return True

    def memory(self, x: Array) -> Memory | None:
        return Memory(f"cuda:{x.device.id}", x.data.ptr, x.shape, x.strides, x.itemsize) if x.data.ptr else None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return _by_parts(self.xp, real, imag, dtype)


class _Torch(Library):
    def refusal(self, x: Array) -> str | None:
        if str(x.layout) != "torch.strided":
            return f"has layout {x.layout}; wanted torch.strided (a dense tensor)"
        return None

    def load(self, x: Array) -> Array:
        return x.detach()

    def write(self, p: Array, new: Array) -> None:
        # Through the parameter itself and not its detached twin, so that autograd notices the write.
        with sys.modules["torch"].no_grad():
            p.copy_(new)

    def writable(self, x: Array) -> bool:
        # A lazy conjugate or negation is another array in the same memory.
        frozen = x.is_inference() and not sys.modules["torch"].is_inference_mode_enabled()
        return not (frozen or x.is_conj() or x.is_neg())

    def host(self, x: Array) -> np.ndarray[Any, Any] | None:
        torch = sys.modules["torch"]
        if type(x) not in {torch.Tensor, torch.nn.Parameter} or x.device.type != "cpu" or x.is_conj() or x.is_neg():
            return None
        try:
            if not x.data_ptr() and x.numel():
                return None  # under torch.func.functionalize, where NumPy's view is one of nothing
            view: np.ndarray[Any, Any] = x.detach().numpy()
        except (RuntimeError, TypeError):  # under torch.func; bfloat16
            return None
        return view if view.dtype.kind in "fc" else None

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x.detach().cpu())

    def cuda(self, x: Array) -> int | None:
        torch = sys.modules["torch"]
        if type(x) not in {torch.Tensor, torch.nn.Parameter} or x.device.type != "cuda" or x.is_conj() or x.is_neg():
            return None
        try:
            return int(x.device.index) if x.data_ptr() or not x.numel() else None
        except RuntimeError:  # under torch.func
            return None

    def followed(self, x: Array) -> bool:
        return bool(x.requires_grad and sys.modules["torch"].is_grad_enabled())

    def stream(self, number: int) -> int:
        return int(sys.modules["torch"].cuda.current_stream(number).cuda_stream)

    def capturing(self, number: int) -> bool:
        with sys.modules["torch"].cuda.device(number):
            return bool(sys.modules["torch"].cuda.is_current_stream_capturing())

    def marks(self, ps: Sequence[Array]) -> Marks:
        begins, devices = [p.data_ptr() for p in ps], [p.get_device() for p in ps]
        return Marks(begins, [p.dtype for p in ps], [tuple(p.shape) for p in ps], devices)

    def stayed(self, ps: Sequence[Array], marks: Marks) -> bool:
        # An assignment to `p.data` can make any other tensor of it.
        return (
            [p.data_ptr() for p in ps] == marks.begins
            and [p.shape for p in ps] == marks.shapes
            and [p.dtype for p in ps] == marks.dtypes
            and False not in [p.is_contiguous() for p in ps]
            and True not in [p.is_neg() or p.is_conj() for p in ps]
        )

    def addresses(self, xs: Sequence[Array], marks: Marks) -> list[int] | None:
        if {*map(type, xs)} != {sys.modules["torch"].Tensor} or [x.shape for x in xs] != marks.shapes:
            return None
        if [x.dtype for x in xs] != marks.dtypes or [x.get_device() for x in xs] != marks.devices:
            return None
        try:
            if False in [x.is_contiguous() for x in xs] or True in [x.is_neg() or x.is_conj() for x in xs]:
                return None
            return [x.data_ptr() for x in xs]
        except RuntimeError:  # sparse, or under torch.func
            return None

    def still(self, x: Array, memory: Memory | None) -> bool:
        return memory is not None and self.writable(x) and self.memory(x) == memory

    def plain(self, x: Array, p: Array) -> bool:
        torch = sys.modules["torch"]
        same = type(x) is torch.Tensor and x.dtype is p.dtype and x.shape == p.shape and x.device == p.device
        return same and not x.requires_grad and str(x.layout) == "torch.strided"

    def address(self, x: Array) -> int | None:
        if not x.is_contiguous() or x.is_conj() or x.is_neg():
            return None
        try:
            address: int = x.data_ptr()
        except RuntimeError:  # under torch.func
            return None
        return None if not address or address % x.element_size() else address

    def copied(self, x: Array) -> Array:
        return x.detach().clone()

    def touched(self, arrays: Sequence[Array]) -> None:
        # Inference tensors count no versions.
        sys.modules["torch"].autograd.graph.increment_version([x for x in arrays if not x.is_inference()])

    def memory(self, x: Array) -> Memory | None:
        try:
            address = x.data_ptr()
        except RuntimeError:  # under torch.func a tensor stands for many
            return None
        if not address:  # nothing is stored: a meta tensor
            return None
        size = x.element_size()
        strides = tuple(step * size for step in x.stride())
        return Memory(str(x.device), address, tuple(x.shape), strides, size)

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return sys.modules["torch"].complex(real, imag)


class _JAX(Library):
    wide_integers = False
    tracing = True

    def widest_float(self) -> Any:
        return self.xp.float64 if sys.modules["jax"].config.jax_enable_x64 else self.xp.float32

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def writable(self, x: Array) -> bool:
        return False

    def traced(self, x: Array) -> bool:
        return isinstance(x, sys.modules["jax"].core.Tracer)

    def device(self, x: Array) -> Any:
        # An uncommitted array goes wherever JAX finds the others; a sharded one lies on several devices.
        if self.traced(x) or not x.committed:
            return None
        devices = x.devices()
        return x.device if len(devices) == 1 else frozenset(devices)

    def placement(self, like: Array) -> Any:
        # Where `like` lies on several devices, uncommitted, so that it follows `like` there.
        device = self.device(like)
        return None if isinstance(device, frozenset) else device

    def aligned(self, x: Array, like: Array) -> Array:
        if self.traced(x) or self.traced(like) or not like.committed or x.sharding == like.sharding:
            return x
        return sys.modules["jax"].device_put(x, like.sharding)

    def memory(self, x: Array) -> Memory | None:
        return None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return sys.modules["jax"].lax.complex(real, imag)


class _Dask(Library):
    lazy = True

    def refusal(self, x: Array) -> str | None:
        if any(n != n for n in x.shape):
            return f"has the unknown shape {x.shape}; call compute_chunk_sizes() on it first"
        return None

    def writable(self, x: Array) -> bool:
        # A Dask array can be assigned to, but the graphs that others built from it would not see it.
        return False

    def memory(self, x: Array) -> Memory | None:
        return None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        numpy = library(np.empty(0))
        return sys.modules["dask.array"].map_blocks(numpy.join_complex, real, imag, dtype, dtype=dtype)

    def aligned(self, x: Array, like: Array) -> Array:
        return x.rechunk(like.chunks)

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def settle(self, arrays: list[Array]) -> list[Array]:
        # Without this every step would add its graph to the last one's, without end.
        return list(sys.modules["dask"].persist(*arrays))


_KINDS: dict[str, type[Library]] = {"numpy": _NumPy, "cupy": _CuPy, "torch": _Torch, "jax": _JAX, "dask": _Dask}


@functools.cache
def _named(xp: Any) -> Library:
    return _KINDS.get(_name(xp), Library)(xp)


def _name(xp: Any) -> str:
    """The library as its users call it: `numpy`, `torch`, `jax`."""
    return str(xp.__name__).removeprefix("array_api_compat.").partition(".")[0]


_BY_TYPE: dict[type, Library] = {}


def library(x: Any) -> Library:
    """The library of `x`, an array or a Python number. Raises TypeError for anything else."""
    found = _BY_TYPE.get(type(x))
    if found is None:
        xp = compat.array_namespace(np.empty(0) if isinstance(x, int | float | complex | np.generic) else x)
        found = _BY_TYPE[type(x)] = _named(xp)
    return found


def traced(x: Any) -> bool:
    """Whether `x` is an array whose values are not known yet."""
    try:
        return library(x).traced(x)
    except TypeError:
        return False


def is_scalar(x: Any) -> bool:
    """Whether `x` is a number of the host that belongs to no library: a Python number or a NumPy scalar."""
    return isinstance(x, int | float | complex | np.generic)


def _by_parts(xp: Any, real: Array, imag: Array, dtype: Any) -> Array:
    joined = xp.empty_like(real, dtype=dtype)
    joined.real, joined.imag = real, imag
    return joined


def host_memory(x: np.ndarray[Any, Any]) -> Memory:
    """Where a NumPy array lies."""
    return Memory("cpu", x.__array_interface__["data"][0], x.shape, x.strides, x.itemsize)
