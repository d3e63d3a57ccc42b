"""Torch's DTensors: tensors of which each process has a part, as FSDP2 makes of a module's parameters.

A DTensor is a local tensor and a statement of what of the whole it is: by a mesh of processes, and a placement for each
of its axes. What is done element by element is done to the local tensor.
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
    """The part of `x` that this process has, in the same memory; a plain tensor is all of it."""
    if not is_dtensor(x):
        return x
    with sys.modules["torch"].no_grad():  # where this is the local tensor itself, at no cost
        local = x.to_local()
    return local.wait() if hasattr(local, "wait") else local  # what is still on its way


class DTensors(Torch):
    """Torch's DTensors, and plain tensors that have to do with them."""

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
        whole = sys.modules["torch.distributed.tensor"].Replicate()
        return _placed(x, like, [whole] * like.device_mesh.ndim) if is_dtensor(like) and not is_dtensor(x) else x

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
        told = torch.tensor(float(holds), device=x.device_mesh.device_type)
        for group in x.device_mesh.get_all_groups():
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MIN, group=group)
        return bool(told)

    def sum_over_processes(self, numbers: Sequence[float], of: Sequence[Array]) -> list[float]:
        torch = sys.modules["torch"]
        found = [*numbers]
        for mesh in dict.fromkeys(x.device_mesh for x in of):
            here = [i for i, x in enumerate(of) if x.device_mesh == mesh]
            own = [numbers[i] if _counts(of[i]) else 0.0 for i in here]
            sums = torch.tensor(own, dtype=torch.float64, device=mesh.device_type)
            for group in mesh.get_all_groups():
                torch.distributed.all_reduce(sums, group=group)
            for i, number in zip(here, sums.tolist(), strict=True):
                found[i] = number
        return found


def _placed(x: Array, like: Array, placements: Sequence[Any]) -> Array:
    """A plain tensor that all processes have, as one on the mesh of `like`."""
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    return distribute(x, like.device_mesh, placements, src_data_rank=None)


def _counts(x: Array) -> bool:
    """Whether this process is the one, of those that have the same elements, whose part counts."""
    at = x.device_mesh.get_coordinate()
    return all(i == 0 for i, placement in zip(at, x.placements, strict=True) if placement.is_replicate())
