"""Dropout by anyoptim's engines and by everybody else, forward and backward in training, and a copy of as much."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import anyoptim as ao
from benchmarks import torch_peers
from benchmarks.harness import Arrays, Candidate, Case, Contest, copies, deviation, measure
from benchmarks.names import ANYOPTIM, BASELINE, BLOCKED, LIMIT
from benchmarks.report import Sheet
from tests.reference import textbook

__all__ = ["SIZES", "dropout"]

SIZES: Mapping[str, tuple[int, ...]] = {
    "batch of 32 x 100": (32, 100),
    "one array of 1M": (1_000_000,),
    "one array of 16M": (16_000_000,),
}

RATIO = 0.5
GENERATOR, IN_PLACE, TORCH, JAX = "five lines, NumPy's Generator", "anyoptim in place", "torch", "JAX jit"
OURS_JAX, NEW = "anyoptim, JAX jit", "copies, new arrays"
NAMES = (BASELINE, GENERATOR, TORCH, JAX, OURS_JAX, BLOCKED, ANYOPTIM, IN_PLACE, NEW, LIMIT)

Turn = Callable[[Any], tuple[Any, Any]]
"""y and dx of what was taken."""


def dropout(seconds: float, sizes: Mapping[str, tuple[int, ...]] = SIZES) -> Sheet:
    """The time of a forward and a backward, and the five lines', torch's and a copy's beside it."""
    rows: list[list[str | float]] = []
    jax = importlib.util.find_spec("jax") is not None
    installed = {TORCH: torch_peers.installed(), JAX: jax, OURS_JAX: jax}
    names = [name for name in NAMES if installed.get(name, True)]
    for size, shape in sizes.items():
        outcome = measure(f"Dropout, {size}", Contest(names, partial(_case, shape)), BASELINE, seconds)
        times = {who: outcome.timings[who].median for who in names}
        ours = times[ANYOPTIM]
        rivals = [times[who] / ours if who in times else "" for who in (BASELINE, TORCH)]
        others = [times[BASELINE] / times[who] for who in (IN_PLACE, BLOCKED)]
        rows.append([size, *(times.get(who, "") for who in NAMES), *rivals, ours / times[LIMIT], *others])
    return Sheet(
        [
            "ms forward and backward",
            *NAMES,
            "anyoptim against five lines",
            "against torch",
            "of copies",
            "in place against five lines",
            "without Numba against five lines",
        ],
        rows,
        f"float32, ratio {RATIO}. Five lines call np.random.rand, if not a Generator; they, torch and JAX keep a mask. "
        "torch in the better of one thread and all. The limit is two copies by one thread, into memory at hand; to new "
        "arrays, whose memory the operating system clears first, the same copies take what their column says.",
    )


def _case(shape: tuple[int, ...], who: Sequence[str]) -> Case:
    def draw(rng: np.random.Generator) -> Arrays:
        # Away from 0, so that a zero in the result is a dropped element.
        return {k: 1 + rng.random(shape, dtype=np.float32) for k in ("x", "dout")}

    build: Mapping[str, Callable[[], Candidate]] = {
        BASELINE: lambda: _candidate(BASELINE, _layer(textbook.Dropout(RATIO))),
        GENERATOR: lambda: _candidate(GENERATOR, _by_generator()),
        TORCH: _torch,
        JAX: _jax,
        OURS_JAX: _ours_jax,
        BLOCKED: lambda: _candidate(BLOCKED, _layer(ao.Dropout(RATIO, seed=0, engine="blocked"))),
        ANYOPTIM: lambda: _candidate(ANYOPTIM, _layer(ao.Dropout(RATIO, seed=0, engine="compiled"))),
        IN_PLACE: lambda: _candidate(IN_PLACE, _in_place(ao.Dropout(RATIO, seed=0, engine="compiled"))),
        NEW: _copying_anew,
        LIMIT: lambda: _copying(shape),
    }
    return Case([build[name]() for name in who], draw, tolerance=0)


