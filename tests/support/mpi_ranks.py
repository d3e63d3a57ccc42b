"""One of some ranks under mpiexec: chains have the bits of one process, and differences are raised on all."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import anyoptim as ao
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
        interrupted(comm)
        both_interrupted(comm)
    if rank == 0:
        print("done")


def both_interrupted(comm: MPI.Comm) -> None:
    """Ctrl-C on rank 1 while it waits for rank 0, to which it comes later and between two calls: both raise it."""
    rank = comm.Get_rank()

    def rate(step: int) -> float:
        if rank == 0 and step == 1:
            time.sleep(0.6)
            raise KeyboardInterrupt
        return 0.5

    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(lr=rate), comm=comm)
    p, g = {"W": np.ones(3)}, {"W": np.ones(3)}
    if rank == 1:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt if rank < 2 else RuntimeError):
        optimizer.update(p, g)
    assert (p["W"] == 1).all()
    assert {*comm.allgather("met")} == {"met"}


def interrupted(comm: MPI.Comm) -> None:
    """Ctrl-C on rank 1 while it waits for rank 0, once for a norm and once for the agreement.

    Before all agree, it is raised on all; after that, on rank 1, once it has written as the others have.
    """
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for optimizer, written in ((ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD()), False), (ao.SGD(), True)):
        optimizer.comm, p, g = comm, {"W": np.ones(3)}, {"W": np.ones(3)}
        if comm.Get_rank() == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        if comm.Get_rank() == 0:
            time.sleep(0.6)
        error: BaseException | None = None
        try:
            optimizer.update(p, g)
        except BaseException as raised:
            error = raised
        if comm.Get_rank() == 1:
            assert isinstance(error, KeyboardInterrupt), error
        elif written:
            assert error is None
        else:
            assert "rank 1 has failed, KeyboardInterrupt" in str(error)
        assert (p["W"] < 1).all() == written
        optimizer.update(p, g)
        assert optimizer.state is not None
        assert optimizer.state.step == 1 + written


if __name__ == "__main__":
    main()
