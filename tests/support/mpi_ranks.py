"""One of some ranks under mpiexec: chains have the bits of one process, and differences are raised on all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from tests.support.chains import CHAINS
from tests.support.libraries import same_bits
from tests.support.processes import alone
from tests.support.ranks import slabs

NAMES = ["clip, Adam, EMA", "clip each, Momentum, Cautious, trust", "LAMB", "Prodigy"]


def main() -> None:
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    rng = np.random.default_rng(1)

    def drawn() -> dict[str, Any]:
        return {k: rng.normal(size=n).astype(np.float32) for k, n in (("W", (9, 4)), ("b", (5,)))}

    first, grads = drawn(), [drawn() for _ in range(4)]
    cuts = {"W": (0, [9 * k // size for k in range(1, size)]), "b": (0, [5] * (size - 1))}
    for name in NAMES:
        expected, _ = alone(CHAINS[name](None), first, grads)
        optimizer, mine = CHAINS[name](None), slabs(first, cuts, rank)
        optimizer.comm = comm
        for g in grads:
            optimizer.update(mine, slabs(g, cuts, rank))
        assert all(same_bits(a, slabs(expected, cuts, rank)[k]) for k, a in mine.items()), name
    if size > 1:
        for wrong, text in (
            ({"W": None, "b": None}, "'W'.*no gradient"),
            ({}, r"grads\['W'\], grads\['b'\] are missing"),
        ):
            g = {"W": mine["W"].copy(), "b": mine["b"].copy()} if rank else wrong
            with pytest.raises((ValueError, RuntimeError), match=text):
                optimizer.update(mine, g)
    if rank == 0:
        print("done")


if __name__ == "__main__":
    main()