def _candidate(
    name: str,
    turn: Turn,
    scale: float = 1.0,
    take: Callable[[Arrays], Any] = copies,
    ways: Mapping[str, Callable[[], object]] | None = None,
) -> Candidate:
    last: dict[str, Any] = {}

    def taken(values: Arrays) -> Any:
        last["given"] = values
        return take(values)

    def timed(given: Any) -> None:
        last["y"], last["dx"] = turn(given)

    def off() -> float:
        y, dx = (np.asarray(last[k]) for k in ("y", "dx"))
        kept = y != 0
        if abs(kept.mean() - (1 - RATIO)) > 6 * math.sqrt(RATIO * (1 - RATIO) / kept.size):
            return math.inf  # six standard deviations: not by chance
        x, dout = (last["given"][k].astype(np.float64) * kept * scale for k in ("x", "dout"))
        return deviation({"y": y, "dx": dx}, {"y": x, "dx": dout})

    return Candidate(name, timed, off, taken, ways or {"": lambda: None})


def _layer(layer: Any) -> Turn:
    return lambda given: (layer.forward(given["x"]), layer.backward(given["dout"]))


def _in_place(layer: ao.Dropout) -> Turn:
    def turn(given: Arrays) -> tuple[Any, Any]:
        x, dout = given["x"], given["dout"]
        return layer.forward(x, out=x), layer.backward(dout, out=dout)

    return turn


def _by_generator() -> Turn:
    rng = np.random.default_rng(0)

    def turn(given: Arrays) -> tuple[Any, Any]:
        mask = rng.random(given["x"].shape) > RATIO
        return given["x"] * mask, given["dout"] * mask

    return turn


def _torch() -> Candidate:
    import torch

    def take(values: Arrays) -> list[Any]:
        x, dout = (torch.from_numpy(a.copy()) for a in values.values())
        return [x.requires_grad_(), dout]

    def turn(given: list[Any]) -> tuple[Any, Any]:
        x, dout = given
        y = torch.nn.functional.dropout(x, RATIO)
        y.backward(dout)
        return y.detach(), x.grad

    return _candidate(TORCH, turn, 1 / (1 - RATIO), take, torch_peers.ways())


def _jax() -> Candidate:
    import jax

    @jax.jit  # type: ignore[untyped-decorator]
    def forward(key: Any, x: Any) -> Any:
        key, own = jax.random.split(key)
        mask = jax.random.bernoulli(own, 1 - RATIO, x.shape)
        return key, jax.numpy.where(mask, x, 0), mask

    backward = jax.jit(lambda mask, dout: jax.numpy.where(mask, dout, 0))
    keys = [jax.random.key(0)]

    def turn(given: list[Any]) -> tuple[Any, Any]:
        x, dout = given
        keys[0], y, mask = forward(keys[0], x)
        return jax.block_until_ready((y, backward(mask, dout)))  # type: ignore[no-any-return]

    return _candidate(JAX, turn, take=_jax_arrays)


def _ours_jax() -> Candidate:
    import jax

    drop, calls = jax.jit(lambda x, call: ao.dropout(x, RATIO, 0, call)), itertools.count()

    def turn(given: list[Any]) -> tuple[Any, Any]:
        x, dout = given
        call = next(calls)
        return jax.block_until_ready((drop(x, call), drop(dout, call)))  # type: ignore[no-any-return]

    return _candidate(OURS_JAX, turn, take=_jax_arrays)


def _jax_arrays(values: Arrays) -> list[Any]:
    import jax

    return [jax.block_until_ready(jax.numpy.asarray(a)) for a in values.values()]


def _copying_anew() -> Candidate:
    """The same as the limit, to new arrays, as everybody's results are."""
    last: dict[str, Arrays] = {}

    def turn(given: Arrays) -> None:
        last.update(given=given, copies={k: given[k].copy() for k in ("x", "dout")})

    return Candidate(NEW, turn, lambda: deviation(last["copies"], last["given"]))


def _copying(shape: tuple[int, ...]) -> Candidate:
    """The limit of forward and backward, by one thread: x copied to y and dout to dx, into memory that is at hand."""
    y, dx = np.zeros((2, *shape), dtype=np.float32)
    last: Arrays = {}

    def turn(given: Arrays) -> None:
        np.copyto(y, given["x"])
        np.copyto(dx, given["dout"])
        last.update(given)

    return Candidate(LIMIT, turn, lambda: deviation({"x": y, "dout": dx}, last))
