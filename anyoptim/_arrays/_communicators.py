"""Communicators: what mpi4py's communicators and torch's process groups have in common."""

from __future__ import annotations

import sys
from typing import Any, Protocol

__all__ = ["Communicator", "communicator"]


class Communicator(Protocol):
    """What is asked of a communicator: a part of mpi4py's interface."""

    def allgather(self, sendobj: bytes) -> list[bytes]:
        """What each rank gives, in the order of ranks."""


class _TorchGroup:
    """A process group of torch's."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def allgather(self, sendobj: bytes) -> list[bytes]:
        found = [b""] * self.group.size()
        sys.modules["torch.distributed"].all_gather_object(found, sendobj, group=self.group)
        return found


def communicator(comm: Any) -> Communicator:
    """A communicator of mpi4py's interface, or of a process group of torch's. Raises TypeError for anything else."""
    if all(callable(getattr(comm, name, None)) for name in ("allgather", "Get_rank", "Get_size")):
        return comm  # type: ignore[no-any-return] # it has what is asked of it
    group = getattr(sys.modules.get("torch.distributed"), "ProcessGroup", None)
    if group is not None and isinstance(comm, group):
        return _TorchGroup(comm)
    wanted = "wanted a communicator of mpi4py, such as MPI.COMM_WORLD, a process group of torch, or None"
    raise TypeError(f"comm is {comm!r}; {wanted}")
