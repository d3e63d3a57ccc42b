"""Saves that are killed at random moments, each followed by a load: run by tests/checkpoint/test_checkpoint.py.

It runs by itself, because it forks: `python -m tests.support.checkpoint_kills FOLDER KILLS` prints how many of the
kills met a save.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import anyoptim as ao

ELEMENTS = 100_000


def _save(path: Path, n: int) -> None:
    params = {"W": np.full(ELEMENTS, float(n))}
    optimizer = ao.Momentum()
    optimizer.load_state_dict(
        {
            "version": 1,
            "step": n,
            "t": {"W": n},
            "stages": [
                {
                    "name": "Momentum",
                    "constants": {},
                    "hyperparameters": {"lr": 0.01, "momentum": 0.9},
                    "scalars": {},
                    "slots": {"v": {"W": np.full(ELEMENTS, -float(n))}},
                }
            ],
            "groups": {},
        },
        params,
    )
    ao.save(path, params=params, optimizer=optimizer, extra={"n": n})


def _whole(path: Path) -> int:
    """The number of the state in the file. Raises if there is none, or parts of two."""
    found = ao.load(path, like={"W": np.zeros(ELEMENTS)})
    n: int = found.extra["n"]
    optimizer = ao.Momentum()
    assert found.optimizer is not None
    optimizer.load_state_dict(found.optimizer, found.params)
    assert optimizer.state is not None
    assert optimizer.state.step == n
    assert np.all(found.params["W"] == n)
    assert np.all(optimizer.state.slots["v"]["W"] == -n)
    return n


def main(folder: Path, kills: int) -> None:
    """Kill a process so often, and look at the file after each kill."""
    path, moments = folder / "run.safetensors", random.Random(0)  # noqa: S311
    _save(path, 0)
    began = time.perf_counter()
    _save(path, 0)
    span = 3 * (time.perf_counter() - began)
    n = met = 0
    left: set[Path] = set()
    for _ in range(kills):
        child = os.fork()
        if not child:
            while True:
                n += 1
                _save(path, n)
        time.sleep(moments.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before, left = left, {*folder.iterdir()} - {path}
        met += bool(left - before)
        assert len(left) <= 1, "what earlier kills left is still there"
        found = _whole(path)
        assert found >= n, "an old state came back"
        n = found
    print(met)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
