"""What anyoptim asks of an array library, in terms of the Array API standard alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays._memory import MemoryLayout

__all__ = ["COMPUTE", "Array", "Fingerprint", "Library", "host_memory"]

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


class Fingerprint(NamedTuple):
    """By what arrays on a CUDA device are known again: lists, which compare faster than arrays one by one."""

    addresses: list[int]
    dtypes: list[Any]
    shapes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]] | None
    """None where all are in C order, which is quicker to ask."""
    devices: list[int]


class Library:
    """An array library, as far as the Array API standard describes it."""

    name = ""
    """The library as its users call it: `numpy`, `torch`, `jax`."""

    wide_integers = True
    """Whether 64-bit integers are at hand without a switch."""

    compiled_by_xla = False
    """Whether XLA compiles functions of its arrays, which for that are traced: they stand for values not yet known."""

    states_need_dtypes = False
    """Whether all that a state has must have a dtype, so that transformations of the library may carry it."""

    flushes_subnormals = False
    """Whether results that are subnormal become 0."""

    immutable = False
    """Whether its arrays never change, so that one that was met before is as it was."""

    lazy = False
    """Whether results wait, as a growing graph, for somebody to ask for them."""

    distributed = False
    """Whether each process sees its own part of an array alone, so that sums have to be added up."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.name = self.name or _name_of(xp)
        self._dtypes: dict[Any, str] = {}

    @classmethod
    def namespace(cls, x: Any) -> Any:
        """The namespace of `x` if it is an array of this library, else None. Raises TypeError for what is no array."""
        import array_api_compat  # noqa: PLC0415 - for those who have other arrays than NumPy's

        xp = array_api_compat.array_namespace(x)
        return xp if cls.name in {"", _name_of(xp)} else None

    def dtype(self, x: Array) -> str:
        """The name of the dtype: `float32` for `torch.float32` and for a big-endian `>f4`."""
        name = self._dtypes.get(x.dtype)
        if name is None:  # NumPy composes it anew each time, at the price of an addition of a thousand elements
            name = self._dtypes[x.dtype] = getattr(x.dtype, "name", None) or str(x.dtype).rpartition(".")[2]
        return name

    def refusal(self, x: Array) -> str | None:
        """Why an array that looks like any other can't be taken, or None."""
        return None

    def parameter_refusal(self, p: Array) -> str | None:
        """Why an array can't be a parameter that can be a gradient, or None."""
        return None

    def load(self, x: Array) -> Array:
        """The array to compute with: on the same memory, outside any automatic differentiation."""
        return x

    def read_only(self, x: Array) -> Array:
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
        from array_api_compat import device  # noqa: PLC0415 - for those who have other arrays than NumPy's

        return device(x)

    def creation_device(self, like: Array) -> Any:
        """What to give a creation function as `device`, for an array that is to meet `like`."""
        return self.device(like)

    def device_group(self, x: Array) -> Any:
        """What arrays have in common that one call may take."""
        return self.device(x)

    def replicated_sharding(self, x: Array) -> Any:
        """Where to put an array that is to be whole wherever `x` is; None for where the library likes."""
        return None

    def device_put(self, numbers: Any, place: Any) -> Any:
        """NumPy's arrays and numbers, in containers, as arrays in a place that `replicated` gave."""
        raise NotImplementedError

    def scalar(self, value: Any, dtype: Any, like: Array) -> Array:
        """A 0-d array that can meet `like`."""
        return self.xp.asarray(value, dtype=dtype, device=self.creation_device(like))

    def fold(
        self, step: Callable[..., tuple[Array, ...]], state: tuple[Array, ...], rows: Sequence[Sequence[int]]
    ) -> tuple[Array, ...]:
        """`state = step(state, *row)` for each row of words, which the step is given as arrays of no dimension.

        All parts of the state are integers of one shape.
        """
        first = state[0]
        for row in rows:
            state = step(state, *(self.scalar(word, first.dtype, first) for word in row))
        return state

    def gather_columns(self, table: np.ndarray[Any, Any], index: Array) -> list[Array]:
        """Of a table of words the rows with these numbers: an array like `index` for each column."""
        xp = self.xp
        table = xp.asarray(table.astype(str(self.dtype(index))), device=self.creation_device(index))
        rows = xp.take(table, xp.reshape(index, (-1,)), axis=0)
        return [xp.reshape(rows[:, k], index.shape) for k in range(rows.shape[1])]

    def numpy_view(self, x: Array) -> np.ndarray[Any, Any] | None:
        """NumPy's view of the memory of `x`, for its functions to read and write; None where there is none."""
        return None

    def numpy_bits(self, x: Array) -> np.ndarray[Any, Any] | None:
        """The same of any floating dtype of native byte order; of bfloat16, which NumPy lacks, its bits as uint16."""
        return None

    def numpy_can_create(self, like: Array) -> bool:
        """Whether new arrays like this one may be made by NumPy: they lie on the host, and nobody follows how."""
        return False

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """The values of `x`, for NumPy to read."""
        try:
            return np.from_dlpack(x)
        except (TypeError, ValueError, RuntimeError, BufferError):  # it lies elsewhere
            from array_api_compat import to_device  # noqa: PLC0415

            return np.from_dlpack(to_device(x, "cpu"))

    def from_host(self, values: np.ndarray[Any, Any], like: Array) -> Array:
        """These values, of any floating dtype, as an array of the dtype of `like`, and where that is."""
        name = self.dtype(like)
        wide = values.astype("float32" if name == "bfloat16" else name)  # NumPy may never have heard of bfloat16
        return self.xp.astype(self.xp.asarray(wide, device=self.creation_device(like)), like.dtype, copy=False)

    def with_values(self, slot: Array, values: np.ndarray[Any, Any]) -> Array:
        """A slot with other values: the same one, where it can be written to."""
        new = self.from_host(values, slot)
        if not self.writable(slot):
            return self.sharded_like(new, slot)
        self.write(slot, new)
        return slot

    def widest_float(self) -> Any:
        """The dtype to add in: float64, where the library has it."""
        return self.xp.float64

    def unchanged(self, x: Array, memory: MemoryLayout | None) -> bool:
        """Whether an array met before is writable and without doubt where it was: quicker than to ask anew."""
        return False

    def is_plain_gradient(self, x: Array, p: Array) -> bool:
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

    def fingerprint(self, ps: Sequence[Array]) -> Fingerprint:
        """What `stayed` and `addresses` compare with, of arrays on a CUDA device."""
        return Fingerprint([], [], [], None, [])

    def unchanged_all(self, ps: Sequence[Array], fingerprint: Fingerprint) -> bool:
        """Whether these parameters, met before, are without doubt where and as they were: quicker than to ask anew."""
        return False

    def addresses(self, xs: Sequence[Array], fingerprint: Fingerprint) -> list[int] | None:
        """Where gradients begin, if without doubt all are such as their parameters; else None."""
        return None

    def on_device_of(self, x: Array) -> AbstractContextManager[Any]:
        """Within it, new arrays lie where `x` does."""
        return nullcontext()

    def tracked_by_autograd(self, x: Array) -> bool:
        """Whether automatic differentiation follows what becomes of `x`."""
        return False

    def copied(self, x: Array) -> Array:
        """A copy in the same memory order."""
        return self.xp.asarray(x, copy=True)

    def mark_written(self, arrays: Sequence[Array]) -> None:
        """Take notice that `host` views of these were written to. Does not fail."""

    def memory(self, x: Array) -> MemoryLayout | None:
        """Where `x` lies, or None where the library does not tell."""
        try:
            return host_memory(np.from_dlpack(x))
        except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
            return None

    def array(self, result: Array) -> Array:
        """The result of an operation on arrays, as an array."""
        return result

    def unaliased(self, result: Array) -> Array:
        """An array with these values that an engine may write to, whatever the user writes to."""
        return result

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        """The complex array with these two parts; the standard has no constructor that keeps -0 and inf."""
        return self.xp.astype(real, dtype) + self.xp.astype(imag, dtype) * 1j

    def auto_sharded(self, call: Callable[..., Any], like: Any, *given: Any) -> Any:
        """`call(*given)`, which does with arrays what it likes, however they are divided into pieces.

        `like` are arrays that lie where its results are to lie, in containers like theirs.
        """
        return call(*given)

    def sharded_like(self, x: Array, like: Array) -> Array:
        """`x` divided into pieces as `like` is, of its shape, or of one that has 1 where all of it share an element."""
        return x

    def is_sharded(self, x: Array) -> bool:
        """Whether the elements of `x`, which is one array to the library, are known to lie on several devices."""
        return False

    def replicated_like(self, x: Array, like: Array) -> Array:
        """An array that is the same in all processes as one that can meet `like`, of whatever shape."""
        return x

    def local(self, x: Array) -> Array:
        """The part of `x` that this process has."""
        return x

    def spans_processes(self, x: Array) -> bool:
        """Whether other processes have parts of `x`, too, so that all have to ask for the whole: by `to_host`."""
        return False

    def is_first_process(self, x: Array) -> bool:
        """Whether this is the first of the processes that share `x`."""
        return True

    def all_processes(self, holds: bool, x: Array) -> bool:
        """Whether it holds in all processes that share `x`, which all ask."""
        return holds

    def sum_over_processes(self, numbers: Sequence[float], of: Sequence[Array]) -> list[float]:
        """For each of these arrays the sum of the numbers that all processes that share it give.

        Of those that have the same elements one counts, the first among them.
        """
        return [*numbers]

    def materialize(self, arrays: list[Array]) -> list[Array]:
        """The same arrays with nothing left to compute."""
        return arrays


def _name_of(xp: Any) -> str:
    return str(xp.__name__).removeprefix("array_api_compat.").partition(".")[0]


def host_memory(x: np.ndarray[Any, Any]) -> MemoryLayout:
    """Where a NumPy array lies."""
    return MemoryLayout("cpu", x.__array_interface__["data"][0], x.shape, x.strides, x.itemsize)
