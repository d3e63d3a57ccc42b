"""A volume in slabs, on any number of processes
===============================================

Sharpen a blurred and noisy volume of which each process owns some slices, for good.

::

    python examples/volume_in_slabs.py
    mpiexec -n 4 python examples/volume_in_slabs.py

Each rank computes the gradient of its own slices; beside its slab it asks its neighbours for one slice each, since
slices that lie on each other should be alike. What is of all slices, the norm at which gradients are clipped, the
optimizer finds out by itself, from `comm=`. It adds the terms of all ranks in a way that depends on no order, so that
the volume has the same bits however many ranks there are: its fingerprint is printed. Needs `pip install mpi4py`, and
an MPI such as `pip install mpich`; without mpi4py it runs as one process.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import anyoptim as ao

Array = Any


def world() -> Any:
    """The communicator of all processes; None for one that is alone, without mpi4py."""
    try:
        from mpi4py import MPI
    except ImportError:
        return None
    return MPI.COMM_WORLD


def blurred(v: Array) -> Array:
    """Each slice with its elements spread over their neighbours: an operator that is its own adjoint."""
    return (4 * v + sum(np.roll(v, shift, axis) for axis in (1, 2) for shift in (1, -1))) / 8


def measured(first: int, last: int, size: int) -> Array:
    """What is measured of these slices: two balls, blurred, with noise of its own in each slice."""
    z, y, x = np.ogrid[first:last, :size, :size]
    balls = [(z - c * size) ** 2 + (y - c * size) ** 2 + (x - size / 2) ** 2 < (size / 6) ** 2 for c in (0.3, 0.65)]
    noise = [np.random.default_rng(k).normal(size=(size, size)) for k in range(first, last)]
    return (blurred((balls[0] | balls[1]) * 1.0) + 0.1 * np.array(noise).reshape(last - first, size, size)).astype("f4")


def neighbours(comm: Any, v: Array) -> tuple[Array, Array]:
    """The slice before the slab, and the one behind it; at the ends of the volume its own first and last."""
    if comm is None or comm.Get_size() == 1:
        return v[:1], v[-1:]
    rank, last = comm.Get_rank(), comm.Get_size() - 1
    of_all = comm.allgather((v[:1], v[-1:]))  # a few slices; large ones are better sent to two ranks alone
    return of_all[max(rank - 1, 0)][int(rank > 0)], of_all[min(rank + 1, last)][int(rank == last)]


def gradient(comm: Any, v: Array, d: Array, alike: float) -> Array:
    """The gradient of |blurred(v) - d|**2 / 2 + alike * |differences of slices|**2 / 2."""
    before, behind = neighbours(comm, v)
    near = np.concatenate([before, v[:-1]]), np.concatenate([v[1:], behind])
    return blurred(blurred(v) - d) + np.float32(alike) * ((v - near[0]) + (v - near[1]))


def main(arguments: Sequence[str] | None = None) -> str:
    """Print and return the fingerprint of the volume."""
    parser = argparse.ArgumentParser(description="Sharpen a volume of which each process owns some slices.")
    parser.add_argument("--size", type=int, default=48, help="slices, rows and columns of the volume")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)

    comm = world()
    rank, ranks = (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())
    if ranks > options.size:
        parser.error(f"{ranks} processes share {options.size} slices; wanted at least one each")
    first, last = (options.size * k // ranks for k in (rank, rank + 1))
    d = measured(first, last, options.size)
    volume = {"volume": np.zeros_like(d)}
    optimizer = ao.chain(ao.ClipGlobalNorm(20.0), ao.AdamW(0.05, weight_decay=0.0), ao.NonNegative(), comm=comm)
    for _ in range(options.steps):
        optimizer.update(volume, {"volume": gradient(comm, volume["volume"], d, alike=0.1)})

    slabs = [volume["volume"]] if comm is None else comm.allgather(volume["volume"])
    whole = np.concatenate(slabs)
    fingerprint = hashlib.sha256(whole.tobytes()).hexdigest()[:16]
    if rank == 0:
        print(f"{whole.shape[0]} slices on {ranks} ranks, up to {whole.max():.3f}: {fingerprint}")
    return fingerprint


if __name__ == "__main__":
    main()
