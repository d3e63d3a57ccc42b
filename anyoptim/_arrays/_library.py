"""The questions that anyoptim asks of array libraries, with the answers that the Array API standard gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np

from anyoptim._arrays._memory import MemoryLayout

__all__ = ["COMPUTE", "A", "Array", "Fingerprint", "Library", "P", "host_address", "host_memory", "slot_dtype"]

Array = Any
"""An array of any library. The standard has no common base class to name here."""

A = TypeVar("A", bound=Any)
"""An array of any library, where a function gives another of its type."""

P = TypeVar("P", bound=Any)
"""A container of parameters, or an array, where a function gives another of its type."""

COMPUTE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "complex64",
    "complex128": "complex128",
}
"""The dtype in which parameters of each dtype are computed, and their slots kept: at least float32."""

_REALS = {"complex64": "float32", "complex128": "float64"}


def slot_dtype(dtype: str, real: bool = False) -> str:
    """The dtype of the slots of a parameter: that of its arithmetic; of a real slot that of its parts."""
    return _REALS.get(COMPUTE[dtype], COMPUTE[dtype]) if real else COMPUTE[dtype]


class Fingerprint(NamedTuple):
    """What tells arrays on a CUDA device from others, as lists, which compare faster than arrays one by one."""

    addresses: list[int]
    dtypes: list[Any]
    shapes: list[tuple[int, ...]]
    strides: list[tuple[int, ...]] | None
    """None where all arrays are in C order, which is quicker to ask."""
    devices: list[int]


class Library:
    """An array library, as far as the Array API standard describes it.

    A subclass overrides what its library does in another way.
    """

    name = ""
    """The library as its users call it: `numpy`, `torch`, `jax`."""

    wide_integers = True
    """Whether 64-bit integers are there without being switched on."""

    compiled_by_xla = False
    """Whether XLA compiles functions of its arrays. To that end they are traced: values are not known yet."""

    states_need_dtypes = False
    """Whether every number in a state needs a dtype, since the library's transformations carry states along."""

    flushes_subnormals = False
    """Whether subnormal results become 0."""

    immutable = False
    """Whether no array can change, so that one that was checked before needs no second check."""

    lazy = False
    """Whether results are computed only when somebody asks for them, and are a growing graph until then."""

    distributed = False
    """Whether each process sees only its own part of an array, so that the sums of all have to be added up."""

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
        """Why an array of the library can't be used at all, or None."""
        return None

    def parameter_refusal(self, p: Array) -> str | None:
        """Why an array, which may be a gradient, can't be a parameter, or None."""
        return None

    def load(self, x: Array) -> Array:
        """The array to compute with: one on the same memory, outside automatic differentiation."""
        return x

    def read_only(self, x: Array) -> Array:
        """A view of the array for a rule to read, which can't be written to where the library has such views."""
        return x

    def rebound(self, old: Array, new: Array) -> Array:
        """`new` as what the user gets in place of `old`: a Python number, say, for a Python number."""
        return new

    def write(self, p: Array, new: Array) -> None:
        """Write the elements of `new` into the memory of `p`."""
        p[...] = new

    def part_refusal(self, x: Array) -> str | None:
        """Why no part of an array can be taken and put back by itself, or None."""
        why = "lazy" if self.lazy else "divided among processes" if self.distributed else "traced" * self.traced(x)
        return f"is a {self.name} array that is {why}" if why else None

    def part(self, x: Array, key: Any) -> Array:
        """The elements of `x` at a NumPy array of rows: a copy; or at a slice or a tuple of slices: often a view."""
        if isinstance(key, np.ndarray):
            return self.xp.take(x, self.xp.asarray(key, device=self.creation_device(x)), axis=0)
        return x[key if isinstance(key, tuple) else (key, ...)]

    def part_to(self, x: Array, key: Any, out: Array) -> None:
        """Write that part to another array."""
        self.write(out, self.part(x, key))

    def with_part(self, x: Array, key: Any, values: Array) -> Array:
        """`x` with these elements there: the same array, where it can be written to, else a new one."""
        x = x if self.writable(x) else self.copied(x)
        self.write_part(x, key, values)
        return x

    def write_part(self, x: Array, key: Any, values: Array) -> None:
        """Write these elements of `x`, which can be written to."""
        if not isinstance(key, np.ndarray):
            x[key if isinstance(key, tuple) else (key, ...)] = values
            return
        for k, row in enumerate(key.tolist()):  # the standard has no assignment to several rows
            x[row, ...] = values[k, ...]

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
        """The `device` argument of creation functions, for an array that is to be combined with `like`."""
        return self.device(like)

    def device_group(self, x: Array) -> Any:
        """The device or mesh of devices that all array arguments of one compiled call must have in common."""
        return self.device(x)

    def replicated_sharding(self, x: Array) -> Any:
        """The sharding of an array that is replicated on all devices of `x`; None to leave it to the library."""
        return None

    def device_put(self, values: Any, sharding: Any) -> Any:
        """NumPy's arrays and numbers, in containers, as arrays with a sharding that `replicated_sharding` gave."""
        raise NotImplementedError

    def scalar(self, value: Any, dtype: Any, like: Array) -> Array:
        """A 0-d array that can be combined with `like`."""
        return self.xp.asarray(value, dtype=dtype, device=self.creation_device(like))

    def fold(
        self, step: Callable[..., tuple[Array, ...]], state: tuple[Array, ...], rows: Sequence[Sequence[int]]
    ) -> tuple[Array, ...]:
        """The state after `state = step(*state, *row)` for each row of words, which are passed as 0-d arrays.

        All parts of the state are arrays of integers, of one shape.
        """
        first = state[0]
        for row in rows:
            state = step(state, *(self.scalar(word, first.dtype, first) for word in row))
        return state

    def gather_columns(self, table: np.ndarray[Any, Any], index: Array) -> list[Array]:
        """The rows of a table of words with these numbers: for each column an array of the shape of `index`."""
        xp = self.xp
        table = xp.asarray(table.astype(str(self.dtype(index))), device=self.creation_device(index))
        rows = xp.take(table, xp.reshape(index, (-1,)), axis=0)
        return [xp.reshape(rows[:, k], index.shape) for k in range(rows.shape[1])]

    def numpy_view(self, x: Array) -> np.ndarray[Any, Any] | None:
        """A NumPy array on the memory of `x`, to be read and written; None where there can be none."""
        return None

    def numpy_bits(self, x: Array) -> np.ndarray[Any, Any] | None:
        """A NumPy array on the memory of `x`, in native byte order; bfloat16, which NumPy lacks, as uint16."""
        return None

    def numpy_can_create(self, like: Array) -> bool:
        """Whether NumPy may make new arrays like this one: they lie on the host, and no operation is recorded."""
        return False

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        """The values of `x` as a NumPy array, to be read only."""
        try:
            return np.from_dlpack(x)
        except (TypeError, ValueError, RuntimeError, BufferError):  # it lies elsewhere
            from array_api_compat import to_device  # noqa: PLC0415

            return np.from_dlpack(to_device(x, "cpu"))

    def from_host(self, values: np.ndarray[Any, Any], like: Array) -> Array:
        """These values, of any floating dtype, as an array of the dtype of `like` and on its device."""
        name = self.dtype(like)
        wide = values.astype("float32" if name == "bfloat16" else name)  # NumPy may never have heard of bfloat16
        return self.xp.astype(self.xp.asarray(wide, device=self.creation_device(like)), like.dtype, copy=False)

    def with_values(self, slot: Array, values: np.ndarray[Any, Any]) -> Array:
        """A slot with these values: the same array, where it can be written to, else a new one."""
        new = self.from_host(values, slot)
        if not self.writable(slot):
            return self.sharded_like(new, slot)
        self.write(slot, new)
        return slot

    def widest_float(self) -> Any:
        """The dtype in which sums are computed: float64 where the library has it."""
        return self.xp.float64

    def unchanged(self, x: Array, memory: MemoryLayout | None) -> bool:
        """Whether an array that was checked before is certainly writable and where it was: quicker than a check."""
        return False

    def is_plain_gradient(self, x: Array, p: Array) -> bool:
        """Whether `x` is certainly a gradient for the loaded `p` that needs no conversion: quicker than all checks."""
        return False

    def address(self, x: Array) -> int | None:
        """The address of the elements of `x`, a plain gradient, if they are contiguous in C order; else None."""
        return None

    def cuda(self, x: Array) -> int | None:
        """The number of the CUDA device whose kernels may read and write the memory of `x`; None if there is none."""
        return None

    def stream(self, number: int) -> int:
        """The handle of the stream of this device on which the library now does its own work."""
        raise NotImplementedError

    def capturing(self, number: int) -> bool:
        """Whether that stream only records its work, for a CUDA graph."""
        return False

    def fingerprint(self, ps: Sequence[Array]) -> Fingerprint:
        """The fingerprint of arrays on a CUDA device, for `unchanged_all` and `addresses`."""
        return Fingerprint([], [], [], None, [])

    def unchanged_all(self, ps: Sequence[Array], fingerprint: Fingerprint) -> bool:
        """Whether these parameters certainly still have the fingerprint that they had: quicker than a check."""
        return False

    def addresses(self, xs: Sequence[Array], fingerprint: Fingerprint) -> list[int] | None:
        """The addresses of gradients, if all certainly fit parameters of this fingerprint; else None."""
        return None

    def on_device_of(self, x: Array) -> AbstractContextManager[Any]:
        """A context in which new arrays lie on the device of `x`."""
        return nullcontext()

    def tracked_by_autograd(self, x: Array) -> bool:
        """Whether automatic differentiation records what is done to `x`."""
        return False

    def copied(self, x: Array) -> Array:
        """A copy in the same memory order."""
        return self.xp.asarray(x, copy=True)

    def mark_written(self, arrays: Sequence[Array]) -> None:
        """Note that these arrays were written to through views of NumPy's. It does not fail."""

    def memory(self, x: Array) -> MemoryLayout | None:
        """The layout of `x` in memory, or None where the library does not tell it."""
        try:
            return host_memory(np.from_dlpack(x))
        except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
            return None

    def array(self, result: Array) -> Array:
        """The result of an operation on arrays, as an array."""
        return result

    def unaliased(self, result: Array) -> Array:
        """An array with these values that shares its memory with no array that a user may hold."""
        return result

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        """The complex array with these two parts; the standard has no constructor that keeps -0 and inf."""
        return self.xp.astype(real, dtype) + self.xp.astype(imag, dtype) * 1j

    def auto_sharded(self, call: Callable[..., Any], like: Any, *arguments: Any) -> Any:
        """`call(*arguments)`, in which no operation has to say how its result is sharded.

        The results are sharded like the arrays of `like`, a container of the same structure.
        """
        return call(*arguments)

    def sharded_like(self, x: Array, like: Array) -> Array:
        """`x` divided among devices, or into chunks, as `like` is, whose shape it has but where its length is 1."""
        return x

    def replicated_like(self, x: Array, like: Array) -> Array:
        """`x`, the same array in all processes, as one of any shape that can be combined with `like`."""
        return x

    def local(self, x: Array) -> Array:
        """The part of `x` that this process holds."""
        return x

    def spans_processes(self, x: Array) -> bool:
        """Whether other processes hold parts of `x`, too. Then `to_host` has to be called in all of them."""
        return False

    def is_first_process(self, x: Array) -> bool:
        """Whether this is the first of the processes that hold parts of `x`."""
        return True

    def all_processes(self, holds: bool, x: Array) -> bool:
        """Whether a condition holds in all processes that hold parts of `x`, which all have to ask."""
        return holds

    def sums(self, arrays: Sequence[Array]) -> list[Array]:
        """For each of some arrays of one shape the sum of its elements, which are integers."""
        return [self.xp.sum(a) for a in arrays]

    def max(self, x: Array) -> Array:
        """The largest element of an array of floats that has some; NaN, if one is."""
        return self.xp.max(x)

    def opaque(self, x: Array) -> Array:
        """`x`, of whose values a compiler may assume nothing, even if it knows them."""
        return x

    def exponent(self, x: Array) -> Array | None:
        """The exponent of a positive number, as `frexp` has it, as an int32; None where that is no single operation."""
        return None

    def two_to(self, n: Array, dtype: Any) -> Array | None:
        """2**n for an int32, if that is a normal number of this dtype; None where that is no single operation."""
        return None

    def over_shards(
        self, reduction: Callable[..., Array], leaves: Sequence[Sequence[Any]], shardings: Sequence[Any] | None
    ) -> Array:
        """What `reduction(over, leaves)` gives for lists of lists of arrays: an array with a row for each of the first.

        Where it is known how the leaves are cut among several devices, from `shardings` or their arrays, each device
        calls it with its parts; `over("max" or "sum", a)` is that of the vectors or matrices `a` of all devices, which
        also have a row for each leaf. Elsewhere `over` gives `a` itself.
        """
        return reduction(lambda _, a: a, leaves)

    def over_processes(self, what: str, rows: np.ndarray[Any, Any], arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        """For each array the "sum" or "max" of the rows of integers that the processes which hold parts have for it.

        Where several processes hold the same elements, only the row of the first of them counts.
        """
        return rows

    def block(self, x: Array) -> Array:
        """The array itself; for a lazy one an empty array of the library that its blocks are of."""
        return x

    def map_blocks(
        self,
        call: Callable[..., tuple[Array, ...]],
        like: Sequence[Array],
        arrays: Sequence[Array],
        numbers: Sequence[Array] = (),
    ) -> tuple[Array, ...]:
        """Arrays like those of `like`, of lazy ones: `call(*blocks, *numbers)` for each block, in one task.

        The arrays are of one shape, the numbers 0-d arrays.
        """
        raise NotImplementedError

    def rows_of_blocks(
        self,
        call: Callable[..., Array],
        like: np.ndarray[Any, Any],
        arrays: Sequence[Array],
        numbers: Sequence[Array] = (),
    ) -> Array:
        """In the same way a row for each block, of an array of shape (1, n), which stand along the last axis.

        `like` has their length and dtype; the other axes number the blocks.
        """
        raise NotImplementedError

    def rows_to_host(
        self, rows: Sequence[Array], arrays: list[Array]
    ) -> tuple[list[np.ndarray[Any, Any]], list[Array]]:
        """Tables of such rows on the host, and `materialize(arrays)`, which is done at the same time."""
        raise NotImplementedError

    def of_rows(self, value: Callable[[Any, Sequence[Any]], Any], rows: Sequence[Array]) -> Array:
        """`value(xp, rows)`, a 0-d array."""
        return value(self.xp, rows)

    def materialize(self, arrays: list[Array]) -> list[Array]:
        """The arrays with all their elements computed."""
        return arrays


def _name_of(xp: Any) -> str:
    return str(xp.__name__).removeprefix("array_api_compat.").partition(".")[0]


def host_address(x: np.ndarray[Any, Any]) -> int:
    """Where the first element of a NumPy array lies in memory."""
    address: int = x.__array_interface__["data"][0]
    return address


def host_memory(x: np.ndarray[Any, Any]) -> MemoryLayout:
    """The layout of a NumPy array in memory."""
    return MemoryLayout("cpu", host_address(x), x.shape, x.strides, x.itemsize)
