"""Turns timed by the device's clock and by the host's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.rigs import Rig
from benchmarks.harness import Candidate, Case, play, turns_within

__all__ = ["BUSY", "IDLE", "Watch", "candidate", "measured", "quartiles", "rehearsed"]

IDLE, BUSY = "idle", "busy"
"""What a device does when a turn is called: nothing, so that its clock also runs while the host prepares the work; or
something else, so that the work is waiting when that is done, as in training. In both its cache holds nothing of it."""

WARM_UP = 4
"""Rounds that are not counted: compilers, allocators, both states of the device twice."""


@dataclass
class Watch:
    """A turn that is timed by device and host."""

    rig: Rig
    turn: Callable[[Any], object]

    def __post_init__(self) -> None:
        self.state = IDLE
        self.times: dict[str, list[tuple[float, float]]] = {IDLE: [], BUSY: []}
        """Of each turn, by the state before it, milliseconds of the device and microseconds of the host."""

    def idle(self) -> None:
        """Let the next turn find nothing to do, and nothing in the cache."""
        self.state = IDLE
        self.rig.occupy()
        self.rig.wait()

    def busy(self) -> None:
        """Let the next turn find a device with something to do for a while."""
        self.state = BUSY
        self.rig.wait()
        self.rig.occupy()

    def __call__(self, given: Any) -> None:
        began, ended = self.rig.event(), self.rig.event()
        self.rig.record(began)
        first = time.perf_counter_ns()
        self.turn(given)
        last = time.perf_counter_ns()
        self.rig.record(ended)
        self.rig.wait()
        self.times[self.state].append((self.rig.between(began, ended), (last - first) / 1e3))

    def summary(self) -> dict[str, Any]:
        """Quartiles by the state of the device."""
        return {
            state: {"device_ms": quartiles([d for d, _ in of]), "host_us": quartiles([h for _, h in of])}
            for state, of in self.times.items()
            if of
        } | {"turns": sum(map(len, self.times.values()))}


def candidate(
    name: str,
    rig: Rig,
    turn: Callable[[Any], object],
    deviation: Callable[[], float],
    take: Callable[[Any], Any] = lambda _: None,
) -> Candidate:
    """A candidate of the harness, whose turn is watched: on an idle device and on a busy one."""
    watch = Watch(rig, turn)
    return Candidate(name, watch, deviation, take, {IDLE: watch.idle, BUSY: watch.busy})


def rehearsed(names: Iterable[str], alone: Callable[[str], Case]) -> dict[str, str]:
    """Of each candidate what went wrong in a case of its own: nothing, mostly."""
    wrong = {}
    for name in names:
        try:
            case = alone(name)
            play(case, WARM_UP, np.random.default_rng(0))
            off = case.candidates[0].deviation()
            wrong[name] = "" if off <= case.tolerance else f"off the reference by {off:.3g}"
        except Exception as error:  # it is left out, and the others are timed
            wrong[name] = f"{type(error).__name__}: {error}"
    return wrong


def measured(case: Case, seconds: float, seed: int = 0) -> Mapping[str, Mapping[str, Any]]:
    """Let the candidates of `candidate` take turns for about so many seconds; times and deviations by name."""
    rng = np.random.default_rng(seed)
    play(case, WARM_UP, rng)
    began = time.perf_counter()
    play(case, 2, rng)
    one_turn = (time.perf_counter() - began) / 2
    watches = {c.name: c.turn for c in case.candidates}
    for watch in watches.values():
        assert isinstance(watch, Watch)  # noqa: S101 - for the type checker
        watch.times = {IDLE: [], BUSY: []}
    play(case, turns_within(seconds, one_turn), rng)
    return {
        c.name: {**c.turn.summary(), "deviation": float(c.deviation())}
        for c in case.candidates
        if isinstance(c.turn, Watch)
    }


def quartiles(times: Sequence[float]) -> list[float]:
    """The lower quartile, the median and the upper one."""
    return [float(q) for q in np.percentile(times, (25, 50, 75))]
