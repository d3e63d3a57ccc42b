"""Torch's DTensors: tensors of which each process holds a part, as FSDP2 makes them of a module's parameters.

A DTensor is a local tensor with a statement of which part of the whole it is: a mesh of processes, and a placement for
each axis of the mesh. Operations on elements are done to the local tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._arrays._library import Array
from anyoptim._arrays._memory import MemoryLayout
from anyoptim._arrays._torch import Torch, is_dtensor

__all__ = ["DTensors"]


def _local(x: Array) -> Array:
    """The part of `x` that this process holds, in the same memory; a plain tensor as it is."""
    if not is_dtensor(x):
        return x
    with sys.modules["torch"].no_grad():  # then this is the local tensor itself, at no cost
        local = x.to_local()
    return local.wait() if hasattr(local, "wait") else local  # for a collective operation that has not ended


class DTensors(Torch):
    """Torch's DTensors, and the plain tensors that are combined with them."""

    name = "torch DTensor"
    distributed = True

    @classmethod
    def namespace(cls, x: Any) -> Any:
        return Torch.namespace(x) if is_dtensor(x) else None

    def parameter_refusal(self, p: Array) -> str | None:
        if any(placement.is_partial() for placement in p.placements):
            return f"has the placements {p.placements}; wanted Shard or Replicate, and no sum that is still to be made"
        return None

    def local(self, x: Array) -> Array:
        return _local(x)

    def numpy_view(self, x: Array) -> np.ndarray[Any, Any] | None:
        local = _local(x)
        return None if local.dtype is sys.modules["torch"].bfloat16 else super().numpy_bits(local)

    def numpy_bits(self, x: Array) -> np.ndarray[Any, Any] | None:
        return None  # whoever asks wants all of x

    def numpy_can_create(self, like: Array) -> bool:
        return super().numpy_can_create(_local(like))

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return super().to_host(x.detach().full_tensor() if is_dtensor(x) else x)

    def from_host(self, values: np.ndarray[Any, Any], like: Array) -> Array:
        return self.sharded_like(super().from_host(values, like), like)

    def cuda(self, x: Array) -> int | None:
        return None

    def memory(self, x: Array) -> MemoryLayout | None:
        return super().memory(_local(x))

    def address(self, x: Array) -> int | None:
        return super().address(_local(x))

    def is_plain_gradient(self, x: Array, p: Array) -> bool:
        if type(x) is not type(p) or x.requires_grad or x.dtype is not p.dtype or x.shape != p.shape:
            return False
        return (
            x.placements == p.placements
            and x.device_mesh == p.device_mesh
            and super().is_plain_gradient(_local(x), _local(p))
        )

    def device(self, x: Array) -> Any:
        return x.device_mesh if is_dtensor(x) else x.device

    def creation_device(self, like: Array) -> Any:
        return like.device

    def scalar(self, value: Any, dtype: Any, like: Array) -> Array:
        return self.replicated_like(super().scalar(value, dtype, like), like)

    def replicated_like(self, x: Array, like: Array) -> Array:
        if is_dtensor(x) or not is_dtensor(like):
            return x
        return _placed(x, like, [sys.modules["torch.distributed.tensor"].Replicate()] * like.device_mesh.ndim)

    def sharded_like(self, x: Array, like: Array) -> Array:
        if not is_dtensor(like):
            return x
        if not is_dtensor(x):
            return _placed(x, like, like.placements)
        return x if x.placements == like.placements else x.redistribute(like.device_mesh, like.placements)

    def spans_processes(self, x: Array) -> bool:
        return is_dtensor(x)

    def is_first_process(self, x: Array) -> bool:
        return bool(sys.modules["torch"].distributed.get_rank() == int(x.device_mesh.mesh.min()))

    def all_processes(self, holds: bool, x: Array) -> bool:
        torch = sys.modules["torch"]
        all_hold = torch.tensor(float(holds), device=x.device_mesh.device_type)
        for group in x.device_mesh.get_all_groups():
            torch.distributed.all_reduce(all_hold, torch.distributed.ReduceOp.MIN, group=group)
        return bool(all_hold)

    def over_processes(self, what: str, rows: np.ndarray[Any, Any], arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        torch = sys.modules["torch"]
        totals, op = rows.copy(), torch.distributed.ReduceOp.MAX if what == "max" else torch.distributed.ReduceOp.SUM
        for mesh in dict.fromkeys(x.device_mesh for x in arrays):
            on_mesh = [i for i, x in enumerate(arrays) if x.device_mesh == mesh]
            own = [rows[i] * (what == "max" or _counts(arrays[i])) for i in on_mesh]
            table = torch.asarray(np.array(own), dtype=torch.int64, device=mesh.device_type)
            for group in mesh.get_all_groups():
                torch.distributed.all_reduce(table, op, group=group)
            totals[on_mesh] = table.cpu().numpy()
        return totals


def _placed(x: Array, like: Array, placements: Sequence[Any]) -> Array:
    """A plain tensor that all processes have, as a DTensor on the mesh of `like`."""
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    return distribute(x, like.device_mesh, placements, src_data_rank=None)


def _counts(x: Array) -> bool:
    """Whether this process is the first of those that hold the same elements of `x`."""
    coordinate = x.device_mesh.get_coordinate()
    return all(i == 0 for i, placement in zip(coordinate, x.placements, strict=True) if placement.is_replicate())
