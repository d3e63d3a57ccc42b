"""JAX arrays."""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays._library import Array, Library
from anyoptim._arrays._memory import MemoryLayout

__all__ = ["JAX", "loaded"]


def loaded() -> Any:
    """The package `jax`, which is loaded where there are arrays of it."""
    return sys.modules["jax"]


class JAX(Library):
    """JAX."""

    name = "jax"
    wide_integers = False
    compiled_by_xla = True
    states_need_dtypes = True
    flushes_subnormals = True
    immutable = True

    def widest_float(self) -> Any:
        return self.xp.float64 if loaded().config.jax_enable_x64 else self.xp.float32

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        if self.spans_processes(x) and not x.is_fully_replicated:
            x = _resharded(self.replicated_sharding(x))(x)
        return np.asarray(x)

    def writable(self, x: Array) -> bool:
        return False

    def refusal(self, x: Array) -> str | None:
        gone = not self.traced(x) and getattr(x, "is_deleted", bool)()
        return "was deleted, as by a function that it was donated to; wanted an array with a value" if gone else None

    def part_refusal(self, x: Array) -> str | None:
        cut = not self.traced(x) and x.sharding.num_devices > 1
        return "is a jax array on several devices" if cut else super().part_refusal(x)

    def with_part(self, x: Array, key: Any, values: Array) -> Array:
        return x.at[key].set(values)

    def traced(self, x: Array) -> bool:
        return isinstance(x, loaded().core.Tracer)

    def device(self, x: Array) -> Any:
        # JAX moves an uncommitted array to the device of the others; a sharded one lies on several devices.
        if self.traced(x) or not x.committed:
            return None
        devices = x.devices()
        return x.device if len(devices) == 1 else frozenset(devices)

    def unchanged(self, x: Array, memory: MemoryLayout | None) -> bool:
        return not bool(x.is_deleted())

    def is_plain_gradient(self, x: Array, p: Array) -> bool:
        if type(x) is not type(p) or self.traced(p):
            return False
        return bool(x.dtype == p.dtype and x.shape == p.shape and x.sharding == p.sharding and not x.is_deleted())

    def device_group(self, x: Array) -> Any:
        return getattr(x.sharding, "mesh", None) or self.device(x)

    def replicated_sharding(self, x: Array) -> Any:
        if not x.committed:
            return None
        sharding = loaded().sharding
        mesh = getattr(x.sharding, "mesh", None)
        if mesh is not None:
            return sharding.NamedSharding(mesh, sharding.PartitionSpec())
        return x.sharding if x.sharding.num_devices == 1 else None

    def device_put(self, values: Any, sharding: Any) -> Any:
        return loaded().device_put(values, sharding)

    def creation_device(self, like: Array) -> Any:
        # Where `like` lies on several devices, the new array stays uncommitted, so that JAX moves it there.
        device = self.device(like)
        return None if isinstance(device, frozenset) else device

    def fold(
        self, step: Callable[..., tuple[Array, ...]], state: tuple[Array, ...], rows: Sequence[Sequence[int]]
    ) -> tuple[Array, ...]:
        return _loop(step)(state, self.xp.asarray(np.array(rows), dtype=state[0].dtype))  # type: ignore[no-any-return]

    def max(self, x: Array) -> Array:
        return _in_order(self.xp.max, x)

    def opaque(self, x: Array) -> Array:
        return loaded().lax.optimization_barrier(x)

    def exponent(self, x: Array) -> Array:
        digits, bias, integer = _FORMS[x.dtype.itemsize]
        bits = loaded().lax.bitcast_convert_type(x, integer) >> digits
        return self.xp.astype(bits - (bias - 1), self.xp.int32)

    def two_to(self, n: Array, dtype: Any) -> Array:
        digits, bias, integer = _FORMS[self.xp.dtype(dtype).itemsize]
        return loaded().lax.bitcast_convert_type(self.xp.astype(n + bias, integer) << digits, dtype)

    def sums(self, arrays: Sequence[Array]) -> list[Array]:
        jax, shape = loaded(), arrays[0].shape
        mesh = _mesh_of(arrays[0])
        if mesh is None or set(mesh.axis_types) != {jax.sharding.AxisType.Auto}:
            return self._sums(arrays, range(len(shape)))
        # XLA would gather what several sums at once have come to on each device. So each device first adds what is its
        # own, whichever axes are cut, and into however many pieces: their number divides both these numbers.
        pieces = [math.gcd(n, mesh.size) for n in shape]
        apart = [n for whole, several in zip(shape, pieces, strict=True) for n in (several, whole // several)]
        own = self._sums([self.xp.reshape(a, apart) for a in arrays], range(1, len(apart), 2))
        return [self.xp.sum(a) for a in own]

    def _sums(self, arrays: Sequence[Array], axes: Sequence[int]) -> list[Array]:
        # XLA would compute anew for each sum what they have in common.
        zeros = tuple(self.xp.zeros((), dtype=a.dtype) for a in arrays)
        lax = loaded().lax
        return list(lax.reduce(tuple(arrays), zeros, lambda a, b: tuple(map(lax.add, a, b)), axes))

    def over_shards(
        self, reduction: Callable[..., Array], leaves: Sequence[Sequence[Any]], shardings: Sequence[Any] | None
    ) -> Array:
        shardings = shardings or self._known_shardings([parts[0][0] for parts in leaves])
        if shardings is None:
            return super().over_shards(reduction, leaves, None)
        jax, xp = loaded(), self.xp
        mesh, specs = shardings[0].mesh, [of.spec for of in shardings]
        cut = [{name for names in spec for name in (names if isinstance(names, tuple) else [names])} for spec in specs]

        def over(what: str, a: Array) -> Array:
            if what == "max":
                return _in_order(lambda order: jax.lax.pmax(order, mesh.axis_names), a)
            # Of the devices that have the same elements, only the first counts.
            others = [[jax.lax.axis_index(name) for name in mesh.axis_names if name not in names] for names in cut]
            first = xp.stack([sum(numbers, start=xp.int32(0)) == 0 for numbers in others])
            return jax.lax.psum(xp.where(first[:, None], a, xp.zeros_like(a)), mesh.axis_names)

        each = [[[spec] * len(part) for part in leaf] for spec, leaf in zip(specs, leaves, strict=True)]
        whole = jax.sharding.PartitionSpec()
        local = functools.partial(reduction, over)
        return jax.shard_map(local, mesh=mesh, in_specs=(each,), out_specs=whole, check_vma=False)(leaves)

    def _known_shardings(self, arrays: Sequence[Array]) -> list[Any] | None:
        """The shardings of traced arrays on one mesh, if all its axes are explicit: else JAX does not know them."""
        jax = loaded()
        meshes = {mesh for a in arrays if (mesh := _mesh_of(a)) is not None}
        if len(meshes) != 1 or not any(map(self.traced, arrays)):
            return None
        (mesh,) = meshes
        if set(mesh.axis_types) != {jax.sharding.AxisType.Explicit}:
            return None
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return [whole if _mesh_of(a) is None else jax.typeof(a).sharding for a in arrays]

    def sharded_like(self, x: Array, like: Array) -> Array:
        if self.traced(x) or self.traced(like) or not like.committed or x.sharding == like.sharding:
            return x
        if x.shape != like.shape:  # an uncommitted array, which JAX moves
            return x
        return loaded().device_put(x, like.sharding)

    def auto_sharded(self, call: Callable[..., Any], like: Any, *arguments: Any) -> Any:
        # Where axes of a mesh are explicit, a product of matrices would have to say how its result is sharded.
        jax = loaded()
        leaves, treedef = jax.tree.flatten(arguments)
        arrays = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array)}
        explicit = next((x for x in arrays.values() if _explicit(x)), None)
        if explicit is None:
            return call(*arguments)
        # Arrays that are on no mesh are replicated on this one.
        replicated = jax.sharding.NamedSharding(explicit.aval.sharding.mesh, jax.sharding.PartitionSpec())
        if not self.traced(explicit):
            sharding = self.replicated_sharding(explicit)
            arrays = {i: x if _explicit(x) else jax.device_put(x, sharding) for i, x in arrays.items()}

        def on_arrays(arrays: Mapping[int, Array]) -> Any:
            return call(*treedef.unflatten([arrays.get(i, x) for i, x in enumerate(leaves)]))

        out_sharding = jax.tree.map(lambda x: x.aval.sharding if _explicit(x) else replicated, like)
        return jax.sharding.auto_axes(on_arrays, out_sharding=out_sharding)(arrays)

    def spans_processes(self, x: Array) -> bool:
        return not (self.traced(x) or x.is_fully_addressable)

    def is_first_process(self, x: Array) -> bool:
        return bool(loaded().process_index() == min(device.process_index for device in x.sharding.device_set))

    def all_processes(self, holds: bool, x: Array) -> bool:
        jax = loaded()
        # One device of each process, the same ones to all.
        devices = sorted(x.sharding.device_set, key=operator.attrgetter("id"))
        mesh = jax.sharding.Mesh(np.array([*{device.process_index: device for device in devices}.values()]), ("all",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
        answers = jax.make_array_from_callback((mesh.size,), sharding, lambda _: np.array([holds]))
        return bool(self.xp.all(answers))

    def memory(self, x: Array) -> MemoryLayout | None:
        return None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return loaded().lax.complex(real, imag)


_FORMS = {4: (23, 127, "int32"), 8: (52, 1023, "int64")}
"""For the bytes of a float the bits of its fraction, the bias of its exponent, and the integer of as many bits."""


def _in_order(maximum: Callable[[Array], Array], x: Array) -> Array:
    """A maximum, taken of integers; in place of floats such as are larger for larger floats, and largest for NaN.

    XLA's maximum of floats may lose a NaN among many elements on a CPU.
    """
    jax = loaded()
    if jax.numpy.issubdtype(x.dtype, jax.numpy.integer):
        return maximum(x)
    integer = {2: "int16", 4: "int32", 8: "int64"}[x.dtype.itemsize]
    most = np.iinfo(integer).max

    def turned(bits: Array) -> Array:
        return jax.numpy.where(bits < 0, bits ^ most, bits)

    order = jax.numpy.where(x == x, turned(jax.lax.bitcast_convert_type(x, integer)), most)
    return jax.lax.bitcast_convert_type(turned(maximum(order)), x.dtype)


def _mesh_of(x: Array) -> Any:
    """The mesh of several devices on which an array lies, where JAX knows one and the function sees it as a whole."""
    jax = loaded()
    mesh = getattr(jax.typeof(x).sharding, "mesh", None)
    several = mesh is not None and mesh.size > 1 and jax.sharding.AxisType.Manual not in mesh.axis_types
    return mesh if several else None


def _explicit(x: Array) -> bool:
    """Whether an array lies on a mesh with explicit axes, which are part of the array's type."""
    mesh = getattr(x.aval.sharding, "mesh", None)
    return loaded().sharding.AxisType.Explicit in getattr(mesh, "axis_types", ())


@functools.cache
def _resharded(sharding: Any) -> Callable[[Array], Array]:
    """The function that gives an array another sharding."""
    return loaded().jit(lambda a: a, out_shardings=sharding)  # type: ignore[no-any-return]


@functools.cache
def _loop(step: Callable[..., tuple[Array, ...]]) -> Callable[..., Any]:
    """`fold` as a loop of XLA's, whose states are stored in memory.

    Without a loop XLA would repeat all steps wherever a part of the result is used.
    """
    jax = loaded()

    def alike(state: tuple[Array, ...]) -> tuple[Array, ...]:
        """The parts with one sharding, as the loop wants them: each is combined with zeros made of all."""
        zeros = functools.reduce(operator.or_, (part & 0 for part in state))
        return tuple(part | zeros for part in state)

    def loop(state: tuple[Array, ...], rows: Array) -> tuple[Array, ...]:
        def one(state: tuple[Array, ...], row: Array) -> tuple[tuple[Array, ...], None]:
            return step(state, *(row[k] for k in range(row.shape[0]))), None

        final: tuple[Array, ...] = jax.lax.scan(one, alike(state), rows, unroll=2)[0]
        return final

    compiled: Callable[..., Any] = jax.jit(loop)
    return compiled
